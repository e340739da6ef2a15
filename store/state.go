package store

import (
	"context"
	"encoding/json"
	"time"
)

// StateEntry is one key of a mesh's shared state.
type StateEntry struct {
	Key               string
	Value             json.RawMessage // JSON text, kept byte for byte
	UpdatedByMemberID string
	UpdatedByName     string // at the time
	UpdatedAt         time.Time
}

// size is what an entry counts against [StateLimits.Bytes].
func (e *StateEntry) size() int { return len(e.Key) + len(e.Value) }

// StateLimits bound the shared state of a mesh; 0 or less lifts a bound.
type StateLimits struct {
	Keys      int // of the mesh
	PerMember int // keys that one member was the last to set
	Bytes     int // keys and values of the mesh together
}

// Allow reports whether the mesh may hold next in place of old (nil: it has no such key), when it has so many keys now, so many of them last
// set by next's member, and so many bytes. A change that makes nothing larger is always allowed.
func (l StateLimits) Allow(next, old *StateEntry, keys, owned, bytes int) bool {
	grow := next.size()
	mine := true // one more key of the member
	if old != nil {
		grow -= old.size()
		mine = old.UpdatedByMemberID != next.UpdatedByMemberID
	}
	switch {
	case old == nil && l.Keys > 0 && keys >= l.Keys,
		mine && l.PerMember > 0 && owned >= l.PerMember,
		grow > 0 && l.Bytes > 0 && bytes+grow > l.Bytes:
		return false
	default:
		return true
	}
}

// State keeps the shared state of meshes: values under keys that all members see.
//
// The three numbers that [StateLimits.Allow] wants are those of the transaction that sets the key: of two members who set the last two keys at once
// neither may take both places. So they are counted where writers of the mesh wait for each other, or kept as counters.
type State interface {
	// SetState sets a key, or ErrLimit by [StateLimits.Allow], which changes nothing. Setting what is there already is a change like any
	// other: it is who set it last, and when. ErrNotFound: the mesh.
	SetState(ctx context.Context, mesh string, e StateEntry, l StateLimits, audit ...AuditEvent) error
	// DeleteState removes a key and reports whether there was one. Who set it does not matter here.
	DeleteState(ctx context.Context, mesh, key string, audit ...AuditEvent) (bool, error)
	// StateEntry returns one key, by its exact name, or ErrNotFound.
	StateEntry(ctx context.Context, mesh, key string) (StateEntry, error)
	// StateEntries returns at most limit keys above after, by key. None is not an error.
	StateEntries(ctx context.Context, mesh, after string, limit int) ([]StateEntry, error)
	// StateKeys returns the names of all keys, in order. None is not an error.
	StateKeys(ctx context.Context, mesh string) ([]string, error)
}
