package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/claudemesh/broker/identity"
)

// A value has one spelling: a line is exactly what the functions below write, so that a file that was touched is a file that differs.

func (h Header) appendLine(out []byte) []byte {
	out = identity.AppendCanonicalText(append(out, `{"format":`...), Format)
	out = identity.AppendCanonicalText(append(out, `,"meshId":`...), h.MeshID)
	out = identity.AppendCanonicalText(append(out, `,"key":`...), h.Key)
	out = strconv.AppendInt(append(out, `,"anchorCount":`...), h.AnchorCount, 10)
	out = identity.AppendCanonicalText(append(out, `,"anchorHash":`...), h.AnchorHash)
	out = identity.AppendCanonicalText(append(out, `,"exportedAt":`...), h.ExportedAt)
	return append(out, "}\n"...)
}

func (e *Entry) appendLine(out []byte) []byte {
	out = strconv.AppendInt(append(out, `{"id":`...), e.ID, 10)
	out = identity.AppendCanonicalText(append(out, `,"eventType":`...), e.EventType)
	out = append(out, `,"actor":`...)
	if e.Actor == "" {
		out = append(out, "null"...)
	} else {
		out = identity.AppendCanonicalText(out, e.Actor)
	}
	out = append(append(out, `,"payload":`...), e.Payload...)
	out = identity.AppendCanonicalText(append(out, `,"prevHash":`...), e.PrevHash)
	out = identity.AppendCanonicalText(append(out, `,"hash":`...), e.Hash)
	out = identity.AppendCanonicalText(append(out, `,"createdAt":`...), e.CreatedAt)
	return append(out, "}\n"...)
}

func (t Trailer) appendLine(out []byte) []byte {
	out = strconv.AppendInt(append(out, `{"end":true,"count":`...), t.Count, 10)
	out = identity.AppendCanonicalText(append(out, `,"hash":`...), t.Hash)
	return append(out, "}\n"...)
}

// errSpelling is a line that says something in another way than the format does: other names, twice the same, white space, escapes.
var errSpelling = errors.New("it is not written as the format has it")

func parseHeader(line []byte) (Header, error) {
	var f struct {
		Format, MeshID, Key, AnchorHash, ExportedAt string
		AnchorCount                                 int64
	}
	if err := json.Unmarshal(line, &f); err != nil {
		return Header{}, errors.New("it is no header of an audit log")
	}
	if f.Format != Format {
		return Header{}, fmt.Errorf("its format is not %s", Format)
	}
	h := Header{MeshID: f.MeshID, Key: f.Key, AnchorCount: f.AnchorCount, AnchorHash: f.AnchorHash, ExportedAt: f.ExportedAt}
	switch {
	case !bytes.Equal(h.appendLine(nil), line):
		return Header{}, errSpelling
	case !identity.ValidID(h.MeshID):
		return Header{}, errors.New("meshId is no id")
	case !isHex(h.Key, 64):
		return Header{}, errors.New("key is no public key")
	case h.AnchorCount < 0 || h.AnchorCount > maxNumber:
		return Header{}, errors.New("anchorCount is no count")
	case !isHash(h.AnchorHash) || (h.AnchorHash == identity.ChainGenesis) != (h.AnchorCount == 0):
		return Header{}, errors.New("anchorHash is no hash that belongs to anchorCount")
	case !isTime(h.ExportedAt):
		return Header{}, errors.New("exportedAt is no time")
	}
	return h, nil
}

// parseEntry reads a line that is not the first. It is the trailer when end is true.
func parseEntry(line []byte) (e Entry, t Trailer, end bool, err error) {
	if bytes.HasPrefix(line, []byte(`{"end":`)) {
		t, err = parseTrailer(line)
		return e, t, true, err
	}
	var f struct {
		ID                                   int64
		EventType, PrevHash, Hash, CreatedAt string
		Actor                                *string
		Payload                              json.RawMessage
	}
	if err := json.Unmarshal(line, &f); err != nil {
		return e, t, false, errors.New("it is no entry")
	}
	e = Entry{ID: f.ID, EventType: f.EventType, Payload: f.Payload, PrevHash: f.PrevHash, Hash: f.Hash, CreatedAt: f.CreatedAt}
	if f.Actor != nil {
		e.Actor = *f.Actor
	}
	canonical, bad := identity.CanonicalJSON(e.Payload)
	switch {
	case !bytes.Equal(e.appendLine(nil), line):
		err = errSpelling
	case bad != nil || e.Payload[0] != '{' || !bytes.Equal(canonical, e.Payload):
		err = errors.New("payload is no object of canonical JSON")
	case e.ID <= 0 || e.ID > maxNumber:
		err = errors.New("id is no positive number")
	case !isType(e.EventType):
		err = errors.New("eventType is no type")
	case e.Actor != "" && !identity.ValidID(e.Actor) || e.Actor == "null": // which is hashed as the actor null is
		err = errors.New("actor is no member's id")
	case !isHash(e.PrevHash) || !isHex(e.Hash, 64):
		err = errors.New("prevHash and hash are no hashes")
	case !isTime(e.CreatedAt):
		err = errors.New("createdAt is no time")
	}
	return e, t, false, err
}

func parseTrailer(line []byte) (Trailer, error) {
	var t Trailer
	if err := json.Unmarshal(line, &t); err != nil || !bytes.Equal(t.appendLine(nil), line) || t.Count < 0 || !isHash(t.Hash) {
		return Trailer{}, errors.New("it is no last line of an audit log")
	}
	return t, nil
}

// Writer writes a file. It writes what it is given, a broken chain too: that is for [Verify] to find. It is not safe for concurrent use.
type Writer struct {
	w    *bufio.Writer
	line []byte
}

// NewWriter begins a file with its header.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	out := &Writer{w: bufio.NewWriterSize(w, 64<<10)}
	return out, out.put(h.appendLine(nil))
}

// Write adds an entry. Its payload may be any JSON text and is written as canonical JSON; one that is not JSON is an error, and so is an
// entry that needs more than [MaxLine].
func (w *Writer) Write(e Entry) error {
	payload, err := identity.CanonicalJSON(e.Payload)
	if err != nil {
		return fmt.Errorf("audit: the payload of entry %d cannot be written: %w", e.ID, err)
	}
	e.Payload = payload
	w.line = e.appendLine(w.line[:0])
	return w.put(w.line)
}

// Close ends the file with its trailer. Without it the file counts as torn. It does not close what it writes to.
func (w *Writer) Close(t Trailer) error {
	if err := w.put(t.appendLine(nil)); err != nil {
		return err
	}
	if err := w.w.Flush(); err != nil {
		return fmt.Errorf("audit: write: %w", err)
	}
	return nil
}

func (w *Writer) put(line []byte) error {
	if len(line) > MaxLine {
		return fmt.Errorf("audit: a line of %d bytes exceeds the limit of %d", len(line), MaxLine)
	}
	if _, err := w.w.Write(line); err != nil {
		return fmt.Errorf("audit: write: %w", err)
	}
	return nil
}
