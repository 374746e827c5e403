package aftlstest

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// Relay is a lossy link between programs: it passes datagrams on to a target
// over loopback, and the answers back, in a given weather. It ends with the test.
type Relay struct {
	front  *net.UDPConn
	target *net.UDPAddr
	storm  *storm

	mu    sync.Mutex
	backs map[netip.AddrPort]*net.UDPConn
	shut  bool
	wg    sync.WaitGroup
	tap   func(toTarget bool, d []byte)
}

// NewRelay starts a relay to a UDP address of this host.
func NewRelay(t testing.TB, target string, seed uint64, w Weather) *Relay {
	t.Helper()
	addr, err := net.ResolveUDPAddr("udp4", target)
	if err != nil {
		t.Fatal(err)
	}
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{front: front, target: addr, storm: newStorm(seed, w), backs: make(map[netip.AddrPort]*net.UDPConn)}
	r.wg.Add(1)
	go r.run()
	t.Cleanup(r.close)
	return r
}

// Addr is where the clients of the target have to send.
func (r *Relay) Addr() string { return r.front.LocalAddr().String() }

// SetWeather changes the weather for what is sent from now on.
func (r *Relay) SetWeather(w Weather) { r.storm.set(w) }

// Tap shows every datagram to f, before the weather.
func (r *Relay) Tap(f func(toTarget bool, d []byte)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tap = f
}

func (r *Relay) see(toTarget bool, d []byte) {
	r.mu.Lock()
	f := r.tap
	r.mu.Unlock()
	if f != nil {
		f(toTarget, d)
	}
}

func (r *Relay) run() {
	defer r.wg.Done()
	b := make([]byte, 1<<16)
	for {
		n, from, err := r.front.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		back := r.back(from)
		if back == nil {
			return
		}
		r.see(true, b[:n])
		r.storm.send(b[:n], func(d []byte) { back.Write(d) })
	}
}

// back is the socket that stands for a client.
func (r *Relay) back(from netip.AddrPort) *net.UDPConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.backs[from]; c != nil || r.shut {
		return c
	}
	c, err := net.DialUDP("udp4", nil, r.target)
	if err != nil {
		return nil
	}
	r.backs[from] = c
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		b := make([]byte, 1<<16)
		for {
			n, err := c.Read(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // the target is not there yet, or no more
			}
			r.see(false, b[:n])
			r.storm.send(b[:n], func(d []byte) { r.front.WriteToUDPAddrPort(d, from) })
		}
	}()
	return c
}

// Rebind gives the clients other addresses at the target, as a NAT does. What is
// under way to the old ones is lost.
func (r *Relay) Rebind() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for from, c := range r.backs {
		delete(r.backs, from)
		c.Close()
	}
}

func (r *Relay) close() {
	r.mu.Lock()
	r.shut = true
	r.front.Close()
	for _, c := range r.backs {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}
