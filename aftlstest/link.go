package aftlstest

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// linkBuffer is how many bytes one direction of a link holds at first.
const linkBuffer = 64 << 10

// LinkConn is one end of a link made by [NewLink]. It behaves as a TCP
// connection does, without a network: CloseWrite half-closes it, what was
// written before Close can still be read, and a deadline that passed ends calls
// with os.ErrDeadlineExceeded until it is moved. Write blocks while the buffer
// of its direction is full. All methods may be called at once; writes do not
// mix.
type LinkConn struct {
	in, out       *flow
	local, remote linkAddr
}

var _ net.Conn = (*LinkConn)(nil)

// NewLink returns the two ends of a connection in memory. seed decides how what
// is written gets cut into pieces, each time the same way for the same calls: a
// Read returns fewer bytes than are there, a large Write goes into the buffer
// bit by bit. Seed 0 cuts nothing.
//
// A link works in a bubble of testing/synctest when it was made there: it blocks
// on channels only, its deadlines follow the clock of the bubble, and it keeps
// no goroutine.
func NewLink(seed uint64) (a, b *LinkConn) {
	ab, ba := newFlow(seed, 1), newFlow(seed, 2)
	return &LinkConn{ba, ab, "a", "b"}, &LinkConn{ab, ba, "b", "a"}
}

// Read reads what the other end wrote, at least one byte. The error is io.EOF
// after its CloseWrite or Close.
func (c *LinkConn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.opError("read", err)
}

// Write writes all of p, or fails; n counts the bytes that the other end can
// read. The error is syscall.EPIPE when the other end is closed.
func (c *LinkConn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.opError("write", err)
}

// CloseWrite lets the other end read io.EOF after what was written. Reading
// goes on.
func (c *LinkConn) CloseWrite() error {
	return c.opError("close", c.out.change(func(f *flow) error {
		if f.left {
			return net.ErrClosed
		}
		f.fin = true
		return nil
	}))
}

// Close closes the end: reads and writes under way here return net.ErrClosed.
// The other end can read what was written before.
func (c *LinkConn) Close() error {
	err := c.out.change(func(f *flow) error {
		if f.left {
			return net.ErrClosed
		}
		f.fin, f.left = true, true
		return nil
	})
	if err == nil {
		c.in.change(func(f *flow) error { f.gone = true; return nil })
	}
	return c.opError("close", err)
}

// Reset breaks the link: what is under way is lost, and both ends get
// syscall.ECONNRESET for everything but Close.
func (c *LinkConn) Reset() {
	for _, f := range []*flow{c.in, c.out} {
		f.change(func(f *flow) error { f.reset, f.buf = true, nil; return nil })
	}
}

// SetWriteBuffer sets how many bytes that the other end did not read yet fit
// between the two, 64 KiB at first. More than that may be there already.
func (c *LinkConn) SetWriteBuffer(bytes int) error {
	if bytes < 1 {
		return c.opError("set", syscall.EINVAL)
	}
	return c.out.change(func(f *flow) error { f.room = bytes; return nil })
}

// Buffered is how many bytes the other end wrote and this one did not read.
func (c *LinkConn) Buffered() int {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return len(c.in.buf)
}

// LocalAddr is the name of this end.
func (c *LinkConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the name of the other end.
func (c *LinkConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *LinkConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline ends reads with os.ErrDeadlineExceeded from t on. The zero
// time means never.
func (c *LinkConn) SetReadDeadline(t time.Time) error {
	return c.opError("set", c.in.change(func(f *flow) error {
		if f.gone {
			return net.ErrClosed
		}
		f.readBy = t
		return nil
	}))
}

// SetWriteDeadline ends writes with os.ErrDeadlineExceeded from t on. The zero
// time means never.
func (c *LinkConn) SetWriteDeadline(t time.Time) error {
	return c.opError("set", c.out.change(func(f *flow) error {
		if f.left {
			return net.ErrClosed
		}
		f.writeBy = t
		return nil
	}))
}

func (c *LinkConn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "link", Source: c.local, Addr: c.remote, Err: err}
}

type linkAddr string

func (linkAddr) Network() string  { return "link" }
func (a linkAddr) String() string { return string(a) }

// flow is one direction of a link. mu is never held while anybody waits: a
// goroutine that waits for a mutex is not durably blocked for synctest.
type flow struct {
	writing chan struct{} // holds one token while a Write is under way

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when anything below changes
	buf     []byte
	room    int
	fin     bool // the writer will write no more
	left    bool // the writer's end is closed
	gone    bool // the reader's end is closed
	reset   bool
	readBy  time.Time
	writeBy time.Time

	cut           bool
	reads, writes *rand.Rand // apart, so that one side's calls do not move the other's
}

func newFlow(seed, direction uint64) *flow {
	return &flow{
		writing: make(chan struct{}, 1),
		changed: make(chan struct{}),
		room:    linkBuffer,
		cut:     seed != 0,
		reads:   rand.New(rand.NewPCG(seed, direction)),
		writes:  rand.New(rand.NewPCG(seed, direction+2)),
	}
}

func (f *flow) change(do func(*flow) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := do(f)
	f.wake()
	return err
}

func (f *flow) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// await waits until something changes or the deadline passes, or until token
// takes one, if it is not nil. f.mu is held before and after.
func (f *flow) await(by time.Time, token chan<- struct{}) (took bool) {
	changed := f.changed
	f.mu.Unlock()
	defer f.mu.Lock()
	var expired <-chan time.Time
	if !by.IsZero() {
		t := time.NewTimer(time.Until(by))
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-changed:
	case <-expired:
	case token <- struct{}{}:
		return true
	}
	return false
}

func expired(by time.Time) bool { return !by.IsZero() && !time.Now().Before(by) }

func (f *flow) read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.gone:
			return 0, net.ErrClosed
		case expired(f.readBy):
			return 0, os.ErrDeadlineExceeded
		case f.reset:
			return 0, syscall.ECONNRESET
		case len(p) == 0:
			return 0, nil
		case len(f.buf) > 0:
			n := f.piece(f.reads, min(len(p), len(f.buf)))
			copy(p, f.buf[:n])
			if f.buf = f.buf[n:]; len(f.buf) == 0 {
				f.buf = nil
			}
			f.wake()
			return n, nil
		case f.fin:
			return 0, io.EOF
		}
		f.await(f.readBy, nil)
	}
}

func (f *flow) writable() error {
	switch {
	case f.left:
		return net.ErrClosed
	case expired(f.writeBy):
		return os.ErrDeadlineExceeded
	case f.reset:
		return syscall.ECONNRESET
	case f.fin, f.gone:
		return syscall.EPIPE
	}
	return nil
}

func (f *flow) write(p []byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for took := false; !took; {
		if err := f.writable(); err != nil {
			return 0, err
		}
		took = f.await(f.writeBy, f.writing)
	}
	defer func() { <-f.writing }()
	for {
		if err := f.writable(); err != nil || len(p) == 0 {
			return n, err
		}
		if free := min(f.room-len(f.buf), len(p)); free > 0 {
			m := f.piece(f.writes, free)
			f.buf = append(f.buf, p[:m]...)
			n, p = n+m, p[m:]
			f.wake()
			continue
		}
		f.await(f.writeBy, nil)
	}
}

// piece chooses how much of n bytes moves at once: often all, sometimes no more
// than the edges at which record layers go wrong.
func (f *flow) piece(r *rand.Rand, n int) int {
	if !f.cut {
		return n
	}
	switch r.IntN(8) {
	case 0:
		return 1
	case 1:
		return min(n, 5)
	case 2, 3, 4:
		return 1 + r.IntN(n)
	}
	return n
}
