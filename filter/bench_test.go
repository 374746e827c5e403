package filter_test

import (
	"testing"

	"github.com/aftls/aftls/filter"
)

func BenchmarkDecide(b *testing.B) {
	msg := make([]byte, 16384)
	for _, expression := range []string{"", "tcp and not port 22", "src net 192.0.2.0/24 and dst port 50000", "data[0:4] != 0x47455420"} {
		name := expression
		if name == "" {
			name = "everything"
		}
		b.Run(name, func(b *testing.B) {
			var f filter.Filter
			f.Swap(compile(b, expression))
			b.ReportAllocs()
			for b.Loop() {
				if f.Decide(v4, msg).Action != filter.Pass {
					b.Fatal("it does not pass")
				}
			}
		})
	}
	b.Run("no program", func(b *testing.B) {
		var f filter.Filter
		for b.Loop() {
			f.Decide(v4, msg)
		}
	})
}
