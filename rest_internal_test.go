package broker

import (
	"errors"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
	"github.com/claudemesh/broker/wire"
)

// docs/rest.md names every code that a refusal can have.
func TestRefusalCodesAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/rest.md")
	require.NoError(t, err)
	codes := []string{
		"error.api_key_missing", "error.api_key_invalid", "error.validation", "error.payload_too_large", "error.unsupported_media_type",
		"error.request_timeout", "common:error.general", string(codeCapability), string(codeScope), string(codeOrigin), string(codeUnavailable),
		streamGap, streamUnavailable,
	}
	for code := range domains {
		codes = append(codes, string(code))
	}
	for _, code := range codes {
		require.Contains(t, string(page), "`"+code+"`")
	}
}

// H31: of an admin key there is left what every member may, once its issuer is no admin.
func TestH31AdminKeyIsNarrowedToItsIssuer(t *testing.T) {
	t.Parallel()
	st := memory.New()
	b := &Broker{store: st}
	ctx, at := t.Context(), time.Now().UTC()
	require.NoError(t, st.CreateMesh(ctx, store.Mesh{ID: "m", Slug: "m", Name: "m", CreatedAt: at}, store.Topic{ID: "g", MeshID: "m", Name: "general"}))
	member := store.Member{ID: "a", MeshID: "m", Pubkey: strings.Repeat("a", 64), Name: "ana", Role: store.RoleAdmin, JoinedAt: at}
	require.NoError(t, st.AddMember(ctx, member, 0))
	grant := func() Grant {
		g := Grant{MeshID: "m", Member: member, Capabilities: []string{wire.KeyAdmin}}
		require.NoError(t, b.narrow(ctx, &g))
		return g
	}
	require.Equal(t, []string{wire.KeyAdmin}, grant().Capabilities)
	require.NoError(t, st.SetRole(ctx, "m", "a", store.RoleMember))
	g := grant()
	require.False(t, g.Has(wire.KeyAdmin))
	require.True(t, g.Has(wire.KeySend) && g.Has(wire.KeyRead) && g.Has(wire.KeyStateWrite))
	host := Grant{MeshID: "m", Capabilities: []string{wire.KeyAdmin}}
	require.NoError(t, b.narrow(ctx, &host))
	require.True(t, host.Has(wire.KeyAdmin), "a key of the host's has no issuer to lose")
}

// Whatever the body, reading it ends in a value that its own checks accept or in a refusal of the request, never in a fault of ours; and
// what is accepted is accepted again when it is written out.
func FuzzRESTBodies(f *testing.F) {
	operations := []func() operation{
		with[postMessage], with[postSeal], with[postClaim], with[postNotificationsRead], with[postPeerPubkey],
	}
	b := &Broker{opts: Options{MaxMessageBytes: 65536}}
	for i, seed := range []string{
		`{"topic":"ops","ciphertext":"aGk=","nonce":"AAAA","priority":"now","bodyVersion":2,"mentions":["a"],"replyToId":"abcdefgh"}`,
		`{"memberId":"m","encryptedKey":"AAAA","nonce":"AAAA"}`,
		`{"encryptedKeyPubkey":"` + strings.Repeat("ab", 32) + `","encryptedKey":"AAAA","nonce":"AAAA"}`,
		`{"ids":["a","b"],"all":true,"before":"2000-01-01"}`,
		`{"pubkey":"` + strings.Repeat("ab", 32) + `","proof":"x","timestamp":1e400}`,
		`{"topic":"a","topic":"b"}`, `{"Topic":"a"}`, `[]`, `null`, ``, "\xff", `{"ids":[1]}`, strings.Repeat(`{"a":`, 70) + `1` + strings.Repeat(`}`, 70),
	} {
		f.Add(i%len(operations), seed)
	}
	f.Fuzz(func(t *testing.T, which int, body string) {
		op := operations[uint(which)%uint(len(operations))]()
		read := func(op operation, body string) error {
			r := httptest.NewRequest("POST", "/v1/x", strings.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			return op.read(&apiCall{b: b, w: httptest.NewRecorder(), r: r})
		}
		err := read(op, body)
		if err != nil {
			_, isFault := errors.AsType[*wire.Fault](err)
			require.True(t, isFault, "%v", err)
			status, _, text := restStatus(err)
			require.Contains(t, []int{400, 413, 422}, status)
			require.NotEmpty(t, text)
			return
		}
		if m, ok := op.(*postMessage); ok {
			require.NotEmpty(t, m.Topic)
			require.NoError(t, m.send.Check())
		}
		again, err := wire.Encode(op)
		require.NoError(t, err)
		require.NoError(t, read(operations[uint(which)%uint(len(operations))](), string(again)), "%s", again)
	})
}

// Queries are texts of strangers, too.
func FuzzRESTQueries(f *testing.F) {
	for _, q := range []string{"limit=50&before=abc", "limit=201", "limit=", "limit=1e2", "since=2000-01-01&unread=1", "%zz", "limit=1&limit=2", ";"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest("GET", "/v1/x", nil)
		r.URL.RawQuery = query
		c := &apiCall{b: &Broker{}, w: httptest.NewRecorder(), r: r}
		var q getMessages
		if err := q.read(c); err == nil {
			require.True(t, q.limit >= 1 && q.limit <= 200)
		} else {
			status, code, _ := restStatus(err)
			require.Equal(t, 422, status)
			require.Equal(t, "error.validation", code)
		}
		require.NoError(t, new(getNotifications).read(c))
		if at, err := parseISO(r.URL.Query().Get("since")); err == nil && at.Year() >= 1 && at.Year() <= 9999 && !at.IsZero() {
			again, err := parseISO(wire.FormatTime(at))
			require.NoError(t, err)
			require.True(t, again.Equal(at))
		}
	})
}
