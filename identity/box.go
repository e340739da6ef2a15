package identity

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"

	"golang.org/x/crypto/nacl/secretbox"
	//lint:ignore SA1019 HSalsa20 is how NaCl boxes derive their key; nothing else exports it
	"golang.org/x/crypto/salsa20/salsa"
)

const (
	keySize   = 32 // of every key of a box
	nonceSize = 24 // of XSalsa20
	boxTag    = secretbox.Overhead
)

// SharedKey derives the key of a NaCl box between a peer's x25519 public key and one's own x25519 secret (HSalsa20 of the
// X25519 output, as crypto_box_beforenm); use it with golang.org/x/crypto/nacl/secretbox. A public key of low order is
// ClassBadKey: its shared secret is zero whatever the other side's secret, so that anybody could make or open the box.
// nacl/box does not check for that.
func SharedKey(peerPublic, ownSecret [32]byte) ([32]byte, error) {
	secret, err := ecdh.X25519().NewPrivateKey(ownSecret[:])
	if err != nil {
		return [32]byte{}, refuse(ClassBadKey, "x25519 secret: %w", err)
	}
	public, err := ecdh.X25519().NewPublicKey(peerPublic[:])
	if err != nil {
		return [32]byte{}, refuse(ClassBadKey, "x25519 public key: %w", err)
	}
	dh, err := secret.ECDH(public) // refuses the all-zero result
	if err != nil {
		return [32]byte{}, refuse(ClassBadKey, "x25519 public key of low order")
	}
	defer clear(dh)
	var shared [32]byte
	salsa.HSalsa20(&shared, new([16]byte), (*[32]byte)(dh), &salsa.Sigma)
	return shared, nil
}

// GenerateX25519 makes a fresh x25519 pair from the system's random source, for one box or one invite.
func GenerateX25519() (public, secret [32]byte, err error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return public, secret, fmt.Errorf("identity: x25519 key: %w", err)
	}
	return [32]byte(k.PublicKey().Bytes()), [32]byte(k.Bytes()), nil
}

// NewNonce returns 24 random bytes, the nonce of a box. Random ones of this size do not repeat.
func NewNonce() ([24]byte, error) {
	var nonce [nonceSize]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return nonce, fmt.Errorf("identity: random nonce: %w", err)
	}
	return nonce, nil
}
