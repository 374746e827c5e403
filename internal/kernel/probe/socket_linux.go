package probe

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// KCM tries to make a socket of the kernel's connection multiplexor.
func KCM() error {
	fd, err := unix.Socket(unix.AF_KCM, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // KCMPROTO_CONNECTED
	if err != nil {
		return os.NewSyscallError("socket AF_KCM", err)
	}
	return os.NewSyscallError("close", unix.Close(fd))
}

// MPTCP tries to make a socket of Multipath TCP.
func MPTCP() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		return os.NewSyscallError("socket IPPROTO_MPTCP", err)
	}
	return os.NewSyscallError("close", unix.Close(fd))
}

// GSO tries to send several datagrams by one call (UDP_SEGMENT).
func GSO() error {
	from, to, err := newUDP()
	if err != nil {
		return err
	}
	defer unix.Close(from)
	defer unix.Close(to)
	if err := sendTwo(from); err != nil {
		return err
	}
	for _, want := range []string{"first", "other"} {
		if err := expectDatagram(to, want); err != nil {
			return err
		}
	}
	return nil
}

// GRO tries to receive several datagrams by one call (UDP_GRO). It needs GSO.
func GRO() error {
	from, to, err := newUDP()
	if err != nil {
		return err
	}
	defer unix.Close(from)
	defer unix.Close(to)
	if err := unix.SetsockoptInt(to, unix.IPPROTO_UDP, unix.UDP_GRO, 1); err != nil {
		return os.NewSyscallError("setsockopt UDP_GRO", err)
	}
	if err := sendTwo(from); err != nil {
		return err
	}
	return expectDatagram(to, "firstother")
}

// newUDP returns two sockets of the loopback that are connected to each other.
func newUDP() (from, to int, err error) {
	var fds [2]int
	var at [2]unix.Sockaddr
	for i := range fds {
		if fds[i], err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			err = os.NewSyscallError("socket", err)
		} else if err = unix.Bind(fds[i], &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			unix.Close(fds[i])
			err = os.NewSyscallError("bind", err)
		}
		if err != nil {
			if i > 0 {
				unix.Close(fds[0])
			}
			return 0, 0, err
		}
	}
	for i := range fds {
		if at[i], err = unix.Getsockname(fds[i]); err != nil {
			break
		}
		if err = connect(fds[1-i], at[i]); err != nil {
			break
		}
		if err = unix.SetsockoptTimeval(fds[i], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience}); err != nil {
			break
		}
	}
	if err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return 0, 0, err
	}
	return fds[0], fds[1], nil
}

// sendTwo sends the datagrams "first" and "other" with one call.
func sendTwo(fd int) error {
	const text = "firstother"
	m := make([]byte, unix.CmsgSpace(2))
	head := unix.Cmsghdr{Level: unix.IPPROTO_UDP, Type: unix.UDP_SEGMENT}
	head.SetLen(unix.CmsgLen(2))
	if _, err := binary.Encode(m, binary.NativeEndian, head); err != nil {
		return err
	}
	binary.NativeEndian.PutUint16(m[unix.CmsgLen(0):], uint16(len(text)/2))
	n, err := unix.SendmsgN(fd, []byte(text), m, nil, 0)
	if err == nil && n != len(text) {
		return fmt.Errorf("%w: sendmsg took %d bytes of %d", ErrWrong, n, len(text))
	}
	return os.NewSyscallError("sendmsg UDP_SEGMENT", err)
}

func expectDatagram(fd int, want string) error {
	var b [64]byte
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return os.NewSyscallError("read", err)
	}
	if string(b[:n]) != want {
		return fmt.Errorf("%w: a datagram of %d bytes, not of %d", ErrWrong, n, len(want))
	}
	return nil
}
