package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
)

// built is the program, built once for all tests.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "standalone")
	if err != nil {
		return "", err
	}
	builtIn = dir
	path := filepath.Join(dir, "standalone.exe")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, nil
})

var builtIn string

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(builtIn)
	os.Exit(code)
}

// process is a running program.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	addr   string
	stdout *bufio.Reader
	done   chan error // one result, when it has ended and all that it said was read

	mu     sync.Mutex
	more   sync.Cond
	stderr bytes.Buffer // guarded by mu
}

// start runs the program with this environment and no other settings, and waits until it listens.
func start(t *testing.T, state string, env map[string]string, args ...string) *process {
	t.Helper()
	p := launch(t, state, env, args...)
	line, err := p.stdout.ReadBytes('\n')
	require.NoError(t, err, p.text())
	var said struct{ Event, Addr string }
	require.NoError(t, json.Unmarshal(line, &said))
	require.Equal(t, "listening", said.Event)
	p.addr = said.Addr
	return p
}

func launch(t *testing.T, state string, env map[string]string, args ...string) *process {
	t.Helper()
	path, err := built()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a hung program fails the test instead of hanging it
	p := &process{t: t, cmd: exec.CommandContext(ctx, path, args...), done: make(chan error, 1)}
	p.more.L = &p.mu
	p.cmd.Env = append(p.cmd.Env, "XDG_STATE_HOME="+state, "BROKER_PORT=0")
	for k, v := range env {
		p.cmd.Env = append(p.cmd.Env, k+"="+v)
	}
	out, stdout := io.Pipe()
	p.stdout, p.cmd.Stdout, p.cmd.Stderr = bufio.NewReader(out), stdout, p
	require.NoError(t, p.cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := p.cmd.Wait()
		_ = stdout.Close() // never fails
		p.done <- err
	}()
	t.Cleanup(func() {
		cancel()
		_ = out.Close() // never fails
		<-ended
	})
	return p
}

// Write takes what the program says on stderr.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.more.Broadcast()
	return p.stderr.Write(b)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// await waits until stderr holds some text.
func (p *process) await(text string) {
	p.t.Helper()
	late := false
	timer := time.AfterFunc(20*time.Second, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		late = true
		p.more.Broadcast()
	})
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !strings.Contains(p.stderr.String(), text) {
		require.False(p.t, late, "stderr never held %q, but: %s", text, p.stderr.String())
		p.more.Wait()
	}
}

func (p *process) get(path string) (int, map[string]any) {
	p.t.Helper()
	resp, err := http.Get("http://" + p.addr + path)
	require.NoError(p.t, err)
	return answer(p.t, resp)
}

func answer(t *testing.T, resp *http.Response) (int, map[string]any) {
	t.Helper()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	var body map[string]any
	_ = json.Unmarshal(raw, &body) // nil for what is no JSON
	return resp.StatusCode, body
}

func (p *process) post(path string, body any) (int, map[string]any) {
	p.t.Helper()
	raw, err := json.Marshal(body)
	require.NoError(p.t, err)
	resp, err := http.Post("http://"+p.addr+path, "application/json", bytes.NewReader(raw))
	require.NoError(p.t, err)
	return answer(p.t, resp)
}

// stop ends the program as an operator does.
func (p *process) stop() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(p.t, <-p.done, p.text())
}

// invite is the invite that the program printed.
func (p *process) invite() (token string, invite identity.InviteV1) {
	p.t.Helper()
	p.await("--help tells the rest") // stderr may be read later than stdout
	link := regexp.MustCompile(`ic://join/\S+`).FindString(p.text())
	token, err := identity.ParseInviteLink(link)
	require.NoError(p.t, err, p.text())
	invite, err = identity.ParseInviteToken(token)
	require.NoError(p.t, err)
	return token, invite
}

func TestServesAndEndsQuietly(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	p := start(t, state, map[string]string{"GIT_SHA": "abc1234", "LOG_LEVEL": "debug"})
	code, health := p.get("/health")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "up", health["db"])
	require.Equal(t, "abc1234", health["gitSha"])
	code, _ = p.post("/hook/set-status", map[string]any{"cwd": "/src", "status": "idle"})
	require.Equal(t, http.StatusOK, code, "it owns its loopback listener")

	token, invite := p.invite()
	text := p.text()
	require.Contains(t, text, "DATABASE_URL is not set")
	require.Contains(t, text, "go run ./cmd/claudemesh join ic://join/"+token+" --name ana\n")
	require.Contains(t, text, "go run ./cmd/claudemesh join ic://join/"+token+" --name bo\n")
	require.NoError(t, invite.Verify(time.Now()))
	require.Equal(t, "ws://"+p.addr+"/ws", invite.BrokerURL)
	key, err := identity.GenerateKey()
	require.NoError(t, err)
	code, joined := p.post("/join", map[string]any{
		"invite_token": token, "invite_payload": invite, "peer_pubkey": key.Public(), "display_name": "ana",
	})
	require.Equal(t, http.StatusOK, code, joined)
	require.NotEmpty(t, joined["memberId"])
	p.stop()
	for line := range strings.Lines(p.text()) {
		if strings.HasPrefix(line, "time=") {
			require.NotContains(t, line, token, "the invite is not for the log")
		}
	}
	rest, err := io.ReadAll(p.stdout)
	require.NoError(t, err)
	require.Empty(t, rest, "one line on stdout")

	file := filepath.Join(state, "claudemesh", "dev-owner.key")
	info, err := os.Stat(file)
	require.NoError(t, err)
	if runtime.GOOS != "windows" {
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	again := start(t, state, nil)
	_, second := again.invite()
	require.Equal(t, invite.OwnerPubkey, second.OwnerPubkey, "the key is kept")
	again.stop()
	if runtime.GOOS != "windows" {
		require.NoError(t, os.Chmod(file, 0o644))
		open := launch(t, state, nil)
		require.Error(t, <-open.done)
		require.Contains(t, open.text(), "chmod 600")
	}
}

func TestSeedReplacesTheDevMesh(t *testing.T) {
	t.Parallel()
	key, err := identity.GenerateKey()
	require.NoError(t, err)
	dir := t.TempDir()
	file := filepath.Join(dir, "seed.json")
	seed := fmt.Sprintf(`{"meshes":[{"id":"m_demo","slug":"demo","members":[{"memberId":"mem_a","displayName":"alice","pubkey":%q}]}]}`, key.Public())
	require.NoError(t, os.WriteFile(file, []byte(seed), 0o600))
	p := start(t, dir, map[string]string{"DATABASE_URL": "memory:"}, "-seed", file, "-listen", "127.0.0.1:0")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+p.addr+"/ws", nil)
	require.NoError(t, err)
	defer ws.CloseNow()
	at := float64(time.Now().UnixMilli())
	hello, err := json.Marshal(map[string]any{
		"type": "hello", "meshId": "m_demo", "memberId": "mem_a", "pubkey": key.Public(), "timestamp": at, "sessionId": "s", "pid": 1, "cwd": "/",
		"signature": key.Sign(identity.HelloText("m_demo", "mem_a", key.Public(), at)),
	})
	require.NoError(t, err)
	require.NoError(t, ws.Write(ctx, websocket.MessageText, hello))
	_, frame, err := ws.Read(ctx)
	require.NoError(t, err)
	require.Contains(t, string(frame), `"hello_ack"`)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	_, _, err = ws.Read(ctx)
	require.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err))
	require.NoError(t, <-p.done, p.text())
	require.NotContains(t, p.text(), "ic://")
	require.NotContains(t, p.text(), "DATABASE_URL")
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("signals do not reach other processes there")
	}
	p := start(t, t.TempDir(), nil)
	// A peer that does not read holds the shutdown up for seconds.
	ws, _, err := websocket.Dial(t.Context(), "ws://"+p.addr+"/ws", nil)
	require.NoError(t, err)
	defer ws.CloseNow()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
	p.await("shutting down")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
	var ended *exec.ExitError
	require.ErrorAs(t, <-p.done, &ended)
	require.Equal(t, 1, ended.ExitCode())
	require.Contains(t, p.text(), "second signal")
}

func TestMistakesNameTheVariable(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, busy.Close()) })
	_, port, err := net.SplitHostPort(busy.Addr().String())
	require.NoError(t, err)
	for name, row := range map[string]struct {
		env  map[string]string
		args []string
		code int
		want string
	}{
		"port":         {env: map[string]string{"BROKER_PORT": "x"}, code: 2, want: `BROKER_PORT: "x" is not a port`},
		"port in use":  {env: map[string]string{"BROKER_PORT": port}, code: 1, want: "BROKER_PORT"},
		"number":       {env: map[string]string{"STATUS_TTL_SECONDS": "1m"}, code: 2, want: `STATUS_TTL_SECONDS: "1m" is not a whole number`},
		"too long":     {env: map[string]string{"MESSAGE_TTL_HOURS": "999999999"}, code: 2, want: "MESSAGE_TTL_HOURS: 999999999"},
		"too many":     {env: map[string]string{"MAX_MESSAGE_BYTES": "9999999"}, code: 2, want: "MAX_MESSAGE_BYTES: 9999999 is more than 1032192"},
		"switch":       {env: map[string]string{"LEASE_ON_CLEAN_CLOSE": "perhaps"}, code: 2, want: `LEASE_ON_CLEAN_CLOSE: "perhaps"`},
		"level":        {env: map[string]string{"LOG_LEVEL": "loud"}, code: 2, want: `LOG_LEVEL: "loud"`},
		"hooks":        {env: map[string]string{"HOOK_TOKEN": "x", "HOOK_ALLOW_REMOTE": "1"}, code: 2, want: "HOOK_TOKEN and HOOK_ALLOW_REMOTE"},
		"postgres":     {env: map[string]string{"DATABASE_URL": "postgres://me:s3cret@db/x"}, code: 2, want: "DATABASE_URL: postgres: this build keeps meshes in memory only"},
		"sqlite":       {env: map[string]string{"DATABASE_URL": "sqlite:/tmp/x.db"}, code: 2, want: "DATABASE_URL: sqlite: this build keeps"},
		"other store":  {env: map[string]string{"DATABASE_URL": "mysql://s3cret"}, code: 2, want: "DATABASE_URL: "},
		"flag value":   {args: []string{"-port", "x"}, code: 2, want: "-port"},
		"unknown flag": {args: []string{"-prot", "1"}, code: 2, want: "-prot"},
		"argument":     {args: []string{"serve"}, code: 2, want: `"serve"`},
		"listen":       {args: []string{"-listen", "7900"}, code: 2, want: "-listen"},
		"proxies":      {env: map[string]string{"BROKER_TRUSTED_PROXIES": "10.0.0.1, proxy.example"}, code: 2, want: `BROKER_TRUSTED_PROXIES: "proxy.example" is neither`},
		"all proxies":  {env: map[string]string{"BROKER_TRUSTED_PROXIES": "0.0.0.0/0"}, code: 2, want: "BROKER_TRUSTED_PROXIES: 0.0.0.0/0 would let everybody"},
		"seed":         {args: []string{"-seed", "no such file"}, code: 1, want: "-seed"},
		"invite url":   {args: []string{"-url", "https://x"}, code: 1, want: "BrokerURL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := launch(t, t.TempDir(), row.env, row.args...)
			var ended *exec.ExitError
			require.ErrorAs(t, <-p.done, &ended)
			require.Equal(t, row.code, ended.ExitCode(), p.text())
			require.Contains(t, p.text(), row.want)
			require.NotContains(t, p.text(), "s3cret")
			require.NotContains(t, p.text(), "goroutine")
		})
	}
}

func TestFlagWinsOverItsVariable(t *testing.T) {
	t.Parallel()
	env := map[string]string{"BROKER_PORT": "1", "STATUS_TTL_SECONDS": "5", "LEASE_GRACE_SECONDS": "-3", "HOOK_TOKEN": "t", "LEASE_ON_CLEAN_CLOSE": "true",
		"BROKER_TRUSTED_PROXIES": "10.0.0.7, 192.0.2.0/24,2001:db8::1"}
	c, err := parse([]string{"-port", "2", "-status-ttl-seconds=7", "-max-message-bytes", "-1"}, func(k string) string { return env[k] }, io.Discard)
	require.NoError(t, err)
	require.Equal(t, "2", c.port)
	require.Equal(t, 7*time.Second, c.options.StatusTTL)
	require.Negative(t, c.options.LeaseGrace)
	require.Equal(t, -1, c.options.MaxMessageBytes)
	require.Equal(t, "t", c.options.HookToken)
	require.True(t, c.options.LeaseOnCleanClose)
	require.Equal(t, "[10.0.0.7/32 192.0.2.0/24 2001:db8::1/128]", fmt.Sprint(c.options.TrustedProxies))
}

func TestHelpListsEverySetting(t *testing.T) {
	t.Parallel()
	p := launch(t, t.TempDir(), nil, "--help")
	out, err := io.ReadAll(p.stdout)
	require.NoError(t, err)
	require.NoError(t, <-p.done)
	for _, s := range settings {
		require.Contains(t, string(out), "  -"+s.flag)
		require.Contains(t, string(out), s.env)
	}
}

func TestOperationsPageListsEveryVariable(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	require.NoError(t, err)
	for _, s := range settings {
		require.Contains(t, string(page), s.env)
		if s.env == "" {
			require.Contains(t, string(page), "`-"+s.flag)
		}
	}
}
