package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/nacl/secretbox"
)

// DeriveRootKey makes a mesh's root key, base64url of 32 bytes, that only the owner can make, and can make again, so that nobody needs to keep it:
// HMAC-SHA256 of claudemesh-root-key|<mesh id> under the hex of the owner's seed. The zero KeyPair has none: the empty string.
func DeriveRootKey(owner KeyPair, meshID string) string {
	if owner.IsZero() {
		return ""
	}
	h := hmac.New(sha256.New, []byte(owner.SeedHex()))
	h.Write([]byte("claudemesh-root-key" + separator + meshID))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// CheckRootKey fails, with ClassBadEncoding or ClassBadKeyLength, on what is not base64url of 32 bytes.
func CheckRootKey(rootKeyB64u string) error {
	raw, err := StrictBase64URL(rootKeyB64u)
	if err != nil {
		return err
	}
	defer clear(raw)
	if len(raw) != keySize {
		return refuse(ClassBadKeyLength, "a root key has %d bytes", keySize)
	}
	return nil
}

// SealRootKey encrypts a mesh's root key for an x25519 public key, both base64url, in a box from nobody (crypto_box_seal), and
// returns 80 bytes as base64url (docs/formats.md, sealed root key). ClassBadEncoding; ClassBadKeyLength for a root key that is
// not 32 bytes; ClassBadRecipient for a recipient that is not 32 bytes or is of low order.
func SealRootKey(rootKeyB64u, recipientX25519B64u string) (string, error) {
	public, secret, err := GenerateX25519()
	if err != nil {
		return "", err
	}
	defer clear(secret[:])
	return sealRootKey(rootKeyB64u, recipientX25519B64u, public, secret)
}

func sealRootKey(rootKeyB64u, recipientX25519B64u string, ephemeralPublic, ephemeralSecret [32]byte) (string, error) {
	rootKey, err := StrictBase64URL(rootKeyB64u)
	if err != nil {
		return "", err
	}
	defer clear(rootKey)
	recipient, err := StrictBase64URL(recipientX25519B64u)
	if err != nil {
		return "", err
	}
	if len(rootKey) != keySize {
		return "", refuse(ClassBadKeyLength, "a root key has %d bytes", keySize)
	}
	if len(recipient) != keySize {
		return "", refuse(ClassBadRecipient, "an x25519 public key has %d bytes", keySize)
	}
	shared, err := SharedKey([32]byte(recipient), ephemeralSecret)
	if err != nil {
		return "", refuse(ClassBadRecipient, "recipient: %w", err)
	}
	defer clear(shared[:])
	nonce := sealNonce(ephemeralPublic, [32]byte(recipient))
	return base64.RawURLEncoding.EncodeToString(secretbox.Seal(ephemeralPublic[:], rootKey, &nonce, &shared)), nil
}

// OpenRootKey opens what [SealRootKey] made with the x25519 pair whose public half it was sealed for, and returns the root key
// as base64url. Its failures, in the order of checking: ClassBadEncoding, ClassTooShort (under 48 bytes), ClassOpenFailed,
// ClassBadKeyLength (it opens, but not to 32 bytes).
func OpenRootKey(sealedB64u string, recipientPublic, recipientSecret [32]byte) (rootKeyB64u string, err error) {
	sealed, err := StrictBase64URL(sealedB64u)
	if err != nil {
		return "", err
	}
	if len(sealed) < keySize+boxTag {
		return "", refuse(ClassTooShort, "a sealed key has at least %d bytes", keySize+boxTag)
	}
	ephemeral := [32]byte(sealed[:keySize])
	shared, err := SharedKey(ephemeral, recipientSecret)
	if err != nil {
		return "", refuse(ClassOpenFailed, "sender: %w", err)
	}
	defer clear(shared[:])
	nonce := sealNonce(ephemeral, recipientPublic)
	rootKey, ok := secretbox.Open(nil, sealed[keySize:], &nonce, &shared)
	if !ok {
		return "", refuse(ClassOpenFailed, "the box does not open with this key")
	}
	defer clear(rootKey)
	if len(rootKey) != keySize {
		return "", refuse(ClassBadKeyLength, "a root key has %d bytes", keySize)
	}
	return base64.RawURLEncoding.EncodeToString(rootKey), nil
}

// sealNonce is the nonce of a box from nobody: BLAKE2b-192 of both public keys.
func sealNonce(ephemeralPublic, recipientPublic [32]byte) (nonce [nonceSize]byte) {
	h, err := blake2b.New(nonceSize, nil)
	if err != nil {
		panic(err) // cannot happen: the size is legal and there is no key
	}
	h.Write(ephemeralPublic[:])
	h.Write(recipientPublic[:])
	h.Sum(nonce[:0])
	return nonce
}
