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

	"github.com/aftls/aftls/record"
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

// byteCounter counts what is read from a connection.
type byteCounter struct {
	net.Conn
	n int
}

func (c *byteCounter) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n += n
	return n, err
}

// The wire asks the carrier for no byte behind a record that may be the last of
// the handshake, whatever room it is given. It looks ahead by one header behind
// records that cannot be.
func TestWireReadsRecords(t *testing.T) {
	rec := func(typ byte, n int) []byte {
		return append([]byte{typ, 3, 3, byte(n >> 8), byte(n)}, bytes.Repeat([]byte{typ}, n)...)
	}
	records := [][]byte{rec(22, 70), rec(22, 0), rec(20, 1), rec(22, 0), rec(23, 16384), rec(22, 1)}
	const mayBeLast = 3 // from here on: behind change_cipher_spec
	stream := bytes.Join(records, nil)
	behind := bytes.Repeat([]byte{0xee}, 100)
	for _, max := range []int{1, 4, 5, 7, 1 << 16} {
		a, b := net.Pipe()
		go func() {
			b.Write(append(bytes.Clone(stream), behind...))
			b.Close()
		}()
		carrier := &byteCounter{Conn: a}
		w := &wire{Conn: carrier, via: &pieceConn{carrier, max}, sent: true}
		var got []byte
		for len(got) < len(stream) {
			before := carrier.n
			p := make([]byte, 1+rand.IntN(20000))
			n, err := w.Read(p)
			if err != nil || n == 0 {
				t.Fatal(n, err)
			}
			got = append(got, p[:n]...)
			end, border := 0, false
			for i, rec := range records {
				end += len(rec)
				border = border || len(got) == end
				if i >= mayBeLast && before < end && carrier.n > end {
					t.Fatalf("%d bytes were read behind record %d", carrier.n-end, i)
				}
				if i < mayBeLast && before < end && carrier.n > end+record.HeaderLen {
					t.Fatalf("more than a header was read behind record %d", i)
				}
			}
			if w.boundary() != border {
				t.Fatalf("boundary %v at byte %d", w.boundary(), len(got))
			}
		}
		if !bytes.Equal(got, stream) {
			t.Fatal("the records differ")
		}
		rest, err := io.ReadAll(a)
		if err != nil || !bytes.Equal(rest, behind) {
			t.Fatalf("%d bytes left of %d, %v", len(rest), len(behind), err)
		}
	}
}

// Before it has said anything a server takes all there is: the hello and what is
// sent behind it blindly. The records are followed all the same.
func TestWireReadsTheFirstFlightAtOnce(t *testing.T) {
	hello := append([]byte{22, 3, 1, 0, 6, 1, 0, 0, 2, 7, 8}, 20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 9, 1, 2, 3)
	a, b := net.Pipe()
	go b.Write(hello)
	w := &wire{Conn: a, via: a}
	p := make([]byte, 100)
	if n, err := w.Read(p); err != nil || !bytes.Equal(p[:n], hello) {
		t.Fatalf("%x, %v", p[:n], err)
	}
	if !bytes.Equal(w.clientHello, hello[5:11]) || !w.changed || w.boundary() || w.body != 6 {
		t.Errorf("hello %x, change_cipher_spec %v, %d bytes of the body missing", w.clientHello, w.changed, w.body)
	}
	w.sent = true
	if n := w.readable(); n != 6 {
		t.Errorf("%d bytes are readable, want the 6 of the record", n)
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
		if len(w.appRecords) != 3 || len(w.appRecords[0]) != 8 || len(w.appRecords[1]) != 5 || len(w.appRecords[2]) != record.HeaderLen+16384 {
			t.Fatalf("%d records of application data", len(w.appRecords))
		}
	}
}

// A handshake that ended inside a record cannot be handed over.
func TestNotAtBoundary(t *testing.T) {
	r := &Result{State: tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}}
	for name, w := range map[string]*wire{
		"header in part": {headRead: 3},
		"body in part":   {headRead: 5, body: 1},
	} {
		if err := r.recover(w); !errors.Is(err, errSecrets) {
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
	secret := bytes.Repeat([]byte{1}, 48)
	l := logged{master: secret}
	l.wipe()
	if !bytes.Equal(secret, make([]byte, 48)) || l.master != nil {
		t.Error("the secret was not wiped")
	}
}

// What a reader has to say (an alert, the answer to a KeyUpdate) is sent without
// a writer, or by the one that is there, even if that was about to leave.
func TestAnswersAreSent(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	w := &wire{Conn: a, mode: through}
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
	w := &wire{Conn: a, mode: through}
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
