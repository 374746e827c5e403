package aftlstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

var deadlines = []promise{
	{"a deadline that has passed is seen before sealing", both, expiredBeforeSealing},
	{"what was committed arrives, and n agrees, whatever sends", both | oneOnly, committedBytes},
	{"a read deadline inside a record loses nothing", both, deadlineInsideRecord},
	{"the deadlines of the two directions are apart", both, deadlinesApart},
	{"a deadline that passes ends a blocked Read", both, deadlinePasses},
	{"a deadline that is moved on does not end a call", both, deadlineMoved},
	{"Rekey after its deadline can be repeated", conns | only13 | rekeys, rekeyDeadline},
}

func expiredBeforeSealing(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	mustWrite(t, e, []byte("first"))
	before := e.Info().Send
	must(t, e.SetWriteDeadline(past))
	n, err := e.Write([]byte("never"))
	wantErr(t, "Write", err, os.ErrDeadlineExceeded)
	f := writeFile(t, []byte("never"))
	m, err := e.ReadFrom(f)
	wantErr(t, "ReadFrom a file", err, os.ErrDeadlineExceeded)
	src := &countingReader{}
	k, err := e.ReadFrom(src)
	wantErr(t, "ReadFrom", err, os.ErrDeadlineExceeded)
	wantErr(t, "WriteRecord", e.WriteRecord(record.ApplicationData, []byte("never")), os.ErrDeadlineExceeded)
	if n != 0 || m != 0 || k != 0 {
		t.Errorf("n = %d, %d and %d", n, m, k)
	}
	if at, _ := f.Seek(0, io.SeekCurrent); at != 0 || src.n != 0 {
		t.Errorf("%d bytes were taken from the file, %d from the reader", at, src.n)
	}
	if after := e.Info().Send; after != before {
		t.Errorf("something was sealed: %+v became %+v", before, after)
	}
	must(t, e.SetWriteDeadline(time.Time{}))
	mustWrite(t, e, []byte("second"))
	p.want(record.ApplicationData, []byte("first"))
	p.want(record.ApplicationData, []byte("second"))
}

// committedBytes interrupts a sender again and again while its carrier is full.
func committedBytes(t *testing.T, x subject) {
	senders := []struct {
		name string
		// send sends b, and says how much was taken of it if it knows.
		send func(t *testing.T, e end, b []byte) (n, took int64, err error)
	}{
		{"Write", func(t *testing.T, e end, b []byte) (int64, int64, error) {
			n, err := e.Write(b)
			return int64(n), int64(n), err
		}},
		{"WriteBuffers", func(t *testing.T, e end, b []byte) (int64, int64, error) {
			v := net.Buffers{b[:1000], b[1000:2000], b[2000:]}
			n, err := e.WriteBuffers(&v)
			left := 0
			for _, b := range v {
				left += len(b)
			}
			return n, int64(len(b) - left), err
		}},
		{"ReadFrom a file", func(t *testing.T, e end, b []byte) (int64, int64, error) {
			f := writeFile(t, b)
			n, err := e.ReadFrom(f)
			at, seekErr := f.Seek(0, io.SeekCurrent)
			return n, at, errors.Join(seekErr, err)
		}},
		{"ReadFrom a part of a file", func(t *testing.T, e end, b []byte) (int64, int64, error) {
			lr := &io.LimitedReader{R: writeFile(t, b), N: int64(len(b))}
			n, err := e.ReadFrom(lr)
			return n, int64(len(b)) - lr.N, err
		}},
		{"ReadFrom any reader", func(t *testing.T, e end, b []byte) (int64, int64, error) {
			r := bytes.NewReader(b)
			n, err := e.ReadFrom(struct{ io.Reader }{r})
			return n, int64(len(b) - r.Len()), err
		}},
	}
	for _, s := range senders {
		t.Run(s.name, func(t *testing.T) {
			e, p := x.withPeer(t)
			want := random(flood)
			var sent, read int64
			for range 3 {
				var took int64
				w := start(t, func() (n int64, err error) { n, took, err = s.send(t, e, want[sent:]); return n, err })
				// Some room, so that this round gets on: it begins with what
				// the one before had to leave.
				some := startErr(t, func() error {
					for to := read + 300<<10; read < to; {
						typ, b, err := p.read()
						if err != nil || typ != record.ApplicationData || !bytes.HasPrefix(want[read:], b) {
							return fmt.Errorf("other data on the wire than were written, or %v, %w", typ, err)
						}
						read += int64(len(b))
					}
					return nil
				})
				some.wait()
				w.onNetwork()
				must(t, e.SetWriteDeadline(past))
				n, err := w.result()
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(n, err)
				}
				if took != n {
					t.Errorf("n = %d, and %d bytes were taken", n, took)
				}
				sent += n
				if got := e.Info().Send.Bytes; got != uint64(sent) {
					t.Errorf("n adds up to %d, and %d bytes are committed", sent, got)
				}
				must(t, e.SetWriteDeadline(time.Time{}))
			}
			rest := start(t, func() (int64, error) { n, _, err := s.send(t, e, want[sent:]); return n, err })
			p.wantData(want[read:])
			if n := rest.wait(); n != flood-sent {
				t.Errorf("the rest: n = %d, want %d", n, flood-sent)
			}
		})
	}
}

func deadlineInsideRecord(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	want := random(3000)
	rec := p.sealed(record.ApplicationData, want)
	for _, piece := range [][]byte{rec[:3], rec[3:10], rec[10:1000]} {
		p.raw(piece)
		r := startRead(t, e, make([]byte, 10))
		r.onNetwork()
		must(t, e.SetReadDeadline(past))
		n, err := r.result()
		wantErr(t, "Read", err, os.ErrDeadlineExceeded)
		if n != 0 {
			t.Errorf("n = %d of a record that has not come", n)
		}
		must(t, e.SetReadDeadline(time.Time{}))
	}
	p.raw(rec[1000:])
	wantRead(t, e, want)
}

func deadlinesApart(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	must(t, e.SetReadDeadline(past))
	mustWrite(t, e, []byte("writes"))
	p.want(record.ApplicationData, []byte("writes"))
	must(t, e.SetReadDeadline(time.Time{}))
	must(t, e.SetWriteDeadline(past))
	p.data("reads")
	wantRead(t, e, []byte("reads"))
	must(t, e.SetDeadline(past))
	_, err := e.Read(make([]byte, 1))
	wantErr(t, "Read", err, os.ErrDeadlineExceeded)
	_, err = e.Write([]byte("x"))
	wantErr(t, "Write", err, os.ErrDeadlineExceeded)
	must(t, e.SetDeadline(time.Time{}))
	mustWrite(t, e, []byte("again"))
	p.want(record.ApplicationData, []byte("again"))
}

func deadlinePasses(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	must(t, e.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err := e.Read(make([]byte, 1))
	wantErr(t, "Read", err, os.ErrDeadlineExceeded)
	must(t, e.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	wantErr(t, "WaitRead", e.WaitRead(), os.ErrDeadlineExceeded)
	must(t, e.SetReadDeadline(time.Now().Add(patience)))
	p.data("in time")
	wantRead(t, e, []byte("in time"))
}

func deadlineMoved(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	r := startRead(t, e, make([]byte, 10))
	r.onNetwork()
	must(t, e.SetReadDeadline(time.Now().Add(patience)))
	must(t, e.SetReadDeadline(time.Time{}))
	p.data("x")
	if n := r.wait(); n != 1 {
		t.Errorf("n = %d", n)
	}
}

func rekeyDeadline(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	c := e.(*aftls.Conn)
	must(t, e.SetWriteDeadline(past))
	wantErr(t, "Rekey", c.Rekey(false), os.ErrDeadlineExceeded)
	must(t, e.SetWriteDeadline(time.Time{}))
	must(t, c.Rekey(false))
	mustWrite(t, e, []byte("under the new key"))
	must(t, e.Close())
	data, notify, err := p.drain()
	if string(data) != "under the new key" || !notify || err != nil {
		t.Errorf("%q, %v, %v", data, notify, err)
	}
}
