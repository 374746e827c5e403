package aftlstest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// tcpPair returns both ends of a connection over loopback.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		dialled.Close()
		t.Fatal(err)
	}
	a, b = dialled.(*net.TCPConn), accepted.(*net.TCPConn)
	watchdog := time.AfterFunc(patience, func() {
		t.Errorf("the test hangs: closing its carriers")
		a.Close()
		b.Close()
	})
	t.Cleanup(func() {
		watchdog.Stop()
		a.Close()
		b.Close()
	})
	return a, b
}

// narrow makes the buffers of a connection small, so that a writer blocks soon
// when nobody reads. They hold a few segments of the loopback interface: with
// less than that a connection crawls from one window probe to the next.
func narrow(t testing.TB, conns ...*net.TCPConn) {
	t.Helper()
	for _, c := range conns {
		if err := errors.Join(c.SetReadBuffer(128<<10), c.SetWriteBuffer(128<<10)); err != nil {
			t.Fatal(err)
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// keys returns random keys for both directions.
func (x subject) keys(t testing.TB) (client, server record.Keys) {
	t.Helper()
	if !x.is13() {
		client, server, err := record.KeyBlock(x.suite, random(48), random(32), random(32))
		if err != nil {
			t.Fatal(err)
		}
		return client, server
	}
	length := 32
	if x.suite == tls.TLS_AES_256_GCM_SHA384 {
		length = 48
	}
	client, err := record.TrafficKeys(x.suite, random(length))
	if err != nil {
		t.Fatal(err)
	}
	server, err = record.TrafficKeys(x.suite, random(length))
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

// onSocket makes a Socket with keys.
func (x subject) onSocket(t testing.TB, carrier net.Conn, send, receive record.Keys) *aftls.Socket {
	t.Helper()
	s := aftls.NewSocket(carrier, x.opt)
	t.Cleanup(func() { s.Close() })
	if err := errors.Join(s.SetKeys(aftls.Send, send), s.SetKeys(aftls.Receive, receive)); err != nil {
		t.Fatal(err)
	}
	x.checkProvider(t, s)
	return s
}

func (x subject) checkProvider(t testing.TB, e end) {
	t.Helper()
	if i := e.Info(); i.Send.Provider != x.provider || i.Receive.Provider != x.provider {
		t.Fatalf("providers %v and %v, asked for %v", i.Send.Provider, i.Receive.Provider, x.provider)
	}
}

// pair returns two ends of ours over loopback.
func (x subject) pair(t testing.TB) (a, b end) {
	t.Helper()
	ca, cb := tcpPair(t)
	return x.pairOn(t, ca, cb)
}

// narrowPair is pair with small buffers.
func (x subject) narrowPair(t testing.TB) (a, b end) {
	t.Helper()
	ca, cb := tcpPair(t)
	narrow(t, ca, cb)
	return x.pairOn(t, ca, cb)
}

// connPair is pair for tests that need what only a Conn has.
func (x subject) connPair(t testing.TB) (client, server *aftls.Conn) {
	t.Helper()
	a, b := x.pair(t)
	return a.(*aftls.Conn), b.(*aftls.Conn)
}

func (x subject) pairOn(t testing.TB, ca, cb net.Conn) (a, b end) {
	t.Helper()
	if !x.conn {
		client, server := x.keys(t)
		return x.onSocket(t, ca, client, server), x.onSocket(t, cb, server, client)
	}
	clientConfig, serverConfig := x.configs()
	var c, s *aftls.Conn
	var cerr, serr error
	var wg sync.WaitGroup
	wg.Go(func() { s, serr = aftls.Server(context.Background(), cb, serverConfig, x.opt) })
	c, cerr = aftls.Client(context.Background(), ca, clientConfig, x.opt)
	wg.Wait()
	if err := errors.Join(cerr, serr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	x.checkProvider(t, c)
	x.checkProvider(t, s)
	x.checkVersion(t, c.ConnectionState())
	return c, s
}

// configs returns Configs that trust each other and agree on the version and,
// in TLS 1.2, on the suite. Without tickets both directions start at known
// numbers.
func (x subject) configs() (client, server *tls.Config) {
	client = &tls.Config{
		RootCAs: x.ca.Pool, ServerName: "test.example", Certificates: []tls.Certificate{x.leaf},
		MinVersion: x.version, MaxVersion: x.version, SessionTicketsDisabled: true,
	}
	if !x.is13() {
		client.CipherSuites = []uint16{x.suite}
	}
	server = client.Clone()
	if x.cache != nil {
		client.ClientSessionCache, client.SessionTicketsDisabled = x.cache, false
	}
	return client, server
}

func (x subject) checkVersion(t testing.TB, cs tls.ConnectionState) {
	t.Helper()
	if cs.Version != x.version || x.suite != 0 && cs.CipherSuite != x.suite {
		t.Fatalf("negotiated %s, %s", tls.VersionName(cs.Version), tls.CipherSuiteName(cs.CipherSuite))
	}
}

// withPeer returns one end of ours and a peer that can send anything.
func (x subject) withPeer(t testing.TB) (end, *peer) {
	t.Helper()
	return x.withPeerAs(t, true)
}

// connWithPeer is withPeer for tests that need what only a Conn has.
func (x subject) connWithPeer(t testing.TB) (*aftls.Conn, *peer) {
	t.Helper()
	e, p := x.withPeerAs(t, true)
	return e.(*aftls.Conn), p
}

// withPeerAs chooses which side ours is.
func (x subject) withPeerAs(t testing.TB, client bool) (end, *peer) {
	t.Helper()
	ours, theirs := tcpPair(t)
	narrow(t, ours, theirs)
	if !x.conn {
		send, receive := x.keys(t)
		return x.onSocket(t, ours, send, receive), newPeer(t, theirs, receive, send)
	}
	clientConfig, serverConfig := x.configs()
	tap := &tap{Conn: theirs, server: client}
	var c *aftls.Conn
	var peerConn *tls.Conn
	var ourErr, theirErr error
	var wg sync.WaitGroup
	if client {
		serverConfig.KeyLogWriter = tapLog{tap}
		peerConn = tls.Server(tap, serverConfig)
		wg.Go(func() { theirErr = peerConn.Handshake() })
		c, ourErr = aftls.Client(context.Background(), ours, clientConfig, x.opt)
	} else {
		clientConfig.KeyLogWriter = tapLog{tap}
		peerConn = tls.Client(tap, clientConfig)
		wg.Go(func() { theirErr = peerConn.Handshake() })
		c, ourErr = aftls.Server(context.Background(), ours, serverConfig, x.opt)
	}
	wg.Wait()
	if err := errors.Join(ourErr, theirErr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	x.checkProvider(t, c)
	x.checkVersion(t, c.ConnectionState())
	fromClient, fromServer := tap.keys(t, c.ConnectionState())
	if client {
		return c, newPeer(t, theirs, fromServer, fromClient)
	}
	return c, newPeer(t, theirs, fromClient, fromServer)
}

// tap is the net.Conn under the crypto/tls end of a handshake, and its key log:
// it notes what the keys follow from.
type tap struct {
	net.Conn
	server     bool   // crypto/tls is the server here
	fromServer []byte // what the server sent
	log        []byte
}

func (c *tap) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.server {
		c.fromServer = append(c.fromServer, p[:n]...)
	}
	return n, err
}

// tapLog is the io.Writer of the key log.
type tapLog struct{ c *tap }

func (l tapLog) Write(p []byte) (int, error) {
	l.c.log = append(l.c.log, p...)
	return len(p), nil
}

func (c *tap) Write(p []byte) (int, error) {
	if c.server {
		c.fromServer = append(c.fromServer, p...)
	}
	return c.Conn.Write(p)
}

// find returns the client random and the secret of a line of the key log.
func (c *tap) find(t testing.TB, label string) (clientRandom, secret []byte) {
	t.Helper()
	for line := range bytes.Lines(c.log) {
		f := bytes.Fields(line)
		if len(f) != 3 || string(f[0]) != label {
			continue
		}
		clientRandom, err1 := hex.DecodeString(string(f[1]))
		secret, err2 := hex.DecodeString(string(f[2]))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return clientRandom, secret
	}
	t.Fatalf("no %s in the key log", label)
	return nil, nil
}

func (c *tap) keys(t testing.TB, cs tls.ConnectionState) (client, server record.Keys) {
	t.Helper()
	var err1, err2 error
	if cs.Version == record.TLS13 {
		_, secret := c.find(t, "CLIENT_TRAFFIC_SECRET_0")
		client, err1 = record.TrafficKeys(cs.CipherSuite, secret)
		_, secret = c.find(t, "SERVER_TRAFFIC_SECRET_0")
		server, err2 = record.TrafficKeys(cs.CipherSuite, secret)
	} else {
		clientRandom, master := c.find(t, "CLIENT_RANDOM")
		// ServerHello comes first: record header, handshake header, version.
		serverRandom := c.fromServer[5+4+2:][:32]
		client, server, err1 = record.KeyBlock(cs.CipherSuite, master, clientRandom, serverRandom)
	}
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return client, server
}
