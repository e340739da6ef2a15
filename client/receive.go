package client

import (
	"context"
	"encoding/json"
	"iter"
	"sync"
	"time"

	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

const (
	// maxInbox bounds the messages that wait for Receive. The broker stops at 1000 that are not acknowledged, so an honest one
	// never gets there; what is dropped here is not acknowledged and comes again.
	maxInbox = 4096
	// maxInboxBytes bounds them in bytes.
	maxInboxBytes = 128 << 20
	// rememberedIDs is how many message ids are remembered to recognise a second push.
	rememberedIDs = 8192
	// keyPatience is how long Receive waits for a topic's key before it hands a message over unopened.
	keyPatience = 10 * time.Second
)

// TargetKind says what a message was addressed to.
type TargetKind = wire.TargetKind

// The kinds of target of a message.
const (
	ToMember = wire.TargetKey   // this member or this session
	ToAll    = wire.TargetAll   // everybody
	ToGroup  = wire.TargetGroup // a group
	ToTopic  = wire.TargetTopic // a topic
)

// Message is a message for this member, or one of a topic's history.
type Message struct {
	ID     string
	MeshID string
	// From is the sender's display name. Names are the broker's word; FromMemberID is what is pinned.
	From         string
	FromMemberID string
	// FromPubkey is the key that the message came from: the sender's session key if it has one, else its member key.
	FromPubkey       string
	FromMemberPubkey string

	// Text is empty when Err is set.
	Text string
	// Err says why the text is unknown: ErrKeyPending, a *KeyRefusedError, or that the message does not open with our keys. A
	// topic message can be read from the History later.
	Err error

	To       TargetKind
	Group    string // without "@", when To is ToGroup
	Topic    string // the topic's name, when To is ToTopic
	TopicID  string
	Priority wire.Priority

	CreatedAt       time.Time
	ReplyToID       string
	ClientMessageID string

	// Encrypted is false for "*", groups, reminders and topics without a key: the broker could read the text.
	Encrypted bool
	// Untrusted marks an unencrypted message in a topic that is encrypted: anybody could have written it.
	Untrusted bool
	// Unverified says that only the broker vouches for the sender. It is false for direct messages that were sealed with the
	// member key pinned for FromMemberID, or with a session key that this member key attested for the time of the message.
	Unverified bool
	// KeyChanged says that the broker gives another key for FromMemberID than the pinned one.
	KeyChanged bool
	// Redelivered says that the broker had pushed the message before, perhaps to another process of this member.
	Redelivered bool
	// Reminder says that the scheduler sent it on behalf of FromMemberID.
	Reminder bool
}

// seen is what is known of a message id.
type seen uint8

const (
	seenWaiting seen = iota + 1 // in the inbox, or handed over and not acknowledged
	seenAcked                   // acknowledged
)

// inbox holds pushes until Receive takes them, in the order in which they came.
type inbox struct {
	mail    chan struct{} // has a value when there may be a message
	turn    chan struct{} // held by the one Receive that looks at the first message
	dropped int           // for the log

	mu    sync.Mutex
	queue []*wire.Push // guarded by mu
	bytes int          // guarded by mu; of the bodies in queue
	ids   recent[seen] // guarded by mu
}

func (in *inbox) init() {
	in.mail, in.turn = make(chan struct{}, 1), make(chan struct{}, 1)
	in.ids = newRecent[seen](rememberedIDs)
}

func (in *inbox) signal() {
	select {
	case in.mail <- struct{}{}:
	default:
	}
}

// put takes a push and reports whether it was acknowledged before, so that the acknowledgement is due again.
func (in *inbox) put(p *wire.Push) (again bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if was, known := in.ids.get(p.MessageID); known {
		return was == seenAcked
	}
	if len(in.queue) >= maxInbox || in.bytes+len(p.Ciphertext) > maxInboxBytes {
		in.dropped++
		return false
	}
	in.ids.put(p.MessageID, seenWaiting)
	in.queue = append(in.queue, p)
	in.bytes += len(p.Ciphertext)
	in.signal()
	return false
}

// first is the oldest push, which stays; nil for none.
func (in *inbox) first() *wire.Push {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.queue) == 0 {
		return nil
	}
	return in.queue[0]
}

// pop removes the first push.
func (in *inbox) pop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.bytes -= len(in.queue[0].Ciphertext)
	in.queue[0] = nil
	if in.queue = in.queue[1:]; len(in.queue) == 0 {
		in.queue = nil
	} else {
		in.signal() // for the next Receive
	}
}

func (in *inbox) acked(ids ...string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, id := range ids {
		in.ids.put(id, seenAcked)
	}
}

// takePush handles a push frame.
func (c *Client) takePush(frame []byte) {
	p := new(wire.Push)
	if err := json.Unmarshal(frame, p); err != nil {
		c.o.Logger.Debug("unreadable push", "cause", err)
		return
	}
	switch {
	case p.Subtype == wire.SubtypeSystem:
		c.takeEvent(p)
	case p.MessageID == "":
		c.o.Logger.Debug("push without an id")
	case c.inbox.put(p):
		c.out.ack(c.ackOf(p.MessageID))
	}
}

// Receive returns the next message for this member. Each is handed over once, in the order of the broker, which is per sender
// and priority; a message whose Receive fails because ctx ended comes with the next call. Unless Options.ManualAck is set it is
// acknowledged by being returned. After the client has ended what had arrived before is still returned, except after Close.
func (c *Client) Receive(ctx context.Context) (Message, error) {
	select {
	case c.inbox.turn <- struct{}{}:
	case <-ctx.Done():
		return Message{}, context.Cause(ctx)
	}
	defer func() { <-c.inbox.turn }()
	for {
		if ctx.Err() != nil {
			return Message{}, context.Cause(ctx)
		}
		ended := c.Err()
		if ended == ErrClosed {
			return Message{}, ErrClosed
		}
		p := c.inbox.first()
		if p == nil {
			if ended != nil {
				return Message{}, ended
			}
			select {
			case <-c.inbox.mail:
			case <-c.done:
			case <-ctx.Done():
			}
			continue
		}
		m := c.openPush(ctx, p)
		if m.Err != nil && ctx.Err() != nil {
			return Message{}, context.Cause(ctx)
		}
		if !c.o.ManualAck {
			c.inbox.acked(p.MessageID)
			c.out.ack(c.ackOf(p.MessageID))
		}
		c.inbox.pop()
		return m, nil
	}
}

// Messages is Receive as an iterator. It ends after the first error, which it yields.
func (c *Client) Messages(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		for {
			m, err := c.Receive(ctx)
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// Ack acknowledges messages by their ids and returns when the broker has it in store. It is for Options.ManualAck; what is not
// acknowledged is pushed again, to this process only until it was handed over. Of the latest 8192 messages that were handed over, by
// Receive, Tail or History, it signs receipts, unless Options.NoReceipts is set.
func (c *Client) Ack(ctx context.Context, ids ...string) error {
	for len(ids) > 0 {
		acks := make([]ack, min(len(ids), c.ackLimit()))
		for i := range acks {
			acks[i] = c.ackOf(ids[i])
		}
		n := len(acks)
		_, err := c.roundTrip(ctx, true, func(id string) (string, []byte, error) {
			return wire.TypeClientAck, ackFrame(acks, id), nil
		})
		if err != nil {
			return err
		}
		c.inbox.acked(ids[:n]...)
		ids = ids[n:]
	}
	return nil
}

// openPush makes a Message of a push. It may ask for the topic's key.
func (c *Client) openPush(ctx context.Context, p *wire.Push) Message {
	m := Message{
		ID: p.MessageID, MeshID: p.MeshID, From: p.SenderName, FromMemberID: p.SenderMemberID, FromPubkey: lower(p.SenderPubkey),
		FromMemberPubkey: lower(p.SenderMemberPubkey), Priority: p.Priority, CreatedAt: parseTime(p.CreatedAt),
		ReplyToID: p.ReplyToID, ClientMessageID: p.ClientMessageID, Redelivered: p.Redelivered, Unverified: true,
		To: ToMember, Topic: p.Topic, TopicID: p.TopicID, Reminder: p.Subtype == wire.SubtypeReminder,
	}
	if target := wire.ParseTarget(p.TargetSpec); target.Kind == wire.TargetAll || target.Kind == wire.TargetGroup {
		m.To = target.Kind
		if m.Group = target.Ref; m.To == ToAll {
			m.Group = ""
		}
	}
	if p.Topic != "" || p.TopicID != "" {
		m.To = ToTopic
	}
	pinned := c.checkSender(&m)
	bySession := false
	switch {
	case m.Reminder, m.To == ToAll, m.To == ToGroup:
		m.Text = topickey.DecodeV1(p.Ciphertext)
	case m.To == ToTopic:
		c.openTopicBody(ctx, &m, p.BodyVersion, p.Nonce, p.Ciphertext)
	default:
		m.Encrypted = true
		m.Text, bySession, m.Err = c.openDirect(p)
		m.Unverified = m.Err != nil || pinned == "" || m.FromPubkey != pinned && !c.vouchedFor(p, pinned, &m)
	}
	c.bodies.saw(p.MessageID, p.Nonce, p.Ciphertext, bySession)
	return m
}

// vouchedFor reports whether the pinned member attested the session key that a message came from. Its time counts, for it may have waited longer than
// attestations last; a time that is still to come does not.
func (c *Client) vouchedFor(p *wire.Push, pinned string, m *Message) bool {
	at := m.CreatedAt
	if now := time.Now(); at.IsZero() || at.After(now) {
		at = now
	}
	return attested(p.Attestation, pinned, m.FromPubkey, at)
}

// checkSender pins the sender's member key at first sight and notes when it is another one than before.
func (c *Client) checkSender(m *Message) (pinned string) {
	if m.FromMemberID == "" || !wire.IsKey(m.FromMemberPubkey) {
		return ""
	}
	pinned, err := c.pinMember(m.FromMemberID, m.FromMemberPubkey)
	if err != nil {
		c.o.Logger.Debug("pins", "cause", err)
		return ""
	}
	m.KeyChanged = pinned != m.FromMemberPubkey
	return pinned
}
