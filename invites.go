package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/internal/ratelimit"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

var (
	_ = op(wire.TypeInviteCreate, (*Broker).opInviteCreate)
	_ = op(wire.TypeInviteList, (*Broker).opInviteList)
	_ = op(wire.TypeInviteRevoke, (*Broker).opInviteRevoke)
)

// maxLiveInvites is how many invites of a mesh may be good for something when a member uploads another; docs/protocol.md, invites.
const maxLiveInvites = 1000

// maxKeptInvites is how many invites of a mesh may be kept, whatever their state, when a member uploads another: those that have ended are kept, so that they
// cannot be registered again.
const maxKeptInvites = 5000

// maxListedInvites is how many invites an invite_list shows.
const maxListedInvites = 1000

// errNotOwners refuses an invite that somebody else than the mesh's owner signed, or that somebody uploads who may not.
var errNotOwners = &wire.Fault{
	Code: wire.Forbidden, Text: "an invite must be signed by the key of the mesh's owner, and uploaded by the owner or an admin",
}

func (b *Broker) opInviteCreate(ctx context.Context, by Caller, f wire.InviteCreate) (wire.Message, error) {
	if err := b.mayInvite(ctx, by, errNotOwners); err != nil {
		return nil, err
	}
	// The answer tells whether a code is taken, in any mesh, so codes cannot be searched here any faster than by claiming them.
	if key := by.addrKey(); f.V() == 2 && b.opts.InviteV2 && !b.joinAddrs.Take(key, time.Now()) {
		return nil, &wire.Fault{Code: wire.RateLimit, Text: "too many short links and claims from this address; slow down"}
	}
	signed := signedInvite{version: f.V(), token: f.Token, canonical: f.Canonical, signature: f.Signature, code: f.Code, rootKey: f.RootKey}
	u := InviteUpload{MaxUses: f.Uses(), CreatedBy: by.Member.ID}
	if f.Preset != nil {
		u.Preset = store.InvitePreset(*f.Preset)
	}
	i, err := b.uploadInvite(ctx, by, signed, u)
	if err != nil {
		return nil, err
	}
	return &wire.InviteCreated{Header: wire.Header{Type: wire.TypeInviteCreated}, ID: i.ID, ExpiresAt: wire.FormatTime(i.ExpiresAt)}, nil
}

func (b *Broker) opInviteList(ctx context.Context, by Caller, _ wire.InviteList) (wire.Message, error) {
	if err := b.mayInvite(ctx, by, &wire.Fault{Code: wire.Forbidden, Text: "only the owner or an admin can list the invites"}); err != nil {
		return nil, err
	}
	all, err := b.Invites(ctx, by.MeshID)
	if err != nil {
		return nil, fmt.Errorf("invites: %w", err)
	}
	shown, truncated := listedInvites(all, now())
	list := &wire.InviteListResult{
		Header: wire.Header{Type: wire.TypeInviteListResult}, Invites: make([]wire.InviteInfo, len(shown)), Truncated: truncated,
	}
	for n := range shown {
		i := &shown[n]
		list.Invites[n] = wire.InviteInfo{
			ID: i.ID, Version: i.Version, Role: i.Role, MaxUses: i.MaxUses, UsedCount: i.UsedCount, ExpiresAt: wire.FormatTime(i.ExpiresAt),
			CreatedAt: wire.FormatTime(i.CreatedAt), RevokedAt: wire.FormatTimePtr(i.RevokedAt),
		}
	}
	return list, nil
}

// listedInvites chooses those that a list shows of the invites of a mesh, newest first: those that are good before those that have ended, which nobody can bury
// them under, and of both the newest.
func listedInvites(all []store.Invite, t time.Time) (shown []store.Invite, truncated bool) {
	if len(all) <= maxListedInvites {
		return all, false
	}
	ended := max(0, maxListedInvites-liveInvites(all, t)) // how many of those there is room for
	for n := range all {
		good := isLive(&all[n], t)
		if !good && ended == 0 {
			continue
		}
		if !good {
			ended--
		}
		if shown = append(shown, all[n]); len(shown) == maxListedInvites {
			break
		}
	}
	return shown, true
}

// isLive reports whether an invite is good for something.
func isLive(i *store.Invite, t time.Time) bool {
	return i.RevokedAt.IsZero() && i.ExpiresAt.After(t) && i.UsedCount < i.MaxUses
}

func liveInvites(all []store.Invite, t time.Time) (live int) {
	for n := range all {
		if isLive(&all[n], t) {
			live++
		}
	}
	return live
}

func (b *Broker) opInviteRevoke(ctx context.Context, by Caller, f wire.InviteRevoke) (wire.Message, error) {
	if err := b.mayInvite(ctx, by, &wire.Fault{Code: wire.Forbidden, Text: "only the owner or an admin can revoke an invite"}); err != nil {
		return nil, err
	}
	err := b.revokeInvite(ctx, by, f.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &wire.Fault{Code: wire.NotFound, Text: "no such invite", Cause: err}
	}
	return nil, err
}

// addrKey is what limits by address know the caller's connection by.
func (by Caller) addrKey() string {
	if by.session == nil {
		return ""
	}
	return ratelimit.AddrKey(by.session.addr)
}

// mayInvite refuses a caller that does not govern the mesh.
func (b *Broker) mayInvite(ctx context.Context, by Caller, refusal *wire.Fault) error {
	admin, err := b.isAdmin(ctx, by)
	if err == nil && !admin {
		return refusal
	}
	return err
}

// InviteOptions describe an invite.
type InviteOptions struct {
	// Version is 1 (default), whose link holds the mesh's root key, or 2, a short link to a code, which needs Options.InviteV2.
	Version int
	// BrokerURL is where those who join reach the broker's WebSocket: ws:// or wss://, with the host's prefix and /ws. Required. Version 2
	// has its link beside it, with http for ws, and who joins by it asks the broker there.
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
	// RootKey is the mesh's root key, base64url of 32 bytes. Of version 1 it is inside the link, and the broker does not use or keep it; of
	// version 2 the broker keeps it ([Broker.SetRootKey]). Default: the mesh's that the broker has already, else one that is derived from the owner's secret key
	// and the mesh's id, the same in every invite.
	RootKey string
}

// CreateInvite signs an invite with the key of the mesh's owner and registers it. The link is for the people who are to join and for nobody
// else: of version 1 it holds the mesh's root key. It cannot be shown again: of version 1 only its hash is kept. store.ErrNotFound: no such mesh; a
// [wire.Fault] with code invite_v2_disabled: version 2 without Options.InviteV2.
func (b *Broker) CreateInvite(ctx context.Context, meshID string, owner identity.KeyPair, o InviteOptions) (link string, _ store.Invite, _ error) {
	mesh, err := b.store.Mesh(ctx, meshID)
	if err != nil {
		return "", store.Invite{}, fmt.Errorf("mesh of an invite: %w", err)
	}
	o.Version, o.Role = cmp.Or(o.Version, 1), cmp.Or(o.Role, store.RoleMember)
	o.RootKey = cmp.Or(o.RootKey, mesh.RootKey, identity.DeriveRootKey(owner, meshID))
	if o.Version != 1 && o.Version != 2 {
		return "", store.Invite{}, wire.BadField("Version", "must be 1 or 2")
	}
	if err := checkRole(o.Role); err != nil {
		return "", store.Invite{}, err
	}
	if identity.CheckRootKey(o.RootKey) != nil {
		return "", store.Invite{}, errRootKey
	}
	ttl := cmp.Or(o.TTL, 7*24*time.Hour)
	if ttl < 0 {
		return "", store.Invite{}, wire.BadField("TTL", "must be positive")
	}
	expires := math.Ceil(float64(now().Add(ttl).UnixMilli()) / 1000)
	for {
		link, signed, err := o.sign(owner, &mesh, expires)
		if err != nil {
			return "", store.Invite{}, err
		}
		kept, err := b.upload(ctx, meshID, signed, InviteUpload{MaxUses: o.MaxUses, Preset: o.Preset, FirstIsAdmin: o.FirstIsAdmin})
		switch {
		case err == nil:
			return link, kept, nil
		case !errors.Is(err, wire.InviteExists) && !errors.Is(err, wire.InviteCodeInUse) || ctx.Err() != nil:
			return "", store.Invite{}, err
		}
		expires++ // one of version 1 is known by its text, which says no more than this: the next second makes it another one
	}
}

// sign makes the invite by the owner's key, and its link.
func (o *InviteOptions) sign(owner identity.KeyPair, mesh *store.Mesh, expires float64) (link string, _ signedInvite, _ error) {
	unsigned := func(err error) (string, signedInvite, error) {
		return "", signedInvite{}, &wire.Fault{Code: wire.InvalidArgs, Text: "the invite cannot be signed: " + err.Error(), Cause: err}
	}
	code := identity.NewInviteCode()
	link, err := identity.FormatShortLink(o.BrokerURL, code)
	if err != nil {
		return "", signedInvite{}, errBrokerURL
	}
	if o.Version == 1 {
		i, err := identity.InviteV1{
			MeshID: mesh.ID, MeshSlug: mesh.Slug, BrokerURL: o.BrokerURL, MeshRootKey: o.RootKey, Role: o.Role, ExpiresAt: expires,
		}.Sign(owner)
		if err != nil {
			return unsigned(err)
		}
		return "ic://join/" + i.Token(), signedInvite{version: 1, token: i.Token()}, nil
	}
	i, err := identity.InviteV2{MeshID: mesh.ID, InviteID: newID(), ExpiresAt: expires, Role: o.Role}.Sign(owner)
	if err != nil {
		return unsigned(err)
	}
	return link, signedInvite{version: 2, canonical: i.Text(), signature: i.Signature, code: code, rootKey: o.RootKey}, nil
}

var errBrokerURL = wire.BadField("BrokerURL", "must be ws://host/… or wss://host/…")

// signedInvite is an invite that an owner has signed: of version 1 the token; of version 2 the text with its signature and the code, and the mesh's
// root key if the broker is to have it.
type signedInvite struct {
	version                             int
	token                               string
	canonical, signature, code, rootKey string
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

// UploadInvite registers an invite of version 1 whose token was signed elsewhere, so that the broker's process never sees the owner's key. The token holds the
// mesh's root key; only its hash is kept. A token that is malformed or not spelled as [identity.InviteV1.Token] does, has expired or is another mesh's is a [wire.Fault] with code invalid_args, one
// by another key than the mesh owner's has code forbidden. store.ErrNotFound: no such mesh; store.ErrConflict: uploaded before.
func (b *Broker) UploadInvite(ctx context.Context, meshID, token string, u InviteUpload) (store.Invite, error) {
	return b.upload(ctx, meshID, signedInvite{version: 1, token: token}, u)
}

// UploadInviteV2 is [Broker.UploadInvite] for one of version 2: the text that the owner signed and the code by which it is found, 6 to 16 letters and
// digits, which is for those who are to join alone. Besides, code invite_v2_disabled: Options.InviteV2 is off; root_key_required: the mesh has no root key to
// seal for who claims, see [Broker.SetRootKey]; invite_code_in_use: another invite has the code.
func (b *Broker) UploadInviteV2(ctx context.Context, meshID string, i identity.InviteV2, code string, u InviteUpload) (store.Invite, error) {
	return b.upload(ctx, meshID, signedInvite{version: 2, canonical: i.Text(), signature: i.Signature, code: code}, u)
}

// upload is uploadInvite for the host.
func (b *Broker) upload(ctx context.Context, meshID string, signed signedInvite, u InviteUpload) (store.Invite, error) {
	if err := b.hosted(); err != nil {
		return store.Invite{}, err
	}
	defer b.work.leaveSession()
	return b.uploadInvite(ctx, host(meshID), signed, u)
}

// uploadInvite judges what an owner signed and registers it, for the host or a member that governs the mesh.
func (b *Broker) uploadInvite(ctx context.Context, by Caller, signed signedInvite, u InviteUpload) (store.Invite, error) {
	if signed.version == 2 && !b.opts.InviteV2 {
		return store.Invite{}, &wire.Fault{Code: wire.InviteV2Disabled, Text: "this broker takes invites of version 1 only"}
	}
	mesh, err := b.store.Mesh(ctx, by.MeshID)
	if err != nil {
		return store.Invite{}, fmt.Errorf("mesh of an invite: %w", err)
	}
	t := now()
	i, err := signed.judge(&mesh, t)
	if err != nil {
		return store.Invite{}, err
	}
	if u.MaxUses < 0 {
		return store.Invite{}, wire.BadField("MaxUses", "must be at least 1")
	}
	i.Preset = u.Preset
	if i.Preset.DisplayName != "" {
		var ok bool
		if i.Preset.DisplayName, ok = wire.DisplayName(i.Preset.DisplayName); !ok {
			return store.Invite{}, errName
		}
	}
	if i.Preset.Groups, err = checkProfile(i.Preset.RoleTag, i.Preset.Groups, cmp.Or(i.Preset.MessageMode, "push")); err != nil {
		return store.Invite{}, err
	}
	if err := b.roomForInvite(ctx, by, t); err != nil {
		return store.Invite{}, err
	}
	if err := b.keepRootKey(ctx, by, &mesh, signed); err != nil {
		return store.Invite{}, err
	}
	i.MeshID, i.MaxUses, i.CreatedBy, i.CreatedAt = mesh.ID, cmp.Or(u.MaxUses, 1), u.CreatedBy, t
	if u.FirstIsAdmin {
		i.FirstRole = store.RoleAdmin
	}
	err = b.store.CreateInvite(ctx, i, audited(by, wire.AuditInviteCreated, map[string]any{
		"expires_at": wire.FormatTime(i.ExpiresAt), "id": i.ID, "max_uses": i.MaxUses, "role": i.Role, "version": i.Version,
	}))
	if errors.Is(err, store.ErrConflict) {
		return store.Invite{}, b.whyInviteConflict(ctx, &i, err)
	} else if err != nil {
		return store.Invite{}, fmt.Errorf("create invite: %w", err)
	}
	return i, nil
}

// judge reads what was signed, checks that the mesh's owner signed it for this mesh, and returns what is kept of it.
func (s *signedInvite) judge(mesh *store.Mesh, t time.Time) (store.Invite, error) {
	if s.version == 1 {
		return s.judgeV1(mesh, t)
	}
	parsed, err := identity.ParseInviteV2(s.canonical, s.signature)
	if err != nil {
		return store.Invite{}, noGood("canonical", err)
	}
	err = parsed.Verify(t)
	switch {
	case errors.Is(err, identity.ClassExpired):
		return store.Invite{}, noGood("canonical", err)
	case parsed.MeshID != mesh.ID:
		return store.Invite{}, wire.BadField("canonical", "is an invite to another mesh")
	case !wire.IsInviteCode(s.code):
		return store.Invite{}, wire.BadField("code", "must be 6 to 16 letters and digits")
	case err != nil || mesh.OwnerPubkey == "" || parsed.OwnerPubkey != mesh.OwnerPubkey:
		return store.Invite{}, errNotOwners
	}
	return store.Invite{
		ID: parsed.InviteID, Code: s.code, Version: 2, Role: parsed.Role, Capability: parsed.Capability(),
		ExpiresAt: time.Unix(int64(parsed.ExpiresAt), 0).UTC(),
	}, nil
}

func (s *signedInvite) judgeV1(mesh *store.Mesh, t time.Time) (store.Invite, error) {
	parsed, err := identity.ParseInviteToken(s.token)
	if err != nil {
		return store.Invite{}, noGood("token", err)
	}
	err = parsed.Verify(t)
	where, notURL := url.Parse(parsed.BrokerURL)
	switch {
	case err != nil && !errors.Is(err, identity.ClassBadSignature):
		return store.Invite{}, noGood("token", err)
	case !isCanonical(s.token, parsed):
		return store.Invite{}, wire.BadField("token", "must be spelled as it was issued: the members of an invite in their order, no others, no white space")
	case notURL != nil || where.Scheme != "ws" && where.Scheme != "wss" || where.Host == "":
		return store.Invite{}, wire.BadField("token", "must hold a broker_url of the form ws://host/… or wss://host/…")
	case parsed.MeshID != mesh.ID || parsed.MeshSlug != mesh.Slug:
		return store.Invite{}, wire.BadField("token", "is an invite to another mesh")
	case err != nil || mesh.OwnerPubkey == "" || !strings.EqualFold(parsed.OwnerPubkey, mesh.OwnerPubkey):
		return store.Invite{}, errNotOwners
	}
	return store.Invite{
		ID: newID(), TokenHash: identity.TokenHash(s.token), Version: 1, Role: parsed.Role,
		ExpiresAt: time.Unix(int64(min(parsed.ExpiresAt, maxExpiry)), 0).UTC(),
	}, nil
}

// isCanonical reports whether a token is the one spelling of what it says. An invite is known by the hash of its token, but signed as what that says: if it could be
// spelled in another way, whoever has seen it could register it again after its end, for as many uses as they like.
func isCanonical(token string, parsed identity.InviteV1) bool {
	parsed.Signature = strings.ToLower(parsed.Signature) // all that is not signed itself
	return token == parsed.Token()
}

// noGood refuses an invite that cannot be read or has expired.
func noGood(field string, err error) error {
	return &wire.Fault{Code: wire.InvalidArgs, Field: field, Text: field + " is no good: " + string(identity.ClassOf(err)), Cause: err}
}

// roomForInvite bounds what members upload. The host knows what it does.
func (b *Broker) roomForInvite(ctx context.Context, by Caller, t time.Time) error {
	if by.Member.ID == "" {
		return nil
	}
	all, err := b.store.Invites(ctx, by.MeshID)
	if err != nil {
		return fmt.Errorf("invites: %w", err)
	}
	if len(all) >= maxKeptInvites {
		return &wire.Fault{Code: wire.Forbidden, Text: fmt.Sprintf(
			"%d invites of the mesh are kept, those that have ended, too, and members can add none; use one that is good, or ask the host for one", len(all))}
	}
	if live := liveInvites(all, t); live >= maxLiveInvites {
		return &wire.Fault{Code: wire.Forbidden, Text: fmt.Sprintf("the mesh has %d invites that are good; revoke some first", live)}
	}
	return nil
}

// keepRootKey sees to it that the mesh of a version-2 invite has a root key to seal for who claims it. Who gives one decides what those who join get, so it
// is taken from the owner alone.
func (b *Broker) keepRootKey(ctx context.Context, by Caller, mesh *store.Mesh, signed signedInvite) error {
	if signed.version == 1 {
		return nil
	}
	if signed.rootKey == "" {
		if mesh.RootKey == "" {
			return &wire.Fault{
				Code: wire.RootKeyRequired, Field: "rootKey", Text: "rootKey is required: the mesh has no root key yet, and only its owner can give it",
			}
		}
		return nil
	}
	if by.Member.ID != "" && by.Member.ID != mesh.OwnerMemberID && by.Member.Pubkey != mesh.OwnerPubkey {
		return &wire.Fault{Code: wire.Forbidden, Field: "rootKey", Text: "rootKey is taken from the mesh's owner alone, who must be a member, or the host must give it"}
	}
	if identity.CheckRootKey(signed.rootKey) != nil {
		return wire.BadField("rootKey", "must be base64url of 32 bytes")
	}
	err := b.store.SetRootKey(ctx, mesh.ID, signed.rootKey)
	if errors.Is(err, store.ErrConflict) {
		f := wire.BadField("rootKey", "is not the mesh's root key, which it has already")
		f.Cause = err
		return f
	} else if err != nil {
		return fmt.Errorf("root key: %w", err)
	}
	return nil
}

// whyInviteConflict tells an invite that was registered before from a code that is another's.
func (b *Broker) whyInviteConflict(ctx context.Context, i *store.Invite, conflict error) error {
	exists := &wire.Fault{Code: wire.InviteExists, Text: "this invite was registered before; make another one", Cause: conflict}
	if i.Version == 1 {
		return exists
	}
	other, err := b.store.InviteByCode(ctx, i.Code)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return exists
	case err != nil:
		return fmt.Errorf("invite of a code in use: %w", err)
	case other.MeshID == i.MeshID && other.ID == i.ID:
		return exists
	default:
		return &wire.Fault{Code: wire.InviteCodeInUse, Text: "the code is in use; make another one", Cause: conflict}
	}
}

// maxExpiry is the last second of the year 9999, the latest time that every store can keep.
const maxExpiry = 253402300799

// Invites returns the invites of a mesh, newest first, used up, expired and revoked ones too. They do not hold their tokens, but those of version 2 their codes.
func (b *Broker) Invites(ctx context.Context, meshID string) ([]store.Invite, error) {
	return b.store.Invites(ctx, meshID)
}

// RevokeInvite ends an invite. Who joined by it stays. store.ErrNotFound.
func (b *Broker) RevokeInvite(ctx context.Context, meshID, inviteID string) error {
	if err := b.hosted(); err != nil {
		return err
	}
	defer b.work.leaveSession()
	return b.revokeInvite(ctx, host(meshID), inviteID)
}

func (b *Broker) revokeInvite(ctx context.Context, by Caller, id string) error {
	err := b.store.RevokeInvite(ctx, by.MeshID, id, now(), audited(by, wire.AuditInviteRevoked, map[string]any{"id": id}))
	if err != nil {
		return fmt.Errorf("revoke invite: %w", err)
	}
	return nil
}
