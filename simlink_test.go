package aftls_test

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// simLink is a carrier for tests inside a synctest bubble: two ends with
// bounded buffers between them, which cut writes and reads into random pieces
// and deliver them late. It never sleeps: a call that waits holds a lock of the
// Conn above it, and a goroutine that waits for that lock would keep the fake
// clock from going on. So a wait here is always one that a deadline ends.
type simLink struct {
	mu   sync.Mutex
	cond *sync.Cond
	rng  *rand.Rand
	simSpeed
	ends [2]simConn
}

// simSpeed is the character of a link.
type simSpeed struct {
	capacity int           // bytes under way in each direction
	fragment int           // bytes that one read or write moves at most
	delay    time.Duration // of a piece, at most
	stall    int           // one piece of so many is very late; 0 is none
}

// simConn is one end.
type simConn struct {
	link *simLink
	peer *simConn

	out      []simPiece
	outBytes int
	last     time.Time // when the last piece arrives
	sent     []byte    // everything that was ever taken from this end
	ended    bool      // nothing more will be sent by this end
	closed   bool
	blocked  bool // a Write waits for room

	readDeadline, writeDeadline time.Time
}

type simPiece struct {
	at time.Time
	b  []byte
}

func newSimLink(seed uint64, speed simSpeed) *simLink {
	l := &simLink{rng: rand.New(rand.NewPCG(seed, 1)), simSpeed: speed}
	l.cond = sync.NewCond(&l.mu)
	l.ends[0].link, l.ends[0].peer = l, &l.ends[1]
	l.ends[1].link, l.ends[1].peer = l, &l.ends[0]
	return l
}

// setSpeed changes the link under way.
func (l *simLink) setSpeed(s simSpeed) {
	l.mu.Lock()
	l.simSpeed = s
	l.mu.Unlock()
	l.cond.Broadcast()
}

// cut ends both directions without a word from either end. What is under way
// still arrives.
func (l *simLink) cut() {
	l.mu.Lock()
	l.ends[0].ended, l.ends[1].ended = true, true
	l.mu.Unlock()
	l.cond.Broadcast()
}

// wire is what one end sent since the link was made.
func (c *simConn) wire() []byte {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return append([]byte(nil), c.sent...)
}

// writeBlocked reports whether a Write waits for room.
func (c *simConn) writeBlocked() bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.blocked
}

func past(deadline time.Time) bool {
	return !deadline.IsZero() && !time.Now().Before(deadline)
}

func (c *simConn) Write(p []byte) (n int, err error) {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case c.closed:
			return n, c.opError("write", net.ErrClosed)
		case past(c.writeDeadline):
			return n, c.opError("write", os.ErrDeadlineExceeded)
		case c.ended || c.peer.closed:
			return n, c.opError("write", syscall.EPIPE)
		case len(p) == 0:
			return n, nil
		}
		room := min(l.capacity-c.outBytes, len(p), 1+l.rng.IntN(l.fragment))
		if room <= 0 {
			c.blocked = true
			l.cond.Wait()
			c.blocked = false
			continue
		}
		at := time.Now()
		if l.delay > 0 {
			at = at.Add(time.Duration(l.rng.Int64N(int64(l.delay))))
		}
		if l.stall > 0 && l.rng.IntN(l.stall) == 0 {
			at = at.Add(time.Second + time.Duration(l.rng.Int64N(int64(time.Second))))
		}
		if at.Before(c.last) {
			at = c.last
		}
		c.last = at
		c.out = append(c.out, simPiece{at, append([]byte(nil), p[:room]...)})
		c.sent = append(c.sent, p[:room]...)
		c.outBytes += room
		n, p = n+room, p[room:]
		l.cond.Broadcast()
	}
}

func (c *simConn) Read(p []byte) (int, error) {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	from := c.peer
	for {
		switch {
		case c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case past(c.readDeadline):
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case len(from.out) == 0 && (from.ended || from.closed):
			return 0, io.EOF
		}
		if len(from.out) > 0 {
			if wait := time.Until(from.out[0].at); wait > 0 {
				wake := time.AfterFunc(wait, l.cond.Broadcast)
				l.cond.Wait()
				wake.Stop()
				continue
			}
			most := min(len(p), 1+l.rng.IntN(l.fragment))
			n := 0
			for n < most && len(from.out) > 0 && time.Until(from.out[0].at) <= 0 {
				m := copy(p[n:most], from.out[0].b)
				if n += m; m == len(from.out[0].b) {
					from.out = from.out[1:]
				} else {
					from.out[0].b = from.out[0].b[m:]
				}
			}
			from.outBytes -= n
			l.cond.Broadcast()
			return n, nil
		}
		l.cond.Wait()
	}
}

func (c *simConn) CloseWrite() error {
	c.link.mu.Lock()
	c.ended = true
	c.link.mu.Unlock()
	c.link.cond.Broadcast()
	return nil
}

func (c *simConn) Close() error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.closed = true
	c.link.cond.Broadcast()
	return nil
}

func (c *simConn) isClosed() bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.closed
}

func (c *simConn) setDeadline(to *time.Time, t time.Time) error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	*to = t
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		time.AfterFunc(wait, c.link.cond.Broadcast)
	}
	c.link.cond.Broadcast()
	return nil
}

func (c *simConn) SetReadDeadline(t time.Time) error  { return c.setDeadline(&c.readDeadline, t) }
func (c *simConn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeDeadline, t) }
func (c *simConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *simConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "sim", Err: err}
}

type simAddr struct{}

func (simAddr) Network() string { return "sim" }
func (simAddr) String() string  { return "sim" }

func (c *simConn) LocalAddr() net.Addr  { return simAddr{} }
func (c *simConn) RemoteAddr() net.Addr { return simAddr{} }
