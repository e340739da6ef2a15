package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

var _ = op(wire.TypeMessageStatus, (*Broker).messageStatus)

// messageStatus tells the sender everything, and an addressed member or an admin the message's fate and their own part of it. For everybody else there
// is no such message.
func (b *Broker) messageStatus(ctx context.Context, by Caller, f wire.MessageStatus) (wire.Message, error) {
	notFound := &wire.Fault{Code: wire.NotFound, Text: "no such message"}
	msg, err := b.store.Message(ctx, by.MeshID, f.MessageID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, notFound
	case errors.Is(err, store.ErrAmbiguous):
		return nil, &wire.Fault{Code: wire.AmbiguousPrefix, Text: "several messages start so; give more of the id"}
	case err != nil:
		return nil, fmt.Errorf("message: %w", err)
	}
	rows, err := b.store.Deliveries(ctx, by.MeshID, msg.ID)
	if err != nil {
		return nil, fmt.Errorf("deliveries: %w", err)
	}
	refused := msg.Refused
	ownRows := slices.DeleteFunc(slices.Clone(rows), func(d store.Delivery) bool { return d.MemberID != by.Member.ID })
	ownRefused := slices.DeleteFunc(slices.Clone(refused), func(r store.Refusal) bool { return r.MemberID != by.Member.ID })
	if msg.SenderMemberID == by.Member.ID {
		ownRows, ownRefused = rows, refused
	} else if admin, err := b.isAdmin(ctx, by); err != nil {
		return nil, err
	} else if !admin {
		if rows, refused = ownRows, ownRefused; len(rows) == 0 && len(refused) == 0 {
			return nil, notFound
		}
	}
	m := by.session.mesh
	out := &wire.MessageStatusResult{
		Header: wire.Header{Type: wire.TypeMessageStatusResult}, MessageID: f.MessageID, TargetSpec: msg.TargetSpec,
		Delivered: len(rows) > 0 && len(refused) == 0, Recipients: []wire.RecipientStatus{}, Refused: len(refused),
	}
	var last time.Time
	for _, d := range rows {
		if d.State == store.Done {
			last = maxTime(last, d.DoneAt)
		} else {
			out.Delivered = false
		}
	}
	for _, d := range ownRows {
		r, err := m.recipientStatus(ctx, by, &msg, d)
		if err != nil {
			return nil, err
		}
		out.Recipients = append(out.Recipients, r)
	}
	for _, r := range ownRefused {
		st, err := m.recipientName(ctx, r.Recipient)
		if err != nil {
			return nil, err
		}
		st.Status, st.State, st.Reason, st.Since = wire.StatusDisconnected, wire.StateRefused, r.Reason, wire.FormatTime(msg.CreatedAt)
		out.Recipients = append(out.Recipients, st)
	}
	if out.Delivered {
		out.DeliveredAt = wire.FormatTimePtr(last)
	}
	return out, nil
}

func maxTime(x, y time.Time) time.Time {
	if y.After(x) {
		return y
	}
	return x
}

func (m *mesh) recipientName(ctx context.Context, rc store.Recipient) (wire.RecipientStatus, error) {
	member, err := m.b.store.Member(ctx, m.id, rc.MemberID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return wire.RecipientStatus{}, fmt.Errorf("recipient: %w", err)
	}
	return wire.RecipientStatus{Name: member.Name, Pubkey: cmp.Or(rc.SessionPubkey, member.Pubkey), MemberID: rc.MemberID}, nil
}

// recipientStatus says what became of one delivery, and why it waits, as far as the asking member may know: of mail that waits for a hidden session
// it learns what it would if nobody were there.
func (m *mesh) recipientStatus(ctx context.Context, by Caller, msg *store.Message, d store.Delivery) (wire.RecipientStatus, error) {
	r, err := m.recipientName(ctx, d.Recipient)
	if err != nil {
		return r, err
	}
	since := d.CreatedAt
	if d.State == store.Pending && !d.ExpiresAt.After(now()) { // the sweep that says so to the store comes later
		d.State, d.ExpiredReason, d.DoneAt = store.Expired, wire.ReasonTTL, d.ExpiresAt
	}
	switch d.State {
	case store.Done:
		r.Status, r.State, r.By, since = wire.StatusDelivered, wire.StateAcked, string(d.DoneBy), d.DoneAt
		r.AckedBy, r.Receipt = r.By, storedReceipt(d.Receipt)
	case store.Expired:
		r.Status, r.State, r.Reason, since = wire.StatusDisconnected, wire.StateExpired, d.ExpiredReason, d.DoneAt
	default:
		r.Status, r.State, r.Reason = wire.StatusDisconnected, wire.StateQueued, wire.ReasonOffline
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, p := range m.presences {
			switch {
			case p.member.ID != d.MemberID, d.SessionPubkey != "" && p.row.SessionPubkey != d.SessionPubkey:
				continue
			case p.quiet, p.row.ID == msg.SenderPresenceID: // they never get it
				continue
			case !p.shownToLocked(by.Member.ID):
				continue
			}
			state, reason, at := p.holdsLocked(d)
			// Of several sessions the one that is furthest speaks: pushed, then queued, then held.
			if r.Status == wire.StatusDisconnected || better(state, r.State) {
				r.Status, r.State, r.Reason = wire.StatusHeld, state, reason
				since = cmp.Or(at, d.CreatedAt)
			}
		}
	}
	r.Since = wire.FormatTime(since)
	return r, nil
}

func better(x, than string) bool {
	rank := map[string]int{wire.StateHeld: 1, wire.StateQueued: 2, wire.StatePushed: 3}
	return rank[x] > rank[than]
}

// holdsLocked says how far a pending delivery is at this presence.
func (p *presence) holdsLocked(d store.Delivery) (state, reason string, since time.Time) {
	s := p.sess
	if s == nil {
		return wire.StateHeld, wire.ReasonGrace, maxTime(p.row.LeaseUntil.Add(-max(p.mesh.b.opts.LeaseGrace, 0)), d.CreatedAt)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if mk := s.marks[d.MessageID]; mk != nil {
		return wire.StatePushed, "", mk.sentAt.UTC()
	}
	if laneOf(d.Priority) == laneRest && p.row.Status != wire.StatusIdle {
		return wire.StateHeld, string(p.row.Status), p.row.StatusUpdatedAt
	}
	if len(s.marks) >= maxUnacked {
		return wire.StateHeld, wire.ReasonWindow, d.CreatedAt
	}
	return wire.StateQueued, "", d.CreatedAt
}
