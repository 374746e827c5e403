package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
)

// A traced server is one that strace looks at.
type traced struct {
	*process
	addr, file string
	dies       bool // of the signal that ends it: it is none of our commands
}

// trace starts a server that says where it listens, and has strace note its system
// calls that are named, at no cost for the others.
func trace(t *testing.T, calls string, args ...string) traced {
	t.Helper()
	x := traced{file: filepath.Join(t.TempDir(), "trace")}
	c := command(t, args...)
	strace := aftlstest.Need(t, "strace")
	c.Args = append([]string{strace, "-f", "-o", x.file, "--seccomp-bpf", "-e", "trace=" + calls, c.Path}, args...)
	c.Path = strace
	x.process = &process{Cmd: c, t: t}
	x.begin()
	line, err := x.stdout.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	x.addr = strings.TrimPrefix(strings.TrimSpace(line), "listening https://")
	return x
}

// A count is what a process did from the moment on when it opened a file.
type count struct{ calls, copied, moved int }

var (
	tracedCall = regexp.MustCompile(`^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed).*= (-?\d+|0x[0-9a-f]+|\?)`)
	moving     = "openat,accept4,sendfile,splice," + strings.Join(copying, ",")
	copying    = []string{"read", "pread64", "readv", "preadv", "recvfrom", "recvmsg", "write", "pwrite64", "writev", "sendto", "sendmsg"}
)

// count ends the server, and counts its calls from the first that has mark in it on:
// bytes that it copied between its memory and the kernel's, and those that sendfile(2)
// and splice(2) moved.
func (x traced) count(t *testing.T, mark string) (n count) {
	t.Helper()
	// The child of strace gets the signal, as strace passes on none.
	if pid := childOf(t, x.Process.Pid); pid > 0 {
		syscall.Kill(pid, syscall.SIGTERM)
	}
	err := <-x.over
	if died, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || !x.dies || died.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM) {
		t.Error(err)
	}
	b, err := os.ReadFile(x.file)
	if err != nil {
		t.Fatal(err)
	}
	_, during, ok := strings.Cut(string(b), mark)
	if !ok {
		t.Fatalf("no call has %s:\n%s", mark, b[:min(len(b), 2000)])
	}
	during, _, _ = strings.Cut(during, "--- SIGTERM")
	for line := range strings.Lines(during) {
		m := tracedCall.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		n.calls++
		switch size, _ := strconv.Atoi(m[2]); {
		case size < 0:
		case m[1] == "sendfile" || m[1] == "splice":
			n.moved += size
		case slices.Contains(copying, m[1]):
			n.copied += size
		}
	}
	return n
}

// aftls serve, seen from outside: curl gets the file, the log says that the kernel
// sent, and strace that the file never was in the process.
func TestKernelServe(t *testing.T) {
	aftlstest.NeedKernel(t)
	curl := aftlstest.Need(t, "curl")
	dir := t.TempDir()
	const size = 5<<20 + 321
	big := random(size)
	write(t, filepath.Join(dir, "big"), big)
	p := trace(t, moving, "serve", "--provider", "kernel", "--listen", "127.0.0.1:0", dir)
	got, err := exec.Command(curl, "-sS", "--http1.1", "--cacert", filepath.Join(stateHome(t), "aftls", "cert.pem"), "https://"+p.addr+"/big").Output()
	if err != nil || !bytes.Equal(got, big) {
		t.Fatalf("curl got %d bytes of %d: %v", len(got), size, err)
	}
	p.await("send=kernel receive=")
	n := p.count(t, `big", O_RDONLY`)
	if n.moved < size-64<<10 || n.copied > 64<<10 {
		t.Errorf("sendfile sent %d of %d bytes, and %d bytes were read and written otherwise", n.moved, size, n.copied)
	}
	t.Logf("sendfile sent %d of %d bytes; %d bytes were read and written otherwise", n.moved, size, n.copied)
}

// A server of net/http on crypto/tls.
func init() {
	programs["files"] = func(args []string) error {
		cert, key, err := selfSigned(time.Now())
		if err != nil {
			return err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return err
		}
		ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
		if err != nil {
			return err
		}
		fmt.Printf("listening https://%s\n", ln.Addr())
		return http.Serve(ln, http.FileServer(http.Dir(args[0])))
	}
}

// aftls proxy on the kernel provider: what it passes on, in both directions, never comes
// into the process.
func TestKernelProxySplices(t *testing.T) {
	aftlstest.NeedKernel(t)
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	const size = 4 << 20
	there, back := random(size), random(size)
	came := make(chan error, 1)
	go func() {
		c, err := backend.Accept()
		if err != nil {
			came <- err
			return
		}
		defer c.Close()
		got, err := io.ReadAll(c)
		if err == nil && !bytes.Equal(got, there) {
			err = errors.New("other bytes came to the backend than were sent")
		}
		if err == nil {
			_, err = c.Write(back)
		}
		came <- err
	}()
	p := trace(t, moving, "proxy", "--to", backend.Addr().String(), "--provider", "kernel", "--listen", "127.0.0.1:0")
	p.addr = strings.TrimPrefix(p.addr, "listening ")
	got := exchange(t, dialTLS(t, p.addr), there)
	if err := <-came; err != nil || !bytes.Equal(got, back) {
		t.Errorf("%d bytes came back, or others: %v", len(got), err)
	}
	p.await(bothInKernel)
	n := p.count(t, "accept4(")
	// Each byte goes into a pipe, and out of it.
	if n.copied > 256<<10 || n.moved < 2*(2*size-512<<10) {
		t.Errorf("%+v", n)
	}
	t.Logf("%d bytes each way: %d calls that move data, %d bytes copied, %d by splice", size, n.calls, n.copied, n.moved)
}

// What a file of 64 MB costs its server, by its own record layer and by the others: the
// counts of docs/kernel.md. The client takes the records as they are and opens none.
func TestKernelCopies(t *testing.T) {
	aftlstest.NeedKernel(t)
	dir := t.TempDir()
	const size = 64 << 20
	f, err := os.Create(filepath.Join(dir, "big"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	got := map[string]count{}
	for name, args := range map[string][]string{
		"kernel":     {"serve", "--provider", "kernel", "--listen", "127.0.0.1:0", dir},
		"soft":       {"serve", "--provider", "soft", "--listen", "127.0.0.1:0", dir},
		"crypto/tls": {asTestProgram, "files", dir},
	} {
		p := trace(t, moving, args...)
		p.dies = args[0] == asTestProgram
		c, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		came, b := 0, make([]byte, 1<<20)
		for {
			n, err := c.NetConn().Read(b)
			if came += n; err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(name, err)
			}
		}
		c.NetConn().Close()
		if came < size {
			t.Errorf("%s: %d bytes came", name, came)
		}
		got[name] = p.count(t, `big", O_RDONLY`)
		t.Logf("%-10s %6d calls that move data, %9d bytes copied, %9d by sendfile", name, got[name].calls, got[name].copied, got[name].moved)
	}
	kernel, soft, other := got["kernel"], got["soft"], got["crypto/tls"]
	if kernel.moved < size-64<<10 || kernel.copied > 64<<10 {
		t.Errorf("the kernel: %+v", kernel)
	}
	if soft.moved != 0 || soft.copied < 2*size {
		t.Errorf("soft: %+v", soft)
	}
	// Batches of 16 records: what crypto/tls does with two calls for each.
	if other.copied < 2*size || soft.calls > other.calls {
		t.Errorf("crypto/tls: %+v, soft: %+v", other, soft)
	}
}

func childOf(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(pid) + "/children")
	if err != nil {
		t.Error(err)
		return 0
	}
	child, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return child
}

// Whoever names the kernel gets it, or is told what to do.
func TestKernelConnect(t *testing.T) {
	p, addr := startServe(t, t.TempDir())
	ca := filepath.Join(stateHome(t), "aftls", "cert.pem")
	_, stderr, code := output(t, strings.NewReader("GET / HTTP/1.0\r\n\r\n"), "connect", "--provider", "kernel", "--ca", ca, "--servername", "localhost", addr)
	if _, err := os.Stat("/proc/net/tls_stat"); err == nil {
		if code != 0 || !strings.Contains(stderr, "send=kernel receive=kernel") {
			t.Errorf("exit code %d: %s", code, stderr)
		}
	} else if code == 0 || !strings.Contains(stderr, "modprobe tls") {
		t.Errorf("exit code %d without TLS sockets: %s", code, stderr)
	}
	p.Process.Signal(syscall.SIGTERM)
	p.exit()
}
