package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// JoinOptions say who joins with which invite.
type JoinOptions struct {
	// Invite is a link, or the bare token. Required. It holds the mesh's root key: keep it as secret as that.
	Invite string
	// Key is the member key to enrol. Zero: a fresh one is made, which the Membership then holds.
	Key identity.KeyPair
	// DisplayName is what the member is called, 1 to 128 characters. Required. The broker adds a number to one that is taken.
	DisplayName string
	// HTTPClient makes the request. Default: one of its own.
	HTTPClient *http.Client
}

// Membership is what Join gains: all that Dial needs.
type Membership struct {
	BrokerURL string
	MeshID    string
	MeshSlug  string
	MemberID  string
	Role      string // what the invite gives: identity.RoleAdmin or RoleMember
	Key       identity.KeyPair
	// AlreadyMember says that the key was enrolled before; nothing was used up.
	AlreadyMember bool
	// Invite is the invite that was redeemed.
	Invite identity.InviteV1
}

// Options are those to dial with.
func (m Membership) Options() Options {
	return Options{URL: m.BrokerURL, MeshID: m.MeshID, MemberID: m.MemberID, Key: m.Key}
}

// Join enrols a key as a member by an invite. The invite's signature and expiry are checked before anything is sent; what the
// broker refuses is an *HTTPError with its code, such as invite_exhausted.
func Join(ctx context.Context, o JoinOptions) (Membership, error) {
	token, err := identity.ParseInviteLink(o.Invite)
	if err != nil {
		return Membership{}, fmt.Errorf("client: this is no invite: %w", err)
	}
	invite, err := identity.ParseInviteToken(token)
	if err != nil {
		return Membership{}, fmt.Errorf("client: this is no invite: %w", err)
	}
	if err := invite.Verify(time.Now()); err != nil {
		return Membership{}, fmt.Errorf("client: the invite is not good: %w", err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return Membership{}, fmt.Errorf("client: this is no invite: %w", err)
	}
	u, err := url.Parse(invite.BrokerURL)
	if err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" {
		return Membership{}, errors.New("client: the invite's broker_url must be ws://host/ws or wss://host/ws")
	}
	name, ok := wire.DisplayName(o.DisplayName)
	if !ok {
		return Membership{}, errors.New("client: JoinOptions.DisplayName must have 1 to 128 characters, none of them a control character")
	}
	if o.Key.IsZero() {
		if o.Key, err = identity.GenerateKey(); err != nil {
			return Membership{}, fmt.Errorf("client: make a member key: %w", err)
		}
	}
	body, err := wire.Encode(map[string]any{
		"invite_token": token, "invite_payload": json.RawMessage(payload), "peer_pubkey": o.Key.Public(), "display_name": name,
		"signature": o.Key.Sign(identity.JoinText(identity.TokenHash(token), o.Key.Public())),
	})
	if err != nil {
		return Membership{}, fmt.Errorf("client: this is no invite: %w", err)
	}
	hc := o.HTTPClient
	if hc == nil {
		t := newTransport()
		defer t.CloseIdleConnections()
		hc = &http.Client{Transport: t}
	}
	ctx, cancel := context.WithTimeout(ctx, restTimeout)
	defer cancel()
	memberID, already, err := enrol(ctx, withoutTimeout(hc), restBases(invite.BrokerURL), body)
	if err != nil {
		return Membership{}, err
	}
	return Membership{
		BrokerURL: invite.BrokerURL, MeshID: invite.MeshID, MeshSlug: invite.MeshSlug, MemberID: memberID, Role: invite.Role, Key: o.Key,
		AlreadyMember: already, Invite: invite,
	}, nil
}

// enrol posts to the first base that knows the route.
func enrol(ctx context.Context, hc *http.Client, bases []string, body []byte) (memberID string, already bool, err error) {
	for i, base := range bases {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/join", bytes.NewReader(body))
		if err != nil {
			return "", false, fmt.Errorf("client: join: %w", err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := hc.Do(req)
		if err != nil {
			return "", false, fmt.Errorf("client: join: %w", err)
		}
		if resp.StatusCode != http.StatusOK {
			refused := readRefusal(resp)
			if refused.plain && i+1 < len(bases) {
				continue
			}
			return "", false, refused
		}
		raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		err = errors.Join(err, resp.Body.Close())
		var answer struct {
			OK            bool   `json:"ok"`
			MemberID      string `json:"memberId"`
			AlreadyMember bool   `json:"alreadyMember"`
		}
		if err == nil {
			err = json.Unmarshal(raw, &answer)
		}
		if err != nil || !answer.OK || !wire.IsID(answer.MemberID) {
			return "", false, fmt.Errorf("client: join: unreadable answer: %w", errors.Join(err, errors.New("no member id")))
		}
		return answer.MemberID, answer.AlreadyMember, nil
	}
	return "", false, errors.New("client: join: the invite names no broker")
}
