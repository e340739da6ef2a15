package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

func TestJoinSendAndRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")

	who := ana.one("whoami")
	require.Equal(t, "ana", who["name"])
	require.Equal(t, "admin", who["role"])
	require.Equal(t, w.mesh, who["mesh"])
	require.Equal(t, ana.dir, who["config"])

	require.Equal(t, "No messages.\n", bo.run("inbox").stderr)
	sent := ana.one("send", "bo", "hello", "there")
	require.Equal(t, "sent", sent["type"])
	require.Equal(t, true, sent["queued"])
	require.Equal(t, true, sent["offline"])
	require.Equal(t, true, sent["encrypted"])
	require.Equal(t, object{"total": 1.0, "online": 0.0}, object(sent["recipients"].(map[string]any)))
	require.Contains(t, ana.fails(exitNotYet, "message", sent["messageId"].(string)), "0 of 1 recipient")

	r := ana.runWith("from\nstdin\n", "send", "bo", "-")
	require.Equal(t, exitOK, r.code, r.stderr)

	peeked := objects(t, bo.ok("--json", "inbox", "--peek"))
	require.Len(t, peeked, 2)
	read := objects(t, bo.ok("--json", "inbox"))
	require.Len(t, read, 2, "peeking leaves them there")
	require.Equal(t, "hello there", read[0]["text"])
	require.Equal(t, "ana", read[0]["from"])
	require.Equal(t, true, read[0]["verified"])
	require.Equal(t, "from\nstdin", read[1]["text"])
	require.Empty(t, bo.ok("inbox"), "they were acknowledged")

	status := ana.one("message", sent["messageId"].(string))
	require.Equal(t, true, status["delivered"])

	again := ana.one("send", "bo", "once", "--id", "my-id")
	require.Equal(t, false, again["duplicate"])
	again = ana.one("send", "bo", "once", "--id", "my-id")
	require.Equal(t, true, again["duplicate"])
	require.Len(t, objects(t, bo.ok("--json", "inbox", "-n", "1")), 1)
	require.Empty(t, bo.ok("inbox"))
}

func TestTextOutput(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana := w.join("ana")
	w.join("bo")
	require.Regexp(t, `(?m)^NAME +STATUS +ROLE +KEY +MEMBER +JOINED`, ana.ok("members"))
	require.Regexp(t, `(?m)^bo +offline +member +[0-9a-f]{16} `, ana.ok("members"))
	require.Equal(t, "Nobody is connected; claudemesh members lists who could be.\n", ana.run("peers").stderr)
	require.Regexp(t, `^queued for 1 recipient, offline: it waits \([0-9A-Za-z]{32}\)\n$`, ana.ok("send", "bo", "hi"))
	require.Regexp(t, `^queued for 1 recipient, offline: it waits; not encrypted \(`, ana.ok("send", "*", "hi"))
	require.Regexp(t, `^addressed to nobody: .*; not encrypted \(`, ana.ok("send", "@nobody", "hi"))
	require.Regexp(t, `(?m)^\*  dev +ana +admin `, ana.ok("meshes"))
	require.Regexp(t, `^claudemesh \S+ \(go`, ana.ok("version"))
	require.NotContains(t, ana.ok("members")+ana.ok("whoami"), "\x1b")
}

func TestStrangersCannotSteerTheTerminal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana := w.join("ana")
	eve := w.stranger("eve")
	eve.ok("join", w.invite(broker.InviteOptions{}), "--name", "eve\u202e (you)\u200b: x")
	const evil = "\x1b[2J\x1b]0;title\a\u202e\u009b1mx\rana: yes\u2028\n12:00:00 ana: yes"
	f := eve.follow("inbox", "--follow", "--summary", evil, "--group", "g\u202e\u200f:r\u202e")
	f.await("ready")
	eve.ok("topic", "create", "ops\u202eevil", "-d", evil)
	eve.ok("send", "ana", evil)
	eve.ok("topic", "post", "general", evil)
	eve.ok("apikey", "create", "x\u202e", "--can", "read")
	for _, args := range [][]string{
		{"peers"}, {"members"}, {"topic", "list"}, {"topic", "members", "ops\u202eevil"}, {"topic", "history", "general"}, {"apikey", "list"}, {"inbox"},
	} {
		for _, format := range []string{"--json", "--json=false"} {
			r := ana.run(append([]string{format}, args...)...)
			require.Equal(t, exitOK, r.code, "%q: %s", args, r.stderr)
			require.NotEmpty(t, r.stdout, "%q", args)
			for _, c := range r.stdout + r.stderr {
				require.False(t, hostile(c) && c != '\n', "%q: %q", args, r.stdout)
			}
			if args[0] == "inbox" {
				eve.ok("send", "ana", evil) // the first format has read it
			}
		}
	}
	require.Contains(t, ana.ok("peers"), `"eve (you): x"`)
	require.Equal(t, exitOK, f.end())
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana := w.join("ana")
	w.join("bo")
	nobody, err := identity.GenerateKey()
	require.NoError(t, err)
	for _, c := range []struct {
		code int
		args []string
	}{
		{exitUsage, []string{"nonsense"}},
		{exitUsage, []string{"send"}},
		{exitUsage, []string{"send", "bo"}},
		{exitUsage, []string{"send", "@@x", "hi"}},
		{exitUsage, []string{"send", "bo", "hi", "-p", "urgent"}},
		{exitUsage, []string{"status", "busy"}},
		{exitUsage, []string{"message", "x"}},
		{exitUsage, []string{"--mesh", "other", "peers"}},
		{exitUsage, []string{"--timeout", "-1s", "peers"}},
		{exitUsage, []string{"inbox", "--group", "a//b"}},
		{exitUsage, []string{"topic", "create", "\x01"}},
		{exitUsage, []string{"join", "nonsense"}},
		{exitFailed, []string{"status", "idle"}},
		{exitFailed, []string{"keygen", filepath.Join(ana.dir, "config.json")}},
		{exitRefused, []string{"send", "carl", "hi"}},
		{exitUsage, []string{"send", strings.Repeat("ab", 32), "hi"}}, // no point of the curve
		{exitRefused, []string{"send", nobody.Public(), "hi"}},
		{exitRefused, []string{"topic", "post", "nosuch", "hi"}},
		{exitRefused, []string{"topic", "tail", "nosuch"}},
		{exitRefused, []string{"message", "AAAAAAAAAAAA"}},
		{exitRefused, []string{"apikey", "revoke", "AAAAAAAAAAAA"}},
		{exitRefused, []string{"trust", "bo", "--key", strings.Repeat("ab", 32)}},
		{exitUnsafe, []string{"send", "*", "hi", "--encrypted"}},
		{exitUnsafe, []string{"topic", "post", "general", "hi", "--encrypted"}},
		{exitOK, []string{"--help"}},
		{exitOK, []string{"send", "--help"}},
	} {
		r := ana.run(c.args...)
		require.Equal(t, c.code, r.code, "%q: %s%s", c.args, r.stdout, r.stderr)
		if c.code == exitOK {
			continue
		}
		require.Regexp(t, `^claudemesh: [^\n]*\n$`, r.stderr, "%q: one line on stderr", c.args)
		require.Empty(t, r.stdout, "%q", c.args)
		r = ana.run(append([]string{"--json"}, c.args...)...)
		require.Equal(t, c.code, r.code)
		e := objects(t, r.stderr)
		require.Len(t, e, 1)
		require.Equal(t, "error", e[0]["type"])
		require.InDelta(t, c.code, e[0]["exit"], 0)
		require.NotEmpty(t, e[0]["code"])
	}
	require.Contains(t, w.stranger("nobody").fails(exitUsage, "peers"), "claudemesh join")

	w.server.Close()
	require.Contains(t, ana.fails(exitUnreachable, "peers"), "cannot be reached")
	require.Contains(t, ana.fails(exitUnreachable, "inbox"), "cannot be reached")
}

func TestRevokedMemberIsToldWhatToDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.join("ana")
	bo := w.join("bo")
	require.NoError(t, w.b.RevokeMember(t.Context(), w.mesh, bo.one("whoami")["memberId"].(string)))
	require.Contains(t, bo.fails(exitRefused, "peers"), "invite")
}

func TestJoinKeepsOneKeyThroughALostAnswer(t *testing.T) {
	t.Parallel()
	var drop atomic.Bool
	drop.Store(true)
	w := newWorld(t, func(b http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/join" && drop.CompareAndSwap(true, false) {
				b.ServeHTTP(httptest.NewRecorder(), r) // the member is enrolled, and nobody hears of it
				panic(http.ErrAbortHandler)
			}
			b.ServeHTTP(rw, r)
		})
	})
	invite := w.invite(broker.InviteOptions{MaxUses: 1})
	ana := w.stranger("ana")
	require.Contains(t, ana.fails(exitUnreachable, "join", invite, "--name", "ana"), "reach")
	got := ana.one("join", invite, "--name", "ana")
	require.Equal(t, true, got["alreadyMember"], "the same key again")
	left, err := os.ReadDir(filepath.Join(ana.dir, joiningDir))
	require.NoError(t, err)
	require.Empty(t, left)

	require.Contains(t, w.stranger("bo").fails(exitRefused, "join", invite, "--name", "bo"), "used as often")
	require.Equal(t, true, ana.one("join", invite, "--name", "ana")["alreadyMember"], "joining again uses nothing up")
}

func TestJoin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.join("ana")

	second := w.stranger("second")
	r := second.runWith(w.invite(broker.InviteOptions{})+"\n", "--json", "join", "-", "--name", "ana")
	require.Equal(t, exitOK, r.code, r.stderr)
	got := objects(t, r.stdout)[0]
	require.Equal(t, "ana-2", got["name"], "the name that the broker gave")
	require.Equal(t, "member", got["role"])

	third := w.stranger("third")
	key := filepath.Join(third.dir, "my.key")
	made := third.one("keygen", key)
	got = third.one("join", w.invite(broker.InviteOptions{}), "--name", "carl", "--key", key)
	require.Equal(t, made["public"], got["key"])
	require.Equal(t, exitFailed, third.run("keygen", key).code, "a key is never overwritten")

	got = third.one("join", w.invite(broker.InviteOptions{}), "--name", "carl", "--new")
	require.NotEqual(t, made["public"], got["key"])
	require.Equal(t, "carl-2", got["name"])

	// Two people of one configuration directory.
	third.ok("--profile", "dora", "join", w.invite(broker.InviteOptions{}))
	require.Equal(t, "dora", third.one("--profile", "dora", "whoami")["name"])
	require.Equal(t, "carl-2", third.one("whoami")["name"])

	fifth := w.stranger("fifth")
	fifth.ok("meshes", "add", "--broker", w.url(), "--mesh-id", w.mesh, "--member-id", third.one("whoami")["memberId"].(string),
		"--key", writeKey(t, third), "--slug", "mine", "--name", "carl")
	require.Len(t, objects(t, fifth.ok("--json", "--mesh", "mine", "members")), 5)
	require.Equal(t, exitUsage, fifth.run("meshes", "forget", "mine").code, "not without --yes")
	fifth.ok("meshes", "forget", "mine", "--yes")
	require.Equal(t, exitUsage, fifth.run("peers").code)

	expired := w.invite(broker.InviteOptions{TTL: time.Second})
	late := w.stranger("late")
	late.now = func() time.Time { return time.Now().Add(time.Hour) }
	require.Contains(t, late.fails(exitRefused, "join", expired, "--name", "x"), "expired")
}

// writeKey makes a key file of the key in a person's membership.
func writeKey(t *testing.T, p *person) string {
	t.Helper()
	m, err := home{dir: p.dir}.choose("")
	require.NoError(t, err)
	k, err := m.key()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "key.json")
	require.NoError(t, writeJSON(path, keyFile{Version: 1, Public: k.Public(), Seed: k.SeedHex()}))
	return path
}

func TestRunningSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	f := bo.follow("inbox", "--follow", "--summary", "reviewing", "--group", "backend:lead", "--peer-type", "human")
	require.Equal(t, w.mesh, f.await("ready")["mesh"])

	peer := ana.one("peers")
	require.Equal(t, "bo", peer["name"])
	require.Equal(t, "reviewing", peer["summary"])
	require.Equal(t, "human", peer["peerType"])
	require.Equal(t, []any{map[string]any{"name": "backend", "role": "lead"}}, peer["groups"])
	require.Regexp(t, `(?m)^bo +idle +@backend:lead +[0-9a-f]{16} +human .* +reviewing$`, ana.ok("peers"))

	ana.ok("send", "bo", "one", "--wait", "20s")
	require.Equal(t, "one", f.await("message")["text"])
	ana.ok("send", "@backend", "two", "-p", "now")
	m := f.await("message")
	require.Equal(t, "two", m["text"])
	require.Equal(t, "group", m["to"])
	require.Equal(t, false, m["encrypted"])

	set := bo.one("status", "dnd")
	require.Equal(t, "session", set["type"])
	require.Equal(t, "dnd", ana.one("peers")["status"])
	held := ana.one("send", "bo", "later")
	r := ana.run("--json", "message", held["messageId"].(string))
	require.Equal(t, exitNotYet, r.code)
	state := objects(t, r.stdout)[0]["recipients"].([]any)[0].(map[string]any)
	require.Equal(t, "held", state["state"])
	require.Equal(t, "dnd", state["reason"])
	ana.ok("send", "bo", "urgent", "-p", "now")
	require.Equal(t, "urgent", f.await("message")["text"])

	bo.ok("summary", "now", "this")
	bo.ok("groups", "join", "@frontend", "--role", "dev")
	bo.ok("groups", "leave", "backend")
	peer = ana.one("peers")
	require.Equal(t, "now this", peer["summary"])
	require.Equal(t, []any{map[string]any{"name": "frontend", "role": "dev"}}, peer["groups"])

	bo.ok("status", "idle")
	require.Equal(t, "later", f.await("message")["text"], "what was held comes now")
	require.Equal(t, exitOK, f.end(), "interrupting it is how it ends")
	left, err := os.ReadDir(filepath.Join(bo.dir, runDir))
	require.NoError(t, err)
	require.Empty(t, left)
	require.Contains(t, bo.fails(exitFailed, "status", "idle"), "inbox --follow")
	require.Empty(t, bo.ok("inbox"))
}

func TestDeadSessionIsTidiedUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana := w.join("ana")
	h := home{dir: ana.dir}
	m, err := h.choose("")
	require.NoError(t, err)
	require.NoError(t, writeJSON(h.path(runDir, "dead.json"), running{
		Version: 1, Mesh: m.MeshID, Member: m.MemberID, Session: "s", PID: 1, Socket: h.path(runDir, "dead.sock"),
	}))
	require.Contains(t, ana.fails(exitFailed, "status", "idle"), "No session")
	require.NoFileExists(t, h.path(runDir, "dead.json"))
}

func TestSessionInALongDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.dir = filepath.Join(w.dir, strings.Repeat("x", 120))
	ana := w.join("ana")
	f := ana.follow("inbox", "--follow")
	f.await("ready")
	ana.ok("summary", "reached")
	require.Equal(t, exitOK, f.end())
	require.Empty(t, f.stderr.String())
}

func TestTopicKeyComesLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	require.Equal(t, true, ana.one("topic", "create", "ops", "-d", "operations")["created"])
	require.Equal(t, false, ana.one("topic", "create", "#ops")["created"])
	require.Contains(t, bo.fails(exitNotYet, "topic", "tail", "ops"), "topic join ops")
	require.Equal(t, "pending", bo.one("topic", "join", "ops")["key"])
	require.Contains(t, bo.fails(exitNotYet, "topic", "post", "ops", "hi", "--wait-key", "1ms"), "must be online")
	require.Contains(t, bo.fails(exitNotYet, "topic", "key", "state", "ops"), "still to come")

	ana.ok("topic", "post", "ops", "before the key")
	inbox, tail := bo.follow("inbox", "--follow"), bo.follow("topic", "tail", "ops")
	inbox.await("ready")
	require.Equal(t, "ops", tail.await("waiting")["topic"])
	require.Equal(t, "ops", inbox.await("waiting")["topic"])
	sealed := ana.one("topic", "key", "seal", "ops")
	require.Equal(t, "bo", sealed["name"])
	require.Equal(t, true, sealed["sealed"])
	require.Equal(t, "before the key", tail.await("message")["text"])
	tail.await("ready")
	require.Equal(t, "before the key", inbox.await("message")["text"])

	require.Equal(t, true, ana.one("topic", "post", "ops", "after the key @bo")["encrypted"])
	for _, f := range []*follower{tail, inbox} {
		m := f.await("message")
		require.Equal(t, "after the key @bo", m["text"])
		require.Equal(t, true, m["encrypted"])
		require.Equal(t, exitOK, f.end())
	}
	bo.ok("topic", "post", "ops", "from bo")
	require.Empty(t, bo.ok("inbox"), "what was printed does not come again")
	history := objects(t, ana.ok("--json", "topic", "history", "ops", "--read"))
	require.Len(t, history, 3)
	require.Equal(t, "before the key", history[0]["text"], "the oldest first")
	require.Equal(t, "from bo", history[2]["text"])

	require.Equal(t, "held", bo.one("topic", "key", "state", "ops")["state"])
	members := objects(t, ana.ok("--json", "topic", "members", "ops"))
	require.Len(t, members, 2)
	require.Equal(t, true, members[1]["hasKey"])

	notes := objects(t, bo.ok("--json", "notifications", "--read"))
	require.Len(t, notes, 1)
	require.Equal(t, "after the key @bo", notes[0]["text"])
	require.Empty(t, bo.ok("notifications", "--unread"))
	require.Len(t, objects(t, bo.ok("--json", "notifications")), 1)
}

func TestTailResumesWithoutGapOrDouble(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	ana.ok("topic", "create", "ops")
	bo.ok("topic", "join", "ops")
	ana.ok("topic", "key", "seal", "ops")
	for _, text := range []string{"1", "2", "3"} {
		ana.ok("topic", "post", "ops", text)
	}
	tail := bo.follow("topic", "tail", "ops", "--last", "2", "-n", "4")
	require.Equal(t, "2", tail.await("message")["text"])
	require.Equal(t, "3", tail.await("message")["text"])
	tail.await("ready")
	ana.ok("topic", "post", "ops", "4")
	bo.ok("topic", "post", "ops", "5")
	require.Equal(t, "4", tail.await("message")["text"])
	require.Equal(t, "5", tail.await("message")["text"], "one's own too")
	require.Equal(t, exitOK, tail.wait(), "-n ends it")
	require.Len(t, objects(t, bo.ok("--json", "inbox")), 1, "what tail printed is read; the first was not printed")
}

func TestFollowerPassesTheKeyOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	ana.ok("topic", "create", "ops")
	f := ana.follow("topic", "tail", "ops")
	f.await("ready")
	bo.ok("topic", "join", "ops")
	require.Equal(t, true, bo.one("topic", "post", "ops", "hi", "--wait-key", "15s")["encrypted"])
	require.Equal(t, "hi", f.await("message")["text"])
	require.Equal(t, exitOK, f.end())
}

func TestPrivateTopic(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	ana.ok("topic", "create", "secret", "--visibility", "private")
	require.NotContains(t, bo.ok("topic", "list"), "secret")
	require.Equal(t, exitRefused, bo.run("topic", "join", "secret").code)
	require.Equal(t, exitRefused, ana.run("topic", "add", "secret", "carl").code)
	ana.ok("topic", "add", "secret", "bo")
	require.Equal(t, "bo", ana.one("topic", "key", "seal", "secret")["name"])
	ana.ok("topic", "post", "secret", "psst")
	require.Equal(t, "psst", objects(t, bo.ok("--json", "topic", "history", "secret"))[0]["text"])
	bo.ok("topic", "key", "reject", "secret")
	require.Equal(t, exitNotYet, bo.run("topic", "history", "secret").code)
	bo.ok("topic", "leave", "secret")
	ana.ok("topic", "archive", "secret")
	require.Equal(t, exitRefused, ana.run("topic", "post", "secret", "x").code)
	require.Equal(t, "none", ana.one("topic", "key", "state", "general")["state"])
	ana.ok("topic", "key", "claim", "general")
	require.Equal(t, exitRefused, bo.run("topic", "key", "claim", "general").code)
}

func TestChangedKeyHoldsMessagesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	boIs := bo.one("whoami")
	ana.ok("send", "bo", "first")
	pins, err := client.OpenFilePins(filepath.Join(ana.dir, "pins.json"))
	require.NoError(t, err)
	other, err := identity.GenerateKey()
	require.NoError(t, err)
	require.NoError(t, pins.Replace(w.mesh, client.Pin{Kind: client.PinMember, ID: boIs["memberId"].(string), Value: other.Public()}))

	said := ana.fails(exitUnsafe, "send", "bo", "second")
	require.Contains(t, said, "trust bo --key "+boIs["key"].(string))
	require.Contains(t, ana.ok("members"), "KEY CHANGED")
	require.Equal(t, exitUnsafe, ana.run("trust", "ana", "--key", boIs["key"].(string)).code, "it is another member's key")
	ana.ok("trust", "BO", "--key", boIs["key"].(string))
	ana.ok("send", "bo", "third")
	texts := []any{}
	for _, m := range objects(t, bo.ok("--json", "inbox")) {
		texts = append(texts, m["text"])
	}
	require.Equal(t, []any{"first", "third"}, texts)
}

func TestAPIKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana := w.join("ana")
	made := ana.one("apikey", "create", "ci", "--can", "read,send", "--topic", "#general", "--expires", "24h")
	secret := made["secret"].(string)
	require.True(t, strings.HasPrefix(secret, "cm_"))
	list := ana.ok("apikey", "list") + ana.ok("--json", "apikey", "list")
	require.NotContains(t, list, secret)
	require.Contains(t, list, "#general")
	r := ana.run("apikey", "create", "text", "--can", "read")
	require.Regexp(t, `^cm_\S+\n$`, r.stdout, "only the secret, for $(…)")
	require.Contains(t, r.stderr, "only time")
	require.Equal(t, made["id"], ana.one("apikey", "revoke", made["id"].(string))["id"])
	require.NotContains(t, ana.ok("--json", "apikey", "list"), made["id"])
	require.Contains(t, ana.ok("--json", "apikey", "list", "--all"), made["id"])
}

func TestEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	f := ana.follow("inbox", "--follow", "--events")
	f.await("ready")
	g := bo.follow("inbox", "--follow")
	g.await("ready")
	e := f.await("event")
	require.Equal(t, "bo", e["name"])
	require.Equal(t, exitOK, g.end())
	for e["event"] != wire.EventPeerLeft {
		e = f.await("event")
	}
	require.Equal(t, exitOK, f.end())
}

func TestFollowerSurvivesALostConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	f := bo.follow("inbox", "--follow")
	f.await("ready")
	w.conns.drop()
	require.Equal(t, false, f.await("connection")["connected"])
	require.Equal(t, true, f.await("connection")["connected"])
	ana.ok("send", "bo", "still there?")
	require.Equal(t, "still there?", f.await("message")["text"])
	require.NoError(t, w.b.RevokeMember(t.Context(), w.mesh, bo.one("whoami")["memberId"].(string)))
	require.Equal(t, exitRefused, f.wait())
}

// Whatever is logged and printed, no text and no key is in it.
func TestNothingSecretIsPrinted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	const canary = "canary-8c1f"
	var all bytes.Buffer
	for _, args := range [][]string{
		{"whoami"}, {"meshes"}, {"members"}, {"peers"}, {"send", "bo", canary}, {"topic", "create", "ops"}, {"topic", "post", "ops", canary},
		{"topic", "key", "state", "ops"}, {"topic", "members", "ops"}, {"apikey", "list"}, {"keygen"}, {"status", "idle"}, {"send", "carl", canary},
	} {
		for _, extra := range [][]string{{"--debug"}, {"--debug", "--json"}} {
			r := ana.run(append(extra, args...)...)
			all.WriteString(r.stdout + r.stderr)
		}
	}
	r := bo.run("--debug", "inbox")
	require.Contains(t, r.stdout, canary)
	all.WriteString(r.stderr)
	require.NotContains(t, all.String(), canary)
	for _, p := range []*person{ana, bo} {
		m, err := home{dir: p.dir}.choose("")
		require.NoError(t, err)
		require.NotContains(t, all.String(), m.Seed)
	}
	var made keyFile
	require.NoError(t, readSecret(filepath.Join(ana.dir, "key.json"), &made))
	require.NotContains(t, all.String(), made.Seed)
	require.NotContains(t, all.String(), "cm_")
}

func TestFailedOutputIsAnError(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ana, bo := w.join("ana"), w.join("bo")
	ana.ok("send", "bo", "precious")
	var stderr bytes.Buffer
	code := bo.system(strings.NewReader(""), brokenPipe{}, &stderr).run(context.Background(), []string{"--config", bo.dir, "inbox"})
	require.Equal(t, exitFailed, code)
	require.Contains(t, bo.ok("inbox"), "precious", "what could not be shown is not acknowledged")
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, os.ErrClosed }

// docs/cli.md and --help name everything that there is.
func TestEverythingIsDocumented(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "cli.md"))
	require.NoError(t, err)
	docs := string(raw)
	parser, err := kong.New(&cli{}, kong.Name("claudemesh"))
	require.NoError(t, err)
	for _, f := range parser.Model.Flags {
		require.Contains(t, docs, "`--"+f.Name, "flag of all commands")
	}
	for _, leaf := range parser.Model.Leaves(true) {
		path := strings.TrimPrefix(leaf.Path(), "claudemesh ")
		_, section, found := strings.Cut(docs, "\n### "+path)
		if path == "meshes list" {
			_, section, found = strings.Cut(docs, "\n### meshes")
		}
		require.True(t, found, "docs/cli.md has no section %q", path)
		section, _, _ = strings.Cut(section, "\n### ")
		require.Contains(t, leaf.Detail, "JSON: ", "%s --help", path)
		for _, f := range leaf.Flags {
			require.True(t, strings.Contains(section, "`--"+f.Name) || strings.Contains(docs, "| `--"+f.Name), "docs/cli.md: %s --%s", path, f.Name)
		}
	}
}
