package main

import (
	"cmp"
	"context"
	"errors"

	"github.com/claudemesh/broker/client"
)

type topicKeyCmd struct {
	State  topicKeyStateCmd  `cmd:"" help:"Tell whether you have the topic's key, and from whom."`
	Seal   topicKeySealCmd   `cmd:"" help:"Pass the key on to the subscribers that have none."`
	Reject topicKeyRejectCmd `cmd:"" help:"Delete your copy, so that another member passes the key on anew."`
	Claim  topicKeyClaimCmd  `cmd:"" help:"Give a key to a topic that has none, or of which no copy is left."`
}

type keyJSON struct {
	Type       string `json:"type"` // topic_key
	Topic      string `json:"topic"`
	State      string `json:"state"`              // held, pending, none, refused or unknown
	SealedBy   string `json:"sealedBy,omitempty"` // member id
	Own        bool   `json:"own"`
	BrokerMade bool   `json:"brokerMade"`
	Reason     string `json:"reason,omitempty"` // why a copy is refused

	err error // of state unknown
}

// keyState asks for this member's copy of a topic's key.
func keyState(ctx context.Context, c *client.Client, topic string) keyJSON {
	v := keyJSON{Type: "topic_key", Topic: bareTopic(topic)}
	info, err := c.TopicKeyInfo(ctx, topic)
	refused, _ := errors.AsType[*client.KeyRefusedError](err)
	switch {
	case err == nil:
		v.State, v.SealedBy, v.Own, v.BrokerMade = "held", info.SealedBy, info.Own, info.BrokerMade
	case errors.Is(err, client.ErrKeyPending):
		v.State = "pending"
	case errors.Is(err, client.ErrUnencrypted):
		v.State = "none"
	case refused != nil:
		v.State, v.Reason, v.SealedBy = "refused", string(refused.Reason), refused.SealedBy
	default:
		v.State, v.err = "unknown", err
	}
	return v
}

// sentence says it to a person.
func (k keyJSON) sentence() string {
	topic := topicName(k.Topic)
	switch k.State {
	case "held":
		switch {
		case k.BrokerMade:
			return "You have the key of #" + topic + ", but the broker made it for an older client and may know it."
		case k.Own:
			return "You have the key of #" + topic + ", sealed by yourself."
		default:
			return "You have the key of #" + topic + ", passed on by member " + line(k.SealedBy) + "."
		}
	case "pending":
		return "The key of #" + topic + " is still to come: a member who has it must be online."
	case "none":
		return "#" + topic + " has no key: the broker can read what is posted there."
	default:
		return "Your copy of the key of #" + topic + " is not used: " + line(cmp.Or(k.Reason, "it is not known why")) + "."
	}
}

type topicKeyStateCmd struct {
	Topic string `arg:"" help:"The topic, by name or id."`
}

func (topicKeyStateCmd) Help() string {
	return "Exit code 5 while the key is still to come, 6 when the copy is not to be trusted.\n\nJSON: type topic_key, topic, state (held, pending, none, refused), sealedBy, own, brokerMade, reason."
}

func (c topicKeyStateCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		state := keyState(ctx, conn, c.Topic)
		if state.err != nil {
			return state.err
		}
		if err := p.result(state, "%s", state.sentence()); err != nil {
			return err
		}
		switch state.State {
		case "pending":
			return failf(exitNotYet, "key_pending", "The key is still to come.")
		case "refused":
			return failf(exitUnsafe, "key_refused", "The copy is not used; claudemesh topic key reject %s asks for another.", topicName(c.Topic))
		}
		return nil
	})
}

type topicKeySealCmd struct {
	Topic string `arg:"" help:"The topic, by name or id."`
}

func (topicKeySealCmd) Help() string {
	return `Whoever gets the key can read the topic, also what was posted before. claudemesh topic members shows beforehand who has none (HAS KEY: no). A
member whose key has changed never gets it. In public topics inbox --follow and topic tail do this by themselves.

JSON: one object per member: type topic_key_sealed, topic, memberId, name, key, sealed, reason.`
}

type sealJSON struct {
	Type     string `json:"type"` // topic_key_sealed
	Topic    string `json:"topic"`
	MemberID string `json:"memberId"`
	Name     string `json:"name"`
	Key      string `json:"key"`
	Sealed   bool   `json:"sealed"`
	Reason   string `json:"reason,omitempty"`
}

func (c topicKeySealCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		sealed, skipped, err := conn.SealPending(ctx, c.Topic)
		// What was done is said even if it could not be finished.
		for _, who := range sealed {
			v := sealJSON{Type: "topic_key_sealed", Topic: bareTopic(c.Topic), MemberID: who.MemberID, Name: who.DisplayName, Key: who.Pubkey, Sealed: true}
			if err := p.result(v, "Passed on to %s (%s, key %s).", name(who.DisplayName), line(who.MemberID), shortKey(who.Pubkey)); err != nil {
				return err
			}
		}
		for _, who := range skipped {
			v := sealJSON{
				Type: "topic_key_sealed", Topic: bareTopic(c.Topic), MemberID: who.MemberID, Name: who.DisplayName, Key: who.Pubkey, Reason: explain(who.Err).code,
			}
			if err := p.result(v, "Not passed on to %s (%s): %s", name(who.DisplayName), line(who.MemberID), explain(who.Err).text); err != nil {
				return err
			}
		}
		switch {
		case err != nil:
			return err
		case len(skipped) > 0:
			return failf(exitUnsafe, "skipped", "%s did not get the key.", quantity(len(skipped), "member"))
		case len(sealed) == 0 && !p.json:
			p.note("Everybody in #%s who is to have the key has it.", topicName(c.Topic))
		}
		return nil
	})
}

type topicKeyRejectCmd struct {
	Topic string `arg:"" help:"The topic, by name or id."`
}

func (topicKeyRejectCmd) Help() string {
	return "Whoever sealed the copy is not asked again. Nobody else's copy is touched.\n\nJSON: type topic_key_rejected, topic."
}

func (c topicKeyRejectCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		if err := conn.RejectTopicKey(ctx, c.Topic); err != nil {
			return err
		}
		return p.result(changedJSON{Type: "topic_key_rejected", Topic: bareTopic(c.Topic)},
			"Deleted your copy of the key of #%s; another member who has it will pass it on.", topicName(c.Topic))
	})
}

type topicKeyClaimCmd struct {
	Topic string `arg:"" help:"The topic, by name or id."`
}

func (topicKeyClaimCmd) Help() string {
	return "A new key opens nothing that was posted before. Where no copy is left it takes a lead or an admin.\n\nJSON: type topic_key_claimed, topic."
}

func (c topicKeyClaimCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		if err := conn.ClaimTopicKey(ctx, c.Topic); err != nil {
			if refused, ok := errors.AsType[*client.HTTPError](err); ok && refused.Status == 409 {
				return failf(exitRefused, codeOf(refused), "#%s has a key already; claudemesh topic key state tells whether you have it.", topicName(c.Topic))
			}
			return err
		}
		return p.result(changedJSON{Type: "topic_key_claimed", Topic: bareTopic(c.Topic)}, "#%s has a new key, which you made.", topicName(c.Topic))
	})
}
