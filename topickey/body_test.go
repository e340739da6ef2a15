package topickey_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/topickey"
)

type bodyVector struct {
	named
	TopicKeyHex   string
	Plaintext     string
	NonceB64      string
	CiphertextB64 string
	Error         string
}

func TestBodyV2Vectors(t *testing.T) {
	t.Parallel()
	runVectors(t, "message_v2.json", map[string]func(*testing.T, bodyVector){
		"roundtrip": func(t *testing.T, c bodyVector) {
			key, err := topickey.KeyFromBytes(unhex(t, c.TopicKeyHex))
			require.NoError(t, err)
			text, err := topickey.OpenV2(c.NonceB64, c.CiphertextB64, key)
			require.NoError(t, err)
			require.Equal(t, c.Plaintext, text)
			nonce, ciphertext, err := topickey.SealV2Nonce(c.Plaintext, key, nonceOf(t, c.NonceB64))
			require.NoError(t, err)
			require.Equal(t, c.NonceB64, nonce)
			require.Equal(t, c.CiphertextB64, ciphertext)
		},
		"negative": func(t *testing.T, c bodyVector) {
			require.NotEmpty(t, c.Error)
			key, err := topickey.KeyFromBytes(unhex(t, c.TopicKeyHex))
			if err != nil {
				requireClass(t, c.Error, err)
				return
			}
			_, err = topickey.OpenV2(c.NonceB64, c.CiphertextB64, key)
			requireClass(t, c.Error, err)
		},
	})
}

func TestSealV2UsesFreshNonces(t *testing.T) {
	t.Parallel()
	nonce, ciphertext, err := topickey.SealV2("hi", docKey())
	require.NoError(t, err)
	text, err := topickey.OpenV2(nonce, ciphertext, docKey())
	require.NoError(t, err)
	require.Equal(t, "hi", text)
	again, _, err := topickey.SealV2("hi", docKey())
	require.NoError(t, err)
	require.NotEqual(t, nonce, again)
	_, _, err = topickey.SealV2("\xff", docKey())
	requireClass(t, "bad_utf8", err)
}

func TestEncodeV1UsesFreshNonces(t *testing.T) {
	t.Parallel()
	nonce, body := topickey.EncodeV1("grüße")
	require.Equal(t, "grüße", topickey.DecodeV1(body))
	again, _ := topickey.EncodeV1("grüße")
	require.NotEqual(t, nonce, again)
	require.NotEqual(t, topickey.ZeroNonce, nonce)
	require.Equal(t, [24]byte{}, nonceOf(t, topickey.ZeroNonce))
}

// What browsers make of these bytes, by the Unicode standard's practice for ill-formed sequences.
func TestDecodeV1ReplacesIllFormedText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/w==":     "\ufffd",
		"4oI=":     "\ufffd",             // e2 82: a character cut short is one
		"4oJB":     "\ufffdA",            // e2 82 41
		"8J+Y":     "\ufffd",             // f0 9f 98
		"7aCA":     "\ufffd\ufffd\ufffd", // ed a0 80: a surrogate is three
		"wIA=":     "\ufffd\ufffd",       // c0 80: overlong
		"9JCAgA==": "\ufffd\ufffd\ufffd\ufffd",
		"77u/eA==": "\ufeffx", // a byte order mark stays
	} {
		require.Equal(t, want, topickey.DecodeV1(in), in)
	}
}
