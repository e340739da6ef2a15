package topickey_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/topickey"
)

func TestKeysDoNotPrint(t *testing.T) {
	t.Parallel()
	k := docKey()
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb+"\n", k, &k, struct{ Key topickey.Key }{k})
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("x", "key", k, "pointer", &k, "inside", struct{ Key topickey.Key }{k})
	}
	for _, canary := range []string{hex.EncodeToString(k[:4]), "32 33 34", "32,33,34", "0x20, 0x21", ` !"#`} {
		require.NotContains(t, out.String(), canary)
	}
	require.Contains(t, out.String(), "[redacted]")
	_, err := json.Marshal(k)
	require.Error(t, err)
}

func TestKeyFromBytesCopies(t *testing.T) {
	t.Parallel()
	b := bytes.Repeat([]byte{1}, 32)
	k, err := topickey.KeyFromBytes(b)
	require.NoError(t, err)
	b[0] = 2
	require.EqualValues(t, 1, k[0])
	k.Wipe()
	require.Zero(t, [32]byte(k))
	for _, n := range []int{0, 31, 33} {
		_, err := topickey.KeyFromBytes(make([]byte, n))
		requireClass(t, "bad_key_length", err)
	}
}
