package record

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

// slowWindow is what the window must do, in the words of RFC 6347, 4.1.2.6: a
// set of all the numbers ever received, and a left edge.
type slowWindow struct {
	seen  map[uint64]bool
	start uint64 // all below were received
	next  uint64
}

func (w *slowWindow) fresh(n uint64) bool {
	if n < w.start || w.seen[n] || n == math.MaxUint64 {
		return false
	}
	return n >= w.next || w.next-n <= windowSize
}

func (w *slowWindow) receive(n uint64) {
	w.seen[n] = true
	w.next = max(w.next, n+1)
}

// agree offers both windows the number and checks that they say the same.
func agree(t *testing.T, w *window, slow *slowWindow, n uint64) {
	t.Helper()
	got, want := w.fresh(n), slow.fresh(n)
	if got != want {
		t.Fatalf("number %d with %d to come: fresh = %v, want %v", n, w.next, got, want)
	}
	if !got {
		return
	}
	w.receive(n)
	slow.receive(n)
	if w.next != slow.next {
		t.Fatalf("number %d: %d to come, want %d", n, w.next, slow.next)
	}
	if w.fresh(n) {
		t.Fatalf("number %d is fresh a second time", n)
	}
}

// sweep compares all numbers around the edges, and leaves the windows alone.
func sweep(t *testing.T, w *window, slow *slowWindow) {
	t.Helper()
	for d := range uint64(windowSize + 200) {
		for _, n := range []uint64{w.next - d, w.next + d} {
			if got, want := w.fresh(n), slow.fresh(n); got != want {
				t.Fatalf("number %d with %d to come: fresh = %v, want %v", n, w.next, got, want)
			}
		}
	}
}

func newWindows(start uint64) (*window, *slowWindow) {
	w := new(window)
	if start != 0 {
		w.startAt(start)
	}
	return w, &slowWindow{seen: map[uint64]bool{}, start: start, next: start}
}

func TestWindowAtEveryStart(t *testing.T) {
	starts := []uint64{1 << 48, 1<<48 - 1, math.MaxUint64 - 1, math.MaxUint64, math.MaxUint64 - 64, math.MaxUint64 - 63, math.MaxUint64 - 2000}
	for n := range uint64(200) {
		starts = append(starts, n, windowSize-100+n)
	}
	for _, start := range starts {
		w, slow := newWindows(start)
		sweep(t, w, slow)
		for _, d := range []uint64{0, 1, 63, 64, 65, 3, 500} {
			agree(t, w, slow, start+d) // may wrap to small numbers, which are old
			sweep(t, w, slow)
		}
	}
}

func TestWindowIsZeroedBySkippedNumbers(t *testing.T) {
	for jump := uint64(1); jump < 2300; jump++ {
		w, slow := newWindows(0)
		for n := range uint64(1100) { // every bit of the ring is set
			agree(t, w, slow, n)
		}
		agree(t, w, slow, 1099+jump)
		sweep(t, w, slow)
	}
}

func TestWindowKnowsAsManyNumbersAsItPromises(t *testing.T) {
	var w window
	w.receive(5000)
	if !w.fresh(5001-windowSize) || w.fresh(5000-windowSize) {
		t.Errorf("the left edge is not %d numbers below the right one", windowSize)
	}
	if windowSize < 64 { // RFC 6347, 4.1.2.6: 64 is preferred
		t.Errorf("%d numbers are too few", windowSize)
	}
}

func TestWindowAtRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		start := []uint64{0, 0, 1, r.Uint64N(5000), 1<<48 - 3000, math.MaxUint64 - 3000}[r.IntN(6)]
		w, slow := newWindows(start)
		spread := []uint64{2, 70, 900, 3000}[r.IntN(4)]
		for range 500 {
			n := w.next + r.Uint64N(spread)
			if r.IntN(2) == 0 {
				n = w.next - min(r.Uint64N(spread), w.next)
			}
			agree(t, w, slow, n)
		}
		sweep(t, w, slow)
	}
}

func FuzzWindow(f *testing.F) {
	f.Add(uint64(0), []byte{0, 0, 0, 1, 0, 64, 0x83, 0xc0, 0x80, 1})
	f.Add(uint64(63), []byte{0x80, 63, 0, 1, 3, 0xc0, 0x83, 0xc0})
	f.Add(uint64(math.MaxUint64-100), []byte{0, 100, 0x80, 1, 0, 1})
	f.Add(uint64(1<<48-1), []byte{0x7f, 0xff, 0x87, 0xff, 0x80, 0})
	f.Fuzz(func(t *testing.T, start uint64, steps []byte) {
		w, slow := newWindows(start)
		for ; len(steps) >= 2; steps = steps[2:] {
			d := binary.BigEndian.Uint16(steps)
			if d&0x8000 != 0 {
				agree(t, w, slow, w.next-uint64(d&0x7fff))
			} else {
				agree(t, w, slow, w.next+uint64(d))
			}
		}
		sweep(t, w, slow)
	})
}
