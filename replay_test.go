package broker_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/brokertest"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/internal/memconn"
)

// sayTo says a frame on a new connection of a listener and codes what comes back.
func sayTo(t *testing.T, l *memconn.Listener, f frame) string {
	t.Helper()
	link, err := l.DialContext(t.Context(), "tcp", "")
	require.NoError(t, err)
	_, err = io.WriteString(link, "GET /ws HTTP/1.1\r\nHost: "+brokertest.Host+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	require.NoError(t, err)
	in := bufio.NewReader(link)
	resp, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	s := &stranger{t: t, link: link, done: make(chan struct{})}
	go s.read(in)
	answer := s.say(f).answer()
	_ = link.Close()
	<-s.done
	return answer
}

// H06: what a broker has seen of hellos outlives it: a captured hello of either kind, with the second signatures or without, is worth nothing at the
// next broker on the same store, nor at one that runs beside it, for as long as its timestamp is fresh.
func TestH06CapturedHelloIsRefusedAcrossRestarts(t *testing.T) {
	t.Parallel()
	const (
		in       = "hello_ack"
		replayed = "error replayed, close 1008 replayed"
		forged   = "error bad_signature, close 1008 bad_signature"
		skew     = "error timestamp_skew, close 1008 timestamp_skew"
	)
	cut := frame{"nonce": nil, "helloSignature2": nil, "sessionSignature": nil} // what is signed twice, with the second signatures taken off
	for _, kind := range []struct {
		name              string
		session, attested bool
		hello2            bool
	}{
		{name: "hello"},
		{name: "hello with a session key", session: true},
		{name: "session_hello", session: true, attested: true},
		{name: "hello, signed twice", hello2: true},
		{name: "hello with a session key, signed twice", session: true, hello2: true},
		{name: "session_hello, signed twice", session: true, attested: true, hello2: true},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				mesh := brokertest.New(t)
				member, thief := mesh.Member("ana"), sessionKey(t)
				said := 0
				capture := func(at int64) frame {
					said++
					d := draft{mesh: mesh.ID, member: member, at: at, expires: time.Now().Add(time.Hour).UnixMilli(), hello2: kind.hello2}
					d.more = frame{"sessionId": fmt.Sprint("session-", said)}
					if kind.session {
						key := sessionKey(t)
						d.session = &key
					}
					return d.sign(t, kind.attested)
				}
				say := func(hello, change frame) string {
					f := merged(hello)
					replace(f, change)
					return dialStranger(t, mesh).say(f).answer()
				}
				// What a thief can make of a captured hello, and what each is worth.
				thefts := []struct {
					name   string
					change frame
					want   string
				}{
					{"as another session", frame{"sessionId": "stolen"}, replayed},
					{"with its signatures in capitals", frame{"sessionId": "stolen", "signature": nil}, replayed},
				}
				if kind.hello2 {
					thefts[0].want = forged // the session is signed
					thefts = append(thefts, []struct {
						name   string
						change frame
						want   string
					}{
						{"as it is", nil, replayed},
						{"less the second signatures", cut, replayed},
						{"less the second signatures, as another session", merged(cut, frame{"sessionId": "stolen"}), replayed},
						{"with another nonce", frame{"nonce": b64(make([]byte, 24))}, forged},
					}...)
				}
				if !kind.attested {
					want := replayed
					switch {
					case kind.hello2 && kind.session:
						want = forged
					case kind.hello2: // a session key that signs nothing
						want = "error malformed, close 1008 malformed"
					}
					thefts = append(thefts, struct {
						name   string
						change frame
						want   string
					}{"with a session key of the thief's", frame{"sessionPubkey": thief.Public(), "sessionId": "stolen"}, want})
				}
				steal := func(hello frame, when string) {
					for _, theft := range thefts {
						change := merged(theft.change)
						if _, spelled := change["signature"]; spelled {
							change["signature"] = strings.ToUpper(hello.Str("signature"))
							if kind.hello2 {
								change = merged(cut, change)
							}
						}
						require.Equal(t, theft.want, say(hello, change), "%s, %s", theft.name, when)
					}
					if !kind.hello2 {
						require.Equal(t, in, say(hello, nil), "the same session may say it again, %s", when)
					}
				}
				began := time.Now()
				hello := capture(began.UnixMilli())
				ahead := capture(began.Add(59 * time.Second).UnixMilli()) // good for two minutes
				require.Equal(t, in, say(hello, nil))
				require.Equal(t, in, say(ahead, nil))
				steal(hello, "at the same broker")
				for n := range 3 {
					mesh.Restart()
					when := fmt.Sprint("after restart ", n+1)
					steal(hello, when)
					steal(ahead, when)
					time.Sleep(15 * time.Second) // of the bubble
				}

				// Another broker beside it, which has never seen anybody.
				beside, err := broker.New(broker.Options{Store: mesh.Store, Logger: slog.New(slog.DiscardHandler)}.Unlimited())
				require.NoError(t, err)
				l := memconn.Listen()
				server := &http.Server{Handler: beside, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
				served := make(chan struct{})
				go func() {
					defer close(served)
					_ = server.Serve(l) // ends with ErrServerClosed
				}()
				f := merged(hello, frame{"sessionId": "stolen"})
				if kind.hello2 {
					replace(f, cut)
				}
				require.Equal(t, replayed, sayTo(t, l, f), "beside it")
				require.NoError(t, beside.Shutdown(context.Background()))
				require.NoError(t, server.Close())
				<-served

				// Until the timestamp is too old for everybody.
				time.Sleep(time.Until(began.Add(118*time.Second + 900*time.Millisecond)))
				mesh.Restart()
				steal(ahead, "a moment before it is too old")
				require.Equal(t, skew, say(hello, nil))
				time.Sleep(time.Second)
				require.Equal(t, skew, say(ahead, nil))
				require.Equal(t, in, say(capture(time.Now().UnixMilli()), nil), "whoever has the key says a new one")
			})
		})
	}
}

// H06: the nonce of one member is not another's, nor that of the same key in another mesh: nobody is kept out by what others have said.
func TestH06NoncesAreOfOneMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mesh := brokertest.New(t)
		ana, bo := mesh.Member("ana"), mesh.Member("bo")
		other, err := mesh.Broker.CreateMesh(t.Context(), broker.NewMesh{})
		require.NoError(t, err)
		_, err = mesh.Broker.AddMember(t.Context(), other.ID, broker.NewMember{ID: ana.ID, Name: "ana", Pubkey: ana.Pubkey})
		require.NoError(t, err)
		nonce, at := b64(make([]byte, 24)), time.Now().UnixMilli()
		say := func(meshID string, m *brokertest.Member) string {
			at++
			f := draft{mesh: meshID, member: m, at: at}.sign(t, false)
			f["nonce"] = nonce
			f["helloSignature2"] = m.Key.Sign(identity.Hello2Text(meshID, m.ID, m.Key.Public(), "", "s", float64(at), nonce))
			return dialStranger(t, mesh).say(f).answer()
		}
		require.Equal(t, "hello_ack", say(mesh.ID, ana))
		require.Equal(t, "error replayed, close 1008 replayed", say(mesh.ID, ana))
		require.Equal(t, "hello_ack", say(mesh.ID, bo))
		require.Equal(t, "hello_ack", say(other.ID, ana))
		mesh.Restart()
		require.Equal(t, "error replayed, close 1008 replayed", say(mesh.ID, ana))
	})
}
