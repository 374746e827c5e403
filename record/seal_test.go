package record_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/aftls/aftls/record"
)

var (
	sizes = []int{0, 1, 2, 100, 16383, 16384}
	types = []record.ContentType{record.ApplicationData, record.AlertRecord, record.Handshake}
)

// canary fills memory that nobody may write to.
const canary = 0xc5

func untouched(b []byte) bool { return bytes.Count(b, []byte{canary}) == len(b) }

// withRoom returns a copy of b with room for n more bytes, all canaries.
func withRoom(b []byte, n int) []byte {
	out := bytes.Repeat([]byte{canary}, len(b)+n)
	return out[:copy(out, b)]
}

// spare is what lies between len and cap.
func spare(b []byte) []byte { return b[len(b):cap(b)] }

func TestSealMatchesTheYardstick(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		// Numbers of many lengths, up to what the key may seal.
		for _, seq := range []uint64{0, 0xff, 0x01020304, 0x0102030405060708, math.MaxUint64 - 18} {
			if seq >= record.Limit(p.version, p.id) {
				continue
			}
			k := p.keys("yardstick", seq)
			s := sealer(t, k)
			for _, typ := range types {
				for _, n := range sizes {
					payload := noise("payload", n)
					rec, err := s.Seal(nil, typ, payload)
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(rec, p.byHand(k, seq, typ, payload, 0)) {
						t.Fatalf("number %d, %v of %d bytes is not the record of the RFC", seq, typ, n)
					}
					if !bytes.Equal(payload, noise("payload", n)) {
						t.Fatalf("number %d: Seal changed the payload", seq)
					}
					if seq++; s.Seq() != seq {
						t.Fatalf("Seq = %d, want %d", s.Seq(), seq)
					}
				}
			}
		}
	})
}

func TestSealedLenAndPrefixDescribeTheRecord(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		s, _ := p.pair(t, 0)
		if got, want := s.Prefix(), 5+p.explicit; got != want {
			t.Errorf("Prefix = %d, want %d", got, want)
		}
		for _, n := range sizes {
			want := s.SealedLen(n)
			rec, err := s.Seal(nil, record.ApplicationData, make([]byte, n))
			if err != nil || len(rec) != want {
				t.Errorf("%d bytes became a record of %d, SealedLen says %d (%v)", n, len(rec), want, err)
			}
			if want > record.MaxRecord {
				t.Errorf("%d bytes: %d is longer than MaxRecord", n, want)
			}
		}
	})
}

func TestSealInPlaceMakesTheSameRecordAsSealByCopy(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		for _, pad := range []int{0, 64} {
			for _, n := range sizes {
				copying, _ := p.pair(t, 3)
				copying.SetPadding(pad)
				want, err := copying.Seal([]byte("before"), record.Handshake, noise("payload", n))
				if err != nil {
					t.Fatal(err)
				}

				s, _ := p.pair(t, 3)
				s.SetPadding(pad)
				dst := withRoom([]byte("before"), s.SealedLen(n)+7)
				at := len(dst) + s.Prefix()
				payload := dst[at : at+n : at+n]
				copy(payload, noise("payload", n))
				got, err := s.Seal(dst, record.Handshake, payload)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("pad %d, %d bytes: differs from the copied one (%v)", pad, n, err)
				}
				if &got[0] != &dst[0] {
					t.Errorf("pad %d, %d bytes: moved although there was room", pad, n)
				}
				if !untouched(spare(got)) {
					t.Errorf("pad %d, %d bytes: wrote behind the record", pad, n)
				}
			}
		}
	})
}

// There may be room for the payload in place, but not for the tag behind it.
func TestSealInPlaceMovesWhereTheTagHasNoRoom(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		for _, n := range []int{1, 100, 16384} {
			copying, s := sealer(t, p.keys("tight", 0)), sealer(t, p.keys("tight", 0))
			want, err := copying.Seal([]byte("before"), record.ApplicationData, noise("payload", n))
			if err != nil {
				t.Fatal(err)
			}
			dst := withRoom([]byte("before"), s.Prefix()+n)
			at := len(dst) + s.Prefix()
			payload := dst[at : at+n]
			copy(payload, noise("payload", n))
			got, err := s.Seal(dst, record.ApplicationData, payload)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes: differs from the copied one (%v)", n, err)
			}
			if string(dst) != "before" {
				t.Errorf("%d bytes: dst was changed to %q", n, dst)
			}
		}
	})
}

func TestSealAppendsBehindWhatIsThere(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		k := p.keys("append", 0)
		want := []byte("before")
		for i, n := range sizes {
			want = append(want, p.byHand(k, uint64(i), record.ApplicationData, noise("payload", n), 0)...)
		}
		for name, room := range map[string]int{"room for all": len(want), "no room": 0, "room for some": 400} {
			s := sealer(t, k)
			got := withRoom([]byte("before"), room)
			for _, n := range sizes {
				var err error
				if got, err = s.Seal(got, record.ApplicationData, noise("payload", n)); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: the stream is not the records one after the other", name)
			}
		}
	})
}

func TestSealUsesTheRoomOfDstAndNoByteMore(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		for _, n := range sizes {
			s, _ := p.pair(t, 0)
			dst := withRoom([]byte("x"), s.SealedLen(n)+9)
			got, err := s.Seal(dst, record.ApplicationData, noise("payload", n))
			if err != nil {
				t.Fatal(err)
			}
			if &got[0] != &dst[0] {
				t.Errorf("%d bytes: moved although there was room", n)
			}
			if len(spare(got)) != 9 || !untouched(spare(got)) {
				t.Errorf("%d bytes: wrote behind the record", n)
			}
		}
	})
}

// refusedSeal checks that s makes no record, and that nothing shows of the try.
func refusedSeal(t *testing.T, s *record.Sealer, payload []byte, want error) {
	t.Helper()
	seq, left := s.Seq(), s.Left()
	dst := withRoom([]byte("before"), 20000)
	got, err := s.Seal(dst, record.ApplicationData, payload)
	if !errors.Is(err, want) {
		t.Fatalf("Seal = %v, want %v", err, want)
	}
	if len(got) != len(dst) || &got[0] != &dst[0] || string(got) != "before" || !untouched(spare(dst)) {
		t.Error("dst was changed")
	}
	if s.Seq() != seq || s.Left() != left {
		t.Errorf("Seq went from %d to %d, Left from %d to %d", seq, s.Seq(), left, s.Left())
	}
}

func TestSealRefusesPayloadsLargerThanARecord(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		s, o := p.pair(t, 5)
		for _, n := range []int{16385, 16640, 1 << 17} {
			refusedSeal(t, s, make([]byte, n), record.ErrTooLarge)
		}
		rec, err := s.Seal(nil, record.ApplicationData, []byte("still in step"))
		if err != nil {
			t.Fatal(err)
		}
		if _, payload, err := o.Open(nil, rec); err != nil || string(payload) != "still in step" {
			t.Errorf("afterwards: %q, %v", payload, err)
		}
	})
}

func TestSetMaxPayloadBoundsPayloadAndPadding(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		s := sealer(t, p.keys("most", 0))
		if n := s.MaxPayload(); n != record.MaxPlaintext {
			t.Errorf("at first a record holds %d bytes", n)
		}
		for _, c := range [][2]int{{100, 100}, {0, 1}, {record.MaxPlaintext + 1, record.MaxPlaintext}, {64, 64}} {
			if s.SetMaxPayload(c[0]); s.MaxPayload() != c[1] {
				t.Errorf("after SetMaxPayload(%d) it is %d", c[0], s.MaxPayload())
			}
		}
		s.SetPadding(1000)
		refusedSeal(t, s, make([]byte, 65), record.ErrTooLarge)
		full, err := s.Seal(nil, record.ApplicationData, make([]byte, 64))
		if err != nil {
			t.Fatal(err)
		}
		rec, err := s.Seal(nil, record.ApplicationData, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if len(rec) > len(full) {
			t.Errorf("padded it is %d bytes long, the longest without is %d", len(rec), len(full))
		}
	})
}

func TestKeySealsUpToItsLimitAndTheNextKeyAgain(t *testing.T) {
	each(t, profilesOf(record.TLS13), func(t *testing.T, p profile) {
		limit := record.Limit(p.version, p.id)
		s, o := p.pair(t, limit-2)
		for left := uint64(2); left > 0; left-- {
			if s.Left() != left {
				t.Errorf("Left = %d, want %d", s.Left(), left)
			}
			rec, err := s.Seal(nil, record.ApplicationData, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := o.Open(nil, rec); err != nil {
				t.Fatal(err)
			}
		}
		refusedSeal(t, s, []byte("one too many"), record.ErrKeyLimit)
		if err := errors.Join(s.Next(), o.Next()); err != nil {
			t.Fatal(err)
		}
		if s.Left() != record.Limit(p.version, p.id) {
			t.Errorf("Left = %d after Next", s.Left())
		}
		rec, err := s.Seal(nil, record.ApplicationData, []byte("new key"))
		if err != nil {
			t.Fatal(err)
		}
		if _, payload, err := o.Open(nil, rec); err != nil || string(payload) != "new key" {
			t.Errorf("after Next: %q, %v", payload, err)
		}
	})
}

// A limit is the sender's to keep: a receiver takes what authenticates.
func TestOpenerHasNoLimitOfRecords(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		for _, seq := range []uint64{23726566, 23726567, 1 << 40, math.MaxUint64 - 1} {
			k := p.keys("beyond", seq)
			rec := p.byHand(k, seq, record.ApplicationData, []byte("beyond"), 0)
			if _, payload, err := opener(t, k).Open(nil, rec); err != nil || string(payload) != "beyond" {
				t.Errorf("number %d: %q, %v", seq, payload, err)
			}
		}
	})
}

func TestSequenceNumberNeverWraps(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		k := p.keys("wrap", math.MaxUint64-1)
		last := p.byHand(k, math.MaxUint64-1, record.ApplicationData, []byte("last"), 0)
		beyond := p.byHand(k, math.MaxUint64, record.ApplicationData, []byte("beyond"), 0)
		first := p.byHand(k, 0, record.ApplicationData, []byte("first"), 0)

		s := sealer(t, k)
		if record.Limit(p.version, p.id) == math.MaxUint64 {
			if s.Left() != 1 {
				t.Errorf("Left = %d, want 1", s.Left())
			}
			if rec, err := s.Seal(nil, record.ApplicationData, []byte("last")); err != nil || !bytes.Equal(rec, last) {
				t.Fatalf("last record: %x, %v", rec, err)
			}
		}
		for range 3 {
			if s.Left() != 0 {
				t.Errorf("Left = %d, want 0", s.Left())
			}
			refusedSeal(t, s, []byte("wrapped"), record.ErrKeyLimit)
		}

		o := opener(t, k)
		if _, payload, err := o.Open(nil, last); err != nil || string(payload) != "last" {
			t.Fatalf("last record: %q, %v", payload, err)
		}
		for _, rec := range [][]byte{beyond, first} {
			_, payload, err := o.Open(nil, rec)
			var e *record.Error
			if payload != nil || !errors.As(err, &e) {
				t.Errorf("opened %q, %v", payload, err)
			}
			if o.Seq() != math.MaxUint64 {
				t.Errorf("Seq = %d", o.Seq())
			}
		}
	})
}

func TestSetMaxRecordsLowersTheLimitAndNeverRaisesIt(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		limit := record.Limit(p.version, p.id)
		s, _ := p.pair(t, 10)
		if s.Left() != limit-10 {
			t.Errorf("at first: Left = %d, want %d", s.Left(), limit-10)
		}
		for _, c := range []struct{ max, left uint64 }{
			{13, 3}, {11, 1}, {10, 0}, {9, 0}, {1, 0}, {0, limit - 10}, {math.MaxUint64, limit - 10}, {limit, limit - 10},
		} {
			s.SetMaxRecords(c.max)
			if s.Left() != c.left {
				t.Errorf("SetMaxRecords(%d): Left = %d, want %d", c.max, s.Left(), c.left)
			}
			if c.left == 0 {
				refusedSeal(t, s, nil, record.ErrKeyLimit)
			}
		}
		s.SetMaxRecords(11)
		if _, err := s.Seal(nil, record.ApplicationData, nil); err != nil {
			t.Fatal(err)
		}
		refusedSeal(t, s, nil, record.ErrKeyLimit)
		if !p.is13() {
			return
		}
		if err := s.Next(); err != nil {
			t.Fatal(err)
		}
		if s.Left() != 11 {
			t.Errorf("after Next: Left = %d, want the 11 that were set", s.Left())
		}
	})
}

// inner opens a TLS 1.3 record by hand: payload, type and padding as they lie.
func (p profile) inner(t *testing.T, k record.Keys, seq uint64, rec []byte) []byte {
	t.Helper()
	b, err := p.aead(k.Key).Open(nil, xorNonce(k.IV, seq), rec[5:], rec[:5])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPaddingRoundsContentUpToAMultiple(t *testing.T) {
	each(t, profilesOf(record.TLS13), func(t *testing.T, p profile) {
		for _, pad := range []int{2, 16, 64, 100, 1000, 4096, 16383, 16384} {
			for _, n := range []int{0, 1, 2, 15, 16, 17, 99, 100, 101, 4095, 4096, 4097, 16000, 16001, 16382, 16383, 16384} {
				k := p.keys("padding", 0)
				s, o := sealer(t, k), opener(t, k)
				s.SetPadding(pad)
				payload := noise("payload", n)
				rec, err := s.Seal(nil, record.Handshake, payload)
				if err != nil {
					t.Fatal(err)
				}
				name := fmt.Sprintf("%d bytes to multiples of %d", n, pad)
				if len(rec) != s.SealedLen(n) {
					t.Errorf("%s: %d bytes, SealedLen says %d", name, len(rec), s.SealedLen(n))
				}
				content := len(rec) - 5 - 16 - 1
				if content > 16384 || content < n {
					t.Fatalf("%s: content of %d bytes", name, content)
				}
				if content%pad != 0 && content != 16384 {
					t.Errorf("%s: content of %d bytes is no multiple", name, content)
				}
				if content-n >= pad {
					t.Errorf("%s: %d zeros are more than it takes", name, content-n)
				}
				want := append(append(bytes.Clone(payload), byte(record.Handshake)), make([]byte, content-n)...)
				if !bytes.Equal(p.inner(t, k, 0, rec), want) {
					t.Errorf("%s: content is not payload, type and zeros", name)
				}
				typ, got, err := o.Open(nil, rec)
				if err != nil || typ != record.Handshake || !bytes.Equal(got, payload) {
					t.Errorf("%s: opened as %v of %d bytes, %v", name, typ, len(got), err)
				}
			}
		}
	})
}

// The room behind dst may hold anything, an old record for one.
func TestPaddingIsZeroWhateverTheRoomHeld(t *testing.T) {
	each(t, profilesOf(record.TLS13), func(t *testing.T, p profile) {
		k := p.keys("dirty", 0)
		s := sealer(t, k)
		s.SetPadding(100)
		rec, err := s.Seal(withRoom(nil, 200), record.ApplicationData, []byte("abc"))
		if err != nil {
			t.Fatal(err)
		}
		if want := append([]byte("abc\x17"), make([]byte, 97)...); !bytes.Equal(p.inner(t, k, 0, rec), want) {
			t.Errorf("content %x", p.inner(t, k, 0, rec))
		}
	})
}

func TestPaddingSettingsThatMeanNoneOrTheMost(t *testing.T) {
	each(t, profilesOf(record.TLS13), func(t *testing.T, p profile) {
		s, _ := p.pair(t, 0)
		plain := s.SealedLen(100)
		for _, c := range []struct{ pad, want int }{
			{0, plain}, {1, plain}, {-1, plain}, {math.MinInt, plain},
			{16384, 5 + 16384 + 1 + 16}, {16385, 5 + 16384 + 1 + 16}, {math.MaxInt, 5 + 16384 + 1 + 16},
			{0, plain},
		} {
			s.SetPadding(c.pad)
			rec, err := s.Seal(nil, record.ApplicationData, make([]byte, 100))
			if err != nil || len(rec) != c.want || s.SealedLen(100) != c.want {
				t.Errorf("SetPadding(%d): record of %d bytes, SealedLen %d, want %d (%v)", c.pad, len(rec), s.SealedLen(100), c.want, err)
			}
		}
	})
}

func TestPaddingOutlivesARekey(t *testing.T) {
	each(t, profilesOf(record.TLS13), func(t *testing.T, p profile) {
		s, _ := p.pair(t, 0)
		s.SetPadding(512)
		if err := s.Next(); err != nil {
			t.Fatal(err)
		}
		if got, want := s.SealedLen(100), 5+512+1+16; got != want {
			t.Errorf("SealedLen = %d, want %d", got, want)
		}
	})
}

func TestPaddingDoesNothingInTLS12(t *testing.T) {
	each(t, profilesOf(record.TLS12), func(t *testing.T, p profile) {
		k := p.keys("padding", 0)
		s := sealer(t, k)
		s.SetPadding(1024)
		for i, n := range sizes {
			rec, err := s.Seal(nil, record.ApplicationData, noise("payload", n))
			if err != nil || !bytes.Equal(rec, p.byHand(k, uint64(i), record.ApplicationData, noise("payload", n), 0)) {
				t.Errorf("%d bytes: padded or wrong (%v)", n, err)
			}
			if s.SealedLen(n) != len(rec) {
				t.Errorf("%d bytes: SealedLen %d, record %d", n, s.SealedLen(n), len(rec))
			}
		}
	})
}
