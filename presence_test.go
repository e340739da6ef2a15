package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
)

// peers lists the sessions as a connection sees them, by display name; the value is the row.
func peers(c *brokertest.Conn) map[string]frame {
	out := map[string]frame{}
	for _, p := range c.Request(frame{"type": "list_peers"})["peers"].([]any) {
		row := frame(p.(map[string]any))
		out[row.Str("displayName")] = row
	}
	return out
}

func events(c *brokertest.Conn) []string {
	synctest.Wait()
	out := []string{}
	for _, f := range c.Waiting() {
		if f.Str("subtype") == "system" {
			out = append(out, f.Str("event")+" "+f["eventData"].(map[string]any)["name"].(string))
		}
	}
	return out
}

func TestJoinAndLeaveAreTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		bo := mesh.Dial("bo")
		require.Equal(t, []string{"peer_joined bo"}, events(ana))
		require.Empty(t, events(bo))
		bo.Close()
		require.Equal(t, []string{"peer_left bo"}, events(ana), "a clean close ends the presence at once")
		mesh.Dial("bo")
		require.Equal(t, []string{"peer_returned bo"}, events(ana), "there is saved state to come back to")
	})
}

func TestLostSocketKeepsItsPlaceForTheLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		key := sessionKey(t)
		bo := mesh.Dial("bo", brokertest.SessionKey(key))
		bo.Request(frame{"type": "set_summary", "summary": "writing tests"})
		events(ana)
		bo.Cut()
		synctest.Wait()
		require.Empty(t, events(ana))
		require.Equal(t, "grace", peers(ana)["bo"].Str("lease"))

		time.Sleep(89 * time.Second)
		back := mesh.Dial("bo", brokertest.SessionKey(key))
		require.Equal(t, bo.Hello["presenceId"], back.Hello["presenceId"])
		require.NotContains(t, back.Hello, "restored")
		require.Equal(t, "writing tests", peers(ana)["bo"]["summary"])
		require.Empty(t, events(ana), "a reattach is silent")

		back.Cut()
		time.Sleep(89 * time.Second)
		require.Empty(t, events(ana))
		time.Sleep(2 * time.Second)
		require.Equal(t, []string{"peer_left bo"}, events(ana))
		require.NotContains(t, peers(ana), "bo")
	})
}

func TestSecondSocketOfASessionReplacesTheFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		key := sessionKey(t)
		first := mesh.Dial("bo", brokertest.SessionKey(key))
		events(ana)
		second := mesh.Dial("bo", brokertest.SessionKey(key))
		code, reason := first.Closed()
		require.Equal(t, 1000, code)
		require.Equal(t, "session_replaced", reason)
		require.Equal(t, first.Hello["presenceId"], second.Hello["presenceId"])
		require.Empty(t, events(ana))
		ana.Say(second.Member.Pubkey, "now", "still here?")
		require.Equal(t, "still here?", brokertest.Text(second.ExpectPush()))

		same := brokertest.With(frame{"sessionId": "one-process"})
		third := mesh.Dial("bo", same, brokertest.SessionKey(sessionKey(t)))
		events(ana)
		fourth := mesh.Dial("bo", same, brokertest.SessionKey(sessionKey(t)))
		code, reason = third.Closed()
		require.Equal(t, []any{1000, "session_replaced"}, []any{code, reason})
		require.NotEqual(t, third.Hello["presenceId"], fourth.Hello["presenceId"], "another session key is another presence")
		require.ElementsMatch(t, []string{"peer_left bo", "peer_returned bo"}, events(ana))
	})
}

func TestAnotherMembersSessionIsNeverTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		key := sessionKey(t)
		ana := mesh.Dial("ana", brokertest.With(frame{"sessionId": "shared"}), brokertest.SessionKey(key))
		eve := mesh.Dial("eve", brokertest.With(frame{"sessionId": "shared"}))
		require.NotEqual(t, ana.Hello["presenceId"], eve.Hello["presenceId"])
		require.Len(t, peers(ana), 2)

		c := mesh.Connect()
		c.Read()
		c.Send(mesh.HelloFrame(mesh.Member("mallory"), &key, false, frame{"sessionId": "x", "pid": 1, "cwd": "/"}))
		require.Equal(t, "session_pubkey_in_use", c.Expect("error").Str("code"))
		code, reason := c.Closed()
		require.Equal(t, []any{1008, "session_pubkey_in_use"}, []any{code, reason})
	})
}

func TestSilentPeerGoesOffline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		mesh.Dial("bo", brokertest.NotReading())
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.True(t, mesh.Online("ana"))
		require.False(t, mesh.Online("bo"))
		require.NotContains(t, peers(ana), "bo", "and its lease is over")
	})
}

// H09: a restart makes nobody leave, and what a session joined is still there.
func TestH09RestartIsInvisible(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		anaKey, boKey := sessionKey(t), sessionKey(t)
		mesh.Dial("ana", brokertest.SessionKey(anaKey))
		bo := mesh.Dial("bo", brokertest.SessionKey(boKey))
		bo.Request(frame{"type": "join_group", "name": "eng"})
		bo.Request(frame{"type": "set_status", "status": "dnd"})
		mesh.Restart()
		ana := mesh.Dial("ana", brokertest.SessionKey(anaKey))
		require.Equal(t, "grace", peers(ana)["bo"].Str("lease"))
		time.Sleep(30 * time.Second)
		again := mesh.Dial("bo", brokertest.SessionKey(boKey))
		require.Equal(t, bo.Hello["presenceId"], again.Hello["presenceId"])
		require.Empty(t, events(ana))
		row := peers(ana)["bo"]
		require.Equal(t, "dnd", row.Str("status"))
		require.Equal(t, []any{map[string]any{"name": "eng"}}, row["groups"])

		mesh.Restart()
		ana = mesh.Dial("ana", brokertest.SessionKey(anaKey))
		time.Sleep(91 * time.Second)
		require.Equal(t, []string{"peer_left bo"}, events(ana), "who does not come back leaves once, when its lease ends")
	})
}

func TestCapacityCountsPlacesAndSparesReattaches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.MaxConnectionsPerMesh = 2 })
		key := sessionKey(t)
		mesh.Dial("ana")
		bo := mesh.Dial("bo", brokertest.SessionKey(key))
		refusedWith(t, mesh, mesh.Member("cy"), "capacity")
		bo.Cut()
		synctest.Wait()
		refusedWith(t, mesh, mesh.Member("cy"), "capacity") // a place in grace is a place
		mesh.Dial("bo", brokertest.SessionKey(key)).Close() // a reattach is never refused
		synctest.Wait()
		mesh.Dial("cy")
	})
}

// refusedWith says hello for a member and expects the refusal.
func refusedWith(t *testing.T, mesh *brokertest.Mesh, member *brokertest.Member, code string) {
	t.Helper()
	c := mesh.Connect()
	c.Read()
	c.Send(mesh.HelloFrame(member, nil, false, frame{"sessionId": "s", "pid": 1, "cwd": "/"}))
	require.Equal(t, code, c.Expect("error").Str("code"))
	_, reason := c.Closed()
	require.Equal(t, code, reason)
}

func TestHiddenSessionIsUnlistedAndGetsNoMulticast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		sibling := mesh.Dial("bo", explicit, brokertest.SessionKey(sessionKey(t)))
		events(ana)
		bo.Request(frame{"type": "set_visible", "visible": false})
		sibling.Request(frame{"type": "set_visible", "visible": false})
		require.Equal(t, []string{"peer_hidden bo", "peer_hidden bo"}, events(ana))
		require.NotContains(t, peers(ana), "bo")
		require.Contains(t, peers(sibling), "bo", "the member's own sessions see each other")
		require.Equal(t, 0.0, ana.Say("*", "now", "all")["recipients"].(map[string]any)["total"])
		ana.Say(bo.Member.Pubkey, "now", "direct")
		synctest.Wait()
		require.Equal(t, []string{"direct"}, texts(bo.Pushes()))
		sibling.Request(frame{"type": "set_visible", "visible": true})
		ana.Say("*", "now", "one is visible")
		synctest.Wait()
		require.Empty(t, bo.Pushes(), "the hidden session leaves it to the visible one")
		require.Contains(t, texts(sibling.Pushes()), "one is visible")
	})
}

func TestGroupReachesThoseBelowIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		bo := mesh.Dial("bo", explicit, brokertest.With(frame{"groups": []frame{{"name": "eng/core"}}}))
		cy := mesh.Dial("cy", explicit)
		cy.Request(frame{"type": "join_group", "name": "@eng", "role": "lead"})
		for target, want := range map[string]float64{"@eng": 2, "@eng/core": 1, "@eng/core/x": 0, "@other": 0} {
			require.Equal(t, want, ana.Say(target, "now", target)["recipients"].(map[string]any)["total"], target)
		}
		synctest.Wait()
		require.ElementsMatch(t, []string{"@eng", "@eng/core"}, texts(bo.Pushes()))
		require.Equal(t, []string{"@eng"}, texts(cy.Pushes()))
	})
}

// H14: a session cannot call itself by another member's name.
func TestH14SessionNameOfAnotherMemberIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		mesh.Member("Ada")
		eve := mesh.Dial("eve", brokertest.With(frame{"displayName": "ＡＤＡ\u200b"}))
		require.Equal(t, "eve", eve.Hello.Str("memberDisplayName"))
		require.NotContains(t, peers(ana), "ＡＤＡ\u200b")
		bot := mesh.Dial("eve", brokertest.With(frame{"displayName": "eve's bot"}))
		require.Equal(t, "eve's bot", bot.Hello.Str("memberDisplayName"))
		mesh.Enroll(broker.NewMember{Name: "Eve's Bot"})
		require.NotContains(t, peers(ana), "eve's bot", "a member who joins later has the better right to the name")
	})
}

func TestNoPushConnectionIsNoTarget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		bo := mesh.Dial("bo", brokertest.With(frame{"capabilities": []string{"no_push"}}))
		require.Empty(t, events(ana), "a command that only asks comes and goes unannounced")
		require.Contains(t, peers(ana), "bo")
		require.Equal(t, true, ana.Say(bo.Member.Pubkey, "now", "anybody?")["offline"])
		mesh.Dial("cy")
		synctest.Wait()
		require.Empty(t, bo.Waiting())
		require.Equal(t, true, bo.Say("*", "now", "I may send")["queued"])
	})
}
