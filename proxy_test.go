package broker_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
)

// behind trusts proxies.
func behind(list ...string) func(*broker.Options) {
	return func(o *broker.Options) {
		for _, p := range list {
			o.TrustedProxies = append(o.TrustedProxies, netip.MustParsePrefix(p))
		}
	}
}

// dialForwarded opens a WebSocket by way of a proxy on loopback, which adds these headers.
func dialForwarded(t *testing.T, mesh *brokertest.Mesh, forwarded ...string) (c *stranger, status int) {
	t.Helper()
	link := dialBytes(t, mesh)
	request := "GET /ws HTTP/1.1\r\nHost: " + brokertest.Host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	for _, f := range forwarded {
		request += f + "\r\n"
	}
	_, err := io.WriteString(link, request+"\r\n")
	require.NoError(t, err)
	in := bufio.NewReader(link)
	resp, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		require.NoError(t, resp.Body.Close())
		require.NoError(t, link.Close())
		return nil, resp.StatusCode
	}
	c = &stranger{t: t, link: link, done: make(chan struct{})}
	go c.read(in)
	t.Cleanup(func() {
		_ = link.Close()
		<-c.done
	})
	return c, resp.StatusCode
}

// Behind a trusted proxy each client has a share of waiting handshakes of its own, which nothing that it forges can enlarge.
func TestPendingHandshakesCountByClientBehindAProxy(t *testing.T) {
	t.Parallel()
	few := func(o *broker.Options) { o.MaxPendingHandshakesPerAddr = 2 }
	for _, c := range []struct {
		name      string
		trusted   []string
		forwarded func(n int) string
		want      int // of ten that are let in
	}{
		{"clients of a trusted proxy", []string{"127.0.0.0/8"}, func(n int) string { return fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", n) }, 10},
		{"one of them", []string{"127.0.0.0/8"}, func(int) string { return "X-Forwarded-For: 203.0.113.1" }, 2},
		{"one that forges", []string{"127.0.0.0/8"}, func(n int) string { return fmt.Sprintf("X-Forwarded-For: 198.51.100.%d, 203.0.113.1", n) }, 2},
		{"one that forges other headers", []string{"127.0.0.0/8"}, func(n int) string { return fmt.Sprintf("Forwarded: for=203.0.113.%d", n) }, 2},
		{"one with many addresses of a network", []string{"127.0.0.0/8"}, func(n int) string { return fmt.Sprintf("X-Forwarded-For: 2001:db8::%d", n) }, 2},
		{"networks", []string{"127.0.0.0/8"}, func(n int) string { return fmt.Sprintf("X-Forwarded-For: 2001:db8:0:%d::1", n) }, 10},
		{"nobody is trusted", nil, func(n int) string { return fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", n) }, 2},
		{"somebody else is trusted", []string{"10.0.0.0/8"}, func(n int) string { return fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", n) }, 2},
		{"no header", []string{"127.0.0.0/8"}, func(int) string { return "X-Nothing: 1" }, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t, few, behind(c.trusted...))
				in := 0
				for n := range 10 {
					switch _, status := dialForwarded(t, mesh, c.forwarded(n)); status {
					case http.StatusSwitchingProtocols:
						in++
					default:
						require.Equal(t, http.StatusServiceUnavailable, status)
					}
				}
				require.Equal(t, c.want, in)
			})
		})
	}
}

// The pace of handshakes, before any signature is checked, is that of the client, too.
func TestHandshakesArePacedByClientBehindAProxy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, behind("127.0.0.0/8"), func(o *broker.Options) {
			*o = o.Unlimited()
			o.HandshakesPerSecondPerAddr = 1
		})
		bo := mesh.Member("bo")
		knock := func(client string) *stranger {
			c, status := dialForwarded(t, mesh, "X-Forwarded-For: "+client)
			require.Equal(t, http.StatusSwitchingProtocols, status)
			return c.say(mesh.HelloFrame(bo, nil, false, frame{"sessionId": fmt.Sprint(client, time.Now().UnixNano()), "signature": "0"}))
		}
		const refusal = "error malformed, close 1008 malformed"
		for range 3 {
			require.Equal(t, refusal, knock("203.0.113.1").answer())
		}
		waits := knock("203.0.113.1")
		require.Equal(t, "silence", waits.answer())
		require.Equal(t, refusal, knock("203.0.113.2").answer(), "another client does not wait for it")
		time.Sleep(time.Second)
		require.Equal(t, refusal, waits.answer())
	})
}

// What limits attempts of strangers over HTTP counts by the client, too: joins, also with wrong tokens, failed authentications, hooks.
func TestAttemptsCountByClientBehindAProxy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		limit   func(*broker.Options)
		attempt func(t *testing.T, mesh *brokertest.Mesh, from, forwarded string) int
		failed  int
	}{
		{"joins with a wrong token", func(o *broker.Options) { o.JoinAddrRatePerMin = 3 }, func(t *testing.T, mesh *brokertest.Mesh, from, forwarded string) int {
			token, _ := hostInvite(t, mesh, broker.InviteOptions{})
			body := hostJoin(t, token, hostKey(t), "eve")
			body["invite_token"] = token + "x"
			return hostPost(t, mesh.Broker, hostRequest{path: "/join", from: from, body: body, header: map[string]string{"X-Forwarded-For": forwarded}}).code
		}, 400},
		{"claims of short invites", func(o *broker.Options) { o.JoinAddrRatePerMin = 3 }, func(t *testing.T, mesh *brokertest.Mesh, from, forwarded string) int {
			return hostPost(t, mesh.Broker, hostRequest{
				path: "/invites/abcdefgh/claim", from: from, body: frame{}, header: map[string]string{"X-Forwarded-For": forwarded},
			}).code
		}, 501},
		{"wrong API keys", func(o *broker.Options) { o.AuthFailAddrRatePerMin = 3 }, func(_ *testing.T, mesh *brokertest.Mesh, from, forwarded string) int {
			r := httptest.NewRequest("GET", "/v1/topics", nil)
			r.RemoteAddr = from
			r.Header.Set("X-Forwarded-For", forwarded)
			r.Header.Set("Authorization", "Bearer cm_wrong-wrong-wrong")
			return hostServe(mesh.Broker, r).code
		}, 401},
		{"hooks", func(o *broker.Options) { o.HookToken, o.HookAddrRatePerMin = "s3cret", 3 }, func(t *testing.T, mesh *brokertest.Mesh, from, forwarded string) int {
			return hostPost(t, mesh.Broker, hostRequest{
				path: "/hook/set-status", from: from, body: frame{},
				header: map[string]string{"X-Forwarded-For": forwarded, "Authorization": "Bearer s3cret"},
			}).code
		}, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t, c.limit, behind("192.0.2.0/24"))
				const proxy, direct = "192.0.2.1:1", "198.51.100.9:1"
				attempt := func(from, forwarded string) int { return c.attempt(t, mesh, from, forwarded) }
				for range 3 {
					require.Equal(t, c.failed, attempt(proxy, "203.0.113.1"))
				}
				require.Equal(t, 429, attempt(proxy, "203.0.113.1"))
				require.Equal(t, 429, attempt(proxy, "9.9.9.9, 203.0.113.1"), "what the client adds does not count")
				require.Equal(t, 429, attempt("192.0.2.2:1", "203.0.113.1, 192.0.2.1"), "by another way it is the same client")
				require.Equal(t, 429, attempt("203.0.113.1:1", "8.8.8.8"), "and without the proxy")
				require.Equal(t, c.failed, attempt(proxy, "203.0.113.2"), "others are heard")
				for n := range 3 {
					require.Equal(t, c.failed, attempt(direct, fmt.Sprintf("203.0.113.%d", 100+n)))
				}
				require.Equal(t, 429, attempt(direct, "203.0.113.200"), "who is no proxy is not believed")
				time.Sleep(time.Minute)
				require.Equal(t, c.failed, attempt(proxy, "203.0.113.1"))
			})
		})
	}
}

// H19: a trusted proxy makes nobody a loopback peer, and hooks are matched to the sessions of the client that sent them.
func TestH19TrustedProxyIsNoWayToLoopback(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t, behind("127.0.0.0/8", "192.0.2.0/24"))
	for name, q := range map[string]hostRequest{
		"from the proxy":                      {from: "127.0.0.1:1", header: map[string]string{"X-Forwarded-For": "203.0.113.1"}},
		"from the proxy, saying loopback":     {from: "127.0.0.1:1", header: map[string]string{"X-Forwarded-For": "127.0.0.1"}},
		"from the proxy, saying nothing":      {from: "127.0.0.1:1", header: map[string]string{"X-Forwarded-For": ""}},
		"by another header":                   {from: "127.0.0.1:1", header: map[string]string{"Forwarded": "for=127.0.0.1"}},
		"from a proxy elsewhere":              {from: "192.0.2.1:1", header: map[string]string{"X-Forwarded-For": "127.0.0.1"}},
		"from a proxy elsewhere, by itself":   {from: "192.0.2.1:1"},
		"from a proxy elsewhere, as loopback": {from: "192.0.2.1:1", header: map[string]string{"X-Forwarded-For": "::1"}},
	} {
		q.path, q.body = "/hook/set-status", frame{"cwd": "/src", "status": "dnd"}
		require.Equal(t, http.StatusForbidden, hostPost(t, mesh.Broker, q).code, name)
	}

	mesh = brokertest.New(t, behind("127.0.0.0/8"), func(o *broker.Options) { o.HookToken = "s3cret" })
	c, _ := dialForwarded(t, mesh, "X-Forwarded-For: 203.0.113.1")
	c.say(mesh.HelloFrame(mesh.Member("ana"), nil, false, frame{"sessionId": "ana", "pid": 1, "cwd": "/src"}))
	require.Eventually(t, func() bool { return mesh.Online("ana") }, 10*time.Second, time.Millisecond)
	hook := func(from, forwarded string) bool {
		a := hostPost(t, mesh.Broker, hostRequest{
			path: "/hook/set-status", from: from, body: frame{"cwd": "/src", "status": "working"},
			header: map[string]string{"Authorization": "Bearer s3cret", "X-Forwarded-For": forwarded},
		})
		require.Equal(t, http.StatusOK, a.code)
		return a.body["pending"] != true
	}
	require.False(t, hook("127.0.0.1:1", "203.0.113.2"), "the proxy's other clients are not on her machine")
	require.False(t, hook("127.0.0.1:1", "203.0.113.1, 203.0.113.2"), "whatever they say")
	require.False(t, hook("203.0.113.2:1", "203.0.113.1"), "nor are those who come by themselves")
	require.False(t, hook("127.0.0.1:1", "127.0.0.1"), "nor is the proxy's own machine")
	require.True(t, hook("127.0.0.1:1", "203.0.113.1"))
	require.True(t, hook("203.0.113.1:1", "8.8.8.8"), "by another way")
}
