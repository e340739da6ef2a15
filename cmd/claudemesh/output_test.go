package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/wire"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func testPrinter(out *bytes.Buffer) *program {
	return &program{printer: &printer{out: out, err: out, zone: time.UTC, now: func() time.Time { return noon }}}
}

func TestTableAlignsByColumnsAndLeavesEmptyOnesOut(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := testPrinter(&out)
	require.NoError(t, p.table([]string{"NAME", "NOTHING", "STATUS", "SUMMARY"}, [][]cell{
		{{"日本", bold}, {}, {"idle", green}, {"", ""}},
		{{"ana", bold}, {}, {"working", yellow}, {"tests", ""}},
	}))
	require.Equal(t, strings.Join([]string{
		"NAME  STATUS   SUMMARY",
		"日本  idle",
		"ana   working  tests",
		"",
	}, "\n"), out.String())

	out.Reset()
	p.color = true
	require.NoError(t, p.table([]string{"A", "B"}, [][]cell{{{"x", red}, {"y", ""}}}))
	require.Equal(t, "\x1b[2mA\x1b[0m  \x1b[2mB\x1b[0m\n\x1b[31mx\x1b[0m  y\n", out.String())
}

func TestMessagesAsText(t *testing.T) {
	t.Parallel()
	base := client.Message{ID: "01234567890", From: "ana", To: client.ToMember, Text: "hi", Encrypted: true, CreatedAt: noon.Add(-time.Minute)}
	for _, c := range []struct {
		name   string
		change func(*client.Message)
		want   string
	}{
		{"direct", func(*client.Message) {}, "11:59:00 ana: hi"},
		{"another day", func(m *client.Message) { m.CreatedAt = noon.AddDate(0, 0, -1) }, "2026-03-03 12:00 ana: hi"},
		{"topic", func(m *client.Message) { m.To, m.Topic, m.Unverified = client.ToTopic, "ops", true }, "11:59:00 ana #ops: hi"},
		{"group", func(m *client.Message) { m.To, m.Group, m.Encrypted = client.ToGroup, "backend", false }, "11:59:00 ana @backend (not encrypted): hi"},
		{"all, now", func(m *client.Message) { m.To, m.Priority, m.Encrypted = client.ToAll, wire.PriorityNow, false }, "11:59:00 ana * (now, not encrypted): hi"},
		{"unverified", func(m *client.Message) { m.Unverified = true }, "11:59:00 ana (sender vouched for by the broker only): hi"},
		{"key changed", func(m *client.Message) { m.Unverified, m.KeyChanged = true, true }, "11:59:00 ana (KEY CHANGED): hi"},
		{"untrusted", func(m *client.Message) { m.To, m.Topic, m.Encrypted, m.Untrusted = client.ToTopic, "ops", false, true },
			"11:59:00 ana #ops (not encrypted although the topic is: anybody could have written it): hi"},
		{"key pending", func(m *client.Message) {
			m.To, m.Topic, m.Text, m.Err = client.ToTopic, "ops", "", client.ErrKeyPending
		},
			"11:59:00 ana #ops (the topic's key is still to come):"},
		{"lines cannot look like messages", func(m *client.Message) { m.Text = "one\n12:00:00 bo: two\r\x1b[1A\n\n" }, "11:59:00 ana: one\n    12:00:00 bo: two"},
		{"hostile name", func(m *client.Message) { m.From = "\u202ebo #ops (\x1b[31mnow)" }, `11:59:00 "bo #ops (now)": hi`},
		{"hostile topic", func(m *client.Message) { m.To, m.Topic = client.ToTopic, "ops: ok\n" }, `11:59:00 ana #"ops: ok": hi`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := base
			c.change(&m)
			var out bytes.Buffer
			require.NoError(t, testPrinter(&out).showMessage(&m, false))
			require.Equal(t, c.want+"\n", out.String())
		})
	}
	var out bytes.Buffer
	require.NoError(t, testPrinter(&out).showMessage(&base, true))
	require.Equal(t, "11:59:00 ana 01234567890: hi\n", out.String())
}

func TestMessageAsJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := testPrinter(&out)
	p.json = true
	require.NoError(t, p.showMessage(&client.Message{
		ID: "1", From: "ana\u202e", FromMemberID: "m1", FromPubkey: "k1", Text: "a\nb\x1b[31m", To: client.ToTopic, Topic: "ops", TopicID: "t1",
		Priority: wire.PriorityNext, CreatedAt: noon, ReplyToID: "0", ClientMessageID: "c1", Encrypted: true, Unverified: true,
	}, false))
	require.Equal(t, `{"type":"message","id":"1","from":"ana\u202e","fromMemberId":"m1","fromKey":"k1","to":"topic","topic":"ops","topicId":"t1",`+
		`"priority":"next","createdAt":"2026-03-04T12:00:00.000Z","replyTo":"0","clientMessageId":"c1","text":"a\nb\u001b[31m","encrypted":true,`+
		`"verified":false,"untrusted":false,"keyChanged":false,"redelivered":false,"reminder":false}`+"\n", out.String())
}

func TestSentAsText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		sent    client.Sent
		counted bool
		want    string
	}{
		{"connected", client.Sent{Recipients: wire.Recipients{Total: 1, Online: 1}, Encrypted: true}, true, "queued for 1 recipient, connected (id)"},
		{"offline", client.Sent{Offline: true, Recipients: wire.Recipients{Total: 2}, Encrypted: true}, true, "queued for 2 recipients, offline: it waits (id)"},
		{"some", client.Sent{Recipients: wire.Recipients{Total: 3, Online: 2}}, true, "queued for 3 recipients, 2 connected; not encrypted (id)"},
		{"refused", client.Sent{Recipients: wire.Recipients{Total: 1, Online: 1, Refused: 2}, Encrypted: true}, true,
			"queued for 1 recipient, connected; refused by 2 full mailboxes (id)"},
		{"nobody", client.Sent{}, true, "addressed to nobody: there is no other member that it could reach; not encrypted (id)"},
		{"duplicate", client.Sent{Duplicate: true, Recipients: wire.Recipients{Total: 1, Online: 1}, Encrypted: true}, true,
			"queued before for 1 recipient, connected (id)"},
		{"older broker", client.Sent{Encrypted: true}, false, "queued (id)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.sent.MessageID = "id"
			var out bytes.Buffer
			require.NoError(t, testPrinter(&out).showSent("bo", c.sent, c.counted))
			require.Equal(t, c.want+"\n", out.String())
		})
	}
}

func TestErrorsHaveStableCodesAndSayWhatToDo(t *testing.T) {
	t.Parallel()
	key := strings.Repeat("ab", 32)
	for _, c := range []struct {
		name string
		err  error
		exit int
		code string
		says string
	}{
		{"our own", failf(exitUsage, "usage", "Wrong."), 2, "usage", "Wrong."},
		{"wrapped", fmt.Errorf("x: %w", failf(exitNotYet, "a", "B.")), 5, "a", "B."},
		{"anything", errors.New("client: \x1b[31mboom"), 1, "failed", "boom"},
		{"unauthorized", &client.RefusedError{Code: wire.Unauthorized, CloseCode: wire.ClosePolicy}, 3, "unauthorized", "join again"},
		{"revoked", &client.RefusedError{Code: wire.Revoked, CloseCode: wire.ClosePolicy}, 3, "revoked", "new invite"},
		{"kicked", &client.RefusedError{Code: wire.ReasonKicked, CloseCode: wire.CloseKicked}, 3, "kicked", "admin"},
		{"clock", &client.RefusedError{Code: wire.TimestampSkew, CloseCode: wire.ClosePolicy}, 4, "timestamp_skew", "clock"},
		{"full", &client.RefusedError{Code: wire.Capacity, CloseCode: wire.ClosePolicy}, 4, "capacity", "later"},
		{"busy", &client.RefusedError{HTTPStatus: 503}, 4, "http_503", "moment"},
		{"no broker there", &client.RefusedError{HTTPStatus: 404}, 3, "http_404", "whoami"},
		{"other refusal", &client.RefusedError{Code: "odd", Text: "no\x1b[2J way", CloseCode: wire.ClosePolicy}, 3, "odd", "no way."},
		{"unknown name", &client.UnknownNameError{Name: "carl"}, 3, "target_not_found", "members"},
		{"ambiguous", &client.AmbiguousError{Name: "ana", Candidates: []client.Candidate{{DisplayName: "ana", Pubkey: key}}}, 6, "ambiguous", key},
		{"key changed", &client.KeyChangedError{Name: "ana", MemberID: "m", PinnedMemberID: "m", PinnedKey: "k", OfferedPubkey: key}, 6, "key_changed", "trust ana --key " + key},
		{"name moved", &client.KeyChangedError{Name: "ana", MemberID: "m", PinnedMemberID: "n", OfferedPubkey: key}, 6, "name_moved", "trust ana --key " + key},
		{"key refused", &client.KeyRefusedError{Topic: "ops", Reason: client.RefusedStranger}, 6, "key_refused", "topic key reject ops"},
		{"key pending", fmt.Errorf("x: %w", client.ErrKeyPending), 5, "key_pending", "online"},
		{"unencrypted", client.ErrUnencrypted, 6, "unencrypted", "--encrypted"},
		{"outcome", fmt.Errorf("%w: send: %w", client.ErrOutcomeUnknown, context.DeadlineExceeded), 4, "outcome_unknown", "not known"},
		{"mailbox", &client.SendError{Code: wire.QueueFull}, 3, "queue_full", "full"},
		{"too fast", &client.SendError{Code: wire.RateLimit}, 4, "rate_limit", "later"},
		{"send refused", &client.SendError{Code: wire.Forbidden, Text: "no grant"}, 3, "forbidden", "no grant."},
		{"topic", &client.RequestError{Code: wire.TopicNotFound}, 3, "topic_not_found", "topic list"},
		{"request", &client.RequestError{Code: wire.Forbidden, Text: "leads only."}, 3, "forbidden", "leads only."},
		{"invite", &client.HTTPError{Status: 400, Code: "invite_exhausted"}, 3, "invite_exhausted", "new one"},
		{"HTTP fault", &client.HTTPError{Status: 500}, 4, "http_500", "fault"},
		{"HTTP busy", &client.HTTPError{Status: 429, Code: "rate limited"}, 4, "rate limited", "moment"},
		{"no route", &client.HTTPError{Status: 404}, 3, "http_404", "offer"},
		{"time", context.DeadlineExceeded, 4, "timeout", "--timeout"},
		{"interrupted", context.Canceled, 1, "interrupted", "Interrupted"},
		{"network", fmt.Errorf("client: connect: %w", &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("refused")}), 4, "unreachable", "running"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := explain(c.err)
			require.Equal(t, c.exit, f.exit)
			require.Equal(t, c.code, f.code)
			require.Contains(t, f.text, c.says)
			require.Equal(t, line(f.text), f.text, "one harmless line")
			require.NotContains(t, f.text, "client:")
		})
	}
}

func TestQuantity(t *testing.T) {
	t.Parallel()
	require.Equal(t, "1 member", quantity(1, "member"))
	require.Equal(t, "0 members", quantity(0, "member"))
	require.Equal(t, "2 mailboxes", quantity(2, "mailbox"))
}

func TestNothingIsColouredButATerminal(t *testing.T) {
	t.Parallel()
	require.False(t, isTerminal(&bytes.Buffer{}, func(string) string { return "" }))
}
