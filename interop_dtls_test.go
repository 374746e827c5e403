package aftls_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
)

// weathers are what the links of the interop tests do: nothing, and what a bad
// one does. Nothing is damaged: programs give up a handshake that was.
var weathers = map[string]aftlstest.Weather{
	"calm":  {},
	"storm": {Drop: 0.1, Duplicate: 0.1, Reorder: 0.2, Jitter: 3 * time.Millisecond},
}

// freeUDPPort is a port on which a program can listen.
func freeUDPPort(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, port, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

var testPSK = []byte("0123456789abcdef")

func pskConfig(client bool) *aftls.DatagramConfig {
	return &aftls.DatagramConfig{
		PSK: func(identity []byte) ([]byte, error) {
			if !client && string(identity) != "someone" {
				return nil, errors.New("nobody of this name")
			}
			return testPSK, nil
		},
		PSKIdentity: []byte("someone"),
	}
}

// tellUntil writes a line to c until the program has said it. The link may lose
// it: it is written again after a while.
func tellUntil(t *testing.T, c net.Conn, line string, arrived func() bool) {
	t.Helper()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for range 100 {
		if _, err := io.WriteString(c, line); err != nil {
			t.Fatal(err)
		}
		<-again.C
		if arrived() {
			return
		}
	}
	t.Fatalf("%q never arrived", line)
}

// hear reads from c until a message contains what, which say makes the other end
// write, and write again.
func hear(t *testing.T, c *aftls.DatagramConn, what string, say func()) {
	t.Helper()
	b := make([]byte, 20000)
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); {
		say()
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := c.Read(b)
		if err == nil && strings.Contains(string(b[:n]), what) {
			c.SetReadDeadline(time.Time{})
			return
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	t.Fatalf("%q never came", what)
}

// TestDatagramAgainstServers runs our client against programs.
func TestDatagramAgainstServers(t *testing.T) {
	ca := aftlstest.NewCA(t)
	leaf := ca.Leaf(t, "test.example")
	cert, key, authority := ca.WriteFiles(t, leaf)
	pskFile := filepath.Join(t.TempDir(), "psk")
	if err := os.WriteFile(pskFile, []byte("someone:"+hex.EncodeToString(testPSK)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	certificates := &aftls.DatagramConfig{TLS: &tls.Config{RootCAs: ca.Pool, ServerName: "test.example", Certificates: []tls.Certificate{leaf}}}
	for _, p := range []struct {
		name   string
		config *aftls.DatagramConfig
		start  func(t *testing.T, port string) *aftlstest.Program
		proto  string
	}{
		{"openssl", certificates, func(t *testing.T, port string) *aftlstest.Program {
			p := aftlstest.Command{Name: "openssl", Args: []string{"s_server", "-dtls1_2", "-accept", "127.0.0.1:" + port, "-cert", cert, "-key", key, "-CAfile", authority, "-Verify", "2", "-quiet", "-mtu", "1400"}}.Start(t)
			return p
		}, ""},
		{"openssl psk", pskConfig(true), func(t *testing.T, port string) *aftlstest.Program {
			return aftlstest.Command{Name: "openssl", Args: []string{"s_server", "-dtls1_2", "-accept", "127.0.0.1:" + port, "-nocert", "-psk", hex.EncodeToString(testPSK), "-psk_identity", "someone", "-cipher", "PSK-AES128-GCM-SHA256", "-quiet", "-mtu", "1400"}}.Start(t)
		}, ""},
		{"gnutls", certificates, func(t *testing.T, port string) *aftlstest.Program {
			return aftlstest.Command{Name: "gnutls-serv", Args: []string{"--udp", "--mtu", "1400", "-p", port, "--x509certfile", cert, "--x509keyfile", key, "--x509cafile", authority, "--require-client-cert", "--echo", "--priority", "NORMAL:-VERS-ALL:+VERS-DTLS1.2"}}.Start(t)
		}, ""},
		{"gnutls psk", pskConfig(true), func(t *testing.T, port string) *aftlstest.Program {
			return aftlstest.Command{Name: "gnutls-serv", Args: []string{"--udp", "--mtu", "1400", "-p", port, "--pskpasswd", pskFile, "--echo", "--priority", "NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+PSK"}}.Start(t)
		}, ""},
	} {
		for name, w := range weathers {
			t.Run(p.name+"/"+name, func(t *testing.T) {
				port := freeUDPPort(t)
				prog := p.start(t, port)
				r := aftlstest.NewRelay(t, "127.0.0.1:"+port, 7, w)
				var c *aftls.DatagramConn
				for start := time.Now(); ; { // until the program listens
					d := &aftls.DatagramDialer{Config: p.config}
					ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
					nc, err := d.DialContext(ctx, "udp", r.Addr())
					cancel()
					if err == nil {
						c = nc.(*aftls.DatagramConn)
						break
					}
					if time.Since(start) > 25*time.Second {
						t.Fatal(err)
					}
				}
				defer c.Close()
				if strings.HasPrefix(p.name, "gnutls") {
					hear(t, c, "over the sea", func() { fmt.Fprint(c, "over the sea\n") })
				} else {
					tellUntil(t, c, "over the sea\n", func() bool { return strings.Contains(prog.Output(), "over the sea\n") })
					hear(t, c, "and back", func() { prog.Say("and back\n") })
				}
				if i := c.Info(); i.Bad != 0 {
					t.Errorf("%+v", i)
				}
			})
		}
	}
}

// TestDatagramAgainstClients runs programs against our listener.
func TestDatagramAgainstClients(t *testing.T) {
	ca := aftlstest.NewCA(t)
	leaf := ca.Leaf(t, "test.example")
	cert, key, authority := ca.WriteFiles(t, leaf)
	certificates := &aftls.DatagramConfig{TLS: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool, Certificates: []tls.Certificate{leaf}}}
	for _, p := range []struct {
		name   string
		config *aftls.DatagramConfig
		start  func(t *testing.T, host, port string) *aftlstest.Program
	}{
		{"openssl", certificates, func(t *testing.T, host, port string) *aftlstest.Program {
			return aftlstest.Command{Name: "openssl", Args: []string{"s_client", "-dtls1_2", "-connect", net.JoinHostPort(host, port), "-CAfile", authority, "-verify_return_error", "-cert", cert, "-key", key, "-quiet", "-mtu", "1400"}}.Start(t)
		}},
		{"openssl psk", pskConfig(false), func(t *testing.T, host, port string) *aftlstest.Program {
			return aftlstest.Command{Name: "openssl", Args: []string{"s_client", "-dtls1_2", "-connect", net.JoinHostPort(host, port), "-psk", hex.EncodeToString(testPSK), "-psk_identity", "someone", "-cipher", "PSK-AES128-GCM-SHA256", "-quiet", "-mtu", "1400"}}.Start(t)
		}},
		{"gnutls", certificates, func(t *testing.T, host, port string) *aftlstest.Program {
			return aftlstest.Command{Name: "gnutls-cli", Args: []string{"--udp", "--mtu", "1400", "-p", port, "--x509cafile", authority, "--x509certfile", cert, "--x509keyfile", key, "--priority", "NORMAL:-VERS-ALL:+VERS-DTLS1.2", "--verify-hostname", "test.example", host}}.Start(t)
		}},
		{"gnutls psk", pskConfig(false), func(t *testing.T, host, port string) *aftlstest.Program {
			return aftlstest.Command{Name: "gnutls-cli", Args: []string{"--udp", "--mtu", "1400", "-p", port, "--pskusername", "someone", "--pskkey", hex.EncodeToString(testPSK), "--priority", "NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+PSK", host}}.Start(t)
		}},
	} {
		for name, w := range weathers {
			t.Run(p.name+"/"+name, func(t *testing.T) {
				failed := make(chan error, 10)
				l, err := aftls.ListenDatagram("udp4", "127.0.0.1:0", p.config, aftls.Options{HandshakeError: func(_ net.Addr, err error) { failed <- err }})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				r := aftlstest.NewRelay(t, l.Addr().String(), 11, w)
				host, port, _ := net.SplitHostPort(r.Addr())
				prog := p.start(t, host, port)
				accepted := make(chan *aftls.DatagramConn, 1)
				go func() {
					if c, err := l.AcceptConn(); err == nil {
						accepted <- c
					}
				}()
				var c *aftls.DatagramConn
				select {
				case c = <-accepted:
				case err := <-failed:
					t.Fatal(err)
				case <-time.After(25 * time.Second):
					t.Fatal("no association")
				}
				hear(t, c, "over the sea", func() { prog.Say("over the sea\n") })
				tellUntil(t, c, "and back\n", func() bool { return bytes.Contains([]byte(prog.Output()), []byte("and back\n")) })
				prog.CloseInput()
				if i := c.Info(); i.Bad != 0 {
					t.Errorf("%+v", i)
				}
			})
		}
	}
}
