package kcm_test

import (
	"bytes"
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
