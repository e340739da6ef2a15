package identity

import (
	"errors"
	"fmt"
)

// A Class says in one word why something was refused. It is an error: errors.Is(err, ClassBadSignature) holds for every error
// of this package that is about a bad signature, however much text is wrapped around it. The words are those of the test
// vectors and of the verdicts in docs/formats.md.
type Class string

// The classes of failure.
const (
	ClassMalformed     Class = "malformed"      // a field has the wrong shape
	ClassTimestampSkew Class = "timestamp_skew" // a signed time is too far from the clock, or no finite number
	ClassBadSignature  Class = "bad_signature"  // shapes are right, the signature is not
	ClassExpired       Class = "expired"        // its time is over
	ClassTTLTooLong    Class = "ttl_too_long"   // it claims to be valid for longer than allowed
	ClassBadHex        Class = "bad_hex"        // not an even number of hex digits
	ClassBadLength     Class = "bad_length"     // hex of the wrong number of bytes
	ClassInvalidPoint  Class = "invalid_point"  // 32 bytes that are no acceptable ed25519 point
	ClassBadKey        Class = "bad_key"        // a key that cannot be used for a box
	ClassBadEncoding   Class = "bad_encoding"   // not strict base64
	ClassTooShort      Class = "too_short"      // fewer bytes than the smallest box
	ClassBadNonce      Class = "bad_nonce"      // nonce not 24 bytes
	ClassOpenFailed    Class = "open_failed"    // the box does not open with this key
	ClassBadKeyLength  Class = "bad_key_length" // a symmetric key that is not 32 bytes
	ClassBadUTF8       Class = "bad_utf8"       // bytes that should be text are not UTF-8
	ClassBadRecipient  Class = "bad_recipient"  // nothing can be sealed for this key
)

// Error returns the word.
func (c Class) Error() string { return string(c) }

// ClassOf returns the class of err, or "" when it is nil or has none.
func ClassOf(err error) Class {
	c, _ := errors.AsType[Class](err)
	return c
}

// refuse makes an error of class c. The text must not quote the value when that may be a secret.
func refuse(c Class, format string, args ...any) error {
	return fmt.Errorf("identity: %w: %w", c, fmt.Errorf(format, args...))
}
