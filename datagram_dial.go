package aftls

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/aftls/aftls/internal/handover"
	"github.com/aftls/aftls/internal/soft"
)

// DatagramConfig is what DTLS needs beside a tls.Config. The zero value and nil
// are those of a client that verifies with the system's roots.
type DatagramConfig struct {
	// TLS has the certificates, their verification, ALPN, curves, suites and
	// the key log. DTLS 1.2 has suites of AES-GCM and ChaCha20-Poly1305 only. A
	// Config that asks for what DTLS sockets cannot do is refused; session
	// tickets, Time and Rand are passed over.
	TLS *tls.Config

	// PSK returns the pre-shared key: a server's for the identity that the
	// client names, a client's for the hint of the server. With it and without
	// a certificate, or roots, only suites with a pre-shared key are used.
	PSK func(identity []byte) ([]byte, error)

	// PSKIdentity is a client's identity, and a server's hint.
	PSKIdentity []byte

	// CIDLen is the length of the Connection ID that we ask the peer to put
	// into its records (RFC 9146), up to 255: with one a listener knows the peer
	// whatever its address has become. 0 asks for none, but uses the peer's,
	// below 0 does neither.
	CIDLen int

	// SRTPProfiles are offered, or chosen from (RFC 5764).
	SRTPProfiles []uint16

	// Sessions keeps what can be resumed; nil: nothing is resumed.
	Sessions *DatagramSessions

	// IdleTimeout is after how long without anything authentic from its peer a
	// Listener gives an association up, within a quarter more. 0 is 10 minutes,
	// below 0 never.
	IdleTimeout time.Duration
}

func (c *DatagramConfig) handshake() *handover.DatagramConfig {
	if c == nil {
		return new(handover.DatagramConfig)
	}
	return &handover.DatagramConfig{TLS: c.TLS, PSK: c.PSK, PSKIdentity: c.PSKIdentity, CIDLen: c.CIDLen, SRTPProfiles: c.SRTPProfiles, Sessions: c.Sessions}
}

// DatagramSessions keeps sessions of DTLS 1.2 for clients and servers that
// resume them. It may be used by any number of them at once, and has no methods
// for others.
type DatagramSessions = handover.DatagramSessions

// NewDatagramSessions returns a store for at most n sessions. The one that was
// used longest ago makes room.
func NewDatagramSessions(n int) *DatagramSessions { return handover.NewDatagramSessions(n) }

// DatagramDialer connects to DTLS servers. The zero value is ready for use.
type DatagramDialer struct {
	NetDialer *net.Dialer     // for the carrier; nil is the zero net.Dialer
	Config    *DatagramConfig // ServerName of its TLS defaults to the host dialled
	Options   Options
}

// DialContext makes a UDP socket for the address and runs the handshake. The
// net.Conn is a [*DatagramConn]. ctx, and the NetDialer's Timeout and Deadline,
// cover the handshake too.
func (d *DatagramDialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := within(ctx, d.NetDialer)
	defer cancel()
	carrier, err := dialCarrier(ctx, d.NetDialer, network, addr)
	if err != nil {
		return nil, err
	}
	config := new(DatagramConfig)
	if d.Config != nil {
		*config = *d.Config
	}
	config.TLS = named(config.TLS, addr)
	c, err := DatagramClient(ctx, carrier, config, d.Options)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Dial is DialContext without a context.
func (d *DatagramDialer) Dial(network, addr string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, addr)
}

// datagramHandshakeTimeout ends a handshake whose context has no deadline: the
// peer may never answer, and nothing on a datagram carrier says so.
const datagramHandshakeTimeout = 30 * time.Second

// DatagramClient runs the handshake of a DTLS client on carrier, which keeps the
// boundaries of datagrams and is connected to the peer, as a UDP socket can be.
// Whatever the outcome, carrier is no longer the caller's: after an error it is
// closed. The handshake ends with ctx, after 30 seconds at the latest.
func DatagramClient(ctx context.Context, carrier net.Conn, config *DatagramConfig, opt Options) (*DatagramConn, error) {
	return datagramEnd(ctx, carrier, config, opt, true)
}

// DatagramServer is DatagramClient for the other side. For a socket with many
// peers use [ListenDatagram].
func DatagramServer(ctx context.Context, carrier net.Conn, config *DatagramConfig, opt Options) (*DatagramConn, error) {
	return datagramEnd(ctx, carrier, config, opt, false)
}

func datagramEnd(ctx context.Context, carrier net.Conn, config *DatagramConfig, opt Options, client bool) (*DatagramConn, error) {
	c, err := datagramHandshake(ctx, carrier, config, opt, client)
	if err != nil {
		carrier.Close()
		return nil, opError("handshake", carrier, err)
	}
	return c, nil
}

func datagramHandshake(ctx context.Context, carrier net.Conn, config *DatagramConfig, opt Options, client bool) (*DatagramConn, error) {
	cfg := config.handshake()
	cid, err := newCID(cfg.CIDLen)
	if err != nil {
		return nil, err
	}
	h, err := handover.NewDatagramHandshake(cfg, client, carrier.LocalAddr(), carrier.RemoteAddr(), cid, func(d []byte) error {
		_, err := carrier.Write(d)
		return err
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, datagramHandshakeTimeout)
	defer cancel()
	var read error
	over := make(chan struct{})
	go func() {
		defer close(over)
		if read = feedHandshake(carrier, h); read != nil {
			cancel()
		}
	}()
	r, err := h.Run(ctx)
	carrier.SetReadDeadline(time.Unix(1, 0))
	<-over
	if err != nil {
		if read != nil {
			err = &CarrierError{read}
		} else if ctx.Err() != nil && context.Cause(ctx) != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	if err := carrier.SetReadDeadline(time.Time{}); err != nil {
		return nil, &CarrierError{err}
	}
	port := soft.NewPort(carrier)
	c, err := newDatagramConn(port, carrier.LocalAddr(), datagramPeer{addr: carrier.RemoteAddr()}, &r, opt)
	if err != nil {
		return nil, err
	}
	c.carrier, c.arrivals = carrier, soft.NewArrivals(port)
	c.receiveEarly(h.Early(), soft.Path{})
	return c, nil
}

// feedHandshake reads for the handshake until a deadline in the past ends it.
func feedHandshake(carrier net.Conn, h *handover.DatagramHandshake) error {
	b := soft.Lend()
	defer soft.Return(b)
	for {
		n, err := carrier.Read(b)
		if err != nil {
			if t, ok := err.(net.Error); ok && t.Timeout() {
				return nil
			}
			return err
		}
		h.Push(b[:n])
	}
}

// suiteName is the name of a suite, which crypto/tls does not know for all of
// those that DTLS has (RFC 5487, RFC 7905).
func suiteName(id uint16) string {
	switch id {
	case 0x00a8:
		return "TLS_PSK_WITH_AES_128_GCM_SHA256"
	case 0x00a9:
		return "TLS_PSK_WITH_AES_256_GCM_SHA384"
	case 0xccab:
		return "TLS_PSK_WITH_CHACHA20_POLY1305_SHA256"
	case 0xccac:
		return "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256"
	}
	return tls.CipherSuiteName(id)
}
