package audit

import (
	"fmt"

	"github.com/claudemesh/broker/identity"
)

// recent remembers the hashes of the last entries, and which they were.
type recent struct {
	hashes [CheckpointEvery]string
	ids    [CheckpointEvery]int64
	next   int
	held   int
}

func (r *recent) add(hash string, id int64) {
	r.hashes[r.next], r.ids[r.next] = hash, id
	r.next = (r.next + 1) % len(r.hashes)
	r.held = min(r.held+1, len(r.hashes))
}

// find returns how many entries came behind the one with that hash, and the id of the first of them.
func (r *recent) find(hash string) (behind int, first int64, ok bool) {
	for n := range r.held {
		i := (r.next - 1 - n + len(r.hashes)) % len(r.hashes)
		if r.hashes[i] == hash {
			return n, first, true
		}
		first = r.ids[i]
	}
	return 0, 0, false
}

// A search reads on behind an entry that does not follow the one before, to tell how that came about. It ends at the next checkpoint, whose
// signature says how many entries there should be.
type search struct {
	id, index      int64  // of the entry that does not follow
	prevHash, hash string // likewise
	own            bool   // its hash is that of its fields: it was made to follow some other entry
	counted        bool   // it is a good checkpoint, so that it says itself how many are missing
	missing        int64  // if counted
	expected       string // the hash that it should have named
	before         int64  // id of the entry before it, 0 for none
	fixed          bool   // the entry before is a good checkpoint
	read           int64  // entries behind it
	last           string // hash of the newest of those
	gaps           bool   // one of them does not follow the one before either
	unsigned       *Fault // set: the entry does follow, but there must be a checkpoint; unless the next one shows that it was inserted
}

// newSearch starts a search, unless all is clear already.
func newSearch(v *verifier, e *Entry) (*search, *Fault) {
	index := v.report.Entries
	if behind, _, again := v.seen.find(e.Hash); again {
		return nil, at(KindInserted, index, e.ID, "the entry stands here again, %d behind the first time", behind+1)
	}
	own := v.sum(e.PrevHash, e) == e.Hash
	if behind, first, known := v.seen.find(e.PrevHash); own && known {
		return nil, at(KindInserted, index-int64(behind), first, "%s inserted here: entry %d follows the one before", were(int64(behind)), e.ID)
	}
	s := &search{
		id: e.ID, index: index, prevHash: e.PrevHash, hash: e.Hash, own: own, expected: v.prev, before: v.lastID,
		fixed: v.lastID != 0 && v.lastID == v.vouched, last: e.Hash,
	}
	if n, ok := v.promised(e); own && ok {
		s.counted, s.missing = true, n-v.report.Count
	}
	return s, nil
}

// newUnsigned looks whether the entry that stands where a checkpoint must be was inserted there.
func newUnsigned(v *verifier, e *Entry, f *Fault) *search {
	return &search{id: e.ID, index: v.report.Entries, prevHash: e.PrevHash, hash: e.Hash, own: true, expected: e.PrevHash, before: v.lastID, unsigned: f}
}

// promised is how many entries lie before a checkpoint by its own word, if it is signed by the right key.
func (v *verifier) promised(e *Entry) (int64, bool) {
	if e.EventType != identity.CheckpointEvent {
		return 0, false
	}
	c, ok := readCheckpoint(e)
	return c.Count, ok && c.Verify(v.report.MeshID, e.PrevHash, e.CreatedAt, v.report.Key) == nil
}

// were is "1 entry was", "2 entries were".
func were(n int64) string {
	if n == 1 {
		return "1 entry was"
	}
	return fmt.Sprintf("%d entries were", n)
}

// next takes another entry and returns what it tells, nil for nothing yet.
func (s *search) next(v *verifier, e *Entry) *Fault {
	switch {
	case e.PrevHash == s.expected && s.read == 0 && s.prevHash == e.Hash:
		return at(KindSwapped, s.index, s.id, "entries %d and %d are swapped", s.id, e.ID)
	case e.PrevHash == s.expected && s.read == 0:
		return at(KindInserted, s.index, s.id, "the entry was inserted: the next one, %d, follows the one before it", e.ID)
	case e.PrevHash == s.expected:
		return at(KindSwapped, s.index, s.id, "the entry does not stand at its place: entry %d, which belongs here, stands %d behind", e.ID, s.read+1)
	case s.unsigned != nil:
		return s.unsigned
	case s.read == 0 && !s.own && e.PrevHash == s.hash:
		return at(KindChanged, s.index, s.id, "the entry was changed: its hash is not that of its fields")
	}
	s.read++
	s.gaps = s.gaps || e.PrevHash != s.last
	s.last = e.Hash
	if n, ok := v.promised(e); ok && !s.counted {
		s.counted, s.missing = true, n-v.report.Count-s.read
	}
	if s.counted || s.read >= CheckpointEvery {
		return s.conclude()
	}
	return nil
}

// finish takes the count of the trailer, which is not signed, for want of a checkpoint.
func (s *search) finish(v *verifier, t Trailer) *Fault {
	if missing := t.Count - v.report.Count - 1 - s.read; !s.counted && missing != 0 {
		s.counted, s.missing = true, missing
	}
	return s.conclude()
}

// conclude tells by the number of entries that are missing, or just what is certain.
func (s *search) conclude() *Fault {
	switch {
	case s.unsigned != nil:
		return s.unsigned
	case s.counted && s.missing > 0 && s.before == 0:
		return at(KindDeleted, s.index, s.id, "%s deleted before this one, at the beginning", were(s.missing))
	case s.counted && s.missing > 0:
		return at(KindDeleted, s.index, s.id, "%s deleted between entry %d and this one", were(s.missing), s.before)
	case s.counted && s.missing < 0:
		return at(KindInserted, s.index, s.id, "%s inserted before this one", were(-s.missing))
	case !s.counted || !s.own || s.fixed || s.gaps:
		return at(KindBroken, s.index, s.id, "the entry does not follow the one before: there were others between them, or one of the two was changed")
	case s.before == 0:
		return about(KindAnchor, 1, "the header's anchorHash is not the hash that the first entry follows")
	default:
		return at(KindChanged, s.index-1, s.before, "the entry was changed together with its hash: entry %d follows another one, and none is missing", s.id)
	}
}
