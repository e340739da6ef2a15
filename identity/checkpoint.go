package identity

import (
	"strings"
)

// CheckpointEvent is the event type of an audit entry that holds a [Checkpoint].
const CheckpointEvent = "checkpoint"

// A Checkpoint is the payload of an audit entry by which the cluster's key vouches for all rows before it. Rows that an attacker
// with the database rewrites or cuts no longer agree with a checkpoint that the auditor kept.
type Checkpoint struct {
	Count     int64  `json:"count"`     // rows of the mesh before this one, pruned ones included
	Hash      string `json:"hash"`      // of the row before; ChainGenesis when there is none
	Key       string `json:"key"`       // 64 hex digits
	Signature string `json:"signature"` // 128 hex digits, by Key over CheckpointText
}

// NewCheckpoint signs a checkpoint for the row that will be created at createdAt, as [ChainTime] writes it.
func NewCheckpoint(meshID string, count int64, hash, createdAt string, key KeyPair) Checkpoint {
	return Checkpoint{
		Count:     count,
		Hash:      hash,
		Key:       key.Public(),
		Signature: key.Sign(CheckpointText(meshID, count, hash, createdAt)),
	}
}

// Payload returns the checkpoint as canonical JSON, as it stands in its entry.
func (c Checkpoint) Payload() []byte {
	out := append([]byte(`{"count":`), FormatNumber(float64(c.Count))...)
	out = appendText(append(out, `,"hash":`...), c.Hash)
	out = appendText(append(out, `,"key":`...), c.Key)
	out = appendText(append(out, `,"signature":`...), c.Signature)
	return append(out, '}')
}

// Verify checks a checkpoint that stands in a row created at createdAt, behind a row whose hash is prevHash: it is by trustedKey
// (else ClassBadKey), it names that hash, and its signature is good (else ClassBadSignature; ClassMalformed for its shape).
func (c Checkpoint) Verify(meshID, prevHash, createdAt, trustedKey string) error {
	if !strings.EqualFold(c.Key, trustedKey) {
		return refuse(ClassBadKey, "the checkpoint is by another key")
	}
	if c.Hash != prevHash {
		return refuse(ClassBadSignature, "the checkpoint names another hash than that of the row before")
	}
	return Verify(c.Key, CheckpointText(meshID, c.Count, c.Hash, createdAt), c.Signature)
}
