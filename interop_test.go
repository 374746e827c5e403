package aftls_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
)

// What the tests with foreign programs share. They wait for what a program says
// or does, never for a time; this limit only bounds a hang.
const interopLimit = 20 * time.Second

// interopName is the name in every certificate.
const interopName = "test.example"

// identity is a certificate, for us and as files for programs.
type identity struct {
	cert                      tls.Certificate
	pool                      *x509.CertPool
	certFile, keyFile, caFile string
}

func (id identity) server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{id.cert}}
}

func (id identity) client() *tls.Config {
	return &tls.Config{RootCAs: id.pool, ServerName: interopName}
}

func ecdsaIdentity(t testing.TB) identity {
	t.Helper()
	ca := aftlstest.NewCA(t)
	id := identity{cert: ca.Leaf(t, interopName), pool: ca.Pool}
	id.certFile, id.keyFile, id.caFile = ca.WriteFiles(t, id.cert)
	return id
}

var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// rsaIdentity is a certificate that signs itself: it is its own authority.
func rsaIdentity(t testing.TB) identity {
	t.Helper()
	key, err := rsaKey()
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "rsa"},
		DNSNames: []string{interopName}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	id := identity{
		cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool: x509.NewCertPool(),
		certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem"), caFile: filepath.Join(dir, "cert.pem"),
	}
	id.pool.AddCert(cert)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		id.certFile: {Type: "CERTIFICATE", Bytes: der}, id.keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return id
}

// server is a Listener and a goroutine for each of its connections.
type server struct {
	t      testing.TB
	addr   string
	conns  chan *served
	failed chan error // handshakes
}

// served is a connection of a server.
type served struct {
	*aftls.Conn
	t     testing.TB
	ended chan struct{}
	err   error // what handle returned, after ended
}

// serve runs handle for every connection, and closes it afterwards.
func serve(t testing.TB, config *tls.Config, opt aftls.Options, handle func(*aftls.Conn) error) *server {
	t.Helper()
	s := &server{t: t, conns: make(chan *served, 64), failed: make(chan error, 64)}
	opt.HandshakeError = func(_ net.Addr, err error) { s.failed <- err }
	l, err := aftls.Listen("tcp", "127.0.0.1:0", config, opt)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	var accepting, handling sync.WaitGroup
	var open []*aftls.Conn
	accepting.Go(func() {
		for {
			c, err := l.AcceptConn()
			if err != nil {
				return
			}
			open = append(open, c)
			one := &served{Conn: c, t: t, ended: make(chan struct{})}
			s.conns <- one
			handling.Go(func() {
				one.err = handle(c)
				c.Close()
				close(one.ended)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		accepting.Wait()
		for _, c := range open {
			c.Close()
		}
		handling.Wait()
	})
	return s
}

// next is the next connection.
func (s *server) next() *served {
	s.t.Helper()
	select {
	case c := <-s.conns:
		return c
	case err := <-s.failed:
		s.t.Fatalf("handshake: %v", err)
	case <-time.After(interopLimit):
		s.t.Fatal("no connection came")
	}
	return nil
}

// refused is the error of the next handshake, which fails.
func (s *server) refused() error {
	s.t.Helper()
	select {
	case err := <-s.failed:
		return err
	case c := <-s.conns:
		s.t.Fatalf("the handshake with %v should have failed", c.RemoteAddr())
	case <-time.After(interopLimit):
		s.t.Fatal("no handshake failed")
	}
	return nil
}

// end is what handle returned.
func (c *served) end() error {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(interopLimit):
		c.t.Fatal("the connection does not end")
	}
	return c.err
}

// wantEOF asserts that the peer ended the connection as it ought to.
func (c *served) wantEOF() {
	c.t.Helper()
	if err := c.end(); err != io.EOF {
		c.t.Fatalf("the connection ended with %v, want EOF", err)
	}
}

// echo sends back what comes, until reading ends.
func echo(c *aftls.Conn) error {
	b := make([]byte, 64<<10)
	for {
		n, err := c.Read(b)
		if n > 0 {
			if _, err := c.Write(b[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// payload is what the tests send: every byte occurs, nothing repeats early.
func payload(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// exchange sends out and takes in at the same time, and says whether in was
// what came.
func exchange(c *aftls.Conn, out, in []byte) error {
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(out)
		sent <- err
	}()
	got := make([]byte, len(in))
	c.SetReadDeadline(time.Now().Add(interopLimit))
	if n, err := io.ReadFull(c, got); err != nil {
		c.Close()
		return errors.Join(fmt.Errorf("after %d of %d bytes: %w", n, len(in), err), <-sent)
	}
	if !bytes.Equal(got, in) {
		return errors.New("other bytes came than were sent")
	}
	return <-sent
}

// dial connects to a program that says nothing when it is ready.
func dial(t testing.TB, addr string, config *tls.Config, opt aftls.Options) *aftls.Conn {
	t.Helper()
	c, err := tryDial(addr, config, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func tryDial(addr string, config *tls.Config, opt aftls.Options) (*aftls.Conn, error) {
	d := aftls.Dialer{NetDialer: &net.Dialer{Timeout: interopLimit}, Config: config, Options: opt}
	c, err := patiently(func() (net.Conn, error) { return d.Dial("tcp", addr) })
	if err != nil {
		return nil, err
	}
	return c.(*aftls.Conn), c.SetDeadline(time.Now().Add(interopLimit))
}

// patiently dials until somebody listens. Programs that are told to be quiet do
// not say when they do, so there is nothing else to wait for.
func patiently(dial func() (net.Conn, error)) (net.Conn, error) {
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		c, err := dial()
		if err == nil || !errors.Is(err, syscall.ECONNREFUSED) || time.Since(start) > interopLimit {
			return c, err
		}
	}
}

// wantLine reads one line and compares.
func wantLine(t testing.TB, c *aftls.Conn, line string) {
	t.Helper()
	got := make([]byte, len(line))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != line {
		t.Fatalf("read %q, %v; want %q", got[:n], err, line)
	}
}

func say(t testing.TB, c *aftls.Conn, line string) {
	t.Helper()
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatal(err)
	}
}

// wantKeys asserts how often the keys of both directions were changed.
func wantKeys(t testing.TB, c *aftls.Conn, send, receive uint64) {
	t.Helper()
	i := c.Info()
	if i.Send.Rekeys != send || i.Receive.Rekeys != receive || i.Send.Epoch != send || i.Receive.Epoch != receive {
		t.Fatalf("rekeyed sending %d times, receiving %d times; want %d and %d", i.Send.Rekeys, i.Receive.Rekeys, send, receive)
	}
}

// wantSocket asserts that our own record layer serves the connection, with what
// was asked for.
func wantSocket(t testing.TB, c *aftls.Conn, version, suite uint16) {
	t.Helper()
	i := c.Info()
	for _, d := range []aftls.DirectionInfo{i.Send, i.Receive} {
		if d.Provider == aftls.Passthrough || d.Version != version || suite != 0 && d.Suite != suite {
			t.Fatalf("got %v, %s, %s (%s)", d.Provider, d.VersionName(), d.SuiteName(), d.Reason)
		}
	}
}

// wantAlert asserts that the peer ended the connection with the alert.
func wantAlert(t testing.TB, err error, alert record.Alert) {
	t.Helper()
	if e, ok := errors.AsType[*aftls.AlertError](err); !ok || e.Alert != alert {
		t.Fatalf("got %v, want the peer's alert %v", err, alert)
	}
}

// freePort is the number of a port that nothing listens at, for programs that
// cannot say which one they took.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// wiretap stands between two peers, passes whole records on and can break one.
type wiretap struct {
	addr string
	// Of what the one who dialled sends, and of what it receives.
	forth, back lane
}

// lane is one direction of a wiretap.
type lane struct {
	flip    atomic.Bool // break the next application_data record
	mu      sync.Mutex
	lengths []int // of the application_data records that passed
}

func (l *lane) seen() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]int(nil), l.lengths...)
}

// startWiretap relays one connection to the address.
func startWiretap(t testing.TB, to string) *wiretap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &wiretap{addr: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, c)
	}
	wg.Go(func() {
		a, err := l.Accept()
		if err != nil {
			return
		}
		keep(a)
		b, err := patiently(func() (net.Conn, error) { return net.Dial("tcp", to) })
		if err != nil {
			a.Close()
			return
		}
		keep(b)
		wg.Go(func() { r.forth.run(b, a) })
		wg.Go(func() { r.back.run(a, b) })
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return r
}

func (l *lane) run(to, from net.Conn) {
	defer to.(*net.TCPConn).CloseWrite()
	head := make([]byte, record.HeaderLen)
	for {
		if _, err := io.ReadFull(from, head); err != nil {
			return
		}
		body := make([]byte, int(head[3])<<8|int(head[4]))
		if _, err := io.ReadFull(from, body); err != nil {
			return
		}
		if record.ContentType(head[0]) == record.ApplicationData {
			l.mu.Lock()
			l.lengths = append(l.lengths, len(body))
			l.mu.Unlock()
			if l.flip.Swap(false) {
				body[len(body)/2] ^= 1
			}
		}
		if _, err := to.Write(append(head[:record.HeaderLen:record.HeaderLen], body...)); err != nil {
			return
		}
	}
}

// versions are the protocol versions that a socket serves.
var versions = []struct {
	name string
	id   uint16
}{{"TLS1.2", tls.VersionTLS12}, {"TLS1.3", tls.VersionTLS13}}

// suites are the cipher suites that a socket serves, by OpenSSL's names.
var suites = []struct {
	name    string
	version uint16
	id      uint16
	rsa     bool // needs a certificate with an RSA key
}{
	{"TLS_AES_128_GCM_SHA256", tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, false},
	{"TLS_AES_256_GCM_SHA384", tls.VersionTLS13, tls.TLS_AES_256_GCM_SHA384, false},
	{"TLS_CHACHA20_POLY1305_SHA256", tls.VersionTLS13, tls.TLS_CHACHA20_POLY1305_SHA256, false},
	{"ECDHE-ECDSA-AES128-GCM-SHA256", tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false},
	{"ECDHE-ECDSA-AES256-GCM-SHA384", tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, false},
	{"ECDHE-ECDSA-CHACHA20-POLY1305", tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, false},
	{"ECDHE-RSA-AES128-GCM-SHA256", tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, true},
	{"ECDHE-RSA-AES256-GCM-SHA384", tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, true},
	{"ECDHE-RSA-CHACHA20-POLY1305", tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, true},
	// RSA key exchange: crypto/tls only does it for those who name the suite.
	{"AES128-GCM-SHA256", tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, true},
	{"AES256-GCM-SHA384", tls.VersionTLS12, tls.TLS_RSA_WITH_AES_256_GCM_SHA384, true},
}
