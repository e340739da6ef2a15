package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// claimPost is the body of POST /invites/{code}/claim.
type claimPost struct {
	// RecipientX25519 is the key that the mesh's root key is sealed for: base64url of 32 bytes, made for this claim.
	RecipientX25519 string `json:"recipient_x25519_pubkey"`
	DisplayName     string `json:"display_name"`
	// PeerPubkey becomes the member's key. Older clients send none; what they claim nobody could sign in with.
	PeerPubkey string `json:"peer_pubkey"`
	// Signature proves that who claims holds the key: by PeerPubkey over identity.JoinText, with the code in place of the token.
	// It may be missing, but not where the key is a member's already: what the answer holds is for nobody who only knows that key.
	Signature string `json:"signature"`
}

// claimAnswer is the body of an accepted claim.
type claimAnswer struct {
	SealedRootKey string `json:"sealed_root_key"`
	MeshID        string `json:"mesh_id"`
	MemberID      string `json:"member_id"`
	OwnerPubkey   string `json:"owner_pubkey"`
	CanonicalV2   string `json:"canonical_v2"`
	Signature     string `json:"signature"` // by OwnerPubkey over CanonicalV2
	MeshSlug      string `json:"mesh_slug"`
	MeshName      string `json:"mesh_name"`
	AlreadyMember bool   `json:"already_member,omitempty"`
}

// claimRefusal is a refused claim: a status, a word of the protocol and, where that does not say enough, a text for people.
type claimRefusal struct {
	status       int
	code, detail string
}

func (r *claimRefusal) Error() string { return "claim refused: " + r.code }

// How a claim is refused; docs/rest.md, claim, has the order. The words of a join that are not here are refused as they are, with 400.
var (
	errClaimDisabled = &claimRefusal{
		http.StatusNotImplemented, "invite_v2_disabled", "this broker takes invites of version 1 only; ask for a link that begins with ic://join/",
	}
	errClaimNotFound  = &claimRefusal{status: http.StatusNotFound, code: "not_found"}
	errClaimRevoked   = &claimRefusal{status: http.StatusGone, code: "revoked"}
	errClaimExpired   = &claimRefusal{status: http.StatusGone, code: "expired"}
	errClaimExhausted = &claimRefusal{status: http.StatusGone, code: "exhausted"}
	errClaimSignature = &claimRefusal{http.StatusBadRequest, "bad_signature", "the mesh's owner did not sign this invite as it is kept"}
	errClaimNoKey     = &claimRefusal{
		http.StatusNotImplemented, "peer_pubkey_required",
		"peer_pubkey, the member's ed25519 key, is required: nobody could sign in as a member without one; use a newer client",
	}
	errClaimProof = &claimRefusal{
		http.StatusBadRequest, errJoinProofMissing.code, "peer_pubkey is a member's already, so a signature by it is required; use a newer client",
	}
)

func malformedClaim(detail string) *claimRefusal {
	return &claimRefusal{status: http.StatusBadRequest, code: "malformed", detail: detail}
}

// serveInviteClaim answers POST /invites/{code}/claim: it enrols a key as a member of the mesh of an invite of version 2.
func (b *Broker) serveInviteClaim(w http.ResponseWriter, r *http.Request) {
	if !b.opts.InviteV2 {
		refuseClaim(w, errClaimDisabled)
		return
	}
	var f claimPost
	err := readJSON(w, r, b.opts.MaxMessageBytes, &f)
	switch {
	case err == nil:
	case errors.Is(err, codeMediaType):
		refuseShape(w, http.StatusUnsupportedMediaType, "unsupported media type", 0)
		return
	case errors.Is(err, codeTimeout):
		refuseShape(w, http.StatusRequestTimeout, "request timeout", 0)
		return
	case errors.Is(err, wire.PayloadTooLarge):
		refuseClaim(w, &claimRefusal{status: http.StatusRequestEntityTooLarge, code: "payload too large"})
		return
	default:
		refuseClaim(w, malformedClaim("the body is not JSON of the right shape"))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	answer, err := b.claim(ctx, r.PathValue("code"), &f)
	if refusal, ok := errors.AsType[*claimRefusal](err); ok {
		b.log.Debug("claim refused", "code", refusal.code)
		refuseClaim(w, refusal)
		return
	}
	if err != nil {
		b.failed(w, "claim", err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, answer)
}

func refuseClaim(w http.ResponseWriter, r *claimRefusal) {
	writeJSON(w, r.status, struct {
		Error  string `json:"error"`
		Detail string `json:"detail,omitempty"`
	}{r.code, r.detail})
}

// nameOfClaimant is what a member is called who gives no name; the store numbers it.
const nameOfClaimant = "member"

// claim checks an invite and redeems it, or fails with a claimRefusal. Nothing is used up before everything that is sent was checked.
func (b *Broker) claim(ctx context.Context, code string, f *claimPost) (a claimAnswer, err error) {
	t := now()
	invite, mesh, err := b.liveInvite(ctx, code, t)
	if err != nil {
		return a, err
	}
	wrong, proof := f.check(), identity.Join{InviteToken: code, PeerPubkey: f.PeerPubkey, Signature: f.Signature}
	if invite.UsedCount >= invite.MaxUses {
		// A member whose answer was lost asks again, proves that it is that member, and is told again; all others are told no, before they are told what
		// is wrong with their keys.
		if wrong != nil || proof.Verify() != nil {
			return a, errClaimExhausted
		}
		known, err := b.store.MemberByKey(ctx, mesh.ID, f.pubkey())
		if errors.Is(err, store.ErrNotFound) || err == nil && !known.RevokedAt.IsZero() {
			return a, errClaimExhausted
		} else if err != nil {
			return a, fmt.Errorf("member of a claim: %w", err)
		}
	}
	if wrong != nil {
		return a, wrong
	}
	if mesh.OwnerPubkey == "" || mesh.RootKey == "" {
		return a, malformedClaim("the mesh has no owner's key or no root key")
	}
	signed, err := identity.ParseCapability(invite.Capability)
	if err == nil { // as kept, in full: what the owner signed is what the row gives
		err = identity.InviteV2{
			MeshID: mesh.ID, InviteID: invite.ID, ExpiresAt: float64(invite.ExpiresAt.Unix()), Role: invite.Role, OwnerPubkey: mesh.OwnerPubkey,
		}.VerifyCapability(invite.Capability, t)
	}
	switch {
	case errors.Is(err, identity.ClassExpired):
		return a, errClaimExpired
	case errors.Is(err, identity.ClassBadSignature):
		return a, errClaimSignature
	case err != nil:
		return a, malformedClaim("the invite is kept without what its owner signed")
	}
	sealed, err := identity.SealRootKey(mesh.RootKey, f.RecipientX25519)
	if err != nil {
		return a, malformedClaim("recipient_x25519_pubkey must be base64url of an x25519 key, 32 bytes")
	}
	if err := b.checkProof(proof); err != nil {
		return a, claimRefused(err)
	}
	member, already, err := b.redeem(ctx, invite, f.PeerPubkey, cmp.Or(f.DisplayName, nameOfClaimant), t)
	if err != nil {
		return a, claimRefused(err)
	}
	if already && f.Signature == "" { // judged behind redeem, which used nothing, because a key may be enrolled at any time before
		return a, errClaimProof
	}
	return claimAnswer{
		SealedRootKey: sealed, MeshID: mesh.ID, MemberID: member.ID, OwnerPubkey: mesh.OwnerPubkey, CanonicalV2: signed.Text(),
		Signature: signed.Signature, MeshSlug: mesh.Slug, MeshName: mesh.Name, AlreadyMember: already,
	}, nil
}

// liveInvite finds the invite of a code, neither revoked nor expired, and its mesh.
func (b *Broker) liveInvite(ctx context.Context, code string, t time.Time) (i store.Invite, mesh store.Mesh, err error) {
	if !wire.IsInviteCode(code) {
		return i, mesh, errClaimNotFound
	}
	i, err = b.store.InviteByCode(ctx, code)
	if err == nil {
		mesh, err = b.store.Mesh(ctx, i.MeshID)
	}
	switch {
	case errors.Is(err, store.ErrNotFound) || err == nil && !mesh.ArchivedAt.IsZero():
		return i, mesh, errClaimNotFound
	case err != nil:
		return i, mesh, fmt.Errorf("invite of a code: %w", err)
	case !i.RevokedAt.IsZero():
		return i, mesh, errClaimRevoked
	case !i.ExpiresAt.After(t):
		return i, mesh, errClaimExpired
	default:
		return i, mesh, nil
	}
}

// check judges what was sent, and cleans the name.
func (f *claimPost) check() *claimRefusal {
	if raw, err := identity.StrictBase64URL(f.RecipientX25519); err != nil || len(raw) != 32 {
		return malformedClaim("recipient_x25519_pubkey must be base64url of an x25519 key, 32 bytes")
	}
	if f.PeerPubkey == "" {
		return errClaimNoKey
	}
	if identity.CheckPublic(f.PeerPubkey) != nil {
		return malformedClaim("peer_pubkey must be an ed25519 public key, 64 hex digits")
	}
	if f.DisplayName == "" {
		return nil
	}
	var ok bool
	if f.DisplayName, ok = wire.DisplayName(f.DisplayName); !ok {
		return malformedClaim(fmt.Sprintf("display_name must have 1 to %d characters and no control characters", wire.MaxDisplayName))
	}
	return nil
}

// pubkey is the member's key as it is kept.
func (f *claimPost) pubkey() string { return strings.ToLower(f.PeerPubkey) }

// claimRefused says why a redemption failed in the words of a claim.
func claimRefused(err error) error {
	refusal, ok := errors.AsType[*joinRefusal](err)
	switch {
	case !ok:
		return err
	case refusal == errJoinInvite:
		return errClaimNotFound
	case refusal == errJoinRevoked:
		return errClaimRevoked
	case refusal == errJoinExpired:
		return errClaimExpired
	case refusal == errJoinExhausted:
		return errClaimExhausted
	case refusal == errJoinBanned:
		return &claimRefusal{http.StatusForbidden, refusal.code, refusal.detail}
	default:
		return &claimRefusal{http.StatusBadRequest, refusal.code, refusal.detail}
	}
}
