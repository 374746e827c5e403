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

// opensDatagram checks that the datagram is the one record of the spec.
func opensDatagram(t *testing.T, o *record.DatagramOpener, datagram []byte, want spec) record.DatagramRecord {
	t.Helper()
	rec, rest, err := o.Open(bytes.Clone(datagram))
	if err != nil || len(rest) != 0 {
		t.Fatalf("number %d of epoch %d: %d bytes left, %v", want.seq, want.epoch, len(rest), err)
	}
	if rec.Type != want.typ || !bytes.Equal(rec.Payload, want.payload) || rec.Epoch != want.epoch || rec.Seq != want.seq {
		t.Fatalf("opened as %v %x, number %d of epoch %d, want %v %x, number %d of epoch %d",
			rec.Type, rec.Payload, rec.Seq, rec.Epoch, want.typ, want.payload, want.seq, want.epoch)
	}
	return rec
}

// dropped checks that the first record of the datagram is dropped for the
// reason, that rest is what is left, and that the opener has not moved.
func dropped(t *testing.T, o *record.DatagramOpener, datagram []byte, why record.Drop, rest int) {
	t.Helper()
	before := o.Keys()
	rec, left, err := o.Open(bytes.Clone(datagram))
	if err != error(why) {
		t.Fatalf("error %v, want %v", err, why)
	}
	if !reflect.DeepEqual(rec, record.DatagramRecord{}) || len(left) != rest {
		t.Fatalf("%+v and %d bytes left beside %v, want %d", rec, len(left), err, rest)
	}
	if !reflect.DeepEqual(o.Keys(), before) {
		t.Fatal("a record that was dropped moved the opener")
	}
}

func TestDatagramRoundTripOfSeveralRecordsInADatagram(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		for _, sh := range p.shapes() {
			s, o := p.datagramPair(t, sh, 3, 0)
			var datagram []byte
			var want []spec
			for i, n := range datagramSizes {
				last := i == len(datagramSizes)-1
				if sh.form&record.NoLength != 0 { // only the last one may
					s.SetHeader(sh.form &^ record.NoLength)
					if last {
						s.SetHeader(sh.form)
					}
				}
				w := spec{epoch: 3, seq: uint64(i), typ: types[i%3], payload: noise("payload", n)}
				var err error
				if datagram, err = s.Seal(datagram, w.typ, w.payload); err != nil {
					t.Fatal(err)
				}
				want = append(want, w)
			}
			for i, rest := 0, datagram; len(rest) > 0; i++ {
				var rec record.DatagramRecord
				var err error
				rec, rest, err = o.Open(rest)
				w := want[i]
				if err != nil || rec.Type != w.typ || !bytes.Equal(rec.Payload, w.payload) || rec.Epoch != 3 || rec.Seq != w.seq || !rec.Newest {
					t.Fatalf("%v, record %d: %+v, %v", sh, i, rec, err)
				}
				if len(rec.Payload) > 0 && !within(rec.Payload, datagram) {
					t.Fatal("the payload does not lie in the datagram")
				}
			}
			if o.Seq() != uint64(len(want)) {
				t.Errorf("%v: %d opened of %d", sh, o.Seq(), len(want))
			}
		}
	})
}

// within reports whether the first byte of part is one of whole's.
func within(part, whole []byte) bool {
	for i := range whole {
		if &whole[i] == &part[0] {
			return true
		}
	}
	return false
}

// Every bit of a record is authenticated, or makes it another one's.
func TestDatagramWithAnyBitFlippedIsDropped(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		for _, sh := range p.shapes() {
			if len(sh.cid) > 20 {
				continue
			}
			k := p.datagramKeys("flip", 3, 0)
			o := datagramOpener(t, k, sh)
			w := spec{epoch: 3, seq: 5, typ: record.ApplicationData, payload: []byte("payload"), cid: sh.cid, form: sh.form}
			rec := p.ours(k, w)
			for i := range len(rec) * 8 {
				bad := bytes.Clone(rec)
				bad[i/8] ^= 1 << (i % 8)
				got, _, err := o.Open(bad)
				var d record.Drop
				if !errors.As(err, &d) || got.Payload != nil {
					t.Fatalf("%v, bit %d: %+v, %v", sh, i, got, err)
				}
			}
			for n := range len(rec) {
				_, rest, err := o.Open(bytes.Clone(rec[:n]))
				var d record.Drop
				if !errors.As(err, &d) || len(rest) != 0 {
					t.Fatalf("%v, %d bytes: %d left, %v", sh, n, len(rest), err)
				}
			}
			opensDatagram(t, o, rec, w)
			dropped(t, o, rec, record.DropReplay, 0)
		}
	})
}

// What an attacker on the path can do with the window: nothing.
func TestDatagramForgeriesDoNotMoveTheWindow(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		for _, sh := range p.shapes() {
			k := p.datagramKeys("forge", 3, 0)
			o := datagramOpener(t, k, sh)
			for seq := range uint64(8) {
				w := spec{epoch: 3, seq: seq, typ: record.ApplicationData, payload: []byte{byte(seq)}, cid: sh.cid, form: sh.form}
				for _, far := range []uint64{0, 1, 100, 5000, 1 << 30} { // as if it were a higher one
					forged := w
					forged.seq += far
					wrong := p.ours(k, forged)
					wrong[len(wrong)-1] ^= 1
					dropped(t, o, wrong, record.DropAuthentication, 0)
				}
				opensDatagram(t, o, p.ours(k, w), w)
			}
			if o.Failed() != 40 {
				t.Errorf("%v: Failed = %d, want 40", sh, o.Failed())
			}
		}
	})
}

func TestDatagramReplaysAndLateRecords(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		k := p.datagramKeys("late", 3, 50)
		o := datagramOpener(t, k, shape{})
		rec := func(seq uint64) (spec, []byte) {
			w := spec{epoch: 3, seq: seq, typ: record.ApplicationData, payload: []byte("x")}
			return w, p.ours(k, w)
		}
		for seq := range uint64(50) { // below the start all were received by somebody
			_, b := rec(seq)
			dropped(t, o, b, record.DropReplay, 0)
		}
		for _, c := range []struct {
			seq    uint64
			newest bool
			lost   bool
		}{
			{seq: 53, newest: true}, {seq: 51}, {seq: 50}, {seq: 52}, {seq: 1500, newest: true},
			{seq: 1501 - 960}, {seq: 1500 - 960, lost: true}, {seq: 1499}, {seq: 1501, newest: true}, {seq: 541, lost: true},
		} {
			w, b := rec(c.seq)
			if c.lost {
				dropped(t, o, b, record.DropReplay, 0)
				continue
			}
			if got := opensDatagram(t, o, b, w); got.Newest != c.newest {
				t.Errorf("number %d: Newest = %v", c.seq, got.Newest)
			}
			dropped(t, o, b, record.DropReplay, 0)
		}
	})
}

// A bad record in the middle does not cost those behind it, where it shows where
// they begin.
func TestDatagramGoesOnBehindABadRecord(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		sh := shape{cid: []byte("12345678")}
		k := p.datagramKeys("behind", 3, 0)
		make := func(seq uint64, change func(*spec)) []byte {
			s := spec{epoch: 3, explicit: 3<<48 | seq, seq: seq, typ: record.ApplicationData, payload: []byte("payload"), cid: sh.cid}
			if change != nil {
				change(&s)
			}
			return p.datagram(k, s)
		}
		behind := make(9, nil)
		forged := make(8, nil)
		forged[len(forged)-1] ^= 1
		tooShort := make(8, nil)
		n := 15 // of ciphertext, and in DTLS 1.2 less than nonce and tag
		if !p.isDatagram13() {
			n = p.explicit + 15
		}
		head := 1 + len(sh.cid) + 4
		if !p.isDatagram13() {
			head = 13 + len(sh.cid)
		}
		tooShort[head-2], tooShort[head-1] = 0, byte(n)
		tooShort = tooShort[:head+n]
		tooLong := append(bytes.Clone(tooShort[:head]), bytes.Repeat([]byte{7}, 17000)...)
		tooLong[head-2], tooLong[head-1] = 17000>>8, 17000&0xff
		foreign := make(8, func(s *spec) { s.cid = []byte("12345679") })
		for name, c := range map[string]struct {
			bad  []byte
			why  record.Drop
			rest int
		}{
			"forged":    {forged, record.DropAuthentication, len(behind)},
			"too short": {tooShort, record.DropLength, len(behind)},
			"too long":  {tooLong, record.DropLength, len(behind)},
			"epoch":     {make(8, func(s *spec) { s.epoch = 5 }), record.DropEpoch, len(behind)},
			"plaintext": {[]byte{22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 1}, record.DropEpoch, len(behind)},
			"alert":     {[]byte{21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 20}, record.DropEpoch, len(behind)},
			"foreign":   {foreign, record.DropCID, 0}, // RFC 9147, 4: the rest goes too
			"other CID": {make(8, func(s *spec) { s.cid = []byte("1") }), record.DropCID, 0},
			"noise":     {[]byte{0x80, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, record.DropHeader, 0},
		} {
			t.Run(name, func(t *testing.T) {
				o := datagramOpener(t, k, sh)
				dropped(t, o, append(bytes.Clone(c.bad), behind...), c.why, c.rest)
				opensDatagram(t, o, behind, spec{epoch: 3, seq: 9, typ: record.ApplicationData, payload: []byte("payload")})
			})
		}
		o := datagramOpener(t, k, sh)
		dropped(t, o, nil, record.DropTruncated, 0)
		dropped(t, o, behind[:len(behind)-1], record.DropTruncated, 0)
		dropped(t, o, behind[:head-1], record.DropTruncated, 0)
	})
}

func TestDatagramCIDIsExpectedOrNot(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		k := p.datagramKeys("expected", 3, 0)
		with := spec{epoch: 3, seq: 1, typ: record.ApplicationData, payload: []byte("x"), cid: []byte{1, 2}}
		without := with
		without.cid = nil
		dropped(t, datagramOpener(t, k, shape{}), p.ours(k, with), record.DropCID, 0)
		o := datagramOpener(t, k, shape{cid: []byte{1, 2}})
		if p.isDatagram13() {
			// It must be in each datagram, but not in each record (RFC 9147, 4),
			// and what authenticates is the peer's.
			opensDatagram(t, o, p.ours(k, without), without)
		} else { // RFC 9146, 3: then the datagram is invalid
			dropped(t, o, append(p.ours(k, without), p.ours(k, with)...), record.DropCID, 0)
			opensDatagram(t, o, p.ours(k, with), with)
		}
	})
}

// Each sender of DTLS 1.2 GCM chooses the explicit part of its nonces itself.
func TestDatagramExplicitNonceIsTheSenders(t *testing.T) {
	each(t, datagram12, func(t *testing.T, p profile) {
		for _, cid := range [][]byte{nil, {1, 2, 3}} {
			k := p.datagramKeys("explicit", 1, 0)
			o := datagramOpener(t, k, shape{cid: cid})
			for seq, explicit := range []uint64{0, math.MaxUint64, 0x0123456789abcdef} {
				w := spec{epoch: 1, seq: uint64(seq), explicit: explicit, typ: record.ApplicationData, payload: []byte("x"), cid: cid}
				opensDatagram(t, o, p.datagram(k, w), w)
			}
		}
	})
}

func TestDatagramVersionIsChecked(t *testing.T) {
	each(t, datagram12, func(t *testing.T, p profile) {
		k := p.datagramKeys("version", 1, 0)
		good := p.ours(k, spec{seq: 1, typ: record.ApplicationData, payload: []byte("x")})
		for _, v := range []uint16{0xfeff, 0xfefc, 0x0303, 0xfffd, 0} {
			bad := bytes.Clone(good)
			bad[1], bad[2] = byte(v>>8), byte(v)
			dropped(t, datagramOpener(t, k, shape{}), bad, record.DropHeader, 0)
		}
	})
	each(t, datagram13, func(t *testing.T, p profile) {
		k := p.datagramKeys("version", 3, 0)
		o := datagramOpener(t, k, shape{})
		for b := range 256 { // any first byte, then 0 (RFC 9147, 4.1)
			why, rest := record.DropHeader, 0
			switch {
			case b == 21 || b == 22 || b == 26:
				why, rest = record.DropEpoch, 40-13
			case b>>4 == 3:
				why = record.DropCID
			case b>>5 == 1 && b&3 != 3:
				why = record.DropEpoch
				if b&4 != 0 {
					rest = 40 - 4 - b>>3&1 // of length 0
				}
			case b>>5 == 1 && b&4 != 0:
				why, rest = record.DropLength, 40-4-b>>3&1
			case b>>5 == 1:
				why = record.DropAuthentication
			}
			d := make([]byte, 40)
			d[0] = byte(b)
			dropped(t, o, d, why, rest)
		}
	})
}

// What is inside an authentic record is the peer's doing, so it ends the association.
func TestDatagramInnerPlaintextThatIsNone(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		seal, longest := p.unified, 16385
		if !p.isDatagram13() {
			seal, longest = p.withCID12, 16384 // RFC 9146, 5
		}
		k := p.datagramKeys("inner", 3, 0)
		sh := shape{cid: []byte{7}}
		for _, n := range []int{0, 1, 2, longest - 1, longest, longest + 1, 16384 + 240, 16384 + 241} {
			for _, typ := range []byte{0, 23} {
				inner := make([]byte, n)
				if n > 0 {
					inner[0] = typ
				}
				rec := seal(k, spec{epoch: 3, seq: 1, cid: sh.cid}, inner)
				o := datagramOpener(t, k, sh)
				got, _, err := o.Open(rec)
				switch {
				case n > longest && (n > 16384+240 || !p.isDatagram13()):
					if err != error(record.DropLength) {
						t.Errorf("%d bytes: %v", n, err)
					}
					continue
				case n > longest:
					refused(t, err, record.RecordOverflow)
				case n == 0 || typ == 0:
					refused(t, err, record.UnexpectedMessage)
				default:
					if err != nil || got.Type != 23 || len(got.Payload) != 0 {
						t.Errorf("%d bytes: %+v, %v", n, got, err)
					}
					continue
				}
				if got.Payload != nil {
					t.Errorf("%d bytes: a payload beside %v", n, err)
				}
			}
		}
	})
}

func TestDatagramCIDOfFirstRecord(t *testing.T) {
	cid := []byte("connection")
	for _, p := range datagramConstructions {
		k := p.datagramKeys("peek", 3, 0)
		for _, sh := range p.shapes() {
			d := p.ours(k, spec{seq: 1, typ: record.ApplicationData, payload: noise("payload", 300), cid: sh.cid, form: sh.form})
			n := max(len(sh.cid), 1)
			got := record.DatagramCID(d, n)
			if len(sh.cid) == 0 && got != nil || len(sh.cid) > 0 && !bytes.Equal(got, sh.cid) || cap(got) != len(got) {
				t.Errorf("%v, %v: %x", p, sh, got)
			}
		}
		d := p.ours(k, spec{seq: 1, typ: record.ApplicationData, cid: cid})
		at := bytes.Index(d, cid)
		for n := range d {
			if got := record.DatagramCID(d[:n], len(cid)); (got != nil) != (n >= at+len(cid)) {
				t.Errorf("%v, %d bytes: %x", p, n, got)
			}
		}
		for _, n := range []int{-1, 0, len(d)} {
			if got := record.DatagramCID(d, n); got != nil {
				t.Errorf("%v, %d bytes wanted: %x", p, n, got)
			}
		}
	}
	for b := range 256 {
		d := make([]byte, 40)
		d[0] = byte(b)
		if got := record.DatagramCID(d, 4); (got != nil) != (b == 25 || b>>4 == 3) {
			t.Errorf("first byte %d: %x", b, got)
		}
	}
}

func TestDropsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for d := range record.Drops + 1 {
		name := record.Drop(d).String()
		if name == "" || seen[name] || record.Drop(d).Error() == "" {
			t.Errorf("reason %d is called %q", d, name)
		}
		seen[name] = true
	}
	if got := fmt.Sprint(record.TLS12CID, record.ACKRecord); got != "tls12_cid ack" {
		t.Error(got)
	}
}
