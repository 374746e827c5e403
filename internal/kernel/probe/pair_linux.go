package probe

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrWrong is wrapped by the error of a probe that the kernel let pass and that had
// another outcome than it should.
var ErrWrong = errors.New("the kernel accepted it, and the outcome is wrong")

// patience is how long, in seconds, an end waits for the other one. On the loopback
// all is there at once, or never comes.
const patience = 5

// A pair is a connection over the loopback: plain TCP, never Multipath TCP.
type pair struct {
	a, b int
}

func newPair() (p pair, err error) {
	ln, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return p, os.NewSyscallError("socket", err)
	}
	defer unix.Close(ln)
	if err := unix.Bind(ln, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return p, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(ln, 1); err != nil {
		return p, os.NewSyscallError("listen", err)
	}
	at, err := unix.Getsockname(ln)
	if err != nil {
		return p, os.NewSyscallError("getsockname", err)
	}
	if p.a, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
		return p, os.NewSyscallError("socket", err)
	}
	if err = connect(p.a, at); err != nil {
		unix.Close(p.a)
		return p, err
	}
	for {
		p.b, _, err = unix.Accept4(ln, unix.SOCK_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		unix.Close(p.a)
		return p, os.NewSyscallError("accept", err)
	}
	if err := ours(p); err != nil {
		p.close()
		return p, err
	}
	return p, nil
}

// ours gives both ends their patience, and checks that they are ends of the same
// connection: any process may connect to a listener of the loopback.
func ours(p pair) error {
	for _, fd := range []int{p.a, p.b} {
		for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, opt, &unix.Timeval{Sec: patience}); err != nil {
				return os.NewSyscallError("setsockopt", err)
			}
		}
	}
	from, err := unix.Getsockname(p.a)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	peer, err := unix.Getpeername(p.b)
	if err != nil {
		return os.NewSyscallError("getpeername", err)
	}
	f, ok := from.(*unix.SockaddrInet4)
	t, ok2 := peer.(*unix.SockaddrInet4)
	if !ok || !ok2 || f.Addr != t.Addr || f.Port != t.Port {
		return errors.New("another process connected to the probe's listener")
	}
	return nil
}

// connect is connect(2) that a signal does not end.
func connect(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	if err == unix.EINTR || err == unix.EALREADY {
		if _, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, patience*1000); err == nil {
			var errno int
			if errno, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
				err = unix.Errno(errno)
			}
		}
	}
	return os.NewSyscallError("connect", err)
}

func (p pair) close() {
	unix.Close(p.a)
	unix.Close(p.b)
}

// expect reads exactly want from fd.
func expect(fd int, want string) error {
	got := make([]byte, 0, len(want))
	for len(got) < len(want) {
		n, err := unix.Read(fd, got[len(got):cap(got)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		if n == 0 {
			break
		}
		got = got[:len(got)+n]
	}
	if string(got) != want {
		return fmt.Errorf("%w: %d bytes that are not those that were sent", ErrWrong, len(got))
	}
	return nil
}

// write writes all of s to fd.
func write(fd int, s string) error {
	for b := []byte(s); len(b) > 0; {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		b = b[n:]
	}
	return nil
}
