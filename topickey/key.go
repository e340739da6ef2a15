package topickey

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/claudemesh/broker/identity"
)

// KeySize is the length of a topic key in bytes.
const KeySize = 32

// A Key is the symmetric key of a topic. It prints as "[redacted]" and refuses to be marshalled; as an unexported field of
// another struct it is beyond the reach of fmt's interfaces, so such a struct must redact itself.
type Key [KeySize]byte

// NewKey makes a key from the system's random source.
func NewKey() (Key, error) {
	var k Key
	if _, err := rand.Read(k[:]); err != nil {
		return Key{}, fmt.Errorf("topickey: random key: %w", err)
	}
	return k, nil
}

// KeyFromBytes copies a key of 32 bytes. Another length is identity.ClassBadKeyLength.
func KeyFromBytes(b []byte) (Key, error) {
	if len(b) != KeySize {
		return Key{}, refuse(identity.ClassBadKeyLength, "a topic key has %d bytes, not %d", KeySize, len(b))
	}
	return Key(b), nil
}

// Wipe overwrites the key with zeros. Copies that were made of it remain.
func (k *Key) Wipe() { clear(k[:]) }

const redacted = "[redacted]"

// String returns "[redacted]".
func (Key) String() string { return redacted }

// GoString returns "[redacted]".
func (Key) GoString() string { return redacted }

// Format writes "[redacted]" for every verb, %x included.
func (Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue returns "[redacted]".
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText fails: encoding/json would write the bytes, and "[redacted]" in a file would be a lost key.
func (Key) MarshalText() ([]byte, error) {
	return nil, errors.New("topickey: a key is not marshalled; write its bytes where they belong")
}

// refuse makes an error of class c.
func refuse(c identity.Class, format string, args ...any) error {
	return fmt.Errorf("topickey: %w: %w", c, fmt.Errorf(format, args...))
}
