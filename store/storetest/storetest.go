// Package storetest is the contract of package store as tests. A store is right when Run passes on it, under the race detector:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) store.Store { return memory.New() })
//	}
//
// Each check is named by the promise that it keeps; the promises are the comments of package store. If a check seems wrong, change
// the comment, the check and every store together.
package storetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// checks are promises with what holds a store to them. Each check gets a store of its own, which is empty.
type checks map[string]func(w *world)

// Run holds a store to its contract. open returns an empty store that nothing else uses, and sees to its end by t.Cleanup. It is
// called once per check, from parallel tests.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	t.Helper()
	subjects := map[string]checks{
		"everywhere":    everywhere,
		"meshes":        meshes,
		"roster":        rosters,
		"members":       members,
		"presences":     presences,
		"enqueue":       enqueue,
		"quota":         quotas,
		"inbox":         inbox,
		"receipts":      receipts,
		"topics":        topics,
		"topic keys":    topicKeys,
		"API keys":      apiKeys,
		"invites":       invites,
		"notifications": notifications,
		"state":         states,
		"audit":         audits,
		"upkeep":        upkeep,
	}
	for _, subject := range slices.Sorted(maps.Keys(subjects)) {
		t.Run(subject, func(t *testing.T) {
			t.Parallel()
			for _, promise := range slices.Sorted(maps.Keys(subjects[subject])) {
				t.Run(promise, func(t *testing.T) {
					t.Parallel()
					subjects[subject][promise](&world{T: t, Store: open(t), ctx: t.Context()})
				})
			}
		})
	}
}

// noon is the time of most things in the checks; it has the microseconds that every store must keep.
var noon = time.Date(2026, 5, 4, 12, 0, 0, 123_456_000, time.UTC)

// after is noon and some.
func after(d time.Duration) time.Time { return noon.Add(d) }

// world is a store in a test, with short ways to fill it. Its methods fail the test when the store does.
type world struct {
	*testing.T
	store.Store
	ctx context.Context
}

// key is a public key like no other, for a name.
func key(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

func aMesh(id string) store.Mesh {
	return store.Mesh{
		ID: id, Slug: "slug-" + id, Name: "Mesh " + id, OwnerPubkey: key("owner of " + id), RootKey: "root", Visibility: "private",
		SelfEditable: wire.SelfEditable{DisplayName: true, Groups: true}, CreatedAt: noon,
	}
}

func aMember(mesh, id string) store.Member {
	return store.Member{
		ID: id, MeshID: mesh, UserID: "user", Pubkey: key(id), Name: id, Role: store.RoleMember, RoleTag: "tag",
		DefaultGroups: []wire.Group{{Name: "dev", Role: "lead"}, {Name: "ops"}}, MessageMode: "push",
		Grants: map[string][]string{key("friend"): {"dm", "read"}, key("foe"): {}}, JoinedAt: noon,
	}
}

func aPresence(mesh, id, member, sessionKey string) store.Presence {
	return store.Presence{
		ID: id, MeshID: mesh, MemberID: member, SessionID: "session of " + id, SessionPubkey: sessionKey, PeerRole: wire.RoleSession,
		Status: wire.StatusIdle, StatusSource: "jsonl", StatusUpdatedAt: noon, Visible: true, ConnectedAt: noon, LastPingAt: noon, BrokerID: "b1",
	}
}

// mesh makes meshes, each with the members, who join at noon in the given order.
func (w *world) mesh(id string, members ...string) {
	w.Helper()
	require.NoError(w, w.CreateMesh(w.ctx, aMesh(id), store.Topic{ID: "general-id", Name: "general", Visibility: wire.VisibilityPublic, CreatedAt: noon}))
	w.join(id, members...)
}

func (w *world) join(mesh string, members ...string) {
	w.Helper()
	for _, id := range members {
		require.NoError(w, w.AddMember(w.ctx, aMember(mesh, id), 0))
	}
}

// open opens a presence and returns it with its epoch.
func (w *world) open(p store.Presence) store.Presence {
	w.Helper()
	epoch, err := w.OpenPresence(w.ctx, p)
	require.NoError(w, err)
	p.Epoch = epoch
	return p
}

// topic makes a topic that creator leads, with id as name too, and subscribes the others.
func (w *world) topic(mesh, id, creator string, others ...string) {
	w.Helper()
	w.create(store.NewTopic{Topic: aTopic(mesh, id, creator)})
	for _, o := range others {
		w.subscribe(mesh, id, o)
	}
}

func aTopic(mesh, id, creator string) store.Topic {
	return store.Topic{ID: id, MeshID: mesh, Name: id, Description: "about " + id, Visibility: wire.VisibilityPublic, CreatedByMemberID: creator, CreatedAt: noon}
}

func (w *world) create(t store.NewTopic) {
	w.Helper()
	_, created, err := w.CreateTopic(w.ctx, t)
	require.NoError(w, err)
	require.True(w, created)
}

func (w *world) subscribe(mesh, topic, member string) {
	w.Helper()
	joined, err := w.Subscribe(w.ctx, mesh, topic, member, wire.TopicMember, false, noon)
	require.NoError(w, err)
	require.True(w, joined)
}

func (w *world) version(mesh string) int64 {
	w.Helper()
	r, err := w.Roster(w.ctx, mesh)
	require.NoError(w, err)
	return r.Version
}

// draft is a message for members ("ana") and sessions ("ana/<session key>").
func draft(id, from string, to ...string) store.Draft {
	d := store.Draft{Message: store.Message{
		ID: id, SenderMemberID: from, SenderPubkey: key(from), SenderName: from, TargetSpec: "*", Priority: wire.PriorityNext,
		Nonce: "bm9uY2U=", Ciphertext: "Ym9keSBvZiA=" + id, ExpiresAt: after(time.Hour),
	}}
	d.Message.ContentHash = store.ContentHash(d.Message.TargetSpec, d.Message.Priority, d.Message.Nonce, d.Message.Ciphertext)
	for _, r := range to {
		d.Recipients = append(d.Recipients, recipient(r))
	}
	return d
}

func recipient(s string) store.Recipient {
	for i := range s {
		if s[i] == '/' {
			return store.Recipient{MemberID: s[:i], SessionPubkey: s[i+1:]}
		}
	}
	return store.Recipient{MemberID: s}
}

// with changes a draft.
func with(d store.Draft, change func(*store.Draft)) store.Draft {
	change(&d)
	return d
}

func prio(p wire.Priority, d store.Draft) store.Draft {
	d.Message.Priority = p
	return d
}

func direct(d store.Draft) store.Draft {
	d.Direct = true
	return d
}

// post is a message to a topic.
func post(topic string, d store.Draft) store.Draft {
	d.Message.TopicID, d.Message.TopicName, d.Message.TargetSpec, d.Message.BodyVersion = topic, topic, "#"+topic, 2
	return d
}

// try enqueues at noon with what the roster is now.
func (w *world) try(mesh string, q store.Quota, drafts ...store.Draft) []store.Enqueued {
	w.Helper()
	return w.tryAt(noon, mesh, q, drafts...)
}

func (w *world) tryAt(now time.Time, mesh string, q store.Quota, drafts ...store.Draft) []store.Enqueued {
	w.Helper()
	out, err := w.Enqueue(w.ctx, mesh, w.version(mesh), drafts, q, now)
	require.NoError(w, err)
	require.Len(w, out, len(drafts), "one element per draft")
	return out
}

// send enqueues what must be accepted, without quotas.
func (w *world) send(mesh string, drafts ...store.Draft) []store.Enqueued {
	w.Helper()
	return w.sendAt(noon, mesh, drafts...)
}

func (w *world) sendAt(now time.Time, mesh string, drafts ...store.Draft) []store.Enqueued {
	w.Helper()
	out := w.tryAt(now, mesh, store.Quota{}, drafts...)
	for _, e := range out {
		require.NoError(w, e.Err)
		require.False(w, e.Duplicate)
	}
	return out
}

// everything wants all priorities from the beginning.
func everything() map[wire.Priority]int64 {
	return map[wire.Priority]int64{wire.PriorityNow: 0, wire.PriorityNext: 0, wire.PriorityLow: 0}
}

// pendingQuery asks at noon for all of a recipient's mail.
func pendingQuery(mesh, to string) store.PendingQuery {
	r := recipient(to)
	return store.PendingQuery{MeshID: mesh, MemberID: r.MemberID, SessionPubkey: r.SessionPubkey, After: everything(), Now: noon, Limit: 1000}
}

// mail returns the ids of the pending messages that a recipient's connection gets.
func (w *world) mail(mesh, to string) []string {
	w.Helper()
	return w.pull(pendingQuery(mesh, to))
}

func (w *world) pull(q store.PendingQuery) []string {
	w.Helper()
	mail, err := w.Pending(w.ctx, q)
	require.NoError(w, err)
	ids := []string{}
	for _, m := range mail {
		require.Equal(w, m.Delivery.MessageID, m.Message.ID)
		ids = append(ids, m.Message.ID)
	}
	return ids
}

// ack confirms as the recipient, at noon, and returns the ids of what changed.
func (w *world) ack(mesh, by string, ids ...string) []string {
	w.Helper()
	changed, err := w.Ack(w.ctx, []store.Ack{anAck(mesh, by, ids...)})
	require.NoError(w, err)
	return messageIDs(changed.Done)
}

func anAck(mesh, by string, ids ...string) store.Ack {
	r := recipient(by)
	return store.Ack{MeshID: mesh, MemberID: r.MemberID, SessionPubkey: r.SessionPubkey, MessageIDs: ids, By: store.ByClient, At: noon}
}

func messageIDs(ds []store.Delivery) []string {
	ids := []string{}
	for _, d := range ds {
		ids = append(ids, d.MessageID)
	}
	slices.Sort(ids)
	return ids
}

// states returns the states of a message's deliveries, by member.
func (w *world) states(mesh, message string) map[string]store.DeliveryState {
	w.Helper()
	ds, err := w.Deliveries(w.ctx, mesh, message)
	require.NoError(w, err)
	out := map[string]store.DeliveryState{}
	for _, d := range ds {
		out[d.MemberID] = d.State
	}
	return out
}

func (w *world) history(q store.HistoryQuery) []string {
	w.Helper()
	q.MeshID = "m"
	ms, err := w.History(w.ctx, q)
	require.NoError(w, err)
	ids := []string{}
	for _, m := range ms {
		ids = append(ids, m.ID)
	}
	return ids
}

// pruned calls Prune until it is done.
func (w *world) pruned(now time.Time, keep store.Retention) {
	w.Helper()
	for range 1000 {
		done, err := w.Prune(w.ctx, now, keep)
		require.NoError(w, err)
		if done {
			return
		}
	}
	require.Fail(w, "Prune is never done")
}

// together runs n calls at once, as nearly as it can be done, and returns when all are back.
func together(n int, call func(i int)) {
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			call(i)
		})
	}
	close(start)
	wg.Wait()
}

// outcomes counts the errors of calls made at once.
type outcomes struct {
	mu   sync.Mutex
	errs []error
}

func (o *outcomes) add(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.errs = append(o.errs, err)
}

// require asserts that want of the calls succeeded and that the others failed with target.
func (o *outcomes) require(w *world, want int, target error) {
	w.Helper()
	succeeded := 0
	for _, err := range o.errs {
		if err == nil {
			succeeded++
			continue
		}
		require.ErrorIs(w, err, target)
	}
	require.Equal(w, want, succeeded, "successes of %d calls at once", len(o.errs))
}

func ptr[T any](v T) *T { return &v }

// second is the error of an operation that returns something else first.
func second[T any](_ T, err error) error { return err }
