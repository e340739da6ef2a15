package memory

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/claudemesh/broker/store"
)

// maxFound is how many API keys a look-up by prefix returns; see store.APIKeys.
const maxFound = 16

// apiKey is an API key with its place among those of the same time.
type apiKey struct {
	store.APIKey
	order int64
}

// invite is an invite with its place among those of the same time.
type invite struct {
	store.Invite
	order int64
}

// newestKey orders API keys.
func newestKey(a, b *apiKey) int {
	return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.order, a.order))
}

// exportKeys returns deep copies, of at most limit keys.
func exportKeys(keys []*apiKey, limit int) []store.APIKey {
	out := make([]store.APIKey, min(len(keys), limit))
	for i := range out {
		out[i] = cloneAPIKey(keys[i].APIKey)
	}
	return out
}

// CreateAPIKey implements store.APIKeys.
func (s *Store) CreateAPIKey(ctx context.Context, k store.APIKey, maxLive int, audit ...store.AuditEvent) error {
	m, err := s.lock(ctx, k.MeshID)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if m.apiKeys[k.ID] != nil {
		return conflict("API key", k.ID)
	}
	if b := m.members[k.IssuedBy]; b != nil && b.revoked() {
		return fmt.Errorf("%w: member %q", store.ErrRevoked, b.ID)
	}
	if maxLive > 0 {
		live := 0
		for _, other := range m.apiKeys {
			if other.IssuedBy == k.IssuedBy && other.Live(k.CreatedAt) {
				live++
			}
		}
		if live >= maxLive {
			return fmt.Errorf("%w: %d live API keys of member %q", store.ErrLimit, live, k.IssuedBy)
		}
	}
	m.apiKeys[k.ID] = &apiKey{cloneAPIKey(k), m.next()}
	m.record(audit...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prefixes[k.Prefix] = append(s.prefixes[k.Prefix], ref{k.MeshID, k.ID})
	if k.IssuedBy == "" {
		return nil
	}
	ended := m.selectAPIKeys(k.IssuedBy, func(o *apiKey) bool { return !o.Live(k.CreatedAt) })
	for _, old := range ended[min(len(ended), store.MaxEndedAPIKeys):] {
		delete(m.apiKeys, old.ID)
		s.dropPrefixLocked(old.Prefix, ref{m.ID, old.ID})
	}
	return nil
}

// dropPrefixLocked forgets where a key is found by its prefix.
func (s *Store) dropPrefixLocked(prefix string, key ref) {
	left := slices.DeleteFunc(s.prefixes[prefix], func(r ref) bool { return r == key })
	if len(left) == 0 {
		delete(s.prefixes, prefix)
		return
	}
	s.prefixes[prefix] = left
}

// APIKeysByPrefix implements store.APIKeys.
func (s *Store) APIKeysByPrefix(ctx context.Context, prefix string) ([]store.APIKey, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	refs := slices.Clone(s.prefixes[prefix])
	s.mu.RUnlock()
	var keys []*apiKey
	for _, r := range refs {
		m, k, err := s.lockAPIKey(ctx, r.mesh, r.id)
		if found(err) != nil {
			return nil, err
		}
		if err == nil {
			row := *k // as it is now; its lists are never changed in place
			m.mu.Unlock()
			keys = append(keys, &row)
		}
	}
	slices.SortFunc(keys, func(a, b *apiKey) int {
		live := func(k *apiKey) int {
			if k.RevokedAt.IsZero() {
				return 0
			}
			return 1
		}
		return cmp.Or(live(a)-live(b), newestKey(a, b))
	})
	return exportKeys(keys, maxFound), nil
}

// APIKey implements store.APIKeys.
func (s *Store) APIKey(ctx context.Context, mesh, id string) (store.APIKey, error) {
	m, k, err := s.lockAPIKey(ctx, mesh, id)
	if err != nil {
		return store.APIKey{}, err
	}
	defer m.mu.Unlock()
	return cloneAPIKey(k.APIKey), nil
}

// lockAPIKey returns an API key and its mesh with the lock held.
func (s *Store) lockAPIKey(ctx context.Context, mesh, id string) (*mesh, *apiKey, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, nil, err
	}
	k := m.apiKeys[id]
	if k == nil {
		m.mu.Unlock()
		return nil, nil, notFound("API key", id)
	}
	return m, k, nil
}

// ListAPIKeys implements store.APIKeys.
func (s *Store) ListAPIKeys(ctx context.Context, mesh, member string) ([]store.APIKey, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	keys := m.selectAPIKeys(member, func(*apiKey) bool { return true })
	return exportKeys(keys, len(keys)), nil
}

// selectAPIKeys returns the keys that the member issued (empty: of all) and that match, newest first.
func (m *mesh) selectAPIKeys(member string, match func(*apiKey) bool) []*apiKey {
	var out []*apiKey
	for _, k := range m.apiKeys {
		if (member == "" || k.IssuedBy == member) && match(k) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, newestKey)
	return out
}

// FindAPIKeys implements store.APIKeys.
func (s *Store) FindAPIKeys(ctx context.Context, mesh, member, ref string, now time.Time) ([]store.APIKey, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	if exact := m.selectAPIKeys(member, func(k *apiKey) bool { return k.ID == ref }); len(exact) > 0 {
		return exportKeys(exact, maxFound), nil
	}
	var keys []*apiKey
	if len(ref) >= 6 {
		keys = m.selectAPIKeys(member, func(k *apiKey) bool { return strings.HasPrefix(k.ID, ref) })
	}
	if len(keys) == 0 && strings.HasPrefix(ref, "cm_") {
		keys = m.selectAPIKeys(member, func(k *apiKey) bool { return k.Prefix == ref })
	}
	if slices.ContainsFunc(keys, func(k *apiKey) bool { return k.Live(now) }) {
		keys = slices.DeleteFunc(keys, func(k *apiKey) bool { return !k.Live(now) })
	}
	return exportKeys(keys, maxFound), nil
}

// RevokeAPIKey implements store.APIKeys.
func (s *Store) RevokeAPIKey(ctx context.Context, mesh, id string, now time.Time, audit ...store.AuditEvent) error {
	m, k, err := s.lockAPIKey(ctx, mesh, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if k.RevokedAt.IsZero() {
		k.RevokedAt = now
		m.record(audit...)
	}
	return nil
}

// TouchAPIKey implements store.APIKeys.
func (s *Store) TouchAPIKey(ctx context.Context, mesh, id string, now time.Time) error {
	m, k, err := s.lockAPIKey(ctx, mesh, id)
	if err != nil {
		return found(err)
	}
	defer m.mu.Unlock()
	if now.After(k.LastUsedAt) {
		k.LastUsedAt = now
	}
	return nil
}

// ActiveIssuers implements store.APIKeys.
func (s *Store) ActiveIssuers(ctx context.Context, mesh string, since time.Time) ([]string, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	var out []string
	for _, k := range m.apiKeys {
		b := m.members[k.IssuedBy]
		if b != nil && !b.revoked() && k.RevokedAt.IsZero() && !k.LastUsedAt.IsZero() && !k.LastUsedAt.Before(since) {
			out = append(out, b.ID)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// CreateInvite implements store.Invites.
func (s *Store) CreateInvite(ctx context.Context, i store.Invite, audit ...store.AuditEvent) error {
	m, err := s.lock(ctx, i.MeshID)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if m.invites[i.ID] != nil {
		return conflict("invite", i.ID)
	}
	if err := s.publishInvite(i); err != nil {
		return err
	}
	m.invites[i.ID] = &invite{cloneInvite(i), m.next()}
	m.record(audit...)
	return nil
}

// publishInvite makes an invite known by its token hash and code, if both are free.
func (s *Store) publishInvite(i store.Invite) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, used := s.tokens[i.TokenHash]; used {
		return conflict("token hash", i.TokenHash)
	}
	if _, used := s.codes[i.Code]; used {
		return conflict("code of invite", i.ID)
	}
	at := ref{i.MeshID, i.ID}
	if i.TokenHash != "" {
		s.tokens[i.TokenHash] = at
	}
	if i.Code != "" {
		s.codes[i.Code] = at
	}
	return nil
}

// lockInvite returns the invite with that token hash, or, if that is empty, with that code, and its mesh with the lock held.
func (s *Store) lockInvite(ctx context.Context, tokenHash, code string) (*mesh, *invite, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	s.mu.RLock()
	at, ok := s.tokens[tokenHash]
	if tokenHash == "" {
		at, ok = s.codes[code]
	}
	s.mu.RUnlock()
	if !ok {
		return nil, nil, notFound("invite by token hash or code", tokenHash)
	}
	m, err := s.lock(ctx, at.mesh)
	if err != nil {
		return nil, nil, err
	}
	// The mesh may have been deleted and made again since the look-up.
	i := m.invites[at.id]
	if i == nil || tokenHash != "" && i.TokenHash != tokenHash || tokenHash == "" && i.Code != code {
		m.mu.Unlock()
		return nil, nil, notFound("invite by token hash or code", tokenHash)
	}
	return m, i, nil
}

// InviteByToken implements store.Invites.
func (s *Store) InviteByToken(ctx context.Context, tokenHash string) (store.Invite, error) {
	return s.invite(ctx, tokenHash, "")
}

// InviteByCode implements store.Invites.
func (s *Store) InviteByCode(ctx context.Context, code string) (store.Invite, error) {
	return s.invite(ctx, "", code)
}

func (s *Store) invite(ctx context.Context, tokenHash, code string) (store.Invite, error) {
	m, i, err := s.lockInvite(ctx, tokenHash, code)
	if err != nil {
		return store.Invite{}, err
	}
	defer m.mu.Unlock()
	return cloneInvite(i.Invite), nil
}

// Invites implements store.Invites.
func (s *Store) Invites(ctx context.Context, mesh string) ([]store.Invite, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	rows := slices.SortedFunc(maps.Values(m.invites), func(a, b *invite) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.order, a.order))
	})
	out := make([]store.Invite, len(rows))
	for n, i := range rows {
		out[n] = cloneInvite(i.Invite)
	}
	return out, nil
}

// RevokeInvite implements store.Invites.
func (s *Store) RevokeInvite(ctx context.Context, mesh, id string, now time.Time, audit ...store.AuditEvent) error {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	i := m.invites[id]
	if i == nil {
		return notFound("invite", id)
	}
	if i.RevokedAt.IsZero() {
		i.RevokedAt = now
		m.record(audit...)
	}
	return nil
}

// RedeemInvite implements store.Invites.
func (s *Store) RedeemInvite(ctx context.Context, r store.Redemption, audit ...store.AuditEvent) (store.Member, bool, error) {
	m, i, err := s.lockInvite(ctx, r.TokenHash, r.Code)
	if err != nil {
		return store.Member{}, false, err
	}
	defer m.mu.Unlock()
	if m.ID != r.Member.MeshID {
		return store.Member{}, false, notFound("invite of mesh", r.Member.MeshID)
	}
	if !i.RevokedAt.IsZero() {
		return store.Member{}, false, fmt.Errorf("%w: invite %q", store.ErrRevoked, i.ID)
	}
	if due(i.ExpiresAt, r.Now) {
		return store.Member{}, false, fmt.Errorf("%w: invite %q", store.ErrExpired, i.ID)
	}
	if b := m.byKey[r.Member.Pubkey]; b != nil && !b.revoked() {
		return cloneMember(b.Member), true, nil
	}
	if err := m.mayAdd(r.Member); err != nil {
		return store.Member{}, false, err
	}
	if i.UsedCount >= i.MaxUses {
		return store.Member{}, false, fmt.Errorf("%w: %d uses of invite %q", store.ErrExhausted, i.UsedCount, i.ID)
	}
	if r.MaxMembers > 0 && m.live >= r.MaxMembers {
		return store.Member{}, false, fmt.Errorf("%w: %d members in mesh %q", store.ErrLimit, m.live, m.ID)
	}
	r.Member.Role = i.Role
	if i.UsedCount == 0 {
		r.Member.Role = cmp.Or(i.FirstRole, i.Role)
	}
	i.UsedCount++
	r.Member.Name = m.freeName(r.Member.Name)
	joined := cloneMember(m.add(r.Member).Member)
	for _, e := range audit {
		if e.ActorMemberID == joined.ID {
			e.ActorName = joined.Name
		}
		m.record(e)
	}
	return joined, false, nil
}

// freeName is the first numbered form of a name that no member has.
func (m *mesh) freeName(name string) string {
	for n := 1; ; n++ {
		if numbered := store.NumberedName(name, n); m.names[store.FoldName(numbered)] == 0 {
			return numbered
		}
	}
}
