package aftls_test

import (
	"crypto/tls"
	"errors"
	"io"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
)

func TestOpenSSLClientCertificate(t *testing.T) {
	aftlstest.Need(t, "openssl")
	const certificateRequired = 116
	id, user := ecdsaIdentity(t), ecdsaIdentity(t)
	for _, v := range versions {
		scfg := id.server()
		scfg.ClientAuth, scfg.ClientCAs = tls.RequireAndVerifyClientCert, user.pool
		t.Run(v.name+"/client", func(t *testing.T) {
			s := serve(t, scfg, aftls.Options{}, echo)
			p := sClient(t, id, s.addr, flag(v.id), "-cert", user.certFile, "-key", user.keyFile)
			p.Say("hello\n")
			p.Expect("hello\n")
			c := s.next()
			wantSocket(t, c.Conn, v.id, 0)
			cs := c.ConnectionState()
			if len(cs.VerifiedChains) != 1 || string(cs.PeerCertificates[0].Raw) != string(user.cert.Certificate[0]) {
				t.Fatal("not the client's certificate")
			}
			p.Say("Q\n")
			c.wantEOF()
		})
		t.Run(v.name+"/client without", func(t *testing.T) {
			s := serve(t, scfg, aftls.Options{}, echo)
			// In TLS 1.3 the client believes in the connection until the alert comes.
			p := aftlstest.Command{Name: "openssl", Args: sClientArgs(id, s.addr, []string{flag(v.id)})}.Start(t)
			if err := s.refused(); err == nil {
				t.Fatal("no error")
			}
			p.Expect("SSL alert number (40|42|116)")
		})
		verify := []string{flag(v.id), "-naccept", "1", "-Verify", "1", "-verify_return_error", "-CAfile", user.caFile}
		t.Run(v.name+"/server", func(t *testing.T) {
			p, addr := sServer(t, id, verify...)
			ccfg := id.client()
			ccfg.Certificates = []tls.Certificate{user.cert}
			c := dial(t, addr, ccfg, aftls.Options{})
			say(t, c, "hello\n")
			p.Expect("Client certificate")
			p.Expect("hello\n")
			p.Say("back\n")
			wantLine(t, c, "back\n")
		})
		t.Run(v.name+"/server without", func(t *testing.T) {
			_, addr := sServer(t, id, verify...)
			c, err := tryDial(addr, id.client(), aftls.Options{})
			if v.id == tls.VersionTLS12 {
				if err == nil {
					t.Fatal("the handshake succeeded")
				}
				return
			}
			// TLS 1.3: the client is done before the server has judged it.
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.Read(make([]byte, 1))
			wantAlert(t, err, certificateRequired)
		})
	}
}

func TestOpenSSLHelloRetryRequest(t *testing.T) {
	aftlstest.Need(t, "openssl")
	id := ecdsaIdentity(t)
	t.Run("client", func(t *testing.T) {
		scfg := id.server()
		scfg.CurvePreferences = []tls.CurveID{tls.CurveP521}
		s := serve(t, scfg, aftls.Options{}, echo)
		p := sClient(t, id, s.addr, "-tls1_3")
		p.Say("hello\n")
		p.Expect("hello\n")
		c := s.next()
		wantSocket(t, c.Conn, tls.VersionTLS13, 0)
		if cs := c.ConnectionState(); !cs.HelloRetryRequest || cs.CurveID != tls.CurveP521 {
			t.Fatalf("retry %v, curve %v", cs.HelloRetryRequest, cs.CurveID)
		}
		p.Say("Q\n")
		c.wantEOF()
	})
	t.Run("server", func(t *testing.T) {
		p, addr := sServer(t, id, "-tls1_3", "-groups", "P-521")
		c := dial(t, addr, id.client(), aftls.Options{})
		say(t, c, "hello\n")
		p.Expect("hello\n")
		p.Say("back\n")
		wantLine(t, c, "back\n")
		wantSocket(t, c, tls.VersionTLS13, 0)
		if cs := c.ConnectionState(); !cs.HelloRetryRequest || cs.CurveID != tls.CurveP521 {
			t.Fatalf("retry %v, curve %v", cs.HelloRetryRequest, cs.CurveID)
		}
	})
}

func TestOpenSSLApplicationProtocol(t *testing.T) {
	aftlstest.Need(t, "openssl")
	id := ecdsaIdentity(t)
	for _, v := range versions {
		t.Run(v.name+"/client", func(t *testing.T) {
			scfg := id.server()
			scfg.NextProtos = []string{"other", "echo"}
			s := serve(t, scfg, aftls.Options{}, echo)
			p := sClient(t, id, s.addr, flag(v.id), "-alpn", "unknown,echo")
			if c := s.next(); c.ConnectionState().NegotiatedProtocol != "echo" {
				t.Fatalf("got %q", c.ConnectionState().NegotiatedProtocol)
			}
			p.Say("hello\n")
			p.Expect("hello\n")
		})
		t.Run(v.name+"/server", func(t *testing.T) {
			p, addr := sServer(t, id, flag(v.id), "-alpn", "unknown,echo")
			ccfg := id.client()
			ccfg.NextProtos = []string{"other", "echo"}
			c := dial(t, addr, ccfg, aftls.Options{})
			if got := c.ConnectionState().NegotiatedProtocol; got != "echo" {
				t.Fatalf("got %q", got)
			}
			say(t, c, "hello\n")
			p.Expect("hello\n")
		})
	}
}

// A bit that flips on the way kills the connection on both sides: who finds it
// sends bad_record_mac, and the other one reports it.
func TestOpenSSLBadRecord(t *testing.T) {
	aftlstest.Need(t, "openssl")
	id := ecdsaIdentity(t)
	soft := aftls.Options{Provider: aftls.Soft} // the kernel lets no alert out behind such a record
	const opensslFound, opensslTold = "decryption failed or bad record mac", "SSL alert number 20"
	ours := func(t *testing.T, err error) {
		t.Helper()
		if e, ok := errors.AsType[*aftls.PeerError](err); !ok || e.Alert != record.BadRecordMAC {
			t.Fatalf("got %v, want a PeerError with bad_record_mac", err)
		}
	}
	for _, v := range versions {
		for _, toUs := range []bool{true, false} {
			name := "/from us"
			if toUs {
				name = "/to us"
			}
			t.Run(v.name+name+"/client", func(t *testing.T) {
				s := serve(t, id.server(), soft, echo)
				r := startWiretap(t, s.addr)
				p := sClient(t, id, r.addr, flag(v.id))
				c := s.next()
				p.Say("one\n")
				p.Expect("one\n")
				if toUs {
					r.forth.flip.Store(true)
					p.Say("two\n")
					ours(t, c.end())
					p.Expect(opensslTold)
				} else {
					r.back.flip.Store(true)
					p.Say("two\n")
					p.Expect(opensslFound)
					wantAlert(t, c.end(), record.BadRecordMAC)
				}
				if _, err := c.Write([]byte("x")); err == nil {
					t.Fatal("the connection still writes")
				}
			})
			t.Run(v.name+name+"/server", func(t *testing.T) {
				p, addr := sServer(t, id, flag(v.id), "-naccept", "1")
				r := startWiretap(t, addr)
				c := dial(t, r.addr, id.client(), soft)
				say(t, c, "one\n")
				p.Expect("one\n")
				p.Say("back\n")
				wantLine(t, c, "back\n") // the tickets have passed too
				if toUs {
					r.back.flip.Store(true)
					p.Say("two\n")
					_, err := c.Read(make([]byte, 1))
					ours(t, err)
					p.Expect(opensslTold)
				} else {
					r.forth.flip.Store(true)
					say(t, c, "two\n")
					p.Expect(opensslFound)
					_, err := c.Read(make([]byte, 1))
					wantAlert(t, err, record.BadRecordMAC)
				}
				if _, err := c.Write([]byte("x")); err == nil {
					t.Fatal("the connection still writes")
				}
			})
		}
	}
}

func TestOpenSSLSmallRecords(t *testing.T) {
	aftlstest.Need(t, "openssl")
	id := ecdsaIdentity(t)
	const n = 1 << 20
	fragment := []string{"-max_send_frag", "512", "-split_send_frag", "512"}
	for _, v := range versions {
		args := append([]string{flag(v.id)}, fragment...)
		t.Run(v.name+"/client", func(t *testing.T) {
			out, in := payload(t, n), payload(t, n)
			s := serveExchange(t, id.server(), aftls.Options{}, out, in)
			pipeClient(t, id, s.addr, out, in, args...)
			c := s.next()
			c.wantEOF()
			if got := c.Info().Receive; got.Records < n/512 || got.Bytes != n {
				t.Fatalf("%d bytes in %d records", got.Bytes, got.Records)
			}
		})
		t.Run(v.name+"/server", func(t *testing.T) {
			c := pipeServer(t, id, id.client(), aftls.Options{}, direct, n, args...)
			if got := c.Info().Receive; got.Records < n/512 || got.Bytes != n {
				t.Fatalf("%d bytes in %d records", got.Bytes, got.Records)
			}
		})
	}
}

// Both sides pad: OpenSSL pads the content, we do so too, and the content type
// and the tag come on top.
func TestOpenSSLPadding(t *testing.T) {
	aftlstest.Need(t, "openssl")
	id := ecdsaIdentity(t)
	const n, block = 300_001, 512
	padded := func(t *testing.T, what string, lengths []int) {
		t.Helper()
		if len(lengths) < n/16384 {
			t.Fatalf("%s: %d records only", what, len(lengths))
		}
		odd := 0
		for _, l := range lengths {
			if l -= record.TagLen; l%block > 1 {
				odd++
			}
		}
		if odd > 5 { // those of the handshake, and our ticket
			t.Errorf("%s: %d of %d records have no padded length", what, odd, len(lengths))
		}
	}
	opt := aftls.Options{Padding: block}
	t.Run("client", func(t *testing.T) {
		out, in := payload(t, n), payload(t, n)
		s := serveExchange(t, id.server(), opt, out, in)
		r := startWiretap(t, s.addr)
		pipeClient(t, id, r.addr, out, in, "-tls1_3", "-record_padding", "512")
		s.next().wantEOF()
		padded(t, "OpenSSL's", r.forth.seen())
		padded(t, "ours", r.back.seen())
	})
	t.Run("server", func(t *testing.T) {
		var r *wiretap
		via := func(addr string) string { r = startWiretap(t, addr); return r.addr }
		pipeServer(t, id, id.client(), opt, via, n, "-tls1_3", "-record_padding", "512")
		padded(t, "OpenSSL's", r.back.seen())
		padded(t, "ours", r.forth.seen())
	})
}

// What no socket serves stays with crypto/tls, and is as good a connection.
func TestOpenSSLPassthrough(t *testing.T) {
	aftlstest.Need(t, "openssl")
	id := ecdsaIdentity(t)
	const n = 300_000
	const level0 = ":@SECLEVEL=0"
	for _, test := range []struct {
		name    string
		version uint16
		cipher  string
		id      uint16
	}{
		{"TLS1.2 AES128-SHA", tls.VersionTLS12, "ECDHE-ECDSA-AES128-SHA", tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA},
		{"TLS1.2 AES256-SHA", tls.VersionTLS12, "ECDHE-ECDSA-AES256-SHA", tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA},
		{"TLS1.2 AES128-SHA256", tls.VersionTLS12, "ECDHE-ECDSA-AES128-SHA256", tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256},
		{"TLS1.1", tls.VersionTLS11, "ECDHE-ECDSA-AES128-SHA" + level0, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA},
		{"TLS1.0", tls.VersionTLS10, "ECDHE-ECDSA-AES128-SHA" + level0, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA},
	} {
		ccfg, scfg := id.client(), id.server()
		for _, cfg := range []*tls.Config{ccfg, scfg} {
			cfg.MinVersion, cfg.CipherSuites = tls.VersionTLS10, []uint16{test.id}
		}
		args := []string{flag(test.version), "-cipher", test.cipher}
		passes := func(t *testing.T, c *aftls.Conn) {
			t.Helper()
			i := c.Info()
			if i.Send.Provider != aftls.Passthrough || i.Send.Version != test.version || i.Send.Suite != test.id || i.Send.Reason == "" {
				t.Fatalf("got %+v", i.Send)
			}
		}
		t.Run(test.name+"/client", func(t *testing.T) {
			out, in := payload(t, n), payload(t, n)
			s := serveExchange(t, scfg, aftls.Options{}, out, in)
			r := startWiretap(t, s.addr)
			pipeClient(t, id, r.addr, out, in, args...)
			c := s.next()
			c.wantEOF()
			passes(t, c.Conn)
			// OpenSSL sends a record without data in front of every other
			// one where CBC has no IV of its own: a MAC and padding.
			empty := 0
			for _, l := range r.forth.seen() {
				if l == 32 {
					empty++
				}
			}
			if test.version == tls.VersionTLS10 && empty < 10 {
				t.Fatalf("OpenSSL sent %d records without data", empty)
			}
		})
		t.Run(test.name+"/client killed", func(t *testing.T) {
			s := serve(t, scfg, aftls.Options{}, echo)
			p := sClient(t, id, s.addr, args...)
			p.Say("last\n")
			p.Expect("last\n")
			p.Kill()
			if err := s.next().end(); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("ended with %v, want a truncated stream", err)
			}
		})
		t.Run(test.name+"/server", func(t *testing.T) {
			c := pipeServer(t, id, ccfg, aftls.Options{}, direct, n, args...)
			passes(t, c)
			if err := c.Rekey(false); !errors.Is(err, aftls.ErrPassthrough) {
				t.Fatalf("Rekey: %v", err)
			}
		})
		t.Run(test.name+"/refused", func(t *testing.T) {
			s := serve(t, scfg, aftls.Options{RequireSocket: true}, echo)
			aftlstest.Command{Name: "openssl", Args: sClientArgs(id, s.addr, args)}.Start(t)
			if err := s.refused(); !errors.Is(err, aftls.ErrPassthrough) {
				t.Fatalf("got %v, want ErrPassthrough", err)
			}
		})
	}
}
