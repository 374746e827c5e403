package aftls_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls"
)

// With all slots taken the handshake that waits longest makes room, and those
// who speak get through.
func TestListenerEvicts(t *testing.T) {
	inBubble(t, 4, 4, func(b *bubble) {
		silent := b.silent(numbered("192.0.2.%d", 1, 4)...)
		b.wantEvicted()
		for i := range 3 {
			end := b.client("198.51.100.1")
			b.wantEvicted(fmt.Sprintf("192.0.2.%d", i+1))
			if n, err := silent[i].Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("the carrier that was given up: %d, %v", n, err)
			}
			if from := b.accept(); from != "198.51.100.1" {
				t.Errorf("accepted %s", from)
			}
			if err := <-end; err != io.EOF {
				t.Errorf("the client's connection ended with %v", err)
			}
			b.silent(fmt.Sprintf("192.0.2.%d", i+5)) // fills the slot again
			b.wantEvicted()
		}
		b.silent(numbered("192.0.2.%d", 8, 12)...)
		b.wantEvicted(numbered("192.0.2.%d", 4, 8)...)
	})
}

// An address with more than its share makes room first, however patient others
// have been.
func TestListenerShares(t *testing.T) {
	for _, tt := range []struct {
		name   string
		greedy func(i int) string
	}{
		{"IPv4", func(int) string { return "203.0.113.1" }},
		{"IPv6", func(i int) string { return fmt.Sprintf("2001:db8::%x", i) }}, // all of one /64
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, 16, 4, func(b *bubble) { // so the share is 2
				b.silent(numbered("192.0.2.%d", 1, 4)...)
				b.silent("2001:db8:0:1::1", "2001:db8:0:2::1", "192.0.2.5", "192.0.2.5") // no more than a share each
				var greedy []string
				for i := range 8 {
					greedy = append(greedy, tt.greedy(i+1))
				}
				b.silent(greedy...)
				b.wantEvicted()
				// Six of the eight are over the share; the newcomers are not.
				b.silent(numbered("198.51.100.%d", 1, 6)...)
				b.wantEvicted(greedy[:6]...)
				b.silent(numbered("198.51.100.%d", 7, 9)...)
				b.wantEvicted(numbered("192.0.2.%d", 1, 3)...)
				// A greedy newcomer pays itself.
				b.silent(tt.greedy(99))
				b.wantEvicted("192.0.2.4")
				b.silent("198.51.100.10")
				b.wantEvicted(greedy[6])
			})
		})
	}
}

// With many slots those to give up next are ranked several at a time: who speaks
// meanwhile leaves the ranking, and it ends with the share that it was made by.
func TestListenerRanking(t *testing.T) {
	inBubble(t, 64, 4, func(b *bubble) { // so two are ranked at a time, and the share is 8
		silent := b.silent(numbered("192.0.2.%d", 1, 64)...)
		b.silent("198.51.100.1")
		b.wantEvicted("192.0.2.1")
		if _, err := silent[1].Write([]byte{22}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		b.silent("198.51.100.2", "198.51.100.3")
		b.wantEvicted("192.0.2.3", "192.0.2.4")
	})
	inBubble(t, 64, 4, func(b *bubble) {
		b.silent(numbered("192.0.2.%d", 1, 55)...)
		b.silent(slices.Repeat([]string{"203.0.113.1"}, 9)...) // one over the share
		b.silent("198.51.100.1", "198.51.100.2")
		b.wantEvicted("203.0.113.1", "192.0.2.1")
	})
}

// A handshake begins with the first byte of the client.
func TestListenerWaitsForTheFirstByte(t *testing.T) {
	inBubble(t, 8, 4, func(b *bubble) {
		handshakes := func() int {
			stacks := make([]byte, 1<<20)
			return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "internal/handover.Server(")
		}
		silent := b.silent("192.0.2.1", "192.0.2.2")
		if n := handshakes(); n != 0 {
			t.Errorf("%d handshakes of clients that said nothing", n)
		}
		if _, err := silent[0].Write([]byte{22}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := handshakes(); n != 1 {
			t.Errorf("%d handshakes, and one client has begun", n)
		}
		silent[1].Close()
		synctest.Wait()
		if f := b.failures(); len(f) != 1 || f[0].from != "192.0.2.2" || !errors.Is(f[0].err, io.ErrUnexpectedEOF) {
			t.Errorf("one has left: %v", f)
		}
	})
}

// Clients that come all at once do not push each other out before any of them
// could have answered.
func TestListenerHasPatience(t *testing.T) {
	inBubble(t, 3, 8, func(b *bubble) {
		for i := range 4 {
			b.inner.connect(fmt.Sprintf("192.0.2.%d", i+1))
			synctest.Wait()
		}
		b.wantEvicted()
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if f := b.failures(); len(f) != 1 {
			t.Errorf("given up: %v, want one of them", f)
		}
	})
}

// Nobody who is done is ever given up: with Accept idle the listener stops to
// take clients, and goes on when Accept does.
func TestListenerBackpressure(t *testing.T) {
	inBubble(t, 3, 2, func(b *bubble) {
		const clients = 12
		var ends []<-chan error
		for i := range clients {
			ends = append(ends, b.slowClient(fmt.Sprintf("192.0.2.%d", i+1), time.Second))
			time.Sleep(2 * time.Second)
		}
		time.Sleep(time.Hour)
		// 2 in the queue, 3 with a slot, and one that run holds in its hand.
		if n := b.inner.accepted(); n != 6 {
			t.Errorf("%d carriers were taken with nobody in Accept, want 6", n)
		}
		if f := b.failures(); len(f) != 0 {
			t.Errorf("given up: %v", f)
		}
		var got []string
		for range clients {
			got = append(got, b.accept())
			// The slot that is free now is for the next one. He is waited
			// for, and somebody behind him wants a slot, too.
			time.Sleep(2 * time.Second)
			if f := b.failures(); len(f) != 0 {
				t.Fatalf("given up while Accept was what everybody waited for: %v", f)
			}
		}
		slices.Sort(got)
		want := numbered("192.0.2.%d", 1, clients)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("accepted %v", got)
		}
		for i, end := range ends {
			if err := <-end; err != io.EOF {
				t.Errorf("client %d: %v", i, err)
			}
		}
	})
}

// The deadline is for the whole handshake: speaking slowly does not move it.
func TestListenerHandshakeTimeout(t *testing.T) {
	for _, speaks := range []bool{false, true} {
		t.Run(fmt.Sprintf("speaks=%v", speaks), func(t *testing.T) {
			inBubble(t, 0, 0, func(b *bubble) {
				start := time.Now()
				c := b.inner.connect("192.0.2.1")
				ended := make(chan time.Duration, 1)
				go func() {
					c.Read(make([]byte, 1))
					ended <- time.Since(start)
				}()
				if speaks {
					go func() {
						hello := append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc}, make([]byte, 500)...)
						for i := 0; i < len(hello); i++ {
							if _, err := c.Write(hello[i : i+1]); err != nil {
								return
							}
							time.Sleep(time.Second)
						}
					}()
				}
				if d := <-ended; d != 10*time.Second {
					t.Errorf("ended after %v, want 10s", d)
				}
				synctest.Wait()
				f := b.failures()
				if len(f) != 1 || !errors.Is(f[0].err, os.ErrDeadlineExceeded) {
					t.Errorf("reported: %v", f)
				}
				if _, ok := errors.AsType[*net.OpError](f[0].err); !ok {
					t.Errorf("%T is not a *net.OpError", f[0].err)
				}
				time.Sleep(time.Second)
			})
		})
	}
}

// The deadline of the handshake is not one of the connection.
func TestListenerClearsDeadline(t *testing.T) {
	inBubble(t, 0, 0, func(b *bubble) {
		end := b.client("192.0.2.1")
		c, err := b.ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if err := <-end; err != nil {
			t.Error(err)
		}
		c.Close()
	})
}

func TestListenerClose(t *testing.T) {
	inBubble(t, 4, 1, func(b *bubble) {
		// One in the queue, two that wait for room in it, one that is silent.
		var ends []<-chan error
		for i := range 3 {
			ends = append(ends, b.client(fmt.Sprintf("192.0.2.%d", i+1)))
			synctest.Wait()
		}
		silent := b.silent("198.51.100.1")[0]
		unseen := b.inner.connect("198.51.100.2") // run holds it, for there is no slot
		if err := b.ln.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if n := b.inner.open(); n != 0 {
			t.Errorf("Close returned with %d carriers open", n)
		}
		for i, end := range ends {
			if err := <-end; err != io.EOF {
				t.Errorf("connection %d, which nobody accepted, ended with %v, want close_notify", i, err)
			}
		}
		for _, c := range []net.Conn{silent, unseen} {
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("a handshake under way ended with %v", err)
			}
		}
		for _, f := range b.failures() {
			if !errors.Is(f.err, aftls.ErrEvicted) { // of the silent one, for the unseen
				t.Errorf("%s: %v is no failure of a client", f.from, f.err)
			}
		}
		if err := b.ln.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
		for range 2 {
			c, err := b.ln.Accept()
			if e, ok := errors.AsType[*net.OpError](err); c != nil || !ok || e.Op != "accept" || !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept after Close: %v, %v", c, err)
			}
		}
	})
}

// Close wakes those who wait in Accept.
func TestListenerCloseWakesAccept(t *testing.T) {
	inBubble(t, 0, 0, func(b *bubble) {
		errc := make(chan error)
		for range 3 {
			go func() { _, err := b.ln.AcceptConn(); errc <- err }()
		}
		synctest.Wait()
		b.ln.Close()
		for range 3 {
			if err := <-errc; !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
	})
}

// Close by many at once is one Close, and nobody returns before it is done.
func TestListenerCloseTwiceAtOnce(t *testing.T) {
	inBubble(t, 0, 0, func(b *bubble) {
		b.silent("192.0.2.1")
		errc := make(chan error)
		for range 3 {
			go func() {
				err := b.ln.Close()
				if n := b.inner.open(); n != 0 {
					t.Errorf("Close returned with %d carriers open", n)
				}
				errc <- err
			}()
		}
		good := 0
		for range 3 {
			if err := <-errc; err == nil {
				good++
			} else if !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
		if good != 1 {
			t.Errorf("%d of 3 closed it", good)
		}
	})
}

// When the inner listener fails, what is ready is still given out, then the
// error, for ever.
func TestListenerInnerError(t *testing.T) {
	inBubble(t, 0, 0, func(b *bubble) {
		var ends []<-chan error
		for i := range 3 {
			ends = append(ends, b.client(fmt.Sprintf("192.0.2.%d", i+1)))
		}
		synctest.Wait()
		boom := errors.New("boom")
		b.inner.items <- boom
		synctest.Wait()
		for range ends {
			b.accept()
		}
		for range 2 {
			if c, err := b.ln.Accept(); c != nil || !errors.Is(err, boom) {
				t.Errorf("%v, %v", c, err)
			}
		}
		for _, end := range ends {
			if err := <-end; err != io.EOF {
				t.Error(err)
			}
		}
	})
}

type temporaryError struct{}

func (temporaryError) Error() string   { return "out of descriptors" }
func (temporaryError) Temporary() bool { return true }
func (temporaryError) Timeout() bool   { return false }

// An error that passes does not end the listener, and one that stays does not
// keep the processor busy.
func TestListenerTemporaryError(t *testing.T) {
	inBubble(t, 0, 0, func(b *bubble) {
		const errs = 12
		for range errs {
			b.inner.items <- temporaryError{}
		}
		end := b.client("192.0.2.1")
		start := time.Now()
		b.accept()
		if err := <-end; err != io.EOF {
			t.Error(err)
		}
		if d := time.Since(start); d < time.Second {
			t.Errorf("%d errors in a row were over after %v", errs, d)
		}
		f := b.failures()
		if len(f) != errs {
			t.Errorf("%d errors reported, want %d", len(f), errs)
		}
		for _, f := range f {
			if f.from != "127.0.0.1" || f.err != (temporaryError{}) {
				t.Errorf("%s: %v", f.from, f.err)
			}
		}
		b.inner.items <- temporaryError{} // Close does not wait for the pause
		synctest.Wait()
		start = time.Now()
		b.ln.Close()
		if d := time.Since(start); d != 0 {
			t.Errorf("Close took %v", d)
		}
	})
}

// A client that is no client is reported once, with the reason.
func TestListenerBadClients(t *testing.T) {
	inBubble(t, 0, 0, func(b *bubble) {
		for _, tt := range []struct {
			name string
			sent string
			ok   func(err error) bool
		}{
			{"another protocol", "GET / HTTP/1.1\r\nHost: test.example\r\n\r\n", func(err error) bool {
				_, ok := errors.AsType[tls.RecordHeaderError](err)
				return ok
			}},
			{"nothing", "", func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
			{"part of a header", "\x16\x03", func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
			{"part of a record", "\x16\x03\x01\x00\x20\x01", func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		} {
			c := b.inner.connect("192.0.2.1")
			go func() {
				io.WriteString(c, tt.sent)
				c.Close()
			}()
			synctest.Wait()
			f := b.failures()
			if len(f) != 1 || !tt.ok(f[0].err) {
				t.Errorf("%s: reported %v", tt.name, f)
				continue
			}
			if _, ok := errors.AsType[*net.OpError](f[0].err); !ok {
				t.Errorf("%s: %T is not a *net.OpError", tt.name, f[0].err)
			}
		}
		// None of them has kept a slot or the listener.
		end := b.client("192.0.2.2")
		b.accept()
		<-end
	})
}

func TestListenerPassesOptions(t *testing.T) {
	ccfg, scfg := configs(t)
	cbcOnly(ccfg, scfg)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	errc := make(chan error, 1)
	ln := aftls.NewListener(inner, scfg, aftls.Options{RequireSocket: true, HandshakeError: func(_ net.Addr, err error) { errc <- err }})
	defer ln.Close()
	if ln.Addr() != inner.Addr() {
		t.Errorf("Addr is %v, want that of the inner listener", ln.Addr())
	}
	if c, err := tls.Dial("tcp", ln.Addr().String(), ccfg); err == nil {
		defer c.Close()
	}
	if err := <-errc; !errors.Is(err, aftls.ErrPassthrough) {
		t.Errorf("reported: %v", err)
	}
}

func TestListenFails(t *testing.T) {
	_, scfg := configs(t)
	ln, err := aftls.Listen("tcp", "127.0.0.1:http-of-nowhere", scfg, aftls.Options{})
	if ln != nil || err == nil {
		t.Errorf("%v, %v", ln, err)
	}
}

// TestListenerManyClients is a server as it is in life, over TCP: no descriptor
// is left when it is closed.
func TestListenerManyClients(t *testing.T) {
	before := descriptors()
	ccfg, scfg := configs(t)
	ln, err := aftls.Listen("tcp", "127.0.0.1:0", scfg, aftls.Options{HandshakeError: func(peer net.Addr, err error) {
		if !strings.Contains(err.Error(), "without close_notify") {
			t.Errorf("%v: %v", peer, err)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			served.Go(func() {
				io.Copy(c, c)
				c.Close()
			})
		}
	})
	d := aftls.Dialer{Config: ccfg}
	const atOnce, each = 200, 2
	var clients sync.WaitGroup
	for i := range atOnce {
		clients.Go(func() {
			for j := range each {
				if (i+j)%5 == 0 { // comes and goes
					if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
						c.Close()
					}
				}
				c, err := d.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				msg := fmt.Sprintf("client %d, connection %d", i, j)
				got := make([]byte, len(msg))
				io.WriteString(c, msg)
				if _, err := io.ReadFull(c, got); err != nil || string(got) != msg {
					t.Errorf("%q, %v", got, err)
				}
				c.Close()
			}
		})
	}
	clients.Wait()
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	served.Wait()
	if after := descriptors(); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// descriptors counts the open descriptors where the system shows them.
func descriptors() int {
	if runtime.GOOS != "linux" {
		return 0
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(fds)
}
