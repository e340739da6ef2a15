package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// A receipt is a recipient's signature that it has a message (docs/formats.md, receipts). This file signs those of this member, and judges those
// that the broker hands on for what this process sent: against the bytes that it sent and the key that it trusts, never against what
// came with the receipt.

// ErrUnknownSend says that a receipt cannot be judged, because this process does not know the bytes of the message: it did not send it, or
// too many others since, or the broker had it from an earlier process.
var ErrUnknownSend = errors.New("client: this process did not send the message, so it cannot check receipts for it")

// ErrUnknownRecipient says that a receipt cannot be judged, because no key is pinned for the member that it is said to be from.
var ErrUnknownRecipient = errors.New("client: no key is known of the member that the receipt is said to be from")

// ReceiptError says that a receipt does not hold. It counts as none: whoever made it, it was not the recipient, or not for this message.
type ReceiptError struct {
	MessageID string
	Cause     error // what is wrong with it; identity.ClassOf names it
}

func (e *ReceiptError) Error() string {
	return fmt.Sprintf("client: the receipt for message %s does not hold: %v", e.MessageID, e.Cause)
}

// Unwrap gives the cause.
func (e *ReceiptError) Unwrap() error { return e.Cause }

// bodies remember the latest messages that were handed over, so that they can be signed for when they are acknowledged, and again when they are
// pushed again.
type bodies struct {
	mu   sync.Mutex
	seen recent[body] // guarded by mu; by message id
}

type body struct {
	hash string
	// bySession: the message was sealed for this session's key, which therefore signs: its sender may know no other.
	bySession bool
}

func bodyHash(nonce, ciphertext string) string { return identity.ReceiptBodyHash(nonce, ciphertext) }

func (b *bodies) saw(id, nonce, ciphertext string, bySession bool) {
	hash := bodyHash(nonce, ciphertext)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen.put(id, body{hash, bySession})
}

func (b *bodies) get(id string) (body, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen.get(id)
}

// offers reports whether the broker offers a capability.
func (c *Client) offers(capability string) bool {
	for _, have := range c.Hello().Capabilities {
		if have == capability {
			return true
		}
	}
	return false
}

func (c *Client) signs() bool { return !c.o.NoReceipts && c.offers(wire.CapReceipts) }

// ackLimit is how many messages Ack puts into one frame.
func (c *Client) ackLimit() int { return maxAcks(c.offers(wire.CapClientAckBatch), c.signs()) }

// ackOf acknowledges a message, with a receipt if it may and its body is known. An id that could stand for more than one field of the signed text
// is not signed.
func (c *Client) ackOf(id string) ack {
	seen, known := c.bodies.get(id)
	if !known || !wire.IsID(id) || !c.signs() {
		return ack{id: id}
	}
	now := time.Now()
	subject := identity.ReceiptSubject{MeshID: c.o.MeshID, MessageID: id, BodyHash: seen.hash, RecipientPubkey: c.o.Key.Public()}
	signer, a := c.o.Key, (*identity.Attestation)(nil)
	if seen.bySession {
		fresh := identity.NewAttestation(c.o.Key, c.o.SessionKey.Public(), now)
		signer, a = c.o.SessionKey, &fresh
	}
	signed := identity.NewReceipt(subject, now, signer, a)
	at := wire.Number(signed.AckedAt)
	r := &wire.Receipt{MessageID: id, AckedAt: &at, Signature: signed.Signature, SessionPubkey: signed.SessionPubkey}
	if a != nil {
		r.Attestation = attestationFrame(*a)
	}
	return ack{id: id, receipt: r}
}

// sentMessage is what is known of a message that this process sent.
type sentMessage struct {
	clientID string
	bodyHash string
	to       string // the key that a direct message is sealed for; empty for others
	// at is when the message was sealed: nobody has it earlier.
	at time.Time
	// earlier says that the broker had stored the message before: perhaps other bytes, sealed by another process.
	earlier bool
}

// sends remember the latest messages that were sent: so that one acknowledgement cannot stand for two messages, and so that receipts can be judged.
// Who tracks a message is told of its receipts at once.
type sends struct {
	mu       sync.Mutex
	messages recent[sentMessage]        // guarded by mu; by message id
	expected map[string]sentMessage     // guarded by mu; by _reqId, while the answer is awaited
	watchers map[string][]chan judgment // guarded by mu; by message id
}

// judgment is a receipt that came as an event, and what is wrong with it.
type judgment struct {
	memberID string
	receipt  wire.StoredReceipt
	err      error
}

// watched is how many receipts wait for one who tracks a message. Of more it learns when it asks the broker.
const watched = 64

func (s *sends) init() {
	s.messages, s.expected = newRecent[sentMessage](rememberedSends), map[string]sentMessage{}
	s.watchers = map[string][]chan judgment{}
}

// expect lets stored know what the request with that _reqId sends.
func (s *sends) expect(reqID string, m sentMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expected[reqID] = m
}

func (s *sends) forget(reqID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.expected, reqID)
}

// stored remembers a message the moment that its ack is read: its receipts may be the next frames.
func (s *sends) stored(reqID string, frame []byte) {
	var f wire.Ack
	if json.Unmarshal(frame, &f) != nil || f.MessageID == "" {
		return // SendSealed sees it, too
	}
	s.mu.Lock()
	m, expected := s.expected[reqID]
	s.mu.Unlock()
	if expected {
		m.earlier = f.Duplicate
		s.ours(f.MessageID, m)
	}
}

// ours remembers a message that was stored, and reports false if its id stands for another one already.
func (s *sends) ours(messageID string, m sentMessage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, known := s.messages.get(messageID); known {
		return have.clientID == m.clientID // what was sent first was sent from here, so it stays
	}
	s.messages.put(messageID, m)
	return true
}

func (s *sends) get(messageID string) (sentMessage, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.messages.get(messageID)
}

// watch returns a channel of the receipts that come for a message, until stop is called.
func (s *sends) watch(messageID string) (receipts <-chan judgment, stop func()) {
	ch := make(chan judgment, watched)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[messageID] = append(s.watchers[messageID], ch)
	return ch, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		left := s.watchers[messageID][:0]
		for _, have := range s.watchers[messageID] {
			if have != ch {
				left = append(left, have)
			}
		}
		if s.watchers[messageID] = left; len(left) == 0 {
			delete(s.watchers, messageID)
		}
	}
}

func (s *sends) tell(messageID string, j judgment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ch := range s.watchers[messageID] {
		select {
		case ch <- j:
		default: // the broker is asked anyway
		}
	}
}

// errOtherKey is what is wrong with a receipt for a direct message from a member that the message is not sealed for.
var errOtherKey = errors.New("the message is not sealed for the key of the member that it is said to be from")

// judge checks a receipt for a message and returns it with the member key by which it holds in place of the one that the broker showed with it. What
// is wrong with it is a *ReceiptError, ErrUnknownSend or ErrUnknownRecipient. It makes no request.
func (c *Client) judge(messageID, memberID string, r *wire.StoredReceipt) (wire.StoredReceipt, error) {
	sent, known := c.sent.get(messageID)
	if !known {
		return wire.StoredReceipt{}, ErrUnknownSend
	}
	key, err := c.recipientKey(memberID)
	if err != nil {
		return wire.StoredReceipt{}, err
	}
	if sent.to != "" && sent.to != key && sent.to != r.SessionPubkey {
		return wire.StoredReceipt{}, &ReceiptError{MessageID: messageID, Cause: errOtherKey}
	}
	signed := identity.Receipt{MessageID: messageID, AckedAt: float64(r.AckedAt), Signature: r.Signature, SessionPubkey: r.SessionPubkey}
	if r.Attestation != nil {
		a := signedAttestation(r.Attestation)
		signed.Attestation = &a
	}
	err = signed.Verify(identity.ReceiptSubject{
		MeshID: c.o.MeshID, MessageID: messageID, BodyHash: sent.bodyHash, RecipientPubkey: key, SentAt: sent.at,
	}, time.Now())
	switch {
	case err == nil:
		holds := *r
		holds.MemberPubkey = key
		return holds, nil
	case sent.earlier: // it may well be for the bytes that were stored
		return wire.StoredReceipt{}, ErrUnknownSend
	default:
		return wire.StoredReceipt{}, &ReceiptError{MessageID: messageID, Cause: err}
	}
}

// recipientKey is the member key by which a recipient's receipt must hold: the one that is pinned for the member, so that who is shown as the signer is
// the one whose key was checked. It never comes from the receipt. A direct message is sealed for that very key, or for the key of the session
// that signs.
func (c *Client) recipientKey(memberID string) (string, error) {
	if memberID == c.o.MemberID {
		return c.o.Key.Public(), nil
	}
	pinned, err := c.o.Pins.Get(c.o.MeshID, PinMember, memberID)
	if err != nil {
		return "", err
	}
	if pinned == "" {
		return "", ErrUnknownRecipient
	}
	return pinned, nil
}

// takeReceipt handles the event of a receipt. Only one that holds is shown.
func (c *Client) takeReceipt(e *Event, data []byte) error {
	var r wire.ReceiptEvent
	if err := decodeEvent(data, &r); err != nil {
		return err
	}
	j := judgment{memberID: r.MemberID, receipt: r.StoredReceipt}
	holds, err := c.judge(r.MessageID, r.MemberID, &r.StoredReceipt)
	j.err = err
	c.sent.tell(r.MessageID, j)
	if j.err != nil {
		return j.err
	}
	e.Receipt = &ReceiptEvent{MessageID: r.MessageID, MemberID: r.MemberID, AckedAt: time.UnixMilli(r.AckedAt), Receipt: holds}
	return nil
}
