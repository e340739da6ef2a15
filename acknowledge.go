package broker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// clientAck takes a client_ack. It never fails: what is unknown or foreign changes nothing.
func (s *session) clientAck(a wire.ClientAck) {
	box := s.box.Load()
	if box == nil {
		return
	}
	if len(a.MessageIDs) == 0 && a.ClientMessageID == "" && len(a.Receipts) == 0 {
		return // empty or malformed
	}
	var ids, others []string
	var pushed map[string]receiptOf // what the frame acknowledges of what was pushed here, if there are receipts
	if len(a.Receipts) > 0 {
		pushed = map[string]receiptOf{}
	}
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
			if pushed != nil {
				pushed[id] = mk.receipt
			}
		}
	}
	if len(a.MessageIDs) == 0 && a.ClientMessageID != "" {
		// The sender's id is unique only per sender, so it stands for one message: the oldest written here.
		if id, mk := s.oldestLocked(a.ClientMessageID); mk != nil {
			mk.acking = true
			ids = append(ids, id)
			if pushed != nil {
				pushed[id] = mk.receipt
			}
		}
	}
	s.mu.Unlock()
	receipts, senders := s.checkReceipts(a.Receipts, pushed)

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
	var acks []store.Ack
	if len(unseen) > 0 && start > 0 {
		// Never written since the member's mailbox was opened, so only what an earlier connection may have been sent counts.
		earlier := ack
		earlier.MessageIDs, earlier.UpTo = unseen, start
		acks = append(acks, earlier)
	}
	if len(ids) > 0 || len(receipts) > 0 {
		ack.MessageIDs, ack.Receipts = ids, receipts // last: a receipt may be for any message of the frame, or for one acknowledged before
		acks = append(acks, ack)
	}
	s.mesh.acks.add(s, senders, acks...)
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
		s.mesh.acks.add(s, nil, ack)
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

// maxAcking is how many acknowledgements of one connection may wait for the store; beyond it the connection is not read.
const maxAcking = 64

// ackQueue brings the acknowledgements of a mesh to the store, many in one operation.
type ackQueue struct {
	mu      sync.Mutex
	waiting []store.Ack       // guarded by mu; at most maxAcking of each session
	from    []*session        // whose they are; guarded by mu
	senders map[string]string // of the messages with receipts among them; guarded by mu
	running bool              // guarded by mu
}

// add queues the acknowledgements of one frame, which are stored in one transaction. senders names who sent the messages that have receipts.
func (q *ackQueue) add(s *session, senders map[string]string, acks ...store.Ack) {
	if len(acks) == 0 {
		return
	}
	m := s.mesh
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running && !m.b.work.fork() {
		return // shut down: the rows stay pending and are delivered again
	}
	for _, a := range acks {
		q.waiting = append(q.waiting, a)
		q.from = append(q.from, s)
	}
	if q.senders == nil && len(senders) > 0 {
		q.senders = map[string]string{}
	}
	maps.Copy(q.senders, senders)
	s.mu.Lock()
	s.acking += len(acks)
	s.mu.Unlock()
	if q.running {
		return
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
	wait, last := 100*time.Millisecond, false
	for {
		q.mu.Lock()
		batch, from, senders := q.waiting, q.from, q.senders
		q.waiting, q.from, q.senders = nil, nil, nil
		if len(batch) == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		for {
			ctx, cancel := context.WithTimeout(m.b.patient, storeTimeout)
			changed, err := m.b.store.Ack(ctx, batch)
			cancel()
			if err == nil {
				m.b.metrics.acked.Add(uint64(len(changed.Done)))
				m.finish(batch, changed.Done)
				m.announceReceipts(changed.Receipts, senders)
				tried(from)
				wait = 100 * time.Millisecond
				break
			}
			tried(from)
			from = nil
			m.b.log.Warn("acknowledgements could not be stored; trying again", "mesh", m.id, "count", len(batch), "cause", err)
			if last {
				q.giveUp()
				return // shut down: the rows stay pending and are delivered again
			}
			last = !m.b.pause(wait)
			wait = min(2*wait, ackRetry)
		}
	}
}

// giveUp forgets what waits, so that nobody waits for it.
func (q *ackQueue) giveUp() {
	q.mu.Lock()
	from := q.from
	q.waiting, q.from, q.senders, q.running = nil, nil, nil, false
	q.mu.Unlock()
	tried(from)
}

// tried lets the requests go on that waited for acknowledgements of their connections.
func tried(from []*session) {
	for _, s := range from {
		s.mu.Lock()
		s.acking--
		s.roomy.Broadcast()
		s.mu.Unlock()
	}
}

// pause waits, or reports false when the broker shuts down first.
func (b *Broker) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-b.closing:
		return false
	}
}

// finish forgets what was acknowledged: marks, and items that other sessions have not pulled.
func (m *mesh) finish(acks []store.Ack, changed []store.Delivery) {
	for _, a := range acks {
		if box := m.mail.box(a.MemberID); box != nil {
			box.finish(a.MessageIDs, a.SessionPubkey)
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
