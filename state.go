package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// Shared state: values under keys that every member of a mesh sees, sets and deletes. The last to set a key wins. The broker reads no value.

var (
	_ = silentOp(wire.TypeSetState, (*Broker).setState)
	_ = op(wire.TypeGetState, (*Broker).getState)
	_ = op(wire.TypeListState, (*Broker).listState)
	_ = op(wire.TypeDeleteState, (*Broker).deleteState)
)

func (b *Broker) setState(ctx context.Context, by Caller, f wire.SetState) (wire.Message, error) {
	err := b.writeState(ctx, by, f.Key, f.Value)
	if errors.Is(err, store.ErrLimit) {
		return nil, &wire.Fault{Code: wire.Forbidden, Text: b.stateFull(), Cause: err}
	}
	return nil, err
}

// stateFull tells which bounds there are: the store does not say which of them was met.
func (b *Broker) stateFull() string {
	var bounds []string
	for _, l := range []struct {
		n    int
		text string
	}{
		{b.opts.MaxStateKeysPerMesh, "%d keys in the mesh"},
		{b.opts.MaxStateKeysPerMember, "%d keys that one member was the last to set"},
		{b.opts.MaxStateBytesPerMesh, "%d bytes in the mesh"},
	} {
		if l.n > 0 {
			bounds = append(bounds, fmt.Sprintf(l.text, l.n))
		}
	}
	return "the shared state is full (at most " + strings.Join(bounds, ", ") + "); delete keys that nobody needs"
}

// writeState sets a key and tells the other connections of the mesh.
func (b *Broker) writeState(ctx context.Context, by Caller, key string, value json.RawMessage) error {
	m, err := b.mesh(ctx, by.MeshID)
	if err != nil {
		return fmt.Errorf("mesh: %w", err)
	}
	defer m.release()
	var text bytes.Buffer // without the white space around it, which JSON writers drop anyway
	if err := json.Compact(&text, value); err != nil {
		return fmt.Errorf("value: %w", err)
	}
	limits := store.StateLimits{
		Keys: limitOr(b.opts.MaxStateKeysPerMesh), PerMember: limitOr(b.opts.MaxStateKeysPerMember), Bytes: limitOr(b.opts.MaxStateBytesPerMesh),
	}
	if by.Member.ID == "" {
		limits.PerMember = 0 // the host is no member
	}
	unlock := m.stating.lock(key)
	defer unlock()
	e := store.StateEntry{
		Key: key, Value: text.Bytes(), UpdatedByMemberID: by.Member.ID, UpdatedByName: by.Member.Name, UpdatedAt: m.stateTime(),
	}
	if err := b.store.SetState(ctx, m.id, e, limits, audited(by, wire.AuditStateSet, map[string]any{"key": key})); err != nil {
		return fmt.Errorf("set state: %w", err)
	}
	m.announceState(by.session, stateItem(&e), false)
	return nil
}

// eraseState deletes a key, reports whether there was one, and tells the other connections of the mesh.
func (b *Broker) eraseState(ctx context.Context, by Caller, key string) (bool, error) {
	m, err := b.mesh(ctx, by.MeshID)
	if err != nil {
		return false, fmt.Errorf("mesh: %w", err)
	}
	defer m.release()
	unlock := m.stating.lock(key)
	defer unlock()
	gone := wire.StateItem{Key: key, Value: json.RawMessage("null"), UpdatedBy: by.Member.Name, UpdatedAt: wire.FormatTime(m.stateTime())}
	was, err := b.store.DeleteState(ctx, m.id, key, audited(by, wire.AuditStateDeleted, map[string]any{"key": key}))
	if err != nil {
		return false, fmt.Errorf("delete state: %w", err)
	}
	if was {
		m.announceState(by.session, gone, true)
	}
	return was, nil
}

// stateTime is the time of a change of the mesh's state. No two changes have the same, so that who reads an entry and is told of a change of it knows
// which of them is newer.
func (m *mesh) stateTime() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := now()
	if !t.After(m.stateAt) {
		t = m.stateAt.Add(time.Millisecond)
	}
	m.stateAt = t
	return t
}

// announceState tells everybody but the session that made it of a change. What that session was still to be told of the key is outdated. The key is
// locked, so changes of one are told in the order in which they were stored.
func (m *mesh) announceState(by *session, item wire.StateItem, deleted bool) {
	frame, err := wire.Encode(&wire.StateChange{
		Header: wire.Header{Type: wire.TypeStateChange}, Key: item.Key, Value: item.Value, UpdatedBy: item.UpdatedBy, UpdatedAt: item.UpdatedAt,
		Deleted: deleted,
	})
	if err != nil {
		m.b.log.Error("state change could not be encoded", "mesh", m.id, "cause", err)
		return
	}
	about := eventKey{subject: "state " + item.Key}
	if by != nil {
		by.unsay(about.subject)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tellLocked(about, frame, func(p *presence) bool { return p.sess != by })
}

func stateItem(e *store.StateEntry) wire.StateItem {
	return wire.StateItem{Key: e.Key, Value: e.Value, UpdatedBy: e.UpdatedByName, UpdatedAt: wire.FormatTime(e.UpdatedAt)}
}

func (b *Broker) getState(ctx context.Context, by Caller, f wire.GetState) (wire.Message, error) {
	result := &wire.StateResult{
		Header: wire.Header{Type: wire.TypeStateResult}, StateItem: wire.StateItem{Key: f.Key, Value: json.RawMessage("null")},
	}
	e, err := b.store.StateEntry(ctx, by.MeshID, f.Key)
	switch {
	case err == nil:
		result.StateItem = stateItem(&e)
	case !errors.Is(err, store.ErrNotFound):
		return nil, fmt.Errorf("state: %w", err)
	}
	return result, nil
}

// statePage is how many entries are read from the store at a time: their values have at most 4 MiB.
const statePage = 128

// maxItemText is more than an entry of a list has besides key, value and name.
const maxItemText = 100

func (b *Broker) listState(ctx context.Context, by Caller, f wire.ListState) (wire.Message, error) {
	list := &wire.StateList{Header: wire.Header{Type: wire.TypeStateList}, Entries: []wire.StateItem{}}
	after := f.After
	for size := 0; ; {
		page, err := b.store.StateEntries(ctx, by.MeshID, after, statePage)
		if err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
		for i := range page {
			item := stateItem(&page[i])
			// Quotes, backslashes and the like in a text take two bytes for one.
			size += len(item.Value) + 2*len(item.Key) + 2*len(item.UpdatedBy) + maxItemText
			if size > maxPage {
				list.Truncated = true
				return list, nil
			}
			list.Entries = append(list.Entries, item)
		}
		if len(page) < statePage {
			return list, nil
		}
		after = page[len(page)-1].Key
	}
}

// deleteState succeeds also for a key that is not there, so that it can be repeated.
func (b *Broker) deleteState(ctx context.Context, by Caller, f wire.DeleteState) (wire.Message, error) {
	_, err := b.eraseState(ctx, by, f.Key)
	return nil, err
}

// maxStateKeys is how many keys mesh_info tells.
const maxStateKeys = 1000

// SetState sets a key of a mesh's shared state, in the name of nobody, and tells all connections of the mesh. The key has 1 to 256 characters and
// no control characters; value is any JSON of at most 32,768 bytes, whose names may not occur twice in one object. store.ErrLimit: the mesh has
// Options.MaxStateKeysPerMesh or MaxStateBytesPerMesh; store.ErrNotFound: no such mesh, or it is archived.
func (b *Broker) SetState(ctx context.Context, meshID, key string, value json.RawMessage) error {
	if err := b.hosted(); err != nil {
		return err
	}
	defer b.work.leaveSession()
	raw, err := wire.Encode(&wire.SetState{Header: wire.Header{Type: wire.TypeSetState}, Key: key, Value: value})
	if err != nil {
		return wire.BadField("value", "must be JSON")
	}
	f, err := decodeFrame[wire.SetState](raw) // what a member's would have to be
	if err != nil {
		return err
	}
	return b.writeState(ctx, host(meshID), f.Key, f.Value)
}

// DeleteState deletes a key of a mesh's shared state, in the name of nobody, and tells all connections of the mesh. It reports whether there was one.
// store.ErrNotFound: no such mesh, or it is archived.
func (b *Broker) DeleteState(ctx context.Context, meshID, key string) (bool, error) {
	if err := b.hosted(); err != nil {
		return false, err
	}
	defer b.work.leaveSession()
	return b.eraseState(ctx, host(meshID), key)
}

// StateEntry returns one key of a mesh's shared state; store.ErrNotFound.
func (b *Broker) StateEntry(ctx context.Context, meshID, key string) (store.StateEntry, error) {
	return b.store.StateEntry(ctx, meshID, key)
}

// StateEntries returns at most limit keys of a mesh's shared state, by key; after, if not empty, leaves out all up to that key. Having none is not an
// error, nor is an unknown mesh.
func (b *Broker) StateEntries(ctx context.Context, meshID, after string, limit int) ([]store.StateEntry, error) {
	return b.store.StateEntries(ctx, meshID, after, limit)
}
