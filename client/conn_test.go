package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/wire"
)

func TestHelloIsSignedTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, nil)
		s.dial(func(o *Options) { o.NoPush = true; o.Groups = []wire.Group{{Name: "eng"}} })
		f := s.of(wire.TypeHello)[0]
		ms := f["timestamp"].(float64)
		require.NoError(t, identity.Hello{
			MeshID: testMesh, MemberID: testMember, Pubkey: str(f, "pubkey"), Timestamp: ms, Signature: str(f, "signature"),
		}.Verify(time.Now()))
		require.NoError(t, identity.Hello2{
			MeshID: testMesh, MemberID: testMember, Pubkey: str(f, "pubkey"), SessionPubkey: str(f, "sessionPubkey"), SessionID: "s-1",
			Timestamp: ms, Nonce: str(f, "nonce"), Signature: str(f, "helloSignature2"), SessionSignature: str(f, "sessionSignature"),
		}.Verify(time.Now()))
		require.Equal(t, testKey(t, "04").Public(), str(f, "sessionPubkey"))
		require.Equal(t, []any{"client_ack", "topic_events", "receipts", "no_push"}, f["capabilities"])
		require.Equal(t, []any{object{"name": "eng"}}, f["groups"])
	})
}

func TestSessionHelloCarriesAnAttestation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, nil)
		s.dial(func(o *Options) { o.SessionHello = true })
		f := s.of(wire.TypeSessionHello)[0]
		a := f["parentAttestation"].(object)
		require.NoError(t, identity.SessionHello{
			MeshID: testMesh, ParentPubkey: str(f, "parentMemberPubkey"), SessionPubkey: str(f, "sessionPubkey"),
			Timestamp: f["timestamp"].(float64), Signature: str(f, "signature"),
		}.Verify(time.Now()))
		require.NoError(t, identity.Attestation{
			ParentPubkey: str(a, "parentMemberPubkey"), SessionPubkey: str(a, "sessionPubkey"), ExpiresAt: a["expiresAt"].(float64),
			Signature: str(a, "signature"),
		}.Verify(time.Now()))
		require.Equal(t, float64(time.Now().Add(12*time.Hour).UnixMilli()), a["expiresAt"])
	})
}

// The answer to a send is lost with the connection: the same bytes go out again, in the order of the calls.
func TestH34SendInFlightIsRepeatedByteForByte(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			if k.n == 1 {
				for range 3 {
					k.read()
				}
				_ = k.ws.CloseNow()
				return
			}
			k.serveAll()
		})
		c := s.dial()
		bob := testKey(t, "02").Public()
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				sent, err := c.Send(context.Background(), bob, fmt.Sprint("text ", i), ClientMessageID(fmt.Sprint("id", i)))
				assert.NoError(t, err)
				assert.Equal(t, fmt.Sprint("Messid", i), sent.MessageID)
				assert.True(t, sent.Encrypted)
			})
			synctest.Wait() // so that the order of the calls is known
		}
		all.Wait()
		sends := s.of(wire.TypeSend)
		require.Len(t, sends, 6)
		for i := range 3 {
			require.Equal(t, fmt.Sprint("id", i), str(sends[i], "client_message_id"))
			require.Equal(t, sends[i], sends[i+3])
		}
		require.Equal(t, 2, s.count())
	})
}

func TestSendWaitsOutARateLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		s := newStub(t, func(k *stubConn) {
			for f := k.read(); f != nil; f = k.read() {
				if tries++; tries <= 2 {
					ack := k.accepted(f)
					ack.Queued, ack.MessageID = false, ""
					ack.Error = []string{"rate_limit: max 60 msg/min (burst 10) — slow down", "internal_error: outcome not known"}[tries-1]
					k.write(ack)
					continue
				}
				k.answer(f)
			}
		})
		c := s.dial()
		begin := time.Now()
		_, err := c.Send(context.Background(), "*", "hello")
		require.NoError(t, err)
		require.Equal(t, 3*time.Second, time.Since(begin)) // 1 s, then 2 s
		sends := s.of(wire.TypeSend)
		require.Equal(t, sends[0], sends[2])
	})
}

func TestRefusedSendsAreTyped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var text atomic.Value
		s := newStub(t, func(k *stubConn) {
			for f := k.read(); f != nil; f = k.read() {
				ack := k.accepted(f)
				ack.Queued, ack.Error = false, text.Load().(string)
				k.write(ack)
			}
		})
		c := s.dial()
		for refusal, want := range map[string]SendError{
			"queue_full: recipient backlog limit reached": {Code: wire.QueueFull, Text: "recipient backlog limit reached", Retryable: true},
			"target_not_found: unknown target":            {Code: wire.TargetNotFound, Text: "unknown target"},
			"invalid: idempotency_key_reused":             {Code: wire.Invalid, Text: "idempotency_key_reused"},
		} {
			text.Store(refusal)
			_, err := c.Send(context.Background(), "*", "hello")
			got, ok := errors.AsType[*SendError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, want, *got)
			require.ErrorIs(t, err, want.Code)
		}
		text.Store("rate_limit: slow down")
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := c.Send(ctx, "*", "hello")
		require.ErrorIs(t, err, wire.RateLimit)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestUnansweredSendSaysThatItsOutcomeIsUnknown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			for k.read() != nil {
			}
		})
		c := s.dial(func(o *Options) { o.CloseTimeout = -1 })
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := c.Send(ctx, "*", "hello")
		require.ErrorIs(t, err, ErrOutcomeUnknown)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestH28AckOfAnotherMessageIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			for f := k.read(); f != nil; f = k.read() {
				ack := k.accepted(f)
				ack.MessageID = "MessTheSame"
				k.write(ack)
			}
		})
		c := s.dial()
		_, err := c.Send(context.Background(), "*", "one")
		require.NoError(t, err)
		_, err = c.Send(context.Background(), "*", "two")
		require.ErrorIs(t, err, ErrOutcomeUnknown)
	})
}

func TestRefusedDial(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		code  wire.Code
		close websocket.StatusCode
		tries int
	}{
		{"permanent", wire.Unauthorized, 1008, 1},
		{"revoked", wire.Revoked, 4002, 1},
		{"passing", wire.Capacity, 1008, 5},
		{"replayed", wire.Replayed, 1008, 5},
		{"shutdown", "", 1001, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStub(t, nil)
				s.greet = func(k *stubConn, _ map[string]any) bool {
					if test.code != "" {
						k.write(&wire.Error{Header: header(wire.TypeError), Code: test.code, Message: "no"})
					}
					_ = k.ws.Close(test.close, string(test.code))
					return false
				}
				c, err := Dial(context.Background(), s.options())
				require.Nil(t, c)
				refused, ok := errors.AsType[*RefusedError](err)
				require.True(t, ok, "%v", err)
				require.Equal(t, int(test.close), refused.CloseCode)
				if test.code != "" {
					require.ErrorIs(t, err, test.code)
				}
				require.Equal(t, test.tries, s.count())
			})
		})
	}
}

func TestDialFailsAtOnceWithoutABroker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, nil)
		o := s.options()
		o.URL = "ws://broker/elsewhere/ws"
		_, err := Dial(context.Background(), o)
		refused, ok := errors.AsType[*RefusedError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, 404, refused.HTTPStatus)
		s.hc.CloseIdleConnections()
		require.NoError(t, s.listener.Close())
		_, err = Dial(context.Background(), s.options())
		require.ErrorContains(t, err, "connect")
	})
}

func TestKickedClientStaysAway(t *testing.T) {
	t.Parallel()
	for code, reason := range map[websocket.StatusCode]string{4001: "kicked_stale", 4002: "banned"} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStub(t, func(k *stubConn) { _ = k.ws.Close(code, reason) })
				c := s.dial()
				<-c.Done()
				refused, ok := errors.AsType[*RefusedError](c.Err())
				require.True(t, ok)
				require.Equal(t, wire.Code(reason), refused.Code)
				require.Equal(t, int(code), refused.CloseCode)
				_, err := c.Receive(context.Background())
				require.ErrorIs(t, err, refused)
				_, err = c.Peers(context.Background())
				require.ErrorIs(t, err, refused)
				time.Sleep(time.Hour)
				require.Equal(t, 1, s.count())
				for e := range c.Events() { // closed
					require.Contains(t, []string{EventConnected, EventDisconnected}, e.Name)
				}
			})
		})
	}
}

func TestClientIsRefusedForGoodOnReturn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) { _ = k.ws.CloseNow() })
		s.greet = func(k *stubConn, _ map[string]any) bool {
			if k.n == 1 {
				k.write(helloAck("p1"))
				return true
			}
			k.write(&wire.Error{Header: header(wire.TypeError), Code: wire.Unauthorized, Message: "pubkey not found in mesh"})
			_ = k.ws.Close(1008, string(wire.Unauthorized))
			return false
		}
		c := s.dial()
		<-c.Done()
		require.ErrorIs(t, c.Err(), wire.Unauthorized)
		require.Equal(t, 2, s.count())
	})
}

func TestSilentConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			reading := make(chan struct{})
			go func() {
				defer close(reading)
				for k.read() != nil {
				}
			}()
			for range 4 {
				time.Sleep(30 * time.Second)
				_ = k.ws.Ping(context.Background())
			}
			<-reading
		})
		c := s.dial()
		time.Sleep(2*time.Minute + 74*time.Second)
		require.Equal(t, 1, s.count(), "pings count as signs of life")
		time.Sleep(10 * time.Second)
		require.Equal(t, 2, s.count())
		require.True(t, c.Connected())
	})
}

func TestReconnectTellsAFreshSessionWhatItWasTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			if k.n < 3 {
				for range 3 {
					k.answer(k.read())
				}
				_ = k.ws.CloseNow()
				return
			}
			k.serveAll()
		})
		s.greet = func(k *stubConn, _ map[string]any) bool {
			k.write(helloAck(map[int]string{1: "p1", 2: "p1", 3: "p2"}[k.n]))
			return true
		}
		c := s.dial()
		ctx := context.Background()
		require.NoError(t, c.SetStatus(ctx, wire.StatusDND))
		require.NoError(t, c.SetSummary(ctx, "deep in it"))
		require.NoError(t, c.JoinGroup(ctx, "@eng", "lead"))
		time.Sleep(5 * time.Second)
		require.Len(t, s.of(wire.TypeSetStatus), 1, "a reattached session kept its state")
		require.NoError(t, c.SetSummary(ctx, "still"))
		require.NoError(t, c.SetVisible(ctx, false))
		require.NoError(t, c.LeaveGroup(ctx, "ops"))
		time.Sleep(5 * time.Second)
		require.Equal(t, 3, s.count())
		require.Equal(t, object{"type": "set_status", "status": "dnd"}, s.of(wire.TypeSetStatus)[1])
		require.Equal(t, object{"type": "set_summary", "summary": "still"}, s.of(wire.TypeSetSummary)[2])
		require.Equal(t, object{"type": "set_visible", "visible": false}, s.of(wire.TypeSetVisible)[1])
		require.Equal(t, object{"type": "join_group", "name": "eng", "role": "lead"}, s.of(wire.TypeJoinGroup)[1])
		require.Equal(t, object{"type": "leave_group", "name": "ops"}, s.of(wire.TypeLeaveGroup)[1])
	})
}

// An API key that was asked for on a connection that is gone is not asked for again: two might exist.
func TestCreateAPIKeyIsNotRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			k.read()
			if k.n == 1 {
				_ = k.ws.CloseNow()
			}
			k.serveAll()
		})
		c := s.dial()
		_, err := c.CreateAPIKey(context.Background(), APIKeyOptions{Label: "ci", Capabilities: []string{wire.KeyRead}})
		require.ErrorIs(t, err, ErrOutcomeUnknown)
		require.Len(t, s.of(wire.TypeAPIKeyCreate), 1)
	})
}

func TestRefusedRequestsAreTyped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := 0
		s := newStub(t, func(k *stubConn) {
			for f := k.read(); f != nil; f = k.read() {
				id, code := str(f, "_reqId"), wire.RateLimit
				if n++; n > 1 {
					code = wire.Forbidden
				}
				k.write(&wire.Error{Header: wire.Header{Type: wire.TypeError, ReqID: &id}, Code: code, Message: "no"})
			}
		})
		c := s.dial()
		err := c.SetGrants(context.Background(), map[string]*[]string{})
		require.ErrorIs(t, err, wire.Forbidden)
		require.EqualError(t, err, "client: set_grants refused: forbidden: no")
		require.Equal(t, 2, n, "rate_limit is waited out")
	})
}

func TestCloseWaitsForSendsAndAcknowledgements(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var closed atomic.Value
		s := newStub(t, nil)
		s.serve = func(k *stubConn) {
			k.write(directPush(t, "Mess0000000000000000000000000001", "hello", testKey(t, "02"), testKey(t, "01")))
			for f := k.read(); f != nil; f = k.read() {
				if f["type"] == wire.TypeSend {
					time.Sleep(time.Second)
				}
				k.answer(f)
			}
			closed.Store(k.closed)
		}
		c := s.dial()
		m, err := c.Receive(context.Background())
		require.NoError(t, err)
		require.Equal(t, "hello", m.Text)
		var sent sync.WaitGroup
		sent.Go(func() {
			_, err := c.Send(context.Background(), "*", "last words")
			assert.NoError(t, err)
		})
		synctest.Wait()
		require.NoError(t, c.Close())
		sent.Wait()
		require.Len(t, s.of(wire.TypeClientAck), 1)
		require.Equal(t, websocket.StatusNormalClosure, closed.Load())
		_, err = c.Send(context.Background(), "*", "too late")
		require.ErrorIs(t, err, ErrClosed)
		_, err = c.Receive(context.Background())
		require.ErrorIs(t, err, ErrClosed)
		require.ErrorIs(t, c.Err(), ErrClosed)
		require.NoError(t, c.Close())
	})
}

func TestCloseDoesNotWaitForABrokerThatIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) { _ = k.ws.CloseNow() })
		c := s.dial(func(o *Options) { o.Backoff = func(int) time.Duration { return time.Hour } })
		synctest.Wait()
		var sent sync.WaitGroup
		sent.Go(func() {
			_, err := c.Send(context.Background(), "*", "hello")
			assert.ErrorIs(t, err, ErrClosed)
		})
		synctest.Wait()
		begin := time.Now()
		require.NoError(t, c.Close())
		require.Zero(t, time.Since(begin))
		sent.Wait()
	})
}

func TestEventsKeepTheNewest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStub(t, func(k *stubConn) {
			for i := range 300 {
				p, err := wire.Event(fmt.Sprint(i), testMesh, wire.EventPeerJoined, wire.PeerEvent{Name: fmt.Sprint("peer", i)}, time.Now())
				assert.NoError(t, err)
				k.write(p)
			}
			k.write(object{"type": "x-acme/poke", "n": 1})
			k.serveAll()
		})
		c := s.dial()
		synctest.Wait()
		e := <-c.Events()
		require.Equal(t, wire.EventPeerJoined, e.Name)
		require.Equal(t, "peer45", e.Peer.Name)
		for range 255 {
			e = <-c.Events()
		}
		require.Equal(t, "x-acme/poke", e.Name)
		require.JSONEq(t, `{"type":"x-acme/poke","n":1}`, string(e.Data))
		require.Empty(t, c.Events())
	})
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	good := Options{URL: "wss://h/ws", MeshID: "m", MemberID: "a", Key: testKey(t, "01")}
	for name, spoil := range map[string]func(*Options){
		"URL":          func(o *Options) { o.URL = "http://h/ws" },
		"MeshID":       func(o *Options) { o.MeshID = "a|b" },
		"MemberID":     func(o *Options) { o.MemberID = "" },
		"Key":          func(o *Options) { o.Key = identity.KeyPair{} },
		"NoSessionKey": func(o *Options) { o.NoSessionKey, o.SessionHello = true, true },
	} {
		o := good
		spoil(&o)
		_, err := Dial(context.Background(), o)
		require.ErrorContains(t, err, name)
	}
}
