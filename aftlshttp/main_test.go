package aftlshttp_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlshttp"
	"github.com/aftls/aftls/aftlstest"
)

// After all tests no goroutine that runs our code is left.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := aftlstest.LeftBehind(nil); left != "" {
			fmt.Fprintln(os.Stderr, left)
			code = 1
		}
	}
	os.Exit(code)
}

// patience is how long a test waits for what has to happen.
const patience = 30 * time.Second

// site is a server under test. Change srv and config before start.
type site struct {
	t      *testing.T
	ca     *aftlstest.CA
	config *tls.Config
	opt    aftls.Options
	srv    *http.Server
	log    logBuffer

	ln     net.Listener
	addr   string
	served chan error
}

func newSite(t *testing.T, h http.Handler) *site {
	s := &site{t: t, ca: aftlstest.NewCA(t), served: make(chan error, 1)}
	s.config = &tls.Config{
		Certificates: []tls.Certificate{s.ca.Leaf(t, "localhost", "127.0.0.1")},
		NextProtos:   []string{"h2", "http/1.1"},
	}
	s.srv = &http.Server{Handler: h, ErrorLog: log.New(&s.log, "", 0)}
	return s
}

// start serves over a Listener of ours until the test ends.
func (s *site) start() *site {
	s.t.Helper()
	ln, err := aftls.Listen("tcp", "127.0.0.1:0", s.config, s.opt)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.run(ln, func() error { return aftlshttp.Serve(s.srv, ln) })
}

// startStandard serves as net/http alone does, over crypto/tls.
func (s *site) startStandard() *site {
	s.t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.run(ln, func() error { return s.srv.Serve(ln) })
}

func (s *site) run(ln net.Listener, serve func() error) *site {
	s.ln, s.addr = ln, ln.Addr().String()
	go func() { s.served <- serve() }()
	s.t.Cleanup(func() {
		s.srv.Close()
		if err := <-s.served; err != http.ErrServerClosed {
			s.t.Errorf("Serve ended with %v", err)
		}
	})
	return s
}

func (s *site) url(path string) string { return "https://" + s.addr + path }

func (s *site) clientConfig(protos ...string) *tls.Config {
	return &tls.Config{RootCAs: s.ca.Pool, ServerName: "localhost", NextProtos: protos}
}

// client is an http.Client of ours. Without protocols it offers both.
func (s *site) client(protos ...string) *http.Client {
	c := &http.Client{Transport: aftlshttp.NewTransport(&aftls.Dialer{Config: s.clientConfig(protos...)}), Timeout: patience}
	s.t.Cleanup(c.CloseIdleConnections)
	return c
}

// standard is an http.Client of net/http over crypto/tls.
func (s *site) standard(proto string) *http.Client {
	tr := &http.Transport{TLSClientConfig: s.clientConfig(proto), Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(proto != "h2")
	tr.Protocols.SetHTTP2(proto == "h2")
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// dial makes a TLS connection of crypto/tls to the site.
func (s *site) dial(protos ...string) *tls.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := (&tls.Dialer{Config: s.clientConfig(protos...)}).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*tls.Conn)
}

// ask sends a request and returns the answer and its body.
func ask(t *testing.T, c *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	return ask(t, c, request(t, "GET", url, nil))
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// logBuffer is a log that a test looks at while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// eventually waits for something that happens by itself.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); runtime.Gosched() {
		if time.Since(start) > patience {
			t.Fatalf("never came: %s", what)
		}
	}
}

// each runs a test for HTTP/1.1 and for HTTP/2.
func each(t *testing.T, f func(t *testing.T, proto string)) {
	for _, proto := range []string{"http/1.1", "h2"} {
		t.Run(proto, func(t *testing.T) { f(t, proto) })
	}
}

// major is the first number of the version that proto stands for.
func major(proto string) int {
	if proto == "h2" {
		return 2
	}
	return 1
}

var errTest = errors.New("for the test")

// cached is a certificate as autocert keeps it: key and chain, PEM.
func cached(t *testing.T, c tls.Certificate) []byte {
	t.Helper()
	key, err := x509.MarshalECPrivateKey(c.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})
	for _, der := range c.Certificate {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return b
}
