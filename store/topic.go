package store

import (
	"context"
	"time"
)

// Topic is a named place for messages. Names are unique among the topics of a mesh that are not archived.
type Topic struct {
	ID                 string
	MeshID             string
	Name               string
	Description        string
	Visibility         string // wire.VisibilityPublic, VisibilityPrivate or VisibilityDM
	CreatedByMemberID  string
	EncryptedKeyPubkey string // x25519 key of whoever sealed the first copy, 64 hex digits; empty: the topic has no key
	CreatedAt          time.Time
	ArchivedAt         time.Time
}

// Subscription makes a member a topic member.
type Subscription struct {
	TopicID     string
	MemberID    string
	Role        string // wire.TopicLead, TopicMember or TopicObserver
	JoinedAt    time.Time
	LastReadAt  time.Time
	LastReadSeq int64 // messages above it, and not by the member, are unread
	HasKey      bool  // holds a sealed copy of the topic key; not kept, but looked up
}

// SealedKey is one member's sealed copy of a topic key; the formats are those of package topickey.
type SealedKey struct {
	EncryptedKey     string
	Nonce            string
	SealedByMemberID string // empty: the broker made the key for an older client
	CreatedAt        time.Time
	RotatedAt        time.Time // set when a later copy replaced the first
}

// NewTopic is a topic to be created, with the creator as lead.
type NewTopic struct {
	Topic
	Key       *SealedKey // the creator's copy, with Topic.EncryptedKeyPubkey; nil: none
	MaxTopics int        // topics of the mesh that are not archived; 0: no limit
	MaxOwned  int        // of them created by the same member; 0: no limit
}

// PendingSeal is a topic member that waits for a copy of the key.
type PendingSeal struct {
	Member   Member
	Rejected int // copies that it has rejected
}

// Topics keeps topics and who is in them.
type Topics interface {
	// CreateTopic stores a topic, its creator's subscription as lead, and its creator's copy of the key. If a topic of that name is not archived
	// it changes nothing and returns that one, with created false. ErrConflict for a used id, ErrNotFound for an unknown or revoked creator
	// (none: a topic of the host, which nobody leads), ErrLimit when a limit is reached.
	CreateTopic(ctx context.Context, t NewTopic, audit ...AuditEvent) (topic Topic, created bool, err error)
	// Topic returns a topic that is not archived, by exact id, else by name; or ErrNotFound.
	Topic(ctx context.Context, mesh, idOrName string) (Topic, error)
	// TopicByID returns a topic, archived or not, or ErrNotFound.
	TopicByID(ctx context.Context, mesh, id string) (Topic, error)
	// Topics returns the topics that are not archived, by name.
	Topics(ctx context.Context, mesh string) ([]Topic, error)
	// Subscribe makes a member a topic member at now with role, and reports true; if it is one already it keeps its row, changes the role only
	// if replaceRole, and reports false. ErrNotFound for an unknown or archived topic or an unknown or revoked member. Events are logged
	// if it becomes one or gets another role.
	Subscribe(ctx context.Context, mesh, topic, member, role string, replaceRole bool, now time.Time, audit ...AuditEvent) (joined bool, err error)
	// Unsubscribe removes the subscription, the sealed copy, and the pending deliveries of the topic's messages to that member (they
	// expire at now), and returns the latter. Not being subscribed is not an error.
	Unsubscribe(ctx context.Context, mesh, topic, member string, now time.Time, audit ...AuditEvent) ([]Delivery, error)
	// Subscription returns one subscription, or ErrNotFound.
	Subscription(ctx context.Context, mesh, topic, member string) (Subscription, error)
	// Subscriptions returns the topic's subscriptions of members that are not revoked, by MemberID.
	Subscriptions(ctx context.Context, mesh, topic string) ([]Subscription, error)
	// MarkRead sets LastReadAt and LastReadSeq (to the newest message of the mesh) of the member's subscription at now; with create it
	// subscribes as member first if needed and possible. It reports whether a subscription was there or made.
	MarkRead(ctx context.Context, mesh, topic, member string, create bool, now time.Time) (bool, error)
	// Unread counts, for each of the topics, messages above the member's LastReadSeq (0 without a subscription) that are not the member's
	// own, at most limit each. Every topic asked for has an entry, unknown ones 0.
	Unread(ctx context.Context, mesh, member string, topics []string, limit int) (map[string]int, error)
	// ArchiveTopic archives a topic at now, expires its pending deliveries and returns them. Archived already: nothing. ErrNotFound.
	ArchiveTopic(ctx context.Context, mesh, topic string, now time.Time, audit ...AuditEvent) ([]Delivery, error)
	// RestoreTopic takes a topic out of the archive; ErrConflict if its name is in use, ErrNotFound if it is unknown.
	RestoreTopic(ctx context.Context, mesh, topic string, audit ...AuditEvent) error
}

// TopicKeys keeps sealed copies of topic keys.
type TopicKeys interface {
	// TopicKey returns a member's copy, or ErrNotFound.
	TopicKey(ctx context.Context, mesh, topic, member string) (SealedKey, error)
	// SealTopicKey stores a copy for recipient, sealed by k.SealedByMemberID. In this order: ErrNotFound (the topic is unknown);
	// ErrUnencrypted; ErrNotFound (the recipient is no topic member, or revoked); ErrNotHolder (the sealer has no copy); ErrRejected (the recipient rejected this sealer);
	// ErrConflict (a copy exists and overwrite is false). An overwritten copy keeps its CreatedAt and gets k.CreatedAt as RotatedAt.
	SealTopicKey(ctx context.Context, mesh, topic, recipient string, k SealedKey, overwrite bool) error
	// ClaimTopicKey gives a topic its key: pubkey as metadata and member's copy. ErrConflict if the topic has a key, unless lost is true and no
	// member has a copy any more; then rejections are forgotten and the new key counts. ErrNotFound for an unknown or archived topic.
	ClaimTopicKey(ctx context.Context, mesh, topic, member, pubkey string, k SealedKey, lost bool) error
	// TopicKeyCount is the number of copies of the topic's key.
	TopicKeyCount(ctx context.Context, mesh, topic string) (int, error)
	// RejectTopicKey deletes the member's own copy and remembers that it rejects whoever sealed it. It reports whether there was one.
	RejectTopicKey(ctx context.Context, mesh, topic, member string) (bool, error)
	// PendingSeals returns subscribers without a copy, not revoked, other than except, oldest subscription first, at most limit.
	PendingSeals(ctx context.Context, mesh, topic, except string, limit int) ([]PendingSeal, error)
}
