package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a frame, so that a hostile one cannot make the walk recurse without end. No frame of ours
// nests deeper than five; the values of shared state may.
const maxDepth = 64

// Number is a JSON number as ECMAScript reads it: a double, where a literal beyond its range becomes an infinity instead of an
// error, so that a bad timestamp is refused as a bad timestamp.
type Number float64

// UnmarshalJSON accepts a JSON number only.
func (n *Number) UnmarshalJSON(raw []byte) error {
	if len(raw) == 0 || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return &json.UnmarshalTypeError{Value: jsonKind(raw), Type: reflect.TypeFor[float64]()}
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return err
	}
	*n = Number(f)
	return nil
}

// MarshalJSON writes the number as ECMAScript would for the integers that occur here; a value that JSON cannot hold is null.
func (n Number) MarshalJSON() ([]byte, error) {
	if f := float64(n); math.IsNaN(f) || math.IsInf(f, 0) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// Head is what every request shares.
type Head struct {
	Type string
	// ReqID is the request's _reqId, nil when it had none.
	ReqID *string
	// ID is the request's id, which sends use for correlation.
	ID string
}

// Peek reads the head of a frame. It fails with a [Fault] of code [Malformed] for anything that is not one JSON object with a
// string "type", for a name that occurs twice or twice but for its case, and for invalid UTF-8. The head it returns with such an
// error holds what could be read.
func Peek(frame []byte) (Head, error) {
	var h struct {
		Type  string  `json:"type"`
		ReqID *string `json:"_reqId"`
		ID    string  `json:"id"`
	}
	err := Decode(frame, &h)
	if err == nil && h.Type == "" {
		err = malformed("type", "type must be a non-empty string", nil)
	}
	if err != nil && h.ReqID != nil && *h.ReqID == "" {
		h.ReqID = nil // it may have been of another type, and the empty one is none to answer to
	}
	return Head{Type: h.Type, ReqID: h.ReqID, ID: h.ID}, err
}

// Decode fills frame, a pointer to a struct with json tags, from one JSON object. Unknown names are ignored. It refuses, with a
// [Fault] of code [Malformed], what JSON readers disagree about: a name twice in one object, names that differ from each other or
// from a known name only in case, invalid UTF-8, and nesting deeper than 64. Inside free-form values (json.RawMessage, maps) only
// an exact repetition is refused. What could be read of a JSON object is set even when an error is returned, so that a refusal can be
// correlated; nothing else may rest on it.
func Decode(frame []byte, into any) error {
	if !json.Valid(frame) {
		if !utf8.Valid(frame) {
			return errNotUTF8
		}
		return malformed("", "frame is not valid JSON", nil)
	}
	w := walker{data: frame}
	w.space()
	if w.at() != '{' {
		return malformed("", "frame must be one JSON object, not "+article(jsonKind(w.data[w.pos:])), nil)
	}
	t := reflect.TypeOf(into).Elem()
	refused := w.object(shapeOf(t), 0)
	if !utf8.Valid(frame) {
		refused = errNotUTF8
	}
	err := json.Unmarshal(frame, into)
	if refused != nil {
		return refused
	}
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		field := jsonPath(t, te.Field)
		return malformed(field, fmt.Sprintf("%s must be %s, not %s", field, article(kindName(te.Type)), article(clip(te.Value))), err)
	}
	if err != nil {
		return malformed("", "frame does not fit its type", err)
	}
	return nil
}

var errNotUTF8 = malformed("", "frame is not valid UTF-8", nil)

func malformed(field, text string, cause error) *Fault {
	return &Fault{Code: Malformed, Field: field, Text: text, Cause: cause}
}

// clip bounds a peer's text inside ours.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// jsonPath is path, which names a field below t as encoding/json reports it, without the Go names of embedded structs.
func jsonPath(t reflect.Type, path string) string {
	var names []string
	for name := range strings.SplitSeq(path, ".") {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
			t = t.Elem()
		}
		if t.Kind() == reflect.Struct {
			if f, ok := t.FieldByName(name); ok && f.Anonymous && f.Tag.Get("json") == "" {
				t = f.Type
				continue
			}
			for _, f := range reflect.VisibleFields(t) {
				if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag == name {
					t = f.Type
					break
				}
			}
		}
		names = append(names, name)
	}
	return strings.Join(names, ".")
}

func article(s string) string {
	switch {
	case s == "null" || s == "":
		return "null"
	case strings.ContainsRune("aeiou", rune(s[0])):
		return "an " + s
	default:
		return "a " + s
	}
}

// kindName is the JSON word for what a Go field takes.
func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Slice, reflect.Array:
		return "array"
	case reflect.Map, reflect.Struct:
		return "object"
	case reflect.Pointer:
		return kindName(t.Elem())
	default:
		return "number"
	}
}

// jsonKind names the kind of the JSON value at the start of raw.
func jsonKind(raw []byte) string {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	if len(raw) == 0 {
		return "nothing"
	}
	switch raw[0] {
	case '{':
		return "object"
	case '[':
		return "array"
	case '"':
		return "string"
	case 't', 'f':
		return "boolean"
	case 'n':
		return "null"
	default:
		return "number"
	}
}

// shape is what the walk knows of a struct: its JSON names, exactly and folded, and the shapes below them.
type shape struct {
	exact  map[string]*shape // nil value: a leaf or a free-form value
	folded map[string]string // folded name to the exact one
}

var shapes sync.Map // reflect.Type to *shape; written once per type

// shapeOf returns the shape of the structs in t, or nil where t holds none.
func shapeOf(t reflect.Type) *shape {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := &shape{exact: map[string]*shape{}, folded: map[string]string{}}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || name == "-" || name == "" {
			continue
		}
		s.exact[name] = shapeOf(f.Type)
		s.folded[fold(name)] = name
	}
	shapes.Store(t, s)
	return s
}

// fold is the form in which names that differ only in case are equal. It is at least as coarse as encoding/json's own, which takes
// "\u017ftatus", spelt with a long s, for "status".
func fold(name string) string {
	for i := range len(name) {
		if name[i] >= utf8.RuneSelf {
			name = strings.Map(smallestFold, name)
			break
		}
	}
	return strings.ToLower(name)
}

func smallestFold(r rune) rune {
	for {
		next := unicode.SimpleFold(r)
		if next <= r {
			return next
		}
		r = next
	}
}

// walker steps through JSON that is known to be valid and checks names.
type walker struct {
	data []byte
	pos  int
}

func (w *walker) at() byte { return w.data[w.pos] }

func (w *walker) space() {
	for w.pos < len(w.data) && (w.at() == ' ' || w.at() == '\t' || w.at() == '\n' || w.at() == '\r') {
		w.pos++
	}
}

// value steps over one value; s is its shape, nil for free-form ones.
func (w *walker) value(s *shape, depth int) error {
	if depth > maxDepth {
		return malformed("", "frame nests deeper than "+strconv.Itoa(maxDepth), nil)
	}
	w.space()
	switch w.at() {
	case '{':
		return w.object(s, depth)
	case '[':
		w.pos++
		for w.space(); w.at() != ']'; w.space() {
			if err := w.value(s, depth+1); err != nil {
				return err
			}
			if w.space(); w.at() == ',' {
				w.pos++
			}
		}
		w.pos++
	case '"':
		w.text()
	default: // number, true, false, null
		for w.pos < len(w.data) && !bytes.ContainsRune([]byte(",]} \t\r\n"), rune(w.at())) {
			w.pos++
		}
	}
	return nil
}

func (w *walker) object(s *shape, depth int) error {
	var few [16]string
	names := few[:0]
	var many map[string]struct{} // replaces names once an object is large, so that a hostile one does not cost its square
	w.pos++
	for w.space(); w.at() != '}'; w.space() {
		name := unquote(w.text())
		key := name
		var below *shape
		if s != nil {
			key = fold(name)
			if exact, known := s.folded[key]; known && exact != name {
				return malformed(exact, fmt.Sprintf("%q differs only in case from %q", clip(name), exact), nil)
			}
			below = s.exact[name]
		}
		if many == nil {
			for _, seen := range names {
				if seen == key {
					return malformed(name, fmt.Sprintf("%q occurs twice", clip(name)), nil)
				}
			}
			if names = append(names, key); len(names) == cap(few) {
				many = make(map[string]struct{}, 2*len(names))
				for _, seen := range names {
					many[seen] = struct{}{}
				}
			}
		} else {
			if _, seen := many[key]; seen {
				return malformed(name, fmt.Sprintf("%q occurs twice", clip(name)), nil)
			}
			many[key] = struct{}{}
		}
		w.space()
		w.pos++ // the colon
		if err := w.value(below, depth+1); err != nil {
			return err
		}
		if w.space(); w.at() == ',' {
			w.pos++
		}
	}
	w.pos++
	return nil
}

// text steps over a string and returns it with its quotes.
func (w *walker) text() []byte {
	start := w.pos
	for w.pos++; w.at() != '"'; w.pos++ {
		if w.at() == '\\' {
			w.pos++
		}
	}
	w.pos++
	return w.data[start:w.pos]
}

func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	_ = json.Unmarshal(quoted, &s) // valid JSON already
	return s
}

// Encode writes a frame as one JSON object, without escaping <, > and &.
func Encode(m any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		return nil, fmt.Errorf("encode %T: %w", m, err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
