package broker

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

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

// online reports whether a recipient has a connection here that may get mail, other than the presence except, and that the member who asks may
// know of: hidden ones are only for their own member, and for the host (an empty asks).
func (r *mailroom) online(rc store.Recipient, except, asks string) bool {
	r.mu.Lock()
	box := r.boxes[rc.MemberID]
	r.mu.Unlock()
	if box == nil {
		return false
	}
	box.mu.Lock()
	defer box.mu.Unlock()
	for _, s := range box.sessions {
		if s.presenceID == except || rc.SessionPubkey != "" && rc.SessionPubkey != s.sessionKey {
			continue
		}
		if v := s.view.Load(); asks == "" || asks == rc.MemberID || v != nil && v.visible {
			return true
		}
	}
	return false
}

// bySeq compares an item with a seq, for searches.
func bySeq(it item, seq int64) int { return cmp.Compare(it.seq, seq) }

// raise leaves everything up to last to the store, and lets every session look again.
func (r *mailroom) raise(last int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.published = max(r.published, last)
	for _, box := range r.boxes {
		box.mu.Lock()
		box.base = max(box.base, last)
		box.tip = max(box.tip, last)
		for l, ring := range box.rings {
			n, _ := slices.BinarySearchFunc(ring, box.base+1, bySeq)
			box.rings[l] = ring[n:]
		}
		for _, s := range box.sessions {
			s.lookAgain()
		}
		box.mu.Unlock()
	}
}

// shown notes that a member is about to see a message by another way than a push, an event stream: it may acknowledge it from now on, although no
// connection of it has pulled it yet.
func (r *mailroom) shown(member, id string, seq int64) {
	box := r.box(member)
	if box == nil {
		return
	}
	box.mu.Lock()
	defer box.mu.Unlock()
	for _, ring := range box.rings {
		at, found := slices.BinarySearchFunc(ring, seq, bySeq)
		if found && ring[at].id == id && !ring[at].done {
			box.written[id] = seq
		}
	}
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
		n, _ := slices.BinarySearchFunc(ring, passed[l]+1, bySeq)
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
		n, _ := slices.BinarySearchFunc(ring, box.base+1, bySeq)
		box.rings[l] = ring[n:]
	}
}

// eligibleLocked reports whether session s may have msg now. Addressing was fixed when the message was accepted; among the member's
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

// outgoing is a push that is about to be written.
type outgoing struct {
	frame   []byte
	msg     *store.Message
	lane    lane
	session string // of the delivery
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
		at[l], _ = slices.BinarySearchFunc(box.rings[l], cursor[l]+1, bySeq)
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
	at, found := slices.BinarySearchFunc(ring, d.Seq, bySeq)
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
