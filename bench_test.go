package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/claudemesh/broker"
	"github.com/claudemesh/broker/identity"
	"github.com/claudemesh/broker/store"
	"github.com/claudemesh/broker/store/memory"
	"github.com/claudemesh/broker/wire"
)

// These benchmarks run broker and clients in one process over loopback sockets, so their figures are upper bounds of what a message costs;
// compare them with each other and with themselves. Run: go test -run '^$' -bench . -benchmem .

// load is a broker on a loopback port with signed-in bare connections.
type load struct {
	b      *testing.B
	broker *broker.Broker
	server *httptest.Server
	mesh   store.Mesh
	conns  []*loadConn
}

type loadConn struct {
	ws     *websocket.Conn
	member store.Member
}

// body is 512 bytes of ciphertext, base64.
var body = strings.Repeat("QUJD", 128)

func newLoad(b *testing.B, peers int) *load {
	b.Helper()
	o := broker.Options{Store: memory.New(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}.Unlimited()
	br, err := broker.New(o)
	require.NoError(b, err)
	l := &load{b: b, broker: br, server: httptest.NewServer(br)}
	l.mesh, err = br.CreateMesh(b.Context(), broker.NewMesh{Slug: "bench"})
	require.NoError(b, err)
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		for _, c := range l.conns {
			_ = c.ws.CloseNow()
		}
		require.NoError(b, br.Shutdown(ctx))
		l.server.Close()
	})
	for i := range peers {
		l.join(fmt.Sprint("peer", i))
	}
	return l
}

func (l *load) join(name string) {
	key, err := identity.GenerateKey()
	require.NoError(l.b, err)
	member, err := l.broker.AddMember(l.b.Context(), l.mesh.ID, broker.NewMember{Name: name, Pubkey: key.Public()})
	require.NoError(l.b, err)
	ws, _, err := websocket.Dial(l.b.Context(), "ws"+strings.TrimPrefix(l.server.URL, "http")+"/ws", nil)
	require.NoError(l.b, err)
	ws.SetReadLimit(1 << 20)
	c := &loadConn{ws: ws, member: member}
	at := float64(time.Now().UnixMilli())
	c.write(l.b, map[string]any{
		"type": "hello", "meshId": l.mesh.ID, "memberId": member.ID, "pubkey": key.Public(), "sessionId": name, "pid": 1, "cwd": "/", "timestamp": at,
		"signature": key.Sign(identity.HelloText(l.mesh.ID, member.ID, key.Public(), at)), "capabilities": []string{"client_ack"},
	})
	c.until(l.b, `"hello_ack"`)
	l.conns = append(l.conns, c)
}

func (c *loadConn) write(b *testing.B, v any) {
	raw, err := json.Marshal(v)
	require.NoError(b, err)
	require.NoError(b, c.ws.Write(b.Context(), websocket.MessageText, raw))
}

// until reads frames until one holds the text, and returns it.
func (c *loadConn) until(b *testing.B, text string) []byte {
	for {
		_, raw, err := c.ws.Read(b.Context())
		if err != nil {
			b.Fatalf("read: %v", err)
		}
		if bytes.Contains(raw, []byte(text)) {
			return raw
		}
	}
}

// idOf cuts the message id out of a push, whose first members are type and messageId.
func idOf(push []byte) string {
	_, rest, _ := bytes.Cut(push, []byte(`"messageId":"`))
	id, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(id)
}

// BenchmarkDirect is one message on its way at a time: send, ack, push, client_ack.
func BenchmarkDirect(b *testing.B) {
	l := newLoad(b, 2)
	from, to := l.conns[0], l.conns[1]
	send := map[string]any{"type": "send", "targetSpec": to.member.Pubkey, "priority": "now", "nonce": "", "ciphertext": body}
	b.ReportAllocs()
	for b.Loop() {
		from.write(b, send)
		push := to.until(b, `"push"`)
		to.write(b, map[string]any{"type": "client_ack", "brokerMessageId": idOf(push)})
		from.until(b, `"ack"`)
	}
}

// BenchmarkFanOut sends "*" to many sessions, 8 messages in flight, each acknowledged by every session. One operation is one message.
func BenchmarkFanOut(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := newLoad(b, n+1)
			from, to := l.conns[0], l.conns[1:]
			raw, err := json.Marshal(map[string]any{"type": "send", "targetSpec": "*", "priority": "now", "nonce": "", "ciphertext": body})
			require.NoError(b, err)
			window := make(chan struct{}, 8)
			var readers sync.WaitGroup
			for i, c := range to {
				readers.Go(func() {
					for range b.N {
						push := c.until(b, `"push","messageId"`)
						if i == 0 {
							<-window
						}
						c.write(b, map[string]any{"type": "client_ack", "brokerMessageId": idOf(push)})
					}
				})
			}
			b.ReportAllocs()
			b.ResetTimer()
			readers.Go(func() { // the sender's own acks
				for range b.N {
					from.until(b, `"ack"`)
				}
			})
			for range b.N {
				window <- struct{}{}
				require.NoError(b, from.ws.Write(b.Context(), websocket.MessageText, raw))
			}
			readers.Wait()
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

func benchPush() *wire.Push {
	return &wire.Push{
		Header: wire.Header{Type: wire.TypePush}, MessageID: identity.NewID(), MeshID: identity.NewID(), SenderPubkey: strings.Repeat("a", 64),
		SenderMemberPubkey: strings.Repeat("b", 64), SenderMemberID: identity.NewID(), SenderName: "ana", Priority: wire.PriorityNow,
		Nonce: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX", Ciphertext: body, CreatedAt: "2026-05-02T20:03:11.000Z",
	}
}

func BenchmarkEncodePush(b *testing.B) {
	p, buf := benchPush(), make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		buf = p.Append(buf[:0])
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkDecodeSend(b *testing.B) {
	raw, err := json.Marshal(map[string]any{
		"type": "send", "targetSpec": strings.Repeat("a", 64), "priority": "now", "nonce": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX", "ciphertext": body,
		"id": "1", "client_message_id": "0123456789abcdef",
	})
	require.NoError(b, err)
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		var f wire.Send
		if _, err := wire.Peek(raw); err != nil {
			b.Fatal(err)
		}
		if err := wire.Decode(raw, &f); err != nil {
			b.Fatal(err)
		}
	}
}
