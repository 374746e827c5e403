//go:build !linux

package bench

import (
	"net"
	"syscall"
)

func canRefuseSegments() error { return &errMissing{"batches are a matter of Linux"} }

func refuseSegments(_, _ string, _ syscall.RawConn) error { return nil }

func growBuffers(c *net.UDPConn) {
	c.SetReadBuffer(datagramBuffer)
	c.SetWriteBuffer(datagramBuffer)
}
