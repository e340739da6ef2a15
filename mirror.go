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

// changed marks a presence's row to be mirrored to the store within a second.
func (p *presence) changedLocked() { p.dirty = true }

// savePresence mirrors one row now.
func (b *Broker) savePresence(ctx context.Context, row store.Presence) {
	if _, err := b.store.SavePresences(ctx, []store.Presence{row}); err != nil {
		b.log.Warn("presence could not be saved", "mesh", row.MeshID, "cause", err)
	}
}

// saveDirty mirrors what changed since the last call.
func (b *Broker) saveDirty(ctx context.Context) {
	var rows []store.Presence
	var marked []*presence
	meshes := b.allMeshes()
	for _, m := range meshes {
		m.mu.Lock()
		for _, p := range m.presences {
			if p.dirty {
				p.dirty = false
				rows = append(rows, p.row)
				marked = append(marked, p)
			}
		}
		m.mu.Unlock()
	}
	defer func() {
		for _, m := range meshes {
			m.release()
		}
	}()
	if len(rows) == 0 {
		return
	}
	if _, err := b.store.SavePresences(ctx, rows); err != nil {
		b.log.Warn("presences could not be saved; next try in a second", "count", len(rows), "cause", err)
		for _, p := range marked {
			p.mesh.mu.Lock()
			p.dirty = true
			p.mesh.mu.Unlock()
		}
	}
}
