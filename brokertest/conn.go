package brokertest

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/internal/memconn"
)

// Frame is a frame as it came: a JSON object.
type Frame map[string]any

// Str returns a member that is a string, or the empty string.
func (f Frame) Str(name string) string {
	s, _ := f[name].(string)
	return s
}

// Type is the frame's type.
func (f Frame) Type() string { return f.Str("type") }

// Into decodes the frame into a struct with json tags.
func (f Frame) Into(v any) error {
	raw, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

// Conn is a bare connection to the broker.
type Conn struct {
	WS     *websocket.Conn
	Member *Member
	// Session is the session key that was presented; zero for none.
	Session identity.KeyPair
	// Hello is the hello_ack.
	Hello Frame

	t    testing.TB
	link net.Conn

	mu     sync.Mutex
	more   sync.Cond
	frames []Frame // guarded by mu
	err    error   // why reading ended; guarded by mu
	reads  bool
	done   chan struct{}
}

// Connect opens a connection that says nothing yet.
func (m *Mesh) Connect() *Conn {
	m.t.Helper()
	c := &Conn{t: m.t, done: make(chan struct{})}
	c.more.L = &c.mu
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		m.mu.Lock()
		l := m.listener
		m.mu.Unlock()
		link, err := l.DialContext(ctx, network, addr)
		c.link = link
		return link, err
	}}
	ws, _, err := websocket.Dial(m.t.Context(), m.URL, &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		m.t.Fatalf("brokertest: connect: %v", err)
	}
	ws.SetReadLimit(64 << 20)
	c.WS = ws
	m.t.Cleanup(func() {
		_ = ws.CloseNow()
		if c.reads {
			<-c.done
		}
	})
	return c
}

// DialOption changes the hello of [Mesh.Dial].
type DialOption func(*dial)

type dial struct {
	hello    Frame
	session  *identity.KeyPair
	attested bool
	pause    bool
}

// With sets members of the hello; nil takes one away.
func With(members Frame) DialOption {
	return func(d *dial) {
		for k, v := range members {
			d.hello[k] = v
		}
	}
}

// SessionKey presents a session key.
func SessionKey(key identity.KeyPair) DialOption { return func(d *dial) { d.session = &key } }

// Attested signs in by session_hello; it needs SessionKey.
func Attested() DialOption { return func(d *dial) { d.attested = true } }

// NotReading leaves the connection unread after the hello_ack: it answers no pings and takes nothing from the network.
func NotReading() DialOption { return func(d *dial) { d.pause = true } }

// Dial signs a member in over a bare connection, as an older client does: no capabilities, no session key, unless options say otherwise. The
// hello_ack has been read when it returns.
func (m *Mesh) Dial(name string, options ...DialOption) *Conn {
	m.t.Helper()
	member := m.Member(name)
	c := m.Connect()
	d := &dial{hello: Frame{"sessionId": identity.NewID(), "pid": 1, "cwd": "/src/" + name}}
	for _, o := range options {
		o(d)
	}
	c.Member = member
	if d.session != nil {
		c.Session = *d.session
	}
	c.Send(m.HelloFrame(member, d.session, d.attested, d.hello))
	c.Hello = c.readOne()
	if c.Hello.Type() != "hello_ack" {
		m.t.Fatalf("brokertest: %s's hello was answered %v", name, c.Hello)
	}
	if !d.pause {
		c.Read()
	}
	return c
}

// HelloFrame makes a signed hello, or with attested a session_hello. Members of more replace or, being nil, remove its members after signing,
// except timestamp, which is signed as given.
func (m *Mesh) HelloFrame(member *Member, session *identity.KeyPair, attested bool, more Frame) Frame {
	m.mu.Lock()
	// Two older hellos of one member in one millisecond are the same signed text, which the broker admits once.
	m.signedAt = max(time.Now().UnixMilli(), m.signedAt+1)
	at := float64(m.signedAt)
	m.mu.Unlock()
	switch given := more["timestamp"].(type) {
	case float64:
		at = given
	case int64:
		at = float64(given)
	}
	f := Frame{"type": "hello", "meshId": m.ID, "memberId": member.ID, "pubkey": member.Key.Public(), "timestamp": at}
	if session != nil {
		f["sessionPubkey"] = session.Public()
	}
	if attested {
		a := identity.NewAttestation(member.Key, session.Public(), time.Now())
		f["type"] = "session_hello"
		delete(f, "pubkey")
		delete(f, "memberId")
		f["parentMemberPubkey"], f["parentMemberId"] = member.Key.Public(), member.ID
		f["parentAttestation"] = Frame{
			"sessionPubkey": a.SessionPubkey, "parentMemberPubkey": a.ParentPubkey, "expiresAt": a.ExpiresAt, "signature": a.Signature,
		}
		f["signature"] = session.Sign(identity.SessionHelloText(m.ID, member.Key.Public(), session.Public(), at))
	} else {
		f["signature"] = member.Key.Sign(identity.HelloText(m.ID, member.ID, member.Key.Public(), at))
	}
	for k, v := range more {
		if v == nil {
			delete(f, k)
		} else {
			f[k] = v
		}
	}
	return f
}

// Send writes a frame: a string or bytes as they are, anything else as JSON.
func (c *Conn) Send(frame any) {
	c.t.Helper()
	if err := c.TrySend(frame); err != nil {
		c.t.Fatalf("brokertest: send: %v", err)
	}
}

// TrySend is Send for a connection that may be gone.
func (c *Conn) TrySend(frame any) error {
	var raw []byte
	switch f := frame.(type) {
	case string:
		raw = []byte(f)
	case []byte:
		raw = f
	default:
		var err error
		if raw, err = json.Marshal(frame); err != nil {
			return err
		}
	}
	return c.WS.Write(c.t.Context(), websocket.MessageText, raw)
}

// readOne reads a frame directly; only before Read.
func (c *Conn) readOne() Frame {
	c.t.Helper()
	f, err := c.next()
	if err != nil {
		c.t.Fatalf("brokertest: read: %v", err)
	}
	return f
}

func (c *Conn) next() (Frame, error) {
	_, raw, err := c.WS.Read(context.Background()) // ends when the connection does
	if err != nil {
		return nil, err
	}
	f := Frame{}
	return f, json.Unmarshal(raw, &f)
}

// Read starts reading; what comes waits for Expect.
func (c *Conn) Read() {
	c.reads = true
	go func() {
		defer close(c.done)
		for {
			f, err := c.next()
			c.mu.Lock()
			if err != nil {
				c.err = err
			} else {
				c.frames = append(c.frames, f)
			}
			c.more.Broadcast()
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
}

// Expect returns the next frame of one of the types, waiting for it, and drops the frames before it. It fails when the connection ends first,
// or, outside a bubble, after ten seconds.
func (c *Conn) Expect(types ...string) Frame {
	c.t.Helper()
	f, err := c.await(10*time.Second, func(f Frame) bool {
		for _, t := range types {
			if f.Type() == t {
				return true
			}
		}
		return len(types) == 0
	})
	if err != nil {
		c.t.Fatalf("brokertest: waiting for %v: %v", types, err)
	}
	return f
}

// ExpectPush returns the next push that is no system event.
func (c *Conn) ExpectPush() Frame {
	c.t.Helper()
	f, err := c.await(10*time.Second, func(f Frame) bool { return f.Type() == "push" && f.Str("subtype") != "system" })
	if err != nil {
		c.t.Fatalf("brokertest: waiting for a push: %v", err)
	}
	return f
}

// ExpectEvent returns the next system event of that name.
func (c *Conn) ExpectEvent(name string) Frame {
	c.t.Helper()
	f, err := c.await(10*time.Second, func(f Frame) bool { return f.Type() == "push" && f.Str("event") == name })
	if err != nil {
		c.t.Fatalf("brokertest: waiting for event %s: %v", name, err)
	}
	return f
}

func (c *Conn) await(limit time.Duration, want func(Frame) bool) (Frame, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	late := false
	timer := time.AfterFunc(limit, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		late = true
		c.more.Broadcast()
	})
	defer timer.Stop()
	for {
		for i, f := range c.frames {
			if want(f) {
				c.frames = c.frames[i+1:]
				return f, nil
			}
		}
		c.frames = nil
		if c.err != nil {
			return nil, c.err
		}
		if late {
			return nil, context.DeadlineExceeded
		}
		c.more.Wait()
	}
}

// Waiting returns the frames that have come and were not expected yet, and forgets them. In a bubble, call synctest.Wait first.
func (c *Conn) Waiting() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.frames
	c.frames = nil
	return f
}

// Pushes is Waiting, less everything but member messages.
func (c *Conn) Pushes() []Frame {
	var out []Frame
	for _, f := range c.Waiting() {
		if f.Type() == "push" && f.Str("subtype") != "system" {
			out = append(out, f)
		}
	}
	return out
}

// Request sends a request with a _reqId and returns the reply that echoes it.
func (c *Conn) Request(frame Frame) Frame {
	c.t.Helper()
	id := identity.NewID()
	out := Frame{"_reqId": id}
	for k, v := range frame {
		out[k] = v
	}
	c.Send(out)
	f, err := c.reply(id)
	if err != nil {
		c.t.Fatalf("brokertest: waiting for the reply to %v: %v", frame["type"], err)
	}
	return f
}

// reply takes the reply with that _reqId and leaves everything else waiting.
func (c *Conn) reply(id string) (Frame, error) {
	var before []Frame
	f, err := c.await(10*time.Second, func(f Frame) bool {
		if f.Str("_reqId") == id {
			return true
		}
		before = append(before, f)
		return false
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(before, c.frames...)
	return f, err
}

// Say sends a message and returns its ack.
func (c *Conn) Say(target, priority, text string) Frame {
	c.t.Helper()
	return c.Request(Frame{"type": "send", "targetSpec": target, "priority": priority, "nonce": "", "ciphertext": Body(text)})
}

// Close closes the connection with a close frame, as a client that ends does.
func (c *Conn) Close() {
	c.t.Helper()
	_ = c.WS.Close(websocket.StatusNormalClosure, "")
}

// Cut breaks the connection without a close frame, as a lost network does.
func (c *Conn) Cut() {
	if link, ok := c.link.(*memconn.Conn); ok {
		link.Abort()
	}
}

// Closed waits for the end of the connection and returns the broker's close code, or -1 if there was no close frame, and its reason.
func (c *Conn) Closed() (code int, reason string) {
	c.t.Helper()
	if !c.reads {
		c.Read()
	}
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	if ce, ok := asCloseError(c.err); ok {
		return int(ce.Code), ce.Reason
	}
	return -1, ""
}
