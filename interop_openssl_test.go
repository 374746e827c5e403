package aftls_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/record"
)

// The interactive letters of s_client and s_server count only at the start of
// what they read at once: a test says nothing more before it has seen the
// answer to a letter. What s_client says of a session goes through a buffer, and
// data do not: they come in the middle of it, so lines have no start.

func sClientArgs(id identity, addr string, args []string) []string {
	return append([]string{"s_client", "-connect", addr, "-CAfile", id.caFile,
		"-verify_return_error", "-servername", interopName}, args...)
}

// sClient starts an interactive client and waits for its handshake.
func sClient(t *testing.T, id identity, addr string, args ...string) *aftlstest.Program {
	t.Helper()
	p := aftlstest.Command{Name: "openssl", Args: sClientArgs(id, addr, args)}.Start(t)
	p.Expect(`Verify return code: 0 \(ok\)`)
	return p
}

func sServerArgs(id identity, addr string, args []string) []string {
	return append([]string{"s_server", "-accept", addr, "-cert", id.certFile, "-key", id.keyFile,
		"-cert_chain", id.certFile}, args...)
}

// sServer starts an interactive server and returns its address.
func sServer(t *testing.T, id identity, args ...string) (p *aftlstest.Program, addr string) {
	t.Helper()
	p = aftlstest.Command{Name: "openssl", Args: sServerArgs(id, "127.0.0.1:0", args)}.Start(t)
	return p, p.Expect(`ACCEPT (127\.0\.0\.1:\d+)`)[1]
}

// flag is the option of openssl that asks for a version.
func flag(version uint16) string {
	return map[uint16]string{
		tls.VersionTLS10: "-tls1", tls.VersionTLS11: "-tls1_1", tls.VersionTLS12: "-tls1_2", tls.VersionTLS13: "-tls1_3",
	}[version]
}

// serveExchange sends out and takes in on every connection, and then ends it
// in order.
func serveExchange(t *testing.T, config *tls.Config, opt aftls.Options, out, in []byte) *server {
	t.Helper()
	return serve(t, config, opt, func(c *aftls.Conn) error {
		if err := exchange(c, out, in); err != nil {
			return err
		}
		if err := c.CloseWrite(); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 1))
		return err
	})
}

// pipeClient lets s_client send in and compares what it received with out.
func pipeClient(t *testing.T, id identity, addr string, out, in []byte, args ...string) {
	t.Helper()
	var got bytes.Buffer
	p := aftlstest.Command{Name: "openssl", Args: sClientArgs(id, addr, append(args, "-quiet")),
		Stdin: bytes.NewReader(in), Stdout: &got}.Start(t)
	if err := p.Wait(); err != nil {
		t.Errorf("s_client ended with: %v", err)
	}
	if !bytes.Equal(got.Bytes(), out) {
		t.Fatalf("s_client got other bytes than were sent, %d instead of %d", got.Len(), len(out))
	}
}

// pipeServer exchanges data with an s_server, and returns the connection, which
// both have ended in order.
func pipeServer(t *testing.T, id identity, config *tls.Config, opt aftls.Options, via func(addr string) string, n int, args ...string) *aftls.Conn {
	t.Helper()
	out, in := payload(t, n), payload(t, n)
	addr := "127.0.0.1:" + freePort(t)
	var got bytes.Buffer
	p := aftlstest.Command{Name: "openssl", Args: sServerArgs(id, addr, append(args, "-quiet", "-naccept", "1")),
		Stdout: &got}.Start(t)
	// Its input stays open: at the end of it s_server -quiet only burns time.
	go p.Write(in)
	c := dial(t, via(addr), config, opt)
	if err := exchange(c, out, in); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("read %d, %v; want EOF", n, err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("s_server ended with: %v", err)
	}
	if !bytes.Equal(got.Bytes(), out) {
		t.Fatalf("s_server got other bytes than were sent, %d instead of %d", got.Len(), len(out))
	}
	return c
}

func direct(addr string) string { return addr }

func TestOpenSSLSuites(t *testing.T) {
	opensslSuites(t, aftls.Options{}, func(*testing.T, *aftls.Conn) {})
}

// opensslSuites tries every suite in both roles.
func opensslSuites(t *testing.T, opt aftls.Options, ended func(*testing.T, *aftls.Conn)) {
	aftlstest.Need(t, "openssl")
	ec, rsa := ecdsaIdentity(t), rsaIdentity(t)
	const n = 200_000
	for _, suite := range suites {
		id := ec
		if suite.rsa {
			id = rsa
		}
		args := []string{"-tls1_3", "-ciphersuites", suite.name}
		ccfg, scfg := id.client(), id.server()
		if suite.version == tls.VersionTLS12 {
			args = []string{"-tls1_2", "-cipher", suite.name}
			ccfg.CipherSuites, scfg.CipherSuites = []uint16{suite.id}, []uint16{suite.id}
		}
		t.Run(suite.name+"/client", func(t *testing.T) {
			out, in := payload(t, n), payload(t, n)
			s := serveExchange(t, scfg, opt, out, in)
			pipeClient(t, id, s.addr, out, in, args...)
			c := s.next()
			c.wantEOF()
			wantSocket(t, c.Conn, suite.version, suite.id)
			ended(t, c.Conn)
		})
		t.Run(suite.name+"/server", func(t *testing.T) {
			c := pipeServer(t, id, ccfg, opt, direct, n, args...)
			wantSocket(t, c, suite.version, suite.id)
			ended(t, c)
		})
	}
}

func TestOpenSSLLarge(t *testing.T) {
	aftlstest.Need(t, "openssl")
	id := ecdsaIdentity(t)
	const n = 6<<20 + 12345
	for _, v := range versions {
		t.Run(v.name+"/client", func(t *testing.T) {
			out, in := payload(t, n), payload(t, n)
			s := serveExchange(t, id.server(), aftls.Options{}, out, in)
			pipeClient(t, id, s.addr, out, in, flag(v.id))
			s.next().wantEOF()
		})
		t.Run(v.name+"/server", func(t *testing.T) {
			pipeServer(t, id, id.client(), aftls.Options{}, direct, n, flag(v.id))
		})
	}
	// MaxRecords makes us change keys in the middle, again and again.
	t.Run("rekeying/client", func(t *testing.T) {
		out, in := payload(t, n), payload(t, n)
		s := serveExchange(t, id.server(), aftls.Options{MaxRecords: 20}, out, in)
		pipeClient(t, id, s.addr, out, in, "-tls1_3")
		c := s.next()
		c.wantEOF()
		if got := c.Info().Send.Rekeys; got < 10 {
			t.Fatalf("the key was changed %d times only", got)
		}
	})
	t.Run("rekeying/server", func(t *testing.T) {
		c := pipeServer(t, id, id.client(), aftls.Options{MaxRecords: 20}, direct, n, "-tls1_3")
		if got := c.Info().Send.Rekeys; got < 10 {
			t.Fatalf("the key was changed %d times only", got)
		}
	})
}

func TestOpenSSLKeyUpdate(t *testing.T) {
	aftlstest.Need(t, "openssl")
	id := ecdsaIdentity(t)
	// K asks for an update of our key, k does not.
	t.Run("client", func(t *testing.T) {
		s := serve(t, id.server(), aftls.Options{}, echo)
		p := sClient(t, id, s.addr, "-tls1_3")
		c := s.next()
		check := func(line string, send, receive uint64) {
			t.Helper()
			p.Say(line + "\n")
			p.Expect(line + "\n")
			wantKeys(t, c.Conn, send, receive)
		}
		update := func(letter string) {
			t.Helper()
			p.Say(letter + "\n")
			p.Expect("KEYUPDATE")
		}
		check("first", 0, 0)
		update("K")
		check("asked", 1, 1)
		update("k")
		check("told", 1, 2)
		update("K")
		update("K")
		p.Say("asked twice\n")
		p.Expect("asked twice\n")
		answered := c.Info().Send.Rekeys // one answer for both is allowed, two are too
		if answered != 2 && answered != 3 {
			t.Fatalf("%d answers to three requests", answered)
		}
		if err := c.Rekey(true); err != nil {
			t.Fatal(err)
		}
		check("ours", answered+1, 5)
		p.Say("Q\n")
		c.wantEOF()
	})
	t.Run("server", func(t *testing.T) {
		p, addr := sServer(t, id, "-tls1_3", "-naccept", "1")
		c := dial(t, addr, id.client(), aftls.Options{})
		p.Expect("CIPHER is")
		check := func(line string, send, receive uint64) {
			t.Helper()
			p.Say(line + "\n")
			wantLine(t, c, line+"\n")
			say(t, c, "back: "+line+"\n")
			p.Expect("back: " + line + "\n")
			wantKeys(t, c, send, receive)
		}
		update := func(letter string) {
			t.Helper()
			p.Say(letter + "\n")
			// What s_server says of it stays in its buffer.
			const keyUpdate = 24
			b := make([]byte, 16)
			typ, n, err := c.ReadRecord(b)
			if err != nil || typ != record.Handshake || n != 5 || b[0] != keyUpdate {
				t.Fatalf("read %v %x, %v; want a KeyUpdate", typ, b[:n], err)
			}
		}
		check("first", 0, 0)
		update("K")
		check("asked", 1, 1)
		update("k")
		check("told", 1, 2)
		if err := c.Rekey(false); err != nil {
			t.Fatal(err)
		}
		check("ours", 2, 2)
		if err := c.Rekey(true); err != nil {
			t.Fatal(err)
		}
		say(t, c, "request\n") // s_server answers when it reads, with its next record
		p.Expect("request\n")
		check("ours, both", 3, 3)
	})
}

// We refuse to renegotiate with the warning no_renegotiation; OpenSSL takes that
// for an error and ends the connection with handshake_failure.
func TestOpenSSLRenegotiation(t *testing.T) {
	aftlstest.Need(t, "openssl")
	id := ecdsaIdentity(t)
	const handshakeFailure = 40
	t.Run("client", func(t *testing.T) {
		s := serve(t, id.server(), aftls.Options{}, echo)
		p := sClient(t, id, s.addr, "-tls1_2")
		p.Say("one\n")
		p.Expect("one\n")
		p.Say("R\n")
		p.Expect("RENEGOTIATING")
		p.Expect("no renegotiation")
		wantAlert(t, s.next().end(), handshakeFailure)
		if err := p.Wait(); err == nil {
			t.Error("s_client ended as if nothing had happened")
		}
	})
	for name, letter := range map[string]string{"server": "r", "server asks for a certificate": "R"} {
		t.Run(name, func(t *testing.T) {
			p, addr := sServer(t, id, "-tls1_2", "-naccept", "1")
			c := dial(t, addr, id.client(), aftls.Options{})
			say(t, c, "one\n")
			p.Expect("one\n")
			p.Say(letter + "\n")
			_, err := c.Read(make([]byte, 1))
			wantAlert(t, err, handshakeFailure)
			p.Expect("no renegotiation")
		})
	}
}

func TestOpenSSLResumption(t *testing.T) {
	aftlstest.Need(t, "openssl")
	id := ecdsaIdentity(t)
	for _, v := range versions {
		t.Run(v.name+"/client", func(t *testing.T) {
			s := serve(t, id.server(), aftls.Options{}, echo)
			session := filepath.Join(t.TempDir(), "session.pem")
			for i, arg := range []string{"-sess_out", "-sess_in", "-sess_in"} {
				p := sClient(t, id, s.addr, flag(v.id), arg, session)
				p.Say("hello\n")
				p.Expect("hello\n")
				p.Say("Q\n")
				c := s.next()
				c.wantEOF()
				p.Wait()
				wantSocket(t, c.Conn, v.id, 0)
				if want := i > 0; c.Info().Resumed != want || strings.Contains(p.Output(), "\nReused, TLS") != want {
					t.Fatalf("connection %d: resumed is %v here", i, c.Info().Resumed)
				}
			}
		})
		for _, extra := range [][]string{nil, {"-num_tickets", "20"}, {"-early_data"}} {
			if extra != nil && v.id != tls.VersionTLS13 {
				continue
			}
			t.Run(v.name+"/server"+strings.Join(extra, " "), func(t *testing.T) {
				p, addr := sServer(t, id, append([]string{flag(v.id), "-naccept", "3"}, extra...)...)
				config := id.client()
				config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
				for i := range 3 {
					c := dial(t, addr, config, aftls.Options{})
					p.Expect("CIPHER is")
					p.Say("hello\n")
					wantLine(t, c, "hello\n")
					say(t, c, "back\n")
					p.Expect("back\n")
					wantSocket(t, c, v.id, 0)
					if want := i > 0; c.Info().Resumed != want || c.ConnectionState().DidResume != want {
						t.Fatalf("connection %d: resumed is %v", i, c.Info().Resumed)
					}
					if got := c.Info().Receive.Records; i == 0 && len(extra) == 2 && got < 21 {
						t.Fatalf("%d records came, but 20 tickets were sent", got)
					}
					if err := c.Close(); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

func TestOpenSSLEnds(t *testing.T) {
	aftlstest.Need(t, "openssl")
	id := ecdsaIdentity(t)
	truncated := func(t *testing.T, err error) {
		t.Helper()
		if e, ok := errors.AsType[*aftls.TruncatedError](err); !ok || e.InRecord || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("ended with %v, want a truncated stream", err)
		}
	}
	for _, v := range versions {
		t.Run(v.name+"/client without input", func(t *testing.T) {
			s := serve(t, id.server(), aftls.Options{}, echo)
			p := aftlstest.Command{Name: "openssl", Args: sClientArgs(id, s.addr, []string{flag(v.id)}), Stdin: strings.NewReader("")}.Start(t)
			s.next().wantEOF()
			p.Wait()
		})
		t.Run(v.name+"/client ends its input", func(t *testing.T) {
			s := serve(t, id.server(), aftls.Options{}, echo)
			p := sClient(t, id, s.addr, flag(v.id))
			p.Say("last\n")
			p.Expect("last\n")
			p.CloseInput()
			s.next().wantEOF()
		})
		t.Run(v.name+"/client killed", func(t *testing.T) {
			s := serve(t, id.server(), aftls.Options{}, echo)
			p := sClient(t, id, s.addr, flag(v.id))
			p.Say("last\n")
			p.Expect("last\n")
			p.Kill()
			truncated(t, s.next().end())
		})
		t.Run(v.name+"/our server closes", func(t *testing.T) {
			s := serve(t, id.server(), aftls.Options{}, func(c *aftls.Conn) error {
				_, err := io.WriteString(c, "goodbye\n")
				return err
			})
			p := sClient(t, id, s.addr, flag(v.id))
			p.Expect("goodbye\n")
			p.Expect("closed\n")
			p.Wait()
		})
		t.Run(v.name+"/server told to quit", func(t *testing.T) {
			// Q makes s_server close the socket without close_notify.
			p, addr := sServer(t, id, flag(v.id))
			c := dial(t, addr, id.client(), aftls.Options{})
			say(t, c, "hello\n")
			p.Expect("hello\n")
			p.Say("Q\n")
			_, err := c.Read(make([]byte, 1))
			truncated(t, err)
		})
		t.Run(v.name+"/server killed", func(t *testing.T) {
			p, addr := sServer(t, id, flag(v.id))
			c := dial(t, addr, id.client(), aftls.Options{})
			say(t, c, "hello\n")
			p.Expect("hello\n")
			p.Kill()
			_, err := c.Read(make([]byte, 1))
			truncated(t, err)
		})
		t.Run(v.name+"/our client closes", func(t *testing.T) {
			p, addr := sServer(t, id, flag(v.id), "-naccept", "1")
			c := dial(t, addr, id.client(), aftls.Options{})
			say(t, c, "hello\n")
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			p.Expect("hello\n")
			p.Expect("DONE") // what it says of close_notify
			if err := p.Wait(); err != nil {
				t.Fatalf("s_server ended with: %v", err)
			}
		})
	}
}
