package record_test

import (
	"fmt"
	"testing"

	"github.com/aftls/aftls/record"
)

func eachSize(b *testing.B, f func(b *testing.B, p profile, n int)) {
	for _, p := range constructions {
		for _, n := range []int{1400, 16384} {
			b.Run(fmt.Sprintf("%v/%d", p, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				f(b, p, n)
			})
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	eachSize(b, func(b *testing.B, p profile, n int) {
		s, _ := p.pair(b, 0)
		payload := noise("payload", n)
		room := make([]byte, 0, s.SealedLen(n))
		for b.Loop() {
			if s.Left() == 0 { // a fast machine reaches the limit of GCM
				s, _ = p.pair(b, 0)
			}
			if _, err := s.Seal(room, record.ApplicationData, payload); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	eachSize(b, func(b *testing.B, p profile, n int) {
		// Opening into dst leaves the records whole, so that a new opener can
		// go through them again.
		s, o := p.pair(b, 0)
		recs := make([][]byte, 256)
		for i := range recs {
			var err error
			if recs[i], err = s.Seal(nil, record.ApplicationData, noise("payload", n)); err != nil {
				b.Fatal(err)
			}
		}
		dst := make([]byte, o.Room(recs[0]))
		for b.Loop() {
			if o.Seq() == uint64(len(recs)) {
				b.StopTimer()
				_, o = p.pair(b, 0)
				b.StartTimer()
			}
			if _, _, err := o.Open(dst, recs[o.Seq()]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkNewSealer(b *testing.B) {
	for _, p := range constructions {
		b.Run(p.String(), func(b *testing.B) {
			k := p.keys("bench", 0)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := record.NewSealer(k); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
