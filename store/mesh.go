package store

import (
	"context"
	"time"

	"github.com/claudemesh/broker/wire"
)

// Mesh is one trust domain. Everything else belongs to exactly one.
type Mesh struct {
	ID            string // 32 characters of [0-9A-Za-z]; a seeded one may be any wire.IsID
	Slug          string // unique, short, for links
	Name          string
	OwnerMemberID string // empty while the owner has not joined
	OwnerPubkey   string // 64 hex digits; signs invites; may be empty
	RootKey       string // base64url; only for version-2 invites; never logged
	Visibility    string // private or public
	SelfEditable  wire.SelfEditable
	CreatedAt     time.Time
	ArchivedAt    time.Time // set: no handshakes, no joins, keys invalid
}

// Meshes keeps meshes.
type Meshes interface {
	// CreateMesh stores a mesh with its first topic. A used id or slug is ErrConflict and changes nothing.
	CreateMesh(ctx context.Context, m Mesh, general Topic) error
	// Mesh returns a mesh, archived or not, or ErrNotFound.
	Mesh(ctx context.Context, id string) (Mesh, error)
	// MeshBySlug returns the mesh of that slug, or ErrNotFound.
	MeshBySlug(ctx context.Context, slug string) (Mesh, error)
	// Meshes returns at most limit meshes with an id above after, by id.
	Meshes(ctx context.Context, after string, limit int) ([]Mesh, error)
	// SetRootKey gives a mesh without a root key that one, or ErrNotFound. A mesh never changes its key: the same again is no error, another
	// is ErrConflict.
	SetRootKey(ctx context.Context, id, rootKey string) error
	// SetMeshOwner names the owner's member, or ErrNotFound. Empty values leave the old ones.
	SetMeshOwner(ctx context.Context, id, memberID, pubkey string, audit ...AuditEvent) error
	// ArchiveMesh marks a mesh archived at now; doing it twice keeps the first time. ErrNotFound for an unknown one.
	ArchiveMesh(ctx context.Context, id string, now time.Time) error
	// DeleteMesh deletes a mesh and everything of it. An unknown one is not an error.
	DeleteMesh(ctx context.Context, id string) error
	// Roster returns the mesh's current roster, or ErrNotFound. The result is a snapshot that callers share: nobody may change it.
	Roster(ctx context.Context, mesh string) (*Roster, error)
}

// Roster is everything by which recipients are chosen, at one moment. Version rises with every change of a member, role,
// revocation, grant, presence (its existence, groups, visibility), saved peer state (its existence, groups, visibility), topic or
// subscription (its existence, role). What else the entities hold (LastSeenAt, summaries, read marks, HasKey) may be older than the snapshot.
type Roster struct {
	Version int64
	Members []RosterMember // not revoked, by JoinedAt, then in the order in which they were stored
	Topics  []RosterTopic  // not archived, by Name
}

// RosterMember is a member and what decides whether multicasts reach it.
type RosterMember struct {
	Member
	Saved     *PeerState       // nil: nothing saved
	Presences []RosterPresence // open ones, online or in grace
}

// RosterPresence is one open presence.
type RosterPresence struct {
	ID            string
	SessionPubkey string
	Groups        []wire.Group
	Visible       bool
}

// RosterTopic is a topic with its subscribers.
type RosterTopic struct {
	Topic
	Subscribers []Subscription // by MemberID; members that are not revoked
}
