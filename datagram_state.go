package aftls

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/internal/handover"
	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
	"golang.org/x/crypto/cryptobyte"
)

// DatagramState is an association of DTLS between Detach and Resume: keys,
// numbers, Connection IDs, the peer's address, and the messages that nobody had
// read. It is good for one [ResumeDatagram] or [DatagramListener.Resume], or for
// one MarshalBinary, whose bytes are good for the same in another process.
//
// Records with numbers below the highest that was received count as received: of
// those that were overtaken before Detach and come later, none is delivered.
//
// Whoever has it has the connection. It must not be written to a file, and one
// set of bytes must not be resumed twice.
type DatagramState struct {
	spent atomic.Bool

	send, recv   record.Keys
	cid, peerCID []byte
	peer         netip.AddrPort
	local        netip.Addr // ours; the zero one where nobody knew
	proven       netip.Addr // as in datagramPeer
	limited      bool
	credit       int64
	messages     [][]byte
	flight       [][]byte
	ended, shut  bool // close_notify was received, was sent

	tls      tls.ConnectionState
	srtp     uint16
	identity []byte
	exporter *handover.DatagramExporter // not in another process
}

// String shows nothing of what is in the state.
func (st *DatagramState) String() string { return "aftls.DatagramState" }

// GoString is String.
func (st *DatagramState) GoString() string { return st.String() }

// Peer is the address of the peer, for whoever makes the carrier of a Resume.
// Afterwards, and after MarshalBinary, it is the zero one.
func (st *DatagramState) Peer() netip.AddrPort { return st.peer }

func (st *DatagramState) take() error {
	if st == nil || st.spent.Swap(true) {
		return ErrSpent
	}
	return nil
}

func (st *DatagramState) wipe() {
	st.send.Wipe()
	st.recv.Wipe()
	for _, m := range st.messages {
		clear(m)
	}
	st.messages, st.flight, st.exporter, st.identity = nil, nil, nil, nil
	st.peer, st.local, st.tls = netip.AddrPort{}, netip.Addr{}, tls.ConnectionState{}
}

// Detach takes the association out of the connection. It interrupts a Read and a
// Write that are under way, which return [ErrDetached]. Afterwards the connection
// is dead, Close does nothing, and a carrier of its own is the caller's again,
// without deadlines (a UDP socket of Linux keeps UDP_GRO set: a plain read may
// return many datagrams as one). A connection that already failed cannot be
// detached: the error is what it failed of.
func (c *DatagramConn) Detach() (*DatagramState, error) {
	st, err := c.detach()
	return st, c.opError("detach", err)
}

func (c *DatagramConn) detach() (*DatagramState, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	c.dmu.Lock()
	if !c.life.CompareAndSwap(alive, detached) {
		c.dmu.Unlock()
		return nil, c.check()
	}
	if c.carrier != nil {
		c.carrier.SetDeadline(time.Unix(1, 0))
	}
	c.rtime.stop()
	exporter := c.exporter
	c.exporter = nil
	c.dmu.Unlock()
	if c.l != nil {
		c.l.forget(c)
	}
	c.wake()
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.rmu.Lock()
	defer c.rmu.Unlock()
	defer c.recv.Wipe()
	defer c.send.Wipe()
	defer c.queue.Drop()
	st := &DatagramState{cid: c.cid, peerCID: c.peerCID, tls: c.state, srtp: c.srtp, identity: c.identity, exporter: exporter}
	c.peer.Load().save(st)
	if a, ok := c.LocalAddr().(*net.UDPAddr); ok && !a.IP.IsUnspecified() {
		st.local = a.AddrPort().Addr().Unmap()
	}
	c.drain(st)
	err := c.dead.Load()
	if err == nil && c.carrier != nil {
		if e := c.carrier.SetDeadline(time.Time{}); e != nil {
			err = &e
		}
	}
	if err != nil {
		// The keys are out of the connection: it must not go on without them.
		st.wipe()
		if c.carrier != nil {
			c.carrier.Close()
		}
		return nil, *err
	}
	st.send, st.recv = c.send.Keys(), c.recv.Keys()
	st.flight, c.flight = c.flight, nil
	st.ended, st.shut = c.ended.Load(), c.shut
	return st, nil
}

// drain takes what has come and was not read, opened or not.
func (c *DatagramConn) drain(st *DatagramState) {
	for {
		n, ok := c.queue.Next()
		if !ok {
			break
		}
		m := make([]byte, n)
		c.queue.Take(m)
		st.messages = append(st.messages, m)
	}
	for c.arrivals != nil && c.dead.Load() == nil {
		if len(c.left) == 0 {
			d, _, ok, _ := c.arrivals.Next(false)
			if !ok {
				break
			}
			c.left = d
			continue
		}
		if payload, ok := c.open(soft.Path{}); ok {
			st.messages = append(st.messages, bytes.Clone(payload))
		}
	}
	c.left = nil
	if c.arrivals != nil {
		c.arrivals.Drop()
	}
}

// ResumeDatagram makes a connection of a state on a carrier that is connected to
// the peer, which may be that which the state was detached from, or another one
// with the same addresses. It takes both: on an error the carrier is closed.
func ResumeDatagram(carrier net.Conn, st *DatagramState, opt Options) (*DatagramConn, error) {
	peer := datagramPeer{addr: carrier.RemoteAddr()}
	if st != nil {
		peer = st.limit(peer)
	}
	c, err := resumeDatagram(soft.NewPort(carrier), carrier.LocalAddr(), peer, st, opt)
	if err != nil {
		carrier.Close()
		return nil, opError("resume", carrier, err)
	}
	c.carrier, c.arrivals = carrier, soft.NewArrivals(c.port)
	return c, nil
}

// Resume makes an association of the listener of a state, as if it had shaken
// hands here. Accept does not return it. The state may come from a listener on
// the same address, or from a carrier of its own. Whatever the outcome it is
// spent. The error is [ErrState] where its Connection ID has another length than
// those of this listener, and [ErrReplaced] where an association with its address
// or Connection ID lives here.
func (l *DatagramListener) Resume(st *DatagramState) (*DatagramConn, error) {
	c, err := l.resume(st)
	if err != nil {
		return nil, &net.OpError{Op: "resume", Net: l.Addr().Network(), Addr: l.Addr(), Err: err}
	}
	return c, nil
}

func (l *DatagramListener) resume(st *DatagramState) (*DatagramConn, error) {
	if st == nil {
		return nil, ErrSpent
	}
	peer, ok := st.peerOn(l.port)
	if !ok || len(st.cid) > 0 && len(st.cid) != l.config.CIDLen {
		if err := st.take(); err != nil {
			return nil, err
		}
		st.wipe()
		return nil, ErrState
	}
	at := peer.at
	c, err := resumeDatagram(l.port, l.Addr(), peer, st, l.opt)
	if err != nil {
		return nil, err
	}
	c.shareCarrier(l)
	l.mu.Lock()
	switch o := l.byCID[string(c.cid)]; {
	case l.shut:
		err = net.ErrClosed
	case len(c.cid) == 0 && l.byAddr[at] != nil, len(c.cid) > 0 && (o.conn != nil || o.slot != nil):
		err = ErrReplaced
	default:
		l.changes.Add(1)
		if l.byAddr[at] == nil {
			l.byAddr[at] = c
		}
		if len(c.cid) > 0 {
			l.byCID[string(c.cid)] = cidOwner{conn: c}
		}
		l.all[c] = struct{}{}
	}
	l.mu.Unlock()
	if err != nil {
		c.life.Store(closed)
		c.send.Wipe()
		c.release()
		return nil, err
	}
	c.wake()
	return c, nil
}

func resumeDatagram(port *soft.Port, local net.Addr, peer datagramPeer, st *DatagramState, opt Options) (*DatagramConn, error) {
	if err := st.take(); err != nil {
		return nil, err
	}
	defer st.wipe()
	c, err := newDatagramConn(port, local, peer, &handover.DatagramResult{
		State: st.tls, Exporter: st.exporter, In: st.recv, Out: st.send, InCID: st.cid, OutCID: st.peerCID,
		Flight: st.flight, SRTPProfile: st.srtp, Identity: st.identity,
	}, opt)
	if err != nil {
		return nil, err
	}
	for _, m := range st.messages {
		if !c.queue.Put(m) {
			c.lost.Add(1)
		}
	}
	if st.ended {
		c.ended.Store(true)
		c.rerr = io.EOF
	}
	c.shut = st.shut
	return c, nil
}

// datagramMagic starts every encoded DatagramState; the last byte is the version.
const datagramMagic = "aftls datagram state\x02"

// MarshalBinary encodes the state for another process, and spends it. What
// exports keying material stays behind.
func (st *DatagramState) MarshalBinary() ([]byte, error) {
	if err := st.take(); err != nil {
		return nil, err
	}
	defer st.wipe()
	size := 2048 + len(st.cid) + len(st.peerCID) + len(st.identity) + len(st.tls.NegotiatedProtocol)
	for _, list := range [][][]byte{st.messages, st.flight} {
		for _, m := range list {
			size += 4 + len(m)
		}
	}
	for _, cert := range st.tls.PeerCertificates {
		size += 4 + len(cert.Raw)
	}
	// A builder that grew would leave copies of the keys behind.
	b := cryptobyte.NewBuilder(append(make([]byte, 0, size), datagramMagic...))
	addKeys(b, st.send)
	addKeys(b, st.recv)
	addBytes(b, st.cid)
	addBytes(b, st.peerCID)
	peer := ""
	if st.peer.IsValid() {
		peer = st.peer.String()
	}
	addBytes(b, []byte(peer))
	addBytes(b, st.local.AsSlice())
	addBytes(b, st.proven.AsSlice())
	addBool(b, st.limited)
	b.AddUint64(uint64(st.credit))
	addList(b, st.messages)
	addList(b, st.flight)
	addBool(b, st.ended)
	addBool(b, st.shut)
	addBool(b, st.tls.DidResume)
	addBytes(b, []byte(st.tls.NegotiatedProtocol))
	b.AddUint16(st.srtp)
	addBool(b, st.identity != nil)
	addBytes(b, st.identity)
	var certs [][]byte
	for _, cert := range st.tls.PeerCertificates {
		certs = append(certs, cert.Raw)
	}
	addList(b, certs)
	addBool(b, len(st.tls.VerifiedChains) > 0)
	return b.Bytes()
}

// UnmarshalBinary decodes what MarshalBinary made. The error is [ErrState].
// Verified chains come back as one chain, as with [State.UnmarshalBinary].
func (st *DatagramState) UnmarshalBinary(data []byte) error {
	s := cryptobyte.String(data)
	var magic, peer, local, proven, proto []byte
	var credit uint64
	var certs [][]byte
	var hasIdentity, verified bool
	ok := s.ReadBytes(&magic, len(datagramMagic)) && string(magic) == datagramMagic &&
		readKeys(&s, &st.send) && readKeys(&s, &st.recv) && readBytes(&s, &st.cid) && readBytes(&s, &st.peerCID) &&
		readBytes(&s, &peer) && readBytes(&s, &local) && readBytes(&s, &proven) && readBool(&s, &st.limited) && s.ReadUint64(&credit) && readList(&s, &st.messages) && readList(&s, &st.flight) && readBool(&s, &st.ended) && readBool(&s, &st.shut) &&
		readBool(&s, &st.tls.DidResume) && readBytes(&s, &proto) && s.ReadUint16(&st.srtp) &&
		readBool(&s, &hasIdentity) && readBytes(&s, &st.identity) && readList(&s, &certs) && readBool(&s, &verified) && s.Empty()
	ok = ok && len(st.cid) <= record.MaxCID && len(st.peerCID) <= record.MaxCID &&
		(st.send.Version == record.DTLS12 || st.send.Version == record.DTLS13) && st.recv.Version == st.send.Version
	if ok && len(peer) > 0 {
		var err error
		st.peer, err = netip.ParseAddrPort(string(peer))
		ok = err == nil
	}
	ok = ok && addrFrom(local, &st.local) && addrFrom(proven, &st.proven)
	st.credit = int64(credit)
	for _, m := range st.messages {
		ok = ok && len(m) <= record.MaxPlaintext
	}
	for _, der := range certs {
		cert, err := x509.ParseCertificate(der)
		ok = ok && err == nil
		st.tls.PeerCertificates = append(st.tls.PeerCertificates, cert)
	}
	if !ok {
		st.wipe()
		return ErrState
	}
	if hasIdentity && st.identity == nil {
		st.identity = []byte{}
	} else if !hasIdentity {
		st.identity = nil
	}
	if verified && len(st.tls.PeerCertificates) > 0 {
		st.tls.VerifiedChains = [][]*x509.Certificate{st.tls.PeerCertificates}
	}
	st.tls.Version, st.tls.CipherSuite, st.tls.HandshakeComplete = st.send.Version, st.send.Suite, true
	st.tls.NegotiatedProtocol = string(proto)
	return nil
}

// addrFrom decodes an address, or that there is none.
func addrFrom(b []byte, a *netip.Addr) bool {
	var ok bool
	*a, ok = netip.AddrFromSlice(b)
	return ok || len(b) == 0
}

func addList(b *cryptobyte.Builder, list [][]byte) {
	b.AddUint32(uint32(len(list)))
	for _, p := range list {
		addBytes(b, p)
	}
}

func readList(s *cryptobyte.String, list *[][]byte) bool {
	var n uint32
	if !s.ReadUint32(&n) || uint64(n)*4 > uint64(len(*s)) {
		return false
	}
	*list = nil
	for range n {
		var p []byte
		if !readBytes(s, &p) {
			return false
		}
		*list = append(*list, p)
	}
	return true
}
