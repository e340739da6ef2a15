package identity_test

import (
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/curve25519"

	"github.com/claudemesh/broker/identity"
)

type keyVector struct {
	named
	EdSeedHex   string
	EdPublicHex string
	EdSecretHex string
	XPublicHex  string
	XSecretHex  string
	Error       string
}

func TestKeyVectors(t *testing.T) {
	t.Parallel()
	runVectors(t, "keys.json", map[string]func(*testing.T, keyVector){
		"keypair": func(t *testing.T, c keyVector) {
			fromSeed, err := identity.KeyPairFromSeed(unhex(t, c.EdSeedHex))
			require.NoError(t, err)
			fromHex, err := identity.KeyPairFromSeedHex(c.EdSeedHex)
			require.NoError(t, err)
			fromSecret, err := identity.KeyPairFromSecretHex(c.EdSecretHex)
			require.NoError(t, err)
			for _, k := range []identity.KeyPair{fromSeed, fromHex, fromSecret} {
				require.Equal(t, c.EdPublicHex, k.Public())
				require.Equal(t, unhex32(t, c.EdPublicHex), k.PublicBytes())
				require.Equal(t, c.EdSecretHex, k.SecretHex())
				require.Equal(t, c.EdSeedHex, k.SeedHex())
				public, secret := k.X25519()
				require.Equal(t, c.XPublicHex, hex.EncodeToString(public[:]))
				require.Equal(t, c.XSecretHex, hex.EncodeToString(secret[:]))
			}
			require.NoError(t, identity.CheckPublic(c.EdPublicHex))
			public, err := identity.PublicToX25519(c.EdPublicHex)
			require.NoError(t, err)
			require.Equal(t, c.XPublicHex, hex.EncodeToString(public[:]))
			secret, err := identity.SecretToX25519(c.EdSecretHex)
			require.NoError(t, err)
			require.Equal(t, c.XSecretHex, hex.EncodeToString(secret[:]))
			product, err := curve25519.X25519(secret[:], curve25519.Basepoint)
			require.NoError(t, err)
			require.Equal(t, c.XPublicHex, hex.EncodeToString(product))
		},
		"public_conversion": func(t *testing.T, c keyVector) {
			public, err := identity.PublicToX25519(c.EdPublicHex)
			requireClass(t, c.Error, err)
			requireClass(t, c.Error, identity.CheckPublic(c.EdPublicHex))
			if c.Error == "" {
				require.Equal(t, c.XPublicHex, hex.EncodeToString(public[:]))
			}
		},
		"secret_conversion": func(t *testing.T, c keyVector) {
			secret, err := identity.SecretToX25519(c.EdSecretHex)
			requireClass(t, c.Error, err)
			if c.Error == "" {
				require.Equal(t, c.XSecretHex, hex.EncodeToString(secret[:]))
			}
		},
	})
}
