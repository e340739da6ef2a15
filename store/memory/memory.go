// Package memory is the store that forgets: it keeps everything in the process and loses it with the process. It is for tests, for
// examples and for meshes that can afford to lose undelivered mail when their broker ends. It keeps every promise of package store but one: what
// Enqueue accepted does not outlive the process. It is bounded by the quotas of its callers, by [MaxTopicHistory], [MaxAuditEntries] and Prune; of
// a message of no topic it keeps the body only until its last delivery is done or expired.
//
// # Locks
//
//   - Store.mu guards the directory: which meshes there are, and what is found without knowing the mesh (slugs, prefixes of API keys, tokens and codes
//     of invites, beats of brokers). It is held for a few map operations and never while another lock is taken.
//   - mesh.mu guards everything of one mesh. Every operation on a mesh is one critical section under it, so that it is atomic.
//   - Order: mesh.mu, then Store.mu. Two meshes are never locked at once: an operation over several takes them one after the other, which nobody can
//     tell, because it cannot fail on the way and no reader sees two meshes in one step.
//   - mesh.gone says that the mesh was deleted between finding and locking it.
//
// Functions of mesh and of what hangs below it expect mesh.mu to be held. What entities hold by reference (slices, maps, pointers) is
// never changed in place but replaced, so that a snapshot may share it; results of other operations are deep copies.
package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
)

// Store implements store.Store in memory. Use [New].
type Store struct {
	order    atomic.Int64 // counts the rows of all meshes whose place among those of the same time must be known; see mesh.next
	auditKey identity.KeyPair

	mu       sync.RWMutex // guards the rest
	meshes   map[string]*mesh
	slugs    map[string]string // slug to mesh id
	prefixes map[string][]ref  // prefix of an API key to the keys that have it
	tokens   map[string]ref    // token hash to invite
	codes    map[string]ref    // code to invite
	beats    map[string]time.Time
}

var _ store.Store = (*Store)(nil)

// ref names something by mesh and id.
type ref struct{ mesh, id string }

// New returns an empty store.
func New() *Store {
	return &Store{
		auditKey: newAuditKey(),
		meshes:   map[string]*mesh{},
		slugs:    map[string]string{},
		prefixes: map[string][]ref{},
		tokens:   map[string]ref{},
		codes:    map[string]ref{},
		beats:    map[string]time.Time{},
	}
}

// lock returns the mesh with its lock held, or ErrNotFound, or the context's error.
func (s *Store) lock(ctx context.Context, id string) (*mesh, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	m := s.meshes[id]
	s.mu.RUnlock()
	if m == nil || !m.enter() {
		return nil, notFound("mesh", id)
	}
	return m, nil
}

// all returns the meshes of this moment, in no order. Each must be entered before it is used.
func (s *Store) all() []*mesh {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*mesh, 0, len(s.meshes))
	for _, m := range s.meshes {
		out = append(out, m)
	}
	return out
}

// Ping returns the context's error, if any: memory always answers.
func (s *Store) Ping(ctx context.Context) error { return ctx.Err() }

// found turns ErrNotFound into nil, for operations that find nothing in an unknown mesh instead of failing.
func found(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

func notFound(what, id string) error { return fmt.Errorf("%w: %s %q", store.ErrNotFound, what, id) }

func conflict(what, id string) error { return fmt.Errorf("%w: %s %q", store.ErrConflict, what, id) }

// due reports whether at, where it is set, is not after now.
func due(at, now time.Time) bool { return !at.IsZero() && !at.After(now) }
