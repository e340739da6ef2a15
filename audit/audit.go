// Package audit is the audit log of a mesh as a file: writing one, and telling from it alone what happened to the log. It needs no
// database and no broker, so that whoever distrusts both can use it, or write the same from docs/formats.md (audit file).
//
// # What a file proves
//
// Each entry holds a hash over itself and the hash of the entry before, so an entry cannot be changed, taken out, put in or moved without
// changing all that follow. Among the entries, at most [CheckpointEvery] apart and at most an hour, stand checkpoints: signatures of the
// cluster's key over how many entries there were and the hash of the last. So a chain that was made anew shows, to everybody who knows the
// key; and a log that lost its end, or that was made anew with the key, shows to everybody who kept a checkpoint of it ([Kept]).
//
//	report, err := audit.Verify(file, audit.Options{Key: key, After: &kept, Now: time.Now()})
//
// What lies behind the newest checkpoint is vouched for by nobody yet, and the report warns of it ([Unvouched]); an export of an honest broker
// ends with a checkpoint. Without a key or a checkpoint of one's own a file proves nothing
// against whoever made it, and the report says so.
package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/claudemesh/broker/identity"
)

// Format is the name of the format in a file's header.
const Format = "claudemesh-audit/1"

// CheckpointEvery is how many entries there are at most from one checkpoint to the next.
const CheckpointEvery = 1000

// MaxLine is the largest number of bytes in a line of a file, its newline included. The broker's own entries have a fraction of it.
const MaxLine = 1 << 20

// Header is the first line of a file.
type Header struct {
	MeshID string
	// Key is the public key, 64 lower-case hex digits, that the file says its checkpoints are signed with.
	Key string
	// AnchorCount is how many entries the log had before the first one here, and AnchorHash the hash of the last of those, or
	// [identity.ChainGenesis].
	AnchorCount int64
	AnchorHash  string
	// ExportedAt is when the file was made, as from [identity.ChainTime]. Nothing vouches for it.
	ExportedAt string
}

// Entry is an entry of the log as it was hashed.
type Entry struct {
	// ID is the entry's place in the log, from 1, pruned ones included. It is not part of the hash.
	ID        int64
	EventType string
	Actor     string // member id; empty: nobody of the mesh
	Payload   []byte // one object of canonical JSON
	PrevHash  string
	Hash      string
	CreatedAt string // as from identity.ChainTime
}

// Trailer is the last line of a file: the state of the log behind its last entry.
type Trailer struct {
	Count int64  `json:"count"` // entries ever written, those before the anchor included
	Hash  string `json:"hash"`  // of the last
}

// Kept is a checkpoint by itself, as an auditor keeps it: what was promised about the log at one time, in the words of who promised it.
type Kept struct {
	MeshID    string `json:"meshId"`
	Count     int64  `json:"count"` // entries before the checkpoint: its own place in the log, counted from 0
	Hash      string `json:"hash"`  // of the entry before it
	Key       string `json:"key"`
	Signature string `json:"signature"`
	CreatedAt string `json:"createdAt"`
}

// Check reports what is wrong with a kept checkpoint by itself: its shape, or its signature by the key that it names.
func (k Kept) Check() error {
	switch {
	case !identity.ValidID(k.MeshID):
		return errors.New("audit: the kept checkpoint has no mesh id")
	case k.Count < 0 || k.Count > maxNumber || !isHash(k.Hash) || !isHex(k.Key, 64) || !isHex(k.Signature, 128) || !isTime(k.CreatedAt):
		return errors.New("audit: the kept checkpoint is damaged")
	}
	if err := identity.Verify(k.Key, identity.CheckpointText(k.MeshID, k.Count, k.Hash, k.CreatedAt), k.Signature); err != nil {
		return fmt.Errorf("audit: the kept checkpoint is not signed by the key that it names: %w", err)
	}
	return nil
}

// entryHash is the hash of the entry that the checkpoint stands in.
func (k Kept) entryHash() string {
	payload := identity.Checkpoint{Count: k.Count, Hash: k.Hash, Key: k.Key, Signature: k.Signature}.Payload()
	return identity.ChainHash(k.Hash, k.MeshID, identity.CheckpointEvent, "", string(payload), k.CreatedAt)
}

// ParseKept reads what an auditor kept, for [Options]: a checkpoint as JSON, as [Report] holds it; or the JSON of a whole report, which, if it says
// that the log was valid, also tells the end of the log as it was then (else nil). It runs [Kept.Check].
func ParseKept(raw []byte) (Kept, *Trailer, error) {
	var both struct {
		Kept
		Valid      bool  `json:"valid"`
		Checkpoint *Kept `json:"checkpoint"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(raw), &both); err != nil {
		return Kept{}, nil, errors.New("audit: the kept checkpoint is no JSON object with a checkpoint")
	}
	if both.Checkpoint == nil {
		return both.Kept, nil, both.Kept.Check()
	}
	k, end := *both.Checkpoint, (*Trailer)(nil)
	if both.Valid {
		end = &Trailer{Count: both.Count, Hash: both.Hash}
		if both.MeshID != k.MeshID || end.Count <= k.Count || end.check() != nil {
			return k, nil, errors.New("audit: the kept report is damaged")
		}
	}
	return k, end, k.Check()
}

func (t Trailer) check() error {
	if t.Count < 0 || t.Count > maxNumber || !isHash(t.Hash) || (t.Hash == identity.ChainGenesis) != (t.Count == 0) {
		return errors.New("audit: the kept end is damaged")
	}
	return nil
}

// maxNumber is the largest count and id: what every JSON reader takes for a whole number.
const maxNumber = 1 << 53

// isHash reports whether s can be the hash before an entry.
func isHash(s string) bool { return s == identity.ChainGenesis || isHex(s, 64) }

// isHex reports whether s has n lower-case hex digits.
func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// isType reports whether s can be the type of an entry. It must hold no separator of the hashed text.
func isType(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// isTime reports whether s is written as [identity.ChainTime] does.
func isTime(s string) bool {
	_, ok := parseTime(s)
	return ok
}

func parseTime(s string) (time.Time, bool) {
	t, err := time.Parse("2006-01-02T15:04:05.000Z", s)
	return t, err == nil && identity.ChainTime(t) == s
}
