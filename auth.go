package broker

import (
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

// Auth decides who a hello and who a REST request speaks for. The default, [StoreAuth], knows the members and API keys of the store; a host
// with sessions of its own can wrap it. Methods may be called from many goroutines at once.
type Auth interface {
	// Hello names the member that may sign in with this key. It is asked after the signatures of the hello were verified, so the peer
	// holds the secret key; r is the request of the WebSocket handshake, with its cookies and headers, whose Origin was checked.
	// The member's Pubkey must be key.Pubkey. store.ErrNotFound refuses the hello as unauthorized, a *wire.Fault with its own code, and
	// a member with RevokedAt as banned.
	Hello(ctx context.Context, r *http.Request, key HelloKey) (store.Member, error)
	// Request names who a REST request speaks for. A [wire.Fault] with code unauthorized (or any error that wraps store.ErrNotFound)
	// is answered 401.
	Request(ctx context.Context, r *http.Request) (Grant, error)
}

// HelloKey is what a hello proved.
type HelloKey struct {
	MeshID string
	Pubkey string // the member key, lower case
}

// Grant is what a REST request may do: the mesh, the member it speaks for, and the rights.
type Grant struct {
	MeshID string
	// Member is empty for a key without an issuer, which may read but not act as anybody.
	Member store.Member
	// ID identifies the credential for rate limits and revocation: the API key's id, or a host's own.
	ID string
	// Capabilities are some of wire.KeySend, KeyRead, KeyStateWrite, KeyAdmin.
	Capabilities []string
	// TopicScopes are the names of the topics that the credential reaches; nil: all.
	TopicScopes *[]string
	// ExpiresAt ends streams; zero: never.
	ExpiresAt time.Time
	// Rekey allows changing the member's public key.
	Rekey bool
	// Ambient says that the browser attaches the credential by itself (a cookie), so that the broker checks the request's Origin and
	// answers without CORS headers.
	Ambient bool
}

// Has reports whether the grant includes capability c; admin includes all.
func (g *Grant) Has(c string) bool {
	for _, have := range g.Capabilities {
		if have == c || have == wire.KeyAdmin {
			return true
		}
	}
	return false
}

// Reaches reports whether the grant includes the topic of that name.
func (g *Grant) Reaches(topic string) bool {
	if g.TopicScopes == nil {
		return true
	}
	for _, t := range *g.TopicScopes {
		if t == topic {
			return true
		}
	}
	return false
}

// StoreAuth is the default [Auth]: a hello speaks for the member with that key, a request for the issuer of its API key.
type StoreAuth struct {
	// Store is where members and keys are.
	Store store.Store
}

var _ Auth = StoreAuth{}

// Hello returns the member of that mesh with that key; store.ErrNotFound for an unknown or archived mesh and for an unknown key.
func (a StoreAuth) Hello(ctx context.Context, _ *http.Request, key HelloKey) (store.Member, error) {
	mesh, err := a.Store.Mesh(ctx, key.MeshID)
	if err != nil {
		return store.Member{}, err
	}
	if !mesh.ArchivedAt.IsZero() {
		return store.Member{}, fmt.Errorf("mesh is archived: %w", store.ErrNotFound)
	}
	return a.Store.MemberByKey(ctx, key.MeshID, key.Pubkey)
}

// errNoKey and errBadKey are the two ways in which a request is not authenticated; rest.go answers them as 401.
var (
	errNoKey  = &wire.Fault{Code: wire.Unauthorized, Text: "error.api_key_missing"}
	errBadKey = &wire.Fault{Code: wire.Unauthorized, Text: "error.api_key_invalid"}
)

// Request reads "Authorization: Bearer cm_…" and returns the key's rights. The key must be live, its mesh not archived, and its
// issuer, if it has one, not revoked.
func (a StoreAuth) Request(ctx context.Context, r *http.Request) (Grant, error) {
	secret, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer")
	if !found || secret == "" || secret[0] != ' ' && secret[0] != '\t' {
		return Grant{}, errNoKey
	}
	secret = strings.TrimSpace(secret)
	prefix, ok := identity.APIKeyPrefix(secret)
	if !ok {
		return Grant{}, errBadKey
	}
	keys, err := a.Store.APIKeysByPrefix(ctx, prefix)
	if err != nil {
		return Grant{}, fmt.Errorf("API key: %w", err)
	}
	now := time.Now()
	for _, k := range keys {
		if identity.MatchAPIKey(secret, k.Prefix, k.Hash) && k.Live(now) {
			return a.grant(ctx, k)
		}
	}
	return Grant{}, errBadKey
}

func (a StoreAuth) grant(ctx context.Context, k store.APIKey) (Grant, error) {
	mesh, err := a.Store.Mesh(ctx, k.MeshID)
	if errors.Is(err, store.ErrNotFound) || err == nil && !mesh.ArchivedAt.IsZero() {
		return Grant{}, errBadKey
	} else if err != nil {
		return Grant{}, fmt.Errorf("mesh of an API key: %w", err)
	}
	g := Grant{MeshID: k.MeshID, ID: k.ID, Capabilities: k.Capabilities, TopicScopes: k.TopicScopes, ExpiresAt: k.ExpiresAt, Rekey: k.Rekey}
	if k.IssuedBy == "" {
		return g, nil
	}
	g.Member, err = a.Store.Member(ctx, k.MeshID, k.IssuedBy)
	if errors.Is(err, store.ErrNotFound) || err == nil && !g.Member.RevokedAt.IsZero() {
		return Grant{}, errBadKey
	} else if err != nil {
		return Grant{}, fmt.Errorf("issuer of an API key: %w", err)
	}
	return g, nil
}
