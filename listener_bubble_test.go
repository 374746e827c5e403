package aftls_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls"
)

// The tests of Listener run in bubbles with a clock of their own, where the
// state of every goroutine is known: a pause on that clock is a statement about
// order, not about time. A bubble also fails when a goroutine is left over.

// fakeListener hands out what is put into it.
type fakeListener struct {
	items  chan any // net.Conn or error
	closed chan struct{}
	once   sync.Once

	mu    sync.Mutex
	conns []*fakeConn
	taken int
}

func newFakeListener() *fakeListener {
	return &fakeListener{items: make(chan any, 1000), closed: make(chan struct{})}
}

func (l *fakeListener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	case item := <-l.items:
		if err, ok := item.(error); ok {
			return nil, err
		}
		l.mu.Lock()
		l.taken++
		l.mu.Unlock()
		return item.(net.Conn), nil
	}
}

func (l *fakeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *fakeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

// accepted is how many carriers were taken.
func (l *fakeListener) accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.taken
}

// open returns the carriers that were never closed.
func (l *fakeListener) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, c := range l.conns {
		if !c.isClosed() {
			n++
		}
	}
	return n
}

// connect returns the client's end of a new carrier.
func (l *fakeListener) connect(from string) net.Conn { return l.connectSlow(from, 0) }

// connectSlow is connect for a carrier on which the first word takes a while.
func (l *fakeListener) connectSlow(from string, pause time.Duration) net.Conn {
	client, server := net.Pipe()
	c := &fakeConn{Conn: server, pause: pause, from: &net.TCPAddr{IP: net.ParseIP(from), Port: 1000}, done: make(chan struct{})}
	l.mu.Lock()
	l.conns = append(l.conns, c)
	l.mu.Unlock()
	l.items <- c
	return client
}

// fakeConn is a carrier that comes from the address that the test chose.
type fakeConn struct {
	net.Conn
	from  net.Addr
	pause time.Duration // before the first Read
	once  sync.Once
	done  chan struct{}
}

func (c *fakeConn) Read(p []byte) (int, error) {
	time.Sleep(c.pause)
	c.pause = 0
	return c.Conn.Read(p)
}

func (c *fakeConn) RemoteAddr() net.Addr { return c.from }

func (c *fakeConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return c.Conn.Close()
}

func (c *fakeConn) isClosed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// bubble is a Listener on a fakeListener, and those that it gave up.
type bubble struct {
	*testing.T
	inner *fakeListener
	ln    *aftls.Listener
	ccfg  *tls.Config

	mu     sync.Mutex
	failed []failure
}

type failure struct {
	from string
	err  error
}

// inBubble runs f with a Listener of the given limits; none are the real ones.
func inBubble(t *testing.T, slots, ready int, f func(b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ccfg, scfg := configs(t) // here: certificates are dated by the bubble's clock
		b := &bubble{T: t, inner: newFakeListener(), ccfg: ccfg}
		opt := aftls.Options{HandshakeError: func(peer net.Addr, err error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			host, _, _ := net.SplitHostPort(peer.String())
			b.failed = append(b.failed, failure{host, err})
		}}
		if slots == 0 {
			b.ln = aftls.NewListener(b.inner, scfg, opt)
		} else {
			b.ln = aftls.NewListenerWithLimits(b.inner, scfg, opt, slots, ready, 10*time.Second)
		}
		f(b)
		b.ln.Close()
		synctest.Wait()
		if n := b.inner.open(); n != 0 {
			t.Errorf("%d carriers were never closed", n)
		}
	})
}

// failures returns what HandshakeError was told since the last time.
func (b *bubble) failures() []failure {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.failed
	b.failed = nil
	return f
}

// silent connects clients that never say a word, one after the other.
func (b *bubble) silent(from ...string) (conns []net.Conn) {
	for _, from := range from {
		conns = append(conns, b.inner.connect(from))
		synctest.Wait()
		time.Sleep(100 * time.Millisecond) // long enough to be given up, and shorter than the one before
	}
	return conns
}

// client starts a real client. Its connection reads until the end, which comes
// out of the channel.
func (b *bubble) client(from string) <-chan error { return b.slowClient(from, 0) }

// slowClient is client on a carrier where the first word takes a while.
func (b *bubble) slowClient(from string, pause time.Duration) <-chan error {
	carrier := b.inner.connectSlow(from, pause)
	end := make(chan error, 1)
	go func() {
		c, err := aftls.Client(context.Background(), carrier, b.ccfg, aftls.Options{})
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		end <- err
	}()
	return end
}

// accept takes the next connection, which has to be there, and closes it.
func (b *bubble) accept() (from string) {
	b.Helper()
	c, err := b.ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	if err := c.Close(); err != nil {
		b.Error(err)
	}
	return host
}

func numbered(format string, from, to int) (s []string) {
	for i := from; i <= to; i++ {
		s = append(s, fmt.Sprintf(format, i))
	}
	return s
}

// wantEvicted checks that exactly these clients were given up, in this order.
func (b *bubble) wantEvicted(want ...string) {
	b.Helper()
	synctest.Wait()
	var got []string
	for _, f := range b.failures() {
		got = append(got, f.from)
		if _, ok := errors.AsType[*net.OpError](f.err); !ok && !errors.Is(f.err, aftls.ErrEvicted) {
			b.Errorf("%s: %v", f.from, f.err)
		}
		if !errors.Is(f.err, aftls.ErrEvicted) {
			b.Errorf("%s: %v, want the error of an eviction", f.from, f.err)
		}
	}
	if !slices.Equal(got, want) {
		b.Fatalf("given up: %v, want %v", got, want)
	}
}
