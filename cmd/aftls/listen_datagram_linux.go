package main

import (
	"net"
	"os"
	"syscall"
)

// messagePair makes two ends that keep the boundaries of messages.
func messagePair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "messages")
	f := os.NewFile(uintptr(fds[0]), "messages")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return c.(*net.UnixConn), theirs, nil
}

func closeWrite(c *net.UnixConn) { c.CloseWrite() }
