package client

import (
	"context"
	"net/url"
	"time"

	"github.com/claudemesh/broker/wire"
)

// Notification tells that somebody mentioned this member in a topic.
type Notification struct {
	ID      string // names the notification for MarkNotificationsRead
	Message        // what is known of the message; FromMemberID and Priority are not
	Kind    string // mention
	ReadAt  time.Time
}

// NotificationOptions choose notifications.
type NotificationOptions struct {
	Since  time.Time // zero: the last 24 hours
	Unread bool      // only those that were not read
}

// Notifications lists mentions of this member, the newest first, at most 50.
func (c *Client) Notifications(ctx context.Context, o NotificationOptions) ([]Notification, error) {
	query := url.Values{}
	if !o.Since.IsZero() {
		query.Set("since", wire.FormatTime(o.Since))
	}
	if o.Unread {
		query.Set("unread", "1")
	}
	var answer struct {
		Notifications []struct {
			ID             string  `json:"id"`
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
		} `json:"notifications"`
	}
	if err := c.rest.do(ctx, restCall{method: "GET", path: "/v1/notifications", query: query, into: &answer}); err != nil {
		return nil, err
	}
	out := make([]Notification, len(answer.Notifications))
	for i, n := range answer.Notifications {
		out[i] = Notification{ID: n.NotificationID, Kind: n.Kind, Message: Message{
			ID: n.ID, MeshID: c.o.MeshID, From: n.SenderName, FromPubkey: lower(n.SenderPubkey), To: ToTopic, Topic: n.TopicName,
			TopicID: n.TopicID, CreatedAt: parseTime(n.CreatedAt), Unverified: true,
		}}
		if n.ReadAt != nil {
			out[i].ReadAt = parseTime(*n.ReadAt)
		}
		c.openTopicBody(ctx, &out[i].Message, n.BodyVersion, n.Nonce, n.Ciphertext)
	}
	return out, ctx.Err()
}

// MarkNotificationsRead marks notifications as read, at most 200 by their ids, or all of them when none is named.
func (c *Client) MarkNotificationsRead(ctx context.Context, ids ...string) error {
	body := map[string]any{"ids": ids}
	if len(ids) == 0 {
		body = map[string]any{"all": true}
	}
	return c.rest.do(ctx, restCall{method: "POST", path: "/v1/notifications/read", body: body})
}
