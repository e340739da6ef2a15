package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

func TestPeersAreOnePerMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		time.Sleep(time.Second)
		mesh.Dial("bo", brokertest.With(frame{"displayName": "bo at home", "groups": []frame{{"name": "eng"}}}))
		time.Sleep(time.Second)
		again := mesh.Dial("ana", brokertest.With(frame{"displayName": "ana two"}))
		again.Request(frame{"type": "set_status", "status": "working"})
		again.Request(frame{"type": "set_summary", "summary": "at it"})
		key := restKey(t, mesh, "cy", reads) // whose owner has no session
		got := list(t, key.ok("GET", "/peers", nil), "peers")
		require.Equal(t, []frame{
			{"pubkey": ana.Member.Pubkey, "displayName": "ana two", "status": "working", "summary": "at it", "groups": []any{}, "via": "ws"},
			{
				"pubkey": mesh.Member("bo").Pubkey, "displayName": "bo at home", "status": "idle", "summary": nil,
				"groups": []any{map[string]any{"name": "eng"}}, "via": "ws",
			},
			{"pubkey": mesh.Member("cy").Pubkey, "displayName": "cy", "status": "idle", "summary": nil, "groups": []any{}, "via": "rest"},
		}, got)
		host := restKey(t, mesh, "", reads)
		time.Sleep(5*time.Minute + time.Second)
		require.Equal(t, []string{"ws", "ws"}, column(list(t, host.ok("GET", "/peers", nil), "peers"), "via"), "a key unused for five minutes")
	})
}

func TestHiddenMemberIsInNoRoster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		time.Sleep(time.Millisecond)
		bo := mesh.Dial("bo")
		done(t, bo, frame{"type": "set_visible", "visible": false})
		restKey(t, mesh, "bo", reads).ok("GET", "/topics", nil)
		key := restKey(t, mesh, "ana", reads)
		require.Equal(t, []string{ana.Member.Pubkey}, column(list(t, key.ok("GET", "/peers", nil), "peers"), "pubkey"), "nor by its key")
		members := list(t, key.ok("GET", "/members", nil), "members")
		require.Equal(t, []string{"ana", "bo"}, column(members, "displayName"))
		require.Equal(t, []string{"idle", "offline"}, column(members, "status"))
		require.Equal(t, false, members[1]["online"])
	})
}

func TestMembersAreInTheOrderOfJoining(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		zoe := mesh.Enroll(broker.NewMember{Name: "zoe", Role: store.RoleAdmin, UserID: "u1"})
		time.Sleep(time.Second)
		mesh.Dial("ana").Request(frame{"type": "set_status", "status": "dnd"})
		time.Sleep(time.Second)
		bo := mesh.Member("bo")
		require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, bo.ID))
		got := list(t, restKey(t, mesh, "zoe", reads).ok("GET", "/members", nil), "members")
		require.Equal(t, []string{"zoe", "ana"}, column(got, "displayName"))
		require.Equal(t, frame{
			"memberId": zoe.ID, "pubkey": zoe.Pubkey, "displayName": "zoe", "role": "admin", "isHuman": true, "joinedAt": wire.FormatTime(zoe.JoinedAt),
			"online": false, "status": "offline", "summary": nil,
		}, got[0])
		require.Equal(t, "dnd", got[1].Str("status"))
		require.Equal(t, true, got[1]["online"])
		require.Equal(t, false, got[1]["isHuman"])
	})
}

// H13: an API key never becomes the member, unless the host made it for that, and the new key itself agrees.
func TestH13OnlyTheHostsKeysChangeAMembersKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana", explicit)
		fresh := sessionKey(t)
		socket := createKey(ana, frame{"capabilities": []string{"admin", "read", "send"}})
		own := door{t: t, mesh: mesh, key: socket.Str("secret")}
		proof := func() frame { return rekeyProof(mesh, ana.Member, fresh, time.Now()) }
		own.refused(409, "not_web_member", "POST", "/me/peer-pubkey", proof())
		restKey(t, mesh, "ana", readSend).refused(409, "not_web_member", "POST", "/me/peer-pubkey", proof())

		host := restKey(t, mesh, "ana", sends, func(n *broker.NewAPIKey) { n.Rekey = true })
		for _, c := range []struct {
			name string
			body frame
			code string
			want int
		}{
			{"no proof", frame{"pubkey": fresh.Public(), "timestamp": 1}, "error.validation", 422},
			{"no key", frame{"pubkey": "ab", "proof": "x", "timestamp": 1}, "error.validation", 422},
			{"no time", merged(proof(), frame{"timestamp": nil}), "error.validation", 422},
			{"old proof", rekeyProof(mesh, ana.Member, fresh, time.Now().Add(-time.Hour)), "bad_proof", 403},
			{"by the old key", merged(proof(), frame{"proof": ana.Member.Key.Sign("x")}), "bad_proof", 403},
			{"for another member", rekeyProof(mesh, mesh.Member("bo"), fresh, time.Now()), "bad_proof", 403},
			{"another's key", rekeyProof(mesh, ana.Member, mesh.Member("bo").Key, time.Now()), "pubkey_in_use", 409},
		} {
			t.Log(c.name)
			host.refused(c.want, c.code, "POST", "/me/peer-pubkey", c.body)
		}
		own.ok("GET", "/topics", nil)
		require.Equal(t, frame{"memberId": ana.Member.ID, "pubkey": ana.Member.Pubkey, "changed": false},
			host.ok("POST", "/me/peer-pubkey", rekeyProof(mesh, ana.Member, ana.Member.Key, time.Now())), "the key it has")
	})
}

// H13: with the key the identity moves: sessions, sealed copies and keys of the old one end, and it never comes back.
func TestH13OldKeyIsGoneForGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		newTopic(t, ana, "ops", "public")
		done(t, bo, frame{"type": "topic_join", "topic": "ops"})
		bo.Request(frame{"type": "set_grants", "grants": frame{ana.Member.Pubkey: []string{}}})
		socket := createKey(ana, nil)
		own := door{t: t, mesh: mesh, key: socket.Str("secret")}
		stream := own.stream("ops", "")
		host := restKey(t, mesh, "ana", readSend, func(n *broker.NewAPIKey) { n.Rekey = true })
		old, fresh := ana.Member.Key, sessionKey(t)
		got := host.ok("POST", "/me/peer-pubkey", rekeyProof(mesh, ana.Member, fresh, time.Now()))
		require.Equal(t, frame{"memberId": ana.Member.ID, "pubkey": fresh.Public(), "changed": true}, got)

		code, reason := ana.Closed()
		require.Equal(t, 1008, code)
		require.Equal(t, "key_changed", reason)
		require.Equal(t, "peer_left", bo.ExpectEvent("peer_left").Str("event"))
		require.LessOrEqual(t, stream.ended(), time.Second)
		own.refused(401, "error.api_key_invalid", "GET", "/topics", nil)
		host.refused(404, "key_not_sealed_for_member", "GET", topicPath("ops", "/key"), nil)
		host.refused(409, "pubkey_in_use", "POST", "/me/peer-pubkey", rekeyProof(mesh, ana.Member, old, time.Now()))
		refusedWith(t, mesh, ana.Member, "unauthorized")

		renewed := &brokertest.Member{Member: ana.Member.Member, Key: fresh}
		c := mesh.Connect()
		c.Send(mesh.HelloFrame(renewed, nil, false, frame{"sessionId": "s", "pid": 1, "cwd": "/"}))
		c.Read()
		c.Expect("hello_ack")
		require.Contains(t, c.Say(bo.Member.Pubkey, "now", "let me in")["error"], "forbidden", "what was granted to the old key is to the new")
		_, err := topickey.Seal(topickey.Key{}, fresh.Public(), old)
		require.NoError(t, err)
		require.NoError(t, identity.CheckPublic(fresh.Public()))
	})
}
