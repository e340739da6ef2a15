package identity

import (
	"math"
	"time"
)

// Limits on signed times (docs/formats.md, signed texts).
const (
	// MaxSkew is how far a signed timestamp may lie from the checker's clock, either way, the bound included.
	MaxSkew = 60 * time.Second
	// MaxAttestationTTL is how far ahead an attestation's expiry may lie, the bound included.
	MaxAttestationTTL = 24 * time.Hour
	// AttestationTTL is for how long our own clients let an attestation be valid.
	AttestationTTL = 12 * time.Hour
)

// millis is t as it enters a signed text: whole milliseconds since the epoch, rounded down.
func millis(t time.Time) float64 { return float64(t.UnixMilli()) }

// checkSkew refuses a timestamp that is not within MaxSkew of now, NaN and the infinities included.
func checkSkew(timestamp float64, now time.Time) error {
	if !(math.Abs(millis(now)-timestamp) <= float64(MaxSkew.Milliseconds())) { // negated: NaN compares false
		return refuse(ClassTimestampSkew, "the timestamp is more than %v from the clock", MaxSkew)
	}
	return nil
}

func isFinite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }
