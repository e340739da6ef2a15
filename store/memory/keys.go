package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/claudemesh/broker/store"
)

// dropSealed deletes a member's copies of topic keys.
func (m *mesh) dropSealed(memberID string) {
	for _, t := range m.topics {
		delete(t.sealed, memberID)
	}
}

// TopicKey implements store.TopicKeys.
func (s *Store) TopicKey(ctx context.Context, mesh, id, memberID string) (store.SealedKey, error) {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return store.SealedKey{}, err
	}
	defer m.mu.Unlock()
	k, ok := t.sealed[memberID]
	if !ok {
		return store.SealedKey{}, notFound("topic key of member", memberID)
	}
	return k, nil
}

// SealTopicKey implements store.TopicKeys.
func (s *Store) SealTopicKey(ctx context.Context, mesh, id, recipient string, k store.SealedKey, overwrite bool) error {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if t.EncryptedKeyPubkey == "" {
		return fmt.Errorf("%w: %q", store.ErrUnencrypted, id)
	}
	if t.subscriptions[recipient] == nil || m.members[recipient].revoked() {
		return notFound("topic member", recipient)
	}
	if _, holds := t.sealed[k.SealedByMemberID]; !holds {
		return fmt.Errorf("%w: member %q", store.ErrNotHolder, k.SealedByMemberID)
	}
	if t.rejected[recipient][k.SealedByMemberID] {
		return fmt.Errorf("%w: member %q by %q", store.ErrRejected, k.SealedByMemberID, recipient)
	}
	if old, exists := t.sealed[recipient]; exists {
		if !overwrite {
			return conflict("topic key of member", recipient)
		}
		k.CreatedAt, k.RotatedAt = old.CreatedAt, k.CreatedAt
	}
	t.sealed[recipient] = k
	return nil
}

// ClaimTopicKey implements store.TopicKeys.
func (s *Store) ClaimTopicKey(ctx context.Context, mesh, id, memberID, pubkey string, k store.SealedKey, lost bool) error {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if t.archived() {
		return notFound("topic that is not archived", id)
	}
	if t.EncryptedKeyPubkey != "" && (!lost || len(t.sealed) > 0) {
		return conflict("key of topic", id)
	}
	clear(t.rejected)
	t.EncryptedKeyPubkey = pubkey
	t.sealed[memberID] = k
	m.topicsChanged()
	return nil
}

// TopicKeyCount implements store.TopicKeys.
func (s *Store) TopicKeyCount(ctx context.Context, mesh, id string) (int, error) {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return 0, found(err)
	}
	defer m.mu.Unlock()
	return len(t.sealed), nil
}

// RejectTopicKey implements store.TopicKeys.
func (s *Store) RejectTopicKey(ctx context.Context, mesh, id, memberID string) (bool, error) {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return false, found(err)
	}
	defer m.mu.Unlock()
	k, ok := t.sealed[memberID]
	if !ok {
		return false, nil
	}
	delete(t.sealed, memberID)
	if t.rejected[memberID] == nil {
		t.rejected[memberID] = map[string]bool{}
	}
	t.rejected[memberID][k.SealedByMemberID] = true
	return true, nil
}

// PendingSeals implements store.TopicKeys.
func (s *Store) PendingSeals(ctx context.Context, mesh, id, except string, limit int) ([]store.PendingSeal, error) {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	var waiting []*subscription
	for memberID, sub := range t.subscriptions {
		if _, holds := t.sealed[memberID]; !holds && memberID != except && !m.members[memberID].revoked() {
			waiting = append(waiting, sub)
		}
	}
	slices.SortFunc(waiting, func(a, b *subscription) int {
		return cmp.Or(a.JoinedAt.Compare(b.JoinedAt), cmp.Compare(a.order, b.order))
	})
	waiting = waiting[:min(len(waiting), max(limit, 0))]
	out := make([]store.PendingSeal, len(waiting))
	for i, sub := range waiting {
		out[i] = store.PendingSeal{Member: cloneMember(m.members[sub.MemberID].Member), Rejected: len(t.rejected[sub.MemberID])}
	}
	return out, nil
}
