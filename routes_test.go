package broker_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// What these tests ask, they ask every route of the tables.

// everyRoute lists the routes with their whole paths.
func everyRoute() (all []broker.Route) {
	for _, rt := range broker.APIRoutes() {
		for _, prefix := range []string{"/v1", "/api/v1"} {
			all = append(all, broker.Route{Method: rt.Method, Path: prefix + rt.Path, Body: rt.Body})
		}
	}
	return append(all, broker.PlainRoutes()...)
}

// routeRequest asks a route as somebody who may, from this machine.
func routeRequest(rt broker.Route, key string, body io.Reader) *http.Request {
	path := strings.NewReplacer("{name}", "general", "{code}", "abcdefgh").Replace(rt.Path)
	r := httptest.NewRequest(rt.Method, path, body)
	r.RemoteAddr, r.Host = "127.0.0.1:40000", "localhost:7900"
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	return r
}

// unreadable is a body that fails the test when somebody reads it.
type unreadable struct {
	t    *testing.T
	what string
}

func (u unreadable) Read([]byte) (int, error) {
	u.t.Errorf("%s: the body was read", u.what)
	return 0, errors.New("not to be read")
}

// A body is JSON and says so, or it is not taken; what a page can send across origins without asking (a form, a text) never is.
func TestEveryBodyIsJSON(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	key := restKey(t, mesh, "ana", []string{wire.KeyAdmin}).key
	with, without := 0, 0
	for _, rt := range everyRoute() {
		name := rt.Method + " " + rt.Path
		if rt.Path == "/ws" || strings.HasSuffix(rt.Path, "/stream") {
			continue // answered by a connection; the matrix of scopes and TestOriginOfSocketsAndCookies go there
		}
		if !rt.Body {
			without++
			for _, kind := range []string{"", "application/json", "text/plain"} {
				r := routeRequest(rt, key, unreadable{t, name})
				r.Header.Set("Content-Type", kind)
				w := httptest.NewRecorder()
				mesh.Broker.ServeHTTP(w, r)
				require.NotEqual(t, http.StatusUnsupportedMediaType, w.Code, name)
			}
			continue
		}
		with++
		for _, kinds := range [][]string{
			nil, {""}, {"text/plain"}, {"text/plain; charset=application/json"}, {"application/x-www-form-urlencoded"}, {"multipart/form-data; boundary=x"},
			{"application/octet-stream"}, {"text/json"}, {"application/jsonp"}, {"application/json-seq"}, {"application/ld+json"}, {"application"}, {"json"},
			{"*/*"}, {"application/*"}, {"application/json, text/plain"}, {"text/plain, application/json"}, {"application/json", "text/plain"},
			{"text/plain", "application/json"}, {"application/json", "application/json"}, {"application/json; =x"}, {";application/json"},
		} {
			r := routeRequest(rt, key, unreadable{t, name})
			r.Header["Content-Type"] = kinds
			w := httptest.NewRecorder()
			mesh.Broker.ServeHTTP(w, r)
			require.Equal(t, http.StatusUnsupportedMediaType, w.Code, "%s with %q", name, kinds)
			var got struct{ Code, Error string }
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
			require.Contains(t, []string{"error.unsupported_media_type", "unsupported media type"}, got.Code+got.Error, name)
		}
		for _, kind := range []string{"application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=\"utf-8\"; x=y"} {
			r := routeRequest(rt, key, strings.NewReader("{}"))
			r.Header.Set("Content-Type", kind)
			w := httptest.NewRecorder()
			mesh.Broker.ServeHTTP(w, r)
			require.NotEqual(t, http.StatusUnsupportedMediaType, w.Code, "%s with %q", name, kind)
		}
	}
	t.Logf("%d routes with a body, %d without", with, without)
	require.GreaterOrEqual(t, with, 13)
}

// Where a browser attaches the credential by itself, no page of another origin acts for its user: not over REST, whatever the route, and not over a
// socket. The same rule decides both.
func TestOriginOfSocketsAndCookies(t *testing.T) {
	t.Parallel()
	grant := &broker.Grant{}
	mesh := brokertest.New(t, func(o *broker.Options) {
		o.Auth = cookies{broker.StoreAuth{Store: o.Store}, grant}
		o.OriginPatterns = []string{"app.example.com", "https://*.pages.example", "http://plain.example:8080"}
	})
	*grant = broker.Grant{MeshID: mesh.ID, Member: mesh.Member("ana").Member, ID: "web-1", Capabilities: []string{wire.KeyAdmin}, Ambient: true}
	origins := []struct {
		name    string
		headers map[string]string
		foreign bool
		writes  bool // only what changes something is refused
	}{
		{name: "no page", headers: nil},
		{name: "the broker's own page", headers: map[string]string{"Origin": "http://broker.example"}},
		{name: "its own page by TLS", headers: map[string]string{"Origin": "https://broker.example"}},
		{name: "its own page in capitals", headers: map[string]string{"Origin": "HTTPS://BROKER.EXAMPLE"}},
		{name: "an allowed host", headers: map[string]string{"Origin": "https://app.example.com"}},
		{name: "an allowed host in capitals", headers: map[string]string{"Origin": "https://APP.example.com"}},
		{name: "an allowed pattern", headers: map[string]string{"Origin": "https://a.pages.example"}},
		{name: "an allowed port", headers: map[string]string{"Origin": "http://plain.example:8080"}},
		{name: "its own page, as the browser says", headers: map[string]string{"Origin": "https://broker.example", "Sec-Fetch-Site": "same-origin"}},
		{name: "another page", headers: map[string]string{"Origin": "https://evil.example"}, foreign: true},
		{name: "another port", headers: map[string]string{"Origin": "http://broker.example:8081"}, foreign: true},
		{name: "another port of an allowed one", headers: map[string]string{"Origin": "https://app.example.com:8443"}, foreign: true},
		{name: "another scheme of an allowed one", headers: map[string]string{"Origin": "http://a.pages.example"}, foreign: true},
		{name: "a name that begins so", headers: map[string]string{"Origin": "https://broker.example.evil.example"}, foreign: true},
		{name: "a name that ends so", headers: map[string]string{"Origin": "https://evilbroker.example"}, foreign: true},
		{name: "an allowed name inside another", headers: map[string]string{"Origin": "https://app.example.com.evil.example"}, foreign: true},
		{name: "an allowed name as a user", headers: map[string]string{"Origin": "https://app.example.com@evil.example"}, foreign: true},
		{name: "an allowed name as a path", headers: map[string]string{"Origin": "https://evil.example/app.example.com"}, foreign: true},
		{name: "a deeper name than the pattern's", headers: map[string]string{"Origin": "https://x/a.pages.example"}, foreign: true},
		{name: "a sandboxed page", headers: map[string]string{"Origin": "null"}, foreign: true},
		{name: "a file", headers: map[string]string{"Origin": "file://"}, foreign: true},
		{name: "garbage", headers: map[string]string{"Origin": "%zz"}, foreign: true},
		{name: "another page that hides its origin", headers: map[string]string{"Sec-Fetch-Site": "cross-site"}, writes: true},
	}
	asked := 0
	for _, rt := range everyRoute() {
		isAPI := strings.Contains(rt.Path, "/v1/")
		if !isAPI && rt.Path != "/ws" {
			continue // no cookie is looked at
		}
		call := matrixCalls[rt.Method+" "+strings.TrimPrefix(strings.TrimPrefix(rt.Path, "/api"), "/v1")]
		for _, o := range origins {
			var body io.Reader
			if rt.Body {
				raw, err := json.Marshal(call.good("general"))
				require.NoError(t, err)
				body = strings.NewReader(string(raw))
			}
			ctx, end := context.WithCancel(t.Context())
			r := routeRequest(rt, "", body).WithContext(ctx)
			r.Host = "broker.example"
			r.Header.Set("Cookie", "session=1")
			if rt.Body {
				r.Header.Set("Content-Type", "application/json")
			}
			for k, v := range o.headers {
				r.Header.Set(k, v)
			}
			w := &firstWrite{httptest.NewRecorder(), end}
			mesh.Broker.ServeHTTP(w, r)
			end()
			asked++
			refused := o.foreign || isAPI && o.writes && rt.Method != http.MethodGet
			name := fmt.Sprintf("%s %s of %s", rt.Method, rt.Path, o.name)
			require.Equal(t, refused, w.Code == http.StatusForbidden, "%s: %d %s", name, w.Code, w.Body)
			require.Empty(t, w.Header().Get("Access-Control-Allow-Origin"), name)
			if refused && isAPI {
				require.Contains(t, w.Body.String(), "error.origin_not_allowed", name)
			}
		}
	}
	t.Logf("%d requests of pages", asked)
	rows, err := mesh.Store.Subscriptions(t.Context(), mesh.ID, mustTopic(t, mesh, "general"))
	require.NoError(t, err)
	require.Len(t, rows, 1)
}

func mustTopic(t *testing.T, mesh *brokertest.Mesh, name string) string {
	t.Helper()
	topic, err := mesh.Store.Topic(t.Context(), mesh.ID, name)
	require.NoError(t, err)
	return topic.ID
}

// An API key is not a cookie: pages of every origin may use one, if their user gave it to them.
func TestKeysAreForPagesOfEveryOrigin(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	key := restKey(t, mesh, "ana", readSend).key
	for _, origin := range []string{"https://evil.example", "null", ""} {
		r := routeRequest(broker.Route{Method: "GET", Path: "/v1/topics"}, key, nil)
		r.Header.Set("Origin", origin)
		a := hostServe(mesh.Broker, r)
		require.Equal(t, http.StatusOK, a.code)
		require.Equal(t, "*", a.header.Get("Access-Control-Allow-Origin"))
		require.Empty(t, a.header.Get("Access-Control-Allow-Credentials"), "so that a cookie is never part of it")
	}
}

// Whoever announces a body and does not send it, or drips it, holds its connection for half a minute and no longer: with a key or without, on
// every route, whether the route takes a body or not.
func TestUnsentBodiesHoldNoConnection(t *testing.T) {
	t.Parallel()
	for _, drip := range []bool{false, true} {
		t.Run(fmt.Sprintf("drip %t", drip), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t, func(o *broker.Options) { o.AuthFailAddrRatePerMin = -1 })
				key := restKey(t, mesh, "ana", []string{wire.KeyAdmin}).key
				routes := append(everyRoute(), broker.Route{Method: "GET", Path: "/nothing"}, broker.Route{Method: "POST", Path: "/v1/nothing"})
				for _, rt := range routes {
					for _, secret := range []string{key, "cm_wrong-wrong-wrong"} {
						if secret == key && strings.HasSuffix(rt.Path, "/stream") {
							continue // which is meant to go on
						}
						link := dialBytes(t, mesh)
						path := strings.NewReplacer("{name}", "general", "{code}", "abcdefgh").Replace(rt.Path)
						_, err := fmt.Fprintf(link, "%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n",
							rt.Method, path, secret)
						require.NoError(t, err)
						var dripper sync.WaitGroup
						if drip {
							dripper.Go(func() {
								for range 100 {
									time.Sleep(time.Second)
									if _, err := io.WriteString(link, " "); err != nil {
										return
									}
								}
							})
						}
						began := time.Now()
						_, err = io.ReadAll(bufio.NewReader(link))
						took := time.Since(began)
						require.NoError(t, err, "%s %s", rt.Method, path)
						require.LessOrEqual(t, took, 61*time.Second, "%s %s with %s", rt.Method, path, secret[:6])
						require.NoError(t, link.Close())
						dripper.Wait()
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				require.NoError(t, mesh.Broker.Shutdown(ctx), "nothing holds the broker either")
			})
		})
	}
}

// A body that is late on one connection does not spoil it for the next request, nor for a stream.
func TestDeadlinesOfBodiesEndWithThem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		newTopic(t, mesh.Dial("ana"), "ops", "public")
		key := restKey(t, mesh, "ana", readSend)
		link := dialBytes(t, mesh)
		defer func() { _ = link.Close() }()
		in := bufio.NewReader(link)
		for range 3 {
			body := `{"topic":"ops","ciphertext":"aGk=","nonce":"AAAA"}`
			_, err := fmt.Fprintf(link, "POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
				key.key, len(body), body)
			require.NoError(t, err)
			resp, err := http.ReadResponse(in, nil)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, resp.StatusCode)
			time.Sleep(10 * time.Minute) // far beyond the deadline of its body
		}
		s := key.stream("ops", "")
		time.Sleep(10 * time.Minute)
		id := key.post("ops", "still here")
		require.Equal(t, []string{id}, s.messages(1))
	})
}

// Failed authentications are paced by address on every route of the API, unknown ones too; whoever has a good key is heard all the same.
func TestFailedAuthenticationsArePacedOnEveryRoute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.AuthFailAddrRatePerMin = 5 })
		key := restKey(t, mesh, "ana", readSend)
		routes := broker.APIRoutes()
		routes = append(routes, broker.Route{Method: "GET", Path: "/nothing"}, broker.Route{Method: "PWN", Path: "/topics"})
		for _, rt := range routes {
			rt.Path = "/v1" + rt.Path
			for n, secret := range []string{"cm_wrong-wrong-wrong", "", "x", key.key + "x", key.key[:20], "cm_wrong-wrong-wrong", "cm_wrong-wrong-wrong"} {
				r := routeRequest(rt, secret, nil)
				a := hostServe(mesh.Broker, r)
				want := http.StatusUnauthorized
				if n >= 5 {
					want = http.StatusTooManyRequests
					require.NotEmpty(t, a.header.Get("Retry-After"))
				}
				require.Equal(t, want, a.code, "%s %s, attempt %d", rt.Method, rt.Path, n)
			}
			key.ok("GET", "/topics", nil)
			time.Sleep(time.Minute)
		}
	})
}

// Invites are guessed no faster than the pace of an address allows, whatever is wrong with the guess; good ones count as well.
func TestGuessedInvitesArePaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.JoinAddrRatePerMin = 0 }) // the default: 30
		token, _ := hostInvite(t, mesh, broker.InviteOptions{MaxUses: 100})
		guesses := []func(f frame){
			func(f frame) { f["invite_token"] = token[:len(token)-1] + "A" },
			func(f frame) { f["invite_token"] = strings.Repeat("A", 300) },
			func(f frame) { f["invite_payload"] = frame{} },
			func(f frame) { f["peer_pubkey"] = "zz" },
			func(f frame) { f["signature"] = strings.Repeat("0", 128) },
			func(frame) {},
		}
		codes := map[int]int{}
		for n := range 60 {
			body := hostJoin(t, token, hostKey(t), fmt.Sprint("eve", n))
			guesses[n%len(guesses)](body)
			a := hostPostJoin(t, mesh.Broker, body)
			codes[a.code]++
			if n >= 30 {
				require.Equal(t, http.StatusTooManyRequests, a.code)
				require.NotEmpty(t, a.header.Get("Retry-After"))
			}
		}
		require.Equal(t, map[int]int{http.StatusOK: 5, http.StatusBadRequest: 25, http.StatusTooManyRequests: 30}, codes)
		members, err := mesh.Broker.Members(t.Context(), mesh.ID)
		require.NoError(t, err)
		require.Len(t, members, 5)
		a := hostPost(t, mesh.Broker, hostRequest{path: "/join", from: "192.0.2.1:1", body: hostJoin(t, token, hostKey(t), "bo")})
		require.Equal(t, http.StatusOK, a.code, "others do not notice")
		require.True(t, slices.ContainsFunc(members, func(m store.Member) bool { return strings.HasPrefix(m.Name, "eve") }))
	})
}
