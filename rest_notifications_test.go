package broker_test

import (
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/wire"
)

func TestMentionsNotify(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		bo := restKey(t, mesh, "bo", readSend)
		id := newTopic(t, ana, "ops", "public")
		got := func(query string) []frame { return list(t, bo.ok("GET", "/notifications"+query, nil), "notifications") }
		require.Empty(t, got(""))
		first := ana.Say("#ops", "now", "ping @Bo").Str("messageId")
		sent := time.Now()
		time.Sleep(time.Hour)
		second := ana.Request(frame{"type": "send", "targetSpec": "#ops", "nonce": "AAAA", "ciphertext": "c2VhbGVk", "bodyVersion": 2, "mentions": []string{"bo"}}).Str("messageId")
		bo.post("ops", "@bo mentions himself")
		all := got("")
		require.Equal(t, []string{second, first}, column(all, "id"))
		require.Equal(t, frame{
			"id": first, "notificationId": all[1]["notificationId"], "topicId": id, "topicName": "ops", "senderName": "ana",
			"senderPubkey": ana.Member.Pubkey, "nonce": "", "ciphertext": brokertest.Body("ping @Bo"), "bodyVersion": 1.0, "kind": "mention",
			"readAt": nil, "createdAt": wire.FormatTime(sent),
		}, all[1])
		require.EqualValues(t, 2, all[0]["bodyVersion"])
		require.Equal(t, []string{second}, column(got("?since="+url.QueryEscape(wire.FormatTime(sent))), "id"), "created after")
		require.Len(t, got("?since=1999-12-31"), 2, "a day")
		body := bo.ok("GET", "/notifications", nil)
		require.Equal(t, "bo", body.Str("mentionedAs"))
		require.Equal(t, wire.FormatTime(time.Now().Add(-24*time.Hour)), body.Str("since"))
		for _, bad := range []string{"yesterday", "2000-13-01", "1", "2000-01-01T00:00:00"} {
			refused := bo.refused(400, "invalid_since", "GET", "/notifications?since="+bad, nil)
			require.Equal(t, frame{"error": "invalid_since"}, refused.Body)
		}

		marked := bo.ok("POST", "/notifications/read", frame{"ids": []any{all[0]["notificationId"], "nobody's", "x y\x00"}})
		require.EqualValues(t, 1, marked["marked"])
		require.Equal(t, wire.FormatTime(time.Now()), marked.Str("readAt"))
		require.EqualValues(t, 0, bo.ok("POST", "/notifications/read", frame{"ids": []any{"x y"}})["marked"], "no id at all is not all")
		require.Equal(t, []string{first}, column(got("?unread=1"), "id"))
		require.NotNil(t, got("")[0]["readAt"])
		all2 := bo.ok("POST", "/notifications/read", frame{"all": true, "before": wire.FormatTime(sent.Add(-time.Second))})
		require.Equal(t, "all", all2["marked"])
		require.Equal(t, wire.FormatTime(sent.Add(-time.Second)), all2.Str("before"))
		require.Len(t, got("?unread=1"), 1)
		bo.ok("POST", "/notifications/read", frame{"all": true})
		require.Empty(t, got("?unread=1"))
		bo.refused(400, "invalid_before", "POST", "/notifications/read", frame{"all": true, "before": "noon"})
		for _, bad := range []frame{{}, {"ids": []any{}}, {"ids": []any{""}}, {"all": false}, {"ids": strings.Split(strings.Repeat("x,", 201), ",")[:201]}} {
			bo.refused(422, "error.validation", "POST", "/notifications/read", bad)
		}
		restKey(t, mesh, "", reads).refused(400, "api_key_has_no_issuer", "POST", "/notifications/read", frame{"all": true})
	})
}

// Notifications show posts, so they show only those that the key and its issuer may read now.
func TestNotificationsKeepToScopeAndSight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		newTopic(t, ana, "hr", "private")
		newTopic(t, ana, "ops", "public")
		done(t, ana, frame{"type": "topic_add", "topic": "hr", "member": bo.Member.ID})
		for _, topic := range []string{"hr", "ops"} {
			ana.Say("#"+topic, "now", "hi @bo")
		}
		all, ops := restKey(t, mesh, "bo", reads), restKey(t, mesh, "bo", reads, scoped("ops"))
		names := func(d door, query string) []string {
			return column(list(t, d.ok("GET", "/notifications"+query, nil), "notifications"), "topicName")
		}
		require.Equal(t, []string{"ops", "hr"}, names(all, ""))
		require.Equal(t, []string{"ops"}, names(ops, ""))
		ids := column(list(t, all.ok("GET", "/notifications", nil), "notifications"), "notificationId")
		require.EqualValues(t, 1, ops.ok("POST", "/notifications/read", frame{"ids": ids})["marked"], "only its topic's")
		require.Equal(t, []string{"hr"}, names(all, "?unread=1"))
		ops.ok("POST", "/notifications/read", frame{"all": true})
		require.Equal(t, []string{"hr"}, names(all, "?unread=1"))
		done(t, bo, frame{"type": "topic_leave", "topic": "hr"})
		require.Equal(t, []string{"ops"}, names(all, ""), "not any more")
	})
}
