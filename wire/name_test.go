package wire_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/wire"
)

func TestNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat
	for _, tt := range []struct {
		name string
		fn   func(string) (string, bool)
		good map[string]string // what is accepted, and as what
		bad  []string
	}{
		{
			"DisplayName", wire.DisplayName,
			map[string]string{
				"ada": "ada", " ada\n": "ada", "Ada Lovelace": "Ada Lovelace", "@ada": "@ada", "#ada": "#ada", "é": "é", "it's \"x\"": "it's \"x\"",
				long("é", 128): long("é", 128), "  " + long("a", 128) + "  ": long("a", 128),
			},
			[]string{"", " ", "\t\n", long("é", 129), "a\x00b", "a\x07b", "a\u0085b", "a\x7fb", "\xff", "a\xc3"},
		},
		{
			"GroupName", wire.GroupName,
			map[string]string{
				"eng": "eng", "@eng": "eng", "eng/core": "eng/core", "ALL": "ALL", "all/x": "all/x", "a b": "a b", "'; --": "'; --", "a@b": "a@b", "a#": "a#",
				"a/b/c/d/e/f/g/h": "a/b/c/d/e/f/g/h", long("é", 64): long("é", 64), long("a", 64) + "/" + long("b", 63): long("a", 64) + "/" + long("b", 63),
			},
			[]string{
				"", "@", "@@", "@@eng", "all", "@all", "/", "a/", "/a", "a//b", "#a", "a/#b", "a/@b", " a", "a ", "a /b", "a/ b", "a\u3000", "a\x00b", "a\tb", "\xff",
				"a/b/c/d/e/f/g/h/i", long("a", 65), long("a", 64) + "/" + long("b", 64), long("a/", 5000) + "a",
			},
		},
		{
			"TopicName", wire.TopicName,
			map[string]string{
				"general": "general", " general ": "general", "@x": "@x", "a#b": "a#b", "a/b": "a/b", "it's": "it's", long("é", 64): long("é", 64),
			},
			[]string{"", "  ", "#general", " #general", "##", long("é", 65), "a\x00", "a\nb", "a\x1bb", "\xff"},
		},
	} {
		for in, want := range tt.good {
			got, ok := tt.fn(in)
			require.True(t, ok, "%s(%q)", tt.name, in)
			require.Equal(t, want, got, "%s(%q)", tt.name, in)
			again, ok := tt.fn(got)
			require.True(t, ok, "%s(%q)", tt.name, got)
			require.Equal(t, got, again, "what was cleaned stays")
		}
		for _, in := range tt.bad {
			_, ok := tt.fn(in)
			require.False(t, ok, "%s(%q)", tt.name, in)
		}
	}
}

func TestShapes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat
	for _, tt := range []struct {
		name      string
		fn        func(string) bool
		good, bad []string
	}{
		{
			"IsID", wire.IsID,
			[]string{"a", "0", "_", "-", long("Z", 64), "m_demo"},
			[]string{"", long("a", 65), "a|b", "a b", "a.b", "é", "a\x00", "a\n", "a/b", "\xff"},
		},
		{
			"LooksLikeID", wire.LooksLikeID,
			[]string{long("a", 20), long("a", 32), long("a", 64), "0123456789ABCDEFghi_", "-------------------_"},
			[]string{"", long("a", 19), long("a", 65), long("a", 19) + " ", long("a", 19) + "é", long("a", 30) + "|"},
		},
		{
			"IsMessageID", wire.IsMessageID,
			[]string{long("a", 8), long("Z9", 16), "01234567"},
			[]string{"", long("a", 7), long("a", 33), "abcd_efg", "abcd-efg", "abcdefg%", "abcdefg*", "abcdefgé", "abcdefg\x00"},
		},
		{
			"IsKey", wire.IsKey,
			[]string{long("a", 64), long("A", 64), long("0", 64), long("fF09", 16)},
			[]string{"", long("a", 63), long("a", 65), long("g", 64), long("a", 63) + " ", long("é", 32), "0x" + long("a", 62)},
		},
		{
			"IsLowerKey", wire.IsLowerKey,
			[]string{long("a", 64), long("09", 32)},
			[]string{"", long("A", 64), long("a", 63) + "F", long("a", 63), long("g", 64)},
		},
		{
			"CleanText", wire.CleanText,
			[]string{"", "a", "é", "a\n\x07", "\u202e"},
			[]string{"\x00", "a\x00b", "\xff", "a\xc3", "\xed\xa0\x80"},
		},
		{
			"ValidTopicRole", wire.ValidTopicRole,
			[]string{wire.TopicLead, wire.TopicMember, wire.TopicObserver},
			[]string{"", "Lead", "owner"},
		},
	} {
		for _, s := range tt.good {
			require.True(t, tt.fn(s), "%s(%q)", tt.name, s)
		}
		for _, s := range tt.bad {
			require.False(t, tt.fn(s), "%s(%q)", tt.name, s)
		}
	}
}

func TestInGroup(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		have, want string
		in         bool
	}{
		{"a", "a", true},
		{"a/b/c", "a/b/c", true},
		{"a/b/c", "a/b", true},
		{"a/b/c", "a", true},
		{"a", "a/b", false},
		{"ab", "a", false},
		{"a/bc", "a/b", false},
		{"a/b", "b", false},
		{"A/b", "a", false},
		{"é/x", "é", true},
		{"a/", "a", true}, // no name of ours, but the hierarchy holds
		{"a", "", false},
	} {
		require.Equal(t, tt.in, wire.InGroup(tt.have, tt.want), "InGroup(%q, %q)", tt.have, tt.want)
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	kinds := map[string]wire.TargetKind{
		"key": wire.TargetKey, "all": wire.TargetAll, "group": wire.TargetGroup, "topic": wire.TargetTopic, "invalid": wire.TargetInvalid,
	}
	for _, l := range lines(t, "targets.txt") {
		quoted, err := strconv.QuotedPrefix(l.rest)
		require.NoError(t, err, l.at)
		ref, err := strconv.Unquote(quoted)
		require.NoError(t, err, l.at)
		spec, err := strconv.Unquote(strings.TrimPrefix(l.rest[len(quoted):], " "))
		require.NoError(t, err, l.at)
		kind, known := kinds[l.want]
		require.True(t, known, l.at)
		got := wire.ParseTarget(spec)
		require.Equal(t, wire.Target{Kind: kind, Ref: ref}, got, "%s: %q", l.at, spec)
		if kind == wire.TargetInvalid {
			require.Empty(t, got.String(), l.at)
			continue
		}
		require.Equal(t, got, wire.ParseTarget(got.String()), l.at)
	}
}

// Every input that the parser accepts has one spelling that parses to the same target.
func FuzzParseTarget(f *testing.F) {
	for _, l := range lines(f, "targets.txt") {
		if quoted, err := strconv.QuotedPrefix(l.rest); err == nil {
			if spec, err := strconv.Unquote(strings.TrimPrefix(l.rest[len(quoted):], " ")); err == nil && len(spec) < 1000 {
				f.Add(spec)
			}
		}
	}
	f.Fuzz(func(t *testing.T, spec string) {
		got := wire.ParseTarget(spec)
		if got.Kind == wire.TargetInvalid {
			require.Equal(t, wire.Target{}, got)
			require.Empty(t, got.String())
			return
		}
		require.Equal(t, got, wire.ParseTarget(got.String()), "by way of %q", got.String())
		require.True(t, wire.CleanText(got.Ref))
		require.LessOrEqual(t, wire.Chars(got.Ref), wire.MaxGroupName)
		switch got.Kind {
		case wire.TargetKey:
			require.True(t, wire.IsLowerKey(got.Ref))
			require.True(t, strings.EqualFold(spec, got.String()))
		case wire.TargetAll:
			require.Contains(t, []string{"*", "@all"}, spec)
		default:
			require.Equal(t, spec, got.String())
		}
	})
}
