//go:build !linux

package kernel

import "net"

// Socket is a connection that the kernel seals and opens for: on Linux only.
type Socket struct{}

// Attach says that there are no TLS sockets here.
func Attach(c net.Conn, ask bool) (*Socket, error) {
	return nil, &Unavailable{Reason: "only Linux has TLS sockets that this package knows"}
}

// Splice is for Linux only.
type Splice struct{}

// NewSpliceTo returns none.
func NewSpliceTo() *Splice { return nil }

// Close does nothing.
func (*Splice) Close() {}

// Devices reports none.
func Devices(local, remote net.Addr) (send, receive bool) { return false, false }

// CanRekey reports false.
func CanRekey() bool { return false }
