package memory

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// MaxAuditEntries is how many audit entries a mesh keeps here; the oldest go first, and [store.AuditHead] says what is missing.
const MaxAuditEntries = 20_000

// auditLog is the audit log of a mesh. The place of an entry is the number of entries that were written before it.
type auditLog struct {
	head    store.AuditHead
	entries []store.AuditEntry // kept ones, oldest first: those at the places from head.AnchorCount on
	types   places             // of the entries of each type
	actors  places             // of the entries by each member
}

func newAuditLog() auditLog {
	return auditLog{head: store.NewAuditHead(), types: places{}, actors: places{}}
}

// places are places of kept entries, oldest first, by what the entries have in common.
type places map[string][]int64

func (p places) add(key string, place int64) { p[key] = append(p[key], place) }

// drop forgets the oldest place of a key.
func (p places) drop(key string) {
	if left := p[key][1:]; len(left) > 0 {
		p[key] = left
	} else {
		delete(p, key)
	}
}

// at returns the entry at the nth of the places.
func (a *auditLog) at(places []int64, n int) *store.AuditEntry {
	return &a.entries[places[n]-a.head.AnchorCount]
}

// matching returns the places of the entries that a query by type, actor or both is about.
func (a *auditLog) matching(q store.AuditQuery) []int64 {
	if q.Actor == "" {
		return a.types[q.Type]
	}
	by := a.actors[q.Actor]
	if q.Type == "" {
		return by
	}
	by = by[max(0, len(by)-store.AuditCountCap):]
	var out []int64
	for n, place := range by {
		if a.at(by, n).Type == q.Type {
			out = append(out, place)
		}
	}
	return out
}

// record appends events to the mesh's log.
func (m *mesh) record(events ...store.AuditEvent) {
	m.keepEntries(m.audit.head.Append(m.ID, m.auditKey, events...)...)
}

func (m *mesh) keepEntries(entries ...store.AuditEntry) {
	a := &m.audit
	for _, e := range entries {
		e.Payload = slices.Clone(e.Payload)
		place := a.head.AnchorCount + int64(len(a.entries))
		a.entries = append(a.entries, e)
		a.types.add(e.Type, place)
		a.actors.add(e.ActorMemberID, place)
	}
	for len(a.entries) > MaxAuditEntries {
		old := &a.entries[0]
		a.head.AnchorCount++
		a.head.AnchorHash = old.Hash
		a.types.drop(old.Type)
		a.actors.drop(old.ActorMemberID)
		*old = store.AuditEntry{}
		a.entries = a.entries[1:]
	}
}

// peerLeft records that an open presence was closed.
func (m *mesh) peerLeft(p *presence, now time.Time) {
	name := p.DisplayName
	if name == "" {
		name = m.members[p.MemberID].Name
	}
	m.record(store.AuditEvent{Type: wire.AuditPeerLeft, ActorMemberID: p.MemberID, ActorName: name, Payload: json.RawMessage(`{}`), At: now})
}

// AppendAudit implements store.Audit.
func (s *Store) AppendAudit(ctx context.Context, mesh string, events ...store.AuditEvent) error {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	m.record(events...)
	return nil
}

// AuditLog implements store.Audit. Only a query by type and actor looks at entries that it does not return.
func (s *Store) AuditLog(ctx context.Context, q store.AuditQuery) ([]store.AuditEntry, int, error) {
	m, err := s.lock(ctx, q.MeshID)
	if err != nil {
		return nil, 0, found(err)
	}
	defer m.mu.Unlock()
	a := &m.audit
	total, entry := len(a.entries), func(n int) *store.AuditEntry { return &a.entries[n] }
	counted := total
	if q.Type != "" || q.Actor != "" {
		places := a.matching(q)
		total, entry = len(places), func(n int) *store.AuditEntry { return a.at(places, n) }
		counted = min(total, store.AuditCountCap)
	}
	var out []store.AuditEntry
	for n := total - 1 - max(q.Offset, 0); n >= 0 && len(out) < q.Limit; n-- {
		out = append(out, exportEntry(entry(n)))
	}
	return out, counted, nil
}

func exportEntry(e *store.AuditEntry) store.AuditEntry {
	out := *e
	out.Payload = slices.Clone(e.Payload)
	return out
}

// AuditPage implements store.Audit.
func (s *Store) AuditPage(ctx context.Context, mesh string, after int64, limit int) ([]store.AuditEntry, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	kept := m.audit.entries
	rest := kept[sort.Search(len(kept), func(i int) bool { return kept[i].ID > after }):]
	out := make([]store.AuditEntry, min(len(rest), max(limit, 0)))
	for i := range out {
		out[i] = exportEntry(&rest[i])
	}
	return out, nil
}

// AuditHead implements store.Audit.
func (s *Store) AuditHead(ctx context.Context, mesh string) (store.AuditHead, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return store.AuditHead{}, err
	}
	defer m.mu.Unlock()
	return m.audit.head, nil
}

// CheckpointAudit implements store.Audit.
func (s *Store) CheckpointAudit(ctx context.Context, now time.Time, every time.Duration, limit int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	made := 0
	for _, m := range s.all() {
		if made >= limit {
			break
		}
		if !m.enter() {
			continue
		}
		if m.ArchivedAt.IsZero() && m.audit.head.CheckpointDue(now, every) {
			m.keepEntries(m.audit.head.Checkpoint(m.ID, m.auditKey, now))
			made++
		}
		m.mu.Unlock()
	}
	return made, nil
}

// CheckpointMesh implements store.Audit.
func (s *Store) CheckpointMesh(ctx context.Context, mesh string, now time.Time) error {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if !m.audit.head.Vouched() {
		m.keepEntries(m.audit.head.Checkpoint(m.ID, m.auditKey, now))
	}
	return nil
}

// AuditKey implements store.Audit.
func (s *Store) AuditKey(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	return s.auditKey.Public(), nil
}

// newAuditKey makes the key that signs checkpoints. Without random numbers nothing else works either.
func newAuditKey() identity.KeyPair {
	key, err := identity.GenerateKey()
	if err != nil {
		panic(fmt.Sprintf("memory: no random numbers: %v", err))
	}
	return key
}
