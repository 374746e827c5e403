package bench

import (
	"net"
	"os"
	"syscall"
)

// canRefuseSegments reports whether refuseSegments works here.
func canRefuseSegments() error { return nil }

// refuseSegments makes a socket that the system refuses UDP_SEGMENT on: one
// without checksums, as a device that cannot make them is (udp_send_skb).
func refuseSegments(_, _ string, c syscall.RawConn) (err error) {
	const soNoCheck = 11
	if e := c.Control(func(fd uintptr) {
		err = os.NewSyscallError("setsockopt", syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soNoCheck, 1))
	}); e != nil {
		return e
	}
	return err
}

// growBuffers makes the buffers of a socket large: beyond what everybody may
// have, where we may.
func growBuffers(c *net.UDPConn) {
	const soSndBufForce, soRcvBufForce = 32, 33
	c.SetReadBuffer(datagramBuffer)
	c.SetWriteBuffer(datagramBuffer)
	if raw, err := c.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soRcvBufForce, datagramBuffer)
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soSndBufForce, datagramBuffer)
		})
	}
}
