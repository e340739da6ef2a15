package broker

import (
	"cmp"
	"context"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// An attestation is a member's word that a session's key is its own, for at most a day (docs/formats.md, sessions). The broker hands it on with the
// session's row in the peer list and with its messages, so that others need not believe the broker in that.

var _ = op(wire.TypeAttest, (*Broker).attest)

// badSessionPoint refuses a session key that is no point that others could seal for.
const badSessionPoint = "sessionPubkey is no ed25519 key that can be used; make a new one"

// attests reports whether an attestation is about these two keys. It does not look at its signature.
func attests(a *wire.Attestation, memberKey, sessionKey string) bool {
	return a != nil && sessionKey != "" && a.SessionPubkey == sessionKey && a.ParentMemberPubkey == memberKey
}

// helloAttestation checks the attestation of a hello, which may have one and need not.
func (s *session) helloAttestation(ctx context.Context, h *wire.Hello, sessionKey string) (*refusal, error) {
	if !attests(h.Attestation, h.MemberKey(), sessionKey) {
		return refused(wire.AttestationMismatch, "attestation does not bind the claimed session+member pubkeys"), nil
	}
	// As with session_hello: a stranger may not ask for another signature to be checked.
	if known, err := s.knownMember(ctx, h.MeshID, h.MemberKey()); err != nil {
		return nil, err
	} else if !known {
		return refused(wire.Unauthorized, "pubkey not found in mesh"), nil
	}
	if err := signedAttestation(h.Attestation).Verify(time.Now()); err != nil {
		return signatureRefusal("attestation rejected: ", "attestation_", err), nil
	}
	return nil, nil
}

// attest takes a fresh attestation for the caller's session. Lists show it from now on, and later messages carry it.
func (b *Broker) attest(_ context.Context, by Caller, f wire.Attest) (wire.Message, error) {
	a := f.Attestation
	if !attests(a, by.Member.Pubkey, by.SessionPubkey) {
		return nil, &wire.Fault{Code: wire.AttestationMismatch, Text: "attestation does not bind this session's key to its member's"}
	}
	if err := signedAttestation(a).Verify(time.Now()); err != nil {
		class := cmp.Or(identity.ClassOf(err), identity.ClassBadSignature)
		return nil, &wire.Fault{Code: wire.Code(class), Text: "attestation rejected: " + string(class), Cause: err}
	}
	by.edit(func(row *store.Presence) { row.Attestation = a })
	by.session.attestation.Store(a)
	return nil, nil
}
