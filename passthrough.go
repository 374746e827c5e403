package aftls

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/internal/handover"
	"github.com/aftls/aftls/record"
)

// passthrough gives a connection that crypto/tls keeps the errors of a Conn.
type passthrough struct {
	*handover.Passthrough
	carrier net.Conn
	closed  atomic.Bool
	shut    atomic.Bool
	failed  atomic.Pointer[error]
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
	case errors.Is(err, ErrPassthrough), errors.Is(err, ErrShutdown): // the caller's
	default:
		switch {
		case errors.Is(err, handover.ErrTruncated):
			err = &TruncatedError{}
		case err == io.ErrUnexpectedEOF:
			err = &TruncatedError{InRecord: true}
		default:
			err = blame(err)
		}
		failed := err
		p.failed.CompareAndSwap(nil, &failed)
	}
	return opError(op, p.carrier, err)
}

// blame gives the errors of crypto/tls and of the carrier the types that a Conn
// has for them.
func blame(err error) error {
	if e, ok := errors.AsType[*handover.CarrierError](err); ok {
		return &CarrierError{e.Err}
	}
	e, ok := errors.AsType[*net.OpError](err)
	if !ok {
		return err
	}
	alert := reflect.ValueOf(e.Err) // its type has no name outside of crypto/tls
	if alert.Kind() != reflect.Uint8 {
		return err
	}
	switch a := record.Alert(alert.Uint()); e.Op {
	case "remote error":
		return &AlertError{a}
	case "local error":
		return &PeerError{Alert: a, Reason: e.Err.Error()}
	}
	return err
}

func (p *passthrough) Read(b []byte) (int, error) {
	if p.closed.Load() {
		return 0, p.opError("read", net.ErrClosed)
	}
	n, err := p.Passthrough.Read(b)
	return n, p.opError("read", err)
}

// writeTo holds a buffer while nothing comes, as crypto/tls does too: behind a
// Wait there would be a read for the first byte of every record alone.
func (p *passthrough) writeTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{p}, make([]byte, record.MaxPlaintext))
}

// Wait is called for Conn.WaitRead, which gives its error a form.
func (p *passthrough) Wait() error {
	if p.closed.Load() {
		return net.ErrClosed
	}
	return p.Passthrough.Wait()
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
	if p.closed.Load() {
		return p.opError("close", net.ErrClosed)
	}
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
