package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/claudemesh/broker/wire"
)

// APIKey lets a program act for a member over REST. The secret itself is never kept.
type APIKey struct {
	ID           string
	MeshID       string
	Label        string
	Hash         string // hex SHA-256 of the secret
	Prefix       string // the secret's first 11 characters
	Capabilities []string
	TopicScopes  *[]string // topic names; nil: all, empty: none
	IssuedBy     string    // member id; empty for a key of the host without a member
	Rekey        bool      // may change the issuer's public key; only the host mints such keys
	CreatedAt    time.Time
	LastUsedAt   time.Time
	RevokedAt    time.Time
	ExpiresAt    time.Time
}

// Live reports whether the key is neither revoked nor expired at now.
func (k APIKey) Live(now time.Time) bool {
	return k.RevokedAt.IsZero() && (k.ExpiresAt.IsZero() || k.ExpiresAt.After(now))
}

// MaxEndedAPIKeys is how many revoked or expired keys of one issuer are kept: enough to see what they were, and no more than a list can show.
const MaxEndedAPIKeys = 1000

// APIKeys keeps API keys.
type APIKeys interface {
	// CreateAPIKey stores a key, and forgets the oldest of the issuer's ended ones (at k.CreatedAt) beyond [MaxEndedAPIKeys], if it has an issuer. An issuer that is revoked is ErrRevoked, so that none is made beside a ban; maxLive live keys of the issuer at
	// k.CreatedAt (0: no limit) is ErrLimit; a used id is ErrConflict.
	CreateAPIKey(ctx context.Context, k APIKey, maxLive int, audit ...AuditEvent) error
	// APIKeysByPrefix returns the keys of all meshes with exactly that prefix, those that are not revoked first, then newest first, at
	// most 16. None is not an error.
	APIKeysByPrefix(ctx context.Context, prefix string) ([]APIKey, error)
	// APIKey returns one key by id, or ErrNotFound.
	APIKey(ctx context.Context, mesh, id string) (APIKey, error)
	// ListAPIKeys returns the keys issued by member, or of the whole mesh if member is empty, newest first.
	ListAPIKeys(ctx context.Context, mesh, member string) ([]APIKey, error)
	// FindAPIKeys returns the keys issued by member, or of the whole mesh if member is empty, that ref names: the one with that exact
	// id; else those whose id starts with ref (6 characters or more); else, if ref starts with cm_, those with that prefix. Of the last two only
	// the live ones at now, unless none is live. Newest first, at most 16.
	FindAPIKeys(ctx context.Context, mesh, member, ref string, now time.Time) ([]APIKey, error)
	// RevokeAPIKey revokes a key at now; twice keeps the first time. ErrNotFound.
	RevokeAPIKey(ctx context.Context, mesh, id string, now time.Time, audit ...AuditEvent) error
	// TouchAPIKey moves LastUsedAt forward to now. An unknown key is not an error.
	TouchAPIKey(ctx context.Context, mesh, id string, now time.Time) error
	// ActiveIssuers returns the members, not revoked, that issued a key which is not revoked and was used at or after since, by id.
	ActiveIssuers(ctx context.Context, mesh string, since time.Time) ([]string, error)
}

// Invite lets people join. The link's text is never kept, because it holds the mesh's root key.
type Invite struct {
	ID         string
	MeshID     string
	TokenHash  string // hex SHA-256 of a version-1 token; unique
	Code       string // a version-2 code; unique
	Version    int    // 1 or 2
	Role       string
	FirstRole  string // role of whoever uses it first; empty: Role
	MaxUses    int
	UsedCount  int
	Preset     InvitePreset
	Capability string // version 2: the signed text as it is handed out again, JSON of identity.InviteV2.Capability; public
	ExpiresAt  time.Time
	CreatedBy  string
	CreatedAt  time.Time
	RevokedAt  time.Time
}

// InvitePreset is what a member gets by joining through an invite.
type InvitePreset struct {
	DisplayName string
	RoleTag     string
	Groups      []wire.Group
	MessageMode string
}

// Redemption is an attempt to join.
type Redemption struct {
	TokenHash  string // of a version-1 token; or
	Code       string // of a version-2 invite, which counts only if TokenHash is empty
	Member     Member // without Role, which the invite gives; Name is suffixed if it is taken
	MaxMembers int    // 0: no limit
	Now        time.Time
}

// Invites keeps invites.
type Invites interface {
	// CreateInvite stores an invite. A used id, or a token hash or code (not empty) used in any mesh, is ErrConflict.
	CreateInvite(ctx context.Context, i Invite, audit ...AuditEvent) error
	// InviteByToken returns the invite with that token hash, or ErrNotFound. It is not scoped by mesh.
	InviteByToken(ctx context.Context, tokenHash string) (Invite, error)
	// InviteByCode returns the invite with that code (upper and lower case differ), or ErrNotFound. It is not scoped by mesh.
	InviteByCode(ctx context.Context, code string) (Invite, error)
	// Invites returns the invites of a mesh, newest first.
	Invites(ctx context.Context, mesh string) ([]Invite, error)
	// RevokeInvite revokes an invite at now; twice keeps the first time. ErrNotFound.
	RevokeInvite(ctx context.Context, mesh, id string, now time.Time, audit ...AuditEvent) error
	// RedeemInvite uses an invite of the member's mesh once and enrols the member, or does neither. In this order: ErrNotFound;
	// ErrRevoked (the invite); ErrExpired; a member that has the key and is not revoked is returned with already true, using nothing; ErrConflict (the
	// key is a revoked member's, or a former key, or the member's id is in use); ErrKeyInUse (it is known as another member's session key); ErrExhausted; ErrLimit.
	// The member's Role is the invite's: FirstRole, if it is set, for the first use, else Role. Its Name becomes the first of name, name-2,
	// name-3, … whose [FoldName] no member that is not revoked has. It is subscribed to the topic "general" if there is one. Events whose actor is
	// the new member are logged with the Name that it got; their payload cannot know it.
	RedeemInvite(ctx context.Context, r Redemption, audit ...AuditEvent) (m Member, already bool, err error)
}

// Notification tells a member that a message mentions it.
type Notification struct {
	ID                string // NotificationID
	MeshID            string
	TopicID           string
	MessageID         string
	RecipientMemberID string
	SenderMemberID    string
	Kind              string // mention
	CreatedAt         time.Time
	ReadAt            time.Time
}

// NotificationID is the id of the notification of a message to a member: the first 32 lower-case hex digits of SHA-256 over messageID,
// a NUL (which no id holds) and recipientMemberID. It is computed because a store has no generator of ids: so the same notification has
// the same id in every store. Like the ids that it is made of, it is unique only within its mesh.
func NotificationID(messageID, recipientMemberID string) string {
	sum := sha256.Sum256([]byte(messageID + "\x00" + recipientMemberID))
	return hex.EncodeToString(sum[:16])
}

// NotificationQuery selects notifications of one member.
type NotificationQuery struct {
	MeshID     string
	MemberID   string
	Since      time.Time // only those created after
	UnreadOnly bool
	Topics     *[]string // topic ids; nil: all
	Limit      int
}

// Notice is a notification with the message that caused it.
type Notice struct {
	Notification
	Message Message
}

// Notifications keeps notifications, which Enqueue makes.
type Notifications interface {
	// Notifications returns notifications, newest first.
	Notifications(ctx context.Context, q NotificationQuery) ([]Notice, error)
	// MarkNotificationsRead marks the member's unread notifications of those ids as read at now, or, if ids is nil, all created at or
	// before the given time (the zero time: all), and returns how many it changed.
	MarkNotificationsRead(ctx context.Context, mesh, member string, ids []string, before, now time.Time) (int, error)
}
