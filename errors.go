package aftls

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/aftls/aftls/record"
)

// Errors that blame the caller, or the circumstances. Each comes wrapped in a
// *net.OpError; compare with errors.Is.
var (
	// ErrControl stops Socket.Read and Socket.WriteTo in front of a control
	// record: ReadRecord takes it. A Conn never returns it.
	ErrControl = errors.New("aftls: a control record is next: take it with ReadRecord")

	// ErrDetached is the answer of everything that was detached.
	ErrDetached = errors.New("aftls: the association was detached and lives elsewhere")

	// ErrSpent is returned for a State that was resumed or encoded before.
	ErrSpent = errors.New("aftls: this state was used before; a state is good for one Resume")

	// ErrState is returned for bytes that are no encoded State.
	ErrState = errors.New("aftls: not an encoded state of this version of aftls")

	// ErrNoKeys is the answer of a direction that has no keys yet.
	ErrNoKeys = errors.New("aftls: this direction has no keys: call SetKeys first")

	// ErrKeyReuse is returned for keys and a number that were used to send
	// on this socket before (a nonce must never be used twice).
	ErrKeyReuse = errors.New("aftls: the key was used on this socket, and the number is below the next one")

	// ErrKeyLimit ends the sending side when its key has sealed as many
	// records as it may and there is no secret to derive the next one from.
	ErrKeyLimit = errors.New("aftls: the key has reached its limit and cannot be replaced: open a new connection")

	// ErrNoRekey is returned by Rekey in TLS 1.2, without a secret, and where
	// the kernel has the sending side and takes no second key. It ends a
	// connection whose peer rekeys while such a kernel has the receiving side.
	ErrNoRekey = errors.New("aftls: this connection cannot rekey: that needs TLS 1.3, a traffic secret, and in the kernel Linux 6.14 and no other process that sends")

	// ErrNoKernel is returned with Options.RequireKernel for what the kernel
	// cannot have, and by MoveToKernel. The error says why, and what to do.
	ErrNoKernel = errors.New("aftls: the kernel does not have the records of this connection")

	// ErrInKernel is returned for what only the soft provider can do.
	ErrInKernel = errors.New("aftls: the kernel has the records of this direction: use Options.Provider Soft for this")

	// ErrShared is returned by Detach after ShareKernelFile.
	ErrShared = errors.New("aftls: another process sends on this connection too: it cannot be moved")

	// ErrEmptyRecord is returned by WriteRecord for a control record without
	// content where the kernel has the sending side: it sends none.
	ErrEmptyRecord = errors.New("aftls: the kernel sends no record without content")

	// ErrShutdown is returned for writes after CloseWrite.
	ErrShutdown = errors.New("aftls: write after CloseWrite")

	// ErrTooLarge is returned by WriteRecord for more than 16384 bytes.
	ErrTooLarge = errors.New("aftls: a record holds at most 16384 bytes")

	// ErrRecordType is returned by Conn.WriteRecord for types that the Conn
	// has to send itself. Use Rekey, CloseWrite or a Socket.
	ErrRecordType = errors.New("aftls: a Conn sends this type of record itself: use Rekey or CloseWrite, or a Socket")

	// ErrPassthrough is returned for what needs a socket on a connection
	// whose record layer stayed with crypto/tls. The error says why it did.
	ErrPassthrough = errors.New("aftls: crypto/tls keeps the record layer of this connection")

	// ErrEvicted is what Options.HandshakeError gets for a handshake that a
	// Listener gave up to have room for a newer one.
	ErrEvicted = errors.New("aftls: handshake given up for a newer one: it waited longest for its peer")

	// ErrIdle ends a datagram association of a listener from which nothing
	// authentic came for its IdleTimeout.
	ErrIdle = errors.New("aftls: nothing came from the peer for so long that the association was given up")

	// ErrReplaced ends a datagram association whose peer finished another
	// handshake from the same address, as after a restart.
	ErrReplaced = errors.New("aftls: the peer began another association from the same address")

	// ErrUnproven is returned for messages to a peer whose Connection ID came with the
	// address of another host: anybody who has an association can send with the address
	// of a victim. No more than three times as many bytes as came from there go there.
	// The connection goes on: write when the peer has sent more, or call
	// [DatagramConn.AddressProven] once it has answered what it could only read there.
	ErrUnproven = errors.New("aftls: the peer has a new address, which may be somebody else's, and as much went there as may: let it answer something, and call AddressProven")

	// ErrNoExporter is returned by ExportKeyingMaterial after Resume in
	// another process.
	ErrNoExporter = errors.New("aftls: keying material can only be exported where the handshake was")
)

// AlertError is a fatal alert from the peer: it ended the connection.
type AlertError struct{ Alert record.Alert }

func (e *AlertError) Error() string {
	return fmt.Sprintf("aftls: the peer ended the connection with alert %v", e.Alert)
}

// PeerError is a violation of the protocol by the peer, or by somebody on the
// way. The connection is dead; the peer was sent Alert if it could be reached.
type PeerError struct {
	Alert  record.Alert
	Reason string
}

func (e *PeerError) Error() string {
	return fmt.Sprintf("aftls: the peer broke the protocol (answered with alert %v): %s", e.Alert, e.Reason)
}

// TruncatedError is the end of the carrier without close_notify: somebody may
// have cut off the rest. It also Is io.ErrUnexpectedEOF.
type TruncatedError struct {
	InRecord bool // the end came inside a record
}

func (e *TruncatedError) Error() string {
	if e.InRecord {
		return "aftls: the connection ended inside a record: data may be missing"
	}
	return "aftls: the connection ended without close_notify: data may be missing"
}

// Is makes the error equal to io.ErrUnexpectedEOF.
func (e *TruncatedError) Is(target error) bool { return target == io.ErrUnexpectedEOF }

// CarrierError is an error of the connection underneath.
type CarrierError struct{ Err error }

func (e *CarrierError) Error() string { return "aftls: carrier: " + e.Err.Error() }
func (e *CarrierError) Unwrap() error { return e.Err }

// DatagramTooLargeError is returned for a message that does not fit into one
// datagram. Nothing of it was sent, and the connection goes on.
type DatagramTooLargeError struct {
	Size  int // bytes of the message
	Limit int // the largest message that fits on this path, as far as the system knows; 0: unknown
}

func (e *DatagramTooLargeError) Error() string {
	if e.Limit == 0 {
		return fmt.Sprintf("aftls: a message of %d bytes does not fit into one datagram on this path: send smaller ones", e.Size)
	}
	return fmt.Sprintf("aftls: a message of %d bytes does not fit into one datagram on this path: send at most %d", e.Size, e.Limit)
}

// opError dresses every error but io.EOF. net/http tells the ends of
// connections from broken requests by this type.
func opError(op string, carrier net.Conn, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	e := &net.OpError{Op: op, Net: "tls", Err: err}
	if a := carrier.LocalAddr(); a != nil {
		e.Net, e.Source = a.Network(), a
	}
	if a := carrier.RemoteAddr(); a != nil {
		e.Addr = a
	}
	return e
}
