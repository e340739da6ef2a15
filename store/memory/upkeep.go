package memory

import (
	"context"
	"slices"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// pruneChunk is how many things Prune deletes of a mesh before it lets others at its lock.
const pruneChunk = 1000

// Expire implements store.Upkeep.
func (s *Store) Expire(ctx context.Context, now time.Time, sessionGone time.Duration, limit int) ([]store.Delivery, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var out []store.Delivery
	for _, m := range s.all() {
		if len(out) >= limit {
			break
		}
		if m.pending.Load() == 0 || !m.enter() {
			continue
		}
		out = m.expireOld(now, limit, out)
		if sessionGone > 0 {
			out = m.expireSilent(now.Add(-sessionGone), now, limit, out)
		}
		m.mu.Unlock()
	}
	return out, nil
}

// expireOld expires what is past its ExpiresAt, as long as out has less than limit elements.
func (m *mesh) expireOld(now time.Time, limit int, out []store.Delivery) []store.Delivery {
	for {
		at, msg, ok := m.expiry.first()
		if !ok || at.After(now) {
			return out
		}
		for i := range msg.deliveries {
			if msg.pending == 0 {
				break
			}
			if len(out) >= limit {
				return out
			}
			if d := &msg.deliveries[i]; d.state == pending {
				m.finish(d, expired, wire.ReasonTTL, now)
				out = append(out, d.export())
			}
		}
		m.expiry.drop()
	}
}

// expireSilent expires the mail of sessions that closed before the given time.
func (m *mesh) expireSilent(before, now time.Time, limit int, out []store.Delivery) []store.Delivery {
	for {
		at, box, ok := m.silent.first()
		if !ok || !at.Before(before) || len(out) >= limit {
			return out
		}
		m.silent.drop()
		box.watched = false
		k := m.sessionKeys[box.recipient.SessionPubkey]
		if k == nil || k.open > 0 {
			continue
		}
		if k.closedAt.Equal(at) {
			for _, d := range box.oldest(limit - len(out)) {
				m.finish(d, expired, wire.ReasonTTL, now)
				out = append(out, d.export())
			}
		}
		m.watch(box, k) // if anything is left, or it was open meanwhile
	}
}

// oldest returns at most limit pending deliveries.
func (b *mailbox) oldest(limit int) []*delivery {
	var out []*delivery
	for i := range b.lists {
		for _, e := range b.lists[i].entries {
			if len(out) >= limit {
				return out
			}
			if e.delivery != nil {
				out = append(out, e.delivery)
			}
		}
	}
	return out
}

// settle notes that a message has no pending deliveries any more. History keeps what it shows; the rest waits for Prune, without a
// body if it is of no topic.
func (m *mesh) settle(msg *message) {
	if msg.TopicID == "" {
		msg.dropBody()
	}
	if msg.topic != nil {
		return
	}
	if t := m.topics[msg.TopicID]; t != nil {
		delete(t.overflow, msg)
	}
	m.settled.push(m.end(msg), msg)
}

// dropBody gives back the memory of a body that nobody will ask for. Readers may hold the old row, so it stays as it is.
func (msg *message) dropBody() {
	row := *msg.Message
	row.Nonce, row.Ciphertext = "", ""
	msg.Message = &row
}

// end is when a settled message may be deleted.
func (m *mesh) end(msg *message) time.Time {
	end := msg.CreatedAt.Add(m.keep)
	if msg.ExpiresAt.After(end) {
		return msg.ExpiresAt
	}
	return end
}

// Prune implements store.Upkeep.
func (s *Store) Prune(ctx context.Context, now time.Time, keep store.Retention) (bool, error) {
	for _, m := range s.all() {
		for deleted := pruneChunk; deleted >= pruneChunk; {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			if !m.enter() {
				break
			}
			deleted = m.prune(now, keep) + s.pruneAPIKeys(m, now, keep.APIKeys)
			m.mu.Unlock()
		}
	}
	return true, ctx.Err()
}

// prune deletes about pruneChunk things and returns how many it deleted.
func (m *mesh) prune(now time.Time, keep store.Retention) int {
	deleted := 0
	more := func() bool { return deleted < pruneChunk }
	if keep.Presences > 0 {
		for more() {
			at, p, ok := m.closed.first()
			if !ok || !due(at.Add(keep.Presences), now) {
				break
			}
			m.closed.drop()
			if m.presences[p.ID] == p { // else another took its place
				m.remove(p)
				deleted++
			}
		}
	}
	if keep.Notifications > 0 {
		for more() && len(m.notices) > 0 && due(m.notices[0].CreatedAt.Add(keep.Notifications), now) {
			n := m.notices[0]
			m.notices[0] = nil
			m.notices = m.notices[1:]
			if m.noticeByID[n.ID] != n {
				m.deadNotices--
				continue
			}
			m.dropNotice(n)
			deleted++
		}
	}
	if keep.Topics > 0 {
		for _, t := range m.topics {
			if more() {
				deleted += m.pruneHistory(t, now, keep.Topics, pruneChunk-deleted)
			}
		}
	}
	if keep.Messages > 0 {
		m.rearm(keep.Messages)
		for more() {
			at, msg, ok := m.settled.first()
			if !ok || at.After(now) {
				break
			}
			m.settled.drop()
			m.forget(msg)
			deleted++
		}
	}
	return deleted
}

// rearm orders the settled messages by another retention.
func (m *mesh) rearm(keep time.Duration) {
	if m.keep == keep {
		return
	}
	m.keep = keep
	old := m.settled.items
	m.settled = queue[*message]{}
	for _, item := range old {
		m.settled.push(m.end(item.value), item.value)
	}
}

// pruneHistory deletes old messages of a topic that have no pending deliveries.
func (m *mesh) pruneHistory(t *topic, now time.Time, keep time.Duration, limit int) (deleted int) {
	old, waiting := 0, t.history[:0:0]
	for ; old < len(t.history) && deleted < limit; old++ {
		msg := t.history[old]
		if !due(msg.CreatedAt.Add(keep), now) {
			break // CreatedAt never goes back, so the rest is younger
		}
		if msg.pending > 0 {
			waiting = append(waiting, msg)
			continue
		}
		m.forget(msg)
		deleted++
	}
	if deleted > 0 {
		t.history = slices.Concat(waiting, t.history[old:])
	}
	return deleted
}

// forget deletes a message with its deliveries and notifications.
func (m *mesh) forget(msg *message) {
	delete(m.messages, msg.ID)
	if key := (sentKey{msg.SenderMemberID, msg.ClientMessageID}); m.sent[key] == msg {
		delete(m.sent, key)
	}
	for _, n := range msg.notices {
		if m.noticeByID[n.ID] == n {
			m.dropNotice(n)
			m.deadNotices++
		}
	}
	if m.deadNotices > len(m.notices)/2 {
		m.notices = slices.DeleteFunc(m.notices, func(n *notice) bool { return m.noticeByID[n.ID] != n })
		m.deadNotices = 0
	}
	msg.pruned = true
	m.ids.drop()
}

// pruneAPIKeys deletes API keys that ended long ago.
func (s *Store) pruneAPIKeys(m *mesh, now time.Time, keep time.Duration) (deleted int) {
	if keep <= 0 {
		return 0
	}
	for id, k := range m.apiKeys {
		if !k.RevokedAt.IsZero() && due(k.RevokedAt.Add(keep), now) || !k.ExpiresAt.IsZero() && due(k.ExpiresAt.Add(keep), now) {
			delete(m.apiKeys, id)
			s.mu.Lock()
			s.dropPrefixLocked(k.Prefix, ref{m.ID, id})
			s.mu.Unlock()
			deleted++
		}
	}
	return deleted
}

// PendingCount implements store.Upkeep.
func (s *Store) PendingCount(ctx context.Context) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	var n int64
	for _, m := range s.all() {
		n += m.pending.Load()
	}
	return n, nil
}
