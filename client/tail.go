package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/claudemesh/broker/wire"
)

const (
	// streamSilence ends a stream that brings nothing: the broker sends a heartbeat every 30 s.
	streamSilence = 75 * time.Second
	// maxStreamLine bounds one line of a stream.
	maxStreamLine = 1 << 20
	// tailRemembered is how many message ids a tail remembers to leave out what it has had.
	tailRemembered = 1024
)

// TailOptions say where a tail begins.
type TailOptions struct {
	// LastEventID is the id of the last message that the caller has: the tail begins with the next one. Empty: with the first
	// message after now.
	LastEventID string
	// OnReady is called each time the stream is open, the first time and after each interruption, before any message.
	OnReady func()
	// OnGap is called when the broker no longer knows the place to go on from, so that messages may be missing.
	OnGap func()
}

// Tail yields the messages of a topic as they are posted, each once and in order, those of this member included. It goes on over
// lost connections and keys that expire, without a gap, until ctx ends or the caller stops. An error that will not pass, such as
// an archived topic or a membership that has ended, is yielded last.
func (c *Client) Tail(ctx context.Context, topic string, o TailOptions) iter.Seq2[TopicMessage, error] {
	return func(yield func(TopicMessage, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(c.life, cancel)()
		t, err := c.topic(ctx, topic)
		if err != nil {
			yield(TopicMessage{}, err)
			return
		}
		s := &tail{c: c, t: t, o: o, yield: yield, last: o.LastEventID, had: newRecent[bool](tailRemembered)}
		if err := s.run(ctx); err != nil && !errors.Is(err, errStopped) {
			if ended := c.Err(); ended != nil {
				err = ended
			}
			yield(TopicMessage{}, err)
		}
	}
}

// errStopped says that the caller's loop has ended.
var errStopped = errors.New("stopped")

// tail is one Tail that runs.
type tail struct {
	c     *Client
	t     Topic
	o     TailOptions
	yield func(TopicMessage, error) bool
	last  string // id of the newest message that the caller has had
	empty bool   // the topic had no message when the tail began, so that everything in it is new
	had   recent[bool]
}

func (s *tail) run(ctx context.Context) error {
	if s.last == "" {
		// The newest message is the place to go on from if the stream breaks before it brings one.
		if err := s.findPlace(ctx); err != nil {
			return err
		}
	}
	for attempt := 0; ; attempt++ {
		began := time.Now()
		err := s.stream(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		refused, _ := errors.AsType[*HTTPError](err)
		switch {
		case errors.Is(err, errStopped):
			return err
		case refused == nil || refused.Status == http.StatusTooManyRequests || refused.Status >= 500:
			// It may pass.
		case refused.Status == http.StatusUnauthorized:
			// The key has ended; the next try makes another. Who may not make one has no socket either.
		default:
			return err
		}
		s.c.o.Logger.Debug("stream ended", "topic", s.t.ID, "count", attempt, "cause", err)
		if time.Since(began) > steadyTime {
			attempt = 0
		}
		wait := fullJitter(attempt)
		if refused != nil {
			wait = max(wait, refused.RetryAfter)
		}
		if attempt == 0 && refused == nil {
			wait /= 4 // most streams end because their key does
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

func (s *tail) findPlace(ctx context.Context) error {
	page, err := s.page(ctx, "", 1)
	if err != nil {
		return err
	}
	if len(page) == 0 {
		s.empty = true
		return nil
	}
	s.last = page[0].ID
	s.had.put(s.last, true)
	return nil
}

// page reads messages over REST, the newest first.
func (s *tail) page(ctx context.Context, before string, limit int) ([]wire.HistoryMessage, error) {
	query := url.Values{"limit": {fmt.Sprint(limit)}}
	if before != "" {
		query.Set("before", before)
	}
	var answer struct {
		Messages []wire.HistoryMessage `json:"messages"`
	}
	err := s.c.rest.do(ctx, restCall{method: "GET", path: topicPath(s.t.Name, "/messages"), query: query, into: &answer})
	return answer.Messages, err
}

// stream opens one stream and reads it to its end.
func (s *tail) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(streamSilence, cancel)
	defer silence.Stop()
	headers := http.Header{"Accept": {"text/event-stream"}}
	if s.last != "" {
		headers.Set("Last-Event-ID", s.last)
	}
	resp, err := s.c.rest.open(ctx, restCall{method: "GET", path: topicPath(s.t.Name, "/stream")}, headers)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	events := newEventReader(resp.Body)
	for {
		e, err := events.next()
		if err != nil {
			return err
		}
		silence.Reset(streamSilence)
		switch e.name {
		case "ready":
			if s.o.OnReady != nil {
				s.o.OnReady()
			}
			if s.last == "" && s.empty {
				if err := s.catchUp(ctx); err != nil {
					return err
				}
			}
		case "message":
			if err := s.take(ctx, []byte(e.data)); err != nil {
				return err
			}
		case "error":
			var f struct {
				Error string `json:"error"`
			}
			_ = json.Unmarshal([]byte(e.data), &f) // an unreadable one is logged as such
			s.c.o.Logger.Debug("stream error", "topic", s.t.ID, "code", f.Error)
			if (f.Error == "unknown_last_event_id" || f.Error == "resume_gap") && s.o.OnGap != nil {
				s.o.OnGap()
			}
		}
	}
}

// catchUp yields all messages of a topic that was empty when the tail began: without a message there was no place to go on from.
func (s *tail) catchUp(ctx context.Context) error {
	var all []wire.HistoryMessage
	for before := ""; ; {
		page, err := s.page(ctx, before, 200)
		if err != nil {
			return err
		}
		all = append(all, page...)
		if len(page) < 200 {
			break
		}
		before = page[len(page)-1].ID
	}
	for _, h := range slices.Backward(all) {
		if err := s.give(ctx, &h); err != nil {
			return err
		}
	}
	return nil
}

func (s *tail) take(ctx context.Context, data []byte) error {
	var h wire.HistoryMessage
	if err := json.Unmarshal(data, &h); err != nil {
		return fmt.Errorf("client: unreadable message in a stream: %w", err)
	}
	return s.give(ctx, &h)
}

// give yields a message that the caller has not had.
func (s *tail) give(ctx context.Context, h *wire.HistoryMessage) error {
	if _, had := s.had.get(h.ID); had {
		return nil
	}
	m := s.c.openHistory(ctx, s.t, h)
	if m.Err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	m.FromMemberPubkey = m.FromPubkey // over REST it is the member key
	s.had.put(h.ID, true)
	s.last = h.ID
	if !s.yield(m, nil) {
		return errStopped
	}
	return nil
}

// event is one block of a stream.
type event struct{ name, id, data string }

// eventReader reads server-sent events: blocks of "field: value" lines with an empty line after each.
type eventReader struct{ lines *bufio.Scanner }

func newEventReader(r io.Reader) *eventReader {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxStreamLine)
	return &eventReader{lines: lines}
}

// next returns the next block that has data. A block that the end of the stream cuts is not returned.
func (r *eventReader) next() (event, error) {
	var e event
	hasData := false
	for r.lines.Scan() {
		line := bytes.TrimSuffix(r.lines.Bytes(), []byte("\r"))
		if len(line) == 0 {
			if hasData {
				return e, nil
			}
			e = event{}
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			e.name = string(value)
		case "id":
			e.id = string(value)
		case "data":
			if hasData {
				e.data += "\n"
			}
			e.data += string(value)
			hasData = true
		}
	}
	if err := r.lines.Err(); err != nil {
		return event{}, err
	}
	return event{}, io.EOF
}
