package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// Skimmed is what can be told of a frame that is too large to be kept.
type Skimmed struct {
	Head
	// Size is the length of the frame in bytes.
	Size int
	// Content is the length of its ciphertext, nonce and targetSpec together.
	Content int
}

// Limits of what Skim keeps: names and values of the frame's own members.
const (
	skimName  = 32
	skimValue = 256
)

// Skim reads a frame to its end in constant memory and returns its head, so that a frame too large to be decoded can still be answered.
// It does not check that the frame is JSON.
func Skim(r io.Reader) (Skimmed, error) {
	var (
		out              Skimmed
		depth            int
		name, value      []byte
		inText, escaped  bool
		isName, expected bool // the text is a member's name; a member's name comes next
	)
	br := bufio.NewReaderSize(r, 4096)
	for {
		c, err := br.ReadByte()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out.Size++
		if inText {
			switch {
			case escaped:
				escaped = false
			case c == '\\':
				escaped = true
			case c == '"':
				inText = false
				if depth == 1 && !isName {
					out.keep(name, value)
				}
				continue
			}
			if depth != 1 {
				continue
			}
			if isName {
				if len(name) <= skimName {
					name = append(name, c)
				}
				continue
			}
			switch string(name) {
			case "ciphertext", "nonce", "targetSpec":
				out.Content++
			default:
				if len(value) <= skimValue {
					value = append(value, c)
				}
			}
			continue
		}
		switch c {
		case '"':
			inText, isName = true, depth == 1 && expected
			if isName {
				name = name[:0]
				expected = false
			}
			value = value[:0]
		case '{', '[':
			depth++
			expected = depth == 1 && c == '{'
		case '}', ']':
			depth--
		case ',':
			expected = depth == 1
		}
	}
}

// keep sets a member of the head. Values that are too long or hold escapes are left out: a client's own ids have neither.
func (s *Skimmed) keep(name, value []byte) {
	if len(value) > skimValue || bytes.IndexByte(value, '\\') >= 0 {
		return
	}
	switch string(name) {
	case "type":
		s.Type = string(value)
	case "_reqId":
		id := string(value)
		s.ReqID = &id
	case "id":
		s.ID = string(value)
	}
}
