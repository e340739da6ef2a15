package wire

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of names and texts; docs/protocol.md, limits.
const (
	MaxDisplayName   = 128  // characters, after trimming
	MaxSessionID     = 256  // characters
	MaxCwd           = 4096 // characters
	MaxHostname      = 255  // characters
	MaxLabel         = 128  // characters: channel, model, API-key label
	MaxGroupName     = 128  // characters of a whole group name
	MaxGroupSegments = 8
	MaxGroupSegment  = 64   // characters
	MaxGroups        = 64   // groups of one session
	MaxTopicScopes   = 200  // topics of one API key
	MaxSummary       = 2000 // characters
	MaxTopicName     = 64   // characters
	MaxDescription   = 512  // characters
	MaxMentions      = 16
	MaxClientID      = 128 // characters of client_message_id
	MaxBatchAcks     = 1024
)

// CleanText reports whether s is text that every store and terminal can hold: valid UTF-8 without NUL.
func CleanText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// DisplayName trims name and checks it: 1 to 128 characters, no control characters.
func DisplayName(name string) (string, bool) {
	name = strings.TrimSpace(name)
	return name, name != "" && Chars(name) <= MaxDisplayName && CleanText(name) && !hasControl(name)
}

// GroupName strips one leading @ and checks the rest: 1 to 8 segments joined by /, each of 1 to 64 characters, without control
// characters and without white space at its ends, not starting with @ or #; at most 128 characters together; not "all".
func GroupName(name string) (string, bool) {
	name = strings.TrimPrefix(name, "@")
	if name == "" || name == "all" || Chars(name) > MaxGroupName || !CleanText(name) || hasControl(name) {
		return "", false
	}
	segments := strings.Split(name, "/")
	if len(segments) > MaxGroupSegments {
		return "", false
	}
	for _, s := range segments {
		if s == "" || Chars(s) > MaxGroupSegment || s != strings.TrimSpace(s) || s[0] == '@' || s[0] == '#' {
			return "", false
		}
	}
	return name, true
}

// InGroup reports whether a session in group have is addressed by group want: the same group or one above it.
func InGroup(have, want string) bool {
	return have == want || len(have) > len(want) && have[len(want)] == '/' && have[:len(want)] == want
}

// TopicName trims name and checks it: 1 to 64 characters, no leading #, no control characters, and not "." or "..", which no URL path can hold.
func TopicName(name string) (string, bool) {
	name = strings.TrimSpace(name)
	ok := name != "" && name != "." && name != ".." && name[0] != '#' && Chars(name) <= MaxTopicName && CleanText(name) && !hasControl(name)
	return name, ok
}

// IsKey reports whether s has the shape of a public key: 64 hex digits of either case.
func IsKey(s string) bool { return len(s) == 64 && isHex(s) }

// IsLowerKey reports whether s is 64 lower-case hex digits, the only form in which session keys are accepted.
func IsLowerKey(s string) bool { return len(s) == 64 && isHex(s) && s == strings.ToLower(s) }

// IsID reports whether s may be an entity id inside a signed text: 1 to 64 characters of [0-9A-Za-z_-], so that no separator
// can shift a field.
func IsID(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	return isToken(s)
}

// LooksLikeID reports whether s can be told from a topic name as an id: 20 characters or more of [0-9A-Za-z_-].
func LooksLikeID(s string) bool { return len(s) >= 20 && len(s) <= 64 && isToken(s) }

// IsMessageID reports whether s is a message id or a prefix that message_status accepts: 8 to 32 letters and digits.
func IsMessageID(s string) bool {
	return len(s) >= 8 && len(s) <= 32 && isToken(s) && !strings.ContainsAny(s, "_-")
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

func isHex(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

func hasControl(s string) bool { return strings.IndexFunc(s, unicode.IsControl) >= 0 }
