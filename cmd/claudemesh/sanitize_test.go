package main

import (
	"encoding/json"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestHostileTextIsHarmlessOnATerminal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, in, line, block string }{
		{"plain", "hello, world", "hello, world", "hello, world"},
		{"colour", "\x1b[31mred\x1b[0m", "red", "red"},
		{"cursor", "a\x1b[2J\x1b[1;1Hb", "ab", "ab"},
		{"title by BEL", "a\x1b]0;pwned\ab", "ab", "ab"},
		{"link by ST", "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\", "click", "click"},
		{"clipboard", "\x1b]52;c;ZXZpbA==\x1b\\x", "x", "x"},
		{"device control", "\x1bP1$r0m\x1b\\x", "x", "x"},
		{"C1 CSI", "a\u009b31mb", "ab", "ab"},
		{"C1 OSC", "a\u009d0;title\u009cb", "ab", "ab"},
		{"charset", "a\x1b(0b", "ab", "ab"},
		{"reset", "a\x1bcb", "ab", "ab"},
		{"OSC without an end shows itself", "a\x1b]0;secret", "a]0;secret", "a]0;secret"},
		{"OSC does not swallow the next line", "\x1b]0;x\nvisible\a", "]0;x visible", "]0;x\nvisible"},
		{"CSI without an end", "a\x1b[31", "a[31", "a[31"},
		{"bare escape", "a\x1b", "a", "a"},
		{"two escapes", "\x1b\x1b[31mx", "x", "x"},
		{"bidi override", "abc\u202egpj.exe", "abcgpj.exe", "abcgpj.exe"},
		{"bidi isolates", "\u2066a\u2067b\u2068c\u2069", "abc", "abc"},
		{"marks", "a\u200eb\u200fc\u061cd", "abcd", "abcd"},
		{"zero width space and BOM", "a\u200bb\ufeffc\u2060d", "abcd", "abcd"},
		{"tags", "a\U000e0041\U000e007fb", "ab", "ab"},
		{"variation selectors stay", "\u2764\ufe0f", "\u2764\ufe0f", "\u2764\ufe0f"},
		{"emoji joiner stays", "👩\u200d💻", "👩\u200d💻", "👩\u200d💻"},
		{"hangul filler", "a\u3164b", "ab", "ab"},
		{"line feeds", "a\nb\r\nc\rd", "a b c d", "a\nb\nc\nd"},
		{"other line breaks", "a\u2028b\u2029c\u0085d\ve\ff", "a b c d e f", "a\nb\nc\nd\ne\nf"},
		{"tab", "a\tb", "a b", "a    b"},
		{"NUL, BEL, BS, DEL", "a\x00b\ac\bd\x7fe", "abcde", "abcde"},
		{"invalid UTF-8", "a\xff\xfeb", "a\ufffdb", "a\ufffdb"},
		{"space", "  a   b  ", "a b", "  a   b  "},
		{"empty", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.line, line(c.in))
			require.Equal(t, c.block, block(c.in))
		})
	}
}

func TestNameCannotLookLikeSomethingElse(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"ana":                    "ana",
		"Ana-Lena O'Hara_2 v1.0": "Ana-Lena O'Hara_2 v1.0",
		"日本 語":                   "日本 語",
		"ana: hi":                `"ana: hi"`,
		"ana (you)":              `"ana (you)"`,
		"ana #ops":               `"ana #ops"`,
		`a"b`:                    `"a'b"`,
		"\x1b[1m":                `""`,
		"":                       `""`,
		"ana\n12:00:00 bo":       `"ana 12:00:00 bo"`,
		"a\u200dna":              "ana",
	} {
		require.Equal(t, want, name(in), "%q", in)
	}
}

func TestColumns(t *testing.T) {
	t.Parallel()
	require.Equal(t, 4, columns("日本"))
	require.Equal(t, 1, columns("e\u0301"))
	require.Equal(t, "日…", cut("日本語", 4))
	require.Equal(t, "ab", cut("ab", 2))
	require.Equal(t, "a…", cut("abc", 2))
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"\x1b[31mx", "\x1b]0;t\ax", "\u202e", "a\r\nb", "\xff", "\u009b1m", "\x1b\x1b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, out := range []string{line(s), name(s), block(s)} {
			require.True(t, utf8.ValidString(out))
			for _, r := range out {
				require.False(t, hostile(r) && r != '\n', "%q of %q", out, s)
			}
		}
		require.NotContains(t, line(s), "\n")
		require.NotContains(t, name(s), "\n")
		require.Equal(t, line(s), line(line(s)))
		require.LessOrEqual(t, columns(cut(line(s), 10)), 10)
		raw, err := encodeLine(s)
		require.NoError(t, err)
		var back string
		require.NoError(t, json.Unmarshal(raw, &back))
		if utf8.ValidString(s) {
			require.Equal(t, s, back)
		}
	})
}

func TestJSONIsExactAndHarmless(t *testing.T) {
	t.Parallel()
	in := "\x1b[31m \u202e \u009b \u200b \U000e0041 <&> \u2028 \x7f 日本 👩\u200d💻 \n"
	raw, err := encodeLine(map[string]string{"text": in})
	require.NoError(t, err)
	require.Equal(t, byte('\n'), raw[len(raw)-1])
	require.NotContains(t, string(raw[:len(raw)-1]), "\n")
	for _, r := range string(raw[:len(raw)-1]) {
		require.False(t, hostile(r) || unicode.IsControl(r), "%q", raw)
	}
	var back map[string]string
	require.NoError(t, json.Unmarshal(raw, &back))
	require.Equal(t, in, back["text"])
}
