package audit_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/audit"
	"github.com/claudemesh/broker/identity"
)

func verify(t testing.TB, text string, o audit.Options) audit.Report {
	t.Helper()
	r, err := audit.Verify(strings.NewReader(text), o)
	require.NoError(t, err)
	return r
}

// What no hash covers, and nothing else says: the time of the export.
var uncovered = regexp.MustCompile(`"exportedAt":"[^"]*"`)

// A changed byte anywhere makes a file invalid, but for a digit of the time of the export.
func TestEveryByteCounts(t *testing.T) {
	t.Parallel()
	text := goodLog().cut(6).file(t)
	bare := uncovered.ReplaceAllString(text, "")
	o := audit.Options{Key: clusterKey.Public()}
	passed := 0
	for i := range len(text) {
		touched := text[:i] + string(text[i]^1) + text[i+1:]
		if i%5 == 4 {
			touched = text[:i] + text[i+1:]
		}
		if verify(t, touched, o).Valid {
			require.Equal(t, bare, uncovered.ReplaceAllString(touched, ""), "byte %d", i)
			passed++
		}
	}
	require.Less(t, passed, 20)
}

// 10,000 entries verify, and what is done to one of them is found where it was done, wherever that is.
func TestLongLogs(t *testing.T) {
	t.Parallel()
	o := audit.Options{Key: clusterKey.Public()}
	r := verify(t, longLog(10_000).file(t), o)
	require.True(t, r.Valid, "%+v", r.Fault)
	require.Empty(t, r.Warnings)
	require.EqualValues(t, 10_000, r.Entries)
	require.EqualValues(t, 10_000/audit.CheckpointEvery, r.Checkpoints)
	const n = 2500
	whole := longLog(n)
	for _, i := range []int{0, 998, 999, 1000, 1777, n - 2, n - 1} {
		for _, c := range []struct {
			name string
			do   func(l *auditLog)
			want audit.Kind
		}{
			{"change", func(l *auditLog) { l.entries[i].Actor = bo }, audit.KindChanged},
			{"delete", func(l *auditLog) { l.entries = slices.Delete(l.entries, i, i+1) }, audit.KindDeleted},
			{"insert", func(l *auditLog) { l.insert(i, l.forge(i-1)) }, audit.KindInserted},
			{"swap", func(l *auditLog) {
				j := min(i, n-2)
				l.entries[j], l.entries[j+1] = l.entries[j+1], l.entries[j]
			}, audit.KindSwapped},
		} {
			l := *whole
			l.entries = slices.Clone(l.entries)
			c.do(&l)
			r := verify(t, l.file(t), o)
			require.False(t, r.Valid, "%s %d", c.name, i)
			if c.name == "delete" && i == n-1 {
				require.Equal(t, audit.KindCut, r.Fault.Kind)
				continue
			}
			require.Equal(t, c.want, r.Fault.Kind, "%s %d: %+v", c.name, i, r.Fault)
			want := i
			if c.name == "swap" {
				want = min(i, n-2)
			}
			require.EqualValues(t, want, r.Fault.Index, "%s %d: %+v", c.name, i, r.Fault)
		}
	}
}

// Who has no key can leave the checkpoints out, and is found where the first must be.
func TestCheckpointsMustBeThere(t *testing.T) {
	t.Parallel()
	o := audit.Options{Key: clusterKey.Public()}
	for _, pruned := range []int{0, 1500} {
		l := longLog(4000)
		if pruned > 0 {
			l.prune(pruned)
		}
		l.entries = slices.DeleteFunc(l.entries, func(e audit.Entry) bool { return e.EventType == identity.CheckpointEvent })
		l.rechain(0)
		r := verify(t, l.file(t), o)
		require.False(t, r.Valid)
		require.Equal(t, audit.KindUnsigned, r.Fault.Kind)
		require.EqualValues(t, audit.CheckpointEvery-1, r.Fault.Index)
		l.cut(audit.CheckpointEvery - 1)
		r = verify(t, l.file(t), o)
		require.True(t, r.Valid, "%+v", r.Fault)
		require.Equal(t, audit.NoCheckpoint, r.Warnings[0].Code)
	}
	l := longLog(2*audit.CheckpointEvery - 1)
	l.add("peer_left", ana, `{}`)
	r := verify(t, l.file(t), o)
	require.Equal(t, audit.KindUnsigned, r.Fault.Kind, "the store puts a checkpoint there")
}

// Whatever else there is in memory, a line is not longer than it may be.
func TestLinesAreBounded(t *testing.T) {
	t.Parallel()
	l := goodLog()
	l.entries[6].Payload = []byte(`{"x":"` + strings.Repeat("y", audit.MaxLine) + `"}`)
	l.link(6)
	w, err := audit.NewWriter(io.Discard, l.header)
	require.NoError(t, err)
	require.ErrorContains(t, w.Write(l.entries[6]), "exceeds the limit")
	for _, size := range []int{16<<10 - 1, 16 << 10, 16<<10 + 1, 500_000, audit.MaxLine} {
		l := goodLog()
		l.entries[6].Payload = []byte(`{"x":""}`)
		short := goodLog()
		short.entries[6].Payload = l.entries[6].Payload
		lines := strings.Split(short.file(t), "\n")
		l.entries[6].Payload = []byte(`{"x":"` + strings.Repeat("y", size-len(lines[7])-1) + `"}`)
		l.link(6)
		require.Len(t, strings.Split(l.file(t), "\n")[7], size-1)
		require.True(t, verify(t, l.file(t), audit.Options{Key: clusterKey.Public()}).Valid, size)
	}
	text := goodLog().file(t)
	at := strings.Index(text, `{"id":7,`)
	for _, long := range []string{
		text[:at] + strings.Repeat("x", audit.MaxLine) + text[at:],
		text[:at] + strings.Repeat("x", audit.MaxLine+1),
		strings.Repeat("x", 2*audit.MaxLine),
	} {
		r := verify(t, long, audit.Options{})
		require.Equal(t, audit.KindMalformed, r.Fault.Kind)
		require.Contains(t, r.Fault.Text, "longer than")
	}
}

func TestVerifyOptions(t *testing.T) {
	t.Parallel()
	good := goodLog()
	text := good.file(t)
	kept := good.kept(t, 9)
	with := func(change func(k *audit.Kept)) *audit.Kept {
		k := *kept
		change(&k)
		return &k
	}
	for name, o := range map[string]audit.Options{
		"key too short":         {Key: "ab"},
		"key no hex":            {Key: strings.Repeat("x", 64)},
		"kept by another key":   {Key: forgerKey.Public(), After: kept},
		"kept and changed":      {After: with(func(k *audit.Kept) { k.Count++ })},
		"kept of another mesh":  {After: with(func(k *audit.Kept) { k.MeshID = "other" })},
		"kept without mesh":     {After: with(func(k *audit.Kept) { k.MeshID = "" })},
		"kept without hash":     {After: with(func(k *audit.Kept) { k.Hash = "" })},
		"kept, unsigned":        {After: with(func(k *audit.Kept) { k.Signature = "" })},
		"kept, signed by other": {After: with(func(k *audit.Kept) { k.Key = forgerKey.Public() })},
		"kept, negative":        {After: with(func(k *audit.Kept) { k.Count = -1 })},
		"end, negative":         {End: &audit.Trailer{Count: -1, Hash: strings.Repeat("0", 64)}},
		"end without hash":      {End: &audit.Trailer{Count: 1}},
		"end of nothing":        {End: &audit.Trailer{Count: 1, Hash: identity.ChainGenesis}},
		"kept, time":            {After: with(func(k *audit.Kept) { k.CreatedAt = "2026-05-02T20:04:41Z" })},
	} {
		_, err := audit.Verify(strings.NewReader(text), o)
		require.Error(t, err, name)
	}
	require.True(t, verify(t, text, audit.Options{Key: strings.ToUpper(clusterKey.Public())}).Valid)
	r := verify(t, text, audit.Options{Key: clusterKey.Public(), Now: start.Add(1000 * time.Hour), Interval: -1})
	require.Empty(t, r.Warnings, "ages are not looked at")
	_, err := audit.Verify(io.MultiReader(strings.NewReader(text[:500]), iotest.ErrReader(errors.New("disk"))), audit.Options{})
	require.ErrorContains(t, err, "disk", "what cannot be read is neither valid nor broken")
}

// What a report holds for the auditor to keep is what the next verification takes.
func TestReportsCheckpointIsKept(t *testing.T) {
	t.Parallel()
	l := goodLog()
	r := verify(t, l.file(t), audit.Options{Key: clusterKey.Public()})
	require.Equal(t, l.kept(t, 13), r.Checkpoint)
	whole, err := json.Marshal(r)
	require.NoError(t, err)
	bare, err := json.Marshal(r.Checkpoint)
	require.NoError(t, err)
	end := &audit.Trailer{Count: r.Count, Hash: r.Hash}
	for raw, want := range map[string]*audit.Trailer{
		string(whole): end, string(bare): nil, " " + string(bare) + "\n": nil,
		strings.Replace(string(whole), `"valid":true`, `"valid":false`, 1): nil, // it ends where the fault is, and is not what the log was
	} {
		kept, got, err := audit.ParseKept([]byte(raw))
		require.NoError(t, err)
		require.Equal(t, *r.Checkpoint, kept)
		require.Equal(t, want, got)
	}
	for _, raw := range []string{"", "x", "{}", `[]`, `{"checkpoint":null}`, strings.Replace(string(bare), "count", "counts", 1),
		strings.Replace(string(whole), `"count":14`, `"count":13`, 1), strings.Replace(string(whole), r.Hash, "x", 1),
		strings.Replace(string(whole), meshID, "other", 1)} {
		_, _, err := audit.ParseKept([]byte(raw))
		require.Error(t, err, raw)
	}
	l.add("peer_left", ana, `{}`).checkpoint()
	next := verify(t, l.file(t), audit.Options{Key: clusterKey.Public(), After: r.Checkpoint})
	require.True(t, next.Valid)
	require.True(t, next.AfterFound)
	require.EqualValues(t, 15, next.Checkpoint.Count)
}

// pages gives a log to Export in pages of n.
func (l *auditLog) pages(n int) func(after int64) (audit.Page, error) {
	return func(after int64) (audit.Page, error) {
		p := audit.Page{
			MeshID: l.header.MeshID, Key: l.header.Key, AnchorCount: l.header.AnchorCount, AnchorHash: l.header.AnchorHash,
			Count: l.trailer.Count, Hash: l.trailer.Hash,
		}
		from := slices.IndexFunc(l.entries, func(e audit.Entry) bool { return e.ID > after })
		if from >= 0 {
			to := min(from+n, len(l.entries))
			p.Entries, p.More = slices.Clone(l.entries[from:to]), to < len(l.entries)
		}
		return p, nil
	}
}

func TestExportIsTheFile(t *testing.T) {
	t.Parallel()
	at := start.Add(time.Hour)
	for _, n := range []int{1, 2, 7, 13, 14, 100} {
		l := goodLog()
		var out strings.Builder
		var told []int64
		got, err := audit.Export(&out, at, l.pages(n), func(done, total int64) {
			require.EqualValues(t, 14, total)
			told = append(told, done)
		})
		require.NoError(t, err)
		require.Equal(t, l.file(t), out.String())
		require.Equal(t, audit.Exported{Header: l.header, Trailer: l.trailer, Entries: 14}, got)
		require.Len(t, told, (14+n-1)/n)
		require.EqualValues(t, 14, told[len(told)-1])
	}
	var out strings.Builder
	empty := newLog()
	empty.end()
	_, err := audit.Export(&out, at, empty.pages(1), nil)
	require.NoError(t, err)
	require.Equal(t, empty.file(t), out.String())
}

// The log grows and loses its oldest entries while it is exported.
func TestExportWhileTheLogChanges(t *testing.T) {
	t.Parallel()
	whole := goodLog().file(t)
	l := goodLog()
	calls := 0
	var out strings.Builder
	_, err := audit.Export(&out, start.Add(time.Hour), func(after int64) (audit.Page, error) {
		if calls++; calls > 1 {
			l.add("peer_left", ana, `{}`)
		}
		if calls == 3 {
			l.prune(4) // which the export has
		}
		return l.pages(2)(after)
	}, nil)
	require.NoError(t, err)
	require.Equal(t, whole, out.String(), "as it was at the first page")

	l, calls = goodLog(), 0
	out.Reset()
	_, err = audit.Export(&out, start, func(after int64) (audit.Page, error) {
		if calls++; calls == 3 {
			l.prune(5)
		}
		return l.pages(2)(after)
	}, nil)
	require.ErrorIs(t, err, audit.ErrPruned)
	require.Equal(t, audit.KindCut, verify(t, out.String(), audit.Options{}).Fault.Kind, "what there is is torn")
}

func TestExportRefusesPagesThatDoNotFit(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(p *audit.Page){
		"another mesh":    func(p *audit.Page) { p.MeshID = "other" },
		"another key":     func(p *audit.Page) { p.Key = forgerKey.Public() },
		"shorter":         func(p *audit.Page) { p.Count-- },
		"the same again":  func(p *audit.Page) { p.Entries = goodLog().entries[:4] },
		"nothing more":    func(p *audit.Page) { p.Entries, p.More = nil, true },
		"unknown failure": nil,
	} {
		l := goodLog()
		_, err := audit.Export(io.Discard, start, func(after int64) (audit.Page, error) {
			p, err := l.pages(4)(after)
			if after == 0 {
				return p, err
			}
			if change == nil {
				return p, errors.New("gone")
			}
			change(&p)
			return p, err
		}, nil)
		require.Error(t, err, name)
		require.NotErrorIs(t, err, audit.ErrPruned, name)
	}
	disk := errors.New("disk")
	_, err := audit.Export(failing{disk}, start, goodLog().pages(4), nil)
	require.ErrorIs(t, err, disk)
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// A log that is broken is exported nevertheless, and its file says how.
func TestExportKeepsTheEvidence(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(l *auditLog)
		want audit.Kind
	}{
		"changed at a page's end": {func(l *auditLog) { l.entries[3].Actor = bo }, audit.KindChanged},
		"deleted between pages":   {func(l *auditLog) { l.entries = slices.Delete(l.entries, 4, 5) }, audit.KindDeleted},
		"cut":                     {func(l *auditLog) { l.entries = l.entries[:12] }, audit.KindCut},
		"another head":            {func(l *auditLog) { l.trailer.Hash = strings.Repeat("0", 64) }, audit.KindChanged},
		"more than there were":    {func(l *auditLog) { l.trailer.Count -= 2 }, audit.KindChanged},
	} {
		l := goodLog()
		c.do(l)
		var out strings.Builder
		_, err := audit.Export(&out, start, l.pages(4), nil)
		require.NoError(t, err, name)
		r := verify(t, out.String(), audit.Options{Key: clusterKey.Public()})
		require.False(t, r.Valid, name)
		require.Equal(t, c.want, r.Fault.Kind, "%s: %+v", name, r.Fault)
	}
	w, err := audit.NewWriter(io.Discard, newLog().header)
	require.NoError(t, err)
	require.Error(t, w.Write(audit.Entry{ID: 1, EventType: "x", Payload: []byte(`{`)}))
}

// Verify never panics. What it accepts has one spelling, and against a key and a kept checkpoint only that log is accepted, or its end.
func FuzzVerify(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.jsonl"))
	if err != nil || len(files) == 0 {
		f.Fatal(err, files)
	}
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	good := goodLog()
	kept := good.kept(f, 13)
	f.Fuzz(func(t *testing.T, raw []byte) {
		report := verify(t, string(raw), audit.Options{})
		again := verify(t, string(raw), audit.Options{})
		require.Equal(t, report, again)
		require.Equal(t, report.Valid, report.Fault == nil)
		known := verify(t, string(raw), audit.Options{After: kept})
		require.False(t, known.Valid && !report.Valid, "who knows more believes less")
		if !report.Valid {
			return
		}
		header, entries, trailer := decode(t, string(raw))
		var out strings.Builder
		w, err := audit.NewWriter(&out, header)
		require.NoError(t, err)
		for _, e := range entries {
			require.NoError(t, w.Write(e))
		}
		require.NoError(t, w.Close(trailer))
		require.Equal(t, string(raw), out.String())
		if !known.Valid || header.AnchorCount > kept.Count+1 { // what was kept lies before the file
			return
		}
		require.True(t, known.AfterFound)
		require.Equal(t, good.header.MeshID, header.MeshID)
		require.Equal(t, good.header.Key, header.Key)
		for i, want := range good.entries[header.AnchorCount:] {
			require.Equal(t, want, entries[i])
		}
	})
}

// decode reads a file that is valid.
func decode(t testing.TB, text string) (audit.Header, []audit.Entry, audit.Trailer) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	var h audit.Header
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &h))
	entries := []audit.Entry{}
	for _, line := range lines[1 : len(lines)-1] {
		var e struct {
			audit.Entry
			Payload json.RawMessage
		}
		require.NoError(t, json.Unmarshal([]byte(line), &e))
		e.Entry.Payload = e.Payload
		entries = append(entries, e.Entry)
	}
	var end audit.Trailer
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &end))
	return h, entries, end
}

func BenchmarkVerify(b *testing.B) {
	text := longLog(10_000).file(b)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		verify(b, text, audit.Options{Key: clusterKey.Public()})
	}
}
