// Package broker is an embeddable message broker for meshes: AI coding sessions, people and services that exchange end-to-end-encrypted
// messages, see each other's presence, and talk in topics whose keys the broker never needs.
//
// A [Broker] is an [http.Handler]. Peers connect to its /ws over WebSocket and sign in with an ed25519 key; programs use its REST API
// under /v1. What it must not lose is in a [store.Store]; what it knows of live connections is in memory.
//
// The way of a message:
//
//	session.go      a frame arrives: decoded, bounded, put in order
//	router.go       the target becomes recipients, and one commit stores many sends
//	mailbox.go      the message hangs in the mailboxes of the recipients that are here
//	delivery.go     each session pulls what waits for it, as far as its windows and its status allow
//	writer.go       one goroutine writes, while there is something to write
//	acknowledge.go  the acknowledgement completes the delivery
//
// docs/architecture.md tells it at length; docs/protocol.md is the wire.
package broker

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/internal/ratelimit"
	"github.com/claudemesh/broker/internal/status"
	"github.com/claudemesh/broker/internal/transcript"
	"github.com/claudemesh/broker/internal/wheel"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// Lock order: Broker.governing (per mesh), mesh.entering (per member), mesh.saving, mesh.stating (per state key), Broker.mu, mesh.mu, mailroom.mu,
// mailbox.mu, session.mu. No store call, socket write or callback of the host happens under any of them but the first four, which exist to be held
// across store calls.

// Broker serves meshes. Make one with [New], mount it, and end it with [Broker.Shutdown].
type Broker struct {
	opts    Options
	store   store.Store
	auth    Auth
	log     *slog.Logger
	id      string // random per boot; owns presences in the store
	started time.Time
	rules   status.Rules
	infer   *transcript.Reader // nil: off
	stash   status.Pending     // hook signals that came before their session
	wheel   *wheel.Wheel       // leases, confirmations, redelivery, pings
	metrics *metrics
	mux     *http.ServeMux

	sends     *ratelimit.Buckets // by mesh and member, as the next two
	delivered *ratelimit.Buckets // deliveries
	inbound   *ratelimit.Buckets // bytes
	hookKeys  *ratelimit.Buckets // by pid and directory
	hookAddrs *ratelimit.Buckets // by remote address, as the next three
	joinAddrs *ratelimit.Buckets
	authFails *ratelimit.Buckets
	hellos    *ratelimit.Buckets
	apiKeys   *ratelimit.Buckets // by API key, as the next two
	keyUses   *ratelimit.Buckets // how often "last used" is written
	seals     *ratelimit.Buckets
	verifies  *ratelimit.Buckets // by mesh: verifications of the audit log by members that are no admins

	life    context.Context // ends when Shutdown has closed everything
	end     context.CancelFunc
	patient context.Context // of what must survive its caller; ends when Shutdown may wait no longer
	abort   context.CancelFunc
	closing chan struct{} // closed when Shutdown begins
	work    group         // everything that Shutdown waits for

	ready     chan struct{} // closed when the presences of earlier processes are adopted
	readyOnce sync.Once

	governing keyedMutex // by mesh id: bans and changes of role, from the look at who may to the end, so that two of them cannot leave nobody who governs

	mu         sync.Mutex
	ops        map[string]handler // guarded by mu until serving, then constant
	serving    bool               // guarded by mu
	closed     bool               // guarded by mu
	meshes     map[string]*mesh   // guarded by mu
	sessions   map[*session]struct{}
	handshakes map[string]int // connections without an accepted hello, by address; guarded by mu
	pending    int            // their number; guarded by mu
	storeDown  time.Time      // since when the store has not answered; zero: it does; guarded by mu
	nextConn   uint64         // guarded by mu
}

// New checks the options and returns a broker that serves at once. It does no I/O; taking over what an earlier process left is
// the first thing that the broker does in the background, and hellos wait for it. Errors name the field that is wrong.
func New(o Options) (*Broker, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Broker{
		opts: o, store: o.Store, auth: o.Auth, log: o.Logger, id: identity.NewID(), started: time.Now(),
		rules:      status.Rules{TTL: o.StatusTTL, FreshWindow: o.HookFreshWindow},
		wheel:      wheel.New(),
		metrics:    newMetrics(),
		sends:      ratelimit.New(float64(o.SendRateBurst), float64(o.SendRatePerMin), maxBuckets),
		delivered:  ratelimit.New(float64(o.DeliveryRatePerMin), float64(o.DeliveryRatePerMin), maxBuckets),
		inbound:    ratelimit.New(inboundBurst*float64(o.InboundBytesPerSec), 60*float64(o.InboundBytesPerSec), maxBuckets),
		hookKeys:   ratelimit.New(float64(o.HookRatePerMin), float64(o.HookRatePerMin), maxBuckets),
		hookAddrs:  ratelimit.New(float64(o.HookAddrRatePerMin), float64(o.HookAddrRatePerMin), maxBuckets),
		joinAddrs:  ratelimit.New(float64(o.JoinAddrRatePerMin), float64(o.JoinAddrRatePerMin), maxBuckets),
		authFails:  ratelimit.New(float64(o.AuthFailAddrRatePerMin), float64(o.AuthFailAddrRatePerMin), maxBuckets),
		hellos:     ratelimit.New(3*float64(o.HandshakesPerSecondPerAddr), 60*float64(o.HandshakesPerSecondPerAddr), maxBuckets),
		apiKeys:    ratelimit.New(float64(o.APIRatePerMin), float64(o.APIRatePerMin), maxBuckets),
		keyUses:    ratelimit.New(1, 6, maxBuckets),
		seals:      ratelimit.New(sealsPerMinute, sealsPerMinute, maxBuckets),
		verifies:   ratelimit.New(1, 1, maxBuckets),
		ready:      make(chan struct{}),
		ops:        make(map[string]handler, len(builtin)),
		meshes:     map[string]*mesh{},
		sessions:   map[*session]struct{}{},
		handshakes: map[string]int{},
	}
	if b.auth == nil {
		b.auth = StoreAuth{Store: o.Store}
	}
	if o.InferStatus != "" {
		b.infer = &transcript.Reader{Root: o.InferStatus}
	}
	for t, h := range builtin {
		b.ops[t] = h
	}
	b.life, b.end = context.WithCancel(context.Background())
	b.patient, b.abort = context.WithCancel(context.Background())
	b.closing = make(chan struct{})
	b.mux = b.routes()
	b.work.enter()
	go b.upkeep()
	return b, nil
}

// maxBuckets bounds each map of rate limits; the least recently used key is forgotten first.
const maxBuckets = 100_000

// ServeHTTP serves the WebSocket, the REST API and the broker's other routes below whatever prefix the host mounts it at with
// http.StripPrefix. After Shutdown upgrades and API requests are answered 503, and /health/ready says so.
func (b *Broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.serving = true
	b.mu.Unlock()
	if r.ContentLength != 0 {
		// A body that no handler reads is read by the server, before the answer leaves and once more before the connection is used again. Without a
		// deadline whoever announces one and sends nothing would hold both.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // not supported: then the host's own deadline is all there is
	}
	b.mux.ServeHTTP(w, r)
}

// ErrClosed is the error of operations on a broker that was shut down.
var ErrClosed = errors.New("broker: shut down")

// Shutdown ends the broker: new work is refused (503), commits in flight finish and their acks are written, every session is closed with
// 1001, presences go into grace so that sessions find their place at the next broker, and every goroutine ends. It returns when all that is
// done, or, after dropping what is left, when ctx ends, with its error. Call it before http.Server.Shutdown, which waits for streams. A
// second call waits for the first. The store stays open.
func (b *Broker) Shutdown(ctx context.Context) error {
	b.mu.Lock()
	first := !b.closed
	if first {
		close(b.closing)
	}
	b.closed = true
	sessions := make([]*session, 0, len(b.sessions))
	for s := range b.sessions {
		sessions = append(sessions, s)
	}
	meshes := make([]*mesh, 0, len(b.meshes))
	for _, m := range b.meshes {
		meshes = append(meshes, m)
	}
	b.mu.Unlock()

	b.work.close()
	if first {
		b.log.Info("broker is shutting down", "count", len(sessions))
		for _, m := range meshes {
			m.closeStreams()
		}
		for _, s := range sessions {
			s.close(wire.CloseGoingAway, wire.ReasonShutdown)
		}
	}
	idle := make(chan struct{})
	go func() {
		b.work.wait()
		close(idle)
	}()
	// What the sessions and streams do ends by itself; upkeep ends when they are gone, and then nothing touches this broker's presences any more.
	select {
	case <-b.work.sessionsGone():
	case <-ctx.Done():
		for _, s := range sessions {
			s.drop()
		}
		b.abort()
	}
	b.end()
	select {
	case <-idle:
	case <-ctx.Done():
		b.abort()
		select { // cancelled calls return at once, unless the host's Store or Auth does not listen
		case <-idle:
		case <-time.After(abortTime):
			return ctx.Err()
		}
	}
	if first && ctx.Err() == nil {
		b.release(ctx)
	}
	b.abort()
	b.wheel.Stop()
	return ctx.Err()
}

// abortTime is what Shutdown takes beyond its context to let cancelled calls return.
const abortTime = 250 * time.Millisecond

// release leaves this broker's presences to the next one. Without it they are taken over when this broker's heartbeat is old.
func (b *Broker) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	b.saveDirty(ctx)
	if err := b.store.ReleasePresences(ctx, b.id, time.Now().UTC().Add(max(b.opts.LeaseGrace, 0)).Truncate(time.Millisecond)); err != nil {
		b.log.Warn("presences could not be released; they stay until this broker's heartbeat is old", "cause", err)
	}
}

// group is a gate and a wait group in one: nothing starts once it is closed, and wait returns when all that started has ended. Upkeep
// outlives the sessions, so they are counted apart.
type group struct {
	mu       sync.Mutex
	closed   bool
	wg       sync.WaitGroup
	sessions int           // guarded by mu
	gone     chan struct{} // closed when closed and sessions is 0; guarded by mu
}

// enter reports whether work may start; each true needs one leave.
func (g *group) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.wg.Add(1)
	return true
}

func (g *group) leave() { g.wg.Done() }

// enterSession is enter for work that upkeep must outlive: sessions, requests, commits.
func (g *group) enterSession() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.wg.Add(1)
	g.sessions++
	return true
}

// fork is enterSession for work that something already entered starts: it still succeeds after close, as long as its parent is counted.
func (g *group) fork() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed && g.sessions == 0 {
		return false
	}
	g.wg.Add(1)
	g.sessions++
	return true
}

func (g *group) leaveSession() {
	g.mu.Lock()
	g.sessions--
	if g.closed && g.sessions == 0 {
		close(g.gone)
	}
	g.mu.Unlock()
	g.wg.Done()
}

func (g *group) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	g.closed = true
	g.gone = make(chan struct{})
	if g.sessions == 0 {
		close(g.gone)
	}
}

// sessionsGone is closed when the last session has left; only after close.
func (g *group) sessionsGone() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gone
}

func (g *group) wait() { g.wg.Wait() }

// now is the time that the store is given: UTC, cut to milliseconds.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
