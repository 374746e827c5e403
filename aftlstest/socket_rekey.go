package aftlstest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

var rekeying = []promise{
	{"Rekey changes the sending key", conns | only13 | rekeys, rekeyOwn},
	{"Rekey asks the peer too, and not again while unanswered", conns | only13 | rekeys, rekeyBoth},
	{"two Conns follow each other through many keys", conns | only13 | rekeys, rekeyMany},
	{"a fragmented KeyUpdate is legal", conns | only13 | rekeys, fragmentedKeyUpdate},
	{"a KeyUpdate behind a whole ticket in the same record is legal", conns | only13 | rekeys, ticketAndKeyUpdate},
	{"Rekey waits for the Write in flight and keeps the order", conns | only13 | rekeys, rekeyBehindWriter},
	{"MaxRecords rekeys by itself, exactly, whatever sends", conns | only13 | rekeys, maxRecords},
	{"a very small MaxRecords still leaves room for data", conns | only13 | rekeys, smallMaxRecords},
	{"without a secret MaxRecords ends in ErrKeyLimit", sockets, keyLimit},
	{"TLS 1.2 cannot rekey, and MaxRecords ends it with ErrKeyLimit", conns | only12, keyLimit12},
}

func rekeyOwn(t *testing.T, x subject) {
	c, p := x.connWithPeer(t)
	for epoch := range uint64(3) {
		mustWrite(t, c, []byte("before"))
		must(t, c.Rekey(false))
		mustWrite(t, c, []byte("after"))
		p.want(record.ApplicationData, []byte("before"))
		p.want(record.Handshake, []byte{keyUpdate, 0, 0, 1, 0}) // which changes the peer's key
		p.want(record.ApplicationData, []byte("after"))
		if i := c.Info(); i.Send.Epoch != epoch+1 || i.Send.Rekeys != epoch+1 || i.Send.Seq != 1 || i.Receive.Epoch != 0 {
			t.Errorf("Info %+v", i)
		}
	}
}

func rekeyBoth(t *testing.T, x subject) {
	c, p := x.connWithPeer(t)
	must(t, c.Rekey(true))
	p.want(record.Handshake, []byte{keyUpdate, 0, 0, 1, 1})
	must(t, c.Rekey(true))
	p.want(record.Handshake, []byte{keyUpdate, 0, 0, 1, 0})
	p.keyUpdate(0)
	p.data("new key")
	wantRead(t, c, []byte("new key"))
	must(t, c.Rekey(true))
	p.want(record.Handshake, []byte{keyUpdate, 0, 0, 1, 1})
	if i := c.Info(); i.Send.Epoch != 3 || i.Receive.Epoch != 1 || i.Receive.Rekeys != 1 {
		t.Errorf("Info %+v", i)
	}
}

func rekeyMany(t *testing.T, x subject) {
	a, b := x.connPair(t)
	for i := range 20 {
		if i%2 == 0 {
			must(t, a.Rekey(i%4 == 0))
		} else {
			must(t, b.Rekey(i%4 == 1))
		}
		want := random(20000)
		w := startWrite(t, a, want)
		wantRead(t, b, want)
		w.wait()
		w = startWrite(t, b, want)
		wantRead(t, a, want)
		w.wait()
	}
	ia, ib := a.Info(), b.Info()
	if ia.Send.Epoch != ib.Receive.Epoch || ia.Receive.Epoch != ib.Send.Epoch || ia.Send.Epoch < 10 || ib.Send.Epoch < 10 {
		t.Errorf("Info %+v and %+v", ia, ib)
	}
	if ia.Send.Seq != ib.Receive.Seq || ia.Receive.Seq != ib.Send.Seq {
		t.Errorf("Info %+v and %+v", ia, ib)
	}
}

func fragmentedKeyUpdate(t *testing.T, x subject) {
	c, p := x.connWithPeer(t)
	message := []byte{keyUpdate, 0, 0, 1, 1}
	for _, cuts := range [][]int{{1}, {2}, {3}, {4}, {1, 2, 3, 4}} {
		from := 0
		var stream []byte
		for _, to := range append(cuts, len(message)) {
			stream = append(stream, p.sealed(record.Handshake, message[from:to])...)
			from = to
		}
		must(t, p.seal.Next())
		p.raw(append(stream, p.sealed(record.ApplicationData, []byte("new key"))...))
		wantRead(t, c, []byte("new key"))
		p.want(record.Handshake, []byte{keyUpdate, 0, 0, 1, 0})
		mustWrite(t, c, []byte("new key"))
		p.want(record.ApplicationData, []byte("new key"))
	}
}

func ticketAndKeyUpdate(t *testing.T, x subject) {
	c, p := x.connWithPeer(t)
	p.send(record.Handshake, []byte{newSessionTicket, 0, 0, 1, 0, keyUpdate, 0, 0, 1, 1})
	must(t, p.seal.Next())
	p.data("new key")
	wantRead(t, c, []byte("new key"))
	p.want(record.Handshake, []byte{keyUpdate, 0, 0, 1, 0})
}

func rekeyBehindWriter(t *testing.T, x subject) {
	c, p := x.connWithPeer(t)
	want := random(flood)
	w := startWrite(t, c, want)
	w.onNetwork()
	k := startErr(t, func() error { return c.Rekey(false) })
	k.onLock()
	p.wantData(want)
	p.want(record.Handshake, []byte{keyUpdate, 0, 0, 1, 0})
	w.wait()
	k.wait()
	mustWrite(t, c, []byte("behind"))
	p.want(record.ApplicationData, []byte("behind"))
}

// keyUse is how many records a peer got under one key, and how many of them
// were data.
type keyUse struct{ all, data uint64 }

// readKeys reads want off the wire and counts what each key was used for. The
// last key is not full.
func readKeys(p *peer, want []byte) (uses []keyUse, err error) {
	var use keyUse
	for len(want) > 0 {
		typ, b, err := p.read()
		use.all++
		switch {
		case err != nil:
			return nil, err
		case typ == record.Handshake && len(b) == 5 && b[0] == keyUpdate:
			uses, use = append(uses, use), keyUse{}
		case typ == record.ApplicationData && bytes.HasPrefix(want, b):
			use.data++
			want = want[len(b):]
		default:
			return nil, errors.New("other data than were written, or a record of another type")
		}
	}
	return append(uses, use), nil
}

func maxRecords(t *testing.T, x subject) {
	const limit = 10
	x.opt.MaxRecords = limit
	want := random(600 << 10)
	senders := map[string]func(t *testing.T, e end) error{
		"Write": func(t *testing.T, e end) error { _, err := e.Write(want); return err },
		"small Writes": func(t *testing.T, e end) error {
			for b := want; len(b) > 0; b = b[min(len(b), 1000):] {
				if _, err := e.Write(b[:min(len(b), 1000)]); err != nil {
					return err
				}
			}
			return nil
		},
		"WriteBuffers": func(t *testing.T, e end) error {
			_, err := e.WriteBuffers(&net.Buffers{want[:10], want[10:5000], want[5000:]})
			return err
		},
		"ReadFrom a file":   func(t *testing.T, e end) error { _, err := e.ReadFrom(writeFile(t, want)); return err },
		"ReadFrom a reader": func(t *testing.T, e end) error { _, err := e.ReadFrom(bytes.NewReader(want)); return err },
		"WriteRecord": func(t *testing.T, e end) error {
			for b := want; len(b) > 0; b = b[min(len(b), 16000):] {
				if err := e.WriteRecord(record.ApplicationData, b[:min(len(b), 16000)]); err != nil {
					return err
				}
			}
			return nil
		},
	}
	for name, send := range senders {
		t.Run(name, func(t *testing.T) {
			e, p := x.withPeer(t)
			w := startErr(t, func() error { return send(t, e) })
			uses, err := readKeys(p, want)
			must(t, err)
			w.wait()
			if len(uses) < 3 {
				t.Fatalf("%d keys for %d bytes", len(uses), len(want))
			}
			for i, use := range uses[:len(uses)-1] {
				// One record is kept back for the alert that may end it all.
				if use.all != limit-1 || use.data != limit-2 {
					t.Errorf("key %d sealed %d records, %d of them data; MaxRecords is %d", i, use.all, use.data, limit)
				}
			}
			if i := e.Info().Send; i.Rekeys != uint64(len(uses)-1) || i.Epoch != i.Rekeys {
				t.Errorf("Info counts %d rekeys of %d", i.Rekeys, len(uses)-1)
			}
		})
	}
}

func smallMaxRecords(t *testing.T, x subject) {
	for limit := range uint64(4) {
		x.opt.MaxRecords = limit + 1
		e, p := x.withPeer(t)
		want := random(50000)
		w := startWrite(t, e, want)
		uses, err := readKeys(p, want)
		must(t, err)
		w.wait()
		for _, use := range uses[:len(uses)-1] {
			if use.all > max(x.opt.MaxRecords, 3) || use.data == 0 {
				t.Errorf("MaxRecords is %d, and a key sealed %d records, %d of them data", x.opt.MaxRecords, use.all, use.data)
			}
		}
	}
}

func keyLimit(t *testing.T, x subject) {
	x.opt.MaxRecords = 10
	e, p := x.withPeer(t)
	want, err := writeToLimit(t, e)
	wantErr(t, "Write", err, aftls.ErrKeyLimit)
	p.wantData(want)
	n, err := e.Write([]byte("x"))
	wantErr(t, "Write again", err, aftls.ErrKeyLimit)
	m, err2 := e.ReadFrom(&countingReader{})
	wantErr(t, "ReadFrom", err2, aftls.ErrKeyLimit)
	if n != 0 || m != 0 {
		t.Errorf("n = %d and %d", n, m)
	}
	if e.Info().Send.Seq > 10 {
		t.Errorf("Info %+v", e.Info().Send)
	}
	p.data("reading goes on")
	wantRead(t, e, []byte("reading goes on"))
	// A number was kept for the alert that such a connection ends with.
	p.raw(x.header([]byte{23, 3, 1, 0, 40, 0}))
	checkViolation(t, x, e, p, record.ProtocolVersion)
}

// writeToLimit writes until that fails, and returns what was committed.
func writeToLimit(t *testing.T, e end) (want []byte, err error) {
	t.Helper()
	want = random(100000)
	n, err := e.Write(want)
	return want[:n], err
}

func keyLimit12(t *testing.T, x subject) {
	c, _ := x.connWithPeer(t)
	wantErr(t, "Rekey", c.Rekey(false), aftls.ErrNoRekey)
	wantErr(t, "Rekey", c.Rekey(true), aftls.ErrNoRekey)
	a, b := x.connPair(t)
	wantErr(t, "Rekey", a.Rekey(true), aftls.ErrNoRekey)
	mustWrite(t, a, []byte("goes on"))
	wantRead(t, b, []byte("goes on"))

	keyLimit(t, x)

	// The peer still learns that this was all.
	x.opt.MaxRecords = 10
	for _, end := range []func(*aftls.Conn) error{(*aftls.Conn).Close, (*aftls.Conn).CloseWrite} {
		a, b := x.connPair(t)
		want, err := writeToLimit(t, a)
		wantErr(t, "Write", err, aftls.ErrKeyLimit)
		if len(want) == 0 {
			t.Error("nothing was sent below the limit")
		}
		must(t, end(a))
		if got, err := io.ReadAll(b); !bytes.Equal(got, want) || err != nil {
			t.Errorf("%d bytes of %d came, %v", len(got), len(want), err)
		}
	}
}

var info = []promise{
	{"Info counts records, bytes, keys and numbers", both, infoNumbers},
	{"Info says what was negotiated and who does the work", both, infoNames},
	{"Info waits for nobody", both, infoWaitsNot},
}

func infoNumbers(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	start := e.Info()
	for range 3 {
		must(t, e.WriteRecord(record.ApplicationData, random(100)))
		p.read()
		p.send(record.ApplicationData, random(50))
		wantReadAny(t, e, 50)
	}
	i := e.Info()
	if s := i.Send; s.Records != 3 || s.Bytes != 300 || s.Seq != start.Send.Seq+3 || s.Epoch != 0 || s.Rekeys != 0 {
		t.Errorf("after three records sent: %+v", s)
	}
	if r := i.Receive; r.Records != 3 || r.Bytes != 150 || r.Seq != start.Receive.Seq+3 || r.Epoch != 0 || r.Rekeys != 0 {
		t.Errorf("after three records received: %+v", r)
	}
	must(t, e.WriteRecord(record.AlertRecord, []byte{record.LevelWarning, byte(record.UserCanceled)}))
	if s := e.Info().Send; s.Records != 4 || s.Bytes != 300 || s.Seq != start.Send.Seq+4 {
		t.Errorf("after a control record: %+v", s)
	}
	if start.Resumed || i.Resumed {
		t.Error("nothing was resumed")
	}
}

func wantReadAny(t *testing.T, r io.Reader, n int) {
	t.Helper()
	if _, err := io.ReadFull(r, make([]byte, n)); err != nil {
		t.Fatal(err)
	}
}

func infoNames(t *testing.T, x subject) {
	e, _ := x.withPeer(t)
	i := e.Info()
	for _, d := range []aftls.DirectionInfo{i.Send, i.Receive} {
		if d.Provider != x.provider || d.Version != x.version || x.suite != 0 && d.Suite != x.suite {
			t.Errorf("%+v", d)
		}
		if d.VersionName() != tls.VersionName(x.version) || d.SuiteName() != tls.CipherSuiteName(d.Suite) {
			t.Errorf("%s, %s", d.VersionName(), d.SuiteName())
		}
		if x.provider == aftls.Soft && d.Reason == "" {
			t.Error("no word on why this is not in the kernel")
		}
	}
	if c, ok := e.(*aftls.Conn); ok {
		if cs := c.ConnectionState(); cs.Version != i.Send.Version || cs.CipherSuite != i.Send.Suite {
			t.Errorf("ConnectionState says %s, %s", tls.VersionName(cs.Version), tls.CipherSuiteName(cs.CipherSuite))
		}
	}
}

func infoWaitsNot(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	want := random(flood)
	w, r := startWrite(t, e, want), startRead(t, e, make([]byte, 1))
	w.onNetwork()
	r.onNetwork()
	if i := e.Info(); i.Send.Bytes == 0 {
		t.Errorf("%+v", i)
	}
	p.wantData(want)
	p.data("x")
	w.wait()
	r.wait()
}

var idle = []promise{
	{"whoever waits to read holds no buffer", both, waitingHoldsNothing},
	{"WaitRead waits for data and takes none", both, waitRead},
	{"nothing is held after a large transfer", both, nothingHeldAfter},
}

func waitingHoldsNothing(t *testing.T, x subject) {
	base := borrowed()
	e, p := x.withPeer(t)
	waits := map[string]func() error{
		"Read":       func() error { _, err := e.Read(make([]byte, 100)); return err },
		"large Read": func() error { _, err := e.Read(make([]byte, 1<<20)); return err },
		"ReadRecord": func() error { _, _, err := e.ReadRecord(make([]byte, 100)); return err },
		"WaitRead":   func() error { return errors.Join(e.WaitRead(), readByte(e)) },
		"WriteTo":    func() error { _, err := e.WriteTo(stopWriter{}); return err },
	}
	for name, wait := range waits {
		c := startErr(t, wait)
		c.onNetwork()
		if n := borrowed() - base; n != 0 {
			t.Errorf("%s waits with %d buffers", name, n)
		}
		p.data("x")
		if _, err := c.result(); err != nil && err != errStop {
			t.Errorf("%s: %v", name, err)
		}
		if n := borrowed() - base; n != 0 {
			t.Errorf("%d buffers are held after %s", n, name)
		}
	}
}

func readByte(r io.Reader) error { _, err := r.Read(make([]byte, 1)); return err }

var errStop = errors.New("stop")

type stopWriter struct{}

func (stopWriter) Write(p []byte) (int, error) { return len(p), errStop }

func waitRead(t *testing.T, x subject) {
	e, p := x.withPeer(t)
	w := startErr(t, e.WaitRead)
	w.onNetwork()
	p.data("data")
	w.wait()
	must(t, e.WaitRead())
	must(t, e.WaitRead())
	b := make([]byte, 10)
	if n, err := e.Read(b[:2]); string(b[:n]) != "da" || err != nil {
		t.Fatal(n, err)
	}
	must(t, e.WaitRead())
	wantRead(t, e, []byte("ta"))

	// Half a record is nothing to read yet.
	rec := p.sealed(record.ApplicationData, []byte("more"))
	p.raw(rec[:10])
	w = startErr(t, e.WaitRead)
	w.onNetwork()
	p.raw(rec[10:])
	w.wait()
	wantRead(t, e, []byte("more"))
}

func nothingHeldAfter(t *testing.T, x subject) {
	base := borrowed()
	a, b := x.pair(t)
	want := random(3 << 20)
	for _, way := range [][2]end{{a, b}, {b, a}} {
		w := startWrite(t, way[0], want)
		wantRead(t, way[1], want)
		w.wait()
	}
	if n := borrowed() - base; n != 0 {
		t.Errorf("%d buffers are held by idle connections", n)
	}
}
