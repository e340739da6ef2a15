package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// A stream is GET /topics/{name}/stream: the posts of a topic as server-sent events, each once, in order, with none left out. It has one
// cursor, the seq of the last post that it wrote, and only ever asks the store for what lies above it; a wake says no more than "look".

// streams are the event streams of one mesh. The zero value has none.
type streams struct {
	mu      sync.Mutex
	byTopic map[string]map[*stream]struct{} // by topic id; guarded by mu
	perKey  map[string]int                  // how many each credential has; guarded by mu
	closed  bool                            // guarded by mu
}

// stream is one client that reads one topic.
type stream struct {
	topicID  string
	memberID string // whom it reads for; may be empty
	keyID    string // Grant.ID
	key      string // of the bound
	w        http.ResponseWriter

	look chan struct{} // holds one token: there may be something to read
	done chan struct{} // closed by end

	mu      sync.Mutex
	rc      *http.ResponseController // nil once the request is over; guarded by mu
	writing bool                     // guarded by mu
	ended   bool                     // guarded by mu
}

const (
	// streamBeat is the time between heartbeats of a stream, and how often it looks at its rights and its topic unasked.
	streamBeat = 30 * time.Second
	// streamWrite is how long one write may take: a client that has stopped reading ends its stream.
	streamWrite = 30 * time.Second
	// streamPage is how many posts are read from the store at a time.
	streamPage = 200
	// streamChunk is how many bytes are collected into one write.
	streamChunk = 64 << 10
)

const codeTooManyStreams wire.Code = "too_many_streams"

// errStreamEnded is why a stream that the broker ended writes nothing more.
var errStreamEnded = errors.New("stream ended")

// wake lets a topic's streams look for posts. It never blocks, and losing or doubling one is harmless.
func (ss *streams) wake(topicID string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for s := range ss.byTopic[topicID] {
		select {
		case s.look <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// wakeAll lets every stream look for posts.
func (ss *streams) wakeAll() {
	ss.mu.Lock()
	topics := slices.Collect(maps.Keys(ss.byTopic))
	ss.mu.Unlock()
	for _, t := range topics {
		ss.wake(t)
	}
}

// empty reports whether there is no stream.
func (ss *streams) empty() bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return len(ss.byTopic) == 0
}

// add takes a stream in, or says why not.
func (ss *streams) add(s *stream, maxPerKey int) error {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.closed {
		return ErrClosed
	}
	if maxPerKey > 0 && ss.perKey[s.key] >= maxPerKey {
		return &restFault{
			Fault:      &wire.Fault{Code: codeTooManyStreams, Text: fmt.Sprintf("this key has %d streams already", maxPerKey)},
			retryAfter: streamBeat,
		}
	}
	if ss.byTopic == nil {
		ss.byTopic, ss.perKey = map[string]map[*stream]struct{}{}, map[string]int{}
	}
	if ss.byTopic[s.topicID] == nil {
		ss.byTopic[s.topicID] = map[*stream]struct{}{}
	}
	ss.byTopic[s.topicID][s] = struct{}{}
	ss.perKey[s.key]++
	return nil
}

func (ss *streams) remove(s *stream) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.byTopic[s.topicID], s)
	if len(ss.byTopic[s.topicID]) == 0 {
		delete(ss.byTopic, s.topicID)
	}
	if ss.perKey[s.key]--; ss.perKey[s.key] == 0 {
		delete(ss.perKey, s.key)
	}
}

// matching lists streams.
func (ss *streams) matching(match func(*stream) bool, last bool) []*stream {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.closed = ss.closed || last
	var found []*stream
	for _, of := range ss.byTopic {
		for s := range of {
			if match(s) {
				found = append(found, s)
			}
		}
	}
	return found
}

// endStreams ends the mesh's streams that match. They end at once; a client that still has the right comes back and resumes.
func (m *mesh) endStreams(match func(*stream) bool) {
	for _, s := range m.streams.matching(match, false) {
		s.end()
	}
}

// closeStreams ends all streams of the mesh and lets no more in.
func (m *mesh) closeStreams() {
	for _, s := range m.streams.matching(func(*stream) bool { return true }, true) {
		s.end()
	}
}

// endStreams ends the streams of a mesh that match.
func (b *Broker) endStreams(meshID string, match func(*stream) bool) {
	if m := b.loaded(meshID); m != nil {
		m.endStreams(match)
		m.release()
	}
}

// end ends the stream. A write that its client holds up is broken off.
func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	close(s.done)
	if s.writing && s.rc != nil {
		_ = s.rc.SetWriteDeadline(time.Now()) // not supported: the write ends with its connection
	}
}

// send writes and flushes p.
func (s *stream) send(p []byte) error {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return errStreamEnded
	}
	s.writing = true
	_ = s.rc.SetWriteDeadline(time.Now().Add(streamWrite)) // not supported: the host's own deadline is all there is
	s.mu.Unlock()
	_, err := s.w.Write(p)
	if err == nil {
		err = s.rc.Flush()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = false
	if !s.ended {
		_ = s.rc.SetWriteDeadline(time.Time{}) // likewise
	}
	return err
}

// appendSSE writes one event after p. Data has no line breaks.
func appendSSE(p []byte, event, id string, data []byte) []byte {
	p = append(append(p, "event: "...), event...)
	if id != "" {
		p = append(append(p, "\nid: "...), id...)
	}
	p = append(append(p, "\ndata: "...), data...)
	return append(p, "\n\n"...)
}

// errorEvent is an event that says that something is amiss while the stream goes on.
func errorEvent(code string) []byte {
	return appendSSE(nil, "error", "", []byte(`{"error":"`+code+`"}`))
}

// Errors that a stream tells its client and goes on.
const (
	streamGap         = "resume_gap"  // posts may be missing between Last-Event-ID and what follows
	streamUnavailable = "unavailable" // the store does not answer; the stream tries again
)

// getStream is GET /topics/{name}/stream.
type getStream struct{ lastID string }

func (q *getStream) read(c *apiCall) error {
	q.lastID = strings.TrimSpace(c.r.Header.Get("Last-Event-ID"))
	return nil
}

func (q *getStream) run(ctx context.Context, c *apiCall) (any, error) {
	m, err := c.b.mesh(ctx, c.by.MeshID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errBadKey // archived since the key was looked at
	}
	if err != nil {
		return nil, fmt.Errorf("mesh: %w", err)
	}
	defer m.release()
	rc := http.NewResponseController(c.w)
	s := &stream{
		topicID: c.topic.ID, memberID: c.by.Member.ID, keyID: c.by.key.ID, key: c.by.credential(), w: c.w, rc: rc,
		look: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if err := m.streams.add(s, c.b.opts.MaxStreamsPerKey); err != nil {
		return nil, err
	}
	defer func() {
		m.streams.remove(s)
		s.mu.Lock()
		s.rc = nil
		s.mu.Unlock()
	}()
	if c.b.isClosed() { // Shutdown may have passed this mesh before the stream was in it
		return nil, ErrClosed
	}
	// From here on a wake is not lost; what was posted before it lies above the cursor or was there when the client connected.
	r := &reader{b: c.b, s: s, meshID: c.by.MeshID}
	if err := r.start(ctx, q.lastID); err != nil {
		return nil, err
	}
	// Still the same topic and rights? They may have gone while the stream was on its way in, when nobody could end it.
	if err := c.mayStillRead(ctx); err != nil {
		return nil, err
	}

	if c.r.ContentLength == 0 { // else the client owes a body, and its stream ends when the time for that does
		_ = rc.SetReadDeadline(time.Time{}) // a host's deadline for requests must not end a stream
	}
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	if c.r.ProtoMajor == 1 {
		h.Set("Connection", "close") // the deadlines set here are no other request's
	}
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method == http.MethodHead {
		return nil, nil
	}
	if err := r.serve(c); err != nil {
		c.b.log.Debug("stream ended", "mesh", c.by.MeshID, "cause", err)
	}
	return nil, nil
}

// mayStillRead asks again who the request speaks for and whether that may read the topic. Any refusal means that it may not.
func (c *apiCall) mayStillRead(ctx context.Context) error {
	g, err := c.b.auth.Request(ctx, c.r)
	if err == nil && (g.MeshID != c.by.MeshID || g.Member.ID != c.by.Member.ID || g.ID != c.by.key.ID) {
		return errBadKey
	}
	if err == nil {
		err = c.b.narrow(ctx, &g)
	}
	if err != nil {
		return err
	}
	if !g.Has(wire.KeyRead) || !g.Reaches(c.topic.Name) {
		return refuseCode(codeScope)
	}
	_, err = c.b.visibleTopic(ctx, Caller{MeshID: g.MeshID, Member: g.Member, key: &g}, c.topic.ID)
	return err
}

// reader is the loop of one stream.
type reader struct {
	b       *Broker
	s       *stream
	meshID  string
	cursor  int64 // every post up to here is written, or older than the stream
	written bool  // cursor is a post of the topic
	gap     bool  // begin with resume_gap
	buf     []byte
}

// start finds the place to go on from.
func (r *reader) start(ctx context.Context, lastID string) error {
	newest, err := r.b.store.LastSeq(ctx, r.meshID)
	if err != nil {
		return fmt.Errorf("last seq: %w", err)
	}
	r.cursor = newest
	if lastID == "" {
		return nil
	}
	at, err := r.b.seqOf(ctx, r.meshID, r.s.topicID, lastID)
	if err != nil {
		return err
	}
	kept := false
	if at > 0 {
		if kept, err = r.keeps(ctx, at); err != nil {
			return err
		}
	}
	if r.gap = !kept; kept {
		r.cursor, r.written = at, true
	}
	return nil
}

// keeps reports whether the topic's history still has the post with that seq, and so all after it: history is forgotten from its old end.
func (r *reader) keeps(ctx context.Context, seq int64) (bool, error) {
	page, err := r.page(ctx, seq-1, 1)
	return len(page) == 1 && page[0].Seq == seq, err
}

func (r *reader) page(ctx context.Context, after int64, limit int) ([]store.Message, error) {
	page, err := r.b.store.History(ctx, store.HistoryQuery{MeshID: r.meshID, TopicID: r.s.topicID, After: after, Forward: true, Limit: limit})
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return page, nil
}

// serve writes events until the client leaves, its key ends, or the broker ends the stream.
func (r *reader) serve(c *apiCall) error {
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	defer context.AfterFunc(ctx, r.s.end)() // also breaks off a write
	if at := c.by.key.ExpiresAt; !at.IsZero() {
		expiry := time.AfterFunc(time.Until(at), r.s.end)
		defer expiry.Stop()
	}
	ready, err := wire.Encode(struct {
		topicRef
		ConnectedAt string `json:"connectedAt"`
	}{refTo(c.topic), wire.FormatTime(time.Now())})
	if err != nil {
		return err
	}
	first := appendSSE(nil, "ready", "", ready)
	if r.gap {
		first = append(first, errorEvent(streamGap)...)
	}
	if err := r.s.send(first); err != nil {
		return err
	}
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	for wait := time.Second; ; {
		err := r.catchUp(ctx)
		var again <-chan time.Time
		switch {
		case err == nil:
			wait = time.Second
		case errors.Is(err, errStore):
			c.b.log.Debug("stream could not be read; trying again", "mesh", r.meshID, "cause", err)
			if err := r.s.send(errorEvent(streamUnavailable)); err != nil {
				return err
			}
			again = time.After(wait)
			wait = min(2*wait, streamBeat)
		default:
			return err
		}
		select {
		case <-r.s.done:
			return errStreamEnded
		case <-r.s.look:
		case <-again:
		case <-beat.C:
			if err := r.beat(ctx, c); err != nil {
				return err
			}
		}
	}
}

// beat writes a heartbeat, and ends the stream if its right to be is gone: what this process does ends streams at once, so this is for
// what another one did.
func (r *reader) beat(ctx context.Context, c *apiCall) error {
	ask, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := c.mayStillRead(ask)
	if _, refused := errors.AsType[*wire.Fault](err); refused || errors.Is(err, store.ErrNotFound) {
		return err
	}
	return r.s.send(appendSSE(nil, "heartbeat", "", strconv.AppendInt(nil, time.Now().UnixMilli(), 10)))
}

// errStore is a failure of the store, after which the stream tries again; others are the connection's.
var errStore = errors.New("store failed")

// catchUp writes every post above the cursor.
func (r *reader) catchUp(ctx context.Context) error {
	for {
		ask, cancel := context.WithTimeout(ctx, storeTimeout)
		page, gap, err := r.next(ask)
		cancel()
		if err != nil {
			return fmt.Errorf("%w: %w", errStore, err)
		}
		if gap {
			if err := r.s.send(errorEvent(streamGap)); err != nil {
				return err
			}
		}
		if err := r.write(page); err != nil {
			return err
		}
		if len(page) < streamPage {
			return nil
		}
	}
}

// next reads the next page. Who reads slowly while others post much may fall behind what the history keeps; gap says so.
func (r *reader) next(ctx context.Context) (page []store.Message, gap bool, err error) {
	page, err = r.page(ctx, r.cursor, streamPage)
	if err != nil || len(page) < streamPage || !r.written {
		return page, false, err
	}
	kept, err := r.keeps(ctx, r.cursor)
	return page, !kept, err
}

// write writes posts, many to a write, and moves the cursor over them.
func (r *reader) write(page []store.Message) error {
	mesh := r.b.loaded(r.meshID) // held by the stream, too
	if mesh != nil {
		defer mesh.release()
	}
	for i := range page {
		m := &page[i]
		if mesh != nil && r.s.memberID != "" {
			mesh.mail.shown(r.s.memberID, m.ID, m.Seq)
		}
		data, err := wire.Encode(toREST(m))
		if err != nil {
			return err
		}
		r.buf = appendSSE(r.buf, "message", m.ID, data)
		r.cursor, r.written = m.Seq, true
		if len(r.buf) < streamChunk && i < len(page)-1 {
			continue
		}
		err = r.s.send(r.buf)
		r.buf = r.buf[:0]
		if err != nil {
			return err
		}
	}
	if cap(r.buf) > 2*streamChunk {
		r.buf = nil // do not keep the memory of large posts for the life of an idle stream
	}
	return nil
}

// isClosed reports whether Shutdown has begun.
func (b *Broker) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}
