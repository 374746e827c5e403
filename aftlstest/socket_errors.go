package aftlstest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

var honestErrors = []promise{
	{"an end between records is a TruncatedError", both, truncatedBetween},
	{"an end inside a record is a TruncatedError that says so", both, truncatedInside},
	{"io.EOF comes only after close_notify", both, cleanEnd},
	{"data behind close_notify is never read", conns, dataBehindNotify},
	{"a reset is a CarrierError on both sides", both, carrierReset},
	{"writing to a closed peer ends in a CarrierError that stays", both, brokenPipe},
	{"a fatal alert is an AlertError for Read and Write", conns, fatalAlert},
	{"errors say the operation and the addresses", both, errorForm},
	{"use after Close is net.ErrClosed", both, afterClose},
	{"a timeout is not for good", both, timeoutNotSticky},
}

func truncatedBetween(t *testing.T, x subject) {
	for _, before := range []string{"", "data"} {
		e, p := x.withPeer(t)
		if before != "" {
			p.data(before)
		}
		must(t, p.conn.CloseWrite())
		wantRead(t, e, []byte(before))
		for range 2 {
			n, err := e.Read(make([]byte, 10))
			wantTruncated(t, "Read", err, false)
			if n != 0 {
				t.Errorf("n = %d", n)
			}
		}
		wantTruncated(t, "WaitRead", e.WaitRead(), false)
		_, err := e.WriteTo(io.Discard)
		wantTruncated(t, "WriteTo", err, false)
		_, _, err = e.ReadRecord(make([]byte, 10))
		wantTruncated(t, "ReadRecord", err, false)
		if _, err := io.ReadAll(e); err == nil {
			t.Error("io.ReadAll took a truncated stream for a whole one")
		}
	}
}

func truncatedInside(t *testing.T, x subject) {
	_, p := x.withPeer(t)
	whole := len(p.sealed(record.ApplicationData, []byte("number 0")))
	for _, cut := range []int{1, 4, 5, 6, whole - 1} {
		e, p := x.withPeer(t)
		p.data("whole")
		rec := p.sealed(record.ApplicationData, []byte("number 1"))
		p.raw(rec[:cut])
		must(t, p.conn.CloseWrite())
		wantRead(t, e, []byte("whole"))
		for range 2 {
			n, err := e.Read(make([]byte, 10))
			wantTruncated(t, "Read", err, true)
			if n != 0 {
				t.Errorf("n = %d of a record that was cut at %d", n, cut)
			}
		}
	}
}

func cleanEnd(t *testing.T, x subject) {
	a, b := x.pair(t)
	mustWrite(t, a, []byte("all of it"))
	must(t, finish(a))
	must(t, a.Close())
	if !x.conn {
		wantRead(t, b, []byte("all of it"))
		_, err := b.Read(make([]byte, 10))
		wantErr(t, "Read", err, aftls.ErrControl)
		if _, _, err := b.ReadRecord(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
	} else if got, err := io.ReadAll(b); string(got) != "all of it" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	for range 2 {
		n, err := b.Read(make([]byte, 10))
		wantErr(t, "Read", err, io.EOF)
		if n != 0 {
			t.Errorf("n = %d", n)
		}
	}
}

// dataBehindNotify: what follows close_notify is to be ignored (RFC 8446, 6.1).
func dataBehindNotify(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	stream := p.sealed(record.ApplicationData, []byte("data"))
	stream = append(stream, p.sealed(record.AlertRecord, closeNotifyAlert)...)
	p.raw(append(stream, p.sealed(record.ApplicationData, []byte("smuggled"))...))
	if got, err := io.ReadAll(e); string(got) != "data" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_, err := e.Read(make([]byte, 10))
	wantErr(t, "Read", err, io.EOF)
}

func carrierReset(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	r := startRead(t, e, make([]byte, 10))
	r.onNetwork()
	must(t, p.conn.SetLinger(0))
	must(t, p.conn.Close())
	_, err := r.result()
	wantAs[*aftls.CarrierError](t, "Read", err)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a reset is no end of the stream: %v", err)
	}
	_, again := e.Read(make([]byte, 10))
	wantAs[*aftls.CarrierError](t, "Read again", again)
	_, err = e.Write([]byte("x"))
	wantAs[*aftls.CarrierError](t, "Write", err)
}

func brokenPipe(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	must(t, p.conn.SetLinger(0))
	must(t, p.conn.Close())
	b := make([]byte, 100000)
	var err error
	for range 1000 { // the first writes may go into the void
		if _, err = e.Write(b); err != nil {
			break
		}
	}
	wantAs[*aftls.CarrierError](t, "Write", err)
	n, err := e.Write(b)
	wantAs[*aftls.CarrierError](t, "Write again", err)
	if n != 0 {
		t.Errorf("n = %d on a dead carrier", n)
	}
	_, err = e.ReadFrom(bytes.NewReader(b))
	wantAs[*aftls.CarrierError](t, "ReadFrom", err)
}

func fatalAlert(t *testing.T, x subject) {
	type alert struct {
		level byte
		a     record.Alert
	}
	alerts := []alert{{record.LevelFatal, record.InternalError}, {record.LevelFatal, 49}}
	if x.is13() { // the level means nothing there (RFC 8446, 6)
		alerts = append(alerts, alert{record.LevelWarning, 40}, alert{record.LevelWarning, record.NoRenegotiation})
	}
	for _, a := range alerts {
		e, p := x.withPeer(t)
		p.data("data")
		p.alert(a.level, a.a)
		wantRead(t, e, []byte("data"))
		for range 2 {
			_, err := e.Read(make([]byte, 10))
			if got := wantAs[*aftls.AlertError](t, "Read", err); got.Alert != a.a {
				t.Errorf("Read: alert %v, want %v", got.Alert, a.a)
			}
			n, err := e.Write([]byte("x"))
			if got := wantAs[*aftls.AlertError](t, "Write", err); got.Alert != a.a || n != 0 {
				t.Errorf("Write: alert %v, want %v; n = %d", got.Alert, a.a, n)
			}
		}
		_, err := e.Detach()
		wantAs[*aftls.AlertError](t, "Detach", err)
		// Nothing is sent to a peer that has ended the connection.
		e.Close()
		if typ, _, err := p.read(); !isEnd(err) {
			t.Errorf("after a fatal alert the peer got %v, %v", typ, err)
		}
	}
}

func errorForm(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	check := func(op string, err error) {
		t.Helper()
		o, ok := err.(*net.OpError)
		if !ok {
			t.Fatalf("%s: %v (%T)", op, err, err)
		}
		if o.Op != op || o.Net != "tcp" || o.Source.String() != e.LocalAddr().String() || o.Addr.String() != e.RemoteAddr().String() {
			t.Errorf("%s: Op %q, Net %q, Source %v, Addr %v", op, o.Op, o.Net, o.Source, o.Addr)
		}
		if inner, ok := o.Err.(*net.OpError); ok {
			t.Errorf("%s: a *net.OpError inside another: %v", op, inner)
		}
	}
	must(t, e.SetDeadline(past))
	_, err := e.Read(make([]byte, 1))
	check("read", err)
	if !err.(*net.OpError).Timeout() {
		t.Error("Timeout() is false")
	}
	_, err = e.Write([]byte("x"))
	check("write", err)
	if !err.(*net.OpError).Timeout() {
		t.Error("Timeout() is false")
	}
	must(t, e.SetDeadline(time.Time{}))
	must(t, p.conn.CloseWrite())
	_, err = e.Read(make([]byte, 1))
	check("read", err)
	must(t, e.Close())
	_, err = e.Write([]byte("x"))
	check("write", err)
	check("close", e.Close())
}

func afterClose(t *testing.T, x subject) {
	e, _ := x.withPeer(t)
	must(t, e.Close())
	b := make([]byte, 10)
	n, err := e.Read(b)
	wantErr(t, "Read", err, net.ErrClosed)
	if n != 0 {
		t.Errorf("Read: n = %d", n)
	}
	n, err = e.Write(b)
	wantErr(t, "Write", err, net.ErrClosed)
	if n != 0 {
		t.Errorf("Write: n = %d", n)
	}
	_, _, err = e.ReadRecord(b)
	wantErr(t, "ReadRecord", err, net.ErrClosed)
	wantErr(t, "WriteRecord", e.WriteRecord(record.ApplicationData, b), net.ErrClosed)
	_, err = e.WriteBuffers(&net.Buffers{b})
	wantErr(t, "WriteBuffers", err, net.ErrClosed)
	src := &countingReader{}
	_, err = e.ReadFrom(src)
	wantErr(t, "ReadFrom", err, net.ErrClosed)
	if src.n != 0 {
		t.Error("ReadFrom took data from its source after Close")
	}
	_, err = e.WriteTo(failingWriter{})
	wantErr(t, "WriteTo", err, net.ErrClosed)
	wantErr(t, "WaitRead", e.WaitRead(), net.ErrClosed)
	wantErr(t, "SetReadDeadline", e.SetReadDeadline(time.Time{}), net.ErrClosed)
	wantErr(t, "SetWriteDeadline", e.SetWriteDeadline(time.Time{}), net.ErrClosed)
	wantErr(t, "SetDeadline", e.SetDeadline(time.Time{}), net.ErrClosed)
	_, err = e.Detach()
	wantErr(t, "Detach", err, net.ErrClosed)
	switch e := e.(type) {
	case *aftls.Socket:
		k, _ := x.keys(t)
		wantErr(t, "SetKeys", e.SetKeys(aftls.Send, k), net.ErrClosed)
		wantErr(t, "SetKeys", e.SetKeys(aftls.Receive, k), net.ErrClosed)
	case *aftls.Conn:
		wantErr(t, "CloseWrite", e.CloseWrite(), net.ErrClosed)
		wantErr(t, "Rekey", e.Rekey(true), net.ErrClosed)
	}
	wantErr(t, "Close", e.Close(), net.ErrClosed)
}

func timeoutNotSticky(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	must(t, e.SetReadDeadline(past))
	for range 2 {
		n, err := e.Read(make([]byte, 10))
		wantErr(t, "Read", err, os.ErrDeadlineExceeded)
		if n != 0 {
			t.Errorf("n = %d", n)
		}
		wantErr(t, "WaitRead", e.WaitRead(), os.ErrDeadlineExceeded)
		_, _, err = e.ReadRecord(make([]byte, 10))
		wantErr(t, "ReadRecord", err, os.ErrDeadlineExceeded)
	}
	must(t, e.SetReadDeadline(time.Time{}))
	p.data("later")
	wantRead(t, e, []byte("later"))
}
