package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// EnvelopeVersion is the version of the request fingerprint that [RequestFingerprint.Sum] computes.
const EnvelopeVersion = "1"

// The kinds of destination in a request fingerprint.
const (
	DestinationDM    = "dm"
	DestinationTopic = "topic"
	DestinationQueue = "queue"
)

// A RequestFingerprint is what a client asked for when it sent a message. Its sum tells a resend, which is harmless, from
// another message under the same client id, which is refused. It covers the plaintext body, so only the client can compute
// it; a broker compares two sums.
type RequestFingerprint struct {
	DestinationKind string // as from DestinationOf
	DestinationRef  string // as from DestinationOf
	ReplyTo         string // message id, "" for none
	Priority        string // as in the frame: "now", "next", "low"
	Meta            string // as from CanonicalMeta, "" for none
	Body            []byte // before encryption
}

// Sum returns the fingerprint, 64 lower-case hex digits: the SHA-256 of the fields with a zero byte after each, then of the
// 32 bytes of the body's own SHA-256 (docs/formats.md, request fingerprint).
func (f RequestFingerprint) Sum() string {
	h := sha256.New()
	for _, field := range []string{EnvelopeVersion, f.DestinationKind, f.DestinationRef, f.ReplyTo, f.Priority, f.Meta} {
		h.Write([]byte(field))
		h.Write([]byte{0})
	}
	body := sha256.Sum256(f.Body)
	h.Write(body[:])
	return hex.EncodeToString(h.Sum(nil))
}

// DestinationOf splits a target as the user gave it into the kind and the reference of a fingerprint: "@x" is the topic "x",
// "*" the topic "*", and everything else a dm with the whole target as its reference. So "#x" stays apart from "@x".
func DestinationOf(target string) (kind, ref string) {
	if target == "*" {
		return DestinationTopic, target
	}
	if name, ok := strings.CutPrefix(target, "@"); ok {
		return DestinationTopic, name
	}
	return DestinationDM, target
}

// CanonicalMeta returns a message's meta, a raw JSON text, as it enters a fingerprint: [CanonicalJSON], and "" for absent
// (no bytes) and for null. Its errors are those of CanonicalJSON.
func CanonicalMeta(raw []byte) (string, error) {
	if len(raw) == 0 {
		return "", nil
	}
	canonical, err := CanonicalJSON(raw)
	if err != nil || string(canonical) == "null" {
		return "", err
	}
	return string(canonical), nil
}
