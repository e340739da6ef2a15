package broker

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
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
	switch proof := (identity.Join{InviteToken: f.InviteToken, PeerPubkey: f.PeerPubkey, Signature: f.Signature}); {
	case f.Signature != "" && proof.Verify() != nil:
		return m, false, errJoinProof
	case f.Signature == "" && b.opts.RequireJoinProof:
		return m, false, errJoinProofMissing
	}
	m = store.Member{
		ID: newID(), MeshID: invite.MeshID, Pubkey: strings.ToLower(f.PeerPubkey), Name: cmp.Or(invite.Preset.DisplayName, f.DisplayName),
		RoleTag: invite.Preset.RoleTag, DefaultGroups: invite.Preset.Groups, MessageMode: cmp.Or(invite.Preset.MessageMode, "push"), JoinedAt: t,
	}
	r := store.Redemption{TokenHash: invite.TokenHash, Member: m, MaxMembers: limitOr(b.opts.MaxMembersPerMesh), Now: t}
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

// serveInviteClaim answers POST /invites/{code}/claim: invites of version 2 are not offered.
func (b *Broker) serveInviteClaim(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusNotImplemented, struct {
		Error  string `json:"error"`
		Detail string `json:"detail"`
	}{"invite_v2_disabled", "this broker issues invites of version 1 only; ask for a link that begins with ic://join/"})
}

// InviteOptions describe an invite.
type InviteOptions struct {
	// BrokerURL is where those who join reach the broker's WebSocket: ws:// or wss://, with the host's prefix and /ws. Required.
	BrokerURL string
	// Role is that of those who join: store.RoleMember (default) or RoleAdmin.
	Role string
	// FirstIsAdmin makes the first who joins by this invite an admin, whatever Role is. The store decides who was first.
	FirstIsAdmin bool
	// MaxUses is how many may join. Default 1.
	MaxUses int
	// TTL is how long the invite is good, rounded up to a second. Default 7 days.
	TTL time.Duration
	// Preset is what those who join get.
	Preset store.InvitePreset
	// RootKey is the mesh's root key inside the link, base64url of 32 bytes. The broker does not use or keep it. Default: one that is
	// derived from the owner's secret key and the mesh's id, the same in every invite.
	RootKey string
}

// CreateInvite signs an invite with the key of the mesh's owner and registers it. The link is for the people who are to join and for nobody
// else: it holds the mesh's root key. Only its hash is kept, so it cannot be shown again. store.ErrNotFound: no such mesh.
func (b *Broker) CreateInvite(ctx context.Context, meshID string, owner identity.KeyPair, o InviteOptions) (link string, _ store.Invite, _ error) {
	mesh, err := b.store.Mesh(ctx, meshID)
	if err != nil {
		return "", store.Invite{}, fmt.Errorf("mesh of an invite: %w", err)
	}
	if o.RootKey == "" && !owner.IsZero() {
		o.RootKey = deriveRootKey(owner, meshID)
	}
	if err := checkRole(cmp.Or(o.Role, store.RoleMember)); err != nil {
		return "", store.Invite{}, err
	}
	if raw, err := identity.StrictBase64URL(o.RootKey); err != nil || len(raw) != 32 {
		return "", store.Invite{}, wire.BadField("RootKey", "must be base64url of 32 bytes")
	}
	ttl := cmp.Or(o.TTL, 7*24*time.Hour)
	if ttl < 0 {
		return "", store.Invite{}, wire.BadField("TTL", "must be positive")
	}
	expires := math.Ceil(float64(now().Add(ttl).UnixMilli()) / 1000)
	for {
		invite, err := identity.InviteV1{
			MeshID: meshID, MeshSlug: mesh.Slug, BrokerURL: o.BrokerURL, MeshRootKey: o.RootKey, Role: cmp.Or(o.Role, store.RoleMember),
			ExpiresAt: expires,
		}.Sign(owner)
		if err != nil {
			return "", store.Invite{}, &wire.Fault{Code: wire.InvalidArgs, Text: "the invite cannot be signed: " + err.Error(), Cause: err}
		}
		token := invite.Token()
		kept, err := b.UploadInvite(ctx, meshID, token, InviteUpload{MaxUses: o.MaxUses, Preset: o.Preset, FirstIsAdmin: o.FirstIsAdmin})
		switch {
		case err == nil:
			return "ic://join/" + token, kept, nil
		case !errors.Is(err, store.ErrConflict) || ctx.Err() != nil:
			return "", store.Invite{}, err
		}
		expires++ // an invite is known by its text, which says no more than this: the next second makes it another one
	}
}

// deriveRootKey makes a root key that only the owner can make again, so that nobody needs to keep it.
func deriveRootKey(owner identity.KeyPair, meshID string) string {
	h := hmac.New(sha256.New, []byte(owner.SeedHex()))
	h.Write([]byte("claudemesh-root-key|" + meshID))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// InviteUpload says how an invite that was signed elsewhere may be used.
type InviteUpload struct {
	// MaxUses is how many may join. Default 1.
	MaxUses int
	// Preset is what those who join get.
	Preset store.InvitePreset
	// FirstIsAdmin makes the first who joins an admin.
	FirstIsAdmin bool
	// CreatedBy is the member that uploads it, for the record.
	CreatedBy string
}

// UploadInvite registers an invite whose token was signed elsewhere, so that the broker's process never sees the owner's key. The token holds the
// mesh's root key; only its hash is kept. A token that is malformed, has expired or is another mesh's is a [wire.Fault] with code invalid_args, one
// by another key than the mesh owner's has code forbidden. store.ErrNotFound: no such mesh; store.ErrConflict: uploaded before.
func (b *Broker) UploadInvite(ctx context.Context, meshID, token string, u InviteUpload) (store.Invite, error) {
	if err := b.hosted(); err != nil {
		return store.Invite{}, err
	}
	defer b.work.leaveSession()
	mesh, err := b.store.Mesh(ctx, meshID)
	if err != nil {
		return store.Invite{}, fmt.Errorf("mesh of an invite: %w", err)
	}
	t := now()
	signed, err := identity.ParseInviteToken(token)
	if err == nil {
		err = signed.Verify(t)
	}
	if err != nil {
		return store.Invite{}, &wire.Fault{Code: wire.InvalidArgs, Field: "token", Text: "token is no good: " + string(identity.ClassOf(err)), Cause: err}
	}
	where, err := url.Parse(signed.BrokerURL)
	switch {
	case err != nil || where.Scheme != "ws" && where.Scheme != "wss" || where.Host == "":
		return store.Invite{}, wire.BadField("BrokerURL", "must be ws://host/… or wss://host/…")
	case signed.MeshID != mesh.ID || signed.MeshSlug != mesh.Slug:
		return store.Invite{}, wire.BadField("token", "is an invite to another mesh")
	case mesh.OwnerPubkey == "" || !strings.EqualFold(signed.OwnerPubkey, mesh.OwnerPubkey):
		return store.Invite{}, &wire.Fault{Code: wire.Forbidden, Text: "an invite must be signed by the key of the mesh's owner"}
	case u.MaxUses < 0:
		return store.Invite{}, wire.BadField("MaxUses", "must be at least 1")
	}
	preset := u.Preset
	if preset.DisplayName != "" {
		var ok bool
		if preset.DisplayName, ok = wire.DisplayName(preset.DisplayName); !ok {
			return store.Invite{}, errName
		}
	}
	if preset.Groups, err = checkProfile(preset.RoleTag, preset.Groups, cmp.Or(preset.MessageMode, "push")); err != nil {
		return store.Invite{}, err
	}
	i := store.Invite{
		ID: newID(), MeshID: meshID, TokenHash: identity.TokenHash(token), Version: 1, Role: signed.Role, MaxUses: cmp.Or(u.MaxUses, 1),
		Preset: preset, ExpiresAt: time.Unix(int64(min(signed.ExpiresAt, maxExpiry)), 0).UTC(), CreatedBy: u.CreatedBy, CreatedAt: t,
	}
	if u.FirstIsAdmin {
		i.FirstRole = store.RoleAdmin
	}
	if err := b.store.CreateInvite(ctx, i); err != nil {
		return store.Invite{}, fmt.Errorf("create invite: %w", err)
	}
	return i, nil
}

// maxExpiry is the last second of the year 9999, the latest time that every store can keep.
const maxExpiry = 253402300799

// Invites returns the invites of a mesh, newest first, used up, expired and revoked ones too. They do not hold their tokens.
func (b *Broker) Invites(ctx context.Context, meshID string) ([]store.Invite, error) {
	return b.store.Invites(ctx, meshID)
}

// RevokeInvite ends an invite. Who joined by it stays. store.ErrNotFound.
func (b *Broker) RevokeInvite(ctx context.Context, meshID, inviteID string) error {
	if err := b.hosted(); err != nil {
		return err
	}
	defer b.work.leaveSession()
	if err := b.store.RevokeInvite(ctx, meshID, inviteID, now()); err != nil {
		return fmt.Errorf("revoke invite: %w", err)
	}
	return nil
}
