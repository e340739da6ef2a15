package broker_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

// door is the REST API of a mesh, as one key opens it.
type door struct {
	t    *testing.T
	mesh *brokertest.Mesh
	key  string // secret; empty: no Authorization header
	id   string
	base string // default /v1
}

// answer is what a request got.
type answer struct {
	Status int
	Header http.Header
	Raw    string
	Body   frame // nil if it is no JSON object
}

// code is the code of a refusal of either shape.
func (a answer) code() string {
	if c := a.Body.Str("code"); c != "" {
		return c
	}
	return a.Body.Str("error")
}

// restKey mints a key for a member, "" for none, as a host does.
func restKey(t *testing.T, mesh *brokertest.Mesh, member string, capabilities []string, change ...func(*broker.NewAPIKey)) door {
	t.Helper()
	n := broker.NewAPIKey{Label: "test", Capabilities: capabilities}
	if member != "" {
		n.IssuedBy = mesh.Member(member).ID
	}
	for _, c := range change {
		c(&n)
	}
	secret, k, err := mesh.Broker.CreateAPIKey(t.Context(), mesh.ID, n)
	require.NoError(t, err)
	return door{t: t, mesh: mesh, key: secret, id: k.ID}
}

func scoped(topics ...string) func(*broker.NewAPIKey) {
	return func(n *broker.NewAPIKey) { n.TopicScopes = &topics }
}

var (
	reads    = []string{wire.KeyRead}
	sends    = []string{wire.KeySend}
	readSend = []string{wire.KeyRead, wire.KeySend}
)

// header sets a header of one request; an empty value takes it away.
type header struct{ name, value string }

func (d door) request(method, path string, body any, headers ...header) *http.Request {
	d.t.Helper()
	var r io.Reader
	switch v := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(v)
	default:
		raw, err := json.Marshal(v)
		require.NoError(d.t, err)
		r = bytes.NewReader(raw)
	}
	base := d.base
	if base == "" {
		base = "/v1"
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+brokertest.Host+base+path, r)
	require.NoError(d.t, err)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if d.key != "" {
		req.Header.Set("Authorization", "Bearer "+d.key)
	}
	for _, h := range headers {
		if req.Header.Set(h.name, h.value); h.value == "" {
			req.Header.Del(h.name)
		}
	}
	return req
}

// do makes a request.
func (d door) do(method, path string, body any, headers ...header) answer {
	d.t.Helper()
	resp, err := d.mesh.HTTP.Do(d.request(method, path, body, headers...))
	require.NoError(d.t, err)
	raw, err := io.ReadAll(resp.Body)
	require.NoError(d.t, err)
	require.NoError(d.t, resp.Body.Close())
	a := answer{Status: resp.StatusCode, Header: resp.Header, Raw: string(raw)}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		require.NoError(d.t, json.Unmarshal(raw, &a.Body), a.Raw)
	}
	return a
}

// ok is do for a request that must succeed.
func (d door) ok(method, path string, body any) frame {
	d.t.Helper()
	a := d.do(method, path, body)
	require.Equal(d.t, http.StatusOK, a.Status, "%s %s: %s", method, path, a.Raw)
	return a.Body
}

// refused is do for a request that must be refused.
func (d door) refused(status int, code, method, path string, body any, headers ...header) answer {
	d.t.Helper()
	a := d.do(method, path, body, headers...)
	require.Equal(d.t, status, a.Status, "%s %s: %s", method, path, a.Raw)
	require.Equal(d.t, code, a.code(), "%s %s: %s", method, path, a.Raw)
	return a
}

// post posts an unencrypted text to a topic and returns the message's id.
func (d door) post(topic, text string) string {
	d.t.Helper()
	return d.ok("POST", "/messages", postBody(topic, text)).Str("messageId")
}

func postBody(topic, text string) frame {
	return frame{"topic": topic, "ciphertext": brokertest.Body(text), "nonce": topickey.ZeroNonce}
}

func topicPath(name, route string) string { return "/topics/" + url.PathEscape(name) + route }

// list takes a member that is a list of objects.
func list(t *testing.T, f frame, name string) []frame {
	t.Helper()
	raw, err := json.Marshal(f[name])
	require.NoError(t, err)
	var out []frame
	require.NoError(t, json.Unmarshal(raw, &out))
	return out
}

// column takes one text member of each object.
func column(objects []frame, name string) []string {
	out := []string{}
	for _, o := range objects {
		out = append(out, o.Str(name))
	}
	return out
}

// newTopic makes a topic over a connection and returns its id.
func newTopic(t *testing.T, c *brokertest.Conn, name, visibility string) string {
	t.Helper()
	made := c.Request(frame{"type": "topic_create", "name": name, "visibility": visibility})
	require.Equal(t, "topic_created", made.Type(), "%v", made)
	require.Equal(t, true, made["created"], "%v", made)
	var reply wire.TopicCreated
	require.NoError(t, made.Into(&reply))
	return reply.Topic.ID
}

// done is Request for one that must be acknowledged.
func done(t *testing.T, c *brokertest.Conn, f frame) {
	t.Helper()
	ack := c.Request(f)
	require.Equal(t, "ack", ack.Type(), "%v: %v", f, ack)
	require.Empty(t, ack.Str("error"), "%v: %v", f, ack)
}

// seal makes a member's copy of a topic key, sealed by another, as the fields of a request.
func seal(t *testing.T, key topickey.Key, by, to *brokertest.Member) frame {
	t.Helper()
	copied, err := topickey.Seal(key, to.Key.Public(), by.Key)
	require.NoError(t, err)
	prefix, err := topickey.CheckSealed(copied)
	require.NoError(t, err)
	return frame{"encryptedKeyPubkey": hexOf(prefix[:]), "encryptedKey": copied.EncryptedKey, "nonce": copied.Nonce}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var out []byte
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

// merged is the union of objects.
func merged(objects ...frame) frame {
	out := frame{}
	for _, o := range objects {
		for k, v := range o {
			out[k] = v
		}
	}
	return out
}

// openKey opens the caller's copy of a topic's key.
func (d door) openKey(topic string, member *brokertest.Member) topickey.Key {
	d.t.Helper()
	got := d.ok("GET", topicPath(topic, "/key"), nil)
	key, _, err := topickey.Open(topickey.Sealed{EncryptedKey: got.Str("encryptedKey"), Nonce: got.Str("nonce")}, member.Key)
	require.NoError(d.t, err)
	return key
}

// sse is an event stream that is read as it comes.
type sse struct {
	t      *testing.T
	resp   *http.Response
	events chan sseEvent // closed at the end of the stream
}

type sseEvent struct {
	Name, ID, Data string
}

func (e sseEvent) json(t *testing.T) frame {
	t.Helper()
	f := frame{}
	require.NoError(t, json.Unmarshal([]byte(e.Data), &f), e.Data)
	return f
}

// stream opens a topic's stream and reads its first event.
func (d door) stream(topic, lastID string) *sse {
	d.t.Helper()
	s := d.openStream(topic, lastID)
	require.Equal(d.t, "ready", s.next().Name)
	return s
}

func (d door) openStream(topic, lastID string) *sse {
	d.t.Helper()
	req := d.request("GET", topicPath(topic, "/stream"), nil, header{"Last-Event-ID", lastID})
	resp, err := d.mesh.HTTP.Do(req)
	require.NoError(d.t, err)
	require.Equal(d.t, http.StatusOK, resp.StatusCode)
	s := &sse{t: d.t, resp: resp, events: make(chan sseEvent, 2048)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(s.events)
		in := bufio.NewReader(resp.Body)
		for {
			e, err := readSSE(in)
			if err != nil {
				return
			}
			s.events <- e
		}
	}()
	d.t.Cleanup(func() {
		s.close()
		<-read
	})
	return s
}

// readSSE reads one event, strictly as the broker writes it.
func readSSE(in *bufio.Reader) (sseEvent, error) {
	var e sseEvent
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return e, err
		}
		line = strings.TrimSuffix(line, "\n")
		name, value, ok := strings.Cut(line, ": ")
		switch {
		case line == "":
			return e, nil
		case !ok || strings.Contains(line, "\r"):
			return e, errors.New("bad line " + line)
		case name == "event":
			e.Name = value
		case name == "id":
			e.ID = value
		case name == "data":
			e.Data = value
		default:
			return e, errors.New("bad field " + name)
		}
	}
}

// next waits for an event. It fails at the end of the stream, or after a minute.
func (s *sse) next() sseEvent {
	s.t.Helper()
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	select {
	case e, ok := <-s.events:
		require.True(s.t, ok, "the stream ended")
		return e
	case <-timer.C:
		s.t.Fatal("no event")
		return sseEvent{}
	}
}

// messages takes n message events and returns their ids. Heartbeats are passed over.
func (s *sse) messages(n int) []string {
	s.t.Helper()
	ids := make([]string, 0, n)
	for len(ids) < n {
		e := s.next()
		if e.Name == "heartbeat" {
			continue
		}
		require.Equal(s.t, "message", e.Name, "%v", e)
		require.Equal(s.t, e.ID, e.json(s.t).Str("id"))
		ids = append(ids, e.ID)
	}
	return ids
}

// ended waits for the end of the stream and returns how long it took.
func (s *sse) ended() time.Duration {
	s.t.Helper()
	began := time.Now()
	timer := time.NewTimer(10 * time.Minute)
	defer timer.Stop()
	for {
		select {
		case e, ok := <-s.events:
			if !ok {
				return time.Since(began)
			}
			require.NotEqual(s.t, "message", e.Name, "%v", e)
		case <-timer.C:
			s.t.Fatal("the stream goes on")
		}
	}
}

// close leaves the stream.
func (s *sse) close() { _ = s.resp.Body.Close() }

// flaky is a store of which one operation fails while it is told to.
type flaky struct {
	store.Store
	down atomic.Pointer[error]
}

func (f *flaky) fail(err error) { f.down.Store(&err) }

func (f *flaky) failure() error {
	if err := f.down.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *flaky) Topic(ctx context.Context, mesh, ref string) (store.Topic, error) {
	if err := f.failure(); err != nil {
		return store.Topic{}, err
	}
	return f.Store.Topic(ctx, mesh, ref)
}

func (f *flaky) History(ctx context.Context, q store.HistoryQuery) ([]store.Message, error) {
	if err := f.failure(); err != nil {
		return nil, err
	}
	return f.Store.History(ctx, q)
}

// rekeyProof is the body of a request for a new key.
func rekeyProof(mesh *brokertest.Mesh, member *brokertest.Member, key identity.KeyPair, at time.Time) frame {
	return frame{
		"pubkey": key.Public(), "timestamp": at.UnixMilli(),
		"proof": key.Sign(identity.RekeyText(mesh.ID, member.ID, key.Public(), float64(at.UnixMilli()))),
	}
}

func decodeJSON(r io.Reader, v any) error { return json.NewDecoder(r).Decode(v) }

// enrol adds a member to a mesh of a broker and returns its id.
func enrol(t *testing.T, b *broker.Broker, meshID, name string) string {
	t.Helper()
	key, err := identity.GenerateKey()
	require.NoError(t, err)
	m, err := b.AddMember(t.Context(), meshID, broker.NewMember{Name: name, Pubkey: key.Public()})
	require.NoError(t, err)
	return m.ID
}

// fill puts posts by bo, addressed to bo, into the topic "general" and returns their ids.
func fill(t *testing.T, mesh *brokertest.Mesh, n int, body string) []string {
	t.Helper()
	bo := mesh.Member("bo")
	topic, err := mesh.Store.Topic(t.Context(), mesh.ID, "general")
	require.NoError(t, err)
	roster, err := mesh.Store.Roster(t.Context(), mesh.ID)
	require.NoError(t, err)
	ids := make([]string, n)
	drafts := make([]store.Draft, n)
	for i := range drafts {
		ids[i] = identity.NewID()
		drafts[i] = store.Draft{Message: store.Message{
			ID: ids[i], MeshID: mesh.ID, SenderMemberID: bo.ID, SenderPubkey: bo.Pubkey, TargetSpec: "#general", TopicID: topic.ID, TopicName: "general",
			Priority: wire.PriorityNext, Ciphertext: body, BodyVersion: topickey.V1, ExpiresAt: time.Now().Add(time.Hour),
		}, Recipients: []store.Recipient{{MemberID: bo.ID}}}
	}
	_, err = mesh.Store.Enqueue(t.Context(), mesh.ID, roster.Version, drafts, store.Quota{}, time.Now().UTC())
	require.NoError(t, err)
	return ids
}
