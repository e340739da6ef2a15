package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/claudemesh/broker/wire"
)

// What one member may cost the others, besides the number of its requests: deliveries, which are refused beyond the budget, and bytes to be
// read, which are delayed.

// payer names a member for its budgets.
func payer(meshID, memberID string) string { return meshID + " " + memberID }

// inboundBurst is how many seconds' worth of bytes are read at once.
const inboundBurst = 4

// reserve takes the deliveries of a job that was just resolved from its sender's budget, or refuses it. A job that is resolved again, by another
// roster, gives back what it had first.
func (m *mesh) reserve(j *sendJob, r *sendResult) {
	budget, n, t := m.b.delivered, len(j.draft.Recipients), time.Now()
	budget.RefundN(j.payer, j.reserved, t)
	j.reserved = 0
	if budget.TakeN(j.payer, n, t) {
		j.reserved = n
		return
	}
	r.retryAfter = budget.RetryAfterN(j.payer, n, t)
	r.fault = &wire.Fault{
		Code: wire.RateLimit, Text: fmt.Sprintf("max %d deliveries/min, and this message makes %d — slow down", m.b.opts.DeliveryRatePerMin, n),
	}
}

// giveBack returns what a job reserved and did not use: all of it, unless the message was stored now; then what recipients without room left over.
func (m *mesh) giveBack(j *sendJob, r *sendResult) {
	used := r.recipients.Total
	if r.fault != nil || r.duplicate {
		used = 0
	}
	m.b.delivered.RefundN(j.payer, j.reserved-used, time.Now())
	j.reserved = 0
}

// meter counts bytes that the peer sent against its member's budget, and pauses the reader until time has paid for them. What came first waits
// shorter, on whichever connection. A connection that only acknowledges never gets here, so its member's others cannot hold it up.
func (s *session) meter(ctx context.Context, n int) {
	if s.payer == "" {
		s.payer = payer(s.mesh.id, s.member.ID)
	}
	wait := s.b.inbound.Owe(s.payer, n, time.Now())
	if wait <= 0 {
		return
	}
	s.b.metrics.inboundPauses.Inc()
	end := time.Now().Add(wait)
	for left := wait; left > 0 && !s.isEnding(); left = time.Until(end) {
		t := time.NewTimer(min(left, time.Second))
		select {
		case <-t.C:
			s.seen() // it is we who do not look for a sign of life
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}
