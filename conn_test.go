package aftls_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
)

// tcpPair returns both ends of a connection over loopback.
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
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// configs returns a client's and a server's Config that trust each other.
func configs(t testing.TB) (client, server *tls.Config) {
	ca := aftlstest.NewCA(t)
	return &tls.Config{RootCAs: ca.Pool, ServerName: "test.example"},
		&tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, "test.example")}}
}

// connPair returns two ends of ours.
func connPair(t testing.TB, ccfg, scfg *tls.Config, opt aftls.Options) (client, server *aftls.Conn) {
	t.Helper()
	a, b := tcpPair(t)
	return handshakePair(t, a, b, ccfg, scfg, opt)
}

func handshakePair(t testing.TB, a, b net.Conn, ccfg, scfg *tls.Config, opt aftls.Options) (client, server *aftls.Conn) {
	t.Helper()
	return unlikePair(t, a, b, ccfg, scfg, opt, opt)
}

// unlikePair is handshakePair for ends with options of their own.
func unlikePair(t testing.TB, a, b net.Conn, ccfg, scfg *tls.Config, copt, sopt aftls.Options) (client, server *aftls.Conn) {
	t.Helper()
	var wg sync.WaitGroup
	var cerr, serr error
	wg.Go(func() { server, serr = aftls.Server(context.Background(), b, scfg, sopt) })
	client, cerr = aftls.Client(context.Background(), a, ccfg, copt)
	wg.Wait()
	if err := errors.Join(cerr, serr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func transfer(t testing.TB, from io.Writer, to io.Reader, n int) {
	t.Helper()
	data := make([]byte, n)
	rand.Read(data)
	errc := make(chan error, 1)
	go func() { _, err := from.Write(data); errc <- err }()
	got := make([]byte, n)
	if _, err := io.ReadFull(to, got); err != nil {
		t.Fatal(err)
	}
	if err := <-errc; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Fatal("data differ")
	}
}

func TestConnBothWays(t *testing.T) {
	ccfg, scfg := configs(t)
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		ccfg.MaxVersion = v
		c, s := connPair(t, ccfg, scfg, aftls.Options{})
		for _, n := range []int{1, 1000, 16384, 16385, 1 << 20, 5 << 20} {
			transfer(t, c, s, n)
			transfer(t, s, c, n)
		}
		if v == tls.VersionTLS13 {
			if err := c.Rekey(true); err != nil {
				t.Fatal(err)
			}
			transfer(t, c, s, 100)
			transfer(t, s, c, 100)
			transfer(t, c, s, 100000)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatal(n, err)
		}
		t.Logf("%+v", s.Info())
	}
}

func TestReadFromFile(t *testing.T) {
	ccfg, scfg := configs(t)
	c, s := connPair(t, ccfg, scfg, aftls.Options{})
	data := make([]byte, 3<<20+12345)
	rand.Read(data)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make(chan []byte, 1)
	go func() { b, _ := io.ReadAll(c); got <- b }()
	s.SetDeadline(time.Now().Add(20 * time.Second))
	n, err := io.Copy(s, f)
	if err != nil || n != int64(len(data)) {
		t.Fatal(n, err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(<-got, data) {
		t.Fatal("data differ")
	}
}
