package aftls

import (
	"crypto/tls"
	"net"

	"github.com/aftls/aftls/internal/handover"
	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

// NewDatagramConn makes an association of the keys of a handshake that another
// library did, on a carrier that is connected to the peer and keeps the boundaries of
// datagrams: [NewSocket], SetKeys and [NewConn] for datagrams. Keys are those of DTLS
// 1.2, or traffic secrets of DTLS 1.3, without Connection IDs; they are copied. What
// arrived below the number of the receiving ones counts as received.
//
// Alerts and close_notify are followed as on any DatagramConn; other control records
// change nothing. Nobody has our last flight: if it was ours that ended the
// handshake, the keys are to be given when the peer has shown that it arrived. In
// DTLS 1.3 a peer's KeyUpdate gets no answer, and so it stays with its keys (RFC
// 9147, 8); sending ends with [ErrKeyLimit].
//
// seen, if not nil, is shown every control record before it is acted on; reading
// waits for it, and it must not call the DatagramConn nor keep the payload. The
// errors are those of [record.NewDatagramSealer] and [record.NewDatagramOpener]; the
// carrier is then still the caller's, and as it was.
func NewDatagramConn(carrier net.Conn, send, receive record.Keys, seen func(typ record.ContentType, payload []byte), opt Options) (*DatagramConn, error) {
	if send.Version != receive.Version {
		return nil, opError("new", carrier, record.ErrSuite)
	}
	for _, k := range []record.Keys{send, receive} {
		// A port sets the socket up: not before all is right.
		s, err := record.NewDatagramSealer(k, nil)
		if err != nil {
			return nil, opError("new", carrier, err)
		}
		s.Wipe()
	}
	port := soft.NewPort(carrier)
	c, err := newDatagramConn(port, carrier.LocalAddr(), datagramPeer{addr: carrier.RemoteAddr()}, &handover.DatagramResult{
		State: tls.ConnectionState{Version: send.Version, CipherSuite: send.Suite, HandshakeComplete: true},
		In:    receive.Clone(), Out: send.Clone(),
	}, opt)
	if err != nil {
		return nil, opError("new", carrier, err)
	}
	c.carrier, c.arrivals, c.seen = carrier, soft.NewArrivals(port), seen
	return c, nil
}
