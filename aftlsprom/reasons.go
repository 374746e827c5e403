package aftlsprom

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"

	"github.com/aftls/aftls"
)

// kinds of handshakes.
var kinds = [...]string{"full", "resumed"}

const (
	full = iota
	resumed
)

// reasons why a handshake failed. There are no others.
var reasons = [...]string{"accept", "alert", "evicted", "gone", "not_tls", "passthrough", "refused", "timeout"}

const (
	accept      = iota // no connection could be taken, as without descriptors
	alert              // the client said no
	evicted            // given up for a newer one
	gone               // the client went away, or the network did
	notTLS             // what came first is no record
	passthrough        // aftls.Options.RequireSocket, and no socket was possible
	refused            // we said no: version, suite, certificate, or nonsense
	timeout            // it took too long
)

// reasonOf is an index of reasons.
func reasonOf(err error) int {
	switch op, _ := errors.AsType[*net.OpError](err); {
	case errors.Is(err, aftls.ErrEvicted):
		return evicted
	case errors.Is(err, aftls.ErrPassthrough):
		return passthrough
	case errors.Is(err, os.ErrDeadlineExceeded):
		return timeout
	case op != nil && op.Op == "accept":
		return accept
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return notTLS
	}
	if _, ok := errors.AsType[*aftls.TruncatedError](err); ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return gone
	}
	for e, ok := errors.AsType[*net.OpError](err); ok; e, ok = errors.AsType[*net.OpError](e.Err) {
		switch e.Op {
		case "remote error": // so crypto/tls has it
			return alert
		case "read", "write":
			return gone
		}
	}
	return refused
}

// blames is who made a connection fail.
var blames = [...]string{"local", "network", "peer"}

const (
	local = iota
	network
	peer
)

// blameOf is an index of blames.
func blameOf(err error) int {
	if _, ok := errors.AsType[*aftls.AlertError](err); ok {
		return peer
	}
	if _, ok := errors.AsType[*aftls.PeerError](err); ok {
		return peer
	}
	if _, ok := errors.AsType[*aftls.TruncatedError](err); ok {
		return network
	}
	if _, ok := errors.AsType[*aftls.CarrierError](err); ok {
		return network
	}
	return local
}
