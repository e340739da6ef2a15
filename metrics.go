package broker

import (
	"net/http"

	"github.com/claudemesh/broker/internal/promtext"
	"github.com/claudemesh/broker/wire"
)

// rejectReason labels a refused message; docs/operations.md, metrics.
type rejectReason string

const (
	rejectRateLimit   rejectReason = "rate_limit"
	rejectTooLarge    rejectReason = "too_large"
	rejectNoRecipient rejectReason = "no_recipient"
	rejectParse       rejectReason = "parse_or_handler"
	rejectGrants      rejectReason = "grants"
	rejectIdempotency rejectReason = "idempotency"
	rejectQueueFull   rejectReason = "queue_full"
)

// receiptResult labels what became of a receipt that came with a client_ack.
type receiptResult string

const (
	receiptStored  receiptResult = "stored"
	receiptRefused receiptResult = "refused" // it did not hold, or the message could not be looked up
	receiptSkipped receiptResult = "skipped" // over the connection's budget
)

// metrics are the broker's counters. Labels come from constants of ours, never from a peer.
type metrics struct {
	registry promtext.Registry

	connections         *promtext.Counter
	connectionsRejected *promtext.CounterVec[wire.Code]
	connectionsActive   *promtext.Gauge
	routed              *promtext.CounterVec[wire.Priority]
	rejected            *promtext.CounterVec[rejectReason]
	droppedByGrant      *promtext.CounterVec[string]
	queueDepth          *promtext.Gauge
	ttlSweeps           *promtext.Counter
	hooks               *promtext.Counter
	hooksLimited        *promtext.Counter
	dbHealthy           *promtext.Gauge
	acked               *promtext.Counter
	redelivered         *promtext.Counter
	expired             *promtext.Counter
	refused             *promtext.Counter
	badFrames           *promtext.Counter
	receipts            *promtext.CounterVec[receiptResult]
	inboundPauses       *promtext.Counter
}

func newMetrics() *metrics {
	m := &metrics{}
	r := &m.registry
	m.connections = r.NewCounter("broker_connections_total", "WebSocket connections accepted")
	m.connectionsRejected = promtext.NewCounterVec[wire.Code](r, "broker_connections_rejected_total", "Handshakes refused, by reason", "reason")
	m.connectionsActive = r.NewGauge("broker_connections_active", "Connections signed in now")
	m.routed = promtext.NewCounterVec[wire.Priority](r, "broker_messages_routed_total", "Message pushes written, by priority", "priority")
	m.rejected = promtext.NewCounterVec[rejectReason](r, "broker_messages_rejected_total", "Messages refused, by reason", "reason")
	m.droppedByGrant = promtext.NewCounterVec[string](r, "broker_messages_dropped_by_grant_total", "Recipients left out for want of a grant, by grant", "cap")
	r.NewCounter("broker_legacy_auth_hits_total", "Always 0: there is no legacy authentication")
	m.queueDepth = r.NewGauge("broker_queue_depth", "Pending deliveries")
	m.ttlSweeps = r.NewCounter("broker_ttl_sweeps_total", "Sweeps of stale statuses")
	m.hooks = r.NewCounter("broker_hook_requests_total", "Hook signals received")
	m.hooksLimited = r.NewCounter("broker_hook_requests_rate_limited_total", "Hook signals refused by rate")
	m.dbHealthy = r.NewGauge("broker_db_healthy", "1 while the store answers")
	m.acked = r.NewCounter("broker_deliveries_acked_total", "Deliveries acknowledged")
	m.redelivered = r.NewCounter("broker_deliveries_redelivered_total", "Deliveries pushed again")
	m.expired = r.NewCounter("broker_deliveries_expired_total", "Deliveries that expired")
	m.refused = r.NewCounter("broker_deliveries_refused_total", "Deliveries refused by a full mailbox")
	m.badFrames = r.NewCounter("broker_bad_frames_total", "Frames that were not understood")
	m.receipts = promtext.NewCounterVec[receiptResult](r, "broker_receipts_total", "Signed receipts, by what became of them", "result")
	m.inboundPauses = r.NewCounter("broker_inbound_pauses_total", "Times that reading paused for a member over its budget of bytes")
	m.dbHealthy.Set(1)
	return m
}

func (b *Broker) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	_, _ = b.metrics.registry.WriteTo(w) // the scraper is gone; nothing to tell it
}
