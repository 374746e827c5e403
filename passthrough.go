package aftls

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/internal/handover"
)

// passthrough gives a connection that crypto/tls keeps the errors of a Conn.
type passthrough struct {
	*handover.Passthrough
	carrier net.Conn
	closed  atomic.Bool
	shut    atomic.Bool
}

// unavailable is the answer of everything that needs a socket.
func (p *passthrough) unavailable() error { return fmt.Errorf("%w: %w", ErrPassthrough, p.Reason()) }

func (p *passthrough) opError(op string, err error) error {
	switch {
	case err == nil || err == io.EOF:
		return err
	case p.closed.Load(), errors.Is(err, net.ErrClosed):
		err = net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = os.ErrDeadlineExceeded
	case errors.Is(err, handover.ErrTruncated):
		err = &TruncatedError{}
	case err == io.ErrUnexpectedEOF:
		err = &TruncatedError{InRecord: true}
	default:
		// What crypto/tls itself complains of says whom it blames; what
		// the carrier reports does not.
		if e, ok := errors.AsType[*net.OpError](err); ok && e.Op != "remote error" && e.Op != "local error" {
			err = &CarrierError{e.Err}
		}
	}
	return opError(op, p.carrier, err)
}

func (p *passthrough) Read(b []byte) (int, error) {
	n, err := p.Passthrough.Read(b)
	return n, p.opError("read", err)
}

func (p *passthrough) Write(b []byte) (int, error) {
	if p.closed.Load() {
		return 0, p.opError("write", net.ErrClosed)
	}
	if p.shut.Load() {
		return 0, p.opError("write", ErrShutdown)
	}
	n, err := p.Passthrough.Write(b)
	return n, p.opError("write", err)
}

func (p *passthrough) closeWrite() error {
	p.shut.Store(true)
	err := p.Passthrough.CloseWrite()
	if half, ok := p.carrier.(interface{ CloseWrite() error }); ok && err == nil {
		err = half.CloseWrite()
	}
	return p.opError("close", err)
}

func (p *passthrough) Close() error {
	if p.closed.Swap(true) {
		return p.opError("close", net.ErrClosed)
	}
	if err := p.Passthrough.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return opError("close", p.carrier, &CarrierError{err})
	}
	return nil
}

func (p *passthrough) setDeadline(t time.Time, set func(time.Time) error) error {
	if p.closed.Load() {
		return p.opError("set", net.ErrClosed)
	}
	return set(t)
}
