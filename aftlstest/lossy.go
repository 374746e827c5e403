package aftlstest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Weather is what a link does to datagrams. The numbers from Drop to Corrupt are
// probabilities, from 0 to 1, that it happens to one of them.
type Weather struct {
	Drop      float64
	Duplicate float64
	Reorder   float64 // it is overtaken by the next one, or comes a moment later
	Corrupt   float64 // one bit is changed
	Delay     time.Duration
	Jitter    time.Duration // up to so much more delay, and so more reordering
}

// heldBack is how long a datagram waits for one that overtakes it.
const heldBack = 5 * time.Millisecond

// storm applies the weather to the datagrams of one direction.
type storm struct {
	mu   sync.Mutex
	rng  *rand.Rand
	w    Weather
	held func()

	// What happened, for tests that want to know that it did.
	Sent, Dropped, Duplicated, Reordered, Corrupted int
}

func newStorm(seed uint64, w Weather) *storm {
	return &storm{rng: rand.New(rand.NewPCG(seed, 0x57029)), w: w}
}

func (s *storm) set(w Weather) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w = w
}

// send lets a datagram through the weather; deliver gets a copy of it, at once
// or later, once, twice or never.
func (s *storm) send(d []byte, deliver func([]byte)) {
	s.mu.Lock()
	s.Sent++
	is := func(p float64) bool { return p > 0 && s.rng.Float64() < p }
	if is(s.w.Drop) {
		s.Dropped++
		s.mu.Unlock()
		return
	}
	copies := [][]byte{bytes.Clone(d)}
	if is(s.w.Duplicate) {
		s.Duplicated++
		copies = append(copies, bytes.Clone(d))
	}
	for _, c := range copies {
		if len(c) > 0 && is(s.w.Corrupt) {
			s.Corrupted++
			c[s.rng.IntN(len(c))] ^= 1 << s.rng.IntN(8)
		}
	}
	var now []func()
	for _, c := range copies {
		delay := s.w.Delay
		if s.w.Jitter > 0 {
			delay += time.Duration(s.rng.Int64N(int64(s.w.Jitter)))
		}
		f := func() { deliver(c) }
		if delay > 0 {
			g := f
			f = func() { time.AfterFunc(delay, g) }
		}
		if s.held == nil && is(s.w.Reorder) {
			s.Reordered++
			once := sync.OnceFunc(f)
			s.held = once
			time.AfterFunc(heldBack, once)
			continue
		}
		now = append(now, f)
	}
	if len(now) > 0 && s.held != nil {
		now = append(now, s.held)
		s.held = nil
	}
	s.mu.Unlock()
	for _, f := range now {
		f()
	}
}

// Lossy is a network in memory whose links lose, double, reorder, damage and
// delay datagrams, as seeded. Nothing in it touches the system: it works in a
// bubble of testing/synctest, where time is what the test makes it.
type Lossy struct {
	storm *storm

	mu   sync.Mutex
	ends map[netip.AddrPort]*LossyConn
}

// NewLossy returns a network with the given weather.
func NewLossy(seed uint64, w Weather) *Lossy {
	return &Lossy{storm: newStorm(seed, w), ends: make(map[netip.AddrPort]*LossyConn)}
}

// SetWeather changes the weather for what is sent from now on.
func (l *Lossy) SetWeather(w Weather) { l.storm.set(w) }

// Listen returns an end at an address, for example "10.0.0.1:1", that sends to
// and receives from anybody.
func (l *Lossy) Listen(addr string) *LossyConn {
	c := &LossyConn{l: l, at: netip.MustParseAddrPort(addr)}
	c.come.L = &c.mu
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends[c.at] = c
	return c
}

// Dial returns an end at an address that is connected to another.
func (l *Lossy) Dial(addr, peer string) *LossyConn {
	c := l.Listen(addr)
	c.peer = netip.MustParseAddrPort(peer)
	return c
}

// Rebind gives an end another address, as a NAT does: the end itself does not
// notice.
func (l *Lossy) Rebind(c *LossyConn, addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.ends, c.at)
	c.at = netip.MustParseAddrPort(addr)
	l.ends[c.at] = c
}

// Inject delivers a datagram as if it came from an address, in any weather.
func (l *Lossy) Inject(from, to string, d []byte) {
	l.deliver(netip.MustParseAddrPort(from), netip.MustParseAddrPort(to), bytes.Clone(d))
}

func (l *Lossy) deliver(from, to netip.AddrPort, d []byte) {
	l.mu.Lock()
	c := l.ends[to]
	l.mu.Unlock()
	if c != nil {
		c.put(from, d)
	}
}

// LossyConn is one end on a [Lossy]: a net.PacketConn, and a net.Conn where it is
// connected.
type LossyConn struct {
	l    *Lossy
	at   netip.AddrPort // under l.mu
	peer netip.AddrPort

	mu    sync.Mutex
	come  sync.Cond
	inbox []arrived
	until time.Time
	timer *time.Timer
	gone  bool

	// Tap, if it is set before the first use, sees every datagram that this end
	// sends, before the weather.
	Tap func(d []byte)

	// Lose, if it is set before the first use, says of every datagram that this
	// end sends whether it is lost.
	Lose func(d []byte) bool
}

type arrived struct {
	from netip.AddrPort
	d    []byte
}

// maxArrived is how many datagrams wait for a reader. More are lost.
const maxArrived = 4096

var (
	_ net.PacketConn = (*LossyConn)(nil)
	_ net.Conn       = (*LossyConn)(nil)
)

func (c *LossyConn) put(from netip.AddrPort, d []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone || c.peer.IsValid() && from != c.peer || len(c.inbox) >= maxArrived {
		return
	}
	c.inbox = append(c.inbox, arrived{from, d})
	c.come.Broadcast()
}

// ReadFrom reads a datagram.
func (c *LossyConn) ReadFrom(p []byte) (int, net.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.gone:
			return 0, nil, c.err("read", net.ErrClosed)
		case !c.until.IsZero() && !time.Now().Before(c.until):
			return 0, nil, c.err("read", os.ErrDeadlineExceeded)
		case len(c.inbox) > 0:
			a := c.inbox[0]
			c.inbox = c.inbox[1:]
			return copy(p, a.d), net.UDPAddrFromAddrPort(a.from), nil
		}
		c.come.Wait()
	}
}

func (c *LossyConn) err(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: c.LocalAddr(), Err: err}
}

// WriteTo sends a datagram.
func (c *LossyConn) WriteTo(p []byte, to net.Addr) (int, error) {
	a, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, c.err("write", errors.New("not a UDP address"))
	}
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	if gone {
		return 0, c.err("write", net.ErrClosed)
	}
	if c.Tap != nil {
		c.Tap(p)
	}
	if c.Lose != nil && c.Lose(p) {
		return len(p), nil
	}
	c.l.mu.Lock()
	from := c.at
	c.l.mu.Unlock()
	dst := a.AddrPort()
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	c.l.storm.send(p, func(d []byte) { c.l.deliver(from, dst, d) })
	return len(p), nil
}

// Read reads a datagram.
func (c *LossyConn) Read(p []byte) (int, error) {
	n, _, err := c.ReadFrom(p)
	return n, err
}

// Write sends a datagram to the peer.
func (c *LossyConn) Write(p []byte) (int, error) { return c.WriteTo(p, c.RemoteAddr()) }

// Close ends the end.
func (c *LossyConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return c.err("close", net.ErrClosed)
	}
	c.gone, c.inbox = true, nil
	if c.timer != nil {
		c.timer.Stop()
	}
	c.come.Broadcast()
	return nil
}

// LocalAddr is where the end is now.
func (c *LossyConn) LocalAddr() net.Addr {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	return net.UDPAddrFromAddrPort(c.at)
}

// RemoteAddr is the peer of a connected end.
func (c *LossyConn) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(c.peer) }

// SetReadDeadline ends reads at t.
func (c *LossyConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = t
	if c.timer != nil {
		c.timer.Stop()
	}
	if !t.IsZero() {
		c.timer = time.AfterFunc(time.Until(t), c.come.Broadcast)
	}
	c.come.Broadcast()
	return nil
}

// SetDeadline is SetReadDeadline: writing never waits.
func (c *LossyConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline does nothing: writing never waits.
func (c *LossyConn) SetWriteDeadline(time.Time) error { return nil }
