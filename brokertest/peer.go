package brokertest

import (
	"context"
	"time"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
)

// Peer is a member's session that uses package client: it encrypts, acknowledges and reconnects as a real agent's would. The methods of
// [client.Client] are its own; those that brokertest redefines fail the test instead of returning an error.
type Peer struct {
	*client.Client
	Member *Member

	mesh *Mesh
}

// Join signs a member in, enrolling it the first time. Options change how. The session ends with the test.
func (m *Mesh) Join(name string, options ...func(*client.Options)) *Peer {
	m.t.Helper()
	member := m.Member(name)
	o := client.Options{
		URL: m.URL, HTTPClient: m.HTTP, MeshID: m.ID, MemberID: member.ID, Key: member.Key, SessionID: identity.NewID(), Cwd: "/src/" + name, PID: 1,
	}
	for _, set := range options {
		set(&o)
	}
	c, err := client.Dial(m.t.Context(), o)
	if err != nil {
		m.t.Fatalf("brokertest: %s cannot sign in: %v", name, err)
	}
	m.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			m.t.Errorf("brokertest: close %s: %v", name, err)
		}
	})
	return &Peer{Client: c, Member: member, mesh: m}
}

// limit bounds every wait outside a bubble; inside, it is fake time.
const limit = 10 * time.Second

// Send sends text to a name, a key, "@group", "*" or "#topic" and returns when the broker has stored it.
func (p *Peer) Send(target, text string, options ...client.SendOption) client.Sent {
	p.mesh.t.Helper()
	ctx, cancel := context.WithTimeout(p.mesh.t.Context(), limit)
	defer cancel()
	sent, err := p.Client.Send(ctx, target, text, options...)
	if err != nil {
		p.mesh.t.Fatalf("brokertest: %s to %s: %v", p.Member.Name, target, err)
	}
	return sent
}

// Receive returns the next message. It fails the test after ten seconds without one.
func (p *Peer) Receive() client.Message {
	p.mesh.t.Helper()
	ctx, cancel := context.WithTimeout(p.mesh.t.Context(), limit)
	defer cancel()
	msg, err := p.Client.Receive(ctx)
	if err != nil {
		p.mesh.t.Fatalf("brokertest: %s waits for a message: %v", p.Member.Name, err)
	}
	return msg
}
