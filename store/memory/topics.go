package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// MaxTopicHistory is the number of messages that History shows of one topic: the newest. Older ones stay for those who have not got
// them yet, and for Message, as long as messages that belong to no topic.
const MaxTopicHistory = 10_000

// defaultTopicRole is the role of who is subscribed without having asked for one.
const defaultTopicRole = wire.TopicMember

// topic is a topic with its history.
type topic struct {
	store.Topic
	subscriptions map[string]*subscription   // by member id
	sealed        map[string]store.SealedKey // by member id
	rejected      map[string]map[string]bool // recipient to the sealers it rejected
	history       []*message                 // by seq
	overflow      map[*message]bool          // pending ones that history shows no more
}

// subscription is a subscription with its place among those of the same time.
type subscription struct {
	store.Subscription
	order int64
}

func (t *topic) archived() bool { return !t.ArchivedAt.IsZero() }

// addTopic keeps a topic whose id and name are free.
func (m *mesh) addTopic(in store.Topic) *topic {
	t := &topic{
		Topic:         in,
		subscriptions: map[string]*subscription{},
		sealed:        map[string]store.SealedKey{},
		rejected:      map[string]map[string]bool{},
		overflow:      map[*message]bool{},
	}
	m.topics[t.ID] = t
	if !t.archived() {
		m.topicNames[t.Name] = t
	}
	m.topicsChanged()
	return t
}

// subscribe makes a member a topic member.
func (m *mesh) subscribe(t *topic, b *member, role string, now time.Time) {
	t.subscriptions[b.ID] = &subscription{
		Subscription: store.Subscription{TopicID: t.ID, MemberID: b.ID, Role: role, JoinedAt: now},
		order:        m.next(),
	}
	m.topicsChanged()
}

// subscribers lists the subscriptions of members that are not revoked, by MemberID.
func (m *mesh) subscribers(t *topic) []store.Subscription {
	out := make([]store.Subscription, 0, len(t.subscriptions))
	for id, sub := range t.subscriptions {
		if !m.members[id].revoked() {
			out = append(out, t.export(sub))
		}
	}
	slices.SortFunc(out, func(a, b store.Subscription) int { return cmp.Compare(a.MemberID, b.MemberID) })
	return out
}

func (t *topic) export(sub *subscription) store.Subscription {
	out := sub.Subscription
	_, out.HasKey = t.sealed[sub.MemberID]
	return out
}

// after returns the index of the first message of the history with a seq above seq.
func (t *topic) after(seq int64) int {
	return sort.Search(len(t.history), func(i int) bool { return t.history[i].Seq > seq })
}

// post shows a message in the history, and the oldest no more if there are too many.
func (m *mesh) post(t *topic, msg *message) {
	t.history = append(t.history, msg)
	if len(t.history) <= MaxTopicHistory {
		return
	}
	oldest := t.history[0]
	t.history[0] = nil
	t.history = t.history[1:]
	oldest.topic = nil
	if oldest.pending > 0 {
		t.overflow[oldest] = true
	} else {
		m.settle(oldest)
	}
}

// lockTopic returns a topic, archived or not, and its mesh with the lock held.
func (s *Store) lockTopic(ctx context.Context, mesh, id string) (*mesh, *topic, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, nil, err
	}
	t := m.topics[id]
	if t == nil {
		m.mu.Unlock()
		return nil, nil, notFound("topic", id)
	}
	return m, t, nil
}

// CreateTopic implements store.Topics.
func (s *Store) CreateTopic(ctx context.Context, in store.NewTopic, audit ...store.AuditEvent) (store.Topic, bool, error) {
	m, err := s.lock(ctx, in.MeshID)
	if err != nil {
		return store.Topic{}, false, err
	}
	defer m.mu.Unlock()
	if t := m.topicNames[in.Name]; t != nil {
		return t.Topic, false, nil
	}
	if m.topics[in.ID] != nil {
		return store.Topic{}, false, conflict("topic", in.ID)
	}
	creator := m.members[in.CreatedByMemberID]
	if in.CreatedByMemberID != "" && (creator == nil || creator.revoked()) {
		return store.Topic{}, false, notFound("creator", in.CreatedByMemberID)
	}
	if in.MaxTopics > 0 && len(m.topicNames) >= in.MaxTopics {
		return store.Topic{}, false, fmt.Errorf("%w: %d topics in mesh %q", store.ErrLimit, len(m.topicNames), m.ID)
	}
	if in.MaxOwned > 0 && creator != nil {
		owned := 0
		for _, t := range m.topicNames {
			if t.CreatedByMemberID == creator.ID {
				owned++
			}
		}
		if owned >= in.MaxOwned {
			return store.Topic{}, false, fmt.Errorf("%w: %d topics of member %q", store.ErrLimit, owned, creator.ID)
		}
	}
	t := m.addTopic(in.Topic)
	m.record(audit...)
	if creator != nil {
		m.subscribe(t, creator, wire.TopicLead, in.CreatedAt)
		if in.Key != nil {
			t.sealed[creator.ID] = *in.Key
		}
	}
	return t.Topic, true, nil
}

// Topic implements store.Topics.
func (s *Store) Topic(ctx context.Context, mesh, idOrName string) (store.Topic, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return store.Topic{}, err
	}
	defer m.mu.Unlock()
	if t := m.topics[idOrName]; t != nil && !t.archived() {
		return t.Topic, nil
	}
	if t := m.topicNames[idOrName]; t != nil {
		return t.Topic, nil
	}
	return store.Topic{}, notFound("topic", idOrName)
}

// TopicByID implements store.Topics.
func (s *Store) TopicByID(ctx context.Context, mesh, id string) (store.Topic, error) {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return store.Topic{}, err
	}
	defer m.mu.Unlock()
	return t.Topic, nil
}

// Topics implements store.Topics.
func (s *Store) Topics(ctx context.Context, mesh string) ([]store.Topic, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	out := make([]store.Topic, 0, len(m.topicNames))
	for _, t := range m.topicNames {
		out = append(out, t.Topic)
	}
	slices.SortFunc(out, func(a, b store.Topic) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Subscribe implements store.Topics.
func (s *Store) Subscribe(ctx context.Context, mesh, id, memberID, role string, replaceRole bool, now time.Time, audit ...store.AuditEvent) (bool, error) {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return false, err
	}
	defer m.mu.Unlock()
	b := m.members[memberID]
	if t.archived() {
		return false, notFound("topic that is not archived", id)
	}
	if b == nil || b.revoked() {
		return false, notFound("member", memberID)
	}
	sub := t.subscriptions[memberID]
	if sub == nil {
		m.subscribe(t, b, role, now)
		m.record(audit...)
		return true, nil
	}
	if replaceRole && sub.Role != role {
		sub.Role = role
		m.topicsChanged()
		m.record(audit...)
	}
	return false, nil
}

// Unsubscribe implements store.Topics.
func (s *Store) Unsubscribe(ctx context.Context, mesh, id, memberID string, now time.Time, audit ...store.AuditEvent) ([]store.Delivery, error) {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	b := m.members[memberID]
	if b == nil {
		return nil, nil
	}
	if t.subscriptions[memberID] != nil {
		delete(t.subscriptions, memberID)
		m.topicsChanged()
		m.record(audit...)
	}
	delete(t.sealed, memberID)
	return m.expireMail(b, now, func(msg *message) bool { return msg.TopicID == id }), nil
}

// Subscription implements store.Topics.
func (s *Store) Subscription(ctx context.Context, mesh, id, memberID string) (store.Subscription, error) {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return store.Subscription{}, err
	}
	defer m.mu.Unlock()
	sub := t.subscriptions[memberID]
	if sub == nil {
		return store.Subscription{}, notFound("subscription of member", memberID)
	}
	return t.export(sub), nil
}

// Subscriptions implements store.Topics.
func (s *Store) Subscriptions(ctx context.Context, mesh, id string) ([]store.Subscription, error) {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	return m.subscribers(t), nil
}

// MarkRead implements store.Topics.
func (s *Store) MarkRead(ctx context.Context, mesh, id, memberID string, create bool, now time.Time) (bool, error) {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return false, found(err)
	}
	defer m.mu.Unlock()
	if t.subscriptions[memberID] == nil {
		b := m.members[memberID]
		if !create || t.archived() || b == nil || b.revoked() {
			return false, nil
		}
		m.subscribe(t, b, defaultTopicRole, now)
	}
	sub := t.subscriptions[memberID]
	sub.LastReadAt, sub.LastReadSeq = now, m.seq
	return true, nil
}

// Unread implements store.Topics.
func (s *Store) Unread(ctx context.Context, mesh, memberID string, topics []string, limit int) (map[string]int, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil && found(err) != nil {
		return nil, err
	}
	out := make(map[string]int, len(topics))
	for _, id := range topics {
		out[id] = 0
	}
	if m == nil {
		return out, nil
	}
	defer m.mu.Unlock()
	for id := range out {
		t := m.topics[id]
		if t == nil {
			continue
		}
		var read int64
		if sub := t.subscriptions[memberID]; sub != nil {
			read = sub.LastReadSeq
		}
		n := 0
		for _, msg := range t.history[t.after(read):] {
			if n >= limit {
				break
			}
			if msg.SenderMemberID != memberID {
				n++
			}
		}
		out[id] = n
	}
	return out, nil
}

// ArchiveTopic implements store.Topics.
func (s *Store) ArchiveTopic(ctx context.Context, mesh, id string, now time.Time, audit ...store.AuditEvent) ([]store.Delivery, error) {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	if t.archived() {
		return nil, nil
	}
	t.ArchivedAt = now
	delete(m.topicNames, t.Name)
	m.topicsChanged()
	m.record(audit...)
	var due []*delivery
	collect := func(msg *message) {
		if msg.pending == 0 {
			return
		}
		for i := range msg.deliveries {
			if d := &msg.deliveries[i]; d.state == pending {
				due = append(due, d)
			}
		}
	}
	for msg := range t.overflow {
		collect(msg)
	}
	for _, msg := range t.history {
		collect(msg)
	}
	return m.revoke(due, now), nil
}

// RestoreTopic implements store.Topics.
func (s *Store) RestoreTopic(ctx context.Context, mesh, id string, audit ...store.AuditEvent) error {
	m, t, err := s.lockTopic(ctx, mesh, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if !t.archived() {
		return nil
	}
	if m.topicNames[t.Name] != nil {
		return conflict("topic name", t.Name)
	}
	t.ArchivedAt = time.Time{}
	m.topicNames[t.Name] = t
	m.topicsChanged()
	m.record(audit...)
	return nil
}

// History implements store.Inbox.
func (s *Store) History(ctx context.Context, q store.HistoryQuery) ([]store.Message, error) {
	m, t, err := s.lockTopic(ctx, q.MeshID, q.TopicID)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	limit := max(q.Limit, 0)
	if q.Before <= 0 && q.Forward {
		from := t.history[t.after(q.After):]
		out := make([]store.Message, 0, min(len(from), limit))
		for _, msg := range from[:cap(out)] {
			out = append(out, cloneMessage(*msg.Message))
		}
		return out, nil
	}
	until := t.history
	if q.Before > 0 {
		until = until[:t.after(q.Before-1)]
	}
	out := make([]store.Message, 0, min(len(until), limit))
	for _, msg := range slices.Backward(until[len(until)-cap(out):]) {
		out = append(out, cloneMessage(*msg.Message))
	}
	return out, nil
}
