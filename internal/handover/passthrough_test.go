package handover

import (
	"bytes"
	"crypto/fips140"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls/record"
)

// cbc returns Configs whose suites no socket serves.
func cbc(t *testing.T) (ccfg, scfg *tls.Config) {
	ccfg, scfg = configs(t)
	ccfg.MaxVersion = tls.VersionTLS12
	ccfg.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	scfg.CipherSuites = ccfg.CipherSuites
	return ccfg, scfg
}

// passthroughs returns both ends of a connection in passthrough.
func passthroughs(t *testing.T) (c, s *Passthrough, carriers [2]net.Conn) {
	t.Helper()
	ccfg, scfg := cbc(t)
	a, b := tcpPair(t)
	ce, se, cerr, serr := handshakes(a, b, ourClient, ourServer, ccfg, scfg)
	if cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	return ce.ReadWriter.(*Passthrough), se.ReadWriter.(*Passthrough), [2]net.Conn{a, b}
}

func TestPassthrough(t *testing.T) {
	a := newAuthority(t)
	certs := []tls.Certificate{a.leaf(t, testName), a.leafRSA(t, testName)}
	for _, tt := range []struct{ version, suite uint16 }{
		{tls.VersionTLS10, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA},
		{tls.VersionTLS11, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA},
		{tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA},
		{tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256},
		{tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_CBC_SHA},
	} {
		for _, p := range pairings {
			t.Run(fmt.Sprintf("%s/%s/%s", tls.VersionName(tt.version), tls.CipherSuiteName(tt.suite), p.name), func(t *testing.T) {
				ccfg := &tls.Config{RootCAs: a.pool, ServerName: testName, MinVersion: tt.version, MaxVersion: tt.version,
					CipherSuites: []uint16{tt.suite}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
				scfg := &tls.Config{Certificates: certs, MinVersion: tt.version, CipherSuites: []uint16{tt.suite}}
				for _, resumed := range []bool{false, true} {
					c, s := connect(t, p.client, p.server, ccfg, scfg)
					if c.state.DidResume != resumed || s.state.Version != tt.version || s.state.CipherSuite != tt.suite {
						t.Fatalf("resumed %v, %s, %s", c.state.DidResume, tls.VersionName(s.state.Version), tls.CipherSuiteName(s.state.CipherSuite))
					}
					for _, e := range []*end{c, s} {
						if e.result == nil {
							continue
						}
						r := e.result
						if r.Passthrough == nil || !errors.Is(r.Passthrough.Reason(), ErrSuite) || r.Tickets != nil {
							t.Fatalf("%+v is not passthrough because of its suite", r)
						}
						if why := r.Passthrough.Reason().Error(); !strings.Contains(why, tls.CipherSuiteName(tt.suite)) {
							t.Errorf("the reason does not name the suite: %s", why)
						}
						if len(r.In.Key)+len(r.Out.Key)+len(r.In.Secret)+len(r.Out.Secret) > 0 {
							t.Error("keys came out all the same")
						}
						if r.Passthrough.ConnectionState().CipherSuite != tt.suite {
							t.Error("ConnectionState")
						}
					}
					checkExporters(t, c, s)
					exchange(t, c, s)
				}
			})
		}
	}
}

// An end without close_notify is no end, at whatever byte it comes.
func TestPassthroughTruncation(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(c *Passthrough, carrier net.Conn)
		want error
	}{
		{"close_notify", func(c *Passthrough, _ net.Conn) { c.CloseWrite() }, io.EOF},
		{"Close", func(c *Passthrough, _ net.Conn) { c.Close() }, io.EOF},
		{"FIN", func(_ *Passthrough, carrier net.Conn) { carrier.Close() }, ErrTruncated},
		{"FIN in a header", func(_ *Passthrough, carrier net.Conn) { carrier.Write([]byte{23, 3}); carrier.Close() }, io.ErrUnexpectedEOF},
		{"FIN in a record", func(_ *Passthrough, carrier net.Conn) {
			carrier.Write([]byte{23, 3, 3, 1, 0, 1, 2, 3})
			carrier.Close()
		}, io.ErrUnexpectedEOF},
	} {
		for _, wait := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/Wait=%v", tt.name, wait), func(t *testing.T) {
				c, s, carriers := passthroughs(t)
				if _, err := c.Write([]byte("data")); err != nil {
					t.Fatal(err)
				}
				tt.end(c, carriers[0])
				var got []byte
				var err error
				for b := make([]byte, 100); err == nil; {
					if wait {
						if err = s.Wait(); err != nil {
							break
						}
					}
					var n int
					n, err = s.Read(b)
					got = append(got, b[:n]...)
				}
				if string(got) != "data" || err != tt.want {
					t.Fatalf("%q, %v, want %v", got, err, tt.want)
				}
				if n, err := s.Read(make([]byte, 1)); n != 0 || err != tt.want {
					t.Errorf("again: %d, %v", n, err)
				}
			})
		}
	}
}

// lastWordConn returns the last bytes of its peer along with io.EOF.
type lastWordConn struct {
	net.Conn
	armed bool
}

func (c *lastWordConn) Read(p []byte) (int, error) {
	if !c.armed {
		return c.Conn.Read(p)
	}
	n, err := io.ReadFull(c.Conn, p)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

// An end that comes with the last bytes is not the end before they were looked
// at: close_notify may be in them.
func TestPassthroughEndWithData(t *testing.T) {
	for _, clean := range []bool{true, false} {
		ccfg, scfg := cbc(t)
		a, b := tcpPair(t)
		last := &lastWordConn{Conn: b}
		c, s, cerr, serr := handshakes(a, last, ourClient, ourServer, ccfg, scfg)
		if cerr != nil || serr != nil {
			t.Fatal(cerr, serr)
		}
		last.armed = true
		if _, err := c.Write([]byte("data")); err != nil {
			t.Fatal(err)
		}
		want := ErrTruncated
		if clean {
			want = nil // of ReadAll
			c.close()
		}
		a.Close()
		if got, err := io.ReadAll(s); string(got) != "data" || err != want {
			t.Errorf("close_notify %v: %q, %v, want %v", clean, got, err, want)
		}
	}
}

// stallConn takes so many bytes, then times out until it is let go.
type stallConn struct {
	net.Conn
	mu   sync.Mutex
	room int // -1 is no limit
}

func (c *stallConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.room < 0 || len(p) <= c.room {
		c.room = max(c.room-len(p), min(c.room, 0))
		return c.Conn.Write(p)
	}
	n, err := c.Conn.Write(p[:c.room])
	c.room = 0
	if err == nil {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

func (c *stallConn) set(room int) {
	c.mu.Lock()
	c.room = room
	c.mu.Unlock()
}

// A write that timed out goes on where it stopped: n counts what is committed,
// and the peer sees every byte once.
func TestPassthroughWriteDeadline(t *testing.T) {
	ccfg, scfg := cbc(t)
	a, b := tcpPair(t)
	stall := &stallConn{Conn: a, room: -1}
	ce, se, cerr, serr := handshakes(stall, b, ourClient, ourServer, ccfg, scfg)
	if cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	c, s := ce.ReadWriter.(*Passthrough), se.ReadWriter.(*Passthrough)
	data := make([]byte, 1<<20)
	rand.Read(data)
	type result struct {
		got []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		got, err := io.ReadAll(s)
		done <- result{got, err}
	}()
	left, timeouts := data, 0
	for len(left) > 0 {
		stall.set([]int{0, 1, 7, 5000, 40_000}[timeouts%5])
		n, err := c.Write(left)
		if n > len(left) || err == nil && n < len(left) {
			t.Fatalf("Write of %d bytes = %d, %v", len(left), n, err)
		}
		left = left[n:]
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			if n > 40_000+16<<10 {
				t.Fatalf("%d bytes are committed, where the carrier took 40000 at most", n)
			}
			timeouts++
		}
		if timeouts > 10_000 {
			t.Fatal("no progress")
		}
	}
	if timeouts < 10 {
		t.Fatalf("only %d timeouts", timeouts)
	}
	stall.set(-1)
	if n, err := c.Write(nil); n != 0 || err != nil { // sends what is left
		t.Fatal(n, err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.err != nil || !bytes.Equal(r.got, data) {
		t.Fatalf("%d bytes of %d, %v", len(r.got), len(data), r.err)
	}
}

// An expired deadline is seen before anything is sealed, and can be moved.
func TestPassthroughDeadlines(t *testing.T) {
	c, s, _ := passthroughs(t)
	if err := c.SetWriteDeadline(aLongTimeAgo); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if n, err := c.Write([]byte("never sent")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(n, err)
		}
	}
	if err := s.SetReadDeadline(aLongTimeAgo); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if n, err := s.Read(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(n, err)
		}
		if err := s.Wait(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	c.SetWriteDeadline(time.Time{})
	s.SetReadDeadline(time.Time{})
	transfer(t, c, s, 100_000)
	transfer(t, s, c, 100_000)
}

func TestPassthroughWait(t *testing.T) {
	c, s, _ := passthroughs(t)
	if _, err := c.Write([]byte("abcdef")); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the byte that it has to read is kept once
		if err := s.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := s.Read(nil); n != 0 || err != nil {
		t.Fatalf("Read(nil) = %d, %v", n, err)
	}
	got := make([]byte, 6)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "abcdef" {
		t.Fatalf("%q, %v", got, err)
	}
}

// Close wakes a Read, and a Write that the carrier does not take.
func TestPassthroughClose(t *testing.T) {
	c, _, _ := passthroughs(t)
	errc := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); errc <- err }()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-errc; err == nil || err == io.EOF {
		t.Errorf("Read ended with %v", err)
	}
	if n, err := c.Write([]byte("x")); n != 0 || err == nil {
		t.Errorf("Write after Close: %d, %v", n, err)
	}
}

// TestFIPS140Only starts the process anew with GODEBUG=fips140=only, where Go
// lets nobody but crypto/tls choose the nonces of AES-GCM.
func TestFIPS140Only(t *testing.T) {
	const ran = "every end of ours in passthrough"
	if !isChild(t) {
		inChild(t, "TestFIPS140Only", "fips140=only", ran)
		return
	}
	if !fips140.Enforced() {
		t.Fatal("GODEBUG=fips140=only has no effect")
	}
	for _, p := range pairings {
		for _, version := range versions {
			ccfg, scfg := configs(t)
			ccfg.MaxVersion = version
			for _, resumed := range []bool{false, true} {
				c, s := connect(t, p.client, p.server, ccfg, scfg)
				if c.state.Version != version || c.state.DidResume != resumed {
					t.Fatalf("%s, resumed %v", tls.VersionName(c.state.Version), c.state.DidResume)
				}
				for _, e := range []*end{c, s} {
					if e.result == nil {
						continue
					}
					if e.result.Passthrough == nil {
						t.Fatal("no passthrough")
					}
					if why := e.result.Passthrough.Reason().Error(); !strings.Contains(why, "fips140=only") {
						t.Errorf("reason: %s", why)
					}
				}
				exchange(t, c, s)
			}
		}
	}
	t.Log(ran)
}

// TestChaCha13 starts the process anew without AES instructions: only then does
// crypto/tls choose ChaCha20-Poly1305 in TLS 1.3.
func TestChaCha13(t *testing.T) {
	const ran = "handed over with ChaCha20-Poly1305"
	if !isChild(t) {
		inChild(t, "TestChaCha13", "cpu.aes=off,cpu.pclmulqdq=off,cpu.pmull=off", ran)
		return
	}
	for _, p := range pairings {
		ccfg, scfg := configs(t)
		for range 2 {
			c, s := connect(t, p.client, p.server, ccfg, scfg)
			if c.state.CipherSuite != tls.TLS_CHACHA20_POLY1305_SHA256 {
				t.Fatalf("suite %s", tls.CipherSuiteName(c.state.CipherSuite))
			}
			checkKeys(t, c, record.TLS13, tls.TLS_CHACHA20_POLY1305_SHA256)
			checkKeys(t, s, record.TLS13, tls.TLS_CHACHA20_POLY1305_SHA256)
			checkSame(t, c, s)
			exchange(t, c, s)
		}
	}
	t.Log(ran)
}
