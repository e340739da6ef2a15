package client_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

// stateEvents returns the changes of the shared state among the events that wait.
func stateEvents(p *brokertest.Peer) []client.StateChange {
	synctest.Wait()
	var out []client.StateChange
	for {
		select {
		case e := <-p.Events():
			if e.State != nil {
				out = append(out, *e.State)
			}
		default:
			return out
		}
	}
}

func TestSharedState(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ctx := t.Context()
		ana, bo := mesh.Join("ana"), mesh.Join("bo")
		twin := mesh.Join("ana")
		_, err := ana.State(ctx, "build")
		require.ErrorIs(t, err, wire.NotFound)

		time.Sleep(time.Second)
		type build struct {
			Green bool   `json:"green"`
			Note  string `json:"note"`
		}
		require.NoError(t, ana.SetState(ctx, "build", build{true, "<a & b>"}))
		want := client.StateEntry{
			Key: "build", Value: json.RawMessage(`{"green":true,"note":"<a & b>"}`), UpdatedBy: "ana", UpdatedAt: time.Now().UTC().Truncate(time.Millisecond),
		}
		got, err := bo.State(ctx, "build")
		require.NoError(t, err)
		require.Equal(t, want, got)
		for _, p := range []*brokertest.Peer{bo, twin} {
			require.Equal(t, []client.StateChange{{StateEntry: want}}, stateEvents(p))
		}
		require.Empty(t, stateEvents(ana), "who set it knows")

		require.NoError(t, bo.SetState(ctx, "build", json.RawMessage(`1e400`)))
		require.NoError(t, bo.SetState(ctx, "none", nil))
		told := stateEvents(ana)
		require.Len(t, told, 2)
		require.Equal(t, "1e400", string(told[0].Value))
		got, err = ana.State(ctx, "none")
		require.NoError(t, err, "null is a value")
		require.Equal(t, "null", string(got.Value))

		require.NoError(t, ana.DeleteState(ctx, "build"))
		require.NoError(t, ana.DeleteState(ctx, "build"))
		told = stateEvents(bo)
		require.Len(t, told, 1)
		require.Equal(t, []any{"build", "ana", true, "null"}, []any{told[0].Key, told[0].UpdatedBy, told[0].Deleted, string(told[0].Value)})
		_, err = bo.State(ctx, "build")
		require.ErrorIs(t, err, wire.NotFound)

		require.NoError(t, mesh.Broker.SetState(ctx, mesh.ID, "host", json.RawMessage("1")))
		got, err = bo.State(ctx, "host")
		require.NoError(t, err)
		require.Empty(t, got.UpdatedBy)

		require.ErrorIs(t, bo.SetState(ctx, "", 1), wire.InvalidArgs)
		require.ErrorIs(t, bo.SetState(ctx, "k", strings.Repeat("x", 32767)), wire.InvalidArgs)
		require.Error(t, bo.SetState(ctx, "k", func() {}))
		require.Error(t, bo.SetState(ctx, "k", json.RawMessage("{")))
	})
}

func TestListStateReadsEveryPage(t *testing.T) {
	bubble(t, func(t *testing.T, mesh *brokertest.Mesh) {
		ana := mesh.Join("ana")
		value, err := json.Marshal(strings.Repeat("x", 32_000))
		require.NoError(t, err)
		for i := range 200 { // 6.4 MB
			require.NoError(t, mesh.Broker.SetState(t.Context(), mesh.ID, fmt.Sprintf("%03d", i), value))
		}
		next := 0
		for e, err := range ana.ListState(t.Context()) {
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("%03d", next), e.Key)
			require.Equal(t, string(value), string(e.Value))
			next++
		}
		require.Equal(t, 200, next)
		for range ana.ListState(t.Context()) {
			break // stops asking
		}
	})
}
