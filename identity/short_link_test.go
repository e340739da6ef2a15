package identity_test

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

func TestNewInviteCode(t *testing.T) {
	t.Parallel()
	seen, count := map[string]bool{}, map[rune]int{}
	const codes = 4000
	for range codes {
		code := identity.NewInviteCode()
		require.Regexp(t, `^[2-9a-km-zA-HJ-NP-Z]{8}$`, code)
		require.False(t, seen[code])
		seen[code] = true
		for _, c := range code {
			count[c]++
		}
	}
	require.Len(t, count, 57, "every character of the alphabet occurs")
	for c, n := range count {
		require.InDelta(t, codes*8/57, n, 200, "%c is as likely as the others", c) // 8.5 standard deviations
	}
}

func TestParseShortLink(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		link  string
		code  string
		sites []string
	}{
		{"abcd2345", "abcd2345", nil},
		{" 0OIl11\n", "0OIl11", nil},
		{"abcdefghij123456", "abcdefghij123456", nil},
		{"https://mesh.example/i/abcd2345", "abcd2345", []string{"https://mesh.example"}},
		{"http://127.0.0.1:7900/i/abcd2345/", "abcd2345", []string{"http://127.0.0.1:7900"}},
		{"HTTPS://mesh.example/i/abcd2345?utm=1#top", "abcd2345", []string{"https://mesh.example"}},
		{"https://mesh.example/de/i/abcd2345", "abcd2345", []string{"https://mesh.example", "https://mesh.example/de"}},
		{"https://mesh.example/team/mesh/i/abcd2345", "abcd2345", []string{"https://mesh.example/team/mesh", "https://mesh.example"}},
		{
			"https://mesh.example/mesh/de/i/abcd2345", "abcd2345",
			[]string{"https://mesh.example/mesh", "https://mesh.example/mesh/de", "https://mesh.example"},
		},
		{"https://me:pw@mesh.example/a%2Fb/i/abcd2345", "abcd2345", []string{"https://mesh.example/a%2Fb", "https://mesh.example"}},
	} {
		got, err := identity.ParseShortLink(c.link)
		require.NoError(t, err, c.link)
		require.Equal(t, identity.ShortLink{Code: c.code, Sites: c.sites}, got, c.link)
		require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", got, got, &got, got), c.code)
	}
	for _, link := range []string{
		"", "abcde", strings.Repeat("a", 17), "abc-2345", "abcd_345", "abcdé345", "abcd 2345", "i/abcd2345", "/i/abcd2345", "mesh.example/i/abcd2345",
		"https:///i/abcd2345", "https://mesh.example/i/", "https://mesh.example/i/abcd2345/claim", "https://mesh.example/join/abcd2345",
		"https://mesh.example/abcd2345", "https://mesh.example//i/abcd2345", "https://mesh.example/../i/abcd2345", "ftp://mesh.example/i/abcd2345",
		"ic://i/abcd2345", "https://mesh.example/i/abcd%32345", "https://%zz/i/abcd2345",
	} {
		_, err := identity.ParseShortLink(link)
		requireClass(t, "malformed", err)
		require.NotContains(t, err.Error(), "abcd2345", "a code is a secret")
	}
}

func TestFormatShortLink(t *testing.T) {
	t.Parallel()
	for socket, want := range map[string]string{
		"ws://127.0.0.1:7900/ws":     "http://127.0.0.1:7900/i/abcd2345",
		"wss://mesh.example/ws":      "https://mesh.example/i/abcd2345",
		"wss://mesh.example/team/ws": "https://mesh.example/team/i/abcd2345",
		"wss://mesh.example/a%2Fb/":  "https://mesh.example/a%2Fb/i/abcd2345",
		"wss://mesh.example":         "https://mesh.example/i/abcd2345",
	} {
		got, err := identity.FormatShortLink(socket, "abcd2345")
		require.NoError(t, err, socket)
		require.Equal(t, want, got)
		back, err := identity.ParseShortLink(got)
		require.NoError(t, err)
		require.Equal(t, strings.TrimSuffix(want, "/i/abcd2345"), back.Sites[0])
	}
	for _, socket := range []string{"", "https://mesh.example/ws", "ws:///ws", "mesh.example", "ws://%zz"} {
		_, err := identity.FormatShortLink(socket, "abcd2345")
		requireClass(t, "malformed", err)
	}
	_, err := identity.FormatShortLink("wss://mesh.example/ws", "no")
	requireClass(t, "malformed", err)
}

// An invite is read by one of the two and never by both.
func FuzzParseShortLink(f *testing.F) {
	for _, s := range []string{"abcd2345", "https://h/i/abcd2345", "https://h/de/i/abcd2345/?q", "ic://join/" + strings.Repeat("a", 30), strings.Repeat("a", 21)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := identity.ParseShortLink(s)
		if err != nil {
			requireClass(t, "malformed", err)
			return
		}
		_, err = identity.ParseInviteLink(s)
		require.Error(t, err)
		bare, err := identity.ParseShortLink(l.Code)
		require.NoError(t, err)
		require.Equal(t, identity.ShortLink{Code: l.Code}, bare)
		for _, site := range l.Sites {
			again, err := identity.ParseShortLink(site + "/i/" + l.Code)
			require.NoError(t, err, site)
			require.True(t, slices.Contains(again.Sites, site), "%s: %q", site, again.Sites)
		}
	})
}

func TestParseInviteV2(t *testing.T) {
	t.Parallel()
	signed, err := identity.InviteV2{MeshID: "m", InviteID: "i", ExpiresAt: 1790000000, Role: identity.RoleMember}.Sign(seedPair(t, 3))
	require.NoError(t, err)
	got, err := identity.ParseInviteV2(signed.Text(), signed.Signature)
	require.NoError(t, err)
	require.Equal(t, signed, got)
	require.NoError(t, got.Verify(time.Unix(1790000000, 0)))
	requireClass(t, "expired", got.Verify(time.Unix(1790000001, 0)))
	got, err = identity.ParseCapability(signed.Capability())
	require.NoError(t, err)
	require.Equal(t, signed, got)
	for _, stored := range []string{"", "{}", `{"canonical":1}`, strings.Replace(signed.Capability(), "v=2", "v=3", 1)} {
		_, err = identity.ParseCapability(stored)
		requireClass(t, "malformed", err)
	}

	last, err := identity.ParseInviteV2("v=2|m|i|253402300799|admin|"+publicO, "x")
	require.NoError(t, err)
	require.InDelta(t, 253402300799, last.ExpiresAt, 0)
	requireClass(t, "bad_signature", last.Verify(testNow))

	for _, text := range []string{
		"", "v=2", "v=2|m|i|1|member", "v=2|m|i|1|member|" + publicO + "|", "v=1|m|i|1|member|" + publicO, "V=2|m|i|1|member|" + publicO,
		" v=2|m|i|1|member|" + publicO, "v=2||i|1|member|" + publicO, "v=2|m||1|member|" + publicO, "v=2|m m|i|1|member|" + publicO,
		"v=2|m|i||member|" + publicO, "v=2|m|i|0|member|" + publicO, "v=2|m|i|-1|member|" + publicO, "v=2|m|i|1.5|member|" + publicO,
		"v=2|m|i|01|member|" + publicO, "v=2|m|i|+1|member|" + publicO, "v=2|m|i|1e3|member|" + publicO, "v=2|m|i|0x10|member|" + publicO,
		"v=2|m|i|NaN|member|" + publicO, "v=2|m|i|Infinity|member|" + publicO, "v=2|m|i|253402300800|member|" + publicO, "v=2|m|i|1_0|member|" + publicO,
		"v=2|m|i|1|owner|" + publicO, "v=2|m|i|1|Member|" + publicO, "v=2|m|i|1||" + publicO,
		"v=2|m|i|1|member|" + strings.ToUpper(publicO), "v=2|m|i|1|member|" + publicO[1:], "v=2|m|i|1|member|" + publicO + "\n",
	} {
		_, err := identity.ParseInviteV2(text, signed.Signature)
		requireClass(t, "malformed", err)
	}
}

func TestDeriveRootKey(t *testing.T) {
	t.Parallel()
	owner := seedPair(t, 3)
	key := identity.DeriveRootKey(owner, "Mesh0000000000000000000000000001")
	require.Equal(t, "go8iPfJEWcaYFAphAXYSABzISBy0dKxXvWOfrWzhMqA", key, "owners that made invites earlier find it again")
	require.NoError(t, identity.CheckRootKey(key))
	require.NotEqual(t, key, identity.DeriveRootKey(owner, "Mesh0000000000000000000000000002"))
	require.NotEqual(t, key, identity.DeriveRootKey(seedPair(t, 1), "Mesh0000000000000000000000000001"))
	require.Empty(t, identity.DeriveRootKey(identity.KeyPair{}, "m"))

	requireClass(t, "bad_key_length", identity.CheckRootKey(""))
	requireClass(t, "bad_key_length", identity.CheckRootKey("AAAA"))
	requireClass(t, "bad_encoding", identity.CheckRootKey(key+"="))
	requireClass(t, "bad_encoding", identity.CheckRootKey(hex.EncodeToString(make([]byte, 31))+"!"))
}
