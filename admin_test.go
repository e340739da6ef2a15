package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// adminStore is a store whose operations a test can break or hold up before they begin.
type adminStore struct {
	store.Store
	before map[string]func() error // by method; an error is its result
}

func (s *adminStore) wrap(o *broker.Options) { s.Store, o.Store = o.Store, s }

func (s *adminStore) ask(method string) error {
	if f := s.before[method]; f != nil {
		return f()
	}
	return nil
}

func (s *adminStore) AppendAudit(ctx context.Context, mesh string, events ...store.AuditEvent) error {
	if err := s.ask("AppendAudit"); err != nil {
		return err
	}
	return s.Store.AppendAudit(ctx, mesh, events...)
}

func (s *adminStore) SetRole(ctx context.Context, mesh, member, role string, audit ...store.AuditEvent) error {
	if err := s.ask("SetRole"); err != nil {
		return err
	}
	return s.Store.SetRole(ctx, mesh, member, role, audit...)
}

func (s *adminStore) RevokeMember(ctx context.Context, mesh, member string, now time.Time, audit ...store.AuditEvent) ([]store.Delivery, error) {
	if err := s.ask("RevokeMember"); err != nil {
		return nil, err
	}
	return s.Store.RevokeMember(ctx, mesh, member, now, audit...)
}

func (s *adminStore) CreateAPIKey(ctx context.Context, k store.APIKey, maxLive int, audit ...store.AuditEvent) error {
	if err := s.ask("CreateAPIKey"); err != nil {
		return err
	}
	return s.Store.CreateAPIKey(ctx, k, maxLive, audit...)
}

func (s *adminStore) SavePeerState(ctx context.Context, mesh, member string, u store.PeerStateUpdate, now time.Time) error {
	if err := s.ask("SavePeerState"); err != nil {
		return err
	}
	return s.Store.SavePeerState(ctx, mesh, member, u, now)
}

func (s *adminStore) ClaimOnce(ctx context.Context, mesh, key, value string, until, now time.Time) (bool, bool, error) {
	if err := s.ask("ClaimOnce"); err != nil {
		return false, false, err
	}
	return s.Store.ClaimOnce(ctx, mesh, key, value, until, now)
}

// said is an error frame in short, or the type of any other.
func said(f frame) string {
	if f.Type() != "error" {
		return f.Type()
	}
	return f.Str("code") + ": " + f.Str("message")
}

// names is a member of a frame that lists names.
func names(t *testing.T, f frame, member string) []string {
	t.Helper()
	raw, err := json.Marshal(f[member])
	require.NoError(t, err)
	var out []string
	require.NoError(t, json.Unmarshal(raw, &out), "%v", f)
	return out
}

// kicked is what an acknowledged kick or disconnect ended.
func kicked(t *testing.T, f frame) []string {
	t.Helper()
	require.NotContains(t, f, "error")
	require.IsType(t, []any{}, f["kicked"], "an empty list is a list: %v", f)
	require.Equal(t, f["kicked"], f["affected"])
	return names(t, f, "kicked")
}

// sessionsOf are the ids that the clients gave their sessions, of one member.
func sessionsOf(mesh *brokertest.Mesh, memberID string) []string {
	out := []string{}
	for _, s := range mesh.Broker.Sessions(mesh.ID) {
		if s.MemberID == memberID {
			out = append(out, s.SessionID)
		}
	}
	return out
}

// auditLog is the mesh's log since an entry, oldest first, as "type actor payload".
func auditLog(t *testing.T, mesh *brokertest.Mesh, after int64) (lines []string, last int64) {
	t.Helper()
	page, err := mesh.Store.AuditPage(t.Context(), mesh.ID, after, 1000)
	require.NoError(t, err)
	for _, e := range page {
		lines = append(lines, strings.TrimSpace(e.Type+" "+e.ActorName)+" "+string(e.Payload))
		after = e.ID
	}
	return lines, after
}

func session(id string) brokertest.DialOption { return brokertest.With(frame{"sessionId": id}) }

// Who may do what: each of six callers makes each request, about somebody who does not exist, so that only the refusal tells them apart.
func TestOnlyOwnerAndAdminsGovern(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		b, ctx := mesh.Broker, t.Context()
		admin := mesh.Dial("ana")
		byKey, err := b.AddMember(ctx, mesh.ID, broker.NewMember{Name: "key owner", Pubkey: mesh.Owner.Public()})
		require.NoError(t, err)
		byID := mesh.Dial("id owner")
		require.NoError(t, b.SetOwner(ctx, mesh.ID, byID.Member.ID, ""))
		member, demoted := mesh.Dial("bo"), mesh.Dial("cy")
		done(t, admin, frame{"type": "member_role", "member": demoted.Member.ID, "role": "admin"})
		require.Equal(t, "kick_ack", said(demoted.Request(frame{"type": "kick", "target": "nobody"})), "it holds from the next request on")
		done(t, admin, frame{"type": "member_role", "member": demoted.Member.Pubkey, "role": "member"})

		elsewhere, err := b.CreateMesh(ctx, broker.NewMesh{Slug: "elsewhere"})
		require.NoError(t, err)
		key := hostKey(t)
		stranger, err := b.AddMember(ctx, elsewhere.ID, broker.NewMember{Name: "eve", Pubkey: key.Public(), Role: store.RoleAdmin})
		require.NoError(t, err)
		other := hostSignIn(t, mesh, stranger, key, nil)

		allowed := map[string]string{
			"kick": "kick_ack", "disconnect": "disconnect_ack", "ban": "not_found: no such member, or it is banned already",
			"unban": "not_found: no such member is banned", "member_role": "not_found: no such member", "list_bans": "list_bans_result",
		}
		refused := map[string]string{
			"kick": "forbidden: only owner or admin can kicked", "disconnect": "forbidden: only owner or admin can disconnected",
			"ban": "forbidden: only owner or admin can ban", "unban": "forbidden: only owner or admin can unban",
			"member_role": "forbidden: only owner or admin can change roles", "list_bans": "list_bans_result",
		}
		for _, who := range []struct {
			name string
			c    *brokertest.Conn
			want map[string]string
		}{
			{"an admin", admin, allowed},
			{"the owner by its key", hostSignIn(t, mesh, byKey, mesh.Owner, nil), allowed},
			{"the owner by its id", byID, allowed},
			{"a member", member, refused},
			{"somebody who was an admin", demoted, refused},
			{"an admin of another mesh", other, allowed}, // in its own mesh, where nobody of this one exists
		} {
			for typ, want := range who.want {
				got := who.c.Request(frame{"type": typ, "target": "nobody", "member": "nobody", "role": "member"})
				require.Equal(t, want, said(got), "%s: %s", who.name, typ)
			}
		}

		// The admin of another mesh reaches nobody here, whatever it names, and nobody here hears of it.
		synctest.Wait()
		member.Waiting()
		for _, target := range []string{"bo", member.Member.Pubkey, member.Member.Pubkey[:8]} {
			require.Empty(t, kicked(t, other.Request(frame{"type": "kick", "target": target})))
			require.Empty(t, kicked(t, other.Request(frame{"type": "disconnect", "target": target})))
			require.Equal(t, "not_found", other.Request(frame{"type": "ban", "target": target})["code"])
		}
		require.Empty(t, kicked(t, other.Request(frame{"type": "disconnect", "all": true})))
		require.Equal(t, "not_found", other.Request(frame{"type": "member_role", "member": member.Member.ID, "role": "admin"})["code"])
		require.NoError(t, b.RevokeMember(ctx, mesh.ID, demoted.Member.ID))
		require.Equal(t, "not_found", other.Request(frame{"type": "unban", "target": demoted.Member.Pubkey})["code"])
		require.Empty(t, other.Request(frame{"type": "list_bans"})["bans"])
		require.Equal(t, "peers_list", member.Request(frame{"type": "list_peers"}).Type())
	})
}

func TestKickEndsSessionsForGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		key := sessionKey(t)
		live := mesh.Dial("bo", session("live"), brokertest.SessionKey(key), brokertest.Attested())
		keyed := mesh.Dial("bo", session("keyed"), brokertest.SessionKey(sessionKey(t)))
		lost := mesh.Dial("bo", session("lost"), brokertest.SessionKey(sessionKey(t)), brokertest.Attested())
		control := mesh.Dial("bo", session("control"))
		lost.Cut()
		events(ana)

		reply := ana.Request(frame{"type": "kick", "target": "bo"})
		require.Equal(t, "kick_ack", reply.Type())
		require.Equal(t, []string{"bo", "bo", "bo"}, kicked(t, reply), "one name for each session that was ended")
		require.Equal(t, []string{"bo"}, names(t, reply, "skipped_control_plane"))
		for _, c := range []*brokertest.Conn{live, keyed} {
			code, reason := c.Closed()
			require.Equal(t, []any{4001, "kicked"}, []any{code, reason})
		}
		require.Equal(t, []string{"peer_left bo", "peer_left bo", "peer_left bo"}, events(ana), "grace places end, too, and at once")
		require.Equal(t, []string{"control"}, sessionsOf(mesh, live.Member.ID))
		require.Equal(t, "peers_list", control.Request(frame{"type": "list_peers"}).Type(), "it was spared")

		reply = ana.Request(frame{"type": "kick", "target": "bo"})
		require.Empty(t, kicked(t, reply))
		require.Equal(t, []string{"bo"}, names(t, reply, "skipped_control_plane"), "and no error")

		back := mesh.Dial("bo", session("live"), brokertest.SessionKey(key), brokertest.Attested())
		require.NotEqual(t, live.Hello["presenceId"], back.Hello["presenceId"], "nothing was kept of the old place")
		events(ana)

		reply = ana.Request(frame{"type": "disconnect", "target": "bo"})
		require.Equal(t, "disconnect_ack", reply.Type())
		require.Equal(t, []string{"bo", "bo"}, kicked(t, reply), "nobody is spared")
		require.NotContains(t, reply, "skipped_control_plane")
		for _, c := range []*brokertest.Conn{control, back} {
			code, reason := c.Closed()
			require.Equal(t, []any{1000, "disconnected"}, []any{code, reason})
		}
		require.Equal(t, []string{"peer_left bo", "peer_left bo"}, events(ana))
		require.Empty(t, kicked(t, ana.Request(frame{"type": "kick", "target": "bo"})), "nobody is there")
		require.Empty(t, kicked(t, ana.Request(frame{"type": "kick", "target": "no such name"})))
	})
}

func TestAllBeforeStaleBeforeTarget(t *testing.T) {
	t.Parallel()
	for _, typ := range []string{"kick", "disconnect"} {
		t.Run(typ, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				code, reason := 4001, "kicked"
				if typ == "disconnect" {
					code, reason = 1000, "disconnected"
				}
				mesh := brokertest.New(t, func(o *broker.Options) { o.PingInterval = -1 }) // nobody is heard of who says nothing
				keyed := func(name string) *brokertest.Conn { return mesh.Dial(name, brokertest.SessionKey(sessionKey(t))) }
				ana, twin := keyed("ana"), keyed("ana")
				bo, cy, dan, eve := keyed("bo"), keyed("cy"), keyed("dan"), keyed("eve")
				time.Sleep(20 * time.Second)
				dan.Cut()
				time.Sleep(20 * time.Second)
				bo.Request(frame{"type": "list_peers"})
				twin.Request(frame{"type": "list_peers"})
				eve.Request(frame{"type": "list_peers"})
				eve.Cut()
				time.Sleep(20*time.Second + 500*time.Microsecond)

				// cy and dan have been silent for a minute, bo, twin and eve for 20 s; dan and eve are in grace.
				require.Empty(t, kicked(t, ana.Request(frame{"type": typ, "stale": 60_001, "target": "bo"})), "stale comes before target")
				require.ElementsMatch(t, []string{"cy", "dan"}, kicked(t, ana.Request(frame{"type": typ, "stale": 25_000, "target": "bo"})))
				gotCode, gotReason := cy.Closed()
				require.Equal(t, []any{code, reason + "_stale"}, []any{gotCode, gotReason})
				require.ElementsMatch(t, []string{"bo", "ana", "eve"}, kicked(t, ana.Request(frame{"type": typ, "stale": 0})), "all but the caller's own connection")
				bo.Closed()
				twin.Closed()

				bo, cy = keyed("bo"), keyed("cy")
				require.ElementsMatch(t, []string{"bo", "cy"}, kicked(t, ana.Request(frame{"type": typ, "all": true, "stale": 1e9, "target": "nobody"})))
				gotCode, gotReason = bo.Closed()
				require.Equal(t, []any{code, reason}, []any{gotCode, gotReason})
				cy.Closed()
				require.Equal(t, "peers_list", ana.Request(frame{"type": "list_peers"}).Type())
				require.Len(t, mesh.Broker.Sessions(mesh.ID), 1)
			})
		})
	}
}

func TestKickAllNamesWhomItSpares(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		mesh.Dial("bo")
		mesh.Dial("cy", brokertest.SessionKey(sessionKey(t)))
		reply := ana.Request(frame{"type": "kick", "all": true})
		require.Equal(t, []string{"cy"}, kicked(t, reply))
		require.Equal(t, []string{"bo"}, names(t, reply, "skipped_control_plane"), "the caller was not selected, so not spared either")
	})
}

// A target is a name as it is, a key, or the start of a member's key.
func TestAdminTargets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Member("bo")
		mesh.Member("cy")
		key := sessionKey(t)
		for _, tt := range []struct {
			name, target string
			want         []string
		}{
			{"a member's name", "bo", []string{"keyed", "named", "plain"}},
			{"a session's name", "build", []string{"named"}},
			{"a member's key", bo.Pubkey, []string{"keyed", "named", "plain"}},
			{"in upper case", strings.ToUpper(bo.Pubkey), []string{"keyed", "named", "plain"}},
			{"the start of it", bo.Pubkey[:8], []string{"keyed", "named", "plain"}},
			{"in upper case", strings.ToUpper(bo.Pubkey[:40]), []string{"keyed", "named", "plain"}},
			{"all but the last digit", bo.Pubkey[:63], []string{"keyed", "named", "plain"}},
			{"too little of it", bo.Pubkey[:7], nil},
			{"more than it", bo.Pubkey + "0", nil},
			{"a session's key", key.Public(), []string{"keyed"}},
			{"the start of it", key.Public()[:32], nil},
			{"a name in another case", "BO", nil},
			{"a name with a space", "bo ", nil},
			{"the start of a name", "b", nil},
			{"a member's id", bo.ID, nil},
			{"a session's id", "plain", nil},
			{"a pattern", "%", nil},
			{"nobody's key", sessionKey(t).Public(), nil},
		} {
			mesh.Dial("bo", session("plain"))
			mesh.Dial("bo", session("keyed"), brokertest.SessionKey(key))
			mesh.Dial("bo", brokertest.With(frame{"sessionId": "named", "displayName": "build"}))
			mesh.Dial("cy", session("cy"))
			reply := ana.Request(frame{"type": "disconnect", "target": tt.target})
			require.Len(t, kicked(t, reply), len(tt.want), tt.name)
			left := append(sessionsOf(mesh, bo.ID), tt.want...)
			require.ElementsMatch(t, []string{"keyed", "named", "plain"}, left, tt.name)
			require.NotEmpty(t, sessionsOf(mesh, mesh.Member("cy").ID), tt.name)
			ana.Request(frame{"type": "disconnect", "all": true})
		}
	})
}

// H14: an administrative request that several members could be meant by does nothing, and nobody shields or snares another by a name.
func TestH14AdminTargetsAreNeverGuessed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", brokertest.SessionKey(sessionKey(t)))
		add := func(name, pubkey string) store.Member {
			m := store.Member{ID: "id-" + name + pubkey[60:], MeshID: mesh.ID, Pubkey: pubkey, Name: name, Role: store.RoleMember, JoinedAt: time.Now().UTC()}
			require.NoError(t, mesh.Store.AddMember(t.Context(), m, 0))
			return m
		}
		twin := add("bo", strings.Repeat("a", 63)+"1") // is not even here
		add("cy", strings.Repeat("a", 63)+"2")
		add(bo.Member.Pubkey, strings.Repeat("b", 64)) // goes by bo's key
		add(twin.Pubkey[:8], strings.Repeat("c", 64))  // and by the start of others'
		for _, typ := range []string{"kick", "disconnect", "ban"} {
			for _, target := range []string{"bo", strings.Repeat("a", 8), strings.Repeat("a", 63)} {
				require.Equal(t, "invalid: ambiguous target", said(ana.Request(frame{"type": typ, "target": target})), "%s %s", typ, target)
			}
		}
		require.Len(t, mesh.Broker.Sessions(mesh.ID), 2)
		require.Equal(t, "bo", ana.Request(frame{"type": "ban", "target": bo.Member.Pubkey}).Str("banned"), "a whole key comes before a name")
		bans := list(t, ana.Request(frame{"type": "list_bans"}), "bans")
		require.Equal(t, []string{bo.Member.Pubkey}, column(bans, "pubkey"))

		require.Equal(t, "bo", ana.Request(frame{"type": "ban", "target": "bo"}).Str("banned"), "there is one left who can be meant")
		require.Equal(t, "invalid: ambiguous target", said(ana.Request(frame{"type": "unban", "target": "bo"})))
		require.Equal(t, "unban_ack", said(ana.Request(frame{"type": "unban", "target": twin.Pubkey})))
		require.Equal(t, "bo", ana.Request(frame{"type": "unban", "target": "bo"}).Str("unbanned"))

		// A session that goes by the name of a member, or of another's session, never got that name.
		eve := mesh.Dial("eve", brokertest.With(frame{"displayName": "cy"}), brokertest.SessionKey(sessionKey(t)))
		require.Empty(t, kicked(t, ana.Request(frame{"type": "kick", "target": "cy"})))
		require.Equal(t, "peers_list", eve.Request(frame{"type": "list_peers"}).Type())
	})
}

// A target may be the caller itself. It learns of it first.
func TestCallerCanEndItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		st := &adminStore{before: map[string]func() error{"SavePeerState": func() error { time.Sleep(time.Second); return nil }}}
		mesh := brokertest.New(t, st.wrap) // ending a place takes longer than closing a connection would
		bo := mesh.Dial("bo")              // the admin
		ana := mesh.Dial("ana")
		events(ana)
		require.Equal(t, []string{"bo"}, kicked(t, bo.Request(frame{"type": "disconnect", "target": "bo"})))
		code, reason := bo.Closed()
		require.Equal(t, []any{1000, "disconnected"}, []any{code, reason})
		require.Equal(t, []string{"peer_left bo"}, events(ana))
		require.Empty(t, sessionsOf(mesh, bo.Member.ID))
	})
}

func TestRepliesToAdminsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana", brokertest.SessionKey(sessionKey(t)))
		ana.Send(frame{"type": "send", "id": "1", "targetSpec": "*", "nonce": "", "ciphertext": brokertest.Body("x")})
		ana.Send(frame{"type": "list_bans"})
		ana.Send(frame{"type": "kick", "target": "ana"})
		ana.Send(frame{"type": "list_peers"}) // comes when it is over
		ana.Closed()
		var got []string
		for _, f := range ana.Waiting() {
			got = append(got, f.Type())
		}
		require.Equal(t, []string{"ack", "list_bans_result", "kick_ack"}, got)
	})
}

func TestKicksAreInTheAuditLogFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("disk full")
		st := &adminStore{before: map[string]func() error{}}
		mesh := brokertest.New(t, st.wrap)
		ana := mesh.Dial("ana")
		bo := mesh.Dial("bo", brokertest.SessionKey(sessionKey(t)))
		b, id, key := mesh.Broker, bo.Member.ID, bo.Member.Pubkey
		event := func(by, how string, c *brokertest.Conn) string {
			return strings.TrimSpace("peer_kicked "+by) + ` {"how":"` + how + `","presence":"` + c.Hello.Str("presenceId") + `","target":"` + id + `","targetPubkey":"` + key + `"}`
		}
		_, last := auditLog(t, mesh, 0)

		st.before["AppendAudit"] = func() error { return broken }
		require.Equal(t, "internal", ana.Request(frame{"type": "kick", "target": "bo"})["code"])
		require.ErrorIs(t, b.Kick(t.Context(), mesh.ID, id), broken)
		require.ErrorIs(t, b.Disconnect(t.Context(), mesh.ID, id), broken)
		require.Equal(t, "peers_list", bo.Request(frame{"type": "list_peers"}).Type(), "what cannot be recorded does not happen")

		st.before["AppendAudit"] = func() error {
			require.Len(t, sessionsOf(mesh, id), 1, "nothing is closed yet")
			return nil
		}
		ana.Request(frame{"type": "kick", "target": "bo"})
		lines, last := auditLog(t, mesh, last)
		require.Equal(t, []string{event("ana", "kicked", bo), "peer_left bo {}"}, lines)

		for _, tt := range []struct {
			how, by string
			do      func() error
		}{
			{"kicked_stale", "ana", func() error { ana.Request(frame{"type": "kick", "stale": 0}); return nil }},
			{"disconnected", "ana", func() error { ana.Request(frame{"type": "disconnect", "all": true}); return nil }},
			{"disconnected_stale", "ana", func() error { ana.Request(frame{"type": "disconnect", "stale": 0}); return nil }},
			{"disconnected", "", func() error { return b.Disconnect(t.Context(), mesh.ID, id) }},
			{"kicked", "", func() error { return b.Kick(t.Context(), mesh.ID, id) }},
		} {
			bo = mesh.Dial("bo", brokertest.SessionKey(sessionKey(t)))
			time.Sleep(10 * time.Millisecond) // to be stale for some
			require.NoError(t, tt.do())
			lines, last = auditLog(t, mesh, last)
			require.Equal(t, []string{event(tt.by, tt.how, bo), "peer_left bo {}"}, lines[1:], "behind its peer_joined")
		}
		ana.Request(frame{"type": "kick", "target": "bo"})
		lines, _ = auditLog(t, mesh, last)
		require.Empty(t, lines, "nobody was kicked")
	})
}

func TestHostKicksAndDisconnects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		b, ctx := mesh.Broker, t.Context()
		ana := mesh.Dial("ana")
		keyed, control := mesh.Dial("bo", brokertest.SessionKey(sessionKey(t))), mesh.Dial("bo")
		events(ana)
		require.NoError(t, b.Kick(ctx, mesh.ID, keyed.Member.ID))
		code, reason := keyed.Closed()
		require.Equal(t, []any{4001, "kicked"}, []any{code, reason})
		require.Equal(t, []string{"peer_left bo"}, events(ana))
		require.Equal(t, "peers_list", control.Request(frame{"type": "list_peers"}).Type(), "spared, as by the frame")
		require.NoError(t, b.Kick(ctx, mesh.ID, mesh.Member("cy").ID), "nobody is there")
		require.ErrorIs(t, b.Kick(ctx, mesh.ID, "nobody"), store.ErrNotFound)
		require.ErrorIs(t, b.Kick(ctx, "nowhere", control.Member.ID), store.ErrNotFound)

		bans, err := b.Bans(ctx, mesh.ID)
		require.NoError(t, err)
		require.Empty(t, bans)
		require.NoError(t, b.RevokeMember(ctx, mesh.ID, control.Member.ID))
		time.Sleep(time.Second)
		require.NoError(t, b.RevokeMember(ctx, mesh.ID, mesh.Member("cy").ID))
		bans, err = b.Bans(ctx, mesh.ID)
		require.NoError(t, err)
		require.Len(t, bans, 2)
		require.Equal(t, []string{"cy", "bo"}, []string{bans[0].Name, bans[1].Name}, "the latest first")
		require.False(t, bans[0].RevokedAt.IsZero())

		require.NoError(t, b.Shutdown(ctx))
		require.ErrorIs(t, b.Kick(ctx, mesh.ID, control.Member.ID), broker.ErrClosed)
		require.ErrorIs(t, b.Disconnect(ctx, mesh.ID, control.Member.ID), broker.ErrClosed)
		require.ErrorIs(t, b.RestoreMember(ctx, mesh.ID, control.Member.ID), broker.ErrClosed)
		require.ErrorIs(t, b.SetMemberRole(ctx, mesh.ID, ana.Member.ID, store.RoleMember), broker.ErrClosed)
	})
}

func TestMemberRole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		b, ctx := mesh.Broker, t.Context()
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		role := func(by *brokertest.Conn, member, role string) string {
			return said(by.Request(frame{"type": "member_role", "member": member, "role": role}))
		}
		const last, owners = "forbidden: nobody else governs this mesh; make another member an admin first", "forbidden: the owner's role cannot be changed"
		require.Equal(t, last, role(ana, ana.Member.ID, "member"), "a mesh without an owner keeps an admin")
		_, at := auditLog(t, mesh, 0)
		require.Equal(t, "ack", role(ana, bo.Member.ID, "admin"))
		require.Equal(t, "ack", role(ana, strings.ToUpper(bo.Member.Pubkey), "admin"), "again changes nothing")
		require.Equal(t, "ack", role(ana, ana.Member.ID, "member"), "somebody else governs")
		lines, at := auditLog(t, mesh, at)
		require.Equal(t, []string{
			`member_role ana {"role":"admin","target":"` + bo.Member.ID + `"}`, `member_role ana {"role":"member","target":"` + ana.Member.ID + `"}`,
		}, lines)
		require.Equal(t, "forbidden: only owner or admin can change roles", role(ana, ana.Member.ID, "admin"))
		require.Equal(t, last, role(bo, bo.Member.ID, "member"))

		banned := mesh.Member("cy")
		require.NoError(t, b.RevokeMember(ctx, mesh.ID, banned.ID))
		require.Equal(t, "not_found: no such member", role(bo, banned.ID, "admin"))
		require.Equal(t, "not_found: no such member", role(bo, banned.Pubkey, "admin"))
		require.Equal(t, "invalid", bo.Request(frame{"type": "member_role", "member": ana.Member.ID, "role": "owner"})["code"])

		// The owner is whoever has the key, and whoever the host names.
		byKey, err := b.AddMember(ctx, mesh.ID, broker.NewMember{Name: "owner", Pubkey: mesh.Owner.Public()})
		require.NoError(t, err)
		require.Equal(t, owners, role(bo, byKey.ID, "admin"))
		require.Equal(t, "ack", role(bo, bo.Member.ID, "member"), "the owner governs")
		owner := hostSignIn(t, mesh, byKey, mesh.Owner, nil)
		require.NoError(t, b.SetOwner(ctx, mesh.ID, ana.Member.ID, ""))
		require.Equal(t, owners, role(owner, ana.Member.ID, "admin"))
		require.Equal(t, owners, role(ana, byKey.ID, "member"))

		_, at = auditLog(t, mesh, at)
		require.NoError(t, b.SetMemberRole(ctx, mesh.ID, ana.Member.ID, store.RoleAdmin), "the host may")
		lines, _ = auditLog(t, mesh, at)
		require.Equal(t, []string{`member_role {"role":"admin","target":"` + ana.Member.ID + `"}`}, lines, "nobody of the mesh did it")
	})
}

// Two admins who would leave nobody who governs cannot, even at the same moment.
func TestMeshKeepsSomebodyWhoGoverns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slowly := func() error { time.Sleep(time.Second); return nil } // both would have been judged by then
		st := &adminStore{before: map[string]func() error{"SetRole": slowly, "RevokeMember": slowly}}
		mesh := brokertest.New(t, st.wrap)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		done(t, ana, frame{"type": "member_role", "member": bo.Member.ID, "role": "admin"})
		outcome := func(c *brokertest.Conn) string { return said(c.Expect("ack", "ban_ack", "error")) }

		ana.Send(frame{"type": "member_role", "member": bo.Member.ID, "role": "member"})
		bo.Send(frame{"type": "member_role", "member": ana.Member.ID, "role": "member"})
		require.ElementsMatch(t, []string{"ack", "forbidden: only owner or admin can change roles"}, []string{outcome(ana), outcome(bo)})

		for _, m := range []*brokertest.Conn{ana, bo} {
			require.NoError(t, mesh.Broker.SetMemberRole(t.Context(), mesh.ID, m.Member.ID, store.RoleAdmin))
		}
		ana.Send(frame{"type": "ban", "target": "bo"})
		bo.Send(frame{"type": "ban", "target": "ana"})
		time.Sleep(3 * time.Second)
		synctest.Wait()
		bans, err := mesh.Broker.Bans(t.Context(), mesh.ID)
		require.NoError(t, err)
		require.Len(t, bans, 1)
	})
}

// H31: with the role goes what only admins may have: streams of topics that they only see, and the rights of their keys.
func TestH31DemotionEndsWhatOnlyAdminsHave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo, cy := mesh.Dial("ana"), mesh.Dial("bo"), mesh.Dial("cy")
		newTopic(t, cy, "hr", "private")
		done(t, ana, frame{"type": "member_role", "member": bo.Member.ID, "role": "admin"})
		made := createKey(bo, frame{"capabilities": []string{"admin"}})
		key := door{t: t, mesh: mesh, key: made.Str("secret")}
		stream := key.stream("hr", "")
		done(t, ana, frame{"type": "member_role", "member": bo.Member.ID, "role": "member"})
		require.Less(t, stream.ended(), time.Second)
		key.refused(404, "topic_not_found", "GET", topicPath("hr", "/stream"), nil)
		require.Equal(t, "forbidden", createKey(bo, frame{"capabilities": []string{"admin"}})["code"])
		require.Equal(t, "topic_not_found", bo.Request(frame{"type": "topic_history", "topic": "hr"})["code"])
		require.Len(t, list(t, bo.Request(frame{"type": "apikey_list"}), "keys"), 1, "its own")
	})
}

// H30: nothing but its own member's requests tells that a hidden session is there.
func TestH30HiddenPeersCountAsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana") // an admin
		key := sessionKey(t)
		bo := mesh.Dial("bo", explicit, brokertest.SessionKey(key))
		own := mesh.Dial("bo", explicit)
		newTopic(t, ana, "ops", "public")
		done(t, bo, frame{"type": "topic_join", "topic": "ops"})
		look := func(c *brokertest.Conn, target string) (offline any, online any, status frame) {
			ack := c.Say(target, "now", "hello")
			require.Equal(t, true, ack["queued"], "%v", ack)
			synctest.Wait()
			status = c.Request(frame{"type": "message_status", "messageId": ack["messageId"]})
			return ack["offline"], ack["recipients"].(map[string]any)["online"], frame(status["recipients"].([]any)[0].(map[string]any))
		}
		targets := []string{bo.Member.Pubkey, key.Public(), "#ops"}
		for _, target := range targets {
			offline, online, status := look(ana, target)
			require.Equal(t, []any{false, 1.0, "pushed"}, []any{offline, online, status["state"]}, target)
		}
		done(t, bo, frame{"type": "set_visible", "visible": false})
		offline, online, _ := look(ana, bo.Member.Pubkey)
		require.Equal(t, []any{false, 1.0}, []any{offline, online}, "another session of the member is to be seen")
		done(t, own, frame{"type": "set_visible", "visible": false})
		bo.Pushes()
		for _, target := range targets {
			offline, online, status := look(ana, target)
			require.Equal(t, []any{true, 0.0, "disconnected", "queued", "offline"},
				[]any{offline, online, status["status"], status["state"], status["reason"]}, target)
		}
		require.Len(t, bo.Pushes(), 3, "it gets its mail all the same")
		offline, online, status := look(own, key.Public())
		require.Equal(t, []any{false, 1.0, "pushed"}, []any{offline, online, status["state"]}, "its own member sees it")
		require.True(t, mesh.Online("bo"), "and so does the host")
		require.NotContains(t, peers(ana), "bo")
		require.EqualValues(t, 1, ana.Request(frame{"type": "mesh_info"})["peers"])
	})
}

func TestAdminFramesAreChecked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		for _, f := range []frame{
			{"type": "kick"}, {"type": "disconnect", "target": " "}, {"type": "kick", "stale": -1}, {"type": "ban"}, {"type": "ban", "target": "\x00"},
			{"type": "ban", "target": "bo", "reason": strings.Repeat("x", 501)}, {"type": "unban", "target": ""}, {"type": "member_role", "role": "admin"},
		} {
			require.Equal(t, "invalid", ana.Request(f)["code"], "%v", f)
			require.Equal(t, "invalid", bo.Request(f)["code"], "%v: what is wrong with a request is told to everybody", f)
		}
		require.Len(t, mesh.Broker.Sessions(mesh.ID), 2)
		_, err := mesh.Store.MemberByKey(t.Context(), mesh.ID, bo.Member.Pubkey)
		require.NoError(t, err)
		ana.Send(frame{"type": "list_bans"})
		require.Equal(t, []any{}, ana.Expect(wire.TypeListBansResult)["bans"])
	})
}

// adminCases are requests to govern by somebody who may not, or of the wrong shape.
func (s *siege) adminCases() []hostileCase {
	const invalid, malformed, forbidden = "error invalid", "error malformed", "error forbidden"
	bo := s.bo.Member.Pubkey
	return []hostileCase{
		{"kick by a member", forbidden, s.ws(frame{"type": "kick", "target": "bo"})},
		{"kick of everybody by a member", forbidden, s.ws(frame{"type": "kick", "all": true})},
		{"kick of the silent by a member", forbidden, s.ws(frame{"type": "kick", "stale": 0})},
		{"kick of oneself by a member", forbidden, s.ws(frame{"type": "kick", "target": s.member.Pubkey})},
		{"disconnect by a member", forbidden, s.ws(frame{"type": "disconnect", "target": bo})},
		{"ban by a member", forbidden, s.ws(frame{"type": "ban", "target": bo})},
		{"ban of oneself by a member", forbidden, s.ws(frame{"type": "ban", "target": "eve"})},
		{"ban of another mesh's member", forbidden, s.ws(frame{"type": "ban", "target": s.other.member.Pubkey})},
		{"unban by a member", forbidden, s.ws(frame{"type": "unban", "target": "dan"})},
		{"rise by a member", forbidden, s.ws(frame{"type": "member_role", "member": s.member.ID, "role": "admin"})},
		{"kick of nobody", invalid, s.ws(frame{"type": "kick"})},
		{"kick of spaces", invalid, s.ws(frame{"type": "kick", "target": "  "})},
		{"kick of a name of 129", invalid, s.ws(frame{"type": "kick", "target": long(129)})},
		{"kick of NUL", invalid, s.ws(frame{"type": "kick", "target": "bo\x00"})},
		{"kick of the future", invalid, s.ws(frame{"type": "kick", "stale": -1})},
		{"kick of the silent since for ever", invalid, s.raw(`{"type":"kick","_reqId":"r","stale":1e999}`)},
		{"kick of a list", malformed, s.ws(frame{"type": "kick", "target": []string{"ana", "bo"}})},
		{"kick of all, as text", malformed, s.ws(frame{"type": "kick", "all": "true"})},
		{"kick with two targets", malformed, s.raw(`{"type":"kick","_reqId":"r","target":"eve","Target":"bo"}`)},
		{"ban for a reason of 501", invalid, s.ws(frame{"type": "ban", "target": "bo", "reason": long(501)})},
		{"ban for NUL", invalid, s.ws(frame{"type": "ban", "target": "bo", "reason": "\x00"})},
		{"ban of a number", malformed, s.ws(frame{"type": "ban", "target": 7})},
		{"role of a king", invalid, s.ws(frame{"type": "member_role", "member": s.member.ID, "role": "owner"})},
		{"role of nobody", invalid, s.ws(frame{"type": "member_role", "role": "admin"})},
		{"role of a pattern", invalid, s.ws(frame{"type": "member_role", "member": "%", "role": "admin"})},
	}
}
