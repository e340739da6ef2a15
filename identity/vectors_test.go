package identity_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

type vector interface{ label() (name, kind string) }

// named is embedded in every vector type.
type named struct {
	Name string
	Kind string
}

func (n named) label() (name, kind string) { return n.Name, n.Kind }

// runVectors runs every case of a file under its name with the function for its kind. A kind without a function and a function
// without a case both fail: each would be a check that silently does not happen.
func runVectors[V vector](t *testing.T, file string, kinds map[string]func(*testing.T, V)) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "vectors", file))
	require.NoError(t, err)
	var doc struct{ Cases []V }
	require.NoError(t, json.Unmarshal(raw, &doc))
	require.NotEmpty(t, doc.Cases, "%s has no cases", file)
	ran := map[string]int{}
	for _, c := range doc.Cases {
		name, kind := c.label()
		run, ok := kinds[kind]
		require.True(t, ok, "%s: case %s has the unknown kind %q", file, name, kind)
		ran[kind]++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, c)
		})
	}
	require.Len(t, ran, len(kinds), "%s lacks cases of a kind; it has %v", file, ran)
}

// requireClass checks an expectation of a vector: class "" is success.
func requireClass(t *testing.T, class string, err error) {
	t.Helper()
	if class == "" {
		require.NoError(t, err)
		return
	}
	require.ErrorIs(t, err, identity.Class(class))
	require.Equal(t, identity.Class(class), identity.ClassOf(err))
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func unhex32(t *testing.T, s string) [32]byte {
	t.Helper()
	b := unhex(t, s)
	require.Len(t, b, 32)
	return [32]byte(b)
}
