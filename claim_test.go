package broker_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// shortInvite makes an invite of version 2 and returns its code.
func shortInvite(t *testing.T, mesh *brokertest.Mesh, o broker.InviteOptions) (code string, _ store.Invite) {
	t.Helper()
	o.Version, o.BrokerURL = 2, hostURL
	_, i, err := mesh.Broker.CreateInvite(t.Context(), mesh.ID, mesh.Owner, o)
	require.NoError(t, err)
	return i.Code, i
}

// claimant is somebody who claims a code.
type claimant struct {
	key            identity.KeyPair
	public, secret [32]byte // x25519, for the root key
}

func newClaimant(t *testing.T) claimant {
	t.Helper()
	public, secret, err := identity.GenerateX25519()
	require.NoError(t, err)
	return claimant{hostKey(t), public, secret}
}

// body is a claim as our client sends it.
func (c claimant) body(code string) frame {
	return frame{
		"recipient_x25519_pubkey": base64.RawURLEncoding.EncodeToString(c.public[:]), "peer_pubkey": c.key.Public(), "display_name": "ada",
		"signature": c.key.Sign(identity.JoinText(identity.TokenHash(code), c.key.Public())),
	}
}

func postClaim(t *testing.T, b *broker.Broker, code string, body any) hostAnswer {
	t.Helper()
	return hostPost(t, b, hostRequest{path: "/invites/" + code + "/claim", body: body})
}

// claimOK claims a code for a new member.
func claimOK(t *testing.T, mesh *brokertest.Mesh, code string) store.Member {
	t.Helper()
	a := postClaim(t, mesh.Broker, code, newClaimant(t).body(code))
	require.Equal(t, http.StatusOK, a.code, a.body)
	m, err := mesh.Broker.Member(t.Context(), mesh.ID, a.body.Str("member_id"))
	require.NoError(t, err)
	return m
}

func usesOf(t *testing.T, mesh *brokertest.Mesh, code string) int {
	t.Helper()
	i, err := mesh.Store.InviteByCode(t.Context(), code)
	require.NoError(t, err)
	return i.UsedCount
}

// Who claims a code is a member like any other: it has the root key, signs in, is seen, and reads its mail.
func TestClaimedMemberIsAMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := withRootKey(t)
		ana := mesh.Join("ana")
		for _, path := range []string{"/invites/%s/claim", "/api/public/invites/%s/claim"} {
			code, invite := shortInvite(t, mesh, broker.InviteOptions{Preset: store.InvitePreset{
				RoleTag: "dev", Groups: []wire.Group{{Name: "eng"}}, MessageMode: "inbox",
			}})
			who := newClaimant(t)
			a := hostPost(t, mesh.Broker, hostRequest{path: fmt.Sprintf(path, code), body: who.body(code)})
			require.Equal(t, http.StatusOK, a.code, a.body)
			require.Empty(t, a.header.Get("Access-Control-Allow-Origin"))
			require.Equal(t, "no-store", a.header.Get("Cache-Control"))

			signed, err := identity.ParseInviteV2(a.body.Str("canonical_v2"), a.body.Str("signature"))
			require.NoError(t, err)
			require.NoError(t, signed.Verify(time.Now()))
			require.Equal(t, identity.InviteV2{
				MeshID: mesh.ID, InviteID: invite.ID, ExpiresAt: float64(invite.ExpiresAt.Unix()), Role: "member", OwnerPubkey: mesh.Owner.Public(),
				Signature: a.body.Str("signature"),
			}, signed)
			sealed := a.body.Str("sealed_root_key")
			require.Equal(t, frame{
				"sealed_root_key": sealed, "mesh_id": mesh.ID, "member_id": a.body["member_id"], "owner_pubkey": mesh.Owner.Public(),
				"canonical_v2": a.body["canonical_v2"], "signature": a.body["signature"], "mesh_slug": "test", "mesh_name": "Test",
			}, a.body)
			root, err := identity.OpenRootKey(sealed, who.public, who.secret)
			require.NoError(t, err)
			require.Equal(t, rootKeyOfTests, root)

			m, err := mesh.Broker.Member(t.Context(), mesh.ID, a.body.Str("member_id"))
			require.NoError(t, err)
			require.Equal(t, store.RoleMember, m.Role)
			require.Equal(t, who.key.Public(), m.Pubkey)
			require.Equal(t, "dev", m.RoleTag)
			require.Equal(t, []wire.Group{{Name: "eng"}}, m.DefaultGroups)
			require.Equal(t, "inbox", m.MessageMode)
			joined := auditOf(t, mesh, wire.AuditMemberJoined)[0]
			require.JSONEq(t, fmt.Sprintf(`{"invite":%q,"member":%q,"pubkey":%q}`, invite.ID, m.ID, m.Pubkey), string(joined.Payload))

			text := "welcome, " + m.Name
			ana.Send(m.Pubkey, text)
			c, err := client.Dial(t.Context(), client.Options{URL: mesh.URL, HTTPClient: mesh.HTTP, MeshID: mesh.ID, MemberID: m.ID, Key: who.key})
			require.NoError(t, err)
			got, err := c.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, text, got.Text)
			peers, err := c.Peers(t.Context())
			require.NoError(t, err)
			require.Len(t, peers, 2)
			_, err = c.Send(t.Context(), "ana", "thanks")
			require.NoError(t, err)
			require.Equal(t, "thanks", ana.Receive().Text)
			require.NoError(t, c.Close())
		}
	})
}

func TestClaimNamesAndNumbers(t *testing.T) {
	t.Parallel()
	mesh := withRootKey(t)
	code, _ := shortInvite(t, mesh, broker.InviteOptions{MaxUses: 10})
	for _, row := range []struct {
		name any
		want string
	}{{" ada ", "ada"}, {"Ada", "Ada-2"}, {nil, "member"}, {"", "member-2"}, {"member", "member-3"}} {
		body := newClaimant(t).body(code)
		if body["display_name"] = row.name; row.name == nil {
			delete(body, "display_name")
		}
		body["peer_pubkey"] = strings.ToUpper(body.Str("peer_pubkey"))
		delete(body, "signature") // it was over the key in lower case
		a := postClaim(t, mesh.Broker, code, body)
		require.Equal(t, http.StatusOK, a.code, a.body)
		m, err := mesh.Broker.Member(t.Context(), mesh.ID, a.body.Str("member_id"))
		require.NoError(t, err)
		require.Equal(t, row.want, m.Name)
		require.Equal(t, strings.ToLower(body.Str("peer_pubkey")), m.Pubkey)
	}
	preset, _ := shortInvite(t, mesh, broker.InviteOptions{Preset: store.InvitePreset{DisplayName: "guest"}})
	require.Equal(t, "guest", claimOK(t, mesh, preset).Name)
}

// D23: the role is the one that the owner signed.
func TestClaimGivesTheSignedRole(t *testing.T) {
	t.Parallel()
	mesh := withRootKey(t)
	admin, _ := shortInvite(t, mesh, broker.InviteOptions{Role: store.RoleAdmin})
	require.Equal(t, store.RoleAdmin, claimOK(t, mesh, admin).Role)
	member, _ := shortInvite(t, mesh, broker.InviteOptions{})
	body := merged(newClaimant(t).body(member), frame{"role": "admin", "mesh_id": "x", "canonical_v2": "v=2|x", "owner_pubkey": hostKey(t).Public()})
	a := postClaim(t, mesh.Broker, member, body)
	require.Equal(t, http.StatusOK, a.code, a.body)
	m, err := mesh.Broker.Member(t.Context(), mesh.ID, a.body.Str("member_id"))
	require.NoError(t, err)
	require.Equal(t, store.RoleMember, m.Role)
	first, _ := shortInvite(t, mesh, broker.InviteOptions{FirstIsAdmin: true, MaxUses: 2})
	require.Equal(t, store.RoleAdmin, claimOK(t, mesh, first).Role, "the host may say so")
	require.Equal(t, store.RoleMember, claimOK(t, mesh, first).Role)
}

// Each row fails one check and, where it can, all later ones too; whatever is wrong, no use is spent.
func TestClaimRefusalsInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := withRootKey(t, func(o *broker.Options) { o.MaxMembersPerMesh = 4 })
		b, ctx := mesh.Broker, t.Context()
		good, _ := shortInvite(t, mesh, broker.InviteOptions{MaxUses: 100})
		dead, revoked := shortInvite(t, mesh, broker.InviteOptions{TTL: time.Minute})
		require.NoError(t, b.RevokeInvite(ctx, mesh.ID, revoked.ID))
		old, _ := shortInvite(t, mesh, broker.InviteOptions{TTL: time.Minute})
		used, _ := shortInvite(t, mesh, broker.InviteOptions{})
		spent, _ := shortInvite(t, mesh, broker.InviteOptions{TTL: time.Minute})
		archive := func(slug string) string {
			m, err := b.CreateMesh(ctx, broker.NewMesh{Slug: slug, OwnerPubkey: mesh.Owner.Public(), RootKey: rootKeyOfTests})
			require.NoError(t, err)
			_, i, err := b.CreateInvite(ctx, m.ID, mesh.Owner, broker.InviteOptions{Version: 2, BrokerURL: hostURL})
			require.NoError(t, err)
			require.NoError(t, mesh.Store.ArchiveMesh(ctx, m.ID, time.Now()))
			return i.Code
		}
		archived := archive("archived")
		// Invites whose rows are not what the owner signed, as a store that was tampered with has them.
		row := func(code string, change func(*store.Invite)) string {
			signed, err := identity.InviteV2{MeshID: mesh.ID, InviteID: code, ExpiresAt: float64(time.Now().Unix() + 3600), Role: "member"}.Sign(mesh.Owner)
			require.NoError(t, err)
			i := store.Invite{
				ID: code, MeshID: mesh.ID, Code: code, Version: 2, Role: "member", MaxUses: 1, Capability: signed.Capability(),
				ExpiresAt: time.Unix(int64(signed.ExpiresAt), 0).UTC(), CreatedAt: time.Now().UTC(),
			}
			change(&i)
			require.NoError(t, mesh.Store.CreateInvite(ctx, i))
			return code
		}
		raised := row("raised", func(i *store.Invite) { i.Role = "admin" })
		longer := row("longer", func(i *store.Invite) { i.ExpiresAt = i.ExpiresAt.Add(time.Hour) })
		legacy := row("legacy", func(i *store.Invite) { i.Capability = "" })
		forged := row("forged", func(i *store.Invite) {
			i.Capability = strings.Replace(i.Capability, `"signature":"`, `"signature":"00`, 1)
		})
		noKeys := func(slug string, n broker.NewMesh) string {
			n.Slug = slug
			m, err := b.CreateMesh(ctx, n)
			require.NoError(t, err)
			return row(slug, func(i *store.Invite) { i.MeshID = m.ID })
		}
		rootless := noKeys("rootless", broker.NewMesh{OwnerPubkey: mesh.Owner.Public()})
		ownerless := noKeys("ownerless", broker.NewMesh{RootKey: rootKeyOfTests})

		banned, member := mesh.Member("banned"), mesh.Member("member")
		require.NoError(t, b.RevokeMember(ctx, mesh.ID, banned.ID))
		session := hostKey(t)
		mesh.Dial("member", brokertest.SessionKey(session))
		claimOK(t, mesh, used)
		claimOK(t, mesh, spent)
		time.Sleep(2 * time.Minute)

		lowOrder := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
		as := func(code string, key identity.KeyPair) frame {
			who := newClaimant(t)
			who.key = key
			return who.body(code)
		}
		claim := func(code string, more frame) frame { return merged(as(code, hostKey(t)), more) }
		nonsense := frame{"recipient_x25519_pubkey": "AAAA", "peer_pubkey": "x", "display_name": "\n", "signature": "00"}
		for _, row := range []struct {
			name   string
			code   string
			body   any
			status int
			want   string
		}{
			{"not JSON", "nothing2", "{", 400, "malformed"},
			{"a list", "nothing2", "[]", 400, "malformed"},
			{"a key of another type", "nothing2", claim(good, frame{"recipient_x25519_pubkey": 1}), 400, "malformed"},
			{"a name twice", good, `{"peer_pubkey":"a","peer_pubkey":"b"}`, 400, "malformed"},
			{"unknown code", "nothing2", nonsense, 404, "not_found"},
			{"another case", strings.ToUpper(strings.ToLower(good)) + "x", nonsense, 404, "not_found"},
			{"no code at all", "abc", nonsense, 404, "not_found"},
			{"a code with NUL", "abc%00defg", nonsense, 404, "not_found"},
			{"a code with a slash", "abc%2Fdefg", nonsense, 404, "not_found"},
			{"an invite's id", revoked.ID, nonsense, 404, "not_found"},
			{"archived mesh", archived, nonsense, 404, "not_found"},
			{"revoked", dead, nonsense, 410, "revoked"},
			{"expired", old, nonsense, 410, "expired"},
			{"expired, and used up", spent, nonsense, 410, "expired"},
			{"used up", used, nonsense, 410, "exhausted"},
			{"used up, without a key", used, claim(used, frame{"peer_pubkey": nil}), 410, "exhausted"},
			{"used up, by a good key", used, claim(used, nil), 410, "exhausted"},
			{"used up, by a banned key", used, as(used, banned.Key), 410, "exhausted"},
			{"nothing sent", good, frame{}, 400, "malformed"},
			{"recipient of another length", good, merged(nonsense, frame{"recipient_x25519_pubkey": lowOrder[:42]}), 400, "malformed"},
			{"recipient in hex", good, claim(good, frame{"recipient_x25519_pubkey": strings.Repeat("ab", 32)}), 400, "malformed"},
			{"recipient with padding", good, claim(good, frame{"recipient_x25519_pubkey": lowOrder + "="}), 400, "malformed"},
			{"no key to be a member with", good, claim(good, frame{"peer_pubkey": nil, "signature": nil}), 501, "peer_pubkey_required"},
			{"key of another length", good, claim(good, frame{"peer_pubkey": "abcd"}), 400, "malformed"},
			{"key that is no point", good, claim(good, frame{"peer_pubkey": strings.Repeat("0", 62) + "zz"}), 400, "malformed"},
			{"key of small order", good, claim(good, frame{"peer_pubkey": strings.Repeat("0", 64)}), 400, "malformed"},
			{"long name", good, claim(good, frame{"display_name": strings.Repeat("x", 129)}), 400, "malformed"},
			{"name that steers terminals", good, claim(good, frame{"display_name": "\x1b[1m"}), 400, "malformed"},
			{"mesh without a root key", rootless, claim(rootless, nil), 400, "malformed"},
			{"mesh without an owner", ownerless, claim(ownerless, nil), 400, "malformed"},
			{"invite from before there were signatures", legacy, claim(legacy, nil), 400, "malformed"},
			{"role that was raised", raised, claim(raised, nil), 400, "bad_signature"},
			{"longer than signed", longer, claim(longer, nil), 400, "bad_signature"},
			{"signature that was spoilt", forged, claim(forged, nil), 400, "bad_signature"},
			{"recipient of low order", good, claim(good, frame{"recipient_x25519_pubkey": lowOrder, "signature": "00"}), 400, "malformed"},
			{"bad proof", good, claim(good, frame{"signature": strings.Repeat("0", 128)}), 400, "join_bad_signature"},
			{"proof over another code", good, claim(used, nil), 400, "join_bad_signature"},
			{"bad proof of a member", good, merged(as(good, member.Key), frame{"signature": "00"}), 400, "join_bad_signature"},
			{"banned", good, as(good, banned.Key), 403, "member_banned"},
			{"another member's session key", good, as(good, session), 400, "pubkey_in_use"},
		} {
			a := postClaim(t, b, row.code, row.body)
			require.Equal(t, row.status, a.code, "%s: %v", row.name, a.body)
			require.Equal(t, row.want, a.body["error"], row.name)
			require.NotContains(t, a.body, "ok", row.name)
			require.NotContains(t, fmt.Sprint(a.body), rootKeyOfTests, row.name)
		}
		require.Zero(t, usesOf(t, mesh, good))
		again := postClaim(t, b, used, as(used, member.Key))
		require.Equal(t, http.StatusOK, again.code, again.body)
		require.Equal(t, true, again.body["already_member"], "before exhausted")
		require.Equal(t, member.ID, again.body["member_id"])
		claimOK(t, mesh, good)
		require.Equal(t, "member_insert_failed", postClaim(t, b, good, claim(good, nil)).body["error"], "four members")
		require.Equal(t, 1, usesOf(t, mesh, good))

		// Who changes the owner's key ends the invites of the former one.
		next := hostKey(t)
		require.NoError(t, b.SetOwner(ctx, mesh.ID, "", next.Public()))
		require.Equal(t, "bad_signature", postClaim(t, b, good, claim(good, nil)).body["error"])
	})
}

// A claim whose answer was lost is made again, and gives the same member and the key once more.
func TestClaimAgainIsTheSameMember(t *testing.T) {
	t.Parallel()
	mesh := withRootKey(t)
	code, _ := shortInvite(t, mesh, broker.InviteOptions{})
	who := newClaimant(t)
	first := postClaim(t, mesh.Broker, code, who.body(code))
	require.Equal(t, http.StatusOK, first.code)
	fresh := newClaimant(t)
	fresh.key = who.key
	second := postClaim(t, mesh.Broker, code, fresh.body(code))
	require.Equal(t, http.StatusOK, second.code, second.body)
	require.Equal(t, true, second.body["already_member"])
	require.NotContains(t, first.body, "already_member")
	require.Equal(t, first.body["member_id"], second.body["member_id"])
	root, err := identity.OpenRootKey(second.body.Str("sealed_root_key"), fresh.public, fresh.secret)
	require.NoError(t, err)
	require.Equal(t, rootKeyOfTests, root)
	require.Equal(t, 1, usesOf(t, mesh, code))
	require.Len(t, auditOf(t, mesh, wire.AuditMemberJoined), 1)
}

func TestLastUseIsClaimedOnce(t *testing.T) {
	t.Parallel()
	mesh := withRootKey(t)
	code, _ := shortInvite(t, mesh, broker.InviteOptions{MaxUses: 3})
	answers := make(chan string, 24)
	var all sync.WaitGroup
	for range cap(answers) {
		body := newClaimant(t).body(code)
		all.Go(func() {
			a := postClaim(t, mesh.Broker, code, body)
			answers <- fmt.Sprint(a.code, a.body["error"])
		})
	}
	all.Wait()
	close(answers)
	count := map[string]int{}
	for a := range answers {
		count[a]++
	}
	require.Equal(t, map[string]int{"200 <nil>": 3, "410exhausted": 21}, count)
	require.Equal(t, 3, usesOf(t, mesh, code))
	members, err := mesh.Broker.Members(t.Context(), mesh.ID)
	require.NoError(t, err)
	require.Len(t, members, 3)
	require.Len(t, auditOf(t, mesh, wire.AuditMemberJoined), 3)
}

func TestH20ClaimProof(t *testing.T) {
	t.Parallel()
	mesh := withRootKey(t, func(o *broker.Options) { o.RequireJoinProof = true })
	code, _ := shortInvite(t, mesh, broker.InviteOptions{})
	body := newClaimant(t).body(code)
	bare := merged(body)
	delete(bare, "signature")
	require.Equal(t, "join_proof_required", postClaim(t, mesh.Broker, code, bare).body["error"])
	require.Equal(t, http.StatusOK, postClaim(t, mesh.Broker, code, body).code)
}

// Keys of members are no secrets, so knowing one gets nobody the root key, by no invite in any state; and nothing is used up by trying.
func TestH20MembersClaimNeedsItsProof(t *testing.T) {
	t.Parallel()
	for _, demanded := range []bool{false, true} {
		mesh := withRootKey(t, func(o *broker.Options) { o.RequireJoinProof, o.JoinAddrRatePerMin = demanded, 1000 })
		used, _ := shortInvite(t, mesh, broker.InviteOptions{})
		good, _ := shortInvite(t, mesh, broker.InviteOptions{MaxUses: 5})
		claimOK(t, mesh, used)
		claimOK(t, mesh, good)
		bo := newClaimant(t)
		bo.key = mesh.Member("bo").Key
		upper := strings.ToUpper(bo.key.Public())
		for _, row := range []struct {
			name   string
			more   func(code string) frame
			reason string // where the invite is good
		}{
			{"none", func(string) frame { return frame{"signature": nil} }, "join_proof_required"},
			{"empty", func(string) frame { return frame{"signature": ""} }, "join_proof_required"},
			{"none, in capitals", func(string) frame { return frame{"signature": nil, "peer_pubkey": upper} }, "join_proof_required"},
			{"zeros", func(string) frame { return frame{"signature": strings.Repeat("0", 128)} }, "join_bad_signature"},
			{"no hex", func(string) frame { return frame{"signature": "x"} }, "join_bad_signature"},
			{"by another key", func(code string) frame {
				return frame{"signature": hostKey(t).Sign(identity.JoinText(identity.TokenHash(code), bo.key.Public()))}
			}, "join_bad_signature"},
			{"over another code", func(string) frame { return frame{"signature": bo.body("another2")["signature"]} }, "join_bad_signature"},
		} {
			for code, want := range map[string]string{used: "410 exhausted", good: "400 " + row.reason} {
				a := postClaim(t, mesh.Broker, code, merged(bo.body(code), row.more(code)))
				require.Equal(t, want, fmt.Sprint(a.code, " ", a.body["error"]), row.name)
				require.NotContains(t, a.body, "sealed_root_key", row.name)
				require.NotContains(t, a.body, "member_id", row.name)
			}
		}
		for _, code := range []string{used, good} {
			uses := usesOf(t, mesh, code)
			require.Equal(t, 1, uses)
			for _, body := range []frame{bo.body(code), merged(bo.body(code), frame{
				"peer_pubkey": upper, "signature": bo.key.Sign(identity.JoinText(identity.TokenHash(code), upper)),
			})} {
				a := postClaim(t, mesh.Broker, code, body)
				require.Equal(t, http.StatusOK, a.code, a.body)
				require.Equal(t, true, a.body["already_member"])
				root, err := identity.OpenRootKey(a.body.Str("sealed_root_key"), bo.public, bo.secret)
				require.NoError(t, err)
				require.Equal(t, rootKeyOfTests, root)
			}
			require.Equal(t, uses, usesOf(t, mesh, code))
		}
	}
}

func TestClaimAnswersBesidesRefusals(t *testing.T) {
	t.Parallel()
	st := &hostStore{}
	mesh := withRootKey(t, st.wrap, func(o *broker.Options) { o.JoinAddrRatePerMin = 12 })
	code, _ := shortInvite(t, mesh, broker.InviteOptions{})
	body := newClaimant(t).body(code)
	path := "/invites/" + code + "/claim"
	for kind, want := range map[string]int{"text/plain": 415, "": 415, "application/json; charset=utf-8": 404} {
		a := hostPost(t, mesh.Broker, hostRequest{path: "/invites/nothing2/claim", header: map[string]string{"Content-Type": kind}, body: body})
		require.Equal(t, want, a.code, kind)
	}
	a := hostPost(t, mesh.Broker, hostRequest{path: path, body: frame{"display_name": strings.Repeat("x", 65536)}})
	require.Equal(t, http.StatusRequestEntityTooLarge, a.code)
	require.Equal(t, frame{"error": "payload too large"}, a.body)
	for err, want := range map[error]int{
		fmt.Errorf("down: %w", store.ErrUnavailable): http.StatusServiceUnavailable,
		errors.New("disk full at /secret"):           http.StatusInternalServerError,
	} {
		st.redeem = func() error { return err }
		a = postClaim(t, mesh.Broker, code, body)
		require.Equal(t, want, a.code)
		require.NotContains(t, a.body["error"], "secret")
		require.Equal(t, want == http.StatusServiceUnavailable, a.header.Get("Retry-After") != "")
	}
	st.redeem = nil
	r := httptest.NewRequest(http.MethodGet, path, nil)
	require.Equal(t, http.StatusNotFound, hostServe(mesh.Broker, r).code)

	// Six were taken. Codes that are not there cost as much as others, and so do joins.
	for range 5 {
		require.Equal(t, http.StatusNotFound, postClaim(t, mesh.Broker, identity.NewInviteCode(), body).code)
	}
	require.Equal(t, http.StatusBadRequest, hostPostJoin(t, mesh.Broker, frame{}).code)
	a = postClaim(t, mesh.Broker, code, body)
	require.Equal(t, http.StatusTooManyRequests, a.code, "although the code is right")
	require.Equal(t, "rate limited", a.body["error"])
	require.NotEmpty(t, a.header.Get("Retry-After"))
	require.Equal(t, http.StatusTooManyRequests, hostPostJoin(t, mesh.Broker, frame{}).code)
	require.Equal(t, http.StatusOK, hostPost(t, mesh.Broker, hostRequest{path: path, from: "192.0.2.7:1", body: body}).code, "per address")
}

func TestClaimFromPagesIsAnOption(t *testing.T) {
	t.Parallel()
	for _, cors := range []bool{false, true} {
		mesh := withRootKey(t, func(o *broker.Options) { o.JoinCORS = cors })
		code, _ := shortInvite(t, mesh, broker.InviteOptions{})
		for _, path := range []string{"/invites/" + code + "/claim", "/api/public/invites/" + code + "/claim"} {
			a := hostPost(t, mesh.Broker, hostRequest{path: path, body: frame{}})
			require.Equal(t, cors, a.header.Get("Access-Control-Allow-Origin") == "*", path)
			a = hostServe(mesh.Broker, httptest.NewRequest(http.MethodOptions, path, nil))
			require.Equal(t, http.StatusNoContent, a.code)
			require.Equal(t, cors, a.header.Get("Access-Control-Allow-Origin") == "*", path)
		}
		a := hostGet(mesh.Broker, "/api/public/invite-code/"+code)
		require.Equal(t, http.StatusNotFound, a.code, "a code is not looked up")
		require.Equal(t, frame{"found": false}, a.body)
	}
}

// A claim makes the new member known as a join does.
func TestClaimIsToldToGeneral(t *testing.T) {
	t.Parallel()
	mesh := withRootKey(t)
	code, _ := shortInvite(t, mesh, broker.InviteOptions{})
	ana := mesh.Dial("ana", brokertest.With(frame{"capabilities": []string{"topic_events"}}))
	m := claimOK(t, mesh, code)
	data, _ := ana.ExpectEvent("topic_joined")["eventData"].(map[string]any)
	require.Equal(t, m.ID, data["memberId"])
}

// Nothing of a claim reaches the log: neither code nor key nor root key.
func TestClaimsStayOutOfTheLog(t *testing.T) {
	t.Parallel()
	log := &lockedBuffer{}
	st := &hostStore{}
	mesh := withRootKey(t, st.wrap, func(o *broker.Options) {
		o.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	code, _ := shortInvite(t, mesh, broker.InviteOptions{})
	who := newClaimant(t)
	postClaim(t, mesh.Broker, code, merged(who.body(code), frame{"signature": strings.Repeat("0", 128)}))
	st.redeem = func() error { return errors.New("boom") }
	postClaim(t, mesh.Broker, code, who.body(code))
	st.redeem = nil
	a := postClaim(t, mesh.Broker, code, who.body(code))
	require.Equal(t, http.StatusOK, a.code)
	claims := mesh.Dial("ana").Request(merged(signedV2(t, mesh, mesh.Owner, nil), frame{"code": code}))
	require.Equal(t, "invite_code_in_use", claims["code"])
	text := log.String()
	require.Contains(t, text, "join_bad_signature")
	require.Contains(t, text, "boom")
	secret, err := base64.RawURLEncoding.DecodeString(rootKeyOfTests)
	require.NoError(t, err)
	for _, s := range []string{code, rootKeyOfTests, a.body.Str("sealed_root_key"), who.key.SeedHex(), mesh.Owner.SeedHex()} {
		require.NotContains(t, text, s)
	}
	require.False(t, bytes.Contains([]byte(text), secret))
}
