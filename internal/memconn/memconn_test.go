package memconn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// pair returns both ends of a connection with buffers of size bytes.
func pair(t *testing.T, size int) (client, server *Conn) {
	t.Helper()
	l := ListenBuffer(size)
	a, err := l.DialContext(t.Context(), "tcp", "broker:80")
	require.NoError(t, err)
	b, err := l.Accept()
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return a.(*Conn), b.(*Conn)
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(b)
}

func TestPeerReadsWhatIsLeftAndThenEOF(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, 0)
		_, err := a.Write([]byte("left"))
		require.NoError(t, err)
		_, err = b.Write([]byte("unread"))
		require.NoError(t, err)
		require.NoError(t, a.Close())
		require.ErrorIs(t, a.Close(), net.ErrClosed)

		_, err = b.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
		require.Equal(t, "left", readAll(t, b))
		_, err = a.Read(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = a.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, a.SetDeadline(time.Now()), net.ErrClosed)
		require.NoError(t, b.Close())
	})
}

func TestCloseWakesBothEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, 4)
		var wg sync.WaitGroup
		expect := func(want error, op func() (int, error)) {
			wg.Go(func() {
				_, err := op()
				if !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
			})
		}
		expect(net.ErrClosed, func() (int, error) { return a.Read(make([]byte, 1)) })
		expect(net.ErrClosed, func() (int, error) { return a.Write(make([]byte, 5)) })
		expect(net.ErrClosed, func() (int, error) { return a.Write(make([]byte, 5)) }) // waits for its turn
		synctest.Wait()
		require.NoError(t, a.Close())
		wg.Wait()
		require.Equal(t, "\x00\x00\x00\x00", readAll(t, b))

		a, b = pair(t, 4)
		expect(io.EOF, func() (int, error) { return b.Read(make([]byte, 1)) })
		expect(syscall.EPIPE, func() (int, error) { return b.Write(make([]byte, 5)) })
		synctest.Wait()
		require.NoError(t, a.Close())
		wg.Wait()
	})
}

func TestWriteStallsWhileThePeerDoesNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, 4)
		require.NoError(t, a.SetWriteDeadline(time.Now().Add(time.Minute)))
		begin := time.Now()
		n, err := a.Write([]byte("0123456789"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 4, n)
		require.Equal(t, time.Minute, time.Since(begin))
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())

		require.NoError(t, a.SetWriteDeadline(time.Time{}))
		require.NoError(t, b.SetReadBuffer(6))
		n, err = a.Write([]byte("45"))
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.NoError(t, a.SetWriteBuffer(-1)) // smaller than what is there
		go func() {
			a.Write([]byte("6789"))
			a.Close()
		}()
		require.Equal(t, "0123456789", readAll(t, b))
	})
}

func TestUnboundedBufferTakesEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, -1)
		n, err := a.Write(make([]byte, 8*DefaultBuffer))
		require.NoError(t, err)
		require.Equal(t, 8*DefaultBuffer, n)
		require.NoError(t, a.Close())
		require.Len(t, readAll(t, b), 8*DefaultBuffer)
	})
}

func TestDeadlinesExpireMoveAndLift(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, 0)
		one := make([]byte, 1)
		begin := time.Now()
		require.NoError(t, a.SetDeadline(begin.Add(time.Second)))
		_, err := a.Read(one)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begin))
		_, err = a.Write(one)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)

		require.NoError(t, a.SetDeadline(time.Time{}))
		require.NoError(t, a.SetReadDeadline(time.Now().Add(time.Second)))
		require.NoError(t, a.SetReadDeadline(time.Now().Add(time.Hour)), "the first must not count any more")
		time.AfterFunc(time.Minute, func() { b.Write([]byte("x")) })
		_, err = a.Read(one)
		require.NoError(t, err)

		// A deadline in the past interrupts a Read that is blocked; net/http relies on it when it hijacks.
		time.AfterFunc(time.Minute, func() { a.SetReadDeadline(time.Unix(1, 0)) })
		_, err = a.Read(one)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		_, err = a.Write(one)
		require.NoError(t, err)
	})
}

func TestAbortResetsBothEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, 4)
		_, err := a.Write([]byte("lost"))
		require.NoError(t, err)
		var wg sync.WaitGroup
		for _, op := range []func([]byte) (int, error){a.Read, a.Write} {
			wg.Go(func() {
				if _, err := op(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		b.Abort()
		wg.Wait()
		for _, op := range []func([]byte) (int, error){a.Read, a.Write, b.Read, b.Write} {
			_, err := op(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)
		}
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		b.Abort()
	})
}

func TestConcurrentWritesDoNotMix(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, 7) // smaller than a write
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				for range 20 {
					a.Write([]byte(strings.Repeat(fmt.Sprint(i), 16)))
				}
			})
		}
		go func() {
			wg.Wait()
			a.Close()
		}()
		all := readAll(t, b)
		require.Len(t, all, 10*20*16)
		for i := 0; i < len(all); i += 16 {
			require.Equal(t, strings.Repeat(all[i:i+1], 16), all[i:i+16])
		}
	})
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := Listen()
		defer l.Close()
		a, err := l.DialContext(t.Context(), "tcp", "anything")
		require.NoError(t, err)
		b, err := l.DialFrom(t.Context(), netip.MustParseAddr("2001:db8::1"))
		require.NoError(t, err)
		require.Equal(t, "127.0.0.1:10000", a.LocalAddr().String())
		require.Equal(t, "[2001:db8::1]:10001", b.LocalAddr().String())
		require.Equal(t, l.Addr(), a.RemoteAddr())
		require.IsType(t, &net.TCPAddr{}, l.Addr())
		for _, c := range []net.Conn{a, b} {
			accepted, err := l.Accept()
			require.NoError(t, err)
			require.Equal(t, c.LocalAddr(), accepted.RemoteAddr())
			require.Equal(t, c.RemoteAddr(), accepted.LocalAddr())
		}
	})
}

func TestClosedListener(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := Listen()
		waiting, err := l.DialContext(t.Context(), "", "")
		require.NoError(t, err)
		require.NoError(t, l.Close())
		require.ErrorIs(t, l.Close(), net.ErrClosed)
		_, err = waiting.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET, "nobody accepted it")
		_, err = l.DialContext(t.Context(), "", "")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		_, err = l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)

		l = Listen()
		time.AfterFunc(time.Second, func() { l.Close() })
		_, err = l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestDialBlocksBehindAFullBacklog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := Listen()
		for range backlog {
			_, err := l.DialContext(t.Context(), "", "")
			require.NoError(t, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := l.DialContext(ctx, "", "")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = l.DialContext(ctx, "", "")
		require.ErrorIs(t, err, context.DeadlineExceeded)

		time.AfterFunc(time.Second, func() { l.Close() })
		_, err = l.DialContext(t.Context(), "", "")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
}

// A dial and a close at the same time leave no connection that hangs: either it was refused, or it is reset.
func TestDialRacesWithClose(t *testing.T) {
	t.Parallel()
	for range 200 {
		l := Listen()
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := l.DialContext(context.Background(), "", "")
			if err == nil {
				_, err = c.Read(make([]byte, 1))
			}
			if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v", err)
			}
		}()
		require.NoError(t, l.Close())
		<-done
	}
}

// The bubble panics if a goroutine of server or client is left, so this is also a test for leaks.
func TestHTTPServerAndWebSocketInABubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := Listen()
		srv := &http.Server{Handler: http.HandlerFunc(echo)}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		transport := &http.Transport{DialContext: l.DialContext}
		client := &http.Client{Transport: transport}

		for range 2 { // the second time on the connection that was kept
			resp, err := client.Post("http://broker/", "text/plain", strings.NewReader("plain"))
			require.NoError(t, err)
			require.Equal(t, "plain", readAll(t, resp.Body))
			require.NoError(t, resp.Body.Close())
		}

		ws, _, err := websocket.Dial(t.Context(), "ws://broker/", &websocket.DialOptions{HTTPClient: client})
		require.NoError(t, err)
		ws.SetReadLimit(-1)
		big := bytes.Repeat([]byte("x"), 3*DefaultBuffer)
		for _, msg := range [][]byte{[]byte("hello"), {}, big} {
			go ws.Write(t.Context(), websocket.MessageBinary, msg)
			_, got, err := ws.Read(t.Context())
			require.NoError(t, err)
			require.Equal(t, msg, got)
		}
		begin := time.Now()
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, time.Hour, time.Since(begin))
		require.NoError(t, ws.Close(websocket.StatusNormalClosure, ""))

		transport.CloseIdleConnections()
		require.NoError(t, srv.Shutdown(t.Context()))
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}

func TestAbortedWebSocketEndsAtBothEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := Listen()
		ended := make(chan struct{})
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			echo(w, r)
			close(ended)
		})}
		go srv.Serve(l)
		var link *Conn
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := l.DialContext(ctx, network, addr)
			link = c.(*Conn)
			return c, err
		}}}
		ws, _, err := websocket.Dial(t.Context(), "ws://broker/", &websocket.DialOptions{HTTPClient: client})
		require.NoError(t, err)
		time.AfterFunc(time.Second, func() { link.Abort() })
		_, _, err = ws.Read(t.Context())
		require.ErrorIs(t, err, syscall.ECONNRESET)
		<-ended
		ws.CloseNow()
		require.NoError(t, srv.Close())
	})
}

// echo returns a request's body, or each message of a WebSocket.
func echo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		io.Copy(w, r.Body)
		return
	}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(-1)
	for {
		kind, msg, err := ws.Read(context.Background())
		if err != nil {
			return
		}
		if err := ws.Write(context.Background(), kind, msg); err != nil {
			return
		}
	}
}
