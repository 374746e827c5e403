//go:build !race

package afd

import (
	"net"
	"syscall"
	"testing"
)

// Datagrams go from one program through two associations to another, and back, one at a
// time and many, and nothing is allocated for them.
func TestDatagramsAllocateNothing(t *testing.T) {
	a, b := handedPair(t)
	fds := [2]int{blocking(t, a.data), blocking(t, b.data)}
	m := make([]byte, 1200)
	for _, count := range []int{1, 32} {
		step := func() {
			for i, from := range fds {
				for range count {
					if _, err := syscall.Write(from, m); err != nil {
						t.Fatal(err)
					}
				}
				for range count {
					if n, err := syscall.Read(fds[1-i], m); n != len(m) || err != nil {
						t.Fatal(n, err)
					}
				}
			}
		}
		step()
		if n := testing.AllocsPerRun(100, step); n != 0 {
			t.Errorf("%d messages: %v allocations", count, n)
		}
	}
}

// blocking is a duplicate of a data descriptor, as a program has it.
func blocking(t *testing.T, c *net.UnixConn) int {
	t.Helper()
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd()) // which makes it block
}
