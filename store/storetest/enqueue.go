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

// requireSameOutcome asserts that again is what Enqueue tells of a draft whose outcome was first, and whose reply was lost.
func (w *world) requireSameOutcome(first, again store.Enqueued) {
	w.Helper()
	require.NoError(w, again.Err)
	require.False(w, again.Duplicate)
	require.ElementsMatch(w, first.Recipients, again.Recipients)
	require.Equal(w, first.Notified, again.Notified)
	require.Equal(w, bodiless(first.Message), bodiless(again.Message))
}

// bodiless is a message without the body, which a store may have dropped.
func bodiless(m store.Message) store.Message {
	m.Nonce, m.Ciphertext = "", ""
	return m
}

func (w *world) lastSeq(mesh string) int64 {
	w.Helper()
	seq, err := w.LastSeq(w.ctx, mesh)
	require.NoError(w, err)
	return seq
}

var enqueue = checks{
	"keeps every field of a message": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		want := store.Message{
			ID: "1", MeshID: "m", SenderMemberID: "ana", SenderPubkey: key("ana"), SenderSessionPubkey: key("s"), SenderPresenceID: "p",
			SenderName: "Ana ❤️‍🔥", TargetSpec: "#t", TopicID: "t", TopicName: "t", Group: "g", Priority: wire.PriorityLow, Nonce: "bm8=",
			Ciphertext: `{"b": 1,  "a":[1.0, 1e2,"\u00e9"]}`, BodyVersion: 2, ReplyToID: "0", Subtype: "sub", ClientMessageID: "c",
			RequestFingerprint: key("f"), ContentHash: key("h"), BodyHash: key("b"), SenderAttestation: anAttestation("ana"),
			ExpiresAt: after(time.Hour + time.Microsecond),
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
		out := w.tryAt(after(time.Minute), "m", store.Quota{PerMailbox: 1}, retry)
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
	"a message id used by another sender or for another request is a conflict of that draft alone": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.send("m", draft("1", "ana", "bo"))
		other := draft("1", "ana", "bo")
		other.Message.ContentHash = key("other")
		out := w.try("m", store.Quota{}, draft("1", "cy", "bo"), other, clientID("c", other), draft("2", "ana", "bo"))
		for _, refused := range out[:3] {
			require.ErrorIs(w, refused.Err, store.ErrConflict)
		}
		require.NoError(w, out[3].Err)
		require.Equal(w, []string{"1", "2"}, w.mail("m", "bo"))
		_, err := w.Sent(w.ctx, "m", "ana", "c")
		require.ErrorIs(w, err, store.ErrNotFound, "the client message id of a refused draft stays free")
	},
	"a draft whose reply was lost gets it again, and stores, counts and notifies nothing": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.topic("m", "t", "ana")
		for _, d := range []store.Draft{
			direct(draft("1", "ana", "bo")),
			direct(clientID("c", draft("2", "ana", "bo"))),
			clientID("d", draft("3", "ana", "cy", "bo", "bo/"+key("s"))),
			with(post("t", draft("4", "ana", "bo", "cy")), func(d *store.Draft) { d.Mentions = []string{"cy", "bo", "cy", "nobody"} }),
			clientID("e", post("t", draft("5", "ana"))),
			draft("6", "ana"),
		} {
			first := w.send("m", d)[0]
			pending, err := w.PendingCount(w.ctx)
			require.NoError(w, err)
			for _, q := range []store.Quota{{}, {PerMailbox: 1, PerSender: 1}} {
				again := w.tryAt(after(time.Minute), "m", q, d)[0]
				w.requireSameOutcome(first, again)
				require.Equal(w, first.Message.Seq, w.lastSeq("m"), "no seq was used")
			}
			n, err := w.PendingCount(w.ctx)
			require.NoError(w, err)
			require.Equal(w, pending, n)
		}
		require.Equal(w, []string{"1", "2", "3", "4"}, w.mail("m", "bo"))
		require.Equal(w, []string{"3", "4"}, w.mail("m", "cy"))
		require.Equal(w, []string{"5", "4"}, w.history(store.HistoryQuery{TopicID: "t", Limit: 9}))
		require.Equal(w, []string{"4"}, noticed(w.notices(store.NotificationQuery{MemberID: "cy", Limit: 9})))
		out := w.try("m", store.Quota{}, with(clientID("c", draft("7", "ana", "bo")), func(d *store.Draft) { d.Message.ContentHash = draft("2", "ana").Message.ContentHash }))
		require.True(w, out[0].Duplicate, "under another id it is a duplicate as ever")
	},
	"a draft whose reply was lost gets it again after its deliveries ended": func(w *world) {
		w.mesh("m", "ana", "bo", "cy", "dee")
		for _, d := range []store.Draft{draft("1", "ana", "bo", "cy", "dee"), clientID("c", draft("2", "ana", "bo", "cy", "dee"))} {
			first := w.send("m", d)[0]
			w.ack("m", "bo", d.Message.ID)
			w.requireSameOutcome(first, w.try("m", store.Quota{}, d)[0])
			w.ack("m", "cy", d.Message.ID)
			w.expire(after(time.Hour), 0, 10)
			w.requireSameOutcome(first, w.tryAt(after(2*time.Hour), "m", store.Quota{}, d)[0])
			require.Equal(w, map[string]store.DeliveryState{"bo": store.Done, "cy": store.Done, "dee": store.Expired}, w.states("m", d.Message.ID))
		}
		d := direct(clientID("d", draft("3", "ana", "bo")))
		first := w.send("m", d)[0]
		w.ack("m", "bo", "3")
		w.requireSameOutcome(first, w.try("m", store.Quota{}, d)[0])
		require.Empty(w, w.mail("m", "bo"), "it does not come back")
	},
	"a draft whose reply was lost gets it again with who was refused": func(w *world) {
		w.mesh("m", "ana", "bo", "cy", "dee")
		w.send("m", draft("0", "ana", "bo"))
		d := clientID("c", draft("1", "ana", "bo", "cy", "dee"))
		first := w.try("m", store.Quota{PerMailbox: 1}, d)[0]
		require.Len(w, first.Message.Refused, 1)
		w.ack("m", "bo", "0")
		again := w.try("m", store.Quota{PerMailbox: 1}, d)[0]
		w.requireSameOutcome(first, again)
		require.Equal(w, []store.Refusal{{Recipient: store.Recipient{MemberID: "bo"}, Reason: wire.ReasonQueueFull}}, again.Message.Refused)
		require.Empty(w, w.mail("m", "bo"), "there is room now, but the outcome stays")
	},
	"a direct draft that was refused is tried anew": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", draft("0", "ana", "bo"))
		d := direct(clientID("c", draft("1", "ana", "bo")))
		for range 2 {
			require.ErrorIs(w, w.try("m", store.Quota{PerMailbox: 1}, d)[0].Err, store.ErrQueueFull)
		}
		w.ack("m", "bo", "0")
		out := w.try("m", store.Quota{PerMailbox: 1}, d)[0]
		require.NoError(w, out.Err)
		require.False(w, out.Duplicate)
		require.Equal(w, []string{"1"}, w.mail("m", "bo"))
	},
	"a batch may mix stored and new drafts": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		one, three := direct(draft("1", "ana", "bo")), clientID("c", draft("3", "ana", "bo", "cy"))
		before := w.send("m", one, three)
		out := w.try("m", store.Quota{PerMailbox: 3}, draft("0", "cy", "cy"), three, direct(draft("2", "ana", "bo")), one, direct(draft("4", "ana", "bo")))
		require.NoError(w, out[0].Err)
		require.EqualValues(w, 3, out[0].Message.Seq)
		w.requireSameOutcome(before[1], out[1])
		require.NoError(w, out[2].Err)
		require.EqualValues(w, 4, out[2].Message.Seq)
		w.requireSameOutcome(before[0], out[3])
		require.ErrorIs(w, out[4].Err, store.ErrQueueFull)
		require.Equal(w, []string{"1", "3", "2"}, w.mail("m", "bo"))
		require.Equal(w, []string{"3", "0"}, w.mail("m", "cy"))
	},
	"a stale roster version is one for stored drafts too": func(w *world) {
		w.mesh("m", "ana", "bo")
		d := draft("1", "ana", "bo")
		first := w.send("m", d)[0]
		v := w.version("m")
		w.join("m", "cy")
		_, err := w.Enqueue(w.ctx, "m", v, []store.Draft{d}, store.Quota{}, noon)
		require.ErrorIs(w, err, store.ErrStale)
		w.requireSameOutcome(first, w.try("m", store.Quota{}, d)[0])
	},
	"one draft from many at once is stored once, and all get the same": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		v, d := w.version("m"), clientID("c", draft("1", "ana", "bo", "cy"))
		outs, errs := make([][]store.Enqueued, 20), make([]error, 20)
		together(len(outs), func(i int) {
			outs[i], errs[i] = w.Enqueue(w.ctx, "m", v, []store.Draft{d}, store.Quota{PerMailbox: 1}, noon)
		})
		for i, out := range outs {
			require.NoError(w, errs[i])
			w.requireSameOutcome(outs[0][0], out[0])
		}
		require.EqualValues(w, 1, w.lastSeq("m"))
		require.Equal(w, []string{"1"}, w.mail("m", "bo"))
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
		drafts[0].Message.SenderAttestation = anAttestation("ana")
		w.send("m", drafts...)
		drafts[0].Recipients[0].MemberID = "cy"
		drafts[0].Message.Ciphertext = "changed"
		drafts[0].Message.SenderAttestation.Signature, *drafts[0].Message.SenderAttestation.ExpiresAt = "changed", 1
		got, err := w.Message(w.ctx, "m", "1")
		require.NoError(w, err)
		require.Equal(w, anAttestation("ana"), got.SenderAttestation)
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
	"mail past its time makes room before anybody expires it": func(w *world) {
		w.mesh("m", "ana", "bo")
		until := func(d store.Draft, end time.Time) store.Draft {
			d.Message.ExpiresAt = end
			return direct(d)
		}
		for i, c := range []struct {
			to string
			q  store.Quota
		}{
			{"bo", store.Quota{PerMailbox: 10}},
			{"bo/" + key("s"), store.Quota{PerSender: 10}},
		} {
			start := after(time.Duration(i) * time.Hour)
			end := start.Add(time.Second)
			id := func(n int) string { return fmt.Sprintf("%d-%d", i, n) }
			for n := range 10 {
				require.NoError(w, w.tryAt(start, "m", c.q, until(draft(id(n), "ana", c.to), end))[0].Err)
			}
			next := until(draft(id(10), "ana", c.to), start.Add(time.Minute))
			require.ErrorIs(w, w.tryAt(end.Add(-time.Microsecond), "m", c.q, next)[0].Err, store.ErrQueueFull)
			require.Equal(w, map[string]store.DeliveryState{"bo": store.Pending}, w.states("m", id(0)))
			require.NoError(w, w.tryAt(end, "m", c.q, next)[0].Err, "at the exact moment")
			for n := range 10 {
				ds, err := w.Deliveries(w.ctx, "m", id(n))
				require.NoError(w, err)
				require.Len(w, ds, 1)
				require.Equal(w, []any{store.Expired, wire.ReasonTTL, end}, []any{ds[0].State, ds[0].ExpiredReason, ds[0].DoneAt})
				require.Empty(w, w.ack("m", c.to, id(n)), "it is final")
			}
			require.Equal(w, []string{id(10)}, w.mail("m", c.to))
			n, err := w.PendingCount(w.ctx)
			require.NoError(w, err)
			require.EqualValues(w, 1, n)
			require.Empty(w, w.expire(end, 0, 100), "Expire has nothing left of it")
			w.ack("m", c.to, id(10))
		}
	},
	"mail past its time is out of a multicast's way too": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		q := store.Quota{PerMailbox: 1}
		w.try("m", q, draft("1", "ana", "bo", "cy"))
		later := func(id string) store.Draft {
			return with(draft(id, "ana", "bo", "cy"), func(d *store.Draft) { d.Message.ExpiresAt = after(5 * time.Hour) })
		}
		out := w.tryAt(after(time.Hour), "m", q, later("2"), later("3"))
		require.Len(w, out[0].Recipients, 2)
		require.Empty(w, out[0].Message.Refused)
		require.Len(w, out[1].Message.Refused, 2, "but not what is in time")
		require.Equal(w, map[string]store.DeliveryState{"bo": store.Expired, "cy": store.Expired}, w.states("m", "1"))
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
