package broker

import (
	"context"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// Delivery is by pull. The router stores a message, hangs it into the mailboxes of the recipients that are connected here, and wakes
// their sessions; a wake carries nothing. Each session keeps, per lane, the seq up to which it was sent everything that it may have, and pulls what
// lies above: from its member's mailbox while that reaches back far enough, else from the store. What it was sent and has not acknowledged it
// remembers as marks, which only time redelivery. Nothing about pushing is stored; only the acknowledgement is.

// lane is one of the two orders in which a session reads its mail.
type lane int

const (
	laneNow  lane = iota // priority now: always deliverable
	laneRest             // next and low: only while the session is idle
	lanes
)

func laneOf(p wire.Priority) lane {
	if p == wire.PriorityNow {
		return laneNow
	}
	return laneRest
}

func (l lane) priorities() []wire.Priority {
	if l == laneNow {
		return []wire.Priority{wire.PriorityNow}
	}
	return []wire.Priority{wire.PriorityNext, wire.PriorityLow}
}

// mark is a push that waits for its acknowledgement on one connection.
type mark struct {
	seq       int64
	lane      lane
	clientID  string
	sentAt    time.Time
	attempts  int
	write     uint64 // number of the write on this connection
	confirmed bool   // a pong came back, but an explicit connection of the member has the say
	route     route
	acking    bool // the acknowledgement is on its way to the store
	receipt   receiptOf
}

// route is what decides which of a member's connections may have a message.
type route struct {
	session   string // set: only the connection with this session key
	sender    string // presence that sent it
	multicast bool
	group     string
}

func routeOf(m *store.Message, session string) route {
	r := route{session: session, sender: m.SenderPresenceID, group: m.Group}
	r.multicast = m.TopicID == "" && wire.ParseTarget(m.TargetSpec).Kind != wire.TargetKey
	return r
}

// mayReach reports whether the route leads to session s, whatever its status.
func (r route) mayReach(s *session) bool {
	return (r.session == "" || r.session == s.sessionKey) && (r.sender == "" || r.sender != s.presenceID) && (!r.multicast || s.wants(r.group))
}

// wants reports whether the session is visible and, if the message went to a group, in it.
func (s *session) wants(group string) bool {
	v := s.view.Load()
	if v == nil || !v.visible {
		return false
	}
	if group == "" {
		return true
	}
	for _, g := range v.groups {
		if wire.InGroup(g.Name, group) {
			return true
		}
	}
	return false
}

// view is what of a presence decides whether a multicast is for this session.
type view struct {
	visible bool
	groups  []wire.Group
}

// deliverable lists the lanes that the session's status lets through.
func (s *session) deliverable() []lane {
	if s.status.Load() == string(wire.StatusIdle) {
		return []lane{laneNow, laneRest}
	}
	return []lane{laneNow}
}

// pull writes what waits for this session until nothing is left or a window is full. Only writeLoop calls it. An error is the store's; the
// session looks again later.
func (s *session) pull(ctx context.Context) error {
	box := s.box.Load()
	if box == nil {
		return nil
	}
	for _, l := range s.deliverable() {
		if err := s.redeliver(ctx, l); err != nil {
			return err
		}
	}
	for {
		s.mu.Lock()
		room, cursor, gen := maxUnacked-len(s.marks), s.cursor, s.cursorGen
		stop := s.ending != nil || s.writeErr != nil
		s.mu.Unlock()
		if stop || room <= 0 {
			return nil
		}
		out, next, more, err := box.next(ctx, s, cursor, min(room, pullPage))
		if err != nil {
			return err
		}
		s.advance(gen, next)
		if err := s.push(ctx, out); err != nil {
			return nil //nolint:nilerr // the connection is gone; endWrites knows why, and the rows are pending
		}
		if !more {
			return nil
		}
	}
}

// advance moves the cursor, unless somebody set it back meanwhile.
func (s *session) advance(gen int, next [lanes]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursorGen == gen {
		s.cursor = next
	}
}

func (s *session) hasMark(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marks[id] != nil
}

// lookAgain sets the cursors back below everything pending. What has a mark on this connection is not sent twice.
func (s *session) lookAgain() {
	s.mu.Lock()
	s.cursor = [lanes]int64{}
	s.cursorGen++
	for _, mk := range s.marks {
		if mk.confirmed {
			mk.confirmed = false // the explicit connection that had the say may be the one that left
			s.confirmLocked()
		}
	}
	s.mu.Unlock()
	s.wake()
}

// push marks and writes messages.
func (s *session) push(ctx context.Context, out []outgoing) error {
	if len(out) == 0 {
		return nil
	}
	t := time.Now()
	box := s.box.Load()
	box.mu.Lock()
	for _, o := range out {
		box.written[o.msg.ID] = o.msg.Seq
	}
	box.mu.Unlock()
	for _, o := range out {
		s.mu.Lock()
		s.writes++
		mk := s.marks[o.msg.ID]
		if mk == nil {
			mk = &mark{seq: o.msg.Seq, lane: o.lane, clientID: o.msg.ClientMessageID, route: routeOf(o.msg, o.session), receipt: subjectOf(o.msg)}
			s.marks[o.msg.ID] = mk
		}
		mk.sentAt, mk.write = t, s.writes
		mk.attempts++
		s.armRedeliveryLocked()
		s.mu.Unlock()
		if err := s.write(ctx, o.frame); err != nil {
			return err
		}
		s.b.metrics.routed.With(o.msg.Priority).Inc()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.explicit {
		s.confirmLocked()
	}
	return nil
}

// encodePush writes the envelope that every path produces.
func encodePush(m *store.Message, redelivered bool) []byte {
	p := wire.Push{
		MessageID: m.ID, MeshID: m.MeshID, SenderPubkey: m.SenderSessionPubkey, SenderMemberPubkey: m.SenderPubkey,
		SenderMemberID: m.SenderMemberID, SenderName: m.SenderName, Priority: m.Priority, Nonce: m.Nonce, Ciphertext: m.Ciphertext,
		CreatedAt: wire.FormatTime(m.CreatedAt), ReplyToID: m.ReplyToID, ClientMessageID: m.ClientMessageID,
		RequestFingerprint: m.RequestFingerprint, Subtype: m.Subtype, Redelivered: redelivered,
	}
	if p.SenderPubkey == "" {
		p.SenderPubkey = m.SenderPubkey
	} else {
		p.Attestation = m.SenderAttestation
	}
	switch t := wire.ParseTarget(m.TargetSpec); {
	case m.TopicID != "":
		p.Topic, p.TopicID, p.BodyVersion, p.TargetSpec = m.TopicName, m.TopicID, m.BodyVersion, "#"+m.TopicID
	case t.Kind != wire.TargetKey:
		p.TargetSpec = t.String()
	}
	return p.Append(make([]byte, 0, 512+len(m.Ciphertext)))
}
