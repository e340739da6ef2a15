package audit

// Kind says in a word what is wrong with a file. Its meaning never changes.
type Kind string

// What can be wrong.
const (
	KindMalformed Kind = "malformed" // a line is not written as the format has it
	KindChanged   Kind = "changed"   // an entry was changed
	KindDeleted   Kind = "deleted"   // entries before this one are missing
	KindInserted  Kind = "inserted"  // this entry does not belong to the log, or not twice
	KindSwapped   Kind = "swapped"   // entries stand in another order
	KindBroken    Kind = "broken"    // the entry does not follow the one before, and it cannot be told why
	KindCut       Kind = "cut"       // entries at the end are missing, or the file is torn
	KindRewritten Kind = "rewritten" // a checkpoint does not vouch for the entries before it: they were made anew
	KindUnsigned  Kind = "unsigned"  // no checkpoint where there must be one
	KindAnchor    Kind = "anchor"    // the header says something else about the entries before the first than the log
	KindKey       Kind = "key"       // the header names another key than the one that was given
	KindMesh      Kind = "mesh"      // the file is of another mesh than the kept checkpoint
)

// Fault is the first thing that is wrong with a file.
type Fault struct {
	Kind Kind `json:"kind"`
	// Line is the line of the file, from 1. The entry with Index i stands in line i+2.
	Line int64 `json:"line"`
	// Index is the place of the entry in the file, from 0; -1 if it is not about an entry.
	Index int64 `json:"index"`
	// ID is the entry's id as the file has it; 0 if it is not about an entry, or it has none that can be read.
	ID int64 `json:"id"`
	// Text says it for people. It holds numbers, ids and names of fields, and nothing else of the file.
	Text string `json:"text"`
}

// Caution says in a word what a file that is sound leaves open. Its meaning never changes.
type Caution string

// What can be open.
const (
	UntrustedKey    Caution = "untrusted_key"    // no key was given, so the file's own was believed: it proves nothing against whoever made it
	NoCheckpoint    Caution = "no_checkpoint"    // nobody vouches for anything in the file
	Unvouched       Caution = "unvouched"        // there are entries behind the newest checkpoint: nothing proves anything of them
	OldCheckpoint   Caution = "old_checkpoint"   // the newest checkpoint is older than the interval when the log ends
	StaleCheckpoint Caution = "stale_checkpoint" // the newest checkpoint is older than the interval now: the end may be cut
	TimeBack        Caution = "time_back"        // times go back
	BeforeAnchor    Caution = "before_anchor"    // the kept checkpoint lies before the first entry of the file, where nothing can be compared
)

// Warning is something that a file leaves open.
type Warning struct {
	Code Caution `json:"code"`
	Text string  `json:"text"`
}

// Report is what [Verify] found.
type Report struct {
	// Valid says that nothing is wrong with the file. What it proves nevertheless depends on Warnings.
	Valid  bool   `json:"valid"`
	MeshID string `json:"meshId"`
	// Entries is how many the file has, up to what is wrong with it. AnchorCount is how many the log had before, and Count the sum.
	Entries     int64 `json:"entries"`
	AnchorCount int64 `json:"anchorCount"`
	Count       int64 `json:"count"`
	// Hash is the last entry's, First and Last are the times of the first and the newest entry; empty if there is none.
	Hash  string `json:"hash"`
	First string `json:"first"`
	Last  string `json:"last"`
	// Checkpoints is how many there are, Unvouched how many entries are behind the newest.
	Checkpoints int64 `json:"checkpoints"`
	Unvouched   int64 `json:"unvouched"`
	// Key is the key that the checkpoints were verified with; KeyGiven says that it came from the caller and not from the file.
	Key      string `json:"key"`
	KeyGiven bool   `json:"keyGiven"`
	// AfterFound says that the kept checkpoint is in the log at its place.
	AfterFound bool `json:"afterFound"`
	// Checkpoint is the newest good checkpoint, for the auditor to keep; nil if there is none.
	Checkpoint *Kept `json:"checkpoint"`
	// Fault is what is wrong; nil if Valid.
	Fault    *Fault    `json:"fault,omitempty"`
	Warnings []Warning `json:"warnings"`
}

func (r *Report) warn(c Caution, text string) { r.Warnings = append(r.Warnings, Warning{c, text}) }
