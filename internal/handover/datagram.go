package handover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/aftls/aftls/record"
	"github.com/pion/dtls/v3"
)

// The datagram half: pion/dtls does the handshake of DTLS 1.2, in these parts:
//
//	datagram.go           one handshake, and what comes out of it
//	datagram_wire.go      the net.PacketConn under pion/dtls
//	datagram_state.go     pion's state to keys, randoms and the next number
//	datagram_config.go    pion's options, derived from the user's tls.Config
//	datagram_sessions.go  sessions to resume
//
// A handshake of DTLS 1.3 would be another maker of [DatagramResult]: nothing in
// it belongs to one version.

// DatagramResult is a finished handshake of DTLS.
type DatagramResult struct {
	// State has the version and suite of DTLS. It cannot export: Exporter can.
	State    tls.ConnectionState
	Exporter *DatagramExporter

	In, Out       record.Keys
	InCID, OutCID []byte // Connection IDs in what comes and in what goes

	// Flight is the last flight, byte for byte, where it was ours: the peer may
	// have lost it, and asks for it by sending its Finished again. The bytes
	// must not be sealed anew: they are sent as they are (RFC 6347, 4.2.4).
	Flight [][]byte

	SRTPProfile uint16 // 0: none (RFC 5764)
	Identity    []byte // of the pre-shared key: the client's; nil without one
}

// DatagramHandshake is a handshake of DTLS under way. Push feeds it.
type DatagramHandshake struct {
	wire   *datagramWire
	conn   *dtls.Conn
	chains [][]*x509.Certificate // set by the verification
}

// NewDatagramHandshake prepares a handshake with peer. The datagrams that it
// makes go to send, which must not keep them. cid is the Connection ID to ask
// the peer for: with none of its own it can only offer to use the peer's. A
// server sends nothing but its HelloVerifyRequest, and does no asymmetric
// cryptography, before the peer has proven that it receives at its address. The
// errors are about cfg.
func NewDatagramHandshake(cfg *DatagramConfig, client bool, local, peer net.Addr, cid []byte, send func([]byte) error) (*DatagramHandshake, error) {
	if err := checkPionState(); err != nil {
		return nil, err
	}
	h := new(DatagramHandshake)
	opts, err := cfg.options(client, cid, func(chains [][]*x509.Certificate) { h.chains = chains })
	if err != nil {
		return nil, err
	}
	h.wire = newDatagramWire(client, local, peer, len(cid), send)
	if client {
		h.conn, err = dtls.ClientWithOptions(h.wire, peer, opts.client()...)
	} else {
		h.conn, err = dtls.ServerWithOptions(h.wire, peer, opts.server()...)
	}
	return h, err
}

// Push feeds a datagram of the peer. It is copied, and lost where too many wait.
func (h *DatagramHandshake) Push(datagram []byte) { h.wire.push(datagram) }

// Proven reports whether the peer has shown that it receives at its address.
func (h *DatagramHandshake) Proven() bool { return h.wire.isProven() }

// Run does the handshake. Afterwards pion/dtls can neither read nor write.
func (h *DatagramHandshake) Run(ctx context.Context) (r DatagramResult, err error) {
	err = h.conn.HandshakeContext(ctx)
	h.wire.detach()
	defer h.conn.Close() // which sends its close_notify nowhere
	if err != nil {
		if cause := h.wire.failure(); cause != nil {
			err = cause
		} else if e, ok := errors.AsType[*dtls.HandshakeError](err); ok {
			err = e.Err
		}
		return r, err
	}
	st, err := exportPionState(h.conn)
	if err != nil {
		return r, err
	}
	defer st.wipe()
	if err := r.recover(&st, h.wire); err != nil {
		return DatagramResult{}, err
	}
	r.State.VerifiedChains = h.chains
	return r, nil
}

// Early returns the records that came for the association while the handshake
// ran: each a datagram of its own, in the order in which they came. It is called
// once, after Run: what is pushed later is lost.
func (h *DatagramHandshake) Early() [][]byte { return h.wire.takeEarly() }

func (r *DatagramResult) recover(st *pionState, w *datagramWire) error {
	if !record.Supported(record.DTLS12, st.CipherSuiteID) {
		return fmt.Errorf("pion/dtls negotiated the cipher suite 0x%04x, which no socket serves", st.CipherSuiteID)
	}
	client, server := st.RemoteRandom, st.LocalRandom
	if st.IsClient {
		client, server = server, client
	}
	ck, sk, err := record.DatagramKeyBlock(st.CipherSuiteID, st.MasterSecret, client[:], server[:])
	if err != nil {
		return err
	}
	if r.In, r.Out = ck, sk; st.IsClient {
		r.In, r.Out = sk, ck
	}
	// pion counts what it made; the wire counts what was really sent. Neither
	// number, nor one below, is used again.
	r.Out.Seq = max(st.SequenceNumber, w.nextNumber(), 1)
	// All that pion opened in this epoch were Finished messages, which are no
	// data. So nothing needs to count as received: not even what overtook them.
	r.In.Seq = 0
	r.InCID, r.OutCID = slices.Clone(st.LocalConnectionID), slices.Clone(st.RemoteConnectionID)
	r.Flight = w.lastFlight()
	r.SRTPProfile, r.Identity = st.SRTPProtectionProfile, st.IdentityHint
	r.Exporter = &DatagramExporter{master: slices.Clone(st.MasterSecret), client: client, server: server, suite: st.CipherSuiteID}
	r.State = tls.ConnectionState{
		Version: record.DTLS12, CipherSuite: st.CipherSuiteID, HandshakeComplete: true,
		DidResume: w.resumed(), NegotiatedProtocol: st.NegotiatedProtocol,
	}
	for _, der := range st.PeerCertificates {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		r.State.PeerCertificates = append(r.State.PeerCertificates, cert)
	}
	return nil
}
