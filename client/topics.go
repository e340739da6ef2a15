package client

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

// topicAge is for how long a topic's name, id and visibility are believed.
const topicAge = time.Minute

// Topic is a room of the mesh with a history.
type Topic struct {
	ID          string
	Name        string
	Description string
	Visibility  string // wire.VisibilityPublic, VisibilityPrivate or VisibilityDM
	MemberCount int
	CreatedAt   time.Time
}

// TopicOptions describe a new topic.
type TopicOptions struct {
	Description string // at most 512 characters
	Visibility  string // default wire.VisibilityPublic
}

// TopicMember is one subscriber of a topic.
type TopicMember struct {
	wire.TopicMemberInfo
	// KeyChanged says that another key is pinned for this member. The topic key is not passed on to it.
	KeyChanged bool
}

// CreateTopic makes a topic, or finds the one of that name; created tells which. The client makes the topic's key and brings a
// copy sealed by itself for itself, so that the broker never has the key. Of a topic that existed the key is another one, which
// TopicKey asks for.
func (c *Client) CreateTopic(ctx context.Context, name string, o TopicOptions) (topic Topic, created bool, err error) {
	key, err := topickey.NewKey()
	if err != nil {
		return Topic{}, false, fmt.Errorf("client: make a topic key: %w", err)
	}
	copied, err := topickey.Seal(key, c.o.Key.Public(), c.o.Key)
	if err != nil {
		return Topic{}, false, fmt.Errorf("client: seal a topic key: %w", err)
	}
	var answer wire.TopicCreated
	err = c.call(ctx, &wire.TopicCreate{
		Header: header(wire.TypeTopicCreate), Name: strings.TrimPrefix(name, "#"), Description: o.Description, Visibility: o.Visibility,
		EncryptedKeyPubkey: c.ownX(), EncryptedKey: copied.EncryptedKey, Nonce: copied.Nonce,
	}, &answer, true)
	if err != nil {
		return Topic{}, false, err
	}
	topic = Topic{
		ID: answer.Topic.ID, Name: answer.Topic.Name, Visibility: answer.Topic.Visibility, Description: o.Description,
		MemberCount: 1, CreatedAt: time.Now(),
	}
	if !answer.Created {
		c.keys.forgetTopics()
		found, err := c.topic(ctx, topic.ID)
		if err != nil {
			return topic, false, err
		}
		return found, false, nil
	}
	c.keys.add(topic)
	if _, err := c.o.Pins.Pin(c.o.MeshID, Pin{PinTopic, topic.ID, topicEncrypted}, Pin{PinVisibility, topic.ID, topic.Visibility}); err != nil {
		return topic, true, err
	}
	if c.keepsKeys() {
		c.keys.hold(topic.ID, key, TopicKeyInfo{TopicID: topic.ID, Topic: topic.Name, SealedBy: c.o.MemberID, Own: true})
	}
	return topic, true, nil
}

// keepsKeys reports whether the broker stores the key copy that a creator brings. An older one ignores it and makes a key.
func (c *Client) keepsKeys() bool { return c.Hello().ProtocolVersion > 0 }

// ownX is the member key converted for boxes, in hex.
func (c *Client) ownX() string {
	public, _ := c.o.Key.X25519()
	return hex.EncodeToString(public[:])
}

// Topics lists the topics that this member may see, by name.
func (c *Client) Topics(ctx context.Context) ([]Topic, error) {
	var list wire.TopicListResponse
	if err := c.call(ctx, &wire.TopicList{Header: header(wire.TypeTopicList)}, &list, true); err != nil {
		return nil, err
	}
	out := make([]Topic, len(list.Topics))
	for i, t := range list.Topics {
		out[i] = Topic{ID: t.ID, Name: t.Name, Visibility: t.Visibility, MemberCount: t.MemberCount, CreatedAt: parseTime(t.CreatedAt)}
		if t.Description != nil {
			out[i].Description = *t.Description
		}
	}
	c.keys.learn(out)
	return out, nil
}

// topic finds a topic by its name or id, with or without "#".
func (c *Client) topic(ctx context.Context, ref string) (Topic, error) {
	ref = strings.TrimSpace(strings.TrimPrefix(ref, "#"))
	if t, ok := c.keys.topic(ref); ok {
		return t, nil
	}
	if _, err := c.Topics(ctx); err != nil {
		return Topic{}, err
	}
	if t, ok := c.keys.topic(ref); ok {
		return t, nil
	}
	return Topic{}, &RequestError{Request: wire.TypeTopicList, Code: wire.TopicNotFound, Text: fmt.Sprintf("topic %q not found", ref)}
}

// JoinTopic subscribes this member, so that it gets the topic's messages. role is wire.TopicLead, TopicMember, TopicObserver or
// empty for member.
func (c *Client) JoinTopic(ctx context.Context, topic, role string) error {
	t, err := c.topic(ctx, topic)
	if err != nil {
		return err
	}
	return c.call(ctx, &wire.TopicJoin{Header: header(wire.TypeTopicJoin), Topic: t.ID, Role: role}, nil, true)
}

// LeaveTopic ends the subscription and gives the topic's key up.
func (c *Client) LeaveTopic(ctx context.Context, topic string) error {
	t, err := c.topic(ctx, topic)
	if err != nil {
		return err
	}
	if err := c.call(ctx, &wire.TopicLeave{Header: header(wire.TypeTopicLeave), Topic: t.ID}, nil, true); err != nil {
		return err
	}
	c.keys.drop(t.ID)
	return nil
}

// AddToTopic subscribes another member, by its id or key. It takes a lead of the topic or an admin of the mesh. An empty role
// keeps the one it has, else member.
func (c *Client) AddToTopic(ctx context.Context, topic, member, role string) error {
	t, err := c.topic(ctx, topic)
	if err != nil {
		return err
	}
	return c.call(ctx, &wire.TopicAdd{Header: header(wire.TypeTopicAdd), Topic: t.ID, Member: member, Role: role}, nil, true)
}

// ArchiveTopic ends a topic and keeps its history. It takes a lead of the topic or an admin of the mesh.
func (c *Client) ArchiveTopic(ctx context.Context, topic string) error {
	t, err := c.topic(ctx, topic)
	if err != nil {
		return err
	}
	err = c.call(ctx, &wire.TopicArchive{Header: header(wire.TypeTopicArchive), Topic: t.ID}, nil, true)
	if err == nil {
		c.keys.drop(t.ID)
		c.keys.forgetTopics()
	}
	return err
}

// TopicMembers lists who is subscribed, by name, and who holds the topic key. The members' keys are pinned at first sight.
func (c *Client) TopicMembers(ctx context.Context, topic string) ([]TopicMember, error) {
	t, err := c.topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	return c.roster(ctx, t)
}

func (c *Client) roster(ctx context.Context, t Topic) ([]TopicMember, error) {
	var list wire.TopicMembersResponse
	if err := c.call(ctx, &wire.TopicMembers{Header: header(wire.TypeTopicMembers), Topic: t.ID}, &list, true); err != nil {
		return nil, err
	}
	pins := make([]Pin, len(list.Members))
	for i, m := range list.Members {
		pins[i] = Pin{Kind: PinMember, ID: m.MemberID, Value: m.Pubkey}
	}
	pinned, err := c.pinMembers(pins)
	if err != nil {
		return nil, err
	}
	out := make([]TopicMember, len(list.Members))
	for i, m := range list.Members {
		m.Pubkey = lower(m.Pubkey)
		out[i] = TopicMember{TopicMemberInfo: m, KeyChanged: pinned[i] != m.Pubkey}
	}
	return out, nil
}

// MarkRead says that this member has read the topic until now.
func (c *Client) MarkRead(ctx context.Context, topic string) error {
	t, err := c.topic(ctx, topic)
	if err != nil {
		return err
	}
	return c.call(ctx, &wire.TopicMarkRead{Header: header(wire.TypeTopicMarkRead), Topic: t.ID}, nil, true)
}

// Post sends text to a topic. Where the topic is encrypted it is sealed with the topic key or not sent: ErrKeyPending while this
// member has no key, *KeyRefusedError when the one that it was given is not to be trusted. Sent.Encrypted is false where the
// topic has no key.
func (c *Client) Post(ctx context.Context, topic, text string, opts ...SendOption) (Sent, error) {
	return c.Send(ctx, "#"+strings.TrimPrefix(topic, "#"), text, opts...)
}

// TopicMessage is a message of a topic.
type TopicMessage = Message

// HistoryOptions choose messages of a topic.
type HistoryOptions struct {
	Limit  int    // default 50
	Before string // only messages older than the one with this id
}

// History returns messages of a topic, the newest first. One that cannot be opened has Err set.
func (c *Client) History(ctx context.Context, topic string, o HistoryOptions) ([]TopicMessage, error) {
	t, err := c.topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	limit := o.Limit
	if limit <= 0 {
		limit = 50
	}
	raw, err := c.history(ctx, t, limit, o.Before)
	if err != nil {
		return nil, err
	}
	out := make([]TopicMessage, len(raw))
	for i := range raw {
		out[i] = c.openHistory(ctx, t, &raw[i])
	}
	return out, ctx.Err()
}

// history reads pages until there are limit messages or no more.
func (c *Client) history(ctx context.Context, t Topic, limit int, before string) ([]wire.HistoryMessage, error) {
	var out []wire.HistoryMessage
	for len(out) < limit {
		want := min(limit-len(out), 200)
		count := wire.Number(want)
		var page wire.TopicHistoryResponse
		err := c.call(ctx, &wire.TopicHistory{Header: header(wire.TypeTopicHistory), Topic: t.ID, Limit: &count, BeforeID: before}, &page, true)
		if err != nil {
			return nil, err
		}
		out = append(out, page.Messages...)
		if len(page.Messages) == 0 || len(page.Messages) < want && !page.Truncated {
			break
		}
		before = page.Messages[len(page.Messages)-1].ID
	}
	return out, nil
}

// openHistory makes a message of one from the topic's history, on the socket or over REST.
func (c *Client) openHistory(ctx context.Context, t Topic, h *wire.HistoryMessage) TopicMessage {
	m := TopicMessage{
		ID: h.ID, MeshID: c.o.MeshID, From: h.SenderName, FromMemberID: h.SenderMemberID, FromPubkey: lower(h.SenderPubkey),
		To: ToTopic, Topic: t.Name, TopicID: t.ID, CreatedAt: parseTime(h.CreatedAt), ReplyToID: h.ReplyToID, Unverified: true,
	}
	c.openTopicBody(ctx, &m, h.BodyVersion, h.Nonce, h.Ciphertext)
	c.bodies.saw(h.ID, h.Nonce, h.Ciphertext, false)
	return m
}
