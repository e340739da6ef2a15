package identity

import (
	"crypto/rand"
	"net/url"
	"slices"
	"strings"
)

// The shape of the code behind which a version 2 invite hides.
const (
	// codeAlphabet leaves out what people take for something else: 0 and O, 1, l and I.
	codeAlphabet  = "23456789abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
	codeLength    = 8 // 46 bits; claims are limited by address
	minCodeLength = 6
	maxCodeLength = 16
)

// NewInviteCode returns the code of a new version 2 invite: 8 characters, easily told apart, from the system's random source. A code
// is a secret until it is used up.
func NewInviteCode() string {
	const limit = 256 / len(codeAlphabet) * len(codeAlphabet) // as in NewID
	code := make([]byte, 0, codeLength)
	var random [2 * codeLength]byte
	for {
		_, _ = rand.Read(random[:]) // never fails: it ends the process instead
		for _, b := range random {
			if int(b) >= limit {
				continue
			}
			if code = append(code, codeAlphabet[int(b)%len(codeAlphabet)]); len(code) == codeLength {
				return string(code)
			}
		}
	}
}

// A ShortLink is a version 2 invite as people pass it on. It prints as "[redacted]": who has the code can join.
type ShortLink struct {
	Code string // 6 to 16 letters and digits
	// Sites are the URLs below which the broker may be, without a slash at the end, best first; empty for a bare code.
	Sites []string
}

// ParseShortLink reads a version 2 invite, with white space around it or not (docs/formats.md, invite links):
//
//	https://<host>/i/<code>
//	https://<host>/<two-letter locale>/i/<code>
//	<code>
//
// http stays http. A path in front of /i/ is one below which the broker is mounted; the host's root is the last of the sites in any case. A
// query, a fragment and one slash at the end are ignored. Anything else is ClassMalformed; the error does not quote the link.
func ParseShortLink(s string) (ShortLink, error) {
	s = strings.TrimSpace(s)
	if !strings.ContainsAny(s, ":/") {
		if !isInviteCode(s) {
			return ShortLink{}, refuse(ClassMalformed, "neither a short invite link nor a code")
		}
		return ShortLink{Code: s}, nil
	}
	u, err := url.Parse(s)
	if err != nil { // not wrapped: it quotes the link
		return ShortLink{}, refuse(ClassMalformed, "the invite link is no URL")
	}
	path := strings.Split(strings.TrimPrefix(strings.TrimSuffix(u.EscapedPath(), "/"), "/"), "/")
	n := len(path) - 2
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || n < 0 || path[n] != "i" || !isInviteCode(path[n+1]) {
		return ShortLink{}, refuse(ClassMalformed, "not a short invite link")
	}
	l := ShortLink{Code: path[n+1]}
	prefix := path[:n]
	for _, segment := range prefix {
		if segment == "" || segment == "." || segment == ".." {
			return ShortLink{}, refuse(ClassMalformed, "not a short invite link")
		}
	}
	site := func(segments []string) {
		at := strings.TrimSuffix(u.Scheme+"://"+u.Host+"/"+strings.Join(segments, "/"), "/")
		if !slices.Contains(l.Sites, at) {
			l.Sites = append(l.Sites, at)
		}
	}
	if n == 0 || !isLocale(prefix[n-1]) {
		site(prefix)
	} else {
		site(prefix[:n-1]) // what looks like a locale is one, more often than the broker's place
		site(prefix)
	}
	site(nil)
	return l, nil
}

// FormatShortLink is the link of a version 2 invite at the broker whose socket is at brokerURL (ws:// or wss://): beside the socket. ClassMalformed
// for anything else.
func FormatShortLink(brokerURL, code string) (string, error) {
	u, err := url.Parse(brokerURL)
	if err != nil || u.Host == "" || u.Scheme != "ws" && u.Scheme != "wss" || !isInviteCode(code) {
		return "", refuse(ClassMalformed, "the broker's address is not ws://host/… or wss://host/…, or the code is none")
	}
	path := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(u.EscapedPath(), "/"), "/ws"), "/")
	return "http" + strings.TrimPrefix(u.Scheme, "ws") + "://" + u.Host + path + "/i/" + code, nil
}

func isInviteCode(s string) bool {
	if len(s) < minCodeLength || len(s) > maxCodeLength {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c == '_' || c == '-' || !isTokenChar(c) {
			return false
		}
	}
	return true
}
