package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/claudemesh/broker/identity"
)

// AuditEvent is something that happened in a mesh, on its way into the mesh's audit log. It holds metadata only: never a body, a value of
// shared state, a key or a secret.
type AuditEvent struct {
	// Type is one of docs/protocol.md, audit.
	Type string
	// ActorMemberID is who did it; empty: the host, or the broker by itself.
	ActorMemberID string
	// ActorName is the actor's display name at the time; for people, it is not part of the hash.
	ActorName string
	// Payload is canonical JSON ([identity.CanonicalJSON]), one object. It is kept as it is.
	Payload json.RawMessage
	// At is when it happened. The log keeps milliseconds.
	At time.Time
}

// AuditEntry is one row of a mesh's audit log.
type AuditEntry struct {
	// ID rises with every entry of a mesh. What lies between two of them is not said.
	ID     int64
	MeshID string
	AuditEvent
	PrevHash string // of the entry before, or identity.ChainGenesis
	Hash     string // identity.ChainHash
}

// Chain is the entry as [identity.ChainVerifier] checks it.
func (e *AuditEntry) Chain() identity.ChainEntry {
	return identity.ChainEntry{
		EventType: e.Type, Actor: e.ActorMemberID, Payload: e.Payload, CreatedAt: identity.ChainTime(e.At), PrevHash: e.PrevHash, Hash: e.Hash,
	}
}

// AuditHead is the state of a mesh's audit log.
type AuditHead struct {
	// Count is the number of entries ever written, pruned ones included; Hash the newest one's, or identity.ChainGenesis.
	Count int64
	Hash  string
	// AnchorCount is how many of them were pruned, and AnchorHash the hash of the last of those, or identity.ChainGenesis: the oldest kept entry
	// follows it.
	AnchorCount int64
	AnchorHash  string
	// CheckpointCount is Count as it was behind the newest checkpoint, and CheckpointAt its time; zero if there was none.
	CheckpointCount int64
	CheckpointAt    time.Time
	// FirstAt is the time of the first entry ever written; zero if there was none.
	FirstAt time.Time
}

// NewAuditHead is the head of a log without entries.
func NewAuditHead() AuditHead {
	return AuditHead{Hash: identity.ChainGenesis, AnchorHash: identity.ChainGenesis}
}

// AuditCheckpointEvery is how many entries there are at most from one checkpoint to the next.
const AuditCheckpointEvery = 1000

// Append moves the head over events and returns their entries, without ids. Behind every [AuditCheckpointEvery]th entry since the last
// checkpoint it puts a checkpoint by key, made at the time of the entry before it. It is how every store chains its log; it does no I/O.
func (h *AuditHead) Append(meshID string, key identity.KeyPair, events ...AuditEvent) []AuditEntry {
	if len(events) == 0 {
		return nil
	}
	entries := make([]AuditEntry, 0, len(events)+1)
	for _, ev := range events {
		entries = append(entries, h.next(meshID, ev))
		if h.Count-h.CheckpointCount >= AuditCheckpointEvery-1 {
			entries = append(entries, h.Checkpoint(meshID, key, ev.At))
		}
	}
	return entries
}

// Checkpoint moves the head over a checkpoint by key, made at the given time, and returns its entry.
func (h *AuditHead) Checkpoint(meshID string, key identity.KeyPair, at time.Time) AuditEntry {
	at = at.UTC().Truncate(time.Millisecond)
	c := identity.NewCheckpoint(meshID, h.Count, h.Hash, identity.ChainTime(at), key)
	e := h.next(meshID, AuditEvent{Type: identity.CheckpointEvent, Payload: c.Payload(), At: at})
	h.CheckpointCount, h.CheckpointAt = h.Count, at
	return e
}

func (h *AuditHead) next(meshID string, ev AuditEvent) AuditEntry {
	ev.At = ev.At.UTC().Truncate(time.Millisecond)
	if h.Count == 0 {
		h.FirstAt = ev.At
	}
	e := AuditEntry{MeshID: meshID, AuditEvent: ev, PrevHash: h.Hash}
	e.Hash = identity.ChainHash(h.Hash, meshID, ev.Type, ev.ActorMemberID, string(ev.Payload), identity.ChainTime(ev.At))
	h.Count++
	h.Hash = e.Hash
	return e
}

// CheckpointDue reports whether a log has entries and its last checkpoint, or its first entry if it has none, is every or more before now.
func (h *AuditHead) CheckpointDue(now time.Time, every time.Duration) bool {
	last := h.CheckpointAt
	if last.IsZero() {
		last = h.FirstAt
	}
	return h.Count > 0 && !last.Add(every).After(now)
}

// AuditQuery selects entries of a mesh's audit log.
type AuditQuery struct {
	MeshID string
	Type   string // only entries of this type; empty: of all
	Actor  string // only entries by this member; empty: by all
	Offset int    // newer entries to be left out
	Limit  int
}

// AuditCountCap is how far a store counts the entries that match a query by type or actor.
const AuditCountCap = 10_000

// Audit keeps what happened in a mesh, in order, as a chain of hashes with signed checkpoints (docs/formats.md, audit chain).
//
// Operations that take audit events append them in their own transaction, in the given order, if and only if they change what they are
// for: a topic that exists already is not created, a member that is banned already not banned. An operation that fails appends nothing.
// Whatever closes an open presence, but for one that is replaced under the same ID, appends the event peer_left of its member, with the payload {},
// at the time of closing; the actor's name is the presence's DisplayName or else the member's name. Nothing is dropped: an event that cannot be kept
// fails its operation.
type Audit interface {
	// AppendAudit appends events that have no operation of their own. ErrNotFound.
	AppendAudit(ctx context.Context, mesh string, events ...AuditEvent) error
	// AuditLog returns entries newest first, and how many match: exactly without Type and Actor, as far as entries are kept; else at
	// most [AuditCountCap].
	AuditLog(ctx context.Context, q AuditQuery) (entries []AuditEntry, total int, err error)
	// AuditPage returns at most limit kept entries with an ID above after, oldest first.
	AuditPage(ctx context.Context, mesh string, after int64, limit int) ([]AuditEntry, error)
	// AuditHead returns the state of the log, or ErrNotFound.
	AuditHead(ctx context.Context, mesh string) (AuditHead, error)
	// CheckpointAudit appends a checkpoint at now to the log of each mesh, at most limit, that is not archived and whose
	// [AuditHead.CheckpointDue] says so, and returns how many it did. Fewer than limit means that there is nothing left.
	CheckpointAudit(ctx context.Context, now time.Time, every time.Duration, limit int) (int, error)
	// AuditKey is the public key, 64 hex digits, that signs the checkpoints. The store made it when it was first used; its secret half is
	// never returned.
	AuditKey(ctx context.Context) (string, error)
}
