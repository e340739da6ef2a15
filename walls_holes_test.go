package broker_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
	"github.com/claudemesh/broker/wire"
)

// Walls with holes, which walls_test.go must find: a search that never finds anything proves nothing.

// A wall with a hole is found out. Each of these stores answers one question, now and then, with what is another mesh's.
func TestHolesInTheWallsAreFound(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*holes){
		"topics are found in every mesh":         func(h *holes) { h.topic = true },
		"messages are found in every mesh":       func(h *holes) { h.message = true },
		"history is of another mesh":             func(h *holes) { h.history = true },
		"rosters have a member of another mesh":  func(h *holes) { h.roster = true },
		"members are listed of another mesh":     func(h *holes) { h.members = true },
		"lists of keys are of another mesh":      func(h *holes) { h.keys = true },
		"keys open another mesh":                 func(h *holes) { h.grant = true },
		"messages are stored in another mesh":    func(h *holes) { h.enqueue = true },
		"an error says which mesh has the topic": func(h *holes) { h.tells = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWalls(t, *wallsSeed, func(st *memory.Store) store.Store {
				h := &holes{Store: st, inner: st}
				spoil(h)
				return h
			})
			w.untilCrossing = true
			w.run(epoch)
			w.close()
			require.NotEmpty(t, w.crossings, "after %d operations", w.ops)
			t.Logf("after %d operations: %s", w.ops, w.crossings[0])
		})
	}
}

// holes is a store that answers some questions with what is another mesh's.
type holes struct {
	store.Store
	inner *memory.Store

	mu    sync.Mutex
	calls int // guarded by mu

	topic, message, history, roster, members, keys, grant, enqueue, tells bool
}

// leaks reports whether it is time for a wrong answer, and of which mesh.
func (h *holes) leaks(on bool, mesh string) (other string, now bool) {
	if !on {
		return "", false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls++
	if h.calls%7 > 0 {
		return "", false
	}
	for _, letter := range "abc" {
		if id := h.meshOf(letter); id != mesh && id != "" {
			return id, true
		}
	}
	return "", false
}

func (h *holes) meshOf(letter rune) string {
	m, err := h.inner.MeshBySlug(context.Background(), markStart+string(letter)+"-slug")
	if err != nil {
		return ""
	}
	return m.ID
}

func (h *holes) Topic(ctx context.Context, mesh, ref string) (store.Topic, error) {
	t, err := h.Store.Topic(ctx, mesh, ref)
	if err == nil || !h.topic && !h.tells {
		return t, err
	}
	for _, letter := range "abc" {
		if t, err := h.Store.Topic(ctx, h.meshOf(letter), ref); err == nil {
			if h.topic {
				return t, nil
			}
			return store.Topic{}, &wire.Fault{Code: wire.TopicNotFound, Text: `topic "` + ref + `" is in another mesh`}
		}
	}
	return t, err
}

func (h *holes) Message(ctx context.Context, mesh, id string) (store.Message, error) {
	m, err := h.Store.Message(ctx, mesh, id)
	if err == nil || !h.message {
		return m, err
	}
	for _, letter := range "abc" {
		if m, err := h.Store.Message(ctx, h.meshOf(letter), id); err == nil {
			m.MeshID = mesh
			return m, nil
		}
	}
	return m, err
}

func (h *holes) History(ctx context.Context, q store.HistoryQuery) ([]store.Message, error) {
	if other, now := h.leaks(h.history, q.MeshID); now {
		if general, err := h.Store.Topic(ctx, other, "general"); err == nil {
			q.MeshID, q.TopicID = other, general.ID
		}
	}
	return h.Store.History(ctx, q)
}

func (h *holes) Roster(ctx context.Context, mesh string) (*store.Roster, error) {
	mine, err := h.Store.Roster(ctx, mesh)
	other, now := h.leaks(h.roster, mesh)
	if err != nil || !now {
		return mine, err
	}
	theirs, err := h.Store.Roster(ctx, other)
	if err != nil {
		return mine, nil
	}
	mixed := *mine
	mixed.Topics = append(slices.Clone(mine.Topics), theirs.Topics...)
	return &mixed, nil
}

func (h *holes) Members(ctx context.Context, mesh string) ([]store.Member, error) {
	if other, now := h.leaks(h.members, mesh); now {
		mesh = other
	}
	return h.Store.Members(ctx, mesh)
}

func (h *holes) ListAPIKeys(ctx context.Context, mesh, member string) ([]store.APIKey, error) {
	if other, now := h.leaks(h.keys, mesh); now {
		mesh, member = other, ""
	}
	return h.Store.ListAPIKeys(ctx, mesh, member)
}

func (h *holes) APIKeysByPrefix(ctx context.Context, prefix string) ([]store.APIKey, error) {
	keys, err := h.Store.APIKeysByPrefix(ctx, prefix)
	for i := range keys {
		if other, now := h.leaks(h.grant, keys[i].MeshID); now {
			keys[i].MeshID, keys[i].IssuedBy = other, ""
		}
	}
	return keys, err
}

func (h *holes) Enqueue(ctx context.Context, mesh string, version int64, d []store.Draft, q store.Quota, now time.Time) ([]store.Enqueued, error) {
	stored, err := h.Store.Enqueue(ctx, mesh, version, d, q, now)
	if other, leak := h.leaks(h.enqueue, mesh); leak && err == nil {
		if theirs, rerr := h.Store.Roster(ctx, other); rerr == nil {
			copied := slices.Clone(d[:1])
			copied[0].Message.MeshID, copied[0].Message.ID, copied[0].Message.ClientMessageID = other, identity.NewID(), ""
			copied[0].Recipients = []store.Recipient{{MemberID: theirs.Members[0].ID}}
			_, _ = h.Store.Enqueue(ctx, other, theirs.Version, copied, q, now)
		}
	}
	return stored, err
}
