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

var keysOut = []promise{
	{"after Detach every call is ErrDetached and the carrier stays open", both, afterDetach},
	{"the association goes on after Resume", both, moved(goesOn)},
	{"data that was read and not delivered moves along", both, moved(moveUnread)},
	{"half a record moves along", both, moved(moveHalfRecord)},
	{"committed bytes that were not sent move along", both, moved(moveUnsent)},
	{"half a handshake message moves along", conns | only13 | rekeys, moved(moveHalfMessage)},
	{"a KeyUpdate that was not answered moves along", conns | only13 | rekeys, moved(moveAnswer)},
	{"a control record that waits moves along, or the rest of it", sockets, moved(moveControl)},
	{"Detach wakes whoever reads or writes, and n agrees", both, moved(moveInFlight)},
	{"the ends of both directions move along", both, moved(moveEnds)},
	{"the count of useless messages moves along", conns | only13, moved(moveUseless)},
	{"a connection moves again and again", both, moved(moveOften)},
	{"a state is good for one Resume or one MarshalBinary", both, stateOnce},
	{"a state is of one kind", both, stateKinds},
	{"what is no state is ErrState", both | oneOnly, notAState},
	{"an encoded Conn keeps its ConnectionState but for exporters", conns, movedConnectionState},
}

// mover is the Detach and Resume of one test. It passes on what Detach was
// called for, on the same carrier.
type mover func(t *testing.T, e end) end

// moved runs the test for both ways a state can take.
func moved(test func(t *testing.T, x subject, move mover)) func(*testing.T, subject) {
	return func(t *testing.T, x subject) {
		t.Run("in this process", func(t *testing.T) {
			checkLeaks(t)
			test(t, x, func(t *testing.T, e end) end { t.Helper(); return x.move(t, e, false) })
		})
		t.Run("encoded", func(t *testing.T) {
			checkLeaks(t)
			test(t, x, func(t *testing.T, e end) end { t.Helper(); return x.move(t, e, true) })
		})
	}
}

func (x subject) move(t *testing.T, e end, encoded bool) end {
	t.Helper()
	before := e.Info()
	st, err := e.Detach()
	must(t, err)
	carrier := e.NetConn()
	must(t, e.Close()) // which does nothing
	if encoded {
		b, err := st.MarshalBinary()
		must(t, err)
		st = new(aftls.State)
		must(t, st.UnmarshalBinary(b))
	}
	moved, err := x.resume(carrier, st)
	must(t, err)
	t.Cleanup(func() { moved.Close() })
	x.checkProvider(t, moved)
	after := moved.Info()
	for _, i := range []*aftls.DirectionInfo{&before.Send, &before.Receive, &after.Send, &after.Receive} {
		i.Records, i.Bytes, i.Rekeys = 0, 0, 0 // count from here
	}
	// A Read that was interrupted may have opened more than it could say.
	if before.Receive.Seq > after.Receive.Seq {
		t.Errorf("the receiving number went back from %d to %d", before.Receive.Seq, after.Receive.Seq)
	}
	before.Receive.Seq, after.Receive.Seq = 0, 0
	if before.Send.Seq > after.Send.Seq {
		t.Errorf("the sending number went back from %d to %d", before.Send.Seq, after.Send.Seq)
	}
	before.Send.Seq, after.Send.Seq = 0, 0
	if before != after {
		t.Errorf("Info %+v became %+v", before, after)
	}
	return moved
}

func afterDetach(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	st, err := e.Detach()
	must(t, err)
	b := make([]byte, 10)
	_, err = e.Read(b)
	wantErr(t, "Read", err, aftls.ErrDetached)
	_, err = e.Write(b)
	wantErr(t, "Write", err, aftls.ErrDetached)
	_, _, err = e.ReadRecord(b)
	wantErr(t, "ReadRecord", err, aftls.ErrDetached)
	wantErr(t, "WriteRecord", e.WriteRecord(record.ApplicationData, b), aftls.ErrDetached)
	_, err = e.WriteBuffers(&net.Buffers{b})
	wantErr(t, "WriteBuffers", err, aftls.ErrDetached)
	src := &countingReader{}
	_, err = e.ReadFrom(src)
	wantErr(t, "ReadFrom", err, aftls.ErrDetached)
	if src.n != 0 {
		t.Error("ReadFrom took data from its source")
	}
	_, err = e.WriteTo(failingWriter{})
	wantErr(t, "WriteTo", err, aftls.ErrDetached)
	wantErr(t, "WaitRead", e.WaitRead(), aftls.ErrDetached)
	wantErr(t, "SetDeadline", e.SetDeadline(past), aftls.ErrDetached)
	_, err = e.Detach()
	wantErr(t, "Detach", err, aftls.ErrDetached)
	if s, ok := e.(*aftls.Socket); ok {
		k, _ := x.keys(t)
		wantErr(t, "SetKeys", s.SetKeys(aftls.Send, k), aftls.ErrDetached)
	}
	if c, ok := e.(*aftls.Conn); ok {
		wantErr(t, "CloseWrite", c.CloseWrite(), aftls.ErrDetached)
		wantErr(t, "Rekey", c.Rekey(true), aftls.ErrDetached)
	}
	must(t, e.Close())
	must(t, e.Close())

	// The carrier is open, without deadlines, and nothing was sent on it.
	moved, err := x.resume(e.NetConn(), st)
	must(t, err)
	defer moved.Close()
	mustWrite(t, moved, []byte("alive"))
	p.want(record.ApplicationData, []byte("alive"))
	must(t, e.Close())
	p.data("alive")
	wantRead(t, moved, []byte("alive"))
}

func goesOn(t *testing.T, x subject, move mover) {
	a, b := x.pair(t)
	both := func() {
		t.Helper()
		mustWrite(t, a, []byte("there"))
		wantRead(t, b, []byte("there"))
		mustWrite(t, b, []byte("back"))
		wantRead(t, a, []byte("back"))
	}
	both()
	a = move(t, a)
	both()
	b = move(t, b)
	both()
	if c, ok := a.(*aftls.Conn); ok && x.is13() && x.canRekey() {
		must(t, c.Rekey(true))
		both()
		both()
		if i := a.Info(); i.Send.Epoch != 1 || i.Receive.Epoch != 1 {
			t.Errorf("epochs %d and %d", i.Send.Epoch, i.Receive.Epoch)
		}
		a, b = move(t, a), move(t, b)
		both()
		must(t, b.(*aftls.Conn).Rekey(true))
		both()
		both()
	}
	must(t, finish(a))
	must(t, a.Close())
	if x.conn {
		if rest, err := io.ReadAll(b); len(rest) > 0 || err != nil {
			t.Errorf("%q, %v", rest, err)
		}
	}
}

func moveUnread(t *testing.T, x subject, move mover) {
	e, p := x.withPeer(t)
	want := random(5000)
	var stream []byte
	for b := want; len(b) > 0; b = b[1000:] {
		stream = append(stream, p.sealed(record.ApplicationData, b[:1000])...)
	}
	p.raw(stream)
	b := make([]byte, 10) // the rest of its record is open, the others are not
	_, err := io.ReadFull(e, b)
	must(t, err)
	e = move(t, e)
	if typ, n, err := e.ReadRecord(b); typ != record.ApplicationData || n != 10 || err != nil {
		t.Fatal(typ, n, err)
	}
	if !bytes.Equal(b, want[10:20]) {
		t.Error("other data after Resume")
	}
	e = move(t, e)
	wantRead(t, e, want[20:])
	p.data("later")
	wantRead(t, e, []byte("later"))
}

func moveHalfRecord(t *testing.T, x subject, move mover) {
	e, p := x.withPeer(t)
	want := random(9000)
	rec := p.sealed(record.ApplicationData, want)
	for len(rec) > 0 {
		n := min(len(rec), 3000)
		p.raw(rec[:n])
		if rec = rec[n:]; len(rec) == 0 {
			break
		}
		r := startRead(t, e, make([]byte, 100))
		r.onNetwork()
		old := e
		e = move(t, e)
		m, err := r.result()
		wantErr(t, "Read", err, aftls.ErrDetached)
		if m != 0 {
			t.Errorf("n = %d of a record that has not come", m)
		}
		must(t, old.Close())
	}
	wantRead(t, e, want)
}

func moveUnsent(t *testing.T, x subject, move mover) {
	e, p := x.withPeer(t)
	want := fill(t, e)
	e = move(t, e)
	e = move(t, e)
	w := startWrite(t, e, []byte("behind"))
	p.wantData(want)
	p.want(record.ApplicationData, []byte("behind"))
	w.wait()
}

func moveHalfMessage(t *testing.T, x subject, move mover) {
	e, p := x.withPeer(t)
	message := []byte{keyUpdate, 0, 0, 1, 1}
	for i, piece := range [][]byte{message[:2], message[2:4], message[4:]} {
		p.send(record.Handshake, piece)
		if i == 2 {
			must(t, p.seal.Next())
			break
		}
		before := e.Info().Receive.Records
		r := startRead(t, e, make([]byte, 10))
		eventually(t, "the fragment to be read", func() bool { return e.Info().Receive.Records > before })
		r.onNetwork()
		e = move(t, e)
		_, err := r.result()
		wantErr(t, "Read", err, aftls.ErrDetached)
	}
	p.data("new key")
	wantRead(t, e, []byte("new key"))
	p.want(record.Handshake, []byte{keyUpdate, 0, 0, 1, 0})
	mustWrite(t, e, []byte("new key"))
	p.want(record.ApplicationData, []byte("new key"))
}

func moveAnswer(t *testing.T, x subject, move mover) {
	e, p := x.withPeer(t)
	w := startWrite(t, e, random(flood)) // so that the answer has to wait
	w.onNetwork()
	p.keyUpdate(1)
	p.data("x")
	wantRead(t, e, []byte("x"))
	e = move(t, e)
	n, err := w.result()
	wantErr(t, "Write", err, aftls.ErrDetached)
	c := startErr(t, func() error { _, err := e.Write([]byte("behind")); return errors.Join(err, e.Close()) })
	data, answers := int64(0), 0
	for {
		typ, b, err := p.read()
		if err != nil {
			t.Fatal(err)
		}
		if typ == record.Handshake {
			answers++
		} else if data += int64(len(b)); string(b) == "behind" {
			break
		}
	}
	if data != n+int64(len("behind")) || answers != 1 {
		t.Errorf("%d bytes came, n = %d, and %d answers", data, n, answers)
	}
	p.wantAlert(record.LevelWarning, record.CloseNotify)
	c.wait()
}

func moveControl(t *testing.T, x subject, move mover) {
	for _, taken := range []int{0, 3} {
		e, p := x.withPeer(t)
		stream := p.sealed(record.ApplicationData, []byte("before"))
		stream = append(stream, p.sealed(record.Handshake, []byte("message"))...)
		p.raw(append(stream, p.sealed(record.ApplicationData, []byte("behind"))...))
		wantRead(t, e, []byte("before"))
		_, err := e.Read(make([]byte, 100))
		wantErr(t, "Read", err, aftls.ErrControl)
		b := make([]byte, 100)
		if taken > 0 {
			_, _, err := e.ReadRecord(b[:taken])
			must(t, err)
		}
		e = move(t, e)
		_, err = e.Read(make([]byte, 100))
		wantErr(t, "Read", err, aftls.ErrControl)
		if typ, n, err := e.ReadRecord(b); typ != record.Handshake || string(b[:n]) != "message"[taken:] || err != nil {
			t.Errorf("ReadRecord: %v, %q, %v", typ, b[:n], err)
		}
		wantRead(t, e, []byte("behind"))
	}
	e, p := x.withPeer(t)
	p.send(record.Handshake, nil)
	must(t, e.WaitRead())
	e = move(t, e)
	if typ, n, err := e.ReadRecord(make([]byte, 10)); typ != record.Handshake || n != 0 || err != nil {
		t.Errorf("an empty record: %v, %d, %v", typ, n, err)
	}
}

func moveInFlight(t *testing.T, x subject, move mover) {
	e, p := x.withPeer(t)
	want := random(flood)
	w, r := startWrite(t, e, want), startRead(t, e, make([]byte, 10))
	w.onNetwork()
	r.onNetwork()
	e = move(t, e)
	n, err := w.result()
	wantErr(t, "Write", err, aftls.ErrDetached)
	if n <= 0 || n >= flood {
		t.Fatalf("n = %d", n)
	}
	m, err := r.result()
	wantErr(t, "Read", err, aftls.ErrDetached)
	if m != 0 {
		t.Errorf("Read: n = %d", m)
	}
	rest := startWrite(t, e, want[n:])
	p.wantData(want)
	rest.wait()
	p.data("back")
	wantRead(t, e, []byte("back"))
}

func moveEnds(t *testing.T, x subject, move mover) {
	e, p := x.withPeer(t)
	mustWrite(t, e, []byte("last"))
	must(t, e.WriteRecord(record.AlertRecord, closeNotifyAlert))
	e = move(t, e)
	_, err := e.Write([]byte("late"))
	wantErr(t, "Write", err, aftls.ErrShutdown)
	p.want(record.ApplicationData, []byte("last"))
	p.wantAlert(record.LevelWarning, record.CloseNotify)
	p.data("x")
	p.alert(record.LevelWarning, record.CloseNotify)
	must(t, p.conn.CloseWrite())
	wantRead(t, e, []byte("x"))
	if x.conn {
		_, err = e.Read(make([]byte, 1))
		wantErr(t, "Read", err, io.EOF)
	} else if typ, _, err := e.ReadRecord(make([]byte, 2)); typ != record.AlertRecord || err != nil {
		t.Fatal(typ, err)
	}
	e = move(t, e)
	_, err = e.Read(make([]byte, 1))
	wantErr(t, "Read", err, io.EOF)
	must(t, e.Close())
	if typ, _, err := p.read(); !isEnd(err) {
		t.Errorf("behind close_notify came %v, %v", typ, err)
	}
}

func moveUseless(t *testing.T, x subject, move mover) {
	e, p := x.withPeer(t)
	for i := range uint64(maxUseless) {
		p.send(record.Handshake, []byte{newSessionTicket, 0, 0, 1, 0})
		if i%16 == 0 {
			r := startRead(t, e, make([]byte, 1))
			eventually(t, "a ticket to be read", func() bool { return e.Info().Receive.Seq > i })
			e = move(t, e)
			_, err := r.result()
			wantErr(t, "Read", err, aftls.ErrDetached)
		}
	}
	p.send(record.Handshake, []byte{newSessionTicket, 0, 0, 1, 0})
	checkViolation(t, x, e, p, record.UnexpectedMessage)
}

func moveOften(t *testing.T, x subject, move mover) {
	a, b := x.pair(t)
	want := random(200 << 10)
	for part := want; len(part) > 0; part = part[20<<10:] {
		piece := part[:20<<10]
		w := startWrite(t, a, piece)
		wantRead(t, b, piece[:7000])
		b = move(t, b)
		wantRead(t, b, piece[7000:])
		w.wait()
		a = move(t, a)
	}
}

func stateOnce(t *testing.T, x subject) {
	spent := func(st *aftls.State) {
		t.Helper()
		c, _ := tcpPair(t)
		_, err := x.resume(c, st)
		wantErr(t, "Resume", err, aftls.ErrSpent)
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the carrier of a Resume that failed: %v, want it closed", err)
		}
		if _, err := st.MarshalBinary(); !errors.Is(err, aftls.ErrSpent) {
			t.Errorf("MarshalBinary: %v", err)
		}
	}
	e, _ := x.withPeer(t)
	st, err := e.Detach()
	must(t, err)
	moved, err := x.resume(e.NetConn(), st)
	must(t, err)
	spent(st)
	st, err = moved.Detach()
	must(t, err)
	b, err := st.MarshalBinary()
	must(t, err)
	spent(st)
	st = new(aftls.State)
	must(t, st.UnmarshalBinary(b))
	moved, err = x.resume(e.NetConn(), st)
	must(t, err)
	defer moved.Close()
	spent(st)
	c, _ := tcpPair(t)
	_, err = x.resume(c, nil)
	wantErr(t, "Resume of nil", err, aftls.ErrSpent)
}

func stateKinds(t *testing.T, x subject) {
	e, _ := x.withPeer(t)
	st, err := e.Detach()
	must(t, err)
	y := x
	y.conn = !x.conn
	_, err = y.resume(e.NetConn(), st)
	wantErr(t, "Resume as the other kind", err, aftls.ErrState)
	if _, err := e.NetConn().Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the carrier of a Resume that failed: %v, want it closed", err)
	}
}

func notAState(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	p.raw(append(p.sealed(record.ApplicationData, []byte("data")), 23, 3, 3))
	wantRead(t, e, []byte("da"))
	st, err := e.Detach()
	must(t, err)
	defer e.NetConn().Close()
	whole, err := st.MarshalBinary()
	must(t, err)
	for n := range whole {
		st := new(aftls.State)
		if err := st.UnmarshalBinary(whole[:n]); !errors.Is(err, aftls.ErrState) {
			t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	if err := new(aftls.State).UnmarshalBinary(append(bytes.Clone(whole), 0)); !errors.Is(err, aftls.ErrState) {
		t.Errorf("one byte too many: %v", err)
	}
	must(t, new(aftls.State).UnmarshalBinary(whole))
}

func movedConnectionState(t *testing.T, x subject) {
	e, _ := x.withPeer(t)
	c := e.(*aftls.Conn)
	want, err := c.ExportKeyingMaterial("test", nil, 16)
	must(t, err)
	before := c.ConnectionState()

	c = x.move(t, c, false).(*aftls.Conn)
	got, err := c.ExportKeyingMaterial("test", nil, 16)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("exported %x after %x, %v", got, want, err)
	}

	c = x.move(t, c, true).(*aftls.Conn)
	_, err = c.ExportKeyingMaterial("test", nil, 16)
	wantErr(t, "ExportKeyingMaterial", err, aftls.ErrNoExporter)
	after := c.ConnectionState()
	if after.Version != before.Version || after.CipherSuite != before.CipherSuite || after.ServerName != before.ServerName ||
		after.CurveID != before.CurveID || !after.HandshakeComplete || len(after.PeerCertificates) != len(before.PeerCertificates) ||
		len(after.VerifiedChains) == 0 || !after.PeerCertificates[0].Equal(before.PeerCertificates[0]) {
		t.Errorf("ConnectionState %+v became %+v", before, after)
	}
	must(t, c.SetDeadline(time.Now().Add(time.Millisecond)))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}
