package aftlstest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

var datagramDeadlines = []datagramPromise{
	{"Read", true, false, datagramReadDeadline},
	{"ReadInBubble", true, true, datagramReadDeadline},
	{"Write", true, false, datagramWriteDeadline},
}

func datagramReadDeadline(t *testing.T, x datagramSubject) {
	var p *datagramPair
	if inBubble() {
		p = x.memoryPair(t, 1, Weather{})
	} else {
		p = x.udpPair(t)
	}
	b := make([]byte, 100)
	for _, d := range []time.Duration{-time.Second, 0, 5 * time.Millisecond} {
		p.end.SetReadDeadline(time.Now().Add(d))
		_, err := p.end.Read(b)
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Fatalf("%v: %v", d, err)
		}
		if _, err := p.end.ReadBatch([][]byte{b}, make([]int, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%v: %v", d, err)
		}
	}
	// It can be moved, also while a Read waits.
	p.end.SetReadDeadline(time.Time{})
	say(t, p.peer, p.end, "later")
	done := make(chan error, 1)
	p.end.SetReadDeadline(time.Now().Add(time.Hour))
	go func() { _, err := p.end.Read(b); done <- err }()
	p.end.SetReadDeadline(time.Now())
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	p.end.SetDeadline(time.Time{})
	say(t, p.peer, p.end, "and later")
}

// inBubble reports whether time is that of a bubble, where it stands still.
func inBubble() bool { return time.Now().Year() == 2000 }

func datagramWriteDeadline(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	p.end.SetWriteDeadline(time.Now().Add(-time.Second))
	seq := p.end.Info().Send.Seq
	if n, err := p.end.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d, %v", n, err)
	}
	if n, err := p.end.WriteBatch([][]byte{{1}, {2}}); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d, %v", n, err)
	}
	if now := p.end.Info().Send.Seq; now != seq {
		t.Errorf("sealed %d records after the deadline", now-seq)
	}
	p.end.SetWriteDeadline(time.Time{})
	say(t, p.end, p.peer, "later")
}

var datagramClosing = []datagramPromise{
	{"CloseNotify", false, false, datagramCloseNotify},
	{"WakesRead", true, false, datagramCloseWakes},
	{"AfterClose", true, false, datagramAfterClose},
	{"WithCallsUnderWay", true, false, datagramCloseRace},
}

func datagramCloseNotify(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	if _, err := p.peer.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	if err := p.peer.Close(); err != nil {
		t.Fatal(err)
	}
	hearOne(t, p.end, "last words")
	for range 2 {
		if n, err := p.end.Read(make([]byte, 10)); n != 0 || err != io.EOF {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if n, err := p.end.ReadBatch([][]byte{make([]byte, 10)}, make([]int, 1)); n != 0 || err != io.EOF {
		t.Fatalf("%d, %v", n, err)
	}
}

func datagramCloseWakes(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	a := start(t, func() (int64, error) { n, err := p.end.Read(make([]byte, 10)); return int64(n), err })
	b := start(t, func() (int64, error) {
		n, err := p.end.ReadBatch([][]byte{make([]byte, 10)}, make([]int, 1))
		return int64(n), err
	})
	p.end.Close()
	for _, c := range []*call{a, b} {
		<-c.done
		if c.n != 0 || !errors.Is(c.err, net.ErrClosed) {
			t.Errorf("%d, %v", c.n, c.err)
		}
	}
}

func datagramAfterClose(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	if err := p.end.Close(); err != nil {
		t.Fatal(err)
	}
	_, r := p.end.Read(make([]byte, 1))
	_, rb := p.end.ReadBatch([][]byte{make([]byte, 1)}, make([]int, 1))
	_, w := p.end.Write([]byte("x"))
	_, wb := p.end.WriteBatch([][]byte{{1}, {2}})
	_, d := p.end.Detach()
	for i, err := range []error{r, rb, w, wb, d, p.end.SetDeadline(time.Time{}), p.end.SetReadDeadline(time.Now()), p.end.Close()} {
		var op *net.OpError
		if !errors.Is(err, net.ErrClosed) || !errors.As(err, &op) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func datagramCloseRace(t *testing.T, x datagramSubject) {
	for range 20 {
		p := x.udpPair(t)
		var calls []*call
		for range 2 {
			calls = append(calls,
				start(t, func() (int64, error) {
					for {
						if _, err := p.end.Read(make([]byte, 2000)); err != nil {
							return 0, err
						}
					}
				}),
				start(t, func() (int64, error) {
					for {
						if _, err := p.end.WriteBatch([][]byte{make([]byte, 1000), make([]byte, 1000)}); err != nil {
							return 0, err
						}
					}
				}),
				start(t, func() (int64, error) {
					for {
						if _, err := p.peer.Write(make([]byte, 1000)); err != nil {
							return 0, net.ErrClosed
						}
						if p.end.Info().Receive.Records > 100 {
							return 0, net.ErrClosed
						}
					}
				}))
		}
		for p.end.Info().Receive.Records < 20 {
			runtime.Gosched()
		}
		p.end.Close()
		p.peer.Close()
		for _, c := range calls {
			<-c.done
			if !errors.Is(c.err, net.ErrClosed) {
				t.Errorf("%v", c.err)
			}
		}
		p.l.Close()
	}
}

var datagramMoves = []datagramPromise{
	{"GoesOn", false, false, datagramGoesOn},
	{"Unread", true, false, datagramMoveUnread},
	{"AfterDetach", true, false, datagramAfterDetach},
	{"StateOnce", true, false, datagramStateOnce},
	{"NotAState", true, false, datagramNotAState},
	{"NoNumberTwice", false, true, datagramNumbers},
}

// move detaches an end and resumes it in its place.
func (p *datagramPair) move(t testing.TB, e *aftls.DatagramConn, encoded bool) *aftls.DatagramConn {
	t.Helper()
	carrier := e.NetConn()
	st, err := e.Detach()
	if err != nil {
		t.Fatal(err)
	}
	if encoded {
		b, err := st.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		st = new(aftls.DatagramState)
		if err := st.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
	}
	var c *aftls.DatagramConn
	if carrier == nil {
		c, err = p.l.Resume(st)
	} else {
		c, err = aftls.ResumeDatagram(carrier, st, aftls.Options{})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func datagramGoesOn(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	for i := range 4 {
		say(t, p.end, p.peer, fmt.Sprintf("%d there", i))
		say(t, p.peer, p.end, fmt.Sprintf("%d back", i))
		p.end = p.move(t, p.end, i%2 == 1)
		if i >= 2 {
			p.peer = p.move(t, p.peer, i%2 == 1)
		}
	}
	say(t, p.end, p.peer, "there")
	say(t, p.peer, p.end, "back")
	if i := p.end.Info(); i.Send.Suite != x.suite || len(i.CID) != x.cidLen {
		t.Errorf("%+v", i)
	}
	p.peer.Close()
	if _, err := p.end.Read(make([]byte, 10)); err != io.EOF {
		t.Error(err)
	}
	p.end = p.move(t, p.end, true)
	if _, err := p.end.Read(make([]byte, 10)); err != io.EOF {
		t.Errorf("after the move: %v", err)
	}
}

// datagramMoveUnread moves what has come and was not read.
func datagramMoveUnread(t *testing.T, x datagramSubject) {
	for _, encoded := range []bool{false, true} {
		p := x.udpPair(t)
		const n = 10
		var batch [][]byte
		for i := range n {
			batch = append(batch, fmt.Appendf(nil, "message %d", i))
		}
		if k, err := p.peer.WriteBatch(batch); k != n || err != nil {
			t.Fatal(k, err)
		}
		hearOne(t, p.end, "message 0")
		for x.shared && p.end.Info().Receive.Records < n {
			runtime.Gosched() // until the listener has them all
		}
		p.end = p.move(t, p.end, encoded)
		for i := 1; i < n; i++ {
			hearOne(t, p.end, fmt.Sprintf("message %d", i))
		}
		p.client.Close()
		p.server.Close()
		p.l.Close()
	}
}

func datagramAfterDetach(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	read := start(t, func() (int64, error) { n, err := p.end.Read(make([]byte, 10)); return int64(n), err })
	st, err := p.end.Detach()
	if err != nil {
		t.Fatal(err)
	}
	<-read.done
	_, w := p.end.Write([]byte("x"))
	_, wb := p.end.WriteBatch([][]byte{{1}, {2}})
	_, d := p.end.Detach()
	for i, err := range []error{read.err, w, wb, d, p.end.SetDeadline(time.Time{})} {
		if !errors.Is(err, aftls.ErrDetached) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if err := p.end.Close(); err != nil {
		t.Error(err)
	}
	if s := fmt.Sprintf("%v %+v %#v", st, st, st); bytes.Contains([]byte(s), []byte("{")) {
		t.Errorf("printed as %s", s)
	}
	if c := p.end.NetConn(); c != nil {
		c.Close()
	}
}

func datagramStateOnce(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	carrier := p.end.NetConn()
	st, err := p.end.Detach()
	if err != nil {
		t.Fatal(err)
	}
	b, err := st.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.MarshalBinary(); !errors.Is(err, aftls.ErrSpent) {
		t.Error(err)
	}
	other, err := net.Dial("udp4", p.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := aftls.ResumeDatagram(other, st, aftls.Options{}); !errors.Is(err, aftls.ErrSpent) {
		t.Error(err)
	}
	if _, err := p.l.Resume(st); !errors.Is(err, aftls.ErrSpent) && !errors.Is(err, aftls.ErrState) {
		t.Error(err)
	}
	st = new(aftls.DatagramState)
	if err := st.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if carrier != nil {
		c, err := aftls.ResumeDatagram(carrier, st, aftls.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		say(t, c, p.peer, "once")
	}
}

func datagramNotAState(t *testing.T, x datagramSubject) {
	p := x.udpPair(t)
	st, err := p.end.Detach()
	if err != nil {
		t.Fatal(err)
	}
	if c := p.end.NetConn(); c != nil {
		defer c.Close()
	}
	b, err := st.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for n := range b {
		if err := new(aftls.DatagramState).UnmarshalBinary(b[:n]); !errors.Is(err, aftls.ErrState) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	if err := new(aftls.DatagramState).UnmarshalBinary(append(b, 0)); !errors.Is(err, aftls.ErrState) {
		t.Error(err)
	}
	if err := new(aftls.State).UnmarshalBinary(b); !errors.Is(err, aftls.ErrState) {
		t.Error(err)
	}
}

// datagramNumbers watches the wire: no two datagrams of an end have a record of
// one epoch and number that is not the same, byte for byte, whatever happens.
func datagramNumbers(t *testing.T, x datagramSubject) {
	for seed := range uint64(5) {
		p := x.memoryPair(t, seed, Weather{Drop: 0.3, Duplicate: 0.3, Jitter: 5 * time.Millisecond})
		for i := range 10 {
			p.end.Write([]byte("one"))
			p.end.WriteBatch([][]byte{[]byte("two"), []byte("three")})
			p.end = p.move(t, p.end, i%2 == 0)
		}
		p.end.Close()
		seen := make(map[uint64]string)
		for _, d := range p.sent.all() {
			for len(d) >= record.DatagramHeaderLen {
				at := record.DatagramHeaderLen
				if record.ContentType(d[0]) == record.TLS12CID {
					at += x.cidLen
				}
				n := at + int(binary.BigEndian.Uint16(d[at-2:]))
				if n > len(d) {
					t.Fatalf("%x is no record", d)
				}
				number := binary.BigEndian.Uint64(d[3:])
				if before, ok := seen[number]; ok && number>>48 > 0 && before != string(d[:n]) {
					t.Fatalf("epoch and number %x twice", number)
				}
				seen[number] = string(d[:n])
				d = d[n:]
			}
		}
		if len(seen) < 30 {
			t.Fatalf("only %d records", len(seen))
		}
		p.client.Close()
		p.l.Close()
	}
}
