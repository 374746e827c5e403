package aftls_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/pion/dtls/v3"
)

// shake makes an association in memory. Either error is of the handshake.
func shake(t *testing.T, network *aftlstest.Lossy, ccfg, scfg *aftls.DatagramConfig) (c, s *aftls.DatagramConn, cerr, serr error) {
	t.Helper()
	type result struct {
		c   *aftls.DatagramConn
		err error
	}
	server := make(chan result, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	carrier := network.Dial("10.0.0.1:1", "10.0.0.2:2")
	go func() {
		c, err := aftls.DatagramServer(ctx, carrier, scfg, aftls.Options{})
		server <- result{c, err}
	}()
	c, cerr = aftls.DatagramClient(ctx, network.Dial("10.0.0.2:2", "10.0.0.1:1"), ccfg, aftls.Options{})
	r := <-server
	for _, x := range []*aftls.DatagramConn{c, r.c} {
		if x != nil {
			t.Cleanup(func() { x.Close() })
		}
	}
	return c, r.c, cerr, r.err
}

// datagramConfigs are those of a client and a server that trust each other. To
// be made where the time is what it will be.
func datagramConfigs(t testing.TB) (ca *aftlstest.CA, client, server *aftls.DatagramConfig) {
	ca = aftlstest.NewCA(t)
	return ca, &aftls.DatagramConfig{TLS: &tls.Config{RootCAs: ca.Pool, ServerName: "test.example"}},
		&aftls.DatagramConfig{TLS: &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, "test.example")}}}
}

func bothSay(t *testing.T, c, s net.Conn) {
	t.Helper()
	b := make([]byte, 100)
	for _, p := range [][2]net.Conn{{c, s}, {s, c}} {
		if _, err := p[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if n, err := p[1].Read(b); err != nil || string(b[:n]) != "hello" {
			t.Fatalf("%q, %v", b[:n], err)
		}
	}
}

// TestDatagramAgreements is what can be agreed on in a handshake of DTLS.
func TestDatagramAgreements(t *testing.T) {
	psk := func([]byte) ([]byte, error) { return []byte("a shared secret!"), nil }
	for name, test := range map[string]struct {
		set   func(ca *aftlstest.CA, c, s *aftls.DatagramConfig)
		check func(t *testing.T, c, s *aftls.DatagramConn)
	}{
		"nothing special": {func(*aftlstest.CA, *aftls.DatagramConfig, *aftls.DatagramConfig) {}, func(t *testing.T, c, s *aftls.DatagramConn) {
			cs := c.ConnectionState()
			if len(cs.PeerCertificates) != 2 || len(cs.VerifiedChains) != 1 || cs.PeerCertificates[0].DNSNames[0] != "test.example" || cs.DidResume {
				t.Errorf("%+v", cs)
			}
			if cs := s.ConnectionState(); len(cs.PeerCertificates) != 0 {
				t.Errorf("%+v", cs)
			}
		}},
		"ALPN": {func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) {
			c.TLS.NextProtos, s.TLS.NextProtos = []string{"one", "two"}, []string{"two", "three"}
		}, func(t *testing.T, c, s *aftls.DatagramConn) {
			if a, b := c.ConnectionState().NegotiatedProtocol, s.ConnectionState().NegotiatedProtocol; a != "two" || b != "two" {
				t.Errorf("%q, %q", a, b)
			}
		}},
		"client certificate": {func(ca *aftlstest.CA, c, s *aftls.DatagramConfig) {
			c.TLS.Certificates = s.TLS.Certificates
			s.TLS.ClientAuth, s.TLS.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool
		}, func(t *testing.T, c, s *aftls.DatagramConn) {
			if cs := s.ConnectionState(); len(cs.PeerCertificates) != 2 || len(cs.VerifiedChains) != 1 {
				t.Errorf("%+v", cs)
			}
		}},
		"certificates by callback": {func(ca *aftlstest.CA, c, s *aftls.DatagramConfig) {
			cert := s.TLS.Certificates[0]
			s.TLS.Certificates = nil
			s.TLS.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				if h.ServerName != "test.example" {
					return nil, errors.New("no such name")
				}
				return &cert, nil
			}
			c.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
			s.TLS.ClientAuth = tls.RequireAnyClientCert
			s.TLS.VerifyConnection = func(cs tls.ConnectionState) error {
				if len(cs.PeerCertificates) != 2 {
					return errors.New("no certificate")
				}
				return nil
			}
		}, func(t *testing.T, c, s *aftls.DatagramConn) {}},
		"PSK": {func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) {
			*c = aftls.DatagramConfig{PSK: psk, PSKIdentity: []byte("someone")}
			*s = aftls.DatagramConfig{PSK: psk, PSKIdentity: []byte("a hint")}
		}, func(t *testing.T, c, s *aftls.DatagramConn) {
			if id := s.Info().PSKIdentity; string(id) != "someone" {
				t.Errorf("identity %q", id)
			}
			if cs := c.ConnectionState(); len(cs.PeerCertificates) != 0 {
				t.Errorf("%+v", cs)
			}
		}},
		"SRTP": {func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) {
			c.SRTPProfiles, s.SRTPProfiles = []uint16{1, 7}, []uint16{7}
		}, func(t *testing.T, c, s *aftls.DatagramConn) {
			if a, b := c.Info().SRTPProfile, s.Info().SRTPProfile; a != 7 || b != 7 {
				t.Errorf("%d, %d", a, b)
			}
		}},
		"CID of the server": {func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) { s.CIDLen = 4 }, func(t *testing.T, c, s *aftls.DatagramConn) {
			if a, b := c.Info(), s.Info(); len(a.PeerCID) != 4 || len(a.CID) != 0 || !bytes.Equal(a.PeerCID, b.CID) {
				t.Errorf("%x, %x", a.PeerCID, b.CID)
			}
		}},
		"CID of the client": {func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) { c.CIDLen = 200 }, func(t *testing.T, c, s *aftls.DatagramConn) {
			if a, b := c.Info(), s.Info(); len(a.CID) != 200 || len(b.CID) != 0 || !bytes.Equal(a.CID, b.PeerCID) {
				t.Errorf("%x, %x", a.CID, b.PeerCID)
			}
		}},
		"CID not spoken of": {func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) { c.CIDLen, s.CIDLen = -1, 8 }, func(t *testing.T, c, s *aftls.DatagramConn) {
			if a, b := c.Info(), s.Info(); len(a.PeerCID) != 0 || len(b.CID) != 0 {
				t.Errorf("%x, %x", a.PeerCID, b.CID)
			}
		}},
		"P-384 and ChaCha20": {func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) {
			c.TLS.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768, tls.CurveP384}
			c.TLS.CipherSuites = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}
		}, func(t *testing.T, c, s *aftls.DatagramConn) {
			if id := c.ConnectionState().CipherSuite; id != tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 {
				t.Errorf("suite %#x", id)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, ccfg, scfg := datagramConfigs(t)
				test.set(ca, ccfg, scfg)
				c, s, cerr, serr := shake(t, aftlstest.NewLossy(1, aftlstest.Weather{}), ccfg, scfg)
				if cerr != nil || serr != nil {
					t.Fatal(cerr, serr)
				}
				bothSay(t, c, s)
				test.check(t, c, s)
				a, err := c.ExportKeyingMaterial("label", []byte("context"), 40)
				b, errb := s.ExportKeyingMaterial("label", []byte("context"), 40)
				other, errc := c.ExportKeyingMaterial("label", nil, 40)
				if err != nil || errb != nil || errc != nil || !bytes.Equal(a, b) || bytes.Equal(a, other) {
					t.Errorf("%x, %x, %x: %v, %v, %v", a, b, other, err, errb, errc)
				}
			})
		})
	}
}

// TestDatagramDisagreements is what a handshake has to fail of.
func TestDatagramDisagreements(t *testing.T) {
	key := func(s string) func([]byte) ([]byte, error) {
		return func([]byte) ([]byte, error) { return []byte(s), nil }
	}
	for name, set := range map[string]func(ca *aftlstest.CA, c, s *aftls.DatagramConfig){
		"authority":             func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) { c.TLS.RootCAs = x509.NewCertPool() },
		"name":                  func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) { c.TLS.ServerName = "other.example" },
		"no client certificate": func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) { s.TLS.ClientAuth = tls.RequireAnyClientCert },
		"client's authority": func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) {
			c.TLS.Certificates = s.TLS.Certificates
			s.TLS.ClientAuth, s.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		},
		"suites": func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) {
			c.TLS.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
			s.TLS.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}
		},
		"pre-shared key": func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) {
			*c = aftls.DatagramConfig{PSK: key("0123456789abcdef"), PSKIdentity: []byte("x")}
			*s = aftls.DatagramConfig{PSK: key("0123456789abcdeg")}
		},
		"certificate or key": func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) {
			*c = aftls.DatagramConfig{PSK: key("0123456789abcdef"), PSKIdentity: []byte("x")}
		},
		"verification": func(_ *aftlstest.CA, c, s *aftls.DatagramConfig) {
			c.TLS.VerifyConnection = func(tls.ConnectionState) error { return errors.New("I do not like it") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, ccfg, scfg := datagramConfigs(t)
				set(ca, ccfg, scfg)
				_, _, cerr, serr := shake(t, aftlstest.NewLossy(1, aftlstest.Weather{}), ccfg, scfg)
				// A client may be done before a server that does not like it has
				// said so, but not the other way round.
				if cerr == nil && serr == nil || cerr != nil && serr == nil {
					t.Errorf("client %v, server %v", cerr, serr)
				}
				for _, err := range []error{cerr, serr} {
					var op *net.OpError
					if err != nil && (!errors.As(err, &op) || op.Op != "handshake") {
						t.Errorf("%v", err)
					}
				}
			})
		})
	}
}

// What a Config asks for and DTLS cannot do is refused before anything is sent.
func TestDatagramConfigsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, set := range map[string]func(c, s *aftls.DatagramConfig){
			"DTLS 1.3": func(c, s *aftls.DatagramConfig) {
				c.TLS.MinVersion = tls.VersionTLS13
				s.TLS.MinVersion = tls.VersionTLS13
			},
			"only TLS 1.1": func(c, s *aftls.DatagramConfig) {
				c.TLS.MaxVersion = tls.VersionTLS11
				s.TLS.MaxVersion = tls.VersionTLS11
			},
			"no name":       func(c, s *aftls.DatagramConfig) { c.TLS.ServerName = ""; s.TLS.Certificates = nil },
			"CBC suites":    func(c, s *aftls.DatagramConfig) { c.TLS.CipherSuites = []uint16{0xc013}; s.TLS = nil },
			"no such curve": func(c, s *aftls.DatagramConfig) { c.TLS.CurvePreferences = []tls.CurveID{tls.CurveP521}; *s = *c },
			"long CID":      func(c, s *aftls.DatagramConfig) { c.CIDLen, s.CIDLen = 256, 256 },
			"ECH":           func(c, s *aftls.DatagramConfig) { c.TLS.EncryptedClientHelloConfigList = []byte{1}; *s = *c },
			"config chooser": func(c, s *aftls.DatagramConfig) {
				s.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil }
				*c = *s
			},
			"no identity": func(c, s *aftls.DatagramConfig) {
				*c = aftls.DatagramConfig{PSK: func([]byte) ([]byte, error) { return nil, nil }}
				s.TLS.Certificates = nil
			},
		} {
			_, ccfg, scfg := datagramConfigs(t)
			set(ccfg, scfg)
			network := aftlstest.NewLossy(1, aftlstest.Weather{})
			for i := range 3 {
				carrier := network.Dial("10.0.0.2:2", "10.0.0.1:1")
				carrier.Tap = func([]byte) { t.Errorf("%s: something was sent", name) }
				var err error
				switch i {
				case 0:
					_, err = aftls.DatagramClient(context.Background(), carrier, ccfg, aftls.Options{})
				case 1:
					_, err = aftls.DatagramServer(context.Background(), carrier, scfg, aftls.Options{})
				case 2:
					if name == "no such curve" { // is found when the first client comes
						continue
					}
					_, err = aftls.NewDatagramListener(carrier, scfg, aftls.Options{})
				}
				var op *net.OpError
				if err == nil || !errors.As(err, &op) {
					t.Errorf("%s, %d: %v", name, i, err)
				}
				if i < 2 || err != nil {
					if err := carrier.Close(); !errors.Is(err, net.ErrClosed) {
						t.Errorf("%s, %d: the carrier was left open: %v", name, i, err)
					}
				}
			}
		}
	})
}

// TestDatagramResumption resumes sessions, also where the client's last flight,
// which is then the last of all, is lost.
func TestDatagramResumption(t *testing.T) {
	for _, lose := range []int{0, 2} {
		synctest.Test(t, func(t *testing.T) {
			_, ccfg, scfg := datagramConfigs(t)
			ccfg.Sessions, scfg.Sessions = aftls.NewDatagramSessions(10), aftls.NewDatagramSessions(10)
			for i := range 3 {
				network := aftlstest.NewLossy(1, aftlstest.Weather{})
				server := network.Listen("10.0.0.1:1")
				l, err := aftls.NewDatagramListener(server, scfg, aftls.Options{})
				if err != nil {
					t.Fatal(err)
				}
				carrier := network.Dial("10.0.0.2:2", "10.0.0.1:1")
				lost := 0
				carrier.Lose = func(d []byte) bool {
					// A flight that begins with ChangeCipherSpec has no key exchange.
					if i > 0 && d[0] == 20 && lost < lose {
						lost++
						return true
					}
					return false
				}
				c, err := aftls.DatagramClient(context.Background(), carrier, ccfg, aftls.Options{})
				if err != nil {
					t.Fatal(err)
				}
				// The server asks for the flight again; somebody has to read.
				got := make(chan error, 1)
				go func() { _, err := c.Read(make([]byte, 10)); got <- err }()
				s, err := l.AcceptConn()
				if err != nil {
					t.Fatal(err)
				}
				s.Write([]byte("hello"))
				if err := <-got; err != nil {
					t.Fatal(err)
				}
				bothSay(t, c, s)
				if c.Info().Resumed != (i > 0) || s.Info().Resumed != (i > 0) || s.ConnectionState().DidResume != (i > 0) {
					t.Errorf("connection %d: resumed %v and %v", i, c.Info().Resumed, s.Info().Resumed)
				}
				if i > 0 && lost != lose {
					t.Errorf("%d flights were lost, not %d", lost, lose)
				}
				c.Close()
				l.Close()
			}
			if ccfg.Sessions.Len() != 1 || scfg.Sessions.Len() != 1 {
				t.Errorf("%d and %d sessions", ccfg.Sessions.Len(), scfg.Sessions.Len())
			}
		})
	}
}

// TestDatagramAgainstPion runs pion/dtls whole against our ends, in both roles.
func TestDatagramAgainstPion(t *testing.T) {
	w := aftlstest.Weather{Drop: 0.1, Duplicate: 0.1, Reorder: 0.1, Jitter: 3 * time.Millisecond}
	for _, cid := range []bool{false, true} {
		for seed := range uint64(8) {
			synctest.Test(t, func(t *testing.T) {
				ca, ccfg, scfg := datagramConfigs(t)
				both := []dtls.Option{dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret), dtls.WithDisableRetransmitBackoff(true)}
				if cid {
					ccfg.CIDLen, scfg.CIDLen = 8, 8
					both = append(both, dtls.WithConnectionIDGenerator(dtls.RandomCIDGenerator(5)))
				}
				var copts []dtls.ClientOption
				var sopts []dtls.ServerOption
				for _, o := range both {
					copts, sopts = append(copts, o), append(sopts, o)
				}
				copts = append(copts, dtls.WithRootCAs(ca.Pool), dtls.WithServerName("test.example"))
				sopts = append(sopts, dtls.WithCertificates(scfg.TLS.Certificates...))
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()

				network := aftlstest.NewLossy(seed, w)
				l, err := aftls.NewDatagramListener(network.Listen("10.0.0.1:1"), scfg, aftls.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				pc := network.Listen("10.0.0.2:2")
				client, err := dtls.ClientWithOptions(pc, l.Addr(), copts...)
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				if err := client.HandshakeContext(ctx); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				s, err := l.AcceptConn()
				if err != nil {
					t.Fatal(err)
				}
				persist(t, client, s)
				persist(t, s, client)

				network = aftlstest.NewLossy(seed, w)
				ps := network.Listen("10.0.0.1:1")
				server, err := dtls.ServerWithOptions(ps, &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 2}, sopts...)
				if err != nil {
					t.Fatal(err)
				}
				defer server.Close()
				shaken := make(chan error, 1)
				go func() { shaken <- server.HandshakeContext(ctx) }()
				c, err := aftls.DatagramClient(ctx, network.Dial("10.0.0.2:2", "10.0.0.1:1"), ccfg, aftls.Options{})
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				defer c.Close()
				if err := <-shaken; err != nil {
					t.Fatal(err)
				}
				persist(t, c, server)
				persist(t, server, c)
			})
		}
	}
}

// persist writes until the message is read at the other end.
func persist(t *testing.T, from, to net.Conn) {
	t.Helper()
	b := make([]byte, 100)
	for range 60 {
		if _, err := from.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		to.SetReadDeadline(time.Now().Add(time.Second))
		n, err := to.Read(b)
		if err == nil && string(b[:n]) == "hello" {
			to.SetReadDeadline(time.Time{})
			return
		}
		var ne net.Error
		if err != nil && !(errors.As(err, &ne) && ne.Timeout()) {
			t.Fatal(err)
		}
	}
	t.Fatal("nothing arrives")
}

// A peer without the extended master secret is refused (RFC 7627).
func TestDatagramNeedsExtendedMasterSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, _, scfg := datagramConfigs(t)
		network := aftlstest.NewLossy(1, aftlstest.Weather{})
		failed := make(chan error, 1)
		l, err := aftls.NewDatagramListener(network.Listen("10.0.0.1:1"), scfg, aftls.Options{HandshakeError: func(_ net.Addr, err error) { failed <- err }})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		client, err := dtls.ClientWithOptions(network.Listen("10.0.0.2:2"), l.Addr(), dtls.WithRootCAs(ca.Pool), dtls.WithServerName("test.example"), dtls.WithExtendedMasterSecret(dtls.DisableExtendedMasterSecret))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := client.HandshakeContext(ctx); err == nil {
			t.Error("the handshake succeeded")
		}
		if err := <-failed; !strings.Contains(err.Error(), "Extended Master Secret") {
			t.Error(err)
		}
	})
}

// countingSigner counts what the key is asked for.
type countingSigner struct {
	crypto.Signer
	n atomic.Int64
}

func (s *countingSigner) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.n.Add(1)
	return s.Signer.Sign(r, digest, opts)
}

// Before a peer has proven its address there is one answer, shorter than what it
// sent, no signature, and no more than so much memory.
func TestDatagramClientHelloCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ccfg, scfg := datagramConfigs(t)
		network := aftlstest.NewLossy(1, aftlstest.Weather{})
		cert := scfg.TLS.Certificates[0]
		signer := &countingSigner{Signer: cert.PrivateKey.(crypto.Signer)}
		scfg.TLS.Certificates = []tls.Certificate{{Certificate: cert.Certificate, PrivateKey: signer}}
		carrier := network.Listen("10.0.0.1:1")
		var mu sync.Mutex
		var answers, longest int
		carrier.Tap = func(d []byte) {
			mu.Lock()
			defer mu.Unlock()
			answers++
			longest = max(longest, len(d))
		}
		l, err := aftls.NewDatagramListener(carrier, scfg, aftls.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var hello []byte
		client := network.Dial("10.0.0.2:2", "10.0.0.9:1")
		client.Tap = func(d []byte) { hello = bytes.Clone(d) }
		ctx, cancel := context.WithTimeout(context.Background(), time.Second/2)
		defer cancel()
		aftls.DatagramClient(ctx, client, ccfg, aftls.Options{}) // to nobody, for its ClientHello
		const count = 1000
		_, before := settle()
		for i := range count {
			network.Inject(net.JoinHostPort(net.IPv4(10, 1, byte(i>>8), byte(i)).String(), "1"), "10.0.0.1:1", hello)
		}
		synctest.Wait()
		_, after := settle()
		if n := l.Info().Handshakes; n != count {
			t.Fatalf("%d handshakes", n)
		}
		each := int(int64(after)-int64(before)) / count
		t.Logf("%d answers of at most %d bytes to ClientHellos of %d; %d bytes for each", answers, longest, len(hello), each)
		if answers > count || longest >= len(hello) || signer.n.Load() != 0 {
			t.Errorf("%d answers of up to %d bytes, %d signatures", answers, longest, signer.n.Load())
		}
		if each > 64<<10 {
			t.Errorf("%d bytes for each", each)
		}
		// The same hello again gets no second one, whatever its number.
		time.Sleep(25 * time.Second)
		synctest.Wait()
		if answers > count {
			t.Errorf("%d answers after a while", answers)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := l.Info().Handshakes; n != 0 {
			t.Errorf("%d handshakes are left after their time", n)
		}
	})
}

// settle collects garbage until the goroutines that are about to end have done so.
func settle() (goroutines int, heap uint64) {
	var m runtime.MemStats
	for range 5 {
		runtime.GC()
		time.Sleep(20 * time.Millisecond)
	}
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), m.HeapAlloc + m.StackInuse
}
