package kcm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Errors that blame the caller, or the circumstances. Compare with errors.Is.
// What is closed answers with net.ErrClosed.
var (
	// ErrDetached is the answer of a Conn that was detached.
	ErrDetached = errors.New("kcm: the connection was detached and is no longer the mux's")

	// ErrNoConn is returned by SendAny when no connection is attached.
	ErrNoConn = errors.New("kcm: no connection is attached: call Attach first")

	// ErrNotAttached is returned for a Conn of another Mux.
	ErrNotAttached = errors.New("kcm: the connection is attached to another mux: send on an endpoint of that one")

	// ErrIdle ends a connection on which nothing came for Config.IdleTimeout.
	ErrIdle = errors.New("kcm: nothing came for as long as IdleTimeout, and nothing was under way")

	// ErrReceiveDisabled is returned by an endpoint that receives nothing.
	ErrReceiveDisabled = errors.New("kcm: the endpoint receives nothing: call ReceiveDisable(false) first")
)

// TooLongError ends a connection whose next message is longer than may be. The
// peer is to blame, or the limit. Size is what is known of the length.
type TooLongError struct{ Size, Max int }

func (e *TooLongError) Error() string {
	return fmt.Sprintf("kcm: the peer sends a message of %d bytes or more, and the limit is %d: raise MaxMessage if it is right", e.Size, e.Max)
}

// StallError ends a connection whose peer began a message and did not end it
// in time. It also Is os.ErrDeadlineExceeded.
type StallError struct {
	Have    int           // bytes of the message that came
	Timeout time.Duration // Config.AssemblyTimeout
}

func (e *StallError) Error() string {
	return fmt.Sprintf("kcm: the peer sent %d bytes of a message and not the rest within %v", e.Have, e.Timeout)
}

// Is makes the error equal to os.ErrDeadlineExceeded.
func (e *StallError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// TruncatedError is the end of a connection inside a message. It also Is
// io.ErrUnexpectedEOF.
type TruncatedError struct{ Have int }

func (e *TruncatedError) Error() string {
	return fmt.Sprintf("kcm: the stream ended inside a message, after %d bytes of it", e.Have)
}

// Is makes the error equal to io.ErrUnexpectedEOF.
func (e *TruncatedError) Is(target error) bool { return target == io.ErrUnexpectedEOF }

// SlowPeerError ends a connection whose peer does not read: bytes that were
// sent to it could not be written in time. It also Is os.ErrDeadlineExceeded.
type SlowPeerError struct {
	Waiting int           // bytes that were not written
	Timeout time.Duration // Config.SendTimeout
}

func (e *SlowPeerError) Error() string {
	return fmt.Sprintf("kcm: the peer does not read: %d bytes could not be written to it within %v", e.Waiting, e.Timeout)
}

// Is makes the error equal to os.ErrDeadlineExceeded.
func (e *SlowPeerError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// TransportError is an error of the net.Conn underneath.
type TransportError struct {
	Op  string // "read", "write" or "set deadline"
	Err error
}

func (e *TransportError) Error() string { return "kcm: " + e.Op + ": " + e.Err.Error() }
func (e *TransportError) Unwrap() error { return e.Err }

// PanicError ends a connection when code that was called for it panics. The
// author of that code is to blame.
type PanicError struct {
	In    string // "framer", "filter" or "handler"
	Value any    // what panic was called with
	Stack []byte
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("kcm: the %s panicked: %v", e.In, e.Value)
}
