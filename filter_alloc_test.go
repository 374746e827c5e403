//go:build !race

package aftls_test

import (
	"errors"
	"io"
	"testing"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/filter"
)

func TestFilterDoesNotAllocate(t *testing.T) {
	needExactAllocations(t)
	eachVersion(t, func(t *testing.T, a, b *aftls.Conn) {
		var send, recv filter.Filter
		send.Swap(compiled(t, "tcp and len > 0 and not data[0] = 1"))
		recv.Swap(compiled(t, "tcp and len > 0 and not data[0] = 1"))
		tap := filter.NewTap(io.Discard, filter.TapOptions{Filter: compiled(t, "udp")}) // looks at all, and keeps nothing
		defer tap.Close()
		for _, tapped := range []bool{false, true} {
			err := errors.Join(a.SetFilter(aftls.Send, &send), b.SetFilter(aftls.Receive, &recv))
			if tapped {
				err = errors.Join(err, a.SetTap(tap), b.SetTap(tap))
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{1, 1000, 16384, 100000} {
				out, in := make([]byte, size), make([]byte, size)
				var failed error
				n := testing.AllocsPerRun(50, func() {
					_, err := a.Write(out)
					if err == nil {
						_, err = io.ReadFull(b, in)
					}
					failed = errors.Join(failed, err)
				})
				if failed != nil || n != 0 {
					t.Errorf("%d bytes, tapped %v: %v allocations, %v", size, tapped, n, failed)
				}
			}
		}
	})
}
