package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	addr netip.Addr    // the client's
	id   uint64        // never reused in this process

	// Set once by an accepted hello, before anything else knows the session.
	mesh        *mesh
	member      store.Member
	presenceID  string
	sessionKey  string
	noPush      bool
	topicEvents bool
	receipts    bool // wants receipt events
	log         *slog.Logger

	place *presence               // guarded by mesh.mu
	box   atomic.Pointer[mailbox] // set once by mailroom.attach
	view  atomic.Pointer[view]    // written under mesh.mu
	// status is the presence's, as a string; written under mesh.mu.
	status atomic.Value
	alive  atomic.Int64 // ms since the epoch of the last sign of life
	// attestation is the member's word for sessionKey; nil: none was given.
	attestation atomic.Pointer[wire.Attestation]

	parting *ending          // how to end once the request that asked for it is answered; owned by the reader
	control ratelimit.Bucket // owned by the reader
	silent  ratelimit.Bucket // owned by the reader
	buf     []byte           // owned by the reader
	payer   string           // of the budget of bytes; owned by the reader

	receiptBudget ratelimit.Bucket // owned by the reader

	writer sync.WaitGroup
	slow   sync.WaitGroup // a request of slowOp

	mu        sync.Mutex
	roomy     sync.Cond         // signalled when unwritten shrinks, inFlight reaches 0 or falls, and when writing ends
	slots     []*slot           // replies in request order; guarded by mu
	events    []queued          // unsolicited frames in order; guarded by mu
	byKey     map[string]uint64 // where the latest event of a subject is, counted from first; guarded by mu
	first     uint64            // number of events[0]; guarded by mu
	unwritten int               // bytes of filled slots and events; guarded by mu
	inFlight  int               // sends that wait for their commit; guarded by mu
	acking    int               // acknowledgements that the store has not been tried with; guarded by mu
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
	confirm   *wheel.Timer     // guarded by mu
	beat      *wheel.Timer     // guarded by mu
	retry     *wheel.Timer     // looks for mail again after the store failed; guarded by mu

	redelivery *wheel.Timer // guarded by mu

	stopSlow context.CancelFunc // ends the request of slowOp that runs; nil: none does; guarded by mu
}

// serveWS accepts a WebSocket and serves it until it ends.
func (b *Broker) serveWS(w http.ResponseWriter, r *http.Request) {
	addr := b.opts.clientAddr(r)
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
	if r.ContentLength == 0 { // else a handshake that fails would wait for the body
		_ = rc.SetReadDeadline(time.Time{}) // not supported: the host set none
	}
	_ = rc.SetWriteDeadline(time.Time{}) // likewise
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{OriginPatterns: b.opts.OriginPatterns})
	if err != nil {
		b.log.Debug("WebSocket handshake failed", "cause", err)
		return
	}
	conn.SetReadLimit(-1) // readFrame has limits of its own
	s := &session{
		b: b, conn: conn, req: r, addr: addr, log: b.log,
		marks:   map[string]*mark{},
		control: ratelimit.NewBucket(float64(b.opts.ControlRateBurst), float64(b.opts.ControlRatePerMin)),
		silent:  ratelimit.NewBucket(float64(b.opts.ControlRateBurst), float64(b.opts.ControlRatePerMin)),

		receiptBudget: ratelimit.NewBucket(receiptBurst, receiptsPerMin),
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
		lostCtx, cancel := context.WithTimeout(s.b.patient, storeTimeout)
		s.mesh.lost(lostCtx, s, clean)
		cancel()
	}
	s.endWrites(err)
	s.writer.Wait()
	stop(err)
	s.slow.Wait()
	s.mu.Lock()
	for _, t := range []*wheel.Timer{s.beat, s.confirm, s.redelivery, s.retry} {
		if t != nil {
			t.Stop()
		}
	}
	s.mu.Unlock()
	if s.mesh != nil {
		s.waitEarlier()
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

// errTooLarge is a frame that was read and not kept; errHuge is one that was not even read to its end.
var (
	errTooLarge = errors.New("frame is larger than the limit")
	errHuge     = errors.New("frame is larger than 1 MiB")
)

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
			skimmed, err := wire.Skim(io.MultiReader(bytesReader(buf), io.LimitReader(r, maxFrame+1-int64(len(buf)))))
			if err == nil && skimmed.Size > maxFrame {
				err = errHuge
			}
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
	for {
		frame, skimmed, err := s.readFrame(ctx, s.b.opts.MaxMessageBytes+frameSlack)
		switch {
		case errors.Is(err, errTooLarge):
			s.meter(ctx, skimmed.Size)
			s.tooLarge(skimmed)
			continue
		case errors.Is(err, errHuge):
			s.mesh.strike(s.member.ID) // before the peer can know, and come back
			_ = s.conn.Close(websocket.StatusMessageTooBig, "")
			return err
		case err != nil:
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
		s.waitAcks()
		s.clientAck(wire.ReadClientAck(frame))
		if head.ReqID != nil {
			s.waitEarlier()
			s.waitRoom()
			s.answer(wire.Done(head.ReqID))
		}
		return
	}
	s.meter(ctx, len(frame))
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
	s.waitEarlier()
	s.waitRoom()
	if s.isEnding() {
		return // it was ended while this request waited its turn; a ban, say, must not be followed by what it was to prevent
	}
	switch {
	case err != nil:
		s.refuse(head, answers, err)
	case head.Type == wire.TypeHello || head.Type == wire.TypeSessionHello:
		s.refuse(head, true, &wire.Fault{Code: wire.AlreadyHello, Text: "this connection is signed in already"})
	case !known:
		s.refuse(head, answers, &wire.Fault{Code: wire.UnknownMessageType, Text: fmt.Sprintf("no operation %q here", clip(head.Type))})
	case op.slow:
		s.runSlow(ctx, op, head, frame)
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
		if s.parting != nil {
			s.close(s.parting.code, s.parting.reason)
		}
	}
}

// errClosing answers a request that the end of its connection cut off.
var errClosing = &wire.Fault{Code: wire.RateLimit, Text: "the connection is closing; ask again on another"}

// runSlow runs a request of slowOp in the background, so that the peer is still heard meanwhile. It has its place among the replies at once.
func (s *session) runSlow(ctx context.Context, op handler, head wire.Head, frame []byte) {
	ctx, stop := context.WithCancel(ctx)
	s.mu.Lock()
	busy := s.stopSlow != nil
	if !busy {
		s.stopSlow = stop
		if s.ending != nil || s.writeErr != nil {
			stop()
		}
	}
	s.mu.Unlock()
	if busy {
		stop()
		s.refuse(head, true, &wire.Fault{Code: wire.RateLimit, Text: "one such request at a time; wait for the reply to the last"})
		return
	}
	by, frame, place := s.caller(), bytes.Clone(frame), s.reserve()
	s.slow.Go(func() {
		reply, err := op.run(s.b, ctx, by, frame)
		ended := ctx.Err() != nil
		s.mu.Lock()
		s.stopSlow = nil
		s.mu.Unlock()
		stop()
		switch {
		case ended: // what was asked behind it, and the close frame, need not wait; but a reply that is left out would shift those behind it
			s.fill(place, s.encoded(s.refusal(head, errClosing)))
		case err != nil:
			s.fill(place, s.encoded(s.refusal(head, err)))
		case reply == nil:
			s.fill(place, s.encoded(wire.Done(head.ReqID)))
		default:
			reply.Correlate(head.ReqID)
			s.fill(place, s.encoded(reply))
		}
	})
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
	if e := s.refusal(h, err); answers {
		s.answer(e)
	}
}

// refusal counts and logs an error and returns the frame that tells the peer of it.
func (s *session) refusal(h wire.Head, err error) *wire.Error {
	f := fault(err)
	if f.Code == wire.Internal || f.Code == wire.AuditQueryError || f.Code == wire.AuditVerifyError {
		s.log.Error("request failed", "type", h.Type, "cause", f.Cause)
	} else {
		s.log.Debug("request refused", "type", clip(h.Type), "code", f.Code)
	}
	if f.Code == wire.Malformed || f.Code == wire.UnknownMessageType {
		s.b.metrics.badFrames.Inc()
	}
	e := &wire.Error{Header: wire.Header{Type: wire.TypeError, ReqID: h.ReqID}, Code: f.Code, Message: f.Text}
	if h.ReqID != nil {
		e.ID = *h.ReqID
	} else {
		e.ID = h.ID
	}
	return e
}
