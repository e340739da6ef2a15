package client

import (
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
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

func decodeObject(t testing.TB, raw []byte) (o object) {
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Errorf("%q: %v", raw, err)
	}
	return o
}

func TestRESTBases(t *testing.T) {
	t.Parallel()
	for socket, want := range map[string][]string{
		"ws://h:1/ws":            {"http://h:1"},
		"wss://h/ws":             {"https://h"},
		"wss://h/":               {"https://h"},
		"wss://h/a/mesh/ws":      {"https://h/a/mesh", "https://h"},
		"wss://h/mesh/ws/?x=1":   {"https://h/mesh", "https://h"},
		"ws://h/other%20mesh/ws": {"http://h/other%20mesh", "http://h"},
		"ws://h/ws/ws":           {"http://h/ws", "http://h"},
	} {
		require.Equal(t, want, restBases(socket), socket)
	}
}

func TestRESTFindsItsBaseAndRenewsItsKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, nil)
		calls, status := 0, http.StatusOK
		s.mux.HandleFunc("GET /v1/members", func(w http.ResponseWriter, r *http.Request) { // at the root only
			calls++
			w.Header().Set("Content-Type", "application/json")
			if r.Header.Get("Authorization") != "Bearer cm_secret" {
				t.Errorf("authorization %q", r.Header.Get("Authorization"))
			}
			switch {
			case status != http.StatusOK:
				w.Header().Set("Retry-After", "3")
				w.WriteHeader(status)
				status = http.StatusOK
				_, _ = io.WriteString(w, `{"code":"error.api_key_invalid","message":"no"}`)
			default:
				_, _ = io.WriteString(w, `{"members":[{"memberId":"a","pubkey":"AA","displayName":"x"}]}`)
			}
		})
		c := s.dial()
		ctx := context.Background()
		members, err := c.Members(ctx)
		require.NoError(t, err)
		require.Equal(t, "aa", members[0].Pubkey)
		require.Len(t, s.of(wire.TypeAPIKeyCreate), 1)

		status = http.StatusUnauthorized
		_, err = c.Members(ctx)
		require.NoError(t, err)
		require.Len(t, s.of(wire.TypeAPIKeyCreate), 2)

		status = http.StatusServiceUnavailable
		begin := time.Now()
		_, err = c.Members(ctx)
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(begin), 3*time.Second)

		time.Sleep(keyLife - keyMargin)
		_, err = c.Members(ctx)
		require.NoError(t, err)
		require.Len(t, s.of(wire.TypeAPIKeyCreate), 3)
		require.Equal(t, 6, calls)

		status = http.StatusForbidden
		_, err = c.Members(ctx)
		refused, ok := errors.AsType[*HTTPError](err)
		require.True(t, ok)
		require.Equal(t, 403, refused.Status)
		require.ErrorIs(t, err, wire.Code("error.api_key_invalid"))

		require.NoError(t, c.Close())
		require.Equal(t, "Key00000000000000000000000000001", s.of(wire.TypeAPIKeyRevoke)[0]["id"])
	})
}

// feed is a topic's stream and history as a test wants them.
type feed struct {
	mu      sync.Mutex
	posts   []object // guarded by mu; oldest first
	resumed []string // guarded by mu; Last-Event-ID of each stream
}

func (f *feed) set(posts ...object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.posts = posts
}

func feedPost(id int) object {
	return object{"id": messageID(id), "senderMemberId": bobMember, "senderName": "bob", "ciphertext": "aGk=", "nonce": "", "bodyVersion": 1,
		"replyToId": nil, "createdAt": "2026-05-02T20:03:11.000Z"}
}

func (f *feed) serve(r *room, stream func(n int, send func(event string, data any)) bool) {
	r.mux.HandleFunc("GET /mesh/v1/topics/deploys/messages", func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		f.mu.Lock()
		page := slices.Clone(f.posts)
		f.mu.Unlock()
		slices.Reverse(page)
		if q.URL.Query().Get("limit") == "1" && len(page) > 0 {
			page = page[:1]
		}
		_ = json.NewEncoder(w).Encode(object{"messages": page})
	})
	r.mux.HandleFunc("GET /mesh/v1/topics/deploys/stream", func(w http.ResponseWriter, q *http.Request) {
		f.mu.Lock()
		f.resumed = append(f.resumed, q.Header.Get("Last-Event-ID"))
		n := len(f.resumed)
		f.mu.Unlock()
		send := func(event string, data any) {
			raw, _ := wire.Encode(data)
			if o, ok := data.(object); ok && event == "message" {
				_, _ = fmt.Fprintf(w, "id: %s\n", o["id"])
			}
			_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, raw)
			_ = http.NewResponseController(w).Flush()
		}
		send("ready", object{})
		if stream(n, send) {
			<-q.Context().Done()
		}
	})
}

func TestTailGoesOnWithoutAGap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		f := &feed{posts: []object{feedPost(1)}}
		f.serve(r, func(n int, send func(string, any)) bool {
			switch n {
			case 1: // the key ends before anything came
				return false
			case 2:
				send("message", feedPost(2))
				send("heartbeat", 1)
				send("message", feedPost(3))
				return false
			case 3: // falls silent
				send("message", feedPost(3))
				send("message", feedPost(4))
				return true
			default:
				send("error", object{"error": "resume_gap"})
				send("message", feedPost(5))
				return true
			}
		})
		c := r.dial()
		var got []string
		ready, gaps := 0, 0
		for m, err := range c.Tail(context.Background(), "deploys", TailOptions{OnReady: func() { ready++ }, OnGap: func() { gaps++ }}) {
			require.NoError(t, err)
			require.Equal(t, "hi", m.Text)
			if got = append(got, m.ID); len(got) == 4 {
				break
			}
		}
		require.Equal(t, []string{messageID(2), messageID(3), messageID(4), messageID(5)}, got)
		require.Equal(t, []string{messageID(1), messageID(1), messageID(3), messageID(4)}, f.resumed)
		require.Equal(t, 4, ready)
		require.Equal(t, 1, gaps)
	})
}

func TestTailOfAnEmptyTopicMissesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		f := &feed{}
		f.serve(r, func(n int, send func(string, any)) bool {
			if n == 1 {
				f.set(feedPost(1), feedPost(2)) // while the stream is away
				return false
			}
			send("message", feedPost(2))
			send("message", feedPost(3))
			return true
		})
		c := r.dial()
		var got []string
		for m, err := range c.Tail(context.Background(), "deploys", TailOptions{}) {
			require.NoError(t, err)
			if got = append(got, m.ID); len(got) == 3 {
				break
			}
		}
		require.Equal(t, []string{messageID(1), messageID(2), messageID(3)}, got)
	})
}

func TestTailEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		f := &feed{}
		var ended atomic.Bool
		f.serve(r, func(int, func(string, any)) bool { return !ended.Load() })
		c := r.dial()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, err := range c.Tail(ctx, "deploys", TailOptions{}) {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		for _, err := range c.Tail(context.Background(), "gone", TailOptions{}) {
			require.ErrorIs(t, err, wire.TopicNotFound)
		}
		time.AfterFunc(time.Second, func() { _ = c.Close() })
		for _, err := range c.Tail(context.Background(), "deploys", TailOptions{}) {
			require.ErrorIs(t, err, ErrClosed)
		}
	})
}

func TestEventReader(t *testing.T) {
	t.Parallel()
	r := newEventReader(strings.NewReader(": comment\n\nevent: a\nid: 1\ndata: x\ndata:y\n\r\nevent: only\n\ndata\n\nid: 2\r\ndata: z\r\n\r\nevent: cut\ndata: off"))
	var got []event
	for {
		e, err := r.next()
		if err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
		got = append(got, e)
	}
	require.Equal(t, []event{{"a", "1", "x\ny"}, {}, {"", "2", "z"}}, got)
	_, err := newEventReader(strings.NewReader("data: " + strings.Repeat("x", maxStreamLine+1))).next()
	require.Error(t, err)
}

func testInvite(t *testing.T, broker string, expires time.Time) string {
	i, err := identity.InviteV1{
		MeshID: testMesh, MeshSlug: "team", BrokerURL: broker, ExpiresAt: float64(expires.Unix()), Role: identity.RoleMember,
		MeshRootKey: "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8",
	}.Sign(testKey(t, "03"))
	require.NoError(t, err)
	return i.Token()
}

func TestH20JoinProvesItsKey(t *testing.T) {
	t.Parallel()
	var body object
	mux := http.NewServeMux()
	mux.HandleFunc("POST /join", func(w http.ResponseWriter, r *http.Request) { // at the root only
		raw, _ := io.ReadAll(r.Body)
		body = decodeObject(t, raw)
		w.Header().Set("Content-Type", "application/json")
		if body["display_name"] == "late" {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"ok":false,"error":"invite_exhausted"}`)
			return
		}
		_, _ = io.WriteString(w, `{"ok":true,"memberId":"`+bobMember+`"}`)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	url := "ws" + strings.TrimPrefix(server.URL, "http") + "/mesh/ws"
	token := testInvite(t, url, time.Now().Add(time.Hour))
	got, err := Join(t.Context(), JoinOptions{Invite: "https://h/join/" + token, DisplayName: " bob ", HTTPClient: server.Client()})
	require.NoError(t, err)
	require.Equal(t, bobMember, got.MemberID)
	require.Equal(t, Options{URL: url, MeshID: testMesh, MemberID: bobMember, Key: got.Key}, got.Options())
	require.Equal(t, "bob", body["display_name"])
	require.Equal(t, token, body["invite_token"])
	require.Equal(t, testMesh, body["invite_payload"].(object)["mesh_id"])
	require.NoError(t, identity.Join{InviteToken: token, PeerPubkey: got.Key.Public(), Signature: str(body, "signature")}.Verify())

	_, err = Join(t.Context(), JoinOptions{Invite: token, DisplayName: "late", HTTPClient: server.Client()})
	require.ErrorIs(t, err, wire.Code("invite_exhausted"))

	body = nil
	for name, invite := range map[string]string{
		"expired": testInvite(t, url, time.Now().Add(-time.Hour)), "no invite": "https://example.com/", "cut": token[:len(token)-8],
	} {
		_, err = Join(t.Context(), JoinOptions{Invite: invite, DisplayName: "bob", HTTPClient: server.Client()})
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), invite)
	}
	require.Nil(t, body, "nothing is sent for an invite that is not good")
}
