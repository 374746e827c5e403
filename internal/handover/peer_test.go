package handover

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls/record"
)

// authority is an authority of the tests here. They cannot use package
// aftlstest: it imports the root package, and that imports this one.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

// rsaKey is made once: it takes long.
var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, pool: x509.NewCertPool()}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(t testing.TB, key crypto.Signer, names []string) tls.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// leaf makes a certificate with a P-256 key.
func (a *authority) leaf(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return a.sign(t, key, names)
}

// leafRSA makes one for the suites that sign or exchange keys with RSA.
func (a *authority) leafRSA(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	key, err := rsaKey()
	if err != nil {
		t.Fatal(err)
	}
	return a.sign(t, key, names)
}

// longLeaf makes a certificate that alone fills more than one record.
func (a *authority) longLeaf(t testing.TB, name string) tls.Certificate {
	t.Helper()
	names := []string{name}
	for i := range 700 {
		names = append(names, fmt.Sprintf("name-%06d-of-a-certificate-with-very-many.example", i))
	}
	c := a.leaf(t, names...)
	if n := len(c.Certificate[0]); n <= record.MaxPlaintext {
		t.Fatalf("certificate of %d bytes fits one record", n)
	}
	return c
}

const testName = "test.example"

// configs returns the Configs of a client, with a session cache, and of a
// server, that trust each other.
func configs(t testing.TB) (client, server *tls.Config) {
	a := newAuthority(t)
	return &tls.Config{RootCAs: a.pool, ServerName: testName, ClientSessionCache: tls.NewLRUClientSessionCache(32)},
		&tls.Config{Certificates: []tls.Certificate{a.leaf(t, testName)}}
}

// tcpPair returns both ends of a connection over loopback. Nothing on them
// waits for longer than a minute.
func tcpPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{client, server} {
		c.SetDeadline(time.Now().Add(time.Minute))
		t.Cleanup(func() { c.Close() })
	}
	return client, server
}

// end is one end of a connection after its handshake, ours or crypto/tls's.
type end struct {
	io.ReadWriter
	state  tls.ConnectionState
	result *Result // nil for crypto/tls
	server bool
	close  func() error
}

// stream returns the end as the records of a socket.
func (e *end) stream(t testing.TB) *stream {
	t.Helper()
	s, ok := e.ReadWriter.(*stream)
	if !ok {
		t.Fatalf("no handover took place: %T", e.ReadWriter)
	}
	return s
}

// role runs a handshake on a connection, which it closes when it fails.
type role func(conn net.Conn, cfg *tls.Config) (*end, error)

func ourClient(conn net.Conn, cfg *tls.Config) (*end, error) {
	return newEnd(conn)(Client(context.Background(), conn, cfg))
}

func ourServer(conn net.Conn, cfg *tls.Config) (*end, error) {
	return newEnd(conn)(Server(context.Background(), conn, conn, cfg))
}

func theirClient(conn net.Conn, cfg *tls.Config) (*end, error) { return theirs(tls.Client(conn, cfg)) }
func theirServer(conn net.Conn, cfg *tls.Config) (*end, error) { return theirs(tls.Server(conn, cfg)) }

func theirs(tc *tls.Conn) (*end, error) {
	if err := tc.Handshake(); err != nil {
		tc.Close()
		return nil, err
	}
	return &end{ReadWriter: tc, state: tc.ConnectionState(), close: tc.Close}, nil
}

func newEnd(conn net.Conn) func(Result, error) (*end, error) {
	return func(r Result, err error) (*end, error) {
		if err != nil {
			conn.Close()
			return nil, err
		}
		e := &end{state: r.State, result: &r}
		if p := r.Passthrough; p != nil {
			e.ReadWriter, e.close = p, p.Close
			return e, nil
		}
		s := &stream{conn: conn, source: io.MultiReader(bytes.NewReader(r.Unread), conn), tickets: r.Tickets}
		if s.in, err = record.NewOpener(r.In); err != nil {
			return nil, err
		}
		if s.out, err = record.NewSealer(r.Out); err != nil {
			return nil, err
		}
		e.ReadWriter, e.close = s, s.closeNotify
		return e, nil
	}
}

// handshakes runs both roles on a and b.
func handshakes(a, b net.Conn, client, server role, ccfg, scfg *tls.Config) (c, s *end, cerr, serr error) {
	var wg sync.WaitGroup
	wg.Go(func() { s, serr = server(b, scfg) })
	c, cerr = client(a, ccfg)
	wg.Wait()
	if s != nil {
		s.server = true
	}
	return c, s, cerr, serr
}

// connect is handshakes over TCP that must succeed.
func connect(t testing.TB, client, server role, ccfg, scfg *tls.Config) (c, s *end) {
	t.Helper()
	a, b := tcpPair(t)
	c, s, cerr, serr := handshakes(a, b, client, server, ccfg, scfg)
	if cerr != nil || serr != nil {
		t.Fatalf("client: %v; server: %v", cerr, serr)
	}
	return c, s
}

// stream is a plain record layer on the keys of a Result.
type stream struct {
	conn    net.Conn
	source  io.Reader // what the handshake left unread, then conn
	in      *record.Opener
	out     *record.Sealer
	tickets *Tickets

	data    []byte
	message []byte // a ticket that has come in part
	control int    // handshake records read
}

func (s *stream) Read(p []byte) (int, error) {
	for len(s.data) == 0 {
		typ, b, err := s.next()
		if err != nil {
			return 0, err
		}
		switch typ {
		case record.ApplicationData:
			s.data = b
		case record.Handshake:
			s.control++
			if err := s.ticket(b); err != nil {
				return 0, err
			}
		case record.AlertRecord:
			if b[1] == byte(record.CloseNotify) {
				return 0, io.EOF
			}
			return 0, fmt.Errorf("alert %v", record.Alert(b[1]))
		}
	}
	n := copy(p, s.data)
	s.data = s.data[n:]
	return n, nil
}

func (s *stream) next() (record.ContentType, []byte, error) {
	rec := make([]byte, record.HeaderLen)
	if _, err := io.ReadFull(s.source, rec); err != nil {
		return 0, nil, err
	}
	n, err := record.Frame(rec)
	if err != nil {
		return 0, nil, err
	}
	rec = append(rec, make([]byte, n-len(rec))...)
	if _, err := io.ReadFull(s.source, rec[record.HeaderLen:]); err != nil {
		return 0, nil, err
	}
	return s.in.Open(nil, rec)
}

func (s *stream) ticket(b []byte) error {
	s.message = append(s.message, b...)
	if m := s.message; len(m) < 4 || len(m) < 4+int(m[1])<<16+int(m[2])<<8+int(m[3]) {
		return nil
	}
	m := s.message
	s.message = nil
	if s.tickets == nil {
		return nil
	}
	return s.tickets.Put(m)
}

func (s *stream) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		m := min(len(p), record.MaxPlaintext)
		if err := s.send(record.ApplicationData, p[:m]); err != nil {
			return n, err
		}
		n, p = n+m, p[m:]
	}
	return n, nil
}

func (s *stream) send(typ record.ContentType, p []byte) error {
	rec, err := s.out.Seal(nil, typ, p)
	if err != nil {
		return err
	}
	_, err = s.conn.Write(rec)
	return err
}

func (s *stream) closeNotify() error {
	return s.send(record.AlertRecord, []byte{record.LevelWarning, byte(record.CloseNotify)})
}

// exchange moves data both ways, then ends the client's direction cleanly.
func exchange(t testing.TB, c, s *end) {
	t.Helper()
	transfer(t, c, s, 100_000)
	transfer(t, s, c, 100_000)
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("after close_notify: Read = %d, %v, want io.EOF", n, err)
	}
}

func transfer(t testing.TB, from io.Writer, to io.Reader, n int) {
	t.Helper()
	data := make([]byte, n)
	rand.Read(data)
	errc := make(chan error, 1)
	go func() { _, err := from.Write(data); errc <- err }()
	got := make([]byte, n)
	_, rerr := io.ReadFull(to, got)
	if rerr == nil {
		rerr = <-errc
	}
	if rerr != nil {
		t.Fatal(rerr)
	}
	if !bytes.Equal(got, data) {
		t.Fatal("data differ")
	}
}

// resumes reports whether a new connection resumes; both ends must say so. Data
// goes over it, and so do session tickets.
func resumes(t testing.TB, client, server role, ccfg, scfg *tls.Config) bool {
	t.Helper()
	c, s := connect(t, client, server, ccfg, scfg)
	if c.state.DidResume != s.state.DidResume {
		t.Fatalf("the client resumed: %v, the server: %v", c.state.DidResume, s.state.DidResume)
	}
	handedOver(t, c, s)
	exchange(t, c, s)
	return c.state.DidResume
}

// handedOver checks that no end of ours fell back to passthrough, where data go
// over it all the same.
func handedOver(t testing.TB, ends ...*end) {
	t.Helper()
	for _, e := range ends {
		if e.result != nil && e.result.Passthrough != nil {
			t.Fatalf("passthrough: %v", e.result.Passthrough.Reason())
		}
	}
}

// isTimeout tells a connection that hangs from one that ends.
func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
