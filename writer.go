package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/coder/websocket"

	"github.com/claudemesh/broker/wire"
)

// slot is the place of one reply among the replies of a connection.
type slot struct {
	frame []byte // nil: no reply after all
	ready bool
}

type queued struct {
	key   eventKey
	frame []byte // nil: taken back
}

type ending struct {
	code   int
	reason string
}

// answer queues a reply that is known at once, behind the replies before it.
func (s *session) answer(m wire.Message) {
	if frame := s.encoded(m); frame != nil {
		s.fill(s.reserve(), frame)
	}
}

// encoded is a reply as it is written, or the error that it is too large, or nil.
func (s *session) encoded(m wire.Message) []byte {
	frame, err := wire.Encode(m)
	if err == nil && len(frame) > maxReply {
		var head wire.Header
		_ = json.Unmarshal(frame, &head) // our own frame
		frame, err = wire.Encode(&wire.Error{
			Header: wire.Header{Type: wire.TypeError, ReqID: head.ReqID}, Code: wire.InvalidArgs, Message: "the reply is too large; use a limit",
		})
	}
	if err != nil {
		s.log.Error("reply could not be encoded", "cause", err)
		return nil
	}
	return frame
}

// reserve takes the next place among the replies.
func (s *session) reserve() *slot {
	sl := &slot{}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots = append(s.slots, sl)
	return sl
}

// fill gives a reply its content, nil for none.
func (s *session) fill(sl *slot, frame []byte) {
	s.mu.Lock()
	sl.frame, sl.ready = frame, true
	s.unwritten += len(frame)
	s.kickLocked()
	s.mu.Unlock()
}

// event queues a frame that nobody asked for. Of events with one subject only the latest is kept, in the place of the first; a leave takes the unsent
// join of its subject away, and itself.
func (s *session) event(key eventKey, frame []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writeErr != nil || s.ending != nil {
		return
	}
	if at, waiting := s.byKey[key.subject]; waiting && key.subject != "" && at >= s.first {
		q := &s.events[at-s.first]
		s.unwritten -= len(q.frame)
		if key.leave && !q.key.leave && q.frame != nil {
			q.frame = nil
			delete(s.byKey, key.subject)
			return
		}
		q.key, q.frame = key, frame
		s.unwritten += len(frame)
		return
	}
	if !key.presence && (s.unwritten+len(frame) > maxUnwritten || len(s.events) >= maxUnwrittenN) {
		if key.kept {
			return
		}
		s.closeLocked(wire.CloseTryLater, wire.ReasonSlow)
		return
	}
	if key.subject != "" {
		if s.byKey == nil {
			s.byKey = map[string]uint64{}
		}
		s.byKey[key.subject] = s.first + uint64(len(s.events))
	}
	s.events = append(s.events, queued{key: key, frame: frame})
	s.unwritten += len(frame)
	s.kickLocked()
}

// unsay takes back what waits to be told about a subject.
func (s *session) unsay(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, waiting := s.byKey[subject]; waiting && at >= s.first {
		q := &s.events[at-s.first]
		s.unwritten -= len(q.frame)
		q.frame = nil
		delete(s.byKey, subject)
	}
}

// waitEarlier waits until the sends before a request are committed and the acknowledgements before it stored, so that requests take effect in order.
// A store that fails to take acknowledgements is not waited for.
func (s *session) waitEarlier() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.inFlight > 0 || s.acking > 0 {
		s.roomy.Wait()
	}
}

// waitAcks stops reading while the store is behind with this connection's acknowledgements.
func (s *session) waitAcks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.acking >= maxAcking {
		s.roomy.Wait()
	}
}

// waitRoom stops reading while replies wait to be written: a peer that asks without listening holds up only itself.
func (s *session) waitRoom() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writeErr == nil && (s.unwritten > maxUnwritten/2 || len(s.slots) > maxUnwrittenN/2) {
		s.roomy.Wait()
	}
}

// wake says "look for mail". It carries nothing, so losing or doubling one is harmless.
func (s *session) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mail = true
	s.kickLocked()
}

// kickLocked starts the writer if it does not run.
func (s *session) kickLocked() {
	if s.writing || s.writeErr != nil || s.stop == nil {
		return
	}
	s.writing = true // cleared by writeLoop, under mu, when there is nothing to write
	s.writer.Go(s.writeLoop)
}

// writeLoop writes replies in request order, events, and mail, until there is nothing left.
func (s *session) writeLoop() {
	ctx := context.Background() // a write ends with the connection: the heartbeat closes one that cannot be written to
	for {
		s.mu.Lock()
		frame, mail, bye := s.nextLocked()
		if frame == nil && !mail && bye == nil {
			s.writing = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		switch {
		case frame != nil:
			err := s.write(ctx, frame)
			s.mu.Lock()
			s.unwritten -= len(frame)
			s.roomy.Broadcast()
			s.mu.Unlock()
			if err != nil {
				s.endWrites(err)
				return
			}
		case mail:
			if err := s.pull(ctx); err != nil {
				s.log.Warn("mail could not be read; trying again", "cause", err)
				s.mu.Lock()
				if s.retry == nil {
					s.retry = s.b.wheel.After(time.Second, func() {
						s.mu.Lock()
						s.retry = nil
						s.mu.Unlock()
						s.wake()
					})
				}
				s.mu.Unlock()
			}
		default:
			// Closing waits up to 5 s for the peer, and what it still sends is discarded.
			_ = s.conn.Close(websocket.StatusCode(bye.code), bye.reason)
			s.endWrites(fmt.Errorf("closed: %s", bye.reason))
			return
		}
	}
}

// nextLocked takes the next thing to write: replies first, in order, then events, then mail, and the close frame last.
func (s *session) nextLocked() (frame []byte, mail bool, bye *ending) {
	if s.writeErr != nil {
		return nil, false, nil
	}
	for len(s.slots) > 0 && s.slots[0].ready {
		frame, s.slots = s.slots[0].frame, s.slots[1:]
		if frame != nil {
			return frame, false, nil
		}
	}
	for s.greeted && len(s.events) > 0 {
		q := s.events[0]
		s.events = s.events[1:]
		if at, ok := s.byKey[q.key.subject]; ok && at == s.first {
			delete(s.byKey, q.key.subject)
		}
		s.first++
		if q.frame != nil {
			return q.frame, false, nil
		}
	}
	if s.ending != nil {
		if len(s.slots) == 0 {
			return nil, false, s.ending
		}
		return nil, false, nil // a reply is still to come; its fill starts the writer again
	}
	if s.mail {
		s.mail = false
		return nil, true, nil
	}
	return nil, false, nil
}

func (s *session) write(ctx context.Context, frame []byte) error {
	err := s.conn.Write(ctx, websocket.MessageText, frame)
	if err != nil {
		s.endWrites(err)
	}
	return err
}

// endWrites ends writing, not reading: what the peer sent before it went away still counts. The reader has drainTime to reach the end.
func (s *session) endWrites(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writeErr != nil {
		return
	}
	if cause == nil {
		cause = net.ErrClosed
	}
	s.writeErr = cause
	if s.stopSlow != nil {
		s.stopSlow()
	}
	s.slots, s.events, s.byKey, s.unwritten = nil, nil, nil, 0
	s.roomy.Broadcast()
	stop := s.stop
	s.b.wheel.After(drainTime, func() { stop(cause) })
}

// close ends the connection with a close frame once the replies that are owed have been written. It does not wait.
func (s *session) close(code int, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked(code, reason)
}

func (s *session) closeLocked(code int, reason string) {
	if s.ending != nil || s.writeErr != nil {
		return
	}
	s.ending = &ending{code: code, reason: reason}
	if s.stopSlow != nil {
		s.stopSlow() // its reply would hold the close frame up
	}
	s.kickLocked()
	// A peer that does not read would hold the close frame up for ever.
	s.b.wheel.After(2*drainTime, func() { s.drop() })
}

// drop ends the connection at once, without a close frame.
func (s *session) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked("dropped")
}

func (s *session) dropLocked(why string) {
	if s.stop != nil {
		s.stop(errors.New(why))
	}
	if s.b.work.fork() {
		go func() {
			defer s.b.work.leaveSession()
			_ = s.conn.CloseNow() // unblocks a reader and a writer; closed already is as good
		}()
	}
}
