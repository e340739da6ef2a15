package broker

import (
	"slices"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// newID and newUUID make the ids of entities and of system events.
func newID() string   { return identity.NewID() }
func newUUID() string { return identity.NewUUID() }

// event encodes a system event once for all its receivers. Our own data always encodes.
func (m *mesh) event(name string, data any) []byte {
	p, err := wire.Event(newUUID(), m.id, name, data, now())
	if err != nil {
		m.b.log.Error("event could not be encoded", "type", name, "cause", err)
		return nil
	}
	return p.Append(nil)
}

// tellLocked gives an event to the sessions that want picks. Key tells events of which only the latest is worth writing; see [session.event].
func (m *mesh) tellLocked(key eventKey, frame []byte, want func(*presence) bool) {
	if frame == nil {
		return
	}
	for _, p := range m.presences {
		if p.sess != nil && !p.sess.noPush && want(p) {
			p.sess.event(key, frame)
		}
	}
}

// eventKey names what an event is about. Of events with one subject only the latest waits; a leave that meets its unsent join takes both away.
type eventKey struct {
	subject  string // what it is about; empty: keep all
	presence bool   // a session came or went: never a reason to close a slow connection
	leave    bool
	kept     bool // can be asked for later, so a connection that does not keep up goes without it
}

func (m *mesh) announceJoin(p *presence, restored *store.PeerState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !p.row.Visible || p.quiet {
		return
	}
	groups := slices.Clone(p.row.Groups)
	if groups == nil {
		groups = []wire.Group{}
	}
	data := wire.PeerEvent{Name: p.nameLocked(), DisplayName: p.nameLocked(), Pubkey: p.keyLocked(), Groups: &groups}
	name := wire.EventPeerJoined
	if restored != nil {
		name = wire.EventPeerReturned
		data.LastSeenAt, data.Summary = wire.FormatTime(restored.LastSeenAt), restored.LastSummary
	}
	siblings := p.row.PeerRole == wire.RoleSession
	m.tellLocked(eventKey{subject: p.row.ID, presence: true}, m.event(name, data), func(o *presence) bool {
		return o != p && (siblings || o.member.ID != p.member.ID)
	})
}

func (m *mesh) announceLeave(p *presence) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !p.row.Visible || p.quiet {
		return
	}
	data := wire.PeerEvent{Name: p.nameLocked(), DisplayName: p.nameLocked(), Pubkey: p.keyLocked()}
	m.tellLocked(eventKey{subject: p.row.ID, presence: true, leave: true}, m.event(wire.EventPeerLeft, data), func(o *presence) bool {
		return o.member.ID != p.member.ID
	})
}

// announceVisible tells everybody else of the mesh that a session showed or hid itself.
func (m *mesh) announceVisible(p *presence, visible bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := wire.EventPeerHidden
	if visible {
		name = wire.EventPeerVisible
	}
	data := wire.PeerEvent{Name: p.nameLocked(), DisplayName: p.nameLocked(), Pubkey: p.keyLocked()}
	m.tellLocked(eventKey{subject: "visible " + p.row.ID}, m.event(name, data), func(o *presence) bool { return o != p })
}

// announceTopicJoined tells the topic's other members that wait for it, so that one of them can seal the key at once.
func (m *mesh) announceTopicJoined(topicID, memberID string, subscribers []store.Subscription) {
	m.mu.Lock()
	defer m.mu.Unlock()
	in := make(map[string]bool, len(subscribers))
	for _, s := range subscribers {
		in[s.MemberID] = true
	}
	frame := m.event(wire.EventTopicJoined, wire.TopicJoinedEvent{TopicID: topicID, MemberID: memberID})
	m.tellLocked(eventKey{subject: "topic " + topicID + " " + memberID}, frame, func(o *presence) bool {
		return o.sess.topicEvents && o.member.ID != memberID && in[o.member.ID]
	})
}
