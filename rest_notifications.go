package broker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

// Codes of refused times.
const (
	codeBadSince  wire.Code = "invalid_since"
	codeBadBefore wire.Code = "invalid_before"
)

// maxNotifications is how many notifications one list holds.
const maxNotifications = 50

// getNotifications is GET /notifications.
type getNotifications struct {
	since  string
	unread bool
}

func (q *getNotifications) read(c *apiCall) error {
	query := c.r.URL.Query()
	q.since, q.unread = query.Get("since"), query.Get("unread") == "1"
	return nil
}

type notificationAnswer struct {
	ID             string  `json:"id"` // of the message
	NotificationID string  `json:"notificationId"`
	TopicID        string  `json:"topicId"`
	TopicName      string  `json:"topicName"`
	SenderName     string  `json:"senderName"`
	SenderPubkey   string  `json:"senderPubkey"`
	Nonce          string  `json:"nonce"`
	Ciphertext     string  `json:"ciphertext"`
	BodyVersion    int     `json:"bodyVersion"`
	Kind           string  `json:"kind"`
	ReadAt         *string `json:"readAt"`
	CreatedAt      string  `json:"createdAt"`
}

func (q *getNotifications) run(ctx context.Context, c *apiCall) (any, error) {
	since := now().Add(-24 * time.Hour)
	if q.since != "" {
		var err error
		if since, err = parseISO(q.since); err != nil {
			return nil, refuseCode(codeBadSince)
		}
	}
	list := []notificationAnswer{}
	if c.by.Member.ID == "" {
		return map[string]any{"notifications": list}, nil
	}
	topics, err := c.topicIDs(ctx)
	if err != nil {
		return nil, err
	}
	notices, err := c.b.store.Notifications(ctx, store.NotificationQuery{
		MeshID: c.by.MeshID, MemberID: c.by.Member.ID, Since: since, UnreadOnly: q.unread, Topics: &topics, Limit: maxNotifications,
	})
	if err != nil {
		return nil, fmt.Errorf("notifications: %w", err)
	}
	for i := range notices {
		n, m := &notices[i].Notification, &notices[i].Message
		list = append(list, notificationAnswer{
			ID: n.MessageID, NotificationID: n.ID, TopicID: n.TopicID, TopicName: m.TopicName, SenderName: m.SenderName,
			SenderPubkey: m.SenderPubkey, Nonce: m.Nonce, Ciphertext: m.Ciphertext, BodyVersion: max(m.BodyVersion, topickey.V1),
			Kind: n.Kind, ReadAt: wire.FormatTimePtr(n.ReadAt), CreatedAt: wire.FormatTime(n.CreatedAt),
		})
	}
	return map[string]any{"notifications": list, "since": wire.FormatTime(since), "mentionedAs": c.by.Member.Name}, nil
}

// topicIDs are the ids of the topics that the caller sees and its key reaches: who may not read a post any more does not read it here.
func (c *apiCall) topicIDs(ctx context.Context) ([]string, error) {
	topics, err := c.reachable(ctx)
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(topics))
	for _, t := range topics {
		ids = append(ids, t.ID)
	}
	return ids, nil
}

// parseISO reads a time, or a day, which is its beginning in UTC.
func parseISO(s string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		return day, nil
	}
	return wire.ParseTime(s)
}

// postNotificationsRead is POST /notifications/read: some by their ids, or all up to a time.
type postNotificationsRead struct {
	IDs    []string `json:"ids"`
	All    bool     `json:"all"`
	Before *string  `json:"before"`
}

func (f *postNotificationsRead) read(c *apiCall) error { return c.readJSON(f) }

// maxRead is how many notifications one request names.
const maxRead = 200

func (f *postNotificationsRead) check() error {
	switch {
	case f.IDs == nil && f.All:
		return nil
	case len(f.IDs) == 0 || len(f.IDs) > maxRead || slices.Contains(f.IDs, ""):
		return invalid("ids", `must be 1 to 200 ids, or "all" must be true`)
	}
	return nil
}

func (f *postNotificationsRead) run(ctx context.Context, c *apiCall) (any, error) {
	at := now()
	before, told := time.Time{}, at
	if f.IDs == nil && f.Before != nil {
		var err error
		if before, err = parseISO(*f.Before); err != nil {
			return nil, refuseCode(codeBadBefore)
		}
		told = before
	}
	n, err := f.mark(ctx, c, before, at)
	switch {
	case err != nil:
		return nil, fmt.Errorf("mark notifications: %w", err)
	case f.IDs != nil:
		return map[string]any{"marked": n, "readAt": wire.FormatTime(at)}, nil
	default:
		return map[string]any{"marked": "all", "before": wire.FormatTime(told)}, nil
	}
}

// mark marks what the request names. A key for some topics marks only what it could have read there.
func (f *postNotificationsRead) mark(ctx context.Context, c *apiCall, before, at time.Time) (marked int, err error) {
	meshID, member := c.by.MeshID, c.by.Member.ID
	if c.by.key.TopicScopes == nil {
		ids := slices.DeleteFunc(f.IDs, func(id string) bool { return !wire.IsID(id) })
		if f.IDs != nil && len(ids) == 0 {
			return 0, nil // nobody's; no ids at all would mean all
		}
		return c.b.store.MarkNotificationsRead(ctx, meshID, member, ids, before, at)
	}
	topics, err := c.topicIDs(ctx)
	if err != nil {
		return 0, err
	}
	for {
		page, err := c.b.store.Notifications(ctx, store.NotificationQuery{
			MeshID: meshID, MemberID: member, UnreadOnly: true, Topics: &topics, Limit: maxRead,
		})
		if err != nil {
			return marked, err
		}
		var ids []string
		for i := range page {
			if n := &page[i]; f.IDs != nil && slices.Contains(f.IDs, n.ID) || f.IDs == nil && (before.IsZero() || !n.CreatedAt.After(before)) {
				ids = append(ids, n.ID)
			}
		}
		if len(ids) == 0 {
			return marked, nil
		}
		n, err := c.b.store.MarkNotificationsRead(ctx, meshID, member, ids, time.Time{}, at)
		marked += n
		if err != nil || f.IDs != nil || len(page) < maxRead {
			return marked, err
		}
	}
}
