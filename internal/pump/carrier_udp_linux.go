package pump

import (
	"os"

	"golang.org/x/sys/unix"
)

// NewDatagramCarrier takes fd, a connected UDP socket, unless it returns an error.
// Release leaves the options that a record layer of datagrams sets on it (UDP_GRO,
// IP_MTU_DISCOVER) as they are now.
func NewDatagramCarrier(fd int) (*Carrier, error) {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err == unix.ENOTSOCK {
		return nil, ErrNotSocket
	}
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	proto, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if typ != unix.SOCK_DGRAM || proto != unix.IPPROTO_UDP || domain != unix.AF_INET && domain != unix.AF_INET6 {
		return nil, ErrNotUDP
	}
	if _, err := unix.Getpeername(fd); err != nil {
		if err == unix.ENOTCONN {
			return nil, ErrNotConnected
		}
		return nil, os.NewSyscallError("getpeername", err)
	}
	c, err := newCarrier(fd, true)
	if err != nil {
		return nil, err
	}
	for _, o := range []option{{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, 0}, {unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, 0}, {unix.IPPROTO_UDP, unix.UDP_GRO, 0}} {
		if o.value, err = unix.GetsockoptInt(fd, o.level, o.name); err == nil {
			c.options = append(c.options, o)
		}
	}
	return c, nil
}

// option is a socket option with a number for its value.
type option struct{ level, name, value int }

// restore gives the socket the options that it came with.
func (c *Carrier) restore() {
	for _, o := range c.options {
		unix.SetsockoptInt(c.fd, o.level, o.name, o.value)
	}
}
