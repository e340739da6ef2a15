package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/claudemesh/broker/internal/ratelimit"
	"github.com/claudemesh/broker/internal/wheel"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// session is one WebSocket connection. Its reader runs on the HTTP goroutine; its writer runs only while there is something to write. Only
// writeLoop writes data frames and the close frame to the socket.
type session struct {
	b    *Broker
	conn *websocket.Conn
	req  *http.Request // of the handshake; for Auth
	addr netip.Addr
	id   uint64 // never reused in this process

	// Set once by an accepted hello, before anything else knows the session.
	mesh        *mesh
	member      store.Member
	presenceID  string
	sessionKey  string
	noPush      bool
	topicEvents bool
	log         *slog.Logger

	place *presence               // guarded by mesh.mu
	box   atomic.Pointer[mailbox] // set once by mailroom.attach
	view  atomic.Pointer[view]    // written under mesh.mu
	// status is the presence's, as a string; written under mesh.mu.
	status atomic.Value
	alive  atomic.Int64 // ms since the epoch of the last sign of life

	control ratelimit.Bucket // owned by the reader
	silent  ratelimit.Bucket // owned by the reader
	buf     []byte           // owned by the reader

	writer sync.WaitGroup

	mu        sync.Mutex
	roomy     sync.Cond         // signalled when unwritten shrinks, inFlight reaches 0 or falls, and when writing ends
	slots     []*slot           // replies in request order; guarded by mu
	events    []queued          // unsolicited frames in order; guarded by mu
	byKey     map[string]uint64 // where the latest event of a subject is, counted from eventsFirst; guarded by mu
	first     uint64            // number of events[0]; guarded by mu
	unwritten int               // bytes of filled slots and events; guarded by mu
	inFlight  int               // sends that wait for their commit; guarded by mu
	mail      bool              // look for mail; cleared by writeLoop before each look; guarded by mu
	writing   bool              // writeLoop runs; guarded by mu
	greeted   bool              // hello_ack is queued, so events may follow; guarded by mu
	writeErr  error             // why nothing is written any more; guarded by mu
	ending    *ending           // close once everything is written; guarded by mu
	stop      context.CancelCauseFunc
	marks     map[string]*mark // pushes without an acknowledgement, by message id; guarded by mu
	cursor    [lanes]int64     // guarded by mu
	cursorGen int              // rises when the cursor is set back; guarded by mu
	again     [lanes]bool      // a push of the lane is overdue; guarded by mu
	writes    uint64           // pushes written; guarded by mu
	explicit  bool             // acknowledges by client_ack; guarded by mu
	pinging   bool             // a ping is unanswered; guarded by mu
	detached  bool             // guarded by mu
	confirm   *wheel.Timer     // guarded by mu
	beat      *wheel.Timer     // guarded by mu
	retry     *wheel.Timer     // looks for mail again after the store failed; guarded by mu

	redelivery *wheel.Timer // guarded by mu
}

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

// serveWS accepts a WebSocket and serves it until it ends.
func (b *Broker) serveWS(w http.ResponseWriter, r *http.Request) {
	addr := remoteAddr(r.RemoteAddr)
	if !b.work.enterSession() {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "shutting down", http.StatusServiceUnavailable)
		return
	}
	defer b.work.leaveSession()
	key := ratelimit.AddrKey(addr)
	if !b.beginHandshake(key) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many connections are signing in; try again", http.StatusServiceUnavailable)
		return
	}
	signedIn := sync.OnceFunc(func() { b.endHandshake(key) })
	defer signedIn()

	// A host's write deadline must not end a long-lived connection; the read deadline is cleared by the hijack's owner, which is us.
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{})  // not supported: the host set none
	_ = rc.SetWriteDeadline(time.Time{}) // likewise
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{OriginPatterns: b.opts.OriginPatterns})
	if err != nil {
		b.log.Debug("WebSocket handshake failed", "cause", err)
		return
	}
	s := &session{
		b: b, conn: conn, req: r, addr: addr, log: b.log,
		marks:   map[string]*mark{},
		control: ratelimit.NewBucket(float64(b.opts.ControlRateBurst), float64(b.opts.ControlRatePerMin)),
		silent:  ratelimit.NewBucket(float64(b.opts.ControlRateBurst), float64(b.opts.ControlRatePerMin)),
	}
	s.roomy.L = &s.mu
	s.status.Store(string(wire.StatusIdle))
	s.seen()
	b.mu.Lock()
	b.nextConn++
	s.id = b.nextConn
	closed := b.closed
	if !closed {
		b.sessions[s] = struct{}{}
	}
	b.mu.Unlock()
	b.metrics.connections.Inc()
	defer func() {
		b.mu.Lock()
		delete(b.sessions, s)
		b.mu.Unlock()
		_ = conn.CloseNow() // closed already in most cases
	}()
	s.run(b.life, closed, signedIn)
}

func (b *Broker) beginHandshake(addr string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if limit := b.opts.MaxPendingHandshakes; limit > 0 && b.pending >= limit {
		return false
	}
	if limit := b.opts.MaxPendingHandshakesPerAddr; limit > 0 && b.handshakes[addr] >= limit {
		return false
	}
	b.pending++
	b.handshakes[addr]++
	return true
}

func (b *Broker) endHandshake(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending--
	if b.handshakes[addr]--; b.handshakes[addr] <= 0 {
		delete(b.handshakes, addr)
	}
}

// run serves the connection to its end.
func (s *session) run(life context.Context, closed bool, signedIn func()) {
	ctx, stop := context.WithCancelCause(life)
	s.mu.Lock()
	s.stop = stop
	s.mu.Unlock()
	if closed {
		s.close(wire.CloseGoingAway, wire.ReasonShutdown)
	}
	s.startHeartbeat()
	err := s.signIn(ctx)
	signedIn()
	if err == nil {
		s.b.metrics.connectionsActive.Add(1)
		err = s.readLoop(ctx)
		s.b.metrics.connectionsActive.Add(-1)
	}
	s.mu.Lock()
	byUs := s.ending != nil
	s.mu.Unlock()
	clean := !byUs && isCleanClose(err)
	if s.mesh != nil {
		lostCtx, cancel := context.WithTimeout(context.WithoutCancel(life), storeTimeout)
		s.mesh.lost(lostCtx, s, clean)
		cancel()
	}
	s.endWrites(err)
	s.writer.Wait()
	stop(err)
	s.mu.Lock()
	for _, t := range []*wheel.Timer{s.beat, s.confirm, s.redelivery, s.retry} {
		if t != nil {
			t.Stop()
		}
	}
	s.mu.Unlock()
	if s.mesh != nil {
		s.waitSends()
		s.mesh.release()
	}
	s.log.Debug("connection ended", "cause", err)
}

// isCleanClose reports whether the client ended the connection with a close frame of its own.
func isCleanClose(err error) bool {
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
		return true
	default:
		return false
	}
}

func (s *session) isEnding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending != nil
}

func (s *session) seen() { s.alive.Store(time.Now().UnixMilli()) }

// errTooLarge is a frame above what is kept; the rest of it is still in the reader.
var errTooLarge = errors.New("frame is larger than the limit")

// readFrame reads one frame of at most limit bytes. A longer one is skimmed and reported as errTooLarge with what could be told of it.
func (s *session) readFrame(ctx context.Context, limit int) ([]byte, wire.Skimmed, error) {
	_, r, err := s.conn.Reader(ctx)
	if err != nil {
		return nil, wire.Skimmed{}, err
	}
	buf := s.buf[:0]
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if len(buf) > limit {
			skimmed, err := wire.Skim(io.MultiReader(bytesReader(buf), r))
			if err != nil {
				return nil, skimmed, err
			}
			s.seen()
			return nil, skimmed, errTooLarge
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, wire.Skimmed{}, err
		}
	}
	s.seen()
	s.buf = buf
	if cap(buf) > 8<<10 { // do not keep the memory of one large frame for the life of an idle session
		s.buf = nil
	}
	return buf, wire.Skimmed{}, nil
}

// bytesReader hands out b once.
func bytesReader(b []byte) io.Reader { return &onceReader{b} }

type onceReader struct{ b []byte }

func (r *onceReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

// readLoop takes the frames of a signed-in session, one at a time, until the connection ends.
func (s *session) readLoop(ctx context.Context) error {
	s.conn.SetReadLimit(maxFrame)
	for {
		frame, skimmed, err := s.readFrame(ctx, s.b.opts.MaxMessageBytes+frameSlack)
		switch {
		case errors.Is(err, errTooLarge):
			s.tooLarge(skimmed)
			continue
		case err != nil:
			if errors.Is(err, websocket.ErrMessageTooBig) {
				s.mesh.strike(s.member.ID)
			}
			return err
		}
		s.handle(ctx, frame)
	}
}

// tooLarge answers a frame that was not kept.
func (s *session) tooLarge(f wire.Skimmed) {
	s.waitRoom()
	if f.Type == wire.TypeSend {
		s.b.metrics.rejected.With(rejectTooLarge).Inc()
		s.answer(&wire.Ack{Header: wire.Header{Type: wire.TypeAck, ReqID: f.ReqID}, ID: f.ID, Error: tooLargeText(f, s.b.opts.MaxMessageBytes)})
		return
	}
	limit := s.b.opts.MaxMessageBytes + frameSlack
	s.refuse(f.Head, s.answers(f.Head), &wire.Fault{
		Code: wire.PayloadTooLarge, Text: fmt.Sprintf("a frame of %d bytes exceeds the limit of %d", f.Size, limit),
	})
}

// tooLargeText tells the size of the message, or, if it is the rest of the frame that is too large, of the frame.
func tooLargeText(f wire.Skimmed, limit int) string {
	size := f.Content
	if size <= limit {
		size = f.Size
	}
	return fmt.Sprintf("%s: invalid size %d bytes > MAX_MESSAGE_BYTES=%d", wire.PayloadTooLarge, size, limit)
}

// answers reports whether a request may be answered with an error: it asked for an answer, or its type has one. Older clients would take
// any other error for the answer to something else.
func (s *session) answers(h wire.Head) bool {
	return h.ReqID != nil || h.ID != "" || s.b.ops[h.Type].replies || h.Type == wire.TypeSend
}

// handle runs one frame.
func (s *session) handle(ctx context.Context, frame []byte) {
	if s.isEnding() {
		return // we are closing: what the peer still sends is discarded
	}
	head, err := wire.Peek(frame)
	if head.Type == wire.TypeClientAck {
		s.clientAck(wire.ReadClientAck(frame))
		if head.ReqID != nil {
			s.waitRoom()
			s.answer(wire.Done(head.ReqID))
		}
		return
	}
	if head.Type == wire.TypeSend {
		s.send(ctx, head, frame)
		return
	}
	op, known := s.b.ops[head.Type]
	answers := s.answers(head)
	if err == nil && known && !op.replies && head.ReqID == nil {
		s.throttle(ctx)
	} else if !s.control.Take(time.Now()) {
		s.waitRoom()
		s.refuse(head, answers, &wire.Fault{
			Code: wire.RateLimit,
			Text: fmt.Sprintf("more than %d requests a minute (burst %d); slow down", s.b.opts.ControlRatePerMin, s.b.opts.ControlRateBurst),
		})
		return
	}
	s.waitSends()
	s.waitRoom()
	switch {
	case err != nil:
		s.refuse(head, answers, err)
	case head.Type == wire.TypeHello || head.Type == wire.TypeSessionHello:
		s.refuse(head, true, &wire.Fault{Code: wire.AlreadyHello, Text: "this connection is signed in already"})
	case !known:
		s.refuse(head, answers, &wire.Fault{Code: wire.UnknownMessageType, Text: fmt.Sprintf("no operation %q here", clip(head.Type))})
	default:
		reply, err := op.run(s.b, ctx, s.caller(), frame)
		switch {
		case err != nil:
			s.refuse(head, answers, err)
		case reply != nil:
			reply.Correlate(head.ReqID)
			s.answer(reply)
		case op.replies || head.ReqID != nil:
			s.answer(wire.Done(head.ReqID))
		}
	}
}

// clip bounds a peer's text inside ours.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// caller is who the session's requests speak for.
func (s *session) caller() Caller {
	return Caller{MeshID: s.mesh.id, Member: s.member, PresenceID: s.presenceID, SessionPubkey: s.sessionKey, Name: s.displayName(), session: s}
}

func (s *session) displayName() string {
	s.mesh.mu.Lock()
	defer s.mesh.mu.Unlock()
	if s.place == nil {
		return s.member.Name
	}
	return s.place.nameLocked()
}

// throttle pauses the reader while the connection is over its budget of requests that have no answer: nothing of them is dropped.
func (s *session) throttle(ctx context.Context) {
	for !s.silent.Take(time.Now()) {
		t := time.NewTimer(s.silent.RetryAfter(time.Now()))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// refuse answers a request with an error, or counts it where an answer could be misunderstood.
func (s *session) refuse(h wire.Head, answers bool, err error) {
	f := fault(err)
	if f.Code == wire.Internal {
		s.log.Error("request failed", "type", h.Type, "cause", f.Cause)
	} else {
		s.log.Debug("request refused", "type", clip(h.Type), "code", f.Code)
	}
	if f.Code == wire.Malformed || f.Code == wire.UnknownMessageType {
		s.b.metrics.badFrames.Inc()
	}
	if !answers {
		return
	}
	e := &wire.Error{Header: wire.Header{Type: wire.TypeError, ReqID: h.ReqID}, Code: f.Code, Message: f.Text}
	if h.ReqID != nil {
		e.ID = *h.ReqID
	} else {
		e.ID = h.ID
	}
	s.answer(e)
}

// answer queues a reply that is known at once, behind the replies before it.
func (s *session) answer(m wire.Message) {
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
		return
	}
	s.fill(s.reserve(), frame)
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

// waitSends waits until the sends before a request have been committed, so that requests take effect in order.
func (s *session) waitSends() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.inFlight > 0 {
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

// heartbeat

func (s *session) startHeartbeat() {
	if s.b.opts.PingInterval <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beat = s.b.wheel.After(s.b.opts.PingInterval, s.heartbeat)
}

// heartbeat runs on the wheel: it pings the peer, or gives it up.
func (s *session) heartbeat() {
	quiet := time.Since(time.UnixMilli(s.alive.Load()))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending != nil || s.writeErr != nil {
		return
	}
	if limit := s.b.opts.StaleAfter; limit > 0 && quiet > limit {
		s.b.log.Debug("peer shows no sign of life", "took", quiet)
		s.dropLocked("stale")
		return
	}
	if !s.pinging {
		s.pingLocked(nil)
	}
	next := s.b.opts.PingInterval
	if limit := s.b.opts.StaleAfter; limit > 0 && quiet < limit && limit-quiet < next {
		next = limit - quiet + time.Millisecond
	}
	s.beat = s.b.wheel.After(next, s.heartbeat)
}

// pingLocked sends a ping; ponged runs when its pong is back. There is at most one at a time.
func (s *session) pingLocked(ponged func()) {
	if !s.b.work.fork() {
		return
	}
	s.pinging = true
	go func() {
		defer s.b.work.leaveSession()
		err := s.conn.Ping(s.b.life)
		s.mu.Lock()
		s.pinging = false
		s.mu.Unlock()
		if err != nil {
			// The write failed or took more than 5 s, or the connection is gone already.
			s.drop()
			return
		}
		s.seen()
		if ponged != nil {
			ponged()
		}
	}()
}

// strike counts a frame beyond 1 MiB; five in ten minutes keep the member out for a minute.
func (m *mesh) strike(member string) {
	t := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.strikes[member]
	if st == nil || t.Sub(st.since) > 10*time.Minute {
		st = &strikes{since: t}
		m.strikes[member] = st
	}
	if st.count++; st.count >= 5 {
		st.blockedUntil = t.Add(time.Minute)
		st.count, st.since = 0, t
	}
}

// blocked reports whether a member is kept out for its oversized frames.
func (m *mesh) blocked(member string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.strikes[member]
	return st != nil && time.Now().Before(st.blockedUntil)
}
