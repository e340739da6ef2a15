package identity

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// StrictBase64 decodes standard base64 in its one spelling: the alphabet with "+" and "/", "=" padding, no white space or line
// breaks, unused trailing bits zero. So a value has one text, and comparing texts compares values. The empty text is no bytes.
// Anything else is ClassBadEncoding (docs/formats.md, encodings).
func StrictBase64(s string) ([]byte, error) {
	return strictDecode(base64.StdEncoding, s)
}

// StrictBase64URL is [StrictBase64] for base64url: the alphabet with "-" and "_", no padding.
func StrictBase64URL(s string) ([]byte, error) {
	return strictDecode(base64.RawURLEncoding, s)
}

func strictDecode(enc *base64.Encoding, s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") { // encoding/base64 skips these two even when strict
		return nil, refuse(ClassBadEncoding, "line break in base64")
	}
	b, err := enc.Strict().DecodeString(s)
	if err != nil {
		return nil, refuse(ClassBadEncoding, "base64: %w", err) // names an offset, not the text
	}
	return b, nil
}

// isHex reports whether s is exactly n hex digits of either case.
func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
			return false
		}
	}
	return true
}

// isLowerHex reports whether s is exactly n hex digits, none of them upper case.
func isLowerHex(s string, n int) bool {
	return isHex(s, n) && s == strings.ToLower(s)
}

// decodeHex decodes hex of either case that must hold n bytes: ClassBadHex, then ClassBadLength.
func decodeHex(s string, n int) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil, refuse(ClassBadHex, "want %d hex digits", 2*n) // not err: it quotes a digit, perhaps of a secret
	}
	if len(b) != n {
		return nil, refuse(ClassBadLength, "want %d bytes of hex, got %d", n, len(b))
	}
	return b, nil
}
