// Package ratelimit refuses what comes too often, with token buckets.
//
// A bucket starts full. Time fills it, up to its capacity; each permitted event takes one token, or several. Fractions of a
// token count. A bucket can be in debt: by an event that takes more than the bucket holds when full, or by one that is delayed
// instead of refused. Then time pays that first. [Buckets] keeps one bucket per key, of which it knows a bounded number; [Bucket] is a single one, for what lives
// as long as a connection. Neither reads a clock. A negative capacity or rate means unlimited; zero is taken at its word,
// so whoever has a default has applied it before.
package ratelimit

import (
	"container/list"
	"math"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// DefaultMaxKeys is how many keys [Buckets] knows unless told otherwise.
const DefaultMaxKeys = 100_000

// enough is the part of a token that must be there for the token to be taken: all of it, less what adding up fractions may have
// lost. Without the allowance ten refills of a tenth would not make a token.
const enough = 1 - 1e-9

// limit is what all buckets of one kind share.
type limit struct {
	capacity  float64 // tokens
	perMinute float64 // tokens
}

func (l limit) unlimited() bool { return l.capacity < 0 || l.perMinute < 0 }

// level is what one bucket holds: tokens at the time at. The zero value is a bucket that nobody has used, thus full.
type level struct {
	tokens float64
	at     time.Time
	used   bool
}

// refill brings v up to now. A time before the last one adds nothing, and what it skips back is not added again later.
func (v *level) refill(l limit, now time.Time) {
	if !v.used {
		*v = level{tokens: l.capacity, at: now, used: true}
		return
	}
	if elapsed := now.Sub(v.at); elapsed > 0 {
		v.tokens = min(l.capacity, v.tokens+elapsed.Minutes()*l.perMinute)
		v.at = now
	}
}

// needs returns the level from which n tokens may be taken, and whether there is one. More than the capacity may be taken from a
// full bucket: refused for ever it would be of no use, and the debt keeps the rate.
func (l limit) needs(n float64) (float64, bool) {
	return min(n, l.capacity) * enough, n <= 0 || l.capacity >= enough
}

func (v *level) take(l limit, n float64, now time.Time) bool {
	v.refill(l, now)
	from, ever := l.needs(n)
	if !ever || v.tokens < from {
		return false
	}
	v.tokens -= n
	if v.tokens < 0 && v.tokens > -n*(1-enough) { // what the allowance gave
		v.tokens = 0
	}
	return true
}

// owe takes n tokens whether they are there or not, and returns how long after now what is missing is there.
func (v *level) owe(l limit, n float64, now time.Time) time.Duration {
	v.refill(l, now)
	v.tokens -= n
	return v.until(l, 0, now)
}

func (v *level) refund(l limit, n float64, now time.Time) {
	v.refill(l, now)
	v.tokens = min(l.capacity, v.tokens+n)
}

// retryAfter returns how long after now take succeeds again, rounded up to a millisecond.
func (v level) retryAfter(l limit, n float64, now time.Time) time.Duration {
	v.refill(l, now)
	from, ever := l.needs(n)
	switch {
	case !ever:
		return math.MaxInt64
	case v.tokens >= from:
		return 0
	}
	return v.until(l, min(n, l.capacity), now)
}

// until returns how long after now the bucket holds as many tokens, rounded up to a millisecond.
func (v level) until(l limit, tokens float64, now time.Time) time.Duration {
	at := now
	if v.used && v.at.After(now) {
		at = v.at // nothing is added until the clock is back there
	}
	v.refill(l, now)
	if v.tokens >= tokens {
		return 0
	}
	ms := math.Ceil((tokens - v.tokens) / l.perMinute * 60_000)
	if !(ms < math.MaxInt64/1e6) { // never, or as good as
		return math.MaxInt64
	}
	return at.Sub(now) + time.Duration(ms)*time.Millisecond
}

// Bucket is a single token bucket. It is not safe for concurrent use; its owner guards it.
type Bucket struct {
	limit limit
	level level
}

// NewBucket returns a full bucket of capacity tokens that gains perMinute tokens a minute. If either is negative, it is
// unlimited.
func NewBucket(capacity, perMinute float64) Bucket {
	return Bucket{limit: limit{capacity, perMinute}}
}

// Take takes a token at now, and reports false if there is none.
func (b *Bucket) Take(now time.Time) bool {
	return b.limit.unlimited() || b.level.take(b.limit, 1, now)
}

// Refund gives a token back, up to the capacity.
func (b *Bucket) Refund(now time.Time) {
	if !b.limit.unlimited() {
		b.level.refund(b.limit, 1, now)
	}
}

// RetryAfter returns how long after now Take succeeds, in whole milliseconds: 0 if at once, the largest duration if never.
func (b *Bucket) RetryAfter(now time.Time) time.Duration {
	if b.limit.unlimited() {
		return 0
	}
	return b.level.retryAfter(b.limit, 1, now)
}

// Buckets is a token bucket per key. It is safe for concurrent use. When it knows too many keys it forgets the one that
// was used least recently, which then has a full bucket again: the bound protects memory, so it must be larger than the
// number of keys that are busy at a time.
type Buckets struct {
	limit   limit
	maxKeys int

	mu     sync.Mutex
	byKey  map[string]*list.Element // guarded by mu; values are *entry
	recent list.List                // guarded by mu; the same entries, most recently used first
}

type entry struct {
	key   string
	level level
}

// New returns buckets of capacity tokens, each gaining perMinute tokens a minute; if either is negative, everything is
// permitted and no key is kept. maxKeys bounds the keys it knows: 0 means [DefaultMaxKeys], negative means no bound.
func New(capacity, perMinute float64, maxKeys int) *Buckets {
	if maxKeys == 0 {
		maxKeys = DefaultMaxKeys
	}
	return &Buckets{limit: limit{capacity, perMinute}, maxKeys: maxKeys, byKey: map[string]*list.Element{}}
}

// Take takes a token of key at now, and reports false if there is none. Callers bound the length of keys.
func (b *Buckets) Take(key string, now time.Time) bool { return b.TakeN(key, 1, now) }

// TakeN takes n tokens of key at now, or none and reports false if there are fewer. More than the capacity is taken only from a
// full bucket, which then is in debt: nothing else is taken until time has paid that. Of no tokens there are always enough.
func (b *Buckets) TakeN(key string, n int, now time.Time) bool {
	if b.limit.unlimited() || n <= 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.levelLocked(key).take(b.limit, float64(n), now)
}

// Owe takes n tokens of key at now, whether they are there or not, and returns how long to wait until what was missing is there, in
// whole milliseconds. Whoever waits that long each time keeps to the rate, and nobody who shares the bucket is passed by for ever.
func (b *Buckets) Owe(key string, n int, now time.Time) time.Duration {
	if b.limit.unlimited() || n <= 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.levelLocked(key).owe(b.limit, float64(n), now)
}

// levelLocked returns the level of a key that is being used.
func (b *Buckets) levelLocked(key string) *level {
	e, ok := b.byKey[key]
	if ok {
		b.recent.MoveToFront(e)
	} else {
		if b.maxKeys > 0 && len(b.byKey) >= b.maxKeys {
			b.dropLocked(b.recent.Back())
		}
		key = strings.Clone(key) // which may be a piece of a large frame
		e = b.recent.PushFront(&entry{key: key})
		b.byKey[key] = e
	}
	return &e.Value.(*entry).level
}

// Refund gives a token of key back, up to the capacity, as for a send that turned out to be a repetition.
func (b *Buckets) Refund(key string, now time.Time) { b.RefundN(key, 1, now) }

// RefundN gives n tokens of key back, up to the capacity.
func (b *Buckets) RefundN(key string, n int, now time.Time) {
	if n <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if e, ok := b.byKey[key]; ok { // an unknown key has a full bucket
		e.Value.(*entry).level.refund(b.limit, float64(n), now)
	}
}

// RetryAfter returns how long after now Take succeeds for key, in whole milliseconds: 0 if at once, the largest duration
// if never. It takes nothing and does not count as use.
func (b *Buckets) RetryAfter(key string, now time.Time) time.Duration {
	return b.RetryAfterN(key, 1, now)
}

// RetryAfterN is RetryAfter for TakeN.
func (b *Buckets) RetryAfterN(key string, n int, now time.Time) time.Duration {
	if b.limit.unlimited() {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var v level
	if e, ok := b.byKey[key]; ok {
		v = e.Value.(*entry).level
	}
	return v.retryAfter(b.limit, float64(n), now)
}

// Sweep forgets the keys that were not used for at least idle and whose buckets are full again, so that forgetting them
// gives nothing away. It returns how many those were.
func (b *Buckets) Sweep(now time.Time, idle time.Duration) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := len(b.byKey)
	for e := b.recent.Back(); e != nil; {
		v, next := e.Value.(*entry).level, e.Prev()
		if now.Sub(v.at) < idle {
			break // those in front were used later
		}
		if v.refill(b.limit, now); v.tokens >= b.limit.capacity {
			b.dropLocked(e)
		}
		e = next
	}
	return before - len(b.byKey)
}

// Len returns how many keys are known.
func (b *Buckets) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.byKey)
}

func (b *Buckets) dropLocked(e *list.Element) {
	b.recent.Remove(e)
	delete(b.byKey, e.Value.(*entry).key)
}

// AddrKey returns the key under which a remote address is limited: the address itself for IPv4, also when it is mapped
// into IPv6; the /64 network for IPv6, because whoever has one address of it has them all.
func AddrKey(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if !addr.Is6() {
		return addr.String()
	}
	network, _ := addr.Prefix(64) // cannot fail: 64 is a legal length and the zone is gone
	return network.String()
}
