package memory_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
	"github.com/claudemesh/broker/store/storetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) store.Store { return memory.New() })
}

func BenchmarkStore(b *testing.B) {
	storetest.Benchmark(b, func(*testing.B) store.Store { return memory.New() })
}

func TestTopicHistoryIsBounded(t *testing.T) {
	t.Parallel()
	ctx, noon := t.Context(), time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	s := memory.New()
	require.NoError(t, s.CreateMesh(ctx, store.Mesh{ID: "m", Slug: "m"}, store.Topic{ID: "t", Name: "general"}))
	require.NoError(t, s.AddMember(ctx, store.Member{ID: "ana", MeshID: "m", Pubkey: "a"}, 0))
	r, err := s.Roster(ctx, "m")
	require.NoError(t, err)
	const extra = 3
	for i := range memory.MaxTopicHistory + extra {
		d := store.Draft{Message: store.Message{ID: fmt.Sprintf("x%05d", i), TopicID: "t", SenderMemberID: "ana"}}
		if i == 0 {
			d.Recipients = []store.Recipient{{MemberID: "ana"}}
		}
		out, err := s.Enqueue(ctx, "m", r.Version, []store.Draft{d}, store.Quota{}, noon)
		require.NoError(t, err)
		require.NoError(t, out[0].Err)
	}
	ms, err := s.History(ctx, store.HistoryQuery{MeshID: "m", TopicID: "t", Forward: true, Limit: 2 * memory.MaxTopicHistory})
	require.NoError(t, err)
	require.Len(t, ms, memory.MaxTopicHistory)
	require.EqualValues(t, extra+1, ms[0].Seq, "the newest are kept")

	keep := store.Retention{Messages: time.Hour}
	_, err = s.Prune(ctx, noon.Add(time.Hour), keep)
	require.NoError(t, err)
	_, err = s.Message(ctx, "m", "x00001")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.Message(ctx, "m", "x00000")
	require.NoError(t, err, "history shows it no more, but ana has not got it yet")
	expired, err := s.ArchiveTopic(ctx, "m", "t", noon)
	require.NoError(t, err)
	require.Len(t, expired, 1, "and the topic still ends it")
	_, err = s.Prune(ctx, noon.Add(time.Hour), keep)
	require.NoError(t, err)
	_, err = s.Message(ctx, "m", "x00000")
	require.ErrorIs(t, err, store.ErrNotFound)
}
