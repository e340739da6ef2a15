package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
)

// The requests of walls_test.go over HTTP, and the event streams.

// request asks something over HTTP.
func (w *walls) request(r *realm) {
	name := w.routes[w.rng.IntN(len(w.routes))]
	d := &draw{w: w, r: r, to: r}
	call := wallRoutes[name].call(d)
	if call == nil {
		return
	}
	w.ops++
	w.did[name]++
	if strings.HasSuffix(name, "/stream") {
		w.tap(r, name, *call, d)
		return
	}
	status, code, body := w.ask(name, *call, d.to, d.mayHear())
	w.untouched(d.to, name)
	if status < 400 && call.learn != nil {
		var f frame
		require.NoError(w.t, json.Unmarshal(body, &f), "%s", body)
		call.learn(f)
	}
	if d.twin == "" || d.kept || status == http.StatusTooManyRequests || !d.chance(2) {
		return
	}
	made := d.like(d.twin)
	call.swap(d.twin, made)
	w.ops++
	w.twins++
	statusMade, codeMade, _ := w.ask(name, *call, d.to, d.mayHear())
	w.untouched(d.to, name)
	if statusMade != http.StatusTooManyRequests && (statusMade != status || codeMade != code) {
		w.cross("mesh %c can tell that another mesh has %q: %s answers %d %s, for a made-up one %d %s", r.letter, d.twin, name, status, code, statusMade, codeMade)
	}
}

// wallCall is a request over HTTP.
type wallCall struct {
	secret string // API key; empty: no Authorization
	name   string // of the topic, or the code, in the path
	query  url.Values
	header map[string]string
	body   any
	learn  func(answer frame)
}

// swap puts another value in the place of one.
func (c *wallCall) swap(old, by string) {
	c.name = strings.ReplaceAll(c.name, old, by)
	for _, values := range c.query {
		for i := range values {
			values[i] = strings.ReplaceAll(values[i], old, by)
		}
	}
	for k, v := range c.header {
		c.header[k] = strings.ReplaceAll(v, old, by)
	}
	if c.body != nil {
		raw, err := json.Marshal(c.body)
		if err == nil {
			c.body = json.RawMessage(bytes.ReplaceAll(raw, []byte(old), []byte(by)))
		}
	}
}

// httpRequest makes the request of a route.
func (c *wallCall) httpRequest(t *testing.T, ctx context.Context, name string) *http.Request {
	method, path, _ := strings.Cut(name, " ")
	for _, route := range broker.APIRoutes() {
		if route.Method == method && route.Path == path {
			path = "/v1" + path
			break
		}
	}
	path = strings.NewReplacer("{name}", url.PathEscape(c.name), "{code}", url.PathEscape(c.name)).Replace(path)
	if len(c.query) > 0 {
		path += "?" + c.query.Encode()
	}
	var body io.Reader
	if c.body != nil {
		raw, err := json.Marshal(c.body)
		require.NoError(t, err)
		body = bytes.NewReader(raw)
	}
	r := httptest.NewRequest(method, path, body).WithContext(ctx)
	r.RemoteAddr = "127.0.0.1:1"
	if c.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.secret != "" {
		r.Header.Set("Authorization", "Bearer "+c.secret)
	}
	for k, v := range c.header {
		r.Header.Set(k, v)
	}
	return r
}

// ask makes a request and looks through its answer.
func (w *walls) ask(name string, c wallCall, to *realm, refs []string) (status int, code string, body []byte) {
	rec := httptest.NewRecorder()
	w.b.ServeHTTP(rec, c.httpRequest(w.t, w.t.Context(), name))
	body = rec.Body.Bytes()
	via := fmt.Sprintf("%s %+v", name, c.name)
	for _, values := range rec.Header() {
		for _, v := range values {
			w.scan(to, "a header of "+via, []byte(v), refs)
		}
	}
	w.scan(to, via, body, refs)
	var f frame
	if json.Unmarshal(body, &f) == nil {
		if code = f.Str("code"); code == "" {
			code = f.Str("error")
		}
	}
	return rec.Code, code, body
}

// tap is an event stream that is looked through as it comes.
type tap struct {
	w    *walls
	r    *realm
	refs []string
	via  string
	head http.Header
	end  context.CancelFunc
	done chan struct{}
}

func (t *tap) Header() http.Header { return t.head }
func (t *tap) WriteHeader(int)     {}
func (t *tap) Flush()              {}

func (t *tap) Write(p []byte) (int, error) {
	t.w.scan(t.r, t.via, p, t.refs)
	return len(p), nil
}

// maxTaps is how many streams a mesh has open at a time.
const maxTaps = 5

func (w *walls) tap(r *realm, name string, c wallCall, d *draw) {
	if len(r.taps) == maxTaps {
		r.taps[0].end()
		<-r.taps[0].done
		r.taps = r.taps[1:]
	}
	ctx, end := context.WithCancel(context.Background())
	s := &tap{w: w, r: d.to, refs: d.mayHear(), via: "the stream of " + c.name, head: http.Header{}, end: end, done: make(chan struct{})}
	req := c.httpRequest(w.t, ctx, name)
	b := w.b
	go func() {
		defer close(s.done)
		defer end()
		b.ServeHTTP(s, req)
	}()
	r.taps = append(r.taps, s)
}
