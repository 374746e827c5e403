package soft

import (
	"net"
	"os"
	"testing"
)

// TestSilentSource: nothing is held while a source that can say so is silent.
func TestSilentSource(t *testing.T) {
	lent(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	a, b := tcpPair(t)
	for name, ends := range map[string]struct {
		r interface{ Read([]byte) (int, error) }
		w interface{ Write([]byte) (int, error) }
	}{"pipe": {r, w}, "TCP": {a, b}} {
		t.Run(name, func(t *testing.T) {
			x, y := net.Pipe()
			defer x.Close()
			defer y.Close()
			s := newSender(t, x, suite13)
			src := NewSource(ends.r)
			if !src.Waits() {
				t.Error("it is no regular file")
			}
			waiting := make(chan bool, 10)
			src.vector.try = func(fd uintptr) bool {
				over := src.tryReadv(fd)
				waiting <- over
				return over
			}
			if err := s.Plan(src, 1<<40); err != nil {
				t.Fatal(err)
			}
			began := Borrowed()
			done := make(chan error, 1)
			go func() {
				n, err := src.Read()
				if n != 3 && err == nil {
					err = os.ErrInvalid
				}
				done <- err
			}()
			if <-waiting {
				t.Error("the source was not silent")
			}
			if n := Borrowed() - began; n != 0 {
				t.Errorf("%d buffers are held", n)
			}
			if _, err := ends.w.Write([]byte("abc")); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			src.Drop()
		})
	}
}
