package identity

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
)

// A KeyPair is an ed25519 key pair together with its x25519 form: a member's stable identity, a session's passing one, or a
// mesh owner's. Make one with [GenerateKey] or one of the KeyPairFrom functions; the zero value is no key, signs nothing and
// is refused by every function that seals or opens. A KeyPair is immutable, cheap to copy and safe for concurrent use.
//
// It prints as "[redacted]". Its secrets leave only through SeedHex, SecretHex and X25519.
type KeyPair struct {
	_ [0]func() // no ==, which would compare pointers; compare Public
	// at is nil in the zero value. Where a KeyPair is an unexported field of another struct, fmt cannot call its methods and
	// walks into it: through one pointer for some verbs, never through two.
	at **pair
}

type pair struct {
	private ed25519.PrivateKey // 64 bytes: seed, then public key
	xPublic [32]byte
	xSecret [32]byte
}

// GenerateKey makes a key pair from the system's random source.
func GenerateKey() (KeyPair, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := rand.Read(seed); err != nil {
		return KeyPair{}, fmt.Errorf("identity: random seed: %w", err)
	}
	defer clear(seed)
	return KeyPairFromSeed(seed)
}

// KeyPairFromSeed makes the key pair of a 32-byte seed, which it copies. Another length is ClassBadLength.
func KeyPairFromSeed(seed []byte) (KeyPair, error) {
	if len(seed) != ed25519.SeedSize {
		return KeyPair{}, refuse(ClassBadLength, "a seed is %d bytes, not %d", ed25519.SeedSize, len(seed))
	}
	p := &pair{private: ed25519.NewKeyFromSeed(seed), xSecret: secretFromSeed(seed)}
	x, err := ecdh.X25519().NewPrivateKey(p.xSecret[:])
	if err != nil {
		return KeyPair{}, fmt.Errorf("identity: convert key: %w", err)
	}
	p.xPublic = [32]byte(x.PublicKey().Bytes())
	return KeyPair{at: &p}, nil
}

// KeyPairFromSeedHex is [KeyPairFromSeed] of 64 hex digits: ClassBadHex, ClassBadLength.
func KeyPairFromSeedHex(seedHex string) (KeyPair, error) {
	seed, err := decodeHex(seedHex, ed25519.SeedSize)
	if err != nil {
		return KeyPair{}, err
	}
	defer clear(seed)
	return KeyPairFromSeed(seed)
}

// KeyPairFromSecretHex makes the key pair of an ed25519 secret key as libsodium writes it, 128 hex digits: the seed, then the
// public key. A public half that is not the seed's is ClassBadKey: such a file is damaged, and its owner would go by another
// name than it says. Else ClassBadHex, ClassBadLength.
func KeyPairFromSecretHex(secretHex string) (KeyPair, error) {
	secret, err := decodeHex(secretHex, ed25519.PrivateKeySize)
	if err != nil {
		return KeyPair{}, err
	}
	defer clear(secret)
	k, err := KeyPairFromSeed(secret[:ed25519.SeedSize])
	if err != nil {
		return KeyPair{}, err
	}
	if public := k.PublicBytes(); !bytes.Equal(public[:], secret[ed25519.SeedSize:]) {
		return KeyPair{}, refuse(ClassBadKey, "the public half is not that of the seed")
	}
	return k, nil
}

// IsZero reports whether k is the zero value, which is no key.
func (k KeyPair) IsZero() bool { return k.at == nil }

// Public returns the public key, 64 lower-case hex digits; of the zero value "".
func (k KeyPair) Public() string {
	if k.IsZero() {
		return ""
	}
	public := k.PublicBytes()
	return hex.EncodeToString(public[:])
}

// PublicBytes returns the public key; of the zero value zeros, which are no valid key.
func (k KeyPair) PublicBytes() (public [32]byte) {
	if !k.IsZero() {
		copy(public[:], (*k.at).private[ed25519.SeedSize:])
	}
	return public
}

// SeedHex returns the seed, 64 lower-case hex digits; of the zero value "". It is the whole secret.
func (k KeyPair) SeedHex() string {
	if k.IsZero() {
		return ""
	}
	return hex.EncodeToString((*k.at).private[:ed25519.SeedSize])
}

// SecretHex returns seed and public key, 128 lower-case hex digits, as libsodium writes a secret key; of the zero value "".
func (k KeyPair) SecretHex() string {
	if k.IsZero() {
		return ""
	}
	return hex.EncodeToString((*k.at).private)
}

// Sign returns the ed25519 signature of the UTF-8 bytes of text, 128 lower-case hex digits. The zero value returns "", which
// no verifier accepts.
func (k KeyPair) Sign(text string) string {
	if k.IsZero() {
		return ""
	}
	return hex.EncodeToString(ed25519.Sign((*k.at).private, []byte(text)))
}

// X25519 returns the key pair converted for boxes (docs/formats.md, key conversion); of the zero value zeros, which must not
// be used: [SharedKey] refuses a zero public key, but not a zero secret.
func (k KeyPair) X25519() (public, secret [32]byte) {
	if k.IsZero() {
		return public, secret
	}
	return (*k.at).xPublic, (*k.at).xSecret
}

// secretFromSeed converts a secret: the first half of the seed's SHA-512, clamped as X25519 wants it.
func secretFromSeed(seed []byte) (secret [32]byte) {
	sum := sha512.Sum512(seed)
	defer clear(sum[:])
	copy(secret[:], sum[:32])
	secret[0] &= 248
	secret[31] &= 127
	secret[31] |= 64
	return secret
}
