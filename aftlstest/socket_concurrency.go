package aftlstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

var nobodyWaits = []promise{
	{"Read goes on while a Write is blocked", both, readPastWriter},
	{"Write goes on while a Read is blocked", both, writePastReader},
	{"a KeyUpdate request is followed while a Write is blocked and answered before later data", conns | only13 | rekeys, keyUpdatePastWriter},
	{"both sides may write, ask for new keys, and not read", conns | only13 | rekeys, bothWriteAndRekey},
	{"a KeyUpdate request is answered at once when nobody writes", conns | only13 | rekeys, answerAtOnce},
	{"ReadFrom of a silent source stops nobody and keeps nothing back", both, silentSource},
	{"ReadFrom of a large file lets other writes come between", both | oneOnly, turns},
	{"a violation is reported while a Write is blocked, and the alert sent behind it", both, violationPastWriter},
}

func readPastWriter(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	want := random(flood)
	w := startWrite(t, e, want)
	w.onNetwork()
	for i := range 3 {
		text := fmt.Sprint("message ", i)
		p.data(text)
		wantRead(t, e, []byte(text))
	}
	w.running("nobody has read")
	p.wantData(want)
	if n := w.wait(); n != flood {
		t.Errorf("n = %d", n)
	}
}

func writePastReader(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	b := make([]byte, 10)
	r := startRead(t, e, b)
	r.onNetwork()
	mustWrite(t, e, []byte("there"))
	p.want(record.ApplicationData, []byte("there"))
	r.running("nothing was sent")
	p.data("back")
	if n := r.wait(); string(b[:n]) != "back" {
		t.Errorf("%q", b[:n])
	}
}

func keyUpdatePastWriter(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	want := random(flood)
	w := startWrite(t, e, want)
	w.onNetwork()
	p.data("old key")
	p.keyUpdate(1)
	p.data("new key")
	wantRead(t, e, []byte("old key"))
	wantRead(t, e, []byte("new key"))
	w.running("nobody has read")
	updates, at := 0, 0
	for rest := want; len(rest) > 0; {
		typ, b, err := p.read()
		switch {
		case err != nil:
			t.Fatal(err)
		case typ == record.Handshake && bytes.Equal(b, []byte{keyUpdate, 0, 0, 1, 0}):
			updates++
			at = len(want) - len(rest)
		case typ == record.ApplicationData && bytes.HasPrefix(rest, b):
			rest = rest[len(b):]
		default:
			t.Fatalf("%v record, or other data than were written", typ)
		}
	}
	w.wait()
	// The write was blocked inside a turn of at most 1 MiB.
	if updates != 1 || at > 2<<20 {
		t.Errorf("%d answers, the last behind %d bytes", updates, at)
	}
	if i := e.Info(); i.Send.Epoch != 1 || i.Receive.Epoch != 1 {
		t.Errorf("epochs %d and %d", i.Send.Epoch, i.Receive.Epoch)
	}
}

func bothWriteAndRekey(t *testing.T, x subject) {
	ea, eb := x.narrowPair(t)
	a, b := ea.(*aftls.Conn), eb.(*aftls.Conn)
	must(t, errors.Join(a.Rekey(true), b.Rekey(true)))
	fromA, fromB := random(flood), random(flood)
	wa, wb := startWrite(t, a, fromA), startWrite(t, b, fromB)
	wa.onNetwork()
	wb.onNetwork()
	// And again behind all that is blocked.
	ka, kb := startErr(t, func() error { return a.Rekey(true) }), startErr(t, func() error { return b.Rekey(true) })
	ka.onLock()
	kb.onLock()
	ra := startErr(t, func() error { return expect(a, fromB) })
	rb := startErr(t, func() error { return expect(b, fromA) })
	for _, c := range []*call{ra, rb, wa, wb, ka, kb} {
		c.wait()
	}
	mustWrite(t, a, []byte("there"))
	wantRead(t, b, []byte("there"))
	mustWrite(t, b, []byte("back"))
	wantRead(t, a, []byte("back"))
	// When everything is read, both agree on how often that was.
	for _, way := range [][2]*aftls.Conn{{a, b}, {b, a}} {
		must(t, way[0].CloseWrite())
		if rest, err := io.ReadAll(way[1]); len(rest) > 0 || err != nil {
			t.Errorf("%d bytes too many, %v", len(rest), err)
		}
	}
	ia, ib := a.Info(), b.Info()
	if ia.Send.Epoch < 2 || ib.Send.Epoch < 2 || ia.Send.Epoch != ib.Receive.Epoch || ib.Send.Epoch != ia.Receive.Epoch {
		t.Errorf("Info %+v and %+v", ia, ib)
	}
}

// expect reads until want has come, for goroutines beside the test's own.
func expect(r io.Reader, want []byte) error {
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		return errors.New("read other data than were written")
	}
	return nil
}

func answerAtOnce(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	r := startRead(t, e, make([]byte, 10))
	for range 3 {
		p.keyUpdate(1)
		p.want(record.Handshake, []byte{keyUpdate, 0, 0, 1, 0})
	}
	p.keyUpdate(0) // wants no answer
	p.data("done")
	if n := r.wait(); n != 4 {
		t.Errorf("n = %d", n)
	}
	mustWrite(t, e, []byte("data"))
	p.want(record.ApplicationData, []byte("data"))
}

func silentSource(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	from := start(t, func() (int64, error) { return e.ReadFrom(r) })
	from.onNetwork()
	mustWrite(t, e, []byte("between"))
	p.want(record.ApplicationData, []byte("between"))
	for range 2 {
		mustWrite(t, w, []byte("at last"))
		p.want(record.ApplicationData, []byte("at last")) // though the source goes on
	}
	if x.conn && x.is13() && x.canRekey() {
		b := make([]byte, 10)
		read := startRead(t, e, b)
		p.keyUpdate(1)
		p.want(record.Handshake, []byte{keyUpdate, 0, 0, 1, 0})
		p.data("x")
		read.wait()
		mustWrite(t, w, []byte("new key"))
		p.want(record.ApplicationData, []byte("new key"))
	}
	from.running("the source has not ended")
	must(t, w.Close())
	if n := from.wait(); n < 14 {
		t.Errorf("n = %d", n)
	}
}

func turns(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	f := writeFile(t, make([]byte, 2*flood))
	from := start(t, func() (int64, error) { return e.ReadFrom(f) })
	from.onNetwork()
	w := startWrite(t, e, []byte("between"))
	w.onLock()
	total, at := 0, -1
	for total < 2*flood+len("between") {
		typ, b, err := p.read()
		if err != nil || typ != record.ApplicationData {
			t.Fatal(typ, err)
		}
		if string(b) == "between" {
			at = total
		}
		total += len(b)
	}
	from.wait()
	w.wait()
	if at < 0 || at >= 2*flood {
		t.Errorf("the other write came at %d of %d bytes", at, 2*flood)
	}
}

func violationPastWriter(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	want := random(flood)
	w := startWrite(t, e, want)
	w.onNetwork()
	p.raw([]byte{23, 3, 1, 0, 40, 0})
	_, err := e.Read(make([]byte, 10))
	wantPeerError(t, "Read", err, record.ProtocolVersion)
	w.running("nobody has read")
	var got []byte
	for {
		typ, b, err := p.read()
		if err != nil {
			t.Fatalf("no alert behind %d bytes: %v", len(got), err)
		}
		if typ == record.AlertRecord {
			if !bytes.Equal(b, []byte{record.LevelFatal, byte(record.ProtocolVersion)}) {
				t.Errorf("alert %x", b)
			}
			break
		}
		got = append(got, b...)
	}
	n, err := w.result()
	wantPeerError(t, "Write", err, record.ProtocolVersion)
	if n != int64(len(got)) || !bytes.HasPrefix(want, got) {
		t.Errorf("n = %d, and %d bytes came, or others", n, len(got))
	}
}
