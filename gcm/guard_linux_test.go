package gcm

import (
	"bytes"
	"os"
	"syscall"
	"testing"
)

// fence is memory with a page on either side that cannot be touched.
type fence struct{ mem []byte }

func newFence(t *testing.T, size int) fence {
	t.Helper()
	page := os.Getpagesize()
	size = (size + page - 1) / page * page
	all, err := syscall.Mmap(-1, 0, size+2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(all) })
	for _, guard := range [][]byte{all[:page], all[len(all)-page:]} {
		if err := syscall.Mprotect(guard, syscall.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	return fence{all[page : len(all)-page]}
}

// place puts data at the very start or the very end of the fenced memory.
func (f fence) place(data []byte, end bool) []byte {
	at := f.mem
	if end {
		at = f.mem[len(f.mem)-len(data):]
	}
	at = at[:len(data):len(data)]
	copy(at, data)
	return at
}

// Nothing is read or written beyond what was passed, by a single byte: it would
// be a segmentation fault. As the lengths go through all values, so do the
// alignments of what stands at the end of a page.
func TestStaysInBounds(t *testing.T) {
	each(t, variants(), func(t *testing.T, v variant, keyLen int) {
		const most = 40000
		var fences [6]fence
		for i := range fences {
			fences[i] = newFence(t, most)
		}
		bytesOf, r := noise(9)
		var lengths []int
		for n := range 301 {
			lengths = append(lengths, n)
		}
		lengths = append(lengths, 511, 512, 513, 767, 768, 769, 1023, 1025, 1400, 4095, 4097, 16384, 16385, 30001)
		for _, end := range []bool{true, false} {
			for _, n := range lengths {
				key := fences[0].place(fill(bytesOf, keyLen), end)
				nonce := fences[1].place(fill(bytesOf, NonceSize), end)
				aad := fences[2].place(fill(bytesOf, []int{5, 13, n % 50}[r.IntN(3)]), end)
				text := fill(bytesOf, n)
				p := newPair(t, v, key)
				want := p.std.Seal(nil, nonce, text, aad)

				input := fences[3].place(text, end)
				out := fences[4].place(make([]byte, n+Overhead), end)
				if got := p.ours.Seal(out[:0], nonce, input, aad); !bytes.Equal(got, want) || &got[0] != &out[0] {
					t.Fatalf("%d bytes are sealed otherwise", n)
				}
				out = fences[4].place(want[:n], end)
				if n > 0 {
					sealed := fences[3].place(want, end)
					if got, err := p.ours.Open(out[:0], nonce, sealed, aad); err != nil || !bytes.Equal(got, text) {
						t.Fatalf("%d bytes are opened otherwise: %v", n, err)
					}
				}
				for _, size := range []int{1, r.IntN(n + 1), n} {
					cut := max(n-size, 0)
					input, tail := fences[3].place(text[:cut], end), fences[5].place(text[cut:], end)
					out = fences[4].place(make([]byte, n+Overhead), end)
					if got := p.ours.SealTail(out[:0], nonce, input, tail, aad); !bytes.Equal(got, want) {
						t.Fatalf("%d and %d bytes are sealed otherwise", cut, n-cut)
					}
				}
				place := fences[4].place(want, end)
				if got, err := p.ours.Open(place[:0], nonce, place, aad); err != nil || !bytes.Equal(got, text) {
					t.Fatalf("%d bytes are opened otherwise in place: %v", n, err)
				}
			}
		}
	})
}
