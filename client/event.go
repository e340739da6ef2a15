package client

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/claudemesh/broker/wire"
)

// eventBuffer is how many events wait for a reader; of more, the oldest go.
const eventBuffer = 256

// Names of events that the client makes itself, beside those of the broker (wire.EventPeerJoined and so on).
const (
	EventConnected    = "client_connected"
	EventDisconnected = "client_disconnected"
)

// Event is something that happened in the mesh, best effort: the broker does not store events, and one that is not read in time
// is lost.
type Event struct {
	// Name is one of the broker's event names, EventConnected, EventDisconnected, or the type of any other frame that came
	// without being asked for.
	Name string
	// At is when it happened.
	At time.Time
	// Peer is set on peer_joined, peer_returned, peer_left, peer_visible and peer_hidden.
	Peer *wire.PeerEvent
	// TopicJoined is set on topic_joined.
	TopicJoined *wire.TopicJoinedEvent
	// Receipt is set on receipt, if it holds.
	Receipt *ReceiptEvent
	// State is set on state_change (wire.TypeStateChange).
	State *StateChange
	// Data is the event's data, or the whole frame of another type. A receipt that does not hold is not shown.
	Data json.RawMessage
	// Err is why the connection was lost, on EventDisconnected; and on receipt why it does not count: a *ReceiptError, ErrUnknownSend or
	// ErrUnknownRecipient.
	Err error
}

// ReceiptEvent tells that a recipient has signed that it has a message which this process sent. The receipt has been checked.
type ReceiptEvent struct {
	MessageID string
	MemberID  string
	AckedAt   time.Time // by the recipient's clock
	Receipt   wire.StoredReceipt
}

// Events returns the channel of events, always the same. It holds 256; when it is full the oldest event goes. It is closed when
// the client ends.
func (c *Client) Events() <-chan Event { return c.events }

func (c *Client) emit(e Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.emitLocked(e)
}

func (c *Client) emitLocked(e Event) {
	if c.err != nil {
		return // the channel is closed
	}
	for {
		select {
		case c.events <- e:
			return
		default:
		}
		select {
		case <-c.events: // the newest are worth more
		default:
		}
	}
}

// takeEvent handles a system push.
func (c *Client) takeEvent(p *wire.Push) {
	e := Event{Name: p.Event, At: parseTime(p.CreatedAt), Data: p.EventData}
	switch p.Event {
	case wire.EventPeerJoined, wire.EventPeerReturned, wire.EventPeerLeft, wire.EventPeerVisible, wire.EventPeerHidden:
		var peer wire.PeerEvent
		if json.Unmarshal(p.EventData, &peer) == nil {
			e.Peer = &peer
		}
	case wire.EventTopicJoined:
		var joined wire.TopicJoinedEvent
		if json.Unmarshal(p.EventData, &joined) == nil {
			e.TopicJoined = &joined
			c.keys.joined(joined.TopicID)
		}
	case wire.EventReceipt:
		if e.Err = c.takeReceipt(&e, p.EventData); e.Err != nil {
			e.Data = nil
		}
	}
	c.emit(e)
}

func decodeEvent(data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("client: unreadable event: %w", err)
	}
	return nil
}
