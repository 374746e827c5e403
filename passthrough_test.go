package aftls_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// cbcOnly leaves two Configs nothing but a suite that crypto/tls has to keep.
func cbcOnly(ccfg, scfg *tls.Config) {
	ccfg.MaxVersion = tls.VersionTLS12
	ccfg.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	scfg.CipherSuites = ccfg.CipherSuites
}

// cbcPair returns two ends of ours in passthrough.
func cbcPair(t *testing.T) (c, s *aftls.Conn) {
	t.Helper()
	a, b := tcpPair(t)
	return cbcPairOn(t, a, b)
}

func cbcPairOn(t *testing.T, a, b net.Conn) (c, s *aftls.Conn) {
	t.Helper()
	ccfg, scfg := configs(t)
	cbcOnly(ccfg, scfg)
	return handshakePair(t, a, b, ccfg, scfg, aftls.Options{})
}

// wantOp checks that err is a *net.OpError with the addresses around one that is
// target.
func wantOp(t *testing.T, c *aftls.Conn, what, op string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: %v, want one that is %v", what, err, target)
	}
	e, ok := err.(*net.OpError)
	if !ok || e.Op != op || e.Addr != c.RemoteAddr() || e.Source != c.LocalAddr() {
		t.Errorf("%s: %#v, want a *net.OpError of %q with both addresses", what, err, op)
	}
}

func TestPassthroughData(t *testing.T) {
	c, s := cbcPair(t)
	for _, n := range []int{1, 1000, 16384, 16385, 1 << 20} {
		transfer(t, c, s, n)
		transfer(t, s, c, n)
	}
	v := net.Buffers{[]byte("ab"), nil, []byte("cde")}
	if n, err := c.WriteBuffers(&v); n != 5 || err != nil || len(v) != 0 {
		t.Fatalf("WriteBuffers = %d, %v, %d left", n, err, len(v))
	}
	if err := s.WaitRead(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "abcde" {
		t.Fatalf("%q, %v", got, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n, err := s.Read(got); n != 0 || err != io.EOF {
			t.Fatalf("after close_notify: %d, %v", n, err)
		}
	}
	if err := s.WaitRead(); err != io.EOF {
		t.Fatalf("WaitRead after close_notify: %v", err)
	}
}

// What needs a socket says that there is none, and why.
func TestPassthroughHasNoSocket(t *testing.T) {
	c, s := cbcPair(t)
	suite := tls.CipherSuiteName(tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA)
	for what, f := range map[string]func() (string, error){
		"ReadRecord":  func() (string, error) { _, _, err := c.ReadRecord(make([]byte, 1)); return "read", err },
		"WriteRecord": func() (string, error) { return "write", c.WriteRecord(record.ApplicationData, []byte("x")) },
		"Rekey":       func() (string, error) { return "rekey", c.Rekey(true) },
		"Detach": func() (string, error) {
			st, err := c.Detach()
			if st != nil {
				t.Error("Detach returned a state")
			}
			return "detach", err
		},
	} {
		op, err := f()
		wantOp(t, c, what, op, err, aftls.ErrPassthrough)
		if err != nil && !strings.Contains(err.Error(), suite) {
			t.Errorf("%s: %q does not name the suite", what, err)
		}
	}
	for _, end := range []*aftls.Conn{c, s} {
		i := end.Info()
		for _, d := range []aftls.DirectionInfo{i.Send, i.Receive} {
			if d.Provider != aftls.Passthrough || d.SuiteName() != suite || d.VersionName() != "TLS 1.2" || !strings.Contains(d.Reason, suite) {
				t.Errorf("Info: %+v", d)
			}
		}
		if i.Resumed {
			t.Error("Info says that it was resumed")
		}
	}
	a, err := c.ExportKeyingMaterial("EXPORTER-test", nil, 16)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := s.ExportKeyingMaterial("EXPORTER-test", nil, 16); err != nil || !bytes.Equal(a, b) {
		t.Errorf("exporters: %x, %x, %v", a, b, err)
	}
	transfer(t, c, s, 1000) // it is none the worse for it
	transfer(t, s, c, 1000)
}

func TestRequireSocket(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			ccfg, scfg := configs(t)
			cbcOnly(ccfg, scfg)
			a, b := tcpPair(t)
			// The peer is one that knows a truncated stream when it sees one.
			peer := make(chan error, 1)
			read := func(c *aftls.Conn, err error) {
				if err == nil {
					defer c.Close()
					_, err = c.Read(make([]byte, 1))
				}
				peer <- err
			}
			var err error
			require := aftls.Options{RequireSocket: true}
			if side == "client" {
				go func() { read(aftls.Server(t.Context(), b, scfg, aftls.Options{})) }()
				_, err = aftls.Client(t.Context(), a, ccfg, require)
			} else {
				go func() { read(aftls.Client(t.Context(), b, ccfg, aftls.Options{})) }()
				_, err = aftls.Server(t.Context(), a, scfg, require)
			}
			if e, ok := err.(*net.OpError); !ok || e.Op != "handshake" || !errors.Is(err, aftls.ErrPassthrough) {
				t.Errorf("%#v", err)
			}
			if err := <-peer; err != io.EOF {
				t.Errorf("the peer sees %v, want close_notify", err)
			}
			if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the carrier is still open: %v", err)
			}
		})
	}
}

// Point 5: errors say who is to blame.
func TestPassthroughErrors(t *testing.T) {
	t.Run("truncated", func(t *testing.T) {
		for _, tt := range []struct {
			sent     []byte
			inRecord bool
		}{{nil, false}, {[]byte{23, 3, 3}, true}, {[]byte{23, 3, 3, 0, 50, 1, 2}, true}} {
			c, s := cbcPair(t)
			c.NetConn().Write(tt.sent)
			c.NetConn().Close()
			for range 2 { // sticky
				n, err := s.Read(make([]byte, 10))
				wantOp(t, s, "Read", "read", err, io.ErrUnexpectedEOF)
				e, ok := errors.AsType[*aftls.TruncatedError](err)
				if n != 0 || !ok || e.InRecord != tt.inRecord {
					t.Errorf("sent %x: %d, %v", tt.sent, n, err)
				}
			}
			err := s.WaitRead()
			wantOp(t, s, "WaitRead", "read", err, io.ErrUnexpectedEOF)
		}
	})
	t.Run("bad record", func(t *testing.T) {
		c, s := cbcPair(t)
		garbage := append([]byte{23, 3, 3, 0, 64}, make([]byte, 64)...)
		if _, err := c.NetConn().Write(garbage); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			_, err := s.Read(make([]byte, 10))
			e, ok := errors.AsType[*aftls.PeerError](err)
			if _, op := err.(*net.OpError); !op || !ok || e.Alert != record.BadRecordMAC {
				t.Fatalf("%v (%T)", err, err)
			}
		}
		if _, err := s.Write([]byte("x")); err == nil {
			t.Error("the writer goes on after a bad record")
		}
		_, err := c.Read(make([]byte, 10))
		e, ok := errors.AsType[*aftls.AlertError](err)
		if _, op := err.(*net.OpError); !op || !ok || e.Alert != record.BadRecordMAC {
			t.Fatalf("the peer sees %v (%T)", err, err)
		}
	})
	t.Run("carrier", func(t *testing.T) {
		boom := errors.New("boom")
		a, b := tcpPair(t)
		broken := &breakableConn{Conn: a}
		c, _ := cbcPairOn(t, broken, b)
		broken.err.Store(&boom)
		for _, write := range []bool{false, true} {
			op, err := "read", error(nil)
			if write {
				op = "write"
				_, err = c.Write([]byte("x"))
			} else {
				_, err = c.Read(make([]byte, 1))
			}
			wantOp(t, c, op, op, err, boom)
			if _, ok := errors.AsType[*aftls.CarrierError](err); !ok {
				t.Errorf("%s: %v (%T) does not blame the carrier", op, err, err)
			}
		}
	})
	t.Run("reset", func(t *testing.T) {
		c, s := cbcPair(t)
		c.NetConn().(*net.TCPConn).SetLinger(0)
		c.NetConn().Close()
		_, err := s.Read(make([]byte, 1))
		if _, ok := errors.AsType[*aftls.CarrierError](err); !ok || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v (%T)", err, err)
		}
	})
}

// breakableConn fails from the moment that err is set.
type breakableConn struct {
	net.Conn
	err atomic.Pointer[error]
}

func (c *breakableConn) Read(p []byte) (int, error) {
	if err := c.err.Load(); err != nil {
		return 0, *err
	}
	return c.Conn.Read(p)
}

func (c *breakableConn) Write(p []byte) (int, error) {
	if err := c.err.Load(); err != nil {
		return 0, *err
	}
	return c.Conn.Write(p)
}

// readingConn says when it is read for the first time after it was armed.
type readingConn struct {
	net.Conn
	armed   atomic.Bool
	once    sync.Once
	reading chan struct{}
}

func (c *readingConn) Read(p []byte) (int, error) {
	if c.armed.Load() {
		c.once.Do(func() { close(c.reading) })
	}
	return c.Conn.Read(p)
}

// tapConn keeps what is written.
type tapConn struct {
	net.Conn
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *tapConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.buf.Write(p)
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// Point 6: nothing finds a way around the record layer.
func TestPassthroughHidesCarrier(t *testing.T) {
	marker := []byte("a marker that must not be on the wire")
	path := filepath.Join(t.TempDir(), "marker")
	if err := os.WriteFile(path, bytes.Repeat(marker, 2000), 0o600); err != nil {
		t.Fatal(err)
	}
	// What net and os look at is the type, so the carrier is a real one, and
	// somebody between the two ends looks at the bytes.
	a, near := tcpPair(t)
	far, b := tcpPair(t)
	tap := &tapConn{Conn: far}
	go func() { io.Copy(tap, near); far.(*net.TCPConn).CloseWrite() }()
	go func() { io.Copy(near, far); near.(*net.TCPConn).CloseWrite() }()
	c, s := cbcPairOn(t, a, b)
	if _, ok := any(c).(syscall.Conn); ok {
		t.Fatal("Conn implements syscall.Conn")
	}
	total := make(chan int, 1)
	go func() {
		got, err := io.ReadAll(s)
		if err != nil {
			t.Error(err)
		}
		total <- bytes.Count(got, marker)
	}()
	open := func() *os.File {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	for what, send := range map[string]func() (int64, error){
		"Copy":         func() (int64, error) { return io.Copy(c, open()) },
		"ReadFrom":     func() (int64, error) { return c.ReadFrom(open()) },
		"WriteTo":      func() (int64, error) { return open().WriteTo(c) },
		"Buffers":      func() (int64, error) { v := net.Buffers{bytes.Repeat(marker, 2000)}; return v.WriteTo(c) },
		"WriteBuffers": func() (int64, error) { v := net.Buffers{bytes.Repeat(marker, 2000)}; return c.WriteBuffers(&v) },
	} {
		if n, err := send(); err != nil || n != int64(2000*len(marker)) {
			t.Fatalf("%s: %d, %v", what, n, err)
		}
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n := <-total; n != 10_000 {
		t.Errorf("%d markers came, want 10000", n)
	}
	tap.mu.Lock()
	defer tap.mu.Unlock()
	if tap.buf.Len() < 10_000*len(marker) {
		t.Errorf("only %d bytes were seen on the wire", tap.buf.Len())
	}
	if bytes.Contains(tap.buf.Bytes(), marker) {
		t.Error("plaintext on the wire")
	}
}

// Point 7: deadlines end calls, not connections.
func TestPassthroughDeadlines(t *testing.T) {
	c, s := cbcPair(t)
	past := time.Unix(1, 0)
	if err := c.SetDeadline(past); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n, err := c.Write([]byte("never sent"))
		if n != 0 {
			t.Errorf("Write = %d", n)
		}
		wantOp(t, c, "Write", "write", err, os.ErrDeadlineExceeded)
		_, err = c.Read(make([]byte, 1))
		wantOp(t, c, "Read", "read", err, os.ErrDeadlineExceeded)
		wantOp(t, c, "WaitRead", "read", c.WaitRead(), os.ErrDeadlineExceeded)
	}
	c.SetDeadline(time.Time{})
	transfer(t, c, s, 1000)
	transfer(t, s, c, 1000)
	// A deadline in the middle of a large write.
	data := make([]byte, 16<<20)
	rand.Read(data)
	c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := c.Write(data) // more than the buffers of the system hold
	wantOp(t, c, "Write", "write", err, os.ErrDeadlineExceeded)
	if n == 0 || n >= len(data) {
		t.Fatalf("%d of %d bytes were written with nobody reading", n, len(data))
	}
	got := make(chan []byte, 1)
	go func() {
		b, err := io.ReadAll(s)
		if err != nil {
			t.Error(err)
		}
		got <- b
	}()
	c.SetWriteDeadline(time.Time{})
	if _, err := c.Write(data[n:]); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(<-got, data) {
		t.Error("data differ")
	}
}

// Point 8: one who reads does not wait for one who writes, nor the other way.
func TestPassthroughNobodyWaits(t *testing.T) {
	c, s := cbcPair(t)
	stuck := make(chan struct{})
	written := make(chan error, 1)
	data := make([]byte, 16<<20)
	go func() {
		close(stuck)
		_, err := c.Write(data)
		written <- err
	}()
	<-stuck
	transfer(t, s, c, 1<<20) // while c's Write goes on
	if _, err := io.CopyN(io.Discard, s, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
}

// Nor does one who has to tell the peer what was wrong with its record.
func TestPassthroughReadFailsAtOnce(t *testing.T) {
	a, b := tcpPair(t)
	blocks := newSignalingConn(a)
	c, s := cbcPairOn(t, blocks, b)
	blocks.armed.Store(true)
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, 1<<20))
		written <- err
	}()
	<-blocks.full
	if _, err := s.NetConn().Write(append([]byte{23, 3, 3, 0, 64}, make([]byte, 64)...)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Read(make([]byte, 1))
	if e, ok := errors.AsType[*aftls.PeerError](err); !ok || e.Alert != record.BadRecordMAC {
		t.Errorf("%v (%T)", err, err)
	}
	c.Close()
	if err := <-written; err == nil {
		t.Error("the Write under way has no error")
	}
}

// Point 9: the ways to end.
func TestPassthroughClose(t *testing.T) {
	t.Run("CloseWrite", func(t *testing.T) {
		c, s := cbcPair(t)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("%d, %v", n, err)
		}
		_, err := c.Write([]byte("x"))
		wantOp(t, c, "Write", "write", err, aftls.ErrShutdown)
		transfer(t, s, c, 100_000)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("%d, %v", n, err)
		}
	})
	t.Run("Close", func(t *testing.T) {
		a, b := tcpPair(t)
		reads := &readingConn{Conn: a, reading: make(chan struct{})}
		c, s := cbcPairOn(t, reads, b)
		reads.armed.Store(true)
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		<-reads.reading
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		wantOp(t, c, "the Read under way", "read", <-read, net.ErrClosed)
		if _, err := s.Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
		wantOp(t, c, "second Close", "close", c.Close(), net.ErrClosed)
		_, err := c.Read(make([]byte, 1))
		wantOp(t, c, "Read", "read", err, net.ErrClosed)
		_, err = c.Write([]byte("x"))
		wantOp(t, c, "Write", "write", err, net.ErrClosed)
		wantOp(t, c, "WaitRead", "read", c.WaitRead(), net.ErrClosed)
		wantOp(t, c, "CloseWrite", "close", c.CloseWrite(), net.ErrClosed)
		wantOp(t, c, "SetDeadline", "set", c.SetDeadline(time.Time{}), net.ErrClosed)
	})
	t.Run("Close of a carrier with errors of its own", func(t *testing.T) {
		a, b := net.Pipe() // it says io.ErrClosedPipe
		reads := &readingConn{Conn: a, reading: make(chan struct{})}
		c, s := cbcPairOn(t, reads, b)
		reads.armed.Store(true)
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		<-reads.reading
		transferred := make(chan error, 1)
		go func() { _, err := s.Read(make([]byte, 1)); transferred <- err }()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-transferred; err != io.EOF {
			t.Errorf("the peer sees %v", err)
		}
		wantOp(t, c, "the Read under way", "read", <-read, net.ErrClosed)
	})
	t.Run("Close with a Write under way that sends what an earlier one left", func(t *testing.T) {
		a, b := tcpPair(t)
		blocks := newSignalingConn(a)
		c, s := cbcPairOn(t, blocks, b)
		blocks.expired.Store(true)
		n, err := c.Write(make([]byte, 1000))
		if n != 1000 {
			t.Errorf("Write = %d", n)
		}
		wantOp(t, c, "Write", "write", err, os.ErrDeadlineExceeded)
		blocks.expired.Store(false)
		blocks.armed.Store(true)
		written := make(chan error, 1)
		go func() {
			_, err := c.Write(nil)
			written <- err
		}()
		<-blocks.full
		c.Close()
		wantOp(t, c, "the Write under way", "write", <-written, net.ErrClosed)
		if _, err := io.Copy(io.Discard, s); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the peer sees %v, want a truncated stream", err)
		}
	})
	t.Run("Close sends what a Write left", func(t *testing.T) {
		a, b := tcpPair(t)
		stops := newSignalingConn(a)
		c, s := cbcPairOn(t, stops, b)
		stops.expired.Store(true)
		n, err := c.Write([]byte("committed"))
		wantOp(t, c, "Write", "write", err, os.ErrDeadlineExceeded)
		stops.expired.Store(false)
		if err := c.Close(); n != 9 || err != nil {
			t.Error(n, err)
		}
		if got, err := io.ReadAll(s); err != nil || string(got) != "committed" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("Close with a Write under way", func(t *testing.T) {
		a, b := tcpPair(t)
		blocks := newSignalingConn(a)
		c, s := cbcPairOn(t, blocks, b)
		blocks.armed.Store(true)
		written := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, 1<<20))
			written <- err
		}()
		<-blocks.full
		c.Close()
		wantOp(t, c, "the Write under way", "write", <-written, net.ErrClosed)
		if _, err := io.Copy(io.Discard, s); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the peer sees %v, want a truncated stream", err)
		}
	})
}

// signalingConn blocks in Write when it is armed, until it is closed. No
// deadline helps.
type signalingConn struct {
	net.Conn
	armed   atomic.Bool
	expired atomic.Bool // Write times out
	once    sync.Once
	full    chan struct{} // closed when Write blocks
	closing sync.Once
	done    chan struct{} // closed by Close
}

func (c *signalingConn) Write(p []byte) (int, error) {
	switch {
	case c.expired.Load():
		return 0, os.ErrDeadlineExceeded
	case c.armed.Load():
		c.once.Do(func() { close(c.full) })
		<-c.done
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func (c *signalingConn) Close() error {
	c.closing.Do(func() { close(c.done) })
	return c.Conn.Close()
}

func newSignalingConn(c net.Conn) *signalingConn {
	return &signalingConn{Conn: c, full: make(chan struct{}), done: make(chan struct{})}
}
