package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
)

// Programs that others wrote, as Debian has them. They fall back to their own
// records without a word, so each test counts what our record layer sealed.

// site is a folder with a certificate and files.
type site struct {
	dir, cert, key string
	client         *tls.Config
	big            []byte
}

func newSite(t *testing.T) site {
	t.Helper()
	ca := aftlstest.NewCA(t)
	s := site{dir: t.TempDir(), big: make([]byte, 5<<20+123)}
	s.cert, s.key, _ = ca.WriteFiles(t, ca.Leaf(t, "localhost"))
	s.client = &tls.Config{RootCAs: ca.Pool, ServerName: "localhost"}
	rand.Read(s.big)
	write(t, filepath.Join(s.dir, "big"), s.big)
	return s
}

func (s site) get(t *testing.T, version uint16, url string, times int) {
	t.Helper()
	config := s.client.Clone()
	config.MinVersion, config.MaxVersion = version, version
	tr := &http.Transport{TLSClientConfig: config}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: 30 * time.Second}
	for range times {
		if code, body := get(t, c, url); code != 200 || !bytes.Equal(body, s.big) {
			t.Fatalf("%d, %d bytes", code, len(body))
		}
	}
}

const opensslKTLS = `openssl_conf = c
[c]
ssl_conf = s
[s]
system_default = d
[d]
Options = KTLS
`

func TestRunOpenSSL(t *testing.T) {
	openssl := aftlstest.Need(t, "openssl")
	needSupervisor(t)
	s := newSite(t)
	conf := filepath.Join(t.TempDir(), "openssl.cnf")
	write(t, conf, []byte(opensslKTLS))
	addr := freeAddr(t)
	p := &process{Cmd: command(t, "run", "--stats", "--", openssl, "s_server", "-accept", addr,
		"-cert", s.cert, "-key", s.key, "-WWW", "-sendfile", "-naccept", "2"), t: t}
	p.Cmd.Env, p.Cmd.Dir = append(p.Cmd.Env, "OPENSSL_CONF="+conf), s.dir
	p.begin()
	if line := p.line(); line != "ACCEPT" {
		line = p.line()
		if line != "ACCEPT" {
			t.Fatal(line)
		}
	}
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s.get(t, v, "https://"+addr+"/big", 1)
	}
	out, _ := io.ReadAll(p.stdout)
	if n := strings.Count(string(out)+p.errors(), "KTLS SENDFILE 'big' OK"); n != 2 {
		t.Errorf("%d files went by sendfile:\n%s", n, out)
	}
	// Two files and their headers, and in TLS 1.2 the request was opened too.
	if st := p.stats(0); st.sockets != 2 || st.failed != 0 || st.sealedBytes < 2*len(s.big) || st.opened < 1 {
		t.Errorf("%+v", st)
	}
}

// nginx is one under 'aftls run', unmodified.
type nginx struct {
	*process
	site
	addr, prefix string
}

func startNginx(t *testing.T) *nginx {
	t.Helper()
	exe := aftlstest.Need(t, "nginx")
	needSupervisor(t)
	x := &nginx{site: newSite(t), addr: freeAddr(t), prefix: t.TempDir()}
	openToWorkers(x.dir)
	openToWorkers(x.prefix)
	os.Chmod(filepath.Join(x.dir, "big"), 0o644)
	conf := fmt.Sprintf(`
worker_processes 2;
error_log %[1]s/error.log debug;
pid %[1]s/pid;
events { worker_connections 4096; }
http {
	access_log off;
	sendfile on;
	%[6]s
	server {
		listen %[2]s ssl;
		ssl_certificate %[3]s;
		ssl_certificate_key %[4]s;
		ssl_protocols TLSv1.2 TLSv1.3;
		ssl_conf_command Options KTLS;
		keepalive_requests 100000;
		root %[5]s;
	}
}
`, x.prefix, x.addr, x.cert, x.key, x.dir, nginxPaths(x.prefix))
	write(t, filepath.Join(x.prefix, "nginx.conf"), []byte(conf))
	x.process = start(t, "run", "--stats", "--", exe, "-p", x.prefix, "-c", filepath.Join(x.prefix, "nginx.conf"), "-g", "daemon off;")
	awaitListener(t, x.addr, x.errors)
	return x
}

func (x *nginx) signal(s syscall.Signal) {
	x.t.Helper()
	b, err := os.ReadFile(filepath.Join(x.prefix, "pid"))
	if err != nil {
		x.t.Fatal(err)
	}
	var pid int
	fmt.Sscan(string(b), &pid)
	if err := syscall.Kill(pid, s); err != nil {
		x.t.Fatal(err)
	}
}

func (x *nginx) log() string {
	b, err := os.ReadFile(filepath.Join(x.prefix, "error.log"))
	if err != nil {
		x.t.Fatal(err)
	}
	return string(b)
}

func TestRunNginx(t *testing.T) {
	x := startNginx(t)
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		x.get(t, v, "https://"+x.addr+"/big", 5) // one connection, kept alive
	}
	x.signal(syscall.SIGHUP) // new workers; the old ones go when they are through
	x.get(t, tls.VersionTLS13, "https://"+x.addr+"/big", 2)
	x.signal(syscall.SIGQUIT)
	st := x.stats(0)
	// The client may meet the old worker's end and connect once more, and it may
	// reset a connection that it has had enough of.
	if st.sockets < 3 || st.sockets > 5 || st.refused != 0 || st.sealedBytes < 12*len(x.big) {
		t.Errorf("%+v", st)
	}
	if n := strings.Count(x.log(), "BIO_get_ktls_send(): 1"); n != st.sockets {
		t.Errorf("nginx used kernel TLS on %d connections of %d", n, st.sockets)
	}
}

// A thousand connections at once, each with more than one request.
func TestRunNginxThousand(t *testing.T) {
	x := startNginx(t)
	small := make([]byte, 3000)
	rand.Read(small)
	write(t, filepath.Join(x.dir, "small"), small)
	os.Chmod(filepath.Join(x.dir, "small"), 0o644)
	const conns = 1000
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	d := tls.Dialer{Config: x.client}
	var open sync.WaitGroup
	open.Add(conns)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 50)
	request := []byte("GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n")
	for range conns {
		wg.Go(func() {
			slots <- struct{}{}
			c, err := d.DialContext(ctx, "tcp", x.addr)
			var one sync.Once
			defer one.Do(open.Done)
			if err != nil {
				<-slots
				t.Error(err)
				return
			}
			defer c.Close()
			deadline, _ := ctx.Deadline()
			c.SetDeadline(deadline)
			for i := range 3 {
				c.Write(request)
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Error(err)
					break
				}
				if b, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(b, small) {
					t.Error(len(b), err)
				}
				if i == 0 {
					<-slots
					one.Do(open.Done)
					open.Wait() // all are open now
				}
			}
		})
	}
	wg.Wait()
	x.signal(syscall.SIGQUIT)
	if st := x.stats(0); st.sockets != conns || st.refused != 0 {
		t.Errorf("%+v", st)
	}
}

// The example of the README: OpenSSL does the handshake, and AF_TLS is a socket.
func TestRunExampleResponder(t *testing.T) {
	cc := aftlstest.Need(t, "cc")
	needSupervisor(t)
	s := newSite(t)
	exe := filepath.Join(t.TempDir(), "responder")
	out, err := exec.Command(cc, "-Wall", "-Wextra", "-Werror", "-I", "../../clients/c", "-o", exe,
		"../../examples/af_tls/responder.c", "-lssl", "-lcrypto").CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "openssl/ssl.h") && !aftlstest.Expected("cc") {
			t.Skip("the headers of OpenSSL are missing")
		}
		t.Fatalf("%v\n%s", err, out)
	}
	_, port, _ := net.SplitHostPort(freeAddr(t))
	p := start(t, "run", "--stats", "--", exe, port, s.cert, s.key)
	url := "https://127.0.0.1:" + port + "/"
	s.client.ServerName = "localhost"
	tr := &http.Transport{TLSClientConfig: s.client}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: 30 * time.Second}
	const times = 5
	for i, deadline := 0, time.Now().Add(30*time.Second); i < times; {
		resp, err := c.Get(url)
		if err != nil {
			if i == 0 && time.Now().Before(deadline) {
				continue // it does not listen yet
			}
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(b) != "over a real TLS fd!\n" {
			t.Fatalf("%q, %v", b, err)
		}
		i++
	}
	p.Process.Signal(syscall.SIGTERM) // the responder runs for ever
	if st := p.stats(128 + int(syscall.SIGTERM)); st.sockets != times || st.failed != 0 || st.opened < times {
		t.Errorf("%+v", st)
	}
}
