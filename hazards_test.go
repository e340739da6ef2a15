package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
)

// docs/differences.md tells what each hazard is; the tests here prove the rules about delivery that no other file does.

// H03: rows that a connection may not have do not keep it from those that it may.
func TestH03RowsForOthersDoNotStarve(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		here, away := sessionKey(t), sessionKey(t)
		gone := mesh.Dial("bo", explicit, brokertest.SessionKey(away))
		gone.Request(frame{"type": "set_status", "status": "working"})
		for i := range 200 { // three pages of rows that no connection but the busy one may have
			ana.Say(away.Public(), "next", fmt.Sprint(i))
		}
		ana.Say(gone.Member.Pubkey, "next", "for all")
		bo := mesh.Dial("bo", explicit, brokertest.SessionKey(here))
		synctest.Wait()
		require.Equal(t, []string{"for all"}, texts(bo.Pushes()))
		require.Empty(t, gone.Pushes())
	})
}

// H04: what is in flight to one connection is not hidden from another, and what a dead one left comes in order.
func TestH04MarksHideNothingFromOtherConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		a := mesh.Dial("bo", explicit, brokertest.SessionKey(sessionKey(t)))
		var want []string
		for i := range 65 {
			ana.Say(a.Member.Pubkey, "now", fmt.Sprint(i))
			want = append(want, fmt.Sprint(i))
		}
		synctest.Wait()
		require.Len(t, a.Pushes(), 65)
		b := mesh.Dial("bo", explicit, brokertest.SessionKey(sessionKey(t)))
		synctest.Wait()
		first := b.Pushes()
		require.Equal(t, want, texts(first), "a new connection starts at the lowest pending row")
		ackAll(b, first[10:])
		synctest.Wait()
		a.Cut()
		time.Sleep(50 * time.Second)
		synctest.Wait()
		again := b.Pushes()
		require.Equal(t, want[:10], texts(again), "a redelivery repeats the unacknowledged ones in order")
		for _, p := range again {
			require.Equal(t, true, p["redelivered"])
		}
	})
}

// H05: the late end of a replaced socket changes nothing for the socket that took its place.
func TestH05OldSocketDoesNotTouchTheNewOnesMarks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		key := sessionKey(t)
		old := mesh.Dial("bo", explicit, brokertest.SessionKey(key))
		ana.Say(old.Member.Pubkey, "now", "one")
		synctest.Wait()
		next := mesh.Dial("bo", explicit, brokertest.SessionKey(key))
		synctest.Wait()
		require.Equal(t, []string{"one"}, texts(next.Pushes()))
		old.Closed()
		synctest.Wait()
		require.True(t, mesh.Online("bo"))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		require.Empty(t, next.Pushes(), "the mark of the new socket stands: nothing is sent again before its time")
		ana.Say(next.Member.Pubkey, "now", "two")
		synctest.Wait()
		require.Equal(t, []string{"two"}, texts(next.Pushes()))
	})
}

// failing is a store that fails as a test tells it.
type failing struct {
	store.Store
	enqueue func(stored bool) error // asked before and after; an error after it means that the reply of the commit was lost
	acks    atomic.Int64            // Ack fails while above 0
}

var errStore = errors.New("connection reset")

func (f *failing) Enqueue(ctx context.Context, mesh string, version int64, d []store.Draft, q store.Quota, now time.Time) ([]store.Enqueued, error) {
	if err := f.enqueue(false); err != nil {
		return nil, err
	}
	out, err := f.Store.Enqueue(ctx, mesh, version, d, q, now)
	if err == nil {
		err = f.enqueue(true)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (f *failing) Ack(ctx context.Context, acks []store.Ack) (store.Acked, error) {
	if f.acks.Add(-1) >= 0 {
		return store.Acked{}, errStore
	}
	return f.Store.Ack(ctx, acks)
}

// H08: a store that fails for a moment costs the sender nothing; one that fails longer gets "outcome not known", and the retry is one message.
func TestH08StoreFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &failing{Store: memory.New(), enqueue: func(bool) error { return nil }}
		mesh := brokertest.New(t, func(o *broker.Options) { f.Store = o.Store; o.Store = f })
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		send := func(text string) frame {
			return ana.Request(frame{
				"type": "send", "targetSpec": bo.Member.Pubkey, "nonce": "", "ciphertext": brokertest.Body(text), "client_message_id": text,
			})
		}
		left := 3
		f.enqueue = func(bool) error {
			if left--; left >= 0 {
				return errStore
			}
			return nil
		}
		require.Equal(t, true, send("retried by the broker")["queued"])

		f.enqueue = func(stored bool) error {
			if stored {
				return errStore // committed, and the reply was lost: for good
			}
			return nil
		}
		ack := send("lost reply")
		require.Equal(t, "internal_error: outcome not known, retry with the same client_message_id", ack["error"])
		f.enqueue = func(bool) error { return nil }
		ack = send("lost reply")
		require.Equal(t, []any{true, true}, []any{ack["queued"], ack["duplicate"]})

		f.enqueue = func(bool) error { return errStore }
		require.Contains(t, send("down")["error"], "internal_error")
		f.enqueue = func(bool) error { return nil }
		require.Equal(t, true, send("down")["queued"])
		bo.Cut()
		back := mesh.Dial("bo", explicit)
		synctest.Wait()
		require.Equal(t, []string{"retried by the broker", "lost reply", "down"}, texts(back.Pushes()), "each once, in order")
	})
}

// An acknowledgement outlives a failing store.
func TestAckIsRetriedUntilTheStoreHasIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &failing{enqueue: func(bool) error { return nil }}
		mesh := brokertest.New(t, func(o *broker.Options) { f.Store = o.Store; o.Store = f })
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		ack := ana.Say(bo.Member.Pubkey, "now", "x")
		push := bo.ExpectPush()
		f.acks.Store(3)
		ackAll(bo, []frame{push})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Equal(t, true, ana.Request(frame{"type": "message_status", "messageId": ack["messageId"]})["delivered"])
	})
}

// H22: one sender cannot take a mailbox from the others, urgent mail has places of its own, and who is left out is named.
func TestH22MailboxIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.MaxPendingPerRecipient = 40 })
		eve, ana, cy := mesh.Dial("eve"), mesh.Dial("ana"), mesh.Dial("cy")
		bo := mesh.Member("bo")
		for range 10 {
			require.Equal(t, true, eve.Say(bo.Pubkey, "next", "x")["queued"])
		}
		require.Equal(t, "queue_full: your share of the recipient backlog is used up", eve.Say(bo.Pubkey, "next", "x")["error"])
		require.Equal(t, true, eve.Say(bo.Pubkey, "now", "urgent")["queued"], "priority now has places of its own")
		require.Equal(t, true, ana.Say(bo.Pubkey, "next", "x")["queued"], "others still reach bo")

		ack := eve.Say("*", "next", "to all")
		require.Equal(t, true, ack["queued"])
		require.Equal(t, map[string]any{"total": 2.0, "online": 2.0, "refused": 1.0}, ack["recipients"])
		status := eve.Request(frame{"type": "message_status", "messageId": ack["messageId"]})
		require.Equal(t, 1.0, status["refused"])
		require.Equal(t, false, status["delivered"])
		named := map[string]any{}
		for _, r := range status["recipients"].([]any) {
			row := frame(r.(map[string]any))
			named[row.Str("name")] = []string{row.Str("state"), row.Str("reason")}
		}
		require.Equal(t, []string{"refused", "quota"}, named["bo"])

		for _, from := range []*brokertest.Conn{ana, cy, mesh.Dial("di")} {
			for range 10 {
				from.Say(bo.Pubkey, "next", "x")
			}
		}
		require.Equal(t, "queue_full: recipient backlog limit reached", mesh.Dial("el").Say(bo.Pubkey, "next", "x")["error"], "exactly 40 are pending")
	})
}

// H22: mail to a session that is gone for a day expires; mail to its member does not.
func TestH22MailToAGoneSessionExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		key := sessionKey(t)
		bo := mesh.Dial("bo", explicit, brokertest.SessionKey(key))
		bo.Close()
		synctest.Wait()
		gone := ana.Say(key.Public(), "now", "to the session")
		require.Equal(t, []any{true, true}, []any{gone["queued"], gone["offline"]})
		ana.Say(bo.Member.Pubkey, "now", "to bo")
		time.Sleep(26 * time.Hour)
		status := ana.Request(frame{"type": "message_status", "messageId": gone["messageId"]})
		require.Equal(t, "expired", status["recipients"].([]any)[0].(map[string]any)["state"])
		back := mesh.Dial("bo", explicit, brokertest.SessionKey(key))
		synctest.Wait()
		require.Equal(t, []string{"to bo"}, texts(back.Pushes()))
	})
}

// H23: a pong of an old client does not take a message from the member's daemon that acknowledges for itself.
func TestH23PongConfirmsNothingBesideAnExplicitConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		old := mesh.Dial("bo")
		daemon := mesh.Dial("bo", brokertest.With(frame{"channel": "claudemesh-daemon"}), brokertest.SessionKey(sessionKey(t)))
		ack := ana.Say(old.Member.Pubkey, "now", "x")
		synctest.Wait()
		require.Len(t, old.Pushes(), 1)
		require.Len(t, daemon.Pushes(), 1)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		state := func() any {
			return ana.Request(frame{"type": "message_status", "messageId": ack["messageId"]})["recipients"].([]any)[0].(map[string]any)["state"]
		}
		require.Equal(t, "pushed", state(), "only the daemon's client_ack counts")
		daemon.Cut()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Equal(t, "acked", state(), "without it, the pong does")
	})
}

// H44: a transport confirmation is called that.
func TestH44TransportConfirmationSaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		ack := ana.Say(bo.Member.Pubkey, "now", "x")
		time.Sleep(5 * time.Second)
		r := ana.Request(frame{"type": "message_status", "messageId": ack["messageId"]})["recipients"].([]any)[0].(map[string]any)
		require.Equal(t, []any{"delivered", "acked", "transport"}, []any{r["status"], r["state"], r["ackedBy"]})
	})
}

// H21: a large answer to one's own request is no reason to be cut off.
func TestH21LargeHistoryIsCutNotTheConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		ana.Request(frame{"type": "topic_create", "name": "big"})
		text := make([]byte, 45_000)
		for i := range text {
			text[i] = 'x'
		}
		for range 100 {
			require.Equal(t, true, ana.Say("#big", "now", string(text))["queued"])
		}
		got := 0
		before := ""
		pages := 0
		for more := true; more; pages++ {
			page := ana.Request(frame{"type": "topic_history", "topic": "big", "limit": 200, "beforeId": before})
			messages := page["messages"].([]any)
			got += len(messages)
			before = frame(messages[len(messages)-1].(map[string]any)).Str("id")
			more = page["truncated"] == true
		}
		require.Equal(t, 100, got)
		require.Equal(t, 2, pages, "a page ends at 4 MiB")
	})
}

// P10: shutting down with everything in flight ends every goroutine (the bubble would not) and answers what was accepted.
func TestShutdownIsQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { *o = o.Unlimited() })
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		mesh.Dial("slow", brokertest.NotReading())
		for i := range 300 {
			ana.Send(frame{"type": "send", "id": fmt.Sprint(i), "targetSpec": "*", "nonce": "", "ciphertext": brokertest.Body("x")})
		}
		synctest.Wait()
		require.NoError(t, mesh.Broker.Shutdown(t.Context()))
		for _, c := range []*brokertest.Conn{ana, bo} {
			code, reason := c.Closed()
			require.Equal(t, []any{1001, "shutdown"}, []any{code, reason})
		}
		acked := 0
		for _, f := range ana.Waiting() {
			if f.Type() == "ack" && f["queued"] == true {
				acked++
			}
		}
		require.Equal(t, 300, acked)
		require.NoError(t, mesh.Broker.Shutdown(t.Context()), "twice is fine")
		require.ErrorIs(t, mesh.Broker.Disconnect(t.Context(), mesh.ID, "x"), broker.ErrClosed)
	})
}

// H02: a repeated acknowledgement by both ids does not fall back to the sender's id, which somebody else's message may have, too.
func TestH02RepeatedAckTakesNothingElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, cy, bo := mesh.Dial("ana"), mesh.Dial("cy"), mesh.Dial("bo", explicit)
		send := frame{"type": "send", "targetSpec": bo.Member.Pubkey, "nonce": "", "client_message_id": "X"}
		send["ciphertext"] = brokertest.Body("of ana")
		first := ana.Request(send)
		send["ciphertext"] = brokertest.Body("of cy")
		second := cy.Request(send)
		synctest.Wait()
		require.Len(t, bo.Pushes(), 2)
		for range 3 {
			bo.Request(frame{"type": "client_ack", "clientMessageId": "X", "brokerMessageId": first["messageId"]})
		}
		synctest.Wait()
		require.Equal(t, true, ana.Request(frame{"type": "message_status", "messageId": first["messageId"]})["delivered"])
		require.Equal(t, false, cy.Request(frame{"type": "message_status", "messageId": second["messageId"]})["delivered"])
	})
}

// H02: what is for one session alone is not for its sibling to acknowledge, and the sibling's try does not get in the way of its own.
func TestH02SiblingsAckLeavesASessionsMailAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		key := sessionKey(t)
		ana, mine, sibling := mesh.Dial("ana"), mesh.Dial("bo", explicit, brokertest.SessionKey(key)), mesh.Dial("bo", explicit, brokertest.SessionKey(sessionKey(t)))
		sent := ana.Say(key.Public(), "now", "for that session alone")
		mine.ExpectPush()
		delivered := func() any {
			synctest.Wait()
			return ana.Request(frame{"type": "message_status", "messageId": sent["messageId"]})["delivered"]
		}
		sibling.Request(frame{"type": "client_ack", "brokerMessageId": sent["messageId"]})
		require.Equal(t, false, delivered())
		mine.Request(frame{"type": "client_ack", "brokerMessageId": sent["messageId"]})
		require.Equal(t, true, delivered())
	})
}

// H23: mail to one session of an old client completes by its pong, whoever else of the member is here: nobody else may have it.
func TestH23PongConfirmsWhatNoOtherConnectionMayHave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		key := sessionKey(t)
		old := mesh.Dial("bo", brokertest.SessionKey(key))
		mesh.Dial("bo", explicit, brokertest.SessionKey(sessionKey(t)))
		ack := ana.Say(key.Public(), "now", "only for the old one")
		require.Equal(t, "only for the old one", brokertest.Text(old.ExpectPush()))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, true, ana.Request(frame{"type": "message_status", "messageId": ack["messageId"]})["delivered"])
	})
}

// P6: a peer that asks and does not listen is read no further, whatever it asks.
func TestRepliesNobodyReadsStopTheReader(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]string{
		"client_ack": `{"type":"client_ack","_reqId":"%s"}`,
		"refusals":   `{"type":"no_such_type","_reqId":"%s"}`,
		"peers":      `{"type":"list_peers","_reqId":"%s"}`,
		"sends":      `{"type":"send","targetSpec":"*","nonce":"","ciphertext":"eA==","_reqId":"%s"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t, withRates, func(o *broker.Options) { o.SendRatePerMin, o.PingInterval = -1, -1 })
				c := mesh.Dial("bo", explicit, brokertest.NotReading())
				id := strings.Repeat("x", 200)
				var taken atomic.Int64
				go func() {
					for c.TrySend(fmt.Sprintf(request, id)) == nil {
						taken.Add(1)
					}
				}()
				time.Sleep(time.Minute)
				synctest.Wait()
				require.Less(t, taken.Load(), int64(20_000), "bounded by what is in the network and half a window of replies")
				c.Cut()
			})
		})
	}
}

// D26: counters that a session keeps are added to its member's total once, however often its lease flaps.
func TestStatsAreCountedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		count := func(c *brokertest.Conn, out int) {
			c.Request(frame{"type": "set_stats", "stats": frame{"messagesOut": out}})
		}
		key := sessionKey(t)
		attested := []brokertest.DialOption{brokertest.SessionKey(key), brokertest.Attested()} // restores nothing, so it counts from zero
		first := mesh.Dial("bo")
		count(first, 100)
		first.Close()
		synctest.Wait()
		for _, out := range []int{3, 6, 6} {
			c := mesh.Dial("bo", attested...)
			count(c, out)
			c.Cut()
			synctest.Wait()
		}
		back := mesh.Dial("bo")
		require.Equal(t, map[string]any{"messagesOut": 106.0}, back.Hello["restoredStats"])
		count(back, 110) // a session that was told the total goes on from it
		back.Close()
		synctest.Wait()
		require.Equal(t, map[string]any{"messagesOut": 110.0}, mesh.Dial("bo").Hello["restoredStats"])
	})
}

// H08: a commit whose reply is lost reaches those who are connected, once and in its place, whether or not the sender gave it an id.
func TestH08LostReplyIsDeliveredLive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &failing{Store: memory.New(), enqueue: func(bool) error { return nil }}
		mesh := brokertest.New(t, func(o *broker.Options) { f.Store = o.Store; o.Store = f })
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		loseOne := func() {
			lost := false
			f.enqueue = func(stored bool) error {
				if stored && !lost {
					lost = true
					return errStore
				}
				return nil
			}
		}
		loseOne()
		require.Equal(t, true, ana.Say(bo.Member.Pubkey, "now", "without an id")["queued"])
		loseOne()
		ack := ana.Request(frame{
			"type": "send", "targetSpec": bo.Member.Pubkey, "nonce": "", "ciphertext": brokertest.Body("with an id"), "client_message_id": "c1",
		})
		require.Equal(t, true, ack["queued"])
		require.NotContains(t, ack, "duplicate")
		ana.Say(bo.Member.Pubkey, "now", "after")
		synctest.Wait()
		require.Equal(t, []string{"without an id", "with an id", "after"}, texts(bo.Pushes()))

		f.enqueue = func(stored bool) error { // stored, and never heard of again
			if stored {
				return errStore
			}
			return nil
		}
		require.Contains(t, ana.Say(bo.Member.Pubkey, "now", "unknown outcome")["error"], "internal_error")
		f.enqueue = func(bool) error { return nil }
		time.Sleep(10 * time.Second)
		ana.Say(bo.Member.Pubkey, "now", "last")
		synctest.Wait()
		require.Equal(t, []string{"unknown outcome", "last"}, texts(bo.Pushes()), "what is stored is delivered, also if nobody could say so")
	})
}
