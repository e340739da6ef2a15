package identity

import (
	"time"
)

// A Join is the proof that who enrols a key holds its secret, so that nobody enrols another's session key as a member.
type Join struct {
	InviteToken string // the whole token, as sent
	PeerPubkey  string // 64 hex digits, signed in the case it was sent in
	Signature   string // 128 hex digits, by PeerPubkey over JoinText
}

// Verify checks the key ([CheckPublic], ClassMalformed) and the signature over [JoinText] (ClassMalformed, ClassBadSignature).
func (j Join) Verify() error {
	if err := CheckPublic(j.PeerPubkey); err != nil {
		return refuse(ClassMalformed, "peer key: %w", err)
	}
	return Verify(j.PeerPubkey, JoinText(TokenHash(j.InviteToken), j.PeerPubkey), j.Signature)
}

// A Rekey is the proof that who takes a member over with a new key holds that key.
type Rekey struct {
	MeshID    string
	MemberID  string
	NewPubkey string  // 64 hex digits
	Timestamp float64 // ms since the epoch
	Signature string  // 128 hex digits, by NewPubkey over RekeyText
}

// Verify checks, in this order: the timestamp within [MaxSkew] of now (ClassTimestampSkew), ids and key (ClassMalformed), the
// signature over [RekeyText] (ClassMalformed for its shape, ClassBadSignature).
func (r Rekey) Verify(now time.Time) error {
	if err := checkSkew(r.Timestamp, now); err != nil {
		return err
	}
	if !ValidID(r.MeshID) || !ValidID(r.MemberID) {
		return refuse(ClassMalformed, "mesh and member ids are 1 to 64 characters of [0-9A-Za-z_-]")
	}
	if err := CheckPublic(r.NewPubkey); err != nil {
		return refuse(ClassMalformed, "new key: %w", err)
	}
	return Verify(r.NewPubkey, RekeyText(r.MeshID, r.MemberID, r.NewPubkey, r.Timestamp), r.Signature)
}
