package memory

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// MaxAuditEntries is how many audit entries a mesh keeps here; the oldest go first, and [store.AuditHead] says what is missing.
const MaxAuditEntries = 20_000

// auditLog is the audit log of a mesh.
type auditLog struct {
	head    store.AuditHead
	entries []store.AuditEntry // oldest first
	types   map[string]int     // kept entries by type
}

func newAuditLog() auditLog { return auditLog{head: store.NewAuditHead(), types: map[string]int{}} }

// record appends events to the mesh's log.
func (m *mesh) record(events ...store.AuditEvent) {
	m.keepEntries(m.audit.head.Append(m.ID, m.auditKey, events...)...)
}

func (m *mesh) keepEntries(entries ...store.AuditEntry) {
	a := &m.audit
	for _, e := range entries {
		e.ID = m.next()
		e.Payload = slices.Clone(e.Payload)
		a.entries = append(a.entries, e)
		a.types[e.Type]++
	}
	for len(a.entries) > MaxAuditEntries {
		old := &a.entries[0]
		a.head.AnchorCount++
		a.head.AnchorHash = old.Hash
		if a.types[old.Type]--; a.types[old.Type] == 0 {
			delete(a.types, old.Type)
		}
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

// AuditLog implements store.Audit.
func (s *Store) AuditLog(ctx context.Context, q store.AuditQuery) ([]store.AuditEntry, int, error) {
	m, err := s.lock(ctx, q.MeshID)
	if err != nil {
		return nil, 0, found(err)
	}
	defer m.mu.Unlock()
	var out []store.AuditEntry
	matched := 0
	for i := len(m.audit.entries) - 1; i >= 0; i-- {
		e := &m.audit.entries[i]
		if q.Type != "" && e.Type != q.Type || q.Actor != "" && e.ActorMemberID != q.Actor {
			continue
		}
		if matched++; matched > q.Offset && len(out) < q.Limit {
			out = append(out, exportEntry(e))
		}
		if len(out) == q.Limit && (q.Actor == "" || matched >= store.AuditCountCap) {
			break // the rest need not be looked at
		}
	}
	switch {
	case q.Type == "" && q.Actor == "":
		return out, len(m.audit.entries), nil
	case q.Actor == "":
		return out, min(m.audit.types[q.Type], store.AuditCountCap), nil
	default:
		return out, min(matched, store.AuditCountCap), nil
	}
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
	from, _ := slices.BinarySearchFunc(m.audit.entries, after+1, func(e store.AuditEntry, id int64) int { return int(e.ID - id) })
	rest := m.audit.entries[from:]
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
