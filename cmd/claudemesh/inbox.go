package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

type inboxCmd struct {
	Follow bool          `short:"f" help:"Stay, and print messages as they come, until you interrupt it."`
	Wait   time.Duration `default:"500ms" help:"Without --follow: end when no message has come for this long."`
	Max    int           `short:"n" placeholder:"N" help:"End after this many messages."`
	Peek   bool          `help:"Leave the messages where they are: they come again."`
	Events bool          `help:"With --follow: print who comes and goes, too."`
	IDs    bool          `name:"ids" help:"Print the messages' ids."`
	sessionFlags
}

func (inboxCmd) Help() string {
	return `Without --follow it prints what waits and ends. The broker does not say which message is the last, so it waits a moment for more.

While it runs you are connected for the others to see; with --follow it is the session that status, summary and groups speak to, and it
passes topic keys on to new members. A message is acknowledged when it was printed. One whose topic key is still to come is
not: it is printed when the key has come, or comes again (exit code 5 without --follow).

JSON: ` + helpMessage + `. With --follow first type ready, mesh, session; then type connection, connected when it is lost
and when it is back, type waiting, topic, reason (key_pending), and with --events type event, event, name, key, at.`
}

func (c inboxCmd) Run(p *program) error {
	if c.Wait <= 0 {
		return failf(exitUsage, "usage", "--wait must be positive, such as 5s.")
	}
	s, m, err := p.join(c.sessionFlags, c.Follow)
	if err != nil {
		return err
	}
	defer s.leave()
	in := &inboxReader{p: p, s: s, cmd: c, late: map[string]map[string]bool{}}
	if !c.Follow {
		return in.readWaiting()
	}
	if p.json {
		err = p.object(readyJSON{Type: "ready", Mesh: m.MeshID, Session: s.SessionID()})
	} else {
		p.note("Listening in %s as %s; stop with Ctrl-C.", m.slug(), name(m.Name))
	}
	if err != nil {
		return err
	}
	return in.follow()
}

type readyJSON struct {
	Type    string `json:"type"` // ready
	Mesh    string `json:"mesh"`
	Session string `json:"session"`
	Topic   string `json:"topic,omitempty"`
}

type eventJSON struct {
	Type  string `json:"type"` // event
	Event string `json:"event"`
	Name  string `json:"name"`
	Key   string `json:"key"`
	At    string `json:"at"`
}

// inboxReader prints messages and acknowledges what it has printed.
type inboxReader struct {
	p   *program
	s   *session
	cmd inboxCmd

	shown int
	due   []string // printed, not acknowledged

	mu      sync.Mutex
	late    map[string]map[string]bool // guarded by mu; by topic, the ids of messages whose key is still to come
	waiters sync.WaitGroup
}

// ackBatch is how many messages are printed at most before they are acknowledged together.
const ackBatch = 100

// take prints one message.
func (in *inboxReader) take(m *client.Message) error {
	if err := in.p.showMessage(m, in.cmd.IDs); err != nil {
		return err
	}
	in.shown++
	if !mayOpenLater(m) {
		in.due = append(in.due, m.ID)
	}
	if in.s.Waiting() == 0 || len(in.due) >= ackBatch || in.full() {
		return in.ack()
	}
	return nil
}

func (in *inboxReader) full() bool { return in.cmd.Max > 0 && in.shown >= in.cmd.Max }

func (in *inboxReader) ack() error {
	due := in.due
	in.due = nil
	if len(due) == 0 || in.cmd.Peek {
		return nil
	}
	return in.p.ack(in.s.Client, due...)
}

// ack acknowledges what was printed, also when the program is just being interrupted.
func (p *program) ack(c *client.Client, ids ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), p.opts.Timeout)
	defer cancel()
	if err := c.Ack(ctx, ids...); err != nil {
		f := explain(err)
		f.text += " What was printed last may come again."
		return f
	}
	return nil
}

// readWaiting prints what waits. It ends when nothing has come for a while since the broker has answered a question that was asked
// behind the last message: a broker that writes what waits before it answers has written it all by then.
func (in *inboxReader) readWaiting() error {
	pending := 0
	for answered := false; !in.full(); {
		if !answered && in.s.Waiting() == 0 {
			ctx, cancel := in.p.quick()
			_, err := in.s.MeshInfo(ctx)
			cancel()
			if err != nil {
				return errors.Join(in.ack(), err)
			}
			answered = true
		}
		m, err := in.receive(in.cmd.Wait)
		if err != nil {
			if in.p.ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				break
			}
			return errors.Join(in.ack(), err)
		}
		answered = false
		if mayOpenLater(&m) {
			pending++
		}
		if err := in.take(&m); err != nil {
			return err
		}
	}
	if err := in.ack(); err != nil {
		return err
	}
	if in.shown == 0 && !in.p.json {
		in.p.note("No messages.")
	}
	if pending > 0 {
		return failf(exitNotYet, "key_pending", "The topic key of %s is still to come, so it was left in the inbox; a member who has the key must be online.", quantity(pending, "message"))
	}
	return nil
}

// receive waits for a message for this long, and longer for one that has come and is just being opened.
func (in *inboxReader) receive(patience time.Duration) (client.Message, error) {
	ctx, cancel := context.WithTimeout(in.p.ctx, patience)
	defer cancel()
	m, err := in.s.Receive(ctx)
	if err == nil || in.s.Waiting() == 0 || in.p.ctx.Err() != nil {
		return m, err
	}
	ctx, cancel = context.WithTimeout(in.p.ctx, in.p.opts.Timeout)
	defer cancel()
	return in.s.Receive(ctx)
}

// follow prints messages until it is interrupted, which is no error.
func (in *inboxReader) follow() error {
	ctx, stop := context.WithCancel(in.p.ctx)
	defer in.waiters.Wait()
	defer stop()
	in.waiters.Go(func() { in.p.watch(ctx, in.s, in.cmd.Events) })
	in.waiters.Go(func() { in.holdKeys(ctx) })
	for !in.full() {
		m, err := in.s.Receive(ctx)
		if err != nil {
			if ackErr := in.ack(); in.p.ctx.Err() != nil {
				return ackErr
			}
			return err
		}
		if mayOpenLater(&m) && in.takeLate(ctx, &m) {
			continue
		}
		if err := in.take(&m); err != nil {
			return err
		}
	}
	return nil
}

// holdKeys fetches the keys of the topics, so that the client can pass them on: it does so only for keys that it has.
func (in *inboxReader) holdKeys(ctx context.Context) {
	if in.cmd.Seal == "none" {
		return
	}
	topics, err := in.s.Topics(ctx)
	if err != nil {
		return // it only does good
	}
	for _, t := range topics {
		if ctx.Err() != nil {
			return
		}
		_, _ = in.s.TopicKeyInfo(ctx, t.ID) // not ours to have, in most cases
	}
}

// takeLate puts a message aside until its topic's key comes, and reports whether it did.
func (in *inboxReader) takeLate(ctx context.Context, m *client.Message) bool {
	if problem(m.Err) != "key_pending" {
		return false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.late[m.TopicID] == nil {
		in.late[m.TopicID] = map[string]bool{}
		in.p.waitingFor(m.Topic)
		topic := m.TopicID
		in.waiters.Go(func() { in.open(ctx, topic) })
	}
	in.late[m.TopicID][m.ID] = true
	return true
}

// open waits for a topic's key and prints what was put aside for it, from the topic's history.
func (in *inboxReader) open(ctx context.Context, topic string) {
	_, err := in.s.WaitTopicKey(ctx, topic)
	var history []client.TopicMessage
	if err == nil {
		history, err = in.s.History(ctx, topic, client.HistoryOptions{Limit: 1000})
	}
	in.mu.Lock()
	waiting := in.late[topic]
	delete(in.late, topic)
	in.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			in.p.note("claudemesh: %s", explain(err).text)
		}
		return
	}
	for _, m := range slices.Backward(history) {
		if !waiting[m.ID] || m.Err != nil {
			continue
		}
		if in.p.showMessage(&m, in.cmd.IDs) != nil {
			return // not acknowledged: it comes again
		}
		if in.cmd.Peek {
			continue
		}
		if err := in.p.ack(in.s.Client, m.ID); err != nil {
			in.p.note("claudemesh: %s", explain(err).text)
		}
	}
}

type waitingJSON struct {
	Type   string `json:"type"` // waiting
	Topic  string `json:"topic"`
	Reason string `json:"reason"` // key_pending
}

// waitingFor says that a topic's key is still to come.
func (p *program) waitingFor(topic string) {
	if p.json {
		_ = p.object(waitingJSON{Type: "waiting", Topic: topic, Reason: "key_pending"}) // the next write fails too
		return
	}
	p.note("waiting for the key of #%s (a member who has it must be online)", topicName(topic))
}

// watch tells of the connection, and with --events of the others, until ctx ends.
func (p *program) watch(ctx context.Context, s *session, others bool) {
	lost := false
	for {
		var e client.Event
		var open bool
		select {
		case e, open = <-s.Events():
		case <-ctx.Done():
		}
		if !open || ctx.Err() != nil {
			return
		}
		switch {
		case e.Name == client.EventDisconnected && !lost:
			lost = true
			p.connection(false, e.Err)
		case e.Name == client.EventConnected && lost:
			lost = false
			p.connection(true, nil)
		case others && e.Peer != nil:
			p.showEvent(&e)
		}
	}
}

type connectionJSON struct {
	Type      string `json:"type"` // connection
	Connected bool   `json:"connected"`
}

// connection says that the connection was lost, or that it is back: it comes back by itself.
func (p *program) connection(connected bool, cause error) {
	switch {
	case p.json:
		_ = p.object(connectionJSON{Type: "connection", Connected: connected}) // the next write fails too
	case connected:
		p.note("connected again")
	case cause != nil:
		p.note("connection lost (%s); connecting again", line(cause.Error()))
	default:
		p.note("connection lost; connecting again")
	}
}

func (p *program) showEvent(e *client.Event) {
	v := eventJSON{Type: "event", Event: e.Name, Name: e.Peer.DisplayName, Key: e.Peer.Pubkey, At: wire.FormatTime(e.At)}
	text := map[string]string{
		wire.EventPeerJoined: "has come", wire.EventPeerReturned: "is back", wire.EventPeerLeft: "has gone", wire.EventPeerVisible: "shows up",
		wire.EventPeerHidden: "is hidden",
	}[e.Name]
	at := e.At
	if at.IsZero() {
		at = p.now()
	}
	_ = p.result(v, "%s %s %s", p.paint(dim, p.clock(at)), p.paint(bold, name(v.Name)), p.paint(dim, text)) // the next message fails too
}
