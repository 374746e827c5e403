package aftlstest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

var closing = []promise{
	{"Close wakes whoever reads", both, closeWakesReaders},
	{"Close interrupts a blocked Write, and the peer sees truncation", both, closeInterruptsWrite},
	{"Close sends what is committed, and a Conn close_notify", both, closeSendsCommitted},
	{"a second Close is net.ErrClosed", both, closeTwice},
	{"Close does not wait for a silent source", both, closeDuringReadFrom},
	{"Close takes no more than 5 seconds", both | oneOnly, closeTakesFiveSeconds},
	{"Close after the peer's close_notify answers it", conns, closeAnswers},
	{"CloseWrite waits for the Write in flight and reading goes on", conns, closeWriteWaits},
	{"CloseWrite sends one close_notify", conns, closeWriteOnce},
	{"Close interrupts a blocked CloseWrite", conns, closeInterruptsCloseWrite},
}

func closeWakesReaders(t *testing.T, x subject) {
	readers := map[string]func(e end) error{
		"Read":       func(e end) error { _, err := e.Read(make([]byte, 10)); return err },
		"ReadRecord": func(e end) error { _, _, err := e.ReadRecord(make([]byte, 10)); return err },
		"WaitRead":   func(e end) error { return e.WaitRead() },
		"WriteTo":    func(e end) error { _, err := e.WriteTo(io.Discard); return err },
	}
	for name, read := range readers {
		e, _ := x.withPeer(t)
		r := startErr(t, func() error { return read(e) })
		r.onNetwork()
		must(t, e.Close())
		_, err := r.result()
		wantErr(t, name, err, net.ErrClosed)
	}
}

func closeInterruptsWrite(t *testing.T, x subject) {
	a, b := x.narrowPair(t)
	want := random(flood)
	w := startWrite(t, a, want)
	w.onNetwork()
	must(t, a.Close())
	n, err := w.result()
	wantErr(t, "Write", err, net.ErrClosed)
	if n <= 0 || n >= flood {
		t.Errorf("n = %d", n)
	}
	got, err := io.ReadAll(b)
	if e := wantAs[*aftls.TruncatedError](t, "Read", err); e == nil {
		t.Error("the peer takes the rest for the whole")
	}
	if int64(len(got)) > n || !bytes.HasPrefix(want, got) {
		t.Errorf("%d bytes came, n = %d, or other bytes", len(got), n)
	}
}

func closeSendsCommitted(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	want := fill(t, e)
	c := startErr(t, e.Close)
	data, notify, err := p.drain()
	if err != nil || !bytes.Equal(data, want) {
		t.Errorf("%d of %d committed bytes came, or others: %v", len(data), len(want), err)
	}
	if notify != x.conn {
		t.Errorf("close_notify: %v", notify)
	}
	c.wait()

	e, p = x.withPeer(t)
	must(t, e.Close())
	if data, notify, err := p.drain(); len(data) > 0 || notify != x.conn || err != nil {
		t.Errorf("%d bytes, close_notify %v, %v", len(data), notify, err)
	}
}

func closeTwice(t *testing.T, x subject) {
	e, _ := x.withPeer(t)
	var calls []*call
	for range 4 {
		calls = append(calls, startErr(t, e.Close))
	}
	first := 0
	for _, c := range calls {
		if _, err := c.result(); err == nil {
			first++
		} else {
			wantErr(t, "Close", err, net.ErrClosed)
		}
	}
	if first != 1 {
		t.Errorf("%d of 4 calls closed the connection", first)
	}
	wantErr(t, "Close", e.Close(), net.ErrClosed)
}

func closeDuringReadFrom(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	from := start(t, func() (int64, error) { return e.ReadFrom(r) })
	mustWrite(t, w, []byte("data"))
	p.want(record.ApplicationData, []byte("data"))
	from.onNetwork()
	must(t, e.Close())
	if data, notify, err := p.drain(); len(data) > 0 || notify != x.conn || err != nil {
		t.Errorf("%d bytes, close_notify %v, %v", len(data), notify, err)
	}
	mustWrite(t, w, []byte("late"))
	n, err := from.result()
	wantErr(t, "ReadFrom", err, net.ErrClosed)
	if n != 4 {
		t.Errorf("n = %d", n)
	}
}

// closeTakesFiveSeconds runs on a link in a bubble, where seconds cost nothing.
func closeTakesFiveSeconds(t *testing.T, x subject) {
	if x.provider != aftls.Soft {
		if Expected(x.provider.String()) {
			t.Fatal("this provider is expected to be tested in full, and there is no clock for it here")
		}
		t.Skip("only the soft provider works on a link in memory: this needs the clock of a bubble")
	}
	synctest.Test(t, func(t *testing.T) {
		x.ca = NewCA(t) // valid by the clock of the bubble
		x.leaf = x.ca.Leaf(t, "test.example")
		ca, cb := NewLink(0)
		a, b := x.pairOn(t, ca, cb)
		want := random(flood)
		must(t, a.SetWriteDeadline(time.Now().Add(time.Second)))
		n, err := a.Write(want)
		wantErr(t, "Write", err, os.ErrDeadlineExceeded)
		begin := time.Now()
		must(t, a.Close())
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("Close took %v", took)
		}
		got, err := io.ReadAll(b)
		wantAs[*aftls.TruncatedError](t, "Read", err)
		if len(got) > n || !bytes.HasPrefix(want, got) {
			t.Errorf("%d bytes came, n = %d, or other bytes", len(got), n)
		}
	})
}

func closeAnswers(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	p.alert(record.LevelWarning, record.CloseNotify)
	must(t, p.conn.CloseWrite())
	_, err := e.Read(make([]byte, 10))
	wantErr(t, "Read", err, io.EOF)
	mustWrite(t, e, []byte("last words"))
	must(t, e.Close())
	if data, notify, err := p.drain(); string(data) != "last words" || !notify || err != nil {
		t.Errorf("%q, close_notify %v, %v", data, notify, err)
	}
}

func closeWriteWaits(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	c := e.(*aftls.Conn)
	want := random(flood)
	w := startWrite(t, e, want)
	w.onNetwork()
	shut := startErr(t, c.CloseWrite)
	shut.onLock()
	data, notify, err := p.drain()
	if !bytes.Equal(data, want) || !notify || err != nil {
		t.Errorf("%d of %d bytes came, or others, close_notify %v, %v", len(data), len(want), notify, err)
	}
	if n := w.wait(); n != flood {
		t.Errorf("n = %d", n)
	}
	shut.wait()
	for range 3 {
		p.data("reading goes on")
		wantRead(t, e, []byte("reading goes on"))
	}
	p.alert(record.LevelWarning, record.CloseNotify)
	_, err = e.Read(make([]byte, 1))
	wantErr(t, "Read", err, io.EOF)
}

func closeWriteOnce(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	c := e.(*aftls.Conn)
	must(t, errors.Join(c.CloseWrite(), c.CloseWrite()))
	n, err := e.Write([]byte("late"))
	wantErr(t, "Write", err, aftls.ErrShutdown)
	if n != 0 {
		t.Errorf("n = %d", n)
	}
	wantErr(t, "Rekey", c.Rekey(true), aftls.ErrShutdown)
	if x.is13() && x.canRekey() { // a request that can no longer be answered
		p.keyUpdate(1)
		p.data("x")
		wantRead(t, e, []byte("x"))
	}
	must(t, e.Close())
	p.wantAlert(record.LevelWarning, record.CloseNotify)
	if typ, _, err := p.read(); !isEnd(err) {
		t.Errorf("behind close_notify came %v, %v", typ, err)
	}
}

func closeInterruptsCloseWrite(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	want := fill(t, e)
	shut := startErr(t, e.(*aftls.Conn).CloseWrite)
	shut.onNetwork()
	must(t, e.Close())
	_, shutErr := shut.result()
	// The kernel may have found room for the rest meanwhile.
	took := x.provider == aftls.Kernel
	if shutErr != nil || !took {
		wantErr(t, "CloseWrite", shutErr, net.ErrClosed)
	}
	data, notify, err := p.drain()
	if notify && (!took || len(data) < len(want)) || !bytes.HasPrefix(want, data) || err != nil && !isEnd(err) {
		t.Errorf("%d bytes, close_notify %v, %v", len(data), notify, err)
	}
}
