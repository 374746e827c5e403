package main

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/aftls/aftls/aftlstest"
)

// aftls serve, seen from outside: curl gets the file, the log says that the kernel
// sent, and strace that the file never was in the process.
func TestKernelServe(t *testing.T) {
	aftlstest.NeedKernel(t)
	strace, curl := aftlstest.Need(t, "strace"), aftlstest.Need(t, "curl")
	dir := t.TempDir()
	const size = 5<<20 + 321
	big := make([]byte, size)
	rand.Read(big)
	write(t, filepath.Join(dir, "big"), big)

	trace := filepath.Join(t.TempDir(), "trace")
	c := command(t, "serve", "--provider", "kernel", "--listen", "127.0.0.1:0", dir)
	c.Args = append([]string{strace, "-f", "-o", trace, "-e", "trace=sendfile,sendmsg,sendto,write,writev,read,pread64,readv"}, append([]string{c.Path}, c.Args[1:]...)...)
	c.Path = strace
	p := &process{Cmd: c, t: t}
	p.begin()
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	url := strings.TrimPrefix(strings.TrimSpace(line), "listening ")
	got, err := exec.Command(curl, "-sS", "--http1.1", "--cacert", filepath.Join(stateHome(t), "aftls", "cert.pem"), url+"/big").Output()
	if err != nil || !bytes.Equal(got, big) {
		t.Fatalf("curl got %d bytes of %d: %v", len(got), size, err)
	}
	p.await("send=kernel receive=")
	// The child of strace gets the signal, as strace passes on none.
	if pid := childOf(t, c.Process.Pid); pid > 0 {
		syscall.Kill(pid, syscall.SIGTERM)
	}
	if err := <-p.over; err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	sent, copied := 0, 0
	for line := range strings.Lines(string(b)) {
		m := regexp.MustCompile(`(\w+)(?:\(| resumed).*= (\d+)$`).FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		n, _ := strconv.Atoi(m[2])
		if m[1] == "sendfile" {
			sent += n
		} else {
			copied += n
		}
	}
	if sent < size-64<<10 || copied > 1<<20 {
		t.Errorf("sendfile sent %d of %d bytes, and %d bytes were read and written otherwise", sent, size, copied)
	}
	t.Logf("sendfile sent %d of %d bytes; %d bytes were read and written otherwise", sent, size, copied)
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
