package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/claudemesh/broker/store"
)

// adopt takes over the presences that earlier brokers left: they keep their places until their leases end.
func (b *Broker) adopt(ctx context.Context) error {
	rows, err := b.store.AdoptPresences(ctx, b.id, now(), deadAfter, max(b.opts.LeaseGrace, 0))
	if err != nil {
		return fmt.Errorf("adopt presences: %w", err)
	}
	for _, row := range rows {
		m, err := b.mesh(ctx, row.MeshID)
		if errors.Is(err, store.ErrNotFound) {
			continue
		} else if err != nil {
			return err
		}
		member, err := b.store.Member(ctx, row.MeshID, row.MemberID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			m.release()
			return fmt.Errorf("member of an adopted presence: %w", err)
		}
		p := &presence{mesh: m, member: member, row: row}
		m.mu.Lock()
		switch {
		case m.presences[row.ID] != nil: // its session is back already
			m.mu.Unlock()
		case err != nil || !row.DisconnectedAt.IsZero():
			m.mu.Unlock()
			m.announceLeave(p)
		default:
			m.presences[row.ID] = p
			m.graceLocked(p, row.LeaseUntil)
			m.mu.Unlock()
		}
		m.release()
	}
	return nil
}

// deadAfter is the age of a heartbeat at which its broker counts as dead; beats come every 5 s.
const deadAfter = 15 * time.Second

// changedLocked marks a presence's row to be mirrored to the store within a second.
func (p *presence) changedLocked() { p.dirty = true }

// save mirrors a presence now, as it is now.
func (p *presence) save(ctx context.Context) error {
	m := p.mesh
	unlock := m.saving.lock(m.id)
	defer unlock()
	m.mu.Lock()
	row := p.row
	p.dirty = false
	m.mu.Unlock()
	if _, err := m.b.store.SavePresences(ctx, []store.Presence{row}); err != nil {
		m.mu.Lock()
		p.dirty = true
		m.mu.Unlock()
		return fmt.Errorf("presence: %w", err)
	}
	return nil
}

// saveDirty mirrors what changed since the last call.
func (b *Broker) saveDirty(ctx context.Context) {
	for _, m := range b.allMeshes() {
		if err := m.saveDirty(ctx); err != nil {
			b.log.Warn("presences could not be saved; next try in a second", "mesh", m.id, "cause", err)
		}
		m.release()
	}
}

func (m *mesh) saveDirty(ctx context.Context) error {
	unlock := m.saving.lock(m.id)
	defer unlock()
	var rows []store.Presence
	var marked []*presence
	m.mu.Lock()
	for _, p := range m.presences {
		if p.dirty {
			p.dirty = false
			rows, marked = append(rows, p.row), append(marked, p)
		}
	}
	m.mu.Unlock()
	if len(rows) == 0 {
		return nil
	}
	_, err := m.b.store.SavePresences(ctx, rows)
	if err != nil {
		m.mu.Lock()
		for _, p := range marked {
			p.dirty = true
		}
		m.mu.Unlock()
	}
	return err
}
