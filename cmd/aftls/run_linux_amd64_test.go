package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/internal/seccomp"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// needSupervisor skips where seccomp user notification is not to be had.
func needSupervisor(t *testing.T) {
	t.Helper()
	if err := seccomp.Supported(); err != nil {
		if aftlstest.Expected("seccomp") {
			t.Fatalf("seccomp user notification is missing, and AFTLS_EXPECT says that it is here: %v", err)
		}
		t.Skipf("seccomp user notification is missing: %v", err)
	}
}

// runProgram starts 'aftls run' with one of the programs of this binary.
func runTest(t *testing.T, name string, args ...string) *process {
	t.Helper()
	needSupervisor(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, append([]string{"run", "--stats", "--", exe, asTestProgram, name}, args...)...)
}

// line reads a line of the program's output.
func (p *process) line() string {
	p.t.Helper()
	s, err := p.stdout.ReadString('\n')
	if err != nil {
		p.t.Fatalf("%q, %v; stderr:\n%s", s, err, p.errors())
	}
	return strings.TrimSuffix(s, "\n")
}

type runStats struct{ sockets, failed, refused, sealed, sealedBytes, opened, openedBytes int }

var statsLine = regexp.MustCompile(`aftls: (\d+) TLS sockets, (\d+) failed, (\d+) keys refused; sealed (\d+) records with (\d+) bytes, opened (\d+) with (\d+)`)

// stats waits for the end and returns what the supervisor counted: the proof
// that it was our record layer that sealed.
func (p *process) stats(code int) (s runStats) {
	p.t.Helper()
	if got := p.exit(); got != code {
		p.t.Fatalf("exit code %d; stderr:\n%s", got, p.errors())
	}
	m := statsLine.FindStringSubmatch(p.errors())
	if m == nil {
		p.t.Fatalf("no statistics on stderr:\n%s", p.errors())
	}
	for i, to := range []*int{&s.sockets, &s.failed, &s.refused, &s.sealed, &s.sealedBytes, &s.opened, &s.openedBytes} {
		*to, _ = strconv.Atoi(m[i+1])
	}
	return s
}

// Keys of the programs here: fixed, and other ones in each direction. The program
// is the server.
func recordKeys(x byte) (record.Keys, error) {
	return record.TrafficKeys(0x1301, bytes.Repeat([]byte{x}, 32))
}

func testKeys(t testing.TB, x byte) record.Keys {
	k, err := recordKeys(x)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testInfo(x byte) []byte {
	k, err := recordKeys(x)
	if err != nil {
		panic(err)
	}
	b := binary.NativeEndian.AppendUint16(nil, 0x0304)
	b = binary.NativeEndian.AppendUint16(b, 51)
	b = append(b, k.IV[4:]...)
	b = append(b, k.Key...)
	b = append(b, k.IV[:4]...)
	return append(b, make([]byte, 8)...)
}

const (
	tlsTX = 1 // linux/tls.h
	tlsRX = 2

	fromPeer    byte = 1
	fromProgram byte = 2
)

func peerSocket(t testing.TB, addr string) *aftls.Socket {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := aftls.NewSocket(c, aftls.Options{})
	if err := errors.Join(s.SetKeys(aftls.Send, testKeys(t, fromPeer)), s.SetKeys(aftls.Receive, testKeys(t, fromProgram))); err != nil {
		t.Fatal(err)
	}
	s.SetDeadline(time.Now().Add(60 * time.Second))
	t.Cleanup(func() { s.Close() })
	return s
}

// onFD makes a call on the descriptor of a connection.
func onFD(c syscall.Conn, call func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = call(int(fd)) })
	return errors.Join(cerr, err)
}

// kernelTLS makes a TCP connection one of Linux's TLS sockets.
func kernelTLS(c *net.TCPConn) error {
	return onFD(c, func(fd int) error {
		if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_ULP, "tls"); err != nil {
			return fmt.Errorf("TCP_ULP: %w", err)
		}
		if err := unix.SetsockoptString(fd, unix.SOL_TLS, tlsTX, string(testInfo(fromProgram))); err != nil {
			return fmt.Errorf("TLS_TX: %w", err)
		}
		if err := unix.SetsockoptString(fd, unix.SOL_TLS, tlsRX, string(testInfo(fromPeer))); err != nil {
			return fmt.Errorf("TLS_RX: %w", err)
		}
		return nil
	})
}

// rawBind is bind(2) with an address that package unix does not know.
func rawBind(fd int, sa []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa[0])), uintptr(len(sa)))
	if errno != 0 {
		return errno
	}
	return nil
}

func listen() (*net.TCPListener, error) {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err == nil {
		fmt.Println(ln.Addr())
	}
	return ln, err
}

func init() {
	// A Go program that uses Linux's TLS sockets by itself: its poller, edge
	// triggered, keeps the descriptor through the change.
	programs["echo"] = func(args []string) error {
		n, _ := strconv.Atoi(args[0])
		ln, err := listen()
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		failed := make(chan error, n)
		for range n {
			c, err := ln.AcceptTCP()
			if err != nil {
				return err
			}
			wg.Go(func() {
				defer c.Close()
				if err := kernelTLS(c); err != nil {
					failed <- err
					return
				}
				b := make([]byte, 64<<10)
				for {
					n, err := c.Read(b)
					if err == io.EOF {
						return
					}
					if err == nil {
						_, err = c.Write(b[:n])
					}
					if err != nil {
						failed <- err
						return
					}
				}
			})
		}
		wg.Wait()
		select {
		case err := <-failed:
			return err
		default:
			return nil
		}
	}
}

func TestRunGoProgram(t *testing.T) {
	const conns, size = 50, 1 << 20
	p := runTest(t, "echo", strconv.Itoa(conns))
	addr := p.line()
	var wg sync.WaitGroup
	for range conns {
		s := peerSocket(t, addr)
		wg.Go(func() {
			data := make([]byte, size)
			rand.Read(data)
			go s.Write(data)
			got := make([]byte, size)
			if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, data) {
				t.Errorf("the bytes differ, %v", err)
			}
			s.NetConn().(*net.TCPConn).CloseWrite()
			if _, err := s.Read(got); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the program sent no close_notify, and the peer saw %v", err)
			}
		})
	}
	wg.Wait()
	if s := p.stats(0); s.sockets != conns || s.failed != 0 || s.sealedBytes != conns*size || s.openedBytes != conns*size {
		t.Errorf("%+v", s)
	}
}

func init() {
	// Somebody else holds the TCP socket: a duplicate, then a child. It must
	// not get keys, and stays what it was.
	programs["shared"] = func([]string) error {
		ln, err := listen()
		if err != nil {
			return err
		}
		c, err := ln.AcceptTCP()
		if err != nil {
			return err
		}
		defer c.Close()
		f, err := c.File()
		if err != nil {
			return err
		}
		if err := kernelTLS(c); !errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("with a duplicate: %v", err)
		}
		child := exec.Command("cat")
		child.ExtraFiles = []*os.File{f}
		in, err := child.StdinPipe()
		if err != nil {
			return err
		}
		if err := child.Start(); err != nil {
			return err
		}
		f.Close()
		set := func(name int, info []byte) error {
			return onFD(c, func(fd int) error { return unix.SetsockoptString(fd, unix.SOL_TLS, name, string(info)) })
		}
		if err := set(tlsTX, testInfo(fromProgram)); !errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("with a child that has it: %v", err)
		}
		if _, err := c.Write([]byte("plain")); err != nil {
			return err
		}
		in.Close()
		if err := child.Wait(); err != nil {
			return err
		}
		if err := errors.Join(set(tlsTX, testInfo(fromProgram)), set(tlsRX, testInfo(fromPeer))); err != nil {
			return err
		}
		_, err = c.Write([]byte("sealed"))
		return err
	}
}

func TestRunRefusesASharedSocket(t *testing.T) {
	p := runTest(t, "shared")
	c, err := net.Dial("tcp", p.line())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "plain" {
		t.Fatalf("%q, %v", b, err)
	}
	s := aftls.NewSocket(c, aftls.Options{})
	if err := s.SetKeys(aftls.Receive, testKeys(t, fromProgram)); err != nil {
		t.Fatal(err)
	}
	b = make([]byte, 6)
	if _, err := io.ReadFull(s, b); err != nil || string(b) != "sealed" {
		t.Fatalf("%q, %v", b, err)
	}
	if s := p.stats(0); s.sockets != 1 || s.refused != 2 {
		t.Errorf("%+v", s)
	}
}

// The supervisor is killed: the program with it, and the peer sees a stream that
// was cut off, never plaintext.
func TestRunSupervisorKilled(t *testing.T) {
	p := runTest(t, "echo", "2")
	addr := p.line()
	s := peerSocket(t, addr)
	s.Write([]byte("hello"))
	b := make([]byte, 5)
	if _, err := io.ReadFull(s, b); err != nil {
		t.Fatal(err)
	}
	p.Process.Kill()
	if _, err := s.Read(b); err == nil || err == io.EOF {
		t.Errorf("a clean end of a killed connection: %v", err)
	}
	// The program's listener is gone, since the program is.
	for {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		c.Close()
	}
}

func TestRunExitCodes(t *testing.T) {
	needSupervisor(t)
	sh := "/bin/sh"
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{sh, "-c", "exit 0"}, 0, "made no TLS socket"},
		{[]string{sh, "-c", "exit 7"}, 7, "made no TLS socket"},
		{[]string{sh, "-c", "kill -TERM $$"}, 128 + int(syscall.SIGTERM), ""},
		{[]string{"no-such-program-at-all"}, 127, "no-such-program-at-all"},
		{[]string{os.DevNull}, 126, os.DevNull},
	} {
		p := start(t, append([]string{"run", "--"}, c.args...)...)
		if code := p.exit(); code != c.code || !strings.Contains(p.errors(), c.says) {
			t.Errorf("%v: exit code %d, %q", c.args, code, p.errors())
		}
	}
	p := start(t, "run")
	if code := p.exit(); code != 1 {
		t.Error("run without a program:", code)
	}
}
