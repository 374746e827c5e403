package aftlstest

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

var control = []promise{
	{"Read stops in front of a control record until it is taken", sockets, controlApart},
	{"control records are not merged", sockets, controlNotMerged},
	{"a short buffer keeps the rest of a control record", sockets, controlShort},
	{"an empty control record is one", sockets, controlEmpty},
	{"WriteTo and WaitRead stop at a control record", sockets, controlWriteTo},
	{"a control record after data does not hide the data", sockets, controlAfterData},
	{"every type passes through a bare socket", sockets, controlTypes},
	{"WriteRecord is ordered with data", both, writeOrdered},
	{"WriteRecord refuses more than one record holds", both, writeTooLarge},
	{"after close_notify was written every write is ErrShutdown", both, writeAfterNotify},
	{"a Conn sends its control records itself", conns, connWriteRecord},
	{"a fatal alert that is written ends the Conn", conns, connFatal},
	{"ReadRecord of a Conn shows control records it has acted on", conns, connReadRecord},
	{"the end comes as close_notify and then as io.EOF", both, endOfStream},
}

func controlApart(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	warning := []byte{record.LevelWarning, byte(record.NoRenegotiation)}
	stream := p.sealed(record.ApplicationData, []byte("before"))
	stream = append(stream, p.sealed(record.AlertRecord, warning)...)
	p.raw(append(stream, p.sealed(record.ApplicationData, []byte("behind"))...))
	for _, size := range []int{4096, 1 << 20} { // whether or not a record could be opened in place
		b := make([]byte, size)
		if size == 4096 {
			n, err := e.Read(b)
			if string(b[:n]) != "before" || err != nil {
				t.Fatalf("Read %q, %v", b[:n], err)
			}
		}
		n, err := e.Read(b)
		wantErr(t, "Read in front of a control record", err, aftls.ErrControl)
		if n != 0 || bytes.Contains(b[6:], warning) {
			t.Errorf("Read in front of a control record: n = %d, or its payload was left in the slice", n)
		}
	}
	b := make([]byte, 100)
	if typ, n, err := e.ReadRecord(b); typ != record.AlertRecord || !bytes.Equal(b[:n], warning) || err != nil {
		t.Fatalf("ReadRecord %v, %x, %v", typ, b[:n], err)
	}
	if n, err := e.Read(b); string(b[:n]) != "behind" || err != nil {
		t.Errorf("Read %q, %v", b[:n], err)
	}
}

func controlNotMerged(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	var stream []byte
	for i := range 5 {
		stream = append(stream, p.sealed(record.Handshake, bytes.Repeat([]byte{byte(i)}, i+1))...)
	}
	p.raw(append(stream, p.sealed(record.ApplicationData, []byte("data"))...))
	b := make([]byte, 1000)
	for i := range 5 {
		_, err := e.Read(b)
		wantErr(t, "Read", err, aftls.ErrControl)
		if typ, n, err := e.ReadRecord(b); typ != record.Handshake || !bytes.Equal(b[:n], bytes.Repeat([]byte{byte(i)}, i+1)) || err != nil {
			t.Fatalf("record %d: %v, %x, %v", i, typ, b[:n], err)
		}
	}
	wantRead(t, e, []byte("data"))
}

func controlShort(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	want := random(record.MaxPlaintext)
	want[0] = 4 // no KeyUpdate: kernels since 6.14 wait for a key behind one, in TLS 1.2 too
	p.send(record.Handshake, want)
	p.data("data")
	var got []byte
	for _, size := range []int{0, 1, 4, 100, 16000, 16000} {
		_, err := e.Read(make([]byte, 10))
		wantErr(t, "Read before the rest was taken", err, aftls.ErrControl)
		b := make([]byte, size)
		typ, n, err := e.ReadRecord(b)
		if typ != record.Handshake || err != nil || n != min(size, len(want)-len(got)) {
			t.Fatalf("ReadRecord into %d bytes: %v, %d, %v", size, typ, n, err)
		}
		got = append(got, b[:n]...)
	}
	if !bytes.Equal(got, want) {
		t.Error("the pieces do not make the record")
	}
	wantRead(t, e, []byte("data"))
}

func controlEmpty(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	p.data("before")
	p.send(record.Handshake, nil)
	p.send(record.AlertRecord, nil)
	p.data("behind")
	wantRead(t, e, []byte("before"))
	for _, want := range []record.ContentType{record.Handshake, record.AlertRecord} {
		b := make([]byte, 10)
		_, err := e.Read(b)
		wantErr(t, "Read", err, aftls.ErrControl)
		if typ, n, err := e.ReadRecord(b); typ != want || n != 0 || err != nil {
			t.Errorf("ReadRecord: %v, %d, %v, want an empty %v", typ, n, err, want)
		}
	}
	wantRead(t, e, []byte("behind"))
}

func controlWriteTo(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	p.data("before")
	p.send(record.Handshake, []byte("message"))
	p.data("behind")
	var out bytes.Buffer
	n, err := e.WriteTo(&out)
	wantErr(t, "WriteTo", err, aftls.ErrControl)
	if n != 6 || out.String() != "before" {
		t.Errorf("WriteTo wrote %q, n = %d", out.String(), n)
	}
	must(t, e.WaitRead())
	b := make([]byte, 10)
	if typ, n, err := e.ReadRecord(b); typ != record.Handshake || string(b[:n]) != "message" || err != nil {
		t.Errorf("ReadRecord: %v, %q, %v", typ, b[:n], err)
	}
	must(t, e.WaitRead())
	wantRead(t, e, []byte("behind"))
}

func controlAfterData(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	want := random(5000)
	var stream []byte
	for b := want; len(b) > 0; b = b[500:] {
		stream = append(stream, p.sealed(record.ApplicationData, b[:500])...)
	}
	p.raw(append(stream, p.sealed(record.Handshake, []byte("x"))...))
	var got []byte
	for b := make([]byte, 700); ; {
		n, err := e.Read(b)
		if got = append(got, b[:n]...); err != nil {
			wantErr(t, "Read", err, aftls.ErrControl)
			if n != 0 {
				t.Errorf("n = %d with ErrControl", n)
			}
			break
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d in front of the control record", len(got), len(want))
	}
}

func controlTypes(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	b := make([]byte, 100)
	for _, typ := range []record.ContentType{record.ChangeCipherSpec, record.AlertRecord, record.Handshake, record.Heartbeat, 25, 99, 255} {
		p.send(typ, []byte{1, 2, 3})
		if got, n, err := e.ReadRecord(b); got != typ || !bytes.Equal(b[:n], []byte{1, 2, 3}) || err != nil {
			t.Errorf("received %v, %x, %v, want %v", got, b[:n], err, typ)
		}
		must(t, e.WriteRecord(typ, []byte{4, 5}))
		p.want(typ, []byte{4, 5})
	}
}

func writeOrdered(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	warning := []byte{record.LevelWarning, byte(record.UserCanceled)}
	mustWrite(t, e, []byte("1"))
	must(t, e.WriteRecord(record.AlertRecord, warning))
	mustWrite(t, e, []byte("2"))
	must(t, e.WriteRecord(record.ApplicationData, []byte("3")))
	must(t, e.WriteRecord(record.ApplicationData, nil))
	whole := random(record.MaxPlaintext)
	w := startErr(t, func() error { return e.WriteRecord(record.ApplicationData, whole) })
	p.want(record.ApplicationData, []byte("1"))
	p.want(record.AlertRecord, warning)
	p.want(record.ApplicationData, []byte("2"))
	p.want(record.ApplicationData, []byte("3"))
	p.want(record.ApplicationData, nil)
	p.want(record.ApplicationData, whole)
	w.wait()

	// Behind a write that was committed and not sent, too.
	data := fill(t, e)
	w = startErr(t, func() error { return e.WriteRecord(record.AlertRecord, warning) })
	p.wantData(data)
	p.want(record.AlertRecord, warning)
	w.wait()
}

func writeTooLarge(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	before := e.Info().Send
	err := e.WriteRecord(record.ApplicationData, make([]byte, record.MaxPlaintext+1))
	wantErr(t, "WriteRecord", err, aftls.ErrTooLarge)
	if after := e.Info().Send; after != before {
		t.Errorf("a refused record changed %+v to %+v", before, after)
	}
	mustWrite(t, e, []byte("goes on"))
	p.want(record.ApplicationData, []byte("goes on"))
}

func writeAfterNotify(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	mustWrite(t, e, []byte("last"))
	must(t, e.WriteRecord(record.AlertRecord, closeNotifyAlert))
	n, err := e.Write([]byte("too late"))
	wantErr(t, "Write", err, aftls.ErrShutdown)
	if n != 0 {
		t.Errorf("n = %d", n)
	}
	_, err = e.ReadFrom(bytes.NewReader([]byte("too late")))
	wantErr(t, "ReadFrom", err, aftls.ErrShutdown)
	wantErr(t, "WriteRecord", e.WriteRecord(record.ApplicationData, nil), aftls.ErrShutdown)
	wantErr(t, "WriteRecord", e.WriteRecord(record.AlertRecord, closeNotifyAlert), aftls.ErrShutdown)
	p.data("reading goes on")
	wantRead(t, e, []byte("reading goes on"))
	must(t, e.Close())
	data, notify, err := p.drain()
	if string(data) != "last" || !notify || err != nil {
		t.Errorf("on the wire: %q, close_notify %v, %v", data, notify, err)
	}
}

func connWriteRecord(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	for _, typ := range []record.ContentType{record.ChangeCipherSpec, record.Handshake, record.Heartbeat, 99} {
		wantErr(t, typ.String(), e.WriteRecord(typ, []byte{24, 0, 0, 1, 0}), aftls.ErrRecordType)
	}
	wantErr(t, "an alert of three bytes", e.WriteRecord(record.AlertRecord, []byte{1, 90, 0}), aftls.ErrRecordType)
	mustWrite(t, e, []byte("goes on"))
	p.want(record.ApplicationData, []byte("goes on"))
}

func connFatal(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	alert := []byte{record.LevelFatal, byte(record.InternalError)}
	must(t, e.WriteRecord(record.AlertRecord, alert))
	_, err := e.Write([]byte("x"))
	if err == nil {
		t.Error("Write works after a fatal alert")
	}
	p.data("x")
	if _, err := e.Read(make([]byte, 10)); err == nil {
		t.Error("Read works after a fatal alert")
	}
	if _, err := e.Detach(); err == nil {
		t.Error("Detach works after a fatal alert")
	}
	p.want(record.AlertRecord, alert)
	e.Close()
	if typ, _, err := p.read(); !isEnd(err) {
		t.Errorf("behind the fatal alert came %v, %v", typ, err)
	}
}

func connReadRecord(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	b := make([]byte, 100)
	want := func(typ record.ContentType, payload []byte) {
		t.Helper()
		if got, n, err := e.ReadRecord(b); got != typ || !bytes.Equal(b[:n], payload) || err != nil {
			t.Errorf("ReadRecord: %v, %x, %v, want %v, %x", got, b[:n], err, typ, payload)
		}
	}
	p.data("data")
	p.alert(record.LevelWarning, record.UserCanceled)
	want(record.ApplicationData, []byte("data"))
	want(record.AlertRecord, []byte{record.LevelWarning, byte(record.UserCanceled)})
	if x.is13() && x.canRekey() {
		p.keyUpdate(1)
		want(record.Handshake, []byte{24, 0, 0, 1, 1})
		p.want(record.Handshake, []byte{24, 0, 0, 1, 0}) // the answer
		p.data("new key")
		want(record.ApplicationData, []byte("new key"))
	}
	p.send(99, []byte("x"))
	_, _, err := e.ReadRecord(b)
	wantPeerError(t, "ReadRecord", err, record.UnexpectedMessage)
}

func endOfStream(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	p.data("data")
	p.alert(record.LevelWarning, record.CloseNotify)
	must(t, p.conn.CloseWrite())
	b := make([]byte, 100)
	if typ, n, err := e.ReadRecord(b); typ != record.ApplicationData || string(b[:n]) != "data" || err != nil {
		t.Fatal(typ, n, err)
	}
	if typ, n, err := e.ReadRecord(b); typ != record.AlertRecord || !bytes.Equal(b[:n], closeNotifyAlert) || err != nil {
		t.Fatal(typ, n, err)
	}
	for range 2 {
		_, _, err := e.ReadRecord(b)
		wantErr(t, "ReadRecord at the end", err, io.EOF)
		n, err := e.Read(b)
		wantErr(t, "Read at the end", err, io.EOF)
		if n != 0 {
			t.Errorf("n = %d", n)
		}
	}
	if n, err := e.WriteTo(failingWriter{}); n != 0 || err != nil {
		t.Errorf("WriteTo at the end: %d, %v", n, err)
	}
	if err := e.WaitRead(); err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("WaitRead at the end: %v", err)
	}
	// The end of one direction is not that of the other.
	mustWrite(t, e, []byte("still here"))
	p.want(record.ApplicationData, []byte("still here"))
}
