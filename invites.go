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
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

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
	o.RootKey = cmp.Or(o.RootKey, identity.DeriveRootKey(owner, meshID))
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
