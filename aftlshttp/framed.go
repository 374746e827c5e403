package aftlshttp

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/aftls/aftls"
)

// framed is the connection of a server of HTTP/2. It knows where frames end, and
// keeps back what is not worth a record and a system call of its own:
//
//	the HEADERS frame of an answer   for headersWait: mostly the body comes at once
//	the begin of a frame             until the rest comes: the server's buffer was full
//
// HTTP/2 is written by one goroutine at a time; only the timer comes between.
type framed struct {
	net.Conn // conn: of its other methods none may write
	conn     *aftls.Conn

	mu    sync.Mutex
	place framePlace
	held  *[heldSize]byte // borrowed while something is kept back
	kept  int             // bytes in it
	timer *time.Timer
	err   error // of a write that the timer made
}

const (
	headersWait = 100 * time.Microsecond
	heldSize    = 8 << 10 // what the server's buffer holds, behind an answer's HEADERS
)

var heldPool = sync.Pool{New: func() any { return new([heldSize]byte) }}

func newFramed(c *aftls.Conn) *framed { return &framed{Conn: c, conn: c} }

func (c *framed) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.place.pass(p)
	if (c.place.inside() || c.place.answers) && c.kept+len(p) <= heldSize {
		if c.held == nil {
			c.held = heldPool.Get().(*[heldSize]byte)
		}
		c.kept += copy(c.held[c.kept:], p)
		if !c.place.inside() {
			c.wait()
		}
		return len(p), nil
	}
	if c.kept == 0 {
		return c.conn.Write(p)
	}
	before := int64(c.kept)
	b := net.Buffers{c.held[:c.kept], p}
	n, err := c.conn.WriteBuffers(&b)
	c.drop()
	return int(max(n-before, 0)), err
}

// ConnectionState is asked for by the server.
func (c *framed) ConnectionState() tls.ConnectionState { return c.conn.ConnectionState() }

func (c *framed) wait() {
	if c.timer == nil {
		c.timer = time.AfterFunc(headersWait, c.flush)
		return
	}
	c.timer.Reset(headersWait)
}

// flush sends what waited in vain. The rest of a frame is waited for in any case.
func (c *framed) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept > 0 && !c.place.inside() {
		_, c.err = c.conn.Write(c.held[:c.kept])
		c.drop()
	}
}

func (c *framed) drop() {
	heldPool.Put(c.held)
	c.held, c.kept = nil, 0
}

// Read makes of the end of the carrier what crypto/tls makes of it: frames tell
// themselves what was cut off, and a client that just leaves is nothing to log.
func (c *framed) Read(p []byte) (int, error) {
	n, err := c.conn.Read(p)
	if e, ok := errors.AsType[*aftls.TruncatedError](err); ok {
		if err = io.EOF; e.InRecord {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// framePlace is a place in a stream of frames (RFC 9113, 4.1).
type framePlace struct {
	head    [frameHeader]byte
	have    int  // bytes of head
	left    int  // bytes of the payload still to come
	answers bool // the last frame, which is whole, opened an answer with more to come
}

const (
	frameHeader    = 9
	frameHEADERS   = 1
	flagEndStream  = 1
	flagEndHeaders = 4
)

// inside reports whether the end of a frame is still to come.
func (f *framePlace) inside() bool { return f.have > 0 }

// pass goes over the next bytes.
func (f *framePlace) pass(p []byte) {
	for len(p) > 0 {
		if f.have < frameHeader {
			n := copy(f.head[f.have:], p)
			f.have += n
			if p = p[n:]; f.have < frameHeader {
				return
			}
			f.left = int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
		}
		n := min(f.left, len(p))
		f.left -= n
		if p = p[n:]; f.left == 0 {
			f.have = 0
			f.answers = f.head[3] == frameHEADERS && f.head[4]&(flagEndStream|flagEndHeaders) == flagEndHeaders
		}
	}
}
