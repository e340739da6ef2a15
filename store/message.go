package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/claudemesh/broker/wire"
)

// Message is one accepted message. A topic post is a message with a TopicID: history is a query over messages.
//
// Its body is Nonce and Ciphertext. A store may drop the body of a message without TopicID once no delivery of it is pending, also
// when it never had any: both are empty then, wherever the message is read, and the rest of it stays, BodyHash among it: a receipt may come
// after the body went.
type Message struct {
	ID                  string
	MeshID              string
	Seq                 int64 // set by Enqueue
	SenderMemberID      string
	SenderPubkey        string // the sender's member key at the time
	SenderSessionPubkey string // the key of the sending session, empty for none
	SenderPresenceID    string // the presence that sent it, which never gets it back; empty for a REST post
	SenderName          string // display name at the time
	TargetSpec          string // as the sender gave it
	TopicID             string
	TopicName           string
	Group               string // the group's name for a group target
	Priority            wire.Priority
	Nonce               string // like Ciphertext empty if the body was dropped
	Ciphertext          string
	BodyVersion         int // topic messages: 1 or 2
	ReplyToID           string
	Subtype             string
	ClientMessageID     string // unique per mesh and sender; empty for none
	RequestFingerprint  string
	ContentHash         string            // ContentHash of the request
	BodyHash            string            // identity.ReceiptBodyHash of the body, for receipts; it outlives the body
	SenderAttestation   *wire.Attestation // the member's word for SenderSessionPubkey, where the session gave one; shared, do not change
	Refused             []Refusal         // set by Enqueue: addressed recipients left out for want of a place
	CreatedAt           time.Time         // set by Enqueue; never goes back within a mesh
	ExpiresAt           time.Time
}

// Refusal is a recipient that was addressed and could not be given the message.
type Refusal struct {
	Recipient
	Reason string // wire.ReasonQueueFull or wire.ReasonQuota
}

// Recipient is a mailbox: a member, or one session of a member.
type Recipient struct {
	MemberID      string
	SessionPubkey string // set: only a connection with this session key may have it
}

// DoneBy says who confirmed a delivery.
type DoneBy string

// The two kinds of confirmation.
const (
	ByClient    DoneBy = "client"    // the recipient's client_ack
	ByTransport DoneBy = "transport" // a pong that came back after the push: it reached the process
)

// DeliveryState is the state of a delivery. Done and expired are final.
type DeliveryState string

// The states of a delivery.
const (
	Pending DeliveryState = "pending"
	Done    DeliveryState = "done"
	Expired DeliveryState = "expired"
)

// Delivery is one message for one recipient.
type Delivery struct {
	Recipient
	MeshID        string
	MessageID     string
	Seq           int64
	Priority      wire.Priority
	State         DeliveryState
	CreatedAt     time.Time
	ExpiresAt     time.Time
	DoneAt        time.Time // set iff State is Done or Expired
	DoneBy        DoneBy    // set iff State is Done
	ExpiredReason string    // set iff State is Expired: wire.ReasonTTL or wire.ReasonRevoked
	Receipt       *Receipt  // the recipient's signed word, if it gave one; only of a done delivery; shared, do not change
}

// Receipt is a recipient's signed word that it has a message (docs/formats.md, receipts). Who stores one has verified it.
type Receipt struct {
	MessageID     string
	MemberPubkey  string // the recipient's member key at the time, which is part of what was signed
	AckedAt       int64  // ms since the epoch, by the recipient's clock
	Signature     string // 128 hex digits
	SessionPubkey string // set, with Attestation, if a session's key signed
	Attestation   *wire.Attestation
}

// Draft is a message to be stored, with its recipients.
type Draft struct {
	Message    Message // without Seq and Refused
	Recipients []Recipient
	// Direct messages have one recipient; a full mailbox refuses the message. Others leave the recipient out and say so.
	Direct bool
	// Mentions are the members to be notified, in order, each once, however often it is named. Unknown ones are left out.
	Mentions []string
	// Audit are the events to be logged with the message if it is stored.
	Audit []AuditEvent
}

// Quota bounds mailboxes. Pending deliveries of one mailbox are counted apart for priority now and for the rest; now has NowPlaces
// places of its own, and what exceeds them counts with the rest. With n pending now and r pending others, a delivery is refused with
// queue_full when r + max(0, n - NowPlaces) >= PerMailbox, unless it is a now one and n < NowPlaces. The same holds for the part
// that one sender has there, with PerSender and NowPerSender, and is refused with quota. A number of 0 or less lifts that bound.
// Mail past its ExpiresAt is not counted: Enqueue expires it first.
type Quota struct {
	PerMailbox   int
	PerSender    int
	NowPlaces    int
	NowPerSender int
}

// Enqueued is the outcome of one draft. A draft whose Message.ID is stored already, by the same sender with the same request, was
// stored by an earlier call whose reply was lost: nothing changes, and the result is the one of that call: the message as stored,
// Recipients from its deliveries (in any order), Notified, and Duplicate false.
type Enqueued struct {
	// Message as stored: with Seq, CreatedAt and Refused; or, of a duplicate, the message accepted before. Of one that an earlier
	// call stored, as a duplicate or because that call's reply was lost, the body may be empty.
	Message Message
	// Duplicate: the sender's ClientMessageID was accepted before with the same request; nothing was stored.
	Duplicate bool
	// Recipients are those of the draft that got a delivery, in the draft's order; in any order if the reply of the call that stored
	// the message was lost. Shared, maybe with the draft: do not change.
	Recipients []Recipient
	// Notified is the number of notifications made.
	Notified int
	// Err refuses this draft alone: ErrConflict (the ClientMessageID was used for another request, or the ID by another sender or for
	// another request),
	// ErrNotFound (an unknown topic or recipient), ErrQueueFull (direct, with the
	// reason in Message.Refused), or an error of the store that this draft provokes whenever it is tried.
	Err error
}

// PendingQuery selects pending deliveries of one connection.
type PendingQuery struct {
	MeshID        string
	MemberID      string
	SessionPubkey string // also those for this session; empty: only those for the member
	// After holds, for each wanted priority, the seq above which deliveries are wanted; a priority that is missing is not wanted.
	After map[wire.Priority]int64
	// UpTo, when above 0, leaves out deliveries with a larger seq.
	UpTo  int64
	Now   time.Time
	Limit int
}

// Mail is a pending delivery with its message. Message is shared: do not change it.
type Mail struct {
	Delivery Delivery
	Message  *Message
}

// Ack confirms deliveries of one recipient.
type Ack struct {
	MeshID        string
	MemberID      string
	SessionPubkey string // also deliveries for this session; empty: only those for the member
	MessageIDs    []string
	// UpTo, when above 0, leaves deliveries with a larger seq alone.
	UpTo int64
	By   DoneBy
	At   time.Time
	// Receipts are kept with the recipient's deliveries that are done, by this or an earlier ack, and have none: those for the member and those
	// for SessionPubkey, not above UpTo. A receipt for a delivery that is pending after this ack, or expired, is dropped. Of several for one
	// delivery the first is kept.
	Receipts []Receipt
}

// Acked is what acknowledgements changed.
type Acked struct {
	Done     []Delivery // became done; those that also got a receipt with it or without it
	Receipts []Delivery // got a receipt, which they have; maybe among Done
}

// HistoryQuery selects messages of a topic.
type HistoryQuery struct {
	MeshID  string
	TopicID string
	// Before, when above 0: newest first, only smaller seqs. After, when 0 or more and Before is 0 and Forward is set: oldest first, only larger seqs.
	Before  int64
	After   int64
	Forward bool
	Limit   int
}

// Inbox keeps messages and their deliveries.
type Inbox interface {
	// Enqueue stores the drafts of one mesh in order, in one transaction: each message with its dedupe key, one delivery per
	// recipient that has a place, its notifications and its audit events; all of the batch or, with an error, nothing. It assigns consecutive Seqs in
	// order. rosterVersion is the version that recipients were chosen by: if it is not the current one, ErrStale, and nothing is
	// stored, even if every draft is stored already.
	//
	// A draft whose Message.ID is stored already, by the same sender with the same request ([SameRequest]), was stored by an earlier
	// call whose reply was lost: nothing changes, and the result is the one of that call: the message as stored, Recipients from its
	// deliveries (in any order), Notified, and Duplicate false. This comes before the ClientMessageID, so that no draft is a duplicate
	// of itself. Another sender or another request under a used ID is ErrConflict. A direct draft that was refused is not stored, so
	// it is tried anew.
	//
	// A draft with a ClientMessageID that the sender used before, in this batch or earlier, is a duplicate if [SameRequest] says
	// so and ErrConflict otherwise. Neither these nor drafts that are stored already are counted against a quota.
	//
	// Before it counts a mailbox, Enqueue turns its pending deliveries whose ExpiresAt is not after now into expired ones, as
	// [Upkeep.Expire] does with reason ttl; it may do so with others of the mesh that are due. Expire does not return those again.
	//
	// The result has one element per draft.
	Enqueue(ctx context.Context, mesh string, rosterVersion int64, drafts []Draft, q Quota, now time.Time) ([]Enqueued, error)
	// Sent returns the message that the sender sent under clientMessageID, or ErrNotFound. Its body may be empty; see [Message].
	Sent(ctx context.Context, mesh, senderMemberID, clientMessageID string) (Message, error)
	// Pending returns pending, unexpired deliveries with their messages, ascending by Seq, at most q.Limit. None is not an error.
	Pending(ctx context.Context, q PendingQuery) ([]Mail, error)
	// Ack makes pending deliveries done and keeps receipts, in one transaction, and returns what it changed. Unknown, foreign and final ones are
	// left as they are, and the first receipt of a delivery stays, which is not an error: any node may do it, any number of times. A receipt is
	// part of its delivery: it is written where there is none, after what the same ack makes done, and goes with the message.
	Ack(ctx context.Context, acks []Ack) (Acked, error)
	// Message returns the message with that id, or the only one whose id starts so; ErrNotFound, or ErrAmbiguous. An exact id wins.
	// Its body may be empty; see the type [Message].
	Message(ctx context.Context, mesh, idOrPrefix string) (Message, error)
	// Deliveries returns the deliveries of a message, by recipient. None is not an error.
	Deliveries(ctx context.Context, mesh, messageID string) ([]Delivery, error)
	// History returns messages of a topic, archived or not, at most q.Limit; see [HistoryQuery].
	History(ctx context.Context, q HistoryQuery) ([]Message, error)
	// LastSeq is the seq of the newest message of the mesh, 0 for none, or ErrNotFound for an unknown mesh.
	LastSeq(ctx context.Context, mesh string) (int64, error)
}

// ContentHash is the hash by which two requests without a fingerprint are compared: lower-case hex SHA-256 of
// targetSpec|priority|nonce|ciphertext.
func ContentHash(targetSpec string, priority wire.Priority, nonce, ciphertext string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{targetSpec, string(priority), nonce, ciphertext}, "|")))
	return hex.EncodeToString(sum[:])
}

// SameRequest reports whether two messages with the same ClientMessageID or ID are the same request: by fingerprint where both have
// one, else by content hash. It needs no body.
func SameRequest(a, b Message) bool {
	if a.RequestFingerprint != "" && b.RequestFingerprint != "" {
		return strings.EqualFold(a.RequestFingerprint, b.RequestFingerprint)
	}
	return a.ContentHash == b.ContentHash
}

// Refuse applies q to a mailbox with now and rest pending deliveries, senderNow and senderRest of them from the sender. It returns
// the reason of the refusal, or the empty string.
func (q Quota) Refuse(p wire.Priority, now, rest, senderNow, senderRest int) string {
	full := func(n, r, limit, places int) bool {
		if limit <= 0 || p == wire.PriorityNow && places > 0 && n < places {
			return false
		}
		return r+max(0, n-max(0, places)) >= limit
	}
	switch {
	case full(now, rest, q.PerMailbox, q.NowPlaces):
		return wire.ReasonQueueFull
	case full(senderNow, senderRest, q.PerSender, q.NowPerSender):
		return wire.ReasonQuota
	default:
		return ""
	}
}
