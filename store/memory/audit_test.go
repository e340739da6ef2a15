package memory_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
)

func TestAuditLogIsBoundedBehindAnAnchor(t *testing.T) {
	t.Parallel()
	ctx, noon := t.Context(), time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	s := memory.New()
	for _, mesh := range []string{"m", "n"} {
		require.NoError(t, s.CreateMesh(ctx, store.Mesh{ID: mesh, Slug: mesh}, store.Topic{ID: "t", Name: "general"}))
	}
	write := func(mesh, typ string, n int) {
		for n > 0 {
			events := make([]store.AuditEvent, min(n, 777))
			for i := range events {
				events[i] = store.AuditEvent{Type: typ, ActorMemberID: "by " + typ, Payload: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n-i)), At: noon}
			}
			require.NoError(t, s.AppendAudit(ctx, mesh, events...))
			n -= len(events)
		}
	}
	write("n", "x", 3)
	write("m", "early", 100)
	const late = memory.MaxAuditEntries + 1234
	write("m", "late", late)

	head, err := s.AuditHead(ctx, "m")
	require.NoError(t, err)
	const checkpoints = (100 + late) / (store.AuditCheckpointEvery - 1)
	require.EqualValues(t, 100+late+checkpoints, head.Count)
	require.EqualValues(t, head.Count-memory.MaxAuditEntries, head.AnchorCount)
	kept, err := s.AuditPage(ctx, "m", 0, 2*memory.MaxAuditEntries)
	require.NoError(t, err)
	require.Len(t, kept, memory.MaxAuditEntries)

	v := identity.NewChainVerifier("m", head.AnchorHash)
	key, err := s.AuditKey(ctx)
	require.NoError(t, err)
	own := 0
	for i, e := range kept {
		prev := v.Last()
		require.NoError(t, v.Next(e.Chain()))
		switch e.Type {
		case identity.CheckpointEvent:
			var c identity.Checkpoint
			require.NoError(t, json.Unmarshal(e.Payload, &c))
			require.NoError(t, c.Verify("m", prev, identity.ChainTime(e.At), key))
			require.EqualValues(t, head.AnchorCount+int64(i), c.Count, "pruned ones included")
		default:
			require.Equal(t, "late", e.Type)
			own++
		}
	}
	require.Equal(t, head.Hash, v.Last())
	require.Error(t, identity.NewChainVerifier("m", "").Next(kept[0].Chain()), "from the beginning it is not whole")

	for _, c := range []struct {
		q     store.AuditQuery
		n     int
		total int
	}{
		{store.AuditQuery{Limit: 2 * memory.MaxAuditEntries}, memory.MaxAuditEntries, memory.MaxAuditEntries},
		{store.AuditQuery{Limit: 9, Offset: memory.MaxAuditEntries - 1}, 1, memory.MaxAuditEntries},
		{store.AuditQuery{Type: "early", Limit: 9}, 0, 0},
		{store.AuditQuery{Actor: "by early", Limit: 9}, 0, 0},
		{store.AuditQuery{Type: "early", Actor: "by early", Limit: 9}, 0, 0},
		{store.AuditQuery{Type: "late", Limit: 2 * memory.MaxAuditEntries}, own, store.AuditCountCap},
		{store.AuditQuery{Actor: "by late", Limit: 9, Offset: own - 1}, 1, store.AuditCountCap},
		{store.AuditQuery{Type: "late", Actor: "by late", Limit: 2 * memory.MaxAuditEntries}, store.AuditCountCap, store.AuditCountCap},
		{store.AuditQuery{Type: identity.CheckpointEvent, Limit: 99}, memory.MaxAuditEntries - own, memory.MaxAuditEntries - own},
	} {
		c.q.MeshID = "m"
		entries, total, err := s.AuditLog(ctx, c.q)
		require.NoError(t, err)
		require.Len(t, entries, c.n, "%+v", c.q)
		require.Equal(t, c.total, total, "%+v", c.q)
		for i := range entries {
			require.Contains(t, []string{"", entries[i].Type}, c.q.Type, "%+v", c.q)
			require.Contains(t, []string{"", entries[i].ActorMemberID}, c.q.Actor, "%+v", c.q)
			if i > 0 {
				require.Less(t, entries[i].ID, entries[i-1].ID)
			}
		}
	}
	other, err := s.AuditHead(ctx, "n")
	require.NoError(t, err)
	require.Zero(t, other.AnchorCount, "each mesh has a bound of its own")
}
