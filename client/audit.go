package client

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/claudemesh/broker/audit"
	"github.com/claudemesh/broker/wire"
)

// AuditQueryOptions select entries of the audit log.
type AuditQueryOptions struct {
	// EventType is the only type to return; empty: all. docs/protocol.md, audit, lists them.
	EventType string
	// Limit is how many, at most 500. Default 50.
	Limit int
	// Offset is how many newer ones are left out, at most 1,000,000.
	Offset int
}

// AuditQuery returns entries of the mesh's audit log, newest first, and how many match: for an admin all, for others what they did themselves. The
// broker says so; only an export can be verified.
func (c *Client) AuditQuery(ctx context.Context, o AuditQueryOptions) (wire.AuditResult, error) {
	request := &wire.AuditQuery{Header: header(wire.TypeAuditQuery), EventType: o.EventType}
	limit, offset := wire.Number(o.Limit), wire.Number(o.Offset)
	if limit != 0 {
		request.Limit = &limit
	}
	if offset != 0 {
		request.Offset = &offset
	}
	var result wire.AuditResult
	err := c.call(ctx, request, &result, true)
	return result, err
}

// AuditVerify has the broker verify the audit log in its store. That finds what somebody did to the store behind the broker's back; to find what the
// broker does, export the log and verify the file. It may take minutes. Members that are no admins may do it once a minute, all together: wire.RateLimit.
func (c *Client) AuditVerify(ctx context.Context) (wire.AuditVerifyResult, error) {
	var result wire.AuditVerifyResult
	err := c.call(ctx, &wire.AuditVerify{Header: header(wire.TypeAuditVerify)}, &result, true)
	return result, err
}

// AuditExportOptions change an export.
type AuditExportOptions struct {
	// PageSize is how many entries are asked for at a time, at most 1000. Default 1000.
	PageSize int
	// PageTimeout bounds one request. Default: only the context does.
	PageTimeout time.Duration
	// Progress, if set, is told after each page how many entries of how many were written.
	Progress func(done, total int64)
}

// AuditExport writes the mesh's audit log to w as a file for [audit.Verify], as the log is when the first page is read. It takes an admin
// (wire.Forbidden). A log that is broken is written as it is. An error leaves a torn file; [audit.ErrPruned]: the broker keeps only the newest entries,
// and some went while they were being read.
func (c *Client) AuditExport(ctx context.Context, w io.Writer, o AuditExportOptions) (audit.Exported, error) {
	return audit.Export(w, time.Now(), func(after int64) (audit.Page, error) {
		ctx, cancel := ctx, context.CancelFunc(func() {})
		if o.PageTimeout > 0 {
			ctx, cancel = context.WithTimeout(ctx, o.PageTimeout)
		}
		defer cancel()
		request := &wire.AuditExport{Header: header(wire.TypeAuditExport)}
		from, size := wire.Number(after), wire.Number(o.PageSize)
		if from != 0 {
			request.AfterID = &from
		}
		if size != 0 {
			request.Limit = &size
		}
		var f wire.AuditPage
		if err := c.call(ctx, request, &f, true); err != nil {
			return audit.Page{}, err
		}
		if f.MeshID != c.o.MeshID {
			return audit.Page{}, errors.New("client: the broker gave the audit log of another mesh")
		}
		page := audit.Page{
			MeshID: f.MeshID, Key: f.Key, AnchorCount: f.AnchorCount, AnchorHash: f.AnchorHash, Count: f.Count, Hash: f.Hash, More: f.More,
			Entries: make([]audit.Entry, len(f.Entries)),
		}
		for i := range f.Entries {
			e := &f.Entries[i]
			page.Entries[i] = audit.Entry{
				ID: e.ID, EventType: e.EventType, Payload: e.Payload, PrevHash: e.PrevHash, Hash: e.Hash, CreatedAt: e.CreatedAt,
			}
			if e.Actor != nil {
				page.Entries[i].Actor = *e.Actor
			}
		}
		return page, nil
	}, o.Progress)
}
