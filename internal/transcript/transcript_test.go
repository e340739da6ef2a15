package transcript

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	toolTurn = `{"type":"assistant","message":{"content":[{"type":"text","text":"x"},{"type":"tool_use","name":"Bash"}]}}`
	textTurn = `{"type":"assistant","message":{"content":[{"type":"text","text":"done"}]}}`
)

func TestKeys(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cwd  string
		want []string
	}{
		{"/Users/x/foo", []string{"-Users-x-foo"}},
		{"/home/alice/project", []string{"-home-alice-project"}},
		{`H:\Claude`, []string{"H--Claude", "H:-Claude", "-Claude", "-H--Claude", "-H:-Claude"}},
		{`C:\Users\Alice\dev\myapp`, []string{
			"C--Users-Alice-dev-myapp", "C:-Users-Alice-dev-myapp", "-Users-Alice-dev-myapp",
			"-C--Users-Alice-dev-myapp", "-C:-Users-Alice-dev-myapp",
		}},
		{"project/foo", []string{"project-foo", "-project-foo"}},
		{"/a:b", []string{"-a-b", "-a:b"}},
		{"d:", []string{"d-", "d:", "-d-", "-d:"}},
		{"1:/x", []string{"1--x", "1:-x", "-1--x", "-1:-x"}},
		{"/", []string{"-"}},
		{"", nil},
		{".", []string{"-."}},
		{"..", []string{"-.."}},
		{"../../etc", []string{"..-..-etc", "-..-..-etc"}},
		{`..\..\etc`, []string{"..-..-etc", "-..-..-etc"}},
		{"/a\x00b", nil},
	} {
		require.Equal(t, tt.want, keys(tt.cwd), "cwd %q", tt.cwd)
	}
}

// put writes a transcript of the given age under root.
func put(t *testing.T, root, name string, age time.Duration, lines ...string) {
	t.Helper()
	file := filepath.Join(root, filepath.FromSlash(name))
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600))
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(-age)
	require.NoError(t, os.Chtimes(file, at, at))
}

func TestLastAssistantTurnDecides(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"tool call", []string{textTurn, toolTurn}, "working"},
		{"no tool call", []string{toolTurn, textTurn}, "idle"},
		{"trailing newline and blank lines", []string{toolTurn, "", " \r", ""}, "working"},
		{"carriage return", []string{toolTurn + "\r", ""}, "working"},
		{"a user's turn after it", []string{toolTurn, `{"type":"user","message":{"content":"\"assistant\""}}`}, "working"},
		{"mentioned only", []string{toolTurn, `{"type":"user","role":"assistant"}`}, "working"},
		{"half a line after it", []string{toolTurn, textTurn[:40]}, "working"},
		{"content is text", []string{toolTurn, `{"type":"assistant","message":{"content":"x"}}`}, "working"},
		{"content is null", []string{toolTurn, `{"type":"assistant","message":{"content":null}}`}, "working"},
		{"no content", []string{toolTurn, `{"type":"assistant","message":{}}`}, "working"},
		{"no message", []string{toolTurn, `{"type":"assistant"}`}, "working"},
		{"message is text", []string{toolTurn, `{"type":"assistant","message":"x"}`}, "working"},
		{"not an object", []string{toolTurn, `["assistant"]`, `"assistant"`}, "working"},
		{"names in another case", []string{toolTurn, `{"Type":"assistant","Message":{"Content":[]}}`}, "working"},
		{"empty content", []string{toolTurn, `{"type":"assistant","message":{"content":[]}}`}, "idle"},
		{"odd items", []string{`{"type":"assistant","message":{"content":[null,1,"tool_use",[],{"type":1},{"type":"tool_use"}]}}`}, "working"},
		{"no turn", []string{"x", "{}"}, "idle"},
		{"empty", nil, "idle"},
		{"invalid UTF-8", []string{strings.Replace(toolTurn, `"x"`, "\"\xff\"", 1)}, "working"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			put(t, root, "-src/a.jsonl", 0, tt.lines...)
			got, found := Reader{root}.Infer("/src")
			require.True(t, found)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestOnlyTheEndIsRead(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	fits := strings.Repeat("x", tailBytes-len(toolTurn)-1)
	put(t, root, "-fits/a.jsonl", 0, textTurn, toolTurn, fits)
	put(t, root, "-cut/a.jsonl", 0, toolTurn, fits+"x")
	got, _ := Reader{root}.Infer("/fits")
	require.Equal(t, "working", got)
	got, found := Reader{root}.Infer("/cut")
	require.True(t, found)
	require.Equal(t, "idle", got, "one byte of the turn is out of reach")
}

func TestNewestTranscriptOfTheFirstKeyIsUsed(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	put(t, root, "-src/old.jsonl", time.Hour, toolTurn)
	put(t, root, "-src/new.jsonl", time.Minute, textTurn)
	put(t, root, "-src/newest.json", 0, toolTurn) // not a transcript
	require.NoError(t, os.Mkdir(filepath.Join(root, "-src", "dir.jsonl"), 0o700))
	got, _ := Reader{root}.Infer("/src")
	require.Equal(t, "idle", got)

	// The first key of src is "src", whose directory holds none; the next is "-src".
	require.NoError(t, os.Mkdir(filepath.Join(root, "src"), 0o700))
	_, found := Reader{root}.Infer("src")
	require.True(t, found)
	put(t, root, "src/a.jsonl", 24*time.Hour, toolTurn)
	got, _ = Reader{root}.Infer("src")
	require.Equal(t, "working", got)
}

func TestNoTranscriptIsFound(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	put(t, root, "stray.jsonl", 0, toolTurn)
	put(t, root, "-file", 0, toolTurn)
	for _, r := range []Reader{{root}, {filepath.Join(root, "absent")}, {filepath.Join(root, "stray.jsonl")}, {}} {
		for _, cwd := range []string{"/src", "/file", "", ".", "..", "/", "\x00"} {
			got, found := r.Infer(cwd)
			require.False(t, found, "root %q, cwd %q", r.Root, cwd)
			require.Equal(t, "idle", got)
		}
	}
}

func TestLinksAreNotFollowedOutOfTheRoot(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("making links needs a privilege there")
	}
	outside, root := t.TempDir(), t.TempDir()
	put(t, outside, "a.jsonl", 0, toolTurn)
	put(t, root, "-real/a.jsonl", 0, toolTurn)
	require.NoError(t, os.Symlink(outside, filepath.Join(root, "-dir")))
	require.NoError(t, os.Mkdir(filepath.Join(root, "-file"), 0o700))
	require.NoError(t, os.Symlink(filepath.Join(outside, "a.jsonl"), filepath.Join(root, "-file", "a.jsonl")))
	require.NoError(t, os.Symlink("-real", filepath.Join(root, "-inside")))
	for cwd, want := range map[string]bool{"/dir": false, "/file": false, "/inside": true} {
		got, found := Reader{root}.Infer(cwd)
		require.Equal(t, want, found, cwd)
		require.Equal(t, want, got == "working", cwd)
	}
}

func TestUnreadableTranscriptIsPassedOver(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	put(t, root, "-src/old.jsonl", time.Hour, toolTurn)
	put(t, root, "-src/new.jsonl", 0, textTurn)
	secret := filepath.Join(root, "-src", "new.jsonl")
	require.NoError(t, os.Chmod(secret, 0))
	if f, err := os.Open(secret); err == nil {
		f.Close()
		t.Skip("this user reads everything")
	}
	got, _ := Reader{root}.Infer("/src")
	require.Equal(t, "working", got)
}

func FuzzScan(f *testing.F) {
	for _, seed := range []string{
		"", "\n", toolTurn, textTurn, toolTurn + "\n" + textTurn + "\n", textTurn[:40] + "\n" + toolTurn,
		`{"type":"assistant","message":{"content":null}}`, `{"type":"assistant","type":"user","message":{"content":[]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, tail []byte) {
		before := slices.Clone(tail)
		status, decided := scan(tail)
		require.Equal(t, before, tail, "scan must not write")
		require.Contains(t, []string{idle, working}, status)
		require.True(t, decided || status == idle)

		// What cannot decide changes nothing behind it, and nothing before a deciding line counts.
		again, _ := scan(slices.Concat(tail, []byte("\n\n{\"type\":\"user\"}\n[\"assistant\"]\n{\"assistant\"\n")))
		require.Equal(t, status, again)
		for _, turn := range []string{toolTurn, textTurn} {
			got, _ := scan(slices.Concat([]byte(turn+"\n"), tail))
			want := status
			if !decided {
				want, _ = scan([]byte(turn))
			}
			require.Equal(t, want, got)
		}
	})
}
