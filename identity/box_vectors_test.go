package identity_test

import (
	"encoding/base64"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

type directVector struct {
	named
	Plaintext            string
	SenderEdPublicHex    string
	SenderEdSecretHex    string
	RecipientEdPublicHex string
	RecipientEdSecretHex string
	NonceB64             string
	CiphertextB64        string
	Error                string
}

func TestDirectVectors(t *testing.T) {
	t.Parallel()
	runVectors(t, "direct_box.json", map[string]func(*testing.T, directVector){
		"roundtrip": func(t *testing.T, c directVector) {
			sender, err := identity.KeyPairFromSecretHex(c.SenderEdSecretHex)
			require.NoError(t, err)
			recipient, err := identity.KeyPairFromSecretHex(c.RecipientEdSecretHex)
			require.NoError(t, err)
			text, err := identity.OpenDirect(c.NonceB64, c.CiphertextB64, c.SenderEdPublicHex, recipient)
			require.NoError(t, err)
			require.Equal(t, c.Plaintext, text)
			nonce, err := identity.StrictBase64(c.NonceB64)
			require.NoError(t, err)
			n, ciphertext, err := identity.SealDirectNonce(c.Plaintext, c.RecipientEdPublicHex, sender, [24]byte(nonce))
			require.NoError(t, err)
			require.Equal(t, c.NonceB64, n)
			require.Equal(t, c.CiphertextB64, ciphertext)
		},
		"negative": func(t *testing.T, c directVector) {
			require.NotEmpty(t, c.Error)
			recipient, err := identity.KeyPairFromSecretHex(c.RecipientEdSecretHex)
			if err != nil { // no key pair to pass on: the zero one stands for it
				require.True(t, recipient.IsZero())
				require.Equal(t, "bad_key", c.Error)
			}
			_, err = identity.OpenDirect(c.NonceB64, c.CiphertextB64, c.SenderEdPublicHex, recipient)
			requireClass(t, c.Error, err)
		},
	})
}

type rootKeyVector struct {
	named
	RootKeyHex             string
	RootKeyB64url          string
	RecipientXPublicHex    string
	RecipientXPublicB64url string
	RecipientXSecretHex    string
	EphemeralXPublicHex    string
	EphemeralXSecretHex    string
	SealedB64url           string
	Error                  string
}

func TestRootKeyVectors(t *testing.T) {
	t.Parallel()
	runVectors(t, "sealed_root_key.json", map[string]func(*testing.T, rootKeyVector){
		"open": func(t *testing.T, c rootKeyVector) {
			public, secret := unhex32(t, c.RecipientXPublicHex), unhex32(t, c.RecipientXSecretHex)
			rootKey, err := identity.OpenRootKey(c.SealedB64url, public, secret)
			requireClass(t, c.Error, err)
			if c.Error != "" {
				return
			}
			require.Equal(t, c.RootKeyB64url, rootKey)
			raw, err := identity.StrictBase64URL(rootKey)
			require.NoError(t, err)
			require.Equal(t, c.RootKeyHex, hex.EncodeToString(raw))
			recipient := base64.RawURLEncoding.EncodeToString(public[:])
			require.Equal(t, c.RecipientXPublicB64url, recipient)
			if c.EphemeralXSecretHex != "" {
				sealed, err := identity.SealRootKeyWith(c.RootKeyB64url, recipient,
					unhex32(t, c.EphemeralXPublicHex), unhex32(t, c.EphemeralXSecretHex))
				require.NoError(t, err)
				require.Equal(t, c.SealedB64url, sealed)
			}
			requireRootKeyRoundTrip(t, c.RootKeyB64url, recipient, public, secret)
		},
		"seal": func(t *testing.T, c rootKeyVector) {
			if c.Error != "" {
				_, err := identity.SealRootKey(c.RootKeyB64url, c.RecipientXPublicB64url)
				requireClass(t, c.Error, err)
				return
			}
			public, err := identity.StrictBase64URL(c.RecipientXPublicB64url)
			require.NoError(t, err)
			requireRootKeyRoundTrip(t, c.RootKeyB64url, c.RecipientXPublicB64url, [32]byte(public), unhex32(t, c.RecipientXSecretHex))
		},
	})
}

func requireRootKeyRoundTrip(t *testing.T, rootKey, recipient string, public, secret [32]byte) {
	t.Helper()
	sealed, err := identity.SealRootKey(rootKey, recipient)
	require.NoError(t, err)
	raw, err := identity.StrictBase64URL(sealed)
	require.NoError(t, err)
	require.Len(t, raw, 80)
	opened, err := identity.OpenRootKey(sealed, public, secret)
	require.NoError(t, err)
	require.Equal(t, rootKey, opened)
}
