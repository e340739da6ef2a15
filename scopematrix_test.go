package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
	"github.com/claudemesh/broker/wire"
)

// The scope matrix: every route of the table, asked with every kind of key for every kind of topic. What must come out is said by an oracle that
// knows docs/rest.md and none of the code: the page's row of the route, and its order of checks.

// matrixKey is a kind of key.
type matrixKey struct {
	caps   []string
	scope  string // null, containing, elsewhere, empty
	issuer string // in, out, admin, demoted, banned, none
	state  string // live, expired, revoked, archived
}

func (k matrixKey) String() string {
	return fmt.Sprintf("key with %v, scope %s, issuer %s, %s", k.caps, k.scope, k.issuer, k.state)
}

var (
	matrixCaps = [][]string{
		{}, {"read"}, {"send"}, {"state_write"}, {"admin"},
		{"read", "send"}, {"read", "state_write"}, {"read", "admin"}, {"send", "state_write"}, {"send", "admin"}, {"state_write", "admin"},
	}
	matrixScopes  = map[string]*[]string{"null": nil, "containing": {"open", "shut", "nowhere"}, "elsewhere": {"general"}, "empty": {}}
	matrixIssuers = []string{"in", "out", "admin", "demoted", "banned", "none"}
	matrixStates  = []string{"live", "expired", "revoked", "archived"}
)

// matrixTopics are what requests ask for: a public topic, a private one of which only "in" is a member, and one that does not exist.
var matrixTopics = []string{"open", "shut", "nowhere"}

// matrixCall says how to ask a route and what it answers once everything is granted. A route without an entry fails the test.
type matrixCall struct {
	good func(topic string) any // the body; nil: none
	bad  string                 // a query, or a body, that is refused as invalid; empty: there is none
	want func(k matrixKey, topic string) (status int, code string)
}

func always(status int, code string) func(matrixKey, string) (int, string) {
	return func(matrixKey, string) (int, string) { return status, code }
}

// actsIn is the answer of routes that act in a topic: an admin who is not in a private one sees it, and may not.
func actsIn(k matrixKey, topic string) (int, string) {
	if topic == "shut" && k.issuer == "admin" {
		return 403, "forbidden"
	}
	return 200, ""
}

var matrixCalls = map[string]matrixCall{
	"POST /messages": {
		good: func(topic string) any {
			return frame{"topic": topic, "ciphertext": "aGk=", "nonce": "AAAA", "client_message_id": "once in " + topic}
		}, bad: `{"topic":"open"}`, want: actsIn,
	},
	"GET /topics":                      {want: always(200, "")},
	"GET /topics/{name}/messages":      {bad: "?limit=0", want: always(200, "")},
	"GET /topics/{name}/stream":        {want: always(200, "")},
	"PATCH /topics/{name}/read":        {want: actsIn},
	"GET /topics/{name}/key":           {want: always(409, "topic_unencrypted")},
	"DELETE /topics/{name}/key":        {want: always(409, "topic_unencrypted")},
	"GET /topics/{name}/pending-seals": {want: always(200, "")},
	"POST /topics/{name}/seal": {
		good: func(string) any {
			return frame{"memberId": "x", "encryptedKey": strings.Repeat("AAAA", 26) + "AAA=", "nonce": strings.Repeat("A", 32)}
		}, bad: `{}`, want: always(409, "topic_unencrypted"),
	},
	"POST /topics/{name}/claim-key": {
		good: func(string) any {
			return frame{"encryptedKeyPubkey": strings.Repeat("a", 64), "encryptedKey": "AAAA", "nonce": "AAAA"}
		}, bad: `{}`, want: always(422, "invalid_seal"),
	},
	"GET /notifications":       {want: always(200, "")},
	"POST /notifications/read": {good: func(string) any { return frame{"ids": []string{"x"}} }, bad: `{"ids":[]}`, want: always(200, "")},
	"GET /peers":               {want: always(200, "")},
	"GET /members":             {want: always(200, "")},
	"POST /me/peer-pubkey": {
		good: func(string) any { return frame{"pubkey": strings.Repeat("a", 64), "proof": "00", "timestamp": 1} },
		bad:  `{"pubkey":"zz"}`, want: always(409, "not_web_member"),
	},
}

// matrixRule is a row of the page.
type matrixRule struct{ need, topic, issuer string }

// matrixRules reads the page.
func matrixRules(t *testing.T) map[string]matrixRule {
	t.Helper()
	page, err := os.ReadFile("docs/rest.md")
	require.NoError(t, err)
	rules := map[string]matrixRule{}
	row := regexp.MustCompile("(?m)^\\| ([A-Z]+ )`(/[^`]*)` \\| ([a-z_]+) \\| ([a-z]+) \\| (yes|no) \\| (?:json|none) \\|")
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		rules[m[1]+m[2]] = matrixRule{need: m[3], topic: m[4], issuer: m[5]}
	}
	return rules
}

// matrixOracle answers as docs/rest.md says, check by check in its order.
func matrixOracle(rule matrixRule, call matrixCall, k matrixKey, topic string, bad bool) (status int, code string) {
	// 1. A key works while it is neither revoked nor expired, its mesh is not archived and its issuer is a member.
	if k.state != "live" || k.issuer == "banned" {
		return 401, "error.api_key_invalid"
	}
	// 2. Body and query.
	if bad {
		return 422, "error.validation"
	}
	// 3. Capability: admin includes the others, and to a key whose issuer is no admin it leaves what every member may give.
	if rule.need != "any" && !slices.Contains(k.caps, rule.need) && !slices.Contains(k.caps, "admin") {
		return 403, "error.api_key_missing_capability"
	}
	if rule.topic != "none" {
		// 4. Scope, whether there is such a topic or not.
		if k.scope == "elsewhere" || k.scope == "empty" {
			return 403, "error.api_key_topic_out_of_scope"
		}
		// 5. The topic exists and the issuer may see it: a private one its members and the mesh's admins.
		if topic == "nowhere" || topic == "shut" && k.issuer != "in" && k.issuer != "admin" {
			return 404, "topic_not_found"
		}
	}
	// 6. An issuer.
	if rule.issuer == "yes" && k.issuer == "none" {
		return 400, "api_key_has_no_issuer"
	}
	// 7. Everything else.
	return call.want(k, topic)
}

// matrixSees lists the topics that GET /topics shows to a key.
func matrixSees(k matrixKey) []string {
	sees := []string{"general", "open"}
	if k.issuer == "in" || k.issuer == "admin" {
		sees = append(sees, "shut")
	}
	scope := matrixScopes[k.scope]
	return slices.DeleteFunc(sees, func(name string) bool { return scope != nil && !slices.Contains(*scope, name) })
}

// matrixMesh founds a mesh with the members and topics of the matrix, and returns the secrets of its keys.
func matrixMesh(t *testing.T, b *broker.Broker, st store.Store, slug, state string) map[string]string {
	t.Helper()
	ctx, at := t.Context(), time.Now().UTC().Truncate(time.Millisecond)
	mesh, err := b.CreateMesh(ctx, broker.NewMesh{ID: slug, Slug: slug})
	require.NoError(t, err)
	ids := map[string]string{"none": ""}
	for _, name := range []string{"in", "out", "admin", "demoted", "banned", "lead"} {
		ids[name] = enrol(t, b, mesh.ID, name)
	}
	for _, name := range []string{"admin", "demoted"} {
		require.NoError(t, b.SetMemberRole(ctx, mesh.ID, ids[name], store.RoleAdmin))
	}
	for name, visibility := range map[string]string{"open": wire.VisibilityPublic, "shut": wire.VisibilityPrivate} {
		topic, _, err := st.CreateTopic(ctx, store.NewTopic{Topic: store.Topic{
			ID: identity.NewID(), MeshID: mesh.ID, Name: name, Visibility: visibility, CreatedByMemberID: ids["lead"], CreatedAt: at,
		}})
		require.NoError(t, err)
		_, err = st.Subscribe(ctx, mesh.ID, topic.ID, ids["in"], wire.TopicMember, false, at)
		require.NoError(t, err)
	}
	secrets := map[string]string{}
	for _, issuer := range matrixIssuers {
		for _, caps := range matrixCaps {
			for scope, topics := range matrixScopes {
				for _, s := range matrixStates {
					if (s == "archived") != (state == "archived") {
						continue
					}
					secret, prefix, hash, err := identity.NewAPIKey()
					require.NoError(t, err)
					k := store.APIKey{
						ID: identity.NewID(), MeshID: mesh.ID, Label: "x", Hash: hash, Prefix: prefix, Capabilities: caps, TopicScopes: topics,
						IssuedBy: ids[issuer], CreatedAt: at,
					}
					switch s {
					case "expired":
						k.ExpiresAt = at
					case "revoked":
						k.RevokedAt = at
					}
					require.NoError(t, st.CreateAPIKey(ctx, k, 0))
					secrets[matrixKey{caps, scope, issuer, s}.String()] = secret
				}
			}
		}
	}
	require.NoError(t, b.SetMemberRole(ctx, mesh.ID, ids["demoted"], store.RoleMember)) // who has made admin keys before
	require.NoError(t, b.RevokeMember(ctx, mesh.ID, ids["banned"]))                     // no store makes a key for who is banned already
	if state == "archived" {
		require.NoError(t, st.ArchiveMesh(ctx, mesh.ID, at))
	}
	return secrets
}

// firstWrite ends a request when something was written: a stream would go on.
type firstWrite struct {
	*httptest.ResponseRecorder
	end context.CancelFunc
}

func (w *firstWrite) Write(p []byte) (int, error) {
	defer w.end()
	return w.ResponseRecorder.Write(p)
}

func TestH31EveryKindOfKeyOnEveryRoute(t *testing.T) {
	t.Parallel()
	st := memory.New()
	b, err := broker.New(broker.Options{Store: st, Logger: slog.New(slog.DiscardHandler), TopicKeys: broker.ClientClaim, AuthFailAddrRatePerMin: -1}.Unlimited())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Shutdown(context.Background())) })
	secrets := matrixMesh(t, b, st, "alive", "live")
	for k, s := range matrixMesh(t, b, st, "shelved", "archived") {
		secrets[k] = s
	}
	rules := matrixRules(t)
	cells, granted := 0, 0
	ask := func(rt broker.Route, call matrixCall, k matrixKey, topic string, bad bool) {
		path, body := strings.ReplaceAll(rt.Path, "{name}", topic), []byte(nil)
		switch {
		case bad && !rt.Body:
			path += call.bad
		case bad:
			body = []byte(call.bad)
		case rt.Body:
			var err error
			body, err = json.Marshal(call.good(topic))
			require.NoError(t, err)
		}
		ctx, end := context.WithCancel(t.Context())
		defer end()
		r := httptest.NewRequest(rt.Method, []string{"/v1", "/api/v1"}[cells%2]+path, bytes.NewReader(body)).WithContext(ctx)
		r.Header.Set("Authorization", "Bearer "+secrets[k.String()])
		if rt.Body {
			r.Header.Set("Content-Type", "application/json")
		}
		w := &firstWrite{httptest.NewRecorder(), end}
		b.ServeHTTP(w, r)
		cells++
		status, code := matrixOracle(rules[rt.Method+" "+rt.Path], call, k, topic, bad)
		var got struct{ Code, Error string }
		_ = json.Unmarshal(w.Body.Bytes(), &got) // an event stream is none
		if got.Code == "" {
			got.Code = got.Error
		}
		if w.Code != status || got.Code != code {
			t.Errorf("%s %s (bad: %t), %s:\n got %d %s\nwant %d %s", rt.Method, path, bad, k, w.Code, got.Code, status, code)
		}
		if status != http.StatusOK {
			return
		}
		granted++
		if rt.Method+" "+rt.Path == "GET /topics" {
			var got struct{ Topics []struct{ Name string } }
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
			names := []string{}
			for _, topic := range got.Topics {
				names = append(names, topic.Name)
			}
			require.Equal(t, matrixSees(k), names, k.String())
		}
	}
	for _, rt := range broker.APIRoutes() {
		name := rt.Method + " " + rt.Path
		call, ok := matrixCalls[name]
		require.True(t, ok, "how is %s called, and what does it answer?", name)
		rule, ok := rules[name]
		require.True(t, ok, "%s has no row in docs/rest.md", name)
		require.Equal(t, rt.Body, call.good != nil, name)
		topics := matrixTopics
		if rule.topic == "none" {
			topics = topics[:1]
		}
		for _, topic := range topics {
			for _, caps := range matrixCaps {
				for scope := range matrixScopes {
					for _, issuer := range matrixIssuers {
						for _, state := range matrixStates {
							k := matrixKey{caps, scope, issuer, state}
							ask(rt, call, k, topic, false)
							if call.bad != "" {
								ask(rt, call, k, topic, true)
							}
							if t.Failed() {
								t.FailNow()
							}
						}
					}
				}
			}
		}
	}
	require.Len(t, broker.APIRoutes(), len(matrixCalls), "an entry for a route that is gone")
	t.Logf("scope matrix: %d cells, %d of them granted", cells, granted)
	require.Greater(t, cells, 40_000)
	require.Greater(t, granted, 1000)

	// D33 and D25, which the rows of the page decide: sealing needs no right to send, and nobody posts for nobody.
	require.Equal(t, matrixRule{"read", "path", "yes"}, rules["POST /topics/{name}/seal"])
	require.Equal(t, matrixRule{"send", "body", "yes"}, rules["POST /messages"])
}
