package audit

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/claudemesh/broker/identity"
)

// ErrPruned says that entries were pruned from the log before they could be exported. Another export starts behind them.
var ErrPruned = errors.New("audit: entries were pruned while the log was exported; export it again")

// Page is a piece of a log as its broker or store gives it, with the state of the log when the piece was read.
type Page struct {
	MeshID string
	Key    string // that signs the checkpoints
	// AnchorCount and AnchorHash are of the entries that were pruned, Count and Hash of all that were ever written.
	AnchorCount int64
	AnchorHash  string
	Count       int64
	Hash        string
	Entries     []Entry // oldest first
	More        bool    // there are entries behind the last one
}

// Exported is what a file holds.
type Exported struct {
	Header  Header
	Trailer Trailer
	Entries int64
}

// Export writes a log to w as it is when its first page is read; what is written to it meanwhile is left out. next returns the entries with an
// id above after. The pages must fit each other: of one mesh and one key, with rising ids, and nothing pruned between them ([ErrPruned]).
// A chain that is broken is exported as it is, and a log that ends before it should gets a trailer that says so: [Verify] tells. An error
// leaves a torn file. progress, if it is not nil, is told after each page how many entries of how many were written.
func Export(w io.Writer, at time.Time, next func(after int64) (Page, error), progress func(done, total int64)) (Exported, error) {
	page, err := next(0)
	if err != nil {
		return Exported{}, err
	}
	out := Exported{
		Header: Header{
			MeshID: page.MeshID, Key: page.Key, AnchorCount: page.AnchorCount, AnchorHash: page.AnchorHash, ExportedAt: identity.ChainTime(at),
		},
		Trailer: Trailer{Count: page.Count, Hash: page.Hash},
	}
	file, err := NewWriter(w, out.Header)
	if err != nil {
		return out, err
	}
	total := page.Count - page.AnchorCount
	last := int64(0)
	for {
		for i := range page.Entries {
			e := &page.Entries[i]
			if out.Entries == total {
				break
			}
			if e.ID <= last {
				return out, fmt.Errorf("audit: entry %d came behind entry %d", e.ID, last)
			}
			if err := file.Write(*e); err != nil {
				return out, err
			}
			last = e.ID
			out.Entries++
		}
		if progress != nil {
			progress(out.Entries, total)
		}
		if out.Entries == total || !page.More {
			return out, file.Close(out.Trailer)
		}
		if len(page.Entries) == 0 {
			return out, errors.New("audit: a page without entries says that there are more")
		}
		if page, err = next(last); err != nil {
			return out, err
		}
		switch {
		case page.MeshID != out.Header.MeshID || page.Key != out.Header.Key:
			return out, errors.New("audit: a page is of another mesh or another key than the first")
		case page.Count < out.Trailer.Count:
			return out, errors.New("audit: a page says that the log has become shorter")
		case page.AnchorCount > out.Header.AnchorCount+out.Entries:
			return out, ErrPruned
		}
	}
}
