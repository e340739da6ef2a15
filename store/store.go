// Package store says what a broker keeps and what every place that keeps it must guarantee.
//
// The contract is written as whole operations with their invariants, not as access to rows: [Inbox.Enqueue] stores a batch of
// messages for all their recipients, or refuses it; [Invites.RedeemInvite] counts a use and enrols the member, or does neither.
// Each operation is atomic, takes a context, and fails with one of the sentinels below (wrapped, with what was asked for) or with
// an error that means "the store is not well". An operation whose context is already over does nothing and returns the context's
// error. The comment of a method is the law; package storetest checks it line by line, and a store that passes is a store.
//
// Rules that hold everywhere:
//
//   - A store never reads a clock: every time it needs is an argument, in UTC, cut to milliseconds by the caller. A store keeps at
//     least microseconds. The zero time means "not set".
//   - Everything is scoped by mesh. An id of one mesh never finds anything of another. In an unknown mesh, what stores or returns one thing
//     is ErrNotFound, unless its comment makes unknown things no error; what lists, counts, confirms or marks finds nothing.
//   - Slices, maps and structs are copied on the way in and on the way out, except where a result says that it is shared and must
//     not be changed.
//   - Where an order by time leaves ties, the order in which the things were stored decides: of two of one moment the one stored later
//     is the newer, so where the newest comes first, it does. Changing a thing does not store it again. Orders by id or name leave no ties.
//   - A limit of 0 or less on the length of a result is none at all.
//   - Text order is by bytes; ids are opaque; text holds no NUL and is valid UTF-8 (package wire sees to it).
//   - Per mesh, [Message.Seq] rises strictly in the order in which messages became visible: a reader that has seen seq n will
//     never later find a smaller one. Every order, page and cursor over messages goes by it alone.
//   - All methods may be called from many goroutines at once.
package store

import (
	"context"
	"errors"
	"time"
)

// The sentinels of the contract. Callers test with errors.Is.
var (
	// ErrNotFound: no such thing in this mesh.
	ErrNotFound = errors.New("store: not found")
	// ErrConflict: the thing exists already, or a client_message_id was used for a different message.
	ErrConflict = errors.New("store: conflict")
	// ErrAmbiguous: a prefix matches several things.
	ErrAmbiguous = errors.New("store: ambiguous")
	// ErrStale: the roster changed since the snapshot that the caller decided by; nothing was stored.
	ErrStale = errors.New("store: roster has changed")
	// ErrLimit: a configured number of things is reached.
	ErrLimit = errors.New("store: limit reached")
	// ErrQueueFull: the recipient's mailbox has no place for this message.
	ErrQueueFull = errors.New("store: mailbox is full")
	// ErrKeyInUse: a public key already belongs to another member, or to another member's session.
	ErrKeyInUse = errors.New("store: key is in use")
	// ErrRevoked: the thing was revoked.
	ErrRevoked = errors.New("store: revoked")
	// ErrExpired: the thing has expired.
	ErrExpired = errors.New("store: expired")
	// ErrExhausted: every use of the thing is used.
	ErrExhausted = errors.New("store: exhausted")
	// ErrNotHolder: the member holds no sealed copy of the topic key, so it cannot seal one.
	ErrNotHolder = errors.New("store: not a key holder")
	// ErrRejected: the recipient has rejected this sealer's copy before.
	ErrRejected = errors.New("store: sealer was rejected")
	// ErrUnencrypted: the topic has no key.
	ErrUnencrypted = errors.New("store: topic has no key")
	// ErrUnavailable: the store cannot be reached; the outcome of a write is not known and a retry is safe.
	ErrUnavailable = errors.New("store: unavailable")
)

// Store is everything that a broker needs. Whoever opened it closes it, after the broker's Shutdown.
type Store interface {
	Meshes
	Members
	Presences
	Inbox
	Topics
	TopicKeys
	APIKeys
	Invites
	Notifications
	State
	Audit
	Upkeep
}

// Upkeep is what keeps a store healthy and small.
type Upkeep interface {
	// Ping returns nil while the store answers.
	Ping(ctx context.Context) error
	// Expire turns deliveries pending at now whose ExpiresAt is not after now, and those for a session key whose last presence
	// closed before now minus sessionGone, into expired ones, at most limit of them, and returns what it changed. sessionGone of 0
	// or less leaves session mail alone. Fewer than limit means that there is nothing left.
	Expire(ctx context.Context, now time.Time, sessionGone time.Duration, limit int) ([]Delivery, error)
	// Prune deletes what has outlived its use: see [Retention]. It may do part of the work per call; done says that nothing is left.
	Prune(ctx context.Context, now time.Time, keep Retention) (done bool, err error)
	// PendingCount is the number of pending deliveries of all meshes.
	PendingCount(ctx context.Context) (int64, error)
}

// Retention says how long things are kept after their use; zero or negative keeps them for ever. A thing goes when that time is not after
// now. A message goes with its deliveries and notifications.
type Retention struct {
	Presences     time.Duration // closed presences, after DisconnectedAt; they keep session keys recognisable
	Notifications time.Duration // after CreatedAt
	APIKeys       time.Duration // after they expired or were revoked
	Topics        time.Duration // topic messages without pending deliveries, after CreatedAt
	// Messages without pending deliveries that belong to no topic are kept until their ExpiresAt, and for at least this long after
	// CreatedAt, because retries and message_status ask for them.
	Messages time.Duration
}
