package kcm_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls/kcm"
)

func TestIdleConnectionsHoldNoBuffer(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		e := s.endpoint()
		var clients []simConn
		for i := range 20 {
			client, server := newSimPair(uint64(i), 1<<20, 1<<20)
			if _, err := s.mux.Attach(waitConn{server}, kcm.DNS()); err != nil {
				t.Fatal(err)
			}
			clients = append(clients, client)
			write(t, client, msg("question"))
			m, err := e.RecvMsg()
			if err != nil {
				t.Fatal(err)
			}
			if err := e.SendMsg(m.Conn, m.Data); err != nil {
				t.Fatal(err)
			}
			readMsg(t, client)
		}
		synctest.Wait()
		if n := kcm.Borrowed(); n != 1 { // of the message that the endpoint has
			t.Errorf("%d buffers are borrowed by idle connections", n-1)
		}
		write(t, clients[0], msg("half")[:3])
		synctest.Wait()
		if n := kcm.Borrowed(); n != 2 {
			t.Errorf("%d buffers are borrowed for half a message", n-1)
		}
		for _, c := range clients {
			c.Close()
		}
	})
}

// A message of 64 kB that comes in segments wakes one endpoint once, and what
// follows it goes out in one write.
func TestSegmentsWakeOnce(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		client, server := newSimPair(1, 1<<20, 1<<20)
		defer client.Close()
		if _, err := s.mux.Attach(waitConn{server}, kcm.DNS()); err != nil {
			t.Fatal(err)
		}
		e := s.endpoint()
		go func() {
			for {
				m, err := e.RecvMsg()
				if err != nil {
					return
				}
				if err := e.SendMsg(m.Conn, m.Data); err != nil {
					t.Error(err)
				}
			}
		}()
		synctest.Wait()
		const rounds = 10
		for range rounds {
			b := msg(strings.Repeat("x", 65000))
			for len(b) > 0 {
				n := min(1448, len(b))
				write(t, client, b[:n])
				b = b[n:]
				time.Sleep(time.Millisecond)
			}
			synctest.Wait()
		}
		n := s.mux.Stats()
		if n.Wakeups != rounds || n.Messages != rounds || n.Reads < rounds*45 || n.Writes != rounds {
			t.Errorf("%+v, want %d wake-ups and writes", n, rounds)
		}
	})
}

func TestWriteBuffersIsUsed(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		client, server := newSimPair(1, 1000, 1<<20)
		defer client.Close()
		c, err := s.mux.Attach(waitConn{server}, kcm.DNS())
		if err != nil {
			t.Fatal(err)
		}
		e := s.endpoint()
		want := bytes.Repeat(msg(strings.Repeat("x", 50000)), 4)
		for range 4 {
			if err := e.SendMsg(c, want[:50002]); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		for range 4 {
			readMsg(t, client)
		}
		synctest.Wait()
		server.out.mu.Lock()
		defer server.out.mu.Unlock()
		if server.out.wideWrites != 1 || c.Stats().Writes != 2 {
			t.Errorf("%d calls of WriteBuffers, %+v", server.out.wideWrites, c.Stats())
		}
	})
}

// Reads are large under load, and small again after it.
func TestReadsGrowWithTheLoad(t *testing.T) {
	bubble(t, kcm.Config{}, func(t *testing.T, s *rig) {
		client, server := newSimPair(1, 8<<20, 1<<30)
		defer client.Close()
		c, err := s.mux.Attach(server, kcm.DNS())
		if err != nil {
			t.Fatal(err)
		}
		e := s.endpoint()
		const total = 4000
		write(t, client, bytes.Repeat(msg(strings.Repeat("x", 1000)), total))
		for range total {
			text(t, e)
		}
		if n := c.Stats().Reads; n > 2*total*1002/(64<<10) {
			t.Errorf("%d reads for 4 MB", n)
		}
		write(t, client, msg("one"))
		text(t, e)
		synctest.Wait()
		if n := c.BufferSize(); n != kcm.Smallest {
			t.Errorf("it waits with %d bytes", n)
		}
	})
}

// A connection ends when nothing comes and nothing is under way, with WaitRead
// and without.
func TestIdleTimeout(t *testing.T) {
	for name, wrap := range map[string]func(simConn) net.Conn{
		"WaitRead": func(c simConn) net.Conn { return waitConn{c} },
		"Read":     func(c simConn) net.Conn { return c },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, kcm.Config{IdleTimeout: time.Minute, AssemblyTimeout: 3 * time.Minute}, func(t *testing.T, s *rig) {
				attach := func() (*kcm.Conn, simConn) {
					client, server := newSimPair(1, 1<<20, 1<<20)
					c, err := s.mux.Attach(wrap(server), kcm.DNS())
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { client.Close() })
					return c, client
				}
				lives := func(c *kcm.Conn, d time.Duration) {
					t.Helper()
					time.Sleep(d - time.Second)
					if err, ok := s.end(c); ok {
						t.Fatalf("ended with %v, %v early", err, time.Second)
					}
				}
				ends := func(c *kcm.Conn, want error) {
					t.Helper()
					time.Sleep(2 * time.Second)
					if err, ok := s.end(c); !ok || !errors.Is(err, want) {
						t.Fatalf("%v, %v; want %v", err, ok, want)
					}
				}
				silent, _ := attach()
				lives(silent, time.Minute)
				ends(silent, kcm.ErrIdle)

				e := s.endpoint()
				busy, client := attach()
				for range 5 {
					lives(busy, 50*time.Second)
					write(t, client, msg("x"))
					text(t, e)
				}
				lives(busy, 10*time.Minute) // while the last message is not done with
				e.ReceiveDisable(true)
				e.RecvMsg()
				lives(busy, time.Minute) // the deadline is looked at once a minute
				time.Sleep(time.Minute)
				ends(busy, kcm.ErrIdle)

				half, client := attach()
				lives(half, 50*time.Second)
				write(t, client, msg("x")[:2])
				lives(half, 3*time.Minute)
				ends(half, os.ErrDeadlineExceeded)

				taken, client := attach()
				lives(taken, 30*time.Second)
				n, _, err := taken.Detach()
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					time.Sleep(time.Hour)
					write(t, client, []byte("x"))
				}()
				if _, err := n.Read(make([]byte, 1)); err != nil {
					t.Errorf("%v: the deadline was left behind", err)
				}
				n.Close()
			})
		})
	}
}
