package identity

import (
	"crypto/ed25519"
	"math"
	"time"
)

// A ReceiptSubject is what a checker of a receipt knows for itself, never from the receipt: which message it sent or accepted,
// and to whom. A receipt that fits one subject fits no other, because all of it is signed.
type ReceiptSubject struct {
	MeshID    string
	MessageID string
	BodyHash  string // ReceiptBodyHash of the texts that were sent
	// RecipientPubkey is the addressed member's key, 64 lower-case hex digits. A sender's client takes the key that it pinned
	// for that member, not one that came with the receipt.
	RecipientPubkey string
	SentAt          time.Time // when the message was accepted, or sent
}

// A Receipt is a recipient's signed word that it has a message.
type Receipt struct {
	MessageID string
	AckedAt   float64 // ms since the epoch, a whole number, by the recipient's clock
	Signature string  // 128 hex digits over ReceiptText, by the member key or by SessionPubkey
	// SessionPubkey is set, with the attestation that binds it to the member, when a session's key signed.
	SessionPubkey string
	Attestation   *Attestation
}

// NewReceipt signs a receipt. signer is the recipient's member key or, together with its attestation, a session's key.
func NewReceipt(subject ReceiptSubject, ackedAt time.Time, signer KeyPair, attestation *Attestation) Receipt {
	r := Receipt{MessageID: subject.MessageID, AckedAt: millis(ackedAt), Attestation: attestation}
	if attestation != nil {
		r.SessionPubkey = signer.Public()
	}
	r.Signature = signer.Sign(r.text(subject))
	return r
}

func (r Receipt) text(s ReceiptSubject) string {
	return ReceiptText(s.MeshID, s.MessageID, s.BodyHash, s.RecipientPubkey, r.AckedAt)
}

// Verify checks the receipt against what the caller knows, in this order:
//
//   - the shapes, and the time a whole number: ClassMalformed
//   - the message named is the subject's: ClassBadSignature
//   - the time from [MaxSkew] before the sending to MaxSkew after now: ClassTimestampSkew
//   - if a session signed: the attestation names exactly this member and this session (ClassBadSignature) and was valid at the
//     time of the receipt, as [Attestation.Verify] checks, with its classes
//   - the signature over [ReceiptText] of the subject: ClassBadSignature
//
// A receipt that fails is as good as none.
func (r Receipt) Verify(subject ReceiptSubject, now time.Time) error {
	switch {
	case !isLowerHex(subject.RecipientPubkey, 2*ed25519.PublicKeySize):
		return refuse(ClassMalformed, "the recipient's public key is 64 lower-case hex digits")
	case !isHex(r.Signature, 2*ed25519.SignatureSize):
		return refuse(ClassMalformed, "a signature is 128 hex digits")
	case !isFinite(r.AckedAt), r.AckedAt != math.Trunc(r.AckedAt):
		return refuse(ClassMalformed, "the time of a receipt is a whole number of milliseconds")
	case (r.SessionPubkey == "") != (r.Attestation == nil):
		return refuse(ClassMalformed, "a session key and its attestation come together")
	case r.MessageID != subject.MessageID:
		return refuse(ClassBadSignature, "the receipt is for another message")
	case r.AckedAt < millis(subject.SentAt.Add(-MaxSkew)), r.AckedAt > millis(now.Add(MaxSkew)):
		return refuse(ClassTimestampSkew, "the receipt is from before the message or from the future")
	}
	signer := subject.RecipientPubkey
	if r.Attestation != nil {
		if err := r.verifyAttestation(subject.RecipientPubkey); err != nil {
			return err
		}
		signer = r.SessionPubkey
	}
	return Verify(signer, r.text(subject), r.Signature)
}

func (r Receipt) verifyAttestation(member string) error {
	if r.Attestation.ParentPubkey != member || r.Attestation.SessionPubkey != r.SessionPubkey {
		return refuse(ClassBadSignature, "the attestation is about other keys")
	}
	// Not the checker's clock: a receipt may be read long after the session that signed it has ended.
	return r.Attestation.Verify(time.UnixMilli(int64(r.AckedAt)))
}
