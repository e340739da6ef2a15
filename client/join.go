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
	// Invite is a link, the bare token of one, or the bare code of a short one. Required. It is a secret: who has it can join, and most hold the mesh's
	// root key.
	Invite string
	// BrokerURL is the broker's socket, ws:// or wss://, ending in /ws. Required for a bare code; for a short link the default is the socket beside it
	// (https://host/i/code: wss://host/ws). Other invites name their broker, and this is not looked at.
	BrokerURL string
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
	// Invite is the invite that was redeemed. Of a short one V is 2, BrokerURL and MeshSlug are not signed, and Signature is that of the
	// [identity.InviteV2].
	Invite identity.InviteV1
}

// Options are those to dial with.
func (m Membership) Options() Options {
	return Options{URL: m.BrokerURL, MeshID: m.MeshID, MemberID: m.MemberID, Key: m.Key}
}

// Join enrols a key as a member by an invite. What is wrong with an invite that holds everything is found before anything is sent; of a short link, which
// holds a code only, the broker's answer is checked: that the mesh's owner signed the invite, for this mesh, that it has not expired, and that the root key
// opens. Who that owner is, the broker says. What the broker refuses is an *HTTPError with its code, such as invite_exhausted.
func Join(ctx context.Context, o JoinOptions) (Membership, error) {
	name, ok := wire.DisplayName(o.DisplayName)
	if !ok {
		return Membership{}, errors.New("client: JoinOptions.DisplayName must have 1 to 128 characters, none of them a control character")
	}
	o.DisplayName = name
	join := joinByToken
	if _, err := identity.ParseShortLink(o.Invite); err == nil {
		join = joinByCode
	}
	if o.Key.IsZero() {
		var err error
		if o.Key, err = identity.GenerateKey(); err != nil {
			return Membership{}, fmt.Errorf("client: make a member key: %w", err)
		}
	}
	if o.HTTPClient == nil {
		t := newTransport()
		defer t.CloseIdleConnections()
		o.HTTPClient = &http.Client{Transport: t}
	}
	o.HTTPClient = withoutTimeout(o.HTTPClient)
	ctx, cancel := context.WithTimeout(ctx, restTimeout)
	defer cancel()
	return join(ctx, o)
}

// joinByToken joins by an invite of version 1, which holds everything.
func joinByToken(ctx context.Context, o JoinOptions) (Membership, error) {
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
	if !isSocketURL(invite.BrokerURL) {
		return Membership{}, errors.New("client: the invite's broker_url must be ws://host/ws or wss://host/ws")
	}
	body, err := wire.Encode(map[string]any{
		"invite_token": token, "invite_payload": json.RawMessage(payload), "peer_pubkey": o.Key.Public(), "display_name": o.DisplayName,
		"signature": o.Key.Sign(identity.JoinText(identity.TokenHash(token), o.Key.Public())),
	})
	if err != nil {
		return Membership{}, fmt.Errorf("client: this is no invite: %w", err)
	}
	var urls []string
	for _, base := range restBases(invite.BrokerURL) {
		urls = append(urls, base+"/join")
	}
	var answer struct {
		OK            bool   `json:"ok"`
		MemberID      string `json:"memberId"`
		AlreadyMember bool   `json:"alreadyMember"`
	}
	if _, err := postFirst(ctx, o.HTTPClient, urls, body, &answer); err != nil {
		return Membership{}, err
	}
	if !answer.OK || !wire.IsID(answer.MemberID) {
		return Membership{}, errors.New("client: join: unreadable answer: no member id")
	}
	return Membership{
		BrokerURL: invite.BrokerURL, MeshID: invite.MeshID, MeshSlug: invite.MeshSlug, MemberID: answer.MemberID, Role: invite.Role, Key: o.Key,
		AlreadyMember: answer.AlreadyMember, Invite: invite,
	}, nil
}

func isSocketURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "ws" || u.Scheme == "wss") && u.Host != ""
}

// maxJoinAnswer bounds the body of an answer to somebody who joins.
const maxJoinAnswer = 64 << 10

// postFirst posts to the first URL behind which somebody knows the route, fills into, and returns the URL's index.
func postFirst(ctx context.Context, hc *http.Client, urls []string, body []byte, into any) (at int, err error) {
	for i, u := range urls {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, u, bytes.NewReader(body))
		if err != nil {
			return 0, fmt.Errorf("client: join: %w", withoutPath(err))
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := hc.Do(req)
		if err != nil {
			return 0, fmt.Errorf("client: join: %w", withoutPath(err))
		}
		if resp.StatusCode != http.StatusOK {
			refused := readRefusal(resp)
			if refused.plain && i+1 < len(urls) {
				continue
			}
			return 0, refused
		}
		raw, err := io.ReadAll(io.LimitReader(resp.Body, maxJoinAnswer))
		err = errors.Join(err, resp.Body.Close())
		if err == nil {
			err = json.Unmarshal(raw, into)
		}
		if err != nil {
			return 0, fmt.Errorf("client: join: unreadable answer: %w", err)
		}
		return i, nil
	}
	return 0, errors.New("client: join: the invite names no broker")
}

// withoutPath takes the path out of an error of net/http: it may hold a code.
func withoutPath(err error) error {
	e, ok := errors.AsType[*url.Error](err)
	if !ok {
		return err
	}
	at := "the broker"
	if u, err := url.Parse(e.URL); err == nil {
		at = u.Scheme + "://" + u.Host
	}
	return &url.Error{Op: e.Op, URL: at, Err: e.Err}
}
