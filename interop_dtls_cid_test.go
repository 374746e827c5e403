package aftls_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
)

// mbedtlsProgram makes the program of testdata/mbedtls.c, with the mbed TLS of this
// machine or, where that has no Connection IDs of RFC 9146, with an unpacked one.
func mbedtlsProgram(t *testing.T) func(args ...string) aftlstest.Command {
	t.Helper()
	const source = "testdata/mbedtls.c"
	if _, err := os.Stat(source); err != nil { // and have go test look whether it changes
		t.Fatal(err)
	}
	libs := []string{"mbedtls", "mbedx509", "mbedcrypto"}
	if program, err := aftlstest.CompileC(t, source, nil, libs...); err == nil {
		return func(args ...string) aftlstest.Command { return aftlstest.Command{Name: program, Args: args} }
	}
	u := aftlstest.NeedRelease(t, "mbedtls", "trixie", "usr/include/mbedtls/ssl.h")
	program := u.Compile(t, source, libs...)
	return func(args ...string) aftlstest.Command { return u.Command(program, args...) }
}

// TestDatagramCIDAgainstMbedTLS is Connection IDs with a peer that others wrote, in
// both roles, of lengths that differ, none among them.
func TestDatagramCIDAgainstMbedTLS(t *testing.T) {
	start := mbedtlsProgram(t)
	ca := aftlstest.NewCA(t)
	leaf := ca.Leaf(t, "test.example")
	cert, key, authority := ca.WriteFiles(t, leaf)
	for _, x := range []struct {
		name   string
		theirs string // what they ask us to send
		ours   int
	}{{"both", "c1d0c1d0", 8}, {"theirs only", "c1d0c1d0aa", 0}, {"ours only", "", 5}} {
		for weather, w := range weathers {
			check := func(t *testing.T, c *aftls.DatagramConn, prog *aftlstest.Program) {
				i := c.Info()
				if hex.EncodeToString(i.PeerCID) != x.theirs || len(i.CID) != x.ours {
					t.Errorf("CID %x, of the peer %x", i.CID, i.PeerCID)
				}
				for _, line := range []string{"our CID " + x.theirs + ".\n", "peer's CID " + hex.EncodeToString(i.CID) + ".\n"} {
					if !strings.Contains(prog.Output(), line) {
						t.Errorf("the peer did not say %q", line)
					}
				}
				tellUntil(t, c, "over the sea\n", func() bool { return strings.Contains(prog.Output(), "over the sea\n") })
				hear(t, c, "and back", func() { prog.Say("and back\n") })
				if i := c.Info(); i.Bad != 0 {
					t.Errorf("%+v", i)
				}
			}
			t.Run("server/"+x.name+"/"+weather, func(t *testing.T) {
				port := freeUDPPort(t)
				prog := start("server", port, x.theirs, cert, key).Start(t)
				r := aftlstest.NewRelay(t, "127.0.0.1:"+port, 7, w)
				d := &aftls.DatagramDialer{Config: &aftls.DatagramConfig{TLS: &tls.Config{RootCAs: ca.Pool, ServerName: "test.example"}, CIDLen: x.ours}}
				ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second)
				defer cancel()
				c, err := d.DialContext(ctx, "udp", r.Addr())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				prog.Expect("our CID .*\npeer's CID .*\n")
				check(t, c.(*aftls.DatagramConn), prog)
			})
			t.Run("client/"+x.name+"/"+weather, func(t *testing.T) {
				config := &aftls.DatagramConfig{TLS: &tls.Config{Certificates: []tls.Certificate{leaf}}, CIDLen: x.ours}
				l, err := aftls.ListenDatagram("udp4", "127.0.0.1:0", config, aftls.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				r := aftlstest.NewRelay(t, l.Addr().String(), 11, w)
				_, port, _ := net.SplitHostPort(r.Addr())
				prog := start("client", port, x.theirs, authority, "test.example").Start(t)
				accepted := make(chan *aftls.DatagramConn, 1)
				go func() {
					if c, err := l.AcceptConn(); err == nil {
						accepted <- c
					}
				}()
				prog.Expect("our CID .*\npeer's CID .*\n")
				select {
				case c := <-accepted:
					check(t, c, prog)
				case <-time.After(25 * time.Second):
					t.Fatal("no association")
				}
			})
		}
	}
	t.Run("another address", func(t *testing.T) {
		config := &aftls.DatagramConfig{TLS: &tls.Config{Certificates: []tls.Certificate{leaf}}, CIDLen: 8}
		l, err := aftls.ListenDatagram("udp4", "127.0.0.1:0", config, aftls.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		r := aftlstest.NewRelay(t, l.Addr().String(), 1, aftlstest.Weather{})
		_, port, _ := net.SplitHostPort(r.Addr())
		prog := start("client", port, "c1d0", authority, "test.example").Start(t)
		c, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		prog.Expect("our CID .*\npeer's CID .*\n")
		hear(t, c, "before", func() { prog.Say("before\n") })
		old := c.RemoteAddr().String()
		r.Rebind()
		hear(t, c, "after", func() { prog.Say("after\n") })
		if c.RemoteAddr().String() == old {
			t.Error("the peer is where it was")
		}
		tellUntil(t, c, "there\n", func() bool { return bytes.Contains([]byte(prog.Output()), []byte("there\n")) })
	})
}
