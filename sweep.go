package broker

import (
	"context"
	"time"

	"github.com/claudemesh/broker/internal/status"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// chore is something that is done again and again, one run at a time.
type chore struct {
	name  string
	every time.Duration
	asks  bool // its success means that the store answers
	run   func(b *Broker, ctx context.Context, t time.Time) error
	next  time.Time
}

// chores lists the sweeps; docs/architecture.md, sweeps.
func chores() []*chore {
	return []*chore{
		{name: "mirror", every: time.Second, run: func(b *Broker, ctx context.Context, _ time.Time) error { b.saveDirty(ctx); return nil }},
		{name: "heartbeat", every: 5 * time.Second, asks: true, run: func(b *Broker, ctx context.Context, t time.Time) error { return b.store.Beat(ctx, b.id, t) }},
		{name: "status", every: 15 * time.Second, run: (*Broker).sweepStatus},
		{name: "stash", every: 10 * time.Second, run: func(b *Broker, _ context.Context, t time.Time) error { b.stash.Sweep(t); return nil }},
		{name: "adopt", every: 30 * time.Second, run: func(b *Broker, ctx context.Context, _ time.Time) error { return b.adopt(ctx) }},
		{name: "liveness", every: 30 * time.Second, run: (*Broker).mirrorLiveness},
		{name: "health", every: 30 * time.Second, asks: true, run: func(b *Broker, ctx context.Context, _ time.Time) error { return b.store.Ping(ctx) }},
		{name: "queue depth", every: 30 * time.Second, run: (*Broker).measureQueue},
		{name: "checkpoint", every: time.Minute, run: (*Broker).checkpointAudit},
		{name: "buckets", every: 5 * time.Minute, run: (*Broker).sweepBuckets},
		{name: "expiry", every: time.Hour, run: (*Broker).expire},
		{name: "retention", every: time.Hour, run: (*Broker).prune},
	}
}

// upkeep runs the chores until the broker ends. The first round takes over what an earlier process left; hellos wait for it.
func (b *Broker) upkeep() {
	defer b.work.leave()
	all := chores()
	retry := time.Second
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case <-b.life.Done():
			return
		case <-tick.C:
		}
		if !b.isReady() {
			if err := b.takeOver(); err != nil {
				if b.life.Err() != nil {
					return
				}
				b.noteStore(err)
				b.log.Warn("start-up could not be finished; hellos wait", "cause", err)
				tick.Reset(retry)
				retry = min(2*retry, 30*time.Second)
				continue
			}
		}
		t := now()
		wait := time.Hour
		for _, c := range all {
			if c.next.IsZero() {
				c.next = t.Add(c.every)
			}
			if !c.next.After(t) {
				b.runChore(c, t)
			}
			wait = min(wait, c.next.Sub(now()))
		}
		tick.Reset(max(wait, 0))
	}
}

func (b *Broker) runChore(c *chore, t time.Time) {
	ctx, cancel := context.WithTimeout(b.life, storeTimeout)
	defer cancel()
	err := c.run(b, ctx, t)
	c.next = now().Add(c.every)
	if err != nil || c.asks {
		b.noteStore(err)
	}
	if err != nil && b.life.Err() == nil {
		b.log.Warn("sweep failed; it runs again", "type", c.name, "cause", err)
		c.next = now().Add(min(c.every, max(time.Second/2, b.downFor()))) // while the store is down, 0.5 s doubling
	}
	b.giveUpIfDown()
}

func (b *Broker) isReady() bool {
	select {
	case <-b.ready:
		return true
	default:
		return false
	}
}

func (b *Broker) takeOver() error {
	ctx, cancel := context.WithTimeout(b.life, storeTimeout)
	defer cancel()
	if err := b.store.Beat(ctx, b.id, now()); err != nil {
		return err
	}
	if err := b.adopt(ctx); err != nil {
		return err
	}
	b.readyOnce.Do(func() { close(b.ready) })
	b.noteStore(nil)
	b.log.Info("broker is ready")
	return nil
}

// noteStore remembers whether the store answers.
func (b *Broker) noteStore(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil:
		b.storeDown = time.Time{}
		b.metrics.dbHealthy.Set(1)
	case b.storeDown.IsZero():
		b.storeDown = time.Now()
		b.metrics.dbHealthy.Set(0)
	}
}

func (b *Broker) downFor() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.storeDown.IsZero() {
		return 0
	}
	return time.Since(b.storeDown)
}

// giveUpIfDown sends the sessions away when this broker has been without its store for half a lease, so that they reattach elsewhere.
func (b *Broker) giveUpIfDown() {
	if b.opts.LeaseGrace <= 0 || b.downFor() < b.opts.LeaseGrace/2 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.sessions {
		s.close(wire.CloseTryLater, wire.ReasonNoStore)
	}
}

// sweepStatus lets stale statuses decay, and reads transcripts where that is switched on.
func (b *Broker) sweepStatus(_ context.Context, t time.Time) error {
	b.metrics.ttlSweeps.Inc()
	for _, m := range b.allMeshes() {
		m.mu.Lock()
		online := make([]*presence, 0, len(m.presences))
		for _, p := range m.presences {
			if p.sess != nil {
				online = append(online, p)
			}
		}
		m.mu.Unlock()
		for _, p := range online {
			b.inferStatus(p, t)
			p.signal(func(prev status.State) (status.State, status.Effect) { return b.rules.Sweep(prev, t) })
		}
		m.release()
	}
	return nil
}

// inferStatus reads a loopback session's transcript.
func (b *Broker) inferStatus(p *presence, t time.Time) {
	if b.infer == nil {
		return
	}
	p.mesh.mu.Lock()
	s, cwd := p.sess, p.row.Cwd
	p.mesh.mu.Unlock()
	if s == nil || !fromThisMachine(s.req) {
		return
	}
	if inferred, found := b.infer.Infer(cwd); found {
		p.signal(func(prev status.State) (status.State, status.Effect) {
			return b.rules.Infer(prev, status.Status(inferred), t)
		})
	}
}

// mirrorLiveness writes when sessions were last heard of, for other processes and for the next one.
func (b *Broker) mirrorLiveness(_ context.Context, _ time.Time) error {
	for _, m := range b.allMeshes() {
		m.mu.Lock()
		for _, p := range m.presences {
			if p.sess == nil {
				continue
			}
			if at := time.UnixMilli(p.sess.alive.Load()).UTC(); at.After(p.row.LastPingAt) {
				p.row.LastPingAt = at
				p.changedLocked()
			}
		}
		m.mu.Unlock()
		m.release()
	}
	b.forgetIdle()
	return nil
}

func (b *Broker) measureQueue(ctx context.Context, _ time.Time) error {
	n, err := b.store.PendingCount(ctx)
	if err == nil {
		b.metrics.queueDepth.Set(n)
	}
	return err
}

// idleBucket is how long an untouched rate limit is remembered.
const idleBucket = 10 * time.Minute

func (b *Broker) sweepBuckets(_ context.Context, t time.Time) error {
	b.sends.Sweep(t, idleBucket)
	b.delivered.Sweep(t, idleBucket)
	b.inbound.Sweep(t, idleBucket)
	b.hookKeys.Sweep(t, idleBucket)
	b.hookAddrs.Sweep(t, idleBucket)
	b.joinAddrs.Sweep(t, idleBucket)
	b.authFails.Sweep(t, idleBucket)
	b.hellos.Sweep(t, idleBucket)
	b.apiKeys.Sweep(t, idleBucket)
	b.keyUses.Sweep(t, idleBucket)
	b.seals.Sweep(t, idleBucket)
	for _, m := range b.allMeshes() {
		m.forgetStrikes(t)
		m.release()
	}
	b.verifies.Sweep(t, idleBucket)
	return nil
}

// expirePage is how many deliveries one step expires.
const expirePage = 1000

func (b *Broker) expire(ctx context.Context, t time.Time) error {
	for {
		gone, err := b.store.Expire(ctx, t, max(b.opts.SessionMailTTL, 0), expirePage)
		if err != nil {
			return err
		}
		b.metrics.expired.Add(uint64(len(gone)))
		b.settle(gone)
		if len(gone) < expirePage {
			return nil
		}
	}
}

func (b *Broker) prune(ctx context.Context, t time.Time) error {
	keep := store.Retention{
		Presences: maxSessionSeen, Notifications: 90 * 24 * time.Hour, APIKeys: 30 * 24 * time.Hour,
		Topics: max(b.opts.TopicRetention, 0), Messages: 24 * time.Hour,
	}
	for {
		done, err := b.store.Prune(ctx, t, keep)
		if err != nil || done {
			return err
		}
	}
}
