package aftls_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
)

// TestDatagramsToAnUnprovenAddress has a client send with the address of a victim,
// which any client can: what the server says there is bounded (RFC 9146, 6).
func TestDatagramsToAnUnprovenAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ccfg, scfg := datagramConfigs(t)
		scfg.CIDLen = 8
		network := aftlstest.NewLossy(1, aftlstest.Weather{})
		var sent, heard atomic.Int64
		server := network.Listen("10.0.0.1:1")
		server.Tap = func(d []byte) { sent.Add(int64(len(d))) }
		l, err := aftls.NewDatagramListener(server, scfg, aftls.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		carrier := network.Dial("10.0.0.2:2", "10.0.0.1:1")
		carrier.Tap = func(d []byte) { heard.Add(int64(len(d))) }
		c, err := aftls.DatagramClient(context.Background(), carrier, ccfg, aftls.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		bothSay(t, c, s)
		move := func(to string) {
			t.Helper()
			network.Rebind(carrier, to)
			sent.Store(0)
			heard.Store(0)
			if _, err := c.Write(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			if n, err := s.Read(make([]byte, 200)); n != 100 || err != nil {
				t.Fatal(n, err)
			}
			if a := s.RemoteAddr().String(); a != to {
				t.Fatalf("the peer is at %s", a)
			}
		}
		free := func() {
			t.Helper()
			for range 20 {
				if _, err := s.Write(make([]byte, 1000)); err != nil {
					t.Fatal(err)
				}
			}
		}
		message := make([]byte, 50)
		spend := func() {
			t.Helper()
			var err error
			for range 1000 {
				if _, err = s.Write(message); err != nil {
					break
				}
			}
			n, errb := s.WriteBatch([][]byte{message, message})
			var op *net.OpError
			if !errors.Is(err, aftls.ErrUnproven) || !errors.As(err, &op) || n != 0 || !errors.Is(errb, aftls.ErrUnproven) {
				t.Fatalf("%v; %d, %v", err, n, errb)
			}
			if sent, most := sent.Load(), 3*heard.Load(); sent > most || sent < most-150 {
				t.Errorf("%d bytes went there, and %d came from there", sent, heard.Load())
			}
		}

		move("10.0.0.2:7") // the same host: a NAT
		free()
		for _, to := range []string{"10.0.0.3:3", "10.0.0.3:4", "10.0.0.4:3"} {
			move(to)
			spend()
			if _, err := c.Write(make([]byte, 1000)); err != nil { // more from there
				t.Fatal(err)
			}
			if n, err := s.Read(make([]byte, 2000)); n != 1000 || err != nil {
				t.Fatal(n, err)
			}
			batch := make([][]byte, 100)
			for i := range batch {
				batch[i] = message
			}
			if n, err := s.WriteBatch(batch); n < 10 || n > 90 || !errors.Is(err, aftls.ErrUnproven) {
				t.Fatalf("%d, %v", n, err)
			}
			spend()
		}
		for _, encoded := range []bool{false, true} { // a move is no way around it
			st, err := s.Detach()
			if err != nil {
				t.Fatal(err)
			}
			if encoded {
				b, err := st.MarshalBinary()
				if err != nil {
					t.Fatal(err)
				}
				st = new(aftls.DatagramState)
				if err := st.UnmarshalBinary(b); err != nil {
					t.Fatal(err)
				}
			}
			if encoded {
				if s, err = l.Resume(st); err != nil {
					t.Fatal(err)
				}
				spend()
				continue
			}
			own := network.Dial("10.0.0.1:9", s.RemoteAddr().String())
			if s, err = aftls.ResumeDatagram(own, st, aftls.Options{}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Write(message); !errors.Is(err, aftls.ErrUnproven) {
				t.Errorf("on a carrier of its own: %v", err)
			}
		}
		s.AddressProven(&net.UDPAddr{IP: net.IPv4(10, 0, 0, 3), Port: 3}) // where it was
		spend()
		s.AddressProven(s.RemoteAddr())
		free()
		move("10.0.0.4:9")
		free()
		move("10.0.0.2:2") // that it has proven once is long ago
		spend()
	})
}

// A Finished that comes again and again, from whomever, gets our last flight 32
// times, and no more.
func TestDatagramLastFlightGoesOutSoOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ccfg, scfg := datagramConfigs(t)
		network := aftlstest.NewLossy(1, aftlstest.Weather{})
		var flights atomic.Int64
		server := network.Listen("10.0.0.1:1")
		server.Tap = func(d []byte) {
			if d[0] == 20 { // ChangeCipherSpec
				flights.Add(1)
			}
		}
		l, err := aftls.NewDatagramListener(server, scfg, aftls.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		carrier := network.Dial("10.0.0.2:2", "10.0.0.1:1")
		var last []byte
		carrier.Tap = func(d []byte) { last = bytes.Clone(d) }
		c, err := aftls.DatagramClient(context.Background(), carrier, ccfg, aftls.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		finished := last
		flights.Store(0)
		for range 50 {
			network.Inject("10.0.0.2:2", "10.0.0.1:1", finished)
			synctest.Wait()
		}
		if n := flights.Load(); n != 32 {
			t.Errorf("it went out %d times", n)
		}
		bothSay(t, c, s)
	})
}
