package broker_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
)

// hostHook posts a status from loopback, as an editor's hook does.
func hostHook(t *testing.T, b *broker.Broker, body any) hostAnswer {
	t.Helper()
	return hostPost(t, b, hostRequest{path: "/hook/set-status", body: body})
}

// The rows of docs/presence.md, "Which presence a hook means".
func TestHookMeansThesePresences(t *testing.T) {
	t.Parallel()
	type place struct {
		id, cwd string
		pid     int
		mesh    int    // 0 or 1
		end     string // "", "cut" or "closed"
	}
	one, two := place{id: "one", cwd: "/src", pid: 1}, place{id: "two", cwd: "/src", pid: 2}
	for _, row := range []struct {
		name   string
		places []place // in the order in which they connect
		hook   frame
		want   []string // the session ids that turn working; none: pending
	}{
		{name: "h1: by pid and directory", places: []place{one, two}, hook: frame{"cwd": "/src", "pid": 2}, want: []string{"two"}},
		{name: "h1: by pid, the older one", places: []place{one, two}, hook: frame{"cwd": "/src", "pid": 1}, want: []string{"one"}},
		{name: "h2: unknown pid", places: []place{two, one}, hook: frame{"cwd": "/src", "pid": 3}, want: []string{"one"}},
		{name: "h3: no pid", places: []place{one, two}, hook: frame{"cwd": "/src"}, want: []string{"two"}},
		{name: "h3: null is no pid", places: []place{one, two}, hook: frame{"cwd": "/src", "pid": nil}, want: []string{"two"}},
		{name: "h4: gone", places: []place{{id: "one", cwd: "/src", pid: 1, end: "closed"}}, hook: frame{"cwd": "/src", "pid": 1}},
		{name: "h5: in grace", places: []place{{id: "one", cwd: "/src", pid: 1, end: "cut"}}, hook: frame{"cwd": "/src", "pid": 1}, want: []string{"one"}},
		{name: "h5: in grace, directory alone", places: []place{{id: "one", cwd: "/src", pid: 1, end: "cut"}}, hook: frame{"cwd": "/src"}},
		{
			name: "h6: two meshes", places: []place{one, {id: "other", cwd: "/src", pid: 1, mesh: 1}},
			hook: frame{"cwd": "/src", "pid": 1}, want: []string{"one", "other"},
		},
		{
			name: "h6: two meshes by directory, one of each", places: []place{one, two, {id: "other", cwd: "/src", pid: 7, mesh: 1}},
			hook: frame{"cwd": "/src"}, want: []string{"two", "other"},
		},
		{
			name: "h6: pid in one mesh wins over the directory in the other", places: []place{one, {id: "other", cwd: "/src", pid: 7, mesh: 1}},
			hook: frame{"cwd": "/src", "pid": 1}, want: []string{"one"},
		},
		{
			name: "h7: by session id, whatever the directory", places: []place{one, two},
			hook: frame{"cwd": "/elsewhere", "pid": 9, "session_id": "one"}, want: []string{"one"},
		},
		{
			name: "h7: session id wins over pid and directory", places: []place{one, two},
			hook: frame{"cwd": "/src", "pid": 2, "session_id": "one"}, want: []string{"one"},
		},
		{name: "unknown session id falls back", places: []place{one}, hook: frame{"cwd": "/src", "pid": 1, "session_id": "x"}, want: []string{"one"}},
		{name: "another directory", places: []place{one}, hook: frame{"cwd": "/srcs", "pid": 1}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t)
				other, err := mesh.Broker.CreateMesh(t.Context(), broker.NewMesh{Slug: "other"})
				require.NoError(t, err)
				ids := map[string]string{} // presence ids by session id
				for _, p := range row.places {
					key, in := hostKey(t), mesh.ID
					if p.mesh == 1 {
						in = other.ID
					}
					member, err := mesh.Broker.AddMember(t.Context(), in, broker.NewMember{Name: p.id, Pubkey: key.Public()})
					require.NoError(t, err)
					c := hostSignIn(t, mesh, member, key, frame{"sessionId": p.id, "pid": p.pid, "cwd": p.cwd})
					for _, s := range mesh.Broker.Sessions(in) {
						ids[s.SessionID] = s.ID
					}
					switch p.end {
					case "cut":
						c.Cut()
					case "closed":
						c.Close()
					}
					time.Sleep(time.Millisecond) // connection times differ
					synctest.Wait()
				}
				row.hook["status"] = "working"
				a := hostHook(t, mesh.Broker, row.hook)
				require.Equal(t, http.StatusOK, a.code)
				var got []string
				statuses := hostStatuses(mesh.Broker, mesh.ID, other.ID)
				for _, p := range row.places {
					if statuses[p.id] == "working" {
						got = append(got, p.id)
					}
				}
				require.Equal(t, row.want, got)
				if row.want == nil {
					require.Equal(t, frame{"ok": true, "pending": true}, a.body)
				} else {
					require.Equal(t, frame{"ok": true, "presence_id": ids[row.want[len(row.want)-1]]}, a.body)
				}
			})
		})
	}
}

func TestH19WhoMaySendHooks(t *testing.T) {
	t.Parallel()
	none, token := func(*broker.Options) {}, func(o *broker.Options) { o.HookToken = "s3cret" }
	mounted := func(o *broker.Options) { o.HookLoopback = false }
	open := func(o *broker.Options) { o.HookLoopback, o.InsecureOpenHook = false, true }
	const far = "192.0.2.7:1234"
	for _, row := range []struct {
		name    string
		options func(*broker.Options)
		from    string
		host    string
		header  map[string]string
		want    int
	}{
		{name: "loopback", options: none, want: 200},
		{name: "loopback, version 6", options: none, from: "[::1]:1234", host: "[::1]:7900", want: 200},
		{name: "loopback by number", options: none, host: "127.0.0.1:7900", want: 200},
		{name: "loopback without a port", options: none, host: "localhost", want: 200},
		{name: "another machine", options: none, from: far, want: 403},
		{name: "a page", options: none, header: map[string]string{"Origin": "http://localhost:3000"}, want: 403},
		{name: "a page that hides its origin", options: none, header: map[string]string{"Origin": "null"}, want: 403},
		{name: "a page, by its fetch", options: none, header: map[string]string{"Sec-Fetch-Site": "same-origin"}, want: 403},
		{name: "a page on a name that points here", options: none, host: "evil.example:7900", want: 403},
		{name: "a name that only begins so", options: none, host: "localhost.evil.example", want: 403},
		{name: "through a proxy: Forwarded", options: none, header: map[string]string{"Forwarded": "for=192.0.2.7"}, want: 403},
		{name: "through a proxy: X-Forwarded-For", options: none, header: map[string]string{"X-Forwarded-For": "192.0.2.7"}, want: 403},
		{name: "through a proxy: X-Forwarded-Proto", options: none, header: map[string]string{"x-forwarded-proto": "https"}, want: 403},
		{name: "through a proxy: X-Real-IP", options: none, header: map[string]string{"X-Real-IP": "192.0.2.7"}, want: 403},
		{name: "mounted, no token", options: mounted, want: 403},
		{name: "token from afar, through a proxy", options: token, from: far, host: "broker.example",
			header: map[string]string{"Authorization": "Bearer s3cret", "X-Forwarded-For": "192.0.2.7", "Origin": "https://a.example"}, want: 200},
		{name: "token set, none given, from loopback", options: token, want: 403},
		{name: "wrong token", options: token, header: map[string]string{"Authorization": "Bearer s3cre"}, want: 403},
		{name: "another scheme", options: token, header: map[string]string{"Authorization": "Basic s3cret"}, want: 403},
		{name: "open to all", options: open, from: far, host: "broker.example", header: map[string]string{"Origin": "https://a.example"}, want: 200},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			mesh := brokertest.New(t, row.options)
			a := hostPost(t, mesh.Broker, hostRequest{
				path: "/hook/set-status", from: row.from, host: row.host, header: row.header, body: frame{"cwd": "/src", "status": "dnd"},
			})
			require.Equal(t, row.want, a.code)
			require.Empty(t, a.header.Get("Access-Control-Allow-Origin"))
			if row.want == 403 {
				require.Equal(t, frame{"ok": false, "error": "forbidden"}, a.body)
			}
		})
	}
}

func TestH19DirectoryMatchesOnlyTheHooksOwnMachine(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t, func(o *broker.Options) { o.HookToken = "s3cret" })
	mesh.Dial("ana", brokertest.With(frame{"sessionId": "ana", "pid": 1, "cwd": "/src"}))
	hook := func(from string, body frame) bool {
		body["status"] = "working"
		a := hostPost(t, mesh.Broker, hostRequest{
			path: "/hook/set-status", from: from, header: map[string]string{"Authorization": "Bearer s3cret"}, body: body,
		})
		require.Equal(t, http.StatusOK, a.code)
		return a.body["pending"] != true
	}
	require.False(t, hook("192.0.2.7:1", frame{"cwd": "/src"}), "a directory is easily guessed")
	require.False(t, hook("192.0.2.7:1", frame{"cwd": "/src", "pid": 1}), "so is a pid")
	require.True(t, hook("192.0.2.7:1", frame{"cwd": "/x", "session_id": "ana"}))
	require.True(t, hook("[::1]:1", frame{"cwd": "/src"}), "all loopback addresses are one machine")
}

func TestHookAnswers(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	for _, row := range []struct {
		name   string
		header map[string]string
		body   any
		code   int
		want   string
	}{
		{name: "no cwd", body: frame{"status": "idle"}, code: 200, want: "cwd and status required"},
		{name: "no status", body: frame{"cwd": "/"}, code: 200, want: "cwd and status required"},
		{name: "unknown status", body: frame{"cwd": "/", "status": "busy"}, code: 400, want: "invalid status"},
		{name: "not JSON", body: "{", code: 400, want: "invalid JSON"},
		{name: "no object", body: `["idle"]`, code: 400, want: "invalid JSON"},
		{name: "a field of another type", body: frame{"cwd": 1, "status": "idle"}, code: 400, want: "invalid JSON"},
		{name: "a form", header: map[string]string{"Content-Type": "text/plain"}, body: frame{}, code: 415, want: "unsupported media type"},
		{name: "a charset is fine", header: map[string]string{"Content-Type": "application/json; charset=utf-8"}, body: frame{}, code: 200, want: "cwd and status required"},
		{name: "too large", body: frame{"cwd": strings.Repeat("x", 65537)}, code: 413, want: "payload too large"},
		{name: "a directory that no hello can have", body: frame{"cwd": strings.Repeat("x", 4097), "status": "idle"}, code: 400, want: "cwd or session_id too long"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			a := hostPost(t, mesh.Broker, hostRequest{path: "/hook/set-status", header: row.header, body: row.body})
			require.Equal(t, row.code, a.code)
			require.Equal(t, frame{"ok": false, "error": row.want}, a.body)
		})
	}
}

func TestHookBeforeItsSessionIsApplied(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		require.Equal(t, frame{"ok": true, "pending": true}, hostHook(t, mesh.Broker, frame{"cwd": "/src", "pid": 5, "status": "working"}).body)
		require.Equal(t, frame{"ok": true, "pending": true}, hostHook(t, mesh.Broker, frame{"cwd": "/a", "status": "dnd", "session_id": "bo"}).body)
		time.Sleep(10 * time.Second)
		mesh.Dial("ana", brokertest.With(frame{"sessionId": "ana", "pid": 5, "cwd": "/src"}))
		mesh.Dial("bo", brokertest.With(frame{"sessionId": "bo", "pid": 6, "cwd": "/b"}))
		mesh.Dial("cy", brokertest.With(frame{"sessionId": "cy", "pid": 5, "cwd": "/src"}))
		require.Equal(t, map[string]string{"ana": "working", "bo": "dnd", "cy": "idle"}, hostStatuses(mesh.Broker, mesh.ID))

		hostHook(t, mesh.Broker, frame{"cwd": "/late", "pid": 5, "status": "working"})
		time.Sleep(10*time.Second + time.Millisecond)
		mesh.Dial("di", brokertest.With(frame{"sessionId": "di", "pid": 5, "cwd": "/late"}))
		require.Equal(t, "idle", hostStatuses(mesh.Broker, mesh.ID)["di"], "older than 10 s")
	})
}

func TestHookReleasesHeldMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit, brokertest.With(frame{"sessionId": "bo"}))
		hostHook(t, mesh.Broker, frame{"cwd": "/", "session_id": "bo", "status": "working"})
		ana.Say(bo.Member.Pubkey, "next", "later")
		synctest.Wait()
		require.Empty(t, bo.Pushes())
		hostHook(t, mesh.Broker, frame{"cwd": "/", "session_id": "bo", "status": "idle"})
		require.Equal(t, "later", brokertest.Text(bo.ExpectPush()))
	})
}

func TestHookLeavesManualDNDAlone(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	ana := mesh.Dial("ana", brokertest.With(frame{"sessionId": "ana"}))
	ana.Request(frame{"type": "set_status", "status": "dnd"})
	a := hostHook(t, mesh.Broker, frame{"cwd": "/", "session_id": "ana", "status": "idle"})
	require.Equal(t, frame{"ok": true, "presence_id": ana.Hello["presenceId"]}, a.body)
	require.Equal(t, "dnd", hostStatuses(mesh.Broker, mesh.ID)["ana"])
}

func TestHooksAreLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.HookRatePerMin, o.HookAddrRatePerMin = 2, 5 })
		limited := func(a hostAnswer) bool {
			if a.code != http.StatusTooManyRequests {
				return false
			}
			require.Equal(t, frame{"ok": false, "error": "rate limited"}, a.body)
			require.NotEmpty(t, a.header.Get("Retry-After"))
			return true
		}
		hook := func(pid int) hostAnswer {
			return hostHook(t, mesh.Broker, frame{"cwd": "/src", "pid": pid, "status": "idle"})
		}
		require.False(t, limited(hook(1)))
		require.False(t, limited(hook(1)))
		require.True(t, limited(hook(1)), "one process and directory")
		require.False(t, limited(hook(2)))
		require.False(t, limited(hook(3)))
		require.True(t, limited(hook(4)), "one address")
		time.Sleep(time.Minute)
		require.False(t, limited(hook(1)))
		text := string(hostMetrics(t, mesh.Broker))
		require.Contains(t, text, "\nbroker_hook_requests_total 7\n")
		require.Contains(t, text, "\nbroker_hook_requests_rate_limited_total 2\n")
	})
}
