package broker

import (
	"context"
	"math"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// A receipt is a recipient's signature that it has a message (docs/formats.md, receipts). The broker cannot make one. It checks those that come
// with a client_ack, so that what it stores and hands on is worth looking at, and the sender's client checks them again, against what it knows
// for itself. A receipt that fails, or that there is no budget for, is dropped, and the acknowledgement counts unsigned.

const (
	// receiptBurst and receiptsPerMin are a connection's budget of receipts that are looked at besides the one for each push that it
	// acknowledges: for messages that it acknowledged before or saw on an event stream, and for another try after one that failed.
	receiptBurst   = 256
	receiptsPerMin = 600
)

// receiptOf is what a receipt is checked against, and who is told.
type receiptOf struct {
	bodyHash  string
	createdAt time.Time
	sender    string // member that sent the message
}

func subjectOf(m *store.Message) receiptOf {
	return receiptOf{bodyHash: m.BodyHash, createdAt: m.CreatedAt, sender: m.SenderMemberID}
}

// checkReceipts returns the receipts of a client_ack that hold, the first of each message. pushed are the messages of the frame that were pushed on
// this connection and not acknowledged before: each of them earns one look, so that nobody pays for acknowledging; every other look costs
// from the connection's budget. Whether a message was addressed to this member, and is acknowledged, is seen by the store, which keeps a
// receipt only with a delivery of the member that is done.
func (s *session) checkReceipts(in []wire.Receipt, pushed map[string]receiptOf) (good []store.Receipt, senders map[string]string) {
	if len(in) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(s.b.patient, storeTimeout) // of all look-ups together
	defer cancel()
	senders = map[string]string{}
	looked := map[string]bool{}
	for i := range in {
		r := &in[i]
		if senders[r.MessageID] != "" {
			continue // the first stays
		}
		of, free := pushed[r.MessageID]
		free = free && !looked[r.MessageID]
		looked[r.MessageID] = true
		if !free && !s.receiptBudget.Take(time.Now()) {
			s.b.metrics.receipts.With(receiptSkipped).Inc()
			continue
		}
		if of.bodyHash == "" {
			// Asking may fail while the store is out of reach. The acknowledgement is more than the receipt and does not wait for it.
			msg, err := s.b.store.Message(ctx, s.mesh.id, r.MessageID)
			if err != nil || msg.ID != r.MessageID { // the start of an id would find a message, too
				s.b.metrics.receipts.With(receiptRefused).Inc()
				continue
			}
			of = subjectOf(&msg)
		}
		if err := s.verifyReceipt(r, of); err != nil {
			s.log.Debug("receipt refused", "code", identity.ClassOf(err))
			s.b.metrics.receipts.With(receiptRefused).Inc()
			continue
		}
		senders[r.MessageID] = of.sender
		good = append(good, store.Receipt{
			MessageID: r.MessageID, MemberPubkey: s.member.Pubkey, AckedAt: int64(*r.AckedAt), Signature: r.Signature,
			SessionPubkey: r.SessionPubkey, Attestation: r.Attestation,
		})
	}
	return good, senders
}

func (s *session) verifyReceipt(r *wire.Receipt, of receiptOf) error {
	signed := identity.Receipt{
		MessageID: r.MessageID, AckedAt: float64(*r.AckedAt), Signature: r.Signature, SessionPubkey: r.SessionPubkey,
	}
	if r.Attestation != nil {
		a := signedAttestation(r.Attestation)
		signed.Attestation = &a
	}
	return signed.Verify(identity.ReceiptSubject{
		MeshID: s.mesh.id, MessageID: r.MessageID, BodyHash: of.bodyHash, RecipientPubkey: s.member.Pubkey, SentAt: of.createdAt,
	}, time.Now())
}

// signedAttestation is an attestation of the wire as package identity checks it.
func signedAttestation(a *wire.Attestation) identity.Attestation {
	expires := math.NaN() // is refused as malformed
	if a.ExpiresAt != nil {
		expires = float64(*a.ExpiresAt)
	}
	return identity.Attestation{
		ParentPubkey: a.ParentMemberPubkey, SessionPubkey: a.SessionPubkey, ExpiresAt: expires, Signature: a.Signature,
	}
}

// announceReceipts hands receipts that were just stored on to the senders' connections that wait for them. senders names, for each message,
// the member that sent it.
func (m *mesh) announceReceipts(stored []store.Delivery, senders map[string]string) {
	if len(stored) == 0 {
		return
	}
	m.b.metrics.receipts.With(receiptStored).Add(uint64(len(stored)))
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range stored {
		d := &stored[i]
		sender := senders[d.MessageID]
		if sender == "" || d.Receipt == nil {
			continue
		}
		var frame []byte // encoded only if somebody wants it
		for _, p := range m.presences {
			if p.member.ID != sender || p.sess == nil || p.sess.noPush || !p.sess.receipts {
				continue
			}
			if frame == nil {
				frame = m.event(wire.EventReceipt, wire.ReceiptEvent{
					MessageID: d.MessageID, MemberID: d.MemberID, StoredReceipt: *storedReceipt(d.Receipt),
				})
			}
			if frame != nil {
				p.sess.event(eventKey{kept: true}, frame)
			}
		}
	}
}

// storedReceipt is a receipt as senders get it, nil for none.
func storedReceipt(r *store.Receipt) *wire.StoredReceipt {
	if r == nil {
		return nil
	}
	return &wire.StoredReceipt{
		AckedAt: r.AckedAt, Signature: r.Signature, SessionPubkey: r.SessionPubkey, Attestation: r.Attestation, MemberPubkey: r.MemberPubkey,
	}
}
