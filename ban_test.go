package broker_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

func TestBan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		b, ctx := mesh.Broker, t.Context()
		ana, bo, cy := mesh.Dial("ana"), mesh.Dial("bo"), mesh.Member("cy")
		ban := func(target string) string { return said(ana.Request(frame{"type": "ban", "target": target})) }
		unban := func(target string) string { return said(ana.Request(frame{"type": "unban", "target": target})) }
		done(t, ana, frame{"type": "member_role", "member": cy.ID, "role": "admin"})
		byKey, err := b.AddMember(ctx, mesh.ID, broker.NewMember{Name: "key owner", Pubkey: mesh.Owner.Public()})
		require.NoError(t, err)
		byID := mesh.Member("id owner")
		require.NoError(t, b.SetOwner(ctx, mesh.ID, byID.ID, ""))

		for _, target := range []string{"ana", ana.Member.Pubkey, ana.Member.Pubkey[:8]} {
			require.Equal(t, "invalid: target is yourself; another admin can ban you", ban(target))
		}
		for _, target := range []string{"key owner", byKey.Pubkey, "id owner", byID.Pubkey} {
			require.Equal(t, "forbidden: the owner of the mesh cannot be banned", ban(target))
		}
		require.Equal(t, "not_found: no such member, or it is banned already", ban("nobody"))
		require.Equal(t, "not_found: no such member is banned", unban("bo"))
		require.Empty(t, list(t, bo.Request(frame{"type": "list_bans"}), "bans"))

		_, at := auditLog(t, mesh, 0)
		reply := ana.Request(frame{"type": "ban", "target": "bo", "reason": "left the team"})
		require.Equal(t, []string{"ban_ack", "bo"}, []string{reply.Type(), reply.Str("banned")})
		code, reason := bo.Closed()
		require.Equal(t, []any{4002, "banned"}, []any{code, reason})
		banned := wire.FormatTime(time.Now())
		lines, at := auditLog(t, mesh, at)
		require.Equal(t, []string{
			`member_banned ana {"reason":"left the team","target":"` + bo.Member.ID + `","targetPubkey":"` + bo.Member.Pubkey + `"}`, `peer_left bo {}`,
		}, lines)
		require.Equal(t, "not_found: no such member, or it is banned already", ban("bo"))
		time.Sleep(time.Second)
		require.Equal(t, "ban_ack", ban(cy.Pubkey), "another admin")
		// Everybody may know who was removed.
		bans := list(t, mesh.Dial("dan").Request(frame{"type": "list_bans"}), "bans")
		require.Equal(t, []frame{
			{"name": "cy", "pubkey": cy.Pubkey, "revokedAt": wire.FormatTime(time.Now())}, {"name": "bo", "pubkey": bo.Member.Pubkey, "revokedAt": banned},
		}, bans)

		_, at = auditLog(t, mesh, at)
		reply = ana.Request(frame{"type": "unban", "target": strings.ToUpper(bo.Member.Pubkey[:8])})
		require.Equal(t, []string{"unban_ack", "bo"}, []string{reply.Type(), reply.Str("unbanned")})
		require.NoError(t, b.RestoreMember(ctx, mesh.ID, cy.ID))
		require.NoError(t, b.RestoreMember(ctx, mesh.ID, cy.ID), "twice")
		require.NoError(t, b.RevokeMember(ctx, mesh.ID, cy.ID))
		require.NoError(t, b.RevokeMember(ctx, mesh.ID, byID.ID), "the host may, whoever it is")
		lines, _ = auditLog(t, mesh, at)
		require.Equal(t, []string{
			`member_unbanned ana {"target":"` + bo.Member.ID + `"}`, `member_unbanned {"target":"` + cy.ID + `"}`,
			`member_banned {"target":"` + cy.ID + `","targetPubkey":"` + cy.Pubkey + `"}`,
			`member_banned {"target":"` + byID.ID + `","targetPubkey":"` + byID.Pubkey + `"}`,
		}, lines, "the host is no member; what changed nothing is not there")
		mesh.Dial("bo")
	})
}

// A session's name or key names its member, also when the session has gone.
func TestBanBySession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		key := sessionKey(t)
		mesh.Dial("bo", brokertest.SessionKey(key)).Close()
		mesh.Dial("cy", brokertest.With(frame{"displayName": "build"}))
		synctest.Wait()
		require.Equal(t, "bo", ana.Request(frame{"type": "ban", "target": key.Public()}).Str("banned"))
		require.Equal(t, "cy", ana.Request(frame{"type": "ban", "target": "build"}).Str("banned"))
		require.Len(t, mesh.Broker.Sessions(mesh.ID), 1)
	})
}

// Everything of a banned member ends within a second, by either way of banning, and comes back by neither.
func TestBanEndsEverything(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"the frame", "the host"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t)
				b, ctx := mesh.Broker, t.Context()
				ana, bo := mesh.Dial("ana"), mesh.Member("bo")
				key := sessionKey(t)
				live := mesh.Dial("bo", explicit, session("live"), brokertest.SessionKey(key))
				attested := mesh.Dial("bo", session("attested"), brokertest.SessionKey(sessionKey(t)), brokertest.Attested())
				lost := mesh.Dial("bo", session("lost"))
				lost.Cut()
				asking := mesh.Dial("bo", session("asking"), brokertest.With(frame{"capabilities": []string{"no_push"}}))
				newTopic(t, ana, "ops", "public")
				newTopic(t, ana, "hr", "private")
				done(t, live, frame{"type": "topic_join", "topic": "ops"})
				done(t, ana, frame{"type": "topic_add", "topic": "hr", "member": bo.ID})
				anas, bos := restKey(t, mesh, "ana", readSend), restKey(t, mesh, "bo", readSend)
				minted := createKey(live, nil)
				general, hr := bos.stream("general", ""), bos.stream("hr", "")
				require.Contains(t, column(list(t, anas.ok("GET", topicPath("ops", "/pending-seals"), nil), "pending"), "pubkey"), bo.Pubkey)

				for _, c := range []*brokertest.Conn{live, attested, asking} {
					done(t, c, frame{"type": "set_status", "status": "dnd"})
				}
				waiting := map[string]frame{}
				for _, target := range []string{bo.Pubkey, key.Public(), "*", "#ops", "#hr"} {
					waiting[target] = ana.Say(target, "next", "held")
				}
				hr.messages(1)
				events(ana)
				_, last := auditLog(t, mesh, 0)

				at := time.Now()
				if way == "the frame" {
					require.Equal(t, "bo", ana.Request(frame{"type": "ban", "target": "bo"}).Str("banned"))
				} else {
					require.NoError(t, b.RevokeMember(ctx, mesh.ID, bo.ID))
				}
				for _, c := range []*brokertest.Conn{live, attested, asking} {
					code, reason := c.Closed()
					require.Equal(t, []any{4002, "banned"}, []any{code, reason})
				}
				general.ended()
				hr.ended()
				require.Equal(t, []string{"peer_left bo", "peer_left bo", "peer_left bo"}, events(ana), "and the one that only asked goes as it came")
				require.Less(t, time.Since(at), time.Second)
				require.Empty(t, sessionsOf(mesh, bo.ID))
				lines, _ := auditLog(t, mesh, last)
				require.Len(t, lines, 5, "member_banned and four times peer_left: %v", lines)

				// Nobody sees it, waits for it, seals for it or reaches it.
				require.NotContains(t, peers(ana), "bo")
				require.NotContains(t, column(list(t, anas.ok("GET", "/members", nil), "members"), "memberId"), bo.ID)
				require.NotContains(t, column(list(t, anas.ok("GET", "/peers", nil), "peers"), "pubkey"), bo.Pubkey)
				for _, topic := range []string{"general", "ops", "hr"} {
					require.NotContains(t, column(list(t, ana.Request(frame{"type": "topic_members", "topic": topic}), "members"), "memberId"), bo.ID)
				}
				require.NotContains(t, column(list(t, anas.ok("GET", topicPath("ops", "/pending-seals"), nil), "pending"), "pubkey"), bo.Pubkey)
				for target, ack := range waiting {
					got := ana.Request(frame{"type": "message_status", "messageId": ack["messageId"]})["recipients"].([]any)[0].(map[string]any)
					require.Equal(t, []any{"expired", "revoked"}, []any{got["state"], got["reason"]}, target)
				}
				for _, target := range []string{bo.Pubkey, key.Public()} {
					require.Equal(t, "target_not_found: unknown target", ana.Say(target, "now", "x")["error"])
				}
				mention := ana.Request(frame{
					"type": "send", "targetSpec": "#general", "nonce": "", "ciphertext": brokertest.Body("hi @bo"), "mentions": []string{"bo"},
				})
				notices, err := mesh.Store.Notifications(ctx, store.NotificationQuery{MeshID: mesh.ID, MemberID: bo.ID, Limit: 10})
				require.NoError(t, err)
				require.Empty(t, notices, "%v", mention)
				require.EqualValues(t, 0, mention["recipients"].(map[string]any)["total"])

				// It gets in by none of the ways.
				mintedKey := door{t: t, mesh: mesh, key: minted.Str("secret")}
				for _, k := range []door{bos, mintedKey} {
					k.refused(401, "error.api_key_invalid", "GET", "/topics", nil)
				}
				for _, hello := range []frame{
					mesh.HelloFrame(bo, nil, false, frame{"sessionId": "live", "pid": 1, "cwd": "/"}),
					mesh.HelloFrame(bo, &key, true, frame{"sessionId": "live", "pid": 1, "cwd": "/"}),
				} {
					c := mesh.Connect()
					c.Send(hello)
					c.Read()
					require.Equal(t, "revoked", c.Expect("error")["code"])
					code, _ := c.Closed()
					require.Equal(t, 4002, code)
				}
				token, _ := hostInvite(t, mesh, broker.InviteOptions{})
				require.Equal(t, "member_banned", hostPostJoin(t, b, hostJoin(t, token, bo.Key, "bo")).body.Str("error"))
				ana.Waiting()

				// Unbanned, it is a member again, with its subscriptions and nothing else.
				require.Equal(t, "bo", ana.Request(frame{"type": "unban", "target": "bo"}).Str("unbanned"))
				for _, topic := range []string{"general", "ops", "hr"} {
					require.Contains(t, column(list(t, ana.Request(frame{"type": "topic_members", "topic": topic}), "members"), "memberId"), bo.ID)
				}
				back := mesh.Dial("bo", explicit, session("live"), brokertest.SessionKey(key))
				synctest.Wait()
				require.NotContains(t, []any{live.Hello["presenceId"], attested.Hello["presenceId"], lost.Hello["presenceId"]}, back.Hello["presenceId"])
				require.Empty(t, back.Pushes(), "what waited has expired")
				require.Equal(t, []string{"live"}, sessionsOf(mesh, bo.ID))
				for _, k := range []door{bos, mintedKey} {
					k.refused(401, "error.api_key_invalid", "GET", "/topics", nil)
				}
				ana.Say("#ops", "now", "welcome back")
				require.Equal(t, "welcome back", brokertest.Text(back.ExpectPush()))
				sealed := restKey(t, mesh, "bo", reads).do("GET", topicPath("ops", "/key"), nil)
				require.Equal(t, 404, sealed.Status, sealed.Raw)
				require.Equal(t, "bo", ana.Request(frame{"type": "ban", "target": "bo"}).Str("banned"), "and again")
				code, _ := back.Closed()
				require.Equal(t, 4002, code)
			})
		})
	}
}

// A hello that is being looked at when its member is banned is refused, or its place ended, whichever comes first.
func TestBanCatchesAHelloOnItsWay(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"ClaimOnce", "OpenPresence"} { // before and after the store gave it a place
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				on, entering, goOn := false, make(chan struct{}), make(chan struct{})
				hold := func() error {
					if on {
						on = false
						close(entering)
						<-goOn
					}
					return nil
				}
				before := &adminStore{before: map[string]func() error{"ClaimOnce": func() error {
					if at == "ClaimOnce" {
						return hold()
					}
					return nil
				}}}
				after := &hostStore{opened: func() {
					if at == "OpenPresence" {
						_ = hold()
					}
				}}
				mesh := brokertest.New(t, before.wrap, after.wrap)
				ana, bo := mesh.Dial("ana"), mesh.Member("bo")
				on = true
				c := mesh.Connect()
				c.Send(mesh.HelloFrame(bo, nil, false, frame{"sessionId": "s", "pid": 1, "cwd": "/"}))
				c.Read()
				<-entering
				ana.Send(frame{"type": "ban", "target": "bo"})
				synctest.Wait()
				close(goOn)
				require.Equal(t, "bo", ana.Expect("ban_ack").Str("banned"))
				code, reason := c.Closed()
				require.Equal(t, []any{4002, "banned"}, []any{code, reason})
				require.Empty(t, sessionsOf(mesh, bo.ID))
				bal := balance(ana)
				require.Zero(t, bal.joined-bal.left, "who was told that it came was told that it went")
				require.Len(t, peers(ana), 1)
			})
		})
	}
}

// A key that is being made while its issuer is banned is not made, so that unbanning brings none back.
func TestNoKeyIsMadeBesideABan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		making, goOn := make(chan struct{}), make(chan struct{})
		st := &adminStore{before: map[string]func() error{}}
		mesh := brokertest.New(t, st.wrap)
		bo := mesh.Dial("bo")
		st.before["CreateAPIKey"] = func() error { making <- struct{}{}; <-goOn; return nil }
		bo.Send(frame{"type": "apikey_create", "label": "x", "capabilities": []string{"read"}})
		host := make(chan error)
		go func() {
			_, _, err := mesh.Broker.CreateAPIKey(t.Context(), mesh.ID, broker.NewAPIKey{Label: "y", Capabilities: []string{"read"}, IssuedBy: bo.Member.ID})
			host <- err
		}()
		<-making
		<-making
		require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, bo.Member.ID))
		close(goOn)
		require.ErrorIs(t, <-host, store.ErrNotFound)
		bo.Closed()
		keys, err := mesh.Store.ListAPIKeys(t.Context(), mesh.ID, "")
		require.NoError(t, err)
		require.Empty(t, keys)
	})
}

// A session that leaves by itself while its member is banned finds its row closed, and the others are told all the same.
func TestLeavingBesideABanIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaving, goOn := make(chan struct{}), make(chan struct{})
		st := &adminStore{before: map[string]func() error{}}
		mesh := brokertest.New(t, st.wrap)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		events(ana)
		st.before["SavePeerState"] = func() error { close(leaving); <-goOn; return nil }
		bo.Close()
		<-leaving // it is out of the registry, and its row is open
		delete(st.before, "SavePeerState")
		require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, bo.Member.ID))
		require.Empty(t, events(ana))
		close(goOn)
		require.Equal(t, []string{"peer_left bo"}, events(ana))
	})
}

// told is what a connection was told of the sessions of others, by the key that reaches them.
type told struct {
	joined, left int
	here         map[string]bool
	wrong        []string // told of twice
}

// add reads events. A session joins and leaves in turn.
func (b *told) add(frames []frame) {
	if b.here == nil {
		b.here = map[string]bool{}
	}
	for _, f := range frames {
		data, _ := f["eventData"].(map[string]any)
		key, _ := data["pubkey"].(string)
		switch f.Str("event") {
		case wire.EventPeerJoined, wire.EventPeerReturned:
			b.joined++
			if b.here[key] {
				b.wrong = append(b.wrong, "joined twice: "+key)
			}
			b.here[key] = true
		case wire.EventPeerLeft:
			b.left++
			if !b.here[key] {
				b.wrong = append(b.wrong, "left twice: "+key)
			}
			delete(b.here, key)
		}
	}
}

// balance is what has come to a connection that was not looked at before.
func balance(c *brokertest.Conn) *told {
	synctest.Wait()
	b := &told{}
	b.add(c.Waiting())
	return b
}

// D10: whatever mixture of arrivals, departures, losses, replacements, kicks, disconnects and bans comes, some of it at the same moment, the broker,
// the store and everybody else agree on who is here, and each was told of each once.
func TestD10CountNeverDrifts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { driftOnce(t, rand.New(rand.NewPCG(seed, 10))) })
		})
	}
}

// drifter is one session of one process, which may have several connections one after another.
type drifter struct {
	member *brokertest.Member
	id     string
	key    identity.KeyPair
	conn   *brokertest.Conn
}

func driftOnce(t *testing.T, r *rand.Rand) {
	const limit, steps = 14, 200
	mesh := brokertest.New(t, func(o *broker.Options) { o.MaxConnectionsPerMesh, o.MaxPresencesPerMember = limit, 6 })
	b, ctx := mesh.Broker, t.Context()
	ana := mesh.Dial("ana") // the admin, whom nothing here ends
	watcher := mesh.Dial("wim", brokertest.SessionKey(sessionKey(t)))
	var pool []*drifter
	for _, name := range []string{"bo", "cy", "dan", "eve"} {
		for i := range 5 {
			pool = append(pool, &drifter{member: mesh.Member(name), id: fmt.Sprint(name, i), key: sessionKey(t)})
		}
	}
	hello := func(d *drifter, attested bool) {
		d.conn = mesh.Connect()
		d.conn.Send(mesh.HelloFrame(d.member, &d.key, attested, frame{"sessionId": d.id, "pid": 1, "cwd": "/"}))
		d.conn.Read()
	}
	one := func() *drifter { return pool[r.IntN(len(pool))] }
	seen, bystander := &told{}, &told{}
	come := func() { hello(one(), r.IntN(2) == 0) }
	back := func() { id := one().member.ID; go func() { _ = b.RestoreMember(ctx, mesh.ID, id) }() }
	moves := []func(){
		come, come, come, come, come, come, come, come, come, come, come, come,
		back, back, back, back,
		func() { d := one(); d.key = sessionKey(t); hello(d, r.IntN(2) == 0) }, // replaces what has its session id
		func() {
			if d := one(); d.conn != nil {
				d.conn.Cut()
			}
		},
		func() {
			if d := one(); d.conn != nil {
				go d.conn.Close()
			}
		},
		func() { ana.Send(frame{"type": "kick", "target": one().member.Name}) },
		func() { ana.Send(frame{"type": "kick", "target": one().key.Public()}) },
		func() { ana.Send(frame{"type": "disconnect", "target": one().member.Pubkey[:8]}) },
		func() { ana.Send(frame{"type": "disconnect", "target": one().key.Public()}) },
		func() { ana.Send(frame{"type": "kick", "stale": 20_000 + r.IntN(60_000)}) }, // the watcher is never so silent
		func() { ana.Send(frame{"type": "ban", "target": one().member.Name}) },
		func() { ana.Send(frame{"type": "unban", "target": one().member.Name}) },
		func() { ana.Send(frame{"type": "unban", "target": one().member.Name}) },
		func() { id := one().member.ID; go func() { _ = b.Kick(ctx, mesh.ID, id) }() },
		func() { id := one().member.ID; go func() { _ = b.Disconnect(ctx, mesh.ID, id) }() },
		func() { id := one().member.ID; go func() { _ = b.RevokeMember(ctx, mesh.ID, id) }() },
		func() { time.Sleep(time.Duration(r.IntN(50)) * time.Second) }, // leases end
	}
	settle := func() {
		watcher.Request(frame{"type": "list_peers"}) // so that it is not stale
		synctest.Wait()
		seen.add(ana.Waiting())
		bystander.add(watcher.Waiting())
	}
	for step := range steps {
		for range 1 + r.IntN(3) { // up to three at the same moment
			moves[r.IntN(len(moves))]()
		}
		settle()
		here := map[string]bool{}
		for _, s := range b.Sessions(mesh.ID) {
			here[s.SessionPubkey] = true
		}
		listed := list(t, ana.Request(frame{"type": "list_peers"}), "peers")
		roster, err := mesh.Store.Roster(ctx, mesh.ID)
		require.NoError(t, err)
		stored := 0
		for _, m := range roster.Members {
			stored += len(m.Presences)
		}
		require.Len(t, b.Sessions(mesh.ID), len(listed), "step %d", step)
		require.Equal(t, len(listed), stored, "step %d: the store", step)
		require.LessOrEqual(t, len(listed), limit, "step %d", step)
		for who, log := range map[string]*told{"ana": seen, "wim": bystander} {
			require.Empty(t, log.wrong, "step %d: %s", step, who)
			for _, d := range pool {
				require.Equal(t, here[d.key.Public()], log.here[d.key.Public()], "step %d: %s of %s", step, who, d.id)
			}
			others := len(listed) - 2 // the two
			known := len(log.here)
			if who == "ana" { // was here when the watcher came
				known--
			}
			require.Equal(t, others, known, "step %d: %s", step, who)
		}
	}
	require.Greater(t, seen.left, 50, "it was a mixture")

	// As many as the limit says come in, and not one more.
	for _, m := range []string{"bo", "cy", "dan", "eve"} {
		require.NoError(t, b.RestoreMember(ctx, mesh.ID, mesh.Member(m).ID))
		require.NoError(t, b.Disconnect(ctx, mesh.ID, mesh.Member(m).ID))
	}
	settle()
	require.Equal(t, seen.joined-1, seen.left)
	for i := range limit - 2 {
		mesh.Dial([]string{"bo", "cy", "dan", "eve"}[i%4], session(fmt.Sprint("last ", i)))
	}
	c := mesh.Connect()
	c.Send(mesh.HelloFrame(mesh.Member("bo"), nil, false, frame{"sessionId": "one more", "pid": 1, "cwd": "/"}))
	c.Read()
	require.Equal(t, "capacity", c.Expect("error", "hello_ack")["code"])
}

// A request that was read before its member was banned, and waited its turn, is not run after the ban.
func TestNothingWaitingIsRunAfterABan(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]func(*broker.Options){
		"for its bytes":    func(o *broker.Options) { o.InboundBytesPerSec = 1000 },
		"for its requests": func(o *broker.Options) { o.ControlRatePerMin, o.ControlRateBurst = 6, 2 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t, limits)
				ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
				for _, key := range []string{"a", "b", "c", "last"} {
					bo.Send(frame{"type": "set_state", "key": key, "value": strings.Repeat("x", 8000)})
				}
				time.Sleep(500 * time.Millisecond)
				synctest.Wait()
				require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, bo.Member.ID))
				time.Sleep(5 * time.Minute)
				require.Empty(t, ana.Request(frame{"type": "get_state", "key": "last"}).Str("updatedBy"))
				entries, _, err := mesh.Broker.AuditLog(t.Context(), store.AuditQuery{MeshID: mesh.ID, Actor: bo.Member.ID, Limit: 1})
				require.NoError(t, err)
				require.Equal(t, "peer_left", entries[0].Type, "the last that is heard of it")
			})
		})
	}
}

// loginAuth is a host's that remembers who logged in, and hears of no ban.
type loginAuth struct {
	broker.StoreAuth
	login *store.Member
}

func (a loginAuth) Request(context.Context, *http.Request) (broker.Grant, error) {
	return broker.Grant{MeshID: a.login.MeshID, Member: *a.login, ID: "login", Capabilities: []string{"admin"}}, nil
}

// What a host's Auth says of a member is from when it looked; that the member is banned counts at once.
func TestBanCountsForLoginsOfTheHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var login store.Member
		mesh := brokertest.New(t, func(o *broker.Options) { o.Auth = loginAuth{broker.StoreAuth{Store: o.Store}, &login} })
		login = mesh.Member("bo").Member
		d := door{t: t, mesh: mesh}
		paths := []string{"/topics", "/members", "/peers", "/topics/general/messages"}
		for _, path := range paths {
			require.Equal(t, 200, d.do("GET", path, nil).Status, path)
		}
		require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, login.ID))
		for _, path := range append(paths, "/topics/general/stream") {
			require.Equal(t, 401, d.do("GET", path, nil).Status, path)
		}
		require.Equal(t, 401, d.do("POST", "/messages", postBody("general", "hi")).Status)
	})
}
