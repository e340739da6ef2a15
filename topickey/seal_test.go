package topickey_test

import (
	"encoding/base64"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/topickey"
)

type sealVector struct {
	named
	TopicKeyHex          string
	RecipientEdPublicHex string
	RecipientEdSecretHex string
	RecipientXPublicHex  string
	SenderXPublicHex     string
	SenderXSecretHex     *string
	SenderEdPublicHex    string
	SenderEdSecretHex    string
	NonceB64             string
	EncryptedKeyB64      string
	Reproducible         bool
	Expect               string
	Error                string
}

func TestSealVectors(t *testing.T) {
	t.Parallel()
	sound := func(t *testing.T, c sealVector) {
		require.Equal(t, "ok", c.Expect)
		recipient, err := identity.KeyPairFromSecretHex(c.RecipientEdSecretHex)
		require.NoError(t, err)
		sealed := topickey.Sealed{EncryptedKey: c.EncryptedKeyB64, Nonce: c.NonceB64}
		key, senderX, err := topickey.Open(sealed, recipient)
		require.NoError(t, err)
		require.Equal(t, c.TopicKeyHex, hex.EncodeToString(key[:]))
		blob, err := identity.StrictBase64(c.EncryptedKeyB64)
		require.NoError(t, err)
		require.Equal(t, blob[:32], senderX[:])
		prefix, err := topickey.CheckSealed(sealed)
		require.NoError(t, err)
		require.Equal(t, senderX, prefix)
		x, err := identity.PublicToX25519(c.RecipientEdPublicHex)
		require.NoError(t, err)
		require.Equal(t, c.RecipientXPublicHex, hex.EncodeToString(x[:]))
		if !c.Reproducible {
			return
		}
		require.NotNil(t, c.SenderXSecretHex)
		again, err := topickey.SealX25519(key, c.RecipientEdPublicHex,
			[32]byte(unhex(t, c.SenderXPublicHex)), [32]byte(unhex(t, *c.SenderXSecretHex)), nonceOf(t, c.NonceB64))
		require.NoError(t, err)
		require.Equal(t, sealed, again)
		if c.SenderEdSecretHex == "" {
			return
		}
		sender, err := identity.KeyPairFromSecretHex(c.SenderEdSecretHex)
		require.NoError(t, err)
		require.Equal(t, c.SenderEdPublicHex, sender.Public())
		again, err = topickey.SealNonce(key, c.RecipientEdPublicHex, sender, nonceOf(t, c.NonceB64))
		require.NoError(t, err)
		require.Equal(t, sealed, again)
	}
	runVectors(t, "topic_key_seal.json", map[string]func(*testing.T, sealVector){
		"creator_seal":  sound,
		"member_reseal": sound,
		"negative": func(t *testing.T, c sealVector) {
			require.NotEmpty(t, c.Error)
			recipient, err := identity.KeyPairFromSecretHex(c.RecipientEdSecretHex)
			require.NoError(t, err)
			sealed := topickey.Sealed{EncryptedKey: c.EncryptedKeyB64, Nonce: c.NonceB64}
			key, senderX, err := topickey.Open(sealed, recipient)
			requireClass(t, c.Error, err)
			require.Zero(t, [32]byte(key))
			require.Zero(t, senderX)
			if slices.Contains([]string{"bad_encoding", "too_short", "bad_nonce"}, c.Error) {
				_, err = topickey.CheckSealed(sealed)
				requireClass(t, c.Error, err)
			}
		},
	})
}

// The values of docs/formats.md, "Test values".
const (
	docNonce  = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
	docSealed = "GxtY3VDqFLYNoXt5DNAnVNlwybq4ZOuzwPMBb+UdP1feHbgjyr1i6lZGBv/N3cJs41n/gXhEisXojvlVUpEy4CqKB/93fgUQoBiqJfxwYjg="
	docBodyV2 = "TyCDGaThXw1rO35F91CcZ8RyKbpmQ9w="
	docBodyV1 = "aGkgQGJvYg=="
)

// docKey is bytes 20 to 3f.
func docKey() (k topickey.Key) {
	for i := range k {
		k[i] = byte(0x20 + i)
	}
	return k
}

func TestDocumentedTopicKey(t *testing.T) {
	t.Parallel()
	key, nonce := docKey(), nonceOf(t, docNonce)
	require.Equal(t, "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=", base64.StdEncoding.EncodeToString(key[:]))
	sealed, err := topickey.SealNonce(key, seedPair(t, 2).Public(), seedPair(t, 1), nonce)
	require.NoError(t, err)
	require.Equal(t, topickey.Sealed{EncryptedKey: docSealed, Nonce: docNonce}, sealed)
	n, body, err := topickey.SealV2Nonce("hi @bob", key, nonce)
	require.NoError(t, err)
	require.Equal(t, docNonce, n)
	require.Equal(t, docBodyV2, body)
	_, body = topickey.EncodeV1("hi @bob")
	require.Equal(t, docBodyV1, body)
	require.Equal(t, []string{"bob"}, topickey.MentionsV1(docBodyV1))
}

func TestSealsOpenForTheirRecipientOnly(t *testing.T) {
	t.Parallel()
	ana, bo, eve := seedPair(t, 1), seedPair(t, 2), seedPair(t, 3)
	key, err := topickey.NewKey()
	require.NoError(t, err)
	sealed, err := topickey.Seal(key, bo.Public(), ana)
	require.NoError(t, err)
	opened, senderX, err := topickey.Open(sealed, bo)
	require.NoError(t, err)
	require.Equal(t, [32]byte(key), [32]byte(opened))
	anaX, _ := ana.X25519()
	require.Equal(t, anaX, senderX)
	_, _, err = topickey.Open(sealed, eve)
	requireClass(t, "open_failed", err)

	fresh, senderHex, err := topickey.SealEphemeral(key, bo.Public())
	require.NoError(t, err)
	opened, senderX, err = topickey.Open(fresh, bo)
	require.NoError(t, err)
	require.Equal(t, [32]byte(key), [32]byte(opened))
	require.Equal(t, senderHex, hex.EncodeToString(senderX[:]))
	again, _, err := topickey.SealEphemeral(key, bo.Public())
	require.NoError(t, err)
	require.NotEqual(t, fresh, again)
}

func TestSealRefusesBadKeys(t *testing.T) {
	t.Parallel()
	bo := seedPair(t, 2)
	_, err := topickey.Seal(docKey(), "0100000000000000000000000000000000000000000000000000000000000000", bo)
	requireClass(t, "bad_recipient", err)
	require.ErrorIs(t, err, identity.ClassInvalidPoint)
	_, _, err = topickey.SealEphemeral(docKey(), "")
	requireClass(t, "bad_recipient", err)
	_, err = topickey.Seal(docKey(), bo.Public(), identity.KeyPair{})
	requireClass(t, "bad_key", err)
	_, _, err = topickey.Open(topickey.Sealed{EncryptedKey: docSealed, Nonce: docNonce}, identity.KeyPair{})
	requireClass(t, "bad_key", err)
}

func TestCheckSealedWantsEightyBytes(t *testing.T) {
	t.Parallel()
	for _, n := range []int{48, 79, 81, 96} {
		_, err := topickey.CheckSealed(topickey.Sealed{EncryptedKey: base64.StdEncoding.EncodeToString(make([]byte, n)), Nonce: docNonce})
		requireClass(t, "bad_key_length", err)
	}
	_, err := topickey.CheckSealed(topickey.Sealed{})
	requireClass(t, "too_short", err)
}
