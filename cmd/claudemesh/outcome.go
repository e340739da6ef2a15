package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/alecthomas/kong"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

// waitDefault is how long --wait waits if nothing else is said.
const waitDefault = 30 * time.Second

// waitFlag is --wait, alone or with a duration behind it: --wait 20s, --wait=20s.
type waitFlag struct {
	on    bool
	limit time.Duration // 0: --timeout, else waitDefault
}

// Decode implements kong.MapperValue.
func (f *waitFlag) Decode(ctx *kong.DecodeContext) error {
	token := ctx.Scan.Peek()
	text, isText := token.Value.(string)
	if isText && token.Type == kong.FlagValueToken {
		ctx.Scan.Pop()
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is no time to wait; write one such as 20s", text)
		}
		f.on, f.limit = true, d
		return nil
	}
	f.on = true
	if d, err := time.ParseDuration(text); isText && err == nil && d > 0 {
		ctx.Scan.Pop()
		f.limit = d
	}
	return nil
}

// IsBool implements kong.BoolMapperValue: the flag may stand alone.
func (f *waitFlag) IsBool() bool { return true }

// patience is how long to wait for confirmations. The time that the command itself may take comes on top.
func (p *program) patience(f waitFlag) time.Duration {
	switch {
	case !f.on:
		return 0
	case f.limit > 0:
		return f.limit
	case p.timeoutGiven:
		return p.opts.Timeout
	default:
		return waitDefault
	}
}

// gave reports whether a flag stands on the command line.
func gave(command *kong.Context, name string) bool {
	for _, element := range command.Path {
		if element.Flag != nil && element.Flag.Name == name {
			return true
		}
	}
	return false
}

// await prints what becomes of a message with each recipient, as it is settled, and in the end what is not.
func (p *program) await(ctx context.Context, c *client.Client, target string, sent client.Sent, limit time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var all []client.Outcome
	for o, err := range c.Track(waiting, sent.MessageID) {
		if err != nil && waiting.Err() != nil && ctx.Err() == nil {
			break // the time is over
		}
		if err != nil {
			return err
		}
		all = keepOutcome(all, o)
		if !o.Final() {
			continue
		}
		if err := p.showOutcome(&o); err != nil {
			return err
		}
	}
	if waiting.Err() != nil {
		last, err := c.Outcomes(ctx, sent.MessageID)
		if err != nil {
			return err
		}
		for i := range last {
			if known := findOutcome(all, &last[i]); known != nil && known.Final() {
				continue // it was printed
			}
			all = keepOutcome(all, last[i])
			if err := p.showOutcome(&last[i]); err != nil {
				return err
			}
		}
	}
	if p.json {
		if err := p.object(deliveryOf(sent.MessageID, target, all)); err != nil {
			return err
		}
	}
	return verdict(all)
}

// keepOutcome puts an outcome in the place of the former one of that recipient.
func keepOutcome(all []client.Outcome, o client.Outcome) []client.Outcome {
	if known := findOutcome(all, &o); known != nil {
		*known = o
		return all
	}
	return append(all, o)
}

func findOutcome(all []client.Outcome, o *client.Outcome) *client.Outcome {
	for i := range all {
		if all[i].MemberID == o.MemberID && all[i].Pubkey == o.Pubkey {
			return &all[i]
		}
	}
	return nil
}

// verdict is the error that says how a message fared. Of several recipients the one that fared worst decides.
func verdict(all []client.Outcome) error {
	n := map[client.OutcomeState]int{}
	for i := range all {
		n[all[i].State]++
	}
	confirmed := n[client.OutcomeAcked] + n[client.OutcomeUnsigned]
	switch {
	case n[client.OutcomeRefused] > 0:
		return failf(exitRefused, "refused", "The mailbox of %s is full and did not take the message.", quantity(n[client.OutcomeRefused], "recipient"))
	case confirmed < len(all) || len(all) == 0:
		return failf(exitNotYet, "not_delivered", "%d of %s confirmed the message.", confirmed, quantity(len(all), "recipient"))
	case n[client.OutcomeUnsigned] > 0:
		return failf(exitUnsigned, "unsigned", "Delivered, but %s did not sign for it.", quantity(n[client.OutcomeUnsigned], "recipient"))
	default:
		return nil
	}
}

type outcomeJSON struct {
	Type      string `json:"type"` // outcome
	MessageID string `json:"messageId"`
	recipientJSON
	Stage string `json:"stage"`
}

// showOutcome prints how a message fared with one recipient.
func (p *program) showOutcome(o *client.Outcome) error {
	if p.json {
		v := outcomeJSON{Type: "outcome", MessageID: o.MessageID, recipientJSON: recipientOf(o), Stage: o.Stage}
		v.State = string(o.State)
		return p.object(v)
	}
	who, since := name(o.Name), ""
	if !o.At.IsZero() {
		since = " since " + p.clock(o.At)
	}
	reason := ""
	if o.Reason != "" {
		reason = ": " + line(o.Reason)
	}
	switch o.State {
	case client.OutcomeAcked:
		if o.Name == "" { // nothing here says what the member is called that signed
			who = shortKey(o.Pubkey)
		}
		return p.say("%s by %s at %s %s", p.paint(green, "acked"), p.paint(bold, who), p.clock(o.At), p.paint(green, "(signed)"))
	case client.OutcomeUnsigned:
		text := fmt.Sprintf("%s to %s at %s", p.paint(yellow, "delivered (unsigned)"), p.paint(bold, who), p.clock(o.At))
		if o.By != "" {
			text += ", by its " + line(o.By)
		}
		if problem := receiptProblem(o.ReceiptErr); problem != "" {
			text += "; " + p.paint(red, problem)
		}
		return p.say("%s", text)
	case client.OutcomePending:
		return p.say("%s%s%s (%s)", p.paint(yellow, line(o.Stage)), reason, since, p.paint(bold, who))
	default:
		return p.say("%s%s (%s)", p.paint(red, line(string(o.State))), reason, p.paint(bold, who))
	}
}

// receiptProblem says in words why a receipt does not count.
func receiptProblem(err error) string {
	_, forged := errors.AsType[*client.ReceiptError](err)
	switch {
	case err == nil:
		return ""
	case forged:
		return "A RECEIPT CAME THAT DOES NOT HOLD: it is not theirs, or not for this message"
	case errors.Is(err, client.ErrUnknownRecipient):
		return "a receipt came that cannot be checked: their key is not known here"
	default:
		return "a receipt came that cannot be checked: the message was sent earlier"
	}
}

// receiptCode is receiptProblem for programs.
func receiptCode(err error) string {
	_, forged := errors.AsType[*client.ReceiptError](err)
	switch {
	case err == nil:
		return ""
	case forged:
		return "bad_receipt"
	case errors.Is(err, client.ErrUnknownRecipient):
		return "unknown_recipient"
	default:
		return "unknown_message"
	}
}

// receiptJSON is a recipient's signature. Of one that was checked, and holds, memberKey is the key by which it does; one that was not proves nothing.
type receiptJSON struct {
	AckedAt    string            `json:"ackedAt"`
	Signature  string            `json:"signature"`
	MemberKey  string            `json:"memberKey"`
	SessionKey string            `json:"sessionKey,omitempty"`
	Attested   *wire.Attestation `json:"attestation,omitempty"`
}

func receiptOf(r *wire.StoredReceipt) *receiptJSON {
	if r == nil {
		return nil
	}
	return &receiptJSON{
		AckedAt: wire.FormatTime(time.UnixMilli(r.AckedAt)), Signature: r.Signature, MemberKey: r.MemberPubkey, SessionKey: r.SessionPubkey,
		Attested: r.Attestation,
	}
}

// recipientOf describes an outcome in the words of the broker.
func recipientOf(o *client.Outcome) recipientJSON {
	v := recipientJSON{
		Name: o.Name, MemberID: o.MemberID, Key: o.Pubkey, State: string(o.State), Reason: o.Reason, Since: wire.FormatTime(o.At), By: o.By,
		Signed: o.State == client.OutcomeAcked, Receipt: receiptOf(o.Receipt), Problem: receiptCode(o.ReceiptErr),
	}
	switch o.State {
	case client.OutcomePending:
		v.State = o.Stage
	case client.OutcomeUnsigned:
		v.State = wire.StateAcked
	}
	return v
}

// deliveryOf sums a message up, as the command message does.
func deliveryOf(id, target string, all []client.Outcome) deliveryJSON {
	v := deliveryJSON{Type: "delivery", MessageID: id, Target: target, Delivered: len(all) > 0, Recipients: make([]recipientJSON, len(all))}
	var last time.Time
	for i := range all {
		o := &all[i]
		v.Recipients[i] = recipientOf(o)
		switch o.State {
		case client.OutcomeAcked, client.OutcomeUnsigned:
			if o.At.After(last) {
				last = o.At
			}
			continue
		case client.OutcomeRefused:
			v.Refused++
		}
		v.Delivered = false
	}
	if v.Delivered {
		v.DeliveredAt = wire.FormatTime(last)
	}
	return v
}

// outcomeHelp explains what send --wait and topic post --wait print.
const outcomeHelp = `With --wait it then says for each recipient what became of the message, as it is settled: "acked by bo at 12:34:56 (signed)" is proved by
bo's signature, which was checked against the key that is remembered for bo (where no name is known the key is shown); "delivered (unsigned)" is
the broker's word; "held", "queued" and "pushed" say that it waits, "expired" and "refused" that it will never arrive. Exit code 0: all have
signed; 7: all have confirmed it, not all of them signed; 5: somebody has not confirmed it; 3: somebody's mailbox was full.`
