package identity

import (
	"encoding/base64"
	"unicode/utf8"

	"golang.org/x/crypto/nacl/secretbox"
)

// SealDirect encrypts a direct message for one recipient, a member's or a session's ed25519 public key, under a fresh random
// nonce, and returns the nonce and ciphertext texts of the frame (docs/formats.md, direct message). sender is the key that the
// recipient will be told the message is from. A recipient that is no acceptable key, or a zero sender, is ClassBadKey; text
// that is not UTF-8, ClassBadUTF8, since no recipient would take it.
func SealDirect(text, recipientPublicHex string, sender KeyPair) (nonceB64, ciphertextB64 string, err error) {
	nonce, err := NewNonce()
	if err != nil {
		return "", "", err
	}
	return SealDirectNonce(text, recipientPublicHex, sender, nonce)
}

// SealDirectNonce is [SealDirect] under a given nonce, for tests against known bytes. Two texts between the same two keys
// under one nonce give both away.
func SealDirectNonce(text, recipientPublicHex string, sender KeyPair, nonce [24]byte) (nonceB64, ciphertextB64 string, err error) {
	shared, err := directKey(recipientPublicHex, sender)
	if err != nil {
		return "", "", err
	}
	defer clear(shared[:])
	if !utf8.ValidString(text) {
		return "", "", refuse(ClassBadUTF8, "the text is not UTF-8")
	}
	box := secretbox.Seal(nil, []byte(text), &nonce, &shared)
	return base64.StdEncoding.EncodeToString(nonce[:]), base64.StdEncoding.EncodeToString(box), nil
}

// OpenDirect decrypts a direct message. Its failures, in the order of checking: ClassBadKey (the sender's key is no acceptable
// point, or recipient is zero), ClassBadEncoding (a text is not strict base64), ClassTooShort (under the 16 bytes of the tag),
// ClassBadNonce (not 24 bytes), ClassOpenFailed (forged, damaged or for somebody else), ClassBadUTF8.
func OpenDirect(nonceB64, ciphertextB64, senderPublicHex string, recipient KeyPair) (string, error) {
	shared, err := directKey(senderPublicHex, recipient)
	if err != nil {
		return "", err
	}
	defer clear(shared[:])
	box, err := StrictBase64(ciphertextB64)
	if err != nil {
		return "", err
	}
	nonce, err := StrictBase64(nonceB64)
	if err != nil {
		return "", err
	}
	if len(box) < boxTag {
		return "", refuse(ClassTooShort, "a box has at least %d bytes", boxTag)
	}
	if len(nonce) != nonceSize {
		return "", refuse(ClassBadNonce, "a nonce has %d bytes", nonceSize)
	}
	text, ok := secretbox.Open(nil, box, (*[nonceSize]byte)(nonce), &shared)
	if !ok {
		return "", refuse(ClassOpenFailed, "the box does not open with these keys")
	}
	if !utf8.Valid(text) {
		return "", refuse(ClassBadUTF8, "the opened text is not UTF-8")
	}
	return string(text), nil
}

// directKey is the key of all boxes between a peer and own, in both directions.
func directKey(peerPublicHex string, own KeyPair) ([32]byte, error) {
	if own.IsZero() {
		return [32]byte{}, refuse(ClassBadKey, "own key pair is the zero value")
	}
	peer, err := PublicToX25519(peerPublicHex)
	if err != nil {
		return [32]byte{}, refuse(ClassBadKey, "peer's public key: %w", err)
	}
	_, secret := own.X25519()
	return SharedKey(peer, secret)
}
