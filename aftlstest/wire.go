package aftlstest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/aftls/aftls/record"
)

// Wire is a TCP relay over loopback that keeps a copy of every byte it passes
// on: what somebody on the way between a client and a server sees. It changes
// nothing: an end of one side becomes that end on the other, and a reset
// becomes a reset. Whoever has read a byte finds it in the copy.
type Wire struct {
	t      testing.TB
	ln     net.Listener
	target string
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	streams []*Stream
}

// NewWire starts a relay to the TCP address target. It ends with the test, and
// with it every connection through it.
func NewWire(t testing.TB, target string) *Wire {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &Wire{t: t, ln: ln, target: target}
	w.wg.Go(w.run)
	t.Cleanup(w.close)
	return w
}

// WirePair returns both ends of a TCP connection through a Wire, and the
// capture of it.
func WirePair(t testing.TB) (client, server *net.TCPConn, s *Stream) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	w := NewWire(t, ln.Addr().String())
	c, err := net.Dial("tcp", w.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	a, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return c.(*net.TCPConn), a.(*net.TCPConn), w.Streams()[0]
}

// Addr is the address to connect to instead of the target.
func (w *Wire) Addr() net.Addr { return w.ln.Addr() }

// Streams returns the captures of the connections so far, in the order in
// which they came.
func (w *Wire) Streams() []*Stream {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*Stream(nil), w.streams...)
}

// Contains reports whether b passed, in either direction of any connection.
func (w *Wire) Contains(b []byte) bool {
	for _, s := range w.Streams() {
		if s.Contains(b) {
			return true
		}
	}
	return false
}

func (w *Wire) run() {
	for {
		in, err := w.ln.Accept()
		if err != nil {
			return
		}
		s := &Stream{client: in.(*net.TCPConn)}
		// The capture is there before the server can see the connection.
		w.mu.Lock()
		w.streams = append(w.streams, s)
		w.mu.Unlock()
		out, err := net.Dial("tcp", w.target)
		w.mu.Lock()
		if err == nil {
			s.server = out.(*net.TCPConn)
		}
		closed := w.closed
		w.mu.Unlock()
		if err != nil || closed {
			s.close()
			continue
		}
		w.wg.Go(func() { s.toServer.pump(s.server, s.client) })
		w.wg.Go(func() { s.toClient.pump(s.client, s.server) })
	}
}

func (w *Wire) close() {
	w.ln.Close()
	w.mu.Lock()
	w.closed = true
	for _, s := range w.streams {
		s.close()
	}
	w.mu.Unlock()
	w.wg.Wait()
}

// Stream is the capture of one connection through a [Wire].
type Stream struct {
	client, server     *net.TCPConn
	toServer, toClient Capture
}

// ToServer is what the client sent.
func (s *Stream) ToServer() *Capture { return &s.toServer }

// ToClient is what the server sent.
func (s *Stream) ToClient() *Capture { return &s.toClient }

// Contains reports whether b passed in either direction.
func (s *Stream) Contains(b []byte) bool {
	return bytes.Contains(s.toServer.Bytes(), b) || bytes.Contains(s.toClient.Bytes(), b)
}

func (s *Stream) close() {
	s.client.Close()
	if s.server != nil {
		s.server.Close()
	}
}

// Capture is what passed in one direction of a connection, so far.
type Capture struct {
	mu sync.Mutex
	b  []byte
}

// Bytes returns a copy of all bytes.
func (c *Capture) Bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.b)
}

// Len is how many bytes passed.
func (c *Capture) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.b)
}

// Records splits the bytes into TLS records, headers included. rest is the
// start of a record whose end has not passed. The error is a [*record.Error]
// where the bytes are no records.
func (c *Capture) Records() (records [][]byte, rest []byte, err error) {
	rest = c.Bytes()
	for {
		n, err := record.Frame(rest)
		if err != nil || n == 0 || n > len(rest) {
			return records, rest, err
		}
		records, rest = append(records, rest[:n:n]), rest[n:]
	}
}

func (c *Capture) pump(dst, src *net.TCPConn) {
	b := make([]byte, 64<<10)
	for {
		n, err := src.Read(b)
		if n > 0 {
			c.mu.Lock()
			c.b = append(c.b, b[:n]...)
			c.mu.Unlock()
			if _, werr := dst.Write(b[:n]); werr != nil {
				err = errors.Join(err, werr)
			}
		}
		switch {
		case err == io.EOF:
			dst.CloseWrite()
			return
		case err != nil:
			for _, conn := range []*net.TCPConn{dst, src} {
				conn.SetLinger(0)
				conn.Close()
			}
			return
		}
	}
}
