package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

// rememberedSends is how many of the latest sends are remembered, to recognise an answer that belongs to another and to judge receipts.
const rememberedSends = 1024

// Sent is the broker's word that it has stored a message.
type Sent struct {
	MessageID       string
	ClientMessageID string
	// Duplicate says that the broker had the message already, from an earlier try.
	Duplicate bool
	// Offline says that nobody addressed is connected at the moment; the message waits for them.
	Offline bool
	// Recipients counts whom it was addressed to. Refused ones have a full mailbox and will not get it.
	Recipients wire.Recipients
	// Encrypted is false for "*", groups and topics without a key: the broker can read the text.
	Encrypted bool
}

type sendOptions struct {
	priority  wire.Priority
	replyTo   string
	clientID  string
	expiresAt time.Time
	mentions  []string
	encrypted bool
}

// SendOption changes one message.
type SendOption func(*sendOptions)

// Priority sets the priority. Default: next, which waits while the recipient is working.
func Priority(p wire.Priority) SendOption { return func(o *sendOptions) { o.priority = p } }

// ReplyTo names the message of the same topic that this one answers.
func ReplyTo(messageID string) SendOption { return func(o *sendOptions) { o.replyTo = messageID } }

// ClientMessageID names the message, 1 to 128 characters, so that sending it again is recognised for at least 24 hours.
// Default: a random id for each message. Use it with Seal: the same text sealed anew is another message.
func ClientMessageID(id string) SendOption { return func(o *sendOptions) { o.clientID = id } }

// ExpiresAt gives up delivering the message at t, at most 7 days ahead. Default: the broker's limit.
func ExpiresAt(t time.Time) SendOption { return func(o *sendOptions) { o.expiresAt = t } }

// Mentions names the members to notify of a topic message, without "@", at most 16, in place of those that the text mentions.
// The broker reads mentions.
func Mentions(names ...string) SendOption {
	return func(o *sendOptions) { o.mentions = append([]string{}, names...) }
}

// RequireEncryption fails with ErrUnencrypted, before anything is sent, where the broker could read the message.
func RequireEncryption() SendOption { return func(o *sendOptions) { o.encrypted = true } }

// Outgoing is a message that is sealed and can be sent any number of times: the broker stores it once. It can be kept as JSON
// for a process that sends it later, which must have the same keys.
type Outgoing struct {
	Frame     wire.Send `json:"frame"`
	From      string    `json:"from"` // the key that it is sealed with
	Encrypted bool      `json:"encrypted"`
	// SealedAt is when it was sealed, which no receipt for it can precede.
	SealedAt time.Time `json:"sealedAt"`
}

// Send sends text and returns when the broker has stored it. The target is a display name (Resolve says how it is found), a
// member's or session's key (64 hex digits), "@group", "*" for everybody, or "#topic". A refusal is a *SendError; while it is
// rate_limit or internal_error the client tries again until ctx ends.
//
// Messages of one goroutine arrive in their order. Those of several are written in the order of the calls, but one that must
// wait for a rate limit can be overtaken by those that were on their way.
func (c *Client) Send(ctx context.Context, target, text string, opts ...SendOption) (Sent, error) {
	out, err := c.Seal(ctx, target, text, opts...)
	if err != nil {
		return Sent{}, err
	}
	return c.SendSealed(ctx, out)
}

// Seal resolves the target and seals the text, but does not send it.
func (c *Client) Seal(ctx context.Context, target, text string, opts ...SendOption) (Outgoing, error) {
	so := sendOptions{priority: wire.PriorityNext}
	for _, opt := range opts {
		opt(&so)
	}
	if so.clientID == "" {
		so.clientID = identity.NewID()
	}
	kind, ref := identity.DestinationOf(target)
	fingerprint := identity.RequestFingerprint{
		DestinationKind: kind, DestinationRef: ref, ReplyTo: so.replyTo, Priority: string(so.priority), Body: []byte(text),
	}.Sum()
	out := Outgoing{From: c.sender().Public(), SealedAt: time.Now(), Frame: wire.Send{
		Header: header(wire.TypeSend), Priority: so.priority, ReplyToID: so.replyTo, ExpiresAt: wire.FormatTime(so.expiresAt),
		ClientMessageID: &so.clientID, RequestFingerprint: &fingerprint,
	}}
	f := &out.Frame
	var err error
	switch {
	case strings.HasPrefix(target, "#"):
		err = c.sealTopic(ctx, target, text, so, &out)
	case target == "*" || strings.HasPrefix(target, "@"):
		if so.encrypted {
			return Outgoing{}, ErrUnencrypted
		}
		f.TargetSpec = target
		f.Nonce, f.Ciphertext, err = sealPlain(text)
	default:
		if f.TargetSpec = lower(target); !wire.IsKey(target) {
			var who Candidate
			if who, err = c.Resolve(ctx, target); err != nil {
				return Outgoing{}, err
			}
			f.TargetSpec = who.Pubkey
		}
		out.Encrypted = true
		if f.Nonce, f.Ciphertext, err = identity.SealDirect(text, f.TargetSpec, c.sender()); err != nil {
			err = fmt.Errorf("client: seal a message for %s: %w", f.TargetSpec, err)
		}
	}
	if err != nil {
		return Outgoing{}, err
	}
	return out, nil
}

// sealTopic fills out for a topic. A topic that was encrypted once never gets an unencrypted message.
func (c *Client) sealTopic(ctx context.Context, target, text string, so sendOptions, out *Outgoing) error {
	t, err := c.topic(ctx, target)
	if err != nil {
		return err
	}
	f := &out.Frame
	f.TargetSpec = "#" + t.ID
	if f.Mentions = so.mentions; f.Mentions == nil {
		f.Mentions = topickey.Mentions(text)
	}
	key, err := c.postingKey(ctx, t)
	switch {
	case err == nil:
		out.Encrypted = true
		f.BodyVersion = topickey.V2
		f.Nonce, f.Ciphertext, err = topickey.SealV2(text, key)
	case errors.Is(err, ErrUnencrypted) && !so.encrypted:
		f.BodyVersion = topickey.V1
		f.Nonce, f.Ciphertext, err = sealPlain(text)
	}
	return err
}

// SendSealed sends what Seal made. The answer to a second time has Duplicate set and the first one's id.
func (c *Client) SendSealed(ctx context.Context, out Outgoing) (Sent, error) {
	f := out.Frame
	if f.ClientMessageID == nil || f.Type != wire.TypeSend {
		return Sent{}, errors.New("client: Outgoing was not made by Seal")
	}
	if out.From != c.sender().Public() && f.BodyVersion == 0 && out.Encrypted {
		return Sent{}, errors.New("client: the message is sealed with another key than this session's, so its recipient could not open it")
	}
	id := *f.ClientMessageID
	keep, waits := out.remember(), ""
	defer func() { c.sent.forget(waits) }()
	got, err := c.roundTrip(ctx, true, func(reqID string) (string, []byte, error) {
		f.ReqID, f.ID = &reqID, id
		waits = reqID
		c.sent.expect(reqID, keep)
		frame, err := wire.Encode(&f)
		return wire.TypeSend, frame, err
	})
	if err != nil {
		return Sent{}, err
	}
	var ack wire.Ack
	if err := json.Unmarshal(got.frame, &ack); err != nil || ack.MessageID == "" {
		return Sent{}, fmt.Errorf("%w: unreadable ack", ErrOutcomeUnknown)
	}
	if keep.earlier = ack.Duplicate; !c.sent.ours(ack.MessageID, keep) {
		return Sent{}, fmt.Errorf("%w: the broker answered with the id of another message", ErrOutcomeUnknown)
	}
	sent := Sent{MessageID: ack.MessageID, ClientMessageID: id, Duplicate: ack.Duplicate, Encrypted: out.Encrypted}
	if ack.Offline != nil {
		sent.Offline = *ack.Offline
	}
	if ack.Recipients != nil {
		sent.Recipients = *ack.Recipients
	}
	return sent, nil
}

// remember is what is kept of the message once it is stored.
func (out *Outgoing) remember() sentMessage {
	m := sentMessage{clientID: *out.Frame.ClientMessageID, bodyHash: bodyHash(out.Frame.Nonce, out.Frame.Ciphertext), at: out.SealedAt}
	if wire.IsKey(out.Frame.TargetSpec) {
		m.to = lower(out.Frame.TargetSpec)
	}
	return m
}
