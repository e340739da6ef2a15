package identity_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

type chainVector struct {
	named
	PayloadJSON      string `json:"payloadJson"`
	Canonical        string
	CanonicalSha256  string
	MeshID           string
	Entries          []chainVectorEntry
	Valid            bool
	FirstBrokenIndex *int
}

type chainVectorEntry struct {
	EventType     string
	ActorMemberID *string
	PayloadJSON   string `json:"payloadJson"`
	CreatedAtMs   int64
	CreatedAt     string
	PrevHash      string
	Hash          string
}

func TestChainVectors(t *testing.T) {
	t.Parallel()
	runVectors(t, "audit_chain.json", map[string]func(*testing.T, chainVector){
		"canonical_json": func(t *testing.T, c chainVector) {
			got, err := identity.CanonicalJSON([]byte(c.PayloadJSON))
			require.NoError(t, err)
			require.Equal(t, c.Canonical, string(got))
			sum := sha256.Sum256(got)
			require.Equal(t, c.CanonicalSha256, hex.EncodeToString(sum[:]))
			again, err := identity.CanonicalJSON(got)
			require.NoError(t, err)
			require.Equal(t, c.Canonical, string(again))
		},
		"chain": func(t *testing.T, c chainVector) {
			entries := make([]identity.ChainEntry, 0, len(c.Entries))
			for i, e := range c.Entries {
				actor := ""
				if e.ActorMemberID != nil {
					actor = *e.ActorMemberID
				}
				entry := identity.ChainEntry{
					EventType: e.EventType, Actor: actor, Payload: []byte(e.PayloadJSON),
					CreatedAt: e.CreatedAt, PrevHash: e.PrevHash, Hash: e.Hash,
				}
				entries = append(entries, entry)
				require.Equal(t, e.CreatedAt, identity.ChainTime(time.UnixMilli(e.CreatedAtMs)))
				if c.Valid {
					sum, err := entry.Sum(c.MeshID)
					require.NoError(t, err)
					require.Equal(t, e.Hash, sum, "entry %d", i)
				}
			}
			want := -1
			if c.FirstBrokenIndex != nil {
				want = *c.FirstBrokenIndex
			}
			require.Equal(t, c.Valid, want < 0)
			require.Equal(t, want, identity.VerifyChain(c.MeshID, entries))

			v := identity.NewChainVerifier(c.MeshID, "")
			var first error
			for _, e := range entries {
				if err := v.Next(e); err != nil && first == nil {
					first = err
				}
			}
			require.EqualValues(t, len(entries), v.Count())
			if want < 0 {
				require.NoError(t, first)
				return
			}
			var broken *identity.BrokenChain
			require.ErrorAs(t, first, &broken)
			require.EqualValues(t, want, broken.Index)
		},
	})
}

func TestPrunedChainVerifiesFromItsAnchor(t *testing.T) {
	t.Parallel()
	prev, entries := identity.ChainGenesis, []identity.ChainEntry{}
	for _, event := range []string{"a", "b", "c"} {
		e := identity.ChainEntry{EventType: event, Payload: []byte(`{}`), CreatedAt: identity.ChainTime(testNow), PrevHash: prev}
		var err error
		e.Hash, err = e.Sum("m")
		require.NoError(t, err)
		prev, entries = e.Hash, append(entries, e)
	}
	require.Equal(t, -1, identity.VerifyChain("m", entries))
	require.Equal(t, 0, identity.VerifyChain("m", entries[1:]), "without the anchor the first row is missing")
	v := identity.NewChainVerifier("m", entries[0].Hash)
	require.NoError(t, v.Next(entries[1]))
	require.NoError(t, v.Next(entries[2]))
	require.Equal(t, entries[2].Hash, v.Last())
}

func TestBrokenChainStaysBroken(t *testing.T) {
	t.Parallel()
	v := identity.NewChainVerifier("m", "")
	err := v.Next(identity.ChainEntry{Payload: []byte(`{`), PrevHash: identity.ChainGenesis})
	require.ErrorContains(t, err, "payload is not JSON")
	good := identity.ChainEntry{Payload: []byte(`{}`), PrevHash: identity.ChainGenesis}
	good.Hash, _ = good.Sum("m")
	require.Equal(t, err, v.Next(good))
}

func TestCheckpointNamesTheRowBeforeIt(t *testing.T) {
	t.Parallel()
	key, other := seedPair(t, 5), seedPair(t, 6)
	at := identity.ChainTime(testNow)
	hash := identity.ChainHash(identity.ChainGenesis, "m", "peer_left", "", "{}", at)
	c := identity.NewCheckpoint("m", 7, hash, at, key)
	require.NoError(t, c.Verify("m", hash, at, key.Public()))
	require.ErrorIs(t, c.Verify("m", hash, at, other.Public()), identity.ClassBadKey)
	require.ErrorIs(t, c.Verify("m", identity.ChainGenesis, at, key.Public()), identity.ClassBadSignature)
	require.ErrorIs(t, c.Verify("m2", hash, at, key.Public()), identity.ClassBadSignature)
	require.ErrorIs(t, c.Verify("m", hash, identity.ChainTime(testNow.Add(time.Millisecond)), key.Public()), identity.ClassBadSignature)
	c.Count++
	require.ErrorIs(t, c.Verify("m", hash, at, key.Public()), identity.ClassBadSignature)
	c.Signature = ""
	require.True(t, errors.Is(c.Verify("m", hash, at, key.Public()), identity.ClassMalformed))
}
