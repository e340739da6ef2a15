package memory

import (
	"context"
	"slices"
	"time"

	"github.com/claudemesh/broker/store"
)

// notice is a notification with the message that caused it.
type notice struct {
	store.Notification
	message *message
}

// Notifications implements store.Notifications.
func (s *Store) Notifications(ctx context.Context, q store.NotificationQuery) ([]store.Notice, error) {
	m, b, err := s.lockMember(ctx, q.MeshID, q.MemberID)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	var out []store.Notice
	for _, n := range slices.Backward(b.notices) {
		if len(out) >= q.Limit || !n.CreatedAt.After(q.Since) {
			break // CreatedAt never goes back, so the rest is older
		}
		if q.UnreadOnly && !n.ReadAt.IsZero() || q.Topics != nil && !slices.Contains(*q.Topics, n.TopicID) {
			continue
		}
		out = append(out, store.Notice{Notification: n.Notification, Message: cloneMessage(*n.message.Message)})
	}
	return out, nil
}

// MarkNotificationsRead implements store.Notifications.
func (s *Store) MarkNotificationsRead(ctx context.Context, mesh, id string, ids []string, before, now time.Time) (int, error) {
	m, b, err := s.lockMember(ctx, mesh, id)
	if err != nil {
		return 0, found(err)
	}
	defer m.mu.Unlock()
	changed := 0
	read := func(n *notice) {
		if n.ReadAt.IsZero() {
			n.ReadAt = now
			changed++
		}
	}
	if ids != nil {
		for _, id := range ids {
			if n := m.noticeByID[id]; n != nil && n.RecipientMemberID == b.ID {
				read(n)
			}
		}
		return changed, nil
	}
	for _, n := range b.notices {
		if before.IsZero() || !n.CreatedAt.After(before) {
			read(n)
		}
	}
	return changed, nil
}

// dropNotice deletes a notification, but for its place in mesh.notices.
func (m *mesh) dropNotice(n *notice) {
	delete(m.noticeByID, n.ID)
	b := m.members[n.RecipientMemberID]
	if i := slices.Index(b.notices, n); i >= 0 { // mostly the first
		b.notices = slices.Delete(b.notices, i, i+1)
	}
}
