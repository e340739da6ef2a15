package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// What admins do to sessions and members, over the socket and, for the host, from Go: both ways end in the same methods.

var (
	_ = op(wire.TypeKick, (*Broker).opKick)
	_ = op(wire.TypeDisconnect, (*Broker).opDisconnect)
	_ = op(wire.TypeBan, (*Broker).opBan)
	_ = op(wire.TypeUnban, (*Broker).opUnban)
	_ = op(wire.TypeListBans, (*Broker).opListBans)
	_ = op(wire.TypeMemberRole, (*Broker).opMemberRole)
)

// ejection is one of the two ways in which sessions are ended while their members stay.
type ejection struct {
	may    string // how the refusal goes on: "only owner or admin can …"; older clients compare the text
	code   int
	reason string
	stale  string // reason for sessions that were silent
	spares bool   // leaves control connections without a session key alone
}

var (
	kicking       = ejection{may: "kicked", code: wire.CloseKicked, reason: wire.ReasonKicked, stale: wire.ReasonKickedStale, spares: true}
	disconnecting = ejection{may: "disconnected", code: wire.CloseNormal, reason: wire.ReasonDisconnected, stale: wire.ReasonDisconnectedStale}
)

func (b *Broker) opKick(ctx context.Context, by Caller, f wire.Kick) (wire.Message, error) {
	return b.opEject(ctx, by, f.Selection, kicking, wire.TypeKickAck)
}

func (b *Broker) opDisconnect(ctx context.Context, by Caller, f wire.Disconnect) (wire.Message, error) {
	return b.opEject(ctx, by, f.Selection, disconnecting, wire.TypeDisconnectAck)
}

func (b *Broker) opEject(ctx context.Context, by Caller, sel wire.Selection, how ejection, reply string) (wire.Message, error) {
	if err := b.mayGovern(ctx, by, how.may); err != nil {
		return nil, err
	}
	reason, t := how.reason, time.Now()
	var picks func(*presence) bool
	switch own := by.session; {
	case sel.All:
		picks = func(p *presence) bool { return p.sess == nil || p.sess != own }
	case sel.Stale != nil:
		reason = how.stale
		picks = func(p *presence) bool {
			silent := t.Sub(p.heardLocked())
			return (p.sess == nil || p.sess != own) && float64(silent)/float64(time.Millisecond) > float64(*sel.Stale)
		}
	default:
		who, err := b.meant(ctx, by.MeshID, sel.Target)
		if err != nil {
			return nil, err
		}
		picks = who.picks
	}
	done, err := b.eject(ctx, by, how, reason, picks)
	if err != nil {
		return nil, err
	}
	return &wire.KickAck{Header: wire.Header{Type: reply}, Kicked: done.ended, Affected: done.ended, SkippedControlPlane: done.skipped}, nil
}

// ejectMember is a host's call for all sessions of a member.
func (b *Broker) ejectMember(ctx context.Context, meshID, memberID string, how ejection) error {
	if err := b.hosted(); err != nil {
		return err
	}
	defer b.work.leaveSession()
	if _, err := b.store.Member(ctx, meshID, memberID); err != nil {
		return fmt.Errorf("%s: %w", how.reason, err)
	}
	_, err := b.eject(ctx, host(meshID), how, how.reason, func(p *presence) bool { return p.member.ID == memberID })
	return err
}

// heardLocked is the last sign of life of a session; in grace, as far as it is known.
func (p *presence) heardLocked() time.Time {
	if p.sess != nil {
		return time.UnixMilli(p.sess.alive.Load())
	}
	return p.row.LastPingAt
}

// ejected are the names of the sessions that were ended, and of those that were spared.
type ejected struct{ ended, skipped []string }

// eject ends the sessions of the mesh that picks chooses, under mesh.mu, and tells the audit log first.
func (b *Broker) eject(ctx context.Context, by Caller, how ejection, reason string, picks func(*presence) bool) (ejected, error) {
	done := ejected{ended: []string{}}
	m := b.loaded(by.MeshID)
	if m == nil {
		return done, nil // nobody is here
	}
	defer m.release()
	var members []string
	places := map[string]bool{}
	var events []store.AuditEvent
	m.mu.Lock()
	for _, p := range m.presencesLocked() {
		if !picks(p) {
			continue
		}
		if how.spares && p.row.PeerRole == wire.RoleControlPlane && p.row.SessionPubkey == "" {
			done.skipped = append(done.skipped, p.nameLocked())
			continue
		}
		done.ended = append(done.ended, p.nameLocked())
		places[p.row.ID] = true
		if !slices.Contains(members, p.member.ID) {
			members = append(members, p.member.ID)
		}
		events = append(events, audited(by, wire.AuditPeerKicked, map[string]any{
			"how": reason, "presence": p.row.ID, "target": p.member.ID, "targetPubkey": p.member.Pubkey,
		}))
	}
	m.mu.Unlock()
	if len(events) == 0 {
		return done, nil
	}
	ctx, cancel := finishing(ctx)
	defer cancel()
	if err := b.store.AppendAudit(ctx, by.MeshID, events...); err != nil {
		return ejected{}, fmt.Errorf("audit: %w", err)
	}
	for _, member := range members {
		m.end(ctx, member, by.session, ending{how.code, reason}, func(p *presence) bool { return places[p.row.ID] })
	}
	return done, nil
}

// finishing is the context of what must be finished once it is begun, whether or not its caller waits.
func finishing(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), requestTime)
}

// expel ends all sessions of a member at once: sockets and places, without a grace, and tells the others. A hello of the member that is on its
// way is waited for: it finds its member revoked, or its place is ended with the others.
func (m *mesh) expel(ctx context.Context, memberID string, code int, reason string) {
	m.end(ctx, memberID, nil, ending{code, reason}, func(*presence) bool { return true })
}

// end ends those sessions of a member that picks chooses, under mesh.mu, for good. The connection that asked for it, if it is one of them, is closed
// when it has its answer.
func (m *mesh) end(ctx context.Context, memberID string, asking *session, bye ending, picks func(*presence) bool) {
	unlock := m.entering.lock(memberID)
	defer unlock()
	var places []*presence
	var sessions []*session
	m.mu.Lock()
	for _, p := range m.presences {
		if p.member.ID != memberID || !picks(p) {
			continue
		}
		if p.sess != nil {
			sessions = append(sessions, p.sess)
			p.sess = nil
		}
		places = append(places, p)
	}
	m.mu.Unlock()
	for _, s := range sessions {
		m.mail.detach(s)
		if s == asking {
			s.parting = &bye
			continue
		}
		s.close(bye.code, bye.reason)
	}
	for _, p := range places {
		m.evict(ctx, p)
	}
}

func (b *Broker) opBan(ctx context.Context, by Caller, f wire.Ban) (wire.Message, error) {
	defer b.governing.lock(by.MeshID)()
	if err := b.mayGovern(ctx, by, "ban"); err != nil {
		return nil, err
	}
	who, err := b.meant(ctx, by.MeshID, f.Target)
	if err != nil {
		return nil, err
	}
	if who.memberID == "" {
		return nil, &wire.Fault{Code: wire.NotFound, Text: "no such member, or it is banned already"}
	}
	if who.memberID == by.Member.ID {
		return nil, &wire.Fault{Code: wire.Invalid, Field: "target", Text: "target is yourself; another admin can ban you"}
	}
	member, err := b.store.Member(ctx, by.MeshID, who.memberID)
	if err != nil {
		return nil, fmt.Errorf("member: %w", err)
	}
	if owns, err := b.owns(ctx, member); err != nil {
		return nil, err
	} else if owns {
		return nil, &wire.Fault{Code: wire.Forbidden, Text: "the owner of the mesh cannot be banned"}
	}
	if err := b.ban(ctx, by, member, f.Reason); err != nil {
		return nil, err
	}
	return &wire.BanAck{Header: wire.Header{Type: wire.TypeBanAck}, Banned: member.Name}, nil
}

// ban removes a member from its mesh, with everything that it has there. The caller holds governing.
func (b *Broker) ban(ctx context.Context, by Caller, member store.Member, reason string) error {
	payload := map[string]any{"target": member.ID, "targetPubkey": member.Pubkey}
	if reason != "" {
		payload["reason"] = reason
	}
	ctx, cancel := finishing(ctx)
	defer cancel()
	expired, err := b.store.RevokeMember(ctx, by.MeshID, member.ID, now(), audited(by, wire.AuditMemberBanned, payload))
	if err != nil {
		return fmt.Errorf("revoke member: %w", err)
	}
	b.expired(expired)
	if m := b.loaded(by.MeshID); m != nil {
		defer m.release()
		m.expel(ctx, member.ID, wire.CloseBanned, wire.ReasonBanned)
	}
	b.endStreams(by.MeshID, func(s *stream) bool { return s.memberID == member.ID })
	return nil
}

func (b *Broker) opUnban(ctx context.Context, by Caller, f wire.Unban) (wire.Message, error) {
	defer b.governing.lock(by.MeshID)()
	if err := b.mayGovern(ctx, by, "unban"); err != nil {
		return nil, err
	}
	banned, err := b.store.RevokedMembers(ctx, by.MeshID)
	if err != nil {
		return nil, fmt.Errorf("banned members: %w", err)
	}
	t := parseTarget(f.Target)
	found := slices.DeleteFunc(slices.Clone(banned), func(m store.Member) bool { return m.Pubkey != t.key })
	if len(found) == 0 {
		found = slices.DeleteFunc(banned, func(m store.Member) bool { return !t.calls(&m) })
	}
	switch {
	case len(found) == 0:
		return nil, &wire.Fault{Code: wire.NotFound, Text: "no such member is banned"}
	case len(found) > 1:
		return nil, errAmbiguous
	}
	if err := b.unban(ctx, by, found[0]); err != nil {
		return nil, err
	}
	return &wire.UnbanAck{Header: wire.Header{Type: wire.TypeUnbanAck}, Unbanned: found[0].Name}, nil
}

// unban lifts a ban. The caller holds governing.
func (b *Broker) unban(ctx context.Context, by Caller, member store.Member) error {
	ctx, cancel := finishing(ctx)
	defer cancel()
	event := audited(by, wire.AuditMemberUnbanned, map[string]any{"target": member.ID})
	if err := b.store.RestoreMember(ctx, by.MeshID, member.ID, event); err != nil {
		return fmt.Errorf("restore member: %w", err)
	}
	member.RevokedAt = time.Time{}
	b.appeared(ctx, member, false)
	return nil
}

// opListBans is for everybody: whose messages one has should be able to tell that their author was removed.
func (b *Broker) opListBans(ctx context.Context, by Caller, _ wire.ListBans) (wire.Message, error) {
	banned, err := b.store.RevokedMembers(ctx, by.MeshID)
	if err != nil {
		return nil, fmt.Errorf("banned members: %w", err)
	}
	list := &wire.ListBansResult{Header: wire.Header{Type: wire.TypeListBansResult}, Bans: make([]wire.BanInfo, len(banned))}
	for i := range banned {
		list.Bans[i] = wire.BanInfo{Name: banned[i].Name, Pubkey: banned[i].Pubkey, RevokedAt: wire.FormatTime(banned[i].RevokedAt)}
	}
	return list, nil
}

func (b *Broker) opMemberRole(ctx context.Context, by Caller, f wire.MemberRole) (wire.Message, error) {
	defer b.governing.lock(by.MeshID)()
	if err := b.mayGovern(ctx, by, "change roles"); err != nil {
		return nil, err
	}
	member, err := b.memberByRef(ctx, by.MeshID, f.Member)
	if err != nil {
		return nil, err
	}
	if owns, err := b.owns(ctx, member); err != nil {
		return nil, err
	} else if owns {
		return nil, &wire.Fault{Code: wire.Forbidden, Text: "the owner's role cannot be changed"}
	}
	if member.Role == store.RoleAdmin && f.Role != store.RoleAdmin {
		if others, err := b.governedWithout(ctx, by.MeshID, member.ID); err != nil {
			return nil, err
		} else if !others {
			return nil, &wire.Fault{Code: wire.Forbidden, Text: "nobody else governs this mesh; make another member an admin first"}
		}
	}
	return nil, b.setRole(ctx, by, member.ID, f.Role)
}

// setRole changes a member's role and ends what only the old one allowed. The caller holds governing.
func (b *Broker) setRole(ctx context.Context, by Caller, memberID, role string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("role: %w", err)
	}
	ctx, cancel := finishing(ctx)
	defer cancel()
	event := audited(by, wire.AuditMemberRole, map[string]any{"role": role, "target": memberID})
	if err := b.store.SetRole(ctx, by.MeshID, memberID, role, event); err != nil {
		return fmt.Errorf("role: %w", err)
	}
	if role != store.RoleAdmin { // it may have read what only admins see; a client that still may comes back
		b.endStreams(by.MeshID, func(s *stream) bool { return s.memberID == memberID })
	}
	return nil
}

// mayGovern refuses callers that are neither admin nor owner, in the words that older clients know.
func (b *Broker) mayGovern(ctx context.Context, by Caller, what string) error {
	if admin, err := b.isAdmin(ctx, by); err != nil || admin {
		return err
	}
	return &wire.Fault{Code: wire.Forbidden, Text: "only owner or admin can " + what}
}

// owns reports whether a member is the owner of its mesh.
func (b *Broker) owns(ctx context.Context, member store.Member) (bool, error) {
	mesh, err := b.store.Mesh(ctx, member.MeshID)
	if err != nil {
		return false, fmt.Errorf("mesh: %w", err)
	}
	return owner(&mesh, &member), nil
}

// owner reports whether a member is the mesh's owner: named by its id, or known by the key that signs the invites.
func owner(mesh *store.Mesh, member *store.Member) bool {
	return mesh.OwnerMemberID == member.ID || mesh.OwnerPubkey != "" && mesh.OwnerPubkey == member.Pubkey
}

// governedWithout reports whether a mesh has an admin or owner besides one member.
func (b *Broker) governedWithout(ctx context.Context, meshID, memberID string) (bool, error) {
	mesh, err := b.store.Mesh(ctx, meshID)
	if err != nil {
		return false, fmt.Errorf("mesh: %w", err)
	}
	members, err := b.store.Members(ctx, meshID)
	if err != nil {
		return false, fmt.Errorf("members: %w", err)
	}
	return slices.ContainsFunc(members, func(m store.Member) bool {
		return m.ID != memberID && (m.Role == store.RoleAdmin || owner(&mesh, &m))
	}), nil
}

// errAmbiguous refuses a target that several members go by.
var errAmbiguous = &wire.Fault{Code: wire.Invalid, Field: "target", Text: "ambiguous target"}

// target is whom an administrative request names.
type target struct {
	name   string
	key    string // a whole key in lower case, or empty
	prefix string // the first digits of a member's key in lower case, or empty
}

// minPrefix is how many digits of a member's key name it; docs/protocol.md, administration.
const minPrefix = 8

func parseTarget(text string) target {
	t := target{name: text}
	hex := strings.ToLower(text)
	switch {
	case len(hex) < minPrefix || strings.Trim(hex, "0123456789abcdef") != "":
	case wire.IsKey(hex):
		t.key = hex
	case len(hex) < 64:
		t.prefix = hex
	}
	return t
}

// calls reports whether a member is named by its display name or the start of its key.
func (t target) calls(m *store.Member) bool {
	return m.Name == t.name || t.prefix != "" && strings.HasPrefix(m.Pubkey, t.prefix)
}

// meaning is what a target stands for: a member that is not banned, and all of its sessions or some.
type meaning struct {
	memberID string // empty: nobody
	whole    bool   // all its sessions; otherwise
	key      string // the one with this key, or
	name     string // those that go by this name of their own
}

// picks chooses sessions, under mesh.mu.
func (w meaning) picks(p *presence) bool {
	if p.member.ID != w.memberID {
		return false
	}
	return w.whole || w.key != "" && p.row.SessionPubkey == w.key || w.name != "" && p.row.DisplayName == w.name
}

// meant finds the member that is not banned, and the sessions, that a target stands for. Whole keys come before names, so that nobody shields a
// member by going by its key. Several members are errAmbiguous, whether they are here or not.
func (b *Broker) meant(ctx context.Context, meshID, text string) (meaning, error) {
	t := parseTarget(text)
	if t.key != "" {
		if w, err := b.meantByKey(ctx, meshID, t.key); err != nil || w.memberID != "" {
			return w, err
		}
	}
	members, err := b.store.Members(ctx, meshID)
	if err != nil {
		return meaning{}, fmt.Errorf("members: %w", err)
	}
	found := map[string]meaning{}
	if m := b.loaded(meshID); m != nil {
		m.mu.Lock()
		for _, p := range m.presences {
			if p.row.DisplayName == t.name {
				found[p.member.ID] = meaning{memberID: p.member.ID, name: t.name}
			}
		}
		m.mu.Unlock()
		m.release()
	}
	for i := range members {
		if t.calls(&members[i]) {
			found[members[i].ID] = meaning{memberID: members[i].ID, whole: true}
		}
	}
	if len(found) > 1 {
		return meaning{}, errAmbiguous
	}
	for _, w := range found {
		return w, nil
	}
	return meaning{}, nil
}

func (b *Broker) meantByKey(ctx context.Context, meshID, key string) (meaning, error) {
	member, err := b.store.MemberByKey(ctx, meshID, key)
	if err == nil && member.RevokedAt.IsZero() {
		return meaning{memberID: member.ID, whole: true}, nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return meaning{}, fmt.Errorf("member: %w", err)
	}
	owner, _, err := b.store.SessionKeyOwner(ctx, meshID, key, now())
	if err == nil {
		return meaning{memberID: owner, key: key}, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return meaning{}, fmt.Errorf("session key: %w", err)
	}
	return meaning{}, nil
}
