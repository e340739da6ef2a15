package broker_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/identity"
)

type frame = brokertest.Frame

// explicit makes a bare connection acknowledge by client_ack.
var explicit = brokertest.With(frame{"capabilities": []string{"client_ack"}})

func sessionKey(t *testing.T) identity.KeyPair {
	t.Helper()
	key, err := identity.GenerateKey()
	require.NoError(t, err)
	return key
}

// texts of pushes, in order.
func texts(pushes []frame) []string {
	out := []string{}
	for _, p := range pushes {
		out = append(out, brokertest.Text(p))
	}
	return out
}

func ackAll(c *brokertest.Conn, pushes []frame) {
	for _, p := range pushes {
		c.Send(frame{"type": "client_ack", "brokerMessageId": p.Str("messageId")})
	}
}

func TestDirectMessageIsPushedAndAcked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		ack := ana.Say(bo.Member.Pubkey, "now", "hello")
		require.Equal(t, true, ack["queued"])
		require.Equal(t, false, ack["offline"])
		require.Equal(t, map[string]any{"total": 1.0, "online": 1.0}, ack["recipients"])
		require.NotContains(t, ack, "error")

		push := bo.ExpectPush()
		require.Equal(t, "hello", brokertest.Text(push))
		require.Equal(t, ack["messageId"], push["messageId"])
		require.Equal(t, ana.Member.Pubkey, push["senderPubkey"])
		require.Equal(t, ana.Member.ID, push["senderMemberId"])
		require.Equal(t, "ana", push["senderName"])
		require.NotContains(t, push, "redelivered")

		status := ana.Request(frame{"type": "message_status", "messageId": ack["messageId"]})
		require.Equal(t, "pushed", status["recipients"].([]any)[0].(map[string]any)["state"])
		ackAll(bo, []frame{push})
		synctest.Wait()
		status = ana.Request(frame{"type": "message_status", "messageId": ack["messageId"]})
		require.Equal(t, true, status["delivered"])
		r := status["recipients"].([]any)[0].(map[string]any)
		require.Equal(t, "acked", r["state"])
		require.Equal(t, "client", r["by"])
		require.Equal(t, "delivered", r["status"])
	})
}

func TestOfflineMemberGetsEveryKindOnceAndInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		bo := mesh.Dial("bo", explicit)
		created := ana.Request(frame{"type": "topic_create", "name": "deploys"})
		topic := created["topic"].(map[string]any)["id"].(string)
		bo.Request(frame{"type": "topic_join", "topic": "deploys"})
		bo.Request(frame{"type": "join_group", "name": "eng/core"})
		bo.Close()
		synctest.Wait()

		for i, target := range []string{bo.Member.Pubkey, "@eng", "*", "#" + topic} {
			ack := ana.Say(target, "next", fmt.Sprint("message ", i))
			require.Equal(t, true, ack["queued"], "%s: %v", target, ack)
			require.Equal(t, true, ack["offline"], "%s: %v", target, ack)
		}
		want := []string{"message 0", "message 1", "message 2", "message 3"}

		dies := mesh.Dial("bo", explicit)
		synctest.Wait()
		require.Equal(t, want, texts(dies.Pushes()))
		dies.Cut() // dies before it acknowledged
		synctest.Wait()

		back := mesh.Dial("bo", explicit)
		synctest.Wait()
		again := back.Pushes()
		require.Equal(t, want, texts(again), "a client that dies before acking gets its messages again")
		ackAll(back, again)
		back.Close()
		synctest.Wait()

		last := mesh.Dial("bo", explicit)
		synctest.Wait()
		require.Empty(t, last.Pushes(), "what was acked does not come back")
	})
}

func TestPriorityWaitsForIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		bo.Request(frame{"type": "set_status", "status": "dnd"})
		ana.Say(bo.Member.Pubkey, "low", "low")
		held := ana.Say(bo.Member.Pubkey, "next", "next")
		ana.Say(bo.Member.Pubkey, "now", "now")
		synctest.Wait()
		require.Equal(t, []string{"now"}, texts(bo.Pushes()))
		status := ana.Request(frame{"type": "message_status", "messageId": held["messageId"]})
		r := status["recipients"].([]any)[0].(map[string]any)
		require.Equal(t, []any{"held", "held", "dnd"}, []any{r["status"], r["state"], r["reason"]})
		bo.Request(frame{"type": "set_status", "status": "idle"})
		synctest.Wait()
		require.Equal(t, []string{"low", "next"}, texts(bo.Pushes()), "in the order in which they were accepted")
	})
}

func TestStaleWorkingDrainsHeldMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		bo.Request(frame{"type": "set_status", "status": "working"})
		ana.Say(bo.Member.Pubkey, "next", "later")
		time.Sleep(59 * time.Second)
		synctest.Wait()
		require.Empty(t, bo.Pushes())
		time.Sleep(20 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"later"}, texts(bo.Pushes()))
	})
}

func TestUnackedPushIsRedelivered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		ana.Say(bo.Member.Pubkey, "now", "one")
		ana.Say(bo.Member.Pubkey, "now", "two")
		synctest.Wait()
		first := bo.Pushes()
		require.Equal(t, []string{"one", "two"}, texts(first))
		ackAll(bo, first[:1])
		time.Sleep(50 * time.Second)
		synctest.Wait()
		again := bo.Pushes()
		require.Equal(t, []string{"two"}, texts(again))
		require.Equal(t, true, again[0]["redelivered"])
		ackAll(bo, again)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Empty(t, bo.Pushes())
	})
}

func TestTransportConfirmationCompletesForOldClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		short := mesh.Dial("bo")
		ack := ana.Say(short.Member.Pubkey, "now", "hello")
		synctest.Wait()
		require.Len(t, short.Pushes(), 1)
		short.Close() // before TransportConfirmDelay: a command that lived a moment does not eat the queue
		synctest.Wait()

		long := mesh.Dial("bo")
		synctest.Wait()
		require.Len(t, long.Pushes(), 1)
		time.Sleep(time.Second)
		synctest.Wait()
		status := ana.Request(frame{"type": "message_status", "messageId": ack["messageId"]})
		r := status["recipients"].([]any)[0].(map[string]any)
		require.Equal(t, "acked", r["state"])
		require.Equal(t, "transport", r["by"])
		long.Close()
		again := mesh.Dial("bo")
		synctest.Wait()
		require.Empty(t, again.Pushes())
	})
}

func TestEverySessionGetsAMemberMessageAndTheFirstAckCompletesIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		one, two := mesh.Dial("bo", explicit, brokertest.SessionKey(sessionKey(t))), mesh.Dial("bo", explicit, brokertest.SessionKey(sessionKey(t)))
		held := mesh.Dial("bo", explicit, brokertest.SessionKey(sessionKey(t)))
		held.Request(frame{"type": "set_status", "status": "dnd"})
		ana.Say(one.Member.Pubkey, "next", "all of you")
		synctest.Wait()
		first := one.Pushes()
		require.Len(t, first, 1)
		require.Len(t, two.Pushes(), 1)
		ackAll(one, first)
		synctest.Wait()
		held.Request(frame{"type": "set_status", "status": "idle"})
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Empty(t, held.Pushes(), "a session that had not pulled it by the first ack is not owed it")
		require.Empty(t, two.Pushes(), "no redelivery after another session's ack")

		ana.Say(two.Session.Public(), "now", "only two")
		synctest.Wait()
		require.Empty(t, one.Pushes())
		require.Len(t, two.Pushes(), 1)
	})
}

func TestMailSurvivesABrokerRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		bo := mesh.Dial("bo", explicit)
		ana.Say(bo.Member.Pubkey, "now", "before")
		synctest.Wait()
		require.Len(t, bo.Pushes(), 1)
		mesh.Restart()
		code, reason := bo.Closed()
		require.Equal(t, 1001, code)
		require.Equal(t, "shutdown", reason)
		again := mesh.Dial("bo", explicit)
		synctest.Wait()
		require.Equal(t, []string{"before"}, texts(again.Pushes()))
	})
}

func TestBacklogOfManyPagesArrivesInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { *o = o.Unlimited() })
		ana := mesh.Dial("ana")
		bo := mesh.Member("bo")
		var want []string
		for i := range 700 { // more than the rings, the pages, and half the window
			priority := []string{"now", "next", "low"}[i%3]
			ack := ana.Say(bo.Pubkey, priority, fmt.Sprint(i))
			require.Equal(t, true, ack["queued"], "%v", ack)
			want = append(want, fmt.Sprint(i))
		}
		c := mesh.Dial("bo", explicit)
		synctest.Wait()
		pushes := c.Pushes()
		require.Equal(t, want, texts(pushes))
		for i := range 700 {
			ana.Say(bo.Pubkey, "now", fmt.Sprint("live ", i))
		}
		synctest.Wait()
		live := c.Pushes()
		require.Len(t, live, 300, "the window of 1000 unacknowledged pushes is full")
		ackAll(c, pushes)
		synctest.Wait()
		require.Len(t, c.Pushes(), 400)
	})
}
