package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

var (
	_ = op(wire.TypeAPIKeyCreate, (*Broker).opAPIKeyCreate)
	_ = op(wire.TypeAPIKeyList, (*Broker).opAPIKeyList)
	_ = op(wire.TypeAPIKeyRevoke, (*Broker).opAPIKeyRevoke)
)

// maxKeyLife is how long a key lives that a member minted; docs/protocol.md, API keys.
const maxKeyLife = 90 * 24 * time.Hour

func (b *Broker) opAPIKeyCreate(ctx context.Context, by Caller, f wire.APIKeyCreate) (wire.Message, error) {
	at := now()
	k := store.APIKey{
		MeshID: by.MeshID, Label: f.Label, Capabilities: f.Capabilities, TopicScopes: f.TopicScopes, IssuedBy: by.Member.ID,
		CreatedAt: at, ExpiresAt: at.Add(maxKeyLife),
	}
	if f.ExpiresAt != nil {
		asked, err := wire.ParseTime(*f.ExpiresAt)
		if err != nil || !asked.After(at) {
			return nil, wire.BadField("expiresAt", "must be an ISO-8601 time with a zone, after now")
		}
		if asked.Before(k.ExpiresAt) {
			k.ExpiresAt = asked
		}
	}
	if slices.Contains(f.Capabilities, wire.KeyAdmin) {
		if admin, err := b.isAdmin(ctx, by); err != nil {
			return nil, err
		} else if !admin {
			return nil, &wire.Fault{Code: wire.Forbidden, Text: "only admins may make keys with the capability admin"}
		}
	}
	secret, prefix, hash, err := identity.NewAPIKey()
	if err != nil {
		return nil, err
	}
	k.ID, k.Prefix, k.Hash = newID(), prefix, hash
	limit := limitOr(b.opts.MaxAPIKeysPerMember)
	if err := b.store.CreateAPIKey(ctx, k, limit, auditKey(by, &k)); errors.Is(err, store.ErrLimit) {
		return nil, &wire.Fault{Code: wire.Forbidden, Text: fmt.Sprintf("you have %d live keys; revoke some first", limit), Cause: err}
	} else if errors.Is(err, store.ErrRevoked) { // since the request came
		return nil, &wire.Fault{Code: wire.Forbidden, Text: "membership was revoked", Cause: err}
	} else if err != nil {
		return nil, fmt.Errorf("create API key: %w", err)
	}
	return &wire.APIKeyCreated{
		Header: wire.Header{Type: wire.TypeAPIKeyCreated}, ID: k.ID, Secret: secret, Label: k.Label, Prefix: k.Prefix,
		Capabilities: k.Capabilities, TopicScopes: k.TopicScopes, CreatedAt: wire.FormatTime(k.CreatedAt), ExpiresAt: wire.FormatTimePtr(k.ExpiresAt),
	}, nil
}

// auditedScopes is how many topics the event of a new key names.
const auditedScopes = 8

// auditKey is the event of a new API key. Its prefix is part of the secret and stays out.
func auditKey(by Caller, k *store.APIKey) store.AuditEvent {
	payload := map[string]any{"capabilities": k.Capabilities, "id": k.ID, "issuer": k.IssuedBy, "label": k.Label}
	if k.TopicScopes != nil { // how many, and the first of them: an entry is kept for good
		payload["topics"] = len(*k.TopicScopes)
		payload["topic_scopes"] = (*k.TopicScopes)[:min(len(*k.TopicScopes), auditedScopes)]
	}
	return audited(by, wire.AuditAPIKeyCreated, payload)
}

// keyOwner is whose keys a caller may see and revoke: its own, or, as an admin, everybody's (the empty string).
func (b *Broker) keyOwner(ctx context.Context, by Caller) (string, error) {
	admin, err := b.isAdmin(ctx, by)
	if err != nil || admin {
		return "", err
	}
	return by.Member.ID, nil
}

func (b *Broker) opAPIKeyList(ctx context.Context, by Caller, _ wire.APIKeyList) (wire.Message, error) {
	owner, err := b.keyOwner(ctx, by)
	if err != nil {
		return nil, err
	}
	keys, err := b.store.ListAPIKeys(ctx, by.MeshID, owner)
	if err != nil {
		return nil, fmt.Errorf("API keys: %w", err)
	}
	list := &wire.APIKeyListResponse{Header: wire.Header{Type: wire.TypeAPIKeyListResponse}, Keys: make([]wire.APIKeyInfo, 0, len(keys))}
	size := 0
	for _, k := range keys {
		if size += keySize(&k); size > maxPage {
			list.Truncated = true
			break
		}
		list.Keys = append(list.Keys, wire.APIKeyInfo{
			ID: k.ID, Label: k.Label, Prefix: k.Prefix, Capabilities: k.Capabilities, TopicScopes: k.TopicScopes,
			CreatedAt: wire.FormatTime(k.CreatedAt), LastUsedAt: wire.FormatTimePtr(k.LastUsedAt), RevokedAt: wire.FormatTimePtr(k.RevokedAt),
			ExpiresAt: wire.FormatTimePtr(k.ExpiresAt),
		})
	}
	return list, nil
}

// keySize is about what a key takes in a list.
func keySize(k *store.APIKey) int {
	size := 400 + len(k.Label)
	if k.TopicScopes != nil {
		for _, t := range *k.TopicScopes {
			size += len(t) + 4
		}
	}
	return size
}

func (b *Broker) opAPIKeyRevoke(ctx context.Context, by Caller, f wire.APIKeyRevoke) (wire.Message, error) {
	reply := &wire.APIKeyRevokeResponse{Header: wire.Header{Type: wire.TypeAPIKeyRevokeResponse}, Status: "not_found"}
	if !wire.IsID(f.ID) {
		return reply, nil
	}
	owner, err := b.keyOwner(ctx, by)
	if err != nil {
		return nil, err
	}
	found, err := b.store.FindAPIKeys(ctx, by.MeshID, owner, f.ID, now())
	if err != nil {
		return nil, fmt.Errorf("find API keys: %w", err)
	}
	switch len(found) {
	case 0:
		return reply, nil
	case 1:
	default:
		reply.Status, reply.Matches = "not_unique", len(found)
		return reply, nil
	}
	if err := b.revokeAPIKey(ctx, by, found[0].ID); err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	reply.Status, reply.ID = "revoked", found[0].ID
	return reply, nil
}

// RevokeAPIKey ends an API key and, within a second, its streams; a second time changes nothing. store.ErrNotFound: no such key.
func (b *Broker) RevokeAPIKey(ctx context.Context, meshID, id string) error {
	if err := b.hosted(); err != nil {
		return err
	}
	defer b.work.leaveSession()
	return b.revokeAPIKey(ctx, host(meshID), id)
}

func (b *Broker) revokeAPIKey(ctx context.Context, by Caller, id string) error {
	event := audited(by, wire.AuditAPIKeyRevoked, map[string]any{"id": id})
	if err := b.store.RevokeAPIKey(ctx, by.MeshID, id, now(), event); err != nil {
		return fmt.Errorf("revoke API key: %w", err)
	}
	b.endStreams(by.MeshID, func(s *stream) bool { return s.keyID == id })
	return nil
}
