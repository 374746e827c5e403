package handover

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"
)

// gateConn stops reading after it was written to so many times, until open is
// closed: what the peer does meanwhile is all queued behind the handshake.
type gateConn struct {
	net.Conn
	after  int32
	writes atomic.Int32
	open   chan struct{}
}

func (g *gateConn) Write(p []byte) (int, error) {
	g.writes.Add(1)
	return g.Conn.Write(p)
}

func (g *gateConn) Read(p []byte) (int, error) {
	if g.writes.Load() >= g.after {
		<-g.open
	}
	return g.Conn.Read(p)
}

// TestEarlyClient queues a request, close_notify and FIN right behind the
// Finished of the client, before the server reads that.
func TestEarlyClient(t *testing.T) {
	for _, tt := range []struct {
		name    string
		version uint16
		resumed bool // in a full TLS 1.2 handshake the server has the last word
	}{{"TLS 1.3", tls.VersionTLS13, false}, {"TLS 1.3 resumed", tls.VersionTLS13, true}, {"TLS 1.2 resumed", tls.VersionTLS12, true}} {
		t.Run(tt.name, func(t *testing.T) {
			ccfg, scfg := configs(t)
			ccfg.MaxVersion = tt.version
			if tt.resumed {
				resumes(t, theirClient, ourServer, ccfg, scfg)
			}
			request := bytes.Repeat([]byte("request "), 5000)
			a, b := tcpPair(t)
			gate := &gateConn{Conn: b, after: 1, open: make(chan struct{})}
			errc := make(chan error, 1)
			go func() {
				defer close(gate.open)
				c, err := theirClient(a, ccfg)
				if err == nil {
					if _, err = c.Write(request); err == nil {
						err = c.ReadWriter.(*tls.Conn).CloseWrite()
						a.(*net.TCPConn).CloseWrite()
					}
				}
				errc <- err
			}()
			s, err := ourServer(gate, scfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := <-errc; err != nil {
				t.Fatal(err)
			}
			if s.state.DidResume != tt.resumed {
				t.Errorf("resumed: %v", s.state.DidResume)
			}
			got, err := io.ReadAll(s)
			if err != nil || !bytes.Equal(got, request) {
				t.Fatalf("%d bytes of %d, %v", len(got), len(request), err)
			}
			if n, err := b.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("the carrier has more: %d, %v", n, err)
			}
		})
	}
}

// TestEagerServer queues data and the end right behind the last message of the
// server, before the client reads that.
func TestEagerServer(t *testing.T) {
	for _, tt := range []struct {
		name    string
		version uint16
		after   int32
	}{{"TLS 1.3", tls.VersionTLS13, 3}, {"TLS 1.2", tls.VersionTLS12, 2}} {
		t.Run(tt.name, func(t *testing.T) {
			ccfg, scfg := configs(t)
			ccfg.MaxVersion = tt.version
			banner := bytes.Repeat([]byte("banner "), 5000)
			a, b := tcpPair(t)
			gate := &gateConn{Conn: a, after: tt.after, open: make(chan struct{})}
			errc := make(chan error, 1)
			go func() {
				defer close(gate.open)
				s, err := theirServer(b, scfg)
				if err == nil {
					if _, err = s.Write(banner); err == nil {
						err = s.ReadWriter.(*tls.Conn).CloseWrite()
						b.(*net.TCPConn).CloseWrite()
					}
				}
				errc <- err
			}()
			c, err := ourClient(gate, ccfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := <-errc; err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, banner) {
				t.Fatalf("%d bytes of %d, %v", len(got), len(banner), err)
			}
			if tt.version == tls.VersionTLS13 && c.stream(t).control != 1 {
				t.Errorf("%d tickets in front of the data, want 1", c.stream(t).control)
			}
		})
	}
}
