package memory_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
	"github.com/claudemesh/broker/store/storetest"
	"github.com/claudemesh/broker/wire"
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

func TestBodyIsDroppedWhenMailIsDone(t *testing.T) {
	t.Parallel()
	ctx, noon := t.Context(), time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	s := memory.New()
	require.NoError(t, s.CreateMesh(ctx, store.Mesh{ID: "m", Slug: "m"}, store.Topic{ID: "t", Name: "general"}))
	for _, id := range []string{"ana", "bo"} {
		require.NoError(t, s.AddMember(ctx, store.Member{ID: id, MeshID: "m", Pubkey: id}, 0))
	}
	r, err := s.Roster(ctx, "m")
	require.NoError(t, err)
	send := func(id, topic string, to ...string) store.Message {
		d := store.Draft{Message: store.Message{
			ID: id, TopicID: topic, SenderMemberID: "ana", SenderName: "Ana", Nonce: "nonce", Ciphertext: "body", ClientMessageID: "c" + id,
			ContentHash: "hash of " + id, ExpiresAt: noon.Add(time.Hour),
		}}
		for _, member := range to {
			d.Recipients = append(d.Recipients, store.Recipient{MemberID: member})
		}
		out, err := s.Enqueue(ctx, "m", r.Version, []store.Draft{d}, store.Quota{}, noon)
		require.NoError(t, err)
		require.NoError(t, out[0].Err)
		require.Equal(t, "body", out[0].Message.Ciphertext, "whoever sends it sees what was stored")
		return out[0].Message
	}
	ack := func(by string, ids ...string) {
		_, err := s.Ack(ctx, []store.Ack{{MeshID: "m", MemberID: by, MessageIDs: ids, By: store.ByClient, At: noon}})
		require.NoError(t, err)
	}
	requireKept := func(want store.Message, body bool) {
		t.Helper()
		if !body {
			want.Nonce, want.Ciphertext = "", ""
		}
		got, err := s.Message(ctx, "m", want.ID)
		require.NoError(t, err)
		require.Equal(t, want, got)
		got, err = s.Sent(ctx, "m", "ana", want.ClientMessageID)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}

	acked, late, post, nobody := send("acked", "", "ana", "bo"), send("late", "", "ana", "bo"), send("post", "t", "bo"), send("nobody", "")
	requireKept(nobody, false)
	mail, err := s.Pending(ctx, store.PendingQuery{MeshID: "m", MemberID: "ana", After: map[wire.Priority]int64{"": 0}, Now: noon, Limit: 9})
	require.NoError(t, err)
	require.Len(t, mail, 2)

	ack("bo", "acked", "late", "post")
	requireKept(acked, true) // ana has not got it yet
	ack("ana", "acked")
	requireKept(acked, false)
	requireKept(late, true)
	_, err = s.Expire(ctx, noon.Add(time.Hour), 0, 10)
	require.NoError(t, err)
	requireKept(late, false)
	requireKept(post, true)
	require.Equal(t, acked, *mail[0].Message, "readers keep what they were given")
	require.Equal(t, late, *mail[1].Message)

	retry := acked
	retry.ID = "retry"
	out, err := s.Enqueue(ctx, "m", r.Version, []store.Draft{{Message: acked}, {Message: retry}}, store.Quota{}, noon)
	require.NoError(t, err)
	require.False(t, out[0].Duplicate)
	require.Len(t, out[0].Recipients, 2)
	require.True(t, out[1].Duplicate)
	require.Equal(t, "acked", out[1].Message.ID, "retries are known without the body")
}
