package identity

import (
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// encoding/json cannot serve here: it replaces lone surrogates, matches member names in any case and lets a repeated name
// overwrite the first silently. So this file has a parser that keeps what JavaScript's JSON.parse would see.

// maxJSONDepth is how deep arrays and objects may nest. The parser recurses, and the text comes from strangers.
const maxJSONDepth = 1000

type jsonKind byte

const (
	jsonNull jsonKind = iota
	jsonTrue
	jsonFalse
	jsonNumber
	jsonString
	jsonArray
	jsonObject
)

type jsonValue struct {
	kind    jsonKind
	number  float64      // may be infinite: beyond the range of doubles
	text    []uint16     // UTF-16, as in JavaScript, so that lone surrogates survive
	items   []jsonValue  // of an array
	members []jsonMember // of an object, in the order of the text, repeated names included
}

type jsonMember struct {
	name  []uint16
	value jsonValue
}

type jsonParser struct {
	in    []byte
	at    int
	depth int
}

// parseJSON parses one JSON text: ClassBadUTF8, ClassMalformed.
func parseJSON(raw []byte) (jsonValue, error) {
	if !utf8.Valid(raw) {
		return jsonValue{}, refuse(ClassBadUTF8, "JSON text is not UTF-8")
	}
	p := &jsonParser{in: raw}
	v, err := p.value()
	if err != nil {
		return jsonValue{}, err
	}
	if p.space(); p.at != len(p.in) {
		return jsonValue{}, p.fail("text after the value")
	}
	return v, nil
}

func (p *jsonParser) fail(what string) error {
	return refuse(ClassMalformed, "JSON: %s at byte %d", what, p.at) // quotes nothing: the text may hold a secret
}

func (p *jsonParser) space() {
	for p.at < len(p.in) {
		switch p.in[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// peek returns the next byte, 0 at the end. NUL is nowhere legal outside a string, nor raw inside one.
func (p *jsonParser) peek() byte {
	if p.at < len(p.in) {
		return p.in[p.at]
	}
	return 0
}

func (p *jsonParser) value() (jsonValue, error) {
	p.space()
	switch c := p.peek(); {
	case c == '{':
		return p.object()
	case c == '[':
		return p.array()
	case c == '"':
		text, err := p.string()
		return jsonValue{kind: jsonString, text: text}, err
	case c == '-' || isDigit(c):
		return p.number()
	case c == 't':
		return p.literal("true", jsonTrue)
	case c == 'f':
		return p.literal("false", jsonFalse)
	case c == 'n':
		return p.literal("null", jsonNull)
	}
	return jsonValue{}, p.fail("want a value")
}

func (p *jsonParser) literal(word string, kind jsonKind) (jsonValue, error) {
	if rest := p.in[p.at:]; len(rest) < len(word) || string(rest[:len(word)]) != word {
		return jsonValue{}, p.fail("want " + word)
	}
	p.at += len(word)
	return jsonValue{kind: kind}, nil
}

func (p *jsonParser) enter() error {
	if p.depth++; p.depth > maxJSONDepth {
		return p.fail("nested deeper than " + strconv.Itoa(maxJSONDepth))
	}
	p.at++ // the bracket
	return nil
}

func (p *jsonParser) array() (jsonValue, error) {
	if err := p.enter(); err != nil {
		return jsonValue{}, err
	}
	v := jsonValue{kind: jsonArray}
	for {
		if p.space(); p.peek() == ']' && len(v.items) == 0 {
			break
		}
		item, err := p.value()
		if err != nil {
			return jsonValue{}, err
		}
		v.items = append(v.items, item)
		p.space()
		if p.peek() == ']' {
			break
		}
		if p.peek() != ',' {
			return jsonValue{}, p.fail("want , or ]")
		}
		p.at++
	}
	p.at++
	p.depth--
	return v, nil
}

func (p *jsonParser) object() (jsonValue, error) {
	if err := p.enter(); err != nil {
		return jsonValue{}, err
	}
	v := jsonValue{kind: jsonObject}
	for {
		if p.space(); p.peek() == '}' && len(v.members) == 0 {
			break
		}
		if p.peek() != '"' {
			return jsonValue{}, p.fail("want a member name")
		}
		name, err := p.string()
		if err != nil {
			return jsonValue{}, err
		}
		if p.space(); p.peek() != ':' {
			return jsonValue{}, p.fail("want :")
		}
		p.at++
		value, err := p.value()
		if err != nil {
			return jsonValue{}, err
		}
		v.members = append(v.members, jsonMember{name, value})
		p.space()
		if p.peek() == '}' {
			break
		}
		if p.peek() != ',' {
			return jsonValue{}, p.fail("want , or }")
		}
		p.at++
	}
	p.at++
	p.depth--
	return v, nil
}

func (p *jsonParser) string() ([]uint16, error) {
	p.at++ // the quote
	var text []uint16
	for p.at < len(p.in) {
		switch c := p.in[p.at]; {
		case c == '"':
			p.at++
			return text, nil
		case c < 0x20:
			return nil, p.fail("raw control character in a string")
		case c == '\\':
			unit, err := p.escape()
			if err != nil {
				return nil, err
			}
			text = append(text, unit)
		default:
			r, size := utf8.DecodeRune(p.in[p.at:])
			text = utf16.AppendRune(text, r)
			p.at += size
		}
	}
	return nil, p.fail("unfinished string")
}

func (p *jsonParser) escape() (uint16, error) {
	p.at++ // the backslash
	c := p.peek()
	p.at++
	switch c {
	case '"', '\\', '/':
		return uint16(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		if p.at+4 <= len(p.in) && isHex(string(p.in[p.at:p.at+4]), 4) {
			unit, _ := strconv.ParseUint(string(p.in[p.at:p.at+4]), 16, 16) // four hex digits
			p.at += 4
			return uint16(unit), nil
		}
	}
	return 0, p.fail("bad escape")
}

func (p *jsonParser) number() (jsonValue, error) {
	start := p.at
	if p.peek() == '-' {
		p.at++
	}
	if p.peek() == '0' {
		p.at++ // no digit may follow: the caller then finds text that it does not want
	} else if !p.digits() {
		return jsonValue{}, p.fail("want a digit")
	}
	if p.peek() == '.' {
		p.at++
		if !p.digits() {
			return jsonValue{}, p.fail("want a digit")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.at++
		if c := p.peek(); c == '+' || c == '-' {
			p.at++
		}
		if !p.digits() {
			return jsonValue{}, p.fail("want a digit")
		}
	}
	number, err := strconv.ParseFloat(string(p.in[start:p.at]), 64)
	if err != nil && !math.IsInf(number, 0) { // out of range gives an infinity, which is wanted
		return jsonValue{}, p.fail("bad number")
	}
	return jsonValue{kind: jsonNumber, number: number}, nil
}

// digits skips a run of digits and reports whether there was one.
func (p *jsonParser) digits() bool {
	start := p.at
	for isDigit(p.peek()) {
		p.at++
	}
	return p.at > start
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
