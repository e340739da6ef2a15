package identity

import (
	"bytes"
	"crypto/ed25519"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// CheckPublic says whether a key may be enrolled: 64 hex digits of either case (else ClassBadHex or ClassBadLength) of a point
// in its canonical encoding, in the prime-order subgroup and not the identity (else ClassInvalidPoint). Verifying a signature
// asks less of a key; a key that only passed there may be unfit for boxes, and two keys that differ by a small-order part
// would share one x25519 key.
func CheckPublic(edPublicHex string) error {
	_, err := decodePoint(edPublicHex)
	return err
}

// PublicToX25519 converts an ed25519 public key to x25519: u = (1 + y) / (1 - y). It refuses what [CheckPublic] refuses.
func PublicToX25519(edPublicHex string) ([32]byte, error) {
	p, err := decodePoint(edPublicHex)
	if err != nil {
		return [32]byte{}, err
	}
	return [32]byte(p.BytesMontgomery()), nil
}

// SecretToX25519 converts an ed25519 secret key, 128 hex digits, to a clamped x25519 secret. Only the seed, its first half,
// counts. ClassBadHex, ClassBadLength.
func SecretToX25519(edSecretHex string) ([32]byte, error) {
	secret, err := decodeHex(edSecretHex, ed25519.PrivateKeySize)
	if err != nil {
		return [32]byte{}, err
	}
	defer clear(secret)
	return secretFromSeed(secret[:ed25519.SeedSize]), nil
}

// CheckX25519 says whether an x25519 public key may be passed on to others: it is in its one spelling, below 2^255-19, and not of low order (else
// ClassInvalidPoint). X25519 takes more; but a key of low order makes boxes that anybody can open, and not every client looks.
func CheckX25519(public [32]byte) error {
	u, err := new(field.Element).SetBytes(public[:])
	if err != nil || !bytes.Equal(u.Bytes(), public[:]) {
		return refuse(ClassInvalidPoint, "not the canonical encoding of an x25519 key")
	}
	if _, err := SharedKey(public, anySecret); err != nil {
		return refuse(ClassInvalidPoint, "an x25519 key of low order")
	}
	return nil
}

// anySecret is no secret: what is of low order is so for every one.
var anySecret = [32]byte{8, 1}

func decodePoint(edPublicHex string) (*edwards25519.Point, error) {
	b, err := decodeHex(edPublicHex, ed25519.PublicKeySize)
	if err != nil {
		return nil, err
	}
	p, ok := canonicalPoint(b)
	if !ok {
		return nil, refuse(ClassInvalidPoint, "not the canonical encoding of a curve point")
	}
	if isSmallOrder(p) || !inPrimeSubgroup(p) {
		return nil, refuse(ClassInvalidPoint, "the point has a small-order part")
	}
	return p, nil
}

// canonicalPoint decodes b, refusing the second spellings that SetBytes accepts: y >= p, and the sign of x = 0.
func canonicalPoint(b []byte) (*edwards25519.Point, bool) {
	p, err := new(edwards25519.Point).SetBytes(b)
	if err != nil || !bytes.Equal(p.Bytes(), b) {
		return nil, false
	}
	return p, true
}

func isSmallOrder(p *edwards25519.Point) bool {
	return new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1
}

// inPrimeSubgroup reports whether L*p is the identity, L being the order of the base point. A scalar cannot hold L, but it can
// hold L-1: the question is then whether (L-1)*p is -p.
func inPrimeSubgroup(p *edwards25519.Point) bool {
	// p is public, so the faster, variable-time multiplication leaks nothing.
	product := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(minusOne, p, edwards25519.NewScalar())
	return product.Equal(new(edwards25519.Point).Negate(p)) == 1
}

// minusOne is L-1. It is never written to.
var minusOne = func() *edwards25519.Scalar {
	one, err := edwards25519.NewScalar().SetCanonicalBytes(append([]byte{1}, make([]byte, 31)...))
	if err != nil {
		panic(err) // cannot happen: 1 < L
	}
	return one.Negate(one)
}()
