package record_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/aftls/aftls/record"
)

// datagramSizes are payload lengths, the longest left out: it depends.
var datagramSizes = []int{0, 1, 2, 100, 1200}

// epochs that the version of the profile can have. The first one is the usual.
func (p profile) epochs() []uint64 {
	if p.isDatagram13() {
		return []uint64{3, 1, 2, 4, 5, 6, 7, 1<<48 - 1}
	}
	return []uint64{1, 2, 3, 4, 255, 256, 65535}
}

// lastSeq is the last sequence number that may be used.
func (p profile) lastSeq() uint64 {
	if p.isDatagram13() {
		return math.MaxUint64 - 1
	}
	return 1<<48 - 1
}

func TestDatagramSealMatchesTheYardstick(t *testing.T) {
	each(t, datagramProfiles, func(t *testing.T, p profile) {
		for _, sh := range p.shapes() {
			for i, epoch := range p.epochs() {
				for _, seq := range []uint64{0, 0xff, 0x100, 0xffff, 0x01020304, p.lastSeq() - 20} {
					if seq >= record.Limit(p.version, p.id) || i > 0 && seq > 0xff {
						continue
					}
					k := p.datagramKeys("yardstick", epoch, seq)
					s := datagramSealer(t, k, sh)
					for _, n := range append(datagramSizes, p.most(sh)) {
						if n > 1200 && (i > 0 || seq > 0) {
							continue
						}
						payload := noise("payload", n)
						rec, err := s.Seal(nil, record.Handshake, payload)
						if err != nil {
							t.Fatal(err)
						}
						want := p.ours(k, spec{seq: seq, typ: record.Handshake, payload: payload, cid: sh.cid, form: sh.form})
						if !bytes.Equal(rec, want) {
							t.Fatalf("%v, epoch %d, number %d, %d bytes is not the record of the RFC\n got %x\nwant %x", sh, epoch, seq, n, rec, want)
						}
						if !bytes.Equal(payload, noise("payload", n)) {
							t.Fatal("Seal changed the payload")
						}
						if seq++; s.Seq() != seq || s.Epoch() != epoch {
							t.Fatalf("at %d/%d, want %d/%d", s.Epoch(), s.Seq(), epoch, seq)
						}
					}
				}
			}
		}
	})
}

func TestDatagramSealedLenAndPrefixDescribeTheRecord(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		for _, sh := range p.shapes() {
			s, _ := p.datagramPair(t, sh, 3, 0)
			for _, n := range append(datagramSizes, p.most(sh)) {
				rec, err := s.Seal(nil, record.ApplicationData, make([]byte, n))
				if err != nil || len(rec) != s.SealedLen(n) {
					t.Errorf("%v: %d bytes became a record of %d, SealedLen says %d (%v)", sh, n, len(rec), s.SealedLen(n), err)
				}
				inner := n
				if p.hides(sh) {
					inner++
				}
				if s.Prefix()+inner+16 != len(rec) {
					t.Errorf("%v: %d bytes in a record of %d with a prefix of %d", sh, n, len(rec), s.Prefix())
				}
			}
		}
	})
}

func TestDatagramSealInPlaceAndAppended(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		for _, sh := range p.shapes() {
			for _, pad := range []int{0, 64} {
				for _, n := range append(datagramSizes, p.most(sh)) {
					copying, _ := p.datagramPair(t, sh, 3, 3)
					copying.SetPadding(pad)
					want, err := copying.Seal([]byte("before"), record.ApplicationData, noise("payload", n))
					if err != nil {
						t.Fatal(err)
					}

					s, _ := p.datagramPair(t, sh, 3, 3)
					s.SetPadding(pad)
					dst := withRoom([]byte("before"), s.SealedLen(n)+7)
					at := len(dst) + s.Prefix()
					payload := dst[at : at+n : at+n]
					copy(payload, noise("payload", n))
					got, err := s.Seal(dst, record.ApplicationData, payload)
					if err != nil || !bytes.Equal(got, want) {
						t.Fatalf("%v, pad %d, %d bytes: in place differs from the copied one (%v)", sh, pad, n, err)
					}
					if &got[0] != &dst[0] || len(spare(got)) != 7 || !untouched(spare(got)) {
						t.Fatalf("%v, pad %d, %d bytes: moved, or wrote behind the record", sh, pad, n)
					}
					if string(dst) != "before" {
						t.Fatalf("%v: dst is now %q", sh, dst)
					}
				}
			}
		}
	})
}

// refusedDatagramSeal checks that s makes no record, and that nothing shows of
// the try.
func refusedDatagramSeal(t *testing.T, s *record.DatagramSealer, typ record.ContentType, payload []byte, want error) {
	t.Helper()
	seq, left := s.Seq(), s.Left()
	dst := withRoom([]byte("before"), 20000)
	got, err := s.Seal(dst, typ, payload)
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

func TestDatagramSealRefusesWhatIsNoRecord(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		for _, sh := range p.shapes() {
			s, _ := p.datagramPair(t, sh, 3, 5)
			for _, n := range []int{p.most(sh) + 1, 16385, 1 << 17} {
				refusedDatagramSeal(t, s, record.ApplicationData, make([]byte, n), record.ErrTooLarge)
			}
			refusedDatagramSeal(t, s, 0, []byte("x"), record.ErrType)
			refusedDatagramSeal(t, s, record.TLS12CID, []byte("x"), record.ErrType)
		}
	})
}

// A (key, nonce) pair used twice gives both records away: the number never wraps.
func TestDatagramSequenceNumberNeverWraps(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		last := min(p.lastSeq(), record.Limit(p.version, p.id)-1)
		for _, sh := range p.shapes() {
			k := p.datagramKeys("wrap", 3, last-1)
			s := datagramSealer(t, k, sh)
			for seq := last - 1; ; seq++ {
				if s.Left() != last+1-seq {
					t.Fatalf("Left = %d before number %d of %d", s.Left(), seq, last)
				}
				if s.Left() == 0 {
					break
				}
				rec, err := s.Seal(nil, record.ApplicationData, []byte("x"))
				if want := p.ours(k, spec{seq: seq, typ: record.ApplicationData, payload: []byte("x"), cid: sh.cid, form: sh.form}); err != nil || !bytes.Equal(rec, want) {
					t.Fatalf("number %d: %x, %v", seq, rec, err)
				}
			}
			for range 3 {
				refusedDatagramSeal(t, s, record.ApplicationData, []byte("wrapped"), record.ErrKeyLimit)
			}
			if !p.isDatagram13() {
				continue
			}
			if err := s.Next(); err != nil || s.Seq() != 0 || s.Epoch() != 4 || s.Left() != record.Limit(p.version, p.id) {
				t.Errorf("Next: %v, at %d/%d, %d left", err, s.Epoch(), s.Seq(), s.Left())
			}
		}
	})
}

func TestDatagramSetMaxRecordsLowersTheLimitAndNeverRaisesIt(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		limit := min(record.Limit(p.version, p.id), p.lastSeq()+1)
		s, _ := p.datagramPair(t, shape{}, 3, 10)
		for _, c := range []struct{ max, left uint64 }{
			{13, 3}, {10, 0}, {1, 0}, {0, limit - 10}, {math.MaxUint64, limit - 10}, {limit, limit - 10}, {11, 1},
		} {
			s.SetMaxRecords(c.max)
			if s.Left() != c.left {
				t.Errorf("SetMaxRecords(%d): Left = %d, want %d", c.max, s.Left(), c.left)
			}
		}
		if _, err := s.Seal(nil, record.ApplicationData, nil); err != nil {
			t.Fatal(err)
		}
		refusedDatagramSeal(t, s, record.ApplicationData, nil, record.ErrKeyLimit)
	})
}

func TestDatagramPadding(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		for _, sh := range p.shapes() {
			for _, pad := range []int{math.MinInt, -1, 0, 1, 2, 64, 1000, 16383, 16384, math.MaxInt} {
				for _, n := range []int{0, 1, 63, 64, 65, 999, p.most(sh) - 1, p.most(sh)} {
					if pad > 1000 && n > 1 && n < 16000 {
						continue
					}
					k := p.datagramKeys("padding", 3, 7)
					s, o := datagramSealer(t, k, sh), datagramOpener(t, k, sh)
					s.SetPadding(pad)
					full := n
					for round := min(pad, 16384); p.hides(sh) && round > 1 && full%round != 0 && full < p.most(sh); {
						full++
					}
					payload := noise("payload", n)
					rec, err := s.Seal(withRoom(nil, 20000), record.AlertRecord, payload) // what is there is not zero
					if err != nil || len(rec) != s.SealedLen(n) {
						t.Fatalf("%d bytes, SealedLen %d, %v", len(rec), s.SealedLen(n), err)
					}
					want := p.ours(k, spec{seq: 7, typ: record.AlertRecord, payload: payload, zeros: full - n, cid: sh.cid, form: sh.form})
					if !bytes.Equal(rec, want) {
						t.Fatalf("%v, %d to multiples of %d: not payload, type and %d zeros", sh, n, pad, full-n)
					}
					got, _, err := o.Open(rec)
					if err != nil || got.Type != record.AlertRecord || !bytes.Equal(got.Payload, payload) {
						t.Fatalf("%v, %d to multiples of %d: opened as %v of %d bytes, %v", sh, n, pad, got.Type, len(got.Payload), err)
					}
				}
			}
		}
	})
}

func TestDatagramSetCIDChangesTheRecordsToCome(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		k := p.datagramKeys("cid", 3, 0)
		s := datagramSealer(t, k, shape{cid: []byte{1, 2, 3}})
		for i, cid := range [][]byte{{4, 5, 6, 7}, nil, {9}} {
			mine := slices.Clone(cid)
			if err := s.SetCID(mine); err != nil {
				t.Fatal(err)
			}
			clear(mine) // it was copied
			rec, err := s.Seal(nil, record.ApplicationData, []byte("x"))
			if want := p.ours(k, spec{seq: uint64(i), typ: record.ApplicationData, payload: []byte("x"), cid: cid}); err != nil || !bytes.Equal(rec, want) {
				t.Errorf("%x: got %x, %v, want %x", cid, rec, err, want)
			}
		}
		if err := s.SetCID(make([]byte, 256)); !errors.Is(err, record.ErrCID) {
			t.Errorf("256 bytes: %v", err)
		}
		if got := s.Prefix(); got != datagramSealer(t, k, shape{cid: []byte{9}}).Prefix() {
			t.Errorf("a refusal changed the prefix to %d", got)
		}
	})
}
