package handover

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aftls/aftls/record"
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
		resumed bool
	}{
		{"TLS 1.3", tls.VersionTLS13, 3, false}, {"TLS 1.3 resumed", tls.VersionTLS13, 3, true},
		{"TLS 1.2", tls.VersionTLS12, 2, false}, {"TLS 1.2 resumed", tls.VersionTLS12, 2, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ccfg, scfg := configs(t)
			ccfg.MaxVersion = tt.version
			if tt.resumed {
				resumes(t, ourClient, theirServer, ccfg, scfg)
			}
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
			if c.state.DidResume != tt.resumed {
				t.Errorf("resumed: %v", c.state.DidResume)
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

// earlyData seals data under the server's application key and sends them right
// behind the server's Finished, in the same write: before the client has said its
// last word (RFC 8446, 4.4.4), as crypto/tls never does.
type earlyData struct {
	net.Conn
	log  *countingLog
	data []byte
}

func (c *earlyData) Write(p []byte) (int, error) {
	c.log.mu.Lock()
	lines := strings.Split(c.log.buf.String(), "\n")
	c.log.mu.Unlock()
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "SERVER_TRAFFIC_SECRET_0") })
	if i < 0 || c.data == nil {
		return c.Conn.Write(p)
	}
	secret, err := hex.DecodeString(strings.Fields(lines[i])[2])
	if err != nil {
		return 0, err
	}
	// The suite stands in the ServerHello behind 5+4 bytes of headers, the
	// version, the random and a session id of 32 bytes.
	keys, err := record.TrafficKeys(binary.BigEndian.Uint16(p[5+4+2+32+1+32:]), secret)
	if err != nil {
		return 0, err
	}
	s, err := record.NewSealer(keys)
	if err != nil {
		return 0, err
	}
	flight, err := s.Seal(bytes.Clone(p), record.ApplicationData, c.data)
	c.data = nil
	if err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(flight)
	return min(n, len(p)), err
}

func TestServerDataBeforeFinished(t *testing.T) {
	ccfg, scfg := configs(t)
	scfg.SessionTicketsDisabled = true // else the number of the record is another
	log := new(countingLog)
	scfg.KeyLogWriter = log
	a, b := tcpPair(t)
	const banner = "a banner that does not wait"
	c, _, cerr, serr := handshakes(a, &earlyData{b, log, []byte(banner)}, ourClient, theirServer, ccfg, scfg)
	if cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	handedOver(t, c)
	if c.result.In.Seq != 0 {
		t.Errorf("number %d", c.result.In.Seq)
	}
	got := make([]byte, len(banner))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != banner {
		t.Fatalf("%q, %v", got, err)
	}
}
