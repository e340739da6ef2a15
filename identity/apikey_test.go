package identity_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

type apiKeyVector struct {
	named
	BytesHex  string
	Secret    string
	Prefix    string
	Hash      string
	Stored    struct{ Prefix, Hash string }
	Presented string
	Match     *bool
}

func TestAPIKeyVectors(t *testing.T) {
	t.Parallel()
	runVectors(t, "api_keys.json", map[string]func(*testing.T, apiKeyVector){
		"mint": func(t *testing.T, c apiKeyVector) {
			secret, prefix, hash := identity.APIKeyFromBytes(unhex32(t, c.BytesHex))
			require.Equal(t, []string{c.Secret, c.Prefix, c.Hash}, []string{secret, prefix, hash})
			require.Equal(t, c.Hash, identity.APIKeyHash(c.Secret))
			prefix, ok := identity.APIKeyPrefix(c.Secret)
			require.True(t, ok)
			require.Equal(t, c.Prefix, prefix)
			require.True(t, identity.MatchAPIKey(secret, prefix, hash))
		},
		"verify": func(t *testing.T, c apiKeyVector) {
			require.NotNil(t, c.Match)
			require.Equal(t, *c.Match, identity.MatchAPIKey(c.Presented, c.Stored.Prefix, c.Stored.Hash))
		},
	})
}

func TestNewAPIKeyMatchesItself(t *testing.T) {
	t.Parallel()
	secret, prefix, hash, err := identity.NewAPIKey()
	require.NoError(t, err)
	require.Len(t, secret, 46)
	require.Len(t, prefix, 11)
	require.Len(t, hash, 64)
	require.True(t, identity.MatchAPIKey(secret, prefix, hash))
	require.False(t, identity.MatchAPIKey(secret, prefix, hash[:62]), "a hash that was cut in the store")
	require.False(t, identity.MatchAPIKey(secret, prefix, "zz"+hash[2:]))
	other, _, _, err := identity.NewAPIKey()
	require.NoError(t, err)
	require.NotEqual(t, secret, other)
}
