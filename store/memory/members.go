package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/claudemesh/broker/store"
)

// member is a member with what hangs on it.
type member struct {
	store.Member
	order    int64            // its place among those of the same time
	folded   string           // FoldName of its name
	saved    *store.PeerState // replaced, never changed, because rosters share it
	open     map[string]*presence
	box      *mailbox            // mail for the member
	sessions map[string]*mailbox // mail for one of its sessions
	notices  []*notice           // oldest first
}

func (b *member) revoked() bool { return !b.RevokedAt.IsZero() }

// AddMember implements store.Members.
func (s *Store) AddMember(ctx context.Context, b store.Member, maxMembers int, audit ...store.AuditEvent) error {
	m, err := s.lock(ctx, b.MeshID)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if err := m.mayAdd(b); err != nil {
		return err
	}
	if maxMembers > 0 && m.live >= maxMembers {
		return fmt.Errorf("%w: %d members in mesh %q", store.ErrLimit, m.live, m.ID)
	}
	m.add(b)
	m.record(audit...)
	return nil
}

// mayAdd checks the id and the key of a new member.
func (m *mesh) mayAdd(b store.Member) error {
	switch {
	case m.members[b.ID] != nil:
		return conflict("member", b.ID)
	case m.byKey[b.Pubkey] != nil || m.formerKeys[b.Pubkey]:
		return conflict("public key", b.Pubkey)
	case m.sessionKeys[b.Pubkey] != nil:
		return fmt.Errorf("%w: a session has %q", store.ErrKeyInUse, b.Pubkey)
	default:
		return nil
	}
}

// add enrols a member that may be added.
func (m *mesh) add(in store.Member) *member {
	b := &member{
		Member:   cloneMember(in),
		order:    m.next(),
		folded:   store.FoldName(in.Name),
		open:     map[string]*presence{},
		sessions: map[string]*mailbox{},
	}
	b.box = &mailbox{owner: b, recipient: store.Recipient{MemberID: b.ID}}
	m.members[b.ID] = b
	m.byKey[b.Pubkey] = b
	at, _ := slices.BinarySearchFunc(m.byJoin, b, func(x, y *member) int {
		return cmp.Or(x.JoinedAt.Compare(y.JoinedAt), -1) // behind all that joined at the same time
	})
	m.byJoin = slices.Insert(m.byJoin, at, b)
	if !b.revoked() {
		m.live++
		m.names[b.folded]++
	}
	if t := m.topicNames[general]; t != nil {
		m.subscribe(t, b, defaultTopicRole, b.JoinedAt)
	}
	m.membersChanged()
	return b
}

// Member implements store.Members.
func (s *Store) Member(ctx context.Context, mesh, id string) (store.Member, error) {
	m, b, err := s.lockMember(ctx, mesh, id)
	if err != nil {
		return store.Member{}, err
	}
	defer m.mu.Unlock()
	return cloneMember(b.Member), nil
}

// lockMember returns a member, revoked or not, and its mesh with the lock held.
func (s *Store) lockMember(ctx context.Context, mesh, id string) (*mesh, *member, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, nil, err
	}
	b := m.members[id]
	if b == nil {
		m.mu.Unlock()
		return nil, nil, notFound("member", id)
	}
	return m, b, nil
}

// MemberByKey implements store.Members.
func (s *Store) MemberByKey(ctx context.Context, mesh, pubkey string) (store.Member, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return store.Member{}, err
	}
	defer m.mu.Unlock()
	b := m.byKey[pubkey]
	if b == nil {
		return store.Member{}, notFound("public key", pubkey)
	}
	return cloneMember(b.Member), nil
}

// Members implements store.Members.
func (s *Store) Members(ctx context.Context, mesh string) ([]store.Member, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	out := make([]store.Member, 0, m.live)
	for _, b := range m.byJoin {
		if !b.revoked() {
			out = append(out, cloneMember(b.Member))
		}
	}
	return out, nil
}

// RevokedMembers implements store.Members.
func (s *Store) RevokedMembers(ctx context.Context, mesh string) ([]store.Member, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	revoked := slices.DeleteFunc(slices.Clone(m.byJoin), func(b *member) bool { return !b.revoked() })
	slices.SortFunc(revoked, func(x, y *member) int {
		return cmp.Or(y.RevokedAt.Compare(x.RevokedAt), cmp.Compare(y.order, x.order))
	})
	out := make([]store.Member, len(revoked))
	for i, b := range revoked {
		out[i] = cloneMember(b.Member)
	}
	return out, nil
}

// SetGrants implements store.Members.
func (s *Store) SetGrants(ctx context.Context, mesh, id string, grants map[string]*[]string, maxEntries int) error {
	m, b, err := s.lockMember(ctx, mesh, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	merged := make(map[string][]string, len(b.Grants)+len(grants))
	for k, v := range b.Grants {
		merged[k] = v
	}
	for k, v := range grants {
		if v == nil {
			delete(merged, k)
		} else {
			merged[k] = slices.Clone(*v)
		}
	}
	if maxEntries > 0 && len(merged) > maxEntries {
		return fmt.Errorf("%w: %d grants of member %q", store.ErrLimit, len(merged), id)
	}
	b.Grants = merged
	m.membersChanged()
	return nil
}

// SetRole implements store.Members.
func (s *Store) SetRole(ctx context.Context, mesh, id, role string, audit ...store.AuditEvent) error {
	m, b, err := s.lockMember(ctx, mesh, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if b.Role == role {
		return nil
	}
	b.Role = role
	m.membersChanged()
	m.record(audit...)
	return nil
}

// SetRequireHello2 implements store.Members.
func (s *Store) SetRequireHello2(ctx context.Context, mesh, id string, required bool) error {
	m, b, err := s.lockMember(ctx, mesh, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	b.RequireHello2 = required
	m.membersChanged()
	return nil
}

// RevokeMember implements store.Members.
func (s *Store) RevokeMember(ctx context.Context, mesh, id string, now time.Time, audit ...store.AuditEvent) ([]store.Delivery, error) {
	m, b, err := s.lockMember(ctx, mesh, id)
	if err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	if b.revoked() {
		return nil, nil // what it had is gone, and it got nothing since
	}
	b.RevokedAt = now
	m.record(audit...)
	m.live--
	m.forgetName(b.folded)
	m.closeAll(b, now)
	for _, k := range m.apiKeys {
		if k.IssuedBy == id && k.RevokedAt.IsZero() {
			k.RevokedAt = now
		}
	}
	m.dropSealed(id)
	m.membersChanged()
	m.topicsChanged()
	return m.expireMail(b, now, func(*message) bool { return true }), nil
}

func (m *mesh) forgetName(folded string) {
	if m.names[folded]--; m.names[folded] == 0 {
		delete(m.names, folded)
	}
}

// RestoreMember implements store.Members.
func (s *Store) RestoreMember(ctx context.Context, mesh, id string, audit ...store.AuditEvent) error {
	m, b, err := s.lockMember(ctx, mesh, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if b.revoked() {
		b.RevokedAt = time.Time{}
		m.record(audit...)
		m.live++
		m.names[b.folded]++
		m.membersChanged()
		m.topicsChanged()
	}
	return nil
}

// RekeyMember implements store.Members.
func (s *Store) RekeyMember(ctx context.Context, mesh, id, pubkey string, now time.Time, audit ...store.AuditEvent) error {
	m, b, err := s.lockMember(ctx, mesh, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if b.revoked() {
		return notFound("member that is not revoked", id)
	}
	old := b.Pubkey
	if pubkey == old {
		return nil
	}
	if k := m.sessionKeys[pubkey]; m.byKey[pubkey] != nil || m.formerKeys[pubkey] || k != nil && k.owner != b {
		return fmt.Errorf("%w: %q", store.ErrKeyInUse, pubkey)
	}
	delete(m.byKey, old)
	m.formerKeys[old] = true
	m.byKey[pubkey] = b
	b.Pubkey = pubkey
	m.record(audit...)
	for _, k := range m.apiKeys {
		if k.IssuedBy == id && !k.Rekey && k.RevokedAt.IsZero() {
			k.RevokedAt = now
		}
	}
	for _, other := range m.members {
		if list, ok := other.Grants[old]; ok && other != b {
			other.Grants = cloneGrants(other.Grants)
			delete(other.Grants, old)
			other.Grants[pubkey] = list
		}
	}
	m.dropSealed(id)
	m.closeAll(b, now)
	m.membersChanged()
	return nil
}

// TouchMember implements store.Members.
func (s *Store) TouchMember(ctx context.Context, mesh, id string, now time.Time) error {
	m, b, err := s.lockMember(ctx, mesh, id)
	if err != nil {
		return found(err)
	}
	defer m.mu.Unlock()
	if now.After(b.LastSeenAt) {
		b.LastSeenAt = now
	}
	return nil
}

// PeerState implements store.Members.
func (s *Store) PeerState(ctx context.Context, mesh, id string) (store.PeerState, error) {
	m, b, err := s.lockMember(ctx, mesh, id)
	if err != nil {
		return store.PeerState{}, err
	}
	defer m.mu.Unlock()
	if b.saved == nil {
		return store.PeerState{}, notFound("peer state of member", id)
	}
	return clonePeerState(*b.saved), nil
}

// SavePeerState implements store.Members.
func (s *Store) SavePeerState(ctx context.Context, mesh, id string, u store.PeerStateUpdate, now time.Time) error {
	m, b, err := s.lockMember(ctx, mesh, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	next := store.PeerState{Visible: true}
	if b.saved != nil {
		next = *b.saved
	}
	changed := b.saved == nil
	if u.Groups != nil {
		changed = changed || !slices.Equal(*u.Groups, next.Groups)
		next.Groups = slices.Clone(*u.Groups)
	}
	if u.Visible != nil {
		changed = changed || *u.Visible != next.Visible
		next.Visible = *u.Visible
	}
	if u.Profile != nil {
		next.Profile = cloneProfile(*u.Profile)
	}
	if u.Stats != nil {
		next.Stats = cloneStats(*u.Stats)
	}
	set(&next.LastSummary, u.LastSummary)
	set(&next.LastName, u.LastName)
	set(&next.LastSeenAt, u.LastSeenAt)
	next.UpdatedAt = now
	b.saved = &next
	if changed {
		m.membersChanged()
	}
	return nil
}

// set stores *from, unless from is nil.
func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}
