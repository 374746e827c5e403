package record_test

import (
	"fmt"
	"testing"

	"github.com/aftls/aftls/record"
)

// benchPayload is what fits a datagram that any path carries.
const benchPayload = 1200

func eachShape(b *testing.B, f func(b *testing.B, p profile, sh shape)) {
	for _, p := range datagramConstructions {
		for _, cid := range []string{"", "12345678"} {
			b.Run(fmt.Sprintf("%v/cid=%d/%d", p, len(cid), benchPayload), func(b *testing.B) {
				b.SetBytes(benchPayload)
				b.ReportAllocs()
				f(b, p, shape{cid: []byte(cid)})
			})
		}
	}
}

func BenchmarkDatagramSeal(b *testing.B) {
	eachShape(b, func(b *testing.B, p profile, sh shape) {
		s, _ := p.datagramPair(b, sh, 3, 0)
		payload := noise("payload", benchPayload)
		room := make([]byte, 0, s.SealedLen(benchPayload))
		for b.Loop() {
			if s.Left() == 0 { // a fast machine reaches the limit of GCM
				s, _ = p.datagramPair(b, sh, 3, 0)
			}
			if _, err := s.Seal(room, record.ApplicationData, payload); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkDatagramOpen also copies each record, for opening spends it.
func BenchmarkDatagramOpen(b *testing.B) {
	eachShape(b, func(b *testing.B, p profile, sh shape) {
		s, o := p.datagramPair(b, sh, 3, 0)
		recs := make([][]byte, 256)
		for i := range recs {
			var err error
			if recs[i], err = s.Seal(nil, record.ApplicationData, noise("payload", benchPayload)); err != nil {
				b.Fatal(err)
			}
		}
		buf := make([]byte, len(recs[0]))
		for b.Loop() {
			if o.Seq() == uint64(len(recs)) {
				b.StopTimer()
				_, o = p.datagramPair(b, sh, 3, 0)
				if _, _, err := o.Open(append([]byte(nil), recs[0]...)); err != nil { // makes the cipher
					b.Fatal(err)
				}
				b.StartTimer()
			}
			copy(buf, recs[o.Seq()])
			if _, _, err := o.Open(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkDatagramDrop is the price of a flood.
func BenchmarkDatagramDrop(b *testing.B) {
	for _, p := range datagramConstructions {
		b.Run(p.String(), func(b *testing.B) {
			k := p.datagramKeys("drop", 3, 0)
			o := datagramOpener(b, k, shape{})
			rec := p.ours(k, spec{seq: 1, typ: record.ApplicationData, payload: noise("payload", benchPayload)})
			rec[len(rec)-1] ^= 1
			buf := make([]byte, len(rec))
			b.ReportAllocs()
			for b.Loop() {
				copy(buf, rec)
				if _, _, err := o.Open(buf); err != error(record.DropAuthentication) {
					b.Fatal(err)
				}
			}
		})
	}
}
