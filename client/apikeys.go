package client

import (
	"context"
	"time"

	"github.com/claudemesh/broker/wire"
)

// APIKeyOptions describe a new API key.
type APIKeyOptions struct {
	// Label is for people, 1 to 128 characters. Required.
	Label string
	// Capabilities are some of wire.KeyRead, KeySend, KeyStateWrite and KeyAdmin. Required.
	Capabilities []string
	// Topics are the names of the topics that the key is good for. Nil: all; empty: none.
	Topics []string
	// ExpiresAt ends the key. Zero: the broker's limit.
	ExpiresAt time.Time
}

// CreateAPIKey makes a key that acts for this member over REST. Its secret is shown this once. If the connection is lost before
// the answer, the error is ErrOutcomeUnknown and a key may exist that nobody knows; ListAPIKeys shows it.
func (c *Client) CreateAPIKey(ctx context.Context, o APIKeyOptions) (wire.APIKeyCreated, error) {
	request := &wire.APIKeyCreate{
		Header: header(wire.TypeAPIKeyCreate), Label: o.Label, Capabilities: o.Capabilities, ExpiresAt: wire.FormatTimePtr(o.ExpiresAt),
	}
	if o.Topics != nil {
		request.TopicScopes = &o.Topics
	}
	var made wire.APIKeyCreated
	err := c.call(ctx, request, &made, false)
	return made, err
}

// ListAPIKeys lists this member's keys, all of the mesh's for an admin, the newest first, without secrets. The client's own
// passing keys are among them, labelled "client".
func (c *Client) ListAPIKeys(ctx context.Context) ([]wire.APIKeyInfo, error) {
	var list wire.APIKeyListResponse
	err := c.call(ctx, &wire.APIKeyList{Header: header(wire.TypeAPIKeyList)}, &list, true)
	return list.Keys, err
}

// RevokeAPIKey ends a key, named by its id, the start of it (6 characters or more) or the 11-character prefix of its secret, and
// returns its id. A key that is not found, or not the only one, is a *RequestError with wire.NotFound or wire.AmbiguousPrefix.
func (c *Client) RevokeAPIKey(ctx context.Context, id string) (string, error) {
	var answer wire.APIKeyRevokeResponse
	if err := c.call(ctx, &wire.APIKeyRevoke{Header: header(wire.TypeAPIKeyRevoke), ID: id}, &answer, true); err != nil {
		return "", err
	}
	switch answer.Status {
	case "revoked":
		return answer.ID, nil
	case "not_unique":
		return "", &RequestError{Request: wire.TypeAPIKeyRevoke, Code: wire.AmbiguousPrefix, Text: "several keys match; give more of the id"}
	default:
		return "", &RequestError{Request: wire.TypeAPIKeyRevoke, Code: wire.NotFound, Text: "no such key"}
	}
}
