package memory

import (
	"cmp"
	"context"
	"slices"

	"github.com/claudemesh/broker/store"
)

// Roster implements store.Meshes. A snapshot is made when it is asked for and kept until something in it changes; the half that did
// not change is shared with the one before.
func (s *Store) Roster(ctx context.Context, id string) (*store.Roster, error) {
	m, err := s.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	if m.snapshot == nil {
		if m.rosterRows == nil {
			m.rosterRows = m.listMembers()
		}
		if m.topicRows == nil {
			m.topicRows = m.listTopics()
		}
		m.snapshot = &store.Roster{Version: m.version, Members: m.rosterRows, Topics: m.topicRows}
	}
	return m.snapshot, nil
}

// membersChanged starts a new roster version after a change of members, presences or saved peer states.
func (m *mesh) membersChanged() {
	m.version++
	m.snapshot, m.rosterRows = nil, nil
}

// topicsChanged starts a new roster version after a change of topics or subscriptions.
func (m *mesh) topicsChanged() {
	m.version++
	m.snapshot, m.topicRows = nil, nil
}

func (m *mesh) listMembers() []store.RosterMember {
	out := make([]store.RosterMember, 0, m.live)
	for _, b := range m.byJoin {
		if b.revoked() {
			continue
		}
		row := store.RosterMember{Member: b.Member, Saved: b.saved}
		for _, p := range b.open {
			row.Presences = append(row.Presences, store.RosterPresence{
				ID: p.ID, SessionPubkey: p.SessionPubkey, Groups: p.Groups, Visible: p.Visible,
			})
		}
		slices.SortFunc(row.Presences, func(a, b store.RosterPresence) int { return cmp.Compare(a.ID, b.ID) })
		out = append(out, row)
	}
	return out
}

func (m *mesh) listTopics() []store.RosterTopic {
	out := make([]store.RosterTopic, 0, len(m.topicNames))
	for _, t := range m.topicNames {
		out = append(out, store.RosterTopic{Topic: t.Topic, Subscribers: m.subscribers(t)})
	}
	slices.SortFunc(out, func(a, b store.RosterTopic) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
