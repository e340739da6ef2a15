package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/audit"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/client"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// auditStore is a store whose audit log a test can hold up, break or change on the way out.
type auditStore struct {
	store.Store
	page func(ctx context.Context, entries []store.AuditEntry) ([]store.AuditEntry, error) // after AuditPage
	head func(h store.AuditHead) store.AuditHead                                           // after AuditHead
	fail func(what string) error                                                           // before any of them, and AppendAudit
	open func()                                                                            // before OpenPresence
}

func (s *auditStore) wrap(o *broker.Options) { s.Store, o.Store = o.Store, s }

func (s *auditStore) err(what string) error {
	if s.fail == nil {
		return nil
	}
	return s.fail(what)
}

func (s *auditStore) AuditPage(ctx context.Context, mesh string, after int64, limit int) ([]store.AuditEntry, error) {
	if err := s.err("AuditPage"); err != nil {
		return nil, err
	}
	entries, err := s.Store.AuditPage(ctx, mesh, after, limit)
	if err == nil && s.page != nil {
		return s.page(ctx, entries)
	}
	return entries, err
}

func (s *auditStore) AuditHead(ctx context.Context, mesh string) (store.AuditHead, error) {
	if err := s.err("AuditHead"); err != nil {
		return store.AuditHead{}, err
	}
	h, err := s.Store.AuditHead(ctx, mesh)
	if err == nil && s.head != nil {
		h = s.head(h)
	}
	return h, err
}

func (s *auditStore) AuditLog(ctx context.Context, q store.AuditQuery) ([]store.AuditEntry, int, error) {
	if err := s.err("AuditLog"); err != nil {
		return nil, 0, err
	}
	return s.Store.AuditLog(ctx, q)
}

func (s *auditStore) AppendAudit(ctx context.Context, mesh string, events ...store.AuditEvent) error {
	if err := s.err("AppendAudit"); err != nil {
		return err
	}
	return s.Store.AppendAudit(ctx, mesh, events...)
}

func (s *auditStore) CheckpointMesh(ctx context.Context, mesh string, now time.Time) error {
	if err := s.err("CheckpointMesh"); err != nil {
		return err
	}
	return s.Store.CheckpointMesh(ctx, mesh, now)
}

func (s *auditStore) OpenPresence(ctx context.Context, p store.Presence, audit ...store.AuditEvent) (int64, error) {
	if s.open != nil {
		s.open()
	}
	return s.Store.OpenPresence(ctx, p, audit...)
}

// logged is the audit log of a mesh, oldest first.
func logged(t testing.TB, s store.Store, meshID string) []store.AuditEntry {
	t.Helper()
	var all []store.AuditEntry
	for after := int64(0); ; {
		page, err := s.AuditPage(t.Context(), meshID, after, 1000)
		require.NoError(t, err)
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		after = page[len(page)-1].ID
	}
}

// trail is the types of entries, without checkpoints.
func trail(entries []store.AuditEntry) []string {
	out := []string{}
	for _, e := range entries {
		if e.Type != identity.CheckpointEvent {
			out = append(out, e.Type)
		}
	}
	return out
}

// happened appends n events to a log.
func happened(t testing.TB, s store.Store, meshID string, n int) {
	t.Helper()
	events := make([]store.AuditEvent, 0, 100)
	for i := range n {
		events = append(events, store.AuditEvent{
			Type: wire.AuditMessageSent, ActorMemberID: "somebody", ActorName: "Somebody", At: time.Now().UTC().Truncate(time.Millisecond),
			Payload: json.RawMessage(fmt.Sprintf(`{"message_id":"m%d","priority":"next","target":"*"}`, i)),
		})
		if len(events) == cap(events) || i == n-1 {
			require.NoError(t, s.AppendAudit(t.Context(), meshID, events...))
			events = events[:0]
		}
	}
}

// H30: who writes to whom is for admins; others are shown what they did themselves, and another mesh nothing.
func TestH30MembersSeeTheirOwnEntriesOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo, cy := mesh.Dial("ana"), mesh.Dial("bo"), mesh.Dial("cy")
		bo.Say("*", "next", "one")
		cy.Say(bo.Member.Pubkey, "next", "two")
		newTopic(t, bo, "plans", "private")
		key, err := identity.GenerateKey()
		require.NoError(t, err)
		other, err := mesh.Broker.CreateMesh(t.Context(), broker.NewMesh{Slug: "other"})
		require.NoError(t, err)
		eve, err := mesh.Broker.AddMember(t.Context(), other.ID, broker.NewMember{Name: "eve", Pubkey: key.Public(), Role: store.RoleAdmin})
		require.NoError(t, err)
		stranger := hostSignIn(t, mesh, eve, key, nil)

		ask := func(c *brokertest.Conn, f frame) ([]frame, int) {
			reply := c.Request(merged(frame{"type": "audit_query"}, f))
			require.Equal(t, "audit_result", reply.Type(), "%v", reply)
			return list(t, reply, "entries"), int(reply["total"].(float64))
		}
		all := logged(t, mesh.Store, mesh.ID)
		entries, total := ask(ana, nil)
		require.Equal(t, len(all), total)
		require.Len(t, entries, total)
		for i, e := range entries {
			want := all[len(all)-1-i]
			require.EqualValues(t, want.ID, e["id"], "newest first")
			require.Equal(t, want.Type, e.Str("eventType"))
			require.Equal(t, want.Hash, e.Str("hash"))
			require.Equal(t, identity.ChainTime(want.At), e.Str("createdAt"))
			payload, err := json.Marshal(e["payload"])
			require.NoError(t, err)
			require.JSONEq(t, string(want.Payload), string(payload))
			require.Len(t, e, 6)
		}
		entries, total = ask(bo, nil)
		require.Equal(t, []string{"topic_created", "message_sent", "peer_joined"}, column(entries, "eventType"))
		require.Equal(t, []string{"bo", "bo", "bo"}, column(entries, "actor"))
		require.Equal(t, 3, total)
		entries, total = ask(cy, frame{"eventType": "message_sent"})
		require.Len(t, entries, 1)
		require.Equal(t, 1, total)
		entries, total = ask(cy, frame{"eventType": "topic_created"})
		require.Empty(t, entries)
		require.Zero(t, total)
		entries, total = ask(ana, frame{"eventType": "message_sent", "limit": 1, "offset": 1})
		require.Equal(t, []string{"bo"}, column(entries, "actor"))
		require.Equal(t, 2, total)
		require.Equal(t, "forbidden", bo.Request(frame{"type": "audit_export"}).Str("code"))

		entries, _ = ask(stranger, nil)
		require.Equal(t, []string{"peer_joined", "member_joined"}, column(entries, "eventType"))
		require.Equal(t, []string{"eve", "system"}, column(entries, "actor"))
		page := stranger.Request(frame{"type": "audit_export"})
		require.Equal(t, other.ID, page.Str("meshId"))
		require.Len(t, list(t, page, "entries"), 3, "with the checkpoint that it begins with")
		require.Equal(t, map[string]any{"type": "audit_verify_result", "valid": true, "entries": 3.0}, bare(stranger.Request(frame{"type": "audit_verify"})))

		require.NoError(t, mesh.Broker.SetMemberRole(t.Context(), mesh.ID, ana.Member.ID, store.RoleMember))
		_, total = ask(ana, nil)
		require.Equal(t, 1, total, "a role counts from the next request on")
	})
}

// bare is a frame without its _reqId.
func bare(f frame) map[string]any {
	out := maps.Clone(map[string]any(f))
	delete(out, "_reqId")
	return out
}

// The actor is a name, else an id, else the system; a page is cut before it is too large.
func TestAuditQueryPages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana := mesh.Dial("ana", brokertest.With(frame{"displayName": "ana's editor"}))
		big := json.RawMessage(`{"x":"` + strings.Repeat("x", 40_000) + `"}`)
		for _, e := range []store.AuditEvent{{}, {ActorMemberID: "m1"}, {ActorMemberID: "m1", ActorName: "Em"}} {
			e.Type, e.Payload, e.At = "peer_left", big, time.Now().UTC()
			require.NoError(t, mesh.Store.AppendAudit(t.Context(), mesh.ID, e))
		}
		reply := ana.Request(frame{"type": "audit_query", "limit": 4})
		require.Equal(t, []string{"Em", "m1", "system", "ana's editor"}, column(list(t, reply, "entries"), "actor"))
		require.NotContains(t, reply, "truncated")
		for range 200 {
			require.NoError(t, mesh.Store.AppendAudit(t.Context(), mesh.ID, store.AuditEvent{Type: "peer_left", Payload: big, At: time.Now().UTC()}))
		}
		reply = ana.Request(frame{"type": "audit_query", "limit": 500})
		require.Equal(t, true, reply["truncated"])
		require.EqualValues(t, 205, reply["total"])
		n := len(list(t, reply, "entries"))
		require.Greater(t, n, 90)
		require.Less(t, n, 110)
		rest := ana.Request(frame{"type": "audit_query", "limit": 90, "offset": n})
		require.Len(t, list(t, rest, "entries"), 90, "and so on")

		// An export page is cut in the same way, and the next begins behind it.
		seen, after := 0, 0.0
		for more := true; more; {
			page := ana.Request(frame{"type": "audit_export", "afterId": after})
			entries := list(t, page, "entries")
			require.Less(t, len(entries), 150)
			seen += len(entries)
			after, more = entries[len(entries)-1]["id"].(float64), page["more"].(bool)
		}
		require.Equal(t, 206, seen, "with a checkpoint")
	})
}

// D35: arguments are checked before anything is asked of the store, and a store that fails is not quoted.
func TestD35AuditRequestsTellNothingOfTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &auditStore{}
		mesh := brokertest.New(t, s.wrap)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		s.fail = func(what string) error {
			return fmt.Errorf(`%s: SELECT * FROM audit WHERE mesh = '%s': %w`, what, mesh.ID, store.ErrUnavailable)
		}
		for _, c := range []struct {
			f    frame
			code string
		}{
			{frame{"type": "audit_query", "limit": "1; DROP TABLE audit"}, "malformed"},
			{frame{"type": "audit_query", "limit": 0}, "invalid_args"},
			{frame{"type": "audit_query", "limit": 1e300}, "invalid_args"},
			{frame{"type": "audit_query", "offset": -1}, "invalid_args"},
			{frame{"type": "audit_query", "offset": 1e15}, "invalid_args"},
			{frame{"type": "audit_query", "eventType": []string{"x"}}, "malformed"},
			{frame{"type": "audit_query", "eventType": "' OR 1=1\x00"}, "invalid_args"},
			{frame{"type": "audit_export", "afterId": "x"}, "malformed"},
			{frame{"type": "audit_export", "afterId": -5}, "invalid_args"},
			{frame{"type": "audit_query"}, "audit_query_error"},
			{frame{"type": "audit_verify"}, "audit_verify_error"},
			{frame{"type": "audit_export"}, "internal"},
		} {
			reply := ana.Request(c.f)
			require.Equal(t, c.code, reply.Str("code"), "%v: %v", c.f, reply)
			for _, word := range []string{"SELECT", "audit WHERE", "unavailable", "DROP", mesh.ID} {
				require.NotContains(t, reply.Str("message"), word)
			}
		}
		require.Equal(t, "audit_query_error", bo.Request(frame{"type": "audit_query"}).Str("code"))
		s.fail = nil
		require.Empty(t, list(t, ana.Request(frame{"type": "audit_query", "eventType": "' OR 1=1 --"}), "entries"))
		require.Len(t, list(t, ana.Request(frame{"type": "audit_query", "limit": nil, "offset": nil, "eventType": nil}), "entries"), 4)
	})
}

// H30: verifying reads a whole log, so those who do not govern the mesh do it once a minute, all together.
func TestH30MembersVerifyOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo, cy := mesh.Dial("ana"), mesh.Dial("bo"), mesh.Dial("cy")
		verify := func(c *brokertest.Conn) frame { return c.Request(frame{"type": "audit_verify"}) }
		require.Equal(t, true, verify(bo)["valid"])
		refused := verify(cy)
		require.Equal(t, "rate_limit", refused.Str("code"))
		require.Contains(t, refused.Str("message"), "1m0s")
		for range 3 {
			require.Equal(t, true, verify(ana)["valid"])
		}
		time.Sleep(59 * time.Second)
		require.Equal(t, "rate_limit", verify(bo).Str("code"))
		time.Sleep(time.Second)
		require.Equal(t, true, verify(cy)["valid"])
		require.Equal(t, "rate_limit", verify(bo).Str("code"))
	})
}

// A verification that takes minutes holds nobody up, not even its own connection, and its reply keeps its place.
func TestAuditVerifyHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &auditStore{}
		mesh := brokertest.New(t, s.wrap)
		ana, bo := mesh.Dial("ana", explicit), mesh.Dial("bo", explicit)
		release := make(chan struct{})
		s.page = func(_ context.Context, entries []store.AuditEntry) ([]store.AuditEntry, error) {
			<-release
			return entries, nil
		}
		ana.Send(frame{"type": "audit_verify", "_reqId": "1"})
		time.Sleep(5 * time.Minute) // twice over the time after which a silent peer is dropped
		require.Equal(t, true, bo.Say(ana.Member.Pubkey, "now", "still there?")["queued"])
		require.Equal(t, "still there?", brokertest.Text(ana.ExpectPush()))
		ana.Send(frame{"type": "send", "_reqId": "2", "targetSpec": bo.Member.Pubkey, "nonce": "", "ciphertext": brokertest.Body("yes")})
		require.Equal(t, "yes", brokertest.Text(bo.ExpectPush()), "what stands behind it takes effect")
		ana.Send(frame{"type": "audit_verify", "_reqId": "3"})
		ana.Send(frame{"type": "list_peers", "_reqId": "4"})
		synctest.Wait()
		require.Empty(t, ana.Waiting())
		close(release)
		synctest.Wait()
		var got []string
		for _, f := range ana.Waiting() {
			got = append(got, f.Str("_reqId")+" "+f.Type()+f.Str("code"))
			if f.Str("_reqId") == "3" {
				require.Equal(t, "rate_limit", f.Str("code"), "one at a time")
			}
		}
		require.Equal(t, []string{"1 audit_verify_result", "2 ack", "3 errorrate_limit", "4 peers_list"}, got)
		require.Equal(t, true, ana.Request(frame{"type": "audit_verify"})["valid"], "and then another")
	})
}

// Nobody waits for a verification whose connection ends: not the member's leave, not a ban, not the broker's end.
func TestAuditVerifyEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, mesh *brokertest.Mesh, c *brokertest.Conn){
		"the client leaves": func(_ *testing.T, _ *brokertest.Mesh, c *brokertest.Conn) { c.Close() },
		"the network fails": func(_ *testing.T, _ *brokertest.Mesh, c *brokertest.Conn) { c.Cut() },
		"a ban": func(t *testing.T, mesh *brokertest.Mesh, c *brokertest.Conn) {
			require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, c.Member.ID))
			code, _ := c.Closed()
			require.Equal(t, wire.CloseBanned, code)
		},
		"a shutdown": func(t *testing.T, mesh *brokertest.Mesh, c *brokertest.Conn) {
			require.NoError(t, mesh.Broker.Shutdown(t.Context()))
			code, _ := c.Closed()
			require.Equal(t, wire.CloseGoingAway, code)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &auditStore{}
				mesh := brokertest.New(t, s.wrap)
				c := mesh.Dial("ana")
				ended := make(chan time.Time, 1)
				s.page = func(ctx context.Context, _ []store.AuditEntry) ([]store.AuditEntry, error) {
					<-ctx.Done()
					ended <- time.Now()
					return nil, ctx.Err()
				}
				c.Send(frame{"type": "audit_verify", "_reqId": "1"})
				synctest.Wait()
				from := time.Now()
				end(t, mesh, c)
				require.Less(t, (<-ended).Sub(from), time.Second)
			})
		})
	}
}

// What was done to a log in the store is found, and the entry named.
func TestAuditVerifyFindsWhatWasDone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &auditStore{}
		mesh := brokertest.New(t, s.wrap)
		ana := mesh.Dial("ana")
		happened(t, mesh.Store, mesh.ID, 1500)
		all := logged(t, mesh.Store, mesh.ID)
		checkpoint := all[slices.IndexFunc(all, func(e store.AuditEntry) bool { return e.Type == identity.CheckpointEvent })]
		victim := all[700]
		verify := func() frame { return ana.Request(frame{"type": "audit_verify"}) }
		require.Equal(t, map[string]any{"type": "audit_verify_result", "valid": true, "entries": float64(len(all))}, bare(verify()))

		forger, err := identity.GenerateKey()
		require.NoError(t, err)
		each := func(change func(e *store.AuditEntry)) func(context.Context, []store.AuditEntry) ([]store.AuditEntry, error) {
			return func(_ context.Context, entries []store.AuditEntry) ([]store.AuditEntry, error) {
				for i := range entries {
					change(&entries[i])
				}
				return entries, nil
			}
		}
		var prev string
		rewrite := func(sign bool) func(context.Context, []store.AuditEntry) ([]store.AuditEntry, error) {
			return each(func(e *store.AuditEntry) {
				switch {
				case e.ID < victim.ID:
					return
				case e.ID == victim.ID:
					e.ActorMemberID, prev = "somebody else", e.PrevHash
				case sign && e.Type == identity.CheckpointEvent:
					e.Payload = identity.NewCheckpoint(mesh.ID, 999, prev, identity.ChainTime(e.At), forger).Payload()
				}
				e.PrevHash = prev
				e.Hash = identity.ChainHash(prev, mesh.ID, e.Type, e.ActorMemberID, string(e.Payload), identity.ChainTime(e.At))
				prev = e.Hash
			})
		}
		next := all[701].ID
		for _, c := range []struct {
			name string
			page func(context.Context, []store.AuditEntry) ([]store.AuditEntry, error)
			head func(h store.AuditHead) store.AuditHead
			at   any
		}{
			{"type", each(func(e *store.AuditEntry) {
				if e.ID == victim.ID {
					e.Type = "peer_left"
				}
			}), nil, victim.ID},
			{"payload", each(func(e *store.AuditEntry) {
				if e.ID == victim.ID {
					e.Payload = json.RawMessage(`{}`)
				}
			}), nil, victim.ID},
			{"payload that is no JSON", each(func(e *store.AuditEntry) {
				if e.ID == victim.ID {
					e.Payload = json.RawMessage(`{`)
				}
			}), nil, victim.ID},
			{"time", each(func(e *store.AuditEntry) {
				if e.ID == victim.ID {
					e.At = e.At.Add(time.Millisecond)
				}
			}), nil, victim.ID},
			{"deleted", func(_ context.Context, entries []store.AuditEntry) ([]store.AuditEntry, error) {
				return slices.DeleteFunc(entries, func(e store.AuditEntry) bool { return e.ID == victim.ID }), nil
			}, nil, next},
			{"rewritten", rewrite(false), nil, checkpoint.ID},
			{"rewritten and signed by another", rewrite(true), nil, checkpoint.ID},
			{"cut", func(_ context.Context, entries []store.AuditEntry) ([]store.AuditEntry, error) {
				return slices.DeleteFunc(entries, func(e store.AuditEntry) bool { return e.ID >= victim.ID }), nil
			}, nil, nil},
			{"another end", nil, func(h store.AuditHead) store.AuditHead { h.Hash = victim.Hash; return h }, all[len(all)-1].ID},
			{"another anchor", nil, func(h store.AuditHead) store.AuditHead { h.AnchorHash = victim.Hash; return h }, all[0].ID},
		} {
			s.page, s.head = c.page, c.head
			reply := verify()
			require.Equal(t, false, reply["valid"], c.name)
			if c.at == nil {
				require.NotContains(t, reply, "brokenAt", c.name)
				require.EqualValues(t, 700, reply["entries"], c.name)
				continue
			}
			require.EqualValues(t, c.at, reply["brokenAt"], c.name)
			require.EqualValues(t, len(all), reply["entries"], c.name)
			v, err := mesh.Broker.VerifyAudit(t.Context(), mesh.ID)
			require.NoError(t, err)
			require.EqualValues(t, c.at, v.BrokenAt)
			require.NotEmpty(t, v.Reason)
		}
		_, err = mesh.Broker.VerifyAudit(t.Context(), "nowhere")
		require.ErrorIs(t, err, store.ErrNotFound)
	})
}

// H38: the log is read in pages while others write to it, and what they write, or what is pruned, is no failure.
func TestH38VerifyWhileTheLogGrowsAndIsPruned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &auditStore{}
		mesh := brokertest.New(t, s.wrap)
		happened(t, mesh.Store, mesh.ID, 3000)
		inner := s.Store
		pages, largest := 0, 0
		s.page = func(_ context.Context, entries []store.AuditEntry) ([]store.AuditEntry, error) {
			pages++
			largest = max(largest, len(entries))
			happened(t, inner, mesh.ID, 500) // faster than they are read
			return entries, nil
		}
		v, err := mesh.Broker.VerifyAudit(t.Context(), mesh.ID)
		require.NoError(t, err)
		require.True(t, v.Valid, v.Reason)
		require.EqualValues(t, 3003, v.Entries, "as it was at the beginning")
		require.LessOrEqual(t, largest, 250)
		require.LessOrEqual(t, pages, 14)

		once := sync.OnceFunc(func() { happened(t, inner, mesh.ID, 25_000) }) // all that there was is gone
		calls := 0
		s.page = func(_ context.Context, entries []store.AuditEntry) ([]store.AuditEntry, error) {
			if calls++; calls == 2 {
				once()
			}
			return entries, nil
		}
		v, err = mesh.Broker.VerifyAudit(t.Context(), mesh.ID)
		require.NoError(t, err)
		require.True(t, v.Valid, v.Reason)
		require.EqualValues(t, 20_000, v.Entries)

		s.page = func(_ context.Context, entries []store.AuditEntry) ([]store.AuditEntry, error) {
			happened(t, inner, mesh.ID, 20_000)
			return entries, nil
		}
		_, err = mesh.Broker.VerifyAudit(t.Context(), mesh.ID)
		require.ErrorContains(t, err, "pruned faster")
		require.ErrorIs(t, mesh.Broker.ExportAudit(t.Context(), mesh.ID, &bytes.Buffer{}), audit.ErrPruned)
	})
}

// An event that cannot be kept fails what it tells, wherever it is not one with the operation.
func TestWhatCannotBeLoggedIsNotDone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &auditStore{}
		mesh := brokertest.New(t, s.wrap, func(o *broker.Options) { o.LeaseGrace, o.HelloDeadline = 5*time.Second, -1 })
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		ctx := t.Context()
		s.fail = func(what string) error {
			if what == "AppendAudit" {
				return errStore
			}
			return nil
		}
		before := logged(t, s.Store, mesh.ID)
		require.Equal(t, "internal", ana.Request(frame{"type": "disconnect", "target": "bo"}).Str("code"))
		require.ErrorIs(t, mesh.Broker.Disconnect(ctx, mesh.ID, bo.Member.ID), errStore)
		require.True(t, mesh.Broker.Online(mesh.ID, bo.Member.ID), "it is still there")
		require.Equal(t, before, logged(t, s.Store, mesh.ID))

		// A session that comes back when its lease is over: the place that could not be told is not there.
		key := sessionKey(t)
		cy := mesh.Dial("cy", brokertest.SessionKey(key))
		s.open = func() { time.Sleep(6 * time.Second) }
		cy.Cut()
		time.Sleep(time.Second)
		c := mesh.Connect()
		c.Read()
		c.Send(mesh.HelloFrame(mesh.Member("cy"), &key, false, frame{"sessionId": "later", "pid": 1, "cwd": "/"}))
		require.Equal(t, "internal", c.Expect().Str("code"))
		require.Len(t, mesh.Broker.Sessions(mesh.ID), 2, "ana and bo")
		s.open, s.fail = nil, nil
		mesh.Dial("cy", brokertest.SessionKey(key))
		require.Len(t, mesh.Broker.Sessions(mesh.ID), 3)
	})
}

// balanced checks that the log has a leave for each join whose place is gone, and none for the others.
func balanced(t *testing.T, mesh *brokertest.Mesh) {
	t.Helper()
	open := map[string]int{}
	for _, e := range logged(t, mesh.Store, mesh.ID) {
		switch e.Type {
		case wire.AuditPeerJoined:
			open[e.ActorMemberID]++
		case wire.AuditPeerLeft:
			open[e.ActorMemberID]--
		}
	}
	maps.DeleteFunc(open, func(_ string, n int) bool { return n == 0 })
	here := map[string]int{}
	for _, s := range mesh.Broker.Sessions(mesh.ID) {
		here[s.MemberID]++
	}
	require.Equal(t, here, open)
}

// Whatever becomes of sessions, the log tells each coming and going once: leases that end, replacements, restarts, and a return that comes too late.
func TestAuditTellsComingAndGoingOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &auditStore{}
		mesh := brokertest.New(t, s.wrap, func(o *broker.Options) { o.HelloDeadline = -1 })
		key := func() brokertest.DialOption { return brokertest.SessionKey(sessionKey(t)) }
		named := brokertest.With(frame{"sessionId": "ana's"})
		mesh.Dial("ana", named)
		balanced(t, mesh)
		first := sessionKey(t)
		bo := mesh.Dial("bo", brokertest.SessionKey(first))
		bo.Cut()
		time.Sleep(10 * time.Second)
		before := len(logged(t, mesh.Store, mesh.ID))
		bo = mesh.Dial("bo", brokertest.SessionKey(first))
		require.Len(t, logged(t, mesh.Store, mesh.ID), before, "who comes back in time was never gone")
		same := brokertest.With(frame{"sessionId": "same"})
		mesh.Dial("cy", key(), same)
		mesh.Dial("cy", key(), same)
		require.Equal(t, []string{"peer_joined", "peer_left", "peer_joined"}, trail(logged(t, mesh.Store, mesh.ID)[before+1:]), "one replaces the other")
		balanced(t, mesh)
		bo.Close()
		synctest.Wait()
		balanced(t, mesh)

		// A restart is no leave, unless nobody comes back.
		mesh.Dial("dee", key())
		before = len(logged(t, mesh.Store, mesh.ID))
		mesh.Restart()
		synctest.Wait()
		balanced(t, mesh)
		require.Len(t, logged(t, mesh.Store, mesh.ID), before)
		ana := mesh.Dial("ana", named)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		balanced(t, mesh)

		// The lease runs out while the store is busy with the return.
		late := sessionKey(t)
		eve := mesh.Dial("eve", brokertest.SessionKey(late))
		eve.Cut()
		time.Sleep(80 * time.Second)
		s.open = func() { time.Sleep(20 * time.Second) }
		before = len(logged(t, mesh.Store, mesh.ID))
		at := time.Now()
		mesh.Dial("eve", brokertest.SessionKey(late))
		s.open = nil
		since := logged(t, mesh.Store, mesh.ID)[before:]
		require.Equal(t, []string{"peer_left", "peer_joined"}, trail(since))
		require.WithinDuration(t, at, since[1].At, time.Second)
		balanced(t, mesh)

		require.NoError(t, mesh.Broker.RevokeMember(t.Context(), mesh.ID, mesh.Member("eve").ID))
		require.NoError(t, mesh.Broker.Disconnect(t.Context(), mesh.ID, ana.Member.ID))
		synctest.Wait()
		balanced(t, mesh)
		require.Empty(t, mesh.Broker.Sessions(mesh.ID))
	})
}

// eventRow is a row of the table of audit events: the type, and the names of its payload.
var eventRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|([^|]*)\\|[^|]*\\|$")

// documentedEvents is the table of docs/protocol.md: for each type its names, true for those that must be there.
func documentedEvents(t *testing.T) map[string]map[string]bool {
	t.Helper()
	raw, err := os.ReadFile("docs/protocol.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(raw), "\n## Audit\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	_, section, found = strings.Cut(section, "| `eventType` | `payload` | When |")
	require.True(t, found)
	events := map[string]map[string]bool{}
	for _, row := range eventRow.FindAllStringSubmatch(section, -1) {
		names := map[string]bool{}
		for _, n := range regexp.MustCompile("`([a-zA-Z_]+)(\\??)`").FindAllStringSubmatch(row[2], -1) {
			names[n[1]] = n[2] == ""
		}
		events[row[1]] = names
	}
	return events
}

// requireDocumented holds a log to the table: no type and no name of a payload that is not there, and all that must be.
func requireDocumented(t *testing.T, entries []store.AuditEntry) {
	t.Helper()
	events := documentedEvents(t)
	for _, e := range entries {
		names, known := events[e.Type]
		require.True(t, known, "%s is not in docs/protocol.md", e.Type)
		var payload map[string]any
		require.NoError(t, json.Unmarshal(e.Payload, &payload))
		for n := range payload {
			require.Contains(t, names, n, "%s %s", e.Type, e.Payload)
		}
		for n, must := range names {
			if must {
				require.Contains(t, payload, n, "%s %s", e.Type, e.Payload)
			}
		}
	}
}

func TestProtocolDocListsEveryAuditEvent(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("wire/audit.go")
	require.NoError(t, err)
	types := []string{identity.CheckpointEvent}
	for _, m := range regexp.MustCompile(`(?m)^\tAudit\w+ += "([a-z_]+)"$`).FindAllSubmatch(source, -1) {
		types = append(types, string(m[1]))
	}
	require.Greater(t, len(types), 15)
	require.ElementsMatch(t, types, slices.Collect(maps.Keys(documentedEvents(t))))
}

// Each operation that changes who may do what, or what there is, leaves its entry, once, with its actor and the names of the table.
func TestAuditRecordsEachOperation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ctx := t.Context()
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		cy := mesh.Member("cy")
		member := func(c *brokertest.Conn) string { return c.Member.ID }
		var topic, private, keyID, hostKeyID string
		for _, c := range []struct {
			name  string
			do    func()
			want  []string // types
			actor string
			has   frame
		}{
			{"a message", func() { ana.Say("@dev", "low", "hi") }, []string{"message_sent"}, member(ana), frame{"target": "@dev", "priority": "low"}},
			{"a refused message", func() { ana.Say(strings.Repeat("0", 64), "now", "hi") }, nil, "", nil},
			{"a new topic", func() { topic = newTopic(t, ana, "plans", "public") }, []string{"topic_created"}, member(ana), frame{"name": "plans", "visibility": "public"}},
			{"the same topic again", func() { ana.Request(frame{"type": "topic_create", "name": "plans"}) }, nil, "", nil},
			{"entering it", func() { done(t, bo, frame{"type": "topic_join", "topic": "plans", "role": "lead"}) }, []string{"topic_member_added"}, member(bo), frame{"target": member(bo), "role": "member"}},
			{"entering it again", func() { done(t, bo, frame{"type": "topic_join", "topic": "plans"}) }, nil, "", nil},
			{"a new role in it", func() {
				done(t, ana, frame{"type": "topic_add", "topic": "plans", "member": member(bo), "role": "lead"})
			}, []string{"topic_member_added"}, member(ana), frame{"target": member(bo), "role": "lead"}},
			{"leaving it", func() { done(t, bo, frame{"type": "topic_leave", "topic": "plans"}) }, []string{"topic_member_left"}, member(bo), frame{"name": "plans"}},
			{"leaving it again", func() { done(t, bo, frame{"type": "topic_leave", "topic": "plans"}) }, nil, "", nil},
			{"entering it by creating it", func() { bo.Request(frame{"type": "topic_create", "name": "plans"}) }, []string{"topic_member_added"}, member(bo), nil},
			{"entering it by reading it", func() {
				restKey(t, mesh, "cy", reads).ok("PATCH", topicPath("plans", "/read"), nil)
			}, []string{"apikey_created", "topic_member_added"}, cy.ID, frame{"target": cy.ID, "topic": &topic}},
			{"reading it again", func() { restKey(t, mesh, "cy", reads).ok("PATCH", topicPath("plans", "/read"), nil) }, []string{"apikey_created"}, "", nil},
			{"a private topic", func() { private = newTopic(t, bo, "hr", "private") }, []string{"topic_created"}, member(bo), frame{"topic": &private}},
			{"an admin who lets itself in", func() { done(t, ana, frame{"type": "topic_join", "topic": "hr"}) }, []string{"topic_member_added"}, member(ana), frame{"name": "hr", "target": member(ana)}},
			{"a stranger who does not", func() { mesh.Dial("dan").Request(frame{"type": "topic_join", "topic": "hr"}) }, []string{"member_joined", "peer_joined"}, "*", nil},
			{"archiving", func() { done(t, bo, frame{"type": "topic_archive", "topic": "hr"}) }, []string{"topic_archived"}, member(bo), frame{"topic": &private}},
			{"restoring", func() { require.NoError(t, mesh.Broker.RestoreTopic(ctx, mesh.ID, private)) }, []string{"topic_restored"}, "", frame{"name": "hr"}},
			{"restoring again", func() { require.NoError(t, mesh.Broker.RestoreTopic(ctx, mesh.ID, private)) }, nil, "", nil},
			{"an API key", func() { keyID = createKey(bo, nil).Str("id") }, []string{"apikey_created"}, member(bo), frame{"id": &keyID, "issuer": member(bo)}},
			{"its end", func() { bo.Request(frame{"type": "apikey_revoke", "id": keyID}) }, []string{"apikey_revoked"}, member(bo), frame{"id": &keyID}},
			{"its end again", func() { bo.Request(frame{"type": "apikey_revoke", "id": keyID}) }, nil, "", nil},
			{"an API key of the host", func() {
				_, k, err := mesh.Broker.CreateAPIKey(ctx, mesh.ID, broker.NewAPIKey{Label: "x", Capabilities: reads, TopicScopes: &[]string{"plans"}})
				require.NoError(t, err)
				hostKeyID = k.ID
			}, []string{"apikey_created"}, "", frame{"label": "x"}},
			{"its end by the host", func() { require.NoError(t, mesh.Broker.RevokeAPIKey(ctx, mesh.ID, hostKeyID)) }, []string{"apikey_revoked"}, "", frame{"id": &hostKeyID}},
			{"a message over REST", func() {
				restKey(t, mesh, "bo", readSend).post("plans", "hi")
			}, []string{"apikey_created", "message_sent"}, member(bo), frame{"priority": "next"}},
			{"a member of the host", func() { mesh.Enroll(broker.NewMember{Name: "fay", Role: store.RoleAdmin}) }, []string{"member_joined"}, "", frame{"role": "admin"}},
			{"a member by invite", func() {
				token, _ := hostInvite(t, mesh, broker.InviteOptions{})
				require.Equal(t, 200, hostPostJoin(t, mesh.Broker, hostJoin(t, token, hostKey(t), "gil")).code)
			}, []string{"member_joined"}, "*", nil},
			{"an owner", func() { require.NoError(t, mesh.Broker.SetOwner(ctx, mesh.ID, cy.ID, "")) }, []string{"owner_set", "topic_member_added"}, "", frame{"target": cy.ID, "role": "lead"}},
			{"no owner", func() { require.NoError(t, mesh.Broker.SetOwner(ctx, mesh.ID, "", "")) }, nil, "", nil},
			{"an owner's key", func() { require.NoError(t, mesh.Broker.SetOwner(ctx, mesh.ID, "", hostKey(t).Public())) }, []string{"owner_set"}, "", nil},
			{"another key", func() {
				d := restKey(t, mesh, "bo", reads, func(n *broker.NewAPIKey) { n.Rekey = true })
				d.ok("POST", "/me/peer-pubkey", rekeyProof(mesh, mesh.Member("bo"), sessionKey(t), time.Now()))
			}, []string{"apikey_created", "member_rekeyed", "peer_left"}, member(bo), nil},
			{"what is nobody's business", func() {
				ana.Request(frame{"type": "set_summary", "summary": "x"})
				ana.Request(frame{"type": "set_grants", "grants": frame{}})
				ana.Request(frame{"type": "join_group", "name": "dev"})
				ana.Request(frame{"type": "audit_query"})
				ana.Request(frame{"type": "audit_verify"})
				ana.Request(frame{"type": "audit_export"})
			}, nil, "", nil},
		} {
			before := len(logged(t, mesh.Store, mesh.ID))
			c.do()
			synctest.Wait()
			since := slices.DeleteFunc(logged(t, mesh.Store, mesh.ID)[before:], func(e store.AuditEntry) bool {
				return e.Type == "invite_created" // by whoever makes the invite of the test
			})
			require.Equal(t, append([]string{}, c.want...), trail(since), c.name)
			requireDocumented(t, since)
			if len(since) == 0 {
				continue
			}
			last := since[len(since)-1]
			if c.actor != "*" {
				require.Equal(t, c.actor, last.ActorMemberID, c.name)
			}
			var payload map[string]any
			require.NoError(t, json.Unmarshal(last.Payload, &payload))
			for k, v := range c.has {
				if p, ok := v.(*string); ok {
					v = *p
				}
				require.Equal(t, v, payload[k], "%s: %s %s", c.name, last.Type, last.Payload)
			}
		}
		entries := logged(t, mesh.Store, mesh.ID)
		requireDocumented(t, entries)
		for _, e := range entries {
			canonical, err := identity.CanonicalJSON(e.Payload)
			require.NoError(t, err)
			require.Equal(t, string(canonical), string(e.Payload))
		}
		v, err := mesh.Broker.VerifyAudit(ctx, mesh.ID)
		require.NoError(t, err)
		require.True(t, v.Valid, v.Reason)
	})
}

// A log gets a checkpoint each hour, also where nothing happens; a host can forgo that.
func TestAuditCheckpointsByTheHour(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		every time.Duration
		want  int
	}{
		{"default", 0, 3}, {"shorter", 10 * time.Minute, 19}, {"never", -1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t, func(o *broker.Options) { o.AuditCheckpointInterval = c.every })
				for i := range 150 { // more meshes than one step takes
					_, err := mesh.Broker.CreateMesh(t.Context(), broker.NewMesh{ID: fmt.Sprintf("m%d", i)})
					require.NoError(t, err)
					happened(t, mesh.Store, fmt.Sprintf("m%d", i), 1)
				}
				mesh.Dial("ana").Close()
				time.Sleep(3*time.Hour + 10*time.Minute)
				for _, id := range []string{mesh.ID, "m0", "m149"} {
					entries := logged(t, mesh.Store, id)
					got := len(entries) - len(trail(entries))
					require.InDelta(t, c.want, got, float64(c.want)/10)
				}
				var file bytes.Buffer
				require.NoError(t, mesh.Broker.ExportAudit(t.Context(), mesh.ID, &file))
				report, err := audit.Verify(&file, audit.Options{Now: time.Now(), Interval: c.every})
				require.NoError(t, err)
				require.True(t, report.Valid)
				require.Zero(t, report.Unvouched, "an export ends with a checkpoint, whatever the interval")
				require.False(t, slices.ContainsFunc(report.Warnings, func(w audit.Warning) bool { return w.Code != audit.UntrustedKey }))
			})
		})
	}
}

// Nothing proves anything of what lies behind the last checkpoint, so whoever begins an export has the end signed first; but not twice, nor by asking
// for further pages, nor without being allowed to.
func TestAuditExportsEndWithACheckpoint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		checkpoints := func() int {
			all := logged(t, mesh.Store, mesh.ID)
			return len(all) - len(trail(all))
		}
		require.Equal(t, "forbidden", bo.Request(frame{"type": "audit_export"}).Str("code"))
		require.Equal(t, "invalid_args", ana.Request(frame{"type": "audit_export", "limit": 0}).Str("code"))
		require.NotNil(t, ana.Request(frame{"type": "audit_export", "afterId": 1})["entries"])
		require.Zero(t, checkpoints())
		for range 3 {
			for _, f := range []frame{{"type": "audit_export"}, {"type": "audit_export", "afterId": 0, "limit": 1}} {
				page := ana.Request(f)
				require.EqualValues(t, 5, page["count"])
				require.Equal(t, 1, checkpoints())
			}
			require.NoError(t, mesh.Broker.ExportAudit(t.Context(), mesh.ID, &bytes.Buffer{}))
			require.Equal(t, 1, checkpoints())
		}
		happened(t, mesh.Store, mesh.ID, 3)
		var file bytes.Buffer
		require.NoError(t, mesh.Broker.ExportAudit(t.Context(), mesh.ID, &file))
		require.Equal(t, 2, checkpoints())
		key, err := mesh.Broker.AuditKey(t.Context())
		require.NoError(t, err)
		report, err := audit.Verify(&file, audit.Options{Key: key})
		require.NoError(t, err)
		require.True(t, report.Valid, "%+v", report.Fault)
		require.Empty(t, report.Warnings)
		require.EqualValues(t, 9, report.Entries)
	})
}

// The constant of the file format is the store's.
func TestAuditFileAndStoreAgree(t *testing.T) {
	t.Parallel()
	require.Equal(t, store.AuditCheckpointEvery, audit.CheckpointEvery)
	require.Equal(t, store.AuditCheckpointEvery, 1000)
}

// D39: ten thousand entries, most of them of a running mesh, exported by the host and over the socket while others write, and after a restart.
func TestD39TenThousandEntriesVerifyFromAnExport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, func(o *broker.Options) { *o = o.Unlimited() })
		ctx := t.Context()
		ana := mesh.Dial("ana")
		key, err := mesh.Broker.AuditKey(ctx)
		require.NoError(t, err)
		talk := func(n int) { // and everything else that there is
			for i := range n {
				switch i % 100 {
				case 97:
					mesh.Dial("cy").Close()
				case 98:
					name := fmt.Sprint("topic ", i, time.Now().UnixNano())
					newTopic(t, ana, name, "public")
					done(t, ana, frame{"type": "topic_archive", "topic": name})
				case 99:
					ana.Request(frame{"type": "apikey_revoke", "id": createKey(ana, nil).Str("id")})
				default:
					ana.Send(frame{"type": "send", "targetSpec": "*", "priority": "next", "nonce": "", "ciphertext": brokertest.Body("hi")})
				}
			}
			ana.Request(frame{"type": "list_peers"})
			time.Sleep(time.Millisecond) // of the bubble
		}
		export := func() (string, audit.Report) {
			var file bytes.Buffer
			require.NoError(t, mesh.Broker.ExportAudit(ctx, mesh.ID, &file))
			report, err := audit.Verify(bytes.NewReader(file.Bytes()), audit.Options{Key: key})
			require.NoError(t, err)
			require.True(t, report.Valid, "%+v", report.Fault)
			require.Empty(t, report.Warnings)
			return file.String(), report
		}
		talk(6000)
		_, first := export()
		require.Greater(t, first.Entries, int64(6000))

		mesh.Restart()
		ana = mesh.Dial("ana")
		talk(2000)
		happened(t, mesh.Store, mesh.ID, 2000)
		file, report := export()
		require.GreaterOrEqual(t, report.Entries, int64(10_000))
		require.GreaterOrEqual(t, report.Checkpoints, int64(10))
		require.Less(t, report.Unvouched, int64(1000))
		again, err := audit.Verify(strings.NewReader(file), audit.Options{Key: key, After: first.Checkpoint})
		require.NoError(t, err)
		require.True(t, again.Valid && again.AfterFound, "the log goes on from the export before the restart")

		// An admin's export over the socket says the same, and what is written meanwhile is left out.
		require.NoError(t, mesh.Broker.SetMemberRole(ctx, mesh.ID, mesh.Member("bo").ID, store.RoleAdmin))
		bo := mesh.Join("bo")
		file, report = export()
		stop := make(chan struct{})
		var writers sync.WaitGroup
		for _, name := range []string{"dan", "eve"} {
			c := mesh.Dial(name)
			writers.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
						_ = c.TrySend(frame{"type": "send", "targetSpec": "*", "priority": "next", "nonce": "", "ciphertext": brokertest.Body("hi"), "_reqId": "w"})
						c.Expect("ack")
					}
				}
			})
		}
		var socket, beside bytes.Buffer
		var told int
		made, err := bo.AuditExport(ctx, &socket, client.AuditExportOptions{PageSize: 300, Progress: func(done, total int64) {
			told++
			require.LessOrEqual(t, done, total)
			if told == 5 { // and another at the same time
				require.NoError(t, mesh.Broker.ExportAudit(ctx, mesh.ID, &beside))
			}
		}})
		close(stop)
		writers.Wait()
		require.NoError(t, err)
		require.Greater(t, told, 30)
		require.GreaterOrEqual(t, made.Entries, report.Entries)
		for _, text := range []string{socket.String(), beside.String()} {
			r, err := audit.Verify(strings.NewReader(text), audit.Options{Key: key, After: report.Checkpoint})
			require.NoError(t, err)
			require.True(t, r.Valid && r.AfterFound, "%+v", r.Fault)
			lines, want := strings.Split(text, "\n"), strings.Split(file, "\n")
			require.Equal(t, want[1:len(want)-2], lines[1:len(want)-2], "entry for entry")
		}
		result, err := bo.AuditVerify(ctx)
		require.NoError(t, err)
		require.True(t, result.Valid)

		// What is done to the file is found, and to which entry.
		lines := strings.SplitAfter(file, "\n")
		at := 7777
		for !strings.Contains(lines[at], `"priority":"next"`) {
			at++
		}
		for name, touch := range map[string]func() []string{
			"change": func() []string {
				out := slices.Clone(lines)
				out[at] = strings.Replace(out[at], `"priority":"next"`, `"priority":"now"`, 1)
				return out
			},
			"delete": func() []string { return slices.Delete(slices.Clone(lines), at, at+1) },
			"insert": func() []string { return slices.Insert(slices.Clone(lines), at, lines[5]) },
			"swap": func() []string {
				out := slices.Clone(lines)
				out[at], out[at+1] = out[at+1], out[at]
				return out
			},
			"cut": func() []string { return append(slices.Clone(lines[:at]), lines[len(lines)-2]) },
		} {
			r, err := audit.Verify(strings.NewReader(strings.Join(touch(), "")), audit.Options{Key: key, After: first.Checkpoint})
			require.NoError(t, err)
			require.False(t, r.Valid, name)
			if name != "cut" {
				require.EqualValues(t, at+1, r.Fault.Line, "%s: %+v", name, r.Fault)
			}
		}
	})
}

// What the client says when the broker refuses, and when it does not say the truth.
func TestAuditOverTheClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &auditStore{}
		mesh := brokertest.New(t, s.wrap)
		ctx := t.Context()
		ana, bo := mesh.Join("ana"), mesh.Join("bo")
		bo.Send("ana", "hi")
		got, err := ana.AuditQuery(ctx, client.AuditQueryOptions{EventType: wire.AuditMessageSent})
		require.NoError(t, err)
		require.Len(t, got.Entries, 1)
		require.Equal(t, "bo", got.Entries[0].Actor)
		require.Equal(t, 1, got.Total)
		got, err = bo.AuditQuery(ctx, client.AuditQueryOptions{Limit: 2, Offset: 1})
		require.NoError(t, err)
		require.Equal(t, 3, got.Total)
		require.Equal(t, []string{"apikey_created", "peer_joined"}, []string{got.Entries[0].EventType, got.Entries[1].EventType})
		_, err = bo.AuditExport(ctx, &bytes.Buffer{}, client.AuditExportOptions{})
		require.ErrorIs(t, err, wire.Forbidden)
		_, err = bo.AuditVerify(ctx)
		require.NoError(t, err)
		from := time.Now()
		_, err = bo.AuditVerify(ctx)
		require.ErrorIs(t, err, wire.RateLimit)
		require.Less(t, time.Since(from), time.Second, "it does not wait a minute for its turn")
		_, err = bo.AuditQuery(ctx, client.AuditQueryOptions{Limit: 1})
		require.NoError(t, err, "and other requests do not wait for it either")

		happened(t, mesh.Store, mesh.ID, 600)
		inner := s.Store
		calls := 0
		s.page = func(_ context.Context, entries []store.AuditEntry) ([]store.AuditEntry, error) {
			if calls++; calls == 3 {
				happened(t, inner, mesh.ID, 21_000)
			}
			return entries, nil
		}
		_, err = ana.AuditExport(ctx, &bytes.Buffer{}, client.AuditExportOptions{PageSize: 100})
		require.ErrorIs(t, err, audit.ErrPruned)
		s.page = nil
		s.head = func(h store.AuditHead) store.AuditHead { h.Hash = strings.Repeat("0", 64); return h }
		var file bytes.Buffer
		_, err = ana.AuditExport(ctx, &file, client.AuditExportOptions{})
		require.NoError(t, err)
		report, err := audit.Verify(&file, audit.Options{})
		require.NoError(t, err)
		require.False(t, report.Valid, "the log ends otherwise than the broker says")
		disk := errors.New("disk")
		_, err = ana.AuditExport(ctx, badDisk{disk}, client.AuditExportOptions{})
		require.ErrorIs(t, err, disk)
	})
}

type badDisk struct{ err error }

func (d badDisk) Write([]byte) (int, error) { return 0, d.err }

// The ids of audit entries say nothing of other meshes.
func TestAuditIDsAreTheMeshsOwn(t *testing.T) {
	t.Parallel()
	mesh := brokertest.New(t)
	other, err := mesh.Broker.CreateMesh(t.Context(), broker.NewMesh{ID: "other"})
	require.NoError(t, err)
	last := func() int64 {
		require.NoError(t, mesh.Broker.SetState(t.Context(), mesh.ID, "key", []byte("1")))
		entries, total, err := mesh.Broker.AuditLog(t.Context(), store.AuditQuery{MeshID: mesh.ID, Limit: 1})
		require.NoError(t, err)
		require.EqualValues(t, total, entries[0].ID)
		return entries[0].ID
	}
	before := last()
	for range 10 {
		require.NoError(t, mesh.Broker.SetState(t.Context(), other.ID, "key", []byte("1")))
	}
	require.Equal(t, before+1, last())
}
