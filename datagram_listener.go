package aftls

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/internal/handover"
	"github.com/aftls/aftls/internal/soft"
)

// DatagramListener accepts associations of DTLS, thousands of them on one UDP
// socket: Accept returns them when their handshake is done. It tells peers apart
// by their address and by ours that they send to, from which they are answered,
// and by their Connection ID where DatagramConfig.CIDLen asks
// for one; then the address follows the newest authentic record (RFC 9146, 6).
//
// One goroutine receives for all, opens what comes and puts it into the queue of
// its association, up to 256 KiB: what nobody reads is lost, and counted in
// DatagramInfo.Lost. An idle association has neither goroutine nor buffer.
//
// A ClientHello takes one of 1,024 slots until its handshake is done, and gets
// one short answer until its sender has proven that it receives at its address.
// When the slots run out the handshake that has waited longest for its peer, and
// 50 ms at least, is given up: first among the addresses (IPv6: /64 networks)
// that hold more than an eighth of the slots, then among those without proof.
type DatagramListener struct {
	packet net.PacketConn
	port   *soft.Port
	config *handover.DatagramConfig
	opt    Options

	ready chan *DatagramConn
	done  chan struct{}
	over  chan struct{}
	err   error // of the carrier, set before over is closed
	once  sync.Once
	wg    sync.WaitGroup

	// Taken by whoever routes; nobody holds the lock of an association meanwhile
	// but that of the receiving side, which is taken first.
	mu     sync.Mutex
	byAddr map[soft.Path]*DatagramConn
	byCID  map[string]cidOwner
	all    map[*DatagramConn]struct{}
	slots  map[soft.Path]*datagramSlot
	share  map[netip.Prefix]int
	limit  int // slots
	// Associations that no longer have a slot of their own, and that Accept has
	// no room for yet.
	waiting int
	shut    bool

	idle, every time.Duration // of looking for idle ones
	sweep       *time.Timer

	unknown, refused atomic.Uint64
	changes          atomic.Uint64 // of the tables
}

// cidOwner is who a Connection ID belongs to: an association, or a handshake.
type cidOwner struct {
	conn *DatagramConn
	slot *datagramSlot
}

const (
	defaultIdleTimeout = 10 * time.Minute
	idleLooks          = 4                // in an IdleTimeout, at least
	idleLook           = 30 * time.Second // at most between two
)

// ListenDatagram listens on a UDP address, with config for every association.
// config must not be changed.
func ListenDatagram(network, addr string, config *DatagramConfig, opt Options) (*DatagramListener, error) {
	packet, err := net.ListenPacket(network, addr)
	if err != nil {
		return nil, err
	}
	if _, ok := packet.(*net.UDPConn); !ok {
		packet.Close()
		return nil, &net.OpError{Op: "listen", Net: network, Err: net.UnknownNetworkError(network)}
	}
	return NewDatagramListener(packet, config, opt)
}

// NewDatagramListener returns a listener on a carrier whose peers have UDP
// addresses. The carrier is then the listener's: after an error it is closed.
func NewDatagramListener(packet net.PacketConn, config *DatagramConfig, opt Options) (*DatagramListener, error) {
	return newDatagramListener(packet, config, opt, handshakeSlots, readyConns)
}

func newDatagramListener(packet net.PacketConn, config *DatagramConfig, opt Options, slots, ready int) (*DatagramListener, error) {
	l := &DatagramListener{
		packet: packet, config: config.handshake(), opt: opt,
		ready: make(chan *DatagramConn, ready), done: make(chan struct{}), over: make(chan struct{}),
		byAddr: make(map[soft.Path]*DatagramConn), byCID: make(map[string]cidOwner), all: make(map[*DatagramConn]struct{}),
		slots: make(map[soft.Path]*datagramSlot), share: make(map[netip.Prefix]int), limit: slots,
		idle: defaultIdleTimeout,
	}
	if err := l.config.Check(false); err != nil {
		packet.Close()
		return nil, &net.OpError{Op: "listen", Net: packet.LocalAddr().Network(), Addr: packet.LocalAddr(), Err: err}
	}
	if config != nil && config.IdleTimeout != 0 {
		l.idle = config.IdleTimeout
	}
	if l.every = idleLook; l.idle > 0 {
		l.every = max(min(l.idle/idleLooks, idleLook), 1)
	}
	l.port = soft.NewPacketPort(packet)
	l.mu.Lock()
	l.sweep = time.AfterFunc(l.every, l.lookForIdle)
	l.mu.Unlock()
	l.wg.Add(1)
	go l.run()
	return l, nil
}

// Accept returns the next association whose handshake is done, a
// [*DatagramConn]. After Close the error is net.ErrClosed, and otherwise that
// of the carrier.
func (l *DatagramListener) Accept() (net.Conn, error) {
	c, err := l.AcceptConn()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AcceptConn is Accept with the type that it returns.
func (l *DatagramListener) AcceptConn() (*DatagramConn, error) {
	select {
	case <-l.done:
		return nil, l.closedError()
	default:
	}
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.done:
		return nil, l.closedError()
	case <-l.over:
		select {
		case <-l.done:
			return nil, l.closedError()
		default:
			return nil, l.err
		}
	}
}

func (l *DatagramListener) closedError() error {
	return &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: net.ErrClosed}
}

// Addr is that of the carrier.
func (l *DatagramListener) Addr() net.Addr { return l.packet.LocalAddr() }

// ListenerInfo is the state of a listener at one moment.
type ListenerInfo struct {
	Associations int    // that live, accepted or not
	Handshakes   int    // slots that are taken, finished ones that Accept has no room for among them
	Unknown      uint64 // datagrams that belong to no association and begin none
	Refused      uint64 // ClientHellos that found no slot
}

// Info returns the state of the listener.
func (l *DatagramListener) Info() ListenerInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	return ListenerInfo{Associations: len(l.all), Handshakes: len(l.slots) + l.waiting, Unknown: l.unknown.Load(), Refused: l.refused.Load()}
}

// Close gives up the handshakes under way, closes all associations, accepted or
// not, since the carrier is theirs too, and closes the carrier. It returns when
// all of that is done.
func (l *DatagramListener) Close() error {
	err := l.closedError()
	l.once.Do(func() {
		close(l.done)
		l.mu.Lock()
		l.shut = true
		l.sweep.Stop()
		for _, s := range l.slots {
			s.giveUp(net.ErrClosed)
		}
		var conns []*DatagramConn
		for c := range l.all {
			conns = append(conns, c)
		}
		l.mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
		err = l.packet.Close()
	})
	l.wg.Wait()
	return err
}

// run receives for all associations.
func (l *DatagramListener) run() {
	defer l.wg.Done()
	arrivals := soft.NewArrivals(l.port)
	defer arrivals.Drop()
	var last lastRoute
	for {
		d, from, _, err := arrivals.Next(true)
		if err != nil {
			select {
			case <-l.done:
			default:
				if passing(err) {
					continue
				}
			}
			l.fail(err)
			return
		}
		if len(d) == 0 {
			l.unknown.Add(1)
			continue
		}
		l.route(d, from, &last)
	}
}

// fail ends the listener because of its carrier.
func (l *DatagramListener) fail(err error) {
	l.err = &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: err}
	close(l.over)
	l.mu.Lock()
	defer l.mu.Unlock()
	var end error = &CarrierError{err}
	for _, s := range l.slots {
		s.giveUp(end)
	}
	for c := range l.all {
		c.dead.CompareAndSwap(nil, &end)
		c.wake()
	}
}

// shareCarrier makes the listener bring c what comes.
func (c *DatagramConn) shareCarrier(l *DatagramListener) {
	c.l, c.come = l, make(chan struct{}, 1)
	c.rtime.wake = c.wake
}
