package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// sendFlags belong to send and to topic post.
type sendFlags struct {
	Priority  string        `short:"p" enum:"now,next,low" default:"next" help:"now goes out at once; next and low wait while the recipient is working or does not want to be disturbed."`
	ID        string        `name:"id" placeholder:"ID" help:"Name of the message, at most 128 characters: the same text sent again under it is stored once. Default: a random one."`
	ReplyTo   string        `placeholder:"ID" help:"The message of the same topic that this one answers."`
	Mention   []string      `placeholder:"NAME" help:"Whom to notify of a topic message, in place of those that the text mentions."`
	Expires   time.Duration `placeholder:"DURATION" help:"Give up delivering it after this long, at most 168h. Default: the broker's limit."`
	Encrypted bool          `help:"Do not send what the broker could read."`
	WaitKey   time.Duration `default:"10s" help:"How long to wait for the topic's key, if nobody has passed it on yet."`
	Wait      waitFlag      `help:"Wait for everybody to confirm the message, and say who has: for --timeout (here 30s by default), or for the duration that stands behind it."`
}

func (f sendFlags) options(id string, now time.Time) ([]client.SendOption, error) {
	opts := []client.SendOption{client.Priority(wire.Priority(f.Priority)), client.ClientMessageID(id)}
	if id == "" || wire.Chars(id) > wire.MaxClientID || !wire.CleanText(id) {
		return nil, failf(exitUsage, "usage", "--id must have 1 to 128 characters.")
	}
	if f.ReplyTo != "" {
		opts = append(opts, client.ReplyTo(f.ReplyTo))
	}
	if f.Mention != nil {
		names := make([]string, len(f.Mention))
		for i, n := range f.Mention {
			names[i] = strings.TrimPrefix(n, "@")
		}
		opts = append(opts, client.Mentions(names...))
	}
	if f.Expires < 0 {
		return nil, failf(exitUsage, "usage", "--expires must be positive, such as 1h.")
	}
	if f.Expires > 0 {
		opts = append(opts, client.ExpiresAt(now.Add(f.Expires)))
	}
	if f.Encrypted {
		opts = append(opts, client.RequireEncryption())
	}
	return opts, nil
}

type sendCmd struct {
	Target string   `arg:"" help:"A name, a public key, @group, #topic, or * for everybody. Quote * and #topic for the shell, or write @all and topic post."`
	Text   []string `arg:"" optional:"" help:"The text, or - to read it from stdin. Write -- before words that begin with a dash."`
	sendFlags
}

func (sendCmd) Help() string {
	return `A name is looked up among the members and their sessions, and the key that was first seen of that member is used: if it has changed,
or if several go by the name, nothing is sent (exit code 6).

"queued" means that the broker has stored the message for everybody whom it addresses, connected or not. Whether somebody has
confirmed it is another question, which --wait and the command message ask. "not encrypted" means that the broker can read it.

When the outcome is not known (exit code 4) the message's id is printed: the same text sent again with --id is stored once.

` + outcomeHelp + `

JSON: type sent, messageId, clientMessageId, target, queued, duplicate, offline, recipients {total, online, refused}, encrypted.
With --wait then type outcome for each recipient, with state (acked, unsigned, pending, expired, refused), stage, messageId and the fields of a
recipient of type delivery; in the end type delivery, as with message.`
}

func (c sendCmd) Run(p *program) error {
	text, err := p.text(c.Text)
	if err != nil {
		return err
	}
	return c.send(p, c.Target, text)
}

type sentJSON struct {
	Type            string          `json:"type"` // sent
	MessageID       string          `json:"messageId"`
	ClientMessageID string          `json:"clientMessageId"`
	Target          string          `json:"target"`
	Queued          bool            `json:"queued"`
	Duplicate       bool            `json:"duplicate"`
	Offline         bool            `json:"offline"`
	Recipients      wire.Recipients `json:"recipients"`
	Encrypted       bool            `json:"encrypted"`
}

// send sends to one target and says what is known of it afterwards.
func (f sendFlags) send(p *program, target, text string) error {
	if !validTarget(target) {
		return failf(exitUsage, "usage", "%q is no target: write a name, a public key, @group, #topic or *.", line(target))
	}
	id := f.ID
	if id == "" {
		id = identity.NewID()
	}
	opts, err := f.options(id, p.now())
	if err != nil {
		return err
	}
	patience := p.patience(f.Wait)
	p.opts.Timeout += patience // the time to confirm comes on top
	return p.ask(func(ctx context.Context, c *client.Client) error {
		sent, err := p.deliver(ctx, c, target, text, f.WaitKey, opts)
		if refused, ok := errors.AsType[*client.SendError](err); ok && patience > 0 && refused.Code == wire.QueueFull {
			if err := p.showOutcome(&client.Outcome{Name: target, State: client.OutcomeRefused, Reason: wire.ReasonQueueFull}); err != nil {
				return err
			}
		}
		if err != nil {
			f := explain(err)
			if f.exit == exitUnreachable && (errors.Is(err, client.ErrOutcomeUnknown) || errors.Is(err, wire.InternalError)) {
				f.text = strings.TrimSuffix(f.text, ".") + "; send it again with --id " + line(id) + " and it is stored once."
			}
			return f
		}
		if err := p.showSent(target, sent, c.Hello().ProtocolVersion > 0); err != nil {
			return err
		}
		if patience > 0 {
			return p.await(ctx, c, target, sent, patience)
		}
		if sent.Recipients.Refused > 0 {
			return failf(exitNotYet, "partly_refused", "The mailbox of %s is full and did not take the message; claudemesh message %s shows whose.",
				quantity(sent.Recipients.Refused, "recipient"), line(sent.MessageID))
		}
		return nil
	})
}

// validTarget reports whether a target has one of the shapes that can be sent to.
func validTarget(target string) bool {
	if strings.HasPrefix(target, "@") || strings.HasPrefix(target, "#") || target == "*" {
		return wire.ParseTarget(target).Kind != wire.TargetInvalid
	}
	_, ok := wire.DisplayName(target)
	return ok
}

// deliver sends, waiting for a topic's key if it is still to come.
func (p *program) deliver(ctx context.Context, c *client.Client, target, text string, patience time.Duration, opts []client.SendOption) (client.Sent, error) {
	sent, err := c.Send(ctx, target, text, opts...)
	topic, isTopic := strings.CutPrefix(target, "#")
	if !isTopic || !errors.Is(err, client.ErrKeyPending) || patience <= 0 {
		return sent, err
	}
	p.note("waiting for the key of #%s (a member who has it must be online)", topicName(topic))
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, kerr := c.WaitTopicKey(limited, topic); kerr != nil {
		if errors.Is(kerr, client.ErrKeyPending) || limited.Err() != nil && ctx.Err() == nil {
			return sent, err
		}
		return sent, kerr
	}
	return c.Send(ctx, target, text, opts...)
}

// showSent says what the broker said. counted is false with an older broker, which does not count recipients.
func (p *program) showSent(target string, sent client.Sent, counted bool) error {
	r := sent.Recipients
	if p.json {
		return p.object(sentJSON{
			Type: "sent", MessageID: sent.MessageID, ClientMessageID: sent.ClientMessageID, Target: target, Queued: true,
			Duplicate: sent.Duplicate, Offline: sent.Offline, Recipients: r, Encrypted: sent.Encrypted,
		})
	}
	parts := []string{p.paint(green, "queued")}
	if sent.Duplicate {
		parts[0] = p.paint(green, "queued before")
	}
	switch {
	case !counted && sent.Offline:
		parts[0] += ", offline: it waits"
	case !counted:
	case r.Total == 0 && r.Refused == 0:
		parts[0] = p.paint(yellow, "addressed to nobody: there is no other member that it could reach")
	case r.Online == 0:
		parts[0] += " for " + quantity(r.Total, "recipient") + ", offline: it waits"
	case r.Online == r.Total:
		parts[0] += " for " + quantity(r.Total, "recipient") + ", connected"
	default:
		parts[0] += fmt.Sprintf(" for %s, %d connected", quantity(r.Total, "recipient"), r.Online)
	}
	if r.Refused > 0 {
		parts = append(parts, p.paint(red, "refused by "+quantity(r.Refused, "full mailbox")))
	}
	if !sent.Encrypted {
		parts = append(parts, p.paint(yellow, "not encrypted"))
	}
	return p.say("%s %s", strings.Join(parts, "; "), p.paint(dim, "("+line(sent.MessageID)+")"))
}

type messageCmd struct {
	ID   string   `arg:"" help:"The message's id, or at least the first 8 characters of it."`
	Wait waitFlag `help:"Wait for everybody to confirm it: for --timeout (here 30s by default), or for the duration that stands behind it."`
}

func (messageCmd) Help() string {
	return `States: queued (stored, not sent yet), held (kept back, with the reason: working, dnd, grace, window), pushed (sent and not confirmed), acked
(confirmed: by the recipient's client, or by its transport alone for older clients), expired, refused (mailbox full).
Exit code 5 while somebody has not confirmed it, or never will.

A receipt is the recipient's signature. It is shown as the broker has it, and "not checked": that takes the bytes that were sent, which only send
--wait has.

JSON: type delivery, messageId, target, delivered, deliveredAt, refused, recipients [{name, memberId, key, state, reason, since, by, signed (checked,
and it holds), receipt {ackedAt, signature, memberKey, sessionKey, attestation} or null, problem (why a receipt does not count: bad_receipt,
unknown_message, unknown_recipient)}].`
}

func (c messageCmd) Run(p *program) error {
	if !wire.IsMessageID(c.ID) {
		return failf(exitUsage, "usage", "A message's id has 8 to 32 letters and digits.")
	}
	patience := p.patience(c.Wait)
	p.opts.Timeout += patience
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		if patience > 0 {
			waiting, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			if _, err := conn.Wait(waiting, c.ID); err != nil && (waiting.Err() == nil || ctx.Err() != nil) {
				return err
			}
		}
		status, err := conn.MessageStatus(ctx, c.ID)
		if err != nil {
			return err
		}
		return p.showStatus(status)
	})
}

type deliveryJSON struct {
	Type        string          `json:"type"` // delivery
	MessageID   string          `json:"messageId"`
	Target      string          `json:"target"`
	Delivered   bool            `json:"delivered"`
	DeliveredAt string          `json:"deliveredAt"`
	Refused     int             `json:"refused"`
	Recipients  []recipientJSON `json:"recipients"`
}

type recipientJSON struct {
	Name     string       `json:"name"`
	MemberID string       `json:"memberId"`
	Key      string       `json:"key"`
	State    string       `json:"state"`
	Reason   string       `json:"reason"`
	Since    string       `json:"since"`
	By       string       `json:"by"`
	Signed   bool         `json:"signed"` // the receipt was checked, and it holds
	Receipt  *receiptJSON `json:"receipt"`
	Problem  string       `json:"problem,omitempty"` // why a receipt does not count
}

func (p *program) showStatus(status wire.MessageStatusResult) error {
	v := deliveryJSON{
		Type: "delivery", MessageID: status.MessageID, Target: status.TargetSpec, Delivered: status.Delivered, Refused: status.Refused,
		Recipients: make([]recipientJSON, len(status.Recipients)),
	}
	if status.DeliveredAt != nil {
		v.DeliveredAt = *status.DeliveredAt
	}
	rows := make([][]cell, len(status.Recipients))
	confirmed := 0
	for i, r := range status.Recipients {
		state := r.State
		if state == "" { // an older broker has only the older word
			state = r.Status
		}
		v.Recipients[i] = recipientJSON{
			Name: r.Name, MemberID: r.MemberID, Key: r.Pubkey, State: state, Reason: r.Reason, Since: r.Since, By: r.By, Receipt: receiptOf(r.Receipt),
		}
		receipt := ""
		if r.Receipt != nil {
			v.Recipients[i].Problem = receiptCode(client.ErrUnknownSend)
			receipt = p.clock(time.UnixMilli(r.Receipt.AckedAt)) + ", not checked"
		}
		shown := cell{line(state), yellow}
		switch state {
		case wire.StateAcked, wire.StatusDelivered:
			confirmed++
			shown.style = green
			if r.By == "transport" {
				shown.text += " (by transport only)"
			}
		case wire.StateExpired, wire.StateRefused:
			shown.style = red
		}
		since, err := wire.ParseTime(r.Since)
		at := "-"
		if err == nil {
			at = p.clock(since)
		}
		rows[i] = []cell{{cut(name(r.Name), maxCell), bold}, shown, {line(r.Reason), ""}, {at, ""}, {receipt, ""}, {shortKey(r.Pubkey), dim}}
	}
	var err error
	if p.json {
		err = p.object(v)
	} else {
		err = p.table([]string{"RECIPIENT", "STATE", "REASON", "SINCE", "RECEIPT", "KEY"}, rows)
	}
	if err != nil || status.Delivered {
		return err
	}
	return failf(exitNotYet, "not_delivered", "%d of %s confirmed the message.", confirmed, quantity(len(rows), "recipient"))
}
