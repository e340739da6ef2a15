package identity_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

func goodInvite(t testing.TB) identity.InviteV1 {
	i, err := identity.InviteV1{
		MeshID: docMesh, MeshSlug: "team", BrokerURL: "wss://mesh.example/ws?a=1&b=<2>", ExpiresAt: 1790000000,
		MeshRootKey: "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8", Role: identity.RoleAdmin,
	}.Sign(seedPair(t, 3))
	require.NoError(t, err)
	return i
}

func token(json string) string { return base64.RawURLEncoding.EncodeToString([]byte(json)) }

func TestInviteTokenIsPlainJSONInFieldOrder(t *testing.T) {
	t.Parallel()
	i := goodInvite(t)
	raw, err := identity.StrictBase64URL(i.Token())
	require.NoError(t, err)
	require.Contains(t, string(raw), `"broker_url":"wss://mesh.example/ws?a=1&b=<2>"`, "no escaping for HTML")
	var byTags identity.InviteV1
	require.NoError(t, json.Unmarshal(raw, &byTags))
	require.Equal(t, i, byTags)
	parsed, err := identity.ParseInviteToken(i.Token())
	require.NoError(t, err)
	require.Equal(t, i, parsed)
	require.NoError(t, parsed.Verify(testNow))
	require.NoError(t, parsed.VerifySignature())
}

func TestParseInviteTokenRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, token string
		want        identity.Class
	}{
		{"padding", "e30=", identity.ClassBadEncoding},
		{"not UTF-8", token("{\"v\":\"\xff\"}"), identity.ClassBadUTF8},
		{"empty", "", identity.ClassMalformed},
		{"not JSON", token(`{v:1}`), identity.ClassMalformed},
		{"not an object", token(`[1]`), identity.ClassMalformed},
		{"version as text", token(`{"v":"1"}`), identity.ClassMalformed},
		{"slug as number", token(`{"mesh_slug":1}`), identity.ClassMalformed},
		{"slug null", token(`{"mesh_slug":null}`), identity.ClassMalformed},
		{"endless expiry", token(`{"expires_at":1e999}`), identity.ClassMalformed},
		{"lone surrogate", token(`{"mesh_slug":"\ud83d"}`), identity.ClassMalformed},
		{"repeated name", token(`{"role":"member","role":"admin"}`), identity.ClassMalformed},
		{"names alike but for case", token(`{"role":"member","Role":"admin"}`), identity.ClassMalformed},
		{"names alike but for a folded letter", token(`{"k":1,"\u212a":1}`), identity.ClassMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := identity.ParseInviteToken(c.token)
			requireClass(t, string(c.want), err)
		})
	}
}

func TestParseInviteTokenIgnoresUnknownNames(t *testing.T) {
	t.Parallel()
	i, err := identity.ParseInviteToken(token(`{"ROLE":"admin","later":[1],"mesh_slug":"\ud83d\ude00"}`))
	require.NoError(t, err)
	require.Equal(t, identity.InviteV1{MeshSlug: "😀"}, i, "names match exactly")
}

func TestInviteFieldsHoldNoSeparator(t *testing.T) {
	t.Parallel()
	i := goodInvite(t)
	i.MeshSlug = "team|wss"
	_, err := i.Sign(seedPair(t, 3))
	requireClass(t, "malformed", err)
	i.Signature = seedPair(t, 3).Sign(i.Text())
	require.NoError(t, identity.Verify(publicO, i.Text(), i.Signature))
	requireClass(t, "malformed", i.Verify(testNow))
	requireClass(t, "bad_signature", i.VerifySignature())
}

func TestInviteExpiry(t *testing.T) {
	t.Parallel()
	i := goodInvite(t)
	last := time.Unix(1790000000, 999999999)
	require.NoError(t, i.Verify(last))
	requireClass(t, "expired", i.Verify(last.Add(1)))
	require.NoError(t, i.VerifySignature(), "the broker judges the expiry apart")
}

func TestParseInviteLink(t *testing.T) {
	t.Parallel()
	want := goodInvite(t).Token()
	for _, link := range []string{
		want,
		"  " + want + "\n",
		"ic://join/" + want,
		"IC://join/" + want + "/",
		"https://mesh.example/join/" + want,
		"https://mesh.example:8443/join/" + want,
		"http://127.0.0.1:7900/join/" + want + "/",
		"https://mesh.example/de/join/" + want,
		"https://mesh.example/join/" + want + "?utm=1#top",
	} {
		got, err := identity.ParseInviteLink(link)
		require.NoError(t, err, link)
		require.Equal(t, want, got, link)
	}
	for _, link := range []string{
		"", "short", strings.Repeat("a", 20), strings.Repeat("a", 20) + "!", strings.Repeat("a", 20) + "=",
		"ic://leave/" + want, "ic://join/", "ic://join/a/b", "https:///join/" + want, "https://mesh.example/join/",
		"https://mesh.example/deu/join/" + want, "https://mesh.example/x/y/join/" + want, "https://mesh.example/d1/join/" + want,
		"https://mesh.example/join/a%2Fb", "ftp://mesh.example/join/" + want, "https://mesh.example/i/abcd2345", "https://%zz/join/" + want,
	} {
		_, err := identity.ParseInviteLink(link)
		requireClass(t, "malformed", err)
		require.NotContains(t, err.Error(), want, "a link holds the root key")
	}
}

func TestInviteV2Capability(t *testing.T) {
	t.Parallel()
	i, err := identity.InviteV2{MeshID: "m", InviteID: "i", ExpiresAt: 1790000000, Role: identity.RoleMember}.Sign(seedPair(t, 3))
	require.NoError(t, err)
	stored := i.Capability()
	require.JSONEq(t, `{"canonical":"v=2|m|i|1790000000|member|`+publicO+`","signature":"`+i.Signature+`"}`, stored)
	row := i
	row.Signature = ""
	require.NoError(t, row.VerifyCapability(stored, testNow))
	requireClass(t, "malformed", row.VerifyCapability("", testNow))
	requireClass(t, "malformed", row.VerifyCapability("{}", testNow))
	row.Role = identity.RoleAdmin
	requireClass(t, "bad_signature", row.VerifyCapability(stored, testNow))

	for _, bad := range []identity.InviteV2{
		{MeshID: "m|", InviteID: "i", ExpiresAt: 1, Role: "member"},
		{MeshID: "m", InviteID: "", ExpiresAt: 1, Role: "member"},
		{MeshID: "m", InviteID: "i", Role: "member"},
		{MeshID: "m", InviteID: "i", ExpiresAt: 1, Role: "owner"},
	} {
		_, err := bad.Sign(seedPair(t, 3))
		requireClass(t, "malformed", err)
	}
	// One signature, two readings of its text.
	shifted := identity.InviteV2{MeshID: "m|i", InviteID: "9", ExpiresAt: 1790000000, Role: "member", OwnerPubkey: publicO}
	shifted.Signature = seedPair(t, 3).Sign(shifted.Text())
	requireClass(t, "bad_signature", shifted.Verify(testNow))
}
