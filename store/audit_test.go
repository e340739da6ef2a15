package store_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
)

var auditNoon = time.Date(2026, 5, 4, 12, 0, 0, 123_456_789, time.UTC)

func auditKey(t *testing.T) identity.KeyPair {
	t.Helper()
	key, err := identity.GenerateKey()
	require.NoError(t, err)
	return key
}

func auditEvents(n int) []store.AuditEvent {
	return slices.Repeat([]store.AuditEvent{{Type: "x", ActorMemberID: "ana", Payload: json.RawMessage(`{"a":1}`), At: auditNoon}}, n)
}

// requireChain verifies entries from behind anchor, with their checkpoints, of which the first says count.
func requireChain(t *testing.T, key identity.KeyPair, anchor string, count int64, entries []store.AuditEntry) {
	t.Helper()
	v := identity.NewChainVerifier("m", anchor)
	for i, e := range entries {
		prev := v.Last()
		require.NoError(t, v.Next(e.Chain()))
		if e.Type != identity.CheckpointEvent {
			continue
		}
		var c identity.Checkpoint
		require.NoError(t, json.Unmarshal(e.Payload, &c))
		require.NoError(t, c.Verify("m", prev, identity.ChainTime(e.At), key.Public()))
		require.Equal(t, count+int64(i), c.Count)
		require.Empty(t, e.ActorMemberID)
		require.Empty(t, e.ActorName)
	}
}

func TestAuditHeadAppendChains(t *testing.T) {
	t.Parallel()
	key, h := auditKey(t), store.NewAuditHead()
	require.Equal(t, store.AuditHead{Hash: "genesis", AnchorHash: "genesis"}, h)
	require.Empty(t, h.Append("m", key))
	require.Equal(t, store.NewAuditHead(), h, "no events change nothing")

	zone := time.FixedZone("", 2*60*60)
	first := store.AuditEvent{
		Type: "peer_joined", ActorMemberID: "ana", ActorName: "Ana", Payload: json.RawMessage(`{"groups":[]}`), At: auditNoon.In(zone),
	}
	second := store.AuditEvent{Type: "peer_left", Payload: json.RawMessage(`{}`), At: auditNoon.Add(-time.Hour)}
	entries := h.Append("m", key, first, second)
	first.At, second.At = auditNoon.Truncate(time.Millisecond), second.At.Truncate(time.Millisecond)
	hash1 := identity.ChainHash("genesis", "m", "peer_joined", "ana", `{"groups":[]}`, "2026-05-04T12:00:00.123Z")
	hash2 := identity.ChainHash(hash1, "m", "peer_left", "", `{}`, "2026-05-04T11:00:00.123Z")
	require.Equal(t, []store.AuditEntry{
		{ID: 1, MeshID: "m", AuditEvent: first, PrevHash: "genesis", Hash: hash1}, {ID: 2, MeshID: "m", AuditEvent: second, PrevHash: hash1, Hash: hash2},
	}, entries)
	require.Equal(t, store.AuditHead{Count: 2, Hash: hash2, AnchorHash: "genesis", FirstAt: first.At}, h)
	requireChain(t, key, "", 0, entries)

	more := h.Append("m", key, second)
	require.Equal(t, hash2, more[0].PrevHash)
	require.Equal(t, first.At, h.FirstAt, "of the first ever")
	requireChain(t, key, "", 0, append(entries, more...))
}

func TestAuditHeadPutsACheckpointEverySoManyEntries(t *testing.T) {
	t.Parallel()
	const every = store.AuditCheckpointEvery
	for _, c := range []struct {
		name    string
		appends []int
		want    []int // places of the checkpoints, from 1
	}{
		{"two short of it", []int{every - 2}, nil},
		{"one short of it", []int{every - 1}, []int{every}},
		{"one by one", slices.Repeat([]int{1}, every-1), []int{every}},
		{"inside of a batch", []int{every - 3, 10}, []int{every}},
		{"a batch over several", []int{5, 3*every - 3}, []int{every, 2 * every, 3 * every}},
		{"and it ends with one", []int{1, 2*every - 3}, []int{every, 2 * every}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			key, h := auditKey(t), store.NewAuditHead()
			var entries []store.AuditEntry
			events := 0
			for _, n := range c.appends {
				entries = append(entries, h.Append("m", key, auditEvents(n)...)...)
				events += n
			}
			var got []int
			for i, e := range entries {
				if e.Type == identity.CheckpointEvent {
					got = append(got, i+1)
					require.Equal(t, entries[i-1].At, e.At, "made at the time of the entry before it")
				}
			}
			require.Equal(t, c.want, got)
			require.Len(t, entries, events+len(got), "each event and no more")
			require.EqualValues(t, len(entries), h.Count)
			requireChain(t, key, "", 0, entries)
		})
	}
}

func TestAuditHeadCheckpointStartsTheCountAnew(t *testing.T) {
	t.Parallel()
	key, h := auditKey(t), store.NewAuditHead()
	entries := h.Append("m", key, auditEvents(10)...)
	at := auditNoon.Add(time.Hour)
	c := h.Checkpoint("m", key, at)
	require.Equal(t, identity.CheckpointEvent, c.Type)
	require.Equal(t, at.Truncate(time.Millisecond), c.At)
	require.EqualValues(t, 11, h.CheckpointCount)
	require.Equal(t, at.Truncate(time.Millisecond), h.CheckpointAt)
	require.Equal(t, c.Hash, h.Hash)
	entries = append(append(entries, c), h.Append("m", key, auditEvents(store.AuditCheckpointEvery-2)...)...)
	require.EqualValues(t, 11, h.CheckpointCount)
	entries = append(entries, h.Append("m", key, auditEvents(1)...)...)
	require.EqualValues(t, 11+store.AuditCheckpointEvery, h.CheckpointCount)
	require.Equal(t, h.Count, h.CheckpointCount)
	require.Equal(t, auditNoon.Truncate(time.Millisecond), h.CheckpointAt)
	requireChain(t, key, "", 0, entries)
}

func TestAuditHeadCountsOnBehindAnAnchor(t *testing.T) {
	t.Parallel()
	key, h := auditKey(t), store.NewAuditHead()
	old := h.Append("m", key, auditEvents(20)...)
	h.AnchorCount, h.AnchorHash = 15, old[14].Hash // what a store does that prunes
	entries := append(old[15:], h.Checkpoint("m", key, auditNoon))
	require.Equal(t, int64(21), h.Count)
	requireChain(t, key, h.AnchorHash, h.AnchorCount, entries)
	require.EqualValues(t, 15, h.AnchorCount, "appending leaves the anchor alone")
}

func TestAuditHeadCheckpointDue(t *testing.T) {
	t.Parallel()
	first := auditNoon.Truncate(time.Millisecond)
	one := store.AuditHead{Count: 1, FirstAt: first}
	checked := store.AuditHead{Count: 5, FirstAt: first, CheckpointCount: 3, CheckpointAt: first.Add(time.Hour)}
	quiet := store.AuditHead{Count: 3, FirstAt: first, CheckpointCount: 3, CheckpointAt: first.Add(time.Hour)}
	for _, c := range []struct {
		name  string
		head  store.AuditHead
		after time.Duration // first
		want  bool
	}{
		{"no entries", store.NewAuditHead(), 1000 * time.Hour, false},
		{"too early", one, time.Hour - time.Nanosecond, false},
		{"at the moment", one, time.Hour, true},
		{"later", one, 2 * time.Hour, true},
		{"before the first entry", one, -time.Hour, false},
		{"the checkpoint counts, not the first entry", checked, 2*time.Hour - time.Nanosecond, false},
		{"at the moment from the checkpoint", checked, 2 * time.Hour, true},
		{"nothing happened since", quiet, 2 * time.Hour, true},
	} {
		require.Equal(t, c.want, c.head.CheckpointDue(first.Add(c.after), time.Hour), c.name)
	}
}

func TestAuditEntryChainIsWhatWasHashed(t *testing.T) {
	t.Parallel()
	key, h := auditKey(t), store.NewAuditHead()
	good := h.Append("m", key, auditEvents(1)...)[0]
	sum, err := good.Chain().Sum("m")
	require.NoError(t, err)
	require.Equal(t, good.Hash, sum)
	for name, change := range map[string]func(*store.AuditEntry){
		"type":    func(e *store.AuditEntry) { e.Type = "y" },
		"actor":   func(e *store.AuditEntry) { e.ActorMemberID = "" },
		"payload": func(e *store.AuditEntry) { e.Payload = json.RawMessage(`{"a":2}`) },
		"time":    func(e *store.AuditEntry) { e.At = e.At.Add(time.Millisecond) },
		"before":  func(e *store.AuditEntry) { e.PrevHash = fmt.Sprintf("%064d", 0) },
	} {
		bad := good
		change(&bad)
		sum, err := bad.Chain().Sum("m")
		require.NoError(t, err)
		require.NotEqual(t, good.Hash, sum, name)
	}
	renamed := good
	renamed.ActorName = "somebody else"
	require.Equal(t, good.Chain(), renamed.Chain(), "the name is for people")
}
