// Package handover runs a handshake in crypto/tls and then takes the record
// layer away from it: version, suite, keys and next sequence number of both
// directions. It uses the public API of crypto/tls only.
//
// The parts, in the order in which a connection meets them:
//
//	config.go       the Config of one connection, derived from the user's
//	wire.go         the net.Conn under crypto/tls: whole records in, a note of records out
//	secrets.go      traffic secrets or master secret to keys and numbers
//	tickets.go      the parked tls.Conn of a client, fed with later session tickets
//	passthrough.go  connections whose records crypto/tls has to keep
package handover

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/aftls/aftls/record"
)

// Result is a finished handshake. Either In and Out are set, or Passthrough is.
type Result struct {
	State   tls.ConnectionState
	In, Out record.Keys
	Unread  []byte   // read from the carrier behind the handshake: records for In
	Tickets *Tickets // for clients with a session cache in TLS 1.3, else nil

	Passthrough *Passthrough
}

// Reasons for passthrough.
var (
	ErrSuite   = errors.New("crypto/tls negotiated a version or cipher suite that no socket serves")
	errSecrets = errors.New("the keys of the handshake could not be recovered")
)

// Client runs the handshake of a client on carrier, which it neither closes
// nor keeps when it fails.
func Client(ctx context.Context, carrier net.Conn, user *tls.Config) (Result, error) {
	w := &wire{Conn: carrier, via: carrier, client: true}
	cfg := clientConfig(user, w)
	return run(ctx, w, tls.Client(w, cfg), cfg.ClientSessionCache != nil)
}

// Server is Client for the other side. The handshake reads and writes via, a
// view of carrier that may watch it; afterwards nothing does.
func Server(ctx context.Context, carrier, via net.Conn, user *tls.Config) (Result, error) {
	w := &wire{Conn: carrier, via: via}
	return run(ctx, w, tls.Server(w, serverConfig(user, w)), false)
}

func run(ctx context.Context, w *wire, tc *tls.Conn, cache bool) (r Result, err error) {
	defer w.forget()
	if err := tc.HandshakeContext(ctx); err != nil {
		if e, ok := errors.AsType[tls.RecordHeaderError](err); ok && e.Conn != nil {
			e.Conn = w.Conn // not the wire, which ends here
			err = e
		}
		w.unread()
		return r, err
	}
	r.State = tc.ConnectionState()
	reason := r.recover(w)
	if reason != nil {
		r.Passthrough = newPassthrough(w, tc, reason)
		return r, nil
	}
	if cache && r.State.Version == tls.VersionTLS13 {
		if r.Tickets, err = park(w, tc, r.In, r.Out); err != nil {
			return Result{}, err
		}
	}
	w.setMode(detached)
	r.Unread = w.unread()
	return r, nil
}

// recover fills In and Out, or says why the records must stay with crypto/tls.
func (r *Result) recover(w *wire) error {
	version, suite := r.State.Version, r.State.CipherSuite
	if !record.Supported(version, suite) {
		return fmt.Errorf("%w: %s, %s", ErrSuite, tls.VersionName(version), tls.CipherSuiteName(suite))
	}
	if err := usable(version, suite); err != nil {
		return err
	}
	if !w.boundary() {
		return fmt.Errorf("%w: the handshake ended inside a record", errSecrets)
	}
	var client, server record.Keys
	var err error
	if version == tls.VersionTLS13 {
		client, server, err = w.keys13(suite)
	} else {
		client, server, err = w.keys12(suite, r.State)
	}
	if err != nil {
		return err
	}
	if w.client {
		r.In, r.Out = server, client
	} else {
		r.In, r.Out = client, server
	}
	return nil
}
