package memory

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/claudemesh/broker/store"
)

// presence is a kept presence, open or closed.
type presence struct{ store.Presence }

func (p *presence) open() bool { return p.DisconnectedAt.IsZero() }

// sessionKey is what is known of a session key as long as a presence with it is kept.
type sessionKey struct {
	owner    *member
	kept     int // presences with it
	open     int // of them open
	closedAt time.Time
}

// claim is what ClaimOnce remembers.
type claim struct {
	value string
	until time.Time
}

// OpenPresence implements store.Presences.
func (s *Store) OpenPresence(ctx context.Context, in store.Presence, audit ...store.AuditEvent) (int64, error) {
	m, b, err := s.lockMember(ctx, in.MeshID, in.MemberID)
	if err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	if b.revoked() {
		return 0, fmt.Errorf("%w: member %q", store.ErrRevoked, b.ID)
	}
	old := m.presences[in.ID]
	if old != nil && (old.MemberID != in.MemberID || old.SessionPubkey != in.SessionPubkey) {
		return 0, conflict("presence", in.ID)
	}
	if key := in.SessionPubkey; key != "" {
		if k := m.sessionKeys[key]; m.byKey[key] != nil && m.byKey[key] != b || m.formerKeys[key] || k != nil && k.owner != b {
			return 0, fmt.Errorf("%w: %q", store.ErrKeyInUse, key)
		}
	}
	in.Epoch = 1
	if old != nil {
		in.Epoch = old.Epoch + 1
		m.remove(old)
	}
	m.closeWhere(b, in.ConnectedAt, func(p *presence) bool {
		return p.SessionID == in.SessionID || in.SessionPubkey != "" && p.SessionPubkey == in.SessionPubkey
	})
	m.insert(&presence{clonePresence(in)}, b)
	m.membersChanged()
	m.record(audit...)
	return in.Epoch, nil
}

// insert keeps a presence and, if it is open, shows it.
func (m *mesh) insert(p *presence, b *member) {
	m.presences[p.ID] = p
	if p.SessionPubkey != "" {
		k := m.sessionKeys[p.SessionPubkey]
		if k == nil {
			k = &sessionKey{owner: b}
			m.sessionKeys[p.SessionPubkey] = k
		}
		k.kept++
		if p.open() {
			k.open++
		}
	}
	if p.open() {
		b.open[p.ID] = p
		m.own(p)
		return
	}
	m.closed.push(p.DisconnectedAt, p)
}

// remove forgets a presence, and its session key if it was the last with it.
func (m *mesh) remove(p *presence) {
	b := m.members[p.MemberID]
	if p.open() {
		delete(b.open, p.ID)
		m.disown(p)
	}
	delete(m.presences, p.ID)
	k := m.sessionKeys[p.SessionPubkey]
	if k == nil {
		return
	}
	if p.open() {
		k.open--
	}
	if k.kept--; k.kept == 0 {
		delete(m.sessionKeys, p.SessionPubkey)
		if box := b.sessions[p.SessionPubkey]; box != nil {
			m.forgetIdle(box)
		}
	}
}

// close closes an open presence. The caller starts a new roster version.
func (m *mesh) close(p *presence, now time.Time) {
	b := m.members[p.MemberID]
	p.DisconnectedAt = now
	m.peerLeft(p, now)
	delete(b.open, p.ID)
	m.disown(p)
	m.closed.push(now, p)
	if k := m.sessionKeys[p.SessionPubkey]; k != nil {
		k.open--
		if now.After(k.closedAt) {
			k.closedAt = now
		}
		if box := b.sessions[p.SessionPubkey]; box != nil {
			m.watch(box, k)
		}
	}
}

// closeWhere closes the open presences of a member that match, by ID.
func (m *mesh) closeWhere(b *member, now time.Time, match func(*presence) bool) {
	for _, p := range slices.SortedFunc(maps.Values(b.open), byPresenceID) {
		if match(p) {
			m.close(p, now)
		}
	}
}

func (m *mesh) closeAll(b *member, now time.Time) {
	m.closeWhere(b, now, func(*presence) bool { return true })
}

func byPresenceID(a, b *presence) int { return cmp.Compare(a.ID, b.ID) }

func (m *mesh) own(p *presence) {
	of := m.owned[p.BrokerID]
	if of == nil {
		of = map[string]*presence{}
		m.owned[p.BrokerID] = of
	}
	of[p.ID] = p
}

func (m *mesh) disown(p *presence) {
	of := m.owned[p.BrokerID]
	delete(of, p.ID)
	if len(of) == 0 {
		delete(m.owned, p.BrokerID)
	}
}

// SavePresences implements store.Presences.
func (s *Store) SavePresences(ctx context.Context, ps []store.Presence) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Begun, it ends: half of it must not be done.
	ctx = context.WithoutCancel(ctx)
	var lost []string
	for _, in := range ps {
		m, err := s.lock(ctx, in.MeshID)
		if err != nil {
			lost = append(lost, in.ID)
			continue
		}
		if !m.save(in) {
			lost = append(lost, in.ID)
		}
		m.mu.Unlock()
	}
	return lost, nil
}

func (m *mesh) save(in store.Presence) bool {
	p := m.presences[in.ID]
	if !p.heldBy(in.BrokerID, in.Epoch) {
		return false
	}
	in = clonePresence(in)
	in.MemberID, in.SessionID, in.SessionPubkey = p.MemberID, p.SessionID, p.SessionPubkey
	closed := in.DisconnectedAt
	in.DisconnectedAt = time.Time{}
	changed := in.Visible != p.Visible || !slices.Equal(in.Groups, p.Groups)
	p.Presence = in
	if !closed.IsZero() {
		m.close(p, closed)
		changed = true
	}
	if changed {
		m.membersChanged()
	}
	return true
}

// heldBy reports whether p is open and that broker owns it in that epoch.
func (p *presence) heldBy(brokerID string, epoch int64) bool {
	return p != nil && p.open() && p.BrokerID == brokerID && p.Epoch == epoch
}

// ClosePresence implements store.Presences.
func (s *Store) ClosePresence(ctx context.Context, mesh, id, brokerID string, epoch int64, now time.Time) (bool, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return false, found(err)
	}
	defer m.mu.Unlock()
	p := m.presences[id]
	if !p.heldBy(brokerID, epoch) {
		return false, nil
	}
	m.close(p, now)
	m.membersChanged()
	return true, nil
}

// SessionKeyOwner implements store.Presences.
func (s *Store) SessionKeyOwner(ctx context.Context, mesh, sessionPubkey string, now time.Time) (string, time.Time, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return "", time.Time{}, err
	}
	defer m.mu.Unlock()
	k := m.sessionKeys[sessionPubkey]
	switch {
	case k == nil || k.owner.revoked():
		return "", time.Time{}, notFound("session key", sessionPubkey)
	case k.open > 0:
		return k.owner.ID, now, nil
	default:
		return k.owner.ID, k.closedAt, nil
	}
}

// Beat implements store.Presences.
func (s *Store) Beat(ctx context.Context, brokerID string, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.After(s.beats[brokerID]) {
		s.beats[brokerID] = now
	}
	return nil
}

// AdoptPresences implements store.Presences.
func (s *Store) AdoptPresences(ctx context.Context, brokerID string, now time.Time, deadAfter, grace time.Duration) ([]store.Presence, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	lastBeat := func(owner string) (at time.Time, dead bool) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		at, beat := s.beats[owner]
		return at, owner != brokerID && (!beat || !at.Add(deadAfter).After(now))
	}
	var out []store.Presence
	for _, m := range s.all() {
		if !m.enter() {
			continue
		}
		var orphans []*presence
		for owner, of := range m.owned {
			beat, dead := lastBeat(owner)
			if !dead {
				continue
			}
			if beat.IsZero() {
				beat = now
			}
			for _, p := range of {
				if p.LeaseUntil.IsZero() {
					p.LeaseUntil = beat.Add(grace)
				}
				orphans = append(orphans, p)
			}
		}
		slices.SortFunc(orphans, byPresenceID)
		for _, p := range orphans {
			m.disown(p)
			p.BrokerID = brokerID
			p.Epoch++
			m.own(p)
			if due(p.LeaseUntil, now) {
				m.close(p, now)
				m.membersChanged()
			}
			out = append(out, clonePresence(p.Presence))
		}
		m.mu.Unlock()
	}
	s.forgetDead(brokerID, now.Add(-deadAfter))
	slices.SortFunc(out, func(a, b store.Presence) int {
		return cmp.Or(cmp.Compare(a.MeshID, b.MeshID), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// forgetDead forgets the processes, other than brokerID, that own nothing any more because they have not beaten since.
func (s *Store) forgetDead(brokerID string, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, at := range s.beats {
		if id != brokerID && !at.After(since) {
			delete(s.beats, id)
		}
	}
}

// ReleasePresences implements store.Presences.
func (s *Store) ReleasePresences(ctx context.Context, brokerID string, until time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, m := range s.all() {
		if !m.enter() {
			continue
		}
		for _, p := range m.owned[brokerID] {
			if p.LeaseUntil.IsZero() {
				p.LeaseUntil = until
			}
		}
		m.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.beats, brokerID)
	return nil
}

// ClaimOnce implements store.Presences.
func (s *Store) ClaimOnce(ctx context.Context, mesh, key, value string, until, now time.Time) (first, same bool, err error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return false, false, err
	}
	defer m.mu.Unlock()
	for {
		at, old, ok := m.claimEnds.first()
		if !ok || at.After(now) {
			break
		}
		m.claimEnds.drop()
		if due(m.claims[old].until, now) {
			delete(m.claims, old)
		}
	}
	if c, ok := m.claims[key]; ok {
		return false, c.value == value, nil
	}
	m.claims[key] = claim{value, until}
	m.claimEnds.push(until, key)
	return true, true, nil
}
