package storetest

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
)

// mention makes a message to topic with that id that mentions bo and cy.
func (w *world) mention(at time.Time, topic, id string) {
	w.Helper()
	d := post(topic, draft(id, "ana"))
	d.Mentions = []string{"bo", "cy"}
	w.sendAt(at, "m", d)
}

func (w *world) notices(q store.NotificationQuery) []store.Notice {
	w.Helper()
	q.MeshID = "m"
	ns, err := w.Notifications(w.ctx, q)
	require.NoError(w, err)
	return ns
}

func noticed(ns []store.Notice) []string {
	ids := []string{}
	for _, n := range ns {
		ids = append(ids, n.Message.ID)
	}
	return ids
}

var notifications = checks{
	"a notification holds who, where and the message": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.topic("m", "t", "ana")
		w.mention(noon, "t", "1")
		ns := w.notices(store.NotificationQuery{MemberID: "bo", Limit: 10})
		require.Len(w, ns, 1)
		want := store.Notification{
			ID: store.NotificationID("1", "bo"), MeshID: "m", TopicID: "t", MessageID: "1", RecipientMemberID: "bo", SenderMemberID: "ana", Kind: "mention", CreatedAt: noon,
		}
		require.Equal(w, want, ns[0].Notification)
		got, err := w.Message(w.ctx, "m", "1")
		require.NoError(w, err)
		require.Equal(w, got, ns[0].Message)
		require.Equal(w, store.NotificationID("1", "cy"), w.notices(store.NotificationQuery{MemberID: "cy", Limit: 1})[0].ID)
	},
	"a notification of another mesh may have the same id": func(w *world) {
		for _, mesh := range []string{"m", "n"} {
			w.mesh(mesh, "ana", "bo")
			w.send(mesh, with(draft("1", "ana", "bo"), func(d *store.Draft) { d.Mentions = []string{"bo"} }))
		}
		changed, err := w.MarkNotificationsRead(w.ctx, "n", "bo", []string{store.NotificationID("1", "bo")}, time.Time{}, noon)
		require.NoError(w, err)
		require.Equal(w, 1, changed)
		require.Zero(w, w.notices(store.NotificationQuery{MemberID: "bo", Limit: 1})[0].ReadAt)
	},
	"Notifications come newest first, since, unread, of topics, up to the limit": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.topic("m", "t", "ana")
		w.topic("m", "u", "ana")
		for i := range 6 { // three at a time, whose ids are in no order, up or down
			w.mention(after(time.Duration(i/3)*time.Second), []string{"t", "u"}[i%2], fmt.Sprint(i))
		}
		ns := w.notices(store.NotificationQuery{MemberID: "bo", Limit: 2})
		_, err := w.MarkNotificationsRead(w.ctx, "m", "bo", []string{ns[0].ID}, time.Time{}, noon)
		require.NoError(w, err)
		for _, c := range []struct {
			q    store.NotificationQuery
			want []string
		}{
			{store.NotificationQuery{Limit: 10}, []string{"5", "4", "3", "2", "1", "0"}},
			{store.NotificationQuery{Limit: 6}, []string{"5", "4", "3", "2", "1", "0"}},
			{store.NotificationQuery{Limit: 3}, []string{"5", "4", "3"}},
			{store.NotificationQuery{Limit: 10, Since: noon}, []string{"5", "4", "3"}},
			{store.NotificationQuery{Limit: 10, Since: after(-time.Microsecond)}, []string{"5", "4", "3", "2", "1", "0"}},
			{store.NotificationQuery{Limit: 2, UnreadOnly: true}, []string{"4", "3"}},
			{store.NotificationQuery{Limit: 10, Topics: &[]string{"t", "x"}}, []string{"4", "2", "0"}},
			{store.NotificationQuery{Limit: 10, Topics: &[]string{}}, []string{}},
		} {
			c.q.MemberID = "bo"
			require.Equal(w, c.want, noticed(w.notices(c.q)), "%+v", c.q)
		}
		require.Empty(w, w.notices(store.NotificationQuery{MemberID: "ana", Limit: 10}))
	},
	"MarkNotificationsRead marks one's own of those ids, once": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.topic("m", "t", "ana")
		w.mention(noon, "t", "1")
		w.mention(noon, "t", "2")
		ids := []string{"none"}
		for _, n := range w.notices(store.NotificationQuery{MemberID: "bo", Limit: 10}) {
			ids = append(ids, n.ID)
		}
		mark := func(member string, ids []string, at time.Time) int {
			n, err := w.MarkNotificationsRead(w.ctx, "m", member, ids, time.Time{}, at)
			require.NoError(w, err)
			return n
		}
		require.Zero(w, mark("cy", ids, noon), "not one's own")
		require.Zero(w, mark("bo", []string{}, noon), "no ids are none, not all")
		require.Equal(w, 2, mark("bo", ids, after(time.Second)))
		require.Zero(w, mark("bo", ids, after(time.Hour)))
		for _, n := range w.notices(store.NotificationQuery{MemberID: "bo", Limit: 10}) {
			require.Equal(w, after(time.Second), n.ReadAt)
		}
		require.Len(w, w.notices(store.NotificationQuery{MemberID: "cy", UnreadOnly: true, Limit: 10}), 2)
	},
	"MarkNotificationsRead without ids marks all up to a time": func(w *world) {
		w.mesh("m", "ana", "bo", "cy")
		w.topic("m", "t", "ana")
		for i := range 4 {
			w.mention(after(time.Duration(i)*time.Second), "t", fmt.Sprint(i))
		}
		n, err := w.MarkNotificationsRead(w.ctx, "m", "bo", nil, after(time.Second), noon)
		require.NoError(w, err)
		require.Equal(w, 2, n)
		require.Equal(w, []string{"3", "2"}, noticed(w.notices(store.NotificationQuery{MemberID: "bo", UnreadOnly: true, Limit: 9})))
		n, err = w.MarkNotificationsRead(w.ctx, "m", "bo", nil, time.Time{}, noon)
		require.NoError(w, err)
		require.Equal(w, 2, n)
	},
}
