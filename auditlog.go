package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/claudemesh/broker/audit"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// Reading the audit log: asking for entries, verifying it where it is, and giving it away as a file that can be verified anywhere. What is written to it
// is in audit.go.

var (
	_ = op(wire.TypeAuditQuery, (*Broker).opAuditQuery)
	_ = slowOp(wire.TypeAuditVerify, (*Broker).opAuditVerify)
	_ = op(wire.TypeAuditExport, (*Broker).opAuditExport)
)

// auditStep is how many entries are read at a time. No read of the store takes long, however long the log is.
const auditStep = 250

func (b *Broker) opAuditQuery(ctx context.Context, by Caller, f wire.AuditQuery) (wire.Message, error) {
	admin, err := b.isAdmin(ctx, by)
	if err != nil {
		return nil, auditFault(wire.AuditQueryError, err)
	}
	limit, offset := f.Page()
	q := store.AuditQuery{MeshID: by.MeshID, Type: f.EventType, Offset: offset, Limit: limit}
	if !admin { // who writes to whom is the business of those who govern the mesh
		q.Actor = by.Member.ID
	}
	entries, total, err := b.store.AuditLog(ctx, q)
	if err != nil {
		return nil, auditFault(wire.AuditQueryError, err)
	}
	list := &wire.AuditResult{Header: wire.Header{Type: wire.TypeAuditResult}, Entries: make([]wire.AuditItem, 0, len(entries)), Total: total}
	size := 0
	for i := range entries {
		e := &entries[i]
		if size += entryOverhead + len(e.Payload); size > maxPage && i > 0 {
			list.Truncated = true
			break
		}
		list.Entries = append(list.Entries, wire.AuditItem{
			ID: e.ID, EventType: e.Type, Actor: actorName(e), Payload: e.Payload, Hash: e.Hash, CreatedAt: wire.FormatTime(e.At),
		})
	}
	return list, nil
}

// entryOverhead is about what an entry needs in a frame besides its payload.
const entryOverhead = 512

// actorName is who did it, for people.
func actorName(e *store.AuditEntry) string {
	switch {
	case e.ActorMemberID == "":
		return "system"
	case e.ActorName == "":
		return e.ActorMemberID
	default:
		return e.ActorName
	}
}

// auditFault is a failure of the store, which says nothing of it.
func auditFault(code wire.Code, err error) error {
	return &wire.Fault{Code: code, Text: "the audit log could not be read; the broker's log has the cause", Cause: err}
}

func (b *Broker) opAuditVerify(ctx context.Context, by Caller, _ wire.AuditVerify) (wire.Message, error) {
	admin, err := b.isAdmin(ctx, by)
	if err != nil {
		return nil, auditFault(wire.AuditVerifyError, err)
	}
	if t := time.Now(); !admin && !b.verifies.Take(by.MeshID, t) {
		return nil, &wire.Fault{Code: wire.RateLimit, Text: fmt.Sprintf(
			"members may verify a mesh's audit log once a minute, all together; try again in %s", b.verifies.RetryAfter(by.MeshID, t).Round(time.Second))}
	}
	v, err := b.VerifyAudit(ctx, by.MeshID)
	if err != nil {
		return nil, auditFault(wire.AuditVerifyError, err)
	}
	reply := &wire.AuditVerifyResult{Header: wire.Header{Type: wire.TypeAuditVerifyResult}, Valid: v.Valid, Entries: v.Entries}
	if v.BrokenAt != 0 {
		reply.BrokenAt = &v.BrokenAt
	}
	return reply, nil
}

func (b *Broker) opAuditExport(ctx context.Context, by Caller, f wire.AuditExport) (wire.Message, error) {
	if admin, err := b.isAdmin(ctx, by); err != nil {
		return nil, err
	} else if !admin {
		return nil, &wire.Fault{Code: wire.Forbidden, Text: "only admins may export the audit log"}
	}
	after, limit := int64(0), wire.MaxAuditExportPage
	if f.AfterID != nil {
		after = int64(*f.AfterID)
	}
	if f.Limit != nil {
		limit = int(*f.Limit)
	}
	key, err := b.store.AuditKey(ctx)
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	if after == 0 {
		if err := b.vouch(ctx, by.MeshID); err != nil {
			return nil, err
		}
	}
	head, entries, more, err := b.auditPage(ctx, by.MeshID, after, limit)
	if err != nil {
		return nil, err
	}
	page := &wire.AuditPage{
		Header: wire.Header{Type: wire.TypeAuditPage}, MeshID: by.MeshID, Key: key, AnchorCount: head.AnchorCount, AnchorHash: head.AnchorHash,
		Count: head.Count, Hash: head.Hash, Entries: make([]wire.AuditRecord, 0, len(entries)), More: more,
	}
	for i := range entries {
		e := &entries[i]
		page.Entries = append(page.Entries, wire.AuditRecord{
			ID: e.ID, EventType: e.Type, Actor: orNull(e.ActorMemberID), Payload: e.Payload, PrevHash: e.PrevHash, Hash: e.Hash,
			CreatedAt: identity.ChainTime(e.At),
		})
	}
	return page, nil
}

// vouch has the store sign the end of a log that is about to be exported: nothing proves anything of what lies behind the last checkpoint of a file.
func (b *Broker) vouch(ctx context.Context, meshID string) error {
	if err := b.store.CheckpointMesh(ctx, meshID, time.Now()); err != nil {
		return fmt.Errorf("audit checkpoint: %w", err)
	}
	return nil
}

// errAuditMoves says that the log was pruned again and again while somebody tried to read it from its beginning.
var errAuditMoves = errors.New("audit log: entries are pruned faster than they can be read")

// maxAuditTries is how often reading starts anew where entries were pruned meanwhile.
const maxAuditTries = 5

// auditPage reads at most limit entries behind the one with the id after, cut where they exceed maxPage bytes, with the state of the log. The first page
// begins behind the anchor of that state. More says that there are others behind the last.
func (b *Broker) auditPage(ctx context.Context, meshID string, after int64, limit int) (head store.AuditHead, entries []store.AuditEntry, more bool, err error) {
	for range maxAuditTries {
		if head, err = b.store.AuditHead(ctx, meshID); err != nil {
			return head, nil, false, fmt.Errorf("audit head: %w", err)
		}
		if entries, more, err = b.auditEntries(ctx, meshID, after, limit); err != nil {
			return head, nil, false, err
		}
		if after > 0 || len(entries) == 0 || entries[0].PrevHash == head.AnchorHash {
			return head, entries, more, nil
		}
		if moved, err := b.auditPruned(ctx, meshID, head.AnchorCount); err != nil {
			return head, nil, false, err
		} else if !moved {
			return head, entries, more, nil // it is broken, for whoever verifies it to find
		}
	}
	return head, nil, false, errAuditMoves
}

func (b *Broker) auditEntries(ctx context.Context, meshID string, after int64, limit int) (entries []store.AuditEntry, more bool, err error) {
	size := 0
	for {
		page, err := b.store.AuditPage(ctx, meshID, after, min(auditStep, limit+1-len(entries)))
		if err != nil {
			return nil, false, fmt.Errorf("audit page: %w", err)
		}
		for i := range page {
			if size += entryOverhead + len(page[i].Payload); len(entries) == limit || size > maxPage && len(entries) > 0 {
				return entries, true, nil
			}
			entries = append(entries, page[i])
		}
		if len(page) < auditStep {
			return entries, false, nil
		}
		after = page[len(page)-1].ID
	}
}

// auditPruned reports whether more than so many entries of a log have been pruned.
func (b *Broker) auditPruned(ctx context.Context, meshID string, count int64) (bool, error) {
	head, err := b.store.AuditHead(ctx, meshID)
	if err != nil {
		return false, fmt.Errorf("audit head: %w", err)
	}
	return head.AnchorCount > count, nil
}

// AuditVerification is what [Broker.VerifyAudit] found.
type AuditVerification struct {
	// Valid says that every kept entry follows the one before, that the checkpoints are good, and that the log ends as the store remembers.
	Valid bool
	// Entries is how many are kept, and were when the verification began.
	Entries int64
	// BrokenAt is the id of the first entry that does not fit; 0 if Valid, and if it is entries at the end that are missing.
	BrokenAt int64
	// Reason says what is wrong, for people; empty if Valid.
	Reason string
}

// VerifyAudit verifies the audit log of a mesh in the store, as it is when the call begins: what is written meanwhile is left out. It reads page by page and
// blocks nobody. It believes the store's own key and state; whoever does not exports the log ([Broker.ExportAudit]) and verifies the file with what
// they kept. store.ErrNotFound: no such mesh.
func (b *Broker) VerifyAudit(ctx context.Context, meshID string) (AuditVerification, error) {
	key, err := b.store.AuditKey(ctx)
	if err != nil {
		return AuditVerification{}, fmt.Errorf("audit key: %w", err)
	}
	for range maxAuditTries {
		v := auditVerifier{b: b, meshID: meshID, key: key}
		found, err := v.run(ctx)
		if err != nil {
			return AuditVerification{}, err
		}
		if found.Valid {
			return found, nil
		}
		// What does not fit may be where entries were pruned meanwhile.
		if moved, err := b.auditPruned(ctx, meshID, v.place); err != nil {
			return AuditVerification{}, err
		} else if !moved {
			return found, nil
		}
	}
	return AuditVerification{}, errAuditMoves
}

// auditVerifier is one run over a log.
type auditVerifier struct {
	b      *Broker
	meshID string
	key    string
	place  int64 // how many entries lie before the one that is looked at
}

func (v *auditVerifier) run(ctx context.Context) (AuditVerification, error) {
	head, err := v.b.store.AuditHead(ctx, v.meshID)
	if err != nil {
		return AuditVerification{}, fmt.Errorf("audit head: %w", err)
	}
	chain := identity.NewChainVerifier(v.meshID, head.AnchorHash)
	found := AuditVerification{Entries: head.Count - head.AnchorCount}
	broken := func(id int64, reason string) (AuditVerification, error) {
		found.BrokenAt, found.Reason = id, reason
		return found, nil
	}
	last := int64(0)
	for v.place = head.AnchorCount; v.place < head.Count; {
		page, err := v.b.store.AuditPage(ctx, v.meshID, last, int(min(auditStep, head.Count-v.place)))
		if err != nil {
			return AuditVerification{}, fmt.Errorf("audit page: %w", err)
		}
		if len(page) == 0 {
			found.Entries = v.place - head.AnchorCount
			return broken(0, fmt.Sprintf("%d entries at the end are missing", head.Count-v.place))
		}
		for i := range page {
			e := &page[i]
			if err := chain.Next(e.Chain()); err != nil {
				why, _ := errors.AsType[*identity.BrokenChain](err)
				return broken(e.ID, why.Reason)
			}
			if e.Type == identity.CheckpointEvent && !v.checkpoint(e) {
				return broken(e.ID, "the checkpoint does not vouch for the entries before it")
			}
			v.place++
			last = e.ID
		}
	}
	if chain.Last() != head.Hash {
		return broken(last, "the newest entry is not the one that was written last")
	}
	found.Valid = true
	return found, nil
}

// checkpoint reports whether an entry is a good checkpoint at its place.
func (v *auditVerifier) checkpoint(e *store.AuditEntry) bool {
	var c identity.Checkpoint
	return json.Unmarshal(e.Payload, &c) == nil && bytes.Equal(c.Payload(), e.Payload) && c.Count == v.place &&
		c.Verify(v.meshID, e.PrevHash, identity.ChainTime(e.At), v.key) == nil
}

// AuditLog returns entries of a mesh's audit log, newest first, and how many match; see [store.AuditQuery]. A Limit of 0 means 50. An unknown mesh
// has none.
func (b *Broker) AuditLog(ctx context.Context, q store.AuditQuery) (entries []store.AuditEntry, total int, err error) {
	if q.Limit <= 0 {
		q.Limit = wire.DefaultAuditLimit
	}
	if entries, total, err = b.store.AuditLog(ctx, q); err != nil {
		return nil, 0, fmt.Errorf("audit log: %w", err)
	}
	return entries, total, nil
}

// ExportAudit writes the audit log of a mesh to w as a file that package audit and `claudemesh audit verify` verify, as the log is when the call begins.
// The log gets a checkpoint first, unless it ends with one: the file ends with it, but for what others write at that very moment.
// It holds a page in memory at a time. An error leaves a torn file: [audit.ErrPruned] where entries were pruned meanwhile; store.ErrNotFound, which writes
// nothing: no such mesh.
func (b *Broker) ExportAudit(ctx context.Context, meshID string, w io.Writer) error {
	key, err := b.store.AuditKey(ctx)
	if err != nil {
		return fmt.Errorf("audit key: %w", err)
	}
	if err := b.vouch(ctx, meshID); err != nil {
		return err
	}
	_, err = audit.Export(w, time.Now(), func(after int64) (audit.Page, error) {
		head, entries, more, err := b.auditPage(ctx, meshID, after, auditStep)
		page := audit.Page{
			MeshID: meshID, Key: key, AnchorCount: head.AnchorCount, AnchorHash: head.AnchorHash, Count: head.Count, Hash: head.Hash, More: more,
			Entries: make([]audit.Entry, len(entries)),
		}
		for i := range entries {
			e := &entries[i]
			page.Entries[i] = audit.Entry{
				ID: e.ID, EventType: e.Type, Actor: e.ActorMemberID, Payload: e.Payload, PrevHash: e.PrevHash, Hash: e.Hash,
				CreatedAt: identity.ChainTime(e.At),
			}
		}
		return page, err
	}, nil)
	return err
}

// AuditKey is the public key, 64 hex digits, that signs the checkpoints of all meshes in the store. Auditors keep it, apart from the broker.
func (b *Broker) AuditKey(ctx context.Context) (string, error) {
	key, err := b.store.AuditKey(ctx)
	if err != nil {
		return "", fmt.Errorf("audit key: %w", err)
	}
	return key, nil
}

// checkpointPage is how many meshes one step gives a checkpoint.
const checkpointPage = 100

// checkpointAudit signs the audit logs whose last checkpoint is old.
func (b *Broker) checkpointAudit(ctx context.Context, t time.Time) error {
	for b.opts.AuditCheckpointInterval > 0 {
		n, err := b.store.CheckpointAudit(ctx, t, b.opts.AuditCheckpointInterval, checkpointPage)
		if err != nil || n < checkpointPage {
			return err
		}
	}
	return nil
}
