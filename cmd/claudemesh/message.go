package main

import (
	"errors"
	"strings"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

// messageJSON is a message of the inbox, of a tail or of a history.
type messageJSON struct {
	Type            string        `json:"type"` // message
	ID              string        `json:"id"`
	From            string        `json:"from"`
	FromMemberID    string        `json:"fromMemberId"`
	FromKey         string        `json:"fromKey"`
	To              string        `json:"to"` // member, all, group or topic
	Group           string        `json:"group,omitempty"`
	Topic           string        `json:"topic,omitempty"`
	TopicID         string        `json:"topicId,omitempty"`
	Priority        wire.Priority `json:"priority,omitempty"`
	CreatedAt       string        `json:"createdAt"`
	ReplyTo         string        `json:"replyTo,omitempty"`
	ClientMessageID string        `json:"clientMessageId,omitempty"`
	Text            string        `json:"text"`
	Problem         string        `json:"problem,omitempty"` // why there is no text: key_pending, key_refused or unreadable
	Encrypted       bool          `json:"encrypted"`
	Verified        bool          `json:"verified"`
	Untrusted       bool          `json:"untrusted"`
	KeyChanged      bool          `json:"keyChanged"`
	Redelivered     bool          `json:"redelivered"`
	Reminder        bool          `json:"reminder"`
}

// helpMessage describes messageJSON in the help of the commands that print it.
const helpMessage = `type message, id, from, fromMemberId, fromKey, to (member, all, group, topic), group, topic, topicId, priority, createdAt, replyTo,
clientMessageId, text, problem (key_pending, key_refused, unreadable: why there is no text), encrypted, verified, untrusted, keyChanged,
redelivered, reminder`

// problem says in a word why a message has no text, empty for one that has.
func problem(err error) string {
	switch _, refused := errors.AsType[*client.KeyRefusedError](err); {
	case err == nil:
		return ""
	case errors.Is(err, client.ErrKeyPending):
		return "key_pending"
	case refused:
		return "key_refused"
	default:
		return "unreadable"
	}
}

// mayOpenLater reports whether a message without text could have one when it comes again.
func mayOpenLater(m *client.Message) bool {
	return m.Err != nil && problem(m.Err) != "unreadable"
}

func jsonOf(m *client.Message) messageJSON {
	to := map[client.TargetKind]string{client.ToMember: "member", client.ToAll: "all", client.ToGroup: "group", client.ToTopic: "topic"}[m.To]
	return messageJSON{
		Type: "message", ID: m.ID, From: m.From, FromMemberID: m.FromMemberID, FromKey: m.FromPubkey, To: to, Group: m.Group,
		Topic: m.Topic, TopicID: m.TopicID, Priority: m.Priority, CreatedAt: wire.FormatTime(m.CreatedAt), ReplyTo: m.ReplyToID,
		ClientMessageID: m.ClientMessageID, Text: m.Text, Problem: problem(m.Err), Encrypted: m.Encrypted, Verified: !m.Unverified,
		Untrusted: m.Untrusted, KeyChanged: m.KeyChanged, Redelivered: m.Redelivered, Reminder: m.Reminder,
	}
}

// showMessage prints a message: in text its own line, and the further lines of its text indented, so that no text can look like
// another message.
func (p *program) showMessage(m *client.Message, ids bool) error {
	if p.json {
		return p.object(jsonOf(m))
	}
	return p.say("%s", p.formatMessage(m, ids))
}

func (p *program) formatMessage(m *client.Message, ids bool) string {
	head := []string{p.paint(dim, p.clock(m.CreatedAt)), p.paint(bold, name(m.From))}
	switch m.To {
	case client.ToTopic:
		head = append(head, p.paint(cyan, "#"+topicName(m.Topic)))
	case client.ToGroup:
		head = append(head, p.paint(cyan, "@"+name(m.Group)))
	case client.ToAll:
		head = append(head, p.paint(cyan, "*"))
	}
	if ids {
		head = append(head, p.paint(dim, line(m.ID)))
	}
	var marks, warnings []string
	if m.Priority == wire.PriorityNow {
		marks = append(marks, "now")
	}
	if m.ReplyToID != "" {
		marks = append(marks, "reply to "+cut(line(m.ReplyToID), 12))
	}
	if m.Reminder {
		marks = append(marks, "reminder")
	}
	switch {
	case m.Untrusted:
		warnings = append(warnings, "not encrypted although the topic is: anybody could have written it")
	case !m.Encrypted:
		marks = append(marks, "not encrypted")
	}
	if m.KeyChanged {
		warnings = append(warnings, "KEY CHANGED")
	} else if m.To == client.ToMember && m.Unverified {
		marks = append(marks, "sender vouched for by the broker only")
	}
	if m.Err != nil {
		warnings = append(warnings, map[string]string{
			"key_pending": "the topic's key is still to come", "key_refused": "the topic's key is not to be trusted", "unreadable": "it does not open with your key",
		}[problem(m.Err)])
	}
	if len(marks) > 0 {
		head = append(head, p.paint(dim, "("+strings.Join(marks, ", ")+")"))
	}
	if len(warnings) > 0 {
		head = append(head, p.paint(red, "("+strings.Join(warnings, ", ")+")"))
	}
	text := strings.ReplaceAll(block(m.Text), "\n", "\n    ")
	return strings.TrimRight(strings.Join(head, " ")+": "+text, " ")
}

// topicName is a topic's name for people, without the #.
func topicName(s string) string { return name(strings.TrimPrefix(s, "#")) }
