package aftls_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
)

// gnutlsSuites are the priorities of GnuTLS for each suite of a socket.
var gnutlsSuites = []struct {
	name    string
	version uint16
	cipher  string
	id      uint16
}{
	{"TLS1.3 AES-128-GCM", tls.VersionTLS13, "AES-128-GCM", tls.TLS_AES_128_GCM_SHA256},
	{"TLS1.3 AES-256-GCM", tls.VersionTLS13, "AES-256-GCM", tls.TLS_AES_256_GCM_SHA384},
	{"TLS1.3 CHACHA20-POLY1305", tls.VersionTLS13, "CHACHA20-POLY1305", tls.TLS_CHACHA20_POLY1305_SHA256},
	{"TLS1.2 AES-128-GCM", tls.VersionTLS12, "AES-128-GCM", tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	{"TLS1.2 AES-256-GCM", tls.VersionTLS12, "AES-256-GCM", tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
	{"TLS1.2 CHACHA20-POLY1305", tls.VersionTLS12, "CHACHA20-POLY1305", tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
}

func priority(version uint16) string {
	if version == tls.VersionTLS12 {
		return "NORMAL:-VERS-ALL:+VERS-TLS1.2"
	}
	return "NORMAL:-VERS-ALL:+VERS-TLS1.3"
}

func gnutlsClientArgs(id identity, addr, priority string, args ...string) []string {
	host, port, _ := strings.Cut(addr, ":")
	return append([]string{"--x509cafile", id.caFile, "--sni-hostname", interopName, "--verify-hostname", interopName,
		"--priority", priority, "--port", port, host}, args...)
}

// gnutlsClient starts an interactive client and waits for its handshake.
func gnutlsClient(t *testing.T, id identity, addr, priority string, args ...string) *aftlstest.Program {
	t.Helper()
	p := aftlstest.Command{Name: "gnutls-cli", Args: gnutlsClientArgs(id, addr, priority, args...)}.Start(t)
	p.Expect("Simple Client Mode")
	return p
}

// gnutlsServer starts a server and returns its address. It cannot be told to
// choose a port, nor to listen on loopback only; the tests connect there only.
func gnutlsServer(t *testing.T, id identity, priority string, args ...string) (p *aftlstest.Program, addr string) {
	t.Helper()
	for range 5 { // somebody else may take the free port first
		port := freePort(t)
		p = aftlstest.Command{Name: "gnutls-serv", Args: append([]string{"--x509certfile", id.certFile, "--x509keyfile", id.keyFile,
			"--priority", priority, "--port", port}, args...)}.Start(t)
		if p.Expect(`listening on IPv4 0\.0\.0\.0 port \d+\.\.\.(done|.*failed)`)[1] == "done" {
			return p, "127.0.0.1:" + port
		}
	}
	t.Fatal("gnutls-serv finds no port")
	return nil, ""
}

func TestGnuTLSSuites(t *testing.T) {
	aftlstest.Need(t, "gnutls-cli")
	aftlstest.Need(t, "gnutls-serv")
	id := ecdsaIdentity(t)
	for _, suite := range gnutlsSuites {
		prio := priority(suite.version) + ":-CIPHER-ALL:+" + suite.cipher
		t.Run(suite.name+"/client", func(t *testing.T) {
			s := serve(t, id.server(), aftls.Options{}, echo)
			p := gnutlsClient(t, id, s.addr, prio)
			c := s.next()
			for _, line := range []string{"one\n", strings.Repeat("two ", 1000) + "\n", "three\n"} {
				p.Say(line)
				p.Expect(line)
			}
			wantSocket(t, c.Conn, suite.version, suite.id)
			p.CloseInput()
			c.wantEOF()
			if err := p.Wait(); err != nil {
				t.Fatalf("gnutls-cli ended with: %v", err)
			}
		})
		t.Run(suite.name+"/server", func(t *testing.T) {
			_, addr := gnutlsServer(t, id, prio, "--echo")
			c := dial(t, addr, id.client(), aftls.Options{})
			for _, line := range []string{"one\n", strings.Repeat("two ", 1000) + "\n", "three\n"} {
				say(t, c, line)
				wantLine(t, c, line)
			}
			wantSocket(t, c, suite.version, suite.id)
		})
	}
}

func TestGnuTLSLarge(t *testing.T) {
	aftlstest.Need(t, "gnutls-cli")
	aftlstest.Need(t, "gnutls-serv")
	id := ecdsaIdentity(t)
	const n = 4<<20 + 4321
	for _, v := range versions {
		t.Run(v.name+"/client", func(t *testing.T) {
			// gnutls-cli prints what it receives byte by byte: that stays small.
			out, in := payload(t, 150_000), payload(t, n)
			s := serveExchange(t, id.server(), aftls.Options{}, out, in)
			var got bytes.Buffer
			p := aftlstest.Command{Name: "gnutls-cli", Stdin: bytes.NewReader(in), Stdout: &got,
				Args: gnutlsClientArgs(id, s.addr, priority(v.id), "--logfile", filepath.Join(t.TempDir(), "log")),
			}.Start(t)
			c := s.next()
			c.wantEOF()
			if err := p.Wait(); err != nil {
				t.Fatalf("gnutls-cli ended with: %v", err)
			}
			if !bytes.Equal(got.Bytes(), out) {
				t.Fatalf("gnutls-cli got other bytes than were sent, %d instead of %d", got.Len(), len(out))
			}
		})
		t.Run(v.name+"/server, to us", func(t *testing.T) {
			data := payload(t, n)
			path := filepath.Join(t.TempDir(), "data")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, addr := gnutlsServer(t, id, priority(v.id), "--http", "--httpdata", path)
			c := dial(t, addr, id.client(), aftls.Options{})
			say(t, c, "GET / HTTP/1.0\r\n\r\n")
			got, err := io.ReadAll(c)
			if err != nil {
				t.Fatal(err)
			}
			_, body, ok := bytes.Cut(got, []byte("\r\n\r\n"))
			if !ok || !bytes.Equal(body, data) {
				t.Fatalf("other bytes came than were sent, %d instead of %d", len(body), len(data))
			}
		})
		// The echo of gnutls-serv loses data when it cannot send at once, with
		// every client: so one line is under way at a time.
		t.Run(v.name+"/server, from us", func(t *testing.T) {
			_, addr := gnutlsServer(t, id, priority(v.id), "--echo", "--quiet")
			c := dial(t, addr, id.client(), aftls.Options{})
			r := bufio.NewReaderSize(c, 16<<10)
			for i := range 150 {
				line := hex.EncodeToString(payload(t, 7000)) + "\n"
				say(t, c, line)
				if got, err := r.ReadString('\n'); err != nil || got != line {
					t.Fatalf("line %d: %d bytes came back for %d, %v", i, len(got), len(line), err)
				}
			}
		})
	}
}

func TestGnuTLSKeyUpdate(t *testing.T) {
	aftlstest.Need(t, "gnutls-cli")
	aftlstest.Need(t, "gnutls-serv")
	id := ecdsaIdentity(t)
	// GnuTLS asks for our update with every one of its own.
	t.Run("client", func(t *testing.T) {
		s := serve(t, id.server(), aftls.Options{}, echo)
		p := gnutlsClient(t, id, s.addr, priority(tls.VersionTLS13), "--inline-commands")
		c := s.next()
		for i := range uint64(5) {
			p.Say("hello\n")
			p.Expect("hello\n")
			wantKeys(t, c.Conn, i, i)
			p.Say("^rekey^\n")
			p.Expect("Rekey was completed")
		}
		// Both may ask at the same time (RFC 8446, 4.6.3), but GnuTLS takes
		// our request for a bad answer while its own is not answered.
		p.Say("settled\n")
		p.Expect("settled\n")
		if err := c.Rekey(true); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"after ours\n", "and once more\n"} {
			p.Say(line)
			p.Expect(line)
		}
		wantKeys(t, c.Conn, 6, 6)
		p.CloseInput()
		c.wantEOF()
	})
	t.Run("server", func(t *testing.T) {
		p, addr := gnutlsServer(t, id, priority(tls.VersionTLS13), "--echo")
		c := dial(t, addr, id.client(), aftls.Options{})
		say(t, c, "hello\n")
		wantLine(t, c, "hello\n")
		if err := c.Rekey(true); err != nil {
			t.Fatal(err)
		}
		say(t, c, "after\n")
		wantLine(t, c, "after\n")
		wantKeys(t, c, 1, 1)
		if err := c.Rekey(false); err != nil {
			t.Fatal(err)
		}
		say(t, c, "told\n")
		wantLine(t, c, "told\n")
		wantKeys(t, c, 2, 1)
		// In TLS 1.3 its command for a new handshake is a KeyUpdate.
		say(t, c, "**REHANDSHAKE**\n")
		p.Expect("Sending rehandshake request")
		wantLine(t, c, "Successfully executed command\n")
		say(t, c, "more\n")
		wantLine(t, c, "more\n")
		wantKeys(t, c, 3, 2)
	})
}

// GnuTLS keeps to RFC 5246 where we refuse with a warning: its client tries a
// few times more before it gives up, its server ends the connection.
func TestGnuTLSRenegotiation(t *testing.T) {
	aftlstest.Need(t, "gnutls-cli")
	aftlstest.Need(t, "gnutls-serv")
	id := ecdsaIdentity(t)
	t.Run("client", func(t *testing.T) {
		s := serve(t, id.server(), aftls.Options{}, echo)
		p := gnutlsClient(t, id, s.addr, priority(tls.VersionTLS12), "--inline-commands")
		c := s.next()
		p.Say("hello\n")
		p.Expect("hello\n")
		p.Say("^renegotiate^\n")
		p.Expect(`alert \[100\]: No renegotiation is allowed`)
		p.Expect("ReHandshake has failed")
		if err := c.end(); err == nil || err == io.EOF {
			t.Fatalf("ended with %v", err)
		}
		if got := c.Info().Receive.Bytes; got != 6 {
			t.Fatalf("%d bytes of data", got)
		}
	})
	t.Run("server", func(t *testing.T) {
		p, addr := gnutlsServer(t, id, priority(tls.VersionTLS12), "--echo")
		c := dial(t, addr, id.client(), aftls.Options{})
		say(t, c, "**REHANDSHAKE**\n")
		wantLine(t, c, "Successfully executed command\n")
		p.Expect("A TLS warning alert has been received")
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("ended with %v, want a truncated stream", err)
		}
	})
}

func TestGnuTLSResumption(t *testing.T) {
	aftlstest.Need(t, "gnutls-cli")
	aftlstest.Need(t, "gnutls-serv")
	id := ecdsaIdentity(t)
	for _, v := range versions {
		t.Run(v.name+"/client", func(t *testing.T) {
			s := serve(t, id.server(), aftls.Options{}, echo)
			p := gnutlsClient(t, id, s.addr, priority(v.id), "--resume", "--waitresumption")
			first := s.next()
			first.wantEOF()
			second := s.next()
			p.Say("hello\n")
			p.Expect("hello\n")
			if first.Info().Resumed || !second.Info().Resumed || !strings.Contains(p.Output(), "This is a resumed session") {
				t.Fatalf("resumed: first %v, second %v", first.Info().Resumed, second.Info().Resumed)
			}
			wantSocket(t, second.Conn, v.id, 0)
			p.CloseInput()
			second.wantEOF()
		})
		t.Run(v.name+"/server", func(t *testing.T) {
			_, addr := gnutlsServer(t, id, priority(v.id), "--echo")
			config := id.client()
			config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			for i := range 3 {
				c := dial(t, addr, config, aftls.Options{})
				say(t, c, "hello\n")
				wantLine(t, c, "hello\n")
				wantSocket(t, c, v.id, 0)
				if want := i > 0; c.Info().Resumed != want || c.ConnectionState().DidResume != want {
					t.Fatalf("connection %d: resumed is %v", i, c.Info().Resumed)
				}
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestGnuTLSEnds(t *testing.T) {
	aftlstest.Need(t, "gnutls-cli")
	aftlstest.Need(t, "gnutls-serv")
	id := ecdsaIdentity(t)
	for _, v := range versions {
		t.Run(v.name+"/client killed", func(t *testing.T) {
			s := serve(t, id.server(), aftls.Options{}, echo)
			p := gnutlsClient(t, id, s.addr, priority(v.id))
			p.Say("last\n")
			p.Expect("last\n")
			p.Kill()
			if err := s.next().end(); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("ended with %v, want a truncated stream", err)
			}
		})
		t.Run(v.name+"/server killed", func(t *testing.T) {
			p, addr := gnutlsServer(t, id, priority(v.id), "--echo")
			c := dial(t, addr, id.client(), aftls.Options{})
			say(t, c, "hello\n")
			wantLine(t, c, "hello\n")
			p.Kill()
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("ended with %v, want a truncated stream", err)
			}
		})
		t.Run(v.name+"/our server closes", func(t *testing.T) {
			s := serve(t, id.server(), aftls.Options{}, func(c *aftls.Conn) error {
				_, err := io.WriteString(c, "goodbye\n")
				return err
			})
			p := gnutlsClient(t, id, s.addr, priority(v.id))
			p.Expect("goodbye\n")
			p.Expect("Peer has closed the GnuTLS connection")
			if err := p.Wait(); err != nil {
				t.Fatalf("gnutls-cli ended with: %v", err)
			}
		})
	}
}
