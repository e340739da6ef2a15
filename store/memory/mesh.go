package memory

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
)

// general is the name of the topic that everybody who joins is subscribed to.
const general = "general"

// mesh is one mesh with all that belongs to it.
type mesh struct {
	// pending is the number of pending deliveries: written under mu, read by anybody.
	pending atomic.Int64
	order   *atomic.Int64 // the store's

	mu   sync.Mutex // guards the rest
	gone bool       // deleted
	store.Mesh

	// Who is here.
	version    int64 // of the roster
	snapshot   *store.Roster
	rosterRows []store.RosterMember // of the last snapshot; nil: out of date
	topicRows  []store.RosterTopic
	members    map[string]*member
	byJoin     []*member          // all of them, by JoinedAt, then in the order in which they were stored
	byKey      map[string]*member // by public key
	formerKeys map[string]bool    // public keys that were replaced; never forgotten
	names      map[string]int     // folded name to the number of members, not revoked, that have it
	live       int                // members that are not revoked

	presences   map[string]*presence
	sessionKeys map[string]*sessionKey
	owned       map[string]map[string]*presence // broker id to its open presences by id
	closed      queue[*presence]                // by DisconnectedAt, for Prune
	claims      map[string]claim
	claimEnds   queue[string]

	// What is in the mail.
	seq      int64
	newest   time.Time // CreatedAt of the newest message
	messages map[string]*message
	ids      index
	sent     map[sentKey]*message
	expiry   queue[*message] // messages with pending deliveries, by ExpiresAt
	settled  queue[*message] // messages that Prune may delete at that time, but for topic history
	keep     time.Duration   // Retention.Messages by which settled was filled
	silent   queue[*mailbox] // mailboxes of closed sessions with mail, by the time they closed
	places   []place         // scratch of Enqueue
	draft    int64           // number of drafts tried

	topics     map[string]*topic
	topicNames map[string]*topic // not archived

	notices     []*notice // oldest first
	deadNotices int       // of them not in noticeByID any more
	noticeByID  map[string]*notice

	apiKeys map[string]*apiKey
	invites map[string]*invite

	state    sharedState
	audit    auditLog
	auditKey identity.KeyPair // the store's
}

func newMesh(m store.Mesh, order *atomic.Int64, auditKey identity.KeyPair) *mesh {
	return &mesh{
		order:       order,
		Mesh:        m,
		version:     1,
		members:     map[string]*member{},
		byKey:       map[string]*member{},
		formerKeys:  map[string]bool{},
		names:       map[string]int{},
		presences:   map[string]*presence{},
		sessionKeys: map[string]*sessionKey{},
		owned:       map[string]map[string]*presence{},
		claims:      map[string]claim{},
		messages:    map[string]*message{},
		sent:        map[sentKey]*message{},
		topics:      map[string]*topic{},
		topicNames:  map[string]*topic{},
		noticeByID:  map[string]*notice{},
		apiKeys:     map[string]*apiKey{},
		invites:     map[string]*invite{},
		state:       newSharedState(),
		audit:       newAuditLog(),
		auditKey:    auditKey,
	}
}

// next is the order of the row that is stored now. One counter serves all meshes, because APIKeysByPrefix orders rows of several.
func (m *mesh) next() int64 { return m.order.Add(1) }

// enter takes the lock, unless the mesh was deleted.
func (m *mesh) enter() bool {
	m.mu.Lock()
	if m.gone {
		m.mu.Unlock()
		return false
	}
	return true
}

// CreateMesh implements store.Meshes.
func (s *Store) CreateMesh(ctx context.Context, m store.Mesh, first store.Topic) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	first.MeshID = m.ID
	made := newMesh(m, &s.order, s.auditKey)
	made.addTopic(first)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, used := s.meshes[m.ID]; used {
		return conflict("mesh", m.ID)
	}
	if _, used := s.slugs[m.Slug]; used {
		return conflict("slug", m.Slug)
	}
	s.meshes[m.ID] = made
	s.slugs[m.Slug] = m.ID
	return nil
}

// Mesh implements store.Meshes.
func (s *Store) Mesh(ctx context.Context, id string) (store.Mesh, error) {
	m, err := s.lock(ctx, id)
	if err != nil {
		return store.Mesh{}, err
	}
	defer m.mu.Unlock()
	return m.Mesh, nil
}

// MeshBySlug implements store.Meshes.
func (s *Store) MeshBySlug(ctx context.Context, slug string) (store.Mesh, error) {
	if err := ctx.Err(); err != nil {
		return store.Mesh{}, err
	}
	s.mu.RLock()
	id, ok := s.slugs[slug]
	s.mu.RUnlock()
	if !ok {
		return store.Mesh{}, notFound("slug", slug)
	}
	return s.Mesh(ctx, id)
}

// Meshes implements store.Meshes.
func (s *Store) Meshes(ctx context.Context, after string, limit int) ([]store.Mesh, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var out []store.Mesh
	for _, m := range s.all() {
		if !m.enter() {
			continue
		}
		if m.ID > after {
			out = append(out, m.Mesh)
		}
		m.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b store.Mesh) int { return cmp.Compare(a.ID, b.ID) })
	return out[:min(len(out), max(limit, 0))], nil
}

// SetRootKey implements store.Meshes.
func (s *Store) SetRootKey(ctx context.Context, id, rootKey string) error {
	m, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if m.RootKey != "" && m.RootKey != rootKey {
		return conflict("root key of mesh", id)
	}
	m.RootKey = rootKey
	return nil
}

// SetMeshOwner implements store.Meshes.
func (s *Store) SetMeshOwner(ctx context.Context, id, memberID, pubkey string, audit ...store.AuditEvent) error {
	m, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	member, key := cmp.Or(memberID, m.OwnerMemberID), cmp.Or(pubkey, m.OwnerPubkey)
	if member == m.OwnerMemberID && key == m.OwnerPubkey {
		return nil
	}
	m.OwnerMemberID, m.OwnerPubkey = member, key
	m.record(audit...)
	return nil
}

// ArchiveMesh implements store.Meshes.
func (s *Store) ArchiveMesh(ctx context.Context, id string, now time.Time) error {
	m, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if m.ArchivedAt.IsZero() {
		m.ArchivedAt = now
	}
	return nil
}

// DeleteMesh implements store.Meshes.
func (s *Store) DeleteMesh(ctx context.Context, id string) error {
	m, err := s.lock(ctx, id)
	if err != nil {
		return found(err)
	}
	defer m.mu.Unlock()
	m.gone = true
	m.pending.Store(0)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.meshes, id)
	delete(s.slugs, m.Slug)
	for _, k := range m.apiKeys {
		s.dropPrefixLocked(k.Prefix, ref{id, k.ID})
	}
	for _, i := range m.invites {
		delete(s.tokens, i.TokenHash)
		delete(s.codes, i.Code)
	}
	return nil
}
