package broker

import (
	"context"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

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
	s.box.Load().finish(final, s.sessionKey)
	return nil
}
