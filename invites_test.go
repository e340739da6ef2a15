package broker_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

const hostURL = "ws://127.0.0.1:7900/ws"

// hostInvite makes an invite to a test's mesh and returns its token.
func hostInvite(t *testing.T, mesh *brokertest.Mesh, o broker.InviteOptions) (token string, invite store.Invite) {
	t.Helper()
	o.BrokerURL = hostURL
	link, invite, err := mesh.Broker.CreateInvite(t.Context(), mesh.ID, mesh.Owner, o)
	require.NoError(t, err)
	token, err = identity.ParseInviteLink(link)
	require.NoError(t, err)
	return token, invite
}

// hostPayload is the JSON inside a token.
func hostPayload(t *testing.T, token string) json.RawMessage {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(token)
	require.NoError(t, err)
	return raw
}

// hostJoin is a join as older clients send it.
func hostJoin(t *testing.T, token string, key identity.KeyPair, name string) frame {
	t.Helper()
	return frame{"invite_token": token, "invite_payload": hostPayload(t, token), "peer_pubkey": key.Public(), "display_name": name}
}

func hostPostJoin(t *testing.T, b *broker.Broker, body any) hostAnswer {
	t.Helper()
	return hostPost(t, b, hostRequest{path: "/join", body: body})
}

func TestJoinEnrols(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	token, _ := hostInvite(t, mesh, broker.InviteOptions{
		Role: store.RoleAdmin, MaxUses: 3, Preset: store.InvitePreset{RoleTag: "dev", Groups: []wire.Group{{Name: "eng"}}, MessageMode: "inbox"},
	})
	key := hostKey(t)
	body := hostJoin(t, token, key, "  ada ")
	body["peer_pubkey"] = strings.ToUpper(key.Public())
	a := hostPostJoin(t, mesh.Broker, body)
	require.Equal(t, http.StatusOK, a.code, a.body)
	id := a.body.Str("memberId")
	require.Equal(t, frame{"ok": true, "memberId": id}, a.body)
	require.Empty(t, a.header.Get("Access-Control-Allow-Origin"))

	m, err := mesh.Broker.Member(t.Context(), mesh.ID, id)
	require.NoError(t, err)
	require.Equal(t, key.Public(), m.Pubkey, "in lower case")
	require.Equal(t, "ada", m.Name)
	require.Equal(t, store.RoleAdmin, m.Role)
	require.Equal(t, "dev", m.RoleTag)
	require.Equal(t, []wire.Group{{Name: "eng"}}, m.DefaultGroups)
	require.Equal(t, "inbox", m.MessageMode)
	general, err := mesh.Store.Topic(t.Context(), mesh.ID, "general")
	require.NoError(t, err)
	_, err = mesh.Store.Subscription(t.Context(), mesh.ID, general.ID, id)
	require.NoError(t, err, "a member of general")
	hostSignIn(t, mesh, m, key, nil)

	again := hostPostJoin(t, mesh.Broker, hostJoin(t, token, key, "somebody else"))
	require.Equal(t, frame{"ok": true, "memberId": id, "alreadyMember": true}, again.body)
	invites, err := mesh.Broker.Invites(t.Context(), mesh.ID)
	require.NoError(t, err)
	require.Equal(t, 1, invites[0].UsedCount, "nothing was used")
}

// Each row fails one check and, where it can, all later ones too.
func TestJoinRefusalsInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.MaxMembersPerMesh = 4 })
		b, ctx := mesh.Broker, t.Context()
		newMesh := func(slug, owner string) store.Mesh {
			m, err := b.CreateMesh(ctx, broker.NewMesh{Slug: slug, OwnerPubkey: owner})
			require.NoError(t, err)
			return m
		}
		sign := func(m store.Mesh, owner identity.KeyPair, ttl time.Duration) (token string) {
			i, err := identity.InviteV1{
				MeshID: m.ID, MeshSlug: m.Slug, BrokerURL: hostURL, ExpiresAt: float64(time.Now().Add(ttl).Unix()),
				MeshRootKey: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Role: store.RoleMember,
			}.Sign(owner)
			require.NoError(t, err)
			return i.Token()
		}
		home, err := b.Mesh(ctx, mesh.ID)
		require.NoError(t, err)
		archived := newMesh("archived", mesh.Owner.Public())
		require.NoError(t, mesh.Store.ArchiveMesh(ctx, archived.ID, time.Now()))
		second := newMesh("second", mesh.Owner.Public())
		stranger := hostKey(t)

		good, _ := hostInvite(t, mesh, broker.InviteOptions{})
		dead, invite := hostInvite(t, mesh, broker.InviteOptions{TTL: time.Minute})
		require.NoError(t, b.RevokeInvite(ctx, mesh.ID, invite.ID))
		old, _ := hostInvite(t, mesh, broker.InviteOptions{TTL: time.Minute})
		elsewhere, _, err := b.CreateInvite(ctx, second.ID, mesh.Owner, broker.InviteOptions{BrokerURL: hostURL})
		require.NoError(t, err)
		elsewhere = strings.TrimPrefix(elsewhere, "ic://join/")
		used, _ := hostInvite(t, mesh, broker.InviteOptions{})
		many, _ := hostInvite(t, mesh, broker.InviteOptions{MaxUses: 10})

		banned, member := mesh.Member("banned"), mesh.Member("member")
		require.NoError(t, b.RevokeMember(ctx, mesh.ID, banned.ID))
		session := hostKey(t)
		mesh.Dial("member", brokertest.SessionKey(session))
		usedUp := hostPostJoin(t, b, hostJoin(t, used, hostKey(t), "first"))
		require.Equal(t, http.StatusOK, usedUp.code, usedUp.body)
		time.Sleep(2 * time.Minute)

		with := func(body frame, members frame) frame {
			for k, v := range members {
				body[k] = v
			}
			return body
		}
		join := func(token string) frame { return hostJoin(t, token, hostKey(t), "x") }
		const required = "invite_token, invite_payload, peer_pubkey, display_name required"
		var forged map[string]any
		require.NoError(t, json.Unmarshal(hostPayload(t, good), &forged))
		forged["role"] = store.RoleAdmin
		for _, row := range []struct {
			name string
			body any
			want string
		}{
			{"not JSON", "{", "invalid JSON"},
			{"payload of another type", with(join(good), frame{"invite_payload": "eyJ2Ijox"}), "invalid JSON"},
			{"no token", with(join(good), frame{"invite_token": "", "peer_pubkey": "x"}), required},
			{"no payload", with(join(good), frame{"invite_payload": nil}), required},
			{"no key", with(join(good), frame{"peer_pubkey": ""}), required},
			{"no name", with(join(good), frame{"display_name": ""}), required},
			{"key of another length", with(join(good), frame{"peer_pubkey": "abcd", "invite_payload": forged}), "peer_pubkey must be 64 hex chars (32 bytes)"},
			{"key that is no hex", with(join(good), frame{"peer_pubkey": strings.Repeat("z", 64)}), "peer_pubkey must be 64 hex chars (32 bytes)"},
			{"key of small order", with(join(good), frame{"peer_pubkey": strings.Repeat("0", 64)}), "peer_pubkey is no ed25519 key that can be used; make a new one"},
			{"blank name", with(join(good), frame{"display_name": " "}), "display_name must have 1 to 128 characters and no control characters"},
			{"long name", with(join(good), frame{"display_name": strings.Repeat("x", 129)}), "display_name must have 1 to 128 characters and no control characters"},
			{"forged payload", with(join(good), frame{"invite_payload": forged}), "invite_bad_signature"},
			{"unknown mesh", join(sign(store.Mesh{ID: "nowhere", Slug: "x"}, stranger, -time.Hour)), "mesh_not_found"},
			{"id that is none", join(sign(store.Mesh{ID: "no/where", Slug: "x"}, stranger, time.Hour)), "mesh_not_found"},
			{"archived mesh", join(sign(archived, mesh.Owner, time.Hour)), "mesh_not_found"},
			{"mesh without an owner", join(sign(newMesh("ownerless", ""), stranger, time.Hour)), "mesh_missing_owner_key"},
			{"somebody else's signature", join(sign(home, stranger, -time.Hour)), "invite_owner_mismatch"},
			{"not registered", join(sign(home, mesh.Owner, -time.Hour)), "invite_not_found"},
			{"registered for another mesh", with(join(elsewhere), frame{"invite_payload": hostPayload(t, good)}), "invite_mesh_mismatch"},
			{"payload of another invite", with(join(dead), frame{"invite_payload": hostPayload(t, good)}), "invite_bad_signature"},
			{"revoked", join(dead), "invite_revoked"},
			{"expired", join(old), "invite_expired"},
			{"expired, and a member", hostJoin(t, old, member.Key, "x"), "invite_expired"},
			{"bad proof", with(join(good), frame{"signature": strings.Repeat("0", 128)}), "join_bad_signature"},
			{"bad proof of a member", with(hostJoin(t, good, member.Key, "x"), frame{"signature": "00"}), "join_bad_signature"},
			{"banned", hostJoin(t, used, banned.Key, "x"), "member_banned"},
			{"another member's session key", hostJoin(t, used, session, "x"), "pubkey_in_use"},
			{"used up", join(used), "invite_exhausted"},
		} {
			a := hostPostJoin(t, b, row.body)
			require.Equal(t, http.StatusBadRequest, a.code, row.name)
			require.Equal(t, row.want, a.body["error"], row.name)
			require.Equal(t, false, a.body["ok"], row.name)
		}
		require.Equal(t, true, hostPostJoin(t, b, hostJoin(t, used, member.Key, "x")).body["alreadyMember"], "before exhausted")
		for range 2 {
			require.Equal(t, http.StatusOK, hostPostJoin(t, b, join(many)).code)
		}
		require.Equal(t, "member_insert_failed", hostPostJoin(t, b, join(many)).body["error"], "four members")
	})
}

func TestJoinAnswersBesides400(t *testing.T) {
	t.Parallel()
	st := &hostStore{}
	mesh := brokertest.New(t, st.wrap, func(o *broker.Options) { o.JoinAddrRatePerMin = 5 })
	token, _ := hostInvite(t, mesh, broker.InviteOptions{MaxUses: 10})
	join := hostJoin(t, token, hostKey(t), "ana")
	a := hostPost(t, mesh.Broker, hostRequest{path: "/join", header: map[string]string{"Content-Type": "text/plain"}, body: join})
	require.Equal(t, http.StatusUnsupportedMediaType, a.code)
	require.Equal(t, frame{"ok": false, "error": "unsupported media type"}, a.body)
	a = hostPostJoin(t, mesh.Broker, frame{"invite_token": strings.Repeat("x", 65536)})
	require.Equal(t, http.StatusRequestEntityTooLarge, a.code)
	require.Equal(t, frame{"ok": false, "error": "payload too large"}, a.body)
	for err, want := range map[error]int{
		fmt.Errorf("down: %w", store.ErrUnavailable): http.StatusServiceUnavailable,
		errors.New("disk full at /secret"):           http.StatusInternalServerError,
	} {
		st.redeem = func() error { return err }
		a = hostPostJoin(t, mesh.Broker, join)
		require.Equal(t, want, a.code)
		require.Equal(t, false, a.body["ok"])
		require.NotContains(t, a.body["error"], "secret")
		require.Equal(t, want == http.StatusServiceUnavailable, a.header.Get("Retry-After") != "")
	}
	st.redeem = nil
	require.Equal(t, http.StatusOK, hostPostJoin(t, mesh.Broker, join).code)
	a = hostPostJoin(t, mesh.Broker, join)
	require.Equal(t, http.StatusTooManyRequests, a.code)
	require.Equal(t, frame{"ok": false, "error": "rate limited"}, a.body)
	require.NotEmpty(t, a.header.Get("Retry-After"))
	require.Equal(t, http.StatusOK, hostPost(t, mesh.Broker, hostRequest{path: "/join", from: "192.0.2.7:1", body: join}).code, "per address")
}

func TestH20JoinProof(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t, func(o *broker.Options) { o.RequireJoinProof = true })
	token, _ := hostInvite(t, mesh, broker.InviteOptions{MaxUses: 10})
	other, _ := hostInvite(t, mesh, broker.InviteOptions{MaxUses: 10})
	key := hostKey(t)
	body := hostJoin(t, token, key, "ana")
	require.Equal(t, "join_proof_required", hostPostJoin(t, mesh.Broker, body).body["error"])
	body["signature"] = key.Sign(identity.JoinText(identity.TokenHash(other), key.Public()))
	require.Equal(t, "join_bad_signature", hostPostJoin(t, mesh.Broker, body).body["error"], "over another invite")
	body["signature"] = mesh.Owner.Sign(identity.JoinText(identity.TokenHash(token), key.Public()))
	require.Equal(t, "join_bad_signature", hostPostJoin(t, mesh.Broker, body).body["error"], "by another key")
	body["signature"] = key.Sign(identity.JoinText(identity.TokenHash(token), key.Public()))
	require.Equal(t, true, hostPostJoin(t, mesh.Broker, body).body["ok"])
}

func TestH14JoinNumbersATakenName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		token, _ := hostInvite(t, mesh, broker.InviteOptions{MaxUses: 10})
		eve := mesh.Dial("eve", brokertest.With(frame{"displayName": "Bo"}))
		require.Equal(t, "Bo", eve.Hello["memberDisplayName"])
		for _, row := range []struct{ asked, want string }{{"bo", "bo"}, {"BO", "BO-2"}, {"b\u200eo", "b\u200eo-3"}} {
			a := hostPostJoin(t, mesh.Broker, hostJoin(t, token, hostKey(t), row.asked))
			require.Equal(t, true, a.body["ok"])
			m, err := mesh.Broker.Member(t.Context(), mesh.ID, a.body.Str("memberId"))
			require.NoError(t, err)
			require.Equal(t, row.want, m.Name)
		}
		require.Equal(t, "eve", mesh.Broker.Sessions(mesh.ID)[0].Name, "the session name is the new member's now")
		again := mesh.Dial("eve", brokertest.With(frame{"displayName": "bo"}))
		require.Equal(t, "eve", again.Hello["memberDisplayName"])
	})
}

func TestJoinIsToldToGeneral(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	token, _ := hostInvite(t, mesh, broker.InviteOptions{})
	ana := mesh.Dial("ana", brokertest.With(frame{"capabilities": []string{"topic_events"}}))
	a := hostPostJoin(t, mesh.Broker, hostJoin(t, token, hostKey(t), "bo"))
	event := ana.ExpectEvent("topic_joined")
	data, _ := event["eventData"].(map[string]any)
	require.Equal(t, a.body["memberId"], data["memberId"])
}

func TestFirstToJoinIsAdmin(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	token, _ := hostInvite(t, mesh, broker.InviteOptions{MaxUses: 20, FirstIsAdmin: true})
	roles := make(chan string, 20)
	var all sync.WaitGroup
	for i := range cap(roles) {
		body := hostJoin(t, token, hostKey(t), fmt.Sprintf("m%d", i))
		all.Go(func() {
			a := hostPostJoin(t, mesh.Broker, body)
			m, err := mesh.Broker.Member(t.Context(), mesh.ID, a.body.Str("memberId"))
			if err != nil {
				m.Role = err.Error()
			}
			roles <- m.Role
		})
	}
	all.Wait()
	close(roles)
	count := map[string]int{}
	for r := range roles {
		count[r]++
	}
	require.Equal(t, map[string]int{store.RoleAdmin: 1, store.RoleMember: 19}, count)
}

func TestJoinFromPagesIsAnOption(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t, func(o *broker.Options) { o.JoinCORS = true })
	a := hostPostJoin(t, mesh.Broker, frame{})
	require.Equal(t, "*", a.header.Get("Access-Control-Allow-Origin"))
}

func TestInviteClaimIsNotOffered(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	a := hostPost(t, mesh.Broker, hostRequest{path: "/invites/abcdefgh/claim", body: frame{}})
	require.Equal(t, http.StatusNotImplemented, a.code)
	require.Equal(t, "invite_v2_disabled", a.body["error"])
	require.NotEmpty(t, a.body["detail"])
	require.NotContains(t, a.body, "ok")
}

func TestInvitesAreCheckedWhenMade(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	b, ctx := mesh.Broker, t.Context()
	token, first := hostInvite(t, mesh, broker.InviteOptions{Role: store.RoleMember})
	parsed, err := identity.ParseInviteToken(token)
	require.NoError(t, err)
	require.NoError(t, parsed.Verify(time.Now()))
	require.Equal(t, "test", parsed.MeshSlug)
	require.Equal(t, first.ExpiresAt.Unix(), int64(parsed.ExpiresAt))
	require.Equal(t, 1, first.MaxUses)
	require.NotContains(t, fmt.Sprintf("%+v", first), token, "only the hash is kept")
	secondToken, _ := hostInvite(t, mesh, broker.InviteOptions{})
	second, err := identity.ParseInviteToken(secondToken)
	require.NoError(t, err)
	require.Equal(t, parsed.MeshRootKey, second.MeshRootKey, "every invite holds the mesh's one root key")

	for name, o := range map[string]broker.InviteOptions{
		"no url":             {},
		"another scheme":     {BrokerURL: "http://host/ws"},
		"a separator inside": {BrokerURL: "ws://host/|/ws"},
		"unknown role":       {BrokerURL: hostURL, Role: "owner"},
		"uses":               {BrokerURL: hostURL, MaxUses: -1},
		"ttl":                {BrokerURL: hostURL, TTL: -time.Hour},
		"root key":           {BrokerURL: hostURL, RootKey: "short"},
		"preset name":        {BrokerURL: hostURL, Preset: store.InvitePreset{DisplayName: "\n"}},
		"preset mode":        {BrokerURL: hostURL, Preset: store.InvitePreset{MessageMode: "loud"}},
		"preset group":       {BrokerURL: hostURL, Preset: store.InvitePreset{Groups: []wire.Group{{Name: "all"}}}},
	} {
		_, _, err := b.CreateInvite(ctx, mesh.ID, mesh.Owner, o)
		require.ErrorIs(t, err, wire.InvalidArgs, name)
	}
	_, _, err = b.CreateInvite(ctx, mesh.ID, hostKey(t), broker.InviteOptions{BrokerURL: hostURL})
	require.ErrorIs(t, err, wire.Forbidden)
	_, _, err = b.CreateInvite(ctx, mesh.ID, identity.KeyPair{}, broker.InviteOptions{BrokerURL: hostURL})
	require.ErrorIs(t, err, wire.InvalidArgs)
	_, _, err = b.CreateInvite(ctx, "nowhere", mesh.Owner, broker.InviteOptions{BrokerURL: hostURL})
	require.ErrorIs(t, err, store.ErrNotFound)

	_, err = b.UploadInvite(ctx, mesh.ID, token, broker.InviteUpload{})
	require.ErrorIs(t, err, store.ErrConflict, "registered already")
	_, err = b.UploadInvite(ctx, mesh.ID, "nonsense", broker.InviteUpload{})
	require.ErrorIs(t, err, wire.InvalidArgs)
	require.ErrorIs(t, b.RevokeInvite(ctx, mesh.ID, "nowhere"), store.ErrNotFound)
}
