package topickey

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"

	"github.com/claudemesh/broker/identity"
)

// The versions of a message body.
const (
	V1 = 1 // base64 of the text; no secret
	V2 = 2 // secretbox under the topic key
)

// ZeroNonce is the nonce of version 1 bodies by older senders: base64 of 24 zero bytes. A version 1 nonce decrypts nothing, and
// readers accept any.
const ZeroNonce = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// EncodeV1 returns a version 1 body. The nonce is random, not [ZeroNonce], because receipts sign the nonce with the body: under a
// constant one, a receipt for one message would fit every other of the same text.
func EncodeV1(text string) (nonce, ciphertext string) {
	n, err := identity.NewNonce()
	if err != nil {
		panic(err) // cannot happen: the system's random source ends the process instead of failing
	}
	return base64.StdEncoding.EncodeToString(n[:]), base64.StdEncoding.EncodeToString([]byte(text))
}

// DecodeV1 returns the text of a version 1 body. It never fails, as older readers did not: both base64 alphabets, mixed too;
// decoding stops at the first "="; any other character is skipped; padding is not needed, and left-over bits are dropped. Bytes
// that are not UTF-8 become U+FFFD, one for each ill-formed sequence as in web browsers.
func DecodeV1(body string) string {
	return replaceIllFormed(decodeLenient(body))
}

func decodeLenient(body string) []byte {
	out := make([]byte, 0, len(body)/4*3+2)
	var bits uint32 // the low pending bits are those read and not yet written
	pending := 0
	for i := range len(body) {
		if body[i] == '=' {
			break
		}
		v, ok := sextet(body[i])
		if !ok {
			continue
		}
		bits, pending = bits<<6|v, pending+6
		if pending >= 8 {
			pending -= 8
			out = append(out, byte(bits>>pending))
		}
	}
	return out
}

// sextet returns the six bits that a character of either base64 alphabet stands for.
func sextet(c byte) (uint32, bool) {
	switch {
	case 'A' <= c && c <= 'Z':
		return uint32(c - 'A'), true
	case 'a' <= c && c <= 'z':
		return uint32(c-'a') + 26, true
	case '0' <= c && c <= '9':
		return uint32(c-'0') + 52, true
	case c == '+' || c == '-':
		return 62, true
	case c == '/' || c == '_':
		return 63, true
	}
	return 0, false
}

func replaceIllFormed(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var text strings.Builder
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r == utf8.RuneError && size == 1 {
			size = illFormed(b)
		}
		text.WriteRune(r)
		b = b[size:]
	}
	return text.String()
}

// illFormed returns how many bytes at the start of b one U+FFFD stands for: as many as begin some character (a "maximal
// subpart" of the Unicode standard), at least one. b does not start with a whole character.
func illFormed(b []byte) int {
	need, low, high := 0, byte(0x80), byte(0xBF) // continuation bytes that the first one calls for; bounds of the next one
	switch c := b[0]; {
	case 0xC2 <= c && c <= 0xDF:
		need = 1
	case 0xE0 <= c && c <= 0xEF:
		need = 2
	case 0xF0 <= c && c <= 0xF4:
		need = 3
	}
	switch b[0] { // the narrower bounds keep out overlong forms, surrogates and what lies above U+10FFFF
	case 0xE0:
		low = 0xA0
	case 0xED:
		high = 0x9F
	case 0xF0:
		low = 0x90
	case 0xF4:
		high = 0x8F
	}
	n := 1
	for n <= need && n < len(b) && low <= b[n] && b[n] <= high {
		n++
		low, high = 0x80, 0xBF
	}
	return n
}
