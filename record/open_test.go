package record_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"

	"github.com/aftls/aftls/record"
)

// refusedOpen checks that o refuses rec with the alert both in place and into
// a buffer, gives nothing away and does not move on.
func refusedOpen(t *testing.T, o *record.Opener, rec []byte, want record.Alert) {
	t.Helper()
	seq := o.Seq()
	for _, dst := range [][]byte{nil, make([]byte, o.Room(rec))} {
		typ, payload, err := o.Open(dst, bytes.Clone(rec))
		refused(t, err, want)
		if typ != 0 || payload != nil {
			t.Fatalf("%v and %d bytes beside an error", typ, len(payload))
		}
		if o.Seq() != seq {
			t.Fatalf("Seq went from %d to %d", seq, o.Seq())
		}
	}
}

// opens checks that rec is what o waits for.
func opens(t *testing.T, o *record.Opener, rec []byte, want string) {
	t.Helper()
	seq := o.Seq()
	typ, payload, err := o.Open(nil, bytes.Clone(rec))
	if err != nil || typ != record.ApplicationData || string(payload) != want {
		t.Fatalf("opened as %v %q, %v, want %q", typ, payload, err, want)
	}
	if o.Seq() != seq+1 {
		t.Fatalf("Seq went from %d to %d", seq, o.Seq())
	}
}

func TestRoundTrip(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		s, inPlace := p.pair(t, 0)
		_, apart := p.pair(t, 0)
		seq := uint64(0)
		for _, typ := range types {
			for _, n := range sizes {
				name := fmt.Sprintf("%v of %d bytes", typ, n)
				want := noise(name, n)
				rec, err := s.Seal(nil, typ, want)
				if err != nil {
					t.Fatal(err)
				}
				seq++

				// Into a buffer of exactly Room bytes, between canaries.
				whole := bytes.Clone(rec)
				room := apart.Room(rec)
				guarded := bytes.Repeat([]byte{canary}, 8+room+8)
				dst := guarded[8 : 8+room : 8+room]
				gotType, got, err := apart.Open(dst, rec)
				if err != nil || gotType != typ || !bytes.Equal(got, want) {
					t.Fatalf("%s into dst: %v of %d bytes, %v", name, gotType, len(got), err)
				}
				if n > 0 && &got[0] != &dst[0] {
					t.Errorf("%s: payload does not start at dst[0]", name)
				}
				if !bytes.Equal(rec, whole) {
					t.Errorf("%s: opening into dst changed the record", name)
				}
				if !untouched(guarded[:8]) || !untouched(guarded[8+room:]) {
					t.Errorf("%s: wrote outside of dst", name)
				}

				gotType, got, err = inPlace.Open(nil, rec)
				if err != nil || gotType != typ || !bytes.Equal(got, want) {
					t.Fatalf("%s in place: %v of %d bytes, %v", name, gotType, len(got), err)
				}
				if n > 0 && &got[0] != &rec[s.Prefix()] {
					t.Errorf("%s: opened in place, but the payload lies elsewhere", name)
				}
				for _, at := range []uint64{s.Seq(), inPlace.Seq(), apart.Seq()} {
					if at != seq {
						t.Fatalf("%s: Seq = %d, want %d", name, at, seq)
					}
				}
			}
		}
	})
}

func TestOpenIntoALargerBufferUsesItsBeginning(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		s, o := p.pair(t, 0)
		rec, err := s.Seal(nil, record.ApplicationData, noise("larger", 100))
		if err != nil {
			t.Fatal(err)
		}
		dst := bytes.Repeat([]byte{canary}, 1000)
		_, payload, err := o.Open(dst, rec)
		if err != nil || !bytes.Equal(payload, noise("larger", 100)) || &payload[0] != &dst[0] {
			t.Fatalf("opened %x, %v", payload, err)
		}
		if !untouched(dst[o.Room(rec):]) {
			t.Error("more than Room was used")
		}
	})
}

func TestRoomIsTheInnerPlaintextAndNeverNegative(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		s, o := p.pair(t, 0)
		for n := range s.Prefix() + record.TagLen + 1 {
			if got := o.Room(make([]byte, n)); got != 0 {
				t.Errorf("%d bytes: Room = %d", n, got)
			}
		}
		for _, n := range sizes {
			want := n
			if p.is13() {
				want++
			}
			if got := o.Room(make([]byte, s.SealedLen(n))); got != want {
				t.Errorf("payload of %d: Room = %d, want %d", n, got, want)
			}
		}
	})
}

func TestOpenRefusesARecordWithAnyBitFlipped(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		s, o := p.pair(t, 7)
		rec, err := s.Seal(nil, record.ApplicationData, []byte("seven"))
		if err != nil {
			t.Fatal(err)
		}
		for bit := range len(rec) * 8 {
			at := bit / 8
			broken := bytes.Clone(rec)
			broken[at] ^= 1 << (bit % 8)
			want := record.BadRecordMAC
			switch {
			case at == 0 && p.is13():
				want = record.UnexpectedMessage
			case at == 1 || at == 2:
				want = record.ProtocolVersion
			case at == 3 || at == 4:
				want = record.DecodeError
				if int(broken[3])<<8|int(broken[4]) > p.longest() {
					want = record.RecordOverflow
				}
			}
			t.Run(fmt.Sprintf("byte %d bit %d", at, bit%8), func(t *testing.T) { refusedOpen(t, o, broken, want) })
		}
		opens(t, o, rec, "seven")
	})
}

func TestOpenRefusesRecordsOutOfOrder(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		s, o := p.pair(t, 0)
		var recs [][]byte
		for i := range 4 {
			rec, err := s.Seal(nil, record.ApplicationData, fmt.Append(nil, "record ", i))
			if err != nil {
				t.Fatal(err)
			}
			recs = append(recs, rec)
		}
		for i := range recs {
			for j := range recs {
				if j != i {
					refusedOpen(t, o, recs[j], record.BadRecordMAC)
				}
			}
			opens(t, o, recs[i], fmt.Sprint("record ", i))
		}
	})
}

func TestOpenRefusesRecordsOfAnotherKeyOrIV(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		s, _ := p.pair(t, 4)
		rec, err := s.Seal(nil, record.ApplicationData, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		refusedOpen(t, opener(t, p.keys("somebody else's", 4)), rec, record.BadRecordMAC)
		for i := range p.keyLen {
			k := p.keys("pair", 4)
			k.Secret, k.Key[i] = nil, k.Key[i]^1
			refusedOpen(t, opener(t, k), rec, record.BadRecordMAC)
		}
		for i := range p.ivLen {
			k := p.keys("pair", 4)
			k.Secret, k.IV[i] = nil, k.IV[i]^1
			refusedOpen(t, opener(t, k), rec, record.BadRecordMAC)
		}
		opens(t, opener(t, p.keys("pair", 4)), rec, "x")
	})
}

func TestOpenRefusesWhatIsNotOneWholeRecord(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		s, o := p.pair(t, 0)
		rec, err := s.Seal(nil, record.ApplicationData, []byte("whole"))
		if err != nil {
			t.Fatal(err)
		}
		for n := range rec {
			refusedOpen(t, o, rec[:n], record.DecodeError)
		}
		refusedOpen(t, o, nil, record.DecodeError)
		refusedOpen(t, o, append(bytes.Clone(rec), 0), record.DecodeError)
		refusedOpen(t, o, append(bytes.Clone(rec), rec...), record.DecodeError)
		opens(t, o, rec, "whole")
	})
}

// ofLength is a record of the right outside and n bytes of nonsense inside.
func ofLength(n int) []byte {
	return append([]byte{23, 3, 3, byte(n >> 8), byte(n)}, noise("nonsense", n)...)
}

func TestOpenRefusesRecordsByLength(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		_, o := p.pair(t, 0)
		for n := range p.explicit + record.TagLen {
			refusedOpen(t, o, ofLength(n), record.BadRecordMAC)
		}
		// The longest is nonsense like the others, but not too long.
		refusedOpen(t, o, ofLength(p.longest()), record.BadRecordMAC)
		for _, n := range []int{p.longest() + 1, 16384 + 2048, 65535} {
			refusedOpen(t, o, ofLength(n), record.RecordOverflow)
		}
	})
}

func TestOpenRefusesHeadersOfAnotherVersionOrType(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		s, o := p.pair(t, 0)
		rec, err := s.Seal(nil, record.ApplicationData, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []int{0x0300, 0x0301, 0x0302, 0x0304, 0x0203, 0x0403, 0xfefd} {
			bad := bytes.Clone(rec)
			bad[1], bad[2] = byte(v>>8), byte(v)
			refusedOpen(t, o, bad, record.ProtocolVersion)
		}
		for typ := range 256 {
			bad := bytes.Clone(rec)
			bad[0] = byte(typ)
			switch {
			case typ == 23:
			case p.is13():
				refusedOpen(t, o, bad, record.UnexpectedMessage)
			default: // the type is authenticated
				refusedOpen(t, o, bad, record.BadRecordMAC)
			}
		}
		opens(t, o, rec, "x")
	})
}

// In TLS 1.3 the outside of a record tells nothing: whatever was sealed, it
// says application data.
func TestOpenFindsTheTypeInsideInTLS13AndOutsideInTLS12(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		s, o := p.pair(t, 0)
		for typ := 1; typ < 256; typ++ {
			rec, err := s.Seal(nil, record.ContentType(typ), []byte("payload"))
			if err != nil {
				t.Fatal(err)
			}
			if outer := rec[0]; p.is13() && outer != 23 || !p.is13() && int(outer) != typ {
				t.Fatalf("type %d: outer type %d", typ, outer)
			}
			got, payload, err := o.Open(nil, rec)
			if err != nil || int(got) != typ || string(payload) != "payload" {
				t.Fatalf("type %d: opened as %v %q, %v", typ, got, payload, err)
			}
		}
	})
}

func TestOpenReadsTheInnerPlaintextAsRFC8446Says(t *testing.T) {
	zeros := func(n int) []byte { return make([]byte, n) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	full := noise("full", 16384)
	for _, c := range []struct {
		name    string
		inner   []byte
		alert   record.Alert // CloseNotify stands for none
		typ     record.ContentType
		payload []byte
	}{
		{name: "nothing", inner: nil, alert: record.UnexpectedMessage},
		{name: "one zero", inner: zeros(1), alert: record.UnexpectedMessage},
		{name: "100 zeros", inner: zeros(100), alert: record.UnexpectedMessage},
		{name: "16385 zeros", inner: zeros(16385), alert: record.UnexpectedMessage},
		{name: "16386 zeros", inner: zeros(16386), alert: record.RecordOverflow},
		{name: "type alone", inner: []byte{23}, typ: 23, payload: []byte{}},
		{name: "type and zeros", inner: []byte{22, 0, 0}, typ: 22, payload: []byte{}},
		{name: "payload of zeros", inner: []byte{0, 0, 21}, typ: 21, payload: zeros(2)},
		{name: "payload ends in zeros", inner: []byte{1, 0, 0, 21, 0}, typ: 21, payload: []byte{1, 0, 0}},
		{name: "full and type", inner: join(full, []byte{23}), typ: 23, payload: full},
		{name: "padded to full", inner: join(full[:100], []byte{23}, zeros(16384-100)), typ: 23, payload: full[:100]},
		{name: "type and 16384 zeros", inner: join([]byte{23}, zeros(16384)), typ: 23, payload: []byte{}},
		{name: "full, type and one zero", inner: join(full, []byte{23, 0}), alert: record.RecordOverflow},
		{name: "one byte over full", inner: join(full, []byte{1, 23}), alert: record.RecordOverflow},
		{name: "as long as the header allows", inner: join(full, zeros(239), []byte{23}), alert: record.RecordOverflow},
		{name: "type and 16385 zeros", inner: join([]byte{23}, zeros(16385)), alert: record.RecordOverflow},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, profilesOf(record.TLS13), func(t *testing.T, p profile) {
				k := p.keys("inner", 9)
				rec := p.inner13(k, 9, c.inner)
				if c.alert != record.CloseNotify {
					o := opener(t, k)
					refusedOpen(t, o, rec, c.alert)
					opens(t, o, p.byHand(k, 9, record.ApplicationData, []byte("next"), 0), "next")
					return
				}
				for _, dst := range [][]byte{make([]byte, len(c.inner)), nil} {
					typ, payload, err := opener(t, k).Open(dst, rec)
					if err != nil || typ != c.typ || !bytes.Equal(payload, c.payload) {
						t.Errorf("opened as %v of %d bytes, %v", typ, len(payload), err)
					}
				}
			})
		})
	}
}

func TestOpenTakesTheLongestTLS12Record(t *testing.T) {
	each(t, profilesOf(record.TLS12), func(t *testing.T, p profile) {
		k := p.keys("longest", 1)
		rec := p.byHand(k, 1, record.ApplicationData, noise("full", 16384), 0)
		if len(rec) != 5+p.longest() {
			t.Fatalf("record of %d bytes", len(rec))
		}
		opens(t, opener(t, k), rec, string(noise("full", 16384)))
		tooLong := p.byHand(k, 1, record.ApplicationData, noise("full", 16385), 0)
		refusedOpen(t, opener(t, k), tooLong, record.RecordOverflow)
	})
}

// RFC 5288, 3 leaves the explicit nonce to the sender: it need not be the
// sequence number, which is authenticated all the same.
func TestOpenTakesTheExplicitNonceFromTheRecord(t *testing.T) {
	for _, p := range profilesOf(record.TLS12) {
		if p.explicit == 0 {
			continue
		}
		t.Run(p.String(), func(t *testing.T) {
			k := p.keys("explicit", 3)
			o := opener(t, k)
			for seq, explicit := range map[uint64]uint64{3: 0, 4: math.MaxUint64, 5: 0x0123456789abcdef} {
				refusedOpen(t, o, p.record12(k, seq+100, explicit, record.ApplicationData, []byte("x")), record.BadRecordMAC)
			}
			opens(t, o, p.record12(k, 3, 0, record.ApplicationData, []byte("a")), "a")
			opens(t, o, p.record12(k, 4, math.MaxUint64, record.ApplicationData, []byte("b")), "b")
			opens(t, o, p.record12(k, 5, 0x0123456789abcdef, record.ApplicationData, []byte("c")), "c")
		})
	}
}

func TestNextKeepsBothSidesInStep(t *testing.T) {
	each(t, profilesOf(record.TLS13), func(t *testing.T, p profile) {
		k := p.keys("pair", 40)
		s, o := p.pair(t, 40)
		seq := uint64(40)
		for epoch := range uint64(4) {
			if s.Epoch() != epoch || o.Epoch() != epoch || s.Seq() != seq || o.Seq() != seq {
				t.Fatalf("epoch %d: sealer at %d/%d, opener at %d/%d", epoch, s.Epoch(), s.Seq(), o.Epoch(), o.Seq())
			}
			for range 3 {
				rec, err := s.Seal(nil, record.ApplicationData, []byte("payload"))
				if err != nil || !bytes.Equal(rec, p.byHand(k, seq, record.ApplicationData, []byte("payload"), 0)) {
					t.Fatalf("epoch %d, number %d: not sealed under the key of this epoch (%v)", epoch, seq, err)
				}
				opens(t, o, rec, "payload")
				seq++
			}
			if !s.CanNext() {
				t.Fatalf("epoch %d: CanNext sees no secret", epoch)
			}
			if err := s.Next(); err != nil {
				t.Fatal(err)
			}
			ahead, err := s.Seal(nil, record.ApplicationData, []byte("ahead"))
			if err != nil {
				t.Fatal(err)
			}
			refusedOpen(t, o, ahead, record.BadRecordMAC)
			behind := p.byHand(k, 0, record.ApplicationData, []byte("behind"), 0)
			if err := o.Next(); err != nil {
				t.Fatal(err)
			}
			refusedOpen(t, o, behind, record.BadRecordMAC)
			opens(t, o, ahead, "ahead")

			// The epoch after, from its definition.
			k.Secret = expandByHand(p.hash, k.Secret, "traffic upd", p.hash().Size())
			k.Key = expandByHand(p.hash, k.Secret, "key", p.keyLen)
			k.IV = expandByHand(p.hash, k.Secret, "iv", p.ivLen)
			k.Epoch, k.Seq, seq = epoch+1, 1, 1
			if got := s.Keys(); !reflect.DeepEqual(got, k) {
				t.Fatalf("sealer's keys\n got %+v\nwant %+v", got, k)
			}
			if got := o.Keys(); !reflect.DeepEqual(got, k) {
				t.Fatalf("opener's keys\n got %+v\nwant %+v", got, k)
			}
		}
	})
}

func TestNextWithoutASecretChangesNothing(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		k := p.keys("no secret", 5)
		k.Secret, k.Epoch = nil, 2
		s, o := sealer(t, k), opener(t, k)
		if s.CanNext() {
			t.Error("CanNext sees a secret")
		}
		if err := s.Next(); !errors.Is(err, record.ErrNoSecret) {
			t.Errorf("sealer: %v, want ErrNoSecret", err)
		}
		if err := o.Next(); !errors.Is(err, record.ErrNoSecret) {
			t.Errorf("opener: %v, want ErrNoSecret", err)
		}
		if got := s.Keys(); !reflect.DeepEqual(got, k) {
			t.Errorf("sealer's keys\n got %+v\nwant %+v", got, k)
		}
		if got := o.Keys(); !reflect.DeepEqual(got, k) {
			t.Errorf("opener's keys\n got %+v\nwant %+v", got, k)
		}
		rec, err := s.Seal(nil, record.ApplicationData, []byte("as before"))
		if err != nil {
			t.Fatal(err)
		}
		opens(t, o, rec, "as before")
	})
}

func TestOpenerKnowsItsVersion(t *testing.T) {
	for _, p := range profiles {
		if got := opener(t, p.keys("", 0)).Version(); got != p.version {
			t.Errorf("%v: %#04x", p, got)
		}
	}
}
