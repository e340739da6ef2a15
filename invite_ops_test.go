package broker_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
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

// rootKeyOfTests is 32 bytes 40..5f.
const rootKeyOfTests = "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8"

// shortLinks switches invites of version 2 on.
func shortLinks(o *broker.Options) { o.InviteV2 = true }

// withRootKey is a mesh that takes invites of version 2 and has a root key to hand out.
func withRootKey(t *testing.T, options ...func(*broker.Options)) *brokertest.Mesh {
	t.Helper()
	mesh := brokertest.New(t, append([]func(*broker.Options){shortLinks}, options...)...)
	require.NoError(t, mesh.Broker.SetRootKey(t.Context(), mesh.ID, rootKeyOfTests))
	return mesh
}

// signedV1 is an invite_create of version 1, signed by a key; change comes before signing.
func signedV1(t *testing.T, mesh *brokertest.Mesh, by identity.KeyPair, change func(*identity.InviteV1)) frame {
	t.Helper()
	i := identity.InviteV1{
		MeshID: mesh.ID, MeshSlug: "test", BrokerURL: hostURL, ExpiresAt: float64(time.Now().Add(time.Hour).Unix()), MeshRootKey: rootKeyOfTests,
		Role: store.RoleMember,
	}
	if change != nil {
		change(&i)
	}
	i, err := i.Sign(by)
	require.NoError(t, err)
	return frame{"type": "invite_create", "token": i.Token()}
}

// signedV2 is an invite_create of version 2, likewise.
func signedV2(t *testing.T, mesh *brokertest.Mesh, by identity.KeyPair, change func(*identity.InviteV2)) frame {
	t.Helper()
	i := identity.InviteV2{
		MeshID: mesh.ID, InviteID: identity.NewID(), ExpiresAt: float64(time.Now().Add(time.Hour).Unix()), Role: store.RoleMember,
	}
	if change != nil {
		change(&i)
	}
	i, err := i.Sign(by)
	require.NoError(t, err)
	return frame{"type": "invite_create", "version": 2, "canonical": i.Text(), "signature": i.Signature, "code": identity.NewInviteCode()}
}

// created sends an invite_create that must succeed.
func created(t *testing.T, c *brokertest.Conn, f frame) frame {
	t.Helper()
	a := c.Request(f)
	require.Equal(t, "invite_created", a.Type(), "%v", a)
	return a
}

// auditOf is what the audit log holds of one type, newest first.
func auditOf(t *testing.T, mesh *brokertest.Mesh, typ string) []store.AuditEntry {
	t.Helper()
	entries, _, err := mesh.Store.AuditLog(t.Context(), store.AuditQuery{MeshID: mesh.ID, Type: typ, Limit: 100})
	require.NoError(t, err)
	return entries
}

func TestInviteIsUploadedListedAndRevoked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := withRootKey(t)
		ana := mesh.Dial("ana")
		expires := time.Now().Add(time.Hour).UTC()
		first := signedV1(t, mesh, mesh.Owner, nil)
		first["maxUses"], first["preset"] = 3, frame{
			"displayName": " guest ", "roleTag": "dev", "groups": []frame{{"name": "@eng", "role": "lead"}}, "messageMode": "inbox",
		}
		one := created(t, ana, first)
		require.Equal(t, wire.FormatTime(expires.Truncate(time.Second)), one.Str("expiresAt"))
		time.Sleep(time.Second)
		second := signedV2(t, mesh, mesh.Owner, func(i *identity.InviteV2) { i.InviteID, i.Role = "from-the-owner", store.RoleAdmin })
		two := created(t, ana, second)
		require.Equal(t, "from-the-owner", two.Str("id"), "the id is the one that was signed")

		// It lets people join, as the role and with what the uploader gave.
		key := hostKey(t)
		joined := hostPostJoin(t, mesh.Broker, hostJoin(t, first.Str("token"), key, "bo"))
		require.Equal(t, true, joined.body["ok"], joined.body)
		bo, err := mesh.Broker.Member(t.Context(), mesh.ID, joined.body.Str("memberId"))
		require.NoError(t, err)
		require.Equal(t, "guest", bo.Name)
		require.Equal(t, store.RoleMember, bo.Role)
		require.Equal(t, "dev", bo.RoleTag)
		require.Equal(t, []wire.Group{{Name: "eng", Role: "lead"}}, bo.DefaultGroups)
		require.Equal(t, "inbox", bo.MessageMode)

		answer := ana.Request(frame{"type": "invite_list"})
		require.Equal(t, "invite_list_result", answer.Type())
		listed := list(t, answer, "invites")
		require.Equal(t, []string{two.Str("id"), one.Str("id")}, column(listed, "id"), "newest first")
		require.Equal(t, frame{
			"id": one.Str("id"), "version": 1.0, "role": "member", "maxUses": 3.0, "usedCount": 1.0, "expiresAt": one.Str("expiresAt"),
			"createdAt": wire.FormatTime(expires.Add(-time.Hour)), "revokedAt": nil,
		}, listed[1], "and nothing else")
		raw, err := json.Marshal(answer)
		require.NoError(t, err)
		for _, secret := range []string{first.Str("token"), identity.TokenHash(first.Str("token")), second.Str("code"), second.Str("signature")} {
			require.NotContains(t, string(raw), secret)
		}

		done(t, ana, frame{"type": "invite_revoke", "id": one.Str("id")})
		revokedAt := wire.FormatTime(time.Now())
		time.Sleep(time.Minute)
		done(t, ana, frame{"type": "invite_revoke", "id": one.Str("id")})
		require.Equal(t, revokedAt, list(t, ana.Request(frame{"type": "invite_list"}), "invites")[1]["revokedAt"], "the first time")
		require.Equal(t, "invite_revoked", hostPostJoin(t, mesh.Broker, hostJoin(t, first.Str("token"), hostKey(t), "cy")).body["error"])
		require.Equal(t, true, hostPostJoin(t, mesh.Broker, hostJoin(t, first.Str("token"), key, "bo")).body["error"] == "invite_revoked", "who joined asks in vain")
		hostSignIn(t, mesh, bo, key, nil)
		require.Equal(t, "not_found", ana.Request(frame{"type": "invite_revoke", "id": "nothing"})["code"])

		log := auditOf(t, mesh, wire.AuditInviteCreated)
		require.Len(t, log, 2)
		require.JSONEq(t, fmt.Sprintf(`{"expires_at":%q,"id":%q,"max_uses":3,"role":"member","version":1}`, one.Str("expiresAt"), one.Str("id")), string(log[1].Payload))
		require.JSONEq(t, fmt.Sprintf(`{"expires_at":%q,"id":"from-the-owner","max_uses":1,"role":"admin","version":2}`, two.Str("expiresAt")), string(log[0].Payload))
		require.Equal(t, mesh.Member("ana").ID, log[0].ActorMemberID)
		log = auditOf(t, mesh, wire.AuditInviteRevoked)
		require.Len(t, log, 1, "the second time changed nothing")
		require.JSONEq(t, fmt.Sprintf(`{"id":%q}`, one.Str("id")), string(log[0].Payload))
		require.Equal(t, mesh.Member("ana").ID, log[0].ActorMemberID)
		log = auditOf(t, mesh, wire.AuditMemberJoined)
		require.JSONEq(t, fmt.Sprintf(`{"invite":%q,"member":%q,"pubkey":%q}`, one.Str("id"), bo.ID, key.Public()), string(log[0].Payload))
	})
}

// Who may invite: an admin with what the owner signed, and the owner, admin or not.
func TestInvitesAreForWhoGovernsTheMesh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := withRootKey(t)
		b, ctx := mesh.Broker, t.Context()
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		made := created(t, ana, signedV1(t, mesh, mesh.Owner, nil))
		requests := []frame{
			signedV1(t, mesh, mesh.Owner, func(i *identity.InviteV1) { i.ExpiresAt++ }), signedV2(t, mesh, mesh.Owner, nil),
			{"type": "invite_list"}, {"type": "invite_revoke", "id": made.Str("id")},
		}
		refused := func(c *brokertest.Conn) {
			t.Helper()
			for _, f := range requests {
				require.Equal(t, "forbidden", c.Request(f)["code"], f.Type())
			}
		}
		refused(bo)
		require.Equal(t, "an invite must be signed by the key of the mesh's owner, and uploaded by the owner or an admin", bo.Request(requests[0])["message"])
		require.NoError(t, b.SetMemberRole(ctx, mesh.ID, mesh.Member("bo").ID, store.RoleAdmin))
		created(t, bo, requests[0])
		require.NoError(t, b.SetMemberRole(ctx, mesh.ID, mesh.Member("bo").ID, store.RoleMember))
		refused(bo)

		// The owner's key may belong to a member, and a member may be named the owner.
		row, err := b.AddMember(ctx, mesh.ID, broker.NewMember{Name: "olga", Pubkey: mesh.Owner.Public()})
		require.NoError(t, err)
		created(t, hostSignIn(t, mesh, row, mesh.Owner, nil), requests[1])
		require.NoError(t, b.SetOwner(ctx, mesh.ID, mesh.Member("bo").ID, ""))
		require.Len(t, list(t, bo.Request(requests[2]), "invites"), 3)

		// Another mesh's admins see and reach nothing of this one.
		away, err := b.CreateMesh(ctx, broker.NewMesh{Slug: "away", OwnerPubkey: mesh.Owner.Public(), RootKey: rootKeyOfTests})
		require.NoError(t, err)
		key := hostKey(t)
		row, err = b.AddMember(ctx, away.ID, broker.NewMember{Name: "eve", Pubkey: key.Public(), Role: store.RoleAdmin})
		require.NoError(t, err)
		eve := hostSignIn(t, mesh, row, key, nil)
		require.Empty(t, list(t, eve.Request(frame{"type": "invite_list"}), "invites"))
		require.Equal(t, "not_found", eve.Request(frame{"type": "invite_revoke", "id": made.Str("id")})["code"])
		for _, f := range []frame{signedV1(t, mesh, mesh.Owner, nil), signedV2(t, mesh, mesh.Owner, nil)} {
			a := eve.Request(f)
			require.Equal(t, "invalid_args", a["code"], "the very same owner's, for another mesh")
			require.Contains(t, a["message"], "another mesh")
		}
		kept, err := b.Invites(ctx, mesh.ID)
		require.NoError(t, err)
		require.True(t, kept[2].RevokedAt.IsZero())
	})
}

// D23, D38: the broker takes what the mesh's owner signed, exactly so and once, and whoever uploads it cannot make more of it.
func TestD23UploadIsWhatTheOwnerSigned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := withRootKey(t)
		b, ctx := mesh.Broker, t.Context()
		ana := mesh.Dial("ana")
		admin, stranger := mesh.Member("ana").Key, hostKey(t)
		otherOwner := hostKey(t)
		other, err := b.CreateMesh(ctx, broker.NewMesh{Slug: "other", OwnerPubkey: otherOwner.Public()})
		require.NoError(t, err)

		v1 := func(by identity.KeyPair, change func(*identity.InviteV1)) frame { return signedV1(t, mesh, by, change) }
		v2 := func(by identity.KeyPair, change func(*identity.InviteV2)) frame { return signedV2(t, mesh, by, change) }
		// forged changes the owner's invite after it was signed.
		forged := func(change func(*identity.InviteV1)) frame {
			i, err := identity.ParseInviteToken(v1(mesh.Owner, nil).Str("token"))
			require.NoError(t, err)
			change(&i)
			return frame{"type": "invite_create", "token": i.Token()}
		}
		forged2 := func(old, new string) frame {
			f := v2(mesh.Owner, nil)
			text := f.Str("canonical")
			require.Contains(t, text, old)
			f["canonical"] = strings.Replace(text, old, new, 1)
			return f
		}
		with := func(f frame, members frame) frame { return merged(f, members) }
		good1, good2 := v1(mesh.Owner, nil), v2(mesh.Owner, nil)
		created(t, ana, good1)
		created(t, ana, good2)
		taken := v2(mesh.Owner, nil)
		taken["code"] = good2["code"]
		soon := time.Now().Unix() + 2
		late1 := v1(mesh.Owner, func(i *identity.InviteV1) { i.ExpiresAt = float64(soon) })
		late2 := v2(mesh.Owner, func(i *identity.InviteV2) { i.ExpiresAt = float64(soon) })
		time.Sleep(4 * time.Second)

		for _, row := range []struct {
			name string
			f    frame
			want string
			says string
		}{
			{"v1 by an admin", v1(admin, nil), "forbidden", "owner"},
			{"v1 by a stranger", v1(stranger, nil), "forbidden", "owner"},
			{"v1 by another mesh's owner", v1(otherOwner, nil), "forbidden", "owner"},
			{"v1 of another mesh", v1(otherOwner, func(i *identity.InviteV1) { i.MeshID, i.MeshSlug = other.ID, "other" }), "invalid_args", "another mesh"},
			{"v1 of no mesh", v1(mesh.Owner, func(i *identity.InviteV1) { i.MeshID = "nowhere" }), "invalid_args", "another mesh"},
			{"v1 of another slug", v1(mesh.Owner, func(i *identity.InviteV1) { i.MeshSlug = "other" }), "invalid_args", "another mesh"},
			{"v1 with a higher role", forged(func(i *identity.InviteV1) { i.Role = store.RoleAdmin }), "forbidden", "owner"},
			{"v1 for longer", forged(func(i *identity.InviteV1) { i.ExpiresAt += 1e6 }), "forbidden", "owner"},
			{"v1 at another broker", forged(func(i *identity.InviteV1) { i.BrokerURL = "wss://evil.example/ws" }), "forbidden", "owner"},
			{"v1 with another root key", forged(func(i *identity.InviteV1) { i.MeshRootKey = strings.Repeat("A", 43) }), "forbidden", "owner"},
			{"v1 with a signature of zeros", forged(func(i *identity.InviteV1) { i.Signature = strings.Repeat("0", 128) }), "forbidden", "owner"},
			{"v1 with a signature by itself", forged(func(i *identity.InviteV1) { *i = signedAs(t, *i, admin, mesh.Owner.Public()) }), "forbidden", "owner"},
			{"v1 with a short signature", forged(func(i *identity.InviteV1) { i.Signature = i.Signature[2:] }), "invalid_args", "token"},
			{"v1 with an unknown role", forged(func(i *identity.InviteV1) { i.Role = "owner" }), "invalid_args", "token"},
			{"v1 with shifted fields", forged(func(i *identity.InviteV1) { i.MeshSlug, i.BrokerURL = i.MeshSlug+"|"+i.BrokerURL, "x" }), "invalid_args", "token"},
			{"v1 over http", v1(mesh.Owner, func(i *identity.InviteV1) { i.BrokerURL = "http://h/ws" }), "invalid_args", "broker_url"},
			{"v1 that is no token", frame{"type": "invite_create", "token": "eyJ2Ijox!"}, "invalid_args", "token"},
			{"v1 that is a link", frame{"type": "invite_create", "token": "ic://join/" + good1.Str("token")}, "invalid_args", "token"},
			{"v1 cut short", frame{"type": "invite_create", "token": good1.Str("token")[:100]}, "invalid_args", "token"},
			{"v1 that has expired", late1, "invalid_args", "expired"},
			{"v1 again", good1, "invite_exists", "registered"},

			{"v2 by an admin", v2(admin, nil), "forbidden", "owner"},
			{"v2 by a stranger", v2(stranger, nil), "forbidden", "owner"},
			{"v2 by another mesh's owner", v2(otherOwner, nil), "forbidden", "owner"},
			{"v2 of another mesh", v2(otherOwner, func(i *identity.InviteV2) { i.MeshID = other.ID }), "invalid_args", "another mesh"},
			{"v2 with a higher role", forged2("|member|", "|admin|"), "forbidden", "owner"},
			{"v2 for longer", forged2(fmt.Sprint("|", time.Now().Unix()+3600), fmt.Sprint("|", time.Now().Unix()+9999)), "forbidden", "owner"},
			{"v2 of another id", forged2("v=2|"+mesh.ID+"|", "v=2|"+mesh.ID+"|x"), "forbidden", "owner"},
			{"v2 with the owner in capitals", forged2(mesh.Owner.Public(), strings.ToUpper(mesh.Owner.Public())), "invalid_args", "canonical"},
			{"v2 with a field more", forged2("v=2|", "v=2|x|"), "invalid_args", "canonical"},
			{"v2 with a fraction of a second", forged2("|member|", ".5|member|"), "invalid_args", "canonical"},
			{"v2 with an unknown role", forged2("|member|", "|owner|"), "invalid_args", "canonical"},
			{"v2 that is the text of version 1", with(v2(mesh.Owner, nil), frame{"canonical": "1|m|s|u|1|k|member|" + mesh.Owner.Public()}), "invalid_args", "canonical"},
			{"v2 with a signature of zeros", with(v2(mesh.Owner, nil), frame{"signature": strings.Repeat("0", 128)}), "forbidden", "owner"},
			{"v2 with a signature that is no hex", with(v2(mesh.Owner, nil), frame{"signature": strings.Repeat("z", 128)}), "forbidden", "owner"},
			{"v2 with another's signature", with(v2(mesh.Owner, nil), frame{"signature": good2["signature"]}), "forbidden", "owner"},
			{"v2 that has expired", late2, "invalid_args", "expired"},
			{"v2 again", good2, "invite_exists", "registered"},
			{"v2 again under another code", with(good2, frame{"code": "other234"}), "invite_exists", "registered"},
			{"v2 of a used code", taken, "invite_code_in_use", "another"},
			{"v2 with a root key from an admin", with(v2(mesh.Owner, nil), frame{"rootKey": rootKeyOfTests}), "forbidden", "rootKey"},
		} {
			a := ana.Request(row.f)
			require.Equal(t, row.want, a["code"], "%s: %v", row.name, a)
			require.Contains(t, a["message"], row.says, row.name)
		}
		kept, err := b.Invites(ctx, mesh.ID)
		require.NoError(t, err)
		require.Len(t, kept, 2, "nothing else was registered")

		// What ended does not come back by being uploaded again.
		for _, i := range kept {
			done(t, ana, frame{"type": "invite_revoke", "id": i.ID})
		}
		for _, f := range []frame{good1, good2, merged(good2, frame{"code": "other234"})} {
			require.Equal(t, "invite_exists", ana.Request(f)["code"])
		}
		require.Len(t, auditOf(t, mesh, wire.AuditInviteCreated), 2)
	})
}

// signedAs signs with one key what names another.
func signedAs(t *testing.T, i identity.InviteV1, by identity.KeyPair, owner string) identity.InviteV1 {
	t.Helper()
	signed, err := i.Sign(by)
	require.NoError(t, err)
	signed.OwnerPubkey = owner
	signed.Signature = by.Sign(signed.Text())
	return signed
}

// The root key that claims hand out is the owner's to give, once.
func TestRootKeyIsTheOwnersToGive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, shortLinks)
		b, ctx := mesh.Broker, t.Context()
		ana := mesh.Dial("ana")
		upload := func(c *brokertest.Conn, rootKey string) frame {
			f := signedV2(t, mesh, mesh.Owner, nil)
			if rootKey != "" {
				f["rootKey"] = rootKey
			}
			return c.Request(f)
		}
		require.Equal(t, "root_key_required", upload(ana, "")["code"])
		require.Equal(t, "forbidden", upload(ana, rootKeyOfTests)["code"], "an admin decides nothing about what others get")

		row, err := b.AddMember(ctx, mesh.ID, broker.NewMember{Name: "olga", Pubkey: mesh.Owner.Public()})
		require.NoError(t, err)
		olga := hostSignIn(t, mesh, row, mesh.Owner, nil)
		for _, bad := range []string{"AAAA", rootKeyOfTests + "=", strings.Repeat("!", 43)} {
			a := upload(olga, bad)
			require.Equal(t, "invalid_args", a["code"], bad)
			require.NotContains(t, a["message"], bad)
		}
		kept, err := b.Mesh(ctx, mesh.ID)
		require.NoError(t, err)
		require.Empty(t, kept.RootKey)
		require.Equal(t, "invite_created", upload(olga, rootKeyOfTests).Type())
		require.Equal(t, "invite_created", upload(olga, rootKeyOfTests).Type(), "the same again")
		require.Equal(t, "invite_created", upload(ana, "").Type(), "the mesh has it now")
		other := strings.Repeat("A", 43)
		a := upload(olga, other)
		require.Equal(t, "invalid_args", a["code"])
		require.NotContains(t, a["message"], other)
		require.ErrorIs(t, b.SetRootKey(ctx, mesh.ID, other), store.ErrConflict)
		require.NoError(t, b.SetRootKey(ctx, mesh.ID, rootKeyOfTests))
		require.ErrorIs(t, b.SetRootKey(ctx, mesh.ID, "short"), wire.InvalidArgs)
		require.ErrorIs(t, b.SetRootKey(ctx, "nowhere", rootKeyOfTests), store.ErrNotFound)
		_, err = b.CreateMesh(ctx, broker.NewMesh{RootKey: "short"})
		require.ErrorIs(t, err, wire.InvalidArgs)

		// A named owner may give it, too, whatever its key and role.
		bo := mesh.Dial("bo")
		require.Equal(t, "forbidden", upload(bo, rootKeyOfTests)["code"])
		require.NoError(t, b.SetOwner(ctx, mesh.ID, mesh.Member("bo").ID, ""))
		require.Equal(t, "invite_created", upload(bo, rootKeyOfTests).Type())
	})
}

func TestShortInvitesAreAnOption(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		b, ctx := mesh.Broker, t.Context()
		f := signedV2(t, mesh, mesh.Owner, nil)
		require.Equal(t, "invite_v2_disabled", mesh.Dial("ana").Request(f)["code"])
		require.Equal(t, "forbidden", mesh.Dial("bo").Request(f)["code"])
		_, _, err := b.CreateInvite(ctx, mesh.ID, mesh.Owner, broker.InviteOptions{Version: 2, BrokerURL: hostURL})
		require.ErrorIs(t, err, wire.InviteV2Disabled)
		kept, err := b.Mesh(ctx, mesh.ID)
		require.NoError(t, err)
		require.Empty(t, kept.RootKey, "a broker that does not need it does not keep it")
	})
}

// The host makes and registers invites of version 2 as well.
func TestHostMakesShortInvites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, shortLinks)
		b, ctx := mesh.Broker, t.Context()
		link, i, err := b.CreateInvite(ctx, mesh.ID, mesh.Owner, broker.InviteOptions{Version: 2, BrokerURL: "wss://mesh.example/team/ws", Role: store.RoleAdmin})
		require.NoError(t, err)
		short, err := identity.ParseShortLink(link)
		require.NoError(t, err)
		require.Equal(t, "https://mesh.example/team", short.Sites[0])
		require.Equal(t, short.Code, i.Code)
		require.Equal(t, 2, i.Version)
		require.Equal(t, store.RoleAdmin, i.Role)
		require.Empty(t, i.TokenHash)
		signed, err := identity.ParseCapability(i.Capability)
		require.NoError(t, err)
		require.NoError(t, signed.Verify(time.Now()))
		require.Equal(t, i.ID, signed.InviteID)
		kept, err := b.Mesh(ctx, mesh.ID)
		require.NoError(t, err)
		require.Equal(t, identity.DeriveRootKey(mesh.Owner, mesh.ID), kept.RootKey)
		require.JSONEq(t, fmt.Sprintf(`{"expires_at":%q,"id":%q,"max_uses":1,"role":"admin","version":2}`, wire.FormatTime(i.ExpiresAt), i.ID),
			string(auditOf(t, mesh, wire.AuditInviteCreated)[0].Payload))
		require.Empty(t, auditOf(t, mesh, wire.AuditInviteCreated)[0].ActorMemberID)

		_, err = b.UploadInviteV2(ctx, mesh.ID, signed, "other234", broker.InviteUpload{})
		require.ErrorIs(t, err, wire.InviteExists)
		require.ErrorIs(t, err, store.ErrConflict)
		fresh, err := identity.InviteV2{MeshID: mesh.ID, InviteID: "x", ExpiresAt: signed.ExpiresAt, Role: "member"}.Sign(mesh.Owner)
		require.NoError(t, err)
		_, err = b.UploadInviteV2(ctx, mesh.ID, fresh, short.Code, broker.InviteUpload{})
		require.ErrorIs(t, err, wire.InviteCodeInUse)
		for _, code := range []string{"", "short", "with-dash"} {
			_, err = b.UploadInviteV2(ctx, mesh.ID, fresh, code, broker.InviteUpload{})
			require.ErrorIs(t, err, wire.InvalidArgs)
		}
		_, err = b.UploadInviteV2(ctx, mesh.ID, fresh, "other234", broker.InviteUpload{MaxUses: 2, FirstIsAdmin: true})
		require.NoError(t, err)
		for name, o := range map[string]broker.InviteOptions{
			"version": {Version: 3, BrokerURL: hostURL}, "no url": {Version: 2}, "another scheme": {Version: 2, BrokerURL: "http://h/ws"},
			"another root key": {Version: 2, BrokerURL: hostURL, RootKey: strings.Repeat("A", 43)},
		} {
			_, _, err = b.CreateInvite(ctx, mesh.ID, mesh.Owner, o)
			require.ErrorIs(t, err, wire.InvalidArgs, name)
		}
		require.NoError(t, b.RevokeInvite(ctx, mesh.ID, i.ID))
		require.Len(t, auditOf(t, mesh, wire.AuditInviteRevoked), 1)
	})
}

// Uploading tells whether a code is taken, so it costs what claiming costs.
func TestCodesCannotBeSearchedByUploading(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := withRootKey(t, func(o *broker.Options) { o.JoinAddrRatePerMin = 3 })
		ana := mesh.Dial("ana")
		for range 3 {
			created(t, ana, signedV2(t, mesh, mesh.Owner, nil))
		}
		require.Equal(t, "rate_limit", ana.Request(signedV2(t, mesh, mesh.Owner, nil))["code"])
		require.Equal(t, "rate_limit", mesh.Dial("ana").Request(signedV2(t, mesh, mesh.Owner, nil))["code"], "on another connection, too")
		created(t, ana, signedV1(t, mesh, mesh.Owner, nil))
		time.Sleep(20 * time.Second)
		created(t, ana, signedV2(t, mesh, mesh.Owner, nil))
	})
}

func TestInvitesOfMembersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		var last string
		for n := range 1000 {
			i, err := mesh.Broker.UploadInvite(t.Context(), mesh.ID, signedV1(t, mesh, mesh.Owner, func(i *identity.InviteV1) {
				i.ExpiresAt += float64(n)
			}).Str("token"), broker.InviteUpload{})
			require.NoError(t, err)
			last = i.ID
		}
		next := signedV1(t, mesh, mesh.Owner, func(i *identity.InviteV1) { i.ExpiresAt += 5000 })
		a := ana.Request(next)
		require.Equal(t, "forbidden", a["code"])
		require.Contains(t, a["message"], "1000 invites")
		done(t, ana, frame{"type": "invite_revoke", "id": last})
		created(t, ana, next)
		require.Equal(t, "forbidden", ana.Request(signedV1(t, mesh, mesh.Owner, func(i *identity.InviteV1) { i.ExpiresAt += 5001 }))["code"])
		time.Sleep(time.Hour + time.Second) // the first two have expired
		created(t, ana, signedV1(t, mesh, mesh.Owner, nil))
	})
}

// D23: an invite is known by its token and signed as what that says, so it is taken in one spelling. Else whoever has seen it could have it again after its end.
func TestD23InviteHasOneSpelling(t *testing.T) {
	t.Parallel()
	mesh := withRootKey(t)
	ana := mesh.Dial("ana")
	parsed, err := identity.ParseInviteToken(signedV1(t, mesh, mesh.Owner, func(i *identity.InviteV1) { i.ExpiresAt = 4e9 }).Str("token"))
	require.NoError(t, err)

	// As older tools spell it, which is how the owner issued it.
	issued := fmt.Sprintf(
		`{"v":1,"mesh_id":%q,"mesh_slug":"test","broker_url":%q,"expires_at":4000000000,"mesh_root_key":%q,"role":"member","owner_pubkey":%q,"signature":%q}`,
		mesh.ID, hostURL, rootKeyOfTests, mesh.Owner.Public(), parsed.Signature)
	token := base64.RawURLEncoding.EncodeToString([]byte(issued))
	one := created(t, ana, frame{"type": "invite_create", "token": token})
	done(t, ana, frame{"type": "invite_revoke", "id": one.Str("id")})
	again := frame{"type": "invite_create", "token": token}
	require.Equal(t, "invite_exists", ana.Request(again)["code"])
	anew, err := parsed.Sign(mesh.Owner)
	require.NoError(t, err)
	require.Equal(t, token, anew.Token(), "signed anew it is the same")

	replaced := func(old, new string) string {
		require.Contains(t, issued, old)
		return strings.Replace(issued, old, new, 1)
	}
	for name, text := range map[string]string{
		"a member more":                replaced(`{"v":1`, `{"x":1,"v":1`),
		"a member more, at the end":    strings.TrimSuffix(issued, "}") + `,"":null}`,
		"another order":                replaced(`{"v":1,"mesh_id":"`+mesh.ID+`",`, `{"mesh_id":"`+mesh.ID+`","v":1,`),
		"white space inside":           replaced(`"v":1`, `"v": 1`),
		"white space in front":         " " + issued,
		"white space behind":           issued + "\n",
		"an escape in a text":          replaced(`"test"`, `"t\u0065st"`),
		"an escape in a name":          replaced(`"role"`, `"r\u006fle"`),
		"escaped slashes":              replaced(`ws://`, `ws:\/\/`),
		"a number with an exponent":    replaced(`4000000000`, `4e9`),
		"a number with a fraction":     replaced(`4000000000`, `4000000000.0`),
		"a version with a fraction":    replaced(`"v":1,`, `"v":1.0,`),
		"a version with an exponent":   replaced(`"v":1,`, `"v":10e-1,`),
		"a number that rounds to it":   replaced(`4000000000`, `4000000000.00000001`),
		"a signature in capitals":      replaced(parsed.Signature, strings.ToUpper(parsed.Signature)),
		"a signature half in capitals": replaced(parsed.Signature, strings.ToUpper(parsed.Signature[:64])+parsed.Signature[64:]),
	} {
		other := base64.RawURLEncoding.EncodeToString([]byte(text))
		i, err := identity.ParseInviteToken(other)
		require.NoError(t, err, name)
		require.NoError(t, i.Verify(time.Now()), "%s: the owner's signature is good for it", name)
		a := ana.Request(frame{"type": "invite_create", "token": other, "maxUses": 10000})
		require.Equal(t, "invalid_args", a["code"], "%s: %v", name, a)
		require.Contains(t, a["message"], "token", name)
		_, err = mesh.Broker.UploadInvite(t.Context(), mesh.ID, other, broker.InviteUpload{})
		require.ErrorIs(t, err, wire.InvalidArgs, name)
	}
	for name, other := range map[string]string{
		"padding": token + "=", "a line break": token[:8] + "\n" + token[8:], "a space": token + " ",
	} {
		a := ana.Request(frame{"type": "invite_create", "token": other})
		require.Equal(t, "invalid_args", a["code"], "%s: %v", name, a)
	}
	kept, err := mesh.Broker.Invites(t.Context(), mesh.ID)
	require.NoError(t, err)
	require.Len(t, kept, 1)
}

// D23: what has ended is kept, so that it does not come back; how much of it, members cannot choose, nor bury with it what is good.
func TestD23InvitesThatAreKeptAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		start := time.Now().UTC()
		kept := 0
		keep := func(n int, change func(*store.Invite)) {
			for range n {
				kept++
				i := store.Invite{
					ID: fmt.Sprint("i", kept), MeshID: mesh.ID, TokenHash: fmt.Sprint("hash", kept), Version: 1, Role: "member", MaxUses: 1,
					CreatedAt: start.Add(time.Duration(kept) * time.Millisecond), ExpiresAt: start.Add(time.Hour),
				}
				change(&i)
				require.NoError(t, mesh.Store.CreateInvite(t.Context(), i))
			}
		}
		good, revoked := func(*store.Invite) {}, func(i *store.Invite) { i.RevokedAt = start }
		keep(10, good)
		keep(990, revoked)
		answer := ana.Request(frame{"type": "invite_list"})
		require.Len(t, list(t, answer, "invites"), 1000)
		require.NotContains(t, answer, "truncated")

		keep(3998, revoked)
		answer = ana.Request(frame{"type": "invite_list"})
		ids := column(list(t, answer, "invites"), "id")
		require.Equal(t, true, answer["truncated"])
		require.Len(t, ids, 1000)
		require.Equal(t, []string{"i4998", "i4997"}, ids[:2], "the newest first")
		require.Equal(t, []string{"i4009", "i10", "i9"}, ids[989:992], "and all that are good")
		require.Equal(t, "i1", ids[999])

		next := func(n float64) frame {
			return signedV1(t, mesh, mesh.Owner, func(i *identity.InviteV1) { i.ExpiresAt += n })
		}
		for n := range 2 {
			done(t, ana, frame{"type": "invite_revoke", "id": created(t, ana, next(float64(n))).Str("id")})
		}
		a := ana.Request(next(2))
		require.Equal(t, "forbidden", a["code"])
		require.Contains(t, a["message"], "5000 invites")
		require.Contains(t, a["message"], "ask the host")
		time.Sleep(2 * time.Hour)
		require.Equal(t, "forbidden", ana.Request(next(3))["code"], "those that have expired count, too")
		_, err := mesh.Broker.UploadInvite(t.Context(), mesh.ID, next(4).Str("token"), broker.InviteUpload{})
		require.NoError(t, err, "the host is not bound")

		// Of more good ones than are listed, which only a host can make, the newest are.
		kept = 10000
		start = time.Now().UTC()
		keep(1200, good)
		keep(5, revoked)
		ids = column(list(t, ana.Request(frame{"type": "invite_list"}), "invites"), "id")
		require.Len(t, ids, 1000)
		require.Equal(t, "i11200", ids[0])
		require.Equal(t, "i10201", ids[999])
	})
}

// Every form in which older clients get a link names the same token, and the token is enrolled as they send it.
func TestOldLinksStillJoin(t *testing.T) {
	t.Parallel()
	mesh := withRootKey(t)
	token := signedV1(t, mesh, mesh.Owner, nil).Str("token")
	_, err := mesh.Broker.UploadInvite(t.Context(), mesh.ID, token, broker.InviteUpload{MaxUses: 100})
	require.NoError(t, err)
	for _, link := range []string{
		"ic://join/" + token, "https://mesh.example/join/" + token, "http://127.0.0.1:7900/join/" + token, "https://mesh.example/de/join/" + token,
		"https://mesh.example/join/" + token + "/?utm=1#top", token,
	} {
		got, err := identity.ParseInviteLink(link)
		require.NoError(t, err, link)
		key := hostKey(t)
		a := hostPostJoin(t, mesh.Broker, hostJoin(t, got, key, "old"))
		require.Equal(t, http.StatusOK, a.code, "%s: %v", link, a.body)
		m, err := mesh.Broker.Member(t.Context(), mesh.ID, a.body.Str("memberId"))
		require.NoError(t, err)
		hostSignIn(t, mesh, m, key, nil)
	}
}

func TestMeshInfoTellsWhatAnInviteHolds(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	info := mesh.Dial("ana").Request(frame{"type": "mesh_info"})
	require.Equal(t, mesh.ID, info.Str("mesh"))
	require.Equal(t, "test", info.Str("slug"))
	require.Equal(t, mesh.Owner.Public(), info.Str("ownerPubkey"))
}
