package identity_test

import (
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

func TestFormatNumber(t *testing.T) {
	t.Parallel()
	tenth := 0.1 // a variable: constants add up exactly
	for _, c := range []struct {
		f    float64
		want string
	}{
		{0, "0"},
		{math.Copysign(0, -1), "0"},
		{1790000000, "1790000000"},
		{4e9, "4000000000"},
		{1.5, "1.5"},
		{-1.5, "-1.5"},
		{1e20, "100000000000000000000"},
		{999999999999999900000, "999999999999999900000"},
		{1e21, "1e+21"},
		{-1e21, "-1e+21"},
		{1.25e100, "1.25e+100"},
		{0.000001, "0.000001"},
		{0.0000012, "0.0000012"},
		{1e-7, "1e-7"},
		{-1.5e-10, "-1.5e-10"},
		{5e-324, "5e-324"},
		{math.MaxFloat64, "1.7976931348623157e+308"},
		{9007199254740993, "9007199254740992"},
		{tenth + 2*tenth, "0.30000000000000004"},
		{math.NaN(), "NaN"},
		{math.Inf(1), "Infinity"},
		{math.Inf(-1), "-Infinity"},
	} {
		require.Equal(t, c.want, identity.FormatNumber(c.f))
	}
}

func TestStrictBase64HasOneSpelling(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"", "AA==", "AAA=", "AAAA", "+/+/"} {
		_, err := identity.StrictBase64(good)
		require.NoError(t, err, good)
	}
	for _, bad := range []string{"A", "AA", "AA=", "AAA", "AB==", "AAB=", "A\nAAA", "AAAA\n", "AA\r==", " AAAA", "-_-_", "AAAA=", "AA==AA==", "===="} {
		_, err := identity.StrictBase64(bad)
		require.ErrorIs(t, err, identity.ClassBadEncoding, bad)
	}
	for _, good := range []string{"", "AA", "AAA", "AAAA", "-_-_"} {
		_, err := identity.StrictBase64URL(good)
		require.NoError(t, err, good)
	}
	for _, bad := range []string{"A", "AA==", "AB", "AAB", "A\nAAA", "AAAA\n", "+/+/"} {
		_, err := identity.StrictBase64URL(bad)
		require.ErrorIs(t, err, identity.ClassBadEncoding, bad)
	}
}

func TestCanonicalJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{` [ ] `, `[]`},
		{`null`, `null`},
		{`"x"`, `"x"`},
		{"\t1e999\r\n", `null`},
		{`-1e-999`, `0`},
		{`[1e-7,1E+2,-0.0]`, `[1e-7,100,0]`},
		{`{"b":{"d":1,"c":2},"a":[{"z":1,"y":2}]}`, `{"a":[{"y":2,"z":1}],"b":{"c":2,"d":1}}`},
		{`{"\udc00":1,"\ud83d\ude00":2,"\ud83dx":3,"\ue000":4}`, `{"\ud83dx":3,"😀":2,"\udc00":1,"` + "\ue000" + `":4}`},
		{`{"a":1,"\u0061":2}`, `{"a":2}`},
		{`"\/\u003c\u2028\u007f\u0080"`, "\"/<\u2028\u007f\u0080\""},
		{`"\ude00\ud83d"`, `"\ude00\ud83d"`},
		{`"\uFFFD\uFFFE"`, "\"\ufffd\ufffe\""},
	} {
		got, err := identity.CanonicalJSON([]byte(c.in))
		require.NoError(t, err, c.in)
		require.Equal(t, c.want, string(got), c.in)
	}
	for _, bad := range []string{
		``, ` `, `{`, `[1`, `[1,]`, `[,1]`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `'a'`, `01`, `-`, `1.`, `.5`, `1e`, `+1`, `NaN`, `nul`, `nullx`,
		`1 2`, `"a`, `"\x"`, `"\u12"`, `"\u12g4"`, "\"\n\"", "\"\x00\"", "\ufeff1", "1\x00", `"\`, `"\u`, `//`,
		strings.Repeat("[", identity.MaxJSONDepth+1) + strings.Repeat("]", identity.MaxJSONDepth+1),
		strings.Repeat("[", 1<<20),
	} {
		_, err := identity.CanonicalJSON([]byte(bad))
		requireClass(t, "malformed", err)
	}
	deep := strings.Repeat("[", identity.MaxJSONDepth) + strings.Repeat("]", identity.MaxJSONDepth)
	got, err := identity.CanonicalJSON([]byte(deep))
	require.NoError(t, err)
	require.Equal(t, deep, string(got))
	for _, bad := range []string{"\"\xff\"", "\"\xed\xa0\x80\"", "\xff"} {
		_, err := identity.CanonicalJSON([]byte(bad))
		requireClass(t, "bad_utf8", err)
	}
}

func TestDestinationOf(t *testing.T) {
	t.Parallel()
	for target, want := range map[string][2]string{
		"@deploys": {"topic", "deploys"},
		"*":        {"topic", "*"},
		"bob":      {"dm", "bob"},
		"#deploys": {"dm", "#deploys"},
		publicA:    {"dm", publicA},
	} {
		kind, ref := identity.DestinationOf(target)
		require.Equal(t, want, [2]string{kind, ref}, target)
	}
}

func TestCanonicalMeta(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"": "", " null ": "", "{}": "{}", `{ "b":1, "a":2 }`: `{"a":2,"b":1}`} {
		got, err := identity.CanonicalMeta([]byte(in))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := identity.CanonicalMeta([]byte("{"))
	requireClass(t, "malformed", err)
}

func TestFingerprintTellsRequestsApart(t *testing.T) {
	t.Parallel()
	base := identity.RequestFingerprint{DestinationKind: "dm", DestinationRef: "bob", ReplyTo: "R", Priority: "now", Meta: `{"a":1}`, Body: []byte("x")}
	seen := map[string]bool{base.Sum(): true}
	for _, change := range []func(*identity.RequestFingerprint){
		func(f *identity.RequestFingerprint) { f.DestinationKind = "queue" },
		func(f *identity.RequestFingerprint) { f.DestinationRef = "bobR" },
		func(f *identity.RequestFingerprint) { f.ReplyTo = "" },
		func(f *identity.RequestFingerprint) { f.Priority = "low" },
		func(f *identity.RequestFingerprint) { f.Meta = "" },
		func(f *identity.RequestFingerprint) { f.Body = nil },
	} {
		f := base
		change(&f)
		require.False(t, seen[f.Sum()])
		seen[f.Sum()] = true
	}
}

func TestChainTimeCutsToMilliseconds(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 5, 2, 22, 3, 11, 999_999_999, time.FixedZone("", 2*3600))
	require.Equal(t, "2026-05-02T20:03:11.999Z", identity.ChainTime(at))
}

func TestNewIDs(t *testing.T) {
	t.Parallel()
	id, uuid := regexp.MustCompile(`^[0-9A-Za-z]{32}$`), regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen, used := map[string]bool{}, map[rune]int{}
	for range 2000 {
		n := identity.NewID()
		require.Regexp(t, id, n)
		require.False(t, seen[n])
		seen[n] = true
		for _, r := range n {
			used[r]++
		}
		require.Regexp(t, uuid, identity.NewUUID())
	}
	require.Len(t, used, 62)
	for r, n := range used { // 64000 draws of 62: 1032 on average, and 5 standard deviations are 160
		require.InDelta(t, 1032, n, 260, "%c is drawn too often or too rarely", r)
	}
}

func TestClassOf(t *testing.T) {
	t.Parallel()
	require.Equal(t, identity.Class(""), identity.ClassOf(nil))
	require.Equal(t, identity.ClassExpired, identity.ClassOf(identity.ClassExpired))
	require.Equal(t, "expired", identity.ClassExpired.Error())
}
