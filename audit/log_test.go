package audit_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/audit"
	"github.com/claudemesh/broker/identity"
)

// The mesh and the member of docs/formats.md, test values.
const (
	meshID = "Mesh0000000000000000000000000001"
	ana    = "Memb0000000000000000000000000001"
	bo     = "Memb0000000000000000000000000002"
)

// start is the time of the first entry of a log.
var start = time.Date(2026, 5, 2, 20, 3, 11, 0, time.UTC)

// seedKey is the key pair of a seed of 32 equal bytes.
func seedKey(b byte) identity.KeyPair {
	k, err := identity.KeyPairFromSeed(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		panic(err)
	}
	return k
}

// clusterKey signs checkpoints, forgerKey would like to.
var clusterKey, forgerKey = seedKey(5), seedKey(6)

// auditLog is an audit log in memory, and what a file says of it.
type auditLog struct {
	header  audit.Header
	entries []audit.Entry
	trailer audit.Trailer
	key     identity.KeyPair
	at      time.Time
}

func newLog() *auditLog {
	return &auditLog{
		header: audit.Header{MeshID: meshID, Key: clusterKey.Public(), AnchorHash: identity.ChainGenesis, ExportedAt: identity.ChainTime(start.Add(time.Hour))},
		key:    clusterKey, at: start,
	}
}

// add appends an entry, ten seconds after the last.
func (l *auditLog) add(typ, actor, payload string) *auditLog {
	l.entries = append(l.entries, audit.Entry{
		ID: l.header.AnchorCount + int64(len(l.entries)) + 1, EventType: typ, Actor: actor, Payload: []byte(payload), CreatedAt: identity.ChainTime(l.at),
	})
	l.at = l.at.Add(10 * time.Second)
	l.link(len(l.entries) - 1)
	return l
}

// checkpoint appends one.
func (l *auditLog) checkpoint() *auditLog {
	return l.add(identity.CheckpointEvent, "", `{}`)
}

// link computes the entries again from the i-th on: ids, hashes, signatures and the trailer.
func (l *auditLog) link(from int) {
	for i := from; i < len(l.entries); i++ {
		e := &l.entries[i]
		e.ID, e.PrevHash = l.header.AnchorCount+int64(i)+1, l.header.AnchorHash
		if i > 0 {
			e.PrevHash = l.entries[i-1].Hash
		}
		if e.EventType == identity.CheckpointEvent {
			e.Payload = identity.NewCheckpoint(l.header.MeshID, l.header.AnchorCount+int64(i), e.PrevHash, e.CreatedAt, l.key).Payload()
		}
		l.rehash(i)
	}
	l.end()
}

// rehash gives the i-th entry the hash of its fields.
func (l *auditLog) rehash(i int) {
	e := &l.entries[i]
	e.Hash = identity.ChainHash(e.PrevHash, l.header.MeshID, e.EventType, e.Actor, string(e.Payload), e.CreatedAt)
}

// rechain computes id, prevHash and hash from the i-th entry on, and leaves payloads alone: what somebody can do who has no key.
func (l *auditLog) rechain(from int) {
	for i := from; i < len(l.entries); i++ {
		l.entries[i].ID, l.entries[i].PrevHash = l.header.AnchorCount+int64(i)+1, l.header.AnchorHash
		if i > 0 {
			l.entries[i].PrevHash = l.entries[i-1].Hash
		}
		l.rehash(i)
	}
	l.end()
}

// end makes the trailer fit.
func (l *auditLog) end() {
	l.trailer = audit.Trailer{Count: l.header.AnchorCount + int64(len(l.entries)), Hash: l.header.AnchorHash}
	if n := len(l.entries); n > 0 {
		l.trailer.Hash = l.entries[n-1].Hash
	}
}

// cut takes the entries behind the first n away.
func (l *auditLog) cut(n int) *auditLog {
	l.entries = l.entries[:n]
	l.end()
	return l
}

// prune moves the anchor behind the first n entries.
func (l *auditLog) prune(n int) *auditLog {
	l.header.AnchorCount, l.header.AnchorHash = l.header.AnchorCount+int64(n), l.entries[n-1].Hash
	l.entries = slices.Clone(l.entries[n:])
	return l
}

// insert puts an entry before the i-th, as it is.
func (l *auditLog) insert(i int, e audit.Entry) { l.entries = slices.Insert(l.entries, i, e) }

// forge is an entry like a new one behind the i-th (-1: the anchor).
func (l *auditLog) forge(i int) audit.Entry {
	prev, id := l.header.AnchorHash, int64(1)
	if i >= 0 {
		prev, id = l.entries[i].Hash, l.entries[i].ID+1
	}
	e := audit.Entry{ID: id, EventType: "member_role", Actor: ana, Payload: []byte(`{"role":"admin","target":"` + bo + `"}`), CreatedAt: identity.ChainTime(start)}
	e.PrevHash = prev
	e.Hash = identity.ChainHash(prev, l.header.MeshID, e.EventType, e.Actor, string(e.Payload), e.CreatedAt)
	return e
}

// kept is the checkpoint in the i-th entry.
func (l *auditLog) kept(t testing.TB, i int) *audit.Kept {
	t.Helper()
	e := l.entries[i]
	require.Equal(t, identity.CheckpointEvent, e.EventType)
	c := identity.NewCheckpoint(l.header.MeshID, l.header.AnchorCount+int64(i), e.PrevHash, e.CreatedAt, l.key)
	return &audit.Kept{MeshID: l.header.MeshID, Count: c.Count, Hash: c.Hash, Key: c.Key, Signature: c.Signature, CreatedAt: e.CreatedAt}
}

// file is the log as a file.
func (l *auditLog) file(t testing.TB) string {
	t.Helper()
	var out strings.Builder
	w, err := audit.NewWriter(&out, l.header)
	require.NoError(t, err)
	for _, e := range l.entries {
		require.NoError(t, w.Write(e))
	}
	require.NoError(t, w.Close(l.trailer))
	return out.String()
}

// goodLog is the log that the vectors are made of: entries 0 to 13, with checkpoints in 4, 9 and 13.
func goodLog() *auditLog {
	l := newLog()
	l.add("peer_joined", ana, `{"groups":[],"pubkey":"`+seedKey(1).Public()+`","restored":false,"role":"control-plane"}`)
	l.add("member_joined", "", `{"member":"`+bo+`","pubkey":"`+seedKey(2).Public()+`","role":"member"}`)
	l.add("message_sent", ana, `{"message_id":"Mess0000000000000000000000000001","priority":"next","target":"*"}`)
	l.add("topic_created", ana, `{"name":"größe \"<&>\" 😀","topic":"Topc0000000000000000000000000001","visibility":"private"}`)
	l.checkpoint()
	l.add("message_sent", bo, `{"message_id":"Mess0000000000000000000000000002","priority":"now","target":"`+seedKey(1).Public()+`"}`)
	l.add("apikey_created", bo, `{"capabilities":["read"],"id":"Akey0000000000000000000000000001","issuer":"`+bo+`","label":"ci"}`)
	l.add("member_role", ana, `{"role":"admin","target":"`+bo+`"}`)
	l.add("peer_left", ana, `{}`)
	l.checkpoint()
	l.add("message_sent", bo, `{"message_id":"Mess0000000000000000000000000003","priority":"low","target":"@all"}`)
	l.add("member_banned", bo, `{"target":"`+ana+`","targetPubkey":"`+seedKey(1).Public()+`"}`)
	l.add("peer_left", bo, `{}`)
	return l.checkpoint()
}

// longLog is n entries with a checkpoint each time there must be one at the latest.
func longLog(n int) *auditLog {
	l := newLog()
	for len(l.entries) < n {
		if len(l.entries)%audit.CheckpointEvery == audit.CheckpointEvery-1 {
			l.checkpoint()
			continue
		}
		l.at = l.at.Add(-9 * time.Second)
		l.add("message_sent", ana, fmt.Sprintf(`{"message_id":"Mess%028d","priority":"next","target":"*"}`, len(l.entries)))
	}
	return l
}
