package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/claudemesh/broker/wire"
)

const (
	// maxFrame is the largest frame that is read: a broker may answer a request with up to 16 MiB.
	maxFrame = 17 << 20
	// writeTimeout ends a connection whose peer does not take a frame.
	writeTimeout = 15 * time.Second
	// drainTime is how long reading goes on after a failed write: what the broker said before it went away, and why it went,
	// is still in the socket.
	drainTime = 5 * time.Second
	// steadyTime is how long a connection must have lived to let the next reconnect begin without delay.
	steadyTime = 10 * time.Second
)

var (
	errStale = errors.New("nothing was heard for too long")
	errStuck = errors.New("a frame could not be written in time")
)

// conn is one socket. Only writeLoop writes to it after the handshake, only readLoop reads.
type conn struct {
	ws    *websocket.Conn
	ack   wire.HelloAck
	batch bool // the broker takes several ids in one client_ack
	signs bool // the broker takes receipts in client_ack
	since time.Time

	heard   atomic.Int64 // when the last frame or ping came, Unix ms
	writing atomic.Int64 // when the frame that is being written was begun, Unix ms; 0: none is

	killOnce sync.Once
	cause    atomic.Pointer[error] // why it was killed
	gone     chan struct{}         // closed when reading has ended
}

func (k *conn) hear() { k.heard.Store(time.Now().UnixMilli()) }

// kill drops the socket without a close frame.
func (k *conn) kill(cause error) {
	k.killOnce.Do(func() {
		k.cause.Store(&cause)
		_ = k.ws.CloseNow() // it may be closed already
	})
}

// run keeps the session connected until the client's life ends or the broker does not want it back.
func (c *Client) run(k *conn) {
	attempt := 0
	for {
		err := c.serve(k)
		if time.Since(k.since) >= steadyTime {
			attempt = 0
		}
		for {
			wait := c.o.Backoff(attempt)
			if refused, ok := errors.AsType[*RefusedError](err); ok {
				// An HTTP status is rather a proxy's word than the broker's, which knew us a moment ago.
				if refused.Permanent() && refused.HTTPStatus == 0 {
					c.finish(err)
					return
				}
				wait = max(wait, refused.retryAfter)
			}
			if c.ending() {
				return
			}
			attempt++
			if sleep(c.life, wait) != nil {
				return
			}
			if k, err = c.connect(c.life); err == nil {
				if !c.attach(k) {
					k.kill(ErrClosed)
					return
				}
				break
			}
			c.o.Logger.Debug("reconnect", "count", attempt, "cause", err)
		}
	}
}

// ending reports whether Close has begun or the life is over.
func (c *Client) ending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing || c.err != nil
}

// serve runs one connection that is attached and returns when it is gone, with the reason.
func (c *Client) serve(k *conn) error {
	var helpers sync.WaitGroup
	ctx, end := context.WithCancel(c.life)
	helpers.Go(func() { c.writeLoop(k) })
	helpers.Go(func() { c.watch(k) })
	helpers.Go(func() { c.keepAttested(ctx) })
	err := c.readLoop(k)
	end()
	close(k.gone)
	k.kill(err)
	helpers.Wait()
	c.detach(k, err)
	return err
}

// attach makes k the connection of the client and tells a fresh session what the last one was told. It reports false when the
// client is about to end.
func (c *Client) attach(k *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.err != nil {
		return false
	}
	if before := c.hello.PresenceID; before != "" && before != k.ack.PresenceID {
		c.out.post(c.state.frames()...)
	}
	c.hello, c.conn = k.ack, k
	c.emitLocked(Event{Name: EventConnected, At: k.since})
	c.out.signal()
	return true
}

func (c *Client) detach(k *conn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.lost()
	c.conn = nil
	c.o.Logger.Debug("connection lost", "cause", err, "took", time.Since(k.since))
	c.emitLocked(Event{Name: EventDisconnected, At: time.Now(), Err: err})
}

func (c *Client) writeLoop(k *conn) {
	idle := time.NewTimer(time.Hour)
	defer idle.Stop()
	for {
		frame, wait := c.out.next(k.batch, k.signs)
		if frame == nil {
			idle.Reset(time.Hour)
			if wait > 0 {
				idle.Reset(wait)
			}
			select {
			case <-k.gone:
				return
			case <-c.out.wake:
			case <-idle.C:
			}
			continue
		}
		k.writing.Store(time.Now().UnixMilli())
		// A context with an end would cost more than the write; watch ends one that is stuck.
		err := k.ws.Write(context.Background(), websocket.MessageText, frame)
		k.writing.Store(0)
		if err == nil {
			continue
		}
		drain := time.NewTimer(drainTime)
		defer drain.Stop()
		select {
		case <-k.gone:
		case <-drain.C:
			k.kill(err)
		}
		return
	}
}

// watch ends a connection that has gone silent or stuck.
func (c *Client) watch(k *conn) {
	t := time.NewTicker(writeTimeout / 3)
	defer t.Stop()
	for {
		select {
		case <-k.gone:
			return
		case <-t.C:
		}
		now := time.Now()
		if w := k.writing.Load(); w != 0 && now.UnixMilli()-w > writeTimeout.Milliseconds() {
			k.kill(errStuck)
		}
		if c.o.StaleAfter > 0 && pingsSeen && now.UnixMilli()-k.heard.Load() > c.o.StaleAfter.Milliseconds() {
			k.kill(errStale)
		}
	}
}

func (c *Client) readLoop(k *conn) error {
	for {
		kind, frame, err := k.ws.Read(context.Background())
		if err != nil {
			if cause := k.cause.Load(); cause != nil {
				return *cause
			}
			return closeReason(err)
		}
		k.hear()
		if kind == websocket.MessageText || kind == websocket.MessageBinary {
			c.take(frame)
		}
	}
}

// closeReason turns a close that means "do not come back" into a RefusedError.
func closeReason(err error) error {
	ce, ok := errors.AsType[websocket.CloseError](err)
	if !ok {
		return err
	}
	code := wire.Code(ce.Reason)
	switch int(ce.Code) {
	case wire.CloseKicked:
		return &RefusedError{Code: orCode(code, wire.ReasonKicked), CloseCode: wire.CloseKicked, Text: "removed from the mesh's sessions by an admin"}
	case wire.CloseBanned:
		return &RefusedError{Code: orCode(code, wire.ReasonBanned), CloseCode: wire.CloseBanned, Text: "the membership was revoked"}
	}
	return err
}

func orCode(code, other wire.Code) wire.Code {
	if code == "" {
		return other
	}
	return code
}

// pushPrefix begins the frames that come most, so that they are read once and not twice.
var pushPrefix = []byte(`{"type":"push"`)

// take handles one frame. What cannot be read is dropped: the broker does not wait for us.
func (c *Client) take(frame []byte) {
	if bytes.HasPrefix(frame, pushPrefix) {
		c.takePush(frame)
		return
	}
	var head struct {
		Type  string  `json:"type"`
		ReqID *string `json:"_reqId"`
	}
	if err := json.Unmarshal(frame, &head); err != nil {
		c.o.Logger.Debug("unreadable frame", "cause", err)
		return
	}
	switch {
	case head.ReqID != nil:
		c.takeReply(*head.ReqID, head.Type, frame)
	case head.Type == wire.TypePush:
		c.takePush(frame)
	case head.Type == wire.TypeAck || head.Type == wire.TypeError || head.Type == wire.TypeHelloAck:
		// Every request carries a _reqId, so this answers nobody.
		c.o.Logger.Debug("frame that answers nobody", "type", head.Type)
	case head.Type == wire.TypeStateChange:
		c.takeState(frame)
	default:
		c.emit(Event{Name: head.Type, At: time.Now(), Data: frame})
	}
}

// takeReply gives a reply to the request that waits for it, or has the request made again when it came too fast.
func (c *Client) takeReply(id, typ string, frame []byte) {
	r := c.out.settle(id)
	if r == nil {
		return // its caller has gone
	}
	if err := refusal(r.typ, typ, frame); err != nil {
		var code wire.Code
		if !errors.As(err, &code) {
			code = ""
		}
		// A verification may be made once a minute: that is for the caller to wait for, and nothing else should.
		if code == wire.RateLimit && r.typ != wire.TypeAuditVerify || r.typ == wire.TypeSend && code == wire.InternalError {
			c.out.retry(r, err)
			return
		}
		r.done <- reply{err: err}
		return
	}
	c.out.accept(r)
	if r.typ == wire.TypeSend {
		c.sent.stored(id, frame)
	}
	r.done <- reply{typ: typ, frame: frame}
}

// refusal returns the error that a reply is, nil for a good one.
func refusal(request, typ string, frame []byte) error {
	switch {
	case typ == wire.TypeError:
		var f wire.Error
		if err := json.Unmarshal(frame, &f); err != nil {
			return fmt.Errorf("client: unreadable error frame: %w", err)
		}
		if request == wire.TypeSend {
			return newSendError(f.Code, f.Message)
		}
		return &RequestError{Request: request, Code: f.Code, Text: f.Message}
	case typ == wire.TypeAck && request == wire.TypeSend:
		var f struct {
			Error  string `json:"error"`
			Queued bool   `json:"queued"`
		}
		if err := json.Unmarshal(frame, &f); err != nil {
			return fmt.Errorf("client: unreadable ack: %w", err)
		}
		if f.Error != "" {
			return sendError(f.Error)
		}
		if !f.Queued {
			return newSendError(wire.InternalError, "the broker neither took nor refused the message")
		}
	}
	return nil
}

// roundTrip makes a request and waits for its reply, over reconnects if again allows it. build gets the _reqId.
func (c *Client) roundTrip(ctx context.Context, again bool, build func(id string) (typ string, frame []byte, err error)) (reply, error) {
	if err := c.out.enter(ctx); err != nil {
		return reply{}, err
	}
	defer c.out.leave()
	seq, id := c.out.number()
	typ, frame, err := build(id)
	if err != nil {
		return reply{}, err
	}
	r := &request{seq: seq, id: id, typ: typ, frame: frame, again: again, done: make(chan reply, 1)}
	if err := c.out.add(r); err != nil {
		return reply{}, err
	}
	select {
	case got := <-r.done:
		return got, got.err
	case <-ctx.Done():
	}
	wrote, last := c.out.drop(r)
	select {
	case got := <-r.done: // it came at the last moment
		return got, got.err
	default:
	}
	err = context.Cause(ctx)
	if refused, ok := errors.AsType[*SendError](last); ok {
		refused.cause = err
		return reply{}, refused
	}
	if last != nil {
		return reply{}, fmt.Errorf("%w: %w", last, err)
	}
	if wrote {
		err = fmt.Errorf("%w: %s: %w", ErrOutcomeUnknown, typ, err)
	}
	return reply{}, err
}

// Call makes any request, for frames that this package has no method for, and fills answer, which may be nil. request is a
// pointer to a struct that embeds wire.Header with its type set. The request is not made again when the connection is lost
// before the answer: the error is then ErrOutcomeUnknown. A refusal is a *RequestError.
func (c *Client) Call(ctx context.Context, request wire.Message, answer any) error {
	return c.call(ctx, request, answer, false)
}

// call is Call; again says that making the request twice does nothing more than making it once.
func (c *Client) call(ctx context.Context, request wire.Message, answer any, again bool) error {
	got, err := c.roundTrip(ctx, again, func(id string) (string, []byte, error) {
		request.Correlate(&id)
		frame, err := wire.Encode(request)
		if err != nil {
			return "", nil, err
		}
		var head struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(frame, &head); err != nil || head.Type == "" {
			return "", nil, fmt.Errorf("client: %T has no type; set its Header.Type", request)
		}
		return head.Type, frame, nil
	})
	if err != nil || answer == nil {
		return err
	}
	if err := json.Unmarshal(got.frame, answer); err != nil {
		return fmt.Errorf("client: unreadable %s: %w", got.typ, err)
	}
	return nil
}

func header(typ string) wire.Header { return wire.Header{Type: typ} }
