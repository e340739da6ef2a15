package client

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/internal/memconn"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

const (
	testMesh   = "Mesh0000000000000000000000000001"
	testMember = "Memb0000000000000000000000000001"
	bobMember  = "Memb0000000000000000000000000002"
	eveMember  = "Memb0000000000000000000000000003"
)

func testKey(t testing.TB, seed string) identity.KeyPair {
	t.Helper()
	k, err := identity.KeyPairFromSeedHex(strings.Repeat(seed, 32))
	require.NoError(t, err)
	return k
}

// stub is a broker that does what a test says and nothing else, so that it can also misbehave.
type stub struct {
	t        testing.TB
	listener *memconn.Listener
	mux      *http.ServeMux
	hc       *http.Client

	sockets sync.WaitGroup

	mu     sync.Mutex
	conns  int                    // guarded by mu
	frames []map[string]any       // guarded by mu; all requests of all connections
	socks  map[*stubConn]struct{} // guarded by mu

	// serve runs one connection after its hello_ack; returning closes the socket with code 1000.
	serve func(*stubConn)
	// greet answers the hello; nil: with a hello_ack.
	greet func(k *stubConn, hello map[string]any) bool
}

type stubConn struct {
	s  *stub
	n  int // 1 for the first connection
	ws *websocket.Conn

	closed websocket.StatusCode // how reading ended
}

// newStub starts a stub below the path /mesh. Call it inside the bubble.
func newStub(t testing.TB, serve func(*stubConn)) *stub {
	s := &stub{t: t, listener: memconn.Listen(), mux: http.NewServeMux(), serve: serve, socks: map[*stubConn]struct{}{}}
	if s.serve == nil {
		s.serve = (*stubConn).serveAll
	}
	transport := &http.Transport{DialContext: s.listener.DialContext}
	s.hc = &http.Client{Transport: transport}
	s.mux.HandleFunc("/mesh/ws", s.socket)
	server := &http.Server{Handler: s.mux}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(s.listener) }()
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		s.mu.Lock()
		for k := range s.socks {
			go func() { _ = k.ws.CloseNow() }()
		}
		s.mu.Unlock()
		<-served
		s.sockets.Wait()
	})
	return s
}

func (s *stub) socket(w http.ResponseWriter, r *http.Request) {
	s.sockets.Add(1)
	defer s.sockets.Done()
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	ws.SetReadLimit(-1)
	s.mu.Lock()
	s.conns++
	k := &stubConn{s: s, n: s.conns, ws: ws}
	s.socks[k] = struct{}{}
	s.mu.Unlock()
	defer func() { _ = ws.CloseNow() }()
	hello := k.read()
	if hello == nil {
		return
	}
	if s.greet != nil {
		if !s.greet(k, hello) {
			return
		}
	} else {
		k.write(helloAck("p1"))
	}
	s.serve(k)
	_ = ws.Close(websocket.StatusNormalClosure, "")
}

func helloAck(presence string) *wire.HelloAck {
	return &wire.HelloAck{
		Header: header(wire.TypeHelloAck), PresenceID: presence, MemberID: testMember, MemberDisplayName: "ada", ProtocolVersion: 1,
		Capabilities: []string{wire.CapClientAckBatch},
	}
}

// read returns the next frame, nil when the connection is gone.
func (k *stubConn) read() map[string]any {
	_, raw, err := k.ws.Read(context.Background())
	if err != nil {
		k.closed = websocket.CloseStatus(err)
		return nil
	}
	var f map[string]any
	if err := json.Unmarshal(raw, &f); err != nil {
		k.s.t.Errorf("the client wrote %q: %v", raw, err)
	}
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	k.s.frames = append(k.s.frames, f)
	return f
}

func (k *stubConn) write(m any) {
	raw, err := wire.Encode(m)
	if err != nil {
		k.s.t.Errorf("encode: %v", err)
	}
	_ = k.ws.Write(context.Background(), websocket.MessageText, raw)
}

// serveAll answers every request with what it needs at the least.
func (k *stubConn) serveAll() {
	for f := k.read(); f != nil; f = k.read() {
		k.answer(f)
	}
}

func (k *stubConn) answer(f map[string]any) {
	id, _ := f["_reqId"].(string)
	h := func(typ string) wire.Header { return wire.Header{Type: typ, ReqID: &id} }
	switch f["type"] {
	case wire.TypeSend:
		k.write(k.accepted(f))
	case wire.TypeAPIKeyCreate:
		k.write(&wire.APIKeyCreated{Header: h(wire.TypeAPIKeyCreated), ID: "Key00000000000000000000000000001", Secret: "cm_secret"})
	case wire.TypeListPeers:
		k.write(&wire.PeersList{Header: h(wire.TypePeersList)})
	default:
		if id != "" {
			k.write(wire.Done(&id))
		}
	}
}

// accepted is the ack of a stored send.
func (k *stubConn) accepted(f map[string]any) *wire.Ack {
	id, _ := f["_reqId"].(string)
	offline := false
	return &wire.Ack{
		Header: wire.Header{Type: wire.TypeAck, ReqID: &id}, ID: str(f, "id"), MessageID: "Mess" + str(f, "client_message_id"), Queued: true,
		Offline: &offline, Recipients: &wire.Recipients{Total: 1, Online: 1},
	}
}

func str(f map[string]any, name string) string { s, _ := f[name].(string); return s }

// count is how many connections there were.
func (s *stub) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// of returns the frames of a type.
func (s *stub) of(typ string) (out []map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.frames {
		if f["type"] == typ {
			out = append(out, f)
		}
	}
	return out
}

func (s *stub) options() Options {
	return Options{
		URL: "ws://broker/mesh/ws", MeshID: testMesh, MemberID: testMember, Key: testKey(s.t, "01"), SessionKey: testKey(s.t, "04"),
		SessionID: "s-1", HTTPClient: s.hc, Backoff: func(int) time.Duration { return time.Second },
		Logger: slog.New(slog.DiscardHandler),
	}
}

// dial signs in and closes at the end of the test, or earlier if the test does.
func (s *stub) dial(change ...func(*Options)) *Client {
	s.t.Helper()
	o := s.options()
	for _, f := range change {
		f(&o)
	}
	c, err := Dial(context.Background(), o)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// json answers a REST route with a status and a body.
func (s *stub) json(pattern string, status int, body func(*http.Request) any) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(body(r)); err != nil {
			s.t.Errorf("encode: %v", err)
		}
	})
}

type object = map[string]any

// member is one row of a roster.
func member(id, name string, key identity.KeyPair) object {
	return object{"memberId": id, "displayName": name, "pubkey": key.Public()}
}

// directPush is a message from bob to the client's session or member key.
func directPush(t testing.TB, id, text string, from, to identity.KeyPair) *wire.Push {
	nonce, ciphertext, err := identity.SealDirect(text, to.Public(), from)
	require.NoError(t, err)
	return &wire.Push{
		Header: header(wire.TypePush), MessageID: id, MeshID: testMesh, SenderPubkey: from.Public(), SenderMemberPubkey: testKey(t, "02").Public(),
		SenderMemberID: bobMember, SenderName: "bob", Priority: wire.PriorityNext, Nonce: nonce, Ciphertext: ciphertext,
		CreatedAt: "2026-05-02T20:03:11.000Z",
	}
}

func sealedFor(t testing.TB, key topickey.Key, to, by identity.KeyPair) topickey.Sealed {
	s, err := topickey.Seal(key, to.Public(), by)
	require.NoError(t, err)
	return s
}
