package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/claudemesh/broker/audit"
	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

type auditCmd struct {
	Log    auditLogCmd    `cmd:"" help:"Show what happened: as an admin everything, else what you did."`
	Export auditExportCmd `cmd:"" help:"Write the whole log as a file that can be verified anywhere. For admins."`
	Verify auditVerifyCmd `cmd:"" help:"Verify an exported file without a broker; or, without a file, have the broker verify its log."`
}

type auditLogCmd struct {
	EventType string `name:"type" placeholder:"TYPE" help:"Only entries of this type, such as member_banned."`
	Limit     int    `short:"n" default:"50" help:"How many, at most 500."`
	Offset    int    `default:"0" help:"How many newer ones to leave out."`
}

func (auditLogCmd) Help() string {
	return `The newest first. What a broker shows can be verified only in an export.

JSON: one object per entry: type audit_entry, id, eventType, actor, payload, hash, createdAt.`
}

type auditEntryJSON struct {
	Type      string          `json:"type"` // audit_entry
	ID        int64           `json:"id"`
	EventType string          `json:"eventType"`
	Actor     string          `json:"actor"`
	Payload   json.RawMessage `json:"payload"`
	Hash      string          `json:"hash"`
	CreatedAt string          `json:"createdAt"`
}

func (c auditLogCmd) Run(p *program) error {
	if c.Limit < 1 || c.Limit > wire.MaxAuditLimit || c.Offset < 0 || c.Offset > wire.MaxAuditOffset {
		return failf(exitUsage, "usage", "--limit is 1 to %d, and --offset 0 to %d.", wire.MaxAuditLimit, wire.MaxAuditOffset)
	}
	return p.ask(func(ctx context.Context, conn *client.Client) error {
		got, err := conn.AuditQuery(ctx, client.AuditQueryOptions{EventType: c.EventType, Limit: c.Limit, Offset: c.Offset})
		if err != nil {
			return err
		}
		rows := make([][]cell, len(got.Entries))
		for i, e := range got.Entries {
			if p.json {
				v := auditEntryJSON{"audit_entry", e.ID, e.EventType, e.Actor, e.Payload, e.Hash, e.CreatedAt}
				if err := p.object(v); err != nil {
					return err
				}
				continue
			}
			rows[i] = []cell{
				{p.dayOf(e.CreatedAt), dim}, {line(e.EventType), bold}, {cut(name(e.Actor), maxCell), ""}, {fmt.Sprint(e.ID), dim},
				{cut(details(e.Payload), 2*maxCell), ""},
			}
		}
		switch {
		case p.json:
			return nil
		case len(rows) == 0:
			p.note("There are no such entries, or none that you may see.")
			return nil
		}
		if err := p.table([]string{"TIME", "EVENT", "ACTOR", "ID", "DETAILS"}, rows); err != nil {
			return err
		}
		if left := got.Total - c.Offset - len(rows); left > 0 {
			p.note("There are older ones: --offset %d shows them.", c.Offset+len(rows))
		}
		return nil
	})
}

// details is a payload for people: name=value, by name.
func details(payload json.RawMessage) string {
	var members map[string]json.RawMessage
	if json.Unmarshal(payload, &members) != nil {
		return ""
	}
	parts := make([]string, 0, len(members))
	for k, v := range members {
		var text string
		if json.Unmarshal(v, &text) != nil {
			text = string(v)
		}
		parts = append(parts, line(k)+"="+line(text))
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

type auditExportCmd struct {
	Out string `short:"o" name:"out" placeholder:"FILE" type:"path" help:"Where to write it, replacing what is there. Default: stdout."`
}

func (auditExportCmd) Help() string {
	return `The file is as the log was when the export began, with a checkpoint behind it, which the broker makes for it. It is verified while it is written: a broken log is exported all the same,
with code 9. Keep the key and the checkpoint that are printed (or the whole output of --json) where those who run the broker cannot change them: with them
audit verify finds what was done to the log, also by who has the broker's key.

JSON: type audit_exported, file, meshId, entries, anchorCount, count, hash, key, valid, checkpoint (null: there is none). Without --out
stdout is the file, and nothing else.`
}

type auditExportedJSON struct {
	Type        string      `json:"type"` // audit_exported
	File        string      `json:"file"`
	MeshID      string      `json:"meshId"`
	Entries     int64       `json:"entries"`
	AnchorCount int64       `json:"anchorCount"`
	Count       int64       `json:"count"`
	Hash        string      `json:"hash"`
	Key         string      `json:"key"`
	Valid       bool        `json:"valid"`
	Checkpoint  *audit.Kept `json:"checkpoint"`
}

func (c auditExportCmd) Run(p *program) error {
	o, m, err := p.options()
	if err != nil {
		return err
	}
	o.NoPush = true
	conn, err := p.dial(p.ctx, o)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // always nil
	var made audit.Exported
	var report audit.Report
	write := func(w io.Writer) error {
		made, report, err = p.export(conn, w)
		return err
	}
	if c.Out == "" {
		err = write(p.out)
	} else {
		err = replaceFile(c.Out, write)
	}
	if errors.Is(err, audit.ErrPruned) {
		return failf(exitUnreachable, "pruned", "The broker dropped entries while they were read, because it keeps only the newest; try again.")
	}
	if err != nil {
		return err
	}
	switch {
	case c.Out != "" && p.json:
		err = p.object(auditExportedJSON{
			Type: "audit_exported", File: c.Out, MeshID: made.Header.MeshID, Entries: made.Entries, AnchorCount: made.Header.AnchorCount,
			Count: made.Trailer.Count, Hash: made.Trailer.Hash, Key: made.Header.Key, Valid: report.Valid, Checkpoint: report.Checkpoint,
		})
	case !p.json:
		tell := p.say
		if c.Out == "" {
			tell = func(format string, args ...any) error { p.note(format, args...); return nil }
		}
		err = errors.Join(tell("Exported %s of mesh %s%s.", entries(made.Entries), m.slug(), before(made.Header.AnchorCount)), p.keep(tell, made.Header.Key, report.Checkpoint))
	}
	if err == nil && !report.Valid {
		err = failf(exitAuditBroken, string(report.Fault.Kind), "The log is broken: %s", whatIsWrong(report.Fault))
	}
	return err
}

func entries(n int64) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// before says what a file does not hold.
func before(anchor int64) string {
	if anchor == 0 {
		return ""
	}
	return fmt.Sprintf(", without the oldest %d, which the broker keeps no more", anchor)
}

// keep prints what the auditor is to keep.
func (p *program) keep(tell func(string, ...any) error, key string, c *audit.Kept) error {
	err := tell("Key, for --key: %s", key)
	if c == nil {
		return errors.Join(err, tell("There is no checkpoint, so nothing to keep; the next export ends with one."))
	}
	raw, err2 := json.Marshal(c)
	return errors.Join(err, err2, tell("Newest checkpoint, for --after:\n%s", raw))
}

// progressEvery is how often a long export says how far it is.
const progressEvery = 2 * time.Second

// export writes the log to w and verifies at the same time what it writes.
func (p *program) export(conn *client.Client, w io.Writer) (audit.Exported, audit.Report, error) {
	out, in := io.Pipe()
	type verdict struct {
		report audit.Report
		err    error
	}
	verdicts := make(chan verdict, 1)
	go func() {
		report, err := audit.Verify(out, audit.Options{})
		_, _ = io.Copy(io.Discard, out) // what is behind the first fault
		verdicts <- verdict{report, err}
	}()
	told := p.now()
	disk := &firstError{w: w}
	made, err := conn.AuditExport(p.ctx, io.MultiWriter(disk, in), client.AuditExportOptions{
		PageTimeout: p.opts.Timeout,
		Progress: func(done, total int64) {
			if now := p.now(); done < total && now.Sub(told) >= progressEvery && !p.json {
				told = now
				p.note("%d of %d entries", done, total)
			}
		},
	})
	_ = in.CloseWithError(err) // EOF without one; always nil
	v := <-verdicts
	switch {
	case disk.err != nil:
		return made, v.report, fileFailure("write the export", disk.err)
	case err != nil:
		return made, v.report, err
	default:
		return made, v.report, v.err
	}
}

// firstError remembers why writing failed.
type firstError struct {
	w   io.Writer
	err error
}

func (f *firstError) Write(raw []byte) (int, error) {
	n, err := f.w.Write(raw)
	if f.err == nil {
		f.err = err
	}
	return n, err
}

// fileFailure is about a file here; without it the error could be taken for one of the network.
func fileFailure(what string, err error) *failure {
	f := failf(exitFailed, "file", "It failed to %s: %s.", what, line(err.Error()))
	f.cause = err
	return f
}

// replaceFile writes a file that only its owner may read. After a crash, or an error, there is the old one or the new one.
func replaceFile(path string, write func(io.Writer) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fileFailure("write the export", err)
	}
	err = write(tmp)
	if err == nil {
		if e := errors.Join(tmp.Sync(), tmp.Close()); e != nil {
			err = fileFailure("write the export", e)
		} else if e := os.Rename(tmp.Name(), path); e != nil {
			err = fileFailure("write the export", e)
		}
	} else {
		_ = tmp.Close() // the error before says what went wrong, here and below
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

type auditVerifyCmd struct {
	File     string        `arg:"" optional:"" help:"An exported file, or - for stdin. Without it the broker is asked."`
	Key      string        `placeholder:"HEX" help:"The key that signs the log's checkpoints, as audit export printed it. Default: the one of --after, else the file's own, which proves nothing against whoever made the file."`
	After    string        `placeholder:"FILE|JSON" help:"A checkpoint that you kept: the file must go on from there. A whole report tells where the log ended, too."`
	Interval time.Duration `default:"1h" help:"How old the newest checkpoint may be, as the broker is set; 0: any age."`
}

func (auditVerifyCmd) Help() string {
	return `With a file: 0 when it is sound, 8 when it is but leaves something open (no --key, an old checkpoint, entries behind it, …), 9 when it is broken; the first
entry that is wrong is named. The newest checkpoint is printed: keep it for --after next time, as JSON, or the whole output of --json.

Without a file the broker verifies what it has, which finds what was done to its store and not what the broker does. Members that are no
admins may ask once a minute, all together.

JSON: with a file type audit_report, valid, meshId, entries, anchorCount, count, hash, first, last, checkpoints, unvouched, key, keyGiven,
afterFound, checkpoint (null, or meshId, count, hash, key, signature, createdAt), fault {kind, line, index, id, text}, warnings [{code, text}];
without one type audit_verified, valid, entries, brokenAt (an entry's id, or null).`
}

func (c auditVerifyCmd) Run(p *program) error {
	if c.File == "" {
		if c.Key != "" || c.After != "" {
			return failf(exitUsage, "usage", "--key and --after are for a file; export one with: claudemesh audit export -o FILE")
		}
		return p.ask(p.verifyThere)
	}
	o := audit.Options{Key: c.Key, Interval: c.Interval, Now: p.now()}
	if c.Interval <= 0 {
		o.Interval = -1
	}
	if c.After != "" {
		raw := []byte(c.After)
		if !strings.HasPrefix(strings.TrimSpace(c.After), "{") {
			var err error
			if raw, err = os.ReadFile(c.After); err != nil {
				return fileFailure("read the kept checkpoint", err)
			}
		}
		kept, end, err := audit.ParseKept(raw)
		if err != nil {
			return badAuditOption(err)
		}
		o.After, o.End = &kept, end
	}
	if err := o.Check(); err != nil {
		return badAuditOption(err)
	}
	in := p.stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return fileFailure("open the exported log", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	report, err := audit.Verify(in, o)
	if err != nil {
		return fileFailure("read the exported log", err)
	}
	if err := p.showReport(report, c.After != ""); err != nil {
		return err
	}
	switch {
	case !report.Valid:
		return failf(exitAuditBroken, string(report.Fault.Kind), "The log is broken: %s", whatIsWrong(report.Fault))
	case len(report.Warnings) > 0:
		texts := make([]string, len(report.Warnings))
		for i, w := range report.Warnings {
			texts[i] = w.Text
		}
		return failf(exitAuditOpen, string(report.Warnings[0].Code), "The log is sound, but %s.", strings.Join(texts, "; and "))
	}
	return nil
}

func badAuditOption(err error) *failure {
	return failf(exitUsage, "usage", "%s.", strings.TrimPrefix(line(err.Error()), "audit: "))
}

// whatIsWrong names the place and says what is wrong there.
func whatIsWrong(f *audit.Fault) string {
	where := fmt.Sprintf("line %d", f.Line)
	if f.ID != 0 {
		where = fmt.Sprintf("entry %d (line %d)", f.ID, f.Line)
	}
	return fmt.Sprintf("%s, %s: %s.", where, f.Kind, f.Text)
}

func (p *program) showReport(r audit.Report, after bool) error {
	if p.json {
		return p.object(struct {
			Type string `json:"type"` // audit_report
			audit.Report
		}{"audit_report", r})
	}
	state := p.paint(green, "valid")
	if !r.Valid {
		state = p.paint(red, "broken")
	}
	lines := []string{fmt.Sprintf("%s: %s of mesh %s%s", state, entries(r.Entries), line(r.MeshID), before(r.AnchorCount))}
	if r.Entries > 0 {
		lines = append(lines, fmt.Sprintf("from %s to %s", r.First, r.Last))
	}
	checkpoints := "1 checkpoint"
	if r.Checkpoints != 1 {
		checkpoints = fmt.Sprintf("%d checkpoints", r.Checkpoints)
	}
	if r.Checkpoints > 0 {
		checkpoints += fmt.Sprintf("; entries behind the newest, which no signature vouches for: %d", r.Unvouched)
	}
	lines = append(lines, checkpoints)
	if r.AfterFound {
		lines = append(lines, "the kept checkpoint is in the log at its place")
	} else if after {
		lines = append(lines, "the kept checkpoint was not found")
	}
	err := p.say("%s", strings.Join(lines, "\n"))
	if r.Valid {
		err = errors.Join(err, p.keep(p.say, r.Key, r.Checkpoint))
	}
	return err
}

// verifyThere has the broker verify its log.
func (p *program) verifyThere(ctx context.Context, conn *client.Client) error {
	got, err := conn.AuditVerify(ctx)
	if err != nil {
		return err
	}
	v := struct {
		Type     string `json:"type"` // audit_verified
		Valid    bool   `json:"valid"`
		Entries  int64  `json:"entries"`
		BrokenAt *int64 `json:"brokenAt"`
	}{"audit_verified", got.Valid, got.Entries, got.BrokenAt}
	if got.Valid {
		return p.result(v, "The broker finds its log of %d entries in order.", got.Entries)
	}
	if p.json {
		if err := p.object(v); err != nil {
			return err
		}
	}
	where := "its end is missing"
	if got.BrokenAt != nil {
		where = fmt.Sprintf("the first entry that does not fit is %d", *got.BrokenAt)
	}
	return failf(exitAuditBroken, "broken", "The broker finds its log broken: %s.", where)
}
