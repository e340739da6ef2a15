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
	// ID is the entry's place in its mesh's log, from 1, pruned ones included. It says nothing of other meshes.
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

// Append moves the head over events and returns their entries. Every [AuditCheckpointEvery]th entry since the last checkpoint, at
// the latest, is a checkpoint by key, made at the time of the entry before it, wherever among events that falls. It is how every store chains
// its log; it does no I/O.
func (h *AuditHead) Append(meshID string, key identity.KeyPair, events ...AuditEvent) []AuditEntry {
	if len(events) == 0 {
		return nil
	}
	entries := make([]AuditEntry, 0, len(events)) // a checkpoint is rare
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
	h.Hash, e.ID = e.Hash, h.Count
	return e
}

// CheckpointDue reports whether a log has entries and its last checkpoint, or its first entry if it has none, is every or more before now. A log
// in which nothing happens gets checkpoints too: an old last one says that the end was cut, or that no broker runs.
func (h *AuditHead) CheckpointDue(now time.Time, every time.Duration) bool {
	last := h.CheckpointAt
	if last.IsZero() {
		last = h.FirstAt
	}
	return h.Count > 0 && !last.Add(every).After(now)
}

// Vouched reports whether no entry lies behind the newest checkpoint: that is the last one, or there are none at all.
func (h *AuditHead) Vouched() bool { return h.Count == h.CheckpointCount }

// AuditQuery selects entries of a mesh's audit log.
type AuditQuery struct {
	MeshID string
	Type   string // only entries of this type; empty: of all
	Actor  string // only entries by this member; empty: by all
	Offset int    // newer entries to be left out
	Limit  int
}

// AuditCountCap is how far a store counts the entries that match a query by type or actor, and among how many of an actor's newest entries it
// looks for those of a type.
const AuditCountCap = 10_000

// Audit keeps what happened in a mesh, in order, as a chain of hashes with signed checkpoints (docs/formats.md, audit chain).
//
// Operations that take audit events append them in their own transaction, in the given order, if and only if they change what they are
// for: a topic that exists already is not created, a member that is banned already not banned, the role that it has not given. An operation
// that fails appends nothing. Nothing is dropped: an event that cannot be kept fails its operation.
//
// Whatever closes an open presence, but for one that is replaced under the same ID, appends the event peer_left of its member, with the payload {},
// at the time of closing; the actor's name is the presence's DisplayName as kept last, or else the member's name. Those of one operation and mesh are
// in the order of the presences' IDs (for SavePresences, in the given order). They stand behind the events of the operation that closes, but before
// those of OpenPresence: who is banned leaves by it, who is replaced has left first.
//
// What a store has to see to, because nothing else will:
//
//   - The log of a mesh is written by one transaction at a time, from reading its head to the commit. So it is serialised on the head, together
//     with what else there is one of per mesh (the newest seq, the roster version), and an operation over several meshes takes their heads by id.
//   - The head is kept whole ([AuditHead]), and changes in the transaction of the entries. It alone says what came before the oldest kept entry.
//   - Payload is text that comes back byte for byte, as it was hashed: not a JSON type that orders names or refuses \u0000.
//   - There is one key for all meshes and all processes that use the store, made once however many ask for it first.
//   - [Audit.AuditLog] asks in the orders (mesh, ID), (mesh, type, ID) and (mesh, actor, ID), newest first. How many are kept, the head says.
type Audit interface {
	// AppendAudit appends events that have no operation of their own, in the given order, or none of them. ErrNotFound. An archived mesh has a
	// log like any other.
	AppendAudit(ctx context.Context, mesh string, events ...AuditEvent) error
	// AuditLog returns kept entries newest first, and how many match. Without Type and Actor all of them are counted. With one, at most
	// [AuditCountCap] are, though Offset and Limit reach further. With both, the entries and their number are those among the
	// AuditCountCap newest entries by Actor: the others are not looked at, so that no question reads a whole log. None is not an error.
	AuditLog(ctx context.Context, q AuditQuery) (entries []AuditEntry, total int, err error)
	// AuditPage returns at most limit kept entries with an ID above after, oldest first. None is not an error.
	AuditPage(ctx context.Context, mesh string, after int64, limit int) ([]AuditEntry, error)
	// AuditHead returns the state of the log, or ErrNotFound. A mesh in which nothing happened yet has that of [NewAuditHead].
	AuditHead(ctx context.Context, mesh string) (AuditHead, error)
	// CheckpointAudit appends a checkpoint at now to the log of each mesh, at most limit, that is not archived and whose
	// [AuditHead.CheckpointDue] says so, and returns how many it did. Fewer than limit means that there is nothing left. every is above 0.
	CheckpointAudit(ctx context.Context, now time.Time, every time.Duration, limit int) (int, error)
	// CheckpointMesh appends a checkpoint at now to the log of the mesh, unless that has no entries or its newest is a checkpoint
	// ([AuditHead.Vouched]). ErrNotFound. An archived mesh gets one, too. Before an export it makes that the file ends with a signature.
	CheckpointMesh(ctx context.Context, mesh string, now time.Time) error
	// AuditKey is the public key, 64 lower-case hex digits, that signs the checkpoints of all meshes. The store made it when it was first
	// used; its secret half is never returned, and it is never replaced.
	AuditKey(ctx context.Context) (string, error)
}
