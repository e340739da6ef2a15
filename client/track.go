package client

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/claudemesh/broker/wire"
)

// OutcomeState is how far a message has come with one recipient.
type OutcomeState string

// The states of an outcome. All but OutcomePending are final.
const (
	// OutcomeAcked: the recipient has signed that it has the message, and the receipt holds.
	OutcomeAcked OutcomeState = "acked"
	// OutcomeUnsigned: the broker says that the recipient confirmed it. There is no receipt that holds; older clients send none.
	OutcomeUnsigned OutcomeState = "unsigned"
	// OutcomePending: it waits; Stage and Reason say where and why.
	OutcomePending OutcomeState = "pending"
	// OutcomeExpired: it will not be delivered any more; Reason is ttl or revoked.
	OutcomeExpired OutcomeState = "expired"
	// OutcomeRefused: there was no room for it; Reason is queue_full or quota.
	OutcomeRefused OutcomeState = "refused"
)

// Outcome is what became of a message with one recipient. Only Receipt, and with it OutcomeAcked, is more than the broker's word.
type Outcome struct {
	MessageID string
	// MemberID is the recipient's, empty from a broker that does not tell. Name is what it is called; Pubkey is the key of the one session that the
	// message went to, else the member's. Of OutcomeAcked all three belong to the one who signed: Pubkey is the key that is pinned for MemberID, or the
	// session's key that the message was sealed for, and Name is what the member is called in the list of members or was pinned for it; it is empty
	// where neither is known.
	MemberID, Name, Pubkey string
	State                  OutcomeState
	// Stage is queued, pushed or held while the message is pending.
	Stage string
	// Reason is working, dnd, grace, window or offline while it is pending, and says why it never arrived of OutcomeExpired and OutcomeRefused.
	Reason string
	// At is when it was confirmed: of OutcomeAcked by the recipient's clock, as signed. Else it is when the state began, as far as the broker knows;
	// zero when it does not.
	At time.Time
	// By is client or transport where it is confirmed: a transport only took the bytes.
	By string
	// Receipt is the recipient's signature, of OutcomeAcked. Its MemberPubkey is the key by which it was checked.
	Receipt *wire.StoredReceipt
	// ReceiptErr says why a receipt that the broker showed does not count: a *ReceiptError (it does not hold), ErrUnknownSend or ErrUnknownRecipient.
	ReceiptErr error
}

// Final reports whether nothing more will happen.
func (o Outcome) Final() bool { return o.State != OutcomePending }

const (
	// firstPoll is the first pause between two questions to the broker; each is twice as long as the one before.
	firstPoll = 100 * time.Millisecond
	// longestPoll is the longest one: receipts come as events meanwhile, and all but them is in no hurry. Who asked for no push gets no event and
	// so asks more often.
	longestPoll       = 15 * time.Second
	longestPollNoPush = 2 * time.Second
)

// Outcomes asks what became of a message, once. The id may be cut to 8 characters; receipts can be judged only of a whole one. Only its sender sees
// all recipients.
func (c *Client) Outcomes(ctx context.Context, messageID string) ([]Outcome, error) {
	status, err := c.MessageStatus(ctx, messageID)
	if err != nil {
		return nil, err
	}
	return newTracking(c, messageID).outcomes(ctx, &status), nil
}

// Wait waits until the fate of a message is settled with every recipient, and returns it. When ctx ends first it returns what is known by then with
// the error of ctx.
func (c *Client) Wait(ctx context.Context, messageID string) ([]Outcome, error) {
	t := newTracking(c, messageID)
	err := t.run(ctx, func(Outcome) bool { return true })
	return t.last, err
}

// Track yields what becomes of a message that this process sent: first how it stands with each recipient, then each change, until all is
// final. Receipts come at once, other changes within 15 s (2 s with Options.NoPush). It ends with the first error, which it yields: that of
// ctx when this ends, or of the broker, when it does not know the message.
func (c *Client) Track(ctx context.Context, messageID string) iter.Seq2[Outcome, error] {
	return func(yield func(Outcome, error) bool) {
		err := newTracking(c, messageID).run(ctx, func(o Outcome) bool { return yield(o, nil) })
		if err != nil && !errors.Is(err, errStopped) {
			yield(Outcome{}, err)
		}
	}
}

// tracking is one message that somebody waits for.
type tracking struct {
	c    *Client
	id   string
	to   string            // the key that a direct message is sealed for; empty for others
	last []Outcome         // in the broker's order
	at   map[recipient]int // where in last
	// names are those of the members whose key in the list of members is the pinned one, by member id, as of asked.
	names map[string]string
	asked time.Time
}

// recipient tells the rows of one message apart.
type recipient struct{ member, pubkey string }

func (o *Outcome) recipient() recipient { return recipient{o.MemberID, o.Pubkey} }

func newTracking(c *Client, id string) *tracking {
	sent, _ := c.sent.get(id)
	return &tracking{c: c, id: id, to: sent.to}
}

// run tells each outcome that is new, until all are final.
func (t *tracking) run(ctx context.Context, tell func(Outcome) bool) error {
	receipts, stop := t.c.sent.watch(t.id)
	defer stop()
	longest := longestPoll
	if t.c.o.NoPush {
		longest = longestPollNoPush
	}
	for pause := firstPoll; ; pause = min(2*pause, longest) {
		status, err := t.c.MessageStatus(ctx, t.id)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		now := t.outcomes(ctx, &status)
		var changed []Outcome
		for i := range now {
			if now[i].news(t.before(&now[i])) {
				changed = append(changed, now[i])
			}
		}
		t.remember(now)
		for _, o := range changed {
			if !tell(o) {
				return errStopped
			}
		}
		if t.settled() {
			return nil
		}
		if err := t.listen(ctx, pause, receipts, tell); err != nil || t.settled() {
			return err
		}
	}
}

// listen takes receipts as they come, for this long or until all is final.
func (t *tracking) listen(ctx context.Context, pause time.Duration, receipts <-chan judgment, tell func(Outcome) bool) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for !t.settled() {
		select {
		case j := <-receipts:
			if o := t.take(ctx, j); o != nil && !tell(*o) {
				return errStopped
			}
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.c.done:
			return t.c.Err()
		}
	}
	return nil
}

func (t *tracking) settled() bool {
	for i := range t.last {
		if !t.last[i].Final() {
			return false
		}
	}
	return true
}

// take applies a receipt that came as an event, and returns the outcome that it changed. One that does not hold changes nothing: whether the
// recipient has confirmed is what the broker says when it is asked.
func (t *tracking) take(ctx context.Context, j judgment) *Outcome {
	for i := range t.last {
		o := &t.last[i]
		if o.MemberID != j.memberID || o.State != OutcomePending && o.State != OutcomeUnsigned {
			continue
		}
		p, err := t.judge(ctx, o, &j.receipt)
		if err != nil || t.proved(o) {
			return nil
		}
		o.acked(p)
		return o
	}
	return nil
}

// proof is a receipt that holds, and the name of the member that signed it, empty if it is not known.
type proof struct {
	receipt wire.StoredReceipt
	name    string
}

// What is wrong with a receipt that holds, but is shown in the row of somebody else.
var (
	errRowKey  = errors.New("it is shown with a key that is not the signer's")
	errRowName = errors.New("it is shown with a name that is not the signer's")
)

// judge checks a receipt that is shown for a recipient, and that the recipient is described as who signed it. It asks for the members' keys and
// names where they are not known.
func (t *tracking) judge(ctx context.Context, o *Outcome, r *wire.StoredReceipt) (proof, error) {
	holds, err := t.c.judge(t.id, o.MemberID, r)
	if errors.Is(err, ErrUnknownRecipient) {
		t.ask(ctx) // pins them
		holds, err = t.c.judge(t.id, o.MemberID, r)
	}
	if err != nil {
		return proof{}, err
	}
	bySession := t.to != "" && o.Pubkey == t.to // a direct message is sealed for the signer, as it holds
	if o.Pubkey != holds.MemberPubkey && !bySession {
		return proof{}, &ReceiptError{MessageID: t.id, Cause: errRowKey}
	}
	name, err := t.nameOf(ctx, o)
	if err != nil {
		return proof{}, err
	}
	return proof{holds, name}, nil
}

// nameOf is the name of a recipient as far as it is known here: the one in the broker's row if it is pinned for the member, or is the member's in the
// list. One that is another's is a *ReceiptError.
func (t *tracking) nameOf(ctx context.Context, o *Outcome) (string, error) {
	name := foldName(o.Name)
	pinned, err := t.c.o.Pins.Get(t.c.o.MeshID, PinName, name)
	switch {
	case err != nil:
		return "", err
	case pinned == o.MemberID:
		return o.Name, nil
	case pinned != "":
		return "", &ReceiptError{MessageID: t.id, Cause: errRowName}
	}
	if listed, known := t.names[o.MemberID]; !known || foldName(listed) != name {
		t.ask(ctx)
	}
	listed, known := t.names[o.MemberID]
	if known && foldName(listed) != name {
		return "", &ReceiptError{MessageID: t.id, Cause: errRowName}
	}
	return listed, nil
}

// ask lists the members, which pins their keys, unless it was done a moment ago.
func (t *tracking) ask(ctx context.Context) {
	if !t.asked.IsZero() && time.Since(t.asked) < directoryAge {
		return
	}
	members, err := t.c.Members(ctx)
	t.asked = time.Now()
	if err != nil {
		t.c.o.Logger.Debug("members", "cause", err)
		return
	}
	t.names = make(map[string]string, len(members))
	for _, m := range members {
		if !m.KeyChanged {
			t.names[m.MemberID] = m.DisplayName
		}
	}
}

func (o *Outcome) acked(p proof) {
	o.Name, o.State, o.Stage, o.Reason, o.By = p.name, OutcomeAcked, "", "", byClient
	o.At, o.Receipt, o.ReceiptErr = time.UnixMilli(p.receipt.AckedAt), &p.receipt, nil
}

// byClient is Outcome.By of what a client acknowledged.
const byClient = "client"

// outcomes judges what the broker says of a message.
func (t *tracking) outcomes(ctx context.Context, status *wire.MessageStatusResult) []Outcome {
	out := make([]Outcome, len(status.Recipients))
	proved := map[string]bool{}
	for i := range t.last {
		if b := &t.last[i]; b.State == OutcomeAcked {
			proved[t.whose(b)] = true
		}
	}
	for i := range status.Recipients {
		r, o := &status.Recipients[i], &out[i]
		*o = Outcome{
			MessageID: t.id, MemberID: r.MemberID, Name: r.Name, Pubkey: lower(r.Pubkey), State: OutcomePending, Stage: r.State, Reason: r.Reason,
			At: parseTime(r.Since), By: r.By,
		}
		switch {
		case r.State == wire.StateAcked, r.State == "" && r.Status == wire.StatusDelivered: // an older broker has only the older word
			o.State, o.Stage = OutcomeUnsigned, ""
		case r.State == wire.StateExpired:
			o.State, o.Stage = OutcomeExpired, ""
		case r.State == wire.StateRefused:
			o.State, o.Stage = OutcomeRefused, ""
		}
		if before := t.before(o); before != nil && before.State == OutcomeAcked {
			*o = *before // it is proved, whatever the broker says now
			continue
		}
		if o.State != OutcomeUnsigned || r.Receipt == nil {
			continue
		}
		p, err := t.judge(ctx, o, r.Receipt)
		if err != nil {
			o.ReceiptErr = err
			continue
		}
		if proved[t.whose(o)] {
			o.ReceiptErr = &ReceiptError{MessageID: t.id, Cause: errTwice}
			continue
		}
		proved[t.whose(o)] = true
		o.acked(p)
	}
	return out
}

// errTwice is what is wrong with a receipt for one recipient that the broker shows for two.
var errTwice = errors.New("it is shown for another recipient, too")

// whose says for whom an outcome can be proved, once: a direct message has one recipient, and any other has each member once.
func (t *tracking) whose(o *Outcome) string {
	if t.to != "" {
		return t.to
	}
	return o.MemberID
}

// proved reports whether another row holds the proof that o is about to get.
func (t *tracking) proved(o *Outcome) bool {
	whose := t.whose(o)
	for i := range t.last {
		if b := &t.last[i]; b != o && b.State == OutcomeAcked && t.whose(b) == whose {
			return true
		}
	}
	return false
}

// remember makes outcomes the last ones.
func (t *tracking) remember(all []Outcome) {
	t.last, t.at = all, make(map[recipient]int, len(all))
	for i := range all {
		t.at[all[i].recipient()] = i
	}
}

// before is the last outcome of that recipient.
func (t *tracking) before(o *Outcome) *Outcome {
	if i, known := t.at[o.recipient()]; known {
		return &t.last[i]
	}
	return nil
}

// news reports whether an outcome is another than the last one of that recipient.
func (o *Outcome) news(before *Outcome) bool {
	return before == nil || before.State != o.State || before.Stage != o.Stage || before.Reason != o.Reason ||
		(before.ReceiptErr == nil) != (o.ReceiptErr == nil)
}
