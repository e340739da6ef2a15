package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

type topicCmd struct {
	Create  topicCreateCmd  `cmd:"" help:"Make a topic, with a key that the broker never has."`
	List    topicListCmd    `cmd:"" help:"List the topics that you may see."`
	Join    topicJoinCmd    `cmd:"" help:"Subscribe, so that the topic's messages come to your inbox."`
	Leave   topicLeaveCmd   `cmd:"" help:"End the subscription and give the topic's key up."`
	Post    topicPostCmd    `cmd:"" help:"Send a message to a topic."`
	Tail    topicTailCmd    `cmd:"" help:"Print a topic's messages as they are posted."`
	History topicHistoryCmd `cmd:"" help:"Print a topic's messages."`
	Members topicMembersCmd `cmd:"" help:"List who is subscribed, and who holds the topic's key."`
	Add     topicAddCmd     `cmd:"" help:"Subscribe another member."`
	Archive topicArchiveCmd `cmd:"" help:"End a topic; its history stays."`
	Key     topicKeyCmd     `cmd:"" help:"Look after your copy of a topic's key."`
}

type topicJSON struct {
	Type        string `json:"type"` // topic
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Visibility  string `json:"visibility"`
	Members     int    `json:"members"`
	CreatedAt   string `json:"createdAt"`
	Created     *bool  `json:"created,omitempty"`
}

func jsonOfTopic(t client.Topic) topicJSON {
	return topicJSON{
		Type: "topic", ID: t.ID, Name: t.Name, Description: t.Description, Visibility: t.Visibility, Members: t.MemberCount,
		CreatedAt: wire.FormatTime(t.CreatedAt),
	}
}

type topicCreateCmd struct {
	Name        string `arg:"" help:"The topic's name, with or without #, at most 64 characters."`
	Description string `short:"d" help:"What it is for."`
	Visibility  string `enum:"public,private,dm" default:"public" help:"public: every member may see and join it; private and dm: only those whom a lead or an admin adds."`
}

func (topicCreateCmd) Help() string {
	return `If there is a topic of this name it is shown, and nothing is changed.

JSON: type topic, id, name, description, visibility, members, createdAt, created.`
}

func (c topicCreateCmd) Run(p *program) error {
	topic, ok := wire.TopicName(strings.TrimPrefix(c.Name, "#"))
	if !ok {
		return failf(exitUsage, "usage", "A topic's name has 1 to 64 characters, none of them a control character.")
	}
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		t, created, err := conn.CreateTopic(ctx, topic, client.TopicOptions{Description: c.Description, Visibility: c.Visibility})
		if err != nil {
			return err
		}
		v := jsonOfTopic(t)
		v.Created = &created
		if !created {
			return p.result(v, "#%s (%s) was there already.", topicName(t.Name), line(t.Visibility))
		}
		return p.result(v, "Created #%s (%s).", topicName(t.Name), line(t.Visibility))
	})
}

type topicListCmd struct{}

func (topicListCmd) Help() string {
	return "JSON: one object per topic: type topic, id, name, description, visibility, members, createdAt."
}

func (topicListCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, c *client.Client) error {
		topics, err := c.Topics(ctx)
		if err != nil {
			return err
		}
		rows := make([][]cell, len(topics))
		for i, t := range topics {
			if p.json {
				if err := p.object(jsonOfTopic(t)); err != nil {
					return err
				}
				continue
			}
			rows[i] = []cell{
				{"#" + cut(topicName(t.Name), maxCell), bold}, {line(t.Visibility), ""}, {quantity(t.MemberCount, "member"), ""},
				{p.day(t.CreatedAt), ""}, {cut(line(t.Description), maxCell), ""},
			}
		}
		switch {
		case p.json:
			return nil
		case len(rows) == 0:
			p.note("There are no topics that you may see; make one with: claudemesh topic create <name>")
			return nil
		}
		return p.table([]string{"TOPIC", "VISIBILITY", "MEMBERS", "CREATED", "DESCRIPTION"}, rows)
	})
}

// changedJSON is the answer of commands that change something about a topic.
type changedJSON struct {
	Type   string `json:"type"` // topic_joined, topic_left, topic_added, topic_archived, topic_key_rejected or topic_key_claimed
	Topic  string `json:"topic"`
	Member string `json:"member,omitempty"`
	Role   string `json:"role,omitempty"`
	Key    string `json:"key,omitempty"` // as the state of topic_key
}

func bareTopic(s string) string { return strings.TrimPrefix(s, "#") }

type topicJoinCmd struct {
	Topic string `arg:"" help:"The topic, by name or id."`
	Role  string `enum:",lead,member,observer" default:"" help:"lead, member or observer."`
}

func (topicJoinCmd) Help() string {
	return `The topic's key is passed on by a member who has it, as soon as one is online; until then messages cannot be opened.

JSON: type topic_joined, topic, role, key (held, pending, none or refused, as with topic key state).`
}

func (c topicJoinCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		if err := conn.JoinTopic(ctx, c.Topic, c.Role); err != nil {
			return err
		}
		state := keyState(ctx, conn, c.Topic)
		v := changedJSON{Type: "topic_joined", Topic: bareTopic(c.Topic), Role: c.Role, Key: state.State}
		if err := p.result(v, "Joined #%s.", topicName(c.Topic)); err != nil {
			return err
		}
		if !p.json && state.State != "held" && state.State != "unknown" {
			p.note("%s", state.sentence())
		}
		return nil
	})
}

type topicLeaveCmd struct {
	Topic string `arg:"" help:"The topic, by name or id."`
}

func (topicLeaveCmd) Help() string { return "JSON: type topic_left, topic." }

func (c topicLeaveCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		if err := conn.LeaveTopic(ctx, c.Topic); err != nil {
			return err
		}
		return p.result(changedJSON{Type: "topic_left", Topic: bareTopic(c.Topic)}, "Left #%s.", topicName(c.Topic))
	})
}

type topicPostCmd struct {
	Topic string   `arg:"" help:"The topic, by name or id."`
	Text  []string `arg:"" optional:"" help:"The text, or - to read it from stdin. Write -- before words that begin with a dash."`
	sendFlags
}

func (topicPostCmd) Help() string {
	return `This is send '#topic'. A topic that has a key never gets an unencrypted message. Whom the text mentions (@name) is notified; the broker
reads these names.

JSON: type sent, as with send.`
}

func (c topicPostCmd) Run(p *program) error {
	text, err := p.text(c.Text)
	if err != nil {
		return err
	}
	return c.send(p, "#"+bareTopic(c.Topic), text)
}

type topicHistoryCmd struct {
	Topic  string `arg:"" help:"The topic, by name or id."`
	Limit  int    `short:"n" default:"50" help:"How many messages, the newest ones."`
	Before string `placeholder:"ID" help:"Only messages older than this one."`
	IDs    bool   `name:"ids" help:"Print the messages' ids."`
	Read   bool   `help:"Say that you have read the topic until now."`
}

func (topicHistoryCmd) Help() string {
	return "The oldest message comes first. Exit code 5 when some could not be opened because the topic's key is still to come.\n\nJSON: one object per message: " + helpMessage + "."
}

func (c topicHistoryCmd) Run(p *program) error {
	if c.Limit <= 0 {
		return failf(exitUsage, "usage", "--limit must be positive.")
	}
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		messages, err := conn.History(ctx, c.Topic, client.HistoryOptions{Limit: c.Limit, Before: c.Before})
		if err != nil {
			return err
		}
		pending := 0
		for _, m := range slices.Backward(messages) {
			if problem(m.Err) == "key_pending" {
				pending++
			}
			if err := p.showMessage(&m, c.IDs); err != nil {
				return err
			}
		}
		if c.Read {
			if err := conn.MarkRead(ctx, c.Topic); err != nil {
				return err
			}
		}
		if pending > 0 {
			return client.ErrKeyPending
		}
		return nil
	})
}

type topicMembersCmd struct {
	Topic string `arg:"" help:"The topic, by name or id."`
}

func (topicMembersCmd) Help() string {
	return `Before you pass the key of a private topic on (topic key seal), look here whom it would go to, and compare keys.

JSON: one object per member: type topic_member, topic, name, memberId, key, role, joinedAt, lastReadAt, hasKey, keyChanged.`
}

type topicMemberJSON struct {
	Type       string `json:"type"` // topic_member
	Topic      string `json:"topic"`
	Name       string `json:"name"`
	MemberID   string `json:"memberId"`
	Key        string `json:"key"`
	Role       string `json:"role"`
	JoinedAt   string `json:"joinedAt"`
	LastReadAt string `json:"lastReadAt"`
	HasKey     bool   `json:"hasKey"`
	KeyChanged bool   `json:"keyChanged"`
}

func (c topicMembersCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		members, err := conn.TopicMembers(ctx, c.Topic)
		if err != nil {
			return err
		}
		rows := make([][]cell, len(members))
		for i, m := range members {
			v := topicMemberJSON{
				Type: "topic_member", Topic: bareTopic(c.Topic), Name: m.DisplayName, MemberID: m.MemberID, Key: m.Pubkey, Role: m.Role,
				JoinedAt: m.JoinedAt, HasKey: m.HasKey, KeyChanged: m.KeyChanged,
			}
			if m.LastReadAt != nil {
				v.LastReadAt = *m.LastReadAt
			}
			if p.json {
				if err := p.object(v); err != nil {
					return err
				}
				continue
			}
			holds, key := cell{"no", yellow}, cell{shortKey(m.Pubkey), dim}
			if m.HasKey {
				holds = cell{"yes", green}
			}
			if m.KeyChanged {
				key = cell{key.text + " KEY CHANGED", red}
			}
			rows[i] = []cell{
				{cut(name(m.DisplayName), maxCell), bold}, {line(m.Role), ""}, holds, key, {line(m.MemberID), dim}, {p.dayOf(m.JoinedAt), ""},
				{p.dayOf(v.LastReadAt), ""},
			}
		}
		if p.json {
			return nil
		}
		return p.table([]string{"NAME", "ROLE", "HAS KEY", "MEMBER KEY", "MEMBER", "JOINED", "READ UNTIL"}, rows)
	})
}

// dayOf is day of a time as the wire writes it.
func (p *printer) dayOf(s string) string {
	t, err := wire.ParseTime(s)
	if err != nil {
		return "-"
	}
	return p.day(t)
}

type topicAddCmd struct {
	Topic  string `arg:"" help:"The topic, by name or id."`
	Member string `arg:"" help:"The member, by name, member id or public key."`
	Role   string `enum:",lead,member,observer" default:"" help:"lead, member or observer."`
}

func (topicAddCmd) Help() string {
	return `It takes a lead of the topic or an admin of the mesh. In a public topic the key is passed on by whoever has it and is online; in a private
one somebody must do it: claudemesh topic key seal.

JSON: type topic_added, topic, member, role.`
}

func (c topicAddCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		member := c.Member
		if !wire.IsKey(member) {
			// A name, else an id. The name's pinned key says who is meant.
			who, err := conn.Resolve(ctx, member)
			if _, unknown := errors.AsType[*client.UnknownNameError](err); !unknown || !wire.IsID(member) {
				if err != nil {
					return err
				}
				member = who.MemberID
			}
		}
		if err := conn.AddToTopic(ctx, c.Topic, member, c.Role); err != nil {
			return err
		}
		v := changedJSON{Type: "topic_added", Topic: bareTopic(c.Topic), Member: member, Role: c.Role}
		return p.result(v, "Added %s to #%s.", name(c.Member), topicName(c.Topic))
	})
}

type topicArchiveCmd struct {
	Topic string `arg:"" help:"The topic, by name or id."`
}

func (topicArchiveCmd) Help() string {
	return "It takes a lead of the topic or an admin of the mesh.\n\nJSON: type topic_archived, topic."
}

func (c topicArchiveCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		if err := conn.ArchiveTopic(ctx, c.Topic); err != nil {
			return err
		}
		return p.result(changedJSON{Type: "topic_archived", Topic: bareTopic(c.Topic)}, "Archived #%s.", topicName(c.Topic))
	})
}
