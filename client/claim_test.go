package client

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

const claimRootKey = "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8"

// claimServer answers claims of the code abcd2345 below a path.
type claimServer struct {
	*httptest.Server
	at     string                   // path of the route, before the code
	change func(*claimAnswer)       // how the broker lies
	sign   func(text string) string // who signs; default the owner
	refuse string                   // an answer in place of one
	status int

	mu    sync.Mutex
	paths []string // guarded by mu; what was asked for
	body  object   // guarded by mu; what was claimed last
}

func newClaimServer(t *testing.T, at string) *claimServer {
	t.Helper()
	s := &claimServer{at: at}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.paths = append(s.paths, r.Method+" "+r.URL.Path)
		raw, _ := io.ReadAll(r.Body)
		if r.URL.Path != s.at+"abcd2345/claim" || r.Header.Get("Content-Type") != "application/json" {
			http.NotFound(w, r)
			return
		}
		s.body = decodeObject(t, raw)
		w.Header().Set("Content-Type", "application/json")
		if s.refuse != "" {
			w.WriteHeader(s.status)
			_, _ = io.WriteString(w, s.refuse)
			return
		}
		owner := testKey(t, "03")
		sealed, err := identity.SealRootKey(claimRootKey, str(s.body, "recipient_x25519_pubkey"))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		i, err := identity.InviteV2{
			MeshID: testMesh, InviteID: "Invi0000000000000000000000000001", ExpiresAt: float64(time.Now().Add(time.Hour).Unix()), Role: identity.RoleMember,
		}.Sign(owner)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		a := claimAnswer{
			SealedRootKey: sealed, MeshID: testMesh, MemberID: bobMember, OwnerPubkey: owner.Public(), CanonicalV2: i.Text(), Signature: i.Signature, MeshSlug: "team",
		}
		if s.change != nil {
			s.change(&a)
		}
		if s.sign != nil {
			a.Signature = s.sign(a.CanonicalV2)
		}
		out, err := wire.Encode(a)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(out)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *claimServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.paths
	s.paths = nil
	return all
}

func (s *claimServer) join(t *testing.T, invite, socket string) (Membership, error) {
	t.Helper()
	return Join(t.Context(), JoinOptions{Invite: invite, BrokerURL: socket, DisplayName: " bob ", HTTPClient: s.Client()})
}

// A short link leads to its broker wherever that is mounted, and says so in the same way as other invites.
func TestShortLinkFindsItsBroker(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		at     string // where the route is
		link   string // behind the host
		socket string // BrokerURL, behind the host
		want   string // the socket that is dialled from then on, behind the host
		asked  []string
	}{
		{name: "root", at: "/invites/", link: "/i/abcd2345", want: "/ws", asked: []string{"POST /invites/abcd2345/claim"}},
		{name: "locale", at: "/invites/", link: "/de/i/abcd2345/", want: "/ws", asked: []string{"POST /invites/abcd2345/claim"}},
		{name: "mounted", at: "/mesh/invites/", link: "/mesh/i/abcd2345", want: "/mesh/ws", asked: []string{"POST /mesh/invites/abcd2345/claim"}},
		{
			name: "mounted where a locale could be", at: "/ai/invites/", link: "/ai/i/abcd2345", want: "/ai/ws",
			asked: []string{"POST /invites/abcd2345/claim", "POST /ai/invites/abcd2345/claim"},
		},
		{
			name: "behind pages below a path", at: "/invites/", link: "/pages/i/abcd2345", want: "/ws",
			asked: []string{"POST /pages/invites/abcd2345/claim", "POST /invites/abcd2345/claim"},
		},
		{
			name: "as the older system has it", at: "/api/public/invites/", link: "/i/abcd2345", want: "/ws",
			asked: []string{"POST /invites/abcd2345/claim", "POST /api/public/invites/abcd2345/claim"},
		},
		{name: "bare code", at: "/team/invites/", link: "", socket: "/team/ws", want: "/team/ws", asked: []string{"POST /team/invites/abcd2345/claim"}},
		{
			name: "bare code, at the root", at: "/invites/", link: "", socket: "/team/ws", want: "/team/ws",
			asked: []string{"POST /team/invites/abcd2345/claim", "POST /invites/abcd2345/claim"},
		},
		{name: "pages elsewhere", at: "/team/invites/", link: "/other/i/abcd2345", socket: "/team/ws", want: "/team/ws", asked: []string{"POST /team/invites/abcd2345/claim"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newClaimServer(t, c.at)
			invite, socket := "abcd2345", ""
			if c.link != "" {
				invite = s.URL + c.link
			}
			ws := "ws" + strings.TrimPrefix(s.URL, "http")
			if c.socket != "" {
				socket = ws + c.socket
			}
			got, err := s.join(t, invite, socket)
			require.NoError(t, err)
			require.Equal(t, c.asked, s.asked())
			require.Equal(t, Options{URL: ws + c.want, MeshID: testMesh, MemberID: bobMember, Key: got.Key}, got.Options())
			require.Equal(t, identity.RoleMember, got.Role)
			require.Equal(t, "team", got.MeshSlug)
			require.Equal(t, claimRootKey, got.Invite.MeshRootKey)
			require.Equal(t, testKey(t, "03").Public(), got.Invite.OwnerPubkey)
			require.NotContains(t, fmt.Sprintf("%v %+v", got, got), claimRootKey)

			require.Equal(t, "bob", s.body["display_name"])
			require.Equal(t, got.Key.Public(), s.body["peer_pubkey"])
			proof := identity.Join{InviteToken: "abcd2345", PeerPubkey: got.Key.Public(), Signature: str(s.body, "signature")}
			require.NoError(t, proof.Verify(), "H20: over the code")
			require.Len(t, s.body, 4, "and nothing else is told")
			x, err := base64.RawURLEncoding.DecodeString(str(s.body, "recipient_x25519_pubkey"))
			require.NoError(t, err)
			converted, err := identity.PublicToX25519(got.Key.Public())
			require.NoError(t, err)
			require.NotEqual(t, converted[:], x, "a key of its own")
		})
	}
}

// What the answer says is checked against what was signed, and what is not so is no membership.
func TestClaimedInviteIsVerified(t *testing.T) {
	t.Parallel()
	owner, other := testKey(t, "03"), testKey(t, "01")
	s := newClaimServer(t, "/invites/")
	text := func(old, new string) func(*claimAnswer) {
		return func(a *claimAnswer) { a.CanonicalV2 = strings.Replace(a.CanonicalV2, old, new, 1) }
	}
	byOwner := owner.Sign
	for _, c := range []struct {
		name   string
		change func(*claimAnswer)
		sign   func(string) string
	}{
		{"no signature", func(a *claimAnswer) { a.Signature = "" }, nil},
		{"signed by another", nil, other.Sign},
		{"role raised", text("|member|", "|admin|"), nil},
		{"another mesh", text(testMesh, "another"), nil},
		{"another mesh, signed", text(testMesh, "another"), byOwner},
		{"another mesh beside it", func(a *claimAnswer) { a.MeshID = "another" }, nil},
		{"another owner beside it", func(a *claimAnswer) { a.OwnerPubkey = other.Public() }, nil},
		{"another owner in it", text(owner.Public(), other.Public()), byOwner},
		{"expired", func(a *claimAnswer) {
			f := strings.Split(a.CanonicalV2, "|")
			f[3] = "1000000000"
			a.CanonicalV2 = strings.Join(f, "|")
		}, byOwner},
		{"no text", func(a *claimAnswer) { a.CanonicalV2 = "" }, byOwner},
		{"two readings", func(a *claimAnswer) { a.CanonicalV2 = strings.Replace(a.CanonicalV2, "v=2|", "v=2|x|", 1) }, byOwner},
		{"no member", func(a *claimAnswer) { a.MemberID = "" }, nil},
		{"a member that is no id", func(a *claimAnswer) { a.MemberID = "../x" }, nil},
		{"no root key", func(a *claimAnswer) { a.SealedRootKey = "" }, nil},
		{"root key for another", func(a *claimAnswer) {
			public, _, err := identity.GenerateX25519()
			require.NoError(t, err)
			a.SealedRootKey, err = identity.SealRootKey(claimRootKey, base64.RawURLEncoding.EncodeToString(public[:]))
			require.NoError(t, err)
		}, nil},
	} {
		s.change, s.sign = c.change, c.sign
		got, err := s.join(t, s.URL+"/i/abcd2345", "")
		require.Error(t, err, c.name)
		require.Zero(t, got.MemberID, c.name)
		require.NotContains(t, err.Error(), "abcd2345", c.name)
	}
	s.change, s.sign = func(a *claimAnswer) { a.MeshSlug = "\x1b[1mteam" }, nil
	got, err := s.join(t, s.URL+"/i/abcd2345", "")
	require.NoError(t, err)
	require.Equal(t, testMesh, got.MeshSlug, "a slug is only a name, and nobody signed it")
}

// The words of a refused claim are those of a refused join.
func TestClaimRefusals(t *testing.T) {
	t.Parallel()
	s := newClaimServer(t, "/invites/")
	for _, c := range []struct {
		status int
		body   string
		want   wire.Code
	}{
		{404, `{"error":"not_found"}`, "invite_not_found"}, {410, `{"error":"revoked"}`, "invite_revoked"}, {410, `{"error":"expired"}`, "invite_expired"},
		{410, `{"error":"exhausted"}`, "invite_exhausted"}, {400, `{"error":"bad_signature"}`, "invite_bad_signature"}, {403, `{"error":"member_banned"}`, "member_banned"},
		{501, `{"error":"invite_v2_disabled","detail":"x"}`, "invite_v2_disabled"}, {429, `{"ok":false,"error":"rate limited"}`, "rate limited"},
	} {
		s.status, s.refuse = c.status, c.body
		_, err := s.join(t, s.URL+"/team/i/abcd2345", "")
		var refused *HTTPError
		require.ErrorAs(t, err, &refused, c.body)
		require.Equal(t, c.status, refused.Status)
		require.Equal(t, c.want, refused.Code)
		require.Equal(t, []string{"POST /team/invites/abcd2345/claim", "POST /invites/abcd2345/claim"}, s.asked(), "the first who knows the route has the word")
	}
	s.refuse = ""
	for _, c := range []struct{ invite, socket string }{
		{"abcd2345", ""}, {"abcd2345", "https://h/ws"}, {"abcd2345", "ws://"}, {"abcde", "ws://h/ws"}, {s.URL + "/i/abcde", ""}, {s.URL + "/x/abcd2345", ""},
	} {
		_, err := s.join(t, c.invite, c.socket)
		require.Error(t, err, c)
	}
	require.Empty(t, s.asked(), "nothing was sent")
	s.Close()
	_, err := s.join(t, s.URL+"/i/abcd2345", "")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "abcd2345")
}
