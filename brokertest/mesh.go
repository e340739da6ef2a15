// Package brokertest puts a whole mesh into a test: a real broker on a real HTTP server over an in-memory network, an in-memory store, and
// peers that sign in with real keys. There is no socket, no port and no database, and everything works inside a testing/synctest bubble, so
// that leases, time-outs and redelivery are tested without waiting.
//
//	func TestAnswer(t *testing.T) {
//		t.Parallel()
//		synctest.Test(t, func(t *testing.T) {
//			mesh := brokertest.New(t)
//			ana, bo := mesh.Join("ana"), mesh.Join("bo")
//			ana.Send("bo", "are you there?")
//			require.Equal(t, "are you there?", bo.Receive().Text)
//		})
//	}
//
// [Mesh.Join] gives a peer that uses package client, which is what an agent's own test wants. [Mesh.Dial] gives a bare connection that sends
// and receives frames as they are, for tests of the protocol itself. Every failure fails the test; nothing returns an error.
package brokertest

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/internal/memconn"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
)

// Mesh is a mesh in memory, with the broker that serves it.
type Mesh struct {
	// ID is the mesh's id, Owner the key of its owner, who is no member.
	ID    string
	Owner identity.KeyPair
	// Store is where the broker keeps it. It survives Restart.
	Store store.Store
	// Broker is the running broker; Restart replaces it.
	Broker *broker.Broker
	// URL is the broker's address for clients that dial through HTTP: "ws://broker.test/ws".
	URL string
	// HTTP reaches the broker.
	HTTP *http.Client

	t       testing.TB
	options []func(*broker.Options)

	mu       sync.Mutex
	listener *memconn.Listener
	server   *http.Server
	served   chan struct{}
	members  map[string]*Member // by name
	signedAt int64              // ms since the epoch, of the last hello
}

// Member is somebody who may sign in.
type Member struct {
	store.Member
	Key identity.KeyPair
}

// Host is the name under which the in-memory network knows the broker.
const Host = "broker.test"

// New starts a mesh. The broker is as a host gets it by default, but that it logs nothing and that rates are lifted (a test is not an attacker);
// options change that. It ends with the test.
func New(t testing.TB, options ...func(*broker.Options)) *Mesh {
	t.Helper()
	owner, err := identity.GenerateKey()
	if err != nil {
		t.Fatalf("brokertest: %v", err)
	}
	m := &Mesh{Owner: owner, Store: memory.New(), URL: "ws://" + Host + "/ws", t: t, options: options, members: map[string]*Member{}}
	m.HTTP = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			m.mu.Lock()
			l := m.listener
			m.mu.Unlock()
			return l.DialContext(ctx, network, addr)
		},
		DisableKeepAlives: true,
	}}
	m.start()
	mesh, err := m.Broker.CreateMesh(t.Context(), broker.NewMesh{Slug: "test", Name: "Test", OwnerPubkey: owner.Public()})
	if err != nil {
		t.Fatalf("brokertest: create the mesh: %v", err)
	}
	m.ID = mesh.ID
	t.Cleanup(m.stop)
	return m
}

// start runs a broker on the store, behind a new listener.
func (m *Mesh) start() {
	o := broker.Options{
		Store: m.Store, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		SendRatePerMin: -1, DeliveryRatePerMin: -1, InboundBytesPerSec: -1, ControlRatePerMin: -1, APIRatePerMin: -1, HandshakesPerSecondPerAddr: -1, MaxPendingHandshakesPerAddr: -1,
		JoinAddrRatePerMin: -1, HookLoopback: true,
	}
	for _, set := range m.options {
		set(&o)
	}
	b, err := broker.New(o)
	if err != nil {
		m.t.Fatalf("brokertest: %v", err)
	}
	l := memconn.Listen()
	server := &http.Server{Handler: b, ErrorLog: slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelError)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // ends with ErrServerClosed
	}()
	m.mu.Lock()
	m.Broker, m.listener, m.server, m.served = b, l, server, served
	m.mu.Unlock()
}

// stop shuts the broker down. It runs after the test's context has ended.
func (m *Mesh) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := m.Broker.Shutdown(ctx); err != nil {
		m.t.Errorf("brokertest: shutdown: %v", err)
	}
	if err := m.server.Shutdown(ctx); err != nil {
		m.t.Errorf("brokertest: server shutdown: %v", err)
	}
	<-m.served
	m.HTTP.CloseIdleConnections()
}

// Restart shuts the broker down and starts another on the same store. Connections close with 1001.
func (m *Mesh) Restart() {
	m.t.Helper()
	m.stop()
	m.start()
}

// Member returns the member of that name, enrolling it the first time. The first one is an admin, as in a mesh that people join.
func (m *Mesh) Member(name string) *Member {
	m.t.Helper()
	m.mu.Lock()
	known, first := m.members[name], len(m.members) == 0
	m.mu.Unlock()
	if known != nil {
		return known
	}
	role := store.RoleMember
	if first {
		role = store.RoleAdmin
	}
	return m.Enroll(broker.NewMember{Name: name, Role: role})
}

// Enroll adds a member with a new key.
func (m *Mesh) Enroll(as broker.NewMember) *Member {
	m.t.Helper()
	key, err := identity.GenerateKey()
	if err != nil {
		m.t.Fatalf("brokertest: %v", err)
	}
	as.Pubkey = key.Public()
	row, err := m.Broker.AddMember(m.t.Context(), m.ID, as)
	if err != nil {
		m.t.Fatalf("brokertest: enroll %s: %v", as.Name, err)
	}
	member := &Member{Member: row, Key: key}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.members[as.Name] = member
	return member
}

// Online reports whether a member has a live connection that takes messages.
func (m *Mesh) Online(name string) bool {
	m.t.Helper()
	return m.Broker.Online(m.ID, m.Member(name).ID)
}
