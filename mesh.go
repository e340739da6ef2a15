package broker

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/claudemesh/broker/store"
)

// mesh is what this process knows of one mesh: who is here, their mailboxes, and the sends that wait for a commit.
type mesh struct {
	b  *Broker
	id string

	entering keyedMutex // by member: hellos of one member, one after another, across store calls
	saving   keyedMutex // by mesh id: presences are mirrored one write after another, so that an old row never follows a newer one
	stating  keyedMutex // by state key: a change is stored and told before the next one of its key

	mu        sync.Mutex
	info      store.Mesh           // guarded by mu
	presences map[string]*presence // by id; guarded by mu
	reserved  int                  // hellos that were promised a place; guarded by mu
	strikes   map[string]*strikes  // frames beyond 1 MiB, by member; guarded by mu
	roster    *store.Roster        // last loaded; may be behind the store; guarded by mu
	stateAt   time.Time            // of the newest change of the shared state that was made here; guarded by mu

	mail    mailroom // mailbox.go
	outbox  outbox   // router.go
	acks    ackQueue // acknowledge.go
	streams streams  // stream.go

	refs int // guarded by Broker.mu
}

// strikes counts the oversized frames of one member.
type strikes struct {
	since        time.Time
	count        int
	blockedUntil time.Time
}

// mesh returns the state of a mesh that exists and is not archived, and holds it until release. store.ErrNotFound otherwise.
func (b *Broker) mesh(ctx context.Context, id string) (*mesh, error) {
	b.mu.Lock()
	if m := b.meshes[id]; m != nil {
		m.refs++
		b.mu.Unlock()
		return m, nil
	}
	b.mu.Unlock()
	info, err := b.store.Mesh(ctx, id)
	if err != nil {
		return nil, err
	}
	if !info.ArchivedAt.IsZero() {
		return nil, fmt.Errorf("mesh is archived: %w", store.ErrNotFound)
	}
	last, err := b.store.LastSeq(ctx, id)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.meshes[id]
	if m == nil {
		m = &mesh{b: b, id: id, info: info, presences: map[string]*presence{}, strikes: map[string]*strikes{}}
		m.mail.init(last)
		b.meshes[id] = m
	}
	m.refs++
	return m, nil
}

// release gives up what [Broker.mesh] held.
func (m *mesh) release() {
	m.b.mu.Lock()
	defer m.b.mu.Unlock()
	m.refs--
}

// loaded returns the state of a mesh that this process has something of, or nil. The caller releases it.
func (b *Broker) loaded(id string) *mesh {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.meshes[id]
	if m != nil {
		m.refs++
	}
	return m
}

// allMeshes returns every loaded mesh, each to be released.
func (b *Broker) allMeshes() []*mesh {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*mesh, 0, len(b.meshes))
	for _, m := range b.meshes {
		m.refs++
		all = append(all, m)
	}
	return all
}

// forgetIdle drops the meshes that nobody is in.
func (b *Broker) forgetIdle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, m := range b.meshes {
		if m.refs == 0 && m.idle() {
			delete(b.meshes, id)
		}
	}
}

func (m *mesh) idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.presences) == 0 && m.reserved == 0 && m.streams.empty()
}

// currentRoster returns the roster that was loaded last, loading it if there is none.
func (m *mesh) currentRoster(ctx context.Context) (*store.Roster, error) {
	m.mu.Lock()
	r := m.roster
	m.mu.Unlock()
	if r != nil {
		return r, nil
	}
	return m.reloadRoster(ctx)
}

// reloadRoster asks the store for the roster as it is now.
func (m *mesh) reloadRoster(ctx context.Context) (*store.Roster, error) {
	r, err := m.b.store.Roster(ctx, m.id)
	if err != nil {
		return nil, fmt.Errorf("roster: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.roster == nil || m.roster.Version <= r.Version {
		m.roster = r
	}
	return m.roster, nil
}

// keyedMutex is a mutex per key that keeps nothing for keys that nobody holds.
type keyedMutex struct {
	mu   sync.Mutex
	held map[string]*keyedLock
}

type keyedLock struct {
	ch   chan struct{} // holds one token while locked; a channel, because waiting on it is visible to synctest
	refs int
}

// lock locks key and returns the function that unlocks it.
func (k *keyedMutex) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyedLock{}
	}
	l := k.held[key]
	if l == nil {
		l = &keyedLock{ch: make(chan struct{}, 1)}
		k.held[key] = l
	}
	l.refs++
	k.mu.Unlock()
	l.ch <- struct{}{}
	return func() {
		<-l.ch
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.refs--; l.refs == 0 {
			delete(k.held, key)
		}
	}
}

// strikeWindow is how long a frame beyond 1 MiB is remembered.
const strikeWindow = 10 * time.Minute

// strike counts a frame beyond 1 MiB; five in ten minutes keep the member out for a minute.
func (m *mesh) strike(member string) {
	t := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.strikes[member]
	if st == nil || t.Sub(st.since) > strikeWindow {
		st = &strikes{since: t}
		m.strikes[member] = st
	}
	if st.count++; st.count >= 5 {
		st.blockedUntil = t.Add(time.Minute)
		st.count, st.since = 0, t
	}
}

// blocked reports whether a member is kept out for its oversized frames.
func (m *mesh) blocked(member string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.strikes[member]
	return st != nil && time.Now().Before(st.blockedUntil)
}

// forgetStrikes drops what does not count any more.
func (m *mesh) forgetStrikes(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.strikes, func(_ string, st *strikes) bool { return t.Sub(st.since) > strikeWindow && !t.Before(st.blockedUntil) })
}
