package identity

import (
	"net/url"
	"strings"
)

// minBareToken is the length of the shortest text without a link around it that is taken for a token.
const minBareToken = 21

// ParseInviteLink finds the token in an invite as people pass it on, with white space around it or not (docs/formats.md, invite
// links):
//
//	ic://join/<token>
//	https://<host>/join/<token>
//	https://<host>/<two-letter locale>/join/<token>
//	<token>                                           more than 20 characters
//
// http is taken as https, and a query, a fragment and one slash at the end are ignored. Anything else is ClassMalformed. The
// error does not quote the link, which holds the root key.
func ParseInviteLink(s string) (token string, err error) {
	s = strings.TrimSpace(s)
	if !strings.Contains(s, ":") {
		if len(s) < minBareToken || !isToken(s) {
			return "", refuse(ClassMalformed, "neither an invite link nor a token")
		}
		return s, nil
	}
	u, err := url.Parse(s)
	if err != nil { // not wrapped: it quotes the link
		return "", refuse(ClassMalformed, "the invite link is no URL")
	}
	path := strings.Split(strings.TrimPrefix(strings.TrimSuffix(u.EscapedPath(), "/"), "/"), "/")
	switch u.Scheme {
	case "ic":
		path = append([]string{u.Host}, path...)
	case "http", "https":
		if len(path) == 3 && isLocale(path[0]) {
			path = path[1:]
		}
		if u.Host == "" {
			path = nil
		}
	default:
		path = nil
	}
	if len(path) != 2 || path[0] != "join" || !isToken(path[1]) {
		return "", refuse(ClassMalformed, "not an invite link")
	}
	return path[1], nil
}

func isToken(s string) bool {
	for i := range len(s) {
		if !isTokenChar(s[i]) {
			return false
		}
	}
	return s != ""
}

func isLocale(s string) bool {
	if len(s) != 2 {
		return false
	}
	for i := range len(s) {
		if c := s[i] | 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return true
}
