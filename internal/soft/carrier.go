package soft

import (
	"errors"
	"net"
	"syscall"
)

// rawConn returns the system's view of a TCP or Unix socket, and nil for
// everything else: what only implements syscall.Conn may be a layer whose
// descriptor must not be touched behind its back.
func rawConn(c net.Conn) syscall.RawConn {
	var sc syscall.Conn
	switch c := c.(type) {
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
