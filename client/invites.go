package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// inviteTTL is how long an invite is good by default, inviteTries how often one that meets another is made anew.
const (
	inviteTTL   = 7 * 24 * time.Hour
	inviteTries = 5
)

// ErrNotOwner says that a key is not that of the mesh's owner, whose invites alone the broker takes.
var ErrNotOwner = errors.New("client: this is not the key of the mesh's owner")

// InviteOptions describe an invite to be made.
type InviteOptions struct {
	// Owner is the key of the mesh's owner. It signs on this machine and goes nowhere. Required.
	Owner identity.KeyPair
	// BrokerURL is where those who join reach the broker's socket: ws:// or wss://, ending in /ws. Default: this client's.
	BrokerURL string
	// Role is that of those who join: identity.RoleMember (default) or RoleAdmin.
	Role string
	// MaxUses is how many may join, 1 (default) to 10,000.
	MaxUses int
	// TTL is how long the invite is good, rounded up to a second. Default 7 days.
	TTL time.Duration
	// Preset is what those who join get.
	Preset wire.InvitePreset
	// Short makes a short link, an invite of version 2, if the broker takes them: the broker then keeps the mesh's root key and hands it out
	// sealed. Default: a link that holds everything, of which the broker keeps only the hash.
	Short bool
	// RootKey is the mesh's root key, base64url of 32 bytes. Default: [identity.DeriveRootKey] of Owner.
	RootKey string
}

// SignedInvite is an invite that its owner has signed and that no broker knows yet. It prints as "[redacted]".
type SignedInvite struct {
	// Link is for those who are to join and for nobody else.
	Link      string
	ExpiresAt time.Time
	// Upload is what makes it good: any admin may send it, by [Client.UploadInvite]. It is as secret as the link.
	Upload wire.InviteCreate
}

// Invite is an invite that was made. It prints as "[redacted]".
type Invite struct {
	// ID is the name for [Client.RevokeInvite].
	ID string
	// Link is for those who are to join and for nobody else. Neither the broker nor the client can show it again.
	Link      string
	Version   int
	Role      string
	MaxUses   int
	ExpiresAt time.Time
}

// MakeInvite signs an invite to a mesh, by its id and slug. It needs no connection; the link is good once it was uploaded. Two invites of version 1 that are
// alike in everything and end in the same second are one.
func MakeInvite(meshID, meshSlug string, o InviteOptions) (SignedInvite, error) {
	if o.Owner.IsZero() {
		return SignedInvite{}, errors.New("client: InviteOptions.Owner is missing; it is the key of the mesh's owner")
	}
	if o.TTL < 0 || o.MaxUses < 0 {
		return SignedInvite{}, errors.New("client: InviteOptions.TTL and MaxUses must not be negative")
	}
	o.Role = cmp.Or(o.Role, identity.RoleMember)
	expires := math.Ceil(float64(time.Now().Add(cmp.Or(o.TTL, inviteTTL)).UnixMilli()) / 1000)
	made := SignedInvite{
		ExpiresAt: time.Unix(int64(expires), 0).UTC(), Upload: wire.InviteCreate{Header: header(wire.TypeInviteCreate), Version: number(1)},
	}
	if o.MaxUses != 0 {
		made.Upload.MaxUses = number(o.MaxUses)
	}
	if p := o.Preset; p.DisplayName != "" || p.RoleTag != "" || len(p.Groups) > 0 || p.MessageMode != "" {
		made.Upload.Preset = &p
	}
	code := identity.NewInviteCode()
	link, err := identity.FormatShortLink(o.BrokerURL, code) // checks the address for both versions
	if err != nil {
		return SignedInvite{}, errors.New("client: InviteOptions.BrokerURL must be ws://host/ws or wss://host/ws")
	}
	if o.Short {
		i, err := identity.InviteV2{MeshID: meshID, InviteID: identity.NewID(), ExpiresAt: expires, Role: o.Role}.Sign(o.Owner)
		if err != nil {
			return SignedInvite{}, fmt.Errorf("client: the invite cannot be signed: %w", err)
		}
		made.Link, made.Upload.Version = link, number(2)
		made.Upload.Canonical, made.Upload.Signature, made.Upload.Code, made.Upload.RootKey = i.Text(), i.Signature, code, o.RootKey
		return made, nil
	}
	i, err := identity.InviteV1{
		MeshID: meshID, MeshSlug: meshSlug, BrokerURL: o.BrokerURL, ExpiresAt: expires,
		MeshRootKey: cmp.Or(o.RootKey, identity.DeriveRootKey(o.Owner, meshID)), Role: o.Role,
	}.Sign(o.Owner)
	if err != nil {
		return SignedInvite{}, fmt.Errorf("client: the invite cannot be signed: %w", err)
	}
	made.Upload.Token = i.Token()
	made.Link = "ic://join/" + made.Upload.Token
	return made, nil
}

func number(n int) *wire.Number {
	v := wire.Number(n)
	return &v
}

// UploadInvite registers an invite that the mesh's owner signed, anywhere, and returns its id. It takes an admin. The broker's refusal is a *RequestError
// with wire.Forbidden, InviteExists, InviteCodeInUse, InviteV2Disabled, RootKeyRequired or InvalidArgs. If the connection is lost before the answer, the error is
// ErrOutcomeUnknown; Invites shows what there is.
func (c *Client) UploadInvite(ctx context.Context, signed wire.InviteCreate) (id string, err error) {
	signed.Header = header(wire.TypeInviteCreate)
	var answer wire.InviteCreated
	err = c.call(ctx, &signed, &answer, false)
	return answer.ID, err
}

// CreateInvite signs an invite with the owner's key, on this machine, and uploads it. It takes an admin, or the owner. A key that is not the owner's is
// ErrNotOwner, and nothing is sent. Of a short link the root key is sent along when the broker has none yet, which it takes from the owner alone
// (wire.Forbidden). Other errors are those of [Client.UploadInvite].
func (c *Client) CreateInvite(ctx context.Context, o InviteOptions) (Invite, error) {
	if o.Owner.IsZero() {
		return Invite{}, errors.New("client: InviteOptions.Owner is missing; it is the key of the mesh's owner")
	}
	info, err := c.MeshInfo(ctx)
	if err != nil {
		return Invite{}, err
	}
	if info.OwnerPubkey != "" && info.OwnerPubkey != o.Owner.Public() {
		return Invite{}, ErrNotOwner
	}
	o.BrokerURL, o.TTL = cmp.Or(o.BrokerURL, c.o.URL), cmp.Or(o.TTL, inviteTTL)
	for try := 1; ; try++ {
		made, err := MakeInvite(c.o.MeshID, info.Slug, o)
		if err != nil {
			return Invite{}, err
		}
		id, err := c.UploadInvite(ctx, made.Upload)
		switch {
		case err == nil:
			return Invite{
				ID: id, Link: made.Link, Version: made.Upload.V(), Role: cmp.Or(o.Role, identity.RoleMember), MaxUses: made.Upload.Uses(), ExpiresAt: made.ExpiresAt,
			}, nil
		case try == inviteTries:
			return Invite{}, err
		case errors.Is(err, wire.RootKeyRequired) && o.RootKey == "":
			o.RootKey = identity.DeriveRootKey(o.Owner, c.o.MeshID)
		case errors.Is(err, wire.InviteExists):
			o.TTL += time.Second // one of version 1 is known by its text, which says no more than this
		case !errors.Is(err, wire.InviteCodeInUse):
			return Invite{}, err
		}
	}
}

// Invites lists the invites of the mesh, the newest first, those that have ended, too. For admins. Neither links nor codes are in it. Of more than
// 1000 the broker tells of as many: those that are good for something, then the newest of the others.
func (c *Client) Invites(ctx context.Context) ([]wire.InviteInfo, error) {
	var list wire.InviteListResult
	err := c.call(ctx, &wire.InviteList{Header: header(wire.TypeInviteList)}, &list, true)
	return list.Invites, err
}

// RevokeInvite ends an invite; who joined by it stays. For admins. One that is not there is a *RequestError with wire.NotFound.
func (c *Client) RevokeInvite(ctx context.Context, id string) error {
	return c.call(ctx, &wire.InviteRevoke{Header: header(wire.TypeInviteRevoke), ID: id}, nil, true)
}

// redacted is what a value that holds a link prints as.
const redacted = "[redacted]"

// String returns "[redacted]".
func (Invite) String() string { return redacted }

// Format writes "[redacted]" for every verb.
func (Invite) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue returns "[redacted]".
func (Invite) LogValue() slog.Value { return slog.StringValue(redacted) }

// String returns "[redacted]".
func (SignedInvite) String() string { return redacted }

// Format writes "[redacted]" for every verb.
func (SignedInvite) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue returns "[redacted]".
func (SignedInvite) LogValue() slog.Value { return slog.StringValue(redacted) }
