package client

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/wire"
)

// A broker that says that there is more, and then says the same again, does not keep its client for ever.
func TestListStateEndsWithABrokerThatDoesNotGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			for f := k.read(); f != nil; f = k.read() {
				id, _ := f["_reqId"].(string)
				k.write(&wire.StateList{
					Header: wire.Header{Type: wire.TypeStateList, ReqID: &id}, Truncated: true,
					Entries: []wire.StateItem{{Key: "a", Value: []byte("1")}},
				})
			}
		})
		c := s.dial(func(*Options) {})
		n := 0
		var last error
		for _, err := range c.ListState(t.Context()) {
			if last = err; err == nil {
				n++
			}
		}
		require.ErrorIs(t, last, errStuckList)
		require.Equal(t, 2, n)
	})
}

// An older broker does not say when a key was changed, and one that is worse not even what.
func TestStateChangesOfOtherBrokers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			k.write(map[string]any{"type": "state_change", "key": 1})
			k.write(map[string]any{"type": "state_change", "key": "k", "value": []int{1, 2}, "updatedBy": "bo"})
			k.serveAll()
		})
		c := s.dial(func(*Options) {})
		var got *StateChange
		for e := range c.Events() {
			if got = e.State; got != nil {
				require.False(t, e.At.IsZero())
				break
			}
		}
		require.Equal(t, &StateChange{StateEntry: StateEntry{Key: "k", Value: []byte("[1,2]"), UpdatedBy: "bo"}}, got)
	})
}

// A key whose setting was not answered is set again when the connection is back.
func TestStateIsSetOverALostConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			if k.n == 1 {
				for f := k.read(); f["type"] != wire.TypeSetState; f = k.read() {
				}
				return
			}
			k.serveAll()
		})
		c := s.dial(func(*Options) {})
		require.NoError(t, c.SetState(t.Context(), "k", []int{1}))
		sent := s.of(wire.TypeSetState)
		require.Len(t, sent, 2)
		require.Equal(t, sent[0], sent[1])
		require.Equal(t, []any{1.0}, sent[0]["value"])
	})
}
