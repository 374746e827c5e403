package pump

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

// carrierPair returns carriers on both ends of a loopback connection, of sockets
// that block or do not.
func carrierPair(t testing.TB, blocking bool) (a, b *Carrier) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	return carrier(t, client, blocking), carrier(t, server, blocking)
}

func carrier(t testing.TB, c net.Conn, blocking bool) *Carrier {
	t.Helper()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, !blocking)
	}
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewCarrier(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func TestCarrierNettest(t *testing.T) {
	for name, blocking := range map[string]bool{"blocking": true, "non-blocking": false} {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				a, b := carrierPair(t, blocking)
				return a, b, func() { a.Close(); b.Close() }, nil
			})
		})
	}
}

// The flags of the open file are shared with the program that gave us the
// descriptor: they stay as they are.
func TestCarrierLeavesTheFlags(t *testing.T) {
	for _, blocking := range []bool{true, false} {
		a, b := carrierPair(t, blocking)
		data := make([]byte, 1<<20)
		go func() { a.Write(data); a.CloseWrite() }()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatal(len(got), err)
		}
		var flags int
		if err := a.Descriptor().Control(func(fd uintptr) { flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0) }); err != nil {
			t.Fatal(err)
		}
		if (flags&unix.O_NONBLOCK == 0) != blocking {
			t.Errorf("blocking %v: flags %#x", blocking, flags)
		}
	}
}

func TestCarrierRefuses(t *testing.T) {
	socket := func(family, typ int) int {
		fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	listening := socket(unix.AF_INET, unix.SOCK_STREAM)
	if err := errors.Join(unix.Bind(listening, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(listening, 1)); err != nil {
		t.Fatal(err)
	}
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		fd   int
		want syscall.Errno
	}{
		"a file":           {null, unix.ENOTSOCK},
		"no descriptor":    {-1, unix.EBADF},
		"UDP":              {socket(unix.AF_INET, unix.SOCK_DGRAM), unix.EOPNOTSUPP},
		"a Unix socket":    {socket(unix.AF_UNIX, unix.SOCK_STREAM), unix.EOPNOTSUPP},
		"unconnected":      {socket(unix.AF_INET, unix.SOCK_STREAM), unix.ENOTCONN},
		"IPv6 unconnected": {socket(unix.AF_INET6, unix.SOCK_STREAM), unix.ENOTCONN},
		"listening":        {listening, unix.ENOTCONN},
	} {
		if k, err := NewCarrier(c.fd); !errors.Is(err, c.want) || k != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if c.fd >= 0 {
			if err := unix.Close(c.fd); err != nil {
				t.Errorf("%s: the descriptor was taken: %v", name, err)
			}
		}
	}
}
