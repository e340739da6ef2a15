package broker_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

func createKey(c *brokertest.Conn, f frame) frame {
	return c.Request(merged(frame{"type": "apikey_create", "label": "test", "capabilities": []string{"read"}}, f))
}

func TestAPIKeyIsItsMembers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		admin, bo, cy := mesh.Dial("ana"), mesh.Dial("bo"), mesh.Dial("cy")
		newTopic(t, admin, "ops", "public")
		made := createKey(bo, frame{"topicScopes": []string{"ops"}})
		require.Equal(t, "apikey_created", made.Type(), "%v", made)
		require.Equal(t, made.Str("secret")[:11], made.Str("prefix"))
		key := door{t: t, mesh: mesh, key: made.Str("secret")}
		require.Equal(t, []string{"ops"}, column(list(t, key.ok("GET", "/topics", nil), "topics"), "name"))

		listed := list(t, bo.Request(frame{"type": "apikey_list"}), "keys")
		require.Equal(t, []string{made.Str("id")}, column(listed, "id"))
		require.NotNil(t, listed[0]["lastUsedAt"])
		require.NotContains(t, listed[0], "secret")
		require.Empty(t, list(t, cy.Request(frame{"type": "apikey_list"}), "keys"), "only one's own")
		require.Len(t, list(t, admin.Request(frame{"type": "apikey_list"}), "keys"), 1, "an admin sees all")

		revoke := func(c *brokertest.Conn, ref string) frame {
			return c.Request(frame{"type": "apikey_revoke", "id": ref})
		}
		for _, ref := range []string{made.Str("id"), made.Str("id")[:6], made.Str("prefix")} {
			require.Equal(t, "not_found", revoke(cy, ref).Str("status"), ref)
		}
		for _, ref := range []string{"nothing", "%", "cm_", made.Str("id")[:5], "x y"} {
			require.Equal(t, "not_found", revoke(bo, ref).Str("status"), ref)
		}
		require.Equal(t, "invalid_args", revoke(bo, "")["code"])
		key.ok("GET", "/topics", nil)
		gone := revoke(bo, made.Str("prefix"))
		require.Equal(t, "revoked", gone.Str("status"))
		require.Equal(t, made.Str("id"), gone.Str("id"))
		require.Equal(t, "revoked", revoke(admin, made.Str("id")).Str("status"), "again is revoked")
		key.refused(401, "error.api_key_invalid", "GET", "/topics", nil)
	})
}

func TestAPIKeyRefThatFitsSeveralRevokesNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		bo := mesh.Dial("bo")
		for _, id := range []string{"samesame-1", "samesame-2"} {
			require.NoError(t, mesh.Store.CreateAPIKey(t.Context(), store.APIKey{
				ID: id, MeshID: mesh.ID, Label: id, Prefix: "cm_12345678", Hash: id, Capabilities: reads, IssuedBy: bo.Member.ID, CreatedAt: time.Now().UTC(),
			}, 0))
		}
		for _, ref := range []string{"samesame", "cm_12345678"} {
			got := bo.Request(frame{"type": "apikey_revoke", "id": ref})
			require.Equal(t, "not_unique", got.Str("status"))
			require.EqualValues(t, 2, got["matches"])
		}
		require.Equal(t, "revoked", bo.Request(frame{"type": "apikey_revoke", "id": "samesame-1"}).Str("status"))
		require.Equal(t, "samesame-2", bo.Request(frame{"type": "apikey_revoke", "id": "samesame"}).Str("id"), "live ones first")
	})
}

func TestAPIKeysOfMembersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.MaxAPIKeysPerMember = 2 })
		bo := mesh.Dial("bo")
		at := func(f frame) time.Time {
			t.Helper()
			when, err := wire.ParseTime(f.Str("expiresAt"))
			require.NoError(t, err, "%v", f)
			return when
		}
		now := time.Now().UTC()
		long := createKey(bo, nil)
		require.Equal(t, now.Add(90*24*time.Hour), at(long))
		bo.Request(frame{"type": "apikey_revoke", "id": long["id"]})
		require.Equal(t, now.Add(90*24*time.Hour), at(createKey(bo, frame{"expiresAt": wire.FormatTime(now.AddDate(1, 0, 0))})), "capped")
		minute := frame{"expiresAt": wire.FormatTime(now.Add(time.Minute))}
		require.Equal(t, now.Add(time.Minute), at(createKey(bo, minute)), "revoked ones do not count")
		require.Equal(t, "forbidden", createKey(bo, minute)["code"])
		time.Sleep(time.Minute)
		require.Equal(t, "apikey_created", createKey(bo, nil).Type(), "nor do expired ones")
		for _, bad := range []string{"tomorrow", "", "2026-05-02", wire.FormatTime(time.Now()), "1999-01-01T00:00:00Z"} {
			require.Equal(t, "invalid_args", createKey(bo, frame{"expiresAt": bad})["code"], bad)
		}
		for _, bad := range []frame{{"label": ""}, {"capabilities": []string{}}, {"capabilities": []string{"root"}}, {"topicScopes": []string{"#x"}}} {
			require.Equal(t, "invalid_args", createKey(bo, bad)["code"], "%v", bad)
		}
	})
}

// H31: a key has no right that its issuer has not, now.
func TestH31KeyHasItsIssuersRightsNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		bo, cy := mesh.Dial("bo"), mesh.Dial("cy")
		require.Equal(t, "forbidden", createKey(bo, frame{"capabilities": []string{"admin"}})["code"])
		require.NoError(t, mesh.Broker.SetMemberRole(t.Context(), mesh.ID, bo.Member.ID, store.RoleAdmin))
		made := createKey(bo, frame{"capabilities": []string{"admin"}})
		require.Equal(t, "apikey_created", made.Type(), "%v", made)
		key := door{t: t, mesh: mesh, key: made.Str("secret")}
		newTopic(t, ana, "hr", "private")
		key.ok("GET", topicPath("hr", "/messages"), nil)
		require.Contains(t, column(list(t, key.ok("GET", "/topics", nil), "topics"), "name"), "hr")

		require.NoError(t, mesh.Broker.SetMemberRole(t.Context(), mesh.ID, bo.Member.ID, store.RoleMember))
		key.refused(404, "topic_not_found", "GET", topicPath("hr", "/messages"), nil)
		require.NotContains(t, column(list(t, key.ok("GET", "/topics", nil), "topics"), "name"), "hr")
		require.Equal(t, "forbidden", createKey(bo, frame{"capabilities": []string{"admin"}})["code"], "the role counts, not that of the sign-in")
		key.post("general", "what every member may is left")

		// Visibility is the issuer's besides the scope.
		id := newTopic(t, cy, "plans", "private")
		done(t, cy, frame{"type": "topic_add", "topic": "plans", "member": bo.Member.ID})
		scopedKey := restKey(t, mesh, "bo", readSend, scoped("plans"))
		scopedKey.post("plans", "still in")
		done(t, bo, frame{"type": "topic_leave", "topic": id})
		scopedKey.refused(404, "topic_not_found", "GET", topicPath("plans", "/messages"), nil)
		scopedKey.refused(404, "topic_not_found", "POST", "/messages", postBody("plans", "out"))

		require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, bo.Member.ID))
		key.refused(401, "error.api_key_invalid", "GET", "/topics", nil)
	})
}

// What a member leaves behind by making and revoking keys is bounded: in lists, in the store and in the log.
func TestEndedKeysOfAMemberAreBounded(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t, func(o *broker.Options) { *o = o.Unlimited() })
	bo := mesh.Dial("bo")
	scopes := make([]string, 200)
	for i := range scopes {
		scopes[i] = strings.Repeat("x", 60) + string(rune('a'+i%26))
	}
	for range store.MaxEndedAPIKeys + 20 {
		k := bo.Request(frame{"type": "apikey_create", "label": "x", "capabilities": []string{"read"}, "topicScopes": scopes})
		bo.Request(frame{"type": "apikey_revoke", "id": k.Str("id")})
	}
	list := bo.Request(frame{"type": "apikey_list"})
	require.Equal(t, "apikey_list_response", list.Type())
	require.Equal(t, true, list["truncated"])
	require.LessOrEqual(t, len(list["keys"].([]any)), store.MaxEndedAPIKeys)
	entries, _, err := mesh.Broker.AuditLog(t.Context(), store.AuditQuery{MeshID: mesh.ID, Type: "apikey_created", Limit: 1})
	require.NoError(t, err)
	require.Less(t, len(entries[0].Payload), 1000)
	require.Equal(t, "invalid_args", bo.Request(frame{"type": "apikey_create", "label": "x", "capabilities": []string{"read"}, "topicScopes": append(scopes, "one more")}).Str("code"))
}
