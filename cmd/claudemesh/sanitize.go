package main

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// Names, summaries and bodies are written by strangers, and a terminal obeys what it is shown: escape sequences move the cursor and
// set titles, bidirectional marks reorder a line, a carriage return overwrites it. Everything that came from elsewhere passes
// through line or block before it is printed.

// line makes s safe as a part of one line of a terminal: no control or formatting character, no line break, valid UTF-8, at most one
// space at a time.
func line(s string) string {
	return strings.Join(strings.Fields(clean(s, false)), " ")
}

// block makes s safe as lines of a terminal. Its only control character is the line feed.
func block(s string) string {
	return strings.TrimRight(clean(s, true), "\n")
}

// name is line for a display name. One that could be taken for something else than a name is put into quotes.
func name(s string) string {
	s = line(s)
	s = strings.Map(func(r rune) rune {
		if r == joiner || r == nonJoiner { // they make two names that look alike
			return -1
		}
		return r
	}, s)
	if s == "" {
		return `""`
	}
	for _, r := range s {
		if !unicode.IsLetter(r) && !unicode.IsMark(r) && !unicode.IsNumber(r) && !strings.ContainsRune(" ._-'+", r) {
			return `"` + strings.ReplaceAll(s, `"`, "'") + `"`
		}
	}
	return s
}

const (
	nonJoiner = '\u200c'
	joiner    = '\u200d'
	escape    = '\x1b'
)

func clean(s string, lines bool) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if n := sequence(s[i:]); n > 0 {
			i += n
			continue
		}
		i += size
		switch {
		case r == '\r' && strings.HasPrefix(s[i:], "\n"):
		case r == '\n', r == '\r', r == '\v', r == '\f', r == '\u0085', r == '\u2028', r == '\u2029':
			if lines {
				b.WriteByte('\n')
			} else {
				b.WriteByte(' ')
			}
		case r == '\t':
			if lines {
				b.WriteString("    ")
			} else {
				b.WriteByte(' ')
			}
		case hostile(r):
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// hostile reports whether a terminal or a reader's eye could be led astray by r: control characters, and formatting characters but
// for the two joiners that scripts and emoji need.
func hostile(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) && r != joiner && r != nonJoiner ||
		unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) || unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r)
}

// sequence returns the length of the complete escape sequence that s begins with, 0 for none. One that does not end would swallow
// the text behind it, so only its first character is dropped, as any control character.
func sequence(s string) int {
	kind, at := byte(0), 0
	switch {
	case len(s) >= 2 && s[0] == escape:
		kind, at = s[1], 2
	case len(s) >= 2 && s[0] == 0xc2 && s[1] >= 0x80 && s[1] < 0xa0: // C1 controls in UTF-8: each is ESC and a letter
		kind, at = s[1]-0x40, 2
	default:
		return 0
	}
	switch {
	case kind == '[': // CSI: parameters, intermediates, one final byte
		for ; at < len(s); at++ {
			if c := s[at]; c >= 0x40 && c <= 0x7e {
				return at + 1
			} else if c < 0x20 || c > 0x3f {
				return 0
			}
		}
		return 0
	case strings.IndexByte("]PX^_", kind) >= 0: // OSC, DCS, SOS, PM, APC: up to BEL or ST
		for ; at < len(s); at++ {
			switch {
			case s[at] == '\a':
				return at + 1
			case strings.HasPrefix(s[at:], "\x1b\\"), strings.HasPrefix(s[at:], "\u009c"):
				return at + 2
			case s[at] == '\n':
				return 0
			}
		}
		return 0
	case s[0] != escape: // another C1 control
		return 0
	default:
		for at = 1; at < len(s); at++ {
			switch c := s[at]; {
			case c >= 0x20 && c <= 0x2f:
			case c >= 0x30 && c <= 0x7e:
				return at + 1
			default:
				return 0
			}
		}
		return 0
	}
}

// columns is how many columns s takes on a terminal. s is clean.
func columns(s string) int {
	n := 0
	for _, r := range s {
		n += runeColumns(r)
	}
	return n
}

func runeColumns(r rune) int {
	switch {
	case r == joiner || r == nonJoiner || unicode.Is(unicode.Mn, r) || unicode.Is(unicode.Me, r):
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// cut shortens s to at most limit columns, the last of them an ellipsis.
func cut(s string, limit int) string {
	if columns(s) <= limit {
		return s
	}
	n := 0
	for i, r := range s {
		if n += runeColumns(r); n > limit-1 {
			return s[:i] + "…"
		}
	}
	return s
}
