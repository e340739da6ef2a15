package main

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/claudemesh/broker/client"
)

type topicTailCmd struct {
	Topic string `arg:"" help:"The topic, by name or id."`
	Last  int    `default:"10" help:"How many messages to print that were posted before."`
	Max   int    `short:"n" placeholder:"N" help:"End after this many messages."`
	IDs   bool   `name:"ids" help:"Print the messages' ids."`
	sessionFlags
}

func (topicTailCmd) Help() string {
	return `It goes on over lost connections, without a gap. If the topic's key is still to come it says so, waits for it, and goes on.

While it runs you are connected for the others to see, it is a session that status, summary and groups speak to, and it passes the
topic's key on to new members. What it prints does not come to the inbox again; other messages wait there.

JSON: type ready, mesh, session, topic when it listens; type waiting, topic, reason (key_pending) while there is no key; type gap, topic when
messages may be missing; type connection, connected when it is lost and when it is back; and one object per message: ` + helpMessage + `.`
}

func (c topicTailCmd) Run(p *program) error {
	if c.Last < 0 || c.Max < 0 {
		return failf(exitUsage, "usage", "--last and --max must not be negative.")
	}
	s, m, err := p.join(c.sessionFlags, true)
	if err != nil {
		return err
	}
	defer s.leave()
	ctx, stop := context.WithCancelCause(p.ctx)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop(nil)
	workers.Go(func() { drain(ctx, s.Client) })
	workers.Go(func() { p.watch(ctx, s, false) })
	if err := p.haveKey(ctx, s.Client, c.Topic); err != nil {
		return interrupted(p, err)
	}
	t := &tailer{p: p, s: s, cmd: c, had: map[string]bool{}}
	ready := false
	options := client.TailOptions{
		// The stream is open, so whatever is posted from here on comes through it; what was before is read now, and nothing is
		// lost between the two.
		OnReady: func() {
			if ready {
				return
			}
			ready = true
			err := t.before(ctx)
			if err == nil && p.json {
				err = p.object(readyJSON{Type: "ready", Mesh: m.MeshID, Session: s.SessionID(), Topic: bareTopic(c.Topic)})
			} else if err == nil {
				p.note("Listening to #%s in %s as %s; stop with Ctrl-C.", topicName(c.Topic), m.slug(), name(m.Name))
			}
			if err == nil && t.full() {
				err = errEnough
			}
			if err != nil {
				stop(err)
			}
		},
		OnGap: func() {
			if p.json {
				_ = p.object(gapJSON{Type: "gap", Topic: bareTopic(c.Topic)}) // the next write fails too
				return
			}
			p.note("messages may be missing here; claudemesh topic history %s has them", topicName(c.Topic))
		},
	}
	for message, err := range s.Tail(ctx, c.Topic, options) {
		if err == nil {
			err = t.take(&message)
		}
		if err == nil && t.full() {
			err = errEnough
		}
		switch {
		case err == nil:
		case errors.Is(context.Cause(ctx), errEnough), errors.Is(err, errEnough):
			return nil
		case ctx.Err() != nil && p.ctx.Err() == nil:
			return context.Cause(ctx)
		default:
			return interrupted(p, err)
		}
	}
	return nil
}

// errEnough says that --max messages were printed.
var errEnough = errors.New("enough")

type gapJSON struct {
	Type  string `json:"type"` // gap
	Topic string `json:"topic"`
}

// interrupted is nil if a person ended the command, which is how it is meant to end.
func interrupted(p *program, err error) error {
	if p.ctx.Err() != nil {
		return nil
	}
	return err
}

// drain takes the messages that come for the member meanwhile and does not acknowledge them: they wait in the inbox.
func drain(ctx context.Context, c *client.Client) {
	for range c.Messages(ctx) { //nolint:revive // there is nothing to do with them
	}
}

// haveKey waits until this member can open the topic's messages.
func (p *program) haveKey(ctx context.Context, c *client.Client, topic string) error {
	limited, cancel := context.WithTimeout(ctx, p.opts.Timeout)
	state := keyState(limited, c, topic)
	defer cancel()
	switch {
	case state.err != nil:
		return state.err
	case state.State == "refused":
		return failf(exitUnsafe, "key_refused", "%s claudemesh topic key reject %s asks for another.", state.sentence(), topicName(topic))
	case state.State == "none" || state.BrokerMade:
		if !p.json {
			p.note("%s", state.sentence())
		}
		return nil
	case state.State == "held":
		return nil
	}
	// Nobody passes a key on to somebody who is not in the topic.
	roster, err := c.TopicMembers(limited, topic)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(roster, func(m client.TopicMember) bool { return m.MemberID == c.MemberID() }) {
		return failf(exitNotYet, "not_joined", "You are not in #%s, so nobody passes its key on to you; join it first: claudemesh topic join %[1]s", topicName(topic))
	}
	p.waitingFor(bareTopic(topic))
	_, err = c.WaitTopicKey(ctx, topic)
	return err
}

// tailer prints the messages of a topic, each once.
type tailer struct {
	p     *program
	s     *session
	cmd   topicTailCmd
	had   map[string]bool // what before printed, and thus may come again
	shown int
}

func (t *tailer) full() bool { return t.cmd.Max > 0 && t.shown >= t.cmd.Max }

// before prints the latest messages that were posted before the stream was open.
func (t *tailer) before(ctx context.Context) error {
	if t.cmd.Last == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.p.opts.Timeout)
	defer cancel()
	history, err := t.s.History(ctx, t.cmd.Topic, client.HistoryOptions{Limit: t.cmd.Last})
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(history) {
		if t.full() {
			return nil
		}
		if err := t.take(&m); err != nil {
			return err
		}
		t.had[m.ID] = true
	}
	return nil
}

// take prints a message, and acknowledges it, so that it does not come to the inbox as well.
func (t *tailer) take(m *client.Message) error {
	if t.had[m.ID] {
		return nil
	}
	if err := t.p.showMessage(m, t.cmd.IDs); err != nil {
		return err
	}
	t.shown++
	if m.FromMemberID == t.s.MemberID() || mayOpenLater(m) {
		return nil
	}
	return t.p.ack(t.s.Client, m.ID)
}
