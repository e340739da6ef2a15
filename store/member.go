package store

import (
	"context"
	"time"

	"github.com/claudemesh/broker/wire"
)

// Roles of a member in its mesh.
const (
	RoleAdmin  = "admin"
	RoleMember = "member"
)

// Member is a stable identity in one mesh.
type Member struct {
	ID            string
	MeshID        string
	UserID        string // the host's user, empty for none
	Pubkey        string // ed25519, 64 lower-case hex digits
	Name          string // display name, 1-128 characters
	Role          string // RoleAdmin or RoleMember
	RoleTag       string
	DefaultGroups []wire.Group
	MessageMode   string              // push, inbox or off
	Grants        map[string][]string // public key to what its owner may do to this member; an entry replaces the defaults
	RequireHello2 bool                // refuse hellos that do not bind the session to the signature
	JoinedAt      time.Time
	LastSeenAt    time.Time
	RevokedAt     time.Time // set: banned
}

// PeerState is what a member gets back when it returns.
type PeerState struct {
	Groups      []wire.Group
	Profile     wire.Profile
	Visible     bool
	LastSummary string
	LastName    string // display name of the last presence
	Stats       wire.Stats
	LastSeenAt  time.Time
	UpdatedAt   time.Time
}

// PeerStateUpdate changes parts of a saved peer state; nil leaves a part as it is. A new row starts visible and empty.
type PeerStateUpdate struct {
	Groups      *[]wire.Group
	Profile     *wire.Profile
	Visible     *bool
	LastSummary *string
	LastName    *string
	Stats       *wire.Stats
	LastSeenAt  *time.Time
}

// Members keeps members and what is saved for them.
type Members interface {
	// AddMember enrols a member and subscribes it as member at its JoinedAt to the topic "general" if there is one. A public key that a member of the mesh has
	// or had, revoked or not, or an id in use, is ErrConflict; one that was seen as another member's session key is ErrKeyInUse; maxMembers
	// not revoked ones (0: no limit) is ErrLimit.
	AddMember(ctx context.Context, m Member, maxMembers int, audit ...AuditEvent) error
	// Member returns a member, revoked or not, or ErrNotFound.
	Member(ctx context.Context, mesh, id string) (Member, error)
	// MemberByKey returns the member with that public key (lower case), revoked or not, or ErrNotFound.
	MemberByKey(ctx context.Context, mesh, pubkey string) (Member, error)
	// Members returns the members that are not revoked, by JoinedAt, then in the order in which they were stored.
	Members(ctx context.Context, mesh string) ([]Member, error)
	// RevokedMembers returns the members that are revoked, the latest RevokedAt first, then the one stored later.
	RevokedMembers(ctx context.Context, mesh string) ([]Member, error)
	// SetGrants merges entries into a member's grants: nil takes the key away, a list replaces it. More than maxEntries afterwards
	// (0: no limit) is ErrLimit and changes nothing; an unknown member is ErrNotFound.
	SetGrants(ctx context.Context, mesh, member string, grants map[string]*[]string, maxEntries int) error
	// SetRole changes a member's role, or ErrNotFound.
	SetRole(ctx context.Context, mesh, member, role string, audit ...AuditEvent) error
	// SetRequireHello2 sets the member's demand, or ErrNotFound.
	SetRequireHello2(ctx context.Context, mesh, member string, required bool) error
	// RevokeMember bans a member at now: RevokedAt is set, its open presences are closed, its pending deliveries expire, its API
	// keys are revoked, its sealed topic keys are deleted. Subscriptions and authorship stay. It returns the expired deliveries.
	// Doing it twice keeps the first time. Unknown: ErrNotFound.
	RevokeMember(ctx context.Context, mesh, member string, now time.Time, audit ...AuditEvent) ([]Delivery, error)
	// RestoreMember clears RevokedAt, or ErrNotFound. What revoking ended stays ended. A member that is not revoked stays as it is.
	RestoreMember(ctx context.Context, mesh, member string, audit ...AuditEvent) error
	// RekeyMember gives a member a new public key: grants of other members move to it, its sealed topic keys are deleted, its API keys
	// without Rekey are revoked at now, its open presences are closed, and the old key is never accepted again in this mesh. ErrKeyInUse if the
	// new key belongs or belonged to any other member or its sessions, or is the member's own former key; ErrNotFound for an unknown or revoked
	// member. The key that the member has changes nothing.
	RekeyMember(ctx context.Context, mesh, member, pubkey string, now time.Time, audit ...AuditEvent) error
	// TouchMember moves LastSeenAt forward to now. An unknown member is not an error.
	TouchMember(ctx context.Context, mesh, member string, now time.Time) error

	// PeerState returns what is saved for a member, or ErrNotFound.
	PeerState(ctx context.Context, mesh, member string) (PeerState, error)
	// SavePeerState merges an update, or ErrNotFound for an unknown member.
	SavePeerState(ctx context.Context, mesh, member string, u PeerStateUpdate, now time.Time) error
}
