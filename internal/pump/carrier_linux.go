package pump

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Carrier is a net.Conn on a TCP or UDP socket that somebody else holds a descriptor
// of, too. They share the flags of the open file: O_NONBLOCK is never set, and
// every call says MSG_DONTWAIT instead. What that costs is the wait: the
// runtime's poller only takes descriptors that do not block, so a socket that
// does is watched through two epoll instances, one a direction, and those are
// waited for.
type Carrier struct {
	fd            int
	in, out       *os.File // what is waited for: the socket, or the instances
	rawIn, rawOut syscall.RawConn
	blocking      bool
	datagrams     bool // UDP
	local, remote net.Addr
	options       []option // of UDP, as they were

	rmu, wmu          sync.Mutex
	tryRead, tryWrite func(uintptr) bool
	reading, writing  func(fd uintptr) bool // under rmu and wmu

	closing sync.Once
	closed  error
}

// Errors of NewCarrier, each around the errno that a socket call would give.
var (
	ErrNotSocket    = carrierError{unix.ENOTSOCK, "the descriptor is not a socket"}
	ErrNotTCP       = carrierError{unix.EOPNOTSUPP, "the carrier must be a TCP socket"}
	ErrNotUDP       = carrierError{unix.EOPNOTSUPP, "the carrier must be a UDP socket"}
	ErrNotConnected = carrierError{unix.ENOTCONN, "the carrier must be connected"}
)

type carrierError struct {
	errno unix.Errno
	text  string
}

func (e carrierError) Error() string { return "pump: " + e.text }
func (e carrierError) Unwrap() error { return e.errno }

// NewCarrier takes fd, a connected TCP socket, unless it returns an error.
func NewCarrier(fd int) (*Carrier, error) {
	if err := CheckCarrier(fd); err != nil {
		return nil, err
	}
	return newCarrier(fd, false)
}

func newCarrier(fd int, datagrams bool) (*Carrier, error) {
	c := &Carrier{fd: fd, datagrams: datagrams}
	c.tryRead = func(uintptr) bool { return c.reading(uintptr(c.fd)) }
	c.tryWrite = func(uintptr) bool { return c.writing(uintptr(c.fd)) }
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if c.blocking = flags&unix.O_NONBLOCK == 0; c.blocking {
		if c.in, err = watcher(fd, unix.EPOLLIN|unix.EPOLLRDHUP); err != nil {
			return nil, err
		}
		if c.out, err = watcher(fd, unix.EPOLLOUT); err != nil {
			c.in.Close()
			return nil, err
		}
	} else {
		c.in = os.NewFile(uintptr(fd), "carrier")
		c.out = c.in
	}
	if c.rawIn, err = c.in.SyscallConn(); err == nil {
		c.rawOut, err = c.out.SyscallConn()
	}
	if err != nil { // only of a nil file
		return nil, err
	}
	if sa, err := unix.Getsockname(fd); err == nil {
		c.local = c.addr(sa)
	}
	if sa, err := unix.Getpeername(fd); err == nil {
		c.remote = c.addr(sa)
	}
	return c, nil
}

// CheckCarrier says why fd cannot be a carrier, or nil.
func CheckCarrier(fd int) error {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		if err == unix.ENOTSOCK {
			return ErrNotSocket
		}
		return os.NewSyscallError("getsockopt", err)
	}
	proto, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if typ != unix.SOCK_STREAM || proto != unix.IPPROTO_TCP {
		return ErrNotTCP
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	const established, closeWait = 1, 8 // net/tcp_states.h
	if info.State != established && info.State != closeWait {
		return fmt.Errorf("%w (state %d)", ErrNotConnected, info.State)
	}
	return nil
}

// watcher returns an epoll instance that is readable when events happen to fd.
func watcher(fd int, events uint32) (*os.File, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events | unix.EPOLLET})
	if err == nil {
		err = unix.SetNonblock(ep, true)
	}
	if err != nil {
		unix.Close(ep)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return os.NewFile(uintptr(ep), "carrier watch"), nil
}

func (c *Carrier) addr(sa unix.Sockaddr) net.Addr {
	var a net.TCPAddr
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		a.IP, a.Port = append(a.IP, sa.Addr[:]...), sa.Port
	case *unix.SockaddrInet6:
		a.IP, a.Port = append(a.IP, sa.Addr[:]...), sa.Port
		if sa.ZoneId != 0 {
			a.Zone = fmt.Sprint(sa.ZoneId)
		}
	default:
		return nil
	}
	if c.datagrams {
		return (*net.UDPAddr)(&a)
	}
	return &a
}

// Descriptor is the socket itself, for calls that do not block. Its Read and
// Write wait as those of a net.TCPConn do.
func (c *Carrier) Descriptor() syscall.RawConn { return (*descriptor)(c) }

// descriptor is a Carrier as a syscall.RawConn.
type descriptor Carrier

func (d *descriptor) Control(f func(fd uintptr)) error {
	return ended(d.rawIn.Control(func(uintptr) { f(uintptr(d.fd)) }))
}

func (d *descriptor) Read(f func(fd uintptr) bool) error {
	d.rmu.Lock()
	defer d.rmu.Unlock()
	d.reading = f
	return ended(d.rawIn.Read(d.tryRead))
}

func (d *descriptor) Write(f func(fd uintptr) bool) error {
	d.wmu.Lock()
	defer d.wmu.Unlock()
	d.writing = f
	if d.blocking {
		return ended(d.rawOut.Read(d.tryWrite))
	}
	return ended(d.rawOut.Write(d.tryWrite))
}

// ended names what package os calls a closed file as package net does.
func ended(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return net.ErrClosed
}

func (c *Carrier) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	var errno unix.Errno
	werr := c.Descriptor().Read(func(fd uintptr) bool {
		for {
			if n, errno = recv(int(fd), p, unix.MSG_DONTWAIT); errno != unix.EINTR {
				return errno != unix.EAGAIN
			}
		}
	})
	if werr != nil {
		return 0, c.opError("read", werr)
	}
	if errno != 0 {
		return 0, c.opError("read", os.NewSyscallError("recvfrom", errno))
	}
	if n == 0 && !c.datagrams {
		return 0, io.EOF
	}
	return n, nil
}

// WaitRead waits until Read would not, and takes nothing: no error either, which the
// kernel tells only once.
func (c *Carrier) WaitRead() error {
	err := c.Descriptor().Read(func(fd uintptr) bool {
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, _ := unix.Poll(p[:], 0)
		return n > 0
	})
	if err != nil {
		return c.opError("read", err)
	}
	return nil
}

func (c *Carrier) Write(p []byte) (n int, err error) {
	werr := c.Descriptor().Write(func(fd uintptr) bool {
		for n < len(p) || c.datagrams && n == 0 {
			var m int
			m, err = unix.SendmsgN(int(fd), p[n:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			switch err {
			case nil:
				if n += m; c.datagrams {
					return true
				}
			case unix.EINTR:
			default:
				return err != unix.EAGAIN
			}
		}
		return true
	})
	if werr != nil {
		return n, c.opError("write", werr)
	}
	if err != nil {
		return n, c.opError("write", os.NewSyscallError("sendto", err))
	}
	return n, nil
}

func (c *Carrier) opError(op string, err error) error {
	network := "tcp"
	if c.datagrams {
		network = "udp"
	}
	return &net.OpError{Op: op, Net: network, Source: c.local, Addr: c.remote, Err: err}
}

// CloseWrite ends the sending direction, for all who hold the socket.
func (c *Carrier) CloseWrite() error { return c.Shutdown(unix.SHUT_WR) }

// Shutdown is shutdown(2), for all who hold the socket.
func (c *Carrier) Shutdown(how int) (err error) {
	if cerr := c.Descriptor().Control(func(fd uintptr) { err = unix.Shutdown(int(fd), how) }); cerr != nil {
		return c.opError("close", cerr)
	}
	if err != nil {
		return c.opError("close", os.NewSyscallError("shutdown", err))
	}
	return nil
}

// Close ends the connection, for all who hold the socket, and closes our
// descriptor.
func (c *Carrier) Close() error {
	c.Shutdown(unix.SHUT_RDWR)
	return c.Release()
}

// Release closes our descriptor. The connection lives on if others hold it.
func (c *Carrier) Release() error {
	again := true
	c.closing.Do(func() {
		again = false
		c.restore()
		// Nobody is inside a call on the socket when these return.
		c.closed = c.in.Close()
		if c.blocking {
			c.out.Close()
			c.closed = unix.Close(c.fd)
		}
	})
	if again {
		return c.opError("close", net.ErrClosed)
	}
	return c.closed
}

// LocalAddr is the address of our side of the socket.
func (c *Carrier) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the address of the peer.
func (c *Carrier) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Carrier) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline ends reads with os.ErrDeadlineExceeded at t.
func (c *Carrier) SetReadDeadline(t time.Time) error { return c.in.SetReadDeadline(t) }

// SetWriteDeadline ends writes with os.ErrDeadlineExceeded at t.
func (c *Carrier) SetWriteDeadline(t time.Time) error {
	if c.blocking {
		return c.out.SetReadDeadline(t)
	}
	return c.out.SetWriteDeadline(t)
}
