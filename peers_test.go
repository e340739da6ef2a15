package broker_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
)

// A hidden session is offline for every other member, wherever it could show; its own member sees it.
func TestH30HiddenPeersAreOfflineForOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		admin, ana := mesh.Dial("admin"), mesh.Dial("ana")
		key := sessionKey(t)
		bo, twin := mesh.Dial("bo", explicit, brokertest.SessionKey(key)), mesh.Dial("bo", explicit)
		for _, c := range []*brokertest.Conn{bo, twin} {
			c.Request(frame{"type": "join_group", "name": "spies"})
			c.Request(frame{"type": "set_visible", "visible": false})
		}
		ana.Request(frame{"type": "topic_create", "name": "deploys"})
		bo.Request(frame{"type": "topic_join", "topic": "deploys"})
		away := mesh.Enroll(broker.NewMember{Name: "away"})
		api := restKey(t, mesh, "ana", readSend)
		synctest.Wait()
		ana.Waiting()

		// What the sender is told of a hidden member, next to one who is away: the same.
		for name, target := range map[string]string{"member": bo.Member.Pubkey, "session": key.Public()} {
			ack, other := ana.Say(target, "next", "x"), ana.Say(away.Pubkey, "next", "x")
			require.Equal(t, true, ack["offline"], name)
			require.Equal(t, other["recipients"], ack["recipients"], name)
			synctest.Wait()
			hidden, gone := row(t, ana, ack["messageId"]), row(t, ana, other["messageId"])
			for _, field := range []string{"status", "state", "reason"} {
				require.Equal(t, gone[field], hidden[field], "%s: %s", name, field)
			}
			require.Equal(t, "offline", hidden["reason"])
			require.Equal(t, "pushed", row(t, bo, ack["messageId"])["state"], "the member itself sees the truth")
		}
		require.Equal(t, map[string]any{"total": 1.0, "online": 0.0}, ana.Say("#deploys", "now", "x")["recipients"])
		post := api.ok(http.MethodPost, "/messages", postBody("deploys", "x"))
		require.Equal(t, map[string]any{"total": 1.0, "online": 0.0}, post["recipients"], "%v", post)
		own := bo.Say(bo.Member.Pubkey, "now", "to my other session")
		require.Equal(t, []any{false, 1.0}, []any{own["offline"], own["recipients"].(map[string]any)["online"]})

		// Lists.
		for _, c := range []*brokertest.Conn{ana, admin} {
			require.NotContains(t, peers(c), "bo")
			info := c.Request(frame{"type": "mesh_info"})
			require.Equal(t, []any{2.0, []any{}}, []any{info["peers"], info["groups"]})
		}
		require.Contains(t, peers(bo), "bo")
		for _, p := range list(t, api.ok(http.MethodGet, "/peers", nil), "peers") {
			require.NotEqual(t, "bo", p["displayName"])
		}
		for _, m := range list(t, api.ok(http.MethodGet, "/members", nil), "members") {
			if m["displayName"] == "bo" {
				require.Equal(t, []any{false, "offline"}, []any{m["online"], m["status"]})
			}
		}

		// Coming back, being lost, going: nobody hears of it.
		ana.Waiting()
		bo.Cut()
		synctest.Wait()
		held := ana.Say(key.Public(), "next", "x")
		require.Equal(t, "offline", row(t, ana, held["messageId"])["reason"], "a hidden session in grace, too")
		bo = mesh.Dial("bo", explicit, brokertest.SessionKey(key))
		bo.Close()
		time.Sleep(2 * time.Minute)
		twin.Close()
		require.Empty(t, events(ana))
		mesh.Dial("bo", explicit)
		require.Empty(t, events(ana), "a member that was hidden when it left comes back hidden")

		// One session that shows itself is enough.
		shown := mesh.Dial("bo", explicit)
		shown.Request(frame{"type": "set_visible", "visible": true})
		require.Equal(t, false, ana.Say(bo.Member.Pubkey, "now", "x")["offline"])
		require.True(t, mesh.Online("bo"), "the host sees everybody")
	})
}

// A connection that never gets a message does not make its recipient look reachable.
func TestStatesCountOnlyWhoMayHaveIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana", explicit)
		mesh.Dial("bo", brokertest.With(frame{"capabilities": []string{"no_push"}}))
		asks := row(t, ana, ana.Say(mesh.Member("bo").Pubkey, "now", "x")["messageId"])
		require.Equal(t, []any{"disconnected", "queued", "offline"}, []any{asks["status"], asks["state"], asks["reason"]})
		self := row(t, ana, ana.Say(ana.Member.Pubkey, "now", "note to self")["messageId"])
		require.Equal(t, []any{"disconnected", "queued", "offline"}, []any{self["status"], self["state"], self["reason"]}, "the sending connection never gets it")

		// The state or its reason began with the message at the earliest.
		cy := mesh.Dial("cy", explicit)
		cy.Request(frame{"type": "set_status", "status": "dnd"})
		time.Sleep(time.Second)
		cy.Cut()
		synctest.Wait()
		time.Sleep(time.Second)
		before := time.Now()
		grace := row(t, ana, ana.Say(cy.Member.Pubkey, "next", "x")["messageId"])
		require.Equal(t, []any{"held", "grace"}, []any{grace["state"], grace["reason"]})
		since, err := time.Parse(time.RFC3339Nano, grace.Str("since"))
		require.NoError(t, err)
		require.False(t, since.Before(before), "%v", grace)
	})
}
