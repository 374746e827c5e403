package aftlstest

import (
	"errors"
	"math"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

var keysIn = []promise{
	{"a direction without keys answers ErrNoKeys", sockets, noKeys},
	{"each direction is keyed on its own", sockets, oneDirection},
	{"the keys are copied", sockets, keysCopied},
	{"keys that do not fit are refused and change nothing", sockets, wrongKeys},
	{"a used key is taken again only at its next number", sockets | rekeys, keyReuse},
	{"numbers start where the keys say", sockets, startNumber},
	{"a sequence number never wraps", sockets, neverWraps},
	{"new keys hold behind the records that were read", sockets | rekeys, rekeyByHand},
}

func noKeys(t *testing.T, x subject) {
	a, _ := tcpPair(t)
	s := aftls.NewSocket(a, x.opt)
	defer s.Close()
	b := make([]byte, 10)
	_, err := s.Read(b)
	wantErr(t, "Read", err, aftls.ErrNoKeys)
	_, _, err = s.ReadRecord(b)
	wantErr(t, "ReadRecord", err, aftls.ErrNoKeys)
	wantErr(t, "WaitRead", s.WaitRead(), aftls.ErrNoKeys)
	_, err = s.WriteTo(failingWriter{})
	wantErr(t, "WriteTo", err, aftls.ErrNoKeys)
	n, err := s.Write(b)
	wantErr(t, "Write", err, aftls.ErrNoKeys)
	if n != 0 {
		t.Errorf("Write without keys: n = %d", n)
	}
	src := &countingReader{}
	_, err = s.ReadFrom(src)
	wantErr(t, "ReadFrom", err, aftls.ErrNoKeys)
	if src.n != 0 {
		t.Error("ReadFrom without keys took data from its source")
	}
	wantErr(t, "WriteRecord", s.WriteRecord(record.AlertRecord, b[:2]), aftls.ErrNoKeys)
	_, err = s.Write(b)
	wantErr(t, "Write again", err, aftls.ErrNoKeys)
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("not to be called") }

// countingReader never ends.
type countingReader struct{ n int }

func (r *countingReader) Read(p []byte) (int, error) { r.n += len(p); return len(p), nil }

func oneDirection(t *testing.T, x subject) {
	ca, cb := tcpPair(t)
	a, b := aftls.NewSocket(ca, x.opt), aftls.NewSocket(cb, x.opt)
	defer a.Close()
	defer b.Close()
	there, back := x.keys(t)
	must(t, errors.Join(a.SetKeys(aftls.Send, there), b.SetKeys(aftls.Receive, there)))
	mustWrite(t, a, []byte("one way"))
	wantRead(t, b, []byte("one way"))
	_, err := a.Read(make([]byte, 1))
	wantErr(t, "Read", err, aftls.ErrNoKeys)
	_, err = b.Write([]byte("x"))
	wantErr(t, "Write", err, aftls.ErrNoKeys)
	// A complaint about missing keys is not for good.
	must(t, errors.Join(b.SetKeys(aftls.Send, back), a.SetKeys(aftls.Receive, back)))
	mustWrite(t, b, []byte("the other way"))
	wantRead(t, a, []byte("the other way"))
	mustWrite(t, a, []byte("again"))
	wantRead(t, b, []byte("again"))
	x.checkProvider(t, a)
}

func keysCopied(t *testing.T, x subject) {
	ca, cb := tcpPair(t)
	there, back := x.keys(t)
	k1, k2 := there.Clone(), back.Clone()
	a, p := x.onSocket(t, ca, k1, k2), newPeer(t, cb, back, there)
	k1.Wipe()
	k2.Wipe()
	mustWrite(t, a, []byte("there"))
	p.want(record.ApplicationData, []byte("there"))
	p.data("back")
	wantRead(t, a, []byte("back"))
}

func wrongKeys(t *testing.T, x subject) {
	ca, cb := tcpPair(t)
	there, back := x.keys(t)
	a, p := x.onSocket(t, ca, there, back), newPeer(t, cb, back, there)
	mustWrite(t, a, []byte("1"))
	before := a.Info()
	for _, d := range []aftls.Direction{aftls.Send, aftls.Receive} {
		k, _ := x.keys(t)
		k.Key = k.Key[1:]
		wantErr(t, "short key", a.SetKeys(d, k), record.ErrKeyLength)
		k, _ = x.keys(t)
		k.IV = append(k.IV, 0)
		wantErr(t, "long iv", a.SetKeys(d, k), record.ErrKeyLength)
		k, _ = x.keys(t)
		k.Suite = 0x1399
		wantErr(t, "unknown suite", a.SetKeys(d, k), record.ErrSuite)
		k, _ = x.keys(t)
		k.Version = 0x0302
		wantErr(t, "unknown version", a.SetKeys(d, k), record.ErrSuite)
	}
	if after := a.Info(); after != before {
		t.Errorf("refused keys changed %+v to %+v", before, after)
	}
	mustWrite(t, a, []byte("2"))
	p.want(record.ApplicationData, []byte("1"))
	p.want(record.ApplicationData, []byte("2"))
	p.data("back")
	wantRead(t, a, []byte("back"))
}

func keyReuse(t *testing.T, x subject) {
	ca, cb := tcpPair(t)
	first, back := x.keys(t)
	a, p := x.onSocket(t, ca, first, back), newPeer(t, cb, back, first)
	at := func(k record.Keys, seq uint64) record.Keys { k.Seq = seq; return k }
	send := func(s string) {
		t.Helper()
		mustWrite(t, a, []byte(s))
		p.want(record.ApplicationData, []byte(s))
	}
	rekeyPeer := func(k record.Keys) {
		t.Helper()
		o, err := record.NewOpener(k)
		must(t, err)
		p.open = o
	}
	// Nothing was sealed yet: the same number is still unused.
	must(t, a.SetKeys(aftls.Send, first))
	send("a")
	send("b")
	next := first.Seq + 2
	wantErr(t, "the same keys again", a.SetKeys(aftls.Send, first), aftls.ErrKeyReuse)
	wantErr(t, "one below the next number", a.SetKeys(aftls.Send, at(first, next-1)), aftls.ErrKeyReuse)
	send("c") // the refusal changed nothing
	next++
	must(t, a.SetKeys(aftls.Send, at(first, next)))
	send("d")
	next++
	must(t, a.SetKeys(aftls.Send, at(first, next+10)))
	rekeyPeer(at(first, next+10))
	send("e")
	next += 11

	second, _ := x.keys(t)
	must(t, a.SetKeys(aftls.Send, second))
	rekeyPeer(second)
	send("f")
	wantErr(t, "back to the first keys", a.SetKeys(aftls.Send, first), aftls.ErrKeyReuse)
	wantErr(t, "back to the first keys, too low", a.SetKeys(aftls.Send, at(first, next-1)), aftls.ErrKeyReuse)
	must(t, a.SetKeys(aftls.Send, at(first, next)))
	rekeyPeer(at(first, next))
	send("g")
	wantErr(t, "back to the second keys", a.SetKeys(aftls.Send, second), aftls.ErrKeyReuse)

	if x.is13() {
		// The key and the secret that it follows from are the same key.
		bare := first.Clone()
		bare.Secret = nil
		wantErr(t, "the first key without its secret", a.SetKeys(aftls.Send, bare), aftls.ErrKeyReuse)
		underived := record.Keys{Version: first.Version, Suite: first.Suite, Secret: first.Secret}
		wantErr(t, "the secret of the first key", a.SetKeys(aftls.Send, underived), aftls.ErrKeyReuse)
	}
	// Receiving under a key twice harms nobody.
	must(t, a.SetKeys(aftls.Receive, back))
	p.data("h")
	wantRead(t, a, []byte("h"))
}

func startNumber(t *testing.T, x subject) {
	ca, cb := tcpPair(t)
	there, back := x.keys(t)
	there.Seq, back.Seq = 1000, 1<<20
	a, p := x.onSocket(t, ca, there, back), newPeer(t, cb, back, there)
	mustWrite(t, a, []byte("there"))
	p.want(record.ApplicationData, []byte("there"))
	p.data("back")
	wantRead(t, a, []byte("back"))
	if i := a.Info(); i.Send.Seq != 1001 || i.Receive.Seq != 1<<20+1 || i.Send.Records != 1 || i.Receive.Records != 1 {
		t.Errorf("Info after one record each way: %+v", i)
	}
}

func neverWraps(t *testing.T, x subject) {
	ca, cb := tcpPair(t)
	there, back := x.keys(t)
	there.Seq, back.Seq = math.MaxUint64-4, math.MaxUint64-1
	s := aftls.NewSocket(ca, x.opt)
	defer s.Close()
	must(t, errors.Join(s.SetKeys(aftls.Send, there), s.SetKeys(aftls.Receive, back)))
	p := newPeer(t, cb, back, there)
	p.r.Reset(cb)

	// AES-GCM in TLS 1.3 has a limit below that.
	sent := 0
	for range 10 {
		n, err := s.Write([]byte("x"))
		if err != nil {
			wantErr(t, "Write", err, aftls.ErrKeyLimit)
			if n != 0 {
				t.Errorf("n = %d with ErrKeyLimit", n)
			}
			break
		}
		sent++
	}
	if limited := record.Limit(x.version, x.suite) < math.MaxUint64; sent > 4 || limited != (sent == 0) {
		t.Errorf("%d records before the end of the numbers", sent)
	}
	_, err := s.Write([]byte("x"))
	wantErr(t, "Write after the last number", err, aftls.ErrKeyLimit)
	for range sent {
		p.want(record.ApplicationData, []byte("x"))
	}

	if record.Limit(x.version, x.suite) < math.MaxUint64 {
		return // then the peer cannot seal there either
	}
	p.data("last")
	wantRead(t, s, []byte("last"))
	p.raw(recordZero(p))
	_, err = s.Read(make([]byte, 1))
	wantAs[*aftls.PeerError](t, "Read beyond the last number", err)
}

// recordZero is a record of the right form, sealed under number 0.
func recordZero(p *peer) []byte {
	p.t.Helper()
	k := p.seal.Keys()
	k.Seq = 0
	s, err := record.NewSealer(k)
	must(p.t, err)
	rec, err := s.Seal(nil, record.ApplicationData, []byte("wrapped"))
	must(p.t, err)
	return rec
}

// rekeyByHand is a KeyUpdate as a user of bare Sockets does it; in TLS 1.2 it
// stands for any change of keys behind a control record.
func rekeyByHand(t *testing.T, x subject) {
	ca, cb := tcpPair(t)
	there, back := x.keys(t)
	a, p := x.onSocket(t, ca, there, back), newPeer(t, cb, back, there)
	nextThere, nextBack := x.keys(t)
	if x.is13() {
		var err1, err2 error
		nextThere, err1 = there.Next()
		nextBack, err2 = back.Next()
		must(t, errors.Join(err1, err2))
	}
	message := []byte{24, 0, 0, 1, 0}

	// All of it arrives at once: what is behind the message is under new keys
	// though it was read from the carrier before they were set.
	stream := append(p.sealed(record.ApplicationData, []byte("old")), p.sealed(record.Handshake, message)...)
	s, err := record.NewSealer(nextBack)
	must(t, err)
	p.seal = s
	p.raw(append(stream, p.sealed(record.ApplicationData, []byte("new"))...))
	wantRead(t, a, []byte("old"))
	b := make([]byte, 100)
	if typ, n, err := a.ReadRecord(b); typ != record.Handshake || n != len(message) || err != nil {
		t.Fatal(typ, n, err)
	}
	must(t, a.SetKeys(aftls.Receive, nextBack))
	wantRead(t, a, []byte("new"))

	mustWrite(t, a, []byte("old"))
	must(t, a.WriteRecord(record.Handshake, message))
	must(t, a.SetKeys(aftls.Send, nextThere))
	mustWrite(t, a, []byte("new"))
	p.want(record.ApplicationData, []byte("old"))
	typ, _, err := p.open.Open(nil, mustRecord(p))
	if typ != record.Handshake || err != nil {
		t.Fatal(typ, err)
	}
	o, err := record.NewOpener(nextThere)
	must(t, err)
	p.open = o
	p.want(record.ApplicationData, []byte("new"))
	if i := a.Info(); i.Send.Epoch != nextThere.Epoch || i.Send.Seq != nextThere.Seq+1 || i.Receive.Seq != nextBack.Seq+1 {
		t.Errorf("Info %+v", i)
	}
	wantErr(t, "the first keys again", a.SetKeys(aftls.Send, there), aftls.ErrKeyReuse)
}

func mustRecord(p *peer) []byte {
	p.t.Helper()
	rec, err := p.record()
	must(p.t, err)
	return rec
}
