package broker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
	"github.com/claudemesh/broker/wire"
)

func TestBothPrefixesAreTheSameAPI(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		key := restKey(t, mesh, "ana", readSend)
		for _, base := range []string{"/v1", "/api/v1"} {
			key.base = base
			require.Equal(t, []string{"general"}, column(list(t, key.ok("GET", "/topics", nil), "topics"), "name"))
			got := key.refused(404, "topic_not_found", "GET", "/topics/nowhere/messages", nil)
			require.Equal(t, frame{"error": "topic_not_found", "topic": "nowhere"}, got.Body)
			got = key.refused(422, "error.validation", "GET", "/topics/general/messages?limit=0", nil)
			require.Equal(t, base+"/topics/general/messages", got.Body.Str("path"))
			require.Contains(t, got.Body.Str("message"), "limit")
			require.EqualValues(t, 422, got.Body["status"])
			require.Equal(t, wire.FormatTime(time.Now()), got.Body.Str("timestamp"))
			for _, unknown := range []string{"", "/", "/nothing", "/topics/general/nothing"} {
				got = key.do("GET", unknown, nil)
				require.Equal(t, 404, got.Status, unknown)
				require.Equal(t, "404 Not Found", got.Raw)
			}
			require.Equal(t, "404 Not Found", key.do("PUT", "/topics", nil).Raw, "an unknown method is an unknown path")
		}
	})
}

func TestAuthenticationComesFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		key := restKey(t, mesh, "ana", reads, func(n *broker.NewAPIKey) { n.ExpiresAt = time.Now().Add(time.Hour) })
		none := door{t: t, mesh: mesh}
		for _, path := range []string{"/topics", "/nothing"} {
			got := none.refused(401, "error.api_key_missing", "GET", path, nil)
			require.Equal(t, "error.api_key_missing", got.Body.Str("message"))
			require.Equal(t, "*", got.Header.Get("Access-Control-Allow-Origin"))
			none.refused(401, "error.api_key_missing", "GET", path, nil, header{"Authorization", "bearer " + key.key})
			none.refused(401, "error.api_key_missing", "GET", path, nil, header{"Authorization", "Basic " + key.key})
		}
		wrong, _, _ := identity.APIKeyFromBytes([32]byte{1})
		samePrefix := key.key[:11] + wrong[11:]
		for _, secret := range []string{wrong, samePrefix, key.key + "A", "cm_", "x"} {
			door{t: t, mesh: mesh, key: secret}.refused(401, "error.api_key_invalid", "POST", "/messages", "not json")
		}
		key.ok("GET", "/topics", nil)
		time.Sleep(time.Hour) // of the bubble
		key.refused(401, "error.api_key_invalid", "GET", "/topics", nil)

		bo := restKey(t, mesh, "bo", reads)
		bo.ok("GET", "/topics", nil)
		require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, mesh.Member("bo").ID))
		bo.refused(401, "error.api_key_invalid", "GET", "/topics", nil)
		cy := restKey(t, mesh, "cy", reads)
		require.NoError(t, mesh.Store.ArchiveMesh(t.Context(), mesh.ID, time.Now().UTC()))
		cy.refused(401, "error.api_key_invalid", "GET", "/topics", nil)
	})
}

// What is wrong with a request is told in one order, so that a refusal gives nothing away that an earlier check protects.
func TestChecksComeInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		newTopic(t, ana, "hr", "private")
		poor := restKey(t, mesh, "bo", reads, scoped("general"))
		poor.refused(422, "error.validation", "POST", "/messages", frame{"topic": "hr"})
		poor.refused(403, "error.api_key_missing_capability", "POST", "/messages", postBody("hr", "x"))
		poor.refused(403, "error.api_key_topic_out_of_scope", "GET", topicPath("hr", "/messages"), nil)
		poor.refused(403, "error.api_key_topic_out_of_scope", "GET", topicPath("nowhere", "/messages"), nil)
		poor.refused(422, "error.validation", "GET", topicPath("hr", "/messages")+"?limit=x", nil)

		wide := restKey(t, mesh, "bo", readSend)
		hidden := wide.refused(404, "topic_not_found", "GET", topicPath("hr", "/messages"), nil)
		missing := wide.refused(404, "topic_not_found", "GET", topicPath("rh", "/messages"), nil)
		require.Equal(t, strings.ReplaceAll(missing.Raw, "rh", "hr"), hidden.Raw, "a private topic looks like none")
		wide.refused(404, "topic_not_found", "POST", "/messages", postBody("hr", "x"))

		nobody := restKey(t, mesh, "", readSend)
		nobody.refused(404, "topic_not_found", "PATCH", topicPath("hr", "/read"), nil)
		nobody.refused(400, "api_key_has_no_issuer", "PATCH", topicPath("general", "/read"), nil)

		none := restKey(t, mesh, "bo", readSend, scoped())
		require.Empty(t, list(t, none.ok("GET", "/topics", nil), "topics"))
		none.refused(403, "error.api_key_topic_out_of_scope", "GET", topicPath("general", "/messages"), nil)
	})
}

func TestKeyWithoutAnIssuerReadsAndDoesNotAct(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		newTopic(t, ana, "hr", "private")
		ana.Say("#general", "now", "hi")
		key := restKey(t, mesh, "", []string{wire.KeyAdmin})
		got := key.refused(400, "api_key_has_no_issuer", "POST", "/messages", postBody("general", "x"))
		require.Equal(t, frame{"error": "api_key_has_no_issuer"}, got.Body)
		for _, route := range []struct{ method, path string }{
			{"PATCH", "/topics/general/read"}, {"GET", "/topics/general/key"}, {"DELETE", "/topics/general/key"},
		} {
			key.refused(400, "api_key_has_no_issuer", route.method, route.path, nil)
		}
		require.Equal(t, []string{"general"}, column(list(t, key.ok("GET", "/topics", nil), "topics"), "name"), "public topics")
		require.Len(t, list(t, key.ok("GET", topicPath("general", "/messages"), nil), "messages"), 1)
		require.Empty(t, list(t, key.ok("GET", "/notifications", nil), "notifications"))
		require.Empty(t, list(t, key.ok("GET", topicPath("general", "/pending-seals"), nil), "pending"), "general has no key")
		require.Len(t, list(t, key.ok("GET", "/members", nil), "members"), 1)
		key.stream("general", "")
	})
}

// A scope names topics; that a name may look like another topic's id must not open that one.
func TestScopeIsByNameOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		id := newTopic(t, ana, "plans", "public")
		restKey(t, mesh, "ana", reads).ok("GET", topicPath(id, "/messages"), nil)
		key := restKey(t, mesh, "ana", reads, scoped(id))
		key.refused(403, "error.api_key_topic_out_of_scope", "GET", topicPath(id, "/messages"), nil)
	})
}

func TestTopicNamesArePercentDecoded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		key := restKey(t, mesh, "ana", readSend)
		for _, name := range []string{"a/b", "50% off?", "ü #1", "x+y & z"} {
			newTopic(t, ana, name, "public")
			id := key.post(name, "hi")
			got := key.ok("GET", topicPath(name, "/messages"), nil)
			require.Equal(t, name, got.Str("topic"))
			require.Equal(t, []string{id}, column(list(t, got, "messages"), "id"))
		}
		for _, path := range []string{"/topics/%00/messages", "/topics/%ff/messages", "/topics/" + strings.Repeat("x", 300) + "/messages"} {
			key.refused(404, "topic_not_found", "GET", path, nil)
		}
	})
}

func TestBodiesAreTakenStrictly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		key := restKey(t, mesh, "ana", readSend)
		good := `{"topic":"general","ciphertext":"aGk=","nonce":"AAAA"`
		for _, c := range []struct {
			name, body, kind string
			status           int
			code             string
		}{
			{"no type", good + `}`, "", 415, "error.unsupported_media_type"},
			{"another type", good + `}`, "text/plain", 415, "error.unsupported_media_type"},
			{"type with parameters", good + `}`, "Application/JSON; charset=utf-8", 200, ""},
			{"not JSON", `{"topic":`, "application/json", 400, ""},
			{"empty", ``, "application/json", 400, ""},
			{"two objects", good + `}{}`, "application/json", 400, ""},
			{"no object", `[]`, "application/json", 422, "error.validation"},
			{"wrong kind", good + `,"mentions":"ana"}`, "application/json", 422, "error.validation"},
			{"twice", good + `,"topic":"general"}`, "application/json", 422, "error.validation"},
			{"another case", good + `,"Topic":"general"}`, "application/json", 422, "error.validation"},
			{"unknown field", good + `,"extra":1}`, "application/json", 200, ""},
			{"bad priority", good + `,"priority":"soon"}`, "application/json", 422, "error.validation"},
			{"bad version", good + `,"bodyVersion":3}`, "application/json", 422, "error.validation"},
			{"version 0", good + `,"bodyVersion":0}`, "application/json", 422, "error.validation"},
			{"past expiry", good + `,"expiresAt":"1999-12-31T00:00:00.000Z"}`, "application/json", 422, "error.validation"},
			{"late expiry", good + `,"expiresAt":"2000-01-09T00:00:00.000Z"}`, "application/json", 422, "error.validation"},
			{"good expiry", good + `,"expiresAt":"2000-01-05T00:00:00.000Z"}`, "application/json", 200, ""},
			{"empty reply", good + `,"replyToId":""}`, "application/json", 422, "error.validation"},
			{"unknown reply", good + `,"replyToId":"no such message"}`, "application/json", 200, ""},
			{"17 mentions", good + `,"mentions":["a"` + strings.Repeat(`,"a"`, 16) + `]}`, "application/json", 422, "error.validation"},
			{"no nonce", `{"topic":"general","ciphertext":"aGk=","nonce":""}`, "application/json", 422, "error.validation"},
			{"NUL", `{"topic":"general","ciphertext":"aGk\u0000","nonce":"AAAA"}`, "application/json", 422, "error.validation"},
			{"a large message", `{"topic":"general","ciphertext":"` + strings.Repeat("A", 65_536) + `","nonce":"AAAA"}`, "application/json", 413, "error.payload_too_large"},
			{"a larger body", `{"x":"` + strings.Repeat("A", 65_536+8192) + `"}`, "application/json", 413, "error.payload_too_large"},
		} {
			got := key.do("POST", "/messages", c.body, header{"Content-Type", c.kind})
			require.Equal(t, c.status, got.Status, "%s: %s", c.name, got.Raw)
			require.Equal(t, c.code, got.Body.Str("code"), c.name)
			if c.status == 400 {
				require.NotContains(t, got.Body, "code", c.name)
				require.Equal(t, "Malformed JSON in request body", got.Body.Str("message"), c.name)
			}
		}
	})
}

func TestBodyThatNeverComesIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		key := restKey(t, mesh, "ana", readSend)
		body := newNever()
		defer body.Close()
		req := key.request("POST", "/messages", nil, header{"Content-Type", "application/json"})
		req.Body, req.ContentLength = body, 100
		began := time.Now()
		resp, err := mesh.HTTP.Do(req)
		if err == nil {
			defer func() { _ = resp.Body.Close() }()
			require.Equal(t, http.StatusRequestTimeout, resp.StatusCode)
		}
		require.GreaterOrEqual(t, time.Since(began), 30*time.Second)
		require.Less(t, time.Since(began), 40*time.Second)
	})
}

// never is a body of which nothing comes.
type never struct{ closed chan struct{} }

func newNever() *never { return &never{closed: make(chan struct{})} }

func (n *never) Read([]byte) (int, error) {
	<-n.closed
	return 0, errors.New("closed")
}

func (n *never) Close() error {
	select {
	case <-n.closed:
	default:
		close(n.closed)
	}
	return nil
}

func TestAPIRequestsAreLimitedPerKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.APIRatePerMin, o.AuthFailAddrRatePerMin, o.SendRatePerMin = 6, 3, 0 })
		key, other := restKey(t, mesh, "ana", readSend), restKey(t, mesh, "ana", reads)
		for range 6 {
			key.ok("GET", "/topics", nil)
		}
		got := key.refused(429, "rate_limit", "GET", "/topics", nil)
		require.Equal(t, frame{"error": "rate_limit"}, got.Body)
		require.Equal(t, "10", got.Header.Get("Retry-After"))
		other.ok("GET", "/topics", nil)
		for range 10 { // posts have the member's own budget
			key.post("general", "hi")
		}
		got = key.refused(429, "rate_limit", "POST", "/messages", postBody("general", "one too many"))
		require.Equal(t, "1", got.Header.Get("Retry-After"))
		time.Sleep(10 * time.Second)
		key.ok("GET", "/topics", nil)

		wrong := door{t: t, mesh: mesh, key: "cm_wrong-wrong-wrong"}
		for range 3 {
			wrong.refused(401, "error.api_key_invalid", "GET", "/topics", nil)
		}
		require.NotEmpty(t, wrong.refused(429, "rate_limit", "GET", "/topics", nil).Header.Get("Retry-After"))
		other.ok("GET", "/topics", nil) // a good key from the same address is heard
	})
}

func TestLastUseOfAKeyIsNoted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		key := restKey(t, mesh, "ana", reads)
		used := func() time.Time {
			k, err := mesh.Store.APIKey(t.Context(), mesh.ID, key.id)
			require.NoError(t, err)
			return k.LastUsedAt
		}
		require.Zero(t, used())
		first := time.Now()
		key.ok("GET", "/topics", nil)
		time.Sleep(9 * time.Second)
		key.ok("GET", "/topics", nil)
		require.True(t, used().Equal(first), "at most every 10 s")
		time.Sleep(time.Second)
		key.ok("GET", "/topics", nil)
		require.True(t, used().Equal(first.Add(10*time.Second)))
	})
}

func TestStoreThatFailsIsToldSafely(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{}
		mesh := brokertest.New(t, func(o *broker.Options) { f.Store, o.Store = o.Store, f })
		key := restKey(t, mesh, "ana", readSend)
		for _, c := range []struct {
			err    error
			status int
			code   string
		}{
			{fmt.Errorf("connection refused: %w", store.ErrUnavailable), 503, "error.unavailable"},
			{fmt.Errorf("slow: %w", context.DeadlineExceeded), 503, "error.unavailable"},
			{errors.New(`pq: column "secret" does not exist`), 500, "common:error.general"},
		} {
			f.fail(c.err)
			got := key.refused(c.status, c.code, "GET", topicPath("general", "/messages"), nil)
			require.NotContains(t, got.Raw, "secret")
			require.Equal(t, c.status == 503, got.Header.Get("Retry-After") != "")
		}
	})
}

func TestShutdownRefusesRequests(t *testing.T) {
	t.Parallel()
	st := memory.New()
	b, err := broker.New(broker.Options{Store: st, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, b.Shutdown(t.Context()))
	w := httptest.NewRecorder()
	b.ServeHTTP(w, httptest.NewRequest("GET", "/v1/topics", nil))
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
}

func TestPathsMoveWithTheMount(t *testing.T) {
	t.Parallel()
	st := memory.New()
	b, err := broker.New(broker.Options{Store: st, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Shutdown(context.Background()) })
	mux := http.NewServeMux()
	mux.Handle("/mesh/", http.StripPrefix("/mesh", b))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	resp, err := server.Client().Get(server.URL + "/mesh/api/v1/topics/a%2Fb/messages?limit=1")
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	var e frame
	require.NoError(t, decodeJSON(resp.Body, &e))
	require.Equal(t, "/mesh/api/v1/topics/a%2Fb/messages", e.Str("path"))
}

func TestCrossOriginRules(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		d := door{t: t, mesh: mesh}
		for _, path := range []string{"/topics", "/nothing", ""} {
			got := d.do("OPTIONS", path, nil)
			require.Equal(t, 204, got.Status)
			require.Empty(t, got.Raw)
			require.Equal(t, "*", got.Header.Get("Access-Control-Allow-Origin"))
			require.Equal(t, "Content-Type,Authorization", got.Header.Get("Access-Control-Allow-Headers"))
			require.Equal(t, "GET,HEAD,PUT,POST,DELETE,PATCH", got.Header.Get("Access-Control-Allow-Methods"))
			require.Equal(t, "3600", got.Header.Get("Access-Control-Max-Age"))
		}
		got := d.do("OPTIONS", "/topics/x/stream", nil, header{"Access-Control-Request-Headers", "authorization,last-event-id"})
		require.Equal(t, "Content-Type,Authorization,Last-Event-ID", got.Header.Get("Access-Control-Allow-Headers"))

		d.base = "/"
		for _, c := range []struct {
			method, path string
			status       int
			cors         bool
		}{
			{"GET", "health", 200, true},
			{"GET", "metrics", 200, true},
			{"GET", "nowhere", 404, true},
			{"POST", "health", 404, true},
			{"GET", "api/public/invite-code/abc", 404, true},
			{"OPTIONS", "health", 204, true},
			{"OPTIONS", "nowhere", 204, true},
			{"OPTIONS", "join", 204, false},
			{"OPTIONS", "hook/set-status", 204, false},
			{"OPTIONS", "invites/abc/claim", 204, false},
			{"POST", "invites/abc/claim", 415, false},
		} {
			got := d.do(c.method, c.path, nil)
			require.Equal(t, c.status, got.Status, "%s %s", c.method, c.path)
			require.Equal(t, c.cors, got.Header.Get("Access-Control-Allow-Origin") == "*", "%s %s", c.method, c.path)
		}
		require.Equal(t, "not found", d.do("GET", "nowhere", nil).Raw)
		got = d.do("GET", "api/public/invite-code/abc", nil)
		require.Equal(t, frame{"found": false}, got.Body)
		require.Equal(t, "no-store", got.Header.Get("Cache-Control"))

		open := brokertest.New(t, func(o *broker.Options) { o.JoinCORS = true })
		require.Equal(t, "*", door{t: t, mesh: open, base: "/"}.do("OPTIONS", "join", nil).Header.Get("Access-Control-Allow-Origin"))
	})
}

// cookies lets the host say who a request is from, as one with sessions of its own does.
type cookies struct {
	broker.StoreAuth
	grant *broker.Grant
}

func (c cookies) Request(_ context.Context, r *http.Request) (broker.Grant, error) {
	if _, err := r.Cookie("session"); err != nil {
		return broker.Grant{}, &wire.Fault{Code: wire.Unauthorized, Text: "sign in first"}
	}
	return *c.grant, nil
}

// A cookie is sent by the browser whoever's page asks, so only pages that may act for the user are heard.
func TestCookieRequestsNeedTheRightOrigin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		grant := &broker.Grant{}
		mesh := brokertest.New(t, func(o *broker.Options) {
			o.Auth, o.OriginPatterns = cookies{broker.StoreAuth{Store: o.Store}, grant}, []string{"app.example.com"}
		})
		*grant = broker.Grant{MeshID: mesh.ID, Member: mesh.Member("ana").Member, ID: "web-1", Capabilities: readSend, Ambient: true}
		d := door{t: t, mesh: mesh}
		cookie := header{"Cookie", "session=1"}
		require.Equal(t, 401, d.do("GET", "/topics", nil).Status)
		require.Equal(t, "error.api_key_invalid", d.do("GET", "/topics", nil).code())
		post := postBody("general", "hi")
		for _, c := range []struct {
			name    string
			headers []header
			status  int
		}{
			{"its own page", []header{{"Origin", "http://" + brokertest.Host}}, 200},
			{"an allowed page", []header{{"Origin", "https://app.example.com"}}, 200},
			{"another page", []header{{"Origin", "https://evil.example"}}, 403},
			{"a sandboxed page", []header{{"Origin", "null"}}, 403},
			{"no page", nil, 200},
			{"another page, hiding", []header{{"Sec-Fetch-Site", "cross-site"}}, 403},
		} {
			got := d.do("POST", "/messages", post, append(c.headers, cookie)...)
			require.Equal(t, c.status, got.Status, "%s: %s", c.name, got.Raw)
			require.Empty(t, got.Header.Get("Access-Control-Allow-Origin"), c.name)
			if c.status == 403 {
				require.Equal(t, "error.origin_not_allowed", got.code(), c.name)
			}
		}
		require.Equal(t, 200, d.do("GET", "/topics", nil, cookie, header{"Sec-Fetch-Site", "cross-site"}).Status)
		require.Equal(t, 403, d.do("GET", "/topics", nil, cookie, header{"Origin", "https://evil.example"}).Status)
	})
}

// D31: no header names a member, and the routes that believed one are not there.
func TestD31HeadersNameNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		d := door{t: t, mesh: mesh}
		posed := header{"X-Member-Id", mesh.Member("ana").ID}
		require.Equal(t, 401, d.do("GET", "/topics", nil, posed, header{"X-Mesh-Id", mesh.ID}).Status)
		for _, path := range []string{"/me/profile", "/me/settings", "/members/" + mesh.Member("ana").ID + "/permissions"} {
			for _, method := range []string{"GET", "PATCH", "POST"} {
				require.Equal(t, 401, d.do(method, path, nil, posed).Status, "%s %s", method, path) // a key first; then there is nothing
				a := hostPost(t, mesh.Broker, hostRequest{path: path, body: frame{"role": "admin"}})
				require.Equal(t, 404, a.code, "%s %s", method, path)
			}
		}
	})
}
