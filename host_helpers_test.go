package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
)

// hostRequest is a request of a host's client, made without a connection so that its address can be chosen.
type hostRequest struct {
	path   string
	from   string // remote address; default 127.0.0.1
	host   string // Host header; default localhost
	header map[string]string
	body   any // a string as it is, else as JSON
}

// hostAnswer is what came back.
type hostAnswer struct {
	code   int
	header http.Header
	body   frame // nil if the answer is not JSON
}

// hostPost makes a POST request.
func hostPost(t *testing.T, b *broker.Broker, q hostRequest) hostAnswer {
	t.Helper()
	raw, isText := q.body.(string)
	if !isText {
		encoded, err := json.Marshal(q.body)
		require.NoError(t, err)
		raw = string(encoded)
	}
	r := httptest.NewRequest(http.MethodPost, q.path, bytes.NewReader([]byte(raw)))
	r.RemoteAddr, r.Host = "127.0.0.1:40000", "localhost:7900"
	if q.from != "" {
		r.RemoteAddr = q.from
	}
	if q.host != "" {
		r.Host = q.host
	}
	r.Header.Set("Content-Type", "application/json")
	for name, value := range q.header {
		r.Header.Set(name, value)
	}
	return hostServe(b, r)
}

// hostGet makes a GET request.
func hostGet(b *broker.Broker, path string) hostAnswer {
	return hostServe(b, httptest.NewRequest(http.MethodGet, path, nil))
}

func hostServe(b *broker.Broker, r *http.Request) hostAnswer {
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	a := hostAnswer{code: w.Code, header: w.Header()}
	_ = json.Unmarshal(w.Body.Bytes(), &a.body) // nil says enough
	return a
}

// hostKey makes a key pair.
func hostKey(t *testing.T) identity.KeyPair {
	t.Helper()
	key, err := identity.GenerateKey()
	require.NoError(t, err)
	return key
}

// hostSignIn signs a member of any mesh in, as an older client does.
func hostSignIn(t *testing.T, mesh *brokertest.Mesh, member store.Member, key identity.KeyPair, more frame) *brokertest.Conn {
	t.Helper()
	at := float64(time.Now().UnixMilli())
	hello := frame{
		"type": "hello", "meshId": member.MeshID, "memberId": member.ID, "pubkey": key.Public(), "timestamp": at, "sessionId": identity.NewID(),
		"pid": 1, "cwd": "/", "signature": key.Sign(identity.HelloText(member.MeshID, member.ID, key.Public(), at)),
	}
	for k, v := range more {
		hello[k] = v
	}
	c := mesh.Connect()
	c.Send(hello)
	c.Read()
	require.Equal(t, "hello_ack", c.Expect().Type())
	return c
}

// hostStatuses returns the status of each session of the meshes, by session id.
func hostStatuses(b *broker.Broker, meshes ...string) map[string]string {
	out := map[string]string{}
	for _, id := range meshes {
		for _, s := range b.Sessions(id) {
			out[s.SessionID] = string(s.Status)
		}
	}
	return out
}

// hostStore is a store whose operations a test can break or hold up.
type hostStore struct {
	store.Store
	redeem func() error // before RedeemInvite; an error is its result
	opened func()       // after OpenPresence
}

func (s *hostStore) RedeemInvite(ctx context.Context, r store.Redemption, audit ...store.AuditEvent) (store.Member, bool, error) {
	if s.redeem != nil {
		if err := s.redeem(); err != nil {
			return store.Member{}, false, err
		}
	}
	return s.Store.RedeemInvite(ctx, r, audit...)
}

func (s *hostStore) OpenPresence(ctx context.Context, p store.Presence, audit ...store.AuditEvent) (int64, error) {
	epoch, err := s.Store.OpenPresence(ctx, p, audit...)
	if s.opened != nil {
		s.opened()
	}
	return epoch, err
}

// wrap puts the store between a mesh's broker and its own.
func (s *hostStore) wrap(o *broker.Options) {
	s.Store, o.Store = o.Store, s
}

// hostMetrics returns the text of /metrics.
func hostMetrics(t *testing.T, b *broker.Broker) []byte {
	t.Helper()
	w := httptest.NewRecorder()
	b.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, w.Code)
	return w.Body.Bytes()
}
