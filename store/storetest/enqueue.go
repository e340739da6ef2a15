package storetest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

func clientID(id string, d store.Draft) store.Draft {
	d.Message.ClientMessageID = id
	return d
}

var enqueue = checks{
	"keeps every field of a message": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		want := store.Message{
			ID: "1", MeshID: "m", SenderMemberID: "ana", SenderPubkey: key("ana"), SenderSessionPubkey: key("s"), SenderPresenceID: "p",
			SenderName: "Ana ❤️‍🔥", TargetSpec: "#t", TopicID: "t", TopicName: "t", Group: "g", Priority: wire.PriorityLow, Nonce: "bm8=",
			Ciphertext: `{"b": 1,  "a":[1.0, 1e2,"\u00e9"]}`, BodyVersion: 2, ReplyToID: "0", Subtype: "sub", ClientMessageID: "c",
			RequestFingerprint: key("f"), ContentHash: key("h"), ExpiresAt: after(time.Hour + time.Microsecond),
		}
		out := w.send("m", store.Draft{Message: want, Recipients: []store.Recipient{{MemberID: "bo"}}})
		want.Seq, want.CreatedAt = 1, noon
		require.Equal(w, want, out[0].Message)
		got, err := w.Message(w.ctx, "m", "1")
		require.NoError(w, err)
		require.Equal(w, want, got)
		mail, err := w.Pending(w.ctx, pendingQuery("m", "bo"))
		require.NoError(w, err)
		require.Len(w, mail, 1)
		require.Equal(w, want, *mail[0].Message)
		require.Equal(w, store.Delivery{
			Recipient: store.Recipient{MemberID: "bo"}, MeshID: "m", MessageID: "1", Seq: 1, Priority: wire.PriorityLow,
			State: store.Pending, CreatedAt: noon, ExpiresAt: want.ExpiresAt,
		}, mail[0].Delivery)
	},
	"assigns consecutive seqs in order, and none to what is refused": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", draft("0", "ana", "bo"))
		dup := clientID("c", draft("1", "ana", "bo"))
		again := dup
		again.Message.ID = "1b"
		out := w.try("m", store.Quota{PerMailbox: 3}, dup, again, draft("2", "ana", "bo"), direct(draft("3", "ana", "bo")), draft("4", "ana", "ana"))
		require.EqualValues(w, 2, out[0].Message.Seq)
		require.EqualValues(w, 2, out[1].Message.Seq, "the duplicate's is that of the first")
		require.EqualValues(w, 3, out[2].Message.Seq)
		require.ErrorIs(w, out[3].Err, store.ErrQueueFull)
		require.EqualValues(w, 4, out[4].Message.Seq)
		last, err := w.LastSeq(w.ctx, "m")
		require.NoError(w, err)
		require.EqualValues(w, 4, last)
	},
	"a stale or future roster version stores nothing": func(w *world) {
		w.mesh("m", "ana", "bo")
		v := w.version("m")
		for _, wrong := range []int64{v - 1, v + 1, 0} {
			_, err := w.Enqueue(w.ctx, "m", wrong, []store.Draft{draft("1", "ana", "bo")}, store.Quota{}, noon)
			require.ErrorIs(w, err, store.ErrStale)
		}
		require.Empty(w, w.mail("m", "bo"))
		_, err := w.Message(w.ctx, "m", "1")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"a batch of none is none": func(w *world) {
		w.mesh("m")
		require.Empty(w, w.try("m", store.Quota{}))
	},
	"a message without recipients is stored": func(w *world) {
		w.mesh("m", "ana")
		out := w.send("m", draft("1", "ana"))
		require.Empty(w, out[0].Recipients)
		_, err := w.Message(w.ctx, "m", "1")
		require.NoError(w, err)
	},
	"names who got a delivery, in the draft's order": func(w *world) {
		w.mesh("m", "a", "b", "c", "d")
		w.send("m", draft("0", "a", "b"))
		out := w.try("m", store.Quota{PerMailbox: 1}, draft("1", "a", "d", "b", "c", "c/"+key("s")))
		require.NoError(w, out[0].Err)
		require.Equal(w, []store.Recipient{{MemberID: "d"}, {MemberID: "c"}, {MemberID: "c", SessionPubkey: key("s")}}, out[0].Recipients)
		require.Equal(w, []store.Refusal{{Recipient: store.Recipient{MemberID: "b"}, Reason: wire.ReasonQueueFull}}, out[0].Message.Refused)
		got, err := w.Message(w.ctx, "m", "1")
		require.NoError(w, err)
		require.Equal(w, out[0].Message.Refused, got.Refused, "it is remembered")
		require.Equal(w, map[string]store.DeliveryState{"c": store.Pending, "d": store.Pending}, w.states("m", "1"), "no row for the refused")
	},
	"a retry is a duplicate: it stores, counts and notifies nothing": func(w *world) {
		w.mesh("m", "ana", "bo")
		first := clientID("c", draft("1", "ana", "bo"))
		first.Mentions = []string{"bo"}
		w.send("m", first)
		retry := first
		retry.Message.ID = "2"
		out := w.tryAt(after(time.Hour), "m", store.Quota{PerMailbox: 1}, retry)
		require.NoError(w, out[0].Err)
		require.True(w, out[0].Duplicate)
		require.Equal(w, "1", out[0].Message.ID)
		require.Equal(w, noon, out[0].Message.CreatedAt)
		require.Empty(w, out[0].Recipients)
		require.Zero(w, out[0].Notified)
		require.Equal(w, []string{"1"}, w.mail("m", "bo"))
		_, err := w.Message(w.ctx, "m", "2")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"another request under a used client message id is a conflict of that draft alone": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", clientID("c", draft("1", "ana", "bo")))
		other := clientID("c", draft("2", "ana", "bo"))
		out := w.try("m", store.Quota{}, other, draft("3", "ana", "bo"))
		require.ErrorIs(w, out[0].Err, store.ErrConflict)
		require.NoError(w, out[1].Err)
		require.Equal(w, []string{"1", "3"}, w.mail("m", "bo"))
	},
	"fingerprints decide where both have one": func(w *world) {
		w.mesh("m", "ana", "bo")
		first := clientID("c", draft("1", "ana", "bo"))
		first.Message.RequestFingerprint = key("f")
		w.send("m", first)
		retry := clientID("c", draft("2", "ana", "bo")) // other content
		retry.Message.RequestFingerprint = key("f")
		require.True(w, w.try("m", store.Quota{}, retry)[0].Duplicate)
		retry.Message.RequestFingerprint = key("g")
		require.ErrorIs(w, w.try("m", store.Quota{}, retry)[0].Err, store.ErrConflict)
		retry.Message.RequestFingerprint, retry.Message.ContentHash = "", first.Message.ContentHash
		require.True(w, w.try("m", store.Quota{}, retry)[0].Duplicate)
	},
	"duplicates within one batch are folded": func(w *world) {
		w.mesh("m", "ana", "bo")
		d := clientID("c", draft("1", "ana", "bo"))
		d2, d3 := d, clientID("c", draft("3", "ana", "bo"))
		d2.Message.ID = "2"
		out := w.try("m", store.Quota{}, d, d2, d3)
		require.False(w, out[0].Duplicate)
		require.True(w, out[1].Duplicate)
		require.Equal(w, "1", out[1].Message.ID)
		require.ErrorIs(w, out[2].Err, store.ErrConflict)
		require.Equal(w, []string{"1"}, w.mail("m", "bo"))
	},
	"client message ids are per sender and mesh, and none is no id": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.mesh("n", "ana", "bo")
		w.send("m", clientID("c", draft("1", "ana", "bo")), clientID("c", draft("2", "bo", "bo")), draft("3", "ana", "bo"), draft("4", "ana", "bo"))
		w.send("n", clientID("c", draft("1", "ana", "bo")))
		require.Equal(w, []string{"1", "2", "3", "4"}, w.mail("m", "bo"))
		require.Equal(w, []string{"1"}, w.mail("n", "bo"))
	},
	"a used message id is a conflict of that draft alone": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", draft("1", "ana", "bo"))
		out := w.try("m", store.Quota{}, draft("1", "ana", "bo"), draft("2", "ana", "bo"))
		require.ErrorIs(w, out[0].Err, store.ErrConflict)
		require.NoError(w, out[1].Err)
		require.Equal(w, []string{"1", "2"}, w.mail("m", "bo"))
	},
	"one client message id from a hundred at once is stored once": func(w *world) {
		w.mesh("m", "ana", "bo")
		v := w.version("m")
		var mu sync.Mutex
		stored, ids := 0, map[string]bool{}
		together(100, func(i int) {
			d := clientID("c", draft(fmt.Sprint("x", i), "ana", "bo"))
			d.Message.ContentHash = key("same")
			out, err := w.Enqueue(w.ctx, "m", v, []store.Draft{d}, store.Quota{}, noon)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || out[0].Err != nil {
				return
			}
			ids[out[0].Message.ID] = true
			if !out[0].Duplicate {
				stored++
			}
		})
		require.Equal(w, 1, stored)
		require.Len(w, ids, 1, "all were told of the same message")
		require.Len(w, w.mail("m", "bo"), 1)
	},
	"seqs rise in the order in which messages become visible": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		v := w.version("m")
		const writers, each = 8, 25
		var seen []int64
		finished := make(chan struct{})
		var reader sync.WaitGroup
		reader.Go(func() {
			var last int64
			for read := false; ; {
				select {
				case <-finished:
					read = true // once more, to the end
				default:
				}
				for {
					ms, err := w.History(w.ctx, store.HistoryQuery{MeshID: "m", TopicID: "t", After: last, Forward: true, Limit: 7})
					if err != nil || len(ms) == 0 {
						break
					}
					for _, m := range ms {
						seen = append(seen, m.Seq)
						last = m.Seq
					}
				}
				if read {
					return
				}
			}
		})
		together(writers, func(i int) {
			for j := range each {
				_, _ = w.Enqueue(w.ctx, "m", v, []store.Draft{post("t", draft(fmt.Sprintf("%d-%d", i, j), "ana", "bo"))}, store.Quota{}, noon)
			}
		})
		close(finished)
		reader.Wait()
		require.Len(w, seen, writers*each, "a reader that polls by seq skips nothing")
		for i, seq := range seen {
			require.EqualValues(w, i+1, seq)
		}
		require.Len(w, w.mail("m", "bo"), writers*each)
	},
	"CreatedAt never goes back within a mesh": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.mesh("n", "ana", "bo")
		w.sendAt(after(time.Minute), "m", draft("1", "ana", "bo"))
		require.Equal(w, after(time.Minute), w.sendAt(noon, "m", draft("2", "ana", "bo"))[0].Message.CreatedAt)
		require.Equal(w, after(time.Hour), w.sendAt(after(time.Hour), "m", draft("3", "ana", "bo"))[0].Message.CreatedAt)
		require.Equal(w, noon, w.sendAt(noon, "n", draft("1", "ana", "bo"))[0].Message.CreatedAt)
	},
	"makes one notification per member that is mentioned": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.topic("m", "t", "ana")
		d := post("t", draft("1", "ana"))
		d.Mentions = []string{"cy", "bo", "cy", "nobody"}
		require.Equal(w, 2, w.send("m", d)[0].Notified)
		require.Equal(w, []string{"1"}, noticed(w.notices(store.NotificationQuery{MemberID: "cy", Limit: 9})))
		require.Equal(w, []string{"1"}, noticed(w.notices(store.NotificationQuery{MemberID: "bo", Limit: 9})))
	},
	"the caller may reuse what it gave": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		drafts := []store.Draft{draft("1", "ana", "bo"), draft("2", "ana", "bo")}
		w.send("m", drafts...)
		drafts[0].Recipients[0].MemberID = "cy"
		drafts[0].Message.Ciphertext = "changed"
		require.Equal(w, []string{"1", "2"}, w.mail("m", "bo"))
		require.Empty(w, w.mail("m", "cy"))
		require.Equal(w, map[string]store.DeliveryState{"bo": store.Pending}, w.states("m", "1"))
	},
	"many recipients": func(w *world) {
		names := []string{}
		for i := range 300 {
			names = append(names, fmt.Sprintf("m%03d", i))
		}
		w.mesh("m", names...)
		out := w.send("m", draft("1", "m000", names...))
		require.Len(w, out[0].Recipients, 300)
		ds, err := w.Deliveries(w.ctx, "m", "1")
		require.NoError(w, err)
		require.Len(w, ds, 300)
		require.True(w, slices.IsSortedFunc(ds, func(a, b store.Delivery) int {
			if a.MemberID < b.MemberID {
				return -1
			}
			return 1
		}))
	},
}

var quotas = checks{
	"a mailbox takes exactly its number": func(w *world) {
		w.mesh("m", "ana", "bo")
		q := store.Quota{PerMailbox: 3}
		for i := range 3 {
			require.NoError(w, w.try("m", q, direct(draft(fmt.Sprint(i), "ana", "bo")))[0].Err)
		}
		out := w.try("m", q, direct(draft("x", "ana", "bo")))[0]
		require.ErrorIs(w, out.Err, store.ErrQueueFull)
		require.Equal(w, []store.Refusal{{Recipient: store.Recipient{MemberID: "bo"}, Reason: wire.ReasonQueueFull}}, out.Message.Refused)
		require.Len(w, w.mail("m", "bo"), 3)
		_, err := w.Message(w.ctx, "m", "x")
		require.ErrorIs(w, err, store.ErrNotFound)
		w.ack("m", "bo", "1")
		require.NoError(w, w.try("m", q, direct(draft("y", "ana", "bo")))[0].Err, "an acknowledged one makes room")
	},
	"counts within a batch": func(w *world) {
		w.mesh("m", "ana", "bo")
		out := w.try("m", store.Quota{PerMailbox: 2}, direct(draft("1", "ana", "bo")), direct(draft("2", "ana", "bo")), direct(draft("3", "ana", "bo")))
		require.NoError(w, out[0].Err)
		require.NoError(w, out[1].Err)
		require.ErrorIs(w, out[2].Err, store.ErrQueueFull)
	},
	"now has places of its own, and what exceeds them counts with the rest": func(w *world) {
		w.mesh("m", "ana", "bo")
		q := store.Quota{PerMailbox: 3, NowPlaces: 2}
		offer := func(id string, p wire.Priority) bool {
			return w.try("m", q, direct(prio(p, draft(id, "ana", "bo"))))[0].Err == nil
		}
		for i, want := range []struct {
			p  wire.Priority
			ok bool
		}{
			{wire.PriorityNext, true}, {wire.PriorityLow, true}, {wire.PriorityNext, true}, {wire.PriorityNext, false}, {wire.PriorityLow, false},
			{wire.PriorityNow, true}, {wire.PriorityNow, true}, {wire.PriorityNow, false},
		} {
			require.Equal(w, want.ok, offer(fmt.Sprint(i), want.p), "message %d", i)
		}
		w.ack("m", "bo", "0")
		require.True(w, offer("a", wire.PriorityNow), "the third now one takes a place of the rest")
		require.False(w, offer("b", wire.PriorityNext))
		require.False(w, offer("c", wire.PriorityNow))
		w.ack("m", "bo", "5")
		require.True(w, offer("d", wire.PriorityNext), "two now ones left: the place is free again")
	},
	"one sender has its share, and the mailbox is asked first": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		q := store.Quota{PerMailbox: 4, PerSender: 2, NowPlaces: 2, NowPerSender: 1}
		reason := func(id, from string, p wire.Priority) string {
			out := w.try("m", q, direct(prio(p, draft(id, from, "bo"))))[0]
			if out.Err == nil {
				return ""
			}
			require.ErrorIs(w, out.Err, store.ErrQueueFull)
			return out.Message.Refused[0].Reason
		}
		require.Empty(w, reason("1", "ana", wire.PriorityNext))
		require.Empty(w, reason("2", "ana", wire.PriorityLow))
		require.Equal(w, wire.ReasonQuota, reason("3", "ana", wire.PriorityNext))
		require.Empty(w, reason("4", "ana", wire.PriorityNow))
		require.Equal(w, wire.ReasonQuota, reason("5", "ana", wire.PriorityNow))
		require.Empty(w, reason("6", "cy", wire.PriorityNext))
		require.Empty(w, reason("7", "cy", wire.PriorityNext))
		require.Equal(w, wire.ReasonQueueFull, reason("8", "ana", wire.PriorityNext))
		w.ack("m", "bo", "1", "6")
		require.Empty(w, reason("9", "ana", wire.PriorityNext))
	},
	"a session's mailbox is its own": func(w *world) {
		w.mesh("m", "ana", "bo")
		q := store.Quota{PerMailbox: 1}
		for i, to := range []string{"bo", "bo/" + key("s"), "bo/" + key("s2")} {
			require.NoError(w, w.try("m", q, direct(draft(fmt.Sprint(i), "ana", to)))[0].Err)
			require.ErrorIs(w, w.try("m", q, direct(draft(fmt.Sprint("x", i), "ana", to)))[0].Err, store.ErrQueueFull)
		}
	},
	"a multicast leaves the full ones out, a post stays in history": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.topic("m", "t", "ana")
		w.send("m", draft("0", "ana", "bo", "cy"))
		out := w.try("m", store.Quota{PerMailbox: 1}, post("t", draft("1", "ana", "bo", "cy")))[0]
		require.NoError(w, out.Err)
		require.Empty(w, out.Recipients)
		require.Len(w, out.Message.Refused, 2)
		require.Equal(w, []string{"1"}, w.history(store.HistoryQuery{TopicID: "t", Limit: 10}))
	},
	"0 or less is no bound": func(w *world) {
		w.mesh("m", "ana", "bo")
		for i, q := range []store.Quota{{}, {PerMailbox: -1, PerSender: -1, NowPlaces: -1, NowPerSender: -1}} {
			for j := range 5 {
				require.NoError(w, w.try("m", q, direct(prio(wire.PriorityNow, draft(fmt.Sprint(i, j), "ana", "bo"))))[0].Err)
			}
		}
	},
	"expired, revoked and left mail makes room": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana", "bo")
		q := store.Quota{PerMailbox: 2, PerSender: 2}
		w.try("m", q, post("t", draft("1", "ana", "bo")), draft("2", "ana", "bo"))
		require.ErrorIs(w, w.try("m", q, direct(draft("3", "ana", "bo")))[0].Err, store.ErrQueueFull)
		_, err := w.Unsubscribe(w.ctx, "m", "t", "bo", noon)
		require.NoError(w, err)
		require.NoError(w, w.try("m", q, direct(draft("3", "ana", "bo")))[0].Err)
		_, err = w.Expire(w.ctx, after(time.Hour), 0, 10)
		require.NoError(w, err)
		later := with(direct(draft("4", "ana", "bo")), func(d *store.Draft) { d.Message.ExpiresAt = after(5 * time.Hour) })
		require.NoError(w, w.tryAt(after(time.Hour), "m", store.Quota{PerMailbox: 1}, later)[0].Err)
	},
	"holds for many senders at once": func(w *world) {
		w.mesh("m", "ana", "bo")
		v := w.version("m")
		together(20, func(i int) {
			_, _ = w.Enqueue(w.ctx, "m", v, []store.Draft{direct(draft(fmt.Sprint(i), "ana", "bo"))}, store.Quota{PerMailbox: 7}, noon)
		})
		require.Len(w, w.mail("m", "bo"), 7)
	},
}
