package hostile

import (
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
)

// silentClients connect and stop: half say nothing, half stop inside their first
// record. A real client gets through while all of them are there.
func silentClients(t *testing.T, s Server) {
	n := s.Silent
	if n == 0 {
		n = 10_000
	}
	before := s.memory()
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for len(held) < n {
		c, err := s.carrier(nil)
		if errors.Is(err, syscall.EMFILE) {
			t.Logf("this process may have %d connections only", len(held))
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		if len(held)%2 == 0 {
			c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1}) // the begin of a ClientHello; it may be refused by now
		}
	}
	s.honest(t, "among clients that never finish")
	if s.Memory != nil {
		t.Logf("%d clients that never finish: %d kB, %d bytes each", len(held), grown(before, s.memory())>>10, grown(before, s.memory())/uint64(len(held)))
	}
}

// oneAddress is flooded from 127.0.0.1 all the time, while clients of another
// address come and go.
func oneAddress(t *testing.T, s Server) {
	other := net.IPv4(127, 0, 0, 2)
	if runtime.GOOS != "linux" {
		other = net.IPv4(127, 0, 0, 1) // the only one of loopback that others have
	}
	host, _, _ := net.SplitHostPort(s.Addr)
	if ip := net.ParseIP(host); ip == nil || ip.To4() == nil {
		other = nil
	}
	var stop atomic.Bool
	flooded := make(chan int, 1)
	go func() {
		// A window of connections that never speak; the oldest makes room.
		var window [512]net.Conn
		n := 0
		for ; !stop.Load(); n++ {
			c, err := s.carrier(nil)
			if err != nil {
				runtime.Gosched()
				continue
			}
			if old := window[n%len(window)]; old != nil {
				old.(*net.TCPConn).SetLinger(0)
				old.Close()
			}
			window[n%len(window)] = c
		}
		for _, c := range window {
			if c != nil {
				c.Close()
			}
		}
		flooded <- n
	}()
	for range 20 {
		c, err := s.dial(tls.VersionTLS13, other)
		if err == nil {
			err = echo(c, []byte("from another address"))
			c.Close()
		}
		if err != nil {
			t.Errorf("a client of another address: %v", err)
			break
		}
	}
	stop.Store(true)
	t.Logf("a flood of %d connections by one address", <-flooded)
}
