package memory

import (
	"cmp"
	"slices"
	"sort"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// message is a kept message. Its store.Message is handed out by Pending and never changes; see dropBody for how it is replaced.
type message struct {
	*store.Message
	deliveries []delivery
	pending    int    // deliveries that are
	topic      *topic // whose history shows it
	notices    []*notice
	sorted     []*delivery // deliveries by recipient, if they are many and were asked for; see to
	pruned     bool
}

// manyDeliveries is the number of deliveries of a message above which one is searched for in their order.
const manyDeliveries = 64

// to returns the delivery for a recipient, pending or final, or nil. Everybody who got a broadcast may ask, so that looking at all of them each
// time would cost the square.
func (msg *message) to(r store.Recipient) *delivery {
	if len(msg.deliveries) <= manyDeliveries {
		for i := range msg.deliveries {
			if d := &msg.deliveries[i]; d.box.recipient == r {
				return d
			}
		}
		return nil
	}
	if msg.sorted == nil {
		msg.sorted = make([]*delivery, len(msg.deliveries))
		for i := range msg.deliveries {
			msg.sorted[i] = &msg.deliveries[i]
		}
		slices.SortFunc(msg.sorted, func(a, b *delivery) int { return compareRecipients(a.box.recipient, b.box.recipient) })
	}
	i, found := slices.BinarySearchFunc(msg.sorted, r, func(d *delivery, r store.Recipient) int { return compareRecipients(d.box.recipient, r) })
	if !found {
		return nil
	}
	return msg.sorted[i]
}

func compareRecipients(a, b store.Recipient) int {
	return cmp.Or(cmp.Compare(a.MemberID, b.MemberID), cmp.Compare(a.SessionPubkey, b.SessionPubkey))
}

// delivery is one message in one mailbox.
type delivery struct {
	message *message
	box     *mailbox
	state   state
	at      time.Time // when it became final
	why     string    // DoneBy or ExpiredReason
	receipt *store.Receipt
}

type state uint8

const (
	pending state = iota
	done
	expired
)

func (d *delivery) export() store.Delivery {
	out := store.Delivery{
		Recipient: d.box.recipient,
		MeshID:    d.message.MeshID,
		MessageID: d.message.ID,
		Seq:       d.message.Seq,
		Priority:  d.message.Priority,
		State:     store.Pending,
		CreatedAt: d.message.CreatedAt,
		ExpiresAt: d.message.ExpiresAt,
		DoneAt:    d.at,
	}
	switch d.state {
	case done:
		out.State, out.DoneBy, out.Receipt = store.Done, store.DoneBy(d.why), d.receipt
	case expired:
		out.State, out.ExpiredReason = store.Expired, d.why
	}
	return out
}

// count is a number of pending deliveries, as quotas count them.
type count struct{ now, rest int }

func (c *count) add(p wire.Priority, n int) {
	if p == wire.PriorityNow {
		c.now += n
	} else {
		c.rest += n
	}
}

// mailbox holds the pending deliveries of a member, or of one of its sessions.
type mailbox struct {
	owner     *member
	recipient store.Recipient
	lists     [3]list // by rank
	total     count
	senders   map[string]count // by member id; only those that have some
	draft     int64            // mesh.draft when it was last named, so that a recipient named twice gets one delivery
	watched   bool             // in mesh.silent
}

// rank is the place of a priority in mailbox.lists.
func rank(p wire.Priority) int {
	switch p {
	case wire.PriorityNow:
		return 0
	case wire.PriorityNext:
		return 1
	default:
		return 2
	}
}

func (b *mailbox) empty() bool { return b.total == count{} }

func (b *mailbox) add(d *delivery) {
	sender, p := d.message.SenderMemberID, d.message.Priority
	b.lists[rank(p)].add(d)
	b.total.add(p, 1)
	if b.senders == nil {
		b.senders = map[string]count{}
	}
	c := b.senders[sender]
	c.add(p, 1)
	b.senders[sender] = c
}

func (b *mailbox) remove(d *delivery) {
	sender, p := d.message.SenderMemberID, d.message.Priority
	b.lists[rank(p)].remove(d.message.Seq)
	b.total.add(p, -1)
	c := b.senders[sender]
	if c.add(p, -1); c == (count{}) {
		delete(b.senders, sender)
	} else {
		b.senders[sender] = c
	}
}

// find returns the pending delivery of a message, or nil.
func (b *mailbox) find(m *message) *delivery {
	l := &b.lists[rank(m.Priority)]
	if i := l.after(m.Seq - 1); i < len(l.entries) && l.entries[i].seq == m.Seq {
		return l.entries[i].delivery
	}
	return nil
}

// list is a sequence of pending deliveries by seq. A removed one leaves a gap; gaps are closed when there are more of them than
// deliveries, so that adding, finding and removing cost O(log n) on average and a page never walks far over gaps.
type list struct {
	entries []entry
	head    int // first entry that is no gap
	gaps    int
}

type entry struct {
	seq      int64
	delivery *delivery // nil: a gap
}

// smallList is the number of entries below which closing gaps and giving memory back are not worth it.
const smallList = 64

func (l *list) add(d *delivery) { l.entries = append(l.entries, entry{d.message.Seq, d}) }

// after returns the index of the first entry with a seq above seq.
func (l *list) after(seq int64) int {
	if l.head == len(l.entries) || l.entries[l.head].seq > seq {
		return l.head
	}
	return l.head + sort.Search(len(l.entries)-l.head, func(i int) bool { return l.entries[l.head+i].seq > seq })
}

func (l *list) remove(seq int64) {
	l.entries[l.after(seq-1)].delivery = nil
	l.gaps++
	for l.head < len(l.entries) && l.entries[l.head].delivery == nil {
		l.head++
	}
	switch {
	case l.gaps == len(l.entries):
		if cap(l.entries) > smallList {
			l.entries = nil
		}
		l.entries, l.head, l.gaps = l.entries[:0], 0, 0
	case l.gaps > smallList && l.gaps > len(l.entries)/2:
		left := slices.DeleteFunc(l.entries, func(e entry) bool { return e.delivery == nil })
		if cap(left) > 4*len(left) {
			left = slices.Clone(left)
		}
		l.entries, l.head, l.gaps = left, 0, 0
	}
}

// finish makes a pending delivery final.
func (m *mesh) finish(d *delivery, to state, why string, now time.Time) {
	d.state, d.why, d.at = to, why, now
	d.box.remove(d)
	m.forgetIdle(d.box)
	m.pending.Add(-1)
	if d.message.pending--; d.message.pending == 0 {
		m.settle(d.message)
	}
}

// forgetIdle forgets an empty mailbox of a session that is not known any more.
func (m *mesh) forgetIdle(box *mailbox) {
	if key := box.recipient.SessionPubkey; key != "" && box.empty() && m.sessionKeys[key] == nil {
		delete(box.owner.sessions, key)
	}
}

// expireMail expires the pending deliveries of a member, of all its mailboxes, whose message matches, and returns them by seq.
func (m *mesh) expireMail(b *member, now time.Time, match func(*message) bool) []store.Delivery {
	var due []*delivery
	collect := func(box *mailbox) {
		for i := range box.lists {
			for _, e := range box.lists[i].entries {
				if e.delivery != nil && match(e.delivery.message) {
					due = append(due, e.delivery)
				}
			}
		}
	}
	collect(b.box)
	for _, box := range b.sessions {
		collect(box)
	}
	return m.revoke(due, now)
}

// revoke expires pending deliveries because the right to them ended, and returns them by seq.
func (m *mesh) revoke(ds []*delivery, now time.Time) []store.Delivery {
	out := make([]store.Delivery, 0, len(ds))
	for _, d := range ds {
		m.finish(d, expired, wire.ReasonRevoked, now)
		out = append(out, d.export())
	}
	slices.SortStableFunc(out, func(a, b store.Delivery) int { return cmp.Compare(a.Seq, b.Seq) })
	return out
}

// watch remembers a session's mailbox that holds mail while no presence with the session's key is open.
func (m *mesh) watch(box *mailbox, k *sessionKey) {
	if k.open == 0 && !box.watched && !box.empty() {
		box.watched = true
		m.silent.push(k.closedAt, box)
	}
}
