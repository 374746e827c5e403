package kcm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls/kcm"
)

// simListener accepts what dial makes.
type simListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newSimListener() *simListener {
	return &simListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *simListener) dial() simConn {
	client, server := newSimPair(1, 20000, 1<<20)
	l.conns <- waitConn{server}
	return client
}

func (l *simListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *simListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *simListener) Addr() net.Addr { return &net.UnixAddr{Name: "sim", Net: "unix"} }

// handle does what the message says, and answers with it.
func handle(answer []byte, m kcm.Message) ([]byte, error) {
	switch text := string(m.Data[2:]); {
	case text == "panic":
		panic("at the command of a message")
	case text == "exit":
		runtime.Goexit()
	case text == "fail":
		return nil, errGarbage
	case text == "silence":
		return nil, nil
	case text == "borrowed":
		return m.Data, nil
	case strings.HasPrefix(text, "sleep "):
		d, err := time.ParseDuration(text[6:])
		if err != nil {
			return nil, err
		}
		time.Sleep(d)
	}
	return append(answer, m.Data...), nil
}

// serve runs a server in a bubble.
func serve(t *testing.T, workers int, f func(t *testing.T, s *kcm.Server, l *simListener, ended chan error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l, ended := newSimListener(), make(chan error, 100)
		s := &kcm.Server{Framer: kcm.DNS, Handler: handle, Workers: workers,
			Config: kcm.Config{SendTimeout: time.Minute, Ended: func(_ *kcm.Conn, err error) { ended <- err }}}
		served := make(chan error)
		go func() { served <- s.Serve(l) }()
		f(t, s, l, ended)
		s.Close()
		if err := <-served; err != net.ErrClosed {
			t.Errorf("Serve: %v", err)
		}
		if err := s.Serve(newSimListener()); err != net.ErrClosed {
			t.Errorf("Serve after Close: %v", err)
		}
	})
}

func TestServerAnswersOutOfOrder(t *testing.T) {
	serve(t, 0, func(t *testing.T, s *kcm.Server, l *simListener, ended chan error) {
		c := l.dial()
		write(t, c, msg("sleep 3s"), msg("silence"), msg("sleep 1s"), msg("at once"), msg("borrowed"))
		got := []string{readMsg(t, c), readMsg(t, c)}
		if got[0] == "borrowed" { // both at the same time
			got[0], got[1] = got[1], got[0]
		}
		got = append(got, readMsg(t, c), readMsg(t, c))
		if want := []string{"at once", "borrowed", "sleep 1s", "sleep 3s"}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q, want %q", got, want)
		}
		c.Close()
		if err := <-ended; err != io.EOF {
			t.Errorf("ended with %v", err)
		}
		if n := s.Stats(); n.Messages != 5 || n.Sent != 4 {
			t.Errorf("%+v", n)
		}
	})
}

func TestServerWorkersAreShared(t *testing.T) {
	serve(t, 2, func(t *testing.T, s *kcm.Server, l *simListener, _ chan error) {
		slow, fast := l.dial(), l.dial()
		write(t, slow, msg("sleep 10s"), msg("sleep 10s"), msg("sleep 10s"))
		synctest.Wait()
		began := time.Now()
		write(t, fast, msg("x"))
		readMsg(t, fast)
		if d := time.Since(began); d != 10*time.Second { // both workers are at it
			t.Errorf("answered after %v", d)
		}
		readMsg(t, slow)
		readMsg(t, slow)
		readMsg(t, slow)
	})
}

func TestHandlerThatFails(t *testing.T) {
	for text, is := range map[string]func(error) bool{
		"fail": func(err error) bool { return err == errGarbage },
		"panic": func(err error) bool {
			var p *kcm.PanicError
			return errors.As(err, &p) && p.In == "handler" && p.Value == "at the command of a message" && bytes.Contains(p.Stack, []byte("handle"))
		},
		"exit": func(err error) bool {
			var p *kcm.PanicError
			return errors.As(err, &p) && p.In == "handler" && strings.Contains(err.Error(), "Goexit")
		},
	} {
		serve(t, 1, func(t *testing.T, s *kcm.Server, l *simListener, ended chan error) {
			bad, good := l.dial(), l.dial()
			write(t, bad, msg(text))
			if err := <-ended; !is(err) {
				t.Errorf("ended with %v", err)
			}
			for range 3 { // the worker goes on
				write(t, good, msg("x"))
				if got := readMsg(t, good); got != "x" {
					t.Errorf("%q", got)
				}
			}
			if _, err := bad.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%v, want the end of the connection", err)
			}
		})
	}
}

// As many peers as workers that do not read keep no worker.
func TestServerAndPeersThatNeverRead(t *testing.T) {
	serve(t, 3, func(t *testing.T, s *kcm.Server, l *simListener, ended chan error) {
		for range 6 {
			c := l.dial()
			go func() {
				for {
					if _, err := c.Write(msg(strings.Repeat("x", 5000))); err != nil {
						return
					}
				}
			}()
		}
		good := l.dial()
		began := time.Now()
		for range 100 {
			write(t, good, msg("x"))
			readMsg(t, good)
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("100 answers took %v", d)
		}
		for range 6 {
			var slow *kcm.SlowPeerError
			if err := <-ended; !errors.As(err, &slow) {
				t.Errorf("ended with %v", err)
			}
		}
		if d := time.Since(began); d != time.Minute {
			t.Errorf("ended after %v", d)
		}
	})
}

func TestServerShutdown(t *testing.T) {
	serve(t, 2, func(t *testing.T, s *kcm.Server, l *simListener, ended chan error) {
		busy, idle := l.dial(), l.dial()
		write(t, busy, msg("sleep 3s"), msg("sleep 1s"), msg("queued"), []byte("\x00\x07half"))
		synctest.Wait()
		began := time.Now()
		down := make(chan error)
		go func() { down <- s.Shutdown(t.Context()) }()
		synctest.Wait()
		if err := <-ended; err != net.ErrClosed {
			t.Errorf("the idle connection ended with %v", err)
		}
		if _, err := idle.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%v", err)
		}
		for _, want := range []string{"sleep 1s", "queued", "sleep 3s"} {
			if got := readMsg(t, busy); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		if err := <-down; err != nil || time.Since(began) != 3*time.Second {
			t.Errorf("Shutdown: %v after %v", err, time.Since(began))
		}
		if err := <-ended; err != net.ErrClosed {
			t.Errorf("ended with %v", err)
		}
	})
	serve(t, 1, func(t *testing.T, s *kcm.Server, l *simListener, ended chan error) {
		c := l.dial()
		write(t, c, msg("sleep 1h"), msg("not any more"))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != context.DeadlineExceeded {
			t.Errorf("%v", err)
		}
		if err := <-ended; err != net.ErrClosed {
			t.Errorf("ended with %v", err)
		}
		time.Sleep(2 * time.Hour) // the handler ends when it ends
	})
}

type failingListener struct{ net.Listener }

func (failingListener) Accept() (net.Conn, error) { return nil, errGarbage }
func (failingListener) Close() error              { return nil }

// tiredListener has no descriptors left, for a while.
type tiredListener struct {
	*simListener
	fails atomic.Int64
}

func (l *tiredListener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	if l.fails.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.simListener.Accept()
}

func TestServeOutlastsTheWantOfDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &tiredListener{simListener: newSimListener()}
		l.fails.Store(10)
		s := &kcm.Server{Framer: kcm.DNS, Handler: handle}
		served := make(chan error)
		go func() { served <- s.Serve(l) }()
		c := l.dial()
		write(t, c, msg("x"))
		if got := readMsg(t, c); got != "x" {
			t.Errorf("%q", got)
		}
		l.fails.Store(1 << 30) // and now it has none for good
		l.dial().Close()
		c.Close()
		time.Sleep(time.Hour)
		s.Close()
		if err := <-served; err != net.ErrClosed {
			t.Errorf("%v", err)
		}
	})
}

func TestServeReturnsTheErrorOfAccept(t *testing.T) {
	s := &kcm.Server{Framer: kcm.DNS, Handler: handle}
	defer s.Close()
	if err := s.Serve(failingListener{}); err != errGarbage {
		t.Errorf("%v", err)
	}
}

// Answers to messages that came together leave in few writes, though as many
// workers as there are messages are woken for them.
func TestAnswersLeaveTogether(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, func(t *testing.T) {
		const rounds, together = 50, 8
		s := &kcm.Server{Framer: kcm.DNS, Handler: handle, Workers: together}
		defer s.Close()
		l := newSimListener()
		go s.Serve(l)
		client, server := newSimPair(1, 1<<20, 1<<20)
		l.conns <- waitConn{server}
		defer client.Close()
		for range rounds {
			synctest.Wait() // all workers are parked
			write(t, client, bytes.Repeat(msg("x"), together))
			for range together {
				readMsg(t, client)
			}
		}
		synctest.Wait()
		if n := s.Stats(); n.Sent != rounds*together || n.Writes > n.Sent/2 {
			t.Errorf("%+v", n)
		}
	})
}
