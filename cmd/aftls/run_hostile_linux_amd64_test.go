package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/aftls/aftls"
	"golang.org/x/sys/unix"
)

func init() {
	// It writes as much as is taken without waiting, says how much, and stays.
	programs["flood"] = func([]string) error {
		ln, err := listen()
		if err != nil {
			return err
		}
		c, err := ln.AcceptTCP()
		if err != nil {
			return err
		}
		if err := kernelTLS(c); err != nil {
			return err
		}
		total := 0
		b := make([]byte, 64<<10)
		for i := range b {
			b[i] = byte(i)
		}
		err = onFD(c, func(fd int) error {
			for {
				n, err := unix.Write(fd, b)
				if err == unix.EAGAIN {
					return nil
				}
				if err != nil {
					return err
				}
				total += n
				if n < len(b) {
					return nil
				}
			}
		})
		if err != nil {
			return err
		}
		fmt.Println(os.Getpid(), total)
		return unix.Pause() // until it is killed
	}

	// It makes TLS sockets until it may have no more, and then one again.
	programs["many"] = func(args []string) error {
		// The runtime has raised the limit to what may be had.
		var own uint64
		fmt.Sscan(args[0], &own)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: own, Max: own}); err != nil {
			return err
		}
		a, b, err := tcpPair()
		if err != nil {
			return err
		}
		defer a.Close()
		defer b.Close()
		const family, forever = 0x544c, 1 << 20
		var fds []int
		for range forever {
			fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
			if err != nil {
				if err != unix.EMFILE && err != unix.ENFILE {
					return fmt.Errorf("after %d sockets: %w", len(fds), err)
				}
				break
			}
			fds = append(fds, fd)
		}
		if len(fds) < 10 || len(fds) == forever {
			return fmt.Errorf("%d sockets", len(fds))
		}
		for _, fd := range fds {
			unix.Close(fd)
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := bindTLS(fd, a); err != nil {
			return err
		}
		for name, info := range map[int][]byte{tlsTX: testInfo(fromProgram), tlsRX: testInfo(fromPeer)} {
			if err := unix.SetsockoptString(fd, unix.SOL_TLS, name, string(info)); err != nil {
				return err
			}
		}
		if _, err := unix.Write(fd, []byte("still here")); err != nil {
			return err
		}
		s := aftls.NewSocket(b, aftls.Options{Provider: aftls.Soft})
		k, err := recordKeys(fromProgram)
		if err != nil {
			return err
		}
		if err := s.SetKeys(aftls.Receive, k); err != nil {
			return err
		}
		got := make([]byte, 10)
		if _, err := io.ReadFull(s, got); err != nil || string(got) != "still here" {
			return fmt.Errorf("%q, %w", got, err)
		}
		return nil
	}
}

func tcpPair() (a, b *net.TCPConn, err error) {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	if a, err = net.DialTCP("tcp", nil, ln.Addr().(*net.TCPAddr)); err == nil {
		b, err = ln.AcceptTCP()
	}
	return a, b, err
}

// bindTLS is bind(fd, sockaddr_tls).
func bindTLS(fd int, carrier *net.TCPConn) error {
	return onFD(carrier, func(tcp int) error {
		sa := binary.NativeEndian.AppendUint16(nil, 0x544c)
		sa = binary.NativeEndian.AppendUint16(sa, 0)
		sa = binary.NativeEndian.AppendUint32(sa, uint32(tcp))
		return rawBind(fd, sa)
	})
}

// A program that is killed leaves behind what it wrote: the peer gets every byte
// of it, and no end that nobody announced.
func TestRunProgramKilledWithFullQueues(t *testing.T) {
	p := runTest(t, "flood")
	s := peerSocket(t, p.line())
	var pid, total int
	if _, err := fmt.Sscan(p.line(), &pid, &total); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64<<10)
	got := 0
	for {
		n, err := s.Read(b)
		for i, c := range b[:n] {
			if c != byte(got+i) {
				t.Fatalf("byte %d differs", got+i)
			}
		}
		got += n
		if err != nil {
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the end was %v", err)
			}
			break
		}
	}
	if got != total {
		t.Errorf("%d bytes of %d", got, total)
	}
	if st := p.stats(128 + int(syscall.SIGKILL)); st.sockets != 1 || st.sealedBytes != total {
		t.Errorf("%+v, %d written", st, total)
	}
}

// Too few descriptors, for the program and for the supervisor: an errno, and all
// is well when some are free again.
func TestRunOutOfDescriptors(t *testing.T) {
	needSupervisor(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	inner := command(t)
	for name, limit := range map[string][2]string{
		"of the program":    {"2000", "60"},
		"of the supervisor": {"400", "400"}, // it has two for each of the program's
	} {
		t.Run(name, func(t *testing.T) {
			p := &process{Cmd: command(t), t: t}
			p.Cmd.Path = "/bin/sh"
			p.Cmd.Args = []string{"sh", "-c", "ulimit -n " + limit[0] + "; exec " + strconv.Quote(inner.Path) + " run --stats -- " + strconv.Quote(exe) + " " + asTestProgram + " many " + limit[1]}
			p.begin()
			if st := p.stats(0); st.sockets != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// One supervisor in another: the kernel has one listener for a program, and says
// so, and so do we. A filter without a listener is the program's own business.
func TestRunNested(t *testing.T) {
	needSupervisor(t)
	inner := command(t)
	p := start(t, "run", "--", inner.Path, "run", "--", "true")
	if code := p.exit(); code != 1 || !strings.Contains(p.errors(), "another supervisor") {
		t.Errorf("exit code %d, %s", code, p.errors())
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p = start(t, "run", "--stats", "--", exe, asTestProgram, "filter")
	if st := p.stats(0); st.sockets != 0 {
		t.Errorf("%+v", st)
	}
}

func init() {
	// A filter of its own that allows everything, and one with a listener.
	programs["filter"] = func([]string) error {
		allow := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}}
		prog := unix.SockFprog{Len: 1, Filter: &allow[0]}
		const newListener = 8
		for _, flags := range []uintptr{0, newListener} {
			_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
			if want := map[uintptr]unix.Errno{newListener: unix.EBUSY}[flags]; errno != want {
				return fmt.Errorf("flags %d: %v, want %v", flags, errno, want)
			}
		}
		return nil
	}
}
