package topickey

import (
	"encoding/base64"
	"encoding/hex"

	"golang.org/x/crypto/nacl/secretbox"

	"github.com/claudemesh/broker/identity"
)

const (
	prefixSize = 32 // the sealer's x25519 public key
	nonceSize  = 24
	boxTag     = secretbox.Overhead
	sealedSize = prefixSize + boxTag + KeySize // 80
)

// A Sealed is one member's copy of a topic key, as it stands in a frame (docs/formats.md, sealed topic key).
type Sealed struct {
	EncryptedKey string // base64 of 80 bytes: the sealer's x25519 public key (32), then the box (48)
	Nonce        string // base64 of 24 bytes
}

// Seal makes a copy for a recipient, by its ed25519 public key, from a member: the sealing key is the sender's, converted to
// x25519, so that the recipient can tell who sealed. A recipient that is no acceptable key is identity.ClassBadRecipient, a
// zero sender identity.ClassBadKey.
func Seal(key Key, recipientEdPublicHex string, sender identity.KeyPair) (Sealed, error) {
	nonce, err := identity.NewNonce()
	if err != nil {
		return Sealed{}, err
	}
	return SealNonce(key, recipientEdPublicHex, sender, nonce)
}

// SealNonce is [Seal] under a given nonce, for tests against known bytes. A nonce must not serve twice between the same two keys.
func SealNonce(key Key, recipientEdPublicHex string, sender identity.KeyPair, nonce [24]byte) (Sealed, error) {
	if sender.IsZero() {
		return Sealed{}, refuse(identity.ClassBadKey, "the sender is the zero value")
	}
	public, secret := sender.X25519()
	return SealX25519(key, recipientEdPublicHex, public, secret, nonce)
}

// SealEphemeral makes a copy from a fresh x25519 pair, of which the secret half is forgotten: for a broker that makes the key
// for a client which cannot. senderXPublicHex, 64 hex digits, is the front of the copy again. Errors as of [Seal].
func SealEphemeral(key Key, recipientEdPublicHex string) (sealed Sealed, senderXPublicHex string, err error) {
	nonce, err := identity.NewNonce()
	if err != nil {
		return Sealed{}, "", err
	}
	public, secret, err := identity.GenerateX25519()
	if err != nil {
		return Sealed{}, "", err
	}
	defer clear(secret[:])
	sealed, err = SealX25519(key, recipientEdPublicHex, public, secret, nonce)
	if err != nil {
		return Sealed{}, "", err
	}
	return sealed, hex.EncodeToString(public[:]), nil
}

// SealX25519 makes a copy from a given x25519 pair under a given nonce; the other seal functions end here. The public half is
// put in front as it is: one that does not belong to the secret makes a copy that nobody opens.
func SealX25519(key Key, recipientEdPublicHex string, senderPublic, senderSecret [32]byte, nonce [24]byte) (Sealed, error) {
	recipient, err := identity.PublicToX25519(recipientEdPublicHex)
	if err != nil {
		return Sealed{}, refuse(identity.ClassBadRecipient, "recipient: %w", err)
	}
	shared, err := identity.SharedKey(recipient, senderSecret)
	if err != nil {
		return Sealed{}, refuse(identity.ClassBadRecipient, "recipient: %w", err)
	}
	defer clear(shared[:])
	blob := secretbox.Seal(senderPublic[:], key[:], &nonce, &shared)
	return Sealed{
		EncryptedKey: base64.StdEncoding.EncodeToString(blob),
		Nonce:        base64.StdEncoding.EncodeToString(nonce[:]),
	}, nil
}

// Open opens a copy with its recipient's key pair. senderX is the sealer's x25519 public key, from the front of the copy: it is
// proven, and the caller must still ask whose it is. The failures, in the order of checking: identity.ClassBadKey (zero
// recipient), ClassBadEncoding (a text is not strict base64), ClassTooShort (under 48 bytes), ClassBadNonce (not 24 bytes),
// ClassOpenFailed (forged, damaged or for somebody else, a sealer's key of low order included), ClassBadKeyLength (it opens,
// but not to 32 bytes).
func Open(s Sealed, recipient identity.KeyPair) (key Key, senderX [32]byte, err error) {
	if recipient.IsZero() {
		return Key{}, senderX, refuse(identity.ClassBadKey, "the recipient is the zero value")
	}
	blob, nonce, err := s.decode()
	if err != nil {
		return Key{}, senderX, err
	}
	prefix := [prefixSize]byte(blob[:prefixSize])
	_, secret := recipient.X25519()
	shared, err := identity.SharedKey(prefix, secret)
	if err != nil {
		return Key{}, senderX, refuse(identity.ClassOpenFailed, "sealer: %w", err)
	}
	defer clear(shared[:])
	opened, ok := secretbox.Open(nil, blob[prefixSize:], &nonce, &shared)
	if !ok {
		return Key{}, senderX, refuse(identity.ClassOpenFailed, "the copy does not open with this key")
	}
	defer clear(opened)
	if key, err = KeyFromBytes(opened); err != nil {
		return Key{}, senderX, err
	}
	return key, prefix, nil
}

// CheckSealed checks the shape of a copy without opening it, for a broker that stores it: strict base64 of exactly 80 bytes and
// of 24. It returns the x25519 public key in front, to be compared with the one announced. identity.ClassBadEncoding,
// ClassTooShort (under 48 bytes), ClassBadNonce, ClassBadKeyLength (another length than 80: whatever it holds is no key).
func CheckSealed(s Sealed) (prefix [32]byte, err error) {
	blob, _, err := s.decode()
	if err != nil {
		return prefix, err
	}
	if len(blob) != sealedSize {
		return prefix, refuse(identity.ClassBadKeyLength, "a sealed topic key has %d bytes, not %d", sealedSize, len(blob))
	}
	return [prefixSize]byte(blob[:prefixSize]), nil
}

func (s Sealed) decode() (blob []byte, nonce [nonceSize]byte, err error) {
	blob, err = identity.StrictBase64(s.EncryptedKey)
	if err != nil {
		return nil, nonce, err
	}
	n, err := identity.StrictBase64(s.Nonce)
	if err != nil {
		return nil, nonce, err
	}
	if len(blob) < prefixSize+boxTag {
		return nil, nonce, refuse(identity.ClassTooShort, "a sealed topic key has at least %d bytes", prefixSize+boxTag)
	}
	if len(n) != nonceSize {
		return nil, nonce, refuse(identity.ClassBadNonce, "a nonce has %d bytes", nonceSize)
	}
	return blob, [nonceSize]byte(n), nil
}
