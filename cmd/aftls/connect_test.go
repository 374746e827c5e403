package main

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"encoding/pem"
)

// tlsServer runs serve once for every connection to a crypto/tls listener.
func tlsServer(t *testing.T, protos []string, serve func(*tls.Conn)) (addr, ca string) {
	t.Helper()
	c, k, err := selfSigned(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(c, k)
	if err != nil {
		t.Fatal(err)
	}
	ca = filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, c)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: protos})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(c.(*tls.Conn))
		}
	}()
	return ln.Addr().String(), ca
}

func TestConnectEchoesAndEndsWithTheStream(t *testing.T) {
	addr, ca := tlsServer(t, []string{"echo"}, func(c *tls.Conn) {
		io.Copy(c, c) // ends at the client's close_notify
		c.Close()
	})
	data := make([]byte, 3<<20)
	rand.Read(data)
	stdout, stderr, code := output(t, bytes.NewReader(data), "connect", addr, "--ca", ca, "--alpn", "echo")
	if code != 0 || stdout != string(data) {
		t.Errorf("exit code %d, %d bytes of %d; stderr %s", code, len(stdout), len(data), stderr)
	}
	for _, fact := range []string{"connected " + addr, "TLS 1.3", "send=soft", "alpn=echo"} {
		if !strings.Contains(stderr, fact) {
			t.Errorf("%q is not on stderr: %s", fact, stderr)
		}
	}
}

func TestConnectReportsTruncation(t *testing.T) {
	addr, ca := tlsServer(t, nil, func(c *tls.Conn) {
		c.Write([]byte("half of it"))
		c.NetConn().(*net.TCPConn).CloseWrite() // no close_notify
		io.Copy(io.Discard, c.NetConn())
		c.NetConn().Close()
	})
	stdout, stderr, code := output(t, strings.NewReader(""), "connect", addr, "--ca", ca)
	if code != 1 || stdout != "half of it" || !strings.Contains(stderr, "hint: ") || !strings.Contains(stderr, "close_notify") {
		t.Errorf("exit code %d, stdout %q, stderr %s", code, stdout, stderr)
	}
}

func TestConnectEndsWhenTheServerDoes(t *testing.T) {
	addr, ca := tlsServer(t, nil, func(c *tls.Conn) {
		c.Write([]byte("bye"))
		c.Close()
	})
	r, w, err := os.Pipe() // stdin that never ends
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	stdout, stderr, code := output(t, r, "connect", addr, "--ca", ca)
	if code != 0 || stdout != "bye" {
		t.Errorf("exit code %d, stdout %q, stderr %s", code, stdout, stderr)
	}
}

func TestConnectVerifies(t *testing.T) {
	addr, ca := tlsServer(t, nil, func(c *tls.Conn) { c.Handshake(); c.Close() })
	if _, stderr, code := output(t, nil, "connect", addr); code != 1 || !strings.Contains(stderr, "--ca") {
		t.Errorf("unknown authority: exit code %d, stderr %s", code, stderr)
	}
	if _, stderr, code := output(t, nil, "connect", addr, "--ca", ca, "--servername", "other.example"); code != 1 || !strings.Contains(stderr, "other.example") {
		t.Errorf("wrong name: exit code %d, stderr %s", code, stderr)
	}
	if _, stderr, code := output(t, strings.NewReader(""), "connect", addr, "--insecure"); code != 0 {
		t.Errorf("--insecure: exit code %d, stderr %s", code, stderr)
	}
	bad := filepath.Join(t.TempDir(), "bad.pem")
	write(t, bad, pem.EncodeToMemory(&pem.Block{Type: "NOTHING"}))
	if _, stderr, code := output(t, nil, "connect", addr, "--ca", bad); code != 1 || !strings.Contains(stderr, "no certificate") {
		t.Errorf("empty --ca: exit code %d, stderr %s", code, stderr)
	}
}
