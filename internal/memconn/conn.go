package memconn

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Conn is one end of a connection in memory. It behaves like a TCP connection: full duplex, with a bounded buffer in each
// direction, deadlines and concurrent use as [net.Conn] has them. Errors are [*net.OpError]; errors.Is finds
// [net.ErrClosed], [os.ErrDeadlineExceeded], [syscall.EPIPE] and [syscall.ECONNRESET] in them.
//
// A connection belongs to the synctest bubble in which it was dialled: a blocked Read or Write is durably blocked there.
type Conn struct {
	in, out       *pipe
	local, remote net.Addr
}

var _ net.Conn = (*Conn)(nil)

// newPair returns both ends of a connection whose buffers hold size bytes each.
func newPair(a, b net.Addr, size int) (*Conn, *Conn) {
	ab, ba := newPipe(size), newPipe(size)
	return &Conn{in: ba, out: ab, local: a, remote: b}, &Conn{in: ab, out: ba, local: b, remote: a}
}

// Read reads what the peer wrote. When the peer has closed, it returns what is left and then io.EOF.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b)
	return n, c.wrap("read", err)
}

// Write returns when all of b is in the buffer, so it blocks while the peer does not read. If the peer has closed, it
// fails with [syscall.EPIPE]. Concurrent writes do not mix.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.out.write(b)
	return n, c.wrap("write", err)
}

// Close ends both directions. The peer may still read what was written before. Closing twice is an error.
func (c *Conn) Close() error {
	first := c.out.closeWriter()
	c.in.closeReader()
	if !first {
		return c.wrap("close", net.ErrClosed)
	}
	return nil
}

// Abort cuts the connection, as when a cable is pulled and the reset arrives at once: what is buffered is lost, and reads
// and writes fail with [syscall.ECONNRESET] at both ends until they close. After Close it cuts off only what the peer had
// yet to read.
func (c *Conn) Abort() {
	c.in.abort()
	c.out.abort()
}

// LocalAddr returns this end's address, a [*net.TCPAddr].
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the other end's address, a [*net.TCPAddr].
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines. Zero means none.
func (c *Conn) SetDeadline(t time.Time) error {
	err := c.SetReadDeadline(t)
	if err == nil {
		err = c.SetWriteDeadline(t)
	}
	return err
}

// SetReadDeadline makes Read, also one that is blocked, fail with [os.ErrDeadlineExceeded] from t on. Zero means never.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.wrap("set", c.in.setDeadline(&c.in.reader, t))
}

// SetWriteDeadline does the same for Write, which may then have written a part.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.wrap("set", c.out.setDeadline(&c.out.writer, t))
}

// SetReadBuffer makes size the number of bytes, at least 1, that the peer may write before this end reads them. What is
// buffered stays.
func (c *Conn) SetReadBuffer(size int) error { c.in.resize(size); return nil }

// SetWriteBuffer makes size the number of bytes, at least 1, that this end may write before the peer reads them.
func (c *Conn) SetWriteBuffer(size int) error { c.out.resize(size); return nil }

// wrap gives err the form that package net gives its errors. io.EOF stays as it is.
func (c *Conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: c.local.Network(), Source: c.local, Addr: c.remote, Err: err}
}

// pipe is one direction of a connection. Its lock is held for moments only, and everything longer, a second writer's turn
// included, is waited for by its condition: that blocks a goroutine durably, while waiting for a lock does not.
type pipe struct {
	mu      sync.Mutex
	changed sync.Cond // broadcast after every change of what follows
	buf     []byte    // guarded by mu: written and not yet read
	size    int       // guarded by mu: how long buf may get
	writing bool      // guarded by mu: a Write is under way, others wait for it
	reset   bool      // guarded by mu: the link was cut
	reader  side      // guarded by mu
	writer  side      // guarded by mu
}

// side is one of the two ends of a pipe.
type side struct {
	closed   bool
	deadline time.Time   // zero: none
	alarm    *time.Timer // sets expired; nil without a deadline in the future
	expired  bool        // the alarm went off, whatever a wall clock that was set back says
}

func newPipe(size int) *pipe {
	p := &pipe{size: size}
	p.changed.L = &p.mu
	return p
}

// errLocked says why the owner of s may not go on.
func (p *pipe) errLocked(s *side) error {
	switch {
	case s.closed:
		return net.ErrClosed
	case p.reset:
		return syscall.ECONNRESET
	case s.expired, !s.deadline.IsZero() && !time.Now().Before(s.deadline):
		// The clock counts too: in a bubble alarms of one instant go off in any order, and tests shall not depend on it.
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if err := p.errLocked(&p.reader); err != nil {
			return 0, err
		}
		switch {
		case len(b) == 0:
			return 0, nil
		case len(p.buf) > 0:
			n := copy(b, p.buf)
			if p.buf = p.buf[n:]; len(p.buf) == 0 {
				p.buf = nil // an idle connection holds no memory
			}
			p.changed.Broadcast()
			return n, nil
		case p.writer.closed:
			return 0, io.EOF
		}
		p.changed.Wait()
	}
}

func (p *pipe) write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.writing {
		if err := p.errLocked(&p.writer); err != nil {
			return 0, err
		}
		p.changed.Wait()
	}
	p.writing = true
	defer func() {
		p.writing = false
		p.changed.Broadcast()
	}()
	for {
		if err := p.errLocked(&p.writer); err != nil {
			return n, err
		}
		if p.reader.closed {
			return n, syscall.EPIPE
		}
		if room := min(p.size-len(p.buf), len(b)-n); room > 0 {
			p.buf = append(p.buf, b[n:n+room]...)
			n += room
			p.changed.Broadcast()
		}
		if n == len(b) {
			return n, nil
		}
		p.changed.Wait()
	}
}

// closeWriter reports whether the writer was open.
func (p *pipe) closeWriter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closeLocked(&p.writer)
}

func (p *pipe) closeReader() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeLocked(&p.reader)
	p.buf = nil // nobody will read it
}

func (p *pipe) closeLocked(s *side) bool {
	if s.closed {
		return false
	}
	s.closed = true
	s.disarm()
	p.changed.Broadcast()
	return true
}

func (p *pipe) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reset, p.buf = true, nil
	p.changed.Broadcast()
}

func (p *pipe) resize(size int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.size = max(1, size)
	p.changed.Broadcast()
}

// setDeadline sets the deadline of s, which is one of p's sides.
func (p *pipe) setDeadline(s *side, t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.disarm()
	s.deadline, s.expired = t, false
	if !t.IsZero() {
		if wait := time.Until(t); wait <= 0 {
			s.expired = true
		} else {
			var alarm *time.Timer
			alarm = time.AfterFunc(wait, func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				if s.alarm == alarm { // or else it was replaced while it waited for the lock
					s.expired = true
					p.changed.Broadcast()
				}
			})
			s.alarm = alarm
		}
	}
	p.changed.Broadcast()
	return nil
}

func (s *side) disarm() {
	if s.alarm != nil {
		s.alarm.Stop()
		s.alarm = nil
	}
}
