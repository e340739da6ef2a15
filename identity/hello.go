package identity

import (
	"crypto/ed25519"
	"strings"
	"time"
)

// A Hello is the signed part of a member's hello frame.
type Hello struct {
	MeshID    string
	MemberID  string
	Pubkey    string  // 64 hex digits, signed in the case it was sent in
	Timestamp float64 // ms since the epoch; NaN when the frame has none or no number
	Signature string  // 128 hex digits, by Pubkey
}

// Verify checks, in this order: the timestamp within [MaxSkew] of now (ClassTimestampSkew), the shapes of key and signature
// (ClassMalformed), the signature over [HelloText] (ClassBadSignature).
func (h Hello) Verify(now time.Time) error {
	if err := checkSkew(h.Timestamp, now); err != nil {
		return err
	}
	return Verify(h.Pubkey, HelloText(h.MeshID, h.MemberID, h.Pubkey, h.Timestamp), h.Signature)
}

// A SessionHello is the signed part of a session_hello frame. It proves the session key; that the parent stands behind it is
// said by the frame's [Attestation].
type SessionHello struct {
	MeshID        string
	ParentPubkey  string  // 64 hex digits; checked for shape alone
	SessionPubkey string  // 64 hex digits
	Timestamp     float64 // ms since the epoch; NaN when the frame has none or no number
	Signature     string  // 128 hex digits, by SessionPubkey
}

// Verify checks, in this order: the timestamp within [MaxSkew] of now (ClassTimestampSkew), the shapes of keys and signature
// (ClassMalformed), the signature over [SessionHelloText] (ClassBadSignature).
func (h SessionHello) Verify(now time.Time) error {
	if err := checkSkew(h.Timestamp, now); err != nil {
		return err
	}
	if !isHex(h.ParentPubkey, 2*ed25519.PublicKeySize) {
		return refuse(ClassMalformed, "the parent's public key is 64 hex digits")
	}
	return Verify(h.SessionPubkey, SessionHelloText(h.MeshID, h.ParentPubkey, h.SessionPubkey, h.Timestamp), h.Signature)
}

// An Attestation is a member's word that a session key acts for it until a time.
type Attestation struct {
	ParentPubkey  string  // 64 hex digits, the member's key
	SessionPubkey string  // 64 hex digits; checked for shape alone
	ExpiresAt     float64 // ms since the epoch; NaN when the frame has none or no number
	Signature     string  // 128 hex digits, by ParentPubkey
}

// NewAttestation lets parent vouch for a session key for [AttestationTTL] from now on.
func NewAttestation(parent KeyPair, sessionPubkey string, now time.Time) Attestation {
	a := Attestation{
		ParentPubkey:  parent.Public(),
		SessionPubkey: sessionPubkey,
		ExpiresAt:     millis(now.Add(AttestationTTL)),
	}
	a.Signature = parent.Sign(AttestationText(a.ParentPubkey, a.SessionPubkey, a.ExpiresAt))
	return a
}

// Verify checks, in this order: the expiry a finite number (ClassMalformed), after now (ClassExpired), at most
// [MaxAttestationTTL] ahead (ClassTTLTooLong), the shapes of keys and signature (ClassMalformed), the signature over
// [AttestationText] (ClassBadSignature). A caller must still compare both keys with the ones it expects.
func (a Attestation) Verify(now time.Time) error {
	switch {
	case !isFinite(a.ExpiresAt):
		return refuse(ClassMalformed, "the attestation's expiry is no finite number")
	case a.ExpiresAt <= millis(now):
		return refuse(ClassExpired, "the attestation has expired")
	case a.ExpiresAt > millis(now)+float64(MaxAttestationTTL.Milliseconds()):
		return refuse(ClassTTLTooLong, "the attestation expires more than %v ahead", MaxAttestationTTL)
	case !isHex(a.SessionPubkey, 2*ed25519.PublicKeySize):
		return refuse(ClassMalformed, "the session's public key is 64 hex digits")
	}
	return Verify(a.ParentPubkey, AttestationText(a.ParentPubkey, a.SessionPubkey, a.ExpiresAt), a.Signature)
}

// maxSessionID is the length of the longest session id, in bytes of UTF-8.
const maxSessionID = 1024 // 256 characters

// A Hello2 is the second, stronger signature of a hello. The first one covers neither the session nor its key, so that who
// captures a hello can send it again, within MaxSkew, with a session key of its own; this one covers both, and a nonce that
// the broker accepts once.
type Hello2 struct {
	MeshID        string
	MemberID      string
	Pubkey        string // 64 hex digits
	SessionPubkey string // 64 lower-case hex digits, or "" for a hello without a session key
	SessionID     string
	Timestamp     float64 // ms since the epoch, that of the hello
	Nonce         string  // base64 of 24 random bytes; the caller must remember it for as long as the timestamp is fresh
	// Signature is by Pubkey over the text.
	Signature string
	// SessionSignature is by SessionPubkey over the same text, "" when there is none.
	SessionSignature string
}

// Text is [Hello2Text] of the fields.
func (h Hello2) Text() string {
	return Hello2Text(h.MeshID, h.MemberID, h.Pubkey, h.SessionPubkey, h.SessionID, h.Timestamp, h.Nonce)
}

// Verify checks, in this order: the timestamp within [MaxSkew] of now (ClassTimestampSkew); ids, keys, nonce and signatures
// well formed and no separator inside a field (ClassMalformed); the member's signature, then the session's
// (ClassBadSignature). It cannot know whether the nonce was seen before.
func (h Hello2) Verify(now time.Time) error {
	if err := checkSkew(h.Timestamp, now); err != nil {
		return err
	}
	nonce, err := StrictBase64(h.Nonce)
	switch {
	case !ValidID(h.MeshID), !ValidID(h.MemberID):
		return refuse(ClassMalformed, "mesh and member ids are 1 to 64 characters of [0-9A-Za-z_-]")
	case h.SessionID == "", len(h.SessionID) > maxSessionID, strings.Contains(h.SessionID, separator):
		return refuse(ClassMalformed, "a session id is 1 to 256 characters without %q", separator)
	case err != nil, len(nonce) != nonceSize:
		return refuse(ClassMalformed, "the nonce is base64 of %d bytes", nonceSize)
	case h.SessionPubkey != "" && !isLowerHex(h.SessionPubkey, 2*ed25519.PublicKeySize):
		return refuse(ClassMalformed, "a session's public key is 64 lower-case hex digits")
	case h.SessionPubkey == "" && h.SessionSignature != "":
		return refuse(ClassMalformed, "a session signature without a session key")
	case h.SessionPubkey != "" && !isHex(h.SessionSignature, 2*ed25519.SignatureSize):
		return refuse(ClassMalformed, "a signature is 128 hex digits")
	}
	text := h.Text()
	if err := Verify(h.Pubkey, text, h.Signature); err != nil {
		return err
	}
	if h.SessionPubkey == "" {
		return nil
	}
	return Verify(h.SessionPubkey, text, h.SessionSignature)
}
