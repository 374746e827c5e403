package handover

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/aftls/aftls/record"
)

// failing runs handshakes that must fail on both ends.
func failing(t *testing.T, client, server role, ccfg, scfg *tls.Config) (cerr, serr error) {
	t.Helper()
	a, b := tcpPair(t)
	_, _, cerr, serr = handshakes(a, b, client, server, ccfg, scfg)
	if cerr == nil || serr == nil || isTimeout(cerr) || isTimeout(serr) {
		t.Fatalf("client: %v; server: %v", cerr, serr)
	}
	return cerr, serr
}

// remote checks that err is the alert of the other side, as crypto/tls reports it.
func remote(t *testing.T, err error) {
	t.Helper()
	if e, ok := errors.AsType[*net.OpError](err); !ok || e.Op != "remote error" {
		t.Errorf("%v (%T) is not the alert of the peer", err, err)
	}
}

func TestUntrustedServer(t *testing.T) {
	for _, p := range pairings {
		t.Run(p.name, func(t *testing.T) {
			ccfg, scfg := configs(t)
			ccfg.RootCAs = newAuthority(t).pool
			cerr, serr := failing(t, p.client, p.server, ccfg, scfg)
			if _, ok := errors.AsType[*tls.CertificateVerificationError](cerr); !ok {
				t.Errorf("client: %v (%T)", cerr, cerr)
			}
			if _, ok := errors.AsType[x509.UnknownAuthorityError](cerr); !ok {
				t.Errorf("client: %v (%T)", cerr, cerr)
			}
			remote(t, serr)
		})
	}
}

func TestWrongName(t *testing.T) {
	ccfg, scfg := configs(t)
	ccfg.ServerName = "other.example"
	cerr, serr := failing(t, ourClient, ourServer, ccfg, scfg)
	if e, ok := errors.AsType[x509.HostnameError](cerr); !ok || e.Host != "other.example" {
		t.Errorf("client: %v (%T)", cerr, cerr)
	}
	remote(t, serr)
}

func TestUntrustedClient(t *testing.T) {
	ccfg, scfg := configs(t)
	ccfg.MaxVersion = tls.VersionTLS12 // in TLS 1.3 the client is done before the server refuses
	ccfg.Certificates = []tls.Certificate{newAuthority(t).leaf(t, "client")}
	scfg.ClientAuth, scfg.ClientCAs = tls.RequireAndVerifyClientCert, newAuthority(t).pool
	ccfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &ccfg.Certificates[0], nil }
	cerr, serr := failing(t, ourClient, ourServer, ccfg, scfg)
	if _, ok := errors.AsType[*tls.CertificateVerificationError](serr); !ok {
		t.Errorf("server: %v (%T)", serr, serr)
	}
	remote(t, cerr)
}

func TestNoCommonVersion(t *testing.T) {
	for _, p := range pairings {
		t.Run(p.name, func(t *testing.T) {
			ccfg, scfg := configs(t)
			ccfg.MaxVersion, scfg.MinVersion = tls.VersionTLS12, tls.VersionTLS13
			cerr, serr := failing(t, p.client, p.server, ccfg, scfg)
			remote(t, cerr)
			if serr == nil || isTimeout(serr) {
				t.Errorf("server: %v", serr)
			}
		})
	}
}

func TestNoCommonALPN(t *testing.T) {
	ccfg, scfg := configs(t)
	ccfg.NextProtos, scfg.NextProtos = []string{"a"}, []string{"b"}
	cerr, _ := failing(t, ourClient, ourServer, ccfg, scfg)
	remote(t, cerr)
}

// A nil Config is a mistake with an answer, not a crash.
func TestNilConfig(t *testing.T) {
	for _, x := range []struct {
		name string
		run  role
	}{{"client", ourClient}, {"server", ourServer}} {
		t.Run(x.name, func(t *testing.T) {
			a, b := tcpPair(t)
			if x.name == "server" {
				ccfg, _ := configs(t)
				go theirClient(b, ccfg)
			}
			if _, err := x.run(a, nil); err == nil || isTimeout(err) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// Somebody speaks another protocol. What crypto/tls offers then for an answer in
// that protocol, net/http does so, has to be the user's own connection.
func TestNotTLS(t *testing.T) {
	for _, x := range []struct {
		name, sent string
		run        role
	}{
		{"HTTP to a server", "GET / HTTP/1.1\r\nHost: test.example\r\n\r\n", ourServer},
		{"SSH to a client", "SSH-2.0-test\r\n", ourClient},
	} {
		t.Run(x.name, func(t *testing.T) {
			a, b := tcpPair(t)
			if _, err := io.WriteString(b, x.sent); err != nil {
				t.Fatal(err)
			}
			ccfg, scfg := configs(t)
			cfg := scfg
			var err error
			if x.name == "SSH to a client" {
				cfg = ccfg
				_, err = Client(context.Background(), a, cfg)
			} else {
				_, err = Server(context.Background(), a, a, cfg)
			}
			e, ok := errors.AsType[tls.RecordHeaderError](err)
			if !ok {
				t.Fatalf("%v (%T) is not a tls.RecordHeaderError", err, err)
			}
			if want := []byte(x.sent[:5]); !bytes.Equal(e.RecordHeader[:], want) {
				t.Errorf("header %q, want %q", e.RecordHeader[:], want)
			}
			if e.Conn != nil && e.Conn != a {
				t.Errorf("Conn is %T, not the user's", e.Conn)
			}
			if x.name == "HTTP to a server" && e.Conn == nil {
				t.Error("Conn is nil: the client cannot be answered")
			}
		})
	}
}

// Bytes that are framed as TLS but mean nothing.
func TestGarbage(t *testing.T) {
	_, scfg := configs(t)
	for name, sent := range map[string][]byte{
		"handshake of noise":  append([]byte{22, 3, 1, 0, 32}, bytes.Repeat([]byte{0xa5}, 32)...),
		"application data":    {23, 3, 3, 0, 1, 0},
		"alert":               {21, 3, 1, 0, 2, 2, 40},
		"empty handshake":     {22, 3, 1, 0, 0, 22, 3, 1, 0, 0},
		"oversized record":    {22, 3, 1, 0xff, 0xff},
		"end inside a record": {22, 3, 1, 0, 32, 1, 0, 0},
		"end inside a header": {22, 3, 1},
		"nothing at all":      {},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := tcpPair(t)
			if _, err := b.Write(sent); err != nil {
				t.Fatal(err)
			}
			b.(*net.TCPConn).CloseWrite()
			if _, err := ourServer(a, scfg); err == nil || isTimeout(err) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A context that ends, ends the handshake.
func TestContext(t *testing.T) {
	ccfg, scfg := configs(t)
	for _, x := range []struct {
		name string
		run  func(ctx context.Context, c net.Conn) (Result, error)
	}{
		{"client", func(ctx context.Context, c net.Conn) (Result, error) { return Client(ctx, c, ccfg) }},
		{"server", func(ctx context.Context, c net.Conn) (Result, error) { return Server(ctx, c, c, scfg) }},
	} {
		t.Run(x.name, func(t *testing.T) {
			a, _ := tcpPair(t) // the other end says nothing
			ctx, cancel := context.WithCancel(context.Background())
			reads := &signalConn{Conn: a, reading: make(chan struct{})}
			go func() {
				<-reads.reading
				cancel()
			}()
			if _, err := x.run(ctx, reads); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		t.Run(x.name+" before", func(t *testing.T) {
			a, _ := tcpPair(t)
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if _, err := x.run(ctx, a); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}

// A context that ends after the handshake changes nothing.
func TestContextAfterwards(t *testing.T) {
	ccfg, scfg := configs(t)
	ctx, cancel := context.WithCancel(context.Background())
	client := func(conn net.Conn, cfg *tls.Config) (*end, error) { return newEnd(conn)(Client(ctx, conn, cfg)) }
	server := func(conn net.Conn, cfg *tls.Config) (*end, error) { return newEnd(conn)(Server(ctx, conn, conn, cfg)) }
	c, s := connect(t, client, server, ccfg, scfg)
	cancel()
	exchange(t, c, s)
}

// signalConn says when it is read for the first time.
type signalConn struct {
	net.Conn
	reading chan struct{}
	once    bool
}

func (c *signalConn) Read(p []byte) (int, error) {
	if !c.once {
		c.once = true
		close(c.reading)
	}
	return c.Conn.Read(p)
}

// A peer that dies at any point of the handshake is an error on our side, not
// a hang and not a connection.
func TestCutHandshake(t *testing.T) {
	ccfg, scfg := configs(t)
	for _, x := range []struct {
		name        string
		ours, other role
		cfg, ocfg   *tls.Config
	}{
		{"client", ourClient, theirServer, ccfg, scfg},
		{"server", ourServer, theirClient, scfg, ccfg},
	} {
		t.Run(x.name, func(t *testing.T) {
			for cut := 0; cut < 1200; cut += 97 {
				a, b := tcpPair(t)
				done := make(chan struct{})
				go func() { x.other(b, x.ocfg); close(done) }()
				if _, err := x.ours(&cutConn{a, cut}, x.cfg); err == nil || isTimeout(err) {
					t.Errorf("cut after %d bytes: %v", cut, err)
				}
				a.Close()
				<-done
			}
		})
	}
}

// cutConn ends after so many bytes were read from it.
type cutConn struct {
	net.Conn
	left int
}

func (c *cutConn) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// A client that offers early data (RFC 8446, 4.2.10) is refused as crypto/tls
// refuses it: with unsupported_extension.
func TestEarlyDataIsRefused(t *testing.T) {
	ccfg, scfg := configs(t)
	var out bytes.Buffer
	tls.Client(&onlyWrites{w: &out}, ccfg).Handshake()
	hello := out.Bytes()
	const fixed = record.HeaderLen + 4 + 2 + 32 // headers, version, random
	at := fixed + 1 + int(hello[fixed])         // session id
	at += 2 + int(binary.BigEndian.Uint16(hello[at:]))
	at += 1 + int(hello[at]) // compression methods
	more := func(at int) { binary.BigEndian.PutUint16(hello[at:], binary.BigEndian.Uint16(hello[at:])+4) }
	more(at) // of the extensions, of the message, of the record
	more(record.HeaderLen + 2)
	more(record.HeaderLen - 2)
	hello = append(hello, 0, 42, 0, 0)
	for _, r := range serverRoles {
		t.Run(r.name, func(t *testing.T) {
			a, b := tcpPair(t)
			if _, err := a.Write(hello); err != nil {
				t.Fatal(err)
			}
			_, err := r.server(b, scfg)
			if err == nil || !strings.Contains(err.Error(), "early data") {
				t.Errorf("error %v", err)
			}
			if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, []byte{21, 3, 3, 0, 2, 2, 110}) {
				t.Errorf("answered with %x, %v", got, err)
			}
		})
	}
}

// onlyWrites is a connection that ends before it brings anything.
type onlyWrites struct {
	net.Conn
	w io.Writer
}

func (c *onlyWrites) Write(p []byte) (int, error) { return c.w.Write(p) }
func (c *onlyWrites) Read([]byte) (int, error)    { return 0, io.EOF }
func (c *onlyWrites) Close() error                { return nil }
