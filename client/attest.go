package client

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// An attestation is a member's word, by its own key, that a session's key acts for it. With one, others need not believe the broker in that
// (docs/formats.md, sessions). The client makes one for each connection, renews it while the connection lives, and looks for one on whatever
// comes from a session's key.

const (
	// attestAfter is when an attestation of 12 h is renewed, attestAgain after how long a renewal that failed is tried again.
	attestAfter = identity.AttestationTTL * 3 / 4
	attestAgain = 5 * time.Minute
)

// attestation vouches for this session's key from now on; nil without one.
func (c *Client) attestation(now time.Time) *wire.Attestation {
	if c.o.NoSessionKey {
		return nil
	}
	return attestationFrame(identity.NewAttestation(c.o.Key, c.o.SessionKey.Public(), now))
}

// attestationFrame is an attestation as it stands on the wire, signedAttestation one of the wire as package identity checks it.
func attestationFrame(a identity.Attestation) *wire.Attestation {
	expires := wire.Number(a.ExpiresAt)
	return &wire.Attestation{SessionPubkey: a.SessionPubkey, ParentMemberPubkey: a.ParentPubkey, ExpiresAt: &expires, Signature: a.Signature}
}

func signedAttestation(a *wire.Attestation) identity.Attestation {
	expires := math.NaN() // is refused as malformed
	if a.ExpiresAt != nil {
		expires = float64(*a.ExpiresAt)
	}
	return identity.Attestation{
		ParentPubkey: a.ParentMemberPubkey, SessionPubkey: a.SessionPubkey, ExpiresAt: expires, Signature: a.Signature,
	}
}

// keepAttested renews the attestation of a connection until ctx ends with it. A broker that does not know how is left alone.
func (c *Client) keepAttested(ctx context.Context) {
	if c.o.NoSessionKey {
		return
	}
	for wait := attestAfter; sleep(ctx, wait) == nil; {
		err := c.call(ctx, &wire.Attest{Header: header(wire.TypeAttest), Attestation: c.attestation(time.Now())}, nil, false)
		switch {
		case err == nil:
			wait = attestAfter
		case errors.Is(err, wire.UnknownMessageType):
			return
		default:
			c.o.Logger.Debug("attestation not renewed", "cause", err)
			wait = attestAgain
		}
	}
}

// attested reports whether the holder of a member key vouched for a session's key at that time.
func attested(a *wire.Attestation, memberKey, sessionKey string, at time.Time) bool {
	return a != nil && memberKey != "" && a.ParentMemberPubkey == memberKey && a.SessionPubkey == sessionKey &&
		signedAttestation(a).Verify(at) == nil
}

// AddressOf returns the key by which to write to one session of the list of peers. It is the session's own, and attested is true, if the session's
// member vouches for it by the key that is pinned for that member; then only that session gets the message. Otherwise only the broker says
// whose session it is, and the key is the one pinned for the member, whose sessions all get the message. Another member key than the
// pinned one is a *KeyChangedError.
func (c *Client) AddressOf(p wire.Peer) (key string, isSession bool, err error) {
	if p.MemberID == "" { // an older broker tells nothing that could be pinned
		return lower(p.MemberPubkey), false, nil
	}
	pinned, err := c.pinMember(p.MemberID, p.MemberPubkey)
	if err != nil {
		return "", false, err
	}
	if pinned != lower(p.MemberPubkey) {
		return "", false, &KeyChangedError{
			Name: p.DisplayName, MemberID: p.MemberID, PinnedMemberID: p.MemberID, PinnedKey: pinned, OfferedPubkey: lower(p.MemberPubkey),
		}
	}
	session := lower(p.Pubkey)
	if session == pinned || !attested(p.Attestation, pinned, session, time.Now()) {
		return pinned, false, nil
	}
	return session, true, nil
}
