package client

import (
	"sync"
)

// PinKind says what a pin is about.
type PinKind string

// The kinds of pins.
const (
	PinMember     PinKind = "member"     // a member id: its public key, 64 lower-case hex digits
	PinName       PinKind = "name"       // a display name, folded: the id of the member that it was written to
	PinTopic      PinKind = "topic"      // a topic id: "encrypted"
	PinVisibility PinKind = "visibility" // a topic id: its visibility
)

// topicEncrypted is the value of a PinTopic.
const topicEncrypted = "encrypted"

// Pin is one thing to remember.
type Pin struct {
	Kind      PinKind
	ID, Value string
}

// Pins remember what a broker said first, so that it cannot say something else later. They are what stands between a broker
// that lies and the members' messages, so keep them as safe as the keys. An implementation must be safe for concurrent use.
type Pins interface {
	// Get returns the value pinned under kind and id in a mesh, empty for none.
	Get(mesh string, kind PinKind, id string) (string, error)
	// Pin keeps the value of each pin that has none yet, all or none of them, and returns what is pinned now, in the same order.
	Pin(mesh string, pins ...Pin) ([]Pin, error)
	// Replace pins a value whatever was there; an empty value takes the pin away.
	Replace(mesh string, pin Pin) error
}

type pinKey struct {
	Mesh string
	Kind PinKind
	ID   string
}

// MemoryPins are Pins that are forgotten with the process.
type MemoryPins struct {
	mu   sync.Mutex
	pins map[pinKey]string // guarded by mu
}

var _ Pins = (*MemoryPins)(nil)

// NewMemoryPins returns empty pins.
func NewMemoryPins() *MemoryPins { return &MemoryPins{pins: map[pinKey]string{}} }

// Get implements Pins.
func (m *MemoryPins) Get(mesh string, kind PinKind, id string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pins[pinKey{mesh, kind, id}], nil
}

// Pin implements Pins.
func (m *MemoryPins) Pin(mesh string, pins ...Pin) ([]Pin, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out, _ := m.pinLocked(mesh, pins)
	return out, nil
}

func (m *MemoryPins) pinLocked(mesh string, pins []Pin) (now []Pin, added []pinKey) {
	now = make([]Pin, len(pins))
	for i, p := range pins {
		k := pinKey{mesh, p.Kind, p.ID}
		if m.pins[k] == "" && p.Value != "" {
			m.pins[k] = p.Value
			added = append(added, k)
		}
		p.Value = m.pins[k]
		now[i] = p
	}
	return now, added
}

// Replace implements Pins.
func (m *MemoryPins) Replace(mesh string, p Pin) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.replaceLocked(mesh, p)
	return nil
}

func (m *MemoryPins) replaceLocked(mesh string, p Pin) {
	k := pinKey{mesh, p.Kind, p.ID}
	if p.Value == "" {
		delete(m.pins, k)
	} else {
		m.pins[k] = p.Value
	}
}

// pinMember pins a member's key at first sight and returns the one that is pinned.
func (c *Client) pinMember(memberID, pubkey string) (string, error) {
	pins, err := c.pinMembers([]Pin{{Kind: PinMember, ID: memberID, Value: pubkey}})
	if err != nil {
		return "", err
	}
	return pins[0], nil
}

// pinMembers is pinMember of several. The client's own key is known and never learned from the broker.
func (c *Client) pinMembers(pins []Pin) ([]string, error) {
	ask := pins[:0:0]
	for _, p := range pins {
		if p.ID != c.o.MemberID {
			p.Value = lower(p.Value)
			ask = append(ask, p)
		}
	}
	var now []Pin
	if len(ask) > 0 {
		var err error
		if now, err = c.o.Pins.Pin(c.o.MeshID, ask...); err != nil {
			return nil, err
		}
	}
	out := make([]string, len(pins))
	for i, p := range pins {
		if p.ID == c.o.MemberID {
			out[i] = c.o.Key.Public()
			continue
		}
		out[i], now = now[0].Value, now[1:]
	}
	return out, nil
}

// TrustMember pins a member's key in place of the one pinned before, for a person who has made sure that it is right.
func (c *Client) TrustMember(memberID, pubkey string) error {
	return c.o.Pins.Replace(c.o.MeshID, Pin{Kind: PinMember, ID: memberID, Value: lower(pubkey)})
}

// TrustName lets a name stand for a member, whoever it stood for before.
func (c *Client) TrustName(name, memberID string) error {
	return c.o.Pins.Replace(c.o.MeshID, Pin{Kind: PinName, ID: foldName(name), Value: memberID})
}
