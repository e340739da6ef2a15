package topickey_test

import (
	"encoding/base64"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/topickey"
)

// A copy opens as it was sealed and in no other way but one: the top bit of the sealer's key, which X25519 ignores.
func FuzzOpen(f *testing.F) {
	f.Add(docSealed, docNonce)
	f.Add("", "")
	f.Add(base64.StdEncoding.EncodeToString(make([]byte, 80)), topickey.ZeroNonce)
	recipient := seedPair(f, 2)
	want := docKey()
	f.Fuzz(func(t *testing.T, encryptedKey, nonce string) {
		sealed := topickey.Sealed{EncryptedKey: encryptedKey, Nonce: nonce}
		key, senderX, err := topickey.Open(sealed, recipient)
		prefix, shape := topickey.CheckSealed(sealed)
		if err != nil {
			require.NotEmpty(t, identity.ClassOf(err))
			require.False(t, encryptedKey == docSealed && nonce == docNonce)
			return
		}
		require.NoError(t, shape)
		require.Equal(t, prefix, senderX)
		require.Equal(t, [32]byte(want), [32]byte(key), "opened altered bytes")
		require.Equal(t, docNonce, nonce)
		blob, err := identity.StrictBase64(encryptedKey)
		require.NoError(t, err)
		blob[31] &= 0x7f
		require.Equal(t, docSealed, base64.StdEncoding.EncodeToString(blob))
	})
}

// A body opens as it was sealed and in no other way.
func FuzzOpenV2(f *testing.F) {
	f.Add(docNonce, docBodyV2)
	f.Add("", "")
	f.Add(docNonce, "AAAAAAAAAAAAAAAAAAAAAA==")
	f.Fuzz(func(t *testing.T, nonce, ciphertext string) {
		text, err := topickey.OpenV2(nonce, ciphertext, docKey())
		if nonce == docNonce && ciphertext == docBodyV2 {
			require.NoError(t, err)
			require.Equal(t, "hi @bob", text)
			return
		}
		require.NotEmpty(t, identity.ClassOf(err), "opened altered bytes")
	})
}

// A sealed text comes back; text that is not UTF-8 is refused.
func FuzzSealV2(f *testing.F) {
	f.Add("")
	f.Add("hi @bob")
	f.Add("\xff")
	f.Fuzz(func(t *testing.T, text string) {
		nonce, ciphertext, err := topickey.SealV2(text, docKey())
		require.Equal(t, utf8.ValidString(text), err == nil)
		if err != nil {
			return
		}
		opened, err := topickey.OpenV2(nonce, ciphertext, docKey())
		require.NoError(t, err)
		require.Equal(t, text, opened)
	})
}

// Decoding always gives UTF-8, agrees with strict decoding where that succeeds, and undoes encoding.
func FuzzDecodeV1(f *testing.F) {
	for _, s := range []string{"", docBodyV1, "!!!!", "w7vDv0B1cmZla250bSA_Pz8", "QHVy\nZm==QQ", "/w==", "7aCA"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		text := topickey.DecodeV1(body)
		require.True(t, utf8.ValidString(text))
		if b, err := identity.StrictBase64(body); err == nil && utf8.Valid(b) {
			require.Equal(t, string(b), text)
		}
		_, again := topickey.EncodeV1(text)
		require.Equal(t, text, topickey.DecodeV1(again))
	})
}

var mentionGrammar = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

// Every name found is in the grammar, once, and stands in the text behind an "@" that follows no name character; a plain
// search with the rule written as a regular expression finds the same names.
func FuzzMentions(f *testing.F) {
	for _, s := range []string{"hi @Ada", "@a@b", "@@a", "x@y.z", "@" + strings.Repeat("a", 65), "é@a\xff", "@a @A @b"} {
		f.Add(s)
	}
	run := regexp.MustCompile(`@[A-Za-z0-9_-]+`)
	f.Fuzz(func(t *testing.T, text string) {
		found := topickey.Mentions(text)
		require.LessOrEqual(t, len(found), topickey.MaxMentions)
		var want []string
		seen := map[string]bool{}
		for _, at := range run.FindAllStringIndex(text, -1) {
			name := strings.ToLower(text[at[0]+1 : at[1]])
			before := at[0] > 0 && regexp.MustCompile(`[A-Za-z0-9_-]`).MatchString(text[at[0]-1:at[0]])
			if before || !mentionGrammar.MatchString(name) || seen[name] || len(want) == topickey.MaxMentions {
				continue
			}
			seen[name] = true
			want = append(want, name)
		}
		require.Equal(t, want, found)
	})
}
