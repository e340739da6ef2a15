// Package wheel runs a great many timers on one goroutine.
//
// Every session has pings, leases and redeliveries to come, and nearly all of them are moved or stopped before they are
// due. A [Wheel] makes that cheap: a timer is a link in one of 512 lists, chosen by the tick of 50 ms in which it is due,
// so that setting, moving and stopping cost the same however many there are. In exchange a timer fires up to one tick
// late. It never fires early.
//
// The goroutine sleeps until the next tick that has timers, and when there are none until one is set. It uses package time
// directly, so a wheel made inside a testing/synctest bubble follows the bubble's clock.
package wheel

import (
	"math"
	"math/bits"
	"sync"
	"time"
)

// Tick is the wheel's resolution: a timer fires at most so long after it is due, as long as callbacks are quick.
const Tick = 50 * time.Millisecond

// slots is the number of lists, a power of two. A timer further away than slots*Tick, 25.6 s, is passed over once per turn.
const slots = 512

// Wheel is a set of timers. It is safe for concurrent use. Its lock is never held while a callback runs, so timers may be
// set, moved and stopped under any lock of the caller's, and in callbacks.
type Wheel struct {
	start   time.Time     // tick 0; set once
	wake    chan struct{} // capacity 1: the next tick with timers has come closer
	quit    chan struct{} // closed by Stop
	stopped chan struct{} // closed when the goroutine is done

	mu       sync.Mutex
	closed   bool               // guarded by mu
	now      int64              // guarded by mu: the tick up to which slots were emptied
	next     int64              // guarded by mu: the tick for which the goroutine sleeps
	pending  int                // guarded by mu: timers in slots and due
	slot     [slots]list        // guarded by mu: timers by tick modulo slots, in the order in which they were set
	occupied [slots / 64]uint64 // guarded by mu: a bit per slot that is not empty
	due      list               // guarded by mu: timers taken out of their slot, to be run next
}

// Timer is a callback that a wheel is to run. [Wheel.After] makes it.
type Timer struct {
	wheel      *Wheel
	fn         func()
	in         *list  // guarded by wheel.mu: the list it is in; nil when it is not pending
	prev, next *Timer // guarded by wheel.mu
	tick       int64  // guarded by wheel.mu: when it is due
}

// never is the tick for which a wheel without timers sleeps.
const never = math.MaxInt64

// New starts a wheel. Whoever starts it calls Stop.
func New() *Wheel {
	w := &Wheel{
		start:   time.Now(),
		wake:    make(chan struct{}, 1),
		quit:    make(chan struct{}),
		stopped: make(chan struct{}),
		next:    never,
	}
	go w.run()
	return w
}

// Stop ends the wheel and waits for its goroutine, thus for a callback that is running; so a callback must not call it.
// No callback runs after Stop returns. Calling it twice is fine. Timers set later never fire.
func (w *Wheel) Stop() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.quit)
	}
	w.mu.Unlock()
	<-w.stopped
}

// Len returns how many timers are pending.
func (w *Wheel) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pending
}

// After runs fn once, when d has passed, and at most one tick later; a d of zero or less means with the next tick. All
// callbacks of a wheel run one after another on its goroutine, those of one tick in the order in which they were set. So
// fn must not block and must be quick: it hands longer work to somebody else.
func (w *Wheel) After(d time.Duration, fn func()) *Timer {
	t := &Timer{wheel: w, fn: fn}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addLocked(t, d)
	return t
}

// Stop prevents the timer from firing and reports whether it did: false means that the callback has begun, or was stopped
// before. It does not wait for a callback that is running.
func (t *Timer) Stop() bool {
	t.wheel.mu.Lock()
	defer t.wheel.mu.Unlock()
	return t.wheel.removeLocked(t)
}

// Reset makes the timer fire when d has passed from now, whether or not it has fired or was stopped, and reports whether
// it was pending. A timer may reset itself in its callback.
func (t *Timer) Reset(d time.Duration) bool {
	t.wheel.mu.Lock()
	defer t.wheel.mu.Unlock()
	was := t.wheel.removeLocked(t)
	t.wheel.addLocked(t, d)
	return was
}

func (w *Wheel) addLocked(t *Timer, d time.Duration) {
	if w.closed {
		return
	}
	elapsed := time.Since(w.start)
	if w.pending == 0 { // while there were no timers nobody counted ticks
		w.now = max(w.now, int64(elapsed/Tick))
	}
	d = min(max(d, 0), math.MaxInt64-elapsed-Tick)
	t.tick = max(int64((elapsed+d+Tick-1)/Tick), w.now+1)
	i := t.tick % slots
	w.slot[i].push(t)
	w.occupied[i/64] |= 1 << (i % 64)
	w.pending++
	if t.tick < w.next {
		w.next = t.tick // so that of many new timers only the first wakes the goroutine
		select {
		case w.wake <- struct{}{}:
		default: // it has been told and not yet looked
		}
	}
}

func (w *Wheel) removeLocked(t *Timer) bool {
	in := t.in
	if in == nil {
		return false
	}
	in.remove(t)
	w.pending--
	if i := t.tick % slots; in == &w.slot[i] && in.first == nil {
		w.occupied[i/64] &^= 1 << (i % 64)
	}
	return true
}

func (w *Wheel) run() {
	defer close(w.stopped)
	alarm := time.NewTimer(math.MaxInt64)
	defer alarm.Stop()
	for {
		if wait, ok := w.advance(); ok {
			alarm.Reset(wait)
		} else {
			alarm.Stop()
		}
		select {
		case <-w.quit:
			return
		case <-w.wake:
		case <-alarm.C:
		}
	}
}

// advance runs all timers that are due and returns how long nothing will be; ok is false when no timer is left.
func (w *Wheel) advance() (wait time.Duration, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		w.runDueLocked()
		tick := w.nextOccupiedLocked()
		if w.closed || tick == never {
			w.next = never
			return 0, false
		}
		if wait := time.Duration(tick)*Tick - time.Since(w.start); wait > 0 {
			w.next = tick
			return wait, true
		}
		w.now = tick
		w.collectLocked(tick)
	}
}

// collectLocked moves the timers of tick from their slot to due and leaves those of later turns.
func (w *Wheel) collectLocked(tick int64) {
	i := tick % slots
	for t := w.slot[i].first; t != nil; {
		following := t.next
		if t.tick == tick {
			w.slot[i].remove(t)
			w.due.push(t)
		}
		t = following
	}
	if w.slot[i].first == nil {
		w.occupied[i/64] &^= 1 << (i % 64)
	}
}

// runDueLocked runs what is in due, each without the lock, so that until its turn a timer can still be stopped.
func (w *Wheel) runDueLocked() {
	for t := w.due.first; t != nil && !w.closed; t = w.due.first {
		w.removeLocked(t)
		w.mu.Unlock()
		t.fn()
		w.mu.Lock()
	}
}

// nextOccupiedLocked returns the first tick after now whose slot has timers, perhaps of a later turn, or never.
func (w *Wheel) nextOccupiedLocked() int64 {
	from := (w.now + 1) % slots
	for n := int64(0); n < slots; { // word by word, and the word of from again at the end, for its lower bits
		i := (from + n) % slots
		if word := w.occupied[i/64] >> (i % 64); word != 0 {
			return w.now + 1 + n + int64(bits.TrailingZeros64(word))
		}
		n += 64 - i%64
	}
	return never
}

// list is a doubly linked list of timers. Its zero value is empty.
type list struct{ first, last *Timer }

func (l *list) push(t *Timer) {
	t.in, t.prev, t.next = l, l.last, nil
	if l.last == nil {
		l.first = t
	} else {
		l.last.next = t
	}
	l.last = t
}

func (l *list) remove(t *Timer) {
	if t.prev == nil {
		l.first = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		l.last = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.in, t.prev, t.next = nil, nil, nil
}
