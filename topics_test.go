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
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/topickey"
	"github.com/claudemesh/broker/wire"
)

func TestTopicIsCreatedJoinedAndListed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		made := ana.Request(frame{"type": "topic_create", "name": " deploys ", "description": "what went out"})
		require.Equal(t, true, made["created"])
		topic := made["topic"].(map[string]any)
		require.Equal(t, "deploys", topic["name"])
		require.Equal(t, "public", topic["visibility"])

		again := bo.Request(frame{"type": "topic_create", "name": "deploys", "visibility": "private", "encryptedKeyPubkey": strings.Repeat("a", 64)})
		require.Equal(t, "invalid_args", again["code"], "a malformed key is refused before anything else: %v", again)
		again = bo.Request(frame{"type": "topic_create", "name": "deploys", "visibility": "private"})
		require.Equal(t, false, again["created"])
		require.Equal(t, topic, again["topic"], "the real topic, whatever was asked for")

		members := list(t, bo.Request(frame{"type": "topic_members", "topic": "deploys"}), "members")
		require.Equal(t, []string{"ana", "bo"}, column(members, "displayName"))
		require.Equal(t, []string{"lead", "member"}, column(members, "role"))
		require.Equal(t, true, members[0]["hasKey"], "the broker sealed one for the creator")
		require.Equal(t, false, members[1]["hasKey"])

		topics := list(t, bo.Request(frame{"type": "topic_list"}), "topics")
		require.Equal(t, []string{"deploys", "general"}, column(topics, "name"))
		require.EqualValues(t, 2, topics[0]["memberCount"])
		require.Equal(t, "what went out", topics[0]["description"])
		require.Nil(t, topics[1]["description"])

		done(t, bo, frame{"type": "topic_leave", "topic": topic["id"]})
		done(t, bo, frame{"type": "topic_leave", "topic": "deploys"})
		require.Len(t, list(t, bo.Request(frame{"type": "topic_members", "topic": "deploys"}), "members"), 1)
		require.Equal(t, "topic_not_found", bo.Request(frame{"type": "topic_leave", "topic": "nowhere"})["code"])
		bo.Send(frame{"type": "topic_leave", "topic": "nowhere"})
		synctest.Wait()
		require.Empty(t, bo.Waiting(), "nobody asked")
	})
}

func TestTopicErrorsRepeatTheRequestID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ana := brokertest.New(t).Dial("ana")
		ana.Send(frame{"type": "topic_members", "topic": "x y", "_reqId": "r1"})
		e := ana.Expect("error")
		require.Equal(t, `topic "x y" not found`, e.Str("message"))
		require.Equal(t, "r1", e.Str("id"))
		require.Equal(t, "r1", e.Str("_reqId"))
	})
}

func TestLeadNeedsAdminOrLead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		admin, bo, cy := mesh.Dial("ana"), mesh.Dial("bo"), mesh.Dial("cy")
		newTopic(t, bo, "ops", "public")
		roles := func() map[string]string {
			out := map[string]string{}
			for _, m := range list(t, bo.Request(frame{"type": "topic_members", "topic": "ops"}), "members") {
				out[m.Str("displayName")] = m.Str("role")
			}
			return out
		}
		done(t, cy, frame{"type": "topic_join", "topic": "ops", "role": "lead"})
		done(t, admin, frame{"type": "topic_join", "topic": "ops", "role": "lead"})
		done(t, bo, frame{"type": "topic_join", "topic": "ops", "role": "observer"})
		require.Equal(t, map[string]string{"bo": "lead", "cy": "member", "ana": "lead"}, roles())

		require.Equal(t, "forbidden", cy.Request(frame{"type": "topic_add", "topic": "ops", "member": cy.Member.ID, "role": "lead"})["code"])
		require.Equal(t, "forbidden", cy.Request(frame{"type": "topic_archive", "topic": "ops"})["code"])
		done(t, bo, frame{"type": "topic_add", "topic": "ops", "member": strings.ToUpper(cy.Member.Pubkey), "role": "lead"})
		done(t, bo, frame{"type": "topic_add", "topic": "ops", "member": cy.Member.ID})
		require.Equal(t, "lead", roles()["cy"], "without a role the old one stays")
		require.Equal(t, "not_found", bo.Request(frame{"type": "topic_add", "topic": "ops", "member": "nobody"})["code"])
		require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, cy.Member.ID))
		require.Equal(t, "not_found", bo.Request(frame{"type": "topic_add", "topic": "ops", "member": cy.Member.ID})["code"])
	})
}

// To a stranger a private topic and none are the same, whatever it tries.
func TestPrivateTopicsAreInvisible(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		admin, bo, eve := mesh.Dial("ana"), mesh.Dial("bo"), mesh.Dial("eve")
		id := newTopic(t, bo, "hr", "private")
		for _, ref := range []string{"hr", id} {
			for _, f := range []frame{
				{"type": "topic_join"}, {"type": "topic_leave"}, {"type": "topic_members"}, {"type": "topic_history"},
				{"type": "topic_mark_read"}, {"type": "topic_archive"}, {"type": "topic_add", "member": eve.Member.ID},
			} {
				got := eve.Request(merged(f, frame{"topic": ref}))
				want := eve.Request(merged(f, frame{"topic": "no" + ref}))
				for _, reply := range []frame{got, want} {
					delete(reply, "_reqId")
					delete(reply, "id")
				}
				require.Equal(t, strings.ReplaceAll(want.Str("message"), "no"+ref, ref), got.Str("message"))
				require.Equal(t, "topic_not_found", got.Str("code"), "%v", f)
			}
		}
		require.Equal(t, "target_not_found: unknown target", eve.Say("#hr", "now", "hello?")["error"])
		require.Equal(t, []string{"general"}, column(list(t, eve.Request(frame{"type": "topic_list"}), "topics"), "name"))
		require.Contains(t, column(list(t, admin.Request(frame{"type": "topic_list"}), "topics"), "name"), "hr")
		require.Equal(t, "forbidden: not a member of this topic", admin.Say("#hr", "now", "hello")["error"])
		done(t, admin, frame{"type": "topic_join", "topic": "hr"})
		require.Equal(t, true, admin.Say("#hr", "now", "hello")["queued"])
		done(t, bo, frame{"type": "topic_add", "topic": "hr", "member": eve.Member.ID})
		require.Equal(t, true, eve.Say("#hr", "now", "thanks")["queued"])
	})
}

// H12: an archived name is free, and whoever takes it gets a new topic; the name of a private topic says nothing.
func TestH12ArchivedNameMakesANewTopic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		_, bo, eve := mesh.Dial("ana"), mesh.Dial("bo"), mesh.Dial("eve")
		old := newTopic(t, bo, "hr", "private")
		bo.Say("#hr", "now", "a secret")

		got := eve.Request(frame{"type": "topic_create", "name": "hr"})
		require.Equal(t, "invalid_args", got.Str("code"))
		require.Equal(t, "name not available", got.Str("message"))
		require.NotContains(t, fmt.Sprint(got), old)
		require.NotContains(t, fmt.Sprint(got), "private")
		members, err := mesh.Store.Subscriptions(t.Context(), mesh.ID, old)
		require.NoError(t, err)
		require.Len(t, members, 1)

		done(t, bo, frame{"type": "topic_archive", "topic": "hr"})
		require.Equal(t, "topic_not_found", bo.Request(frame{"type": "topic_history", "topic": old})["code"])
		fresh := newTopic(t, eve, "hr", "public")
		require.NotEqual(t, old, fresh)
		require.Empty(t, list(t, eve.Request(frame{"type": "topic_history", "topic": "hr"}), "messages"))
		require.Equal(t, "topic_not_found", eve.Request(frame{"type": "topic_history", "topic": old})["code"])

		require.ErrorIs(t, mesh.Broker.RestoreTopic(t.Context(), mesh.ID, old), store.ErrConflict, "the name is in use")
		require.ErrorIs(t, mesh.Broker.RestoreTopic(t.Context(), mesh.ID, "nothing"), store.ErrNotFound)
		done(t, eve, frame{"type": "topic_archive", "topic": "hr"})
		require.NoError(t, mesh.Broker.RestoreTopic(t.Context(), mesh.ID, old))
		require.Len(t, list(t, bo.Request(frame{"type": "topic_history", "topic": "hr"}), "messages"), 1)
		require.Equal(t, "topic_not_found", eve.Request(frame{"type": "topic_history", "topic": "hr"})["code"])
	})
}

// H24: what a member has not got when it leaves a topic, it does not get any more.
func TestH24LeavingEndsWaitingPosts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		leave func(t *testing.T, mesh *brokertest.Mesh, lead *brokertest.Conn)
		back  bool
	}{
		{"leave", func(t *testing.T, mesh *brokertest.Mesh, _ *brokertest.Conn) {
			quiet := mesh.Dial("bo", brokertest.With(frame{"capabilities": []string{"no_push"}}))
			done(t, quiet, frame{"type": "topic_leave", "topic": "hr"})
			quiet.Close()
		}, true},
		{"archive", func(t *testing.T, _ *brokertest.Mesh, lead *brokertest.Conn) {
			done(t, lead, frame{"type": "topic_archive", "topic": "hr"})
		}, true},
		{"ban and unban", func(t *testing.T, mesh *brokertest.Mesh, _ *brokertest.Conn) {
			require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, mesh.Member("bo").ID))
			require.NoError(t, mesh.Broker.RestoreMember(t.Context(), mesh.ID, mesh.Member("bo").ID))
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t)
				ana := mesh.Dial("ana")
				bo := mesh.Member("bo")
				newTopic(t, ana, "hr", "private")
				done(t, ana, frame{"type": "topic_add", "topic": "hr", "member": bo.ID})
				ack := ana.Say("#hr", "now", "a secret")
				require.Equal(t, true, ack["offline"])
				c.leave(t, mesh, ana)
				back := mesh.Dial("bo", explicit)
				synctest.Wait()
				require.Empty(t, texts(back.Pushes()))
				rows, err := mesh.Store.Deliveries(t.Context(), mesh.ID, ack.Str("messageId"))
				require.NoError(t, err)
				require.Len(t, rows, 1)
				require.Equal(t, store.Expired, rows[0].State)
			})
		})
	}
}

// H24, while connected: what is held back when the member leaves is not pushed when it turns idle.
func TestH24LeavingEndsHeldPosts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		newTopic(t, ana, "hr", "private")
		done(t, ana, frame{"type": "topic_add", "topic": "hr", "member": bo.Member.ID})
		bo.Request(frame{"type": "set_status", "status": "dnd"})
		ana.Say("#hr", "next", "a secret")
		done(t, bo, frame{"type": "topic_leave", "topic": "hr"})
		bo.Request(frame{"type": "set_status", "status": "idle"})
		synctest.Wait()
		require.Empty(t, texts(bo.Pushes()))
	})
}

func TestTopicJoinedIsToldToMembersThatWaitForIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		asks := brokertest.With(frame{"capabilities": []string{"topic_events"}})
		for _, name := range []string{"ana", "bo", "cy"} {
			mesh.Member(name) // enrolled before anybody listens: each joins the topic "general"
		}
		ana, bo, cy := mesh.Dial("ana", asks), mesh.Dial("bo", asks), mesh.Dial("cy", asks)
		old := mesh.Dial("ana")
		id := newTopic(t, ana, "ops", "public")
		joined := func(of *brokertest.Conn) []string {
			synctest.Wait()
			var who []string
			for _, f := range of.Waiting() {
				if data, ok := f["eventData"].(map[string]any); ok && f.Str("event") == "topic_joined" && data["topicId"] == id {
					who = append(who, data["memberId"].(string))
				}
			}
			return who
		}
		done(t, bo, frame{"type": "topic_join", "topic": "ops"})
		require.Equal(t, []string{bo.Member.ID}, joined(ana))
		require.Empty(t, joined(bo), "not itself")
		require.Empty(t, joined(cy), "no member")
		require.Empty(t, joined(old), "did not ask")
		done(t, bo, frame{"type": "topic_join", "topic": "ops"})
		require.Empty(t, joined(ana), "is in already")

		done(t, ana, frame{"type": "topic_add", "topic": "ops", "member": cy.Member.ID})
		require.Equal(t, []string{cy.Member.ID}, joined(bo))
		done(t, cy, frame{"type": "topic_leave", "topic": "ops"})
		restKey(t, mesh, "cy", reads).ok("PATCH", topicPath("ops", "/read"), nil)
		require.Equal(t, []string{cy.Member.ID}, joined(bo), "reading joins a public topic")
		done(t, cy, frame{"type": "topic_leave", "topic": "ops"})
		require.Equal(t, false, cy.Request(frame{"type": "topic_create", "name": "ops"})["created"])
		require.Equal(t, []string{cy.Member.ID}, joined(bo), "so does creating it again")
	})
}

func TestHistoryIsPagedBySequence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana", brokertest.SessionKey(sessionKey(t)))
		newTopic(t, ana, "ops", "public")
		other := newTopic(t, ana, "other", "public")
		var ids []string
		for i := range 7 { // all in one millisecond: only the sequence orders them
			ids = append(ids, ana.Say("#ops", "now", fmt.Sprint(i)).Str("messageId"))
		}
		foreign := ana.Say("#"+other, "now", "elsewhere").Str("messageId")
		slices.Reverse(ids)
		page := func(f frame) []frame {
			return list(t, ana.Request(merged(frame{"type": "topic_history", "topic": "ops"}, f)), "messages")
		}
		all := page(frame{})
		require.Equal(t, ids, column(all, "id"))
		require.Equal(t, ana.Session.Public(), all[0].Str("senderPubkey"), "the session's key")
		require.Equal(t, ana.Member.ID, all[0].Str("senderMemberId"))
		require.Equal(t, ids[:3], column(page(frame{"limit": 3}), "id"))
		require.Equal(t, ids[3:6], column(page(frame{"limit": 3, "beforeId": ids[2]}), "id"))
		require.Equal(t, ids[6:], column(page(frame{"limit": 3, "beforeId": ids[5]}), "id"))
		require.Equal(t, ids[:1], column(page(frame{"limit": -5}), "id"), "limits are clamped")
		for _, unknown := range []string{"nothing", ids[0][:12], foreign, "x\x00y"} {
			require.Empty(t, page(frame{"beforeId": unknown}), unknown)
		}

		key := restKey(t, mesh, "ana", reads)
		get := func(query string) []frame {
			return list(t, key.ok("GET", topicPath("ops", "/messages")+query, nil), "messages")
		}
		require.Equal(t, ids, column(get(""), "id"))
		require.Equal(t, ana.Member.Pubkey, get("")[0].Str("senderPubkey"), "the member's key")
		require.Nil(t, get("")[0]["replyToId"])
		require.Equal(t, ids[3:5], column(get("?limit=2&before="+ids[2]), "id"))
		require.Equal(t, ids, column(get("?before="+foreign), "id"), "an unknown place is passed over")
	})
}

// Older clients take a short page for the end of the history, so that over REST no page is short before it, however large the messages are.
func TestRESTHistoryPageIsShortOnlyAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ids := fill(t, mesh, 90, brokertest.Body(strings.Repeat("x", 45_000))) // 5.4 MB; on the socket a page ends at 4 MiB
		slices.Reverse(ids)
		got := restKey(t, mesh, "bo", reads).ok("GET", topicPath("general", "/messages")+"?limit=200", nil)
		require.Equal(t, ids, column(list(t, got, "messages"), "id"))
		require.NotContains(t, got, "truncated")
	})
}

func TestTopicsAreLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.MaxTopicsPerMesh, o.MaxTopicsPerMember = 4, 2 })
		ana, bo, cy := mesh.Dial("ana"), mesh.Dial("bo"), mesh.Dial("cy")
		newTopic(t, ana, "1", "public")
		newTopic(t, ana, "2", "public")
		require.Equal(t, "forbidden", ana.Request(frame{"type": "topic_create", "name": "3"})["code"])
		require.Equal(t, false, ana.Request(frame{"type": "topic_create", "name": "2"})["created"], "it is there already")
		newTopic(t, bo, "3", "public")
		require.Equal(t, "forbidden", cy.Request(frame{"type": "topic_create", "name": "4"})["code"])
		done(t, ana, frame{"type": "topic_archive", "topic": "1"})
		newTopic(t, cy, "4", "public")
	})
}

func TestUnreadCountsOthersPosts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), restKey(t, mesh, "bo", readSend)
		newTopic(t, ana, "ops", "public")
		unread := func() float64 {
			for _, topic := range list(t, bo.ok("GET", "/topics", nil), "topics") {
				if topic.Str("name") == "ops" {
					return topic["unread"].(float64)
				}
			}
			return -1
		}
		for range 3 {
			ana.Say("#ops", "now", "x")
		}
		bo.post("ops", "mine")
		require.EqualValues(t, 3, unread(), "never read: since the beginning")
		got := bo.ok("PATCH", topicPath("ops", "/read"), nil)
		require.Equal(t, wire.FormatTime(time.Now()), got.Str("readAt"))
		require.Zero(t, unread())
		ana.Say("#ops", "now", "x")
		require.EqualValues(t, 1, unread())
		over := mesh.Dial("bo")
		done(t, over, frame{"type": "topic_mark_read", "topic": "ops"})
		require.Zero(t, unread())
		require.Zero(t, list(t, restKey(t, mesh, "", reads).ok("GET", "/topics", nil), "topics")[0]["unread"])

		newTopic(t, over, "hr", "private")
		admin := restKey(t, mesh, "ana", reads)
		admin.refused(403, "forbidden", "PATCH", topicPath("hr", "/read"), nil)
		admin.ok("GET", topicPath("hr", "/messages"), nil)
	})
}

// One message has one id: in the ack, the push, the history and the stream.
func TestMessageIDIsTheHistoryID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		newTopic(t, ana, "ops", "public")
		done(t, bo, frame{"type": "topic_join", "topic": "ops"})
		key := restKey(t, mesh, "bo", reads)
		s := key.stream("ops", "")
		id := ana.Say("#ops", "now", "hi").Str("messageId")
		require.Equal(t, id, bo.ExpectPush().Str("messageId"))
		require.Equal(t, []string{id}, s.messages(1))
		require.Equal(t, []string{id}, column(list(t, key.ok("GET", topicPath("ops", "/messages"), nil), "messages"), "id"))
		require.Equal(t, []string{id}, column(list(t, bo.Request(frame{"type": "topic_history", "topic": "ops"}), "messages"), "id"))
	})
}

func TestPostOverRESTIsASendLikeAnyOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana", explicit)
		bo := restKey(t, mesh, "bo", readSend)
		id := newTopic(t, ana, "ops", "public")
		first := bo.post("ops", "one")
		push := ana.ExpectPush()
		require.Equal(t, first, push.Str("messageId"))
		require.Equal(t, mesh.Member("bo").Pubkey, push.Str("senderPubkey"))
		require.Equal(t, "bo", push.Str("senderName"))
		require.Equal(t, "ops", push.Str("topic"))

		got := bo.ok("POST", "/messages", merged(postBody("ops", "hi @ana, @bo and @nobody"), frame{
			"replyToId": first, "client_message_id": "c1", "priority": "now",
		}))
		require.Equal(t, got["messageId"], got["historyId"])
		require.Equal(t, got["messageId"], got["queueId"])
		require.Equal(t, id, got.Str("topicId"))
		require.Equal(t, first, got.Str("replyToId"))
		require.EqualValues(t, 1, got["notifications"])
		require.EqualValues(t, 1, got["bodyVersion"])
		require.Equal(t, map[string]any{"total": 1.0, "online": 1.0}, got["recipients"])
		require.Equal(t, "c1", ana.ExpectPush().Str("client_message_id"))

		again := bo.ok("POST", "/messages", merged(postBody("ops", "hi @ana, @bo and @nobody"), frame{
			"replyToId": first, "client_message_id": "c1", "priority": "now",
		}))
		require.Equal(t, got["messageId"], again["messageId"])
		require.Equal(t, true, again["duplicate"])
		reused := bo.refused(409, "idempotency_key_reused", "POST", "/messages", merged(postBody("ops", "else"), frame{"client_message_id": "c1"}))
		require.Equal(t, frame{"error": "idempotency_key_reused"}, reused.Body)
		other := newTopic(t, ana, "other", "public")
		dropped := bo.ok("POST", "/messages", merged(postBody(other, "x"), frame{"replyToId": first}))
		require.NotContains(t, dropped, "replyToId", "of another topic")

		newTopic(t, mesh.Dial("cy"), "hr", "private")
		admin := restKey(t, mesh, "ana", sends)
		require.Equal(t, frame{"error": "forbidden"}, admin.refused(403, "forbidden", "POST", "/messages", postBody("hr", "x")).Body)
	})
}

// H17: where the host says so, an encrypted topic takes no unencrypted post.
func TestH17EncryptedTopicRefusesVersion1(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.RequireEncryptedTopics = true })
		ana := mesh.Dial("ana")
		newTopic(t, ana, "ops", "public")
		key := restKey(t, mesh, "ana", readSend)
		key.refused(422, "error.validation", "POST", "/messages", postBody("ops", "in clear"))
		require.Contains(t, ana.Say("#ops", "now", "in clear")["error"], "invalid: bodyVersion")
		nonce, text, err := topickey.SealV2("sealed", key.openKey("ops", mesh.Member("ana")))
		require.NoError(t, err)
		got := key.ok("POST", "/messages", frame{"topic": "ops", "nonce": nonce, "ciphertext": text, "bodyVersion": 2})
		require.EqualValues(t, 2, got["bodyVersion"])
		key.post("general", "general has no key")
	})
}
