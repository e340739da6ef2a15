package storetest

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

var inbox = checks{
	"Sent finds by sender and client message id": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", clientID("c", draft("1", "ana", "bo")))
		got, err := w.Sent(w.ctx, "m", "ana", "c")
		require.NoError(w, err)
		require.Equal(w, "1", got.ID)
		for _, no := range [][3]string{{"m", "bo", "c"}, {"m", "ana", "d"}, {"n", "ana", "c"}} {
			_, err = w.Sent(w.ctx, no[0], no[1], no[2])
			require.ErrorIs(w, err, store.ErrNotFound)
		}
	},
	"Pending gives the member's and this session's mail, by seq": func(w *world) {
		w.mesh("m", "ana", "bo")
		s, s2 := key("s"), key("s2")
		w.send("m", prio(wire.PriorityLow, draft("1", "ana", "bo")), draft("2", "ana", "bo/"+s), prio(wire.PriorityNow, draft("3", "ana", "bo")),
			draft("4", "ana", "bo/"+s2), draft("5", "ana", "bo"), draft("6", "ana", "ana"))
		require.Equal(w, []string{"1", "3", "5"}, w.mail("m", "bo"))
		require.Equal(w, []string{"1", "2", "3", "5"}, w.mail("m", "bo/"+s))
		require.Equal(w, []string{"1", "3", "4", "5"}, w.mail("m", "bo/"+s2))
		require.Equal(w, []string{"1", "3", "5"}, w.mail("m", "bo/"+key("none")))
		require.Empty(w, w.mail("m", "cy"))
	},
	"Pending gives only wanted priorities, each above its seq": func(w *world) {
		w.mesh("m", "ana", "bo")
		ps := []wire.Priority{wire.PriorityNow, wire.PriorityNext, wire.PriorityLow}
		for i := range 9 {
			w.send("m", prio(ps[i%3], draft(fmt.Sprint(i+1), "ana", "bo"))) // its id is its seq
		}
		for _, c := range []struct {
			after map[wire.Priority]int64
			want  []string
		}{
			{nil, []string{}},
			{map[wire.Priority]int64{wire.PriorityNow: 0}, []string{"1", "4", "7"}},
			{map[wire.Priority]int64{wire.PriorityNow: 4, wire.PriorityLow: 3}, []string{"6", "7", "9"}},
			{map[wire.Priority]int64{wire.PriorityNow: 3, wire.PriorityNext: 8, wire.PriorityLow: 100}, []string{"4", "7"}},
		} {
			q := pendingQuery("m", "bo")
			q.After = c.after
			require.Equal(w, c.want, w.pull(q), "%v", c.after)
		}
	},
	"Pending pages by limit and UpTo": func(w *world) {
		w.mesh("m", "ana", "bo")
		for i := range 6 {
			w.send("m", draft(fmt.Sprint(i+1), "ana", "bo"))
		}
		q := pendingQuery("m", "bo")
		q.Limit = 2
		require.Equal(w, []string{"1", "2"}, w.pull(q))
		q.After = map[wire.Priority]int64{wire.PriorityNext: 4}
		require.Equal(w, []string{"5", "6"}, w.pull(q), "a page that ends exactly at the limit")
		q.After = map[wire.Priority]int64{wire.PriorityNext: 6}
		require.Empty(w, w.pull(q))
		q = pendingQuery("m", "bo")
		q.UpTo = 3
		require.Equal(w, []string{"1", "2", "3"}, w.pull(q))
		q.Limit = 3
		require.Equal(w, []string{"1", "2", "3"}, w.pull(q))
	},
	"Pending leaves out what has expired, at the exact moment": func(w *world) {
		w.mesh("m", "ana", "bo")
		forever := draft("2", "ana", "bo")
		forever.Message.ExpiresAt = time.Time{}
		w.send("m", draft("1", "ana", "bo"), forever)
		q := pendingQuery("m", "bo")
		q.Now = after(time.Hour - time.Microsecond)
		require.Equal(w, []string{"1", "2"}, w.pull(q))
		q.Now = after(time.Hour)
		require.Equal(w, []string{"2"}, w.pull(q))
		q.Now = after(100000 * time.Hour)
		require.Equal(w, []string{"2"}, w.pull(q), "no ExpiresAt is for ever")
	},
	"Pending continues where it was, whatever was acknowledged before": func(w *world) {
		w.mesh("m", "ana", "bo")
		ids := []string{}
		for i := range 500 {
			id := fmt.Sprintf("%03d", i+1)
			ids = append(ids, id)
			w.send("m", draft(id, "ana", "bo"))
		}
		w.ack("m", "bo", ids[10:490]...)
		q := pendingQuery("m", "bo")
		require.Equal(w, append(append([]string{}, ids[:10]...), ids[490:]...), w.pull(q))
		q.After = map[wire.Priority]int64{wire.PriorityNext: 9}
		q.Limit = 3
		require.Equal(w, []string{"010", "491", "492"}, w.pull(q))
		w.ack("m", "bo", ids[490:]...)
		w.ack("m", "bo", ids[:10]...)
		require.Empty(w, w.mail("m", "bo"))
		w.send("m", draft("last", "ana", "bo"))
		require.Equal(w, []string{"last"}, w.mail("m", "bo"))
	},
	"Ack makes done, once, and says what it changed": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", draft("1", "ana", "bo"), draft("2", "ana", "bo", "ana"))
		a := anAck("m", "bo", "2", "1", "unknown", "2")
		a.By, a.At = store.ByTransport, after(time.Second)
		changed, err := w.Ack(w.ctx, []store.Ack{a})
		require.NoError(w, err)
		require.Equal(w, []string{"1", "2"}, messageIDs(changed.Done))
		ds, err := w.Deliveries(w.ctx, "m", "2")
		require.NoError(w, err)
		require.Equal(w, "bo", ds[1].MemberID)
		require.Equal(w, store.Done, ds[1].State)
		require.Equal(w, store.ByTransport, ds[1].DoneBy)
		require.Equal(w, after(time.Second), ds[1].DoneAt)
		require.Contains(w, changed.Done, ds[1])
		require.Equal(w, store.Pending, ds[0].State)
		require.Zero(w, ds[0].DoneAt)

		require.Empty(w, w.ack("m", "bo", "1", "2"), "again is not an error")
		ds, err = w.Deliveries(w.ctx, "m", "2")
		require.NoError(w, err)
		require.Equal(w, store.ByTransport, ds[1].DoneBy, "done is final")
	},
	"all but the body outlives the last delivery": func(w *world) {
		w.mesh("m", "ana", "bo")
		d := clientID("c", draft("1", "ana", "bo"))
		d.Message.BodyHash, d.Message.SenderAttestation, d.Message.SenderSessionPubkey = key("b"), anAttestation("ana"), key("session of ana")
		want := bodiless(w.send("m", d)[0].Message)
		require.Equal(w, key("b"), want.BodyHash)
		require.Equal(w, anAttestation("ana"), want.SenderAttestation)
		w.ack("m", "bo", "1")
		got, err := w.Message(w.ctx, "m", "1")
		require.NoError(w, err)
		require.Equal(w, want, bodiless(got))
		got, err = w.Sent(w.ctx, "m", "ana", "c")
		require.NoError(w, err)
		require.Equal(w, want, bodiless(got))
		retry := d
		retry.Message.ID = "2"
		for _, again := range w.try("m", store.Quota{}, d, retry) {
			require.Equal(w, want, bodiless(again.Message), "told again, and told of as a duplicate")
		}
	},
	"Ack of one recipient touches no other's": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.mesh("n", "ana", "bo")
		s := key("s")
		for _, mesh := range []string{"m", "n"} {
			w.send(mesh, draft("1", "ana", "bo/"+s), draft("2", "ana", "bo"))
		}
		require.Empty(w, w.ack("m", "ana", "1", "2"))
		require.Empty(w, w.ack("m", "bo/"+key("other"), "1"))
		require.Empty(w, w.ack("m", "bo", "1"), "a connection without the session key")
		require.Equal(w, []string{"1", "2"}, w.ack("m", "bo/"+s, "1", "2"))
		require.Equal(w, []string{"1", "2"}, w.mail("n", "bo/"+s))
	},
	"Ack leaves alone what is above UpTo": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", draft("1", "ana", "bo"), draft("2", "ana", "bo"), draft("3", "ana", "bo"))
		a := anAck("m", "bo", "1", "2", "3")
		a.UpTo = 2
		changed, err := w.Ack(w.ctx, []store.Ack{a})
		require.NoError(w, err)
		require.Equal(w, []string{"1", "2"}, messageIDs(changed.Done))
		require.Equal(w, []string{"3"}, w.mail("m", "bo"))
	},
	"Ack takes many recipients and meshes at once": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.mesh("n", "ana", "bo")
		w.send("m", draft("1", "ana", "bo", "ana"))
		w.send("n", draft("1", "ana", "bo"))
		changed, err := w.Ack(w.ctx, []store.Ack{anAck("m", "bo", "1"), anAck("none", "bo", "1"), anAck("n", "bo", "1"), anAck("m", "ana", "1"), anAck("m", "bo")})
		require.NoError(w, err)
		require.Len(w, changed.Done, 3)
		changed, err = w.Ack(w.ctx, nil)
		require.NoError(w, err)
		require.Empty(w, changed.Done)
	},
	"Ack by many at once changes each delivery once": func(w *world) {
		w.mesh("m", "ana", "bo")
		ids := []string{}
		for i := range 50 {
			ids = append(ids, fmt.Sprint(i))
			w.send("m", draft(fmt.Sprint(i), "ana", "bo"))
		}
		var mu sync.Mutex
		times := map[string]int{}
		together(8, func(int) {
			changed, _ := w.Ack(w.ctx, []store.Ack{anAck("m", "bo", ids...)})
			mu.Lock()
			defer mu.Unlock()
			for _, d := range changed.Done {
				times[d.MessageID]++
			}
		})
		require.Len(w, times, 50)
		for id, n := range times {
			require.Equal(w, 1, n, id)
		}
		n, err := w.PendingCount(w.ctx)
		require.NoError(w, err)
		require.Zero(w, n)
	},
	"Ack does not wake the expired": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.send("m", draft("1", "ana", "bo"))
		_, err := w.Expire(w.ctx, after(time.Hour), 0, 10)
		require.NoError(w, err)
		require.Empty(w, w.ack("m", "bo", "1"))
		require.Equal(w, map[string]store.DeliveryState{"bo": store.Expired}, w.states("m", "1"))
	},
	"Message finds by id and by the start of one": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.mesh("n", "ana", "bo")
		w.send("m", draft("abc", "ana", "bo"), draft("abcd", "ana", "bo"), draft("abd", "ana", "bo"), draft("Abx", "ana", "bo"), draft("z%_", "ana", "bo"))
		w.send("n", draft("abde", "ana", "bo"))
		for ref, want := range map[string]any{
			"abc": "abc", "abcd": "abcd", "abd": "abd", "A": "Abx", "z": "z%_", "z%_": "z%_",
			"ab": store.ErrAmbiguous, "a": store.ErrAmbiguous, "abe": store.ErrNotFound, "abcde": store.ErrNotFound, "B": store.ErrNotFound,
			"%": store.ErrNotFound, "_bc": store.ErrNotFound, "ab%": store.ErrNotFound, "aB": store.ErrNotFound, "'": store.ErrNotFound,
		} {
			got, err := w.Message(w.ctx, "m", ref)
			if target, refused := want.(error); refused {
				require.ErrorIs(w, err, target, ref)
				continue
			}
			require.NoError(w, err, ref)
			require.Equal(w, want, got.ID, ref)
		}
	},
	"Message finds one of many by the start of its id": func(w *world) {
		w.mesh("m", "ana", "bo")
		drafts := []store.Draft{}
		for i := range 1000 {
			drafts = append(drafts, draft(key(fmt.Sprint(i))[:32], "ana"))
		}
		w.send("m", drafts...)
		for i := range 1000 {
			id := key(fmt.Sprint(i))[:32]
			got, err := w.Message(w.ctx, "m", id[:16])
			require.NoError(w, err)
			require.Equal(w, id, got.ID)
		}
		_, err := w.Message(w.ctx, "m", "a")
		require.ErrorIs(w, err, store.ErrAmbiguous)
	},
	"Deliveries come by recipient, and none is none": func(w *world) {
		w.mesh("m", "a", "b", "B")
		w.send("m", draft("1", "a", "b/"+strings.Repeat("2", 64), "b", "a", "b/"+strings.Repeat("1", 64), "B"), draft("2", "a"))
		ds, err := w.Deliveries(w.ctx, "m", "1")
		require.NoError(w, err)
		got := []store.Recipient{}
		for _, d := range ds {
			got = append(got, d.Recipient)
		}
		require.Equal(w, []store.Recipient{
			{MemberID: "B"}, {MemberID: "a"}, {MemberID: "b"},
			{MemberID: "b", SessionPubkey: strings.Repeat("1", 64)}, {MemberID: "b", SessionPubkey: strings.Repeat("2", 64)},
		}, got)
		for _, none := range []string{"2", "3"} {
			ds, err = w.Deliveries(w.ctx, "m", none)
			require.NoError(w, err)
			require.Empty(w, ds)
		}
	},
	"History pages in both directions": func(w *world) {
		w.mesh("m", "ana")
		w.topic("m", "t", "ana")
		w.topic("m", "u", "ana")
		for i := range 5 { // seqs of t: 1, 3, 5, 7, 9
			w.send("m", post("t", draft(fmt.Sprint("t", i), "ana")), post("u", draft(fmt.Sprint("u", i), "ana")))
		}
		for _, c := range []struct {
			q    store.HistoryQuery
			want []string
		}{
			{store.HistoryQuery{Limit: 10}, []string{"t4", "t3", "t2", "t1", "t0"}},
			{store.HistoryQuery{Limit: 5}, []string{"t4", "t3", "t2", "t1", "t0"}},
			{store.HistoryQuery{Limit: 2}, []string{"t4", "t3"}},
			{store.HistoryQuery{Before: 7, Limit: 2}, []string{"t2", "t1"}},
			{store.HistoryQuery{Before: 3, Limit: 2}, []string{"t0"}},
			{store.HistoryQuery{Before: 1, Limit: 2}, []string{}},
			{store.HistoryQuery{Before: 100, Limit: 1}, []string{"t4"}},
			{store.HistoryQuery{Forward: true, Limit: 2}, []string{"t0", "t1"}},
			{store.HistoryQuery{Forward: true, After: 3, Limit: 2}, []string{"t2", "t3"}},
			{store.HistoryQuery{Forward: true, After: 4, Limit: 9}, []string{"t2", "t3", "t4"}},
			{store.HistoryQuery{Forward: true, After: 9, Limit: 9}, []string{}},
		} {
			c.q.TopicID = "t"
			require.Equal(w, c.want, w.history(c.q), "%+v", c.q)
		}
		require.Empty(w, w.history(store.HistoryQuery{TopicID: "none", Limit: 9}))
		_, err := w.ArchiveTopic(w.ctx, "m", "t", noon)
		require.NoError(w, err)
		require.Len(w, w.history(store.HistoryQuery{TopicID: "t", Limit: 9}), 5, "archived or not")
	},
	"LastSeq is that of the newest message": func(w *world) {
		w.mesh("m", "ana")
		w.mesh("n", "ana")
		seq := func(mesh string) int64 {
			n, err := w.LastSeq(w.ctx, mesh)
			require.NoError(w, err)
			return n
		}
		require.Zero(w, seq("m"))
		w.send("m", draft("1", "ana"), draft("2", "ana"))
		require.EqualValues(w, 2, seq("m"))
		require.Zero(w, seq("n"))
	},
}
