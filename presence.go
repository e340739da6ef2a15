package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/claudemesh/broker/internal/status"
	"github.com/claudemesh/broker/internal/wheel"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// presence is one session's place in the mesh. All fields but mesh and row.ID are guarded by mesh.mu.
type presence struct {
	mesh   *mesh
	member store.Member
	row    store.Presence
	sess   *session     // nil in grace
	lease  *wheel.Timer // set in grace
	dirty  bool         // row differs from the store's
	order  uint64       // rises with each presence; decides between those of one millisecond
	quiet  bool         // a command that only asks (no_push): nobody is told that it comes and goes
}

// nameLocked is the display name that others see.
func (p *presence) nameLocked() string { return cmp.Or(p.row.DisplayName, p.member.Name) }

// keyLocked is the key that reaches this session.
func (p *presence) keyLocked() string { return cmp.Or(p.row.SessionPubkey, p.member.Pubkey) }

// presencesLocked returns the presences in the order in which lists show them: online before grace, then by connection time.
func (m *mesh) presencesLocked() []*presence {
	all := make([]*presence, 0, len(m.presences))
	for _, p := range m.presences {
		all = append(all, p)
	}
	slices.SortFunc(all, func(x, y *presence) int {
		if (x.sess != nil) != (y.sess != nil) {
			if x.sess != nil {
				return -1
			}
			return 1
		}
		return cmp.Or(x.row.ConnectedAt.Compare(y.row.ConnectedAt), cmp.Compare(x.order, y.order), cmp.Compare(x.row.ID, y.row.ID))
	})
	return all
}

// entry is what an accepted hello asks for.
type entry struct {
	row      store.Presence // without ID, times, status and epoch
	member   store.Member
	noGroups bool // the hello named no groups
	hello    bool // entered by hello: saved state is restored
	sess     *session
}

// entered is what became of it.
type entered struct {
	p        *presence
	reattach bool
	restored *store.PeerState
	groups   bool // the groups were restored
}

var errCapacity = &wire.Fault{Code: wire.Capacity, Text: "mesh at connection capacity"}

// enter gives a session its place: the one it had (reattach), or a new one. The greeting is called when the place is taken, before anything
// can be pushed to the session. Hellos of one member run one after another.
func (m *mesh) enter(ctx context.Context, e entry, greet func(entered)) error {
	unlock := m.entering.lock(e.member.ID)
	defer unlock()
	// The key may have been replaced, or the member expelled, while this hello was being checked.
	member, err := m.b.store.Member(ctx, m.id, e.member.ID)
	if err != nil {
		return fmt.Errorf("member: %w", err)
	}
	if member.Pubkey != e.member.Pubkey {
		return &wire.Fault{Code: wire.Unauthorized, Text: "this member has another key now"}
	}
	e.member = member

	m.mu.Lock()
	old, replaced := m.matchLocked(e)
	if old != nil {
		row := old.row
		m.mu.Unlock()
		if replaced != nil {
			m.replace(ctx, replaced)
		}
		return m.reattach(ctx, e, row, old, greet)
	}
	var room *presence
	if replaced == nil {
		perMember, limit := m.b.opts.MaxPresencesPerMember, m.b.opts.MaxConnectionsPerMesh
		if perMember > 0 && m.countLocked(e.member.ID) >= perMember || limit > 0 && len(m.presences)+m.reserved >= limit {
			if room = m.oldestGraceLocked(e.member.ID); room == nil {
				m.mu.Unlock()
				return m.full(ctx, e)
			}
		}
	}
	m.reserved++
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.reserved--
		m.mu.Unlock()
	}()
	if replaced != nil {
		m.replace(ctx, replaced)
	}
	if room != nil {
		m.evict(ctx, room)
	}
	return m.fresh(ctx, e, greet)
}

// full refuses a hello for want of a place; a session key that is somebody else's is the better reason.
func (m *mesh) full(ctx context.Context, e entry) error {
	if key := e.row.SessionPubkey; key != "" {
		owner, _, err := m.b.store.SessionKeyOwner(ctx, m.id, key, now())
		if member, err2 := m.b.store.MemberByKey(ctx, m.id, key); err2 == nil {
			owner, err = member.ID, nil
		}
		if err == nil && owner != e.member.ID {
			return presenceFault(store.ErrKeyInUse)
		}
	}
	return errCapacity
}

// matchLocked finds the place that a hello comes back to, and the one that it replaces: the same process with another session key. Places of other
// members never match.
func (m *mesh) matchLocked(e entry) (old, replaced *presence) {
	for _, p := range m.presences {
		if p.member.ID != e.member.ID {
			continue
		}
		sameID := p.row.SessionID == e.row.SessionID
		switch key := e.row.SessionPubkey; {
		case key != "" && p.row.SessionPubkey == key, key == "" && p.row.SessionPubkey == "" && sameID:
			old = p
		case sameID:
			replaced = p
		}
	}
	return old, replaced
}

func (m *mesh) countLocked(member string) (n int) {
	for _, p := range m.presences {
		if p.member.ID == member {
			n++
		}
	}
	return n
}

func (m *mesh) oldestGraceLocked(member string) (oldest *presence) {
	for _, p := range m.presences {
		if p.member.ID == member && p.sess == nil && (oldest == nil || p.row.LeaseUntil.Before(oldest.row.LeaseUntil)) {
			oldest = p
		}
	}
	return oldest
}

// reattach puts a new socket into an existing place. Nobody is told.
func (m *mesh) reattach(ctx context.Context, e entry, row store.Presence, p *presence, greet func(entered)) error {
	t := now()
	row.SessionID, row.Cwd, row.PID = e.row.SessionID, e.row.Cwd, e.row.PID
	row.DisplayName = cmp.Or(m.allowedName(e), row.DisplayName)
	row.Hostname, row.PeerType, row.Channel, row.Model = e.row.Hostname, e.row.PeerType, e.row.Channel, e.row.Model
	row.PeerRole, row.Attestation = e.row.PeerRole, e.row.Attestation
	row.LeaseUntil, row.LastPingAt, row.BrokerID = time.Time{}, t, m.b.id
	epoch, err := m.b.store.OpenPresence(ctx, row)
	if err != nil {
		return presenceFault(err)
	}
	m.mu.Lock()
	tell := p.quiet && !e.sess.noPush // it stays, this time
	late := m.presences[row.ID] != p
	if late { // the lease ran out while the store was busy, and others were told; the row is open again, and so is the place
		m.mu.Unlock() // nobody else can put it back: hellos of the member wait
		if err := m.recordReturn(ctx, e, &row, epoch, t); err != nil {
			return err
		}
		m.mu.Lock()
		p = &presence{mesh: m, member: e.member, row: row, order: e.sess.id, quiet: e.sess.noPush}
		m.presences[row.ID] = p
	}
	// Status, groups and the like may have moved on while the store was busy; only what the hello brings is taken from row.
	live := &p.row
	live.SessionID, live.Cwd, live.PID, live.DisplayName = row.SessionID, row.Cwd, row.PID, row.DisplayName
	live.Hostname, live.PeerType, live.Channel, live.Model, live.PeerRole = row.Hostname, row.PeerType, row.Channel, row.Model, row.PeerRole
	live.LeaseUntil, live.LastPingAt, live.BrokerID, live.Epoch = time.Time{}, t, m.b.id, epoch
	live.Attestation = row.Attestation
	if p.lease != nil {
		p.lease.Stop()
		p.lease = nil
	}
	if m.nameInUseLocked(p.row.DisplayName, e.member) {
		p.row.DisplayName = ""
	}
	replaced := p.sess
	p.quiet = p.quiet && e.sess.noPush
	p.member, p.sess = e.member, e.sess
	e.sess.place = p
	m.mu.Unlock()
	if replaced != nil {
		m.mail.detach(replaced)
		replaced.close(wire.CloseNormal, wire.ReasonReplaced)
	}
	greet(entered{p: p, reattach: true})
	m.mail.attach(e.sess)
	if late || tell {
		m.announceJoin(p, nil)
	}
	return nil
}

// recordReturn writes to the audit log that a session whose leave stands there is back in its place, or closes the place again.
func (m *mesh) recordReturn(ctx context.Context, e entry, row *store.Presence, epoch int64, t time.Time) error {
	event := auditJoined(row, cmp.Or(row.DisplayName, e.member.Name), e.hello, false, e.member.Pubkey)
	event.At = t // not when it first came
	if err := m.b.store.AppendAudit(ctx, m.id, event); err != nil {
		_, _ = m.b.store.ClosePresence(context.WithoutCancel(ctx), m.id, row.ID, m.b.id, epoch, now()) // else the next broker ends it
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

// fresh makes a new place and tells the others.
func (m *mesh) fresh(ctx context.Context, e entry, greet func(entered)) error {
	t := now()
	row := e.row
	row.ID, row.MeshID, row.MemberID, row.BrokerID = newID(), m.id, e.member.ID, m.b.id
	row.ConnectedAt, row.LastPingAt, row.Visible = t, t, true
	row.DisplayName = m.allowedName(e)
	result := entered{}
	if e.hello {
		saved, err := m.b.store.PeerState(ctx, m.id, e.member.ID)
		switch {
		case err == nil:
			result.restored = &saved
			row.Visible, row.Profile = saved.Visible, saved.Profile
			if e.noGroups && len(saved.Groups) > 0 {
				row.Groups, e.noGroups, result.groups = saved.Groups, false, true
			}
			row.StatsRestored = saved.Stats != (wire.Stats{})
		case !errors.Is(err, store.ErrNotFound):
			return fmt.Errorf("saved state: %w", err)
		}
	}
	if e.noGroups {
		row.Groups = slices.Clone(e.member.DefaultGroups)
	}
	st := status.Initial(t)
	row.Status, row.StatusSource, row.StatusUpdatedAt = wire.Status(st.Status), string(st.Source), st.UpdatedAt
	name := cmp.Or(row.DisplayName, e.member.Name)
	epoch, err := m.b.store.OpenPresence(ctx, row, auditJoined(&row, name, e.hello, result.restored != nil, e.member.Pubkey))
	if err != nil {
		return presenceFault(err)
	}
	row.Epoch = epoch
	p := &presence{mesh: m, member: e.member, row: row, sess: e.sess, order: e.sess.id, quiet: e.sess.noPush}
	result.p = p
	m.mu.Lock()
	if m.nameInUseLocked(p.row.DisplayName, e.member) { // by a hello of the same moment
		p.row.DisplayName = ""
		p.changedLocked()
	}
	m.presences[row.ID] = p
	e.sess.place = p
	m.mu.Unlock()
	p.takeHook(e.sess, t)
	greet(result)
	m.mail.attach(e.sess)
	m.announceJoin(p, result.restored)
	return nil
}

// allowedName is the display name that a hello may have: not one that looks like another member's, or another member's session's, or like nothing.
func (m *mesh) allowedName(e entry) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if store.FoldName(e.row.DisplayName) == "" || m.nameInUseLocked(e.row.DisplayName, e.member) {
		return ""
	}
	return e.row.DisplayName
}

// nameInUseLocked reports whether a session name looks like that of another member or of its session.
func (m *mesh) nameInUseLocked(name string, by store.Member) bool {
	want := store.FoldName(name)
	if want == "" || want == store.FoldName(by.Name) {
		return false
	}
	for _, p := range m.presences {
		if p.member.ID != by.ID && (store.FoldName(p.row.DisplayName) == want || store.FoldName(p.member.Name) == want) {
			return true
		}
	}
	if m.roster != nil {
		for i := range m.roster.Members {
			if o := &m.roster.Members[i]; o.ID != by.ID && store.FoldName(o.Name) == want {
				return true
			}
		}
	}
	return false
}

// nameTaken takes a session name away from whoever uses it when a member of that name appears.
func (m *mesh) nameTaken(member store.Member) {
	want := store.FoldName(member.Name)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.presences {
		if p.member.ID != member.ID && p.row.DisplayName != "" && store.FoldName(p.row.DisplayName) == want {
			p.row.DisplayName = ""
			p.dirty = true
		}
	}
}

func presenceFault(err error) error {
	switch {
	case errors.Is(err, store.ErrKeyInUse):
		return &wire.Fault{Code: wire.SessionPubkeyInUse, Text: "this session key belongs to another member; make a new one"}
	case errors.Is(err, store.ErrRevoked):
		return &wire.Fault{Code: wire.Revoked, Text: "membership was revoked"}
	default:
		return fmt.Errorf("open presence: %w", err)
	}
}

// lost is called when a session's socket is gone. A place that another socket has taken meanwhile is not touched.
func (m *mesh) lost(ctx context.Context, s *session, clean bool) {
	m.mail.detach(s)
	m.mu.Lock()
	p := s.place
	if p == nil || p.sess != s {
		m.mu.Unlock()
		return
	}
	p.sess = nil
	p.row.LastPingAt = maxTime(p.row.LastPingAt, time.UnixMilli(s.alive.Load()).UTC())
	grace := m.b.opts.LeaseGrace
	if clean && !m.b.opts.LeaseOnCleanClose || grace < 0 {
		m.mu.Unlock()
		m.evict(ctx, p)
		return
	}
	m.graceLocked(p, now().Add(grace))
	row := p.row
	m.mu.Unlock()
	m.savePeerState(ctx, row, p)
	if err := p.save(ctx); err != nil {
		m.b.log.Warn("presence could not be saved", "mesh", m.id, "cause", err)
	}
}

// graceLocked starts the lease of a place without a socket.
func (m *mesh) graceLocked(p *presence, until time.Time) {
	p.row.LeaseUntil = until
	p.lease = m.b.wheel.After(time.Until(until), func() {
		if !m.b.work.enterSession() {
			return // shutting down: the place is left to the next broker
		}
		go func() {
			defer m.b.work.leaveSession()
			ctx, cancel := context.WithTimeout(m.b.life, storeTimeout)
			defer cancel()
			m.leaseOver(ctx, p)
		}()
	})
}

func (m *mesh) leaseOver(ctx context.Context, p *presence) {
	m.mu.Lock()
	over := p.sess == nil && !p.row.LeaseUntil.IsZero() && !p.row.LeaseUntil.After(time.Now())
	m.mu.Unlock()
	if over {
		m.evict(ctx, p)
	}
}

// replace makes room for a hello with the same session id and another session key.
func (m *mesh) replace(ctx context.Context, p *presence) {
	m.mu.Lock()
	s := p.sess
	p.sess = nil
	m.mu.Unlock()
	if s != nil {
		m.mail.detach(s)
		s.close(wire.CloseNormal, wire.ReasonReplaced)
	}
	m.evict(ctx, p)
}

// evict ends a place for good: it is the one way out, whoever asked for it. The second call does nothing.
func (m *mesh) evict(ctx context.Context, p *presence) {
	m.mu.Lock()
	if m.presences[p.row.ID] != p || p.sess != nil {
		m.mu.Unlock()
		return
	}
	delete(m.presences, p.row.ID)
	if p.lease != nil {
		p.lease.Stop()
		p.lease = nil
	}
	row := p.row
	m.mu.Unlock()
	ctx = context.WithoutCancel(ctx)
	m.savePeerState(ctx, row, p)
	closed, err := m.b.store.ClosePresence(ctx, m.id, row.ID, m.b.id, row.Epoch, now())
	if err != nil {
		m.b.log.Warn("presence could not be closed; its lease ends it", "mesh", m.id, "cause", err)
		closed = true
	}
	if closed || !m.isOpen(ctx, row) {
		m.announceLeave(p)
	}
}

// isOpen reports whether the store has a presence that this process could not close: another holds it now, and says when it goes. Otherwise it was
// closed with its member's revocation or change of key, and this process, which told of its coming, tells of its end.
func (m *mesh) isOpen(ctx context.Context, row store.Presence) bool {
	roster, err := m.reloadRoster(ctx)
	if err != nil {
		m.b.log.Warn("roster could not be loaded when a session ended", "mesh", m.id, "cause", err)
		return false
	}
	for i := range roster.Members {
		if rm := &roster.Members[i]; rm.ID == row.MemberID {
			return slices.ContainsFunc(rm.Presences, func(p store.RosterPresence) bool { return p.ID == row.ID })
		}
	}
	return false
}

// signal applies a status signal to a presence and lets held messages go if it unlocked them. It reports whether the signal counted.
func (p *presence) signal(apply func(status.State) (status.State, status.Effect)) status.Effect {
	m := p.mesh
	m.mu.Lock()
	next, effect := apply(status.State{
		Status: status.Status(p.row.Status), Source: status.Source(p.row.StatusSource), UpdatedAt: p.row.StatusUpdatedAt,
	})
	if effect.Written {
		p.row.Status, p.row.StatusSource, p.row.StatusUpdatedAt = wire.Status(next.Status), string(next.Source), next.UpdatedAt
		p.changedLocked()
	}
	s := p.sess
	if s != nil {
		s.status.Store(string(p.row.Status))
	}
	m.mu.Unlock()
	if s != nil && effect.Drain {
		s.wake()
	}
	return effect
}
