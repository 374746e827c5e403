//go:build !race

package aftls_test

import (
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/aftls/aftls"
)

func TestDatagramsDoNotAllocate(t *testing.T) {
	needExactAllocations(t)
	for _, x := range []struct {
		listen string // empty: on all addresses, so that the system has to tell which
		cidLen int
	}{{"127.0.0.1", 0}, {"127.0.0.1", 8}, {"", 0}, {"", 8}} {
		client, server := datagramUDPPair(t, x.listen, x.cidLen)
		for _, p := range []struct {
			name     string
			from, to *aftls.DatagramConn
		}{{"to the listener", client, server}, {"to the client", server, client}} {
			batch, bufs, sizes := make([][]byte, 32), make([][]byte, 32), make([]int, 32)
			for i := range batch {
				batch[i], bufs[i] = make([]byte, 1200), make([]byte, 1500)
			}
			for name, step := range map[string]func() error{
				"Write and Read": func() error {
					if _, err := p.from.Write(batch[0]); err != nil {
						return err
					}
					n, err := p.to.Read(bufs[0])
					if err == nil && n != 1200 {
						err = fmt.Errorf("%d bytes", n)
					}
					return err
				},
				"with deadlines": func() error {
					by := time.Now().Add(time.Minute)
					if err := p.from.SetWriteDeadline(by); err != nil {
						return err
					}
					if err := p.to.SetReadDeadline(by); err != nil {
						return err
					}
					if _, err := p.from.Write(batch[0]); err != nil {
						return err
					}
					_, err := p.to.Read(bufs[0])
					return err
				},
				"WriteBatch and ReadBatch": func() error {
					if n, err := p.from.WriteBatch(batch); err != nil || n != 32 {
						return fmt.Errorf("%d, %v", n, err)
					}
					for n := 0; n < 32; {
						k, err := p.to.ReadBatch(bufs, sizes)
						if err != nil {
							return err
						}
						n += k
					}
					return nil
				},
			} {
				if err := step(); err != nil {
					t.Fatal(err)
				}
				if n := testing.AllocsPerRun(200, func() {
					if err := step(); err != nil {
						t.Error(err)
					}
				}); n != 0 {
					t.Errorf("listening on %q, CID %d, %s, %s: %v allocations", x.listen, x.cidLen, p.name, name, n)
				}
			}
		}
	}
}

// What is forged, replayed or of nobody makes no garbage either.
func TestDatagramDropsDoNotAllocate(t *testing.T) {
	needExactAllocations(t)
	client, server := datagramUDPPair(t, "127.0.0.1", 0)
	from, err := net.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	forged := append([]byte{23, 0xfe, 0xfd, 0, 1, 0, 9, 0, 0, 0, 0, 0, 100}, make([]byte, 100)...)
	good, b := []byte("good"), make([]byte, 100)
	if n := testing.AllocsPerRun(200, func() {
		from.Write(forged)             // from nobody
		client.NetConn().Write(forged) // from the peer's address
		client.Write(good)
		if n, err := server.Read(b); n != 4 || err != nil {
			t.Error(n, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if i := server.Info(); i.Bad < 200 {
		t.Errorf("%d bad ones", i.Bad)
	}
}

// An idle association of a listener takes at most 3 kB, and no goroutine.
func TestIdleDatagramAssociationsAreSmall(t *testing.T) {
	const count = 1000
	psk := func([]byte) ([]byte, error) { return []byte("0123456789abcdef"), nil }
	l, err := aftls.ListenDatagram("udp", "127.0.0.1:0", &aftls.DatagramConfig{PSK: psk}, aftls.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// All clients are ends of this one too: what they take is told apart by
	// detaching them, which leaves a state of known size, and dropping that.
	dial := func() *aftls.DatagramConn {
		c, err := (&aftls.DatagramDialer{Config: &aftls.DatagramConfig{PSK: psk, PSKIdentity: []byte("x")}}).Dial("udp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		d := c.(*aftls.DatagramConn)
		carrier := d.NetConn()
		d.Write([]byte("hello"))
		if _, err := d.Detach(); err != nil {
			t.Fatal(err)
		}
		carrier.Close()
		s, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		if _, err := s.Read(b); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for range 20 {
		dial()
	}
	conns := make([]*aftls.DatagramConn, 0, count)
	goroutines, before := settle()
	for range count {
		conns = append(conns, dial())
	}
	now, after := settle()
	if now > goroutines+5 {
		t.Errorf("%d goroutines became %d", goroutines, now)
	}
	each := (int64(after) - int64(before)) / count
	t.Logf("%d bytes for each of %d that were just used", each, count)
	if each > 3<<10 {
		t.Errorf("%d bytes for each", each)
	}
	runtime.KeepAlive(conns)
}
