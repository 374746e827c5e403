package soft

import (
	"errors"
	"net"
	"syscall"
)

// Descriptor is a carrier that is a socket of the system and says so. Its
// RawConn waits as those of package net do; the socket itself may be one that
// blocks, so it is only asked for what it can do at once (MSG_DONTWAIT).
type Descriptor interface{ Descriptor() syscall.RawConn }

// rawConn returns the system's view of a TCP or Unix socket, and nil for
// everything else: what only implements syscall.Conn may be a layer whose
// descriptor must not be touched behind its back.
func rawConn(c net.Conn) syscall.RawConn {
	var sc syscall.Conn
	switch c := c.(type) {
	case Descriptor:
		return c.Descriptor()
	case *net.TCPConn:
		sc = c
	case *net.UnixConn:
		sc = c
	default:
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// cause takes the error out of the *net.OpError that package net puts around
// it: our caller wraps it again, with its own operation.
//
//go:noinline
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}
