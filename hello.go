package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/internal/ratelimit"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// refusal is a refused handshake: an error frame, then a close.
type refusal struct {
	fault  *wire.Fault
	reqID  *string
	close  int       // default 1008
	reason string    // default the code
	metric wire.Code // default the code
}

func (r *refusal) Error() string { return "handshake refused: " + r.fault.Error() }

func (r *refusal) Unwrap() error { return r.fault }

func refused(code wire.Code, text string) *refusal {
	return &refusal{fault: &wire.Fault{Code: code, Text: text}}
}

// signIn reads frames until a hello is accepted. On any other outcome the connection has been told and is closing.
func (s *session) signIn(ctx context.Context) error {
	deadline := s.b.opts.HelloDeadline
	if deadline > 0 {
		timer := s.b.wheel.After(deadline, func() {
			if !s.isGreeted() {
				s.sayRefused(refused(wire.HelloTimeout, fmt.Sprintf("no accepted hello within %s", deadline)))
			}
		})
		defer timer.Stop()
	}
	budget := refused(wire.HelloBudget, fmt.Sprintf("at most %d frames, each of %d bytes, before the hello is accepted", helloFrames, helloFrame))
	total := 0
	for range helloFrames {
		frame, skimmed, err := s.readFrame(ctx, helloFrame)
		if tooMuch(err) {
			budget.reqID = skimmed.ReqID
			return s.turnAway(budget)
		}
		if err != nil {
			return err
		}
		if total += len(frame); total > helloBytes {
			return s.turnAway(budget)
		}
		head, err := wire.Peek(frame)
		var ref *refusal
		switch {
		case err != nil && (head.Type == wire.TypeHello || head.Type == wire.TypeSessionHello):
			ref, err = &refusal{fault: fault(err)}, nil // a repeated name, say; as if the hello's own decoder had found it
		case err == nil && head.Type == wire.TypeHello:
			ref, err = s.hello(ctx, head, frame)
		case err == nil && head.Type == wire.TypeSessionHello:
			ref, err = s.sessionHello(ctx, head, frame)
		case err == nil:
			s.refuse(head, true, &wire.Fault{Code: wire.NoHello, Text: "say hello first"})
			continue
		default:
			s.refuse(head, true, err)
			continue
		}
		if ref != nil {
			ref.reqID = head.ReqID
			return s.turnAway(ref)
		}
		if errors.Is(err, errLate) {
			return s.readOn(err)
		}
		if err != nil && ctx.Err() != nil { // dropped while it waited its turn, or the broker ends
			return err
		}
		if err != nil {
			s.log.Warn("hello failed", "cause", err)
			r := refused(wire.Internal, "the broker could not check this hello; try again")
			r.close, r.reason, r.reqID = wire.CloseTryLater, wire.ReasonNoStore, head.ReqID
			return s.turnAway(r)
		}
		return nil
	}
	// One more frame would be over budget; it is answered when it comes, so that a client that sends nothing more is not cut short.
	if _, _, err := s.readFrame(ctx, helloFrame); err != nil && !tooMuch(err) {
		return err
	}
	return s.turnAway(budget)
}

// tooMuch reports whether a frame was read as far as we read such frames, and not kept.
func tooMuch(err error) bool { return errors.Is(err, errTooLarge) || errors.Is(err, errHuge) }

// turnAway refuses the handshake and returns the error that ends the connection.
func (s *session) turnAway(r *refusal) error {
	s.sayRefused(r)
	return s.readOn(r)
}

// readOn reads and forgets what a peer still sends until it has seen the close frame, so that this is not lost in a reset. It returns cause with what
// ended the reading.
func (s *session) readOn(cause error) error {
	for {
		if _, _, err := s.readFrame(s.b.patient, helloFrame); err != nil && !tooMuch(err) {
			return errors.Join(cause, err)
		}
	}
}

// sayRefused sends the refusal and starts the close. It does not wait.
func (s *session) sayRefused(r *refusal) {
	if r.close == 0 {
		r.close = wire.ClosePolicy
	}
	if r.reason == "" {
		r.reason = string(r.fault.Code)
	}
	if r.metric == "" {
		r.metric = r.fault.Code
	}
	s.b.metrics.connectionsRejected.With(r.metric).Inc()
	s.log.Debug("handshake refused", "code", r.metric)
	s.answer(&wire.Error{Header: wire.Header{Type: wire.TypeError, ReqID: r.reqID}, Code: r.fault.Code, Message: r.fault.Text})
	s.close(r.close, r.reason)
}

func (s *session) isGreeted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.greeted
}

// pace makes a remote address wait its turn before signatures are checked, so that nobody can buy our time with frames of its own.
func (s *session) pace(ctx context.Context) error {
	if s.b.opts.HandshakesPerSecondPerAddr < 0 {
		return nil
	}
	key := ratelimit.AddrKey(s.addr)
	for !s.b.hellos.Take(key, time.Now()) {
		t := time.NewTimer(max(s.b.hellos.RetryAfter(key, time.Now()), time.Millisecond))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
	return nil
}

// proven is a hello whose signatures are good.
type proven struct {
	meshID     string
	memberKey  string
	sessionKey string
	claimedID  string // the memberId of a hello, which is signed but decides nothing
	signed     string // what the old signature covers, for the replay cache
	nonce      string // of helloSignature2; empty: none was given
	common     *wire.HelloCommon
	// attestation is the member's word for the session key, as it may be shown to others; nil: none was given.
	attestation *wire.Attestation
	role        string
	parentID    string
	session     bool
}

func (s *session) hello(ctx context.Context, head wire.Head, frame []byte) (*refusal, error) {
	var h wire.Hello
	if err := wire.Decode(frame, &h); err != nil {
		return &refusal{fault: fault(err)}, nil
	}
	if err := s.pace(ctx); err != nil {
		return nil, err
	}
	key := h.Session()
	if key != "" && !wire.IsLowerKey(key) {
		return refused(wire.BadSessionPubkey, "sessionPubkey must be 64 lowercase hex chars"), nil
	}
	if key != "" && identity.CheckPublic(key) != nil {
		return refused(wire.BadSessionPubkey, badSessionPoint), nil
	}
	if h.Attestation != nil {
		if ref, err := s.helloAttestation(ctx, &h, key); ref != nil || err != nil {
			return ref, err
		}
	}
	if err := (identity.Hello{
		MeshID: h.MeshID, MemberID: h.MemberID, Pubkey: h.Pubkey, Timestamp: float64(h.Timestamp), Signature: h.Signature,
	}).Verify(time.Now()); err != nil {
		return signatureRefusal("hello rejected: ", "", err), nil
	}
	p := proven{
		meshID: h.MeshID, memberKey: h.MemberKey(), sessionKey: key, common: &h.HelloCommon, role: wire.RoleControlPlane,
		signed: identity.HelloText(h.MeshID, h.MemberID, h.Pubkey, float64(h.Timestamp)), attestation: h.Attestation,
	}
	if ref := p.checkBinding(h.MemberID, h.Pubkey); ref != nil {
		return ref, nil
	}
	p.claimedID = h.MemberID
	return s.admit(ctx, head, p)
}

func (s *session) sessionHello(ctx context.Context, head wire.Head, frame []byte) (*refusal, error) {
	var h wire.SessionHello
	if err := wire.Decode(frame, &h); err != nil {
		return &refusal{fault: fault(err)}, nil
	}
	if err := s.pace(ctx); err != nil {
		return nil, err
	}
	if !wire.IsLowerKey(h.SessionPubkey) {
		return refused(wire.BadSessionPubkey, "sessionPubkey must be 64 lowercase hex chars"), nil
	}
	if identity.CheckPublic(h.SessionPubkey) != nil {
		return refused(wire.BadSessionPubkey, badSessionPoint), nil
	}
	if !wire.IsLowerKey(h.ParentMemberPubkey) {
		return refused(wire.BadParentPubkey, "parentMemberPubkey must be 64 lowercase hex chars"), nil
	}
	a := h.ParentAttestation
	if !attests(a, h.ParentMemberPubkey, h.SessionPubkey) {
		return refused(wire.AttestationMismatch, "parentAttestation does not bind the claimed session+parent pubkeys"), nil
	}
	// Two signature checks are more than a stranger may ask of us: the member must exist first.
	if known, err := s.knownMember(ctx, h.MeshID, h.ParentMemberPubkey); err != nil {
		return nil, err
	} else if !known {
		return refused(wire.Unauthorized, "parent pubkey not found in mesh"), nil
	}
	if err := signedAttestation(a).Verify(time.Now()); err != nil {
		return signatureRefusal("attestation rejected: ", "attestation_", err), nil
	}
	if err := (identity.SessionHello{
		MeshID: h.MeshID, ParentPubkey: h.ParentMemberPubkey, SessionPubkey: h.SessionPubkey, Timestamp: float64(h.Timestamp), Signature: h.Signature,
	}).Verify(time.Now()); err != nil {
		return signatureRefusal("session_hello rejected: ", "session_", err), nil
	}
	p := proven{
		meshID: h.MeshID, memberKey: h.ParentMemberPubkey, sessionKey: h.SessionPubkey, common: &h.HelloCommon, role: wire.RoleSession,
		parentID: h.ParentMemberID, session: true, attestation: a,
		signed: identity.SessionHelloText(h.MeshID, h.ParentMemberPubkey, h.SessionPubkey, float64(h.Timestamp)),
	}
	if ref := p.checkBinding(h.ParentMemberID, h.ParentMemberPubkey); ref != nil {
		return ref, nil
	}
	return s.admit(ctx, head, p)
}

// knownMember reports whether the mesh has a member with that key. A host's own Auth may enrol members as they come, so only it can say.
func (s *session) knownMember(ctx context.Context, meshID, key string) (bool, error) {
	if !wire.IsID(meshID) {
		return false, nil
	}
	if _, ours := s.b.auth.(StoreAuth); !ours {
		return true, nil
	}
	_, err := s.b.store.MemberByKey(ctx, meshID, key)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// signatureRefusal turns the class of a failed check into the refusal of that name.
func signatureRefusal(prefix, metric string, err error) *refusal {
	class := identity.ClassOf(err)
	if class == "" {
		class = identity.ClassBadSignature
	}
	r := refused(wire.Code(class), prefix+string(class))
	r.metric = wire.Code(metric + string(class))
	return r
}

// checkBinding verifies the signatures by which a hello binds its session, if it has them.
func (p *proven) checkBinding(memberID, pubkey string) *refusal {
	c := p.common
	if c.HelloSignature2 == "" && c.SessionSignature == "" {
		return nil
	}
	if err := (identity.Hello2{
		MeshID: p.meshID, MemberID: memberID, Pubkey: pubkey, SessionPubkey: p.sessionKey, SessionID: c.SessionID,
		Timestamp: float64(c.Timestamp), Nonce: c.Nonce, Signature: c.HelloSignature2, SessionSignature: c.SessionSignature,
	}).Verify(time.Now()); err != nil {
		return signatureRefusal("hello rejected: second signature: ", "", err)
	}
	p.nonce = c.Nonce
	return nil
}

// admit decides whether a proven hello may enter, and lets it.
func (s *session) admit(ctx context.Context, head wire.Head, p proven) (*refusal, error) {
	if err := p.common.Check(); err != nil {
		return &refusal{fault: fault(err)}, nil
	}
	member, meshState, ref, err := s.memberOf(ctx, p)
	if ref != nil || err != nil {
		return ref, err
	}
	keep := false
	defer func() {
		if !keep {
			meshState.release()
		}
	}()
	if meshState.blocked(member.ID) {
		return refused(wire.RateLimit, "too many frames above 1 MiB; try again in a minute"), nil
	}
	if ref, err := s.firstUse(ctx, p, member); ref != nil || err != nil {
		return ref, err
	}
	select {
	case <-s.b.ready:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if s.isEnding() { // too late: the deadline passed while the hello waited its turn
		return nil, errLate
	}
	if p.claimedID != "" && p.claimedID != member.ID {
		s.log.Debug("memberId of a hello is not the key's", "mesh", p.meshID, "member", member.ID)
	}
	c := p.common
	if c.DisplayName != "" { // it is compared with the members' names as they are now
		if _, err := meshState.reloadRoster(ctx); err != nil {
			return nil, err
		}
	}
	e := entry{
		member: member, sess: s, hello: !p.session, noGroups: c.Groups == nil || !p.session && len(*c.Groups) == 0,
		row: store.Presence{
			SessionID: c.SessionID, SessionPubkey: p.sessionKey, DisplayName: c.DisplayName, PID: clampPID(c.PID), Cwd: c.Cwd, PeerRole: p.role,
			Hostname: c.Hostname, PeerType: c.PeerType, Channel: c.Channel, Model: c.Model, Attestation: p.attestation,
		},
	}
	if c.Groups != nil {
		e.row.Groups = *c.Groups
	}
	s.mesh, s.member, s.sessionKey = meshState, member, p.sessionKey
	s.noPush = c.Has(wire.CapNoPush)
	s.topicEvents = c.Has(wire.CapTopicEvents)
	s.receipts = c.Has(wire.CapReceipts)
	s.attestation.Store(p.attestation)
	s.explicit = p.session || c.Channel == "claudemesh-daemon" || c.Has(wire.CapClientAck) || c.Has(wire.CapReceipts)
	err = meshState.enter(ctx, e, func(in entered) {
		s.mesh.mu.Lock()
		s.presenceID = in.p.row.ID
		s.status.Store(string(in.p.row.Status))
		s.view.Store(&view{visible: in.p.row.Visible, groups: in.p.row.Groups})
		s.mesh.mu.Unlock()
		s.log = s.b.log.With("mesh", meshState.id, "member", member.ID, "session", in.p.row.ID)
		s.greet(head, p, in)
	})
	if f, ok := errors.AsType[*wire.Fault](err); ok {
		s.mesh = nil
		r := &refusal{fault: f}
		if f.Code == wire.Revoked {
			r.close, r.reason = wire.CloseBanned, wire.ReasonBanned
		}
		return r, nil
	}
	if err != nil {
		s.mesh = nil
		return nil, err
	}
	keep = true
	s.log.Debug("session signed in", "took", time.Since(time.UnixMilli(s.alive.Load())))
	return nil, nil
}

// memberOf finds whom a hello speaks for.
func (s *session) memberOf(ctx context.Context, p proven) (store.Member, *mesh, *refusal, error) {
	unauthorized := refused(wire.Unauthorized, "pubkey not found in mesh")
	if p.session {
		unauthorized = refused(wire.Unauthorized, "parent pubkey not found in mesh")
	}
	if !wire.IsID(p.meshID) {
		return store.Member{}, nil, unauthorized, nil
	}
	member, err := s.b.auth.Hello(ctx, s.req, HelloKey{MeshID: p.meshID, Pubkey: p.memberKey})
	if f, ok := errors.AsType[*wire.Fault](err); ok {
		return member, nil, &refusal{fault: f}, nil
	}
	if errors.Is(err, store.ErrNotFound) {
		return member, nil, unauthorized, nil
	}
	if err != nil {
		return member, nil, nil, fmt.Errorf("auth: %w", err)
	}
	if member.MeshID != p.meshID || !strings.EqualFold(member.Pubkey, p.memberKey) {
		s.log.Error("Auth.Hello returned a member with another key or mesh; refused", "mesh", p.meshID)
		return member, nil, unauthorized, nil
	}
	meshState, err := s.b.mesh(ctx, p.meshID)
	if errors.Is(err, store.ErrNotFound) {
		return member, nil, unauthorized, nil
	}
	if err != nil {
		return member, nil, nil, fmt.Errorf("mesh: %w", err)
	}
	if _, ours := s.b.auth.(StoreAuth); !ours { // which has looked
		if info, err := s.b.store.Mesh(ctx, p.meshID); err != nil || !info.ArchivedAt.IsZero() {
			meshState.release()
			return member, nil, unauthorized, err
		}
	}
	var ref *refusal
	switch {
	case !member.RevokedAt.IsZero():
		ref = refused(wire.Revoked, fmt.Sprintf("You've been removed from %q. Contact the mesh owner to rejoin.", meshState.info.Name))
		ref.close, ref.reason = wire.CloseBanned, wire.ReasonBanned
	case p.parentID != "" && p.parentID != member.ID:
		ref = refused(wire.ParentMismatch, "parentMemberId does not match parentMemberPubkey")
	case member.RequireHello2 && p.nonce == "":
		ref = refused(wire.Hello2Required, "this member only signs in with helloSignature2")
	}
	if ref != nil {
		meshState.release()
		return member, nil, ref, nil
	}
	return member, meshState, nil, nil
}

// errLate ends a connection whose hello came to be admitted after its deadline; it has been told.
var errLate = errors.New("hello deadline has passed")

// clampPID keeps a number that a peer made up within what a process id can be.
func clampPID(n wire.Number) int64 { return int64(min(max(float64(n), 0), 1<<31)) }

// replayWindow is how long a used hello is remembered: the skew that its timestamp may have, on either side, and a second for rounding.
const replayWindow = 2*identity.MaxSkew + time.Second

// firstUse refuses a hello that was used before. An older one is admitted again only for the same session; one with a nonce never, and neither
// is its older signature without the nonce, which a thief could cut out of it.
func (s *session) firstUse(ctx context.Context, p proven, member store.Member) (*refusal, error) {
	used := refused(wire.Replayed, "this hello was used before; sign a new one")
	t := now()
	value := p.sessionKey + " " + p.common.SessionID
	if p.nonce != "" {
		first, _, err := s.b.store.ClaimOnce(ctx, p.meshID, "nonce "+member.ID+" "+p.nonce, "", t.Add(replayWindow), t)
		if err != nil {
			return nil, fmt.Errorf("replay check: %w", err)
		}
		if !first {
			return used, nil
		}
		value += " " + p.nonce
	}
	if s.b.opts.AllowHelloReplay {
		return nil, nil
	}
	first, same, err := s.b.store.ClaimOnce(ctx, p.meshID, "hello "+p.signed, value, t.Add(replayWindow), t)
	if err != nil {
		return nil, fmt.Errorf("replay check: %w", err)
	}
	if !first && !same {
		return used, nil
	}
	return nil, nil
}

// greet queues hello_ack. Nothing can be pushed to the session before.
func (s *session) greet(head wire.Head, p proven, in entered) {
	s.mesh.mu.Lock()
	ack := &wire.HelloAck{
		Header:            wire.Header{Type: wire.TypeHelloAck, ReqID: head.ReqID},
		PresenceID:        in.p.row.ID,
		MemberDisplayName: in.p.nameLocked(),
		MemberID:          s.member.ID,
		ProtocolVersion:   protocolVersion(p.common.ProtocolVersion),
		LeaseGraceMS:      max(s.b.opts.LeaseGrace, 0).Milliseconds(),
		Capabilities:      []string{wire.CapClientAckBatch, wire.CapHello2, wire.CapReceipts},
	}
	s.mesh.mu.Unlock()
	if !in.reattach || !p.session {
		ack.MemberProfile = &wire.MemberProfile{Groups: s.member.DefaultGroups, MessageMode: s.member.MessageMode}
		if ack.MemberProfile.Groups == nil {
			ack.MemberProfile.Groups = []wire.Group{}
		}
		if ack.MemberProfile.MessageMode == "" {
			ack.MemberProfile.MessageMode = "push"
		}
		if s.member.RoleTag != "" {
			ack.MemberProfile.RoleTag = &s.member.RoleTag
		}
	}
	ack.MeshPolicy = &wire.MeshPolicy{SelfEditable: s.mesh.meta().SelfEditable}
	if saved := in.restored; saved != nil {
		ack.Restored = true
		ack.LastSummary, ack.LastSeenAt = saved.LastSummary, wire.FormatTime(saved.LastSeenAt)
		if in.groups {
			ack.RestoredGroups = saved.Groups
		}
		if saved.Stats != (wire.Stats{}) {
			stats := saved.Stats
			ack.RestoredStats = &stats
		}
	}
	s.answer(ack)
	s.mu.Lock()
	s.greeted = true // from here on events may follow
	s.kickLocked()
	s.mu.Unlock()
}

// protocolVersion is the version that both sides speak; nonsense counts as 1.
func protocolVersion(asked wire.Number) int {
	if asked >= 1 && asked < wire.ProtocolVersion {
		return int(asked)
	}
	return wire.ProtocolVersion
}
