package memory

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/claudemesh/broker/store"
)

// sentKey is how a sender's retries are recognised.
type sentKey struct{ sender, clientMessageID string }

// place is a recipient of the message being stored, with the mailbox that it will lie in.
type place struct {
	box *mailbox
	at  int // index in the draft's recipients
}

// Enqueue implements store.Inbox.
func (s *Store) Enqueue(ctx context.Context, mesh string, rosterVersion int64, drafts []store.Draft, q store.Quota, now time.Time) ([]store.Enqueued, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	if rosterVersion != m.version {
		return nil, fmt.Errorf("%w: version %d, not %d, in mesh %q", store.ErrStale, m.version, rosterVersion, mesh)
	}
	m.expireOld(now, math.MaxInt, nil)
	if now.Before(m.newest) {
		now = m.newest
	}
	out := make([]store.Enqueued, len(drafts))
	for i := range drafts {
		m.enqueue(&drafts[i], q, now, &out[i])
	}
	return out, nil
}

func (m *mesh) enqueue(draft *store.Draft, q store.Quota, now time.Time, out *store.Enqueued) {
	same := m.messages[draft.Message.ID]
	if same != nil && same.SenderMemberID == draft.Message.SenderMemberID && store.SameRequest(*same.Message, draft.Message) {
		same.outcome(out)
		return
	}
	key := sentKey{draft.Message.SenderMemberID, draft.Message.ClientMessageID}
	if key.clientMessageID != "" {
		if before := m.sent[key]; before != nil {
			if !store.SameRequest(*before.Message, draft.Message) {
				out.Err = conflict("client message id", key.clientMessageID)
				return
			}
			out.Duplicate, out.Message = true, cloneMessage(*before.Message)
			return
		}
	}
	if same != nil {
		out.Err = conflict("message", draft.Message.ID)
		return
	}
	t := m.topics[draft.Message.TopicID]
	if t == nil && draft.Message.TopicID != "" {
		out.Err = notFound("topic", draft.Message.TopicID)
		return
	}

	row := draft.Message
	row.SenderAttestation = cloneAttestation(row.SenderAttestation)
	msg := &message{Message: &row, topic: t}
	msg.MeshID, msg.Seq, msg.CreatedAt, msg.Refused = m.ID, m.seq+1, now, nil
	if err := m.findPlaces(draft, q, msg); err != nil {
		out.Err = err
		return
	}
	if draft.Direct && len(msg.Refused) > 0 {
		out.Message = row
		out.Message.Seq = 0
		out.Err = fmt.Errorf("%w: member %q (%s)", store.ErrQueueFull, msg.Refused[0].MemberID, msg.Refused[0].Reason)
		return
	}

	m.seq++
	m.newest = now
	m.messages[msg.ID] = msg
	m.ids.add(msg)
	if key.clientMessageID != "" {
		m.sent[key] = msg
	}
	m.deliver(msg)
	for _, id := range draft.Mentions {
		if b := m.members[id]; b != nil && m.notify(msg, b) {
			out.Notified++
		}
	}
	if t != nil {
		m.post(t, msg)
	}
	m.record(draft.Audit...)
	out.Message = cloneMessage(row)
	out.Recipients = m.placed(draft)
	if msg.pending == 0 {
		m.settle(msg)
	}
}

// outcome tells once more what Enqueue told when it stored the message.
func (msg *message) outcome(out *store.Enqueued) {
	out.Message = cloneMessage(*msg.Message)
	for i := range msg.deliveries {
		out.Recipients = append(out.Recipients, msg.deliveries[i].box.recipient)
	}
	out.Notified = len(msg.notices)
}

// findPlaces fills m.places with the recipients that have a place for the message, and msg.Refused with the others.
func (m *mesh) findPlaces(draft *store.Draft, q store.Quota, msg *message) error {
	m.places = m.places[:0]
	m.draft++
	for i, r := range draft.Recipients {
		b := m.members[r.MemberID]
		if b == nil {
			for _, p := range m.places {
				m.forgetIdle(p.box)
			}
			return notFound("recipient", r.MemberID)
		}
		box := b.box
		if r.SessionPubkey != "" {
			box = m.sessionBox(b, r.SessionPubkey)
		}
		if box.draft == m.draft {
			continue // named twice
		}
		box.draft = m.draft
		have := box.senders[msg.SenderMemberID]
		if reason := q.Refuse(msg.Priority, box.total.now, box.total.rest, have.now, have.rest); reason != "" {
			msg.Refused = append(msg.Refused, store.Refusal{Recipient: box.recipient, Reason: reason})
			continue
		}
		m.places = append(m.places, place{box, i})
	}
	return nil
}

// sessionBox returns the mailbox of a session, making it if needed.
func (m *mesh) sessionBox(b *member, sessionPubkey string) *mailbox {
	box := b.sessions[sessionPubkey]
	if box == nil {
		box = &mailbox{owner: b, recipient: store.Recipient{MemberID: b.ID, SessionPubkey: sessionPubkey}}
		b.sessions[sessionPubkey] = box
	}
	return box
}

// deliver puts the message into m.places.
func (m *mesh) deliver(msg *message) {
	if len(m.places) == 0 {
		return
	}
	msg.pending = len(m.places)
	msg.deliveries = make([]delivery, len(m.places))
	for i, p := range m.places {
		d := &msg.deliveries[i]
		d.message, d.box = msg, p.box
		p.box.add(d)
		if k := m.sessionKeys[p.box.recipient.SessionPubkey]; k != nil {
			m.watch(p.box, k)
		}
	}
	m.pending.Add(int64(len(m.places)))
	if !msg.ExpiresAt.IsZero() {
		m.expiry.push(msg.ExpiresAt, msg)
	}
}

// placed returns the recipients of m.places: the draft's own list if it is all of them.
func (m *mesh) placed(draft *store.Draft) []store.Recipient {
	if len(m.places) == len(draft.Recipients) {
		return draft.Recipients
	}
	out := make([]store.Recipient, len(m.places))
	for i, p := range m.places {
		out[i] = draft.Recipients[p.at]
	}
	return out
}

// notify makes a notification and reports true, unless the member has it already because the message names it twice.
func (m *mesh) notify(msg *message, b *member) bool {
	id := store.NotificationID(msg.ID, b.ID)
	if m.noticeByID[id] != nil {
		return false
	}
	n := &notice{
		Notification: store.Notification{
			ID:                id,
			MeshID:            m.ID,
			TopicID:           msg.TopicID,
			MessageID:         msg.ID,
			RecipientMemberID: b.ID,
			SenderMemberID:    msg.SenderMemberID,
			Kind:              "mention",
			CreatedAt:         msg.CreatedAt,
		},
		message: msg,
	}
	msg.notices = append(msg.notices, n)
	b.notices = append(b.notices, n)
	m.notices = append(m.notices, n)
	m.noticeByID[id] = n
	return true
}

// Sent implements store.Inbox.
func (s *Store) Sent(ctx context.Context, mesh, senderMemberID, clientMessageID string) (store.Message, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return store.Message{}, err
	}
	defer m.mu.Unlock()
	if msg := m.sent[sentKey{senderMemberID, clientMessageID}]; msg != nil {
		return cloneMessage(*msg.Message), nil
	}
	return store.Message{}, notFound("client message id", clientMessageID)
}

// cursor is what is left of a list of a mailbox.
type cursor struct{ entries []entry }

// Pending implements store.Inbox.
func (s *Store) Pending(ctx context.Context, q store.PendingQuery) ([]store.Mail, error) {
	m, err := s.lock(ctx, q.MeshID)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	b := m.members[q.MemberID]
	if b == nil || q.Limit <= 0 {
		return nil, nil
	}
	var space [6]cursor // two mailboxes of three priorities
	cursors, most := space[:0], 0
	look := func(box *mailbox) {
		for p, after := range q.After {
			l := &box.lists[rank(p)]
			if entries := l.entries[l.after(after):]; len(entries) > 0 {
				cursors = append(cursors, cursor{entries: entries})
				most += len(entries)
			}
		}
	}
	look(b.box)
	if box := b.sessions[q.SessionPubkey]; box != nil {
		look(box)
	}
	if most == 0 {
		return nil, nil
	}
	out := make([]store.Mail, 0, min(most, q.Limit))
	for len(out) < q.Limit {
		d := next(cursors)
		if d == nil || q.UpTo > 0 && d.message.Seq > q.UpTo {
			break
		}
		if !due(d.message.ExpiresAt, q.Now) {
			out = append(out, store.Mail{Delivery: d.export(), Message: d.message.Message})
		}
	}
	return out, nil
}

// next takes the delivery with the smallest seq off the cursors, or returns nil.
func next(cursors []cursor) *delivery {
	least := -1
	for i := range cursors {
		c := &cursors[i]
		for len(c.entries) > 0 && c.entries[0].delivery == nil {
			c.entries = c.entries[1:]
		}
		if len(c.entries) > 0 && (least < 0 || c.entries[0].seq < cursors[least].entries[0].seq) {
			least = i
		}
	}
	if least < 0 {
		return nil
	}
	d := cursors[least].entries[0].delivery
	cursors[least].entries = cursors[least].entries[1:]
	return d
}

// Ack implements store.Inbox.
func (s *Store) Ack(ctx context.Context, acks []store.Ack) (store.Acked, error) {
	var out store.Acked
	if err := ctx.Err(); err != nil {
		return out, err
	}
	// Begun, it ends: half of it must not be done.
	ctx = context.WithoutCancel(ctx)
	for i := range acks {
		m, err := s.lock(ctx, acks[i].MeshID)
		if err != nil {
			continue // a mesh that is not there has nothing to confirm
		}
		m.ack(&acks[i], &out)
		m.mu.Unlock()
	}
	return out, nil
}

// ack adds what it changed to out.
func (m *mesh) ack(a *store.Ack, out *store.Acked) {
	b := m.members[a.MemberID]
	if b == nil {
		return
	}
	out.Done = slices.Grow(out.Done, len(a.MessageIDs))
	confirm := func(box *mailbox, msg *message) {
		if d := box.find(msg); d != nil {
			m.finish(d, done, string(a.By), a.At)
			out.Done = append(out.Done, d.export())
		}
	}
	for _, id := range a.MessageIDs {
		msg := m.messages[id]
		if msg == nil || msg.pending == 0 || a.UpTo > 0 && msg.Seq > a.UpTo {
			continue
		}
		confirm(b.box, msg)
		if box := b.sessions[a.SessionPubkey]; box != nil {
			confirm(box, msg)
		}
	}
	for i := range a.Receipts {
		m.receipt(a, &a.Receipts[i], out)
	}
}

// receipt keeps a receipt with the recipient's deliveries of the message that are done and have none.
func (m *mesh) receipt(a *store.Ack, r *store.Receipt, out *store.Acked) {
	msg := m.messages[r.MessageID]
	if msg == nil || a.UpTo > 0 && msg.Seq > a.UpTo {
		return
	}
	keep := func(to store.Recipient) {
		d := msg.to(to)
		if d == nil || d.state != done || d.receipt != nil {
			return
		}
		kept := *r
		kept.Attestation = cloneAttestation(r.Attestation)
		d.receipt = &kept
		out.Receipts = append(out.Receipts, d.export())
	}
	keep(store.Recipient{MemberID: a.MemberID})
	if a.SessionPubkey != "" {
		keep(store.Recipient{MemberID: a.MemberID, SessionPubkey: a.SessionPubkey})
	}
}

// Message implements store.Inbox.
func (s *Store) Message(ctx context.Context, mesh, idOrPrefix string) (store.Message, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return store.Message{}, err
	}
	defer m.mu.Unlock()
	if msg := m.messages[idOrPrefix]; msg != nil {
		return cloneMessage(*msg.Message), nil
	}
	switch first, second := m.ids.find(idOrPrefix); {
	case first == nil:
		return store.Message{}, notFound("message", idOrPrefix)
	case second != nil:
		return store.Message{}, fmt.Errorf("%w: several messages start with %q", store.ErrAmbiguous, idOrPrefix)
	default:
		return cloneMessage(*first.Message), nil
	}
}

// Deliveries implements store.Inbox.
func (s *Store) Deliveries(ctx context.Context, mesh, messageID string) ([]store.Delivery, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return nil, found(err)
	}
	defer m.mu.Unlock()
	msg := m.messages[messageID]
	if msg == nil {
		return nil, nil
	}
	out := make([]store.Delivery, len(msg.deliveries))
	for i := range msg.deliveries {
		out[i] = msg.deliveries[i].export()
	}
	slices.SortFunc(out, func(a, b store.Delivery) int { return compareRecipients(a.Recipient, b.Recipient) })
	return out, nil
}

// LastSeq implements store.Inbox.
func (s *Store) LastSeq(ctx context.Context, mesh string) (int64, error) {
	m, err := s.lock(ctx, mesh)
	if err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	return m.seq, nil
}
