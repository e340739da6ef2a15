package identity

import (
	"crypto/ed25519"
	"encoding/hex"

	"filippo.io/edwards25519"
)

// Verify checks an ed25519 signature, 128 hex digits, of the UTF-8 bytes of text by a public key, 64 hex digits; both of either
// case, else ClassMalformed. It is strict: without the cofactor, and refusing S >= L and a public key or R that is of small
// order or not canonical, since a small-order key "signs" texts that nobody signed. All of these are ClassBadSignature.
func Verify(publicHex, text, signatureHex string) error {
	if !isHex(publicHex, 2*ed25519.PublicKeySize) {
		return refuse(ClassMalformed, "a public key is 64 hex digits")
	}
	if !isHex(signatureHex, 2*ed25519.SignatureSize) {
		return refuse(ClassMalformed, "a signature is 128 hex digits")
	}
	public, _ := hex.DecodeString(publicHex) // shapes checked above
	signature, _ := hex.DecodeString(signatureHex)
	// crypto/ed25519 checks S, and R by comparing bytes, which leaves the orders of both points and the spelling of the key.
	a, ok := canonicalPoint(public)
	if !ok || isSmallOrder(a) {
		return refuse(ClassBadSignature, "the public key is no acceptable point")
	}
	r, err := new(edwards25519.Point).SetBytes(signature[:32])
	if err != nil || isSmallOrder(r) {
		return refuse(ClassBadSignature, "R is no acceptable point")
	}
	if !ed25519.Verify(public, []byte(text), signature) {
		return refuse(ClassBadSignature, "the signature is not by this key over this text")
	}
	return nil
}
