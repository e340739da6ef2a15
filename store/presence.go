package store

import (
	"context"
	"time"

	"github.com/claudemesh/broker/wire"
)

// Presence is one session's place in the mesh. The broker that holds its socket owns it and mirrors it here.
type Presence struct {
	ID              string
	MeshID          string
	MemberID        string
	SessionID       string // the client's own id of its session
	SessionPubkey   string // 64 lower-case hex digits, or empty
	DisplayName     string // what the hello asked for; empty: the member's name
	PID             int64
	Cwd             string
	Status          wire.Status
	StatusSource    string // hook, manual or jsonl
	StatusUpdatedAt time.Time
	Summary         *string // nil: never set
	Groups          []wire.Group
	PeerRole        string // wire.RoleControlPlane or wire.RoleSession
	Visible         bool
	Profile         wire.Profile
	Stats           *wire.Stats
	StatsRestored   bool        // the session was told restoredStats, so its counters continue those
	StatsSaved      *wire.Stats // the part of Stats that the member's saved totals include already
	Hostname        string
	PeerType        string
	Channel         string
	Model           string
	ConnectedAt     time.Time
	LastPingAt      time.Time
	LeaseUntil      time.Time         // set: the socket is lost and the place is kept until then
	DisconnectedAt  time.Time         // set: closed
	BrokerID        string            // the broker process that owns it
	Epoch           int64             // rises each time a socket takes the place
	Attestation     *wire.Attestation // the member's word for SessionPubkey, if the session gave one; shared, do not change
}

// Presences keeps presences and the broker processes that own them.
type Presences interface {
	// OpenPresence stores a new presence, or takes over the row of the same ID, open or closed, raising its Epoch; it returns the row's
	// epoch, 1 for a new one. An ID that another member or another session key has is ErrConflict.
	// The session key, if any, becomes the member's in this mesh: a key that is another member's public key, or a former public key, or that any
	// presence of another member has or had as long as it is kept, is ErrKeyInUse and changes nothing. A revoked or unknown member
	// is ErrRevoked or ErrNotFound. Another open presence of the same member with the same session key, or with the same SessionID
	// and a different ID, is closed at p.ConnectedAt.
	OpenPresence(ctx context.Context, p Presence, audit ...AuditEvent) (epoch int64, err error)
	// SavePresences replaces the rows of open presences by the given ones where BrokerID and Epoch still match, but for MemberID, SessionID
	// and SessionPubkey, which stay, and ignores the others. It returns the IDs of those it ignored.
	SavePresences(ctx context.Context, ps []Presence) (lost []string, err error)
	// ClosePresence closes an open presence of that BrokerID and Epoch at now. It reports whether this call closed it.
	ClosePresence(ctx context.Context, mesh, id, brokerID string, epoch int64, now time.Time) (bool, error)
	// SessionKeyOwner returns the member that a session key belongs to in this mesh, and when it was last seen there (now, while
	// a presence with it is open); ErrNotFound if no kept presence has it or its member is revoked.
	SessionKeyOwner(ctx context.Context, mesh, sessionPubkey string, now time.Time) (memberID string, seenAt time.Time, err error)
	// Beat says that broker process id is alive at now. Beats of a process never go back.
	Beat(ctx context.Context, brokerID string, now time.Time) error
	// AdoptPresences makes brokerID the owner of open presences, raising their epoch, and returns them: those of other processes whose last
	// beat is deadAfter or more before now, or that never beat. One without LeaseUntil gets its old owner's last beat (now, if there was none or it
	// is forgotten) plus grace. A process that is dead by this and owns nothing more may be forgotten. Rows whose
	// LeaseUntil is then not after now are closed at now and returned too, with DisconnectedAt set.
	AdoptPresences(ctx context.Context, brokerID string, now time.Time, deadAfter, grace time.Duration) ([]Presence, error)
	// ReleasePresences puts every open presence of brokerID that has no LeaseUntil into grace until then, and forgets the process, so
	// that another adopts them at once.
	ReleasePresences(ctx context.Context, brokerID string, until time.Time) error
	// ClaimOnce remembers (mesh, key) with value until the given time. It reports true if the key was new at now, or expired; else it
	// changes nothing and reports whether the remembered value is the same. It has expired when until is not after now. It keeps replayed hellos out.
	ClaimOnce(ctx context.Context, mesh, key, value string, until, now time.Time) (first, same bool, err error)
}
