package kcm_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/kcm"
	"github.com/aftls/aftls/record"
)

// An aftls.Conn has what Attach looks for.
var (
	_ interface{ WaitRead() error } = (*aftls.Conn)(nil)
	_ interface {
		WriteBuffers(*net.Buffers) (int64, error)
	} = (*aftls.Conn)(nil)
)

func tlsConfigs(t *testing.T) (client, server *tls.Config) {
	ca := aftlstest.NewCA(t)
	return &tls.Config{RootCAs: ca.Pool, ServerName: "localhost"}, &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, "localhost")}}
}

// A relay of TLS records that has no keys: each record is a message, and goes
// out on the other connection.
func TestRecordsOfTLSAreMessages(t *testing.T) {
	ccfg, scfg := tlsConfigs(t)
	client, left := tcpPair(t)
	right, server := tcpPair(t)
	mux := kcm.New(kcm.Config{})
	defer mux.Close()
	framer := kcm.FramerFunc(record.Frame)
	a, err := mux.Attach(left, framer)
	if err != nil {
		t.Fatal(err)
	}
	b, err := mux.Attach(right, framer)
	if err != nil {
		t.Fatal(err)
	}
	e, err := mux.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	other := map[*kcm.Conn]*kcm.Conn{a: b, b: a}
	go func() {
		for {
			m, err := e.RecvMsg()
			if err != nil {
				return
			}
			if n, err := record.Frame(m.Data); n != len(m.Data) || err != nil {
				t.Errorf("a message of %d bytes is a record of %d: %v", len(m.Data), n, err)
			}
			if err := e.SendMsg(other[m.Conn], m.Data); err != nil {
				t.Error(err)
			}
		}
	}()
	go func() {
		s := tls.Server(server, scfg)
		io.Copy(s, s)
	}()
	c := tls.Client(client, ccfg)
	text := bytes.Repeat([]byte("plaintext"), 20000)
	go c.Write(text)
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, text) {
		t.Fatal(err)
	}
	if n := mux.Stats(); n.Messages != n.Sent || n.Messages < 2*uint64(len(text)/record.MaxPlaintext) {
		t.Errorf("%+v", n)
	}
}

// The usual transport: a service over TLS, whose idle connections hold no
// buffer.
func TestServerOverTLS(t *testing.T) {
	ccfg, scfg := tlsConfigs(t)
	l, err := aftls.Listen("tcp", "127.0.0.1:0", scfg, aftls.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	s := &kcm.Server{Framer: kcm.DNS, Handler: handle, Config: kcm.Config{Ended: func(_ *kcm.Conn, err error) { ended <- err }}}
	defer s.Close()
	go s.Serve(l)
	c, err := (&aftls.Dialer{Config: ccfg}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	long := strings.Repeat("x", 65000)
	questions := slices.Concat(msg("one"), msg("two"), msg(long), msg("three"))
	for range 20 {
		go write(t, c, questions)
		got := make(map[string]int)
		for range 4 {
			got[readMsg(t, c)]++
		}
		if got["one"] != 1 || got["two"] != 1 || got["three"] != 1 || got[long] != 1 {
			t.Fatalf("answers: %d", len(got))
		}
	}
	write(t, c, msg("fail"))
	if err := <-ended; err != errGarbage {
		t.Errorf("ended with %v", err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("%v, want close_notify", err)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}
