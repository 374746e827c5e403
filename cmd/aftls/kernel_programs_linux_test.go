package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
)

// The commands with --provider kernel, and programs of others at the other end. What
// the log says of each connection is that both directions are in the kernel.

const bothInKernel = "send=kernel receive=kernel"

// kernelSite is a folder with one file, and the certificate that everybody trusts.
type kernelSite struct {
	dir, ca, key string
	big          []byte
}

func newKernelSite(t *testing.T) kernelSite {
	t.Helper()
	aftlstest.NeedKernel(t)
	s := kernelSite{dir: t.TempDir(), big: random(1<<20 + 321)}
	for i := range s.big {
		s.big[i] &^= 0x40 // no letter: s_client takes some for commands
	}
	openToWorkers(s.dir)
	write(t, filepath.Join(s.dir, "big"), s.big)
	os.Chmod(filepath.Join(s.dir, "big"), 0o644)
	cert, key, err := selfSigned(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(stateHome(t), "aftls")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	s.ca, s.key = filepath.Join(state, "cert.pem"), filepath.Join(state, "key.pem")
	write(t, s.ca, cert)
	write(t, s.key, key)
	return s
}

// ends ends a command that had connections.
func ends(t *testing.T, p *process) {
	t.Helper()
	p.await(bothInKernel)
	p.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Error("exit code", code)
	}
}

func (s kernelSite) curl(t *testing.T, url string, args ...string) {
	t.Helper()
	got, err := exec.Command(aftlstest.Need(t, "curl"), append([]string{"-sS", "--cacert", s.ca, url}, args...)...).Output()
	if err != nil || !bytes.Equal(got, s.big) {
		t.Errorf("curl %v got %d bytes of %d: %v", args, len(got), len(s.big), err)
	}
}

func TestKernelServeCurl(t *testing.T) {
	s := newKernelSite(t)
	p, addr := startServe(t, s.dir, "--provider", "kernel")
	for _, args := range [][]string{
		{"--http1.1", "--tlsv1.3"}, {"--http2", "--tlsv1.3"},
		{"--http1.1", "--tlsv1.2", "--tls-max", "1.2"}, {"--http2", "--tlsv1.2", "--tls-max", "1.2"},
	} {
		s.curl(t, "https://"+addr+"/big", args...)
	}
	ends(t, p)
}

func TestKernelListenOpenSSL(t *testing.T) {
	s := newKernelSite(t)
	openssl := aftlstest.Need(t, "openssl")
	p, addr := startStreams(t, "listen", "--echo", "--provider", "kernel")
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		c := exec.Command(openssl, "s_client", "-connect", addr, "-CAfile", s.ca, "-verify_return_error", "-servername", "localhost", "-quiet", "-no_ign_eof", version)
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		go in.Write(s.big)
		got := make([]byte, len(s.big))
		if n, err := io.ReadFull(out, got); err != nil || !bytes.Equal(got, s.big) {
			t.Errorf("%s: %d bytes came back, or others: %v", version, n, err)
		}
		in.Close() // which s_client answers with close_notify
		if err := c.Wait(); err != nil {
			t.Errorf("%s: %v", version, err)
		}
	}
	p.awaitTimes(bothInKernel, 2)
	p.awaitTimes(fmt.Sprint("bytes=", len(s.big)), 2)
	ends(t, p)
}

func TestKernelConnectOpenSSL(t *testing.T) {
	s := newKernelSite(t)
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		p := aftlstest.Command{Name: "openssl", Dir: s.dir, Args: []string{"s_server", "-accept", "127.0.0.1:0", "-cert", s.ca, "-key", s.key, "-naccept", "1", "-WWW", version}}.Start(t)
		addr := p.Expect(`ACCEPT (127\.0\.0\.1:\d+)`)[1]
		s.connect(t, addr, "GET /big HTTP/1.0\r\n\r\n")
	}
}

// connect sends a request with 'aftls connect', and compares the file that comes.
func (s kernelSite) connect(t *testing.T, addr, request string) {
	t.Helper()
	r, w, err := os.Pipe() // an input that stays open: some servers take its end for a hang-up
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	io.WriteString(w, request)
	stdout, stderr, code := output(t, r, "connect", "--provider", "kernel", "--ca", s.ca, "--servername", "localhost", addr)
	if code != 0 || !strings.Contains(stderr, bothInKernel) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if _, body, _ := strings.Cut(stdout, "\r\n\r\n"); body != string(s.big) {
		t.Errorf("%d bytes came of %d", len(body), len(s.big))
	}
}

// nginx gives its file in plaintext, behind 'aftls proxy', and in TLS.
func TestKernelNginx(t *testing.T) {
	s := newKernelSite(t)
	exe := aftlstest.Need(t, "nginx")
	prefix, plain, secure := t.TempDir(), freeAddr(t), freeAddr(t)
	conf := fmt.Sprintf(`
daemon off;
worker_processes 1;
error_log %[1]s/error.log;
pid %[1]s/pid;
events { worker_connections 64; }
http {
	access_log off;
	%[7]s
	server {
		listen %[2]s;
		listen %[3]s ssl;
		ssl_certificate %[4]s;
		ssl_certificate_key %[5]s;
		ssl_protocols TLSv1.2 TLSv1.3;
		root %[6]s;
	}
}
`, prefix, plain, secure, s.ca, s.key, s.dir, nginxPaths(prefix))
	openToWorkers(prefix)
	write(t, filepath.Join(prefix, "nginx.conf"), []byte(conf))
	// The name of the log here is for what it says before it has read its own.
	aftlstest.Command{Name: exe, Args: []string{"-p", prefix, "-e", filepath.Join(prefix, "error.log"), "-c", filepath.Join(prefix, "nginx.conf")}}.Start(t)
	awaitListener(t, secure, func() string {
		log, _ := os.ReadFile(filepath.Join(prefix, "error.log"))
		return string(log)
	})
	p, addr := startStreams(t, "proxy", "--to", plain, "--provider", "kernel")
	s.curl(t, "https://"+addr+"/big", "--tlsv1.3")
	s.curl(t, "https://"+addr+"/big", "--tlsv1.2", "--tls-max", "1.2")
	p.awaitTimes(bothInKernel, 2)
	ends(t, p)
	s.connect(t, secure, "GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}
