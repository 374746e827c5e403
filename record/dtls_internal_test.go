package record

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"golang.org/x/crypto/chacha20"
)

// slowClosest tries the numbers around want one by one, the higher first.
func slowClosest(want, low uint64, bits int) uint64 {
	mask := uint64(1)<<bits - 1
	for d := uint64(0); ; d++ {
		if up := want + d; up >= want && up&mask == low {
			return up
		}
		if down := want - d; down <= want && down&mask == low {
			return down
		}
	}
}

func TestClosestIsNumericallyClosest(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, bits := range []int{8, 16} {
		width := uint64(1) << bits
		wants := []uint64{1<<32 - 1, 1<<48 - 1, 1 << 63, math.MaxUint64}
		for d := range uint64(5) {
			wants = append(wants, d, width/2-d, width/2+d, width-d, width+d, 3*width/2+d, math.MaxUint64-d, math.MaxUint64-width/2+d-2, math.MaxUint64-width+d-2)
		}
		for range 20 {
			wants = append(wants, r.Uint64(), r.Uint64N(3*width))
		}
		for _, want := range wants {
			lows := []uint64{0, 1, want, want + 1, want - 1, want + width/2 - 1, want + width/2, want + width/2 + 1, width - 1}
			if bits == 8 {
				for low := range width {
					lows = append(lows, low)
				}
			}
			for range 20 {
				lows = append(lows, r.Uint64())
			}
			for _, low := range lows {
				low %= width
				got := closest(want, low, bits)
				if got != slowClosest(want, low, bits) {
					t.Fatalf("want about %d, low %d bits %d: %d, not %d", want, bits, low, got, slowClosest(want, low, bits))
				}
				// And once more in numbers that do not wrap.
				d := new(big.Int).Sub(new(big.Int).SetUint64(got), new(big.Int).SetUint64(want))
				if got%width != low || d.CmpAbs(new(big.Int).SetUint64(width)) >= 0 {
					t.Fatalf("want about %d, low %d bits %d: %d", want, bits, low, got)
				}
			}
		}
	}
}

// The mask of RFC 9147, 4.2.3 is the one of QUIC's header protection (RFC 9001,
// 5.4.3 and 5.4.4), for which there are published answers.
func TestNumberMaskAgainstRFC9001(t *testing.T) {
	for name, c := range map[string]struct {
		suite             *suite
		key, sample, mask string
	}{
		"A.2": {&aes128GCMDatagram13, "9f50449e04a0e810283a1e9933adedd2", "d1b1c98dd7689fb8ec11d242b123dc9b", "437b"},
		"A.5": {&chachaDatagram13, "25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4", "5e5cd55c41f69080575d7999c25a5bfb", "aefe"},
	} {
		t.Run(name, func(t *testing.T) {
			unhex := func(s string) []byte {
				b, err := hex.DecodeString(s)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			var k numberKey
			if err := k.init(c.suite, unhex(c.key)); err != nil {
				t.Fatal(err)
			}
			for n := 1; n <= 2; n++ {
				number := make([]byte, n)
				k.apply(number, unhex(c.sample))
				if !bytes.Equal(number, unhex(c.mask)[:n]) {
					t.Errorf("mask %x, want %s", number, c.mask)
				}
			}
		})
	}
}

func TestChaChaFirstWordIsThatOfAnotherChaCha20(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	for range 200 {
		var key [32]byte
		var sample [16]byte
		r.Read(key[:])
		r.Read(sample[:])
		c, err := chacha20.NewUnauthenticatedCipher(key[:], sample[4:])
		if err != nil {
			t.Fatal(err)
		}
		c.SetCounter(uint32(sample[0]) | uint32(sample[1])<<8 | uint32(sample[2])<<16 | uint32(sample[3])<<24)
		var want [4]byte
		c.XORKeyStream(want[:], want[:])
		words := chachaWords(key[:])
		got := chachaFirstWord(&words, sample[:])
		if [4]byte{byte(got), byte(got >> 8), byte(got >> 16), byte(got >> 24)} != want {
			t.Fatalf("%08x, want bytes %x", got, want)
		}
	}
}

func datagramEnds(t *testing.T, version, id uint16) (*DatagramSealer, *DatagramOpener) {
	t.Helper()
	s := lookup(version, id)
	k := Keys{Version: version, Suite: id, Epoch: 3, Key: make([]byte, s.keyLen), IV: make([]byte, s.ivLen)}
	if s.is13() {
		k.Key, k.IV, k.Secret = nil, nil, bytes.Repeat([]byte{5}, s.hashLen)
	}
	seal, err := NewDatagramSealer(k, nil)
	if err != nil {
		t.Fatal(err)
	}
	open, err := NewDatagramOpener(k, nil)
	if err != nil {
		t.Fatal(err)
	}
	return seal, open
}

// 2^36 forgeries take too long: the count is set to just below.
func TestIntegrityLimitEndsTheKey(t *testing.T) {
	for _, id := range []uint16{0x1301, 0x1302, 0x1303} {
		s, o := datagramEnds(t, DTLS13, id)
		rec := func(forged bool) []byte {
			b, err := s.Seal(nil, ApplicationData, []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			if forged {
				b[len(b)-1] ^= 1
			}
			return b
		}
		isFatal := func() {
			t.Helper()
			for _, forged := range []bool{true, false} {
				got, rest, err := o.Open(rec(forged))
				var e *Error
				if err != ErrIntegrityLimit || !errors.As(err, &e) || e.Alert != BadRecordMAC || got.Payload != nil || len(rest) != 0 {
					t.Fatalf("%+v, %v", got, err)
				}
			}
		}
		o.newest.failed = IntegrityLimit - 2
		if _, _, err := o.Open(rec(true)); err != error(DropAuthentication) {
			t.Fatalf("one below the limit: %v", err)
		}
		if _, _, err := o.Open(rec(false)); err != nil || o.Failed() != IntegrityLimit-1 {
			t.Fatalf("one below the limit: %v", err)
		}
		if _, _, err := o.Open(rec(true)); err != ErrIntegrityLimit {
			t.Fatalf("at the limit: %v", err)
		}
		isFatal()

		// New keys make good again; the old one is given up, not endured.
		old := rec(false)
		if err := errors.Join(s.Next(), o.Next()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := o.Open(rec(false)); err != nil {
			t.Fatalf("new key: %v", err)
		}
		if _, _, err := o.Open(old); err != error(DropEpoch) {
			t.Fatalf("old key: %v", err)
		}
		if got := o.Keys(); len(got) != 1 {
			t.Fatalf("kept %v", got)
		}
	}
}

// An old epoch that comes to its limit is dropped (RFC 9147, 4.5.3).
func TestIntegrityLimitOfAnOldEpoch(t *testing.T) {
	s, o := datagramEnds(t, DTLS13, 0x1301)
	old, err := s.Seal(nil, ApplicationData, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Next(), o.Next()); err != nil {
		t.Fatal(err)
	}
	e := o.epochs[3]
	e.failed = IntegrityLimit - 1
	if _, _, err := o.Open(bytes.Repeat(old[:1], 40)); err != error(DropTruncated) { // is not even tried
		t.Fatal(err)
	}
	bad := bytes.Clone(old)
	bad[len(bad)-1] ^= 1
	if _, _, err := o.Open(bad); err != error(DropEpoch) {
		t.Fatal(err)
	}
	if e.hold != wiped || e.secret != [len(e.secret)]byte{} || o.epochs[3] != nil {
		t.Error("the old keys are still there")
	}
	if _, _, err := o.Open(old); err != error(DropEpoch) {
		t.Fatal(err)
	}
}

func TestDTLS12HasNoIntegrityLimit(t *testing.T) {
	s, o := datagramEnds(t, DTLS12, 0xc02b)
	o.newest.failed = IntegrityLimit + 5
	good, err := s.Seal(nil, ApplicationData, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)-1] ^= 1
	if _, _, err := o.Open(bad); err != error(DropAuthentication) {
		t.Error(err)
	}
	if _, _, err := o.Open(good); err != nil {
		t.Error(err)
	}
}

func TestDatagramWipeLeavesNoKey(t *testing.T) {
	for _, c := range []struct{ version, id uint16 }{
		{DTLS13, 0x1301}, {DTLS13, 0x1302}, {DTLS13, 0x1303}, {DTLS12, 0xc02b}, {DTLS12, 0xc02c}, {DTLS12, 0xcca8},
	} {
		s, o := datagramEnds(t, c.version, c.id)
		b, err := s.Seal(nil, ApplicationData, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := o.Open(b); err != nil {
			t.Fatal(err)
		}
		old := o.newest
		if c.version == DTLS13 {
			if err := o.Next(); err != nil {
				t.Fatal(err)
			}
		}
		newest := o.newest
		s.Wipe()
		o.Wipe()
		for _, h := range []*datagramHalf{&s.datagramHalf, &old.datagramHalf, &newest.datagramHalf} {
			if h.hold != wiped || h.using != nil || h.secret != [len(h.secret)]byte{} || h.number != (numberKey{}) {
				t.Errorf("%#04x/%#04x: something is left", c.version, c.id)
			}
		}
	}
}

// What the header cannot tell from newer epochs is not only out of use, but gone.
func TestDatagramOpenerWipesWhatItGivesUp(t *testing.T) {
	_, o := datagramEnds(t, DTLS13, 0x1301)
	all := []*openEpoch{o.newest}
	for range 9 {
		if err := o.Next(); err != nil {
			t.Fatal(err)
		}
		all = append(all, o.newest)
		for i, e := range all {
			if kept := len(all)-i <= keptEpochs; (e.hold == holdsSecret) != kept || (e.secret != [len(e.secret)]byte{}) != kept {
				t.Fatalf("epoch %d with %d the newest: kept %v, want %v", e.epoch, o.newest.epoch, !kept, kept)
			}
		}
	}
	o.Forget(o.newest.epoch)
	for _, e := range all[:9] {
		if e.hold != wiped {
			t.Errorf("epoch %d is still there", e.epoch)
		}
	}
}

func TestDatagramRestKeepsKeysOnly(t *testing.T) {
	for _, c := range []struct{ version, id uint16 }{{DTLS13, 0x1301}, {DTLS13, 0x1303}, {DTLS12, 0xc02b}} {
		s, o := datagramEnds(t, c.version, c.id)
		for i := range uint64(3) {
			b, err := s.Seal(nil, ApplicationData, []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			again := bytes.Clone(b)
			if got, _, err := o.Open(b); err != nil || got.Seq != i {
				t.Fatalf("%+v, %v", got, err)
			}
			s.Rest()
			o.Rest()
			if s.using != nil || o.newest.using != nil || s.number != (numberKey{}) || o.newest.number != (numberKey{}) {
				t.Fatal("nothing was given up")
			}
			if _, _, err := o.Open(again); err != error(DropReplay) {
				t.Fatalf("the window was given up: %v", err)
			}
		}
	}
}
