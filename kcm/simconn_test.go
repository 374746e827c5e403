package kcm_test

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

// simConn is one end of a stream in memory: with a window, which net.Pipe has
// not, and with reads that bring less than there is.
type simConn struct {
	in, out *simHalf
}

// waitConn is a simConn with what an aftls.Conn has besides.
type waitConn struct{ simConn }

// simHalf is one direction.
type simHalf struct {
	mu                 sync.Mutex
	rng                *rand.Rand
	buf                []byte
	window             int
	piece              int // at most so much with one read
	ended              bool
	cut                bool          // both ends are closed
	changed            chan struct{} // closed when something has
	readEnd, writeEnd  time.Time
	writes, wideWrites int
}

func newSimPair(seed uint64, window, piece int) (a, b simConn) {
	half := func(s uint64) *simHalf {
		return &simHalf{rng: rand.New(rand.NewPCG(seed, s)), window: window, piece: piece, changed: make(chan struct{})}
	}
	x, y := half(1), half(2)
	return simConn{x, y}, simConn{y, x}
}

// change tells those who wait. mu is held.
func (h *simHalf) change() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// sleep waits for a change or the deadline. mu is held, but for that time.
func (h *simHalf) sleep(until time.Time) {
	changed := h.changed
	h.mu.Unlock()
	defer h.mu.Lock()
	if until.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

func late(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

// wait waits until something can be read. mu is held.
func (h *simHalf) wait() error {
	for {
		switch {
		case late(h.readEnd):
			return os.ErrDeadlineExceeded
		case h.cut:
			return net.ErrClosed
		case len(h.buf) > 0:
			return nil
		case h.ended:
			return io.EOF
		}
		h.sleep(h.readEnd)
	}
}

func (c simConn) Read(p []byte) (int, error) {
	h := c.in
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.wait(); err != nil {
		return 0, err
	}
	n := copy(p, h.buf[:min(len(h.buf), 1+h.rng.IntN(h.piece))])
	h.buf = h.buf[n:]
	h.change()
	return n, nil
}

func (c simConn) Write(p []byte) (n int, err error) {
	h := c.out
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writes++
	for len(p) > 0 {
		switch {
		case late(h.writeEnd):
			return n, os.ErrDeadlineExceeded
		case h.cut || h.ended:
			return n, net.ErrClosed
		}
		m := min(len(p), h.window-len(h.buf))
		if m == 0 {
			h.sleep(h.writeEnd)
			continue
		}
		h.buf = append(h.buf, p[:m]...)
		h.change()
		n, p = n+m, p[m:]
	}
	return n, nil
}

func (c waitConn) WaitRead() error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return c.in.wait()
}

func (c waitConn) WriteBuffers(v *net.Buffers) (n int64, err error) {
	c.out.mu.Lock()
	c.out.wideWrites++
	c.out.mu.Unlock()
	for len(*v) > 0 {
		m, err := c.Write((*v)[0])
		n += int64(m)
		if err != nil {
			return n, err
		}
		*v = (*v)[1:]
	}
	return n, nil
}

func (c simConn) CloseWrite() {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.ended = true
	c.out.change()
}

func (c simConn) Close() error {
	c.CloseWrite()
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.cut = true
	c.in.change()
	return nil
}

func (c simConn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.readEnd = t
	c.in.change()
	return nil
}

func (c simConn) SetWriteDeadline(t time.Time) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.writeEnd = t
	c.out.change()
	return nil
}

func (c simConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c simConn) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "sim", Net: "unix"} }
func (c simConn) RemoteAddr() net.Addr { return c.LocalAddr() }

// behind is a connection that some bytes were read from already.
type behind struct {
	net.Conn
	front []byte
}

func (b *behind) Read(p []byte) (int, error) {
	if len(b.front) > 0 {
		n := copy(p, b.front)
		b.front = b.front[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}
