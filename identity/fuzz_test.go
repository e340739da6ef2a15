package identity_test

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

// What is accepted has one spelling.
func FuzzStrictBase64(f *testing.F) {
	for _, s := range []string{"", "AA==", "AB==", "AAAA\n", "-_-_", "AA", docNonce, docCiphertext} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if b, err := identity.StrictBase64(s); err == nil {
			require.Equal(t, s, base64.StdEncoding.EncodeToString(b))
		} else {
			require.Equal(t, identity.ClassBadEncoding, identity.ClassOf(err))
		}
		if b, err := identity.StrictBase64URL(s); err == nil {
			require.Equal(t, s, base64.RawURLEncoding.EncodeToString(b))
		}
	})
}

// A number reads back as itself, in the shape that JavaScript writes.
func FuzzFormatNumber(f *testing.F) {
	for _, n := range []float64{0, 1.5, 1e21, 1e-7, 1e20, 0.000001, 5e-324, math.MaxFloat64, math.NaN(), math.Inf(-1)} {
		f.Add(math.Float64bits(n))
	}
	f.Fuzz(func(t *testing.T, bits uint64) {
		n := math.Float64frombits(bits)
		text := identity.FormatNumber(n)
		if math.IsNaN(n) || math.IsInf(n, 0) {
			return
		}
		back, err := strconv.ParseFloat(text, 64)
		require.NoError(t, err)
		require.True(t, back == n, "%s is not %v", text, n)
		abs := math.Abs(n)
		require.Equal(t, n != 0 && (abs >= 1e21 || abs < 1e-6), strings.Contains(text, "e"), text)
		require.NotRegexp(t, `e[+-]0|e\d|\.0*$|^-0$`, text)
	})
}

// Exactly JSON is accepted, the result is JSON of the same value, and a second trip changes nothing.
func FuzzCanonicalJSON(f *testing.F) {
	for _, s := range []string{
		`{}`, `[1,"2",null,true,[],{}]`, `{"b":1,"a":{"d":[1e21,-0],"c":"\ud83d"}}`, `{"a":1,"a":2}`, `"\u0000\ud83d\ude00<"`, `1e999`, ` 01`, "\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := identity.CanonicalJSON(raw)
		if err != nil {
			if identity.ClassOf(err) == identity.ClassBadUTF8 {
				require.False(t, utf8.Valid(raw))
			} else if !strings.Contains(err.Error(), "nested deeper") {
				require.False(t, json.Valid(raw), "refused JSON: %v", err)
			}
			return
		}
		require.True(t, json.Valid(raw))
		require.True(t, json.Valid(got))
		again, err := identity.CanonicalJSON(got)
		require.NoError(t, err)
		require.Equal(t, string(got), string(again))
		var before, after any
		if json.Unmarshal(raw, &before) == nil { // it refuses numbers beyond the range of doubles
			require.NoError(t, json.Unmarshal(got, &after))
			if !strings.Contains(string(raw), `\u`) { // lone surrogates: different names may become one there
				require.Equal(t, before, after)
			}
		}
	})
}

// A text is written as CanonicalJSON writes it, however it was escaped before, and a second trip changes nothing.
func FuzzAppendCanonicalText(f *testing.F) {
	for _, s := range []string{"", "plain", "a\"b\\c", "\x00\x1f\x7f\u0080\u2028", "<>&", "\xff\xed\xa0\x80", "\U0001f98a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := identity.AppendCanonicalText(nil, s)
		require.Equal(t, canonical(t, s), string(got))
		again, err := identity.CanonicalJSON(got)
		require.NoError(t, err)
		require.Equal(t, string(got), string(again))
		var back string
		require.NoError(t, json.Unmarshal(got, &back))
		require.Equal(t, string([]rune(s)), back, "bytes that are not UTF-8 become U+FFFD")
	})
}

// What is accepted comes back from its own token.
func FuzzParseInviteToken(f *testing.F) {
	f.Add(goodInvite(f).Token())
	for _, s := range []string{`{}`, `{"v":1.5,"mesh_slug":"\ud83d\ude00","role":"\u0000"}`, `{"v":-0}`, `{"role":"a","Role":"b"}`, `[]`} {
		f.Add(token(s))
	}
	f.Fuzz(func(t *testing.T, s string) {
		i, err := identity.ParseInviteToken(s)
		if err != nil {
			require.NotEmpty(t, identity.ClassOf(err))
			return
		}
		again, err := identity.ParseInviteToken(i.Token())
		require.NoError(t, err)
		require.Equal(t, i, again)
		require.Equal(t, i.Text(), again.Text())
		require.Error(t, i.Verify(testNow.AddDate(1000, 0, 0)), "nothing is good for ever, or signed by chance")
	})
}

// What is found in a link is a token, and is found in every form of link made from it.
func FuzzParseInviteLink(f *testing.F) {
	for _, s := range []string{"ic://join/abc", "https://h/join/abc", "https://h/en/join/abc?x#y", strings.Repeat("a", 21), "https://h/join/%2e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		found, err := identity.ParseInviteLink(s)
		if err != nil {
			require.Equal(t, identity.ClassMalformed, identity.ClassOf(err))
			return
		}
		require.Regexp(t, `^[A-Za-z0-9_-]+$`, found)
		for _, link := range []string{"ic://join/", "https://h/join/", "https://h/fr/join/"} {
			again, err := identity.ParseInviteLink(link + found)
			require.NoError(t, err)
			require.Equal(t, found, again)
		}
	})
}

// A box opens as it was sealed and in no other way.
func FuzzOpenDirect(f *testing.F) {
	f.Add(docNonce, docCiphertext)
	f.Add("", "")
	f.Add(docNonce, "AAAAAAAAAAAAAAAAAAAAAA==")
	recipient := seedPair(f, 2)
	f.Fuzz(func(t *testing.T, nonce, ciphertext string) {
		text, err := identity.OpenDirect(nonce, ciphertext, publicA, recipient)
		if nonce == docNonce && ciphertext == docCiphertext {
			require.NoError(t, err)
			require.Equal(t, "hello, mesh", text)
			return
		}
		require.NotEmpty(t, identity.ClassOf(err), "opened altered bytes")
	})
}

// A key that is accepted is the canonical text of a point that boxes can be made for; no text of small order verifies.
func FuzzCheckPublic(f *testing.F) {
	for _, s := range []string{publicA, publicB, smallOrderKey, strings.Repeat("0", 64), strings.ToUpper(publicO), "xx"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		err := identity.CheckPublic(s)
		x, converted := identity.PublicToX25519(s)
		require.Equal(t, err == nil, converted == nil)
		if err != nil {
			require.Contains(t, []identity.Class{identity.ClassBadHex, identity.ClassBadLength, identity.ClassInvalidPoint}, identity.ClassOf(err))
			return
		}
		_, secret := seedPair(t, 1).X25519()
		_, err = identity.SharedKey(x, secret)
		require.NoError(t, err)
		requireClass(t, "bad_signature", identity.Verify(s, "text", publicA+strings.Repeat("00", 32)))
	})
}
