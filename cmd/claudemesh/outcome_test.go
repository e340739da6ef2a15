package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

// connect signs a person in as another program would.
func (p *person) connect(change func(*client.Options)) *client.Client {
	p.t.Helper()
	m, err := home{dir: p.dir}.choose("")
	require.NoError(p.t, err)
	key, err := m.key()
	require.NoError(p.t, err)
	o := client.Options{URL: m.BrokerURL, MeshID: m.MeshID, MemberID: m.MemberID, Key: key}
	if change != nil {
		change(&o)
	}
	c, err := client.Dial(p.t.Context(), o)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// receive takes what comes until the test ends.
func receive(t *testing.T, c *client.Client) {
	t.Helper()
	go func() {
		for range c.Messages(t.Context()) { //nolint:revive // taking them is all
		}
	}()
}

// connectOld signs a person in as an older client does, which acknowledges nothing and answers pings.
func (p *person) connectOld() {
	p.t.Helper()
	m, err := home{dir: p.dir}.choose("")
	require.NoError(p.t, err)
	key, err := m.key()
	require.NoError(p.t, err)
	ws, _, err := websocket.Dial(p.t.Context(), m.BrokerURL, nil)
	require.NoError(p.t, err)
	at := float64(time.Now().UnixMilli())
	hello, err := wire.Encode(&wire.Hello{
		Header: wire.Header{Type: wire.TypeHello}, MemberID: m.MemberID, Pubkey: key.Public(),
		HelloCommon: wire.HelloCommon{
			MeshID: m.MeshID, SessionID: "old", Cwd: "/", Timestamp: wire.Number(at),
			Signature: key.Sign(identity.HelloText(m.MeshID, m.MemberID, key.Public(), at)),
		},
	})
	require.NoError(p.t, err)
	require.NoError(p.t, ws.Write(p.t.Context(), websocket.MessageText, hello))
	_, frame, err := ws.Read(p.t.Context())
	require.NoError(p.t, err)
	require.Contains(p.t, string(frame), wire.TypeHelloAck)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for err == nil {
			_, _, err = ws.Read(context.Background())
		}
	}()
	p.t.Cleanup(func() {
		_ = ws.CloseNow()
		<-done
	})
}

func TestSendWaitShowsWhoHasSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	f := bo.follow("inbox", "--follow")
	f.await("ready")

	r := ana.run("send", "bo", "hello", "--wait")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Regexp(t, `(?m)^queued for 1 recipient, connected \([0-9A-Za-z]{32}\)\nacked by bo at \d\d:\d\d:\d\d \(signed\)\n$`, r.stdout)

	all := objects(t, ana.ok("--json", "send", "bo", "--wait=20s", "hello"))
	require.Len(t, all, 3)
	outcome := all[1]
	require.Equal(t, []any{"sent", "outcome", "delivery"}, []any{all[0]["type"], outcome["type"], all[2]["type"]})
	require.Equal(t, []any{"acked", "bo", true, "client", all[0]["messageId"]},
		[]any{outcome["state"], outcome["name"], outcome["signed"], outcome["by"], outcome["messageId"]})
	require.Equal(t, bo.one("whoami")["key"], outcome["receipt"].(map[string]any)["memberKey"])
	require.Equal(t, []any{true, "bo"}, []any{all[2]["delivered"], all[2]["target"]})
	require.NotEmpty(t, all[2]["deliveredAt"])
	require.Equal(t, true, all[2]["recipients"].([]any)[0].(map[string]any)["signed"])

	// Who did not send it cannot check it, and says so.
	shown := ana.ok("message", all[0]["messageId"].(string))
	require.Regexp(t, `RECIPIENT +STATE +SINCE +RECEIPT +KEY`, shown)
	require.Regexp(t, `bo +acked +[0-9:]+ +[0-9:]+, not checked`, shown)
	recipient := ana.one("message", all[0]["messageId"].(string), "--wait", "5s")["recipients"].([]any)[0].(map[string]any)
	require.Equal(t, []any{"acked", false, "unknown_message"}, []any{recipient["state"], recipient["signed"], recipient["problem"]})
	require.Equal(t, outcome["receipt"], recipient["receipt"])

	// Groups and topics.
	g := w.join("cy").follow("inbox", "--follow", "--group", "backend")
	g.await("ready")
	r = ana.run("send", "@backend", "to the group", "--wait", "20s")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stdout, "acked by cy at ")
	r = ana.run("send", "@all", "to all", "--wait", "20s")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stdout, "acked by bo at ")
	require.Contains(t, r.stdout, "acked by cy at ")
	ana.ok("topic", "create", "ops")
	bo.ok("topic", "join", "ops")
	ana.ok("topic", "key", "seal", "ops")
	r = ana.run("topic", "post", "ops", "in the topic", "--wait", "20s")
	require.Equal(t, exitOK, r.code, r.stderr)
	require.Contains(t, r.stdout, "acked by bo at ")
	require.Equal(t, exitOK, f.end())
	require.Equal(t, exitOK, g.end())
}

func TestSendWaitSaysWhatIsNotSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo, cy := w.join("ana"), w.join("bo"), w.join("cy")
	receive(t, bo.connect(func(o *client.Options) { o.NoReceipts = true }))
	r := ana.run("send", "bo", "hello", "--wait")
	require.Equal(t, exitUnsigned, r.code, r.stdout)
	require.Regexp(t, `(?m)^delivered \(unsigned\) to bo at \d\d:\d\d:\d\d, by its client$`, r.stdout)
	require.Equal(t, "claudemesh: Delivered, but 1 recipient did not sign for it.\n", r.stderr)

	cy.connectOld()
	r = ana.run("--json", "send", "cy", "hello", "--wait", "20s")
	require.Equal(t, exitUnsigned, r.code, r.stdout)
	outcome := objects(t, r.stdout)[1]
	require.Equal(t, []any{"unsigned", "transport", false, nil}, []any{outcome["state"], outcome["by"], outcome["signed"], outcome["receipt"]})
	require.Equal(t, "unsigned", objects(t, r.stderr)[0]["code"])
	r = ana.run("send", "cy", "hello", "--wait")
	require.Contains(t, r.stdout, "delivered (unsigned) to cy at ")
	require.Contains(t, r.stdout, ", by its transport")
}

func TestSendWaitSaysWhatIsPending(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo, _ := w.join("ana"), w.join("bo"), w.join("cy")
	f := bo.follow("inbox", "--follow", "--status", "dnd")
	f.await("ready")
	start := time.Now()
	r := ana.run("--timeout", "1s", "send", "bo", "hello", "--wait")
	require.Equal(t, exitNotYet, r.code, r.stdout)
	require.Less(t, time.Since(start), 20*time.Second, "--timeout says how long")
	require.Regexp(t, `(?m)^held: dnd since \d\d:\d\d:\d\d \(bo\)$`, r.stdout)
	require.Equal(t, "claudemesh: 0 of 1 recipient confirmed the message.\n", r.stderr)

	r = ana.run("--json", "send", "*", "hello", "--wait=300ms")
	require.Equal(t, exitNotYet, r.code, r.stdout)
	states := map[string][]any{}
	for _, o := range objects(t, r.stdout) {
		if o["type"] == "outcome" {
			states[o["name"].(string)] = []any{o["state"], o["stage"], o["reason"]}
		}
	}
	require.Equal(t, map[string][]any{"bo": {"pending", "held", "dnd"}, "cy": {"pending", "queued", "offline"}}, states)

	r = ana.run("send", "@nobody", "hello", "--wait")
	require.Equal(t, exitNotYet, r.code, "nobody has confirmed it")

	r = ana.run("send", "cy", "not for long", "--expires", "1s", "--wait", "20s")
	require.Equal(t, exitNotYet, r.code, r.stdout)
	require.Contains(t, r.stdout, "expired: ttl (cy)")
	require.Equal(t, exitOK, f.end())
}

func TestSendWaitSaysWhatIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo, cy := w.join("ana"), w.join("bo"), w.join("cy")
	receive(t, cy.connect(nil))
	c := ana.connect(func(o *client.Options) { o.NoPush = true })
	key := bo.one("whoami")["key"].(string)
	for i := range 250 { // a sender's share of a mailbox
		_, err := c.Send(t.Context(), key, fmt.Sprint(i))
		require.NoError(t, err)
	}
	r := ana.run("send", "bo", "one too many", "--wait")
	require.Equal(t, exitRefused, r.code, r.stdout)
	require.Equal(t, "refused: queue_full (bo)\n", r.stdout)
	r = ana.run("send", "*", "to all", "--wait")
	require.Equal(t, exitRefused, r.code, r.stdout)
	require.Contains(t, r.stdout, "refused: quota (bo)\n")
	require.Contains(t, r.stdout, "acked by cy at ")
	require.Contains(t, r.stderr, "did not take the message")
	require.Equal(t, exitNotYet, ana.run("send", "*", "to all").code, "without --wait it is as it was")
}

func TestWaitFlag(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana := w.join("ana")
	w.join("bo")
	for _, args := range [][]string{
		{"send", "bo", "x", "--wait=soon"}, {"send", "bo", "x", "--wait=0s"}, {"send", "bo", "x", "--wait=-1s"}, {"send", "bo", "--wait", "5s"},
		{"message", "AAAAAAAAAAAA", "--wait=x"},
	} {
		require.Equal(t, exitUsage, ana.run(args...).code, "%q", args)
	}
	r := ana.run("send", "bo", "--wait", "10ms", "--", "5s", "is the text")
	require.Equal(t, exitNotYet, r.code, r.stderr)
	require.Equal(t, exitRefused, ana.run("message", "AAAAAAAAAAAA", "--wait", "1s").code)
	require.True(t, strings.Contains(ana.ok("send", "--help"), "--wait"))

	p := &program{opts: &cli{Timeout: 20 * time.Second}}
	for _, tt := range []struct {
		flag  waitFlag
		given bool
		want  time.Duration
	}{
		{waitFlag{}, true, 0}, {waitFlag{on: true}, false, 30 * time.Second}, {waitFlag{on: true}, true, 20 * time.Second},
		{waitFlag{on: true, limit: time.Minute}, true, time.Minute},
	} {
		p.timeoutGiven = tt.given
		require.Equal(t, tt.want, p.patience(tt.flag), "%+v", tt)
	}
}

// H28: what is said to be signed is shown under a name that is known, else under the key that was checked.
func TestH28ASignerWithoutANameIsShownByItsKey(t *testing.T) {
	t.Parallel()
	key := strings.Repeat("ab", 32)
	for shown, name := range map[string]string{"acked by bo at 12:00:00 (signed)\n": "bo", "acked by abababababababab at 12:00:00 (signed)\n": ""} {
		var out bytes.Buffer
		at := time.Date(2026, 5, 2, 12, 0, 0, 0, time.UTC)
		p := &program{printer: &printer{out: &out, err: &out, zone: time.UTC, now: func() time.Time { return at }}}
		o := client.Outcome{Name: name, Pubkey: key, State: client.OutcomeAcked, At: at, Receipt: &wire.StoredReceipt{MemberPubkey: key}}
		require.NoError(t, p.showOutcome(&o))
		require.Equal(t, shown, out.String())
		v := recipientOf(&o)
		require.Equal(t, []any{true, name, key, key}, []any{v.Signed, v.Name, v.Key, v.Receipt.MemberKey})
	}
}
