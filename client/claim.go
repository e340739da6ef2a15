package client

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// claimAnswer is what a broker says to an accepted claim (docs/rest.md, claim).
type claimAnswer struct {
	SealedRootKey string `json:"sealed_root_key"`
	MeshID        string `json:"mesh_id"`
	MemberID      string `json:"member_id"`
	OwnerPubkey   string `json:"owner_pubkey"`
	CanonicalV2   string `json:"canonical_v2"`
	Signature     string `json:"signature"`
	MeshSlug      string `json:"mesh_slug"`
	AlreadyMember bool   `json:"already_member"`
}

// claimCodes are a claim's refusals in the words of a join, so that callers need to know one set.
var claimCodes = map[wire.Code]wire.Code{
	"not_found": "invite_not_found", "revoked": "invite_revoked", "expired": "invite_expired", "exhausted": "invite_exhausted",
	"bad_signature": "invite_bad_signature",
}

// joinByCode joins by an invite of version 2, of which only the code is known before the broker has answered.
func joinByCode(ctx context.Context, o JoinOptions) (Membership, error) {
	short, err := identity.ParseShortLink(o.Invite)
	if err != nil {
		return Membership{}, fmt.Errorf("client: this is no invite: %w", err)
	}
	sites := short.Sites
	switch {
	case o.BrokerURL != "" && !isSocketURL(o.BrokerURL):
		return Membership{}, errors.New("client: JoinOptions.BrokerURL must be ws://host/ws or wss://host/ws")
	case o.BrokerURL != "":
		sites = restBases(o.BrokerURL)
	case len(sites) == 0:
		return Membership{}, errors.New("client: JoinOptions.BrokerURL is required for a bare code: it does not say which broker knows it")
	}
	public, secret, err := identity.GenerateX25519()
	if err != nil {
		return Membership{}, fmt.Errorf("client: make a key for the root key: %w", err)
	}
	defer clear(secret[:])
	body, err := wire.Encode(map[string]any{
		"recipient_x25519_pubkey": base64.RawURLEncoding.EncodeToString(public[:]), "peer_pubkey": o.Key.Public(), "display_name": o.DisplayName,
		"signature": o.Key.Sign(identity.JoinText(identity.TokenHash(short.Code), o.Key.Public())),
	})
	if err != nil {
		return Membership{}, fmt.Errorf("client: join: %w", err)
	}
	var urls []string
	for _, route := range []string{"/invites/", "/api/public/invites/"} {
		for _, site := range sites {
			urls = append(urls, site+route+short.Code+"/claim")
		}
	}
	var a claimAnswer
	at, err := postFirst(ctx, o.HTTPClient, urls, body, &a)
	if refused, ok := errors.AsType[*HTTPError](err); ok {
		refused.Code = cmp.Or(claimCodes[refused.Code], refused.Code)
	}
	if err != nil {
		return Membership{}, err
	}
	invite, err := a.open(time.Now(), public, secret)
	if err != nil {
		return Membership{}, fmt.Errorf("client: the broker's answer to the invite is not good: %w", err)
	}
	invite.BrokerURL = o.BrokerURL
	if invite.BrokerURL == "" {
		invite.BrokerURL = "ws" + strings.TrimPrefix(sites[at%len(sites)], "http") + "/ws"
	}
	return Membership{
		BrokerURL: invite.BrokerURL, MeshID: invite.MeshID, MeshSlug: invite.MeshSlug, MemberID: a.MemberID, Role: invite.Role, Key: o.Key,
		AlreadyMember: a.AlreadyMember, Invite: invite,
	}, nil
}

// open checks the answer against itself, as far as it can be, and opens the root key.
func (a *claimAnswer) open(now time.Time, public, secret [32]byte) (i identity.InviteV1, err error) {
	signed, err := identity.ParseInviteV2(a.CanonicalV2, a.Signature)
	if err != nil {
		return i, err
	}
	if err := signed.Verify(now); err != nil {
		return i, err
	}
	switch {
	case !wire.IsID(a.MemberID):
		return i, errors.New("it names no member")
	case a.MeshID != signed.MeshID:
		return i, errors.New("it is for another mesh than the one that was signed")
	case !strings.EqualFold(a.OwnerPubkey, signed.OwnerPubkey):
		return i, errors.New("it is signed by another key than the owner's")
	}
	root, err := identity.OpenRootKey(a.SealedRootKey, public, secret)
	if err != nil {
		return i, fmt.Errorf("root key: %w", err)
	}
	if a.MeshSlug == "" || !wire.IsID(a.MeshSlug) {
		a.MeshSlug = a.MeshID
	}
	return identity.InviteV1{
		V: 2, MeshID: a.MeshID, MeshSlug: a.MeshSlug, ExpiresAt: signed.ExpiresAt, MeshRootKey: root, Role: signed.Role,
		OwnerPubkey: signed.OwnerPubkey, Signature: signed.Signature,
	}, nil
}
