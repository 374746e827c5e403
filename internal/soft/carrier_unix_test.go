//go:build unix

package soft

import (
	"bytes"
	"testing"
	"time"

	"github.com/aftls/aftls/record"
)

// waits makes r tell when its carrier had nothing for it and it began to wait.
func waits(r *Receiver) <-chan int {
	c := make(chan int, 100)
	r.tryRead = func(fd uintptr) bool {
		over := r.tryReadFD(fd)
		if !over {
			c <- len(r.buf)
		}
		return over
	}
	return c
}

// TestIdle reads from a TCP peer that stops at all kinds of places: a receiver
// that waits holds no more than the start of a record needs.
func TestIdle(t *testing.T) {
	sealer := newSealer(t, suite13)
	small := seal(t, sealer, nil, record.ApplicationData, noise(1, 100))
	large := seal(t, sealer, nil, record.ApplicationData, noise(2, 16384))
	for name, how := range map[string]func(r *Receiver) error{
		"Read small": func(r *Receiver) error { _, err := r.Read(make([]byte, 10)); return err },
		"Read large": func(r *Receiver) error { _, err := r.Read(make([]byte, 300000)); return err },
		"Next":       (*Receiver).Next,
	} {
		t.Run(name, func(t *testing.T) {
			lent(t)
			for _, test := range []struct {
				come []byte
				most int // bytes of buffer while it waits for more
			}{
				{small[:0], 0},
				{small[:3], smallSize},
				{small[:5], smallSize},
				{small[:len(small)-1], smallSize},
				{large[:4], smallSize},
				{large[:5], recordSize},
				{large[:len(large)-1], recordSize},
			} {
				a, b := tcpPair(t)
				r := newReceiver(t, a, suite13)
				if &test.come[:1][0] == &large[0] {
					k := testKeys(t, suite13)
					k.Seq = 1
					if err := r.SetKeys(k); err != nil {
						t.Fatal(err)
					}
				}
				r.size = batchSize // as after a load
				began := Borrowed()
				waiting := waits(r)
				done := make(chan error, 1)
				go func() { done <- how(r) }()
				<-waiting
				if n := Borrowed() - began; n != 0 {
					t.Errorf("%d buffers while nothing has come", n)
				}
				if len(test.come) > 0 {
					if _, err := b.Write(test.come); err != nil {
						t.Fatal(err)
					}
					// The receiver may see the bytes in more than one piece.
					for held := -1; held != test.most; {
						select {
						case held = <-waiting:
						case <-time.After(10 * time.Second):
							t.Fatalf("%d bytes have come, %d are held and not %d", len(test.come), held, test.most)
						}
					}
					if n := Borrowed() - began; n != 1 {
						t.Errorf("%d buffers for the start of a record", n)
					}
				}
				rec := small
				if &test.come[:1][0] == &large[0] {
					rec = large
				}
				if _, err := b.Write(rec[len(test.come):]); err != nil {
					t.Fatal(err)
				}
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				r.Close(nil)
			}
		})
	}
}

// A deadline that ends a Read inside a record loses nothing.
func TestReadDeadline(t *testing.T) {
	lent(t)
	a, b := tcpPair(t)
	r := newReceiver(t, a, suite13)
	rec := seal(t, newSealer(t, suite13), nil, record.ApplicationData, noise(1, 16000))
	waiting := waits(r)
	p := make([]byte, 20000)
	for at := 0; at < len(rec); {
		n := min(len(rec)-at, 5000)
		if _, err := b.Write(rec[at : at+n]); err != nil {
			t.Fatal(err)
		}
		at += n
		for at < len(rec) && r.w-r.r < at {
			done := make(chan error, 1)
			go func() { _, err := r.Read(p); done <- err }()
			<-waiting
			a.SetReadDeadline(past)
			if err := <-done; err == nil {
				t.Fatal("no timeout")
			}
			a.SetReadDeadline(time.Time{})
		}
	}
	if n, err := r.Read(p); err != nil || !bytes.Equal(p[:n], noise(1, 16000)) {
		t.Fatal(n, err)
	}
}

// TryFlush sends what fits and does not wait for the rest.
func TestTryFlush(t *testing.T) {
	lent(t)
	a, b := tcpPair(t)
	b.SetReadBuffer(4096)
	a.SetWriteBuffer(4096)
	s := newSender(t, a, suite13)
	if !s.Immediate() {
		t.Fatal("TCP is not immediate")
	}
	total := 0
	for s.Pending() == 0 && total < 1<<28 { // until the connection is full
		if err := s.Seal(record.ApplicationData, make([]byte, 16384)); err != nil {
			t.Fatal(err)
		}
		total += 16384
		if !s.TryFlush() {
			t.Fatal("TryFlush does not work on TCP")
		}
	}
	if s.Pending() == 0 {
		t.Fatal("the connection takes everything")
	}
	flushed := make(chan error, 1)
	go func() { flushed <- s.Flush() }()
	r := newReceiver(t, b, suite13)
	p := make([]byte, 100000)
	for total > 0 {
		n, err := r.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		total -= n
	}
	if err := <-flushed; err != nil {
		t.Fatal(err)
	}
}
