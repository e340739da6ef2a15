package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/claudemesh/broker/wire"
)

// StateEntry is one key of the mesh's shared state, which every member sees, sets and deletes. It is not encrypted.
type StateEntry struct {
	Key string
	// Value is JSON text, as it was set but for white space.
	Value json.RawMessage
	// UpdatedBy is the name of the member that set it last, as the broker tells it; empty: the broker's host did.
	UpdatedBy string
	// UpdatedAt is when that was, by the broker's clock. It rises with each change of a key.
	UpdatedAt time.Time
}

// StateChange is a new value of a key, set by somebody else or by another session of this member.
type StateChange struct {
	StateEntry
	// Deleted says that the key is gone; Value is null then.
	Deleted bool
}

func stateEntry(i wire.StateItem) StateEntry {
	return StateEntry{Key: i.Key, Value: i.Value, UpdatedBy: i.UpdatedBy, UpdatedAt: parseTime(i.UpdatedAt)}
}

// SetState sets a key of the mesh's shared state, 1 to 256 characters without control characters, for everybody to see. value becomes JSON of
// at most 32,768 bytes; a json.RawMessage is taken as it is. The last to set a key wins. If the connection is lost before the answer, the
// key is set again, also over what somebody else set meanwhile. wire.Forbidden: the mesh, or this member's part of it, is full; see DeleteState.
func (c *Client) SetState(ctx context.Context, key string, value any) error {
	raw, err := wire.Encode(value)
	if err != nil {
		return fmt.Errorf("client: value of %q: %w", key, err)
	}
	return c.call(ctx, &wire.SetState{Header: header(wire.TypeSetState), Key: key, Value: raw}, nil, true)
}

// DeleteState deletes a key, whoever set it. One that is not there is no error.
func (c *Client) DeleteState(ctx context.Context, key string) error {
	return c.call(ctx, &wire.DeleteState{Header: header(wire.TypeDeleteState), Key: key}, nil, true)
}

// State returns one key. One that is not there is a *RequestError with wire.NotFound.
func (c *Client) State(ctx context.Context, key string) (StateEntry, error) {
	var answer wire.StateResult
	if err := c.call(ctx, &wire.GetState{Header: header(wire.TypeGetState), Key: key}, &answer, true); err != nil {
		return StateEntry{}, err
	}
	if answer.UpdatedAt == "" && answer.UpdatedBy == "" {
		return StateEntry{}, &RequestError{Request: wire.TypeGetState, Code: wire.NotFound, Text: "no such key"}
	}
	return stateEntry(answer.StateItem), nil
}

// errStuckList is about a broker that would have a list read for ever.
var errStuckList = errors.New("client: the broker's list of shared state does not go on")

// ListState goes through the shared state, by key. It asks for one page after another, so what is changed meanwhile may be seen or not.
//
// Changes are told as Events: Event.State is set. They are told while the client is connected, and not kept. So a program that wants to know the
// state at any time reads the events, lists at first and after each EventConnected, and of a key takes what has the later UpdatedAt.
func (c *Client) ListState(ctx context.Context) iter.Seq2[StateEntry, error] {
	return func(yield func(StateEntry, error) bool) {
		for after, more := "", true; more; {
			var page wire.StateList
			if err := c.call(ctx, &wire.ListState{Header: header(wire.TypeListState), After: after}, &page, true); err != nil {
				yield(StateEntry{}, err)
				return
			}
			for _, i := range page.Entries {
				if !yield(stateEntry(i), nil) {
					return
				}
			}
			if more = page.Truncated; more {
				if n := len(page.Entries); n == 0 || page.Entries[n-1].Key <= after {
					yield(StateEntry{}, errStuckList)
					return
				}
				after = page.Entries[len(page.Entries)-1].Key
			}
		}
	}
}

// takeState tells of a change of the shared state.
func (c *Client) takeState(frame []byte) {
	var f wire.StateChange
	if err := json.Unmarshal(frame, &f); err != nil {
		c.o.Logger.Debug("unreadable state change", "cause", err)
		return
	}
	e := Event{Name: wire.TypeStateChange, At: parseTime(f.UpdatedAt), Data: frame, State: &StateChange{
		StateEntry: stateEntry(wire.StateItem{Key: f.Key, Value: f.Value, UpdatedBy: f.UpdatedBy, UpdatedAt: f.UpdatedAt}), Deleted: f.Deleted,
	}}
	if e.At.IsZero() { // an older broker does not say when
		e.At = time.Now()
	}
	c.emit(e)
}
