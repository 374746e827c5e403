package aftlstest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// peer is the other end of a connection, made of a TCP connection, a Sealer and
// an Opener: it sees the wire record by record, and can send what a socket of
// ours never would. Its methods end the test when they fail; those that are
// called beside the test's own goroutine return errors instead.
type peer struct {
	t    testing.TB
	conn *net.TCPConn
	r    *bufio.Reader
	seal *record.Sealer
	open *record.Opener
}

func newPeer(t testing.TB, conn *net.TCPConn, send, receive record.Keys) *peer {
	t.Helper()
	s, err1 := record.NewSealer(send)
	o, err2 := record.NewOpener(receive)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return &peer{t, conn, bufio.NewReader(conn), s, o}
}

// sealed returns the record that the payload becomes.
func (p *peer) sealed(typ record.ContentType, payload []byte) []byte {
	p.t.Helper()
	rec, err := p.seal.Seal(nil, typ, payload)
	if err != nil {
		p.t.Fatal(err)
	}
	return rec
}

// send seals one record and sends it.
func (p *peer) send(typ record.ContentType, payload []byte) {
	p.t.Helper()
	p.raw(p.sealed(typ, payload))
}

// data sends one data record.
func (p *peer) data(s string) { p.t.Helper(); p.send(record.ApplicationData, []byte(s)) }

// alert sends one alert.
func (p *peer) alert(level byte, a record.Alert) {
	p.t.Helper()
	p.send(record.AlertRecord, []byte{level, byte(a)})
}

// raw sends bytes as they are, with one system call.
func (p *peer) raw(b []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// keyUpdate sends a KeyUpdate and changes the key behind it.
func (p *peer) keyUpdate(request byte) {
	p.t.Helper()
	p.raw(p.sealedKeyUpdate(request))
}

func (p *peer) sealedKeyUpdate(request byte) []byte {
	p.t.Helper()
	rec := p.sealed(record.Handshake, []byte{24, 0, 0, 1, request})
	if err := p.seal.Next(); err != nil {
		p.t.Fatal(err)
	}
	return rec
}

// record reads one sealed record off the wire.
func (p *peer) record() ([]byte, error) {
	head, err := p.r.Peek(record.HeaderLen)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	n, err := record.Frame(head)
	if err != nil {
		return nil, err
	}
	rec := make([]byte, n)
	_, err = io.ReadFull(p.r, rec)
	return rec, err
}

// read reads and opens one record, and follows a KeyUpdate.
func (p *peer) read() (record.ContentType, []byte, error) {
	rec, err := p.record()
	if err != nil {
		return 0, nil, err
	}
	typ, payload, err := p.open.Open(nil, rec)
	if err == nil && typ == record.Handshake && len(payload) == 5 && payload[0] == 24 {
		err = p.open.Next()
	}
	return typ, payload, err
}

// want reads one record and compares it.
func (p *peer) want(typ record.ContentType, payload []byte) {
	p.t.Helper()
	got, b, err := p.read()
	if err != nil || got != typ || !bytes.Equal(b, payload) {
		p.t.Fatalf("on the wire: %v of %d bytes %.20x (%v), want %v of %d bytes %.20x", got, len(b), b, err, typ, len(payload), payload)
	}
}

// wantAlert reads one record, which must be the alert.
func (p *peer) wantAlert(level byte, a record.Alert) {
	p.t.Helper()
	p.want(record.AlertRecord, []byte{level, byte(a)})
}

// wantData reads data records until want has come. It takes nothing else.
func (p *peer) wantData(want []byte) {
	p.t.Helper()
	if err := p.readData(want); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) readData(want []byte) error {
	for len(want) > 0 {
		typ, b, err := p.read()
		if err != nil {
			return err
		}
		if typ != record.ApplicationData || !bytes.HasPrefix(want, b) {
			return errors.New("the wire has other data than were written, or a " + typ.String() + " record")
		}
		want = want[len(b):]
	}
	return nil
}

// drain reads to the end of the connection, with close_notify or without. A
// KeyUpdate on the way is followed.
func (p *peer) drain() (data []byte, closeNotify bool, err error) {
	for {
		typ, b, err := p.read()
		switch {
		case err == io.EOF:
			return data, closeNotify, nil
		case err != nil:
			return data, closeNotify, err
		case closeNotify:
			return data, true, errors.New("a record behind close_notify")
		case typ == record.ApplicationData:
			data = append(data, b...)
		case typ == record.AlertRecord && bytes.Equal(b, closeNotifyAlert):
			closeNotify = true
		case typ == record.Handshake:
		default:
			return data, false, errors.New("unexpected record: " + typ.String())
		}
	}
}

var closeNotifyAlert = []byte{record.LevelWarning, byte(record.CloseNotify)}

// isEnd reports whether the error is how a TCP connection ends.
func isEnd(err error) bool {
	return err == io.EOF || err == io.ErrUnexpectedEOF || errors.Is(err, syscall.ECONNRESET)
}

// wantErr checks that err is a *net.OpError, as every error but io.EOF must be,
// and Is target. io.EOF must be bare.
func wantErr(t testing.TB, what string, err, target error) {
	t.Helper()
	if target == io.EOF {
		if err != io.EOF {
			t.Errorf("%s: %v, want bare io.EOF", what, err)
		}
		return
	}
	if _, ok := err.(*net.OpError); !ok {
		t.Errorf("%s: %v (%T), want a *net.OpError around %v", what, err, err, target)
	} else if !errors.Is(err, target) {
		t.Errorf("%s: %v, want %v", what, err, target)
	}
	if errors.Is(err, io.EOF) {
		t.Errorf("%s: %v is io.EOF, which is for close_notify only", what, err)
	}
}

// wantAs checks that err is a *net.OpError around an E.
func wantAs[E error](t testing.TB, what string, err error) (e E) {
	t.Helper()
	if _, ok := err.(*net.OpError); !ok {
		t.Fatalf("%s: %v (%T), want a *net.OpError around a %T", what, err, err, e)
	}
	e, ok := errors.AsType[E](err)
	if !ok {
		t.Fatalf("%s: %v, want a %T", what, err, e)
	}
	if errors.Is(err, io.EOF) {
		t.Errorf("%s: %v is io.EOF, which is for close_notify only", what, err)
	}
	return e
}

// wantPeerError checks that err blames the peer with the alert.
func wantPeerError(t testing.TB, what string, err error, a record.Alert) {
	t.Helper()
	if e := wantAs[*aftls.PeerError](t, what, err); e.Alert != a {
		t.Errorf("%s: blames the peer with %v (%v), want %v", what, e.Alert, err, a)
	}
}

// wantTruncated checks that err is the end without close_notify.
func wantTruncated(t testing.TB, what string, err error, inRecord bool) {
	t.Helper()
	if e := wantAs[*aftls.TruncatedError](t, what, err); e.InRecord != inRecord {
		t.Errorf("%s: InRecord is %v", what, e.InRecord)
	}
	wantErr(t, what, err, io.ErrUnexpectedEOF)
}

// wantRead reads until want has come.
func wantRead(t testing.TB, r io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil {
		t.Fatalf("read %d of %d bytes: %v", n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("read other data than were sent: %.40q, want %.40q", got, want)
	}
}

// mustWrite writes all of b.
func mustWrite(t testing.TB, w io.Writer, b []byte) {
	t.Helper()
	if n, err := w.Write(b); n != len(b) || err != nil {
		t.Fatalf("wrote %d of %d bytes: %v", n, len(b), err)
	}
}

// must ends the test for an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
