package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// Options say who signs in where. The zero value of a field is its default; a negative number turns a limit off.
type Options struct {
	// URL is the broker's socket: ws:// or wss://, ending in /ws. Required. The REST routes are looked for beside it (the URL
	// without /ws), then at the host's root.
	URL string
	// MeshID and MemberID name the member. Required.
	MeshID, MemberID string
	// Key is the member key. Required.
	Key identity.KeyPair
	// SessionKey is the key of this process. Zero: a fresh one is made. Give one to come back as the same session after a restart.
	SessionKey identity.KeyPair
	// NoSessionKey presents no session key: the connection is known by the member key alone.
	NoSessionKey bool
	// SessionHello signs in as a session that the member key attests, instead of as the member itself. With either hello the attestation
	// of the session's key is valid for 12 hours, made anew for each connection, and renewed in time.
	SessionHello bool

	// DisplayName is shown instead of the member's own name, at most 128 characters.
	DisplayName string
	// SessionID names the process across reconnects, at most 256 characters. Default: a random UUID.
	SessionID string
	// PID is shown to others and lets a local editor hook find the session. Default: this process; negative: not told.
	PID int
	// Cwd (at most 4096 characters), Hostname, PeerType (ai, human or connector), Channel and Model describe the process to its
	// peers; what is empty is not told.
	Cwd, Hostname, PeerType, Channel, Model string
	// Groups are the session's groups, at most 64; nil: those that the member had, or its defaults.
	Groups []wire.Group

	// NoPush is for programs that only ask: no message and no event arrives, and the member does not count as online.
	NoPush bool
	// ManualAck leaves acknowledging to Ack. Default: Receive acknowledges what it hands over.
	ManualAck bool
	// NoReceipts acknowledges without signing. Default: each acknowledgement carries a receipt, by which the message's sender can prove
	// that this member has it; to anybody who knows the message, and for good.
	NoReceipts bool

	// HTTPClient carries the socket (but in a browser) and the REST requests. Its Transport may dial anything, an in-memory network
	// too; its idle connections are its owner's to close. Its Timeout is not used. Default: one of the client's own.
	HTTPClient *http.Client
	// Logger gets debug messages only. Default: none.
	Logger *slog.Logger

	// Pins remember keys; default: NewMemoryPins, which forgets with the process.
	Pins Pins
	// SealPolicy says in which topics the client passes the topic key on by itself. Default SealPublic.
	SealPolicy SealPolicy
	// RefuseBrokerMadeKeys refuses topic keys that the broker made, as it does for older clients: it may still know them. Default:
	// they are accepted, and TopicKeyInfo says so.
	RefuseBrokerMadeKeys bool

	// Backoff returns how long to wait before reconnecting, after attempt tries that failed (0 at first). Default: a random time
	// up to 1, 2, 4, 8, 16, then 30 s.
	Backoff func(attempt int) time.Duration
	// DialTimeout bounds connecting and signing in together. Default 15 s; negative: none.
	DialTimeout time.Duration
	// StaleAfter is how long the socket may be silent, pings included, until it is given up. Default 75 s (docs/protocol.md,
	// heartbeat); negative: never. A browser does not show pings, so there it has no effect.
	StaleAfter time.Duration
	// CloseTimeout bounds how long Close waits for acknowledgements and sends on their way. Default 5 s; negative: it does not.
	CloseTimeout time.Duration
}

// SealPolicy says in which topics the client passes the topic key on to new members by itself.
type SealPolicy uint8

// The policies. In any of them SealPending passes a key on when it is called.
const (
	SealPublic SealPolicy = iota // in public topics only: in private ones a person should know who is added
	SealAll                      // in all topics
	SealNone                     // in none
)

func (o Options) withDefaults() (Options, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" {
		return o, fmt.Errorf("client: Options.URL %q must be ws://host/ws or wss://host/ws", o.URL)
	}
	if !wire.IsID(o.MeshID) || !wire.IsID(o.MemberID) {
		return o, fmt.Errorf("client: Options.MeshID %q and MemberID %q must be ids of 1 to 64 characters of [0-9A-Za-z_-]", o.MeshID, o.MemberID)
	}
	if o.Key.IsZero() {
		return o, errors.New("client: Options.Key is missing; it is the member key that was enrolled")
	}
	if o.NoSessionKey && (o.SessionHello || !o.SessionKey.IsZero()) {
		return o, errors.New("client: Options.NoSessionKey cannot go with SessionHello or SessionKey")
	}
	if o.SessionKey.IsZero() && !o.NoSessionKey {
		if o.SessionKey, err = identity.GenerateKey(); err != nil {
			return o, fmt.Errorf("client: make a session key: %w", err)
		}
	}
	if o.SessionID == "" {
		o.SessionID = identity.NewUUID()
	}
	if o.PID == 0 {
		o.PID = os.Getpid()
	}
	o.PID = max(o.PID, 0)
	if o.Groups != nil {
		o.Groups = append([]wire.Group{}, o.Groups...)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("mesh", o.MeshID, "member", o.MemberID)
	if o.Pins == nil {
		o.Pins = NewMemoryPins()
	}
	if o.Backoff == nil {
		o.Backoff = fullJitter
	}
	o.DialTimeout = cmp.Or(o.DialTimeout, 15*time.Second)
	o.StaleAfter = cmp.Or(o.StaleAfter, 75*time.Second)
	o.CloseTimeout = cmp.Or(o.CloseTimeout, 5*time.Second)
	return o, nil
}

// fullJitter spreads the clients of a broker that went away over the whole interval (docs/protocol.md, heartbeat).
func fullJitter(attempt int) time.Duration {
	ceiling := 30 * time.Second
	if attempt < 5 {
		ceiling = time.Second << attempt
	}
	return rand.N(ceiling) + time.Millisecond
}

// Client is one session of a member. Make it with Dial and end it with Close.
type Client struct {
	o     Options
	out   *outbox
	rest  *restDoor
	inbox inbox
	sent  sends
	dir   directory
	keys  keyring

	bodies bodies

	ownTransport *http.Transport // nil when the caller brought an HTTP client
	life         context.Context // ends with finish
	end          context.CancelFunc
	background   context.Context // ends before life: the loops that only do good
	endBackgrd   context.CancelFunc
	workers      sync.WaitGroup
	done         chan struct{} // closed by finish
	closeOnce    sync.Once

	mu      sync.Mutex
	err     error         // guarded by mu; set once, by finish
	closing bool          // guarded by mu
	hello   wire.HelloAck // guarded by mu
	conn    *conn         // guarded by mu; nil while disconnected
	state   sessionState  // guarded by mu; what a fresh session is told again
	events  chan Event    // guarded by mu for sending; closed by finish
}

// Dial connects and signs in. It returns after the broker has said yes, or with an error: a *RefusedError when the broker said
// no. A refusal that may pass (capacity, rate_limit, replayed, timestamp_skew, a broker that is starting) is tried a few times
// first, within ctx. ctx does not bound the client's life; Close ends it.
func Dial(ctx context.Context, o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{o: o, out: newOutbox(), done: make(chan struct{}), events: make(chan Event, eventBuffer)}
	if c.o.HTTPClient == nil {
		c.ownTransport = newTransport()
		c.o.HTTPClient = &http.Client{Transport: c.ownTransport}
	}
	c.inbox.init()
	c.sent.init()
	c.bodies.seen = newRecent[body](rememberedIDs)
	c.keys.init()
	c.rest = newRESTDoor(c)
	c.life, c.end = context.WithCancel(context.Background())
	c.background, c.endBackgrd = context.WithCancel(c.life)

	k, err := c.dialFirst(ctx)
	if err != nil {
		c.finish(err)
		c.closeIdle()
		return nil, err
	}
	c.attach(k)
	c.workers.Go(func() { c.run(k) })
	if !o.NoPush && o.SealPolicy != SealNone {
		c.workers.Go(c.sealLoop)
	}
	return c, nil
}

// dialFirst tries a refusal that may pass up to five times. A network that does not answer is the caller's to judge.
func (c *Client) dialFirst(ctx context.Context) (*conn, error) {
	for attempt := 0; ; attempt++ {
		k, err := c.connect(ctx)
		if err == nil {
			return k, nil
		}
		refused, ok := errors.AsType[*RefusedError](err)
		if !ok || refused.Permanent() || attempt == 4 {
			return nil, err
		}
		if sleep(ctx, max(c.o.Backoff(attempt), refused.retryAfter)) != nil {
			return nil, err
		}
	}
}

// Close ends the session: it waits for sends that have no answer yet and for acknowledgements to be written, at most
// Options.CloseTimeout, closes the socket in a way that ends the presence at once, and returns when no goroutine is left.
// Requests that are still open fail with ErrClosed. Calling it again is harmless.
func (c *Client) Close() error {
	c.closeOnce.Do(func() {
		c.endBackgrd()
		c.mu.Lock()
		c.closing = true
		k := c.conn
		c.mu.Unlock()
		if k != nil {
			drained := c.out.drain(c.rest.revocation())
			if c.o.CloseTimeout > 0 {
				limit := time.NewTimer(c.o.CloseTimeout)
				select {
				case <-drained:
				case <-k.gone:
				case <-limit.C:
				}
				limit.Stop()
			}
			if err := k.ws.Close(wire.CloseNormal, ""); err != nil {
				c.o.Logger.Debug("close", "cause", err)
			}
		}
		c.finish(ErrClosed)
		c.workers.Wait()
		c.closeIdle()
	})
	c.workers.Wait()
	return nil
}

func (c *Client) closeIdle() {
	if c.ownTransport != nil {
		c.ownTransport.CloseIdleConnections()
	}
}

// finish ends the client's life, once, with the reason.
func (c *Client) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	c.out.fail(err)
	c.end()
	close(c.done)
	close(c.events)
}

// Done is closed when the client has ended: by Close, or because the broker does not want it back.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is nil while the client lives, then ErrClosed or the *RefusedError that ended it.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Hello is the broker's answer to the latest sign-in.
func (c *Client) Hello() wire.HelloAck {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hello
}

// Connected reports whether the socket is up at this moment. Requests need not ask: they wait for it.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn != nil
}

// MeshID, MemberID, SessionID and Pubkey say who the client is; SessionPubkey is empty without a session key.
func (c *Client) MeshID() string        { return c.o.MeshID }
func (c *Client) MemberID() string      { return c.o.MemberID }
func (c *Client) SessionID() string     { return c.o.SessionID }
func (c *Client) Pubkey() string        { return c.o.Key.Public() }
func (c *Client) SessionPubkey() string { return c.o.SessionKey.Public() }

// sender is the key that recipients are told a message is from.
func (c *Client) sender() identity.KeyPair {
	if c.o.NoSessionKey {
		return c.o.Key
	}
	return c.o.SessionKey
}

// Format writes who the client is, whatever the verb: what it holds is not for printing.
func (c *Client) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "client of %s in %s", c.o.MemberID, c.o.MeshID)
}

// LogValue is what Format writes.
func (c *Client) LogValue() slog.Value {
	return slog.StringValue("client of " + c.o.MemberID + " in " + c.o.MeshID)
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func newTransport() *http.Transport {
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		return t.Clone()
	}
	return &http.Transport{}
}

// parseTime reads a time of the wire; one that is missing or unreadable is zero.
func parseTime(s string) time.Time {
	t, err := wire.ParseTime(s)
	if err != nil {
		return time.Time{}
	}
	return t
}

func lower(key string) string { return strings.ToLower(key) }
