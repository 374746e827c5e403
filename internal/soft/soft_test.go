package soft

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls/record"
)

const (
	suite13  = 0x1301 // TLS_AES_128_GCM_SHA256
	chacha13 = 0x1303 // TLS_CHACHA20_POLY1305_SHA256
	suite12  = 0xc02b // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
)

// testKeys are the same in every call.
func testKeys(t testing.TB, suite uint16) record.Keys {
	t.Helper()
	if suite == suite12 {
		k, _, err := record.KeyBlock(suite, make([]byte, 48), make([]byte, 32), make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	k, err := record.TrafficKeys(suite, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newSender(t testing.TB, conn net.Conn, suite uint16) *Sender {
	t.Helper()
	s := NewSender(conn, nil, 0, 0)
	if err := s.SetKeys(testKeys(t, suite)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func newReceiver(t testing.TB, conn net.Conn, suite uint16) *Receiver {
	t.Helper()
	r := NewReceiver(conn, nil, nil)
	if err := r.SetKeys(testKeys(t, suite)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(net.ErrClosed) })
	return r
}

func newSealer(t testing.TB, suite uint16) *record.Sealer {
	t.Helper()
	s, err := record.NewSealer(testKeys(t, suite))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// seal appends one record.
func seal(t testing.TB, s *record.Sealer, wire []byte, typ record.ContentType, p []byte) []byte {
	t.Helper()
	wire, err := s.Seal(wire, typ, p)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// noise is n bytes that no other call with another seed returns.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// lent fails the test if it ends with more buffers lent out than it began with.
func lent(t testing.TB) {
	t.Helper()
	before := Borrowed()
	t.Cleanup(func() {
		if n := Borrowed() - before; n != 0 {
			t.Errorf("%d buffers are still lent", n)
		}
	})
}

// opened is one record that came out of a wire.
type opened struct {
	typ record.ContentType
	p   []byte
	len int // sealed
}

// openAll opens every record of a wire.
func openAll(t testing.TB, k record.Keys, wire []byte) (all []opened) {
	t.Helper()
	o, err := record.NewOpener(k)
	if err != nil {
		t.Fatal(err)
	}
	wire = bytes.Clone(wire)
	for len(wire) > 0 {
		n, err := o.Frame(wire)
		if err != nil || n == 0 || n > len(wire) {
			t.Fatalf("behind %d records: %d of %d bytes, %v", len(all), n, len(wire), err)
		}
		typ, p, err := o.Open(nil, wire[:n])
		if err != nil {
			t.Fatalf("record %d: %v", len(all), err)
		}
		all = append(all, opened{typ, p, n})
		wire = wire[n:]
	}
	return all
}

// data is the application data of a wire.
func data(t testing.TB, k record.Keys, wire []byte) (b []byte) {
	t.Helper()
	for _, r := range openAll(t, k, wire) {
		if r.typ == record.ApplicationData {
			b = append(b, r.p...)
		}
	}
	return b
}

// script is a carrier whose calls the test decides on.
type script struct {
	net.Conn // nil
	mu       sync.Mutex

	in    []byte // to be read
	piece int    // bytes of one Read at most; 0: no limit
	reads []int  // len(p) of each
	end   error  // after in

	out    []byte
	writes []int // bytes taken by each Write
	first  *byte // of the slice of the last Write
	take   []int // bytes that the next Writes take before their deadline; then no limit
	err    error // of Write, once take is used up
}

func (c *script) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads = append(c.reads, len(p))
	if len(c.in) == 0 {
		return 0, c.end
	}
	if c.piece > 0 && len(p) > c.piece {
		p = p[:c.piece]
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	return n, nil
}

func (c *script) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) > 0 {
		c.first = &p[0]
	}
	n = len(p)
	if len(c.take) > 0 {
		if c.take[0] < n {
			n, err = c.take[0], &net.OpError{Op: "write", Err: os.ErrDeadlineExceeded}
		}
		c.take = c.take[1:]
	} else if c.err != nil {
		return 0, c.err
	}
	c.out = append(c.out, p[:n]...)
	c.writes = append(c.writes, n)
	return n, err
}

// fed is a script that brings wire and then io.EOF.
func fed(wire []byte) *script { return &script{in: wire, end: io.EOF} }

// tcpPair returns both ends of a TCP connection over loopback.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	x, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	y, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close(); y.Close() })
	return x.(*net.TCPConn), y.(*net.TCPConn)
}

// past is a deadline that is over.
var past = time.Unix(1, 0)
