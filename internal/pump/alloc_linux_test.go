// What only holds without the race detector, which allocates where the program
// does not.

//go:build !race

package pump

import (
	"syscall"
	"testing"
)

func TestEndAllocatesNothing(t *testing.T) {
	e, theirs, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	defer theirs.Close()
	fd := int(theirs.Fd())
	b, room := make([]byte, 1000), make([]byte, 4000)
	places := [][]byte{room[:100], room[100:]}
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := syscall.Write(fd, b); err != nil {
			t.Fatal(err)
		}
		if n, err := e.ReadBuffers(places); n != len(b) || err != nil {
			t.Fatal(n, err)
		}
		if n, err := e.Write(b); n != len(b) || err != nil {
			t.Fatal(n, err)
		}
		if n, err := syscall.Read(fd, room); n != len(b) || err != nil {
			t.Fatal(n, err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations a turn", allocs)
	}
}

// A pump moves messages, one at a time and many, without allocating.
func TestDatagramPumpAllocatesNothing(t *testing.T) {
	_, _, f, _ := echoing(t)
	fd := int(f.Fd())
	b := make([]byte, 1200)
	for _, count := range []int{1, maxMessages} {
		step := func() {
			for range count {
				if _, err := syscall.Write(fd, b); err != nil {
					t.Fatal(err)
				}
			}
			for range count {
				if n, err := syscall.Read(fd, b); n != len(b) || err != nil {
					t.Fatal(n, err)
				}
			}
		}
		for range 10 { // the echo's own buffers
			step()
		}
		if n := testing.AllocsPerRun(100, step); n != 0 {
			t.Errorf("%d messages: %v allocations", count, n)
		}
	}
}
