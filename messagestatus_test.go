package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/store"
)

func TestMessageStatusIsForThoseConcerned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		admin := mesh.Dial("admin") // the first member
		ana, bo, cy, eve := mesh.Dial("ana"), mesh.Dial("bo", explicit), mesh.Dial("cy", explicit), mesh.Dial("eve")
		for _, c := range []*brokertest.Conn{bo, cy} {
			c.Request(frame{"type": "join_group", "name": "eng"})
		}
		id := ana.Say("@eng", "now", "x")["messageId"].(string)
		ask := func(c *brokertest.Conn, id string) frame {
			return c.Request(frame{"type": "message_status", "messageId": id})
		}
		rows := func(c *brokertest.Conn) int { return len(ask(c, id)["recipients"].([]any)) }
		require.Equal(t, []int{2, 0, 1, 1}, []int{rows(ana), rows(admin), rows(bo), rows(cy)}, "all of it for the sender, their own rows for others")
		ackAll(bo, []frame{bo.ExpectPush()})
		synctest.Wait()
		require.Equal(t, []any{false, false, true}, []any{ask(ana, id)["delivered"], ask(admin, id)["delivered"], ask(bo, id)["delivered"]})
		ackAll(cy, []frame{cy.ExpectPush()})
		synctest.Wait()
		whole := ask(admin, id)
		require.Equal(t, true, whole["delivered"], "an admin learns the message's fate")
		require.NotEmpty(t, whole["deliveredAt"])
		require.Equal(t, "not_found", ask(eve, id)["code"])
		require.Equal(t, "not_found", ask(eve, "12345678")["code"], "in the same words as for a message that does not exist")
		require.Equal(t, id[:8], ask(ana, id[:8])["messageId"], "the start of an id will do")
		require.Equal(t, "invalid_argument", ask(ana, id[:7])["code"])
	})
}

func TestHeldSaysWhy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { *o = o.Unlimited(); o.HookLoopback = true })
		ana := mesh.Dial("ana")
		reason := func(id any) []any {
			r := ana.Request(frame{"type": "message_status", "messageId": id})["recipients"].([]any)[0].(map[string]any)
			return []any{r["status"], r["state"], r["reason"]}
		}
		away := mesh.Enroll(broker.NewMember{Name: "away", Role: store.RoleMember})
		require.Equal(t, []any{"disconnected", "queued", "offline"}, reason(ana.Say(away.Pubkey, "now", "x")["messageId"]))

		bo := mesh.Dial("bo", explicit)
		bo.Request(frame{"type": "set_status", "status": "working"})
		held := ana.Say(bo.Member.Pubkey, "low", "x")["messageId"]
		require.Equal(t, []any{"held", "held", "working"}, reason(held))
		bo.Cut()
		synctest.Wait()
		require.Equal(t, []any{"held", "held", "grace"}, reason(held))
		time.Sleep(2 * time.Minute)
		require.Equal(t, []any{"disconnected", "queued", "offline"}, reason(held))

		full := mesh.Dial("full", explicit)
		for range 1000 {
			ana.Say(full.Member.Pubkey, "now", "x")
		}
		synctest.Wait()
		require.Equal(t, []any{"held", "held", "window"}, reason(ana.Say(full.Member.Pubkey, "now", "x")["messageId"]))
	})
}
