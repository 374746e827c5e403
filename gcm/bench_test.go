package gcm

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"runtime"
	"testing"
)

// BenchmarkGCM has one row for each operation, key size, message length and way
// to compute it, so that benchstat can set the ways side by side:
//
//	benchstat -col /way
func BenchmarkGCM(b *testing.B) {
	for _, op := range []string{"seal", "open"} {
		for _, keyLen := range []int{16, 32} {
			for _, n := range []int{64, 256, 1400, 4096, 16384} {
				for _, way := range ways() {
					b.Run(fmt.Sprintf("op=%s/key=%d/n=%d/way=%s", op, 8*keyLen, n, way.name), func(b *testing.B) {
						benchmark(b, way.make(b, make([]byte, keyLen)), op, n)
					})
				}
			}
		}
	}
}

func benchmark(b *testing.B, a cipher.AEAD, op string, n int) {
	const header, aadLen = 5, 13
	nonce, aad := make([]byte, NonceSize), make([]byte, aadLen)
	plaintext := make([]byte, n)
	// Records begin behind a header of five bytes: the output is not aligned.
	room := make([]byte, header, header+n+Overhead)
	sealed := a.Seal(make([]byte, header, header+n+Overhead), nonce, plaintext, aad)[header:]
	b.SetBytes(int64(n))
	// What else the machine does counts in ns/op, not in cpu-ns/op.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := threadTime()
	if op == "seal" {
		for b.Loop() {
			a.Seal(room, nonce, plaintext, aad)
		}
	} else {
		for b.Loop() {
			if _, err := a.Open(room, nonce, sealed, aad); err != nil {
				b.Fatal(err)
			}
		}
	}
	if spent := threadTime() - start; spent > 0 {
		b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "cpu-ns/op")
	}
}

func BenchmarkNew(b *testing.B) {
	for _, keyLen := range []int{16, 32} {
		for _, way := range ways() {
			b.Run(fmt.Sprintf("key=%d/way=%s", 8*keyLen, way.name), func(b *testing.B) {
				key := make([]byte, keyLen)
				b.ReportAllocs()
				for b.Loop() {
					way.make(b, key)
				}
			})
		}
	}
}

// way is one way to compute AES-GCM.
type way struct {
	name string
	make func(t testing.TB, key []byte) cipher.AEAD
}

// ways are all that this machine has: the variants, and the standard library,
// which all the others are compared to.
func ways() []way {
	all := []way{{"std", func(t testing.TB, key []byte) cipher.AEAD { return standard(t, key) }}}
	for _, v := range variants() {
		all = append(all, way{v.String(), func(t testing.TB, key []byte) cipher.AEAD { return mustNew(t, v, key) }})
	}
	return all
}

// variants are those that this machine can run.
func variants() []variant {
	var all []variant
	for v := variantGeneric; v <= detect().best; v++ {
		all = append(all, v)
	}
	return all
}

func mustNew(t testing.TB, v variant, key []byte) AEAD {
	t.Helper()
	a, err := newAEAD(v, key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func standard(t testing.TB, key []byte) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
