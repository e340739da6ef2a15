package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/claudemesh/broker/internal/status"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// What a session says about itself: status, summary, counters, visibility, profile, groups, and its member's grants.
var (
	_ = silentOp(wire.TypeSetStatus, (*Broker).setStatus)
	_ = silentOp(wire.TypeSetSummary, (*Broker).setSummary)
	_ = silentOp(wire.TypeSetStats, (*Broker).setStats)
	_ = op(wire.TypeSetVisible, (*Broker).setVisible)
	_ = op(wire.TypeSetProfile, (*Broker).setProfile)
	_ = silentOp(wire.TypeJoinGroup, (*Broker).joinGroup)
	_ = silentOp(wire.TypeLeaveGroup, (*Broker).leaveGroup)
	_ = op(wire.TypeSetGrants, (*Broker).setGrants)
)

func (b *Broker) setStatus(_ context.Context, by Caller, f wire.SetStatus) (wire.Message, error) {
	t := now()
	by.place().signal(func(prev status.State) (status.State, status.Effect) {
		return b.rules.Manual(prev, status.Status(f.Status), t)
	})
	return nil, nil
}

func (b *Broker) setSummary(_ context.Context, by Caller, f wire.SetSummary) (wire.Message, error) {
	by.edit(func(row *store.Presence) { row.Summary = f.Summary })
	return nil, nil
}

func (b *Broker) setStats(_ context.Context, by Caller, f wire.SetStats) (wire.Message, error) {
	by.edit(func(row *store.Presence) { row.Stats = f.Stats })
	return nil, nil
}

func (b *Broker) setVisible(ctx context.Context, by Caller, f wire.SetVisible) (wire.Message, error) {
	by.edit(func(row *store.Presence) { row.Visible = *f.Visible })
	if err := b.keep(ctx, by, store.PeerStateUpdate{Visible: f.Visible}); err != nil {
		return nil, err
	}
	m := by.session.mesh
	m.announceVisible(by.place(), *f.Visible)
	m.mail.reconsider(by.Member.ID)
	return nil, nil
}

func (b *Broker) setProfile(ctx context.Context, by Caller, f wire.SetProfile) (wire.Message, error) {
	row := by.edit(func(row *store.Presence) { row.Profile = row.Profile.Merge(f.Profile) })
	if err := b.keep(ctx, by, store.PeerStateUpdate{Profile: &row.Profile}); err != nil {
		return nil, err
	}
	m := by.session.mesh
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tellLocked(eventKey{subject: "profile " + row.ID}, m.event(wire.EventProfileUpdated, f.Profile), func(p *presence) bool {
		return p.member.ID == by.Member.ID
	})
	return nil, nil
}

func (b *Broker) joinGroup(ctx context.Context, by Caller, f wire.JoinGroup) (wire.Message, error) {
	full := false
	row := by.edit(func(row *store.Presence) {
		groups := slices.Clone(row.Groups)
		at := slices.IndexFunc(groups, func(g wire.Group) bool { return g.Name == f.Name })
		switch {
		case at >= 0:
			groups[at].Role = f.Role
		case len(groups) >= wire.MaxGroups:
			full = true
		default:
			groups = append(groups, wire.Group{Name: f.Name, Role: f.Role})
		}
		row.Groups = groups
	})
	if full {
		return nil, wire.BadField("name", fmt.Sprintf("would be group number %d; leave one first", wire.MaxGroups+1))
	}
	return nil, b.regroup(ctx, by, row)
}

func (b *Broker) leaveGroup(ctx context.Context, by Caller, f wire.LeaveGroup) (wire.Message, error) {
	row := by.edit(func(row *store.Presence) {
		row.Groups = slices.DeleteFunc(slices.Clone(row.Groups), func(g wire.Group) bool { return g.Name == f.Name })
	})
	return nil, b.regroup(ctx, by, row)
}

func (b *Broker) regroup(ctx context.Context, by Caller, row store.Presence) error {
	if err := b.keep(ctx, by, store.PeerStateUpdate{Groups: &row.Groups}); err != nil {
		return err
	}
	by.session.mesh.mail.reconsider(by.Member.ID)
	return nil
}

func (b *Broker) setGrants(ctx context.Context, by Caller, f wire.SetGrants) (wire.Message, error) {
	err := b.store.SetGrants(ctx, by.MeshID, by.Member.ID, f.Grants, limitOr(b.opts.MaxGrantsPerMember))
	if errors.Is(err, store.ErrLimit) {
		return nil, wire.BadField("grants", fmt.Sprintf("would have more than %d entries; take some away with null", b.opts.MaxGrantsPerMember))
	}
	if err != nil {
		return nil, fmt.Errorf("grants: %w", err)
	}
	return nil, nil
}

// place is the caller's presence. Only requests of a session have one.
func (by Caller) place() *presence {
	m := by.session.mesh
	m.mu.Lock()
	defer m.mu.Unlock()
	return by.session.place
}

// edit changes the caller's presence, to be mirrored to the store soon, and returns the row as it is then.
func (by Caller) edit(change func(*store.Presence)) store.Presence {
	m := by.session.mesh
	m.mu.Lock()
	defer m.mu.Unlock()
	p := by.session.place
	change(&p.row)
	p.changedLocked()
	by.session.view.Store(&view{visible: p.row.Visible, groups: p.row.Groups})
	return p.row
}

// keep stores at once what decides who is addressed, and what the member gets back when it returns.
func (b *Broker) keep(ctx context.Context, by Caller, u store.PeerStateUpdate) error {
	if err := by.place().save(ctx); err != nil {
		return err
	}
	if err := b.store.SavePeerState(ctx, by.MeshID, by.Member.ID, u, now()); err != nil {
		return fmt.Errorf("peer state: %w", err)
	}
	return nil
}
