package audit_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/audit"
	"github.com/claudemesh/broker/identity"
)

var update = flag.Bool("update", false, "write testdata anew")

// vector is a case of testdata/vectors.json, for whoever verifies files by another program: the file NAME.jsonl, what the auditor knows,
// and what there is to say. The texts of a report are for people and no part of the format.
type vector struct {
	Name     string         `json:"name"`
	Key      string         `json:"key,omitempty"`
	After    *audit.Kept    `json:"after,omitempty"`
	End      *audit.Trailer `json:"end,omitempty"`
	Interval int64          `json:"intervalMs,omitempty"`
	Now      string         `json:"now,omitempty"`
	Report   any            `json:"report"`
}

// tampered is what somebody did to the good log, and what is to be found.
type tampered struct {
	name  string
	do    func(l *auditLog)      // to the log before it is written
	text  func(s string) string  // to the file
	after int                    // entry of the good log whose checkpoint was kept; 0: none
	blind bool                   // no key is given
	want  audit.Kind             // empty: nothing is wrong
	index int64                  // of the entry that is named; -1: none
	open  []audit.Caution        // warnings
	set   func(o *audit.Options) // what else the auditor knows
}

func replaceOnce(old, with string) func(string) string {
	return func(s string) string {
		if strings.Count(s, old) != 1 {
			panic(old + " does not stand there once")
		}
		return strings.Replace(s, old, with, 1)
	}
}

// later is an auditor who looks so long after the first entry.
func later(d time.Duration) func(*audit.Options) {
	return func(o *audit.Options) { o.Now = start.Add(d) }
}

// tail adds two entries behind the last checkpoint.
func tail(l *auditLog) { l.add("message_sent", ana, `{}`).add("peer_left", ana, `{}`) }

// ended is an auditor who kept where the log ended after what was done to it.
func ended(do func(l *auditLog)) func(*audit.Options) {
	l := goodLog()
	do(l)
	return func(o *audit.Options) { o.End = &l.trailer }
}

func tamperings() []tampered {
	const at = 6 // the entry that most is done to
	return []tampered{
		{name: "good", index: -1},
		{name: "good-after", after: 9, index: -1},
		{name: "good-without-key", blind: true, index: -1, open: []audit.Caution{audit.UntrustedKey}},
		{name: "good-after-without-key", after: 9, blind: true, index: -1}, // the kept checkpoint names the key
		{name: "good-in-time", set: later(time.Hour), index: -1},
		{name: "good-and-old", set: later(2 * time.Hour), index: -1, open: []audit.Caution{audit.StaleCheckpoint}},
		{name: "good-and-old-at-its-own-interval", set: func(o *audit.Options) { later(24 * time.Hour)(o); o.Interval = 48 * time.Hour }, index: -1},
		{name: "empty", do: func(l *auditLog) { l.cut(0) }, index: -1, open: []audit.Caution{audit.NoCheckpoint}},
		{name: "pruned", do: func(l *auditLog) { l.prune(6) }, index: -1},
		{name: "pruned-after", do: func(l *auditLog) { l.prune(6) }, after: 9, index: -1},
		{name: "pruned-after-anchor", do: func(l *auditLog) { l.prune(5) }, after: 4, index: -1}, // the kept checkpoint is the entry before the first
		{name: "pruned-before-after", do: func(l *auditLog) { l.prune(6) }, after: 4, index: -1, open: []audit.Caution{audit.BeforeAnchor}},
		{name: "tail-not-vouched-for", do: tail, index: -1, open: []audit.Caution{audit.Unvouched}},
		{name: "tail-kept", do: func(l *auditLog) { tail(l); l.add("peer_left", bo, `{}`).checkpoint() }, set: ended(tail), index: -1},
		{name: "tail-kept-to-the-last", do: tail, set: ended(tail), index: -1, open: []audit.Caution{audit.Unvouched}},
		{name: "tail-rewritten", do: func(l *auditLog) { tail(l); l.entries[14].Actor = bo; l.rechain(14) }, index: -1, open: []audit.Caution{audit.Unvouched}},
		{name: "tail-rewritten-and-its-end-kept", do: func(l *auditLog) { tail(l); l.entries[14].Actor = bo; l.rechain(14); l.checkpoint() }, set: ended(tail), want: audit.KindRewritten, index: 15},
		{name: "tail-cut", do: func(l *auditLog) { tail(l); l.cut(15) }, index: -1, open: []audit.Caution{audit.Unvouched}},
		{name: "tail-cut-and-its-end-kept", do: func(l *auditLog) { tail(l); l.cut(15) }, set: ended(tail), want: audit.KindCut, index: -1},
		{name: "tail-pruned", do: func(l *auditLog) { tail(l); l.add("peer_left", bo, `{}`).checkpoint().prune(16) }, set: ended(tail), index: -1},
		{name: "tail-rewritten-and-pruned", do: func(l *auditLog) {
			tail(l)
			l.entries[14].Actor = bo
			l.rechain(14)
			l.add("peer_left", bo, `{}`).checkpoint().prune(16)
		}, set: ended(tail), want: audit.KindRewritten, index: -1},
		{name: "tail-pruned-and-more", do: func(l *auditLog) { tail(l); l.add("peer_left", bo, `{}`).checkpoint().prune(17) }, set: ended(tail), index: -1, open: []audit.Caution{audit.BeforeAnchor}},
		{name: "tail-too-old", do: func(l *auditLog) { l.at = l.at.Add(2 * time.Hour); l.add("peer_left", ana, `{}`) }, index: -1, open: []audit.Caution{audit.Unvouched, audit.OldCheckpoint}},
		{name: "time-back", do: func(l *auditLog) {
			l.entries[at].CreatedAt = identity.ChainTime(start.Add(-time.Hour))
			l.link(at)
		}, index: -1, open: []audit.Caution{audit.TimeBack}},
		{name: "time-back-a-little", do: func(l *auditLog) {
			l.entries[at].CreatedAt = identity.ChainTime(start)
			l.link(at)
		}, index: -1},

		{name: "changed-id", do: func(l *auditLog) { l.entries[at].ID = l.entries[at-1].ID }, want: audit.KindChanged, index: at},
		{name: "changed-id-that-rises", do: func(l *auditLog) {
			for i := at; i < len(l.entries); i++ {
				l.entries[i].ID += 3
			}
		}, want: audit.KindChanged, index: at},
		{name: "changed-event-type", do: func(l *auditLog) { l.entries[at].EventType = "apikey_revoked" }, want: audit.KindChanged, index: at},
		{name: "changed-actor", do: func(l *auditLog) { l.entries[at].Actor = ana }, want: audit.KindChanged, index: at},
		{name: "changed-actor-to-none", do: func(l *auditLog) { l.entries[at].Actor = "" }, want: audit.KindChanged, index: at},
		{name: "changed-actor-from-none", do: func(l *auditLog) { l.entries[1].Actor = ana }, want: audit.KindChanged, index: 1},
		{name: "changed-actor-to-the-text-null", do: func(l *auditLog) { l.entries[1].Actor = "null" }, want: audit.KindMalformed, index: 1},
		{name: "changed-payload", do: func(l *auditLog) { l.entries[at].Payload = []byte(`{}`) }, want: audit.KindChanged, index: at},
		{name: "changed-prev-hash", do: func(l *auditLog) { l.entries[at].PrevHash = l.entries[0].Hash }, want: audit.KindChanged, index: at},
		{name: "changed-hash", do: func(l *auditLog) { l.entries[at].Hash = l.entries[0].Hash }, want: audit.KindChanged, index: at},
		{name: "changed-created-at", do: func(l *auditLog) { l.entries[at].CreatedAt = identity.ChainTime(start) }, want: audit.KindChanged, index: at},
		{name: "changed-with-its-hash", do: func(l *auditLog) { l.entries[at].Actor = ana; l.rehash(at) }, want: audit.KindChanged, index: at},
		{name: "changed-with-both-hashes", do: func(l *auditLog) {
			l.entries[at].PrevHash, l.entries[at].Actor = l.entries[0].Hash, ana
		}, want: audit.KindChanged, index: at},
		{name: "changed-first-with-its-hash", do: func(l *auditLog) { l.entries[0].Actor = bo; l.rehash(0) }, want: audit.KindChanged, index: 0},
		{name: "changed-last", do: func(l *auditLog) { l.add("peer_left", ana, `{}`); l.entries[14].Actor = bo }, want: audit.KindChanged, index: 14},
		{name: "changed-checkpoint", do: func(l *auditLog) { l.entries[9].Payload = l.entries[4].Payload }, want: audit.KindChanged, index: 9},
		{name: "deleted", do: func(l *auditLog) { l.entries = slices.Delete(l.entries, at, at+1) }, want: audit.KindDeleted, index: at},
		{name: "deleted-two", do: func(l *auditLog) { l.entries = slices.Delete(l.entries, at, at+2) }, want: audit.KindDeleted, index: at},
		{name: "deleted-first", do: func(l *auditLog) { l.entries = l.entries[1:] }, want: audit.KindDeleted, index: 0},
		{name: "deleted-before-a-checkpoint", do: func(l *auditLog) { l.entries = slices.Delete(l.entries, 8, 9) }, want: audit.KindDeleted, index: 8},
		{name: "deleted-a-checkpoint", do: func(l *auditLog) { l.entries = slices.Delete(l.entries, 9, 10) }, want: audit.KindDeleted, index: 9},
		{name: "deleted-behind-the-last-checkpoint", do: func(l *auditLog) {
			l.add("peer_left", ana, `{}`).add("peer_left", ana, `{}`)
			l.entries = slices.Delete(l.entries, 14, 15)
		}, want: audit.KindDeleted, index: 14},
		{name: "deleted-last", do: func(l *auditLog) { l.entries = l.entries[:13] }, want: audit.KindCut, index: -1},
		{name: "swapped", do: func(l *auditLog) { l.entries[at], l.entries[at+1] = l.entries[at+1], l.entries[at] }, want: audit.KindSwapped, index: at},
		{name: "swapped-with-ids", do: func(l *auditLog) {
			l.entries[at], l.entries[at+1] = l.entries[at+1], l.entries[at]
			l.entries[at].ID, l.entries[at+1].ID = l.entries[at+1].ID, l.entries[at].ID
		}, want: audit.KindSwapped, index: at},
		{name: "swapped-with-a-checkpoint", do: func(l *auditLog) { l.entries[8], l.entries[9] = l.entries[9], l.entries[8] }, want: audit.KindSwapped, index: 8},
		{name: "moved", do: func(l *auditLog) { l.entries[5], l.entries[8] = l.entries[8], l.entries[5] }, want: audit.KindSwapped, index: 5},
		{name: "inserted", do: func(l *auditLog) { l.insert(at, l.forge(at-1)) }, want: audit.KindInserted, index: at},
		{name: "inserted-first", do: func(l *auditLog) { l.insert(0, l.forge(-1)) }, want: audit.KindInserted, index: 0},
		{name: "inserted-two", do: func(l *auditLog) {
			l.insert(at, l.forge(at-1))
			l.insert(at+1, l.forge(at))
		}, want: audit.KindInserted, index: at},
		{name: "inserted-without-link", do: func(l *auditLog) {
			e := l.forge(at - 1)
			e.PrevHash = strings.Repeat("0", 64)
			l.insert(at, e)
			l.rehash(at)
		}, want: audit.KindInserted, index: at},
		{name: "repeated", do: func(l *auditLog) { l.insert(at+1, l.entries[at]) }, want: audit.KindInserted, index: at + 1},
		{name: "repeated-later", do: func(l *auditLog) { l.insert(at+2, l.entries[at]) }, want: audit.KindInserted, index: at + 2},
		{name: "replaced", do: func(l *auditLog) { l.entries[at] = l.forge(at - 1) }, want: audit.KindChanged, index: at},
		{name: "broken", do: func(l *auditLog) {
			for _, i := range []int{at, at + 1, at + 3} {
				l.entries[i].PrevHash = strings.Repeat("0", 64)
				l.rehash(i)
			}
		}, want: audit.KindBroken, index: at},

		{name: "cut", do: func(l *auditLog) { l.cut(11) }, after: 13, want: audit.KindCut, index: -1},
		{name: "cut-and-nothing-kept", do: func(l *auditLog) { l.cut(11) }, index: -1, open: []audit.Caution{audit.Unvouched}},
		{name: "cut-and-nothing-kept-but-the-time", do: func(l *auditLog) { l.cut(11) }, set: later(3 * time.Hour), index: -1, open: []audit.Caution{audit.Unvouched, audit.StaleCheckpoint}},
		{name: "cut-to-nothing", do: func(l *auditLog) { l.cut(0) }, after: 4, want: audit.KindCut, index: -1},
		{name: "torn", text: func(s string) string { return s[:len(s)-40] }, want: audit.KindCut, index: -1},
		{name: "torn-at-a-line", text: func(s string) string { return s[:strings.LastIndex(s[:len(s)-1], "\n")+1] }, want: audit.KindCut, index: -1},

		{name: "rewritten-from-an-entry", do: func(l *auditLog) { l.entries[at].Actor = ana; l.rechain(at) }, want: audit.KindRewritten, index: 9},
		{name: "rewritten-without-the-key", do: func(l *auditLog) { l.entries[2].Actor = bo; l.rechain(0) }, want: audit.KindRewritten, index: 4},
		{name: "rewritten-with-another-key", do: func(l *auditLog) {
			l.key, l.header.Key = forgerKey, forgerKey.Public()
			l.entries[2].Actor = bo
			l.link(0)
		}, want: audit.KindRewritten, index: 4},
		{name: "rewritten-with-another-key-and-nothing-known", do: func(l *auditLog) {
			l.key, l.header.Key = forgerKey, forgerKey.Public()
			l.entries[2].Actor = bo
			l.link(0)
		}, blind: true, index: -1, open: []audit.Caution{audit.UntrustedKey}},
		{name: "rewritten-without-checkpoints", do: func(l *auditLog) {
			l.entries = slices.DeleteFunc(l.entries, func(e audit.Entry) bool { return e.EventType == identity.CheckpointEvent })
			l.rechain(0)
		}, index: -1, open: []audit.Caution{audit.NoCheckpoint}},
		{name: "rewritten-with-the-key", do: func(l *auditLog) { l.entries[2].Actor = bo; l.link(0) }, after: 4, want: audit.KindRewritten, index: 4},
		{name: "rewritten-with-the-key-and-without-checkpoints", do: func(l *auditLog) {
			l.entries[4].EventType, l.entries[4].Payload = "peer_left", []byte(`{}`)
			l.link(0)
		}, after: 4, want: audit.KindRewritten, index: 4},
		{name: "rewritten-with-the-key-and-nothing-kept", do: func(l *auditLog) { l.entries[2].Actor = bo; l.link(0) }, index: -1},
		{name: "rewritten-with-the-key-and-pruned", do: func(l *auditLog) { l.entries[2].Actor = bo; l.link(0); l.prune(5) }, after: 4, want: audit.KindRewritten, index: -1},
		{name: "checkpoint-that-is-none", do: func(l *auditLog) { l.entries[4].Payload = []byte(`{}`); l.rechain(4) }, want: audit.KindRewritten, index: 4},
		{name: "checkpoint-by-a-member", do: func(l *auditLog) { l.entries[4].Actor = ana; l.rechain(4) }, want: audit.KindRewritten, index: 4},
		{name: "anchor-count", do: func(l *auditLog) { l.prune(6); l.header.AnchorCount++; l.trailer.Count++ }, want: audit.KindAnchor, index: 0},
		{name: "anchor-count-with-ids", do: func(l *auditLog) { l.prune(6); l.header.AnchorCount++; l.rechain(0) }, want: audit.KindAnchor, index: 3},
		{name: "anchor-hash", do: func(l *auditLog) { l.prune(6); l.header.AnchorHash = strings.Repeat("0", 64) }, want: audit.KindAnchor, index: -1},
		{name: "anchor-moved", do: func(l *auditLog) { l.prune(6); l.entries = l.entries[1:] }, want: audit.KindDeleted, index: 0},
		{name: "header-key", do: func(l *auditLog) { l.header.Key = forgerKey.Public() }, want: audit.KindKey, index: -1},
		{name: "header-key-and-nothing-known", do: func(l *auditLog) { l.header.Key = forgerKey.Public() }, blind: true, want: audit.KindRewritten, index: 4},
		{name: "other-mesh", do: func(l *auditLog) { l.header.MeshID = "Mesh0000000000000000000000000002" }, want: audit.KindChanged, index: 0},
		{name: "other-mesh-after", do: func(l *auditLog) { l.header.MeshID = "Mesh0000000000000000000000000002"; l.link(0) }, after: 9, want: audit.KindMesh, index: -1},
		{name: "trailer-count", do: func(l *auditLog) { l.trailer.Count-- }, want: audit.KindChanged, index: -1},
		{name: "trailer-hash", do: func(l *auditLog) { l.trailer.Hash = l.entries[0].Hash }, want: audit.KindChanged, index: -1},

		{name: "format", text: replaceOnce("audit/1", "audit/2"), want: audit.KindMalformed, index: -1},
		{name: "no-header", text: func(s string) string { return s[strings.Index(s, "\n")+1:] }, want: audit.KindMalformed, index: -1},
		{name: "duplicate-name", text: replaceOnce(`{"id":7,`, `{"id":7,"id":7,`), want: audit.KindMalformed, index: at},
		{name: "unknown-name", text: replaceOnce(`{"id":7,`, `{"id":7,"x":1,`), want: audit.KindMalformed, index: at},
		{name: "other-case", text: replaceOnce(`{"id":7,`, `{"ID":7,`), want: audit.KindMalformed, index: at},
		{name: "white-space", text: replaceOnce(`{"id":7,`, `{"id": 7,`), want: audit.KindMalformed, index: at},
		{name: "escapes", text: replaceOnce(`"apikey_created"`, `"\u0061pikey_created"`), want: audit.KindMalformed, index: at},
		{name: "number", text: replaceOnce(`{"id":7,`, `{"id":0.7e1,`), want: audit.KindMalformed, index: at},
		{name: "payload-not-canonical", text: replaceOnce(`{"capabilities":`, `{ "capabilities":`), want: audit.KindMalformed, index: at},
		{name: "payload-no-object", do: func(l *auditLog) { l.entries[at].Payload = []byte(`[]`); l.rechain(at) }, want: audit.KindMalformed, index: at},
		{name: "type-with-a-separator", do: func(l *auditLog) { l.entries[at].EventType = "apikey|created"; l.rechain(at) }, want: audit.KindMalformed, index: at},
		{name: "time-in-another-zone", text: replaceOnce(`"2026-05-02T20:04:11.000Z"`, `"2026-05-02T20:04:11.000+00:00"`), want: audit.KindMalformed, index: at},
		{name: "trailing-line", text: func(s string) string { return s + "{}\n" }, want: audit.KindMalformed, index: -1},
		{name: "trailing-bytes", text: func(s string) string { return s + " " }, want: audit.KindMalformed, index: -1},
		{name: "carriage-returns", text: func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }, want: audit.KindMalformed, index: -1},
		{name: "nothing", text: func(string) string { return "" }, want: audit.KindCut, index: -1},
	}
}

// Each way to touch a log is found, and the entry is named; a sound one is valid, and what it leaves open is said. The same cases are the
// vectors for other programs.
func TestD39TamperedLogsAreFound(t *testing.T) {
	t.Parallel()
	good := goodLog()
	var vectors []vector
	for _, c := range tamperings() {
		l := goodLog()
		if c.do != nil {
			c.do(l)
		}
		text := l.file(t)
		if c.text != nil {
			text = c.text(text)
		}
		v := vector{Name: c.name}
		o := audit.Options{}
		if !c.blind {
			o.Key = clusterKey.Public()
		}
		if c.after != 0 {
			o.After = good.kept(t, c.after)
		}
		if c.set != nil {
			c.set(&o)
		}
		v.Key, v.After, v.End, v.Interval = o.Key, o.After, o.End, o.Interval.Milliseconds()
		if !o.Now.IsZero() {
			v.Now = identity.ChainTime(o.Now)
		}
		report, err := audit.Verify(strings.NewReader(text), o)
		require.NoError(t, err, c.name)
		require.Equal(t, c.want == "", report.Valid, "%s: %+v", c.name, report.Fault)
		if c.want != "" {
			require.Equal(t, c.want, report.Fault.Kind, "%s: %+v", c.name, report.Fault)
			require.Equal(t, c.index, report.Fault.Index, "%s: %+v", c.name, report.Fault)
			if c.index >= 0 {
				require.Equal(t, c.index+2, report.Fault.Line, "%s: %+v", c.name, report.Fault)
				if c.want != audit.KindMalformed {
					require.Equal(t, l.entries[c.index].ID, report.Fault.ID, "%s: %+v", c.name, report.Fault)
				}
			}
			require.NotEmpty(t, report.Fault.Text)
		}
		var open []audit.Caution
		for _, w := range report.Warnings {
			open = append(open, w.Code)
		}
		require.Equal(t, c.open, open, c.name)
		require.Equal(t, report.Valid && c.after != 0 && !slices.Contains(c.open, audit.BeforeAnchor), report.AfterFound, c.name)

		path := filepath.Join("testdata", c.name+".jsonl")
		if *update {
			require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		}
		stored, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, text, string(stored), "%s differs; -update writes it anew", path)
		v.Report = report
		vectors = append(vectors, v)
	}
	checkVectors(t, vectors)
}

// checkVectors compares with testdata/vectors.json.
func checkVectors(t *testing.T, vectors []vector) {
	t.Helper()
	raw, err := json.MarshalIndent(struct {
		Format  string   `json:"format"`
		Seed    string   `json:"seed"`
		Key     string   `json:"key"`
		Vectors []vector `json:"vectors"`
	}{audit.Format, clusterKey.SeedHex(), clusterKey.Public(), vectors}, "", "  ")
	require.NoError(t, err)
	path := filepath.Join("testdata", "vectors.json")
	if *update {
		require.NoError(t, os.WriteFile(path, append(raw, '\n'), 0o644))
	}
	stored, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(stored), string(raw)+"\n", "%s differs; -update writes it anew", path)
	files, err := filepath.Glob(filepath.Join("testdata", "*.jsonl"))
	require.NoError(t, err)
	require.Len(t, files, len(vectors), "a file that is no vector")
}
