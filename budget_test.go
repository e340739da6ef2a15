package broker_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/wire"
)

// H32: what one member may cost the others.

// crowd is a mesh of ana and as many others, none of whom is connected.
func crowd(t *testing.T, others int, options ...func(*broker.Options)) (*brokertest.Mesh, *brokertest.Conn, []*brokertest.Member) {
	t.Helper()
	mesh := brokertest.New(t, options...)
	ana := mesh.Dial("ana")
	var all []*brokertest.Member
	for i := range others {
		all = append(all, mesh.Member(fmt.Sprint("member ", i)))
	}
	return mesh, ana, all
}

func deliveries(perMinute int) func(*broker.Options) {
	return func(o *broker.Options) { o.DeliveryRatePerMin = perMinute }
}

// identified is a message with an id of the sender's.
func identified(target, id string) frame {
	return frame{"type": "send", "targetSpec": target, "priority": "now", "nonce": "", "ciphertext": brokertest.Body(id), "client_message_id": id}
}

func TestH32MulticastCostsADeliveryForEachRecipient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh, ana, others := crowd(t, 4, deliveries(10))
		bo := mesh.Dial("member 0")
		require.Equal(t, true, ana.Say("*", "now", "1")["queued"])
		require.Equal(t, true, ana.Say("*", "now", "2")["queued"])
		ack := ana.Say("*", "now", "3")
		require.Equal(t, "rate_limit: max 10 deliveries/min, and this message makes 4 — slow down", ack["error"])
		require.Equal(t, "", ack["messageId"])
		require.Equal(t, true, ana.Say(others[0].Pubkey, "now", "4")["queued"], "two are left, and this takes one")
		require.Equal(t, true, ana.Say(others[1].Pubkey, "now", "5")["queued"])
		require.Contains(t, ana.Say(others[0].Pubkey, "now", "6")["error"], "rate_limit: ")
		require.Contains(t, mesh.Dial("ana").Say(others[0].Pubkey, "now", "6")["error"], "rate_limit: ", "the budget is the member's, not the connection's")
		require.Equal(t, true, bo.Say("*", "now", "mine")["queued"], "and nobody else's")
		synctest.Wait()
		require.Equal(t, []string{"1", "2", "4"}, texts(bo.Pushes()), "nothing of what was refused arrives")

		time.Sleep(24 * time.Second)
		require.Equal(t, true, ana.Say("*", "now", "7")["queued"], "four in 24 s")
		require.Contains(t, ana.Say(others[0].Pubkey, "now", "8")["error"], "rate_limit: ")
		metrics := string(hostMetrics(t, mesh.Broker))
		require.Contains(t, metrics, `broker_messages_rejected_total{reason="rate_limit"} 4`)
	})
}

func TestH32GrantsAreAskedBeforeTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh, ana, others := crowd(t, 4, deliveries(4))
		for _, m := range others[:3] {
			done(t, mesh.Dial(m.Name), frame{"type": "set_grants", "grants": frame{ana.Member.Pubkey: []string{}}})
		}
		for range 4 {
			require.Equal(t, true, ana.Say("*", "now", "to one")["queued"])
		}
		require.Contains(t, ana.Say("*", "now", "x")["error"], "rate_limit: ")
		require.Contains(t, ana.Say(others[0].Pubkey, "now", "x")["error"], "forbidden: blocked by recipient grants", "a refusal that is final comes first")
	})
}

func TestH32UnusedDeliveriesAreGivenBack(t *testing.T) {
	t.Parallel()
	// Each case leaves a budget of 8 with what it used; then a multicast to 4 and single messages find out how much that is.
	for _, c := range []struct {
		name string
		used int
		do   func(t *testing.T, ana *brokertest.Conn, others []*brokertest.Member, f *failing)
	}{
		{"nothing", 0, func(*testing.T, *brokertest.Conn, []*brokertest.Member, *failing) {}},
		{"repetitions", 4, func(t *testing.T, ana *brokertest.Conn, _ []*brokertest.Member, _ *failing) {
			require.Equal(t, true, ana.Request(identified("*", "once"))["queued"])
			for range 5 {
				require.Equal(t, true, ana.Request(identified("*", "once"))["duplicate"])
			}
		}},
		{"a used id", 1, func(t *testing.T, ana *brokertest.Conn, others []*brokertest.Member, _ *failing) {
			require.Equal(t, true, ana.Request(identified(others[0].Pubkey, "once"))["queued"])
			for range 5 {
				require.Equal(t, "invalid: idempotency_key_reused", ana.Request(identified("*", "once"))["error"])
			}
		}},
		{"unknown targets", 0, func(t *testing.T, ana *brokertest.Conn, _ []*brokertest.Member, _ *failing) {
			for range 10 {
				require.Contains(t, ana.Say(strings.Repeat("ab", 32), "now", "x")["error"], "target_not_found")
			}
		}},
		{"full mailboxes", 7, func(t *testing.T, ana *brokertest.Conn, others []*brokertest.Member, _ *failing) {
			for range 2 { // of which one sender may fill two places
				require.Equal(t, true, ana.Say(others[0].Pubkey, "next", "x")["queued"])
			}
			require.Contains(t, ana.Say(others[0].Pubkey, "next", "x")["error"], "queue_full")
			ack := ana.Say("*", "next", "x")
			require.Equal(t, map[string]any{"total": 3.0, "online": 0.0, "refused": 1.0}, ack["recipients"])
			for range 3 {
				require.Contains(t, ana.Say(others[0].Pubkey, "next", "x")["error"], "queue_full")
			}
			for _, m := range others[1:3] {
				require.Equal(t, true, ana.Say(m.Pubkey, "next", "x")["queued"])
			}
		}},
		{"a roster that moved on", 4, func(t *testing.T, ana *brokertest.Conn, _ []*brokertest.Member, f *failing) {
			left := 3
			f.enqueue = func(stored bool) error {
				if left--; !stored && left >= 0 {
					return store.ErrStale
				}
				return nil
			}
			require.Equal(t, true, ana.Say("*", "now", "x")["queued"])
		}},
		{"a store that does not answer", 0, func(t *testing.T, ana *brokertest.Conn, _ []*brokertest.Member, f *failing) {
			f.enqueue = func(bool) error { return errStore }
			require.Contains(t, ana.Say("*", "now", "x")["error"], "internal_error")
			f.enqueue = func(bool) error { return nil }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &failing{enqueue: func(bool) error { return nil }}
				_, ana, others := crowd(t, 4, func(o *broker.Options) {
					f.Store, o.Store = o.Store, f
					o.MaxPendingPerRecipient = 8
					o.DeliveryRatePerMin = 8
				})
				began := time.Now()
				c.do(t, ana, others, f)
				if time.Since(began) > 0 {
					time.Sleep(time.Minute) // the store took its time: only that nothing is owed can be told
				}
				left := 0
				for ; ana.Say(ana.Member.Pubkey, "now", "to myself")["queued"] == true; left++ {
					require.Less(t, left, 20)
				}
				require.Equal(t, 8-c.used, left)
			})
		})
	}
}

// A repetition is answered as the first time also when nothing is left.
func TestH32RepetitionNeedsNoBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, ana, _ := crowd(t, 4, deliveries(4))
		first := ana.Request(identified("*", "once"))
		require.Contains(t, ana.Request(identified("*", "twice"))["error"], "rate_limit: ")
		again := ana.Request(identified("*", "once"))
		require.Equal(t, []any{true, true, first["messageId"]}, []any{again["queued"], again["duplicate"], again["messageId"]})
	})
}

// A message to more recipients than a minute's worth is possible, with a full budget, and paid for afterwards.
func TestH32LargeMulticastTakesTheWholeBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, ana, others := crowd(t, 30, deliveries(10))
		require.Equal(t, true, ana.Say("*", "now", "1")["queued"])
		time.Sleep(2*time.Minute + 5*time.Second)
		require.Contains(t, ana.Say(others[0].Pubkey, "now", "x")["error"], "rate_limit: ", "20 are owed, and 6 s for the next one")
		time.Sleep(time.Second)
		require.Equal(t, true, ana.Say(others[0].Pubkey, "now", "2")["queued"])
		time.Sleep(59 * time.Second)
		require.Contains(t, ana.Say("*", "now", "x")["error"], "rate_limit: ")
		time.Sleep(time.Second)
		require.Equal(t, true, ana.Say("*", "now", "3")["queued"])
	})
}

func TestH32RESTSharesTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh, ana, _ := crowd(t, 4, deliveries(10))
		key := restKey(t, mesh, "ana", sends) // everybody is in the topic general
		require.Equal(t, true, ana.Say("*", "now", "1")["queued"])
		key.post("general", "2")
		got := key.refused(http.StatusTooManyRequests, "rate_limit", "POST", "/messages", postBody("general", "3"))
		require.Equal(t, "12", got.Header.Get("Retry-After"), "two are left, and the other two take 12 s")
		time.Sleep(12 * time.Second)
		key.post("general", "3")
		require.Contains(t, ana.Say("*", "now", "4")["error"], "rate_limit: ")
	})
}

func TestH32UnlimitedLiftsTheBudgets(t *testing.T) {
	t.Parallel()
	o := broker.Options{}.Unlimited()
	require.Negative(t, o.DeliveryRatePerMin)
	require.Negative(t, o.InboundBytesPerSec)
}

// padded is a request of so many bytes.
func padded(size int, id string) string {
	head := fmt.Sprintf(`{"type":"list_peers","_reqId":%q,"padding":"`, id)
	return head + strings.Repeat("x", size-len(head)-2) + `"}`
}

func inbound(perSecond int) func(*broker.Options) {
	return func(o *broker.Options) { o.InboundBytesPerSec = perSecond }
}

// flood writes frames as fast as they are taken.
func flood(c *brokertest.Conn, frames ...any) (written chan struct{}) {
	written = make(chan struct{})
	go func() {
		defer close(written)
		for _, f := range frames {
			if c.TrySend(f) != nil {
				return
			}
		}
	}()
	return written
}

// replies returns the _reqIds of the replies that have come, and fails on errors.
func replies(t *testing.T, c *brokertest.Conn) []string {
	t.Helper()
	synctest.Wait()
	out := []string{}
	for _, f := range c.Waiting() {
		require.NotEqual(t, "error", f.Type(), "%v", f)
		if id := f.Str("_reqId"); id != "" {
			out = append(out, id)
		}
	}
	return out
}

func TestH32InboundBytesPauseTheReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, inbound(1000))
		ana, bo := mesh.Dial("ana"), mesh.Dial("bo")
		var frames []any
		var want []string
		for i := range 12 {
			want = append(want, fmt.Sprint(i))
			frames = append(frames, padded(2000, want[i]))
		}
		written := flood(ana, frames...)
		require.Equal(t, []string{"0", "1"}, replies(t, ana), "four seconds' worth at once")
		time.Sleep(time.Second)
		require.Empty(t, replies(t, ana))
		for i := range 5 {
			time.Sleep(2 * time.Second)
			require.Equal(t, want[i+2:i+3], replies(t, ana), "then one in two seconds")
			require.Equal(t, "peers_list", bo.Request(frame{"type": "list_peers"}).Type(), "others are read as ever")
		}
		time.Sleep(9 * time.Second)
		require.Equal(t, want[7:], replies(t, ana), "nothing is dropped, refused or reordered")
		<-written
		require.Regexp(t, `(?m)^broker_inbound_pauses_total 10$`, string(hostMetrics(t, mesh.Broker)))
	})
}

// All connections of a member share the budget, and none of them starves.
func TestH32InboundBytesAreTheMembers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, inbound(1000))
		one, two := mesh.Dial("ana"), mesh.Dial("ana", brokertest.SessionKey(sessionKey(t)))
		var large, small []any
		for i := range 5 {
			large = append(large, padded(8000, fmt.Sprint(i)))
		}
		for i := range 100 {
			small = append(small, padded(100, fmt.Sprint(i)))
		}
		first, second := flood(one, large...), flood(two, small...)
		time.Sleep(100 * time.Second)
		synctest.Wait()
		<-first
		<-second
		require.Equal(t, []string{"0", "1", "2", "3", "4"}, replies(t, one))
		require.Len(t, replies(t, two), 100)
	})
}

// H01 and H32: acknowledgements are not counted, and a connection that only acknowledges is read while the member's others are paused.
func TestH32AcknowledgementsAreNotCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, inbound(1000))
		bo := mesh.Dial("bo")
		loud := mesh.Dial("ana", explicit)
		quiet := mesh.Dial("ana", explicit, brokertest.SessionKey(sessionKey(t)))
		written := flood(loud, padded(65_000, "a"), padded(2000, "b"))
		began := time.Now()
		for i := range 20 {
			ack := bo.Say(quiet.Session.Public(), "now", fmt.Sprint(i))
			push := quiet.ExpectPush()
			more := make([]string, 900) // 33 kB of ids that mean nothing: eight times the burst
			for j := range more {
				more[j] = strings.Repeat("A", 32)
			}
			quiet.Send(frame{"type": "client_ack", "brokerMessageIds": append(more, push.Str("messageId"))})
			synctest.Wait()
			require.Equal(t, true, bo.Request(frame{"type": "message_status", "messageId": ack["messageId"]})["delivered"])
		}
		require.Empty(t, replies(t, loud))
		time.Sleep(time.Minute - time.Since(began))
		require.Empty(t, replies(t, loud), "what the acknowledgements weighed is nobody's debt, and what the frame weighed is the member's")
		time.Sleep(3 * time.Second)
		require.Equal(t, []string{"a", "b"}, replies(t, loud))
		<-written
	})
}

// A connection that the broker does not read is not taken for dead, and frames that are too large to be kept count as well.
func TestH32PausedConnectionIsNotStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t, inbound(1000))
		ana := mesh.Dial("ana")
		written := flood(ana, padded(300_000, "large"), padded(100, "next"))
		time.Sleep(295 * time.Second)
		synctest.Wait()
		require.Empty(t, ana.Waiting())
		time.Sleep(2 * time.Second)
		synctest.Wait()
		got := ana.Waiting()
		require.Len(t, got, 2)
		require.Equal(t, []any{"payload_too_large", "large"}, []any{got[0]["code"], got[0]["_reqId"]})
		require.Equal(t, "next", got[1]["_reqId"])
		<-written
		require.Equal(t, "peers_list", ana.Request(frame{"type": "list_peers"}).Type())
	})
}

// A pause ends with the connection, whoever ends it.
func TestH32PauseEndsWithTheConnection(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *brokertest.Mesh, *brokertest.Conn){
		"the host": func(t *testing.T, m *brokertest.Mesh, c *brokertest.Conn) {
			require.NoError(t, m.Broker.Disconnect(t.Context(), m.ID, c.Member.ID))
		},
		"shutdown": func(_ *testing.T, m *brokertest.Mesh, _ *brokertest.Conn) { m.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t, inbound(1000))
				ana := mesh.Dial("ana")
				written := flood(ana, padded(500_000, "large"), padded(100, "next"))
				time.Sleep(10 * time.Second)
				began := time.Now()
				end(t, mesh, ana)
				code, _ := ana.Closed()
				require.Contains(t, []int{wire.CloseNormal, wire.CloseGoingAway}, code)
				<-written
				synctest.Wait()
				require.Less(t, time.Since(began), 3*time.Second)
			})
		})
	}
}

// H32: a member cannot fill a mesh with sessions, and its own lost ones make room for a new one, the oldest first.
func TestH32OldestLostSessionMakesRoom(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*broker.Options){
		"of the member": func(o *broker.Options) { o.MaxPresencesPerMember = 3 },
		"of the mesh":   func(o *broker.Options) { o.MaxConnectionsPerMesh = 4 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t, limit)
				ana := mesh.Dial("ana")
				var bos []*brokertest.Conn
				for range 3 {
					bos = append(bos, mesh.Dial("bo", brokertest.SessionKey(sessionKey(t))))
				}
				refusedWith(t, mesh, mesh.Member("bo"), "capacity")
				for _, at := range []int{1, 0} {
					bos[at].Cut()
					time.Sleep(time.Second)
				}
				synctest.Wait()
				events(ana)
				fresh := mesh.Dial("bo", brokertest.SessionKey(sessionKey(t)))
				require.ElementsMatch(t, []string{"peer_left bo", "peer_returned bo"}, events(ana))
				rows := map[string]string{}
				for _, s := range mesh.Broker.Sessions(mesh.ID) {
					rows[s.SessionPubkey] = fmt.Sprint(s.Online)
				}
				delete(rows, "")
				require.Equal(t, map[string]string{
					bos[0].Session.Public(): "false", bos[2].Session.Public(): "true", fresh.Session.Public(): "true",
				}, rows, "the one that was lost first is gone")
				again := mesh.Dial("bo", brokertest.SessionKey(bos[0].Session))
				require.Equal(t, bos[0].Hello["presenceId"], again.Hello["presenceId"], "the other comes back")
				refusedWith(t, mesh, mesh.Member("bo"), "capacity")
				if name == "of the mesh" {
					refusedWith(t, mesh, mesh.Member("cy"), "capacity")
				}
			})
		})
	}
}

// H32: by default a member has 32 places, and 100 topics.
func TestH32DefaultsOfOneMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		mesh.Member("ana")
		var bo *brokertest.Conn
		for range 32 {
			bo = mesh.Dial("bo")
		}
		refusedWith(t, mesh, mesh.Member("bo"), "capacity")
		mesh.Dial("ana")
		for i := range 100 {
			newTopic(t, bo, fmt.Sprint(i), "public")
		}
		refused := bo.Request(frame{"type": "topic_create", "name": "one more"})
		require.Equal(t, "forbidden", refused["code"], "%v", refused)
	})
}
