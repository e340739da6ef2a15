// Package memconn is a network in memory, for tests.
//
// A [Listener] serves as the net.Listener of an http.Server, and its DialContext as that of an http.Transport. What
// happens in between takes no time and no ports, and goroutines that wait for it are durably blocked, so servers and
// clients run inside a testing/synctest bubble. A listener and all its connections belong to the bubble in which
// [Listen] was called.
package memconn

import (
	"context"
	"math"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// DefaultBuffer is how many bytes each direction of a connection holds unless told otherwise.
const DefaultBuffer = 64 << 10

const (
	backlog    = 128 // how many connections may wait for Accept; then dialling blocks
	serverPort = 7900
	firstPort  = 10_000 // of the dialling ends, which are numbered from here and again after the last port
)

// localhost is where the listener is and, unless told otherwise, where connections come from.
var localhost = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Listener accepts the connections that its own DialContext makes. It is safe for concurrent use.
type Listener struct {
	size   int
	accept chan *Conn
	done   chan struct{} // closed by Close

	mu     sync.Mutex
	closed bool // guarded by mu
	dialed int  // guarded by mu: how many connections there were
}

var _ net.Listener = (*Listener)(nil)

// Listen returns a listener whose connections hold [DefaultBuffer] bytes in each direction.
func Listen() *Listener { return ListenBuffer(DefaultBuffer) }

// ListenBuffer returns a listener whose connections hold size bytes in each direction: the smaller, the sooner a peer
// that does not read stalls the other. 0 means [DefaultBuffer], negative means no bound.
func ListenBuffer(size int) *Listener {
	switch {
	case size == 0:
		size = DefaultBuffer
	case size < 0:
		size = math.MaxInt
	}
	return &Listener{size: size, accept: make(chan *Conn, backlog), done: make(chan struct{})}
}

// Accept returns the next connection, a [*Conn], or an error that is [net.ErrClosed].
func (l *Listener) Accept() (net.Conn, error) {
	if !l.isClosed() {
		select {
		case c := <-l.accept:
			return c, nil
		case <-l.done:
		}
	}
	return nil, l.fail("accept", net.ErrClosed)
}

// Close makes Accept and dialling fail and resets connections that nobody accepted. It leaves the others alone. Closing
// twice is an error.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.fail("close", net.ErrClosed)
	}
	l.closed = true
	close(l.done)
	for {
		select {
		case c := <-l.accept:
			c.Abort()
		default:
			return nil
		}
	}
}

// Addr returns the listener's address, a [*net.TCPAddr].
func (l *Listener) Addr() net.Addr { return address(localhost, serverPort) }

// DialContext connects to the listener from 127.0.0.1, whatever network and addr say, and returns a [*Conn]. It fails
// with [syscall.ECONNREFUSED] when the listener is closed. Once 128 connections wait for Accept it blocks until ctx ends;
// ctx does not affect the connection later.
func (l *Listener) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return l.DialFrom(ctx, localhost)
}

// DialFrom is DialContext from another address, for what depends on where a peer is.
func (l *Listener) DialFrom(ctx context.Context, from netip.Addr) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, l.fail("dial", err)
	}
	l.mu.Lock()
	port := firstPort + l.dialed%(1<<16-firstPort)
	l.dialed++
	l.mu.Unlock()

	client, server := newPair(address(from, port), l.Addr(), l.size)
	if !l.isClosed() {
		select {
		case l.accept <- server:
			if l.isClosed() { // perhaps too late for Close to see it
				server.Abort()
				return nil, l.fail("dial", syscall.ECONNREFUSED)
			}
			return client, nil
		case <-ctx.Done():
			return nil, l.fail("dial", ctx.Err())
		case <-l.done:
		}
	}
	return nil, l.fail("dial", syscall.ECONNREFUSED)
}

func (l *Listener) isClosed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

func (l *Listener) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: l.Addr(), Err: err}
}

func address(addr netip.Addr, port int) net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, uint16(port)))
}
