package identity_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

// canonical is the canonical form of a value's JSON.
func canonical(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	out, err := identity.CanonicalJSON(raw)
	require.NoError(t, err)
	return string(out)
}

func TestCheckpointPayloadIsCanonical(t *testing.T) {
	t.Parallel()
	key, at := seedPair(t, 5), identity.ChainTime(testNow)
	for _, c := range []identity.Checkpoint{
		{},
		identity.NewCheckpoint("m", 0, identity.ChainGenesis, at, key),
		identity.NewCheckpoint("m", 1, strings.Repeat("a", 64), at, key),
		identity.NewCheckpoint(docMesh, 999, strings.Repeat("0", 64), at, key),
		identity.NewCheckpoint(docMesh, 1<<53, strings.Repeat("f", 64), at, key),
		{Count: 7, Hash: "\"\\\u2028<\x01", Key: "ü", Signature: "\U0001f98a"},
	} {
		require.Equal(t, canonical(t, c), string(c.Payload()))
		var back identity.Checkpoint
		require.NoError(t, json.Unmarshal(c.Payload(), &back))
		require.Equal(t, c, back, "it reads back as itself")
	}
}

func TestAppendCanonicalText(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "plain", "0aZ_-", "with space", `"`, `\`, `a"b\c/d`, "<>&'", "\x00\x01\b\f\n\r\t\x1e\x1f", "\x7f", "\u0080", "é", "\u2028\u2029", "\ufeff\ufffd",
		"👩‍👩‍👧‍👦", "\U0010ffff", "\xff", "a\xc3", "\xed\xa0\x80", strings.Repeat("long ", 1000), "ascii first, then \n",
	} {
		require.Equal(t, "before"+canonical(t, s), string(identity.AppendCanonicalText([]byte("before"), s)), "%q", s)
	}
}
