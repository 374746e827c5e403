package aftls

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/internal/handover"
	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

// DatagramConn is an association of DTLS: a net.Conn that keeps the boundaries
// of messages. A Write is a message, and a message is one datagram: it arrives
// whole, at most once, never altered, or not at all, and in any order. What is
// forged, damaged or repeated on the way is dropped and counted, see [DatagramInfo].
//
// One reader and one writer may run at once; more of them wait for each other.
// The handshake was that of pion/dtls, DTLS 1.2, or another library's, of which
// [NewDatagramConn] was given the keys.
type DatagramConn struct {
	port    *soft.Port
	carrier net.Conn          // its own, or
	l       *DatagramListener // one that it shares
	local   net.Addr
	peer    atomic.Pointer[datagramPeer] // changes only under l

	rmu      sync.Mutex
	recv     *soft.DatagramReceiver
	arrivals *soft.Arrivals // of its own carrier
	left     []byte         // of the datagram that came last: not opened yet
	queue    soft.Messages  // opened before anybody read
	come     chan struct{}  // l: there may be something in the queue
	rerr     error
	flight   [][]byte // our last one, while the peer may lack it
	answered bool     // the datagram that came last was answered with it
	resent   int
	seen     func(record.ContentType, []byte) // of keys that others brought

	wmu  sync.Mutex
	send *soft.DatagramSender
	shut bool // close_notify was sent

	cid, peerCID []byte
	state        tls.ConnectionState
	exporter     *handover.DatagramExporter // nil: in another process
	srtp         uint16
	identity     []byte

	life  atomic.Int32
	dead  atomic.Pointer[error]
	ended atomic.Bool

	lost, ignored atomic.Uint64
	active        atomic.Bool // something authentic came since the last look at idle ones
	idle          int32       // l: looks since then

	dmu    sync.Mutex
	rtime  deadline // of l
	wuntil atomic.Int64
}

// maxResent is how often the last flight is sent again. A peer that lost it asks
// once a second or less.
const maxResent = 32

var _ net.Conn = (*DatagramConn)(nil)

func newDatagramConn(port *soft.Port, local net.Addr, peer datagramPeer, r *handover.DatagramResult, opt Options) (c *DatagramConn, err error) {
	c = &DatagramConn{
		port: port, local: local, cid: r.InCID, peerCID: r.OutCID, flight: r.Flight,
		state: r.State, exporter: r.Exporter, srtp: r.SRTPProfile, identity: r.Identity,
	}
	c.peer.Store(&peer)
	defer r.In.Wipe()
	defer r.Out.Wipe()
	if c.recv, err = soft.NewDatagramReceiver(r.In, r.InCID); err == nil {
		c.send, err = soft.NewDatagramSender(port, r.Out, r.OutCID, opt.MaxRecords, opt.Padding)
	}
	return c, err
}

// check says why the association can be used no more, or nil.
func (c *DatagramConn) check() error {
	switch c.life.Load() {
	case closed:
		return net.ErrClosed
	case detached:
		return ErrDetached
	}
	if err := c.dead.Load(); err != nil {
		return *err
	}
	return nil
}

func (c *DatagramConn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	e := &net.OpError{Op: op, Net: "dtls", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
	if c.local != nil {
		e.Net = c.local.Network()
	}
	return e
}

// LocalAddr is that of the carrier. Where a listener has several addresses, and
// the system tells them apart, it is the one that the peer sends to.
func (c *DatagramConn) LocalAddr() net.Addr {
	at := c.peer.Load().at.Local
	a, ok := c.local.(*net.UDPAddr)
	if !at.IsValid() || !ok {
		return c.local
	}
	return &net.UDPAddr{IP: at.AsSlice(), Port: a.Port}
}

// RemoteAddr is where the peer was last: with a Connection ID it may move.
func (c *DatagramConn) RemoteAddr() net.Addr { return c.peer.Load().addr }

// ConnectionState returns what the handshake agreed on; its Version is
// record.DTLS12. It cannot export: use [DatagramConn.ExportKeyingMaterial].
func (c *DatagramConn) ConnectionState() tls.ConnectionState { return c.state }

// ExportKeyingMaterial returns length bytes for a label (RFC 5705), such as
// EXTRACTOR-dtls_srtp. After Resume in another process, and after Close, the
// error is [ErrNoExporter].
func (c *DatagramConn) ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error) {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.exporter == nil {
		return nil, c.opError("export", ErrNoExporter)
	}
	b, err := c.exporter.Export(label, context, length)
	return b, c.opError("export", err)
}

// DatagramInfo is the state of an association at one moment. The counters count
// since this process took the association.
type DatagramInfo struct {
	Info

	Bad      uint64 // records that were forged, damaged or of something else
	Replayed uint64 // records that came again, or too late to tell
	Lost     uint64 // messages that nobody had read when the queue was full
	Ignored  uint64 // authentic records that are no data and change nothing

	CID, PeerCID []byte // Connection IDs in what comes and in what goes (RFC 9146)
	SRTPProfile  uint16 // RFC 5764; 0: none
	PSKIdentity  []byte // of the client, where a pre-shared key authenticated it

	// Many datagrams go out, and come in, as one (UDP_SEGMENT, UDP_GRO).
	SegmentedSend, SegmentedReceive bool
}

// Info returns the state of the association. It does not wait for readers or
// writers.
func (c *DatagramConn) Info() DatagramInfo {
	i := DatagramInfo{
		Info: Info{Send: directionInfo(c.send.Stats(), noDatagrams), Receive: directionInfo(c.recv.Stats(), noDatagrams), Resumed: c.state.DidResume},
		Lost: c.lost.Load(), Ignored: c.ignored.Load(), Replayed: c.recv.Drops(record.DropReplay),
		CID: c.cid, PeerCID: c.peerCID, SRTPProfile: c.srtp, PSKIdentity: c.identity,
	}
	for why := range record.Drop(record.Drops) {
		if why != record.DropReplay {
			i.Bad += c.recv.Drops(why)
		}
	}
	i.SegmentedSend, i.SegmentedReceive = c.port.Segments()
	return i
}

// SetDeadline sets both deadlines.
func (c *DatagramConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline ends reads with os.ErrDeadlineExceeded at t. They can go on
// after a later deadline is set.
func (c *DatagramConn) SetReadDeadline(t time.Time) error {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.life.Load() != alive {
		return c.opError("set", c.check())
	}
	if c.carrier != nil {
		return c.opError("set", c.carrier.SetReadDeadline(t))
	}
	c.rtime.set(t)
	return nil
}

// SetWriteDeadline ends writes with os.ErrDeadlineExceeded at t.
func (c *DatagramConn) SetWriteDeadline(t time.Time) error {
	c.dmu.Lock()
	defer c.dmu.Unlock()
	if c.life.Load() != alive {
		return c.opError("set", c.check())
	}
	var until int64
	if !t.IsZero() {
		until = max(t.UnixNano(), 1)
	}
	c.wuntil.Store(until)
	if c.carrier != nil {
		return c.opError("set", c.carrier.SetWriteDeadline(t))
	}
	return nil
}

// NetConn returns the carrier, and nil where the association shares that of a
// listener. Reading or writing it breaks the association.
func (c *DatagramConn) NetConn() net.Conn { return c.carrier }

// Close ends the association at once for every other call, and sends
// close_notify, once: it may be lost as any datagram. It closes the carrier, but
// not that of a listener.
func (c *DatagramConn) Close() error {
	c.dmu.Lock()
	if !c.life.CompareAndSwap(alive, closed) {
		c.dmu.Unlock()
		if c.life.Load() == detached {
			return nil
		}
		return c.opError("close", net.ErrClosed)
	}
	if c.carrier != nil {
		c.carrier.SetReadDeadline(time.Unix(1, 0))
	}
	c.rtime.stop()
	if c.exporter != nil {
		c.exporter.Wipe()
		c.exporter = nil
	}
	c.dmu.Unlock()
	if !c.wmu.TryLock() {
		if c.carrier != nil {
			c.carrier.SetWriteDeadline(time.Unix(1, 0))
		}
		c.wmu.Lock()
	}
	if c.carrier != nil {
		c.carrier.SetWriteDeadline(time.Now().Add(closeTimeout))
	}
	if c.dead.Load() == nil && !c.shut {
		c.send.Send(record.AlertRecord, closeNotify[:], c.peer.Load().at)
	}
	c.send.Wipe()
	c.wmu.Unlock()
	var err error
	if c.carrier != nil {
		err = c.carrier.Close()
	}
	if c.l != nil {
		c.l.forget(c)
	}
	c.release()
	return c.opError("close", err)
}

// release gives up what only a reader needs, and wakes the readers.
func (c *DatagramConn) release() {
	c.wake()
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.left, c.flight = nil, nil
	if c.arrivals != nil {
		c.arrivals.Drop()
	}
	c.queue.Drop()
	c.recv.Wipe()
}

// noDatagrams is why no datagram association is in the kernel.
const noDatagrams = "no kernel has DTLS sockets"
