package broker_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
)

// withRates puts the default rates back, which brokertest lifts.
func withRates(o *broker.Options) {
	o.SendRatePerMin, o.ControlRatePerMin, o.APIRatePerMin, o.HandshakesPerSecondPerAddr, o.MaxPendingHandshakesPerAddr = 0, 0, 0, 0, 0
}

// H26: many sends of one connection share commits, and replies still leave in request order.
func TestH26RepliesLeaveInRequestOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { *o = o.Unlimited() })
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		var want, got []string
		for i := range 600 {
			id := fmt.Sprint(i)
			want = append(want, id)
			if i%50 == 49 {
				ana.Send(frame{"type": "list_peers", "_reqId": id})
				continue
			}
			ana.Send(frame{"type": "send", "id": id, "_reqId": id, "targetSpec": bo.Member.Pubkey, "nonce": "", "ciphertext": brokertest.Body(id)})
		}
		synctest.Wait()
		for _, f := range ana.Waiting() {
			if id := f.Str("_reqId"); id != "" {
				got = append(got, id)
			}
		}
		require.Equal(t, want, got)
		var order []string
		for _, p := range bo.Pushes() {
			order = append(order, brokertest.Text(p))
		}
		require.Len(t, order, 588)
		require.IsIncreasing(t, lengthThenText(order))
	})
}

// lengthThenText makes decimal numbers comparable as text.
func lengthThenText(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = fmt.Sprintf("%04s", s)
	}
	return out
}

func TestSendAndCloseAtOnceIsProcessed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		ana.Send(frame{"type": "send", "targetSpec": bo.Member.Pubkey, "nonce": "", "ciphertext": brokertest.Body("and gone")})
		ana.Close()
		require.Equal(t, "and gone", brokertest.Text(bo.ExpectPush()))
	})
}

func TestRetryWithTheSameIDIsOneMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, withRates)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		send := frame{"type": "send", "targetSpec": bo.Member.Pubkey, "nonce": "", "ciphertext": brokertest.Body("once"), "client_message_id": "c1"}
		first := ana.Request(send)
		for range 30 { // three times the burst: a duplicate costs nothing, and is found even with an empty bucket
			again := ana.Request(send)
			require.Equal(t, first["messageId"], again["messageId"], "%v", again)
			require.Equal(t, true, again["duplicate"])
		}
		send["ciphertext"] = brokertest.Body("something else")
		require.Equal(t, "invalid: idempotency_key_reused", ana.Request(send)["error"])
		synctest.Wait()
		require.Equal(t, []string{"once"}, texts(bo.Pushes()))
		for range 8 { // two of the ten are spent
			require.Equal(t, true, ana.Say(bo.Member.Pubkey, "now", "x")["queued"])
		}
		over := ana.Say(bo.Member.Pubkey, "now", "x")
		require.Equal(t, "rate_limit: max 60 msg/min (burst 10) — slow down", over["error"])
		require.Equal(t, false, over["queued"])
		send["ciphertext"] = brokertest.Body("once")
		require.Equal(t, true, ana.Request(send)["duplicate"], "an accepted original is answered, whatever the budget")
	})
}

// H01: client_ack has no limit and no answer.
func TestH01ClientAckIsNeverLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, withRates, func(o *broker.Options) { o.SendRatePerMin = -1 })
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		for i := range 200 {
			ana.Say(bo.Member.Pubkey, "now", fmt.Sprint(i))
		}
		synctest.Wait()
		pushes := bo.Pushes()
		require.Len(t, pushes, 200)
		for range 3 {
			bo.Send(frame{"type": "client_ack", "brokerMessageId": 7, "clientMessageId": []string{}})
		}
		ackAll(bo, pushes)
		synctest.Wait()
		require.Empty(t, bo.Waiting())
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, bo.Pushes(), "all 200 were taken")
	})
}

// H02: an id that two senders use stands for one message.
func TestH02SharedClientMessageIDCompletesOneRow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, cy, bo := mesh.Dial("ana"), mesh.Dial("cy"), mesh.Dial("bo", explicit)
		send := frame{"type": "send", "targetSpec": bo.Member.Pubkey, "nonce": "", "client_message_id": "X"}
		send["ciphertext"] = brokertest.Body("of ana")
		ana.Request(send)
		send["ciphertext"] = brokertest.Body("of cy")
		cy.Request(send)
		synctest.Wait()
		require.Len(t, bo.Pushes(), 2)
		bo.Send(frame{"type": "client_ack", "clientMessageId": "X"})
		synctest.Wait()
		bo.Cut()
		back := mesh.Dial("bo", explicit)
		synctest.Wait()
		require.Equal(t, []string{"of cy"}, texts(back.Pushes()))

		held := ana.Say(bo.Member.Pubkey, "now", "unseen")
		back.Request(frame{"type": "set_status", "status": "dnd"})
		unseen := ana.Say(bo.Member.Pubkey, "next", "never written")
		back.Send(frame{"type": "client_ack", "brokerMessageIds": []any{unseen["messageId"], held["messageId"]}})
		synctest.Wait()
		back.Request(frame{"type": "set_status", "status": "idle"})
		synctest.Wait()
		require.Contains(t, texts(back.Pushes()), "never written", "an ack of what was never written to the member changes nothing")
	})
}

// H25: what has no answer in the tables is not answered with an error, unless it asked for one.
func TestH25SilenceAboutWhatNobodyAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		for _, raw := range []string{
			`not json`, `[]`, `{"type":1}`, `{"type":"no_such_type"}`, `{"type":"set_status","status":"asleep"}`, `{"type":"join_group"}`,
			`{"type":"join_group","name":5}`, `{"type":"set_summary"}`, `{}`, `null`, "\xff",
		} {
			ana.Send(raw)
		}
		synctest.Wait()
		require.Empty(t, ana.Waiting())
		require.Equal(t, "invalid_args", ana.Request(frame{"type": "set_status", "status": "asleep"})["code"])
		require.Equal(t, "unknown_message_type", ana.Request(frame{"type": "no_such_type"})["code"])
		require.Equal(t, "malformed", ana.Request(frame{"type": "join_group", "name": 5})["code"])
	})
}

// H34: a frame up to 1 MiB is answered; beyond that the connection ends, and a member that does it again and again is kept out for a minute.
func TestH34LargeFrames(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		large := brokertest.Body(strings.Repeat("x", 75_000))
		ack := ana.Request(frame{"type": "send", "id": "big", "targetSpec": "*", "nonce": "", "ciphertext": large})
		require.Equal(t, fmt.Sprintf("payload_too_large: invalid size %d bytes > MAX_MESSAGE_BYTES=65536", len(large)+1), ack["error"])
		require.Equal(t, "big", ack["id"])
		middle := brokertest.Body(strings.Repeat("x", 50_000))
		ack = ana.Request(frame{"type": "send", "targetSpec": "*", "nonce": "", "ciphertext": middle})
		require.Contains(t, ack["error"], "payload_too_large")
		require.Equal(t, "payload_too_large", ana.Request(frame{"type": "set_summary", "summary": large})["code"])
		require.Equal(t, true, ana.Say("*", "now", "still connected")["queued"])

		huge := strings.Repeat("x", 1<<20)
		for range 5 {
			c := mesh.Dial("bo")
			_ = c.TrySend(frame{"type": "send", "targetSpec": "*", "ciphertext": huge})
			code, _ := c.Closed()
			require.Equal(t, 1009, code)
		}
		refusedWith(t, mesh, mesh.Member("bo"), "rate_limit")
		time.Sleep(61 * time.Second)
		mesh.Dial("bo")
	})
}

// H35: before its hello is accepted, a connection may send four frames, small ones.
func TestH35BudgetBeforeTheHello(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		c := mesh.Connect()
		c.Read()
		for range 4 {
			c.Send(frame{"type": "list_peers"})
			require.Equal(t, "no_hello", c.Expect("error").Str("code"))
		}
		c.Send(frame{"type": "list_peers"})
		require.Equal(t, "hello_budget", c.Expect("error").Str("code"))
		code, reason := c.Closed()
		require.Equal(t, []any{1008, "hello_budget"}, []any{code, reason})

		c = mesh.Connect()
		c.Read()
		c.Send(`{"type":"hello","pad":"` + strings.Repeat("x", 25<<10) + `"}`)
		require.Equal(t, "hello_budget", c.Expect("error").Str("code"))

		c = mesh.Connect()
		c.Read()
		groups := []frame{}
		for i := range 64 { // a legal hello may be large
			groups = append(groups, frame{"name": fmt.Sprint(strings.Repeat("g", 60), "/", strings.Repeat("h", 60), i), "role": strings.Repeat("r", 128)})
		}
		c.Send(mesh.HelloFrame(mesh.Member("ana"), nil, false, frame{"sessionId": "s", "groups": groups}))
		require.Equal(t, "hello_ack", c.Expect().Type())

		c = mesh.Connect()
		c.Read()
		time.Sleep(11 * time.Second)
		require.Equal(t, "hello_timeout", c.Expect("error").Str("code"))
		code, reason = c.Closed()
		require.Equal(t, []any{1008, "hello_timeout"}, []any{code, reason})
	})
}

// A slow peer hurts only itself: what it does not read stays in the store, and its memory here is bounded.
func TestPeerThatDoesNotReadHoldsUpNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { *o = o.Unlimited(); o.MaxPendingPerSender = -1 })
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		mesh.Dial("slow", explicit, brokertest.NotReading())
		body := strings.Repeat("x", 10_000)
		for range 300 { // 4 MB for the slow one
			require.Equal(t, true, ana.Say("*", "now", body)["queued"])
		}
		synctest.Wait()
		require.Len(t, bo.Pushes(), 300)
		time.Sleep(40 * time.Second)
		synctest.Wait()
		require.False(t, mesh.Online("slow"), "its ping could not be written")
		again := mesh.Dial("slow", explicit)
		synctest.Wait()
		require.Len(t, again.Pushes(), 300, "nothing is lost")
	})
}
