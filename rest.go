package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// operation is one request of one route.
type operation interface {
	// read takes the body and the query. It runs before the key's rights are looked at, so it may not look anything up.
	read(c *apiCall) error
	// run does what is asked and returns the answer, or nil if it has written one itself.
	run(ctx context.Context, c *apiCall) (any, error)
}

// serveInviteCode finds no invite: the text of one, which holds the mesh's root key, is not kept.
func (b *Broker) serveInviteCode(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusNotFound, map[string]bool{"found": false})
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // the peer is gone; nothing to tell it
}

// writeJSON answers with v as JSON.
func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := wire.Encode(v)
	if err != nil { // only values of ours are encoded, and those always do
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the peer is gone; nothing to tell it
}

// Codes of refusals before a body is understood.
const (
	codeMediaType wire.Code = "unsupported_media_type"
	codeTimeout   wire.Code = "request_timeout" // the body took longer than bodyTime
)

// bodyTime is how long a request's body may take; docs/rest.md, limits.
const bodyTime = 30 * time.Second

// maxDiscard is how much of a body that is too large is read and forgotten before it is refused.
const maxDiscard = 1 << 20

// readJSON reads a body of at most limit bytes, which says that it is JSON (takeBody), into v, a pointer to a struct, and is as strict as
// [wire.Decode]. It fails with a [wire.Fault]: wire.PayloadTooLarge, codeTimeout, or wire.Malformed, whose Field is empty if the body is not JSON.
func readJSON(w http.ResponseWriter, r *http.Request, limit int, v any) error {
	tooLarge := &wire.Fault{Code: wire.PayloadTooLarge, Text: "payload too large"}
	if r.ContentLength > int64(limit)+maxDiscard {
		return tooLarge
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTime)) // as in ServeHTTP, from when the request was understood
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	over := len(body) > limit
	if over { // a client that is cut off in mid-body may never see the answer
		_, _ = io.CopyN(io.Discard, r.Body, maxDiscard)
	}
	if err == nil && !over { // else what is left of it is to be given up, too
		_ = rc.SetReadDeadline(time.Time{})
	}
	switch {
	case over:
		return tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &wire.Fault{Code: codeTimeout, Text: "the body did not arrive in time", Cause: err}
	case err != nil:
		return &wire.Fault{Code: wire.Malformed, Text: "the body ended early", Cause: err}
	}
	err = wire.Decode(body, v)
	if f, ok := errors.AsType[*wire.Fault](err); ok && f.Field == "" && json.Valid(body) {
		return &wire.Fault{Code: f.Code, Field: "body", Text: strings.Replace(f.Text, "frame", "body", 1), Cause: f.Cause}
	}
	return err
}

// apiCall is a request to the API on its way through the checks.
type apiCall struct {
	b     *Broker
	w     http.ResponseWriter
	r     *http.Request
	by    Caller
	ref   string      // what the request calls its topic
	topic store.Topic // which topic that is
}

// readJSON is [readJSON] with the API's limit, and the values' own checks after it.
func (c *apiCall) readJSON(v interface{ check() error }) error {
	if err := readJSON(c.w, c.r, c.b.opts.MaxMessageBytes+frameSlack, v); err != nil {
		return err
	}
	return v.check()
}

// Refusals by the key's rights. Their codes are whole API codes.
const (
	codeCapability  wire.Code = "error.api_key_missing_capability"
	codeScope       wire.Code = "error.api_key_topic_out_of_scope"
	codeOrigin      wire.Code = "error.origin_not_allowed"
	codeNoIssuer    wire.Code = "api_key_has_no_issuer"
	codeUnavailable wire.Code = "error.unavailable"
)

func refuseCode(code wire.Code) error { return &wire.Fault{Code: code, Text: string(code)} }

// serveAPI runs one request: who asks, what it asks, whether it may, and only then what there is. A nil route is an unknown path.
func (b *Broker) serveAPI(w http.ResponseWriter, r *http.Request, rt *apiRoute) {
	if r.Method == http.MethodOptions {
		servePreflight(w, r)
		return
	}
	w.Header().Set("Access-Control-Allow-Origin", "*")
	c := &apiCall{b: b, w: w, r: r}
	if !b.work.enterSession() {
		c.refuse(ErrClosed)
		return
	}
	defer b.work.leaveSession()
	answer, err := c.serve(rt)
	switch {
	case err != nil:
		c.refuse(err)
	case rt == nil:
		writeText(w, http.StatusNotFound, "404 Not Found")
	case answer != nil:
		writeJSON(w, http.StatusOK, answer)
	}
}

// servePreflight lets pages of any origin use the API: they need a key, which no browser attaches by itself.
func servePreflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET,HEAD,PUT,POST,DELETE,PATCH")
	allowed := "Content-Type,Authorization"
	if strings.Contains(strings.ToLower(r.Header.Get("Access-Control-Request-Headers")), "last-event-id") {
		allowed += ",Last-Event-ID" // a page that reads a stream by fetch resumes with it
	}
	h.Set("Access-Control-Allow-Headers", allowed)
	h.Set("Access-Control-Max-Age", "3600")
	w.WriteHeader(http.StatusNoContent)
}

// requestTime bounds what one request asks of the store, streams excepted.
const requestTime = 2 * storeTimeout

// serve takes the checks in the order of docs/rest.md.
func (c *apiCall) serve(rt *apiRoute) (any, error) {
	ctx, cancel := context.WithTimeout(c.r.Context(), requestTime)
	err := c.authenticate(ctx, rt != nil && rt.pace == memberPace)
	cancel()
	if err != nil || rt == nil {
		return nil, err
	}
	if !takeBody(c.r, rt.body) {
		return nil, &wire.Fault{Code: codeMediaType, Text: "unsupported media type"}
	}
	if rt.topic == topicPath {
		c.ref = c.r.PathValue("name")
	}
	op := rt.open()
	if err := op.read(c); err != nil {
		return nil, err
	}
	if rt.need != needKey && !c.by.key.Has(string(rt.need)) {
		return nil, refuseCode(codeCapability)
	}
	ctx, cancel = context.WithTimeout(c.r.Context(), requestTime)
	defer cancel()
	if rt.topic != topicNone {
		if err := c.findTopic(ctx); err != nil {
			return nil, err
		}
	}
	if rt.issuer == issuerNeeded && c.by.Member.ID == "" {
		return nil, refuseCode(codeNoIssuer)
	}
	return op.run(ctx, c)
}

// findTopic finds the request's topic, if the key's scope and its issuer's sight reach it.
func (c *apiCall) findTopic(ctx context.Context) error {
	if !c.by.key.Reaches(c.ref) {
		return refuseCode(codeScope)
	}
	t, err := c.b.visibleTopic(ctx, c.by, c.ref)
	if err != nil {
		return err
	}
	if !c.by.key.Reaches(t.Name) { // the name in the scope is the id of another topic
		return refuseCode(codeScope)
	}
	c.topic = t
	return nil
}

// authenticate finds out who asks, within its budget.
func (c *apiCall) authenticate(ctx context.Context, paced bool) error {
	b, t := c.b, time.Now()
	g, err := b.auth.Request(ctx, c.r)
	if errors.Is(err, wire.Unauthorized) || errors.Is(err, store.ErrNotFound) {
		addr := b.opts.addrKey(c.r)
		if !b.authFails.Take(addr, t) {
			return tooMany(b.authFails.RetryAfter(addr, t))
		}
		if f, ok := errors.AsType[*wire.Fault](err); ok {
			return f
		}
		return errBadKey
	}
	if err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	if g.Ambient {
		c.w.Header().Del("Access-Control-Allow-Origin")
		if !b.fromOwnPage(c.r) {
			return refuseCode(codeOrigin)
		}
	}
	if err := b.narrow(ctx, &g); err != nil {
		return err
	}
	c.by = Caller{MeshID: g.MeshID, Member: g.Member, Name: g.Member.Name, key: &g}
	key := c.by.credential()
	if !paced && !b.apiKeys.Take(key, t) {
		return tooMany(b.apiKeys.RetryAfter(key, t))
	}
	if g.ID != "" && b.keyUses.Take(key, t) { // once in a while is enough for "last used"
		if err := b.store.TouchAPIKey(ctx, g.MeshID, g.ID, now()); err != nil {
			b.log.Debug("last use of an API key could not be noted", "mesh", g.MeshID, "cause", err)
		}
	}
	return nil
}

// credential names what a REST caller came with, for limits.
func (by Caller) credential() string {
	if by.key.ID == "" {
		return by.MeshID + " member " + by.Member.ID
	}
	return by.MeshID + " " + by.key.ID
}

// narrow takes from a grant what its member may not do itself any more: everything, if it is banned; and an admin key of a former admin is an ordinary one.
func (b *Broker) narrow(ctx context.Context, g *Grant) error {
	if _, ours := b.auth.(StoreAuth); !ours && g.Member.ID != "" { // which has looked; a host's may remember a login from before a ban
		m, err := b.liveMember(ctx, g.MeshID, g.Member.ID)
		if errors.Is(err, store.ErrNotFound) {
			return errBadKey
		} else if err != nil {
			return fmt.Errorf("member of a request: %w", err)
		}
		g.Member = m
	}
	if g.Member.ID == "" || !slices.Contains(g.Capabilities, wire.KeyAdmin) {
		return nil
	}
	admin, err := b.isAdmin(ctx, Caller{MeshID: g.MeshID, Member: g.Member})
	if err != nil || admin {
		return err
	}
	g.Capabilities = []string{wire.KeySend, wire.KeyRead, wire.KeyStateWrite} // what admin implies, and every member may
	return nil
}

// fromOwnPage reports whether a request whose credential the browser attached by itself was meant by its user: it comes from a page
// that may act here, or from no page at all. A browser leaves Origin out of some requests, but never both it and Sec-Fetch-Site.
func (b *Broker) fromOwnPage(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" && r.Method != http.MethodGet && r.Method != http.MethodHead && r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		return false
	}
	return b.opts.originAllowed(origin, r.Host)
}

// restFault is a fault with what only a REST answer can tell.
type restFault struct {
	*wire.Fault
	retryAfter time.Duration
	more       map[string]any // further members of the body
}

func (f *restFault) Unwrap() error { return f.Fault }

// tooMany refuses what comes too often; after that long it may come again.
func tooMany(after time.Duration) error {
	return &restFault{Fault: &wire.Fault{Code: wire.RateLimit, Text: "too many requests; slow down"}, retryAfter: max(after, time.Millisecond)}
}

// maxRetryAfter bounds what is told to clients that wait for it.
const maxRetryAfter = time.Hour

func setRetryAfter(h http.Header, after time.Duration) {
	seconds := math.Ceil(min(after, maxRetryAfter).Seconds())
	h.Set("Retry-After", strconv.Itoa(max(int(seconds), 1)))
}

// envelope is the body of a refusal by key, shape of the request, or fault of ours.
type envelope struct {
	Code      string `json:"code,omitempty"`
	Message   string `json:"message"`
	Status    int    `json:"status"`
	Timestamp string `json:"timestamp"`
	Path      string `json:"path"`
}

// problem is the body of any other refusal.
type problem map[string]any

// refuse answers with an error. It is the one place that turns errors into statuses and bodies.
func (c *apiCall) refuse(err error) {
	status, code, text := restStatus(err)
	var rf *restFault
	if errors.As(err, &rf) && rf.retryAfter > 0 {
		setRetryAfter(c.w.Header(), rf.retryAfter)
	} else if status == http.StatusServiceUnavailable {
		setRetryAfter(c.w.Header(), time.Second)
	}
	switch {
	case status == http.StatusInternalServerError:
		c.b.log.Error("request failed", "type", c.r.Method, "mesh", c.by.MeshID, "cause", cause(err))
	case status == http.StatusServiceUnavailable && c.r.Context().Err() == nil && !errors.Is(err, ErrClosed):
		c.b.log.Warn("request could not be served", "type", c.r.Method, "mesh", c.by.MeshID, "cause", cause(err))
	default:
		c.b.log.Debug("request refused", "type", c.r.Method, "mesh", c.by.MeshID, "code", code)
	}
	if status == http.StatusUnauthorized {
		c.w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if domain, ok := domains[wire.Code(code)]; ok && domain.status == status {
		body := problem{"error": code}
		if domain.topic {
			body["topic"] = c.ref
		}
		if domain.text != "" {
			body[domain.text] = text
		}
		if rf != nil {
			for k, v := range rf.more {
				body[k] = v
			}
		}
		writeJSON(c.w, status, body)
		return
	}
	writeJSON(c.w, status, envelope{
		Code: code, Message: text, Status: status, Timestamp: wire.FormatTime(time.Now()), Path: sentPath(c.r),
	})
}

// cause is what the log sees of an error.
func cause(err error) error {
	if f, ok := errors.AsType[*wire.Fault](err); ok && f.Cause != nil {
		return f.Cause
	}
	return err
}

// sentPath is the path as the client wrote it, whatever prefix a host has taken off since.
func sentPath(r *http.Request) string {
	if path, _, _ := strings.Cut(r.RequestURI, "?"); strings.HasPrefix(path, "/") {
		return path
	}
	return r.URL.EscapedPath()
}

// domain is how a refusal about the mesh's own things is told: {"error": code, …}.
type domain struct {
	status int
	topic  bool   // with the topic, as the request named it
	text   string // the member that carries the fault's text, if any does
}

// domains lists them by code; docs/rest.md, errors.
var domains = map[wire.Code]domain{
	codeNoIssuer:         {status: http.StatusBadRequest},
	codeBadSince:         {status: http.StatusBadRequest},
	codeBadBefore:        {status: http.StatusBadRequest},
	wire.TopicNotFound:   {status: http.StatusNotFound, topic: true},
	wire.NotFound:        {status: http.StatusNotFound},
	wire.Forbidden:       {status: http.StatusForbidden},
	wire.RateLimit:       {status: http.StatusTooManyRequests},
	codeTooManyStreams:   {status: http.StatusTooManyRequests},
	codeReused:           {status: http.StatusConflict},
	codeUnencrypted:      {status: http.StatusConflict, topic: true, text: "hint"},
	codeNotSealed:        {status: http.StatusNotFound, topic: true, text: "hint"},
	codeNotInTopic:       {status: http.StatusNotFound},
	codeNotHolder:        {status: http.StatusForbidden},
	codeSealerRejected:   {status: http.StatusForbidden, text: "hint"},
	codeAlreadySealed:    {status: http.StatusConflict},
	codeInvalidSeal:      {status: http.StatusUnprocessableEntity, text: "detail"},
	codeAlreadyEncrypted: {status: http.StatusConflict, topic: true, text: "hint"},
	codeMemberNotFound:   {status: http.StatusNotFound},
	codeNotWebMember:     {status: http.StatusConflict, text: "detail"},
	codePubkeyInUse:      {status: http.StatusConflict},
	codeBadProof:         {status: http.StatusForbidden, text: "detail"},
}

// restStatus maps any error to the status, the code and the text of its answer.
func restStatus(err error) (status int, code, text string) {
	const malformed = "Malformed JSON in request body"
	f, ok := errors.AsType[*wire.Fault](err)
	switch {
	case !ok && (errors.Is(err, store.ErrUnavailable) || errors.Is(err, ErrClosed) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		return http.StatusServiceUnavailable, string(codeUnavailable), string(codeUnavailable)
	case !ok:
		return http.StatusInternalServerError, "common:error.general", "common:error.general"
	}
	if d, ok := domains[f.Code]; ok {
		return d.status, string(f.Code), f.Text
	}
	same := func(status int, code string) (int, string, string) { return status, code, code }
	switch f.Code {
	case wire.Unauthorized:
		if strings.HasPrefix(f.Text, "error.") {
			return same(http.StatusUnauthorized, f.Text)
		}
		return same(http.StatusUnauthorized, errBadKey.Text)
	case codeCapability, codeScope, codeOrigin:
		return same(http.StatusForbidden, string(f.Code))
	case wire.TargetNotFound: // archived, or left, since it was found
		return http.StatusNotFound, string(wire.TopicNotFound), f.Text
	case wire.PayloadTooLarge:
		return same(http.StatusRequestEntityTooLarge, "error.payload_too_large")
	case codeMediaType:
		return same(http.StatusUnsupportedMediaType, "error.unsupported_media_type")
	case codeTimeout:
		return same(http.StatusRequestTimeout, "error.request_timeout")
	case wire.InternalError:
		return same(http.StatusServiceUnavailable, string(codeUnavailable))
	case wire.Malformed:
		if f.Field == "" {
			return http.StatusBadRequest, "", malformed
		}
		return http.StatusUnprocessableEntity, "error.validation", f.Text
	case wire.Invalid, wire.InvalidArgs, wire.InvalidArgument:
		return http.StatusUnprocessableEntity, "error.validation", f.Text
	default:
		return http.StatusInternalServerError, "common:error.general", "common:error.general"
	}
}

// invalid refuses a field of a body or a query.
func invalid(field, want string) error { return wire.BadField(field, want) }

// noInput is embedded by operations that take neither body nor query.
type noInput struct{}

func (noInput) read(*apiCall) error { return nil }
