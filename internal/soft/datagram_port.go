package soft

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
)

// The data path of datagrams:
//
//	datagram_port.go     a carrier that keeps the boundaries of datagrams, in batches
//	datagram_send.go     payloads ──seal──▶ one buffer ──sendmmsg, UDP_SEGMENT──▶ carrier
//	datagram_receive.go  carrier ──recvmmsg, UDP_GRO──▶ one buffer ──open in place──▶ payloads
//	datagram_queue.go    payloads that wait for their reader, where another goroutine receives
//
// Records that are sealed and that the carrier does not take are lost, as a
// datagram may be: their numbers are spent.

const (
	// maxDatagram is what a UDP datagram can carry at most.
	maxDatagram = 65507

	// segmentRoom is what one receive call can bring for one place: a datagram,
	// or many that the system put together.
	segmentRoom = 1 << 16

	// maxSegments is how many datagrams one UDP_SEGMENT send may hold
	// (UDP_MAX_SEGMENTS of Linux before 6.9).
	maxSegments = 64

	// MaxBatch is how many datagrams are sealed at once, and sent with one call.
	MaxBatch = maxSegments
)

// MTUError is a datagram that the path does not take whole.
type MTUError struct {
	Limit int // the largest that it takes, in bytes of UDP payload; 0: unknown
}

func (e *MTUError) Error() string { return "soft: the datagram is larger than the path takes" }

// Path is between whom datagrams pass: an association is known by both ends
// (RFC 6347, 4.2.8). The zero one is that of a connected port.
type Path struct {
	Peer  netip.AddrPort
	Local netip.Addr // that the peer sends to; the zero one where the port has only one, or cannot tell
}

// Port sends and receives datagrams in batches. It may be used by any number of
// goroutines at once. Where the carrier is a UDP socket of Linux, one of package
// net or a [Descriptor], it uses sendmmsg, recvmmsg, UDP_SEGMENT and UDP_GRO;
// UDP_SEGMENT is given up for good when the device refuses it. Elsewhere it makes a
// call for each datagram.
type Port struct {
	conn   net.Conn        // connected, or
	packet net.PacketConn  // not
	udp    *net.UDPConn    // the same where it is one
	raw    syscall.RawConn // nil: of none that is known

	whole   atomic.Bool // UDP_SEGMENT works, as far as is known
	grouped bool        // UDP_GRO is on
	v6      bool        // the socket takes addresses of IPv6
	local   bool        // the system tells which address of ours a datagram was sent to
}

// NewPort returns a port on a connected carrier. It does not own it.
func NewPort(conn net.Conn) *Port {
	p := &Port{conn: conn}
	p.udp, _ = conn.(*net.UDPConn)
	if d, ok := conn.(Descriptor); ok {
		p.raw = d.Descriptor()
	}
	p.probe(conn.LocalAddr())
	return p
}

// NewPacketPort returns a port on a carrier with many peers.
func NewPacketPort(conn net.PacketConn) *Port {
	p := &Port{packet: conn}
	p.udp, _ = conn.(*net.UDPConn)
	p.probe(conn.LocalAddr())
	return p
}

func (p *Port) probe(local net.Addr) {
	if p.udp != nil {
		raw, err := p.udp.SyscallConn()
		if err != nil {
			p.udp = nil
			return
		}
		p.raw = raw
	}
	if p.raw == nil {
		return
	}
	if a, ok := local.(*net.UDPAddr); ok {
		p.v6 = a.IP.To4() == nil
	}
	p.setUp()
}

// Segments reports whether many datagrams go out as one (UDP_SEGMENT), and
// whether they come in so (UDP_GRO).
func (p *Port) Segments() (send, receive bool) { return p.whole.Load(), p.grouped }

// Path is the one by which what passes between a peer and an address of ours comes
// in on this port, if that can be told.
func (p *Port) Path(peer netip.AddrPort, local netip.Addr) (path Path, ok bool) {
	if !p.local {
		return Path{Peer: peer}, peer.IsValid()
	}
	return Path{peer, local.Unmap().WithZone("")}, peer.IsValid() && local.IsValid()
}

// sendEach makes a call for each datagram.
func (p *Port) sendEach(buf []byte, sizes []int, to Path) (n int, err error) {
	for _, size := range sizes {
		if err := p.sendOne(buf[:size], to); err != nil {
			return n, err
		}
		buf = buf[size:]
		n++
	}
	return n, nil
}

func (p *Port) sendOne(b []byte, to Path) (err error) {
	switch {
	case p.conn != nil:
		_, err = p.conn.Write(b)
	case p.udp != nil:
		_, err = p.udp.WriteToUDPAddrPort(b, to.Peer)
	default:
		_, err = p.packet.WriteTo(b, net.UDPAddrFromAddrPort(to.Peer))
	}
	return p.sendError(err, to)
}

// Limit is the longest datagram that the path to a peer takes whole, as far as the
// system knows, in bytes; 0: unknown.
func (p *Port) Limit(to Path) int {
	if p.raw == nil {
		return 0
	}
	return p.pathLimit(to)
}

// sendError gives "too long" its limit.
func (p *Port) sendError(err error, to Path) error {
	if err == nil {
		return nil
	}
	if isTooLong(err) {
		return &MTUError{Limit: p.Limit(to)}
	}
	return cause(err)
}

// receiveOne is one receive call into b.
func (p *Port) receiveOne(b []byte) (n int, path Path, err error) {
	var from netip.AddrPort
	switch {
	case p.conn != nil:
		n, err = p.conn.Read(b)
	case p.udp != nil:
		n, from, err = p.udp.ReadFromUDPAddrPort(b)
	default:
		var a net.Addr
		if n, a, err = p.packet.ReadFrom(b); err == nil {
			u, ok := a.(*net.UDPAddr)
			if !ok {
				return 0, path, errors.New("the carrier has peers without a UDP address")
			}
			from = u.AddrPort()
		}
	}
	return n, Path{Peer: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}, cause(err)
}
