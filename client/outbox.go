package client

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/claudemesh/broker/wire"
)

const (
	// maxOpen bounds the requests that wait for an answer, sends included. The broker takes at most 256 sends in flight.
	maxOpen = 256
	// maxControl bounds the requests other than sends that are on the wire at once, below the broker's burst of 120.
	maxControl = 64
	// maxStrikeWait is the longest pause after refusals for being too fast.
	maxStrikeWait = 8 * time.Second
)

// lane is the flow of one kind of requests: sends and others have their own rate limits at the broker.
type lane struct {
	limit    int       // how many may be on the wire: 1 after a refusal for being too fast, one more for each answer
	most     int       // the highest limit
	inflight int       // how many are on the wire
	until    time.Time // nothing is written before
	strikes  int       // refusals in a row
}

func (l *lane) ok() {
	l.strikes = 0
	l.limit = min(l.limit+1, l.most)
}

// strike slows the lane down: 1, 2, 4, 8 s. The broker refills one send a second, which is when the first retry comes.
func (l *lane) strike(now time.Time) {
	if now.Before(l.until) {
		return // one of several that were on the wire together: they are one refusal
	}
	l.until = now.Add(min(time.Second<<l.strikes, maxStrikeWait))
	l.strikes = min(l.strikes+1, 4)
	l.limit = 1
}

// request is one frame that waits for its reply. The outbox guards all of it but done.
type request struct {
	seq   uint64
	id    string // its _reqId
	typ   string
	frame []byte
	lane  *lane
	// again says that the request may be written to a second connection when the first was lost: doing it twice does nothing more.
	again   bool
	queued  bool // waits in queue to be written
	written bool // is on the wire
	wrote   bool // was ever on a wire
	last    error
	done    chan reply // takes the one answer
}

type reply struct {
	typ   string
	frame []byte
	err   error
}

// ending is the error of a request that the end of the client cuts off.
func (r *request) ending(err error) error {
	if r.wrote {
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return err
}

// outbox holds what goes to the broker until it is answered: requests in the order in which they were made, and
// acknowledgements. It knows nothing of connections but that one was lost. It is safe for concurrent use.
type outbox struct {
	wake  chan struct{} // has a value when there may be something to write
	slots chan struct{} // one for each request from enter to leave
	ended chan struct{} // closed by fail

	mu       sync.Mutex
	seq      uint64
	queue    []*request          // to be written, ascending seq
	wire     map[string]*request // on the wire, by _reqId
	acks     []ack               // messages to be acknowledged
	raw      [][]byte            // frames without an answer, written before everything else
	sends    lane
	controls lane
	err      error         // why nothing is accepted any more
	drained  chan struct{} // closed when all is written and answered; nil until drain
}

func newOutbox() *outbox {
	return &outbox{
		wake: make(chan struct{}, 1), slots: make(chan struct{}, maxOpen), ended: make(chan struct{}), wire: map[string]*request{},
		sends: lane{limit: maxOpen, most: maxOpen}, controls: lane{limit: maxControl, most: maxControl},
	}
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// enter waits for a place among the open requests.
func (o *outbox) enter(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case o.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-o.ended:
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.err
	}
}

func (o *outbox) leave() { <-o.slots }

// number reserves the place and the _reqId of a request that is about to be added.
func (o *outbox) number() (uint64, string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seq++
	return o.seq, "q" + strconv.FormatUint(o.seq, 10)
}

// add queues r.
func (o *outbox) add(r *request) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	if o.drained != nil {
		return ErrClosed
	}
	if r.lane = &o.controls; r.typ == wire.TypeSend {
		r.lane = &o.sends
	}
	o.enqueueLocked(r)
	o.signal()
	return nil
}

// enqueueLocked puts r where its number belongs: a request that is written again goes before those made after it.
func (o *outbox) enqueueLocked(r *request) {
	r.queued, r.written = true, false
	i := len(o.queue)
	for i > 0 && o.queue[i-1].seq > r.seq {
		i--
	}
	o.queue = slices.Insert(o.queue, i, r)
}

// drop forgets r, whose caller has gone, and reports whether it was ever on a wire and the last refusal that made it wait.
func (o *outbox) drop(r *request) (wrote bool, last error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r.queued {
		o.queue = slices.DeleteFunc(o.queue, func(q *request) bool { return q == r })
		r.queued = false
	}
	if r.written {
		o.takeLocked(r)
	}
	return r.wrote, r.last
}

func (o *outbox) takeLocked(r *request) {
	delete(o.wire, r.id)
	r.written = false
	r.lane.inflight--
	o.signal() // a place in the lane is free, or draining is over
}

// settle takes the request with this id off the wire, because it was answered; nil when nobody waits for it.
func (o *outbox) settle(id string) *request {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.wire[id]
	if r != nil {
		o.takeLocked(r)
	}
	return r
}

// accept notes that the broker had time for r.
func (o *outbox) accept(r *request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r.lane.ok()
}

// retry writes r again later, because it was refused for now with err.
func (o *outbox) retry(r *request, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r.last = err
	if o.err != nil {
		r.done <- reply{err: r.ending(o.err)}
		return
	}
	r.lane.strike(time.Now())
	o.enqueueLocked(r)
	o.signal()
}

// ack acknowledges one message.
type ack struct {
	id      string
	receipt *wire.Receipt // nil: unsigned
}

// ack queues acknowledgements. They are not kept after they were written: what was lost with a connection is pushed again,
// recognised, and acknowledged again.
func (o *outbox) ack(acks ...ack) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.acks = append(o.acks, acks...)
		o.signal()
	}
}

// post queues frames that have no answer, ahead of everything else.
func (o *outbox) post(frames ...[]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.raw = append(o.raw, frames...)
		o.signal()
	}
}

// next returns the next frame to write. Without one it says for how long there is surely none, 0 for until the next signal. batch and signs say
// whether the broker takes several ids, and receipts, in one client_ack.
func (o *outbox) next(batch, signs bool) (frame []byte, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return nil, 0
	}
	if len(o.raw) > 0 {
		frame, o.raw = o.raw[0], o.raw[1:]
		return frame, 0
	}
	if len(o.acks) > 0 {
		n := min(len(o.acks), maxAcks(batch, signs))
		if !signs {
			for i := range o.acks[:n] {
				o.acks[i].receipt = nil
			}
		}
		frame = ackFrame(o.acks[:n], "")
		if o.acks = o.acks[n:]; len(o.acks) == 0 {
			o.acks = nil
		}
		return frame, 0
	}
	now := time.Now()
	for i, r := range o.queue {
		l := r.lane
		if l.inflight >= l.limit {
			continue
		}
		if d := l.until.Sub(now); d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		o.queue = slices.Delete(o.queue, i, i+1)
		r.queued, r.written, r.wrote = false, true, true
		l.inflight++
		o.wire[r.id] = r
		return r.frame, 0
	}
	if o.drained != nil && len(o.queue) == 0 && len(o.wire) == 0 {
		select {
		case <-o.drained:
		default:
			close(o.drained)
		}
	}
	return nil, wait
}

// lost prepares for the next connection: what was on the wire is written again, or fails because that would do it twice.
func (o *outbox) lost() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.wire {
		if r.again {
			o.enqueueLocked(r)
		} else {
			r.written = false
			r.done <- reply{err: ErrOutcomeUnknown}
		}
	}
	clear(o.wire)
	o.acks, o.raw = nil, nil
	o.sends.inflight, o.controls.inflight = 0, 0
	o.signal()
}

// drain accepts nothing more, queues the last frames, and returns a channel that is closed when all is written and answered.
func (o *outbox) drain(last ...[]byte) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drained = make(chan struct{})
	if o.err != nil {
		close(o.drained)
		return o.drained
	}
	for _, frame := range last {
		if frame != nil {
			o.raw = append(o.raw, frame)
		}
	}
	o.signal()
	return o.drained
}

// fail ends every open request with err, and those to come.
func (o *outbox) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return
	}
	o.err = err
	close(o.ended)
	for _, r := range o.queue {
		r.queued = false
		r.done <- reply{err: r.ending(err)}
	}
	for _, r := range o.wire {
		r.written = false
		r.done <- reply{err: r.ending(err)}
	}
	o.queue, o.acks, o.raw = nil, nil, nil
	clear(o.wire)
	o.signal()
}

// maxAcks is how many messages one client_ack acknowledges at most.
func maxAcks(batch, signs bool) int {
	switch {
	case !batch:
		return 1
	case signs:
		return wire.MaxReceipts
	default:
		return wire.MaxBatchAcks
	}
}

// ackFrame writes a client_ack.
func ackFrame(acks []ack, reqID string) []byte {
	f := struct {
		Type     string          `json:"type"`
		One      string          `json:"brokerMessageId,omitempty"`
		Many     []string        `json:"brokerMessageIds,omitempty"`
		Receipts []*wire.Receipt `json:"receipts,omitempty"`
		ReqID    string          `json:"_reqId,omitempty"`
	}{Type: wire.TypeClientAck, ReqID: reqID}
	for _, a := range acks {
		if a.receipt != nil {
			f.Receipts = append(f.Receipts, a.receipt)
		}
		if len(acks) == 1 {
			f.One = a.id
		} else {
			f.Many = append(f.Many, a.id)
		}
	}
	frame, _ := wire.Encode(f) // strings and whole numbers always encode
	return frame
}
