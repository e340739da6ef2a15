package topickey

import (
	"slices"
	"strings"
)

const (
	// MaxMentions is how many names are taken from one message.
	MaxMentions = 16
	// MaxMention is the length of the longest name that can be mentioned.
	MaxMention = 64
)

// Mentions returns the names that a text mentions: lower-cased, each once, in order of first appearance, at most [MaxMentions].
// A mention is "@" and a run of 1 to [MaxMention] characters of [A-Za-z0-9_-], a longer run being none, where the "@" does not
// follow such a character: "x@y.z" mentions nobody, and "@a@b" only a. None is nil.
func Mentions(text string) []string {
	var found []string
	// Byte by byte: every byte of a character beyond ASCII is outside the class, as the character is.
	for at := 0; at < len(text) && len(found) < MaxMentions; {
		start := at
		for at < len(text) && isNameChar(text[at]) {
			at++
		}
		name := text[start:at]
		at++ // whatever ended the run
		if name == "" || len(name) > MaxMention || start == 0 || text[start-1] != '@' {
			continue
		}
		if start >= 2 && isNameChar(text[start-2]) {
			continue
		}
		if name = strings.ToLower(name); !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	return found
}

// MentionsV1 returns the names that a version 1 body mentions: [Mentions] of [DecodeV1].
func MentionsV1(body string) []string {
	return Mentions(DecodeV1(body))
}

func isNameChar(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}
