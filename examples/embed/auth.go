package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// sessionAuth lets the application's sessions be members of the mesh.
type sessionAuth struct {
	app    *app
	keys   broker.StoreAuth // API keys work beside cookies
	broker *broker.Broker   // set once, before the first request
}

var _ broker.Auth = (*sessionAuth)(nil)

// Hello is asked after the broker has verified that the peer holds the secret key. A key that is known speaks for itself; a new one is
// enrolled for whoever is logged in.
func (s *sessionAuth) Hello(ctx context.Context, r *http.Request, key broker.HelloKey) (store.Member, error) {
	member, err := s.keys.Hello(ctx, r, key)
	user := s.app.user(r)
	switch {
	case err == nil && user != "" && member.UserID != "" && member.UserID != user:
		return store.Member{}, &wire.Fault{Code: wire.Unauthorized, Text: "this key belongs to another account"}
	case err == nil || !errors.Is(err, store.ErrNotFound):
		return member, err
	case user == "" || key.MeshID != meshID:
		return store.Member{}, err
	}
	return s.broker.AddMember(ctx, key.MeshID, broker.NewMember{Name: user, Pubkey: key.Pubkey, UserID: user})
}

// Request lets pages of the application read topics with the user's cookie; everything else needs an API key.
func (s *sessionAuth) Request(ctx context.Context, r *http.Request) (broker.Grant, error) {
	if r.Header.Get("Authorization") != "" {
		return s.keys.Request(ctx, r)
	}
	user := s.app.user(r)
	if user == "" {
		return broker.Grant{}, &wire.Fault{Code: wire.Unauthorized, Text: "log in first"}
	}
	members, err := s.broker.Members(ctx, meshID)
	if err != nil {
		return broker.Grant{}, err
	}
	for _, m := range members {
		if m.UserID == user {
			// Ambient: the browser attaches the cookie by itself, so the broker checks where the page comes from.
			return broker.Grant{MeshID: meshID, Member: m, ID: "cookie " + user, Capabilities: []string{wire.KeyRead}, Ambient: true}, nil
		}
	}
	return broker.Grant{}, &wire.Fault{Code: wire.Unauthorized, Text: "sign in to the mesh once with a key of your own"}
}
