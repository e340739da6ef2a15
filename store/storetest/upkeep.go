package storetest

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

func (w *world) expire(now time.Time, gone time.Duration, limit int) []store.Delivery {
	w.Helper()
	ds, err := w.Expire(w.ctx, now, gone, limit)
	require.NoError(w, err)
	return ds
}

func (w *world) has(id string) bool {
	w.Helper()
	_, err := w.Message(w.ctx, "m", id)
	if err != nil {
		require.ErrorIs(w, err, store.ErrNotFound)
	}
	return err == nil
}

var upkeep = checks{
	"Ping answers": func(w *world) { require.NoError(w, w.Ping(w.ctx)) },
	"Expire ends what is due, at the exact moment": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.mesh("n", "ana", "bo")
		later := draft("2", "ana", "bo")
		later.Message.ExpiresAt = after(time.Hour + time.Microsecond)
		never := draft("3", "ana", "bo")
		never.Message.ExpiresAt = time.Time{}
		w.send("m", draft("1", "ana", "bo", "cy"), later, never)
		w.send("n", draft("1", "ana", "bo"))
		w.ack("m", "cy", "1")
		require.Empty(w, w.expire(after(time.Hour-time.Microsecond), 0, 10))
		ds := w.expire(after(time.Hour), 0, 10)
		require.Len(w, ds, 2)
		for _, d := range ds {
			require.Equal(w, []any{"1", "bo", store.Expired, wire.ReasonTTL, after(time.Hour)}, []any{d.MessageID, d.MemberID, d.State, d.ExpiredReason, d.DoneAt})
		}
		require.Equal(w, map[string]store.DeliveryState{"bo": store.Expired, "cy": store.Done}, w.states("m", "1"))
		require.Len(w, w.expire(after(2*time.Hour), 0, 10), 1)
		require.Empty(w, w.expire(after(100000*time.Hour), 0, 10))
		require.Equal(w, []string{"3"}, w.mail("m", "bo"))
	},
	"Expire does at most limit, and less means that nothing is left": func(w *world) {
		w.mesh("m", "a", "b", "c")
		for i := range 4 {
			w.send("m", draft(fmt.Sprint(i), "a", "a", "b", "c"))
		}
		total := 0
		for _, want := range []int{5, 5, 2, 0} {
			n := len(w.expire(after(time.Hour), 0, 5))
			require.Equal(w, want, n)
			total += n
		}
		require.Equal(w, 12, total)
	},
	"Expire ends mail of sessions that are gone, and no other": func(w *world) {
		w.mesh("m", "ana", "bo")
		s := key("s")
		p := w.open(aPresence("m", "p", "bo", s))
		w.open(aPresence("m", "q", "bo", key("open")))
		forever := func(id, to string) store.Draft {
			d := draft(id, "ana", to)
			d.Message.ExpiresAt = time.Time{}
			return d
		}
		w.send("m", forever("1", "bo/"+s), forever("2", "bo"), forever("3", "bo/"+key("open")))
		require.Empty(w, w.expire(after(100*time.Hour), time.Hour, 10), "it is open")
		_, err := w.ClosePresence(w.ctx, "m", "p", p.BrokerID, p.Epoch, noon)
		require.NoError(w, err)
		require.Empty(w, w.expire(after(100*time.Hour), 0, 10), "0 leaves session mail alone")
		require.Empty(w, w.expire(after(100*time.Hour), -1, 10))
		require.Empty(w, w.expire(after(time.Hour), time.Hour, 10), "not before, but at that time")
		ds := w.expire(after(time.Hour+time.Microsecond), time.Hour, 10)
		require.Equal(w, []string{"1"}, messageIDs(ds))
		require.Equal(w, wire.ReasonTTL, ds[0].ExpiredReason)
		w.send("m", forever("4", "bo/"+s)) // to one that is gone already
		require.Equal(w, []string{"4"}, messageIDs(w.expire(after(2*time.Hour), time.Hour, 10)))
		require.Equal(w, []string{"2", "3"}, w.mail("m", "bo/"+key("open")))
	},
	"a session that came back keeps its mail": func(w *world) {
		w.mesh("m", "ana", "bo")
		s := key("s")
		p := w.open(aPresence("m", "p", "bo", s))
		w.send("m", with(draft("1", "ana", "bo/"+s), func(d *store.Draft) { d.Message.ExpiresAt = time.Time{} }))
		_, err := w.ClosePresence(w.ctx, "m", "p", p.BrokerID, p.Epoch, noon)
		require.NoError(w, err)
		q := w.open(aPresence("m", "q", "bo", s))
		require.Empty(w, w.expire(after(10*time.Hour), time.Hour, 10))
		_, err = w.ClosePresence(w.ctx, "m", "q", q.BrokerID, q.Epoch, after(10*time.Hour))
		require.NoError(w, err)
		require.Empty(w, w.expire(after(10*time.Hour), time.Hour, 10), "the last one counts")
		require.Len(w, w.expire(after(12*time.Hour), time.Hour, 10), 1)
	},
	"Expire by many at once changes each delivery once": func(w *world) {
		w.mesh("m", "ana", "bo")
		for i := range 30 {
			w.send("m", draft(fmt.Sprint(i), "ana", "bo"))
		}
		found := make([]int, 6)
		together(6, func(i int) {
			ds, _ := w.Expire(w.ctx, after(time.Hour), 0, 100)
			found[i] = len(ds)
		})
		total := 0
		for _, n := range found {
			total += n
		}
		require.Equal(w, 30, total)
	},
	"PendingCount counts pending deliveries of all meshes": func(w *world) {
		count := func() int64 {
			n, err := w.PendingCount(w.ctx)
			require.NoError(w, err)
			return n
		}
		require.Zero(w, count())
		w.mesh("m", "ana", "bo")
		w.mesh("n", "ana", "bo")
		w.send("m", draft("1", "ana", "bo", "ana"), draft("2", "ana", "bo/"+key("s")))
		w.send("n", draft("1", "ana", "bo"))
		require.EqualValues(w, 4, count())
		w.ack("m", "ana", "1")
		require.EqualValues(w, 3, count())
		w.expire(after(time.Hour), 0, 10)
		require.Zero(w, count())
	},
	"Prune keeps everything when told nothing": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.topic("m", "t", "ana")
		w.send("m", draft("1", "ana"))
		w.mention(noon, "t", "2")
		require.NoError(w, w.CreateAPIKey(w.ctx, anAPIKey("m", "k", "ana"), 0))
		require.NoError(w, w.RevokeAPIKey(w.ctx, "m", "k", noon))
		w.pruned(after(1_000_000*time.Hour), store.Retention{})
		w.pruned(after(1_000_000*time.Hour), store.Retention{Presences: -1, Notifications: -1, APIKeys: -1, Topics: -1, Messages: -1})
		require.True(w, w.has("1"))
		require.True(w, w.has("2"))
		require.Len(w, w.notices(store.NotificationQuery{MemberID: "bo", Limit: 9}), 1)
		_, err := w.APIKey(w.ctx, "m", "k")
		require.NoError(w, err)
	},
	"Prune keeps messages until ExpiresAt, for at least the retention, and while pending": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		short, long, waits, forever := draft("short", "ana", "bo"), draft("long", "ana", "bo"), draft("waits", "ana", "bo"), draft("forever", "ana", "bo")
		short.Message.ExpiresAt = after(time.Minute)
		long.Message.ExpiresAt = after(5 * time.Hour)
		forever.Message.ExpiresAt = time.Time{}
		w.send("m", clientID("c", short), long, waits, forever, post("t", draft("post", "ana")), draft("to nobody", "ana"))
		w.ack("m", "bo", "short", "long")
		keep := store.Retention{Messages: 2 * time.Hour}
		w.pruned(after(2*time.Hour-time.Microsecond), keep)
		require.True(w, w.has("short"), "for at least the retention")
		require.True(w, w.has("to nobody"))
		w.pruned(after(2*time.Hour), keep)
		require.False(w, w.has("short"))
		require.False(w, w.has("to nobody"))
		require.True(w, w.has("long"), "until ExpiresAt")
		require.Equal(w, []string{"waits", "forever"}, w.mail("m", "bo"))
		w.pruned(after(5*time.Hour), keep)
		require.False(w, w.has("long"))
		require.True(w, w.has("waits"), "pending, though past its time")
		require.True(w, w.has("post"), "it belongs to a topic")
		w.expire(after(5*time.Hour), 0, 10)
		w.pruned(after(5*time.Hour), keep)
		require.False(w, w.has("waits"))
		require.True(w, w.has("forever"))
		_, err := w.Sent(w.ctx, "m", "ana", "c")
		require.ErrorIs(w, err, store.ErrNotFound)
		again := clientID("c", draft("again", "ana", "bo"))
		w.sendAt(after(5*time.Hour), "m", again)
		require.Empty(w, w.states("m", "short"))
	},
	"Prune follows a retention that changes": func(w *world) {
		w.mesh("m", "ana")
		w.send("m", with(draft("1", "ana"), func(d *store.Draft) { d.Message.ExpiresAt = noon.Add(time.Second) }))
		w.pruned(after(time.Hour), store.Retention{Messages: 24 * time.Hour})
		require.True(w, w.has("1"))
		w.pruned(after(time.Hour), store.Retention{Messages: time.Minute})
		require.False(w, w.has("1"))
	},
	"Prune ends topic history by age, but not what is pending": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		w.send("m", post("t", draft("old", "ana", "bo")), post("t", draft("waits", "ana", "bo")))
		w.sendAt(after(time.Minute), "m", post("t", draft("new", "ana")))
		w.ack("m", "bo", "old")
		w.pruned(after(2*time.Hour-time.Microsecond), store.Retention{Topics: 2 * time.Hour})
		require.True(w, w.has("old"))
		w.pruned(after(2*time.Hour), store.Retention{Topics: 2 * time.Hour})
		require.False(w, w.has("old"))
		require.Equal(w, []string{"waits"}, w.mail("m", "bo"))
		require.True(w, w.has("new"))
		w.ack("m", "bo", "waits")
		w.pruned(after(2*time.Hour), store.Retention{Topics: 2 * time.Hour})
		require.False(w, w.has("waits"))
		require.Equal(w, []string{"new"}, w.history(store.HistoryQuery{TopicID: "t", Limit: 9}))
		seq, err := w.LastSeq(w.ctx, "m")
		require.NoError(w, err)
		require.EqualValues(w, 3, seq, "seqs are not used again")
	},
	"a message takes its notifications with it": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.topic("m", "t", "ana")
		w.mention(noon, "t", "1")
		w.mention(after(time.Hour), "t", "2")
		w.pruned(after(time.Hour), store.Retention{Topics: time.Hour})
		require.Equal(w, []string{"2"}, noticed(w.notices(store.NotificationQuery{MemberID: "bo", Limit: 9})))
	},
	"Prune deletes old notifications": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.topic("m", "t", "ana")
		w.mention(noon, "t", "1")
		w.mention(after(time.Second), "t", "2")
		w.pruned(after(time.Hour), store.Retention{Notifications: time.Hour})
		require.Equal(w, []string{"2"}, noticed(w.notices(store.NotificationQuery{MemberID: "bo", Limit: 9})))
		require.True(w, w.has("1"))
	},
	"Prune deletes ended API keys": func(w *world) {
		w.mesh("m", "ana")
		for id, change := range map[string]func(*store.APIKey){
			"live": func(*store.APIKey) {}, "expired": func(k *store.APIKey) { k.ExpiresAt = noon },
			"later": func(k *store.APIKey) { k.ExpiresAt = after(time.Second) }, "revoked": func(k *store.APIKey) { k.RevokedAt = noon },
		} {
			k := anAPIKey("m", id, "ana")
			change(&k)
			require.NoError(w, w.CreateAPIKey(w.ctx, k, 0))
		}
		w.pruned(after(time.Hour), store.Retention{APIKeys: time.Hour})
		ks, err := w.ListAPIKeys(w.ctx, "m", "")
		require.NoError(w, err)
		require.ElementsMatch(w, []string{"later", "live"}, keyIDs(ks))
		ks, err = w.APIKeysByPrefix(w.ctx, anAPIKey("m", "", "").Prefix)
		require.NoError(w, err)
		require.Len(w, ks, 2)
	},
	"Prune deletes closed presences, at the exact moment": func(w *world) {
		w.mesh("m", "ana")
		for i, id := range []string{"a", "b"} {
			p := w.open(aPresence("m", id, "ana", key("s"+id)))
			_, err := w.ClosePresence(w.ctx, "m", id, p.BrokerID, p.Epoch, after(time.Duration(i)*time.Microsecond))
			require.NoError(w, err)
		}
		w.open(aPresence("m", "open", "ana", key("sopen")))
		w.pruned(after(time.Hour), store.Retention{Presences: time.Hour})
		known := []string{}
		for _, s := range []string{"sa", "sb", "sopen"} {
			if _, _, err := w.SessionKeyOwner(w.ctx, "m", key(s), noon); err == nil {
				known = append(known, s)
			}
		}
		require.Equal(w, []string{"sb", "sopen"}, known)
	},
	"Prune of much is done in the end": func(w *world) {
		w.mesh("m", "ana")
		drafts := []store.Draft{}
		for i := range 2500 {
			drafts = append(drafts, draft(fmt.Sprintf("%04d", i), "ana"))
		}
		w.send("m", drafts...)
		w.pruned(after(time.Hour), store.Retention{Messages: time.Second})
		for _, d := range drafts {
			require.False(w, w.has(d.Message.ID))
		}
	},
}
