package identity

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted is what a value that holds a secret prints as, whatever the verb.
const redacted = "[redacted]"

// String returns "[redacted]".
func (KeyPair) String() string { return redacted }

// GoString returns "[redacted]".
func (KeyPair) GoString() string { return redacted }

// Format writes "[redacted]" for every verb, %x included.
func (KeyPair) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue returns "[redacted]".
func (KeyPair) LogValue() slog.Value { return slog.StringValue(redacted) }

// String returns "[redacted]": an invite holds the mesh's root key.
func (InviteV1) String() string { return redacted }

// GoString returns "[redacted]".
func (InviteV1) GoString() string { return redacted }

// Format writes "[redacted]" for every verb.
func (InviteV1) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue returns "[redacted]".
func (InviteV1) LogValue() slog.Value { return slog.StringValue(redacted) }

// String returns "[redacted]": who has the code of an invite can join.
func (ShortLink) String() string { return redacted }

// GoString returns "[redacted]".
func (ShortLink) GoString() string { return redacted }

// Format writes "[redacted]" for every verb.
func (ShortLink) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue returns "[redacted]".
func (ShortLink) LogValue() slog.Value { return slog.StringValue(redacted) }
