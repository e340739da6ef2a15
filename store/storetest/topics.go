package storetest

import (
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

func aKey(sealer string) store.SealedKey {
	return store.SealedKey{EncryptedKey: "copy of " + sealer, Nonce: "n", SealedByMemberID: sealer, CreatedAt: noon}
}

// encrypted makes topic "t" of mesh "m", led by ana, with a key that ana holds.
func (w *world) encrypted(others ...string) {
	w.Helper()
	w.topic("m", "t", "ana", others...)
	require.NoError(w, w.ClaimTopicKey(w.ctx, "m", "t", "ana", key("topic"), aKey("ana"), false))
}

var topics = checks{
	"CreateTopic stores topic, lead and key": func(w *world) {
		w.mesh("m", "ana")
		want := aTopic("m", "t", "ana")
		want.EncryptedKeyPubkey, want.Visibility = key("x"), wire.VisibilityPrivate
		got, created, err := w.CreateTopic(w.ctx, store.NewTopic{Topic: want, Key: ptr(aKey("ana"))})
		require.NoError(w, err)
		require.True(w, created)
		require.Equal(w, want, got)
		got, err = w.TopicByID(w.ctx, "m", "t")
		require.NoError(w, err)
		require.Equal(w, want, got)
		sub, err := w.Subscription(w.ctx, "m", "t", "ana")
		require.NoError(w, err)
		require.Equal(w, store.Subscription{TopicID: "t", MemberID: "ana", Role: wire.TopicLead, JoinedAt: noon, HasKey: true}, sub)
		k, err := w.TopicKey(w.ctx, "m", "t", "ana")
		require.NoError(w, err)
		require.Equal(w, aKey("ana"), k)
	},
	"CreateTopic of a name in use returns that topic and changes nothing": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		again := aTopic("m", "new", "bo")
		again.Name = "t"
		got, created, err := w.CreateTopic(w.ctx, store.NewTopic{Topic: again, Key: ptr(aKey("bo")), MaxTopics: 1, MaxOwned: 1})
		require.NoError(w, err)
		require.False(w, created)
		require.Equal(w, aTopic("m", "t", "ana"), got)
		_, err = w.Subscription(w.ctx, "m", "t", "bo")
		require.ErrorIs(w, err, store.ErrNotFound)
		_, err = w.TopicByID(w.ctx, "m", "new")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"CreateTopic of an archived name makes a new topic": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		_, err := w.ArchiveTopic(w.ctx, "m", "t", noon)
		require.NoError(w, err)
		again := aTopic("m", "t2", "bo")
		again.Name = "t"
		w.create(store.NewTopic{Topic: again})
		got, err := w.Topic(w.ctx, "m", "t")
		require.NoError(w, err)
		require.Equal(w, "t2", got.ID)
	},
	"CreateTopic with a used id is a conflict, of an unknown or revoked creator not found": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		again := aTopic("m", "t", "ana")
		again.Name = "other"
		require.ErrorIs(w, third(w.CreateTopic(w.ctx, store.NewTopic{Topic: again})), store.ErrConflict)
		_, err := w.RevokeMember(w.ctx, "m", "bo", noon)
		require.NoError(w, err)
		for _, who := range []string{"bo", "nobody"} {
			require.ErrorIs(w, third(w.CreateTopic(w.ctx, store.NewTopic{Topic: aTopic("m", "x", who)})), store.ErrNotFound)
		}
		w.create(store.NewTopic{Topic: aTopic("m", "of the host", "")})
	},
	"CreateTopic stops exactly at the limits, archived ones do not count": func(w *world) {
		w.mesh("m", "ana", "bo") // has general
		try := func(id, who string, all, owned int) error {
			return third(w.CreateTopic(w.ctx, store.NewTopic{Topic: aTopic("m", id, who), MaxTopics: all, MaxOwned: owned}))
		}
		require.NoError(w, try("1", "ana", 3, 1))
		require.ErrorIs(w, try("2", "ana", 3, 1), store.ErrLimit)
		require.NoError(w, try("2", "bo", 3, 1))
		require.ErrorIs(w, try("3", "bo", 3, 2), store.ErrLimit)
		_, err := w.ArchiveTopic(w.ctx, "m", "1", noon)
		require.NoError(w, err)
		require.NoError(w, try("3", "ana", 3, 1))
		require.NoError(w, try("4", "ana", 0, 0))
	},
	"CreateTopic of one name by many at once makes one": func(w *world) {
		w.mesh("m", "ana")
		var mu sync.Mutex
		made, ids := 0, map[string]bool{}
		together(20, func(i int) {
			in := aTopic("m", fmt.Sprint("t", i), "ana")
			in.Name = "same"
			got, created, err := w.CreateTopic(w.ctx, store.NewTopic{Topic: in})
			mu.Lock()
			defer mu.Unlock()
			if created && err == nil {
				made++
			}
			ids[got.ID] = true
		})
		require.Equal(w, 1, made)
		require.Len(w, ids, 1)
	},
	"Topic finds by id, then by name, and nothing archived": func(w *world) {
		w.mesh("m", "ana")
		w.mesh("n", "ana")
		a, b := aTopic("m", "1", "ana"), aTopic("m", "2", "ana")
		a.Name, b.Name = "2", "Ä"
		w.create(store.NewTopic{Topic: a})
		w.create(store.NewTopic{Topic: b})
		id := func(ref string) string {
			t, err := w.Topic(w.ctx, "m", ref)
			if err != nil {
				require.ErrorIs(w, err, store.ErrNotFound)
			}
			return t.ID
		}
		require.Equal(w, "1", id("1"))
		require.Equal(w, "2", id("2"), "the id wins")
		require.Equal(w, "2", id("Ä"))
		require.Empty(w, id("ä"))
		_, err := w.ArchiveTopic(w.ctx, "m", "2", noon)
		require.NoError(w, err)
		require.Equal(w, "1", id("2"), "by name")
		require.Empty(w, id("Ä"))
		got, err := w.TopicByID(w.ctx, "m", "2")
		require.NoError(w, err)
		require.Equal(w, noon, got.ArchivedAt)
		_, err = w.TopicByID(w.ctx, "n", "2")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"Topics lists by name, in byte order": func(w *world) {
		w.mesh("m", "ana")
		for _, id := range []string{"b", "é", "A", "z", "_", "gone"} {
			w.topic("m", id, "ana")
		}
		_, err := w.ArchiveTopic(w.ctx, "m", "gone", noon)
		require.NoError(w, err)
		ts, err := w.Topics(w.ctx, "m")
		require.NoError(w, err)
		names := []string{}
		for _, t := range ts {
			names = append(names, t.Name)
		}
		require.Equal(w, []string{"A", "_", "b", "general", "z", "é"}, names)
	},
	"Subscribe keeps the row there is, and changes the role only if told": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana", "bo")
		for _, c := range []struct {
			role    string
			replace bool
			want    string
		}{{wire.TopicLead, false, wire.TopicMember}, {wire.TopicObserver, true, wire.TopicObserver}} {
			joined, err := w.Subscribe(w.ctx, "m", "t", "bo", c.role, c.replace, after(time.Hour))
			require.NoError(w, err)
			require.False(w, joined)
			sub, err := w.Subscription(w.ctx, "m", "t", "bo")
			require.NoError(w, err)
			require.Equal(w, store.Subscription{TopicID: "t", MemberID: "bo", Role: c.want, JoinedAt: noon}, sub)
		}
	},
	"Subscribe refuses unknown and archived topics, unknown and revoked members": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		w.topic("m", "old", "ana")
		_, err := w.ArchiveTopic(w.ctx, "m", "old", noon)
		require.NoError(w, err)
		_, err = w.RevokeMember(w.ctx, "m", "bo", noon)
		require.NoError(w, err)
		for _, c := range [][2]string{{"none", "ana"}, {"old", "ana"}, {"t", "none"}, {"t", "bo"}} {
			_, err = w.Subscribe(w.ctx, "m", c[0], c[1], wire.TopicMember, false, noon)
			require.ErrorIs(w, err, store.ErrNotFound, c)
		}
	},
	"Unsubscribe ends subscription, sealed copy and the topic's pending mail": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.encrypted("bo")
		w.topic("m", "u", "ana", "bo")
		require.NoError(w, w.SealTopicKey(w.ctx, "m", "t", "bo", aKey("ana"), false))
		w.open(aPresence("m", "p", "bo", key("s")))
		w.send("m", post("t", draft("1", "ana", "bo", "ana")), post("u", draft("2", "ana", "bo")), draft("3", "ana", "bo"), post("t", draft("4", "ana", "bo/"+key("s"))))
		expired, err := w.Unsubscribe(w.ctx, "m", "t", "bo", after(time.Second))
		require.NoError(w, err)
		require.Equal(w, []string{"1", "4"}, messageIDs(expired))
		for _, d := range expired {
			require.Equal(w, []any{store.Expired, wire.ReasonRevoked, after(time.Second)}, []any{d.State, d.ExpiredReason, d.DoneAt})
		}
		require.Equal(w, []string{"2", "3"}, w.mail("m", "bo/"+key("s")))
		require.Equal(w, []string{"1"}, w.mail("m", "ana"))
		_, err = w.TopicKey(w.ctx, "m", "t", "bo")
		require.ErrorIs(w, err, store.ErrNotFound)
		_, err = w.Subscription(w.ctx, "m", "t", "bo")
		require.ErrorIs(w, err, store.ErrNotFound)
		for _, c := range [][2]string{{"t", "bo"}, {"none", "bo"}, {"t", "none"}} {
			expired, err = w.Unsubscribe(w.ctx, "m", c[0], c[1], noon)
			require.NoError(w, err)
			require.Empty(w, expired)
		}
	},
	"Subscriptions lists members that are not revoked, by MemberID": func(w *world) {
		w.mesh("m", "c", "a", "b", "B")
		w.topic("m", "t", "c", "a", "b", "B")
		_, err := w.RevokeMember(w.ctx, "m", "b", noon)
		require.NoError(w, err)
		subs, err := w.Subscriptions(w.ctx, "m", "t")
		require.NoError(w, err)
		ids := []string{}
		for _, s := range subs {
			ids = append(ids, s.MemberID)
		}
		require.Equal(w, []string{"B", "a", "c"}, ids)
		subs, err = w.Subscriptions(w.ctx, "m", "none")
		require.NoError(w, err)
		require.Empty(w, subs)
	},
	"MarkRead reads up to the mesh's newest message": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana")
		w.send("m", post("t", draft("1", "ana")), draft("2", "ana"))
		done, err := w.MarkRead(w.ctx, "m", "t", "ana", false, after(time.Second))
		require.NoError(w, err)
		require.True(w, done)
		sub, err := w.Subscription(w.ctx, "m", "t", "ana")
		require.NoError(w, err)
		require.EqualValues(w, 2, sub.LastReadSeq)
		require.Equal(w, after(time.Second), sub.LastReadAt)

		done, err = w.MarkRead(w.ctx, "m", "t", "bo", false, noon)
		require.NoError(w, err)
		require.False(w, done)
		done, err = w.MarkRead(w.ctx, "m", "t", "bo", true, after(time.Minute))
		require.NoError(w, err)
		require.True(w, done)
		sub, err = w.Subscription(w.ctx, "m", "t", "bo")
		require.NoError(w, err)
		require.Equal(w, store.Subscription{
			TopicID: "t", MemberID: "bo", Role: wire.TopicMember, JoinedAt: after(time.Minute), LastReadAt: after(time.Minute), LastReadSeq: 2,
		}, sub)
		for _, c := range [][2]string{{"none", "bo"}, {"t", "none"}} {
			done, err = w.MarkRead(w.ctx, "m", c[0], c[1], true, noon)
			require.NoError(w, err)
			require.False(w, done)
		}
	},
	"Unread counts others' messages above LastReadSeq, up to the limit": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.topic("m", "t", "ana", "bo")
		w.topic("m", "u", "ana", "bo")
		unread := func(member string, limit int) map[string]int {
			got, err := w.Unread(w.ctx, "m", member, []string{"t", "u", "none"}, limit)
			require.NoError(w, err)
			return got
		}
		w.send("m", post("t", draft("1", "ana")), post("t", draft("2", "bo")), post("u", draft("3", "ana")), post("t", draft("4", "ana")))
		require.Equal(w, map[string]int{"t": 2, "u": 1, "none": 0}, unread("bo", 10))
		require.Equal(w, map[string]int{"t": 2, "u": 1, "none": 0}, unread("bo", 2))
		require.Equal(w, map[string]int{"t": 1, "u": 1, "none": 0}, unread("bo", 1))
		require.Equal(w, map[string]int{"t": 3, "u": 1, "none": 0}, unread("cy", 10), "never subscribed is never read")
		_, err := w.MarkRead(w.ctx, "m", "t", "bo", false, noon)
		require.NoError(w, err)
		w.send("m", post("t", draft("5", "cy")), post("t", draft("6", "bo")))
		require.Equal(w, map[string]int{"t": 1, "u": 1, "none": 0}, unread("bo", 10))
	},
	"ArchiveTopic expires its pending mail, once": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.topic("m", "t", "ana", "bo")
		w.send("m", post("t", draft("1", "ana", "bo", "ana")), draft("2", "ana", "bo"), post("t", draft("3", "ana", "bo")))
		w.ack("m", "bo", "3")
		expired, err := w.ArchiveTopic(w.ctx, "m", "t", after(time.Second))
		require.NoError(w, err)
		require.Equal(w, []string{"1", "1"}, messageIDs(expired))
		require.Equal(w, wire.ReasonRevoked, expired[0].ExpiredReason)
		require.Equal(w, []string{"2"}, w.mail("m", "bo"))
		expired, err = w.ArchiveTopic(w.ctx, "m", "t", after(time.Hour))
		require.NoError(w, err)
		require.Empty(w, expired)
		got, err := w.TopicByID(w.ctx, "m", "t")
		require.NoError(w, err)
		require.Equal(w, after(time.Second), got.ArchivedAt)
		_, err = w.ArchiveTopic(w.ctx, "m", "none", noon)
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"RestoreTopic brings it back unless its name is in use": func(w *world) {
		w.mesh("m", "ana")
		w.topic("m", "t", "ana")
		require.NoError(w, w.RestoreTopic(w.ctx, "m", "t"), "it is not archived")
		_, err := w.ArchiveTopic(w.ctx, "m", "t", noon)
		require.NoError(w, err)
		other := aTopic("m", "t2", "ana")
		other.Name = "t"
		w.create(store.NewTopic{Topic: other})
		require.ErrorIs(w, w.RestoreTopic(w.ctx, "m", "t"), store.ErrConflict)
		_, err = w.ArchiveTopic(w.ctx, "m", "t2", noon)
		require.NoError(w, err)
		require.NoError(w, w.RestoreTopic(w.ctx, "m", "t"))
		got, err := w.Topic(w.ctx, "m", "t")
		require.NoError(w, err)
		require.Equal(w, aTopic("m", "t", "ana"), got)
		require.ErrorIs(w, w.RestoreTopic(w.ctx, "m", "none"), store.ErrNotFound)
	},
}

var topicKeys = checks{
	"SealTopicKey refuses in its order": func(w *world) {
		w.mesh("m", "ana", "bo", "cy", "dee", "gone")
		w.topic("m", "plain", "ana")
		w.encrypted("bo", "cy", "gone")
		_, err := w.RevokeMember(w.ctx, "m", "gone", noon)
		require.NoError(w, err)
		seal := func(topic, to, by string, overwrite bool) error {
			return w.SealTopicKey(w.ctx, "m", topic, to, aKey(by), overwrite)
		}
		require.ErrorIs(w, seal("plain", "nobody", "bo", false), store.ErrUnencrypted)
		require.ErrorIs(w, seal("t", "dee", "bo", false), store.ErrNotFound, "no topic member, before no holder")
		require.ErrorIs(w, seal("t", "gone", "ana", false), store.ErrNotFound, "revoked")
		require.ErrorIs(w, seal("none", "bo", "ana", false), store.ErrNotFound)
		require.ErrorIs(w, seal("t", "ana", "bo", false), store.ErrNotHolder, "before the conflict")
		require.NoError(w, seal("t", "bo", "ana", false))
		require.ErrorIs(w, seal("t", "bo", "ana", false), store.ErrConflict)
		rejected, err := w.RejectTopicKey(w.ctx, "m", "t", "bo")
		require.NoError(w, err)
		require.True(w, rejected)
		require.NoError(w, seal("t", "cy", "ana", false))
		require.ErrorIs(w, seal("t", "bo", "ana", false), store.ErrRejected)
		require.NoError(w, seal("t", "bo", "cy", false))
		require.ErrorIs(w, seal("t", "bo", "ana", true), store.ErrRejected, "before the conflict, and overwriting is no way around")
	},
	"an overwritten copy keeps CreatedAt and gets RotatedAt": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.encrypted("bo")
		require.NoError(w, w.SealTopicKey(w.ctx, "m", "t", "bo", aKey("ana"), true))
		first, err := w.TopicKey(w.ctx, "m", "t", "bo")
		require.NoError(w, err)
		require.Equal(w, aKey("ana"), first)
		next := aKey("ana")
		next.EncryptedKey, next.CreatedAt = "next", after(time.Hour)
		require.NoError(w, w.SealTopicKey(w.ctx, "m", "t", "bo", next, true))
		got, err := w.TopicKey(w.ctx, "m", "t", "bo")
		require.NoError(w, err)
		next.CreatedAt, next.RotatedAt = noon, after(time.Hour)
		require.Equal(w, next, got)
	},
	"ClaimTopicKey gives a topic its key, once": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.encrypted("bo")
		got, err := w.Topic(w.ctx, "m", "t")
		require.NoError(w, err)
		require.Equal(w, key("topic"), got.EncryptedKeyPubkey)
		for _, lost := range []bool{false, true} {
			require.ErrorIs(w, w.ClaimTopicKey(w.ctx, "m", "t", "bo", key("2"), aKey("bo"), lost), store.ErrConflict)
		}
		_, err = w.TopicKey(w.ctx, "m", "t", "bo")
		require.ErrorIs(w, err, store.ErrNotFound)
	},
	"ClaimTopicKey replaces a lost key and forgets rejections": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.encrypted("bo")
		require.NoError(w, w.SealTopicKey(w.ctx, "m", "t", "bo", aKey("ana"), false))
		for _, who := range []string{"bo", "ana"} {
			_, err := w.RejectTopicKey(w.ctx, "m", "t", who)
			require.NoError(w, err)
		}
		require.ErrorIs(w, w.ClaimTopicKey(w.ctx, "m", "t", "ana", key("2"), aKey("ana"), false), store.ErrConflict)
		require.NoError(w, w.ClaimTopicKey(w.ctx, "m", "t", "ana", key("2"), aKey("ana"), true))
		got, err := w.Topic(w.ctx, "m", "t")
		require.NoError(w, err)
		require.Equal(w, key("2"), got.EncryptedKeyPubkey)
		require.NoError(w, w.SealTopicKey(w.ctx, "m", "t", "bo", aKey("ana"), false), "the rejection is forgotten")
	},
	"ClaimTopicKey refuses unknown and archived topics": func(w *world) {
		w.mesh("m", "ana")
		w.topic("m", "t", "ana")
		_, err := w.ArchiveTopic(w.ctx, "m", "t", noon)
		require.NoError(w, err)
		for _, topic := range []string{"t", "none"} {
			require.ErrorIs(w, w.ClaimTopicKey(w.ctx, "m", topic, "ana", key("x"), aKey("ana"), true), store.ErrNotFound)
		}
	},
	"ClaimTopicKey by many at once: one gets it": func(w *world) {
		names := []string{"a", "b", "c", "d", "e", "f"}
		w.mesh("m", names...)
		w.topic("m", "t", "a", names[1:]...)
		for _, lost := range []bool{false, true} {
			var o outcomes
			together(len(names), func(i int) {
				o.add(w.ClaimTopicKey(w.ctx, "m", "t", names[i], key(names[i]), aKey(names[i]), lost))
			})
			o.require(w, 1, store.ErrConflict)
			n, err := w.TopicKeyCount(w.ctx, "m", "t")
			require.NoError(w, err)
			require.Equal(w, 1, n)
			for _, name := range names {
				_, err = w.RejectTopicKey(w.ctx, "m", "t", name)
				require.NoError(w, err)
			}
		}
	},
	"TopicKey, TopicKeyCount and HasKey agree": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.encrypted("bo", "cy")
		require.NoError(w, w.SealTopicKey(w.ctx, "m", "t", "bo", aKey("ana"), false))
		n, err := w.TopicKeyCount(w.ctx, "m", "t")
		require.NoError(w, err)
		require.Equal(w, 2, n)
		subs, err := w.Subscriptions(w.ctx, "m", "t")
		require.NoError(w, err)
		for _, s := range subs {
			_, err := w.TopicKey(w.ctx, "m", "t", s.MemberID)
			require.Equal(w, s.HasKey, err == nil, s.MemberID)
			require.Equal(w, s.MemberID != "cy", s.HasKey)
		}
		n, err = w.TopicKeyCount(w.ctx, "m", "none")
		require.NoError(w, err)
		require.Zero(w, n)
	},
	"RejectTopicKey deletes one's own copy and says whether there was one": func(w *world) {
		w.mesh("m", "ana", "bo")
		w.encrypted("bo")
		for _, c := range []struct {
			topic, member string
			want          bool
		}{{"t", "bo", false}, {"none", "ana", false}, {"t", "ana", true}, {"t", "ana", false}} {
			got, err := w.RejectTopicKey(w.ctx, "m", c.topic, c.member)
			require.NoError(w, err)
			require.Equal(w, c.want, got, "%+v", c)
		}
	},
	"PendingSeals lists who waits, oldest subscription first": func(w *world) {
		w.mesh("m", "ana", "bo", "cy", "dee", "eve", "fay", "gil", "gone")
		w.encrypted()
		for i, who := range []string{"fay", "dee", "gil", "eve", "gone", "cy", "bo"} {
			at := after(time.Duration(i/4) * time.Minute)
			_, err := w.Subscribe(w.ctx, "m", "t", who, wire.TopicMember, false, at)
			require.NoError(w, err)
		}
		_, err := w.RevokeMember(w.ctx, "m", "gone", noon)
		require.NoError(w, err)
		require.NoError(w, w.SealTopicKey(w.ctx, "m", "t", "cy", aKey("ana"), false))
		_, err = w.RejectTopicKey(w.ctx, "m", "t", "cy")
		require.NoError(w, err)
		waiting := func(except string, limit int) []string {
			got, err := w.PendingSeals(w.ctx, "m", "t", except, limit)
			require.NoError(w, err)
			out := []string{}
			for _, p := range got {
				require.Equal(w, aMember("m", p.Member.ID), p.Member)
				out = append(out, fmt.Sprint(p.Member.ID, p.Rejected))
			}
			return out
		}
		require.Equal(w, []string{"fay0", "dee0", "gil0", "eve0", "cy1", "bo0"}, waiting("", 10), "those of one time in the order in which they were stored")
		require.Equal(w, []string{"fay0", "dee0", "gil0", "eve0", "cy1", "bo0"}, waiting("", 6))
		require.Equal(w, []string{"fay0", "gil0", "eve0"}, waiting("dee", 3))
		joined, err := w.Subscribe(w.ctx, "m", "t", "fay", wire.TopicLead, true, after(time.Hour))
		require.NoError(w, err)
		require.False(w, joined)
		require.Equal(w, []string{"fay0", "dee0"}, waiting("", 2), "another role does not move it")
		_, err = w.Unsubscribe(w.ctx, "m", "t", "dee", noon)
		require.NoError(w, err)
		w.subscribe("m", "t", "dee")
		require.Equal(w, []string{"fay0", "gil0", "eve0", "dee0", "cy1", "bo0"}, waiting("", 10), "who comes back is stored again")
	},
}
