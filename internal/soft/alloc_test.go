// What only holds without the race detector, which allocates where the program
// does not and makes pools forget.

//go:build !race

package soft

import (
	"io"
	"net"
	"testing"
)

func TestCommitAllocs(t *testing.T) {
	f := tempFile(t, make([]byte, 300000))
	c := discard{}
	s := newSender(t, c, suite13)
	src := NewSource(f)
	n := testing.AllocsPerRun(100, func() {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if n, err := copyAll(s, src); n != 300000 || err != nil {
			t.Fatal(n, err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations per file", n)
	}
	p := make([]byte, 300000)
	n = testing.AllocsPerRun(100, func() {
		if n, err := s.WriteOne(p, len(p)); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations per Write", n)
	}
}

// discard is a carrier that takes everything.
type discard struct{ net.Conn }

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestReadAllocs(t *testing.T) {
	a, b := tcpPair(t)
	s, r := newSender(t, b, suite13), newReceiver(t, a, suite13)
	for _, size := range []int{100, 40000} {
		p, q := make([]byte, size), make([]byte, 20000)
		n := testing.AllocsPerRun(200, func() {
			if n, err := s.WriteOne(p, size); n != size || err != nil {
				t.Fatal(n, err)
			}
			for left := size; left > 0; {
				n, err := r.Read(q)
				if err != nil {
					t.Fatal(err)
				}
				left -= n
			}
		})
		if n != 0 {
			t.Errorf("%d bytes: %v allocations per Write and Read", size, n)
		}
	}
}
