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

// joinPost is the body of POST /join.
type joinPost struct {
	InviteToken   string             `json:"invite_token"`
	InvitePayload *identity.InviteV1 `json:"invite_payload"`
	PeerPubkey    string             `json:"peer_pubkey"`
	DisplayName   string             `json:"display_name"`
	// Signature proves that who joins holds the key: by PeerPubkey over identity.JoinText. Older clients send none.
	Signature string `json:"signature"`
}

// joinAnswer is the body of an accepted join.
type joinAnswer struct {
	OK            bool   `json:"ok"`
	MemberID      string `json:"memberId"`
	AlreadyMember bool   `json:"alreadyMember,omitempty"`
}

// The codes by which a join is refused, in the order of the checks; docs/rest.md, join.
var (
	errJoinSignature    = &joinRefusal{code: "invite_bad_signature"}
	errJoinMesh         = &joinRefusal{code: "mesh_not_found"}
	errJoinNoOwner      = &joinRefusal{code: "mesh_missing_owner_key"}
	errJoinOwner        = &joinRefusal{code: "invite_owner_mismatch"}
	errJoinInvite       = &joinRefusal{code: "invite_not_found"}
	errJoinOtherMesh    = &joinRefusal{code: "invite_mesh_mismatch"}
	errJoinRevoked      = &joinRefusal{code: "invite_revoked"}
	errJoinExpired      = &joinRefusal{code: "invite_expired"}
	errJoinProof        = &joinRefusal{code: "join_bad_signature", detail: "signature is not peer_pubkey's over this invite"}
	errJoinProofMissing = &joinRefusal{code: "join_proof_required", detail: "this broker wants a signature by peer_pubkey; use a newer client"}
	errJoinBanned       = &joinRefusal{code: "member_banned"}
	errJoinKeyInUse     = &joinRefusal{code: "pubkey_in_use", detail: "the key is another member's session key or a former member key; make a new one"}
	errJoinExhausted    = &joinRefusal{code: "invite_exhausted"}
	errJoinFull         = &joinRefusal{code: "member_insert_failed", detail: "the mesh has as many members as it may"}
)

// joinRefusal is a refused join: 400 with a code of the protocol and, where that does not say enough, a text for people.
type joinRefusal struct{ code, detail string }

func (r *joinRefusal) Error() string { return "join refused: " + r.code }

// serveJoin answers POST /join: it enrols a key as a member of the mesh that an invite is for.
func (b *Broker) serveJoin(w http.ResponseWriter, r *http.Request) {
	var f joinPost
	if !b.readShape(w, r, &f) {
		return
	}
	if f.InviteToken == "" || f.InvitePayload == nil || f.PeerPubkey == "" || f.DisplayName == "" {
		refuseShape(w, http.StatusBadRequest, "invite_token, invite_payload, peer_pubkey, display_name required", 0)
		return
	}
	if !wire.IsKey(f.PeerPubkey) {
		refuseShape(w, http.StatusBadRequest, "peer_pubkey must be 64 hex chars (32 bytes)", 0)
		return
	}
	if err := identity.CheckPublic(f.PeerPubkey); err != nil {
		refuseShape(w, http.StatusBadRequest, "peer_pubkey is no ed25519 key that can be used; make a new one", 0)
		return
	}
	var ok bool
	if f.DisplayName, ok = wire.DisplayName(f.DisplayName); !ok {
		refuseShape(w, http.StatusBadRequest, fmt.Sprintf("display_name must have 1 to %d characters and no control characters", wire.MaxDisplayName), 0)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	member, already, err := b.join(ctx, f)
	if refusal, ok := errors.AsType[*joinRefusal](err); ok {
		b.log.Debug("join refused", "code", refusal.code)
		writeJSON(w, http.StatusBadRequest, struct {
			OK     bool   `json:"ok"`
			Error  string `json:"error"`
			Detail string `json:"detail,omitempty"`
		}{Error: refusal.code, Detail: refusal.detail})
		return
	}
	if err != nil {
		b.failed(w, "join", err)
		return
	}
	writeJSON(w, http.StatusOK, joinAnswer{OK: true, MemberID: member.ID, AlreadyMember: already})
}

// join checks an invite and redeems it, or fails with a joinRefusal.
func (b *Broker) join(ctx context.Context, f joinPost) (m store.Member, already bool, err error) {
	t := now()
	invite, err := b.checkInvite(ctx, f, t)
	if err != nil {
		return m, false, err
	}
	if err := b.checkProof(identity.Join{InviteToken: f.InviteToken, PeerPubkey: f.PeerPubkey, Signature: f.Signature}); err != nil {
		return m, false, err
	}
	return b.redeem(ctx, invite, f.PeerPubkey, f.DisplayName, t)
}

// redeem enrols a key as a member by an invite that was checked, and makes it known, or fails with a joinRefusal. A member that has the key already is
// returned with already true, and nothing of the invite is used.
func (b *Broker) redeem(ctx context.Context, invite store.Invite, pubkey, name string, t time.Time) (m store.Member, already bool, err error) {
	m = store.Member{
		ID: newID(), MeshID: invite.MeshID, Pubkey: strings.ToLower(pubkey), Name: cmp.Or(invite.Preset.DisplayName, name),
		RoleTag: invite.Preset.RoleTag, DefaultGroups: invite.Preset.Groups, MessageMode: cmp.Or(invite.Preset.MessageMode, "push"), JoinedAt: t,
	}
	r := store.Redemption{TokenHash: invite.TokenHash, Code: invite.Code, Member: m, MaxMembers: limitOr(b.opts.MaxMembersPerMesh), Now: t}
	m, already, err = b.store.RedeemInvite(ctx, r, audited(Caller{Member: m, Name: m.Name}, wire.AuditMemberJoined, map[string]any{
		"invite": invite.ID, "member": m.ID, "pubkey": m.Pubkey,
	}))
	switch {
	case err == nil:
	case errors.Is(err, store.ErrNotFound):
		return m, false, errJoinInvite
	case errors.Is(err, store.ErrRevoked):
		return m, false, errJoinRevoked
	case errors.Is(err, store.ErrExpired):
		return m, false, errJoinExpired
	case errors.Is(err, store.ErrConflict):
		return m, false, b.whyConflict(ctx, r.Member)
	case errors.Is(err, store.ErrKeyInUse):
		return m, false, errJoinKeyInUse
	case errors.Is(err, store.ErrExhausted):
		return m, false, errJoinExhausted
	case errors.Is(err, store.ErrLimit):
		return m, false, errJoinFull
	default:
		return m, false, fmt.Errorf("redeem invite: %w", err)
	}
	if !already {
		b.appeared(ctx, m, true)
	}
	return m, already, nil
}

// checkProof judges the proof that who joins holds the key: it may be missing, unless the host demands it. A claim demands it, besides, of who is a member.
func (b *Broker) checkProof(proof identity.Join) error {
	switch {
	case proof.Signature != "" && proof.Verify() != nil:
		return errJoinProof
	case proof.Signature == "" && b.opts.RequireJoinProof:
		return errJoinProofMissing
	}
	return nil
}

// whyConflict tells the key of a banned member from one that a member used to have.
func (b *Broker) whyConflict(ctx context.Context, m store.Member) error {
	known, err := b.store.MemberByKey(ctx, m.MeshID, m.Pubkey)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return errJoinKeyInUse
	case err != nil:
		return fmt.Errorf("member of a refused key: %w", err)
	case known.RevokedAt.IsZero():
		return errJoinKeyInUse // enrolled between the two calls; a second try finds it
	default:
		return errJoinBanned
	}
}

// checkInvite runs the checks that need no change of the store, in the protocol's order, and returns the stored invite.
func (b *Broker) checkInvite(ctx context.Context, f joinPost, t time.Time) (store.Invite, error) {
	payload, none := *f.InvitePayload, store.Invite{}
	if err := payload.VerifySignature(); err != nil {
		return none, errJoinSignature
	}
	if !wire.IsID(payload.MeshID) {
		return none, errJoinMesh
	}
	mesh, err := b.store.Mesh(ctx, payload.MeshID)
	if errors.Is(err, store.ErrNotFound) || err == nil && !mesh.ArchivedAt.IsZero() {
		return none, errJoinMesh
	} else if err != nil {
		return none, fmt.Errorf("mesh of an invite: %w", err)
	}
	if mesh.OwnerPubkey == "" {
		return none, errJoinNoOwner
	}
	if !strings.EqualFold(mesh.OwnerPubkey, payload.OwnerPubkey) {
		return none, errJoinOwner
	}
	invite, err := b.store.InviteByToken(ctx, identity.TokenHash(f.InviteToken))
	if errors.Is(err, store.ErrNotFound) {
		return none, errJoinInvite
	} else if err != nil {
		return none, fmt.Errorf("invite: %w", err)
	}
	// The payload is what the client believes; the token is what was registered. Both must be one invite.
	token, err := identity.ParseInviteToken(f.InviteToken)
	token.Signature = payload.Signature
	switch {
	case invite.MeshID != mesh.ID:
		return none, errJoinOtherMesh
	case err != nil || token != payload:
		return none, errJoinSignature
	case !invite.RevokedAt.IsZero():
		return none, errJoinRevoked
	case !invite.ExpiresAt.After(t) || payload.ExpiresAt < float64(t.Unix()):
		return none, errJoinExpired
	default:
		return invite, nil
	}
}

// appeared makes a member known that was enrolled or restored just now: a session that goes by its name loses that name, and, when subscribed is true, those
// who hold the key of the topic "general" learn that there is somebody to seal it for. Nothing here can fail the operation: it is done already.
func (b *Broker) appeared(ctx context.Context, member store.Member, subscribed bool) {
	m := b.loaded(member.MeshID)
	if m == nil {
		return // nobody is here
	}
	defer m.release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if _, err := m.reloadRoster(ctx); err != nil { // hellos compare names against it
		b.log.Warn("roster could not be loaded after a member appeared", "mesh", m.id, "member", member.ID, "cause", err)
	}
	m.nameTaken(member)
	if !subscribed {
		return
	}
	switch topic, err := b.store.Topic(ctx, m.id, generalTopic); {
	case err == nil:
		b.topicJoined(ctx, m.id, topic.ID, member.ID)
	case !errors.Is(err, store.ErrNotFound): // else it is archived
		b.log.Warn("new member could not be announced to the first topic", "mesh", m.id, "member", member.ID, "cause", err)
	}
}

// generalTopic is the topic that a mesh begins with and that everybody who joins is subscribed to.
const generalTopic = "general"
