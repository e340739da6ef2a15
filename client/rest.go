package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/claudemesh/broker/wire"
)

const (
	// keyLife is how long the client's own API key is valid, keyMargin how long before its end a new one is made.
	keyLife   = 5 * time.Minute
	keyMargin = time.Minute
	// restTimeout bounds one REST request.
	restTimeout = 20 * time.Second
	// maxAnswer bounds the body of an answer.
	maxAnswer = 17 << 20
	// restTries is how often a request is made when the broker is busy or not there.
	restTries = 4
)

// restDoor is the other way to the broker, for what the socket does not offer. It has an API key of its own, made over the socket
// for a few minutes at a time.
type restDoor struct {
	c     *Client
	http  *http.Client
	bases []string      // where the routes may be: beside the socket, at the host's root
	mint  chan struct{} // held by the one who makes a key

	mu     sync.Mutex
	base   int       // guarded by mu; index of the base that answered, -1 for unknown
	keyID  string    // guarded by mu
	secret string    // guarded by mu
	until  time.Time // guarded by mu; end of the key
}

func newRESTDoor(c *Client) *restDoor {
	d := &restDoor{c: c, bases: restBases(c.o.URL), mint: make(chan struct{}, 1), base: -1, http: withoutTimeout(c.o.HTTPClient)}
	if len(d.bases) == 1 {
		d.base = 0
	}
	return d
}

func withoutTimeout(hc *http.Client) *http.Client {
	own := *hc
	own.Timeout = 0
	return &own
}

// restBases returns where the REST routes of a broker with this socket may be, best first.
func restBases(socket string) []string {
	u, err := url.Parse(socket)
	if err != nil {
		return nil
	}
	scheme := map[string]string{"ws": "http", "wss": "https", "http": "http", "https": "https"}[u.Scheme]
	root := scheme + "://" + u.Host
	path := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(u.EscapedPath(), "/"), "/ws"), "/")
	if path == "" {
		return []string{root}
	}
	return []string{root + path, root}
}

// restCall is one request.
type restCall struct {
	method, path string // path begins with /v1
	query        url.Values
	body, into   any
	once         bool // a refusal for being too fast is the caller's to handle
}

// do makes a request, waiting and repeating where the broker asks for it, and fills into. A refusal is an *HTTPError. Every
// request here may be made twice.
func (d *restDoor) do(ctx context.Context, call restCall) error {
	renewed := false
	for attempt := 1; ; attempt++ {
		err := d.try(ctx, call)
		if err == nil || ctx.Err() != nil {
			return err
		}
		wait := fullJitter(attempt)
		if refused, ok := errors.AsType[*HTTPError](err); ok {
			switch {
			case refused.Status == http.StatusUnauthorized && !renewed:
				renewed = true // try has forgotten the key
				continue
			case refused.Status != http.StatusTooManyRequests && refused.Status != http.StatusServiceUnavailable || call.once:
				return err
			}
			wait = max(wait, refused.RetryAfter)
		} else if errors.Is(err, ErrClosed) || d.c.Err() != nil {
			return err
		}
		if attempt == restTries || sleep(ctx, wait) != nil {
			return err
		}
	}
}

func (d *restDoor) try(ctx context.Context, call restCall) error {
	ctx, cancel := context.WithTimeout(ctx, restTimeout)
	defer cancel()
	stop := context.AfterFunc(d.c.life, cancel)
	defer stop()
	resp, err := d.open(ctx, call, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("client: %s %s: %w", call.method, call.path, err)
	}
	if call.into == nil {
		return nil
	}
	if err := json.Unmarshal(raw, call.into); err != nil {
		return fmt.Errorf("client: %s %s: unreadable answer: %w", call.method, call.path, err)
	}
	return nil
}

// open makes a request with the client's key and returns the answer if its status is 200.
func (d *restDoor) open(ctx context.Context, call restCall, headers http.Header) (*http.Response, error) {
	secret, err := d.key(ctx)
	if err != nil {
		return nil, err
	}
	var body []byte
	if call.body != nil {
		if body, err = wire.Encode(call.body); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	from, to := d.base, d.base+1
	d.mu.Unlock()
	if from < 0 {
		from, to = 0, len(d.bases)
	}
	for i := from; ; i++ {
		req, err := http.NewRequestWithContext(ctx, call.method, d.bases[i]+call.path, bytes.NewReader(body))
		if err != nil {
			return nil, fmt.Errorf("client: %s %s: %w", call.method, call.path, err)
		}
		for name, values := range headers {
			req.Header[name] = values
		}
		if len(call.query) > 0 {
			req.URL.RawQuery = call.query.Encode()
		}
		if call.body != nil {
			req.Header.Set("Content-Type", "application/json")
		} else {
			req.Body, req.GetBody, req.ContentLength = nil, nil, 0
		}
		req.Header.Set("Authorization", "Bearer "+secret)
		resp, err := d.http.Do(req)
		if err != nil {
			return nil, fmt.Errorf("client: %s %s: %w", call.method, call.path, err)
		}
		if resp.StatusCode == http.StatusOK {
			d.answered(i)
			return resp, nil
		}
		refused := readRefusal(resp)
		if refused.plain && i+1 < to {
			continue
		}
		if !refused.plain {
			d.answered(i)
		}
		if refused.Status == http.StatusUnauthorized {
			d.forget(secret)
		}
		return nil, refused
	}
}

func (d *restDoor) answered(base int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.base = base
}

// readRefusal reads any of the shapes of a refusal and closes the body.
func readRefusal(resp *http.Response) *HTTPError {
	defer func() { _ = resp.Body.Close() }()
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what came is enough for a text
	e := &HTTPError{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header)}
	var f struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Error   string `json:"error"`
		Hint    string `json:"hint"`
		Detail  string `json:"detail"`
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind != "application/json" || json.Unmarshal(raw, &f) != nil {
		e.plain = resp.StatusCode == http.StatusNotFound
		return e
	}
	for _, code := range []string{f.Code, f.Error} {
		if e.Code == "" {
			e.Code = wire.Code(code)
		}
	}
	for _, text := range []string{f.Message, f.Detail, f.Hint} {
		if e.Text == "" {
			e.Text = text
		}
	}
	return e
}

// key returns an API key that is valid for a minute at least.
func (d *restDoor) key(ctx context.Context) (string, error) {
	select {
	case d.mint <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	defer func() { <-d.mint }()
	d.mu.Lock()
	secret, until := d.secret, d.until
	d.mu.Unlock()
	if secret != "" && time.Until(until) > keyMargin {
		return secret, nil
	}
	until = time.Now().Add(keyLife)
	expires := wire.FormatTime(until)
	var made wire.APIKeyCreated
	err := d.c.call(ctx, &wire.APIKeyCreate{
		Header: header(wire.TypeAPIKeyCreate), Label: "client", Capabilities: []string{wire.KeySend, wire.KeyRead}, ExpiresAt: &expires,
	}, &made, true)
	if err != nil {
		return "", fmt.Errorf("client: make an API key: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keyID, d.secret, d.until = made.ID, made.Secret, until
	return made.Secret, nil
}

// forget drops a key that the broker does not know any more.
func (d *restDoor) forget(secret string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.secret == secret {
		d.secret, d.keyID = "", ""
	}
}

// revocation is the frame that ends the client's key, nil when there is none: a member may have 100, and a program that is run
// often would leave one behind each time.
func (d *restDoor) revocation() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.keyID == "" || time.Now().After(d.until) {
		return nil
	}
	nobody := "close"                                                                                                          // the answer is for no request
	frame, _ := wire.Encode(&wire.APIKeyRevoke{Header: wire.Header{Type: wire.TypeAPIKeyRevoke, ReqID: &nobody}, ID: d.keyID}) // strings always encode
	return frame
}
