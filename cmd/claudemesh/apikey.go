package main

import (
	"context"
	"strings"
	"time"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

type apikeyCmd struct {
	Create apikeyCreateCmd `cmd:"" help:"Make a key for a program that speaks for you over HTTP."`
	List   apikeyListCmd   `cmd:"" help:"List your keys, as an admin those of the whole mesh."`
	Revoke apikeyRevokeCmd `cmd:"" help:"End a key."`
}

type apikeyJSON struct {
	Type         string    `json:"type"` // apikey
	ID           string    `json:"id"`
	Secret       string    `json:"secret,omitempty"`
	Label        string    `json:"label"`
	Prefix       string    `json:"prefix"`
	Capabilities []string  `json:"capabilities"`
	Topics       *[]string `json:"topics"` // null: all
	CreatedAt    string    `json:"createdAt"`
	LastUsedAt   *string   `json:"lastUsedAt"`
	RevokedAt    *string   `json:"revokedAt"`
	ExpiresAt    *string   `json:"expiresAt"`
}

type apikeyCreateCmd struct {
	Label   string        `arg:"" help:"What the key is for, for people."`
	Can     []string      `required:"" enum:"read,send,state_write,admin" placeholder:"read,send,…" help:"What it may do: some of read, send, state_write, admin."`
	Topic   []string      `placeholder:"NAME" help:"Topics that it is good for; can be repeated. Default: all."`
	Expires time.Duration `placeholder:"DURATION" help:"How long it is good for, such as 720h. Default: the broker's limit."`
}

func (apikeyCreateCmd) Help() string {
	return `The secret is shown this once, on stdout, and is kept nowhere. A key speaks for you, and ends with your membership.

JSON: type apikey, id, secret, label, prefix, capabilities, topics (null: all), createdAt, lastUsedAt, revokedAt, expiresAt.`
}

func (c apikeyCreateCmd) Run(p *program) error {
	if c.Expires < 0 {
		return failf(exitUsage, "usage", "--expires must be positive, such as 720h.")
	}
	o := client.APIKeyOptions{Label: c.Label, Capabilities: c.Can}
	for _, t := range c.Topic {
		o.Topics = append(o.Topics, bareTopic(t))
	}
	if c.Expires > 0 {
		o.ExpiresAt = p.now().Add(c.Expires)
	}
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		made, err := conn.CreateAPIKey(ctx, o)
		if err != nil {
			return err
		}
		if p.json {
			return p.object(apikeyJSON{
				Type: "apikey", ID: made.ID, Secret: made.Secret, Label: made.Label, Prefix: made.Prefix, Capabilities: made.Capabilities,
				Topics: made.TopicScopes, CreatedAt: made.CreatedAt, ExpiresAt: made.ExpiresAt,
			})
		}
		if err := p.say("%s", line(made.Secret)); err != nil {
			return err
		}
		until := "it does not end by itself"
		if made.ExpiresAt != nil {
			until = "it ends " + p.dayOf(*made.ExpiresAt)
		}
		p.note("This is the only time that the secret is shown. The key's id is %s; %s.", line(made.ID), until)
		return nil
	})
}

type apikeyListCmd struct {
	All bool `help:"Those that have ended, too."`
}

func (apikeyListCmd) Help() string {
	return `Keys labelled "client" belong to sessions that are running.

JSON: one object per key: type apikey, id, label, prefix, capabilities, topics (null: all), createdAt, lastUsedAt, revokedAt, expiresAt.`
}

func (c apikeyListCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		keys, err := conn.ListAPIKeys(ctx)
		if err != nil {
			return err
		}
		var rows [][]cell
		for _, k := range keys {
			state := cell{"good", green}
			switch {
			case k.RevokedAt != nil:
				state = cell{"revoked", red}
			case k.ExpiresAt != nil && p.past(*k.ExpiresAt):
				state = cell{"expired", red}
			}
			if state.text != "good" && !c.All {
				continue
			}
			if p.json {
				v := apikeyJSON{
					Type: "apikey", ID: k.ID, Label: k.Label, Prefix: k.Prefix, Capabilities: k.Capabilities, Topics: k.TopicScopes,
					CreatedAt: k.CreatedAt, LastUsedAt: k.LastUsedAt, RevokedAt: k.RevokedAt, ExpiresAt: k.ExpiresAt,
				}
				if err := p.object(v); err != nil {
					return err
				}
				continue
			}
			topics := "all"
			if k.TopicScopes != nil {
				names := make([]string, len(*k.TopicScopes))
				for i, t := range *k.TopicScopes {
					names[i] = "#" + topicName(t)
				}
				if topics = strings.Join(names, " "); topics == "" {
					topics = "none"
				}
			}
			rows = append(rows, []cell{
				{cut(line(k.Label), maxCell), bold}, state, {line(strings.Join(k.Capabilities, ",")), ""}, {cut(topics, maxCell), ""},
				{line(k.ID), dim}, {line(k.Prefix) + "…", dim}, {p.dayOf(value(k.ExpiresAt)), ""}, {p.dayOf(value(k.LastUsedAt)), ""},
			})
		}
		switch {
		case p.json:
			return nil
		case len(rows) == 0:
			p.note("There are no API keys; make one with: claudemesh apikey create <label> --can read")
			return nil
		}
		return p.table([]string{"LABEL", "STATE", "CAN", "TOPICS", "ID", "PREFIX", "ENDS", "LAST USED"}, rows)
	})
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (p *program) past(s string) bool {
	t, err := wire.ParseTime(s)
	return err == nil && t.Before(p.now())
}

type apikeyRevokeCmd struct {
	Key string `arg:"" help:"The key's id, the start of it (6 characters or more), or the prefix of its secret."`
}

func (apikeyRevokeCmd) Help() string { return "JSON: type apikey_revoked, id." }

func (c apikeyRevokeCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		id, err := conn.RevokeAPIKey(ctx, c.Key)
		if err != nil {
			return err
		}
		return p.result(struct {
			Type string `json:"type"` // apikey_revoked
			ID   string `json:"id"`
		}{"apikey_revoked", id}, "Revoked %s.", line(id))
	})
}
