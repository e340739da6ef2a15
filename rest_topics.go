package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

// codeReused refuses a client_message_id that was used for another message.
const codeReused wire.Code = "idempotency_key_reused"

// postMessage is POST /messages: a send to a topic, by the way that sends of sessions go.
type postMessage struct {
	Topic              string        `json:"topic"`
	Ciphertext         string        `json:"ciphertext"`
	Nonce              string        `json:"nonce"`
	Priority           wire.Priority `json:"priority"`
	BodyVersion        *wire.Number  `json:"bodyVersion"`
	Mentions           []string      `json:"mentions"`
	ReplyToID          *string       `json:"replyToId"`
	ClientMessageID    *string       `json:"client_message_id"`
	RequestFingerprint *string       `json:"request_fingerprint"`
	ExpiresAt          string        `json:"expiresAt"`

	send wire.Send
}

func (f *postMessage) read(c *apiCall) error {
	if err := c.readJSON(f); err != nil {
		return err
	}
	c.ref = f.Topic
	return c.b.checkExpiry(f.ExpiresAt)
}

func (f *postMessage) check() error {
	switch {
	case f.Topic == "" || !wire.CleanText(f.Topic):
		return invalid("topic", "must be a topic's name")
	case f.Nonce == "":
		return invalid("nonce", "must not be empty")
	case f.BodyVersion != nil && *f.BodyVersion != topickey.V1 && *f.BodyVersion != topickey.V2:
		return invalid("bodyVersion", "must be 1 or 2")
	case f.ReplyToID != nil && (*f.ReplyToID == "" || wire.Chars(*f.ReplyToID) > wire.MaxClientID || !wire.CleanText(*f.ReplyToID)):
		return invalid("replyToId", "must have 1 to 128 characters")
	}
	f.send = wire.Send{
		TargetSpec: "#" + f.Topic, Priority: f.Priority, Nonce: f.Nonce, Ciphertext: f.Ciphertext, Mentions: f.Mentions,
		ClientMessageID: f.ClientMessageID, RequestFingerprint: f.RequestFingerprint, ExpiresAt: f.ExpiresAt, BodyVersion: topickey.V1,
	}
	if f.BodyVersion != nil {
		f.send.BodyVersion = *f.BodyVersion
	}
	if f.ReplyToID != nil && wire.IsMessageID(*f.ReplyToID) {
		f.send.ReplyToID = *f.ReplyToID // another is no message's, and is dropped like any that is not of the topic
	}
	return f.send.Check()
}

// checkExpiry refuses a time that no message may expire at. The empty text is none.
func (b *Broker) checkExpiry(text string) error {
	if text == "" {
		return nil
	}
	at, err := wire.ParseTime(text)
	t := now()
	if err != nil || !at.After(t) || b.opts.MessageTTL > 0 && at.After(t.Add(b.opts.MessageTTL)) {
		return invalid("expiresAt", "must be an ISO-8601 time after now and within the message's time to live")
	}
	return nil
}

// posted is the answer to a post. The three ids are one; older clients look for any of them.
type posted struct {
	MessageID string `json:"messageId"`
	HistoryID string `json:"historyId"`
	QueueID   string `json:"queueId"`
	topicRef
	Notifications int             `json:"notifications"`
	BodyVersion   int             `json:"bodyVersion"`
	ReplyToID     string          `json:"replyToId,omitempty"`
	Recipients    wire.Recipients `json:"recipients"`
	Duplicate     bool            `json:"duplicate,omitempty"` // accepted earlier; the ids are those of the original
}

func (f *postMessage) run(ctx context.Context, c *apiCall) (any, error) {
	f.send.TargetSpec = "#" + c.topic.ID
	r, err := c.b.send(ctx, c.by, f.send)
	switch {
	case errors.Is(err, store.ErrNotFound): // the mesh was archived since the key was looked at
		return nil, errBadKey
	case errors.Is(err, wire.RateLimit):
		return nil, tooMany(max(c.b.sends.RetryAfter(payer(c.by.MeshID, c.by.Member.ID), time.Now()), r.retryAfter))
	case r.fault == errReused:
		return nil, refuseCode(codeReused)
	case err != nil:
		return nil, err
	}
	m := r.message
	return posted{
		MessageID: m.ID, HistoryID: m.ID, QueueID: m.ID, topicRef: refTo(c.topic), Notifications: r.notified,
		BodyVersion: m.BodyVersion, ReplyToID: m.ReplyToID, Recipients: r.recipients, Duplicate: r.duplicate,
	}, nil
}

// getTopics is GET /topics.
type getTopics struct{ noInput }

type topicAnswer struct {
	ID          string  `json:"id"`
	Name        string  `json:"name"`
	Description *string `json:"description"`
	Visibility  string  `json:"visibility"`
	CreatedAt   string  `json:"createdAt"`
	Unread      int     `json:"unread"`
}

// maxUnread is where counting unread messages stops.
const maxUnread = 1000

func (*getTopics) run(ctx context.Context, c *apiCall) (any, error) {
	topics, err := c.reachable(ctx)
	if err != nil {
		return nil, err
	}
	unread := map[string]int{}
	if c.by.Member.ID != "" {
		ids := make([]string, 0, len(topics))
		for _, t := range topics {
			ids = append(ids, t.ID)
		}
		if unread, err = c.b.store.Unread(ctx, c.by.MeshID, c.by.Member.ID, ids, maxUnread); err != nil {
			return nil, fmt.Errorf("unread: %w", err)
		}
	}
	list := make([]topicAnswer, 0, len(topics))
	for _, t := range topics {
		list = append(list, topicAnswer{
			ID: t.ID, Name: t.Name, Description: orNull(t.Description), Visibility: t.Visibility, CreatedAt: wire.FormatTime(t.CreatedAt),
			Unread: unread[t.ID],
		})
	}
	return map[string]any{"topics": list}, nil
}

// reachable lists the topics that the caller sees and its key reaches.
func (c *apiCall) reachable(ctx context.Context) ([]store.RosterTopic, error) {
	seen, err := c.b.visibleTopics(ctx, c.by)
	if err != nil {
		return nil, err
	}
	reached := seen[:0]
	for _, t := range seen {
		if c.by.key.Reaches(t.Name) {
			reached = append(reached, t)
		}
	}
	return reached, nil
}

// getMessages is GET /topics/{name}/messages.
type getMessages struct {
	limit  int
	before string
}

func (q *getMessages) read(c *apiCall) error {
	query := c.r.URL.Query()
	q.limit, q.before = 50, query.Get("before")
	if query.Has("limit") {
		n, err := strconv.Atoi(query.Get("limit"))
		if err != nil || n < 1 || n > 200 {
			return invalid("limit", "must be a whole number from 1 to 200")
		}
		q.limit = n
	}
	return nil
}

// restMessage is a topic's message as the REST API tells it.
type restMessage struct {
	ID             string  `json:"id"`
	SenderMemberID string  `json:"senderMemberId"`
	SenderPubkey   string  `json:"senderPubkey"` // the member's key at the time
	SenderName     string  `json:"senderName"`
	Nonce          string  `json:"nonce"`
	Ciphertext     string  `json:"ciphertext"`
	BodyVersion    int     `json:"bodyVersion"`
	ReplyToID      *string `json:"replyToId"`
	CreatedAt      string  `json:"createdAt"`
}

func toREST(m *store.Message) restMessage {
	return restMessage{
		ID: m.ID, SenderMemberID: m.SenderMemberID, SenderPubkey: m.SenderPubkey, SenderName: m.SenderName, Nonce: m.Nonce,
		Ciphertext: m.Ciphertext, BodyVersion: max(m.BodyVersion, topickey.V1), ReplyToID: orNull(m.ReplyToID), CreatedAt: wire.FormatTime(m.CreatedAt),
	}
}

func (q *getMessages) run(ctx context.Context, c *apiCall) (any, error) {
	// A place that is not known is passed over, unlike on the socket: older clients count on the newest page.
	before, err := c.b.seqOf(ctx, c.by.MeshID, c.topic.ID, q.before)
	if err != nil {
		return nil, err
	}
	// A client takes a short page for the end of the history, so the page is cut only where it cannot be sent, not at maxPage.
	page, truncated, err := c.b.history(ctx, c.by.MeshID, c.topic.ID, before, q.limit, maxReply)
	if err != nil {
		return nil, err
	}
	list := make([]restMessage, 0, len(page))
	for i := range page {
		list = append(list, toREST(&page[i]))
	}
	return struct {
		topicRef
		Messages  []restMessage `json:"messages"`
		Truncated bool          `json:"truncated,omitempty"`
	}{refTo(c.topic), list, truncated}, nil
}

// patchRead is PATCH /topics/{name}/read.
type patchRead struct{ noInput }

func (*patchRead) run(ctx context.Context, c *apiCall) (any, error) {
	at := now()
	public := c.topic.Visibility == wire.VisibilityPublic
	role, err := c.b.topicRole(ctx, c.by, c.topic)
	if err != nil {
		return nil, err
	}
	if role == "" && public && c.by.Member.ID != "" {
		if err := c.b.joinTopic(ctx, c.by, c.topic, wire.TopicMember); err != nil {
			return nil, err
		}
	}
	in, err := c.b.store.MarkRead(ctx, c.by.MeshID, c.topic.ID, c.by.Member.ID, false, at)
	if err != nil {
		return nil, fmt.Errorf("mark read: %w", err)
	}
	if !in {
		return nil, &wire.Fault{Code: wire.Forbidden, Text: "not a member of this topic"}
	}
	return struct {
		topicRef
		ReadAt string `json:"readAt"`
	}{refTo(c.topic), wire.FormatTime(at)}, nil
}
