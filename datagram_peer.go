package aftls

import (
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/aftls/aftls/internal/soft"
)

// datagramPeer is where the peer is, and what is known of it. It is replaced as a
// whole.
type datagramPeer struct {
	at   soft.Path // the zero one on a connected carrier
	addr net.Addr

	proven netip.Addr    // the host that has proven to be the peer's
	credit *atomic.Int64 // bytes that may still go to another one; nil: at is proven
}

// amplification is how many bytes may go to an address that is not proven for
// each that came from there: what RFC 9000, 8 allows a server.
const amplification = 3

// provenPeer is a peer that shook hands from there.
func provenPeer(at soft.Path) datagramPeer {
	return datagramPeer{at: at, addr: net.UDPAddrFromAddrPort(at.Peer), proven: at.Peer.Addr()}
}

// moved is the peer at another address. A host that was proven is proven on all
// its ports: there a NAT has given it another one, and nobody else is hit.
func (p *datagramPeer) moved(to soft.Path) *datagramPeer {
	n := &datagramPeer{at: to, addr: net.UDPAddrFromAddrPort(to.Peer), proven: p.proven}
	if to.Peer.Addr() != p.proven {
		n.credit = new(atomic.Int64)
	}
	return n
}

// spend takes what a record of n bytes costs, where there is a limit.
func (p *datagramPeer) spend(n int) error {
	if p.credit == nil {
		return nil
	}
	if p.credit.Add(-int64(n)) < 0 {
		p.credit.Add(int64(n))
		return ErrUnproven
	}
	return nil
}

// heardFrom notes that an authentic record of n bytes came by a path. It runs under
// rmu.
func (c *DatagramConn) heardFrom(from soft.Path, newest bool, n int) {
	p := c.peer.Load()
	if from != p.at {
		if !newest {
			return
		}
		c.l.moved(c, from)
		p = c.peer.Load()
	}
	if p.credit != nil && from == p.at {
		p.credit.Add(amplification * int64(n))
	}
}

// AddressProven lifts the limit on what goes to a peer that has moved, see
// [ErrUnproven]: addr is what [DatagramConn.RemoteAddr] returned before a message
// went there, and the peer has sent back what it can only have from that message,
// as with the Echo option of CoAP (RFC 9175, 2). Where the peer is elsewhere by now
// nothing is changed.
func (c *DatagramConn) AddressProven(addr net.Addr) {
	if c.l != nil {
		c.l.mu.Lock()
		defer c.l.mu.Unlock()
	}
	p := *c.peer.Load()
	if addr == nil || p.addr.String() != addr.String() {
		return
	}
	p.proven, p.credit = hostOf(p.addr), nil
	c.peer.Store(&p)
}

func hostOf(a net.Addr) netip.Addr {
	if u, ok := a.(*net.UDPAddr); ok {
		return u.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// save puts what is known into a state.
func (p *datagramPeer) save(st *DatagramState) {
	st.peer, st.proven = p.at.Peer, p.proven
	if a, ok := p.addr.(*net.UDPAddr); ok && !st.peer.IsValid() {
		st.peer = netip.AddrPortFrom(hostOf(a), a.AddrPort().Port())
	}
	if st.limited = p.credit != nil; st.limited {
		st.credit = p.credit.Load()
	} else {
		st.proven = st.peer.Addr() // also the one that a carrier was connected to
	}
}

// peerOn is the peer of a state on a port where it can be told by its path.
func (st *DatagramState) peerOn(port *soft.Port) (p datagramPeer, ok bool) {
	p.at, ok = port.Path(st.peer, st.local)
	p.addr = net.UDPAddrFromAddrPort(st.peer)
	return st.limit(p), ok
}

// limit puts the limits of a state on the peer at a new place: a move does not
// prove an address.
func (st *DatagramState) limit(p datagramPeer) datagramPeer {
	p.proven = st.proven
	if st.limited {
		p.credit = new(atomic.Int64)
		p.credit.Store(st.credit)
	}
	return p
}
