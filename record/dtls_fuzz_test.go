package record_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/aftls/aftls/record"
)

// bothOpen has a datagram opened by both receivers, which must agree on each
// record, and returns those that opened.
func bothOpen(t *testing.T, o *record.DatagramOpener, slow *slowOpener, datagram []byte) (out []record.DatagramRecord) {
	t.Helper()
	fast, rest := bytes.Clone(datagram), datagram
	for more := true; more; more = len(fast) > 0 {
		got, left, err := o.Open(fast)
		want, wantLeft, wantErr := slow.open(rest)
		if len(left) >= len(fast) && len(fast) > 0 {
			t.Fatalf("%d bytes are left of %d", len(left), len(fast))
		}
		if len(left) != len(wantLeft) {
			t.Fatalf("%x: %d bytes left, want %d (%v, %v)", rest, len(left), len(wantLeft), err, wantErr)
		}
		var e, wantE *record.Error
		switch {
		case errors.As(wantErr, &wantE):
			if !errors.As(err, &e) || e.Alert != wantE.Alert {
				t.Fatalf("%x: %v, want alert %v", rest, err, wantE.Alert)
			}
		case err != wantErr:
			t.Fatalf("%x: %v, want %v", rest, err, wantErr)
		}
		if err != nil {
			if got.Payload != nil || got.Type != 0 || got.Newest || got.Seq != 0 || got.Epoch != 0 {
				t.Fatalf("%+v beside %v", got, err)
			}
		} else {
			if got.Type != want.Type || !bytes.Equal(got.Payload, want.Payload) || got.Epoch != want.Epoch || got.Seq != want.Seq {
				t.Fatalf("%x: opened as %+v, want %+v", rest, got, want)
			}
			got.Payload = bytes.Clone(got.Payload)
			out = append(out, got)
		}
		fast, rest = left, wantLeft
	}
	if o.Seq() != slow.next[slow.newest] || o.Epoch() != slow.newest {
		t.Fatalf("at %d/%d, want %d/%d", o.Epoch(), o.Seq(), slow.newest, slow.next[slow.newest])
	}
	return out
}

// Whatever the bytes are: both receivers say the same of them.
func FuzzDatagramOpen(f *testing.F) {
	cids := [][]byte{nil, {7}, []byte("12345678")}
	for i, p := range datagramConstructions {
		for j, cid := range cids {
			k := p.datagramKeys("fuzz", 5, 3)
			two := p.ours(k, spec{seq: 4, typ: record.Handshake, payload: []byte("first"), cid: cid})
			two = append(two, p.ours(k, spec{seq: 3, typ: record.ApplicationData, payload: []byte("second"), zeros: 5, cid: cid, form: record.ShortNumber | record.NoLength})...)
			f.Add(byte(i), byte(j), two)
			f.Add(byte(i), byte(j), two[:len(two)-1])
			f.Add(byte(i), byte(j), append(p.ours(k, spec{seq: 1 << 20, typ: 23, cid: cid}), two...))
			noType := p.withCID12
			if p.isDatagram13() {
				noType = p.unified
			}
			f.Add(byte(i), byte(j), noType(k, spec{epoch: 5, seq: 9, cid: cid}, make([]byte, 20)))
		}
		f.Add(byte(i), byte(0), []byte{})
		f.Add(byte(i), byte(0), []byte{22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1})
		f.Add(byte(i), byte(1), []byte{25, 254, 253, 0, 5, 0, 0, 0, 0, 0, 9, 7, 0})
		f.Add(byte(i), byte(1), bytes.Repeat([]byte{0x31}, 40))
	}
	f.Fuzz(func(t *testing.T, suite, which byte, datagram []byte) {
		p, cid := pick(datagramConstructions, suite), pick(cids, which)
		k := p.datagramKeys("fuzz", 5, 3)
		o := datagramOpener(t, k, shape{cid: cid})
		slow := newSlowOpener(p, k, cid)
		for _, rec := range bothOpen(t, o, slow, datagram) {
			if rec.Seq < 3 || rec.Epoch != 5 {
				t.Fatalf("opened %+v", rec)
			}
		}
		if o.Failed() != uint64(slow.failed) {
			t.Fatalf("%d failed, want %d", o.Failed(), slow.failed)
		}
		if got := record.DatagramCID(datagram, len(cid)); got != nil && (datagram[0] != 25 && datagram[0]>>4 != 3) {
			t.Fatalf("%x has the Connection ID %x", datagram, got)
		}
	})
}

// A record with one part changed is never taken for one that was sent.
func FuzzDatagramMutated(f *testing.F) {
	for i := range datagramConstructions {
		for _, at := range []uint16{0, 1, 2, 3, 5, 11, 13, 21, 30, 60} {
			f.Add(byte(i), byte(i), uint64(300), []byte("payload"), at, byte(1))
		}
		f.Add(byte(i), byte(3), uint64(1<<16-1), []byte{}, uint16(4), byte(0x10))
		f.Add(byte(i), byte(7), uint64(1<<48-2), noise("seed", 200), uint16(0), byte(3))
	}
	f.Fuzz(func(t *testing.T, suite, how byte, seq uint64, payload []byte, at uint16, flip byte) {
		p := pick(datagramConstructions, suite)
		sh := pick(p.shapes(), how)
		seq %= p.lastSeq()
		k := p.datagramKeys("mutated", 3, seq)
		w := spec{epoch: 3, seq: seq, typ: record.ApplicationData, payload: payload[:min(len(payload), 2000)], cid: sh.cid, form: sh.form}
		good := p.ours(k, w)
		o, slow := datagramOpener(t, k, sh), newSlowOpener(p, k, sh.cid)
		bad := bytes.Clone(good)
		bad[int(at)%len(bad)] ^= flip
		if got := bothOpen(t, o, slow, bad); len(got) > 0 && flip != 0 {
			t.Fatalf("byte %d: opened %+v", int(at)%len(bad), got)
		}
		// The good one behind it opens, and not again.
		if got := bothOpen(t, o, slow, good); len(got) != 1 && flip != 0 {
			t.Fatalf("the good one behind it: %+v", got)
		}
		if got := bothOpen(t, o, slow, good); len(got) != 0 {
			t.Fatalf("once more: %+v", got)
		}
	})
}

func FuzzDatagramRoundTrip(f *testing.F) {
	for i := range datagramConstructions {
		f.Add(byte(i), byte(0), byte(23), []byte(nil), uint16(0), uint64(0))
		f.Add(byte(i), byte(5), byte(22), noise("seed", 1000), uint16(300), uint64(23726564))
		f.Add(byte(i), byte(9), byte(26), make([]byte, 16384), uint16(0xffff), uint64(1<<48-1))
		f.Add(byte(i), byte(19), byte(255), []byte{0, 0}, uint16(2), uint64(1<<48))
	}
	f.Fuzz(func(t *testing.T, suite, how, typ byte, payload []byte, pad uint16, seq uint64) {
		p := pick(datagramProfiles, suite)
		sh := pick(p.shapes(), how)
		if typ == 0 || typ == 25 {
			return // refused, see TestDatagramSealRefusesWhatIsNoRecord
		}
		k := p.datagramKeys("fuzz", 3, seq)
		s, err := record.NewDatagramSealer(k, sh.cid)
		if !p.isDatagram13() && seq > 1<<48 {
			if !errors.Is(err, record.ErrEpoch) {
				t.Fatalf("number %d: %v", seq, err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		s.SetHeader(sh.form)
		s.SetPadding(int(pad))
		rec, err := s.Seal([]byte("dst"), record.ContentType(typ), payload)
		if err != nil {
			want := record.ErrKeyLimit
			if len(payload) > p.most(sh) {
				want = record.ErrTooLarge
			} else if seq < min(record.Limit(p.version, p.id), p.lastSeq()+1) {
				t.Fatalf("Seal: %v", err)
			}
			if !errors.Is(err, want) || string(rec) != "dst" || s.Seq() != seq {
				t.Fatalf("Seal = %q, %v, want %v; Seq = %d", rec, err, want, s.Seq())
			}
			return
		}
		if len(payload) > p.most(sh) || seq > p.lastSeq() || seq >= record.Limit(p.version, p.id) {
			t.Fatalf("sealed %d bytes as number %d", len(payload), seq)
		}
		rec = rec[3:]
		if len(rec) != s.SealedLen(len(payload)) || s.Seq() != seq+1 {
			t.Fatalf("%d bytes, SealedLen %d, Seq %d", len(rec), s.SealedLen(len(payload)), s.Seq())
		}
		w := spec{epoch: 3, seq: seq, typ: record.ContentType(typ), payload: payload, cid: sh.cid, form: sh.form}
		if p.hides(sh) {
			w.zeros = len(rec) - s.Prefix() - len(payload) - 1 - 16
		}
		if !bytes.Equal(rec, p.ours(k, w)) {
			t.Fatalf("sealed\n got %x\nwant %x", rec, p.ours(k, w))
		}
		opensDatagram(t, datagramOpener(t, k, sh), rec, w)
	})
}

// travel sends records over a link that loses, doubles, holds back and damages
// them, with KeyUpdates between, and checks what comes out of the opener.
func travel(t *testing.T, p profile, seed uint64, script []byte) {
	r := rand.New(rand.NewPCG(seed, 6))
	sh := pick(p.shapes(), byte(r.Uint32()))
	k := p.datagramKeys("travel", 3, 0)
	s, o, slow := datagramSealer(t, k, sh), datagramOpener(t, k, sh), newSlowOpener(p, k, sh.cid)
	sent, delivered, whole := map[string]bool{}, map[string]int{}, map[string]bool{}
	type flight struct {
		datagram []byte
		names    []string
	}
	var air []flight // under way
	var newest record.Number
	land := func(i int, damage bool) {
		d := bytes.Clone(air[i].datagram)
		if damage {
			d[r.IntN(len(d))] ^= 1 << r.IntN(8)
		} else {
			for _, n := range air[i].names {
				whole[n] = true
			}
		}
		for _, rec := range bothOpen(t, o, slow, d) {
			name := string(rec.Payload)
			if !sent[name] || rec.Type != record.ApplicationData {
				t.Fatalf("delivered %q, which was not sent", name)
			}
			if delivered[name]++; delivered[name] > 1 {
				t.Fatalf("delivered %q again", name)
			}
			n := record.Number{Epoch: rec.Epoch, Seq: rec.Seq}
			if isNewest := len(delivered) == 1 || n.Compare(newest) > 0; isNewest != rec.Newest {
				t.Fatalf("%v after %v: Newest = %v", n, newest, rec.Newest)
			} else if isNewest {
				newest = n
			}
		}
	}
	for i, b := range script {
		switch {
		case b < 180: // a datagram of one to three records
			var f flight
			for j := range 1 + int(b)%3 {
				name := fmt.Sprintf("%d.%d.%s", i, j, noise("pad", r.IntN(40)))
				form := record.HeaderForm(r.IntN(2))
				if j == int(b)%3 {
					form |= record.HeaderForm(r.IntN(2)) << 1
				}
				s.SetHeader(form)
				s.SetPadding(r.IntN(50))
				var err error
				if f.datagram, err = s.Seal(f.datagram, record.ApplicationData, []byte(name)); err != nil {
					t.Fatal(err)
				}
				sent[name] = true
				f.names = append(f.names, name)
			}
			air = append(air, f)
		case b < 190 && p.isDatagram13() && len(air) < 20:
			if err := errors.Join(s.Next(), o.Next()); err != nil {
				t.Fatal(err)
			}
			slow.install(p.updated(slow.keys[slow.newest]))
			air = nil // what is late by more than three epochs would be lost
		case b < 200: // lost; never so many that 8 bits could not tell
			if len(air) > 0 && s.Seq()-o.Seq() < 25 {
				air = air[1:]
			}
		case len(air) == 0:
		case b < 215: // doubled
			land(r.IntN(len(air)), false)
		case b < 225: // damaged
			land(r.IntN(len(air)), true)
		default:
			j := r.IntN(len(air))
			land(j, false)
			air = append(air[:j], air[j+1:]...)
		}
		for len(air) > 30 { // held back by no more than 90 records: numbers of 8 bits bear that
			land(0, false)
			air = air[1:]
		}
	}
	for ; len(air) > 0; air = air[1:] {
		land(0, false)
	}
	for name := range whole {
		if delivered[name] != 1 {
			t.Fatalf("%q came whole and was delivered %d times", name, delivered[name])
		}
	}
}

func FuzzDatagramTravel(f *testing.F) {
	for i := range datagramConstructions {
		f.Add(byte(i), uint64(1), []byte{1, 2, 3, 4, 230, 240, 210, 220, 185, 5, 6, 255, 254, 195, 7, 210})
		f.Add(byte(i), uint64(2), noise("travel", 300))
	}
	f.Fuzz(func(t *testing.T, suite byte, seed uint64, script []byte) {
		travel(t, pick(datagramConstructions, suite), seed, script[:min(len(script), 400)])
	})
}

func TestDatagramTravel(t *testing.T) {
	each(t, datagramConstructions, func(t *testing.T, p profile) {
		for seed := range uint64(12) {
			travel(t, p, seed, noise(fmt.Sprint("script", seed), 600))
		}
	})
}
