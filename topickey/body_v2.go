package topickey

import (
	"encoding/base64"
	"unicode/utf8"

	"golang.org/x/crypto/nacl/secretbox"

	"github.com/claudemesh/broker/identity"
)

// SealV2 encrypts a message body under a topic key and a fresh random nonce, and returns the nonce and ciphertext texts of the
// frame (docs/formats.md, message bodies). Text that is not UTF-8 is identity.ClassBadUTF8, since no reader would take it.
func SealV2(text string, key Key) (nonce, ciphertext string, err error) {
	n, err := identity.NewNonce()
	if err != nil {
		return "", "", err
	}
	return SealV2Nonce(text, key, n)
}

// SealV2Nonce is [SealV2] under a given nonce, for tests against known bytes. Two texts under one nonce give both away.
func SealV2Nonce(text string, key Key, n [24]byte) (nonce, ciphertext string, err error) {
	if !utf8.ValidString(text) {
		return "", "", refuse(identity.ClassBadUTF8, "the text is not UTF-8")
	}
	box := secretbox.Seal(nil, []byte(text), &n, (*[KeySize]byte)(&key))
	return base64.StdEncoding.EncodeToString(n[:]), base64.StdEncoding.EncodeToString(box), nil
}

// OpenV2 decrypts a message body. Its failures, in the order of checking: identity.ClassBadEncoding (a text is not strict
// base64), ClassTooShort (under the 16 bytes of the tag), ClassBadNonce (not 24 bytes), ClassOpenFailed (forged, damaged or
// under another key), ClassBadUTF8.
func OpenV2(nonce, ciphertext string, key Key) (string, error) {
	box, err := identity.StrictBase64(ciphertext)
	if err != nil {
		return "", err
	}
	n, err := identity.StrictBase64(nonce)
	if err != nil {
		return "", err
	}
	if len(box) < boxTag {
		return "", refuse(identity.ClassTooShort, "a body has at least %d bytes", boxTag)
	}
	if len(n) != nonceSize {
		return "", refuse(identity.ClassBadNonce, "a nonce has %d bytes", nonceSize)
	}
	text, ok := secretbox.Open(nil, box, (*[nonceSize]byte)(n), (*[KeySize]byte)(&key))
	if !ok {
		return "", refuse(identity.ClassOpenFailed, "the body does not open with this key")
	}
	if !utf8.Valid(text) {
		return "", refuse(identity.ClassBadUTF8, "the opened text is not UTF-8")
	}
	return string(text), nil
}
