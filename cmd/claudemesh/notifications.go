package main

import (
	"context"
	"slices"
	"time"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

type notificationsCmd struct {
	Unread bool          `help:"Only those that you have not read."`
	Since  time.Duration `default:"24h" help:"How far back to look."`
	Read   bool          `help:"Mark those that are printed as read."`
	IDs    bool          `name:"ids" help:"Print the messages' ids."`
}

func (notificationsCmd) Help() string {
	return `Where somebody mentioned you in a topic (@name), the oldest first, at most the newest 50.

JSON: one object per notification: type notification, notificationId, kind, readAt (empty: not read), and the fields of a message: ` + helpMessage + `.`
}

type notificationJSON struct {
	messageJSON
	NotificationID string `json:"notificationId"`
	Kind           string `json:"kind"`
	ReadAt         string `json:"readAt"`
}

// maxMarks is how many notifications can be marked at once.
const maxMarks = 200

func (c notificationsCmd) Run(p *program) error {
	if c.Since <= 0 {
		return failf(exitUsage, "usage", "--since must be positive, such as 24h.")
	}
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		list, err := conn.Notifications(ctx, client.NotificationOptions{Since: p.now().Add(-c.Since), Unread: c.Unread})
		if err != nil {
			return err
		}
		var unread []string
		for _, n := range slices.Backward(list) {
			if n.ReadAt.IsZero() {
				unread = append(unread, n.ID)
			}
			if p.json {
				v := notificationJSON{messageJSON: jsonOf(&n.Message), NotificationID: n.ID, Kind: n.Kind, ReadAt: wire.FormatTime(n.ReadAt)}
				v.Type = "notification"
				err = p.object(v)
			} else {
				mark := p.paint(yellow, "*")
				if !n.ReadAt.IsZero() {
					mark = " "
				}
				err = p.say("%s %s", mark, p.formatMessage(&n.Message, c.IDs))
			}
			if err != nil {
				return err
			}
		}
		if len(list) == 0 && !p.json {
			p.note("No notifications.")
		}
		if !c.Read {
			return nil
		}
		for chunk := range slices.Chunk(unread, maxMarks) { // without any id all would be marked
			if err := conn.MarkNotificationsRead(ctx, chunk...); err != nil {
				return err
			}
		}
		return nil
	})
}
