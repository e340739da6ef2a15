package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

// sendJob is one message on its way into the store.
type sendJob struct {
	by     Caller
	frame  wire.Send
	target wire.Target
	id     string // of the message; the same over every retry
	// refusal was decided before the store was asked. It still waits for its place, because a repeated request is answered as the first was.
	refusal *wire.Fault
	payer   string // of the budgets
	paid    bool   // took a token from the sender's budget
	// reserved is how many deliveries were taken from the sender's budget; budget.go.
	reserved int
	done     func(sendResult)

	draft store.Draft // made by resolve
}

// sendResult is what became of a sendJob.
type sendResult struct {
	message    store.Message
	duplicate  bool
	recipients wire.Recipients
	notified   int
	retryAfter time.Duration // of a refusal by the budget of deliveries
	fault      *wire.Fault   // refused; the other fields are empty
}

// offline says that somebody is addressed and nobody of them is connected.
func (r sendResult) offline() bool { return r.recipients.Total > 0 && r.recipients.Online == 0 }

// outbox lines up the sends of a mesh. While one commit is in flight, those that arrive form the next batch: no timer, no waiting when idle.
type outbox struct {
	mu      sync.Mutex
	waiting []*sendJob // guarded by mu; bounded by the sends in flight of each connection and request
	running bool       // guarded by mu
}

// maxBatch is how many messages share one commit.
const maxBatch = 256

// submit lines a job up. Its done is called, on another goroutine, when its outcome is known.
func (m *mesh) submit(j *sendJob) {
	o := &m.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = append(o.waiting, j)
	if o.running {
		return
	}
	if !m.b.work.fork() {
		go j.done(sendResult{fault: outcomeUnknown(ErrClosed)}) // cannot happen: whoever submits is counted
		return
	}
	o.running = true
	go func() {
		defer m.b.work.leaveSession()
		m.commitLoop()
	}()
}

func (m *mesh) commitLoop() {
	o := &m.outbox
	for {
		o.mu.Lock()
		n := min(len(o.waiting), maxBatch)
		batch := o.waiting[:n:n]
		o.waiting = o.waiting[n:]
		if n == 0 {
			o.running, o.waiting = false, nil
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
		m.commit(batch)
	}
}

// errReused refuses a client_message_id that was used for another request.
var errReused = &wire.Fault{Code: wire.Invalid, Text: "idempotency_key_reused"}

func outcomeUnknown(cause error) *wire.Fault {
	return &wire.Fault{Code: wire.InternalError, Text: "outcome not known, retry with the same client_message_id", Cause: cause}
}

// commit stores a batch and hands the messages on. A store that fails is tried again with the same ids for storeTimeout, because a lost reply
// does not tell whether the batch is stored.
func (m *mesh) commit(batch []*sendJob) {
	// The batch belongs to many callers: none of them can cancel it.
	ctx, cancel := context.WithTimeout(m.b.patient, storeTimeout)
	defer cancel()
	results := make([]sendResult, len(batch))
	err := m.store(ctx, batch, results)
	if err != nil {
		m.b.log.Warn("messages could not be stored", "mesh", m.id, "count", len(batch), "cause", err)
		m.recover()
	}
	for i, j := range batch {
		r := &results[i]
		if r.fault == nil && r.message.ID == "" {
			r.fault = outcomeUnknown(err)
		}
		if r.fault != nil {
			m.answerDuplicate(ctx, j, r)
		}
		if r.duplicate && j.paid {
			m.b.sends.Refund(j.payer, time.Now())
		}
		m.giveBack(j, r)
		m.count(j, r)
		j.done(*r)
	}
}

// answerDuplicate replaces a refusal by the acceptance of the same request, if there was one.
func (m *mesh) answerDuplicate(ctx context.Context, j *sendJob, r *sendResult) {
	if j.frame.ClientMessageID == nil || r.fault == errReused {
		return
	}
	sent, err := m.b.store.Sent(ctx, m.id, j.by.Member.ID, *j.frame.ClientMessageID)
	if err != nil || !store.SameRequest(sent, m.message(j)) {
		return
	}
	*r = m.duplicate(ctx, sent)
}

// duplicate describes a message that was accepted before.
func (m *mesh) duplicate(ctx context.Context, sent store.Message) sendResult {
	r := sendResult{message: sent, duplicate: true}
	r.recipients.Refused = len(sent.Refused)
	rows, err := m.b.store.Deliveries(ctx, m.id, sent.ID)
	if err != nil {
		return r // the answer that counts is known: it was accepted
	}
	for _, d := range rows {
		r.recipients.Total++
		if m.mail.online(d.Recipient, sent.SenderPresenceID, sent.SenderMemberID) {
			r.recipients.Online++
		}
	}
	return r
}

// count feeds the metrics.
func (m *mesh) count(j *sendJob, r *sendResult) {
	m.b.metrics.refused.Add(uint64(len(r.message.Refused)))
	if r.fault == nil {
		return
	}
	reasons := map[wire.Code]rejectReason{
		wire.RateLimit: rejectRateLimit, wire.PayloadTooLarge: rejectTooLarge, wire.TargetNotFound: rejectNoRecipient,
		wire.Forbidden: rejectGrants, wire.QueueFull: rejectQueueFull,
	}
	reason, ok := reasons[r.fault.Code]
	if r.fault == errReused {
		reason, ok = rejectIdempotency, true
	}
	if !ok {
		reason = rejectParse
	}
	m.b.metrics.rejected.With(reason).Inc()
}

// store resolves and stores a batch and publishes it. Results that it leaves empty are those whose outcome is not known.
func (m *mesh) store(ctx context.Context, batch []*sendJob, results []sendResult) error {
	wait := 50 * time.Millisecond
	roster, err := m.currentRoster(ctx)
	fresh := false // the roster was read for this batch
	for {
		var stored []store.Enqueued
		var jobs []int
		judged := false // by the roster: somebody is refused
		if err == nil {
			jobs, judged, err = m.resolve(ctx, roster, batch, results)
		}
		if err == nil && !fresh && judged {
			// The store checks the roster of what it is given, but nobody checks a refusal: it may rest on an old roster.
			before := roster.Version
			roster, err = m.reloadRoster(ctx)
			if fresh = err == nil; fresh && roster.Version != before {
				continue
			}
		}
		if err == nil && len(jobs) == 0 {
			return nil
		}
		if err == nil {
			drafts := make([]store.Draft, len(jobs))
			for i, at := range jobs {
				drafts[i] = batch[at].draft
			}
			stored, err = m.b.store.Enqueue(ctx, m.id, roster.Version, drafts, m.b.opts.quota(), now())
		}
		if err == nil {
			m.publish(ctx, jobs, stored, results)
			return nil
		}
		if !errors.Is(err, store.ErrStale) && !m.b.pauseCtx(ctx, wait) {
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		if !errors.Is(err, store.ErrStale) {
			wait = min(2*wait, time.Second)
		}
		roster, err = m.reloadRoster(ctx)
		fresh = err == nil
	}
}

// recover runs after a batch whose outcome is not known: part of it may be stored and was published to nobody. Once the store answers again, what
// it holds up to then is read from it, not from the mailboxes.
func (m *mesh) recover() {
	if !m.b.work.fork() {
		return
	}
	go func() {
		defer m.b.work.leaveSession()
		for wait := 100 * time.Millisecond; m.b.pause(wait); wait = min(2*wait, 5*time.Second) {
			ctx, cancel := context.WithTimeout(m.b.patient, storeTimeout)
			last, err := m.b.store.LastSeq(ctx, m.id)
			cancel()
			if err == nil {
				m.mail.raise(last)
				m.streams.wakeAll()
				return
			}
		}
	}()
}

// pauseCtx waits, or reports false when ctx ends first.
func (b *Broker) pauseCtx(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// publish tells the recipients that are here, the streams, and the senders.
func (m *mesh) publish(ctx context.Context, jobs []int, stored []store.Enqueued, results []sendResult) {
	letters := make([]*letter, 0, len(stored))
	to := make([][]store.Recipient, 0, len(stored))
	topics := map[string]bool{}
	for i, e := range stored {
		r := &results[jobs[i]]
		switch {
		case errors.Is(e.Err, store.ErrConflict):
			r.fault = errReused
		case errors.Is(e.Err, store.ErrQueueFull):
			r.fault = &wire.Fault{Code: wire.QueueFull, Text: "recipient backlog limit reached"}
			if len(e.Message.Refused) > 0 && e.Message.Refused[0].Reason == wire.ReasonQuota {
				r.fault.Text = "your share of the recipient backlog is used up"
			}
		case e.Err != nil:
			m.b.log.Error("message refused by the store", "mesh", m.id, "cause", e.Err)
			r.fault = outcomeUnknown(e.Err)
		case e.Duplicate:
			*r = m.duplicate(ctx, e.Message)
		default:
			msg := e.Message
			r.message, r.notified = msg, e.Notified
			r.recipients.Total, r.recipients.Refused = len(e.Recipients), len(msg.Refused)
			for _, rc := range e.Recipients {
				if m.mail.online(rc, msg.SenderPresenceID, msg.SenderMemberID) {
					r.recipients.Online++
				}
			}
			l := &letter{seq: msg.Seq}
			l.content.Store(&content{msg: &msg, frame: encodePush(&msg, false)})
			letters, to = append(letters, l), append(to, e.Recipients)
			if msg.TopicID != "" {
				topics[msg.TopicID] = true
			}
		}
	}
	m.mail.publish(letters, to)
	for t := range topics {
		m.streams.wake(t)
	}
}

// message makes the message of a job, without what resolve adds.
func (m *mesh) message(j *sendJob) store.Message {
	f := &j.frame
	msg := store.Message{
		ID: j.id, MeshID: m.id, SenderMemberID: j.by.Member.ID, SenderPubkey: j.by.Member.Pubkey, SenderSessionPubkey: j.by.SessionPubkey,
		SenderPresenceID: j.by.PresenceID, SenderName: j.by.Name, TargetSpec: f.TargetSpec, Priority: f.Priority,
		Nonce: f.Nonce, Ciphertext: f.Ciphertext, ReplyToID: f.ReplyToID,
		ContentHash: store.ContentHash(f.TargetSpec, f.Priority, f.Nonce, f.Ciphertext),
		BodyHash:    identity.ReceiptBodyHash(f.Nonce, f.Ciphertext),
	}
	if j.by.session != nil {
		msg.SenderAttestation = j.by.session.attestation.Load()
	}
	if f.ClientMessageID != nil {
		msg.ClientMessageID = *f.ClientMessageID
	}
	if f.RequestFingerprint != nil {
		msg.RequestFingerprint = strings.ToLower(*f.RequestFingerprint)
	}
	return msg
}

// resolve chooses the recipients of a batch by one roster. It returns the places of the jobs that are to be stored; the others are refused, and judged
// says whether any of them by the roster.
func (m *mesh) resolve(ctx context.Context, roster *store.Roster, batch []*sendJob, results []sendResult) (jobs []int, judged bool, err error) {
	jobs = make([]int, 0, len(batch))
	for i, j := range batch {
		if results[i].fault = j.refusal; j.refusal != nil {
			continue
		}
		err := m.draft(ctx, roster, j)
		if f, ok := errors.AsType[*wire.Fault](err); ok {
			results[i].fault, judged = f, true
			continue
		}
		if err != nil {
			return nil, false, err
		}
		if m.reserve(j, &results[i]); results[i].fault == nil {
			jobs = append(jobs, i)
		}
	}
	return jobs, judged, nil
}

// draft fills in a job's message and recipients, or fails with the fault that refuses it.
func (m *mesh) draft(ctx context.Context, roster *store.Roster, j *sendJob) error {
	f := &j.frame
	msg := m.message(j)
	t := now()
	msg.ExpiresAt = t.Add(m.b.opts.MessageTTL)
	if m.b.opts.MessageTTL < 0 {
		msg.ExpiresAt = t.AddDate(100, 0, 0)
	}
	if f.ExpiresAt != "" {
		at, err := wire.ParseTime(f.ExpiresAt)
		if err != nil || !at.After(t) || at.After(msg.ExpiresAt) {
			return &wire.Fault{Code: wire.Invalid, Field: "expiresAt", Text: "expiresAt must be an ISO-8601 time after now and within the message's time to live"}
		}
		msg.ExpiresAt = at
	}
	if !slices.ContainsFunc(roster.Members, func(rm store.RosterMember) bool { return rm.ID == j.by.Member.ID }) {
		return &wire.Fault{Code: wire.Forbidden, Text: "the sender is not a member of this mesh any more"}
	}
	d := store.Draft{}
	switch j.target.Kind {
	case wire.TargetKey:
		rc, err := m.direct(ctx, roster, j)
		if err != nil {
			return err
		}
		d.Direct, d.Recipients = true, []store.Recipient{rc}
	case wire.TargetAll, wire.TargetGroup:
		msg.Group = j.target.Ref
		d.Recipients = m.multicast(roster, j)
	case wire.TargetTopic:
		if err := m.post(ctx, roster, j, &msg, &d); err != nil {
			return err
		}
	default:
		return errUnknownTarget
	}
	if msg.TopicID == "" {
		msg.ReplyToID = "" // a reply is to an earlier message of the same topic; anything else is dropped
	}
	d.Message = msg
	d.Audit = []store.AuditEvent{auditMessage(&msg, t)}
	j.draft = d
	return nil
}

var errUnknownTarget = &wire.Fault{Code: wire.TargetNotFound, Text: "unknown target"}

// direct finds the mailbox of a key: a member's, or that of a session which is here or was in the last seven days.
func (m *mesh) direct(ctx context.Context, roster *store.Roster, j *sendJob) (store.Recipient, error) {
	var to *store.RosterMember
	rc := store.Recipient{}
	for i := range roster.Members {
		rm := &roster.Members[i]
		if rm.Pubkey == j.target.Ref {
			to, rc.SessionPubkey = rm, "" // a member key wins over everything
			break
		}
		for _, p := range rm.Presences {
			if p.SessionPubkey == j.target.Ref {
				to, rc.SessionPubkey = rm, j.target.Ref
			}
		}
	}
	if to == nil {
		owner, seen, err := m.b.store.SessionKeyOwner(ctx, m.id, j.target.Ref, now())
		if errors.Is(err, store.ErrNotFound) || err == nil && time.Since(seen) > maxSessionSeen {
			return rc, errUnknownTarget
		}
		if err != nil {
			return rc, fmt.Errorf("session key: %w", err)
		}
		at := slices.IndexFunc(roster.Members, func(rm store.RosterMember) bool { return rm.ID == owner })
		if at < 0 {
			return rc, errUnknownTarget
		}
		to, rc.SessionPubkey = &roster.Members[at], j.target.Ref
	}
	rc.MemberID = to.ID
	if to.ID != j.by.Member.ID && !granted(to, j.by, wire.GrantDM) {
		return rc, &wire.Fault{Code: wire.Forbidden, Text: "blocked by recipient grants (sender lacks dm capability)"}
	}
	return rc, nil
}

// defaultGrants are what a member grants to everybody that it has no entry for.
var defaultGrants = []string{wire.GrantRead, wire.GrantDM, wire.GrantBroadcast, "state-read"}

// granted reports whether a member grants g to the sender. An entry, even an empty one, replaces the defaults.
func granted(to *store.RosterMember, by Caller, g string) bool {
	list, ok := to.Grants[by.Member.Pubkey]
	if !ok && by.SessionPubkey != "" {
		list, ok = to.Grants[by.SessionPubkey]
	}
	if !ok {
		list = defaultGrants
	}
	return slices.Contains(list, g)
}

// multicast lists the members that * or @group addresses now.
func (m *mesh) multicast(roster *store.Roster, j *sendJob) []store.Recipient {
	to := make([]store.Recipient, 0, len(roster.Members))
	for i := range roster.Members {
		rm := &roster.Members[i]
		if rm.ID == j.by.Member.ID || hidden(rm) || j.target.Kind == wire.TargetGroup && !inGroup(rm, j.target.Ref) {
			continue
		}
		if !granted(rm, j.by, wire.GrantBroadcast) {
			m.b.metrics.droppedByGrant.With(wire.GrantBroadcast).Inc()
			continue
		}
		to = append(to, store.Recipient{MemberID: rm.ID})
	}
	return to
}

// hidden reports whether multicasts pass a member by: every presence of it is hidden, or, when it has none, it was hidden when it left.
func hidden(rm *store.RosterMember) bool {
	if len(rm.Presences) == 0 {
		return rm.Saved != nil && !rm.Saved.Visible
	}
	for _, p := range rm.Presences {
		if p.Visible {
			return false
		}
	}
	return true
}

// inGroup reports whether a member is addressed by a group: by any of its presences, or, when it has none, by what was saved, or by
// its default groups.
func inGroup(rm *store.RosterMember, group string) bool {
	in := func(groups []wire.Group) bool {
		return slices.ContainsFunc(groups, func(g wire.Group) bool { return wire.InGroup(g.Name, group) })
	}
	switch {
	case len(rm.Presences) > 0:
		return slices.ContainsFunc(rm.Presences, func(p store.RosterPresence) bool { return in(p.Groups) })
	case rm.Saved != nil:
		return in(rm.Saved.Groups)
	default:
		return in(rm.DefaultGroups)
	}
}

// rosterTopic finds a topic that is not archived: by id first, then by name.
func rosterTopic(roster *store.Roster, ref string) *store.RosterTopic {
	for i := range roster.Topics {
		if roster.Topics[i].ID == ref {
			return &roster.Topics[i]
		}
	}
	for i := range roster.Topics {
		if roster.Topics[i].Name == ref {
			return &roster.Topics[i]
		}
	}
	return nil
}

// post fills in a message to a topic.
func (m *mesh) post(ctx context.Context, roster *store.Roster, j *sendJob, msg *store.Message, d *store.Draft) error {
	topic := rosterTopic(roster, j.target.Ref)
	if topic == nil {
		return errUnknownTarget
	}
	member := slices.ContainsFunc(topic.Subscribers, func(s store.Subscription) bool { return s.MemberID == j.by.Member.ID })
	if topic.Visibility != wire.VisibilityPublic && !member {
		if m.admin(roster, j.by) { // sees the topic, so may know why it cannot post
			return &wire.Fault{Code: wire.Forbidden, Text: "not a member of this topic"}
		}
		return errUnknownTarget
	}
	msg.TopicID, msg.TopicName, msg.BodyVersion = topic.ID, topic.Name, max(int(j.frame.BodyVersion), 1)
	if m.b.opts.RequireEncryptedTopics && msg.BodyVersion == 1 && topic.EncryptedKeyPubkey != "" {
		return &wire.Fault{Code: wire.Invalid, Field: "bodyVersion", Text: "bodyVersion: this topic takes only encrypted messages (2)"}
	}
	if msg.ReplyToID != "" {
		to, err := m.b.store.Message(ctx, m.id, msg.ReplyToID)
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrAmbiguous) {
			return fmt.Errorf("message replied to: %w", err)
		}
		if err != nil || to.ID != msg.ReplyToID || to.TopicID != topic.ID {
			msg.ReplyToID = ""
		}
	}
	for _, s := range topic.Subscribers {
		if s.MemberID != j.by.Member.ID {
			d.Recipients = append(d.Recipients, store.Recipient{MemberID: s.MemberID})
		}
	}
	d.Mentions = mentioned(roster, topic, j, msg)
	return nil
}

// admin is isAdmin by the roster.
func (m *mesh) admin(roster *store.Roster, by Caller) bool {
	for i := range roster.Members {
		if rm := &roster.Members[i]; rm.ID == by.Member.ID {
			info := m.meta()
			return rm.Role == store.RoleAdmin || owner(&info, &rm.Member)
		}
	}
	return false
}

// maxNotified is how many members one message can notify.
const maxNotified = 32

// mentioned lists the members that a post mentions: by the names that the sender gave, or, in an unencrypted body, by those in its text.
func mentioned(roster *store.Roster, topic *store.RosterTopic, j *sendJob, msg *store.Message) []string {
	var names []string
	switch {
	case len(j.frame.Mentions) > 0:
		for _, n := range j.frame.Mentions {
			names = append(names, strings.ToLower(strings.TrimPrefix(n, "@")))
		}
	case msg.BodyVersion == 1:
		names = topickey.MentionsV1(msg.Ciphertext)
	}
	if len(names) == 0 {
		return nil
	}
	var ids []string
	for i := range roster.Members { // by JoinedAt
		rm := &roster.Members[i]
		if rm.ID == j.by.Member.ID || !slices.Contains(names, strings.ToLower(rm.Name)) {
			continue
		}
		subscribed := slices.ContainsFunc(topic.Subscribers, func(s store.Subscription) bool { return s.MemberID == rm.ID })
		if topic.Visibility != wire.VisibilityPublic && !subscribed {
			continue
		}
		if ids = append(ids, rm.ID); len(ids) == maxNotified {
			break
		}
	}
	return ids
}

// newJob checks a send that has the right shape against the sender's budget and the size limit.
func (b *Broker) newJob(m *mesh, by Caller, f wire.Send) *sendJob {
	j := &sendJob{by: by, frame: f, target: wire.ParseTarget(f.TargetSpec), id: newID(), payer: payer(m.id, by.Member.ID)}
	size := len(f.Ciphertext) + len(f.Nonce) + len(f.TargetSpec)
	switch {
	case !b.sends.Take(j.payer, time.Now()):
		j.refusal = &wire.Fault{
			Code: wire.RateLimit,
			Text: fmt.Sprintf("max %d msg/min (burst %d) — slow down", b.opts.SendRatePerMin, b.opts.SendRateBurst),
		}
	case size > b.opts.MaxMessageBytes:
		j.paid = true
		j.refusal = &wire.Fault{
			Code: wire.PayloadTooLarge, Text: fmt.Sprintf("invalid size %d bytes > MAX_MESSAGE_BYTES=%d", size, b.opts.MaxMessageBytes),
		}
	default:
		j.paid = true
	}
	return j
}

// send stores and hands on one message and waits for its outcome. REST uses it; the socket does not wait.
func (b *Broker) send(ctx context.Context, by Caller, f wire.Send) (sendResult, error) {
	m, err := b.mesh(ctx, by.MeshID)
	if err != nil {
		return sendResult{}, err
	}
	defer m.release()
	done := make(chan sendResult, 1)
	j := b.newJob(m, by, f)
	j.done = func(r sendResult) { done <- r }
	m.submit(j)
	r := <-done // at most storeTimeout: the outcome must be known, or known to be unknown
	if r.fault != nil {
		return r, r.fault
	}
	return r, nil
}

// send takes a send frame: its place in the order is fixed here, its ack leaves when the store has it.
func (s *session) send(ctx context.Context, head wire.Head, frame []byte) {
	s.mu.Lock()
	for s.inFlight >= maxInFlightSends {
		s.roomy.Wait()
	}
	s.mu.Unlock()
	s.waitRoom()
	f, err := decodeFrame[wire.Send](frame)
	if err != nil {
		s.b.metrics.rejected.With(rejectParse).Inc()
		s.answer(refusedSend(head, sendShape(err)))
		return
	}
	j := s.b.newJob(s.mesh, s.caller(), f)
	if j.refusal != nil && f.ClientMessageID == nil { // nothing to look up
		s.mesh.count(j, &sendResult{fault: j.refusal})
		s.answer(refusedSend(head, j.refusal))
		return
	}
	sl := s.reserve()
	s.mu.Lock()
	s.inFlight++
	s.mu.Unlock()
	j.done = func(r sendResult) {
		ack := refusedSend(head, r.fault)
		if r.fault == nil {
			ack = acceptedSend(head, r)
		}
		raw, err := wire.Encode(ack)
		if err != nil {
			s.log.Error("ack could not be encoded", "cause", err)
		}
		s.fill(sl, raw)
		s.mu.Lock()
		s.inFlight--
		s.roomy.Broadcast()
		s.mu.Unlock()
	}
	s.mesh.submit(j)
}

// sendShape turns a send's decoding error into the fault that its ack tells.
func sendShape(err error) *wire.Fault {
	f := fault(err)
	if f.Code != wire.Malformed {
		return f
	}
	text := f.Text
	if f.Field != "" && !strings.HasPrefix(text, f.Field) {
		text = f.Field + ": " + text
	}
	return &wire.Fault{Code: wire.Invalid, Field: f.Field, Text: text, Cause: f.Cause}
}

func refusedSend(head wire.Head, f *wire.Fault) *wire.Ack {
	if f == nil {
		return nil
	}
	ack := &wire.Ack{Header: wire.Header{Type: wire.TypeAck, ReqID: head.ReqID}, ID: head.ID, Error: string(f.Code) + ": " + f.Text}
	if f.Code == wire.Invalid && f.Field != "" { // clients compare the text, people read the detail
		ack.Error, ack.Detail = string(f.Code)+": "+f.Field, f.Text
	}
	return ack
}

func acceptedSend(head wire.Head, r sendResult) *wire.Ack {
	offline := r.offline()
	return &wire.Ack{
		Header: wire.Header{Type: wire.TypeAck, ReqID: head.ReqID}, ID: head.ID, MessageID: r.message.ID, Queued: true,
		Duplicate: r.duplicate, Offline: &offline, Recipients: &r.recipients,
	}
}
