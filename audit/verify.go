package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/claudemesh/broker/identity"
)

// Options say what the auditor knows.
type Options struct {
	// Key is the public key, 64 hex digits, that signs the checkpoints. Default: After's, else the one that the file names, which proves
	// nothing against whoever made the file ([UntrustedKey]).
	Key string
	// After is a checkpoint that the auditor kept: the file must go on from there.
	After *Kept
	// End is the end of the log as it was once, from a report that the auditor kept: the file must have that hash at that place, too. Unlike After
	// it says something of the entries behind the newest checkpoint of that time.
	End *Trailer
	// Interval is the time between two checkpoints of the broker. Default 1 h; negative: their age is not looked at.
	Interval time.Duration
	// Now is the time that the newest checkpoint's age is compared with; zero: with the newest entry only.
	Now time.Time
}

const (
	defaultInterval = time.Hour
	// margin is how much later than the interval a checkpoint may come: brokers look every minute.
	margin = 5 * time.Minute
	// maxBack is how far the time of an entry may lie before that of an earlier one. Events are dated when they happen and chained when they
	// are stored, and several brokers with their own clocks may write to one log; docs/formats.md, audit file: 60 s.
	maxBack = time.Minute
)

// Verify reads a file to its end, in constant memory, and reports whether it is a whole and unbroken log whose checkpoints are all there
// and good, and what it leaves open. The first thing that is wrong ends it. An error is one of reading, or of [Options.Check].
func Verify(r io.Reader, o Options) (Report, error) {
	v, err := newVerifier(o)
	if err != nil {
		return Report{}, err
	}
	lines := lineReader{r: bufio.NewReaderSize(r, 16<<10)}
	for number := int64(1); ; number++ {
		line, err := lines.next()
		switch {
		case err == nil:
			v.line(number, line)
		case errors.Is(err, bufio.ErrBufferFull):
			v.fault(about(KindMalformed, number, "the line is longer than %d bytes", MaxLine))
		case errors.Is(err, io.EOF):
			v.end(number, len(line) > 0)
		default:
			return Report{}, fmt.Errorf("audit: read: %w", err)
		}
		if v.done {
			return v.close(), nil
		}
	}
}

// lineReader reads lines of at most MaxLine bytes.
type lineReader struct {
	r    *bufio.Reader
	long []byte // of a line that exceeds the reader's buffer
}

// next returns a line with its newline, good until the next call; what stands behind the last newline with io.EOF; or bufio.ErrBufferFull.
func (l *lineReader) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	l.long = l.long[:0]
	for errors.Is(err, bufio.ErrBufferFull) && len(l.long)+len(line) <= MaxLine {
		l.long = append(l.long, line...)
		line, err = l.r.ReadSlice('\n')
	}
	if len(l.long)+len(line) > MaxLine {
		return nil, bufio.ErrBufferFull
	}
	l.long = append(l.long, line...)
	return l.long, err
}

// verifier is one run of Verify.
type verifier struct {
	o       Options
	report  Report
	header  Header
	prev    string    // what the next entry must name
	lastID  int64     // of the last entry
	newest  time.Time // of all entries
	signed  time.Time // of the newest checkpoint
	run     int       // entries since a checkpoint, or since the anchor
	vouched int64     // id of the newest good checkpoint
	seen    recent
	search  *search // set when the chain is broken and what follows may tell how
	trailer bool    // was read
	done    bool
	back    Warning // times that go back; told once
	backs   int64
}

// Check reports what is wrong with the options: a key that is none, a kept checkpoint that is not good by itself, or one by another key.
func (o Options) Check() error {
	if o.End != nil {
		if err := o.End.check(); err != nil {
			return err
		}
	}
	switch key := strings.ToLower(o.Key); {
	case key != "" && !isHex(key, 64):
		return errors.New("audit: the key must be 64 hex digits")
	case o.After == nil:
		return nil
	case key != "" && key != o.After.Key:
		return errors.New("audit: the kept checkpoint is signed by another key than the one given")
	default:
		return o.After.Check()
	}
}

func newVerifier(o Options) (*verifier, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	o.Key = strings.ToLower(o.Key)
	if o.After != nil {
		o.Key = o.After.Key
	}
	o.Interval = cmp.Or(o.Interval, defaultInterval)
	return &verifier{o: o, report: Report{Key: o.Key, KeyGiven: o.Key != "", Warnings: []Warning{}}}, nil
}

// fault ends the run with what is wrong.
func (v *verifier) fault(f *Fault) { v.report.Fault, v.done = f, true }

// at is a fault of an entry.
func at(kind Kind, index, id int64, format string, args ...any) *Fault {
	return &Fault{Kind: kind, Line: index + 2, Index: index, ID: id, Text: fmt.Sprintf(format, args...)}
}

// about is a fault of a line that is no entry.
func about(kind Kind, line int64, format string, args ...any) *Fault {
	return &Fault{Kind: kind, Line: line, Index: -1, Text: fmt.Sprintf(format, args...)}
}

// line takes a whole line.
func (v *verifier) line(number int64, line []byte) {
	switch {
	case number == 1:
		h, err := parseHeader(line)
		if err != nil {
			v.fault(about(KindMalformed, 1, "the header is no good: %s", err))
			return
		}
		v.begin(h)
	case v.trailer:
		v.fault(about(KindMalformed, number, "there is something behind the last line"))
	default:
		e, t, last, err := parseEntry(line)
		switch {
		case err != nil && v.search != nil:
			v.fault(v.search.conclude())
		case err != nil && last:
			v.fault(about(KindMalformed, number, "the last line is no good: %s", err))
		case err != nil:
			v.fault(at(KindMalformed, number-2, max(e.ID, 0), "the entry is no good: %s", err))
		case last:
			v.finish(number, t)
		case v.search != nil:
			if f := v.search.next(v, &e); f != nil {
				v.fault(f)
			}
		default:
			v.entry(&e)
		}
	}
}

// begin takes the header.
func (v *verifier) begin(h Header) {
	v.header, v.prev = h, h.AnchorHash
	v.seen.add(h.AnchorHash, 0)
	r := &v.report
	r.MeshID, r.AnchorCount, r.Count, r.Hash = h.MeshID, h.AnchorCount, h.AnchorCount, h.AnchorHash
	if r.Key == "" {
		r.Key = h.Key
	}
	after := v.o.After
	switch {
	case after == nil:
	case after.MeshID != h.MeshID:
		v.fault(about(KindMesh, 1, "the file is of another mesh than the kept checkpoint"))
	case after.Count+1 == h.AnchorCount: // the last of the pruned ones: its hash is here
		r.AfterFound = after.entryHash() == h.AnchorHash
		if !r.AfterFound {
			v.fault(about(KindRewritten, 1, "the first entry does not follow the kept checkpoint, which was the one before: what was kept was made anew"))
		}
	case after.Count < h.AnchorCount:
		r.warn(BeforeAnchor, fmt.Sprintf(
			"the kept checkpoint is entry number %d of the log, and the file begins with number %d: what lies before cannot be compared", after.Count+1, h.AnchorCount+1))
	}
	switch end := v.o.End; {
	case v.done || end == nil:
	case end.Count == h.AnchorCount && end.Hash != h.AnchorHash:
		v.fault(about(KindRewritten, 1, "the first entry does not follow the kept end, which was just before: what was kept was made anew"))
	case end.Count < h.AnchorCount && after == nil:
		r.warn(BeforeAnchor, fmt.Sprintf(
			"the kept end is entry number %d of the log, and the file begins with number %d: what lies before cannot be compared", end.Count, h.AnchorCount+1))
	}
}

// sum is the hash of an entry that follows prev.
func (v *verifier) sum(prev string, e *Entry) string {
	return identity.ChainHash(prev, v.header.MeshID, e.EventType, e.Actor, string(e.Payload), e.CreatedAt)
}

// entry takes the next entry of a chain that is whole so far.
func (v *verifier) entry(e *Entry) {
	r := &v.report
	index := r.Entries
	switch fits, sum := e.PrevHash == v.prev, v.sum(v.prev, e); {
	case fits && e.Hash != sum:
		v.fault(at(KindChanged, index, e.ID, "the entry was changed: its hash is not that of its fields"))
		return
	case !fits && e.Hash == sum:
		v.fault(at(KindChanged, index, e.ID, "the entry was changed: its prevHash is not the hash of the entry before, which its hash is made of"))
		return
	case !fits:
		var f *Fault
		if v.search, f = newSearch(v, e); f != nil {
			v.fault(f)
		}
		return
	case e.ID != r.Count+1 && index == 0:
		v.fault(at(KindAnchor, index, e.ID, "its id says that it is entry number %d of the log, and by the header's anchorCount it is number %d", e.ID, r.Count+1))
		return
	case e.ID != r.Count+1:
		v.fault(at(KindChanged, index, e.ID, "its id is not its place: it is entry number %d of the log", r.Count+1))
		return
	}
	v.date(e)
	if e.EventType == identity.CheckpointEvent {
		if f := v.checkpoint(index, e); f != nil {
			v.fault(f)
			return
		}
	} else if v.run++; v.run >= CheckpointEvery {
		v.search = newUnsigned(v, e, at(KindUnsigned, index, e.ID, "there is no checkpoint among the %d entries up to this one: they were made anew", v.run))
		return
	} else {
		r.Unvouched++
	}
	if after := v.o.After; after != nil && after.Count == r.Count {
		if e.Hash != after.entryHash() {
			v.fault(at(KindRewritten, index, e.ID, "the kept checkpoint is not at its place, entry number %d of the log: this entry or others before it were made anew", r.Count+1))
			return
		}
		r.AfterFound = true
	}
	if end := v.o.End; end != nil && end.Count == r.Count+1 && e.Hash != end.Hash {
		v.fault(at(KindRewritten, index, e.ID, "entry number %d of the log was another one when it was the last: this entry or others before it were made anew", end.Count))
		return
	}
	v.seen.add(e.Hash, e.ID)
	v.prev, v.lastID = e.Hash, e.ID
	r.Hash = e.Hash
	r.Entries++
	r.Count++
}

// date looks at the time of an entry.
func (v *verifier) date(e *Entry) {
	t, _ := parseTime(e.CreatedAt) // its shape was checked
	r := &v.report
	if r.First == "" {
		r.First = e.CreatedAt
	}
	if t.After(v.newest) {
		v.newest, r.Last = t, e.CreatedAt
	}
	if v.newest.Sub(t) > maxBack {
		if v.backs++; v.backs == 1 {
			v.back = Warning{TimeBack, fmt.Sprintf("entry %d is dated %s before an earlier one", e.ID, v.newest.Sub(t))}
		}
	}
}

// readCheckpoint reads the payload of a checkpoint's entry.
func readCheckpoint(e *Entry) (c identity.Checkpoint, ok bool) {
	err := json.Unmarshal(e.Payload, &c)
	return c, err == nil && e.Actor == "" && c.Count >= 0 && c.Count <= maxNumber && bytes.Equal(c.Payload(), e.Payload)
}

// checkpoint takes an entry that is a checkpoint.
func (v *verifier) checkpoint(index int64, e *Entry) *Fault {
	r := &v.report
	c, ok := readCheckpoint(e)
	since := "from the first entry on"
	if v.vouched != 0 {
		since = fmt.Sprintf("behind the checkpoint in entry %d", v.vouched)
	}
	switch {
	case !ok:
		return at(KindRewritten, index, e.ID, "the entry is no checkpoint although it says so")
	case c.Key != r.Key:
		return at(KindRewritten, index, e.ID, "the checkpoint is signed by another key: whoever made the entries %s had not that key, or the key is not this log's", since)
	case c.Hash != e.PrevHash:
		return at(KindRewritten, index, e.ID, "the checkpoint vouches for another entry before it: entries %s were made anew", since)
	case c.Verify(r.MeshID, e.PrevHash, e.CreatedAt, r.Key) != nil:
		return at(KindRewritten, index, e.ID, "the checkpoint's signature is not good: entries %s were made anew", since)
	case c.Count != r.Count && v.vouched == 0:
		return at(KindAnchor, index, e.ID, "the checkpoint says that it is entry number %d of the log, and by the header's anchorCount it is number %d", c.Count+1, r.Count+1)
	case c.Count != r.Count:
		return at(KindRewritten, index, e.ID, "the checkpoint says that it is entry number %d of the log, and it is number %d", c.Count+1, r.Count+1)
	}
	r.Checkpoints++
	r.Unvouched = 0
	r.Checkpoint = &Kept{MeshID: r.MeshID, Count: c.Count, Hash: c.Hash, Key: c.Key, Signature: c.Signature, CreatedAt: e.CreatedAt}
	v.signed, _ = parseTime(e.CreatedAt)
	v.run, v.vouched = 0, e.ID
	return nil
}

// finish takes the trailer.
func (v *verifier) finish(number int64, t Trailer) {
	r := &v.report
	switch {
	case v.search != nil:
		v.fault(v.search.finish(v, t))
	case t.Count > r.Count:
		v.fault(about(KindCut, number, "the end is missing: the log had %d entries, and the file ends with number %d", t.Count, r.Count))
	case t.Count < r.Count || t.Hash != r.Hash:
		v.fault(about(KindChanged, number, "the last line does not tell the count and the hash of the last entry: it was changed, or entries were added"))
	default:
		v.trailer = true
	}
}

// end takes the end of the file.
func (v *verifier) end(number int64, torn bool) {
	r, after := &v.report, v.o.After
	switch {
	case v.search != nil:
		v.fault(v.search.conclude())
	case v.trailer && torn:
		v.fault(about(KindMalformed, number, "there is something behind the last line"))
	case !v.trailer:
		v.fault(about(KindCut, number, "the file is torn: its last line is missing"))
	case after != nil && after.Count >= r.Count:
		v.fault(about(KindCut, number-1, "the end is missing: the kept checkpoint is entry number %d of the log, and the file ends with number %d", after.Count+1, r.Count))
	case v.o.End != nil && v.o.End.Count > r.Count:
		v.fault(about(KindCut, number-1, "the end is missing: the log had %d entries when the kept report was made, and the file ends with number %d", v.o.End.Count, r.Count))
	case v.header.Key != r.Key:
		v.fault(about(KindKey, 1, "the header names another key than the one given"))
	}
	v.done = true
}

// close adds what is open and returns the report.
func (v *verifier) close() Report {
	r := &v.report
	if r.Fault != nil {
		return *r
	}
	r.Valid = true
	if !r.KeyGiven {
		r.warn(UntrustedKey, "no key was given, so the file's own was believed: this proves nothing against whoever made the file")
	}
	if r.Checkpoint == nil {
		r.warn(NoCheckpoint, "there is no checkpoint: nobody vouches for this file")
	}
	if r.Checkpoint != nil && r.Unvouched > 0 {
		last, them := "last entry is", "it"
		if r.Unvouched > 1 {
			last, them = fmt.Sprintf("last %d entries are", r.Unvouched), "them"
		}
		r.warn(Unvouched, fmt.Sprintf("the %s vouched for by no signature: whoever had the file or the store could have written %s", last, them))
	}
	if limit := v.o.Interval + margin; v.o.Interval > 0 && r.Checkpoint != nil {
		if age := v.newest.Sub(v.signed); age > limit {
			r.warn(OldCheckpoint, fmt.Sprintf("the newest entry is %s younger than the newest checkpoint, which nobody vouches for", age))
		}
		if age := v.o.Now.Sub(v.signed); !v.o.Now.IsZero() && age > limit {
			r.warn(StaleCheckpoint, fmt.Sprintf(
				"the newest checkpoint is %s old: the file was made a while ago, or the broker stood still, or the end is missing", age.Truncate(time.Millisecond)))
		}
	}
	if v.backs > 0 {
		v.back.Text += fmt.Sprintf(" (%d such)", v.backs)
		r.Warnings = append(r.Warnings, v.back)
	}
	return *r
}
