package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// ChainGenesis stands for the previous hash in the first entry of a mesh's audit log.
const ChainGenesis = "genesis"

// ChainHash returns the hash of an audit entry, 64 lower-case hex digits: the SHA-256 of the six fields with "|" between them
// (docs/formats.md, audit chain). prev is the entry before's hash or [ChainGenesis]; an empty actor is written "null", as an
// entry without one is; canonicalPayload is from [CanonicalJSON]; createdAt from [ChainTime].
func ChainHash(prev, meshID, eventType, actor, canonicalPayload, createdAt string) string {
	if actor == "" {
		actor = "null"
	}
	sum := sha256.Sum256([]byte(join(prev, meshID, eventType, actor, canonicalPayload, createdAt)))
	return hex.EncodeToString(sum[:])
}

// ChainTime writes t as it stands in the chain: ISO 8601 in UTC with exactly three digits of milliseconds, cut, not rounded.
func ChainTime(t time.Time) string {
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// A ChainEntry is one row of an audit log, as stored.
type ChainEntry struct {
	EventType string
	Actor     string // member id, "" for none
	Payload   []byte // JSON text, canonical or not
	CreatedAt string // as from ChainTime
	PrevHash  string
	Hash      string
}

// Sum computes the entry's hash from its other fields. A payload that is not JSON is an error of [CanonicalJSON].
func (e ChainEntry) Sum(meshID string) (string, error) {
	payload, err := CanonicalJSON(e.Payload)
	if err != nil {
		return "", err
	}
	return ChainHash(e.PrevHash, meshID, e.EventType, e.Actor, string(payload), e.CreatedAt), nil
}

// A BrokenChain is the error about the first entry that does not fit.
type BrokenChain struct {
	Index  int64 // of the entry among those checked, from 0
	Reason string
}

func (b *BrokenChain) Error() string {
	return fmt.Sprintf("identity: audit chain broken at entry %d: %s", b.Index, b.Reason)
}

// A ChainVerifier checks an audit log entry by entry, in constant memory. It is not safe for concurrent use.
type ChainVerifier struct {
	meshID string
	prev   string
	count  int64
	broken *BrokenChain
}

// NewChainVerifier checks a mesh's log from its start or, when older rows were pruned, from behind the row whose hash is
// anchor. The anchor of a whole log is "" or [ChainGenesis].
func NewChainVerifier(meshID, anchor string) *ChainVerifier {
	if anchor == "" {
		anchor = ChainGenesis
	}
	return &ChainVerifier{meshID: meshID, prev: anchor}
}

// Next takes the next entry. It returns a *[BrokenChain] when the entry's PrevHash is not the hash stored with the one before,
// or its Hash is not that of its fields; both are compared as texts. After that every call returns the same error.
func (v *ChainVerifier) Next(e ChainEntry) error {
	if v.broken == nil {
		v.broken = v.check(e)
	}
	v.count++
	if v.broken != nil { // never a nil *BrokenChain inside the interface
		return v.broken
	}
	v.prev = e.Hash
	return nil
}

func (v *ChainVerifier) check(e ChainEntry) *BrokenChain {
	if e.PrevHash != v.prev {
		return &BrokenChain{v.count, "it does not follow the entry before"}
	}
	sum, err := e.Sum(v.meshID)
	if err != nil {
		return &BrokenChain{v.count, "its payload is not JSON"}
	}
	if sum != e.Hash {
		return &BrokenChain{v.count, "its hash is not that of its fields"}
	}
	return nil
}

// Count returns how many entries Next was given.
func (v *ChainVerifier) Count() int64 { return v.count }

// Last returns the hash of the last good entry so far, or the anchor: what the next entry must name.
func (v *ChainVerifier) Last() string { return v.prev }

// VerifyChain checks a whole log in memory and returns the index of its first broken entry, or -1 when there is none. An empty
// log is sound. Neither a cut end nor a rewritten last entry can be seen; see [Checkpoint].
func VerifyChain(meshID string, entries []ChainEntry) (firstBroken int) {
	v := NewChainVerifier(meshID, ChainGenesis)
	for i, e := range entries {
		if v.Next(e) != nil {
			return i
		}
	}
	return -1
}
