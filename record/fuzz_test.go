package record_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/aftls/aftls/record"
)

// pick makes any byte the number of an element.
func pick[T any](from []T, i byte) T { return from[int(i)%len(from)] }

// opening is all that shows of one Open.
type opening struct {
	typ     record.ContentType
	payload []byte
	alert   record.Alert
	err     error
	seq     uint64
}

func tryOpen(t *testing.T, k record.Keys, intoDst bool, rec []byte) opening {
	o := opener(t, k)
	var dst []byte
	if intoDst {
		dst = make([]byte, o.Room(rec))
	}
	before := bytes.Clone(rec)
	got := opening{}
	got.typ, got.payload, got.err = o.Open(dst, rec)
	got.seq = o.Seq()
	var e *record.Error
	switch {
	case got.err == nil:
		if got.seq != k.Seq+1 {
			t.Errorf("opened, and Seq went from %d to %d", k.Seq, got.seq)
		}
	case !errors.As(got.err, &e):
		t.Errorf("error %T: %v", got.err, got.err)
	default:
		got.alert = e.Alert
		if got.typ != 0 || got.payload != nil || got.seq != k.Seq {
			t.Errorf("beside an error: %v, %d bytes, Seq from %d to %d", got.typ, len(got.payload), k.Seq, got.seq)
		}
	}
	if intoDst && !bytes.Equal(rec, before) {
		t.Error("opening into dst changed the record")
	}
	return got
}

// Nobody without the key can make a record that opens: whatever does open is,
// byte for byte, the one that the keys' own sealer makes.
func FuzzOpen(f *testing.F) {
	for i, p := range profiles {
		for _, seq := range []uint64{0, 1, 1 << 40, math.MaxUint64 - 1, math.MaxUint64} {
			rec := p.byHand(p.keys("fuzz", seq), seq, record.ApplicationData, []byte("payload"), i)
			f.Add(byte(i), seq, rec)
			f.Add(byte(i), seq, rec[:len(rec)-1])
			f.Add(byte(i), seq+1, rec)
		}
		for _, n := range []int{0, 1, 8, 16, 17, 24, 25, p.longest(), p.longest() + 1} {
			f.Add(byte(i), uint64(0), ofLength(n))
		}
		f.Add(byte(i), uint64(0), []byte{})
		f.Add(byte(i), uint64(0), []byte{21, 3, 3, 0, 2, 2, 80})
	}
	f.Fuzz(func(t *testing.T, suite byte, seq uint64, rec []byte) {
		p := pick(profiles, suite)
		k := p.keys("fuzz", seq)
		apart := tryOpen(t, k, true, rec)
		inPlace := tryOpen(t, k, false, bytes.Clone(rec))
		if apart.typ != inPlace.typ || !bytes.Equal(apart.payload, inPlace.payload) || apart.alert != inPlace.alert ||
			(apart.err == nil) != (inPlace.err == nil) {
			t.Fatalf("into dst %+v, in place %+v", apart, inPlace)
		}
		if apart.err != nil {
			return
		}
		if seq == math.MaxUint64 {
			t.Fatal("opened a record of the number that is never used")
		}
		var want []byte
		if p.explicit > 0 {
			want = p.record12(k, seq, binary.BigEndian.Uint64(rec[5:]), apart.typ, apart.payload)
		} else {
			pad := len(rec) - 5 - len(apart.payload) - 1 - 16
			want = p.byHand(k, seq, apart.typ, apart.payload, pad)
		}
		if !bytes.Equal(rec, want) {
			t.Fatalf("opened a record that no sealer makes:\n got %x\nwant %x", rec, want)
		}
	})
}

// What is inside an authentic record is the peer's, and the peer may be hostile.
func FuzzOpenInnerPlaintext(f *testing.F) {
	for i := range profilesOf(record.TLS13) {
		for _, inner := range [][]byte{
			nil, {0}, {0, 0, 0}, {23}, {23, 0, 0}, {0, 0, 21}, {1, 0, 0, 21, 0},
			make([]byte, 16385), make([]byte, 16386),
			append(make([]byte, 16384), 23), append(make([]byte, 16385), 23), append([]byte{23}, make([]byte, 16384)...),
		} {
			f.Add(byte(i), inner)
		}
	}
	f.Fuzz(func(t *testing.T, suite byte, inner []byte) {
		p := pick(profilesOf(record.TLS13), suite)
		inner = inner[:min(len(inner), 16384+256-16)]
		k := p.keys("fuzz", 2)
		got := tryOpen(t, k, true, p.inner13(k, 2, inner))
		content := bytes.TrimRight(inner, "\x00")
		switch {
		case len(inner) > 16385:
			refused(t, got.err, record.RecordOverflow)
		case len(content) == 0:
			refused(t, got.err, record.UnexpectedMessage)
		default:
			last := len(content) - 1
			if got.err != nil || byte(got.typ) != content[last] || !bytes.Equal(got.payload, content[:last]) {
				t.Fatalf("%x opened as %v %x, %v", inner, got.typ, got.payload, got.err)
			}
		}
	})
}

func FuzzFrame(f *testing.F) {
	for _, head := range [][]byte{
		nil, {23}, {23, 3, 3, 0}, {23, 3, 3, 0, 0}, {22, 3, 1, 2, 0, 1}, {23, 3, 3, 0x48, 0}, {23, 3, 3, 0x48, 1},
		{23, 3, 3, 0x41, 0}, {23, 3, 3, 0x41, 1}, {23, 3, 3, 0x40, 0x18}, {23, 3, 3, 0x40, 0x19}, {23, 3, 4, 0, 0},
		{23, 3, 5, 0, 0}, {0x80, 0x2e, 1, 0, 2}, []byte("GET / HTTP/1.1\r\n"), {255, 255, 255, 255, 255},
	} {
		f.Add(head)
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		n, err := record.Frame(head)
		if err != nil && n != 0 {
			t.Fatalf("%d beside %v", n, err)
		}
		length := -1
		if len(head) >= 5 {
			length = int(binary.BigEndian.Uint16(head[3:]))
		}
		switch {
		case length < 0:
			if n != 0 || err != nil {
				t.Fatalf("%d, %v for %d bytes", n, err, len(head))
			}
		case head[1] != 3 || head[2] > 4:
			refused(t, err, record.ProtocolVersion)
		case length > 18432:
			refused(t, err, record.RecordOverflow)
		case err != nil || n != 5+length:
			t.Fatalf("%d, %v, want %d", n, err, 5+length)
		}

		// An opener is the stricter of the two, and else agrees; what its
		// Frame refuses, its Open refuses with the same words.
		for _, p := range constructions {
			o := opener(t, p.keys("fuzz", 0))
			own, ownErr := o.Frame(head)
			if ownErr == nil && (own != n || err != nil) {
				t.Fatalf("%v: opener says %d, package %d, %v", p, own, n, err)
			}
			if ownErr != nil {
				var e *record.Error
				if own != 0 || !errors.As(ownErr, &e) {
					t.Fatalf("%v: %d, %v", p, own, ownErr)
				}
				_, _, openErr := o.Open(nil, bytes.Clone(head))
				refused(t, openErr, e.Alert)
				if openErr.Error() != ownErr.Error() {
					t.Fatalf("%v: Frame says %q, Open %q", p, ownErr, openErr)
				}
			}
		}
	})
}

// zeros is how many zeros the policy of SetPadding asks for.
func zeros(n, pad int) int {
	pad = min(pad, 16384)
	full := n
	for pad > 1 && full%pad != 0 && full < 16384 {
		full++
	}
	return full - n
}

func FuzzRoundTrip(f *testing.F) {
	for i := range profiles {
		f.Add(byte(i), byte(23), []byte(nil), uint16(0), uint64(0))
		f.Add(byte(i), byte(21), []byte{1, 0}, uint16(16), uint64(1))
		f.Add(byte(i), byte(22), noise("seed", 1000), uint16(300), uint64(23726564))
		f.Add(byte(i), byte(23), make([]byte, 16384), uint16(0xffff), uint64(1<<63))
		f.Add(byte(i), byte(23), make([]byte, 16385), uint16(0), uint64(0))
		f.Add(byte(i), byte(24), []byte{0, 0, 0}, uint16(2), uint64(math.MaxUint64-1))
		f.Add(byte(i), byte(255), []byte("x"), uint16(1), uint64(math.MaxUint64))
	}
	f.Fuzz(func(t *testing.T, suite, typ byte, payload []byte, pad uint16, seq uint64) {
		p := pick(profiles, suite)
		if typ == 0 {
			return // refused, see TestContentTypeZeroIsNotSealed
		}
		k := p.keys("fuzz", seq)
		s, o := sealer(t, k), opener(t, k)
		s.SetPadding(int(pad))
		sealed := bytes.Clone(payload)
		rec, err := s.Seal([]byte("dst"), record.ContentType(typ), sealed)
		if !bytes.Equal(sealed, payload) {
			t.Fatal("Seal changed the payload")
		}
		if err != nil {
			want := record.ErrKeyLimit
			if len(payload) > 16384 {
				want = record.ErrTooLarge
			} else if seq < record.Limit(p.version, p.id) {
				t.Fatalf("Seal: %v", err)
			}
			if !errors.Is(err, want) || string(rec) != "dst" || s.Seq() != seq {
				t.Fatalf("Seal = %q, %v, want %v; Seq = %d", rec, err, want, s.Seq())
			}
			return
		}
		if len(payload) > 16384 || seq >= record.Limit(p.version, p.id) {
			t.Fatalf("sealed %d bytes as number %d", len(payload), seq)
		}
		want := append([]byte("dst"), p.byHand(k, seq, record.ContentType(typ), payload, zeros(len(payload), int(pad)))...)
		if !bytes.Equal(rec, want) {
			t.Fatalf("sealed\n got %x\nwant %x", rec, want)
		}
		rec = rec[3:]
		if s.Seq() != seq+1 || len(rec) != s.SealedLen(len(payload)) || o.Room(rec) < len(payload) {
			t.Fatalf("Seq = %d, %d bytes, SealedLen %d, Room %d", s.Seq(), len(rec), s.SealedLen(len(payload)), o.Room(rec))
		}
		gotType, got, err := o.Open(nil, rec)
		if err != nil || byte(gotType) != typ || !bytes.Equal(got, payload) {
			t.Fatalf("opened as %v of %d bytes, %v", gotType, len(got), err)
		}
	})
}

// FuzzDifferential keeps one connection of each kind for all its inputs, so
// that handshakes are rare and sequence numbers grow.
func FuzzDifferential(f *testing.F) {
	lines := make([]*line, len(connections))
	for i := range connections {
		f.Add(byte(i), uint16(0), []byte("down"), []byte("up"))
		f.Add(byte(i), uint16(512), []byte{0}, []byte(nil))
		f.Add(byte(i), uint16(0xffff), noise("down", 16384), noise("up", 16384))
	}
	f.Fuzz(func(t *testing.T, which byte, pad uint16, down, up []byte) {
		which %= byte(len(connections))
		c, l := connections[which], lines[which]
		if limit := uint64(1 << 24); l != nil && max(l.seal.Seq(), l.open.Seq()) > limit {
			l.close()
			l = nil
		}
		if l == nil {
			var err error
			if l, err = c.dial(); err != nil {
				t.Fatal(err)
			}
		}
		// A connection that failed is out of step: the next input gets a new one.
		lines[which] = nil
		if down = down[:min(len(down), 16384)]; len(down) > 0 { // crypto/tls sends no empty records
			if err := l.receive(down); err != nil {
				l.close()
				t.Fatalf("%v: %v", c, err)
			}
		}
		l.seal.SetPadding(int(pad))
		up = up[:min(len(up), 16384)]
		if err := l.send(up, []byte{1}); err != nil {
			l.close()
			t.Fatalf("%v: %v", c, err)
		}
		lines[which] = l
	})
}
