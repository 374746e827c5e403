package handover

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
)

// pieceConn reads and writes in pieces of random size, down to single bytes.
type pieceConn struct {
	net.Conn
	max int
}

func (c *pieceConn) Read(p []byte) (int, error) {
	return c.Conn.Read(p[:min(len(p), 1+rand.IntN(c.max))])
}

func (c *pieceConn) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		var m int
		m, err = c.Conn.Write(p[:min(len(p), 1+rand.IntN(c.max))])
		n, p = n+m, p[m:]
	}
	return n, err
}

func TestPieces(t *testing.T) {
	for _, max := range []int{1, 3, 50, 5000} {
		for _, version := range versions {
			ccfg, scfg := configs(t)
			ccfg.MaxVersion = version
			for range 2 {
				a, b := tcpPair(t)
				c, s, cerr, serr := handshakes(&pieceConn{a, max}, &pieceConn{b, max}, ourClient, ourServer, ccfg, scfg)
				if cerr != nil || serr != nil {
					t.Fatalf("%s in pieces of %d: client: %v; server: %v", tls.VersionName(version), max, cerr, serr)
				}
				transfer(t, c, s, 1000)
				transfer(t, s, c, 1000)
				if c.result.Passthrough != nil || s.result.Passthrough != nil {
					t.Fatal("passthrough")
				}
			}
		}
	}
}

// crypto/tls gets no byte of a record while it is busy with another, whatever
// room it has and however much was read: what is behind the last one comes out
// of unread and the carrier.
func TestWireGivesRecords(t *testing.T) {
	rec := func(typ byte, n int) []byte {
		return append([]byte{typ, 3, 3, byte(n >> 8), byte(n)}, bytes.Repeat([]byte{typ}, n)...)
	}
	records := [][]byte{rec(22, 70), rec(20, 1), rec(22, 0), rec(23, 16384), rec(22, 1)}
	behind := bytes.Repeat([]byte{0xee}, 3000)
	for _, max := range []int{1, 4, 5, 7, 1 << 16} {
		a, b := net.Pipe()
		go func() {
			b.Write(append(bytes.Join(records, nil), behind...))
			b.Close()
		}()
		w := &wire{Conn: a, via: &pieceConn{a, max}}
		for i, rec := range records {
			if !w.boundary() {
				t.Fatalf("no boundary in front of record %d", i)
			}
			got := make([]byte, 0, len(rec))
			for len(got) < len(rec) {
				p := make([]byte, 1+rand.IntN(20000))
				n, err := w.Read(p)
				if err != nil || n == 0 {
					t.Fatal(n, err)
				}
				got = append(got, p[:n]...)
				if len(got) > len(rec) {
					t.Fatalf("%d bytes came behind record %d", len(got)-len(rec), i)
				}
				if len(got) < len(rec) && w.boundary() {
					t.Fatalf("boundary inside of record %d, at byte %d of %d", i, len(got), len(rec))
				}
			}
			if !bytes.Equal(got, rec) {
				t.Fatalf("record %d differs", i)
			}
		}
		buffer := w.buffer
		rest := w.unread()
		if buffer != nil && *buffer != [aheadSize]byte{} {
			t.Error("the buffer goes back with what was read into it")
		}
		more, err := io.ReadAll(a)
		if rest = append(rest, more...); err != nil || !bytes.Equal(rest, behind) {
			t.Fatalf("%d bytes left of %d, %v", len(rest), len(behind), err)
		}
		if w.buffer != nil {
			t.Error("the buffer was kept")
		}
	}
}

// What crypto/tls sends is noted the same in whatever pieces it comes.
func TestNoteSentInPieces(t *testing.T) {
	rec := func(typ byte, body ...byte) []byte {
		return append([]byte{typ, 3, 3, byte(len(body) >> 8), byte(len(body))}, body...)
	}
	hello := append([]byte{2, 0, 0, 40}, bytes.Repeat([]byte{7}, 40)...)
	finished := bytes.Repeat([]byte{9}, 60)
	sent := bytes.Join([][]byte{
		rec(22, hello[:10]...), rec(22, hello[10:]...), rec(20, 1),
		rec(23, 1, 2, 3), rec(23), rec(23, bytes.Repeat([]byte{5}, 16384)...), rec(22, finished...),
	}, nil)
	for range 200 {
		w := &wire{logged: logged{serverTraffic: []byte{1}}}
		for p := sent; len(p) > 0; {
			n := min(len(p), 1+rand.IntN(1+rand.IntN(len(sent))))
			piece := bytes.Clone(p[:n])
			w.noteSent(piece)
			clear(piece) // it is the caller's
			p = p[n:]
		}
		if !bytes.Equal(w.serverHello, hello) || !bytes.Equal(w.lastSent, rec(22, finished...)) || len(w.partial) != 0 {
			t.Fatalf("hello %x, last %x, partial %x", w.serverHello, w.lastSent, w.partial)
		}
		if want := bytes.Join([][]byte{rec(23, 1, 2, 3), rec(23), rec(23, bytes.Repeat([]byte{5}, 16384)...)}, nil); !bytes.Equal(w.appSent, want) {
			t.Fatalf("%d bytes of application data, want %d", len(w.appSent), len(want))
		}
	}
}

// A handshake that ended inside a record cannot be handed over.
func TestNotAtBoundary(t *testing.T) {
	r := &Result{State: tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}}
	for name, tt := range map[string]struct {
		w  *wire
		ok bool
	}{
		"boundary":       {&wire{}, true},
		"header in part": {&wire{headRead: 3}, false},
		"header only":    {&wire{headRead: 5, body: 2}, false},
		"body in part":   {&wire{headRead: 5, body: 1}, false},
	} {
		w := tt.w
		w.logged = logged{clientTraffic: make([]byte, 32), serverTraffic: make([]byte, 32)}
		if err := r.recover(w); (err == nil) != tt.ok || !tt.ok && !errors.Is(err, errSecrets) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Nothing that the handshake showed stays in memory with the connection.
func TestForget(t *testing.T) {
	ccfg, scfg := configs(t)
	c, _ := connect(t, ourClient, ourServer, ccfg, scfg)
	w := c.result.Tickets.w
	if w.logged.clientTraffic != nil || w.clientHello != nil || w.serverHello != nil || w.lastSent != nil || w.sessions != nil || w.via != nil {
		t.Error("a parked connection keeps the handshake")
	}
	var l logged
	secret, err := l.keep(bytes.Repeat([]byte("01"), 48))
	l.master = secret
	l.wipe()
	if err != nil || !bytes.Equal(secret, make([]byte, 48)) || l.master != nil {
		t.Error("the secret was not wiped")
	}
}

// What a reader has to say (an alert, the answer to a KeyUpdate) is sent without
// a writer, or by the one that is there, even if that was about to leave.
func TestAnswersAreSent(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	w := &wire{Conn: a}
	w.setMode(through)
	want := func(s string) {
		t.Helper()
		got := make([]byte, len(s))
		if _, err := io.ReadFull(b, got); err != nil || string(got) != s {
			t.Fatalf("%q, %v, want %q", got, err, s)
		}
	}
	for range 3 {
		io.WriteString(w, "nobody writes")
		want("nobody writes")
		w.hold()
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "behind the last flush")
		w.release()
		want("behind the last flush")
	}
	w.hold()
	io.WriteString(w, "first ")
	io.WriteString(w, "second")
	done := make(chan error)
	go func() { done <- w.flush() }()
	want("first second")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.release()
}

// A peer that makes a reader answer and reads none of it cannot make us hold
// more and more.
func TestAnswersAreBounded(t *testing.T) {
	a, b := net.Pipe() // nobody reads b
	w := &wire{Conn: a}
	w.setMode(through)
	answer := make([]byte, 30)
	var err error
	n := 0
	for ; n < 1<<20 && err == nil; n++ {
		_, err = w.Write(answer)
	}
	if !errors.Is(err, errLeft) || n*len(answer) < 32<<10 {
		t.Errorf("%d answers are held: %v", n, err)
	}
	w.lmu.Lock()
	if w.senders != 1 {
		t.Errorf("%d goroutines send them", w.senders)
	}
	w.lmu.Unlock()
	b.Close()
	for { // until the one that sends them has seen it
		w.lmu.Lock()
		senders := w.senders
		w.lmu.Unlock()
		if senders == 0 {
			break
		}
		runtime.Gosched()
	}
	a.Close()
}
