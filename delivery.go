package broker

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
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

// letter is one committed message as all its recipients here share it. Its content is let go when the mesh's recent window is full; whoever
// needs it later asks the store.
type letter struct {
	seq     int64
	content atomic.Pointer[content]
}

type content struct {
	msg   *store.Message
	frame []byte // the push, encoded once
}

// item is a letter in one mailbox.
type item struct {
	*letter
	id      string // message id
	session string // set: only for the session with this key
	done    bool   // acknowledged or expired
}

// mailroom holds the mailboxes of the members that are connected here.
type mailroom struct {
	mu        sync.Mutex
	boxes     map[string]*mailbox // by member; guarded by mu
	published int64               // every message up to here is in the boxes, or was committed before they were opened; guarded by mu
	recent    []*letter           // oldest first; guarded by mu
	bytes     int                 // of their frames; guarded by mu
}

// mailbox is the recent mail of one member.
type mailbox struct {
	mu       sync.Mutex
	start    int64            // published when the box was opened: rows up to here may have been written by an earlier connection
	base     int64            // the rings hold every delivery above it
	tip      int64            // seq of the newest
	rings    [lanes][]item    // ascending seq
	written  map[string]int64 // messages written to a connection of the member and not completed, with their seq
	sessions []*session
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

func (r *mailroom) init(published int64) {
	r.boxes = map[string]*mailbox{}
	r.published = published
}

// attach gives a session its mailbox and lets it look for mail.
func (r *mailroom) attach(s *session) {
	if s.noPush {
		return
	}
	r.mu.Lock()
	box := r.boxes[s.member.ID]
	if box == nil {
		box = &mailbox{start: r.published, base: r.published, tip: r.published, written: map[string]int64{}}
		r.boxes[s.member.ID] = box
	}
	box.mu.Lock()
	box.sessions = append(box.sessions, s)
	s.box.Store(box)
	box.mu.Unlock()
	r.mu.Unlock()
	s.wake()
}

// detach takes a session out of its mailbox. What it left unacknowledged is pending, so the member's other connections look again.
func (r *mailroom) detach(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	box := r.boxes[s.member.ID]
	if box == nil {
		return
	}
	box.mu.Lock()
	defer box.mu.Unlock()
	at := slices.Index(box.sessions, s)
	if at < 0 {
		return
	}
	box.sessions = slices.Delete(box.sessions, at, at+1)
	if len(box.sessions) == 0 {
		delete(r.boxes, s.member.ID)
		return
	}
	for _, o := range box.sessions {
		o.lookAgain()
	}
}

// reconsider makes the member's sessions look again at what they passed over, after one of them hid, showed itself or changed its groups.
func (r *mailroom) reconsider(member string) {
	r.mu.Lock()
	box := r.boxes[member]
	r.mu.Unlock()
	if box == nil {
		return
	}
	box.mu.Lock()
	defer box.mu.Unlock()
	for _, o := range box.sessions {
		o.lookAgain()
	}
}

// publish hangs freshly committed messages, ascending by seq, into the mailboxes of their recipients and wakes their sessions.
func (r *mailroom) publish(letters []*letter, to [][]store.Recipient) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, l := range letters {
		c := l.content.Load()
		r.recent = append(r.recent, l)
		r.bytes += len(c.frame)
		for _, rc := range to[i] {
			if box := r.boxes[rc.MemberID]; box != nil {
				box.add(item{letter: l, id: c.msg.ID, session: rc.SessionPubkey}, laneOf(c.msg.Priority))
			}
		}
		r.published = max(r.published, l.seq)
	}
	drop := 0
	for ; r.bytes > recentBytes && drop < len(r.recent)-1; drop++ {
		r.bytes -= len(r.recent[drop].content.Load().frame)
		r.recent[drop].content.Store(nil)
	}
	r.recent = slices.Delete(r.recent, 0, drop)
}

// online reports whether a recipient has a connection here that may get mail, other than except.
func (r *mailroom) online(rc store.Recipient, except string) bool {
	r.mu.Lock()
	box := r.boxes[rc.MemberID]
	r.mu.Unlock()
	if box == nil {
		return false
	}
	box.mu.Lock()
	defer box.mu.Unlock()
	for _, s := range box.sessions {
		if s.presenceID != except && (rc.SessionPubkey == "" || rc.SessionPubkey == s.sessionKey) {
			return true
		}
	}
	return false
}

// ringLimit is how many items a mailbox keeps before it trims what every session has passed, and at four times that, what they have not.
const ringLimit = 256

func (box *mailbox) add(it item, l lane) {
	box.mu.Lock()
	defer box.mu.Unlock()
	box.rings[l] = append(box.rings[l], it)
	box.tip = it.seq
	if n := len(box.rings[laneNow]) + len(box.rings[laneRest]); n > ringLimit {
		box.trimLocked(n > 4*ringLimit)
	}
	for _, s := range box.sessions {
		s.wake()
	}
}

// trimLocked drops what every session has passed, and, if forced, the older half. What is dropped lies at or below base from then on.
func (box *mailbox) trimLocked(force bool) {
	var passed [lanes]int64
	for l := range passed {
		passed[l] = box.tip
	}
	for _, s := range box.sessions {
		s.mu.Lock()
		for l := range passed {
			passed[l] = min(passed[l], s.cursor[l])
		}
		s.mu.Unlock()
	}
	for l := range box.rings {
		ring := box.rings[l]
		n, _ := slices.BinarySearchFunc(ring, passed[l]+1, func(it item, seq int64) int { return int(it.seq - seq) })
		if force {
			n = max(n, len(ring)/2)
		}
		if n > 0 {
			box.base = max(box.base, ring[n-1].seq)
			box.rings[l] = slices.Clone(ring[n:])
		}
	}
	// Everything at or below base is the store's now, whichever lane it is in.
	for l, ring := range box.rings {
		n, _ := slices.BinarySearchFunc(ring, box.base+1, func(it item, seq int64) int { return int(it.seq - seq) })
		box.rings[l] = ring[n:]
	}
}

// eligible reports whether session s may have msg now. Addressing was fixed when the message was accepted; among the member's
// live connections a multicast goes to those that are visible and in the group, or to all if that leaves none.
func (box *mailbox) eligibleLocked(s *session, msg *store.Message) bool {
	if msg.SenderPresenceID != "" && msg.SenderPresenceID == s.presenceID {
		return false
	}
	if msg.TopicID != "" || wire.ParseTarget(msg.TargetSpec).Kind == wire.TargetKey || len(box.sessions) == 1 {
		return true
	}
	if s.wants(msg.Group) {
		return true
	}
	for _, o := range box.sessions {
		if o != s && o.wants(msg.Group) {
			return false
		}
	}
	return true
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

// outgoing is a push that is about to be written.
type outgoing struct {
	frame   []byte
	msg     *store.Message
	lane    lane
	session string // of the delivery
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
		stop := s.ending != nil || s.writeErr != nil || s.detached
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

// next collects at most limit messages above cursor for s, and the cursor after them. more says that there may be others.
func (box *mailbox) next(ctx context.Context, s *session, cursor [lanes]int64, limit int) (out []outgoing, next [lanes]int64, more bool, err error) {
	may := s.deliverable()
	next = cursor
	box.mu.Lock()
	base := box.base
	behind := false
	for _, l := range may {
		behind = behind || cursor[l] < base
	}
	if !behind {
		defer box.mu.Unlock()
		return box.fromRingsLocked(s, may, cursor, limit)
	}
	box.mu.Unlock()

	after := map[wire.Priority]int64{}
	for _, l := range may {
		if cursor[l] < base {
			for _, p := range l.priorities() {
				after[p] = cursor[l]
			}
		}
	}
	mail, err := s.b.store.Pending(ctx, store.PendingQuery{
		MeshID: s.mesh.id, MemberID: s.member.ID, SessionPubkey: s.sessionKey, After: after, UpTo: base, Now: now(), Limit: limit,
	})
	if err != nil {
		return nil, cursor, false, err
	}
	upTo, size := base, 0
	box.mu.Lock()
	defer box.mu.Unlock()
	for i, m := range mail {
		if size > maxUnwritten/2 {
			upTo = mail[i-1].Message.Seq
			break
		}
		if i == limit-1 {
			upTo = m.Message.Seq
		}
		if !box.eligibleLocked(s, m.Message) || s.hasMark(m.Message.ID) {
			continue
		}
		frame := encodePush(m.Message, false)
		size += len(frame)
		out = append(out, outgoing{frame: frame, msg: m.Message, lane: laneOf(m.Message.Priority), session: m.Delivery.SessionPubkey})
	}
	for _, l := range may {
		if next[l] < base {
			next[l] = max(next[l], upTo)
		}
	}
	return out, next, true, nil
}

// fromRingsLocked is next for a session that keeps up: everything above cursor is at hand.
func (box *mailbox) fromRingsLocked(s *session, may []lane, cursor [lanes]int64, limit int) (out []outgoing, next [lanes]int64, more bool, err error) {
	next = cursor
	var at [lanes]int
	for _, l := range may {
		at[l], _ = slices.BinarySearchFunc(box.rings[l], cursor[l]+1, func(it item, seq int64) int { return int(it.seq - seq) })
	}
	t, size := time.Now(), 0
	for {
		var it *item
		var from lane
		for _, l := range may {
			if at[l] < len(box.rings[l]) && (it == nil || box.rings[l][at[l]].seq < it.seq) {
				it, from = &box.rings[l][at[l]], l
			}
		}
		if it == nil {
			for _, l := range may {
				next[l] = max(next[l], box.tip)
			}
			return out, next, false, nil
		}
		if len(out) == limit || size > maxUnwritten/2 {
			return out, next, true, nil
		}
		c := it.content.Load()
		if c == nil && !it.done {
			// Out of the recent window: from here down the store has the say.
			box.base = max(box.base, it.seq)
			return out, next, true, nil
		}
		at[from]++
		for _, l := range may {
			next[l] = max(next[l], it.seq)
		}
		if it.done || it.session != "" && it.session != s.sessionKey || !c.msg.ExpiresAt.After(t) ||
			!box.eligibleLocked(s, c.msg) || s.hasMark(it.id) {
			continue
		}
		size += len(c.frame)
		out = append(out, outgoing{frame: c.frame, msg: c.msg, lane: from, session: it.session})
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
			mk = &mark{seq: o.msg.Seq, lane: o.lane, clientID: o.msg.ClientMessageID, route: routeOf(o.msg, o.session)}
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

// redelivery

// slowAfter is the number of attempts from which a message is tried again only every ten leases.
const slowAfter = 5

func (s *session) redeliverAfter(attempts int) time.Duration {
	if attempts >= slowAfter {
		return 10 * s.b.opts.RedeliverAfter
	}
	return s.b.opts.RedeliverAfter
}

// sweepEvery is how often marks are looked at.
const sweepEvery = 15 * time.Second

// armRedeliveryLocked makes sure that the session's marks are looked at while there are any.
func (s *session) armRedeliveryLocked() {
	if s.redelivery != nil || s.b.opts.RedeliverAfter < 0 {
		return
	}
	s.redelivery = s.b.wheel.After(sweepEvery, s.sweepMarks)
}

// sweepMarks runs on the wheel: it finds the lanes with a push that was not acknowledged in time.
func (s *session) sweepMarks() {
	s.mu.Lock()
	s.redelivery = nil
	due := false
	t := time.Now()
	for _, mk := range s.marks {
		if !mk.acking && !mk.confirmed && t.Sub(mk.sentAt) >= s.redeliverAfter(mk.attempts) {
			s.again[mk.lane], due = true, true
		}
	}
	if len(s.marks) > 0 && s.ending == nil {
		s.armRedeliveryLocked()
	}
	s.mu.Unlock()
	if due {
		s.wake()
	}
}

// redeliver sends every unacknowledged message of a lane again, in order, if one of them is overdue. It is the store that says what is still
// pending; marks of what is not are forgotten.
func (s *session) redeliver(ctx context.Context, l lane) error {
	s.mu.Lock()
	due := s.again[l]
	s.again[l] = false
	var upTo int64
	for _, mk := range s.marks {
		if mk.lane == l {
			upTo = max(upTo, mk.seq)
		}
	}
	s.mu.Unlock()
	if !due || upTo == 0 {
		return nil
	}
	after := int64(0)
	pending := map[string]bool{}
	for {
		q := store.PendingQuery{
			MeshID: s.mesh.id, MemberID: s.member.ID, SessionPubkey: s.sessionKey,
			After: map[wire.Priority]int64{}, UpTo: upTo, Now: now(), Limit: pullPage,
		}
		for _, p := range l.priorities() {
			q.After[p] = after
		}
		mail, err := s.b.store.Pending(ctx, q)
		if err != nil {
			s.mu.Lock()
			s.again[l] = true
			s.mu.Unlock()
			return err
		}
		var out []outgoing
		for _, m := range mail {
			pending[m.Message.ID] = true
			after = m.Message.Seq
			if s.hasMark(m.Message.ID) {
				out = append(out, outgoing{frame: encodePush(m.Message, true), msg: m.Message, lane: l, session: m.Delivery.SessionPubkey})
			}
		}
		s.b.metrics.redelivered.Add(uint64(len(out)))
		if err := s.push(ctx, out); err != nil {
			return nil //nolint:nilerr // the connection is gone
		}
		if len(mail) < pullPage {
			break
		}
	}
	var final []string
	s.mu.Lock()
	for id, mk := range s.marks {
		if mk.lane == l && mk.seq <= upTo && !pending[id] {
			delete(s.marks, id)
			final = append(final, id)
		}
	}
	s.mu.Unlock()
	s.box.Load().finish(final)
	return nil
}

// acknowledgement

// clientAck takes a client_ack. It never fails: what is unknown or foreign changes nothing.
func (s *session) clientAck(a wire.ClientAck) {
	box := s.box.Load()
	if box == nil {
		return
	}
	var ids, others []string
	s.mu.Lock()
	s.explicit = true
	if s.confirm != nil {
		s.confirm.Stop()
		s.confirm = nil
	}
	for _, id := range a.MessageIDs {
		switch mk := s.marks[id]; {
		case mk == nil:
			others = append(others, id)
		case !mk.acking:
			mk.acking = true
			ids = append(ids, id)
		}
	}
	if len(a.MessageIDs) == 0 && a.ClientMessageID != "" {
		// The sender's id is unique only per sender, so it stands for one message: the oldest written here.
		if id, mk := s.oldestLocked(a.ClientMessageID); mk != nil {
			mk.acking = true
			ids = append(ids, id)
		}
	}
	s.mu.Unlock()

	ack := store.Ack{MeshID: s.mesh.id, MemberID: s.member.ID, SessionPubkey: s.sessionKey, By: store.ByClient, At: now()}
	box.mu.Lock()
	start := box.start
	unseen := others[:0]
	for _, id := range others {
		if _, seen := box.written[id]; seen {
			ids = append(ids, id) // written to another connection of the member
		} else {
			unseen = append(unseen, id)
		}
	}
	box.mu.Unlock()
	if len(ids) > 0 {
		ack.MessageIDs = ids
		s.mesh.acks.add(s.mesh, ack)
	}
	if len(unseen) > 0 {
		// Never written since the member's mailbox was opened, so only what an earlier connection may have been sent counts.
		ack.MessageIDs, ack.UpTo = unseen, start
		if start > 0 {
			s.mesh.acks.add(s.mesh, ack)
		}
	}
}

func (s *session) oldestLocked(clientID string) (string, *mark) {
	var id string
	var oldest *mark
	for mid, mk := range s.marks {
		if mk.clientID == clientID && !mk.acking && (oldest == nil || mk.seq < oldest.seq) {
			id, oldest = mid, mk
		}
	}
	if oldest == nil {
		if mk := s.marks[clientID]; mk != nil && !mk.acking {
			return clientID, mk
		}
	}
	return id, oldest
}

// transport confirmation

// confirmLocked arranges the ping whose pong confirms what was written so far to a client that never acknowledges.
func (s *session) confirmLocked() {
	if s.confirm != nil || s.pinging || s.ending != nil || s.explicit {
		return
	}
	s.confirm = s.b.wheel.After(max(s.b.opts.TransportConfirmDelay, 0), s.confirmNow)
}

// confirmNow runs on the wheel.
func (s *session) confirmNow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.confirm = nil
	if s.explicit || s.ending != nil || s.writeErr != nil {
		return
	}
	if s.pinging { // a heartbeat is on its way; at most one ping is
		s.confirm = s.b.wheel.After(max(s.b.opts.TransportConfirmDelay, 0), s.confirmNow)
		return
	}
	upTo := s.writes
	s.pingLocked(func() { s.confirmed(upTo) })
}

// confirmed completes everything written before a ping that was answered.
func (s *session) confirmed(upTo uint64) {
	box := s.box.Load()
	if box == nil {
		return
	}
	explicit := box.explicitOthers(s)
	ack := store.Ack{MeshID: s.mesh.id, MemberID: s.member.ID, SessionPubkey: s.sessionKey, By: store.ByTransport, At: now()}
	s.mu.Lock()
	later := false
	if !s.explicit {
		for id, mk := range s.marks {
			switch {
			case mk.acking || mk.confirmed:
			case mk.write > upTo:
				later = true
			case slices.ContainsFunc(explicit, mk.route.mayReach):
				mk.confirmed = true
			default:
				mk.acking = true
				ack.MessageIDs = append(ack.MessageIDs, id)
			}
		}
		if later {
			s.confirmLocked()
		}
	}
	s.mu.Unlock()
	if len(ack.MessageIDs) > 0 {
		s.mesh.acks.add(s.mesh, ack)
	}
}

// explicitOthers lists the member's other live connections that acknowledge by client_ack: what they may have, only that completes.
func (box *mailbox) explicitOthers(s *session) []*session {
	box.mu.Lock()
	defer box.mu.Unlock()
	var others []*session
	for _, o := range box.sessions {
		if o == s {
			continue
		}
		o.mu.Lock()
		if o.explicit {
			others = append(others, o)
		}
		o.mu.Unlock()
	}
	return others
}

// ackQueue brings the acknowledgements of a mesh to the store, many in one operation.
type ackQueue struct {
	mu      sync.Mutex
	waiting []store.Ack // guarded by mu; bounded by the marks of the sessions, each of which is here at most once
	running bool        // guarded by mu
}

func (q *ackQueue) add(m *mesh, a store.Ack) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, a)
	if q.running {
		return
	}
	if !m.b.work.fork() {
		return // shut down: the rows stay pending and are delivered again
	}
	q.running = true
	go func() {
		defer m.b.work.leaveSession()
		q.run(m)
	}()
}

// ackRetry is the longest wait between two tries to store acknowledgements.
const ackRetry = 5 * time.Second

func (q *ackQueue) run(m *mesh) {
	wait := 100 * time.Millisecond
	for {
		q.mu.Lock()
		batch := q.waiting
		q.waiting = nil
		if len(batch) == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		for {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(m.b.life), storeTimeout)
			changed, err := m.b.store.Ack(ctx, batch)
			cancel()
			if err == nil {
				m.b.metrics.acked.Add(uint64(len(changed)))
				m.finish(batch, changed)
				wait = 100 * time.Millisecond
				break
			}
			m.b.log.Warn("acknowledgements could not be stored; trying again", "mesh", m.id, "count", len(batch), "cause", err)
			if !m.b.pause(wait) {
				return // shut down: the rows stay pending and are delivered again
			}
			wait = min(2*wait, ackRetry)
		}
	}
}

// pause waits, or reports false when the broker ends or shuts down first.
func (b *Broker) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-b.life.Done():
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.closed
}

// finish forgets what was acknowledged: marks, and items that other sessions have not pulled.
func (m *mesh) finish(acks []store.Ack, changed []store.Delivery) {
	for _, a := range acks {
		if box := m.mail.box(a.MemberID); box != nil {
			box.finish(a.MessageIDs)
		}
	}
	m.settle(changed)
}

// settle forgets deliveries that are final.
func (m *mesh) settle(final []store.Delivery) {
	for _, d := range final {
		if box := m.mail.box(d.MemberID); box != nil {
			box.settle(d)
		}
	}
}

// settle forgets final deliveries of any mesh.
func (b *Broker) settle(final []store.Delivery) {
	for _, d := range final {
		if m := b.loaded(d.MeshID); m != nil {
			m.settle([]store.Delivery{d})
			m.release()
		}
	}
}

func (r *mailroom) box(member string) *mailbox {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.boxes[member]
}

func (box *mailbox) finish(ids []string) {
	box.mu.Lock()
	defer box.mu.Unlock()
	for _, id := range ids {
		delete(box.written, id)
	}
	for _, s := range box.sessions {
		s.unmark(ids)
	}
}

func (box *mailbox) settle(d store.Delivery) {
	box.mu.Lock()
	defer box.mu.Unlock()
	delete(box.written, d.MessageID)
	ring := box.rings[laneOf(d.Priority)]
	at, found := slices.BinarySearchFunc(ring, d.Seq, func(it item, seq int64) int { return int(it.seq - seq) })
	for ; found && at < len(ring) && ring[at].seq == d.Seq; at++ {
		if ring[at].session == d.SessionPubkey {
			ring[at].done = true
		}
	}
	for _, s := range box.sessions {
		if d.SessionPubkey == "" || d.SessionPubkey == s.sessionKey {
			s.unmark([]string{d.MessageID})
		}
	}
}

// unmark forgets marks and lets the session pull again if its window was full.
func (s *session) unmark(ids []string) {
	s.mu.Lock()
	full := len(s.marks) >= maxUnacked
	for _, id := range ids {
		delete(s.marks, id)
	}
	full = full && len(s.marks) < maxUnacked
	s.mu.Unlock()
	if full {
		s.wake()
	}
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
	}
	switch t := wire.ParseTarget(m.TargetSpec); {
	case m.TopicID != "":
		p.Topic, p.TopicID, p.BodyVersion, p.TargetSpec = m.TopicName, m.TopicID, m.BodyVersion, "#"+m.TopicID
	case t.Kind != wire.TargetKey:
		p.TargetSpec = t.String()
	}
	return p.Append(make([]byte, 0, 512+len(m.Ciphertext)))
}
