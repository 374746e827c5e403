// What only holds without the race detector, which allocates where the program
// does not and makes pools forget.

//go:build !race

package record_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/aftls/aftls/record"
)

// The cipher is made at the first record, and AllocsPerRun does not count its
// first run: what is counted is every record after that.
const allocRuns = 50

func noAllocs(t *testing.T, what string, f func()) {
	t.Helper()
	if n := testing.AllocsPerRun(allocRuns, f); n != 0 {
		t.Errorf("%s: %v allocations", what, n)
	}
}

func TestSealAndOpenDoNotAllocate(t *testing.T) {
	each(t, profiles, func(t *testing.T, p profile) {
		for _, n := range []int{0, 1, 1400, 16384} {
			payload := noise("payload", n)
			s, o := p.pair(t, 0)
			room := make([]byte, 0, s.SealedLen(n))
			noAllocs(t, fmt.Sprintf("Seal of %d bytes", n), func() {
				if _, err := s.Seal(room, record.ApplicationData, payload); err != nil {
					t.Fatal(err)
				}
			})
			inPlace := room[s.Prefix() : s.Prefix()+n]
			noAllocs(t, fmt.Sprintf("Seal of %d bytes in place", n), func() {
				if _, err := s.Seal(room, record.ApplicationData, inPlace); err != nil {
					t.Fatal(err)
				}
			})

			var recs [][]byte
			s, _ = p.pair(t, 0)
			for range 2 * (allocRuns + 1) {
				rec, err := s.Seal(nil, record.ApplicationData, payload)
				if err != nil {
					t.Fatal(err)
				}
				recs = append(recs, rec)
			}
			open := func(dst []byte) {
				_, got, err := o.Open(dst, recs[0])
				if err != nil || !bytes.Equal(got, payload) {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				recs = recs[1:]
			}
			noAllocs(t, fmt.Sprintf("Open of %d bytes in place", n), func() { open(nil) })
			dst := make([]byte, o.Room(recs[0]))
			noAllocs(t, fmt.Sprintf("Open of %d bytes into dst", n), func() { open(dst) })
		}
	})
}

func TestFrameDoesNotAllocate(t *testing.T) {
	each(t, constructions, func(t *testing.T, p profile) {
		_, o := p.pair(t, 0)
		head := []byte{23, 3, 3, 1, 0}
		noAllocs(t, "Frame", func() {
			n, err := record.Frame(head)
			m, ownErr := o.Frame(head)
			if n != 261 || m != 261 || err != nil || ownErr != nil {
				t.Fatal(n, m, err, ownErr)
			}
		})
	})
}
