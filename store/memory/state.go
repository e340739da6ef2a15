package memory

import (
	"context"
	"fmt"
	"slices"

	"github.com/claudemesh/broker/store"
)

// sharedState is the shared state of a mesh.
type sharedState struct {
	entries map[string]*store.StateEntry
	keys    []string       // of entries, in order
	owned   map[string]int // keys by the member that set them last
	bytes   int
}

func newSharedState() sharedState {
	return sharedState{entries: map[string]*store.StateEntry{}, owned: map[string]int{}}
}

func stateSize(e *store.StateEntry) int { return len(e.Key) + len(e.Value) }

func (st *sharedState) disown(e *store.StateEntry) {
	if st.owned[e.UpdatedByMemberID]--; st.owned[e.UpdatedByMemberID] == 0 {
		delete(st.owned, e.UpdatedByMemberID)
	}
	st.bytes -= stateSize(e)
}

// SetState implements store.State.
func (s *Store) SetState(ctx context.Context, mesh string, e store.StateEntry, l store.StateLimits, audit ...store.AuditEvent) error {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	st := &m.state
	old := st.entries[e.Key]
	if !l.Allow(&e, old, len(st.entries), st.owned[e.UpdatedByMemberID], st.bytes) {
		return fmt.Errorf("%w: shared state of mesh %q", store.ErrLimit, mesh)
	}
	if old != nil {
		st.disown(old)
	} else {
		at, _ := slices.BinarySearch(st.keys, e.Key)
		st.keys = slices.Insert(st.keys, at, e.Key)
	}
	e.Value = slices.Clone(e.Value)
	st.entries[e.Key] = &e
	st.owned[e.UpdatedByMemberID]++
	st.bytes += stateSize(&e)
	m.record(audit...)
	return nil
}

// DeleteState implements store.State.
func (s *Store) DeleteState(ctx context.Context, mesh, key string, audit ...store.AuditEvent) (bool, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return false, found(err)
	}
	defer m.mu.Unlock()
	st := &m.state
	old := st.entries[key]
	if old == nil {
		return false, nil
	}
	st.disown(old)
	delete(st.entries, key)
	if at, ok := slices.BinarySearch(st.keys, key); ok {
		st.keys = slices.Delete(st.keys, at, at+1)
	}
	m.record(audit...)
	return true, nil
}

// StateEntry implements store.State.
func (s *Store) StateEntry(ctx context.Context, mesh, key string) (store.StateEntry, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return store.StateEntry{}, err
	}
	defer m.mu.Unlock()
	e := m.state.entries[key]
	if e == nil {
		return store.StateEntry{}, notFound("state", key)
	}
	return exportState(e), nil
}

func exportState(e *store.StateEntry) store.StateEntry {
	out := *e
	out.Value = slices.Clone(e.Value)
	return out
}

// StateEntries implements store.State.
func (s *Store) StateEntries(ctx context.Context, mesh, after string, limit int) ([]store.StateEntry, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	from, exact := slices.BinarySearch(m.state.keys, after)
	if exact {
		from++
	}
	var out []store.StateEntry
	for _, k := range m.state.keys[from:] {
		if len(out) >= limit {
			break
		}
		out = append(out, exportState(m.state.entries[k]))
	}
	return out, nil
}

// StateKeys implements store.State.
func (s *Store) StateKeys(ctx context.Context, mesh string) ([]string, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	return slices.Clone(m.state.keys), nil
}
