// Package aftls makes a TLS connection a socket. The handshake stays in
// crypto/tls; then the keys are handed over to a record layer of this package,
// from which the connection is read, written, fed from files, rekeyed, and
// moved to another place while it lives.
//
// [Conn] is what most programs want: a net.Conn that takes care of alerts,
// session tickets and KeyUpdates by itself. [Listen], [NewListener], [Dialer],
// [Client] and [Server] make one from a crypto/tls Config. [Socket] is the
// record layer alone, for programs that bring their own keys and policy.
//
// # What is promised
//
// Neither type lets a byte around the record layer: they hide the descriptor
// of the connection underneath, and after any failure the connection is dead,
// never plaintext. One reader and one writer may run at once; more of them
// wait for each other. Reading never waits for writing.
//
// Every error but io.EOF is a *net.OpError around one that says who is to
// blame: [AlertError] and [PeerError] the peer, [TruncatedError] and
// [CarrierError] the network, the Err variables and net.ErrClosed the caller.
// A deadline gives os.ErrDeadlineExceeded and can be moved to go on; n then
// counts what is committed, of which the rest is sent by the next call. io.EOF
// is returned only after the peer said that it ends (close_notify).
package aftls

import (
	"crypto/tls"
	"net"

	"github.com/aftls/aftls/record"
)

// Provider is who does the record work of one direction.
type Provider uint8

// The providers.
const (
	Auto        Provider = iota // the best that works here
	Soft                        // this package's own engine, in this process
	Kernel                      // a Linux TLS socket
	Passthrough                 // crypto/tls; never asked for, see [ErrPassthrough]
)

func (p Provider) String() string {
	return [...]string{"auto", "soft", "kernel", "passthrough"}[p]
}

// Direction is one of the two directions of a connection; each has keys of its
// own.
type Direction uint8

// The directions.
const (
	Send Direction = iota
	Receive
)

func (d Direction) String() string { return [...]string{"send", "receive"}[d] }

// Options are what a connection can be told beyond its tls.Config. The zero
// value is good.
type Options struct {
	// Provider asks for one provider instead of the best. Each direction has its
	// own, and Info says which and why. Auto sends in the kernel where that has
	// TLS sockets and the suite, and receives in the kernel where that can follow
	// a KeyUpdate too: without, which is before Linux 6.14, a KeyUpdate of the
	// peer ends the connection. Kernel receives there all the same. What the
	// kernel cannot have is in soft.
	Provider Provider

	// RequireKernel makes it an error, [ErrNoKernel], when sending is not in the
	// kernel, and with Provider Kernel when receiving is not.
	RequireKernel bool

	// RequireSocket makes passthrough an error: where crypto/tls would have
	// to keep the record layer the handshake fails with ErrPassthrough.
	RequireSocket bool

	// Kernel is for the directions that the kernel has.
	Kernel KernelOptions

	// MaxRecords rekeys after so many records under one key instead of the
	// limit of the cipher (RFC 8446, 5.5), which it never raises. In TLS
	// 1.2, which cannot rekey, it ends the connection with ErrKeyLimit. Less
	// than 3 counts as 3: two records are kept for a KeyUpdate and an alert.
	MaxRecords uint64

	// Padding pads the records of TLS 1.3 to a multiple of so many bytes of
	// content, to hide their length (RFC 8446, 5.4).
	Padding int

	// HandshakeError is told of every connection that a Listener gave up:
	// its address, and why. It may be called by many goroutines at once.
	HandshakeError func(peer net.Addr, err error)
}

// KernelOptions are what only Linux TLS sockets have. The zero value is good.
type KernelOptions struct {
	// ExpectNoPad has the kernel open records of TLS 1.3 into the reader's memory,
	// as if they were never padded and always data (TLS_RX_EXPECT_NO_PAD, Linux
	// 6.0). A record that is padded, or no data, is opened twice: a peer that is
	// not trusted makes us work twice as much. Where the kernel does not have it,
	// it is without effect.
	ExpectNoPad bool

	// ZeroCopy lets a network device that seals take files from the page cache as
	// they are (TLS_TX_ZEROCOPY_RO, Linux 5.19). A file that changes before the
	// peer has acknowledged it goes out in a record that the peer cannot open.
	// Without such a device it is without effect.
	ZeroCopy bool
}

// Info is the state of a connection at one moment.
type Info struct {
	Send, Receive DirectionInfo
	Resumed       bool // the handshake continued an earlier session
	Tapped        bool // a tap captures the application data

	// Failed is what the connection failed of, as errors of Read and Write have
	// it inside their *net.OpError: a [*TruncatedError], [*CarrierError],
	// [*PeerError], [*AlertError] and so on. It is nil while the connection is
	// well, and after a close, a clean end or Detach.
	Failed error
}

// DirectionInfo is the state of one direction. Records, Bytes and Rekeys count
// since this process took the connection; Bytes are application data. In
// passthrough only Provider, Version, Suite and Reason are known.
type DirectionInfo struct {
	Provider Provider
	Device   bool   // the kernel has given the records to a network device, and says so
	Reason   string // why not a better provider, in words
	Version  uint16
	Suite    uint16
	Epoch    uint64 // how often the direction was rekeyed since the handshake
	Seq      uint64 // number of the next record under the present key
	Records  uint64
	Bytes    uint64
	Rekeys   uint64
	Filtered bool // a filter decides about every record
}

// SuiteName is the name of the cipher suite.
func (i DirectionInfo) SuiteName() string { return suiteName(i.Suite) }

// VersionName is the name of the protocol version.
func (i DirectionInfo) VersionName() string {
	switch i.Version {
	case record.DTLS12:
		return "DTLS 1.2"
	case record.DTLS13:
		return "DTLS 1.3"
	}
	return tls.VersionName(i.Version)
}

// Keys are the keys of one direction.
type Keys = record.Keys
