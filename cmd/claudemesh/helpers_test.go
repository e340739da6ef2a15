package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store/memory"
)

// patience is how long a test waits for something that should come at once.
const patience = 30 * time.Second

// world is a broker on a loopback socket with one mesh.
type world struct {
	t      *testing.T
	b      *broker.Broker
	server *httptest.Server
	mesh   string
	owner  identity.KeyPair
	dir    string
	conns  *listener
}

// listener can drop its connections, WebSockets too.
type listener struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.conns = append(l.conns, c)
	}
	return c, err
}

func (l *listener) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.Close() // it may be closed already
	}
	l.conns = nil
}

func newWorld(t *testing.T, wrap func(http.Handler) http.Handler, options ...func(*broker.Options)) *world {
	t.Helper()
	o := broker.Options{
		Store: memory.New(), Logger: slog.New(slog.DiscardHandler), SendRatePerMin: -1, ControlRatePerMin: -1, APIRatePerMin: -1,
		HandshakesPerSecondPerAddr: -1, MaxPendingHandshakesPerAddr: -1, JoinAddrRatePerMin: -1,
	}
	for _, set := range options {
		set(&o)
	}
	b, err := broker.New(o)
	require.NoError(t, err)
	var h http.Handler = b
	if wrap != nil {
		h = wrap(b)
	}
	w := &world{t: t, b: b, server: httptest.NewUnstartedServer(h), dir: t.TempDir()}
	w.conns = &listener{Listener: w.server.Listener}
	w.server.Listener = w.conns
	w.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	w.server.Start()
	t.Cleanup(w.server.Close)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = b.Shutdown(ctx) // a test may have ended it
	})
	w.owner, err = identity.GenerateKey()
	require.NoError(t, err)
	mesh, err := b.CreateMesh(t.Context(), broker.NewMesh{Slug: "dev", OwnerPubkey: w.owner.Public()})
	require.NoError(t, err)
	w.mesh = mesh.ID
	return w
}

func (w *world) url() string { return "ws" + strings.TrimPrefix(w.server.URL, "http") + "/ws" }

func (w *world) invite(o broker.InviteOptions) string {
	w.t.Helper()
	o.BrokerURL = w.url()
	link, _, err := w.b.CreateInvite(w.t.Context(), w.mesh, w.owner, o)
	require.NoError(w.t, err)
	return link
}

// person is somebody with a configuration directory of their own.
type person struct {
	t   *testing.T
	dir string
	now func() time.Time
}

func (w *world) stranger(name string) *person {
	return &person{t: w.t, dir: filepath.Join(w.dir, name), now: time.Now}
}

// join makes a member; the first is an admin.
func (w *world) join(name string) *person {
	w.t.Helper()
	p := w.stranger(name)
	p.ok("join", w.invite(broker.InviteOptions{FirstIsAdmin: name == "ana"}), "--name", name)
	return p
}

func (p *person) system(stdin io.Reader, stdout, stderr io.Writer) system {
	return system{stdin: stdin, stdout: stdout, stderr: stderr, getenv: func(string) string { return "" }, now: p.now, zone: time.UTC}
}

type result struct {
	code           int
	stdout, stderr string
}

func (p *person) runWith(stdin string, args ...string) result {
	p.t.Helper()
	return p.runFrom(strings.NewReader(stdin), args...)
}

func (p *person) runFrom(stdin io.Reader, args ...string) result {
	p.t.Helper()
	var stdout, stderr bytes.Buffer
	code := p.system(stdin, &stdout, &stderr).run(p.t.Context(), append([]string{"--config", p.dir}, args...))
	return result{code, stdout.String(), stderr.String()}
}

func (p *person) run(args ...string) result {
	p.t.Helper()
	return p.runWith("", args...)
}

// ok runs a command that must succeed and returns what it wrote to stdout.
func (p *person) ok(args ...string) string {
	p.t.Helper()
	r := p.run(args...)
	require.Equal(p.t, exitOK, r.code, "%s: %s%s", strings.Join(args, " "), r.stdout, r.stderr)
	return r.stdout
}

// fails runs a command that must end with a code and returns what it wrote to stderr.
func (p *person) fails(code int, args ...string) string {
	p.t.Helper()
	r := p.run(args...)
	require.Equal(p.t, code, r.code, "%s: %s%s", strings.Join(args, " "), r.stdout, r.stderr)
	require.NotEmpty(p.t, r.stderr)
	return r.stderr
}

type object map[string]any

// objects reads the lines of --json.
func objects(t *testing.T, out string) []object {
	t.Helper()
	var all []object
	for raw := range strings.Lines(out) {
		var o object
		require.NoError(t, json.Unmarshal([]byte(raw), &o), "%q", raw)
		require.NotEmpty(t, o["type"], "%q", raw)
		all = append(all, o)
	}
	return all
}

// one is the only line of a command with --json.
func (p *person) one(args ...string) object {
	p.t.Helper()
	all := objects(p.t, p.ok(append([]string{"--json"}, args...)...))
	require.Len(p.t, all, 1, "%s", strings.Join(args, " "))
	return all[0]
}

// follower is a command that runs on.
type follower struct {
	t      *testing.T
	lines  chan string
	code   chan int
	stop   context.CancelFunc
	stderr *bytes.Buffer // read after end
}

// follow starts a command with --json.
func (p *person) follow(args ...string) *follower {
	p.t.Helper()
	ctx, stop := context.WithCancel(p.t.Context())
	r, w := io.Pipe()
	f := &follower{t: p.t, lines: make(chan string, 1000), code: make(chan int, 1), stop: stop, stderr: &bytes.Buffer{}}
	go func() {
		f.code <- p.system(strings.NewReader(""), w, f.stderr).run(ctx, append([]string{"--config", p.dir, "--json"}, args...))
		_ = w.Close()
	}()
	go func() {
		defer close(f.lines)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			f.lines <- lines.Text()
		}
	}()
	p.t.Cleanup(stop)
	return f
}

// next is the next line.
func (f *follower) next() object {
	f.t.Helper()
	select {
	case raw, open := <-f.lines:
		require.True(f.t, open, "the command has ended: %s", f.stderr)
		var o object
		require.NoError(f.t, json.Unmarshal([]byte(raw), &o), "%q", raw)
		return o
	case <-time.After(patience):
		require.FailNow(f.t, "nothing was printed")
		return nil
	}
}

// await reads lines until one of a type comes.
func (f *follower) await(typ string) object {
	f.t.Helper()
	for {
		if o := f.next(); o["type"] == typ {
			return o
		}
	}
}

// end interrupts the command.
func (f *follower) end() int {
	f.t.Helper()
	f.stop()
	return f.wait()
}

func (f *follower) wait() int {
	f.t.Helper()
	select {
	case code := <-f.code:
		f.code <- code
		return code
	case <-time.After(patience):
		require.FailNow(f.t, "the command does not end")
		return -1
	}
}
