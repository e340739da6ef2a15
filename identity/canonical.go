package identity

import (
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// CanonicalJSON rewrites a JSON text in the one form that is hashed (docs/formats.md, canonical JSON): no white space; the
// members of every object sorted by the UTF-16 code units of their names, a repeated name keeping its last value; strings as
// JSON.stringify writes them, which escapes only the quote, the backslash, U+0000 to U+001F and lone surrogates; numbers read
// as doubles and written by [FormatNumber], those beyond the range of doubles as null.
//
// Any value may stand at the top. A text that is not UTF-8 is ClassBadUTF8; one that is not JSON, or nests more than 1000
// deep, ClassMalformed.
func CanonicalJSON(raw []byte) ([]byte, error) {
	v, err := parseJSON(raw)
	if err != nil {
		return nil, err
	}
	return appendCanonical(make([]byte, 0, len(raw)), v), nil
}

func appendCanonical(out []byte, v jsonValue) []byte {
	switch v.kind {
	case jsonTrue:
		return append(out, "true"...)
	case jsonFalse:
		return append(out, "false"...)
	case jsonNumber:
		return appendNumber(out, v.number)
	case jsonString:
		return appendString(out, v.text)
	case jsonArray:
		out = append(out, '[')
		for i, item := range v.items {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendCanonical(out, item)
		}
		return append(out, ']')
	case jsonObject:
		out = append(out, '{')
		for i, m := range sortedMembers(v.members) {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(appendString(out, m.name), ':')
			out = appendCanonical(out, m.value)
		}
		return append(out, '}')
	default:
		return append(out, "null"...)
	}
}

// sortedMembers sorts by name and keeps the last of equal names.
func sortedMembers(members []jsonMember) []jsonMember {
	slices.SortStableFunc(members, func(a, b jsonMember) int { return slices.Compare(a.name, b.name) })
	kept := members[:0]
	for i, m := range members {
		if i+1 < len(members) && slices.Equal(m.name, members[i+1].name) {
			continue
		}
		kept = append(kept, m)
	}
	return kept
}

// appendNumber writes a number as JSON.stringify does.
func appendNumber(out []byte, f float64) []byte {
	if !isFinite(f) {
		return append(out, "null"...)
	}
	return append(out, FormatNumber(f)...)
}

// appendText writes a Go string as JSON.stringify does. Bytes that are not UTF-8 become U+FFFD.
func appendText(out []byte, s string) []byte {
	return appendString(out, utf16.Encode([]rune(s)))
}

// AppendCanonicalText writes s after out as [CanonicalJSON] writes a text, with its quotes.
func AppendCanonicalText(out []byte, s string) []byte {
	for _, c := range []byte(s) {
		if c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendText(out, s)
		}
	}
	return append(append(append(out, '"'), s...), '"')
}

func appendString(out []byte, text []uint16) []byte {
	out = append(out, '"')
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			out = append(out, '\\', byte(c))
		case c < 0x20:
			out = appendControl(out, c)
		case !utf16.IsSurrogate(rune(c)):
			out = utf8.AppendRune(out, rune(c))
		default:
			if i+1 < len(text) {
				if r := utf16.DecodeRune(rune(c), rune(text[i+1])); r != utf8.RuneError {
					out = utf8.AppendRune(out, r)
					i++
					continue
				}
			}
			out = appendEscape(out, c)
		}
	}
	return append(out, '"')
}

func appendControl(out []byte, c uint16) []byte {
	switch c {
	case '\b':
		return append(out, `\b`...)
	case '\f':
		return append(out, `\f`...)
	case '\n':
		return append(out, `\n`...)
	case '\r':
		return append(out, `\r`...)
	case '\t':
		return append(out, `\t`...)
	}
	return appendEscape(out, c)
}

func appendEscape(out []byte, c uint16) []byte {
	const digits = "0123456789abcdef"
	return append(out, '\\', 'u', digits[c>>12], digits[c>>8&15], digits[c>>4&15], digits[c&15])
}
