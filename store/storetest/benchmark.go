package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// Benchmark measures the hot paths of a store on one load, so that stores can be compared. open returns an empty store. Besides
// ns/op there is deliveries/s. Acknowledging and pruning happen outside the measured time where they are not what is measured; the
// store keeps some ten thousand messages at most, so that a figure does not depend on how long the benchmark ran. Each message is logged
// to the audit log, as a broker's are; the log only grows, as in life.
func Benchmark(b *testing.B, open func(b *testing.B) store.Store) {
	for _, c := range []struct{ batch, recipients int }{{1, 1}, {64, 1}, {1, 100}, {1, 1000}} {
		name := fmt.Sprintf("enqueue/batch=%d", c.batch)
		if c.recipients > 1 {
			name = fmt.Sprintf("enqueue/recipients=%d", c.recipients)
		}
		b.Run(name, func(b *testing.B) { benchmarkEnqueue(b, open(b), c.batch, c.recipients) })
	}
	b.Run("pending/page=100", func(b *testing.B) { benchmarkPending(b, open(b)) })
	b.Run("ack/batch=64", func(b *testing.B) { benchmarkAck(b, open(b), false) })
	b.Run("ack/batch=64/receipts", func(b *testing.B) { benchmarkAck(b, open(b), true) })
}

// load makes drafts for one mesh and acknowledges them.
type load struct {
	b       *testing.B
	store   store.Store
	version int64
	members []string
	next    int // number of drafts made
	pruned  int // of them before the last prune
}

func newLoad(b *testing.B, s store.Store, members int) *load {
	b.Helper()
	ctx := context.Background()
	require.NoError(b, s.CreateMesh(ctx, aMesh("m"), store.Topic{ID: "general-id", Name: "general", CreatedAt: noon}))
	l := &load{b: b, store: s}
	for i := range members {
		m := aMember("m", key(fmt.Sprint(i))[:32])
		require.NoError(b, s.AddMember(ctx, m, 0))
		l.members = append(l.members, m.ID)
	}
	r, err := s.Roster(ctx, "m")
	require.NoError(b, err)
	l.version = r.Version
	return l
}

// drafts makes n drafts to that many recipients each.
func (l *load) drafts(n, recipients int) []store.Draft {
	out := make([]store.Draft, n)
	for i := range out {
		l.next++
		id := key(fmt.Sprint("message ", l.next))
		d := draft(id[:32], l.members[0])
		d.Message.ClientMessageID, d.Direct = id[32:], recipients == 1
		d.Message.BodyHash = identity.ReceiptBodyHash(d.Message.Nonce, d.Message.Ciphertext)
		d.Audit = []store.AuditEvent{sent(&d.Message)}
		for j := range recipients {
			d.Recipients = append(d.Recipients, store.Recipient{MemberID: l.members[(l.next+j)%len(l.members)]})
		}
		out[i] = d
	}
	return out
}

// sent is the event of a message, of the size that a broker's has.
func sent(m *store.Message) store.AuditEvent {
	p := identity.AppendCanonicalText([]byte(`{"message_id":`), m.ID)
	p = identity.AppendCanonicalText(append(p, `,"priority":`...), string(m.Priority))
	p = identity.AppendCanonicalText(append(p, `,"target":`...), m.TargetSpec)
	return store.AuditEvent{Type: wire.AuditMessageSent, ActorMemberID: m.SenderMemberID, ActorName: m.SenderName, Payload: append(p, '}'), At: noon}
}

// enqueue runs with the quotas of a broker, so that they are counted.
func (l *load) enqueue(drafts []store.Draft) {
	q := store.Quota{PerMailbox: 1000, PerSender: 1000, NowPlaces: 100, NowPerSender: 25}
	out, err := l.store.Enqueue(context.Background(), "m", l.version, drafts, q, noon)
	if err != nil || len(out[0].Recipients) != len(drafts[0].Recipients) {
		l.b.Fatal("enqueue: ", err, out[0].Err)
	}
}

// acks confirms all deliveries of drafts.
func acks(drafts []store.Draft) []store.Ack {
	ids := map[string][]string{}
	for _, d := range drafts {
		for _, r := range d.Recipients {
			ids[r.MemberID] = append(ids[r.MemberID], d.Message.ID)
		}
	}
	out := []store.Ack{}
	for member, of := range ids {
		out = append(out, anAck("m", member, of...))
	}
	return out
}

func (l *load) ack(acks []store.Ack, want int) {
	done, err := l.store.Ack(context.Background(), acks)
	if err != nil || len(done.Done) != want {
		l.b.Fatal("ack: ", len(done.Done), err)
	}
}

// prune empties the store of acknowledged messages now and then.
func (l *load) prune() {
	if l.next-l.pruned < 10_000 {
		return
	}
	l.pruned = l.next
	for done := false; !done; {
		var err error
		if done, err = l.store.Prune(context.Background(), after(2*time.Hour), store.Retention{Messages: time.Hour}); err != nil {
			l.b.Fatal("prune: ", err)
		}
	}
}

func benchmarkEnqueue(b *testing.B, s store.Store, batch, recipients int) {
	l := newLoad(b, s, max(100, recipients))
	deliveries := 0
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		drafts := l.drafts(batch, recipients)
		b.StartTimer()
		l.enqueue(drafts)
		b.StopTimer()
		l.ack(acks(drafts), batch*recipients)
		l.prune()
		deliveries += batch * recipients
		b.StartTimer()
	}
	b.ReportMetric(float64(deliveries)/b.Elapsed().Seconds(), "deliveries/s")
}

func benchmarkPending(b *testing.B, s store.Store) {
	l := newLoad(b, s, 1)
	l.enqueue(l.drafts(900, 1))
	q := pendingQuery("m", l.members[0])
	q.Limit = 100
	b.ReportAllocs()
	for b.Loop() {
		mail, err := s.Pending(context.Background(), q)
		if err != nil || len(mail) != 100 {
			b.Fatal("pending: ", len(mail), err)
		}
	}
	b.ReportMetric(float64(100*b.N)/b.Elapsed().Seconds(), "deliveries/s")
}

func benchmarkAck(b *testing.B, s store.Store, receipts bool) {
	l := newLoad(b, s, 1)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		l.prune()
		drafts := l.drafts(64, 1)
		l.enqueue(drafts)
		confirm := acks(drafts)
		if receipts {
			for i := range confirm {
				for _, id := range confirm[i].MessageIDs {
					confirm[i].Receipts = append(confirm[i].Receipts, aReceipt(id, confirm[i].MemberID, id))
				}
			}
		}
		b.StartTimer()
		l.ack(confirm, 64)
	}
	b.ReportMetric(float64(64*b.N)/b.Elapsed().Seconds(), "deliveries/s")
}
