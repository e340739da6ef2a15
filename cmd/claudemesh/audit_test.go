package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/audit"
	"github.com/claudemesh/broker/identity"
)

// busy fills the log with n entries of the host.
func (w *world) busy(n int) {
	w.t.Helper()
	for range n {
		_, _, err := w.b.CreateAPIKey(w.t.Context(), w.mesh, broker.NewAPIKey{Label: "x", Capabilities: []string{"read"}})
		require.NoError(w.t, err)
	}
}

func TestAuditLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	bo.ok("send", "*", "hello")
	bo.ok("topic", "create", "plans\u202e")
	all := objects(t, ana.ok("--json", "audit", "log"))
	require.Equal(t, "audit_entry", all[0]["type"])
	types := map[any]bool{}
	for _, e := range all {
		types[e["eventType"]] = true
	}
	require.True(t, types["member_joined"] && types["message_sent"] && types["topic_created"], "%v", types)
	for _, e := range objects(t, bo.ok("--json", "audit", "log", "-n", "500")) {
		require.Equal(t, "bo", e["actor"], "%v", e)
	}
	one := ana.one("audit", "log", "--type", "topic_created")
	require.Equal(t, "plans\u202e", one["payload"].(map[string]any)["name"])
	text := ana.ok("audit", "log", "--type", "topic_created")
	require.Regexp(t, `(?m)^TIME +EVENT +ACTOR +ID +DETAILS\n\S+ \S+ +topic_created +bo +\d+ +name=plans topic=\S+ visibility=public$`, text)
	require.Contains(t, ana.run("audit", "log", "-n", "1").stderr, "--offset 1")
	require.Contains(t, bo.run("audit", "log", "--type", "member_banned").stderr, "no such entries")
	for _, args := range [][]string{{"-n", "0"}, {"-n", "501"}, {"--offset", "-1"}} {
		ana.fails(exitUsage, append([]string{"audit", "log"}, args...)...)
	}
}

func TestAuditExportAndVerify(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	w.busy(1000)
	key, err := w.b.AuditKey(t.Context())
	require.NoError(t, err)
	dir := t.TempDir()
	path := filepath.Join(dir, "log.jsonl")

	made := ana.one("audit", "export", "-o", path)
	require.Equal(t, "audit_exported", made["type"])
	require.Equal(t, key, made["key"])
	require.Equal(t, true, made["valid"])
	kept, err := json.Marshal(made["checkpoint"])
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	if runtime.GOOS != "windows" {
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	keptFile := filepath.Join(dir, "kept.json")
	require.NoError(t, os.WriteFile(keptFile, kept, 0o600))

	// Sound: with what was kept, without it, and from stdin.
	stranger := w.stranger("nobody") // needs no membership
	report := stranger.one("audit", "verify", path, "--key", key)
	require.Equal(t, "audit_report", report["type"])
	require.Equal(t, made["checkpoint"], report["checkpoint"])
	require.Equal(t, made["entries"], report["entries"])
	whole := filepath.Join(dir, "report.json")
	require.NoError(t, os.WriteFile(whole, []byte(stranger.ok("--json", "audit", "verify", path, "--key", key)), 0o600))
	for _, after := range []string{string(kept), keptFile, whole} {
		report = stranger.one("audit", "verify", path, "--key", key, "--after", after)
		require.Equal(t, true, report["afterFound"])
	}
	text := stranger.ok("audit", "verify", path, "--after", keptFile)
	require.Regexp(t, `^valid: 10\d\d entries of mesh \S+\nfrom \S+ to \S+\n2 checkpoints; .*: 0\nthe kept checkpoint is in the log at its place\nKey, for --key: [0-9a-f]{64}\nNewest checkpoint, for --after:\n\{.*\}\n$`, text)
	require.JSONEq(t, string(kept), strings.Split(strings.TrimSpace(text), "\n")[6])
	require.Contains(t, stranger.fails(exitAuditOpen, "audit", "verify", path), "proves nothing")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	r := stranger.runWith(string(raw), "audit", "verify", "-", "--key", key)
	require.Equal(t, exitOK, r.code, r.stderr)
	stranger.now = func() time.Time { return time.Now().Add(3 * time.Hour) }
	require.Contains(t, stranger.fails(exitAuditOpen, "audit", "verify", path, "--key", key), "newest checkpoint is 3h")
	stranger.ok("audit", "verify", path, "--key", key, "--interval", "4h")
	stranger.ok("audit", "verify", path, "--key", key, "--interval", "0")
	stranger.now = time.Now

	// Broken.
	lines := strings.SplitAfter(string(raw), "\n")
	bad := filepath.Join(dir, "bad.jsonl")
	broken := func(text, want string, args ...string) {
		t.Helper()
		require.NoError(t, os.WriteFile(bad, []byte(text), 0o600))
		require.Contains(t, stranger.fails(exitAuditBroken, append([]string{"audit", "verify", bad, "--key", key}, args...)...), want)
	}
	broken(strings.Join(lines[:500], "")+strings.Join(lines[501:], ""), "1 entry was deleted")
	broken(strings.Replace(string(raw), `"label":"x"`, `"label":"y"`, 1), "changed")
	broken(strings.Join(lines[:500], ""), "torn")
	broken(strings.Join(lines[:1], "")+`{"end":true,"count":0,"hash":"genesis"}`+"\n", "end is missing", "--after", keptFile)
	// Behind the last checkpoint nobody needs a key; it is said, and who kept a whole report finds it.
	var last struct {
		PrevHash string `json:"prevHash"`
	}
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-3]), &last))
	shorter := strings.Join(lines[:len(lines)-3], "") + fmt.Sprintf(`{"end":true,"count":%d,"hash":"%s"}`+"\n", len(lines)-4, last.PrevHash)
	require.NoError(t, os.WriteFile(bad, []byte(shorter), 0o600))
	require.Contains(t, stranger.fails(exitAuditOpen, "audit", "verify", bad, "--key", key), "entries are vouched for by no signature")
	broken(shorter, "end is missing", "--after", whole)
	broken("", "torn")
	r = stranger.run("--json", "audit", "verify", bad)
	require.Equal(t, exitAuditBroken, r.code)
	require.Equal(t, false, objects(t, r.stdout)[0]["valid"])
	require.Equal(t, "cut", objects(t, r.stderr)[0]["code"])

	// What cannot be asked for.
	other, err := identity.GenerateKey()
	require.NoError(t, err)
	for _, args := range [][]string{
		{path, "--key", "abc"}, {path, "--after", "{}"}, {path, "--after", bad}, {path, "--after", keptFile, "--key", other.Public()}, {"--key", key}, {"--after", keptFile},
	} {
		stranger.fails(exitUsage, append([]string{"audit", "verify"}, args...)...)
	}
	stranger.fails(exitFailed, "audit", "verify", filepath.Join(dir, "nothing"))
	stranger.fails(exitFailed, "audit", "verify", path, "--after", filepath.Join(dir, "nothing"))

	// To stdout, which holds the file alone.
	for _, format := range []string{"--json", "--json=false"} {
		r = ana.run(format, "audit", "export")
		require.Equal(t, exitOK, r.code, r.stderr)
		report, err := audit.Verify(strings.NewReader(r.stdout), audit.Options{Key: key})
		require.NoError(t, err)
		require.True(t, report.Valid, "%+v", report.Fault)
		require.Equal(t, format != "--json", strings.Contains(r.stderr, "Key, for --key: "+key))
	}

	var stderr bytes.Buffer
	require.Equal(t, exitFailed, ana.system(strings.NewReader(""), brokenPipe{}, &stderr).run(t.Context(), []string{"--config", ana.dir, "audit", "export"}))
	require.Contains(t, stderr.String(), "failed to write the export")

	// A long one says how far it is.
	steps := 0
	ana.now = func() time.Time { steps++; return time.Now().Add(time.Duration(steps) * 3 * time.Second) }
	require.Regexp(t, `(?m)^1000 of 10\d\d entries$`, ana.run("audit", "export", "-o", path).stderr)
	ana.now = time.Now

	// Who may not, and where it cannot be written; what was there stays.
	require.NoError(t, os.WriteFile(bad, []byte("precious"), 0o600))
	bo.fails(exitRefused, "audit", "export", "-o", bad)
	after, err := os.ReadFile(bad)
	require.NoError(t, err)
	require.Equal(t, "precious", string(after))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 4, "nothing half done lies about")
	ana.fails(exitFailed, "audit", "export", "-o", filepath.Join(dir, "nowhere", "x"))

	// The broker's own word.
	require.Contains(t, ana.ok("audit", "verify"), "in order")
	require.Equal(t, true, bo.one("audit", "verify")["valid"])
	require.Contains(t, bo.fails(exitUnreachable, "audit", "verify"), "slow down")
}
