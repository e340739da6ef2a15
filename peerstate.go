package broker

import (
	"context"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// savePeerState keeps what the member gets back when it returns.
func (m *mesh) savePeerState(ctx context.Context, row store.Presence, p *presence) {
	t := now()
	m.mu.Lock()
	name := p.nameLocked()
	m.mu.Unlock()
	u := store.PeerStateUpdate{
		Groups: &row.Groups, Profile: &row.Profile, Visible: &row.Visible, LastSummary: row.Summary, LastName: &name, LastSeenAt: &t,
	}
	if row.Stats != nil {
		total := *row.Stats
		if !row.StatsRestored {
			// The session counts from zero: what it has counted since the last time is added to what other sessions have.
			if saved, err := m.b.store.PeerState(ctx, m.id, row.MemberID); err == nil {
				total = addStats(saved.Stats, newStats(total, row.StatsSaved))
			}
		}
		total.Uptime = nil
		u.Stats = &total
	}
	if err := m.b.store.SavePeerState(ctx, m.id, row.MemberID, u, t); err != nil {
		m.b.log.Warn("peer state could not be saved", "mesh", m.id, "cause", err)
	}
	m.mu.Lock()
	p.row.StatsSaved = row.Stats // so that saving again does not add twice
	m.mu.Unlock()
	if err := m.b.store.TouchMember(ctx, m.id, row.MemberID, t); err != nil {
		m.b.log.Warn("last seen could not be saved", "mesh", m.id, "cause", err)
	}
}

// addStats adds counters, newStats takes what was counted before away. Uptime is not kept.
func addStats(x, y wire.Stats) wire.Stats {
	return eachStat(x, y, func(a, b float64) float64 { return a + b })
}

func newStats(counted wire.Stats, before *wire.Stats) wire.Stats {
	if before == nil {
		return counted
	}
	return eachStat(counted, *before, func(a, b float64) float64 {
		if a < b {
			return a // the process began again
		}
		return a - b
	})
}

func eachStat(x, y wire.Stats, f func(a, b float64) float64) wire.Stats {
	both := func(a, b *float64) *float64 {
		if a == nil && b == nil {
			return nil
		}
		var va, vb float64
		if a != nil {
			va = *a
		}
		if b != nil {
			vb = *b
		}
		v := f(va, vb)
		return &v
	}
	return wire.Stats{
		MessagesIn: both(x.MessagesIn, y.MessagesIn), MessagesOut: both(x.MessagesOut, y.MessagesOut),
		ToolCalls: both(x.ToolCalls, y.ToolCalls), Errors: both(x.Errors, y.Errors),
	}
}
