package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
	"github.com/claudemesh/broker/wire"
)

// venom is what follows every text of a hostile mesh: sequences that colour, clear, set titles and clipboards, controls of either kind, marks that
// reorder, hide or tag, and a line of its own.
const venom = "\x1b[31m\x1b[2J\x1b]0;pwned\a\x1b]52;c;cHduZWQ=\x1b\\\x1bP1$r\x1b\\\x1bc\u009b31m\u009d0;t\u009c\r\b\x7f\v\f\x00" +
	"\u202a\u202b\u202d\u202e\u202c\u2066\u2067\u2068\u2069\u200e\u200f\u061c\u200b\u2060\ufeff\u00ad\u180e\u3164\U000e0041\U000e007f" +
	"\u2028FORGED\u2029FORGED\u0085FORGED\nFORGED\r\nFORGED"

// poisoned is a text that no broker should let in, and that a hostile one could show.
func poisoned(s string) string { return s + strings.ReplaceAll(venom, "\x00", "") }

// brief is poisoned for names of topics, which have 64 characters at most.
func brief(s string) string {
	return s + "\x1b[31m\x1b]0;p\a\u009b1m\r\b\x7f\u202e\u2066\u200b\u200e\u061c\ufeff\U000e0041\u2028\nFORGED"
}

// polite is a text that our broker lets in, also as a name: no control character is in it.
func polite(s string) string {
	return s + "\u202a\u202e\u2066\u2069\u200e\u200f\u061c\u200b\u200d\u2060\ufeff\u00ad\u180e\u3164\U000e0041\u2028FORGED"
}

// harmless fails if an output could do anything to a terminal but fill it, or looks like more lines than it is.
func harmless(t *testing.T, what, out string) {
	t.Helper()
	require.True(t, utf8.ValidString(out), "%s: %q", what, out)
	for at, r := range out {
		if r != '\n' && hostile(r) {
			require.Fail(t, "it reaches the terminal", "%s: %q in %q", what, r, out[max(0, at-40):min(len(out), at+40)])
		}
	}
	for l := range strings.Lines(out) {
		require.False(t, strings.HasPrefix(l, "FORGED"), "%s: %q", what, out)
	}
}

// hostileWorld is a world whose mesh has been filled behind the broker's back: nothing in it was checked.
func hostileWorld(t *testing.T) (w *world, mallory *client.Client, dial func() *client.Client) {
	t.Helper()
	ctx, at := t.Context(), time.Now().UTC().Truncate(time.Millisecond)
	st := memory.New()
	owner, err := identity.GenerateKey()
	require.NoError(t, err)
	mesh := store.Mesh{ID: "mesh", Slug: poisoned("slug"), Name: poisoned("mesh"), OwnerPubkey: owner.Public(), CreatedAt: at}
	require.NoError(t, st.CreateMesh(ctx, mesh, store.Topic{ID: identity.NewID(), MeshID: mesh.ID, Name: "general", Visibility: wire.VisibilityPublic, CreatedAt: at}))
	key, err := identity.GenerateKey()
	require.NoError(t, err)
	member := store.Member{
		ID: "mallory", MeshID: mesh.ID, Pubkey: key.Public(), Name: poisoned("mallory"), Role: poisoned("admin"), RoleTag: poisoned("tag"), JoinedAt: at,
		DefaultGroups: []wire.Group{{Name: poisoned("group"), Role: poisoned("lead")}},
	}
	require.NoError(t, st.AddMember(ctx, member, 0))
	for id, name := range map[string]string{"mallory-2": poisoned("mallory"), "twin-1": polite("twin"), "twin-2": polite("twin")} {
		key, err := identity.GenerateKey()
		require.NoError(t, err)
		require.NoError(t, st.AddMember(ctx, store.Member{ID: id, MeshID: mesh.ID, Pubkey: key.Public(), Name: name, Role: store.RoleMember, JoinedAt: at}, 0))
	}
	summary := poisoned("summary")
	_, err = st.OpenPresence(ctx, store.Presence{
		ID: identity.NewID(), MeshID: mesh.ID, MemberID: "mallory-2", SessionID: poisoned("session"), DisplayName: poisoned("ghost"), Cwd: poisoned("/src"),
		Status: wire.Status(poisoned("idle")), Summary: &summary, Groups: []wire.Group{{Name: poisoned("g"), Role: poisoned("r")}}, PeerRole: poisoned("session"),
		Visible: true, Hostname: poisoned("host"), PeerType: poisoned("ai"), Channel: poisoned("channel"), Model: poisoned("model"), ConnectedAt: at,
		LastPingAt: at, LeaseUntil: at.Add(time.Hour), BrokerID: "dead",
	})
	require.NoError(t, err)
	for _, name := range []string{"evil", "worse"} {
		topic, _, err := st.CreateTopic(ctx, store.NewTopic{Topic: store.Topic{
			ID: identity.NewID(), MeshID: mesh.ID, Name: brief(name), Description: poisoned("description"), Visibility: wire.VisibilityPublic, CreatedAt: at,
			CreatedByMemberID: "mallory",
		}})
		require.NoError(t, err)
		_, err = st.Subscribe(ctx, mesh.ID, topic.ID, "mallory-2", poisoned("member"), false, at)
		require.NoError(t, err)
	}
	scopes := []string{brief("evil"), "general"}
	require.NoError(t, st.CreateAPIKey(ctx, store.APIKey{
		ID: "key-" + identity.NewID(), MeshID: mesh.ID, Label: poisoned("label"), Prefix: poisoned("cm_12345678"), Hash: strings.Repeat("a", 64),
		Capabilities: []string{poisoned("read")}, TopicScopes: &scopes, IssuedBy: "mallory", CreatedAt: at,
	}, 0))

	b, err := broker.New(broker.Options{Store: st, Logger: slog.New(slog.DiscardHandler)}.Unlimited())
	require.NoError(t, err)
	w = &world{t: t, b: b, server: httptest.NewUnstartedServer(b), dir: t.TempDir(), mesh: mesh.ID, owner: owner}
	w.conns = &listener{Listener: w.server.Listener}
	w.server.Listener = w.conns
	w.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	w.server.Start()
	t.Cleanup(w.server.Close)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, b.Shutdown(ctx))
	})
	dial = func() *client.Client {
		c, err := client.Dial(ctx, client.Options{
			URL: w.url(), MeshID: mesh.ID, MemberID: "mallory", Key: key, Cwd: polite("/src"), Hostname: polite("host"), Channel: polite("channel"),
			Model: polite("model"), SessionID: identity.NewID(), PeerType: "ai", Groups: []wire.Group{{Name: polite("group"), Role: polite("role")}},
		})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() }) // a test may have closed it
		return c
	}
	mallory = dial()
	require.NoError(t, mallory.SetSummary(ctx, poisoned("summary")))
	return w, mallory, dial
}

// Nothing that others have written does anything to the terminal of who reads it: every command of the command line, in a mesh where everything is
// hostile, writes text, and with --json JSON, that a terminal can take. A command that is missing here fails the test.
func TestHostileMeshReachesNoTerminal(t *testing.T) {
	t.Parallel()
	w, mallory, dial := hostileWorld(t)
	ctx := t.Context()
	ana := w.stranger("ana")
	link := w.invite(broker.InviteOptions{FirstIsAdmin: true, MaxUses: 10, Preset: store.InvitePreset{DisplayName: "ana"}})
	const secret = "FORGED" // stands in every hostile text, so an output without it has shown nothing

	// What mallory does to ana's inbox before a command reads it.
	var anaKey string
	mail := func() {
		for _, target := range []string{anaKey, "#general", "*"} {
			_, err := mallory.Send(ctx, target, poisoned("@ana text"), client.ClientMessageID(polite(identity.NewID())))
			require.NoError(t, err)
		}
	}
	topicID := func(of string) string {
		for _, o := range objects(t, ana.ok("--json", "topic", "list")) {
			if strings.HasPrefix(o["name"].(string), of) {
				return o["id"].(string)
			}
		}
		require.Fail(t, "no such topic", of)
		return ""
	}
	var messageID, runningKey, inviteID string
	var running *follower
	share := func() {
		require.NoError(t, mallory.SetState(ctx, polite("state"), poisoned("value")))
	}
	var sharing sync.WaitGroup
	var stopSharing func()
	keepSharing := func() { // until the command that watches has seen a change
		stop := make(chan struct{})
		sharing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					share()
				}
			}
		})
		stopSharing = func() { close(stop); sharing.Wait() }
	}
	audit := filepath.Join(t.TempDir(), "audit.jsonl")
	ownerKey := filepath.Join(t.TempDir(), "owner.key")
	require.NoError(t, os.WriteFile(ownerKey, []byte(w.owner.SeedHex()+"\n"), 0o600))
	steps := []struct {
		command string // as the model of the command line names it
		args    func() []string
		before  func()
		after   func()
		exit    int  // default 0
		shows   bool // a hostile text is in its output
	}{
		{command: "version", args: words("version")},
		{command: "keygen", args: words("keygen")},
		{command: "join", args: words("join", link, "--name", "ana")},
		{command: "join", args: words("join", poisoned("ic://join/abc")), exit: exitUsage},
		{command: "meshes list", args: words("meshes")},
		{command: "meshes add", args: words("meshes", "add", "--broker", "ws://x/ws", "--mesh-id", "other", "--member-id", "me", "--slug", poisoned("slug"),
			"--name", poisoned("me"), "--key", ana.dir+"/key.json"), shows: true},
		{command: "meshes list", args: words("meshes"), shows: true},
		{command: "use", args: words("use", poisoned("nowhere")), exit: exitUsage, shows: true},
		{command: "use", args: words("use", "mesh"), shows: true},
		{command: "whoami", args: words("whoami"), shows: true},
		{command: "peers", args: words("peers"), shows: true},
		{command: "members", args: words("members"), shows: true},
		{command: "trust", args: words("trust", "ana", "--key", strings.Repeat("a", 64)), exit: exitRefused},
		{command: "trust", args: func() []string { return []string{"trust", poisoned("somebody"), "--key", anaKey} }, exit: exitUnsafe, shows: true},
		{command: "send", args: words("send", poisoned("mallory"), "hi"), exit: exitUsage, shows: true},
		{command: "send", args: words("send", polite("nobody"), "hi"), exit: exitRefused},
		{command: "send", args: words("send", polite("twin"), "hi"), exit: exitUnsafe, shows: true}, // there are two
		{command: "send", args: words("send", "*", "hi", "--id", polite("id"))},
		{command: "message", before: func() { messageID = ana.one("send", "*", "hi")["messageId"].(string) },
			args: func() []string { return []string{"message", messageID} }, exit: exitNotYet, shows: true},
		{command: "inbox", before: mail, args: words("inbox", "--ids", "--peek"), shows: true},
		{command: "inbox", before: mail, args: words("inbox"), shows: true},
		{command: "notifications", args: words("notifications", "--ids"), shows: true},
		{command: "topic list", args: words("topic", "list"), shows: true},
		{command: "topic create", args: words("topic", "create", poisoned("mine")), exit: exitUsage},
		{command: "topic create", args: words("topic", "create", polite("mine"), "--description", poisoned("what for"))},
		{command: "topic join", args: func() []string { return []string{"topic", "join", topicID("evil")} }},
		{command: "topic join", args: words("topic", "join", polite("nowhere")), exit: exitRefused},
		{command: "topic members", args: func() []string { return []string{"topic", "members", topicID("evil")} }, shows: true},
		{command: "topic post", args: func() []string { return []string{"topic", "post", topicID("evil"), poisoned("text")} }},
		{command: "topic history", args: func() []string { return []string{"topic", "history", topicID("evil"), "--ids"} }, shows: true},
		{command: "topic history", args: words("topic", "history", "general", "--ids"), shows: true},
		{command: "topic tail", args: words("topic", "tail", "general", "--last", "2", "--max", "2"), shows: true},
		{command: "topic add", args: func() []string { return []string{"topic", "add", topicID("worse"), "mallory"} }},
		{command: "topic add", args: func() []string { return []string{"topic", "add", topicID("worse"), polite("nobody")} }, exit: exitRefused},
		{command: "topic key state", args: func() []string { return []string{"topic", "key", "state", topicID("evil")} }},
		{command: "topic key claim", args: func() []string { return []string{"topic", "key", "claim", topicID("evil")} }},
		{command: "topic key claim", args: words("topic", "key", "claim", polite("nowhere")), exit: exitRefused},
		{command: "topic key seal", args: func() []string { return []string{"topic", "key", "seal", topicID("evil")} }, shows: true},
		{command: "topic key reject", args: func() []string { return []string{"topic", "key", "reject", topicID("evil")} }},
		{command: "topic leave", args: func() []string { return []string{"topic", "leave", topicID("evil")} }},
		{command: "topic archive", args: func() []string { return []string{"topic", "archive", topicID("worse")} }},
		{command: "apikey create", args: words("apikey", "create", poisoned("label"), "--can", "read", "--topic", polite("scope"))},
		{command: "apikey list", args: words("apikey", "list", "--all"), shows: true},
		{command: "apikey revoke", args: words("apikey", "revoke", poisoned("key")), exit: exitRefused},
		{command: "state set", args: words("state", "set", polite("mine"), "--text", poisoned("text"))},
		{command: "state get", before: share, args: words("state", "get", polite("state")), shows: true},
		{command: "state list", args: words("state", "list"), shows: true},
		{command: "state watch", before: keepSharing, after: func() { stopSharing() }, args: words("state", "watch", "--max", "1"), shows: true},
		{command: "state delete", args: words("state", "delete", polite("mine"))},
		{command: "invite create", args: words("invite", "create", "--owner-key", ownerKey, "--name", polite("guest"))},
		{command: "invite list", before: func() { inviteID, _ = objects(t, ana.ok("--json", "invite", "list"))[0]["id"].(string) }, args: words("invite", "list")},
		{command: "invite revoke", args: func() []string { return []string{"invite", "revoke", inviteID} }},
		{command: "admin info", args: words("admin", "info"), shows: true},
		{command: "admin kick", args: words("admin", "kick", polite("nobody"))},
		{command: "admin disconnect", args: words("admin", "disconnect", polite("nobody"))},
		{command: "admin role", args: words("admin", "role", "twin-1", "member")},
		{command: "admin ban", args: words("admin", "ban", polite("twin"), "--yes"), exit: exitRefused},
		{command: "admin unban", args: words("admin", "unban", polite("nobody")), exit: exitRefused},
		{command: "admin bans", before: func() {
			require.NoError(t, w.b.RevokeMember(ctx, w.mesh, "mallory-2")) // with a hostile name
		}, args: words("admin", "bans"), shows: true},
		{command: "audit log", args: words("audit", "log", "--limit", "50"), shows: true},
		{command: "audit export", args: words("audit", "export", "-o", audit)},
		{command: "audit verify", args: words("audit", "verify", audit), exit: exitAuditOpen},
		{command: "status", before: func() {
			running = ana.follow("inbox", "--follow", "--events")
			runningKey = running.await("ready")["session"].(string)
			require.NotEmpty(t, runningKey)
		}, args: words("status", "working")},
		{command: "summary", args: words("summary", poisoned("doing")), shows: true},
		{command: "groups join", args: words("groups", "join", polite("group"), "--role", poisoned("lead"))},
		{command: "groups leave", args: words("groups", "leave", polite("group"))},
		{command: "groups leave", args: words("groups", "leave", poisoned("group")), exit: exitUsage, shows: true},
		{command: "meshes forget", args: words("meshes", "forget", "other", "--yes"), shows: true},
	}
	ran := map[string]bool{}
	for _, step := range steps {
		for _, mode := range [][]string{nil, {"--json"}, {"--debug"}} {
			what := strings.Join(append(mode, step.command), " ")
			once := slices.Contains([]string{
				"keygen", "meshes add", "meshes forget", "topic archive", "topic leave", "topic key seal", "topic key reject", "topic key claim",
			}, step.command)
			if once && mode != nil && step.exit == exitOK {
				continue // it cannot be done again
			}
			if step.before != nil && (step.command != "status" || mode == nil) {
				step.before()
			}
			args := append(slices.Clone(mode), step.args()...)
			r := ana.runWith("", args...)
			if step.after != nil {
				step.after()
			}
			require.Equal(t, step.exit, r.code, "%s: %s%s", what, r.stdout, r.stderr)
			harmless(t, what+", stdout", r.stdout)
			harmless(t, what+", stderr", r.stderr)
			require.NotEmpty(t, r.stdout+r.stderr, what)
			if step.shows {
				require.Contains(t, r.stdout+r.stderr, secret, "%s shows nothing hostile", what)
			}
			ran[step.command] = true
		}
		if step.command == "join" && anaKey == "" {
			anaKey = ana.one("whoami")["key"].(string)
			_, err := mallory.Members(ctx) // learns ana's key
			require.NoError(t, err)
		}
	}

	// A value that is asked for as a text has its lines, and nothing else that moves.
	share()
	for _, c := range ana.ok("state", "get", "--text", polite("state")) {
		require.True(t, c == '\n' || unicode.IsPrint(c), "%q", c)
	}

	// Who comes and goes, and what comes meanwhile, as text.
	var out, notes bytes.Buffer
	life, end := context.WithCancel(ctx)
	defer end()
	done := make(chan int, 1)
	go func() {
		done <- ana.system(strings.NewReader(""), &out, &notes).run(life, []string{"--config", ana.dir, "inbox", "--follow", "--events", "--max", "3", "--ids"})
	}()
	for again := dial(); ; again = dial() { // until there is somebody to see it
		require.NoError(t, again.Close())
		if mail(); len(done) > 0 {
			break
		}
	}
	require.Equal(t, exitOK, <-done, notes.String())
	harmless(t, "inbox --follow, stdout", out.String())
	harmless(t, "inbox --follow, stderr", notes.String())
	require.Contains(t, out.String(), secret)
	running.end()
	harmless(t, "the running session's stderr", running.stderr.String())

	// Every command there is was tried.
	parser, err := kong.New(&cli{}, kong.Name("claudemesh"))
	require.NoError(t, err)
	for _, leaf := range parser.Model.Leaves(true) {
		name := strings.TrimPrefix(leaf.FullPath(), "claudemesh ")
		require.True(t, ran[name], "%s: say in this test how it is called in a hostile mesh", name)
	}
}

// words are arguments that are known beforehand.
func words(args ...string) func() []string { return func() []string { return args } }
