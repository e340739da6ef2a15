package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

type stateCmd struct {
	Get    stateGetCmd    `cmd:"" help:"Print the value of a key."`
	Set    stateSetCmd    `cmd:"" help:"Set a key, for everybody to see."`
	Delete stateDeleteCmd `cmd:"" help:"Delete a key, whoever set it."`
	List   stateListCmd   `cmd:"" help:"List the keys and their values."`
	Watch  stateWatchCmd  `cmd:"" help:"Print the values, and each change as it comes."`
}

type stateJSON struct {
	Type      string          `json:"type"` // state
	Key       string          `json:"key"`
	Value     json.RawMessage `json:"value"`
	UpdatedBy string          `json:"updatedBy"`
	UpdatedAt string          `json:"updatedAt"`
}

type stateDeletedJSON struct {
	Type      string `json:"type"` // state_deleted
	Key       string `json:"key"`
	UpdatedBy string `json:"updatedBy"`
	UpdatedAt string `json:"updatedAt"` // empty: not known
}

func jsonOfState(e client.StateEntry) stateJSON {
	return stateJSON{Type: "state", Key: e.Key, Value: e.Value, UpdatedBy: e.UpdatedBy, UpdatedAt: wire.FormatTime(e.UpdatedAt)}
}

// valueText is a value as one line for a terminal: JSON, in which what could steer one is escaped.
func valueText(value json.RawMessage) string {
	raw, err := encodeLine(value)
	if err != nil { // the broker's frame was JSON
		return line(string(value))
	}
	return string(bytes.TrimSuffix(raw, []byte("\n")))
}

// setter is who set a key, for people.
func setter(by string) string {
	if by == "" {
		return "the host"
	}
	return name(by)
}

type stateGetCmd struct {
	Key  string `arg:"" help:"The key."`
	Text bool   `help:"Print a value that is a text as it is, not as JSON."`
}

func (stateGetCmd) Help() string {
	return `The value is printed as JSON, in one line. A key that is not there is an error (code 3).

JSON: type state, key, value, updatedBy, updatedAt.`
}

func (c stateGetCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		e, err := conn.State(ctx, c.Key)
		if errors.Is(err, wire.NotFound) {
			return failf(exitRefused, string(wire.NotFound), "There is no key %s; claudemesh state list shows what there is.", name(c.Key))
		}
		if err != nil {
			return err
		}
		text := valueText(e.Value)
		if c.Text {
			var s string
			if json.Unmarshal(e.Value, &s) == nil && !bytes.Equal(e.Value, []byte("null")) {
				text = block(s)
			}
		}
		return p.result(jsonOfState(e), "%s", text)
	})
}

type stateSetCmd struct {
	Key   string   `arg:"" help:"The key, 1 to 256 characters."`
	Value []string `arg:"" optional:"" help:"The value, any JSON of at most 32,768 bytes, or - to read it from stdin. Write -- before words that begin with a dash."`
	Text  bool     `help:"The value is a text, not JSON."`
}

func (stateSetCmd) Help() string {
	return `The last to set a key wins. The state is not encrypted: the broker and every member can read it.

JSON: type state_set, key.`
}

func (c stateSetCmd) Run(p *program) error {
	if len(c.Value) == 0 {
		return failf(exitUsage, "usage", `There is no value; write it behind the key, or "-" to read it from stdin.`)
	}
	text, err := p.text(c.Value)
	if err != nil {
		return err
	}
	value := json.RawMessage(text)
	if c.Text {
		if value, err = wire.Encode(text); err != nil {
			return err
		}
	} else if !json.Valid(value) {
		return failf(exitUsage, "usage", "The value is no JSON; --text takes it as a text.")
	}
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		if err := conn.SetState(ctx, c.Key, value); err != nil {
			return err
		}
		return p.result(struct {
			Type string `json:"type"` // state_set
			Key  string `json:"key"`
		}{"state_set", c.Key}, "Set %s.", name(c.Key))
	})
}

type stateDeleteCmd struct {
	Key string `arg:"" help:"The key."`
}

func (stateDeleteCmd) Help() string {
	return `A key that is not there is no error.

JSON: type state_deleted, key.`
}

func (c stateDeleteCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		if err := conn.DeleteState(ctx, c.Key); err != nil {
			return err
		}
		return p.result(struct {
			Type string `json:"type"` // state_deleted
			Key  string `json:"key"`
		}{"state_deleted", c.Key}, "Deleted %s.", name(c.Key))
	})
}

type stateListCmd struct{}

func (stateListCmd) Help() string {
	return `Long values are cut; state get prints all of one.

JSON: one object per key: type state, key, value, updatedBy, updatedAt.`
}

func (stateListCmd) Run(p *program) error {
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		var rows [][]cell
		for e, err := range conn.ListState(ctx) {
			if err != nil {
				return err
			}
			if p.json {
				if err := p.object(jsonOfState(e)); err != nil {
					return err
				}
				continue
			}
			rows = append(rows, []cell{
				{cut(name(e.Key), maxCell), bold}, {cut(valueText(e.Value), maxCell), ""}, {cut(setter(e.UpdatedBy), maxCell), ""}, {p.day(e.UpdatedAt), dim},
			})
		}
		switch {
		case p.json:
			return nil
		case len(rows) == 0:
			p.note("There is no shared state; set some with: claudemesh state set <key> <value>")
			return nil
		}
		return p.table([]string{"KEY", "VALUE", "BY", "AT"}, rows)
	})
}

type stateWatchCmd struct {
	Keys []string `arg:"" optional:"" name:"key" help:"Keys to watch. Default: all."`
	Max  int      `short:"n" placeholder:"N" help:"End after this many changes."`
	sessionFlags
}

func (stateWatchCmd) Help() string {
	return `It prints what there is, then each change, over lost connections. Of a key that changes faster than it can be printed the latest value counts.

While it runs you are connected for the others to see, and it is a session that status, summary and groups speak to; your messages wait in the
inbox.

JSON: type state, key, value, updatedBy, updatedAt for each key and each change; type ready, mesh, session when all that there is was printed; type
state_deleted, key, updatedBy, updatedAt; type connection, connected when it is lost and when it is back.`
}

func (c stateWatchCmd) Run(p *program) error {
	if c.Max < 0 {
		return failf(exitUsage, "usage", "--max must not be negative.")
	}
	s, m, err := p.join(c.sessionFlags, true)
	if err != nil {
		return err
	}
	defer s.leave()
	ctx, stop := context.WithCancel(p.ctx)
	w := &stateWatcher{p: p, s: s, cmd: c, wake: make(chan struct{}, 1)}
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop()
	workers.Go(func() { drain(ctx, s.Client) })
	workers.Go(func() { w.collect(ctx) })
	if err := w.first(ctx, m); err != nil {
		return interrupted(p, err)
	}
	for !w.full() {
		select {
		case <-w.wake:
		case <-s.Done():
			return s.Err()
		case <-ctx.Done():
			return nil
		}
		if err := w.show(ctx); err != nil {
			return interrupted(p, err)
		}
	}
	return nil
}

// stateWatcher prints changes of the shared state. Events are taken from the client at once and kept as the latest of each key, so that none is lost
// while the output is slow.
type stateWatcher struct {
	p   *program
	s   *session
	cmd stateWatchCmd

	known map[string]time.Time // when each key that was printed was set; owned by Run
	shown int                  // changes that were printed; owned by Run

	wake chan struct{} // holds one token: there is something to print

	mu     sync.Mutex
	order  []string                      // keys of latest; guarded by mu
	latest map[string]client.StateChange // guarded by mu
	lost   bool                          // guarded by mu
	back   bool                          // connected again: what was missed must be asked for; guarded by mu
	cause  error                         // of the loss; guarded by mu
}

func (w *stateWatcher) full() bool { return w.cmd.Max > 0 && w.shown >= w.cmd.Max }

func (w *stateWatcher) wants(key string) bool {
	return len(w.cmd.Keys) == 0 || slices.Contains(w.cmd.Keys, key)
}

// collect takes the events.
func (w *stateWatcher) collect(ctx context.Context) {
	for {
		var e client.Event
		var open bool
		select {
		case e, open = <-w.s.Events():
		case <-ctx.Done():
		}
		if !open || ctx.Err() != nil {
			return
		}
		w.take(&e)
		select {
		case w.wake <- struct{}{}:
		default: // it will look anyway
		}
	}
}

func (w *stateWatcher) take(e *client.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case e.State != nil && w.wants(e.State.Key):
		if _, waits := w.latest[e.State.Key]; !waits {
			w.order = append(w.order, e.State.Key)
		}
		if w.latest == nil {
			w.latest = map[string]client.StateChange{}
		}
		w.latest[e.State.Key] = *e.State
	case e.Name == client.EventDisconnected:
		w.lost, w.back, w.cause = true, false, e.Err
	case e.Name == client.EventConnected && w.lost:
		w.back = true
		w.order, w.latest = nil, nil // the list has them
	}
}

// first prints what there is.
func (w *stateWatcher) first(ctx context.Context, m membership) error {
	ctx, cancel := context.WithTimeout(ctx, w.p.opts.Timeout)
	defer cancel()
	if err := w.list(ctx); err != nil {
		return err
	}
	w.shown = 0
	if w.p.json {
		return w.p.object(readyJSON{Type: "ready", Mesh: m.MeshID, Session: w.s.SessionID()})
	}
	w.p.note("Watching the shared state of %s as %s; stop with Ctrl-C.", m.slug(), name(m.Name))
	return nil
}

// list prints what differs from what was printed.
func (w *stateWatcher) list(ctx context.Context) error {
	before := w.known
	w.known = map[string]time.Time{}
	for e, err := range w.s.ListState(ctx) {
		if err != nil {
			return err
		}
		if !w.wants(e.Key) {
			continue
		}
		at, known := before[e.Key]
		delete(before, e.Key)
		w.known[e.Key] = e.UpdatedAt
		if known && at.Equal(e.UpdatedAt) {
			continue
		}
		if err := w.print(client.StateChange{StateEntry: e}); err != nil {
			return err
		}
	}
	for key := range before {
		if err := w.print(client.StateChange{StateEntry: client.StateEntry{Key: key}, Deleted: true}); err != nil {
			return err
		}
	}
	return nil
}

// show prints what has come.
func (w *stateWatcher) show(ctx context.Context) error {
	w.mu.Lock()
	order, latest, lost, back, cause := w.order, w.latest, w.lost, w.back, w.cause
	w.order, w.latest, w.cause = nil, nil, nil
	if back {
		w.lost, w.back = false, false
	}
	w.mu.Unlock()
	if lost && (cause != nil || !back) {
		w.p.connection(false, cause)
	}
	if back {
		w.p.connection(true, nil)
		if err := w.list(ctx); err != nil {
			return err
		}
	}
	for _, key := range order {
		change := latest[key]
		if at, known := w.known[key]; known && !change.UpdatedAt.IsZero() && !change.UpdatedAt.After(at) {
			continue // the list had it
		}
		if w.known[key] = change.UpdatedAt; change.Deleted {
			delete(w.known, key)
		}
		if err := w.print(change); err != nil {
			return err
		}
		if w.full() {
			return nil
		}
	}
	return nil
}

func (w *stateWatcher) print(c client.StateChange) error {
	w.shown++
	p, at := w.p, c.UpdatedAt
	if at.IsZero() {
		at = p.now()
	}
	if c.Deleted {
		v := stateDeletedJSON{Type: "state_deleted", Key: c.Key, UpdatedBy: c.UpdatedBy, UpdatedAt: wire.FormatTime(c.UpdatedAt)}
		by := ""
		if !c.UpdatedAt.IsZero() {
			by = " by " + setter(c.UpdatedBy)
		}
		return p.result(v, "%s %s %s", p.paint(dim, p.clock(at)), p.paint(bold, name(c.Key)), p.paint(red, "deleted"+by))
	}
	return p.result(jsonOfState(c.StateEntry), "%s %s = %s %s", p.paint(dim, p.clock(at)), p.paint(bold, name(c.Key)), valueText(c.Value),
		p.paint(dim, "("+strings.TrimSpace(setter(c.UpdatedBy))+")"))
}
