package broker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
	"github.com/claudemesh/broker/wire"
)

func TestStreamBringsPostsAsTheyCome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		id := newTopic(t, ana, "ops", "public")
		other := newTopic(t, ana, "other", "public")
		key := restKey(t, mesh, "bo", readSend)
		key.post("ops", "before")
		s := key.openStream("ops", "")
		require.Equal(t, "text/event-stream", s.resp.Header.Get("Content-Type"))
		require.Equal(t, "no-cache", s.resp.Header.Get("Cache-Control"))
		require.Equal(t, "no", s.resp.Header.Get("X-Accel-Buffering"))
		ready := s.next()
		require.Equal(t, "ready", ready.Name)
		require.Empty(t, ready.ID)
		require.Equal(t, frame{"topic": "ops", "topicId": id, "connectedAt": wire.FormatTime(time.Now())}, ready.json(t))

		ana.Say("#"+other, "now", "elsewhere")
		ana.Say("*", "now", "not in a topic")
		first := ana.Say("#ops", "now", "by socket").Str("messageId")
		e := s.next()
		require.Equal(t, "message", e.Name)
		require.Equal(t, first, e.ID)
		require.Equal(t, list(t, key.ok("GET", topicPath("ops", "/messages")+"?limit=1", nil), "messages")[0], e.json(t))
		second := key.post("ops", "over REST, with a line\nbreak")
		require.Equal(t, []string{second}, s.messages(1))

		time.Sleep(30 * time.Second)
		beat := s.next()
		require.Equal(t, "heartbeat", beat.Name)
		ms, err := strconv.ParseInt(beat.Data, 10, 64)
		require.NoError(t, err)
		require.Equal(t, time.Now().UnixMilli(), ms)
		require.Empty(t, s.events)
	})
}

// H11: whatever was missed is replayed, all of it, and then it goes on, each post once.
func TestH11ResumeReplaysEverythingMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		newTopic(t, ana, "ops", "public")
		key := restKey(t, mesh, "bo", readSend)
		var ids []string
		post := func(n int) {
			for range n {
				ids = append(ids, ana.Say("#ops", "now", fmt.Sprint(len(ids))).Str("messageId"))
			}
		}
		post(1)
		s := key.stream("ops", "")
		post(1)
		require.Equal(t, ids[1:], s.messages(1))
		s.close()
		for _, missed := range []int{1, 199, 200, 201, 500, 0} { // about the size of a page, and more than two
			from := len(ids)
			post(missed)
			began := time.Now()
			s := key.stream("ops", ids[from-1])
			require.Equal(t, ids[from:], s.messages(missed), missed)
			post(3)
			require.Equal(t, ids[len(ids)-3:], s.messages(3))
			require.Zero(t, time.Since(began), "without waiting for anything")
			synctest.Wait()
			require.Empty(t, s.events)
			s.close()
		}
		s = key.stream("ops", ids[0])
		require.Equal(t, ids[1:], s.messages(len(ids)-1))
	})
}

// H11: posts that come while a stream replays are neither lost nor doubled.
func TestH11EachPostOnceWhileOthersPost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		newTopic(t, ana, "ops", "public")
		key := restKey(t, mesh, "bo", reads)
		first := ana.Say("#ops", "now", "first").Str("messageId")
		const posters, each = 4, 150
		var wg sync.WaitGroup
		for i := range posters {
			c := mesh.Dial(fmt.Sprint("poster", i))
			wg.Go(func() {
				for j := range each {
					c.Say("#ops", "now", fmt.Sprint(j))
				}
			})
		}
		var streams []*sse
		for range 5 {
			streams = append(streams, key.stream("ops", first))
		}
		wg.Wait()
		var want []string
		for before := ""; ; {
			page := column(list(t, key.ok("GET", topicPath("ops", "/messages")+"?limit=200&before="+before, nil), "messages"), "id")
			want = append(want, page...)
			if len(page) < 200 {
				break
			}
			before = page[len(page)-1]
		}
		require.Len(t, want, 1+posters*each)
		for _, s := range streams {
			got := s.messages(posters * each)
			for i, id := range got {
				require.Equal(t, want[len(want)-2-i], id)
			}
			synctest.Wait()
			require.Empty(t, s.events)
		}
	})
}

// H11: a place that is not known, or forgotten, is said to be a gap.
func TestH11UnknownPlaceIsAGap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		newTopic(t, ana, "ops", "public")
		newTopic(t, ana, "other", "public")
		key := restKey(t, mesh, "bo", reads)
		id := ana.Say("#ops", "now", "x").Str("messageId")
		foreign := ana.Say("#other", "now", "x").Str("messageId")
		for _, place := range []string{"nothing", id[:20], foreign, "0123456789abcdefghijABCDEFGHIJ01", strings.Repeat("x", 500)} {
			s := key.stream("ops", place)
			e := s.next()
			require.Equal(t, "error", e.Name, place)
			require.Equal(t, frame{"error": "resume_gap"}, e.json(t))
			live := ana.Say("#ops", "now", "live").Str("messageId")
			require.Equal(t, []string{live}, s.messages(1), "then live, without the past")
			s.close()
		}
	})
}

// H11: in memory a topic keeps its newest 10,000 posts. A place among the forgotten ones is a gap too, although the store still knows the post.
func TestH11PlacePastRetentionIsAGap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ids := fill(t, mesh, memory.MaxTopicHistory+20, "aGk=")
		key := restKey(t, mesh, "bo", reads)
		oldest := len(ids) - memory.MaxTopicHistory
		_, err := mesh.Store.Message(t.Context(), mesh.ID, ids[oldest-1])
		require.NoError(t, err, "it is in somebody's mailbox still")
		s := key.stream("general", ids[oldest-1])
		require.Equal(t, frame{"error": "resume_gap"}, s.next().json(t))
		live := restKey(t, mesh, "ana", sends).post("general", "live")
		require.Equal(t, []string{live}, s.messages(1))
		s.close()
		ids, oldest = append(ids, live), oldest+1
		s = key.stream("general", ids[oldest])
		require.Equal(t, ids[oldest+1:], s.messages(memory.MaxTopicHistory-1))
	})
}

// H11: a stream ends within a second of losing its right to be.
func TestH11StreamEndsWithItsRights(t *testing.T) {
	t.Parallel()
	type scene struct {
		mesh *brokertest.Mesh
		ana  *brokertest.Conn // admin
		bo   *brokertest.Conn // in the topic, and whose key it is
		key  door
	}
	for _, c := range []struct {
		name string
		end  func(t *testing.T, s scene)
	}{
		{"key revoked", func(t *testing.T, s scene) { s.bo.Request(frame{"type": "apikey_revoke", "id": s.key.id}) }},
		{"key revoked by the host", func(t *testing.T, s scene) {
			require.NoError(t, s.mesh.Broker.RevokeAPIKey(t.Context(), s.mesh.ID, s.key.id))
		}},
		{"issuer banned", func(t *testing.T, s scene) {
			require.NoError(t, s.mesh.Broker.RevokeMember(t.Context(), s.mesh.ID, s.bo.Member.ID))
		}},
		{"issuer left", func(t *testing.T, s scene) { done(t, s.bo, frame{"type": "topic_leave", "topic": "hr"}) }},
		{"topic archived", func(t *testing.T, s scene) { done(t, s.ana, frame{"type": "topic_archive", "topic": "hr"}) }},
		{"key expired", func(t *testing.T, _ scene) { time.Sleep(45 * time.Second) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t)
				s := scene{mesh: mesh, ana: mesh.Dial("ana"), bo: mesh.Dial("bo")}
				newTopic(t, s.ana, "hr", "private")
				done(t, s.ana, frame{"type": "topic_add", "topic": "hr", "member": s.bo.Member.ID})
				s.key = restKey(t, mesh, "bo", reads, func(n *broker.NewAPIKey) { n.ExpiresAt = time.Now().Add(45 * time.Second) })
				cy := mesh.Dial("cy")
				done(t, s.ana, frame{"type": "topic_add", "topic": "hr", "member": cy.Member.ID})
				other := restKey(t, mesh, "cy", reads).stream("hr", "")
				stream := s.key.stream("hr", "")
				c.end(t, s)
				require.LessOrEqual(t, stream.ended(), time.Second)
				synctest.Wait()
				if c.name != "topic archived" {
					s.ana.Say("#hr", "now", "still here?")
					other.messages(1)
				}
			})
		})
	}
}

// H11: an admin's streams of private topics end with the role.
func TestH11StreamEndsWithTheRole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Member("ana")
		newTopic(t, mesh.Dial("bo"), "hr", "private")
		key := restKey(t, mesh, "ana", reads)
		s := key.stream("hr", "")
		require.NoError(t, mesh.Broker.SetMemberRole(t.Context(), mesh.ID, ana.ID, store.RoleMember))
		require.LessOrEqual(t, s.ended(), time.Second)
		key.refused(404, "topic_not_found", "GET", topicPath("hr", "/stream"), nil)
		key.stream("general", "")
	})
}

// What another process did to a key or a role is noticed at the next heartbeat.
func TestStreamLooksAtItsRightsUnasked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana")
		newTopic(t, mesh.Dial("bo"), "hr", "private")
		admin, key := restKey(t, mesh, "ana", reads), restKey(t, mesh, "bo", reads)
		byRole, byKey := admin.stream("hr", ""), key.stream("general", "")
		require.NoError(t, mesh.Store.SetRole(t.Context(), mesh.ID, ana.Member.ID, store.RoleMember))
		require.NoError(t, mesh.Store.RevokeAPIKey(t.Context(), mesh.ID, key.id, time.Now().UTC()))
		require.LessOrEqual(t, byRole.ended(), 31*time.Second)
		require.LessOrEqual(t, byKey.ended(), time.Second, "both beat at once")
	})
}

func TestStreamsOfAKeyAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { o.MaxStreamsPerKey = 2 })
		newTopic(t, mesh.Dial("ana"), "ops", "public")
		key := restKey(t, mesh, "ana", reads)
		key.stream("general", "")
		second := key.stream("ops", "")
		got := key.refused(429, "too_many_streams", "GET", topicPath("general", "/stream"), nil)
		require.NotEmpty(t, got.Header.Get("Retry-After"))
		restKey(t, mesh, "ana", reads).stream("general", "")
		second.close()
		synctest.Wait()
		key.stream("ops", "")
	})
}

func TestStreamGoesOnWhenTheStoreComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{}
		mesh := brokertest.New(t, func(o *broker.Options) { f.Store, o.Store = o.Store, f })
		ana := mesh.Dial("ana")
		newTopic(t, ana, "ops", "public")
		s := restKey(t, mesh, "ana", reads).stream("ops", "")
		synctest.Wait()
		f.fail(errors.New("gone"))
		id := ana.Say("#ops", "now", "x").Str("messageId")
		require.Equal(t, frame{"error": "unavailable"}, s.next().json(t))
		time.Sleep(time.Minute)
		f.fail(nil)
		for {
			if e := s.next(); e.Name == "message" {
				require.Equal(t, id, e.ID)
				return
			}
		}
	})
}

func TestShutdownEndsStreams(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		key := restKey(t, mesh, "ana", reads)
		s := key.stream("general", "")
		began := time.Now()
		require.NoError(t, mesh.Broker.Shutdown(t.Context()))
		require.Less(t, time.Since(began), time.Second)
		require.Zero(t, s.ended())
		require.Equal(t, 503, key.do("GET", topicPath("general", "/stream"), nil).Status)
	})
}

// A client that stops reading holds up neither the others nor the broker's end, and its stream ends with its rights all the same.
func TestStreamThatIsNotReadEnds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		end  func(t *testing.T, mesh *brokertest.Mesh, key door)
	}{
		{"by itself", func(t *testing.T, _ *brokertest.Mesh, _ door) { time.Sleep(31 * time.Second) }},
		{"with its key", func(t *testing.T, mesh *brokertest.Mesh, key door) {
			require.NoError(t, mesh.Broker.RevokeAPIKey(t.Context(), mesh.ID, key.id))
		}},
		{"with the broker", func(t *testing.T, mesh *brokertest.Mesh, _ door) {
			began := time.Now()
			require.NoError(t, mesh.Broker.Shutdown(t.Context()))
			require.Less(t, time.Since(began), time.Second)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t)
				ana := mesh.Dial("ana")
				newTopic(t, ana, "ops", "public")
				key := restKey(t, mesh, "ana", reads)
				link, err := mesh.HTTP.Transport.(*http.Transport).DialContext(t.Context(), "tcp", brokertest.Host+":80")
				require.NoError(t, err)
				defer func() { _ = link.Close() }()
				_, err = fmt.Fprintf(link, "GET /v1/topics/ops/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", key.key)
				require.NoError(t, err)
				other := restKey(t, mesh, "ana", reads).stream("ops", "")
				body := brokertest.Body(strings.Repeat("x", 40_000))
				for range 100 { // more than any buffer between takes
					ana.Request(frame{"type": "send", "targetSpec": "#ops", "nonce": "", "ciphertext": body})
				}
				other.messages(100)
				c.end(t, mesh, key)
				synctest.Wait()
				began := time.Now()
				require.NoError(t, drain(link), "what was written before is there, then the end")
				require.LessOrEqual(t, time.Since(began), time.Second)
			})
		})
	}
}

// drain reads to the end of the connection.
func drain(link net.Conn) error {
	in := bufio.NewReader(link)
	buf := make([]byte, 64<<10)
	for {
		if _, err := in.Read(buf); err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				return err
			}
			return nil
		}
	}
}

// The whole way over real sockets, behind a server with deadlines of its own, which a stream outlives. The deadlines hold for the posts too, and a busy
// machine may not keep short ones, so longer ones are tried then; a stream that ended with a deadline would end with every one of them.
func TestStreamOverTCPOutlivesTheHostsDeadlines(t *testing.T) {
	t.Parallel()
	var err error
	for _, deadline := range []time.Duration{50 * time.Millisecond, 250 * time.Millisecond, time.Second, 4 * time.Second} {
		if err = streamBehind(t, deadline); err == nil {
			return
		}
		t.Logf("with deadlines of %s: %v", deadline, err)
	}
	require.NoError(t, err)
}

// streamBehind reads a stream for six deadlines of its server.
func streamBehind(t *testing.T, deadline time.Duration) error {
	t.Helper()
	st := memory.New()
	b, err := broker.New(broker.Options{Store: st, SendRatePerMin: -1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(http.StripPrefix("/mesh", b))
	server.Config.ReadTimeout, server.Config.WriteTimeout = deadline, deadline
	// These are ReadTimeout otherwise, and would end connections between two requests, just when the client uses them again.
	server.Config.ReadHeaderTimeout, server.Config.IdleTimeout = time.Minute, time.Minute
	server.Start()
	defer server.Close()
	defer func() { require.NoError(t, b.Shutdown(context.Background())) }()
	mesh, err := b.CreateMesh(t.Context(), broker.NewMesh{Slug: "m"})
	require.NoError(t, err)
	member := enrol(t, b, mesh.ID, "ana")
	secret, _, err := b.CreateAPIKey(t.Context(), mesh.ID, broker.NewAPIKey{Label: "x", Capabilities: readSend, IssuedBy: member})
	require.NoError(t, err)
	ask := func(method, path, body string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/mesh/v1"+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+secret)
		req.Header.Set("Content-Type", "application/json")
		resp, err := server.Client().Do(req)
		if err == nil {
			require.Equal(t, 200, resp.StatusCode)
		}
		return resp, err
	}
	stream, err := ask("GET", "/topics/general/stream", "")
	if err != nil {
		return err
	}
	defer func() { _ = stream.Body.Close() }()
	in := bufio.NewReader(stream.Body)
	e, err := readSSE(in)
	if err != nil {
		return err
	}
	require.Equal(t, "ready", e.Name)
	began := time.Now()
	for i := 0; time.Since(began) < 6*deadline; i++ { // as fast as the posts go, which nothing here waits for
		body := fmt.Sprintf(`{"topic":"general","ciphertext":%q,"nonce":"AAAA"}`, brokertest.Body(fmt.Sprint(i)))
		posted, err := ask("POST", "/messages", body)
		if err != nil {
			return err
		}
		require.NoError(t, posted.Body.Close())
		e, err := readSSE(in)
		if err != nil {
			return err
		}
		require.Equal(t, "message", e.Name)
		require.Contains(t, e.Data, strconv.Quote(brokertest.Body(fmt.Sprint(i))))
	}
	return nil
}

// What a member has read from a stream it may acknowledge, also if the push of it is still to come.
func TestStreamedPostCanBeAcknowledgedBeforeItsPush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo", explicit)
		ana.Request(frame{"type": "topic_create", "name": "ops"})
		bo.Request(frame{"type": "topic_join", "topic": "ops"})
		bo.Request(frame{"type": "set_status", "status": "dnd"}) // the push waits
		secret := bo.Request(frame{"type": "apikey_create", "label": "x", "capabilities": []string{"read"}})["secret"].(string)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+brokertest.Host+"/v1/topics/ops/stream", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+secret)
		resp, err := mesh.HTTP.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		until := func(prefix string) string {
			for lines.Scan() {
				if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
					return rest
				}
			}
			t.Fatal("the stream ended")
			return ""
		}
		until("event: ready")
		ana.Say("#ops", "next", "read in the stream")
		bo.Request(frame{"type": "client_ack", "brokerMessageId": until("id: ")})
		bo.Request(frame{"type": "set_status", "status": "idle"})
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Empty(t, bo.Pushes())
	})
}
