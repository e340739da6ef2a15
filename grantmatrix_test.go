package broker_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
)

// The grant matrix: every entry that a member can have about a sender, for every kind of target, live and offline. The oracle knows docs/protocol.md,
// grants, and none of the code.

// grantEntry is what a member's map says under one key.
type grantEntry struct {
	name string
	list *[]string // nil: there is no entry
}

var grantEntries = []grantEntry{
	{"no entry", nil},
	{"[]", &[]string{}},
	{"[dm]", &[]string{"dm"}},
	{"[broadcast]", &[]string{"broadcast"}},
	{"[dm broadcast]", &[]string{"dm", "broadcast"}},
	{"[read]", &[]string{"read"}},
	{"[state-read state-write file-read]", &[]string{"state-read", "state-write", "file-read"}},
	{"all", &[]string{"read", "dm", "broadcast", "state-read", "state-write", "file-read"}},
}

// grantOracle says whether a member grants something to a sender: the entry for the sender's member key counts, else the one for its session key, else
// the defaults. An entry replaces the defaults; an empty one blocks.
func grantOracle(underMember, underSession grantEntry, bySession bool, capability string) bool {
	list := []string{"read", "dm", "broadcast", "state-read"}
	switch {
	case underMember.list != nil:
		list = *underMember.list
	case bySession && underSession.list != nil:
		list = *underSession.list
	}
	return slices.Contains(list, capability)
}

func TestGrantMatrix(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { *o = o.Unlimited() })
		anaKey, boKey, cyKey := sessionKey(t), sessionKey(t), sessionKey(t)
		session := mesh.Dial("ana", brokertest.SessionKey(anaKey), explicit) // sends with a session key
		bare := mesh.Dial("ana", explicit)                                   // and without
		bo, cy := mesh.Dial("bo", brokertest.SessionKey(boKey), explicit), mesh.Dial("cy", brokertest.SessionKey(cyKey), explicit)
		dan := mesh.Dial("dan", explicit) // has no entries
		done(t, dan, frame{"type": "join_group", "name": "eng"})
		for _, c := range []*brokertest.Conn{bo, cy} {
			done(t, c, frame{"type": "join_group", "name": "eng/core"})
		}
		topic := newTopic(t, bare, "ops", "public")
		for _, c := range []*brokertest.Conn{bo, cy, dan} {
			done(t, c, frame{"type": "topic_join", "topic": "ops"})
		}
		key := restKey(t, mesh, "ana", sends)
		ana, boID, cyID, danID := session.Member, bo.Member.ID, cy.Member.ID, dan.Member.ID
		cy.Close() // offline from here on: its groups are saved, its session key is remembered
		time.Sleep(time.Second)
		synctest.Wait()

		cells := 0
		drain := func() (bodies map[string][]string) {
			synctest.Wait()
			bodies = map[string][]string{}
			for name, c := range map[string]*brokertest.Conn{"bo": bo, "dan": dan, "session": session, "bare": bare} {
				pushes := c.Pushes()
				ackAll(c, pushes)
				bodies[name] = texts(pushes)
			}
			synctest.Wait()
			return bodies
		}
		addressed := func(messageID string) (members []string) {
			rows, err := mesh.Store.Deliveries(t.Context(), mesh.ID, messageID)
			require.NoError(t, err)
			for _, d := range rows {
				members = append(members, d.MemberID)
			}
			slices.Sort(members)
			return members
		}
		sorted := func(ids ...string) []string {
			slices.Sort(ids)
			return ids
		}
		const blocked = "forbidden: blocked by recipient grants (sender lacks dm capability)"

		for _, underMember := range grantEntries {
			for _, underSession := range grantEntries {
				entries := map[string]*[]string{ana.Pubkey: underMember.list, anaKey.Public(): underSession.list}
				// The one that is here says it over its connection; for the other, and for the sender itself, it was said before.
				done(t, bo, frame{"type": "set_grants", "grants": entries})
				for _, id := range []string{cyID, ana.ID} {
					require.NoError(t, mesh.Store.SetGrants(t.Context(), mesh.ID, id, entries, 0))
				}
				for _, from := range []struct {
					name      string
					conn      *brokertest.Conn
					other     string // the sender's other connection
					bySession bool
				}{{"with a session key", session, "bare", true}, {"without", bare, "session", false}} {
					name := fmt.Sprintf("%s under the member key, %s under the session key, sent %s", underMember.name, underSession.name, from.name)
					dm := grantOracle(underMember, underSession, from.bySession, "dm")
					broadcast := grantOracle(underMember, underSession, from.bySession, "broadcast")

					for _, to := range []struct{ name, target, member string }{
						{"live member", bo.Member.Pubkey, boID}, {"live session", boKey.Public(), boID},
						{"offline member", cy.Member.Pubkey, cyID}, {"offline session", cyKey.Public(), cyID},
					} {
						ack := from.conn.Say(to.target, "now", to.name)
						require.Equal(t, dm, ack["queued"], "%s: to a %s: %v", name, to.name, ack)
						if cells++; !dm {
							require.Equal(t, blocked, ack.Str("error"), name)
							require.Empty(t, ack.Str("messageId"), name)
						} else {
							require.Empty(t, ack.Str("error"), name)
							require.Equal(t, []string{to.member}, addressed(ack.Str("messageId")), "%s: to a %s", name, to.name)
						}
					}
					want := []string{}
					if dm {
						want = []string{"live member", "live session"}
					}
					got := drain()
					require.Equal(t, want, got["bo"], name)
					require.Empty(t, got["dan"], name)

					for _, target := range []string{"*", "@all", "@eng", "@eng/core"} {
						ack := from.conn.Say(target, "now", target)
						require.Equal(t, true, ack["queued"], "%s: to %s: who does not grant it is left out, and nobody is told", name, target)
						cells += 2
						want := []string{}
						if broadcast {
							want = append(want, boID, cyID)
						}
						if target != "@eng/core" {
							want = append(want, danID)
						}
						require.Equal(t, sorted(want...), append([]string{}, addressed(ack.Str("messageId"))...), "%s: to %s", name, target)
						recipients, _ := ack["recipients"].(map[string]any)
						require.EqualValues(t, len(want), recipients["total"], name)
						require.NotContains(t, recipients, "refused", name)
					}
					got = drain()
					if want = []string{}; broadcast {
						want = []string{"*", "@all", "@eng", "@eng/core"}
					}
					require.Equal(t, want, got["bo"], name)
					require.Equal(t, []string{"*", "@all", "@eng"}, got["dan"], name)

					// Topics need no grant, and neither does a member's mail to itself.
					ack := from.conn.Say("#"+topic, "now", "post")
					require.Equal(t, sorted(boID, cyID, danID), addressed(ack.Str("messageId")), name)
					ack = from.conn.Say(ana.Pubkey, "now", "self")
					require.Equal(t, []string{ana.ID}, addressed(ack.Str("messageId")), name)
					cells += 3
					got = drain()
					require.Equal(t, []string{"post"}, got["bo"], name)
					require.Equal(t, []string{"self"}, got[from.other], name)
					if from.bySession {
						continue
					}
					// A session key of one's own as a target.
					ack = from.conn.Say(anaKey.Public(), "now", "own session")
					require.Equal(t, []string{ana.ID}, addressed(ack.Str("messageId")), name)
					require.Equal(t, []string{"own session"}, drain()["session"], name)
					// A post over REST comes from the member, and needs no grant either.
					require.Equal(t, sorted(boID, cyID, danID), addressed(key.post("ops", "by REST")), name)
					require.Equal(t, []string{"by REST"}, drain()["bo"], name)
					cells += 3
				}
			}
		}
		t.Logf("grant matrix: %d cells", cells)
		require.Greater(t, cells, 2000)
	})
}

// What was accepted stays accepted: grants count when a message is sent, not when it is delivered.
func TestGrantsCountWhenSending(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		bo := mesh.Member("bo")
		require.Equal(t, true, ana.Say(bo.Pubkey, "now", "before")["queued"])
		require.Equal(t, true, ana.Say("*", "now", "to all, before")["queued"])
		block := map[string]*[]string{ana.Member.Pubkey: {}}
		require.NoError(t, mesh.Store.SetGrants(t.Context(), mesh.ID, bo.ID, block, 0))
		require.Equal(t, false, ana.Say(bo.Pubkey, "now", "after")["queued"])
		require.Equal(t, true, ana.Say("*", "now", "to all, after")["queued"])
		c := mesh.Dial("bo", explicit)
		synctest.Wait()
		require.Equal(t, []string{"before", "to all, before"}, texts(c.Pushes()))

		// Taking the entry away gives the defaults back; so does an entry for somebody else.
		done(t, c, frame{"type": "set_grants", "grants": frame{ana.Member.Pubkey: nil, sessionKey(t).Public(): []string{}}})
		require.Equal(t, true, ana.Say(bo.Pubkey, "now", "again")["queued"])
		require.Equal(t, "again", brokertest.Text(c.ExpectPush()))

		// A key means the same in either case.
		done(t, c, frame{"type": "set_grants", "grants": frame{strings.ToUpper(ana.Member.Pubkey): []string{"broadcast"}}})
		require.Equal(t, false, ana.Say(bo.Pubkey, "now", "blocked")["queued"])
	})
}
