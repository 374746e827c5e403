package gcm

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// each runs a test for each of the variants and each key size.
func each(t *testing.T, of []variant, test func(t *testing.T, v variant, keyLen int)) {
	for _, v := range of {
		for _, keyLen := range []int{16, 32} {
			t.Run(fmt.Sprintf("%v/%d", v, 8*keyLen), func(t *testing.T) { test(t, v, keyLen) })
		}
	}
}

// noise is a source of test data that is the same in each run.
func noise(seed byte) (*rand.ChaCha8, *rand.Rand) {
	c := rand.NewChaCha8([32]byte{seed})
	return c, rand.New(c)
}

func fill(r *rand.ChaCha8, n int) []byte {
	b := make([]byte, n)
	r.Read(b)
	return b
}

// A pair is a key of the variant under test and the same key of the standard
// library.
type pair struct {
	v    variant
	ours AEAD
	std  cipher.AEAD
}

func newPair(t testing.TB, v variant, key []byte) pair {
	return pair{v, mustNew(t, v, key), standard(t, key)}
}

// compare seals and opens one message with both, in place and out of place, and
// with the plaintext cut in two at each of the places.
func (p pair) compare(t testing.TB, nonce, plaintext, aad []byte, cuts ...int) {
	t.Helper()
	n := len(plaintext)
	want := p.std.Seal(nil, nonce, plaintext, aad)
	fail := func(what string, got []byte) {
		t.Helper()
		i := 0
		for i < len(got) && i < len(want) && got[i] == want[i] {
			i++
		}
		t.Fatalf("%v, %s: %d bytes and %d of additional data differ at %d", p.v, what, n, len(aad), i)
	}
	const before, behind = 5, 70 // bytes that must stay as they are
	buf := make([]byte, before+n+Overhead+behind)
	reset := func() (dst, place []byte) {
		for i := range buf {
			buf[i] = 0xa5
		}
		return buf[:before:len(buf)], buf[before:][:n]
	}
	untouched := func(what string) {
		t.Helper()
		for i, c := range buf {
			if c != 0xa5 && (i < before || i >= before+n+Overhead) {
				t.Fatalf("%v, %s: %d bytes: byte %d around the output changed", p.v, what, n, i-before)
			}
		}
	}
	dst, _ := reset()
	if got := p.ours.Seal(dst, nonce, plaintext, aad)[before:]; !bytes.Equal(got, want) {
		fail("Seal", got)
	}
	untouched("Seal")
	dst, place := reset()
	copy(place, plaintext)
	if got := p.ours.Seal(dst, nonce, place, aad)[before:]; !bytes.Equal(got, want) {
		fail("Seal in place", got)
	}
	for _, cut := range cuts {
		dst, _ = reset()
		if got := p.ours.SealTail(dst, nonce, plaintext[:cut], plaintext[cut:], aad)[before:]; !bytes.Equal(got, want) {
			fail(fmt.Sprintf("SealTail cut at %d", cut), got)
		}
		untouched("SealTail")
		dst, place = reset()
		copy(place, plaintext[:cut])
		if got := p.ours.SealTail(dst, nonce, place[:cut], plaintext[cut:], aad)[before:]; !bytes.Equal(got, want) {
			fail(fmt.Sprintf("SealTail in place, cut at %d", cut), got)
		}
	}
	dst, _ = reset()
	got, err := p.ours.Open(dst, nonce, want, aad)
	if err != nil || !bytes.Equal(got[before:], plaintext) {
		t.Fatalf("%v: Open of %d bytes: %v", p.v, n, err)
	}
	if !slices.Equal(buf[before+n:], slices.Repeat([]byte{0xa5}, Overhead+behind)) {
		t.Fatalf("%v: Open of %d bytes wrote behind them", p.v, n)
	}
	sealed := bytes.Clone(want)
	got, err = p.ours.Open(sealed[:0], nonce, sealed, aad)
	if err != nil || !bytes.Equal(got, plaintext) {
		t.Fatalf("%v: Open of %d bytes in place: %v", p.v, n, err)
	}
}

func TestLikeStandard(t *testing.T) {
	each(t, variants(), func(t *testing.T, v variant, keyLen int) {
		bytesOf, r := noise(1)
		for n := range 1300 {
			p := newPair(t, v, fill(bytesOf, keyLen))
			data := fill(bytesOf, n)
			for _, aad := range []int{5, 13, r.IntN(101)} {
				p.compare(t, fill(bytesOf, NonceSize), data, fill(bytesOf, aad), r.IntN(n+1), max(n-1, 0))
			}
		}
		rounds := 300
		if testing.Short() || raceDetector {
			rounds = 30
		}
		for range rounds {
			n := r.IntN(64 << 10)
			p := newPair(t, v, fill(bytesOf, keyLen))
			p.compare(t, fill(bytesOf, NonceSize), fill(bytesOf, n), fill(bytesOf, r.IntN(101)), r.IntN(n+1), n-min(n, 1+r.IntN(300)))
		}
	})
}

func TestAdditionalData(t *testing.T) {
	each(t, variants(), func(t *testing.T, v variant, keyLen int) {
		bytesOf, _ := noise(2)
		p := newPair(t, v, fill(bytesOf, keyLen))
		lengths := []int{1 << 10, 4097, piece, piece + 1, piece + 16, 2*piece + 100}
		for n := range 600 {
			lengths = append(lengths, n)
		}
		for _, n := range lengths {
			for _, size := range []int{0, 1, 33} {
				p.compare(t, fill(bytesOf, NonceSize), fill(bytesOf, size), fill(bytesOf, n))
			}
		}
	})
}

// Every way to cut a short message in two, and cuts of long ones where the work
// is divided in another way.
func TestTail(t *testing.T) {
	each(t, variants(), func(t *testing.T, v variant, keyLen int) {
		bytesOf, r := noise(3)
		p := newPair(t, v, fill(bytesOf, keyLen))
		for n := range 150 {
			for cut := range n + 1 {
				p.compare(t, fill(bytesOf, NonceSize), fill(bytesOf, n), nil, cut)
			}
		}
		for _, tail := range []int{1, 2, 15, 16, 17, 63, 64, 65, 255, 256, 257, 447, 448, 449, 511, 512, 513, 1023, 1024, 5000} {
			for _, n := range []int{0, 1, 63, 64, 65, 448, 449, 500, 511, 512, 513, 576, 1023, 1024, 1025, 1400, 16384, 16385 + r.IntN(500)} {
				p.compare(t, fill(bytesOf, NonceSize), fill(bytesOf, n+tail), fill(bytesOf, r.IntN(20)), n)
			}
		}
	})
}

// Messages so long that they take several calls of the assembly.
func TestLong(t *testing.T) {
	each(t, variants(), func(t *testing.T, v variant, keyLen int) {
		bytesOf, _ := noise(4)
		p := newPair(t, v, fill(bytesOf, keyLen))
		for _, n := range []int{piece - 1, piece, piece + 1, piece + 15, piece + 16, piece + 511, piece + 512, piece + 513, 2 * piece, 2*piece + 1, 1<<20 + 7} {
			p.compare(t, fill(bytesOf, NonceSize), fill(bytesOf, n), fill(bytesOf, 13),
				n, n-1, n-300, n-5000, n/2, 1, 0, piece-1, min(piece, n), min(piece+1, n))
		}
	})
}

// The cases 1 to 4 and 13 to 16 of "The Galois/Counter Mode of Operation",
// which SP 800-38D goes back to, and two of NIST's CAVP.
var vectors = []struct{ name, key, nonce, plaintext, aad, sealed string }{
	{"1", "00000000000000000000000000000000", "000000000000000000000000", "", "",
		"58e2fccefa7e3061367f1d57a4e7455a"},
	{"2", "00000000000000000000000000000000", "000000000000000000000000", "00000000000000000000000000000000", "",
		"0388dace60b6a392f328c2b971b2fe78" + "ab6e47d42cec13bdf53a67b21257bddf"},
	{"3", vectorKey, vectorNonce, vectorText, "",
		"42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985" +
			"4d5c2af327cd64a62cf35abd2ba6fab4"},
	{"4", vectorKey, vectorNonce, vectorText[:120], vectorAAD,
		"42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091" +
			"5bc94fbc3221a5db94fae95ae7121a47"},
	{"13", "0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000", "", "",
		"530f8afbc74536b9a963b4f1c4cb738b"},
	{"14", "0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000", "00000000000000000000000000000000", "",
		"cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"},
	{"15", vectorKey + vectorKey, vectorNonce, vectorText, "",
		"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad" +
			"b094dac5d93471bdec1a502270e3cc6c"},
	{"16", vectorKey + vectorKey, vectorNonce, vectorText[:120], vectorAAD,
		"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662" +
			"76fc6ece0f4e1768cddf8853bb2d551b"},
	{"CAVP 128", "11754cd72aec309bf52f7687212e8957", "3c819d9a9bed087615030b65", "", "",
		"250327c674aaf477aef2675748cf6971"},
	{"CAVP 256", "b52c505a37d78eda5dd34f20c22540ea1b58963cf8e5bf8ffa85f9f2492505b4", "516c33929df5a3284ff463d7", "", "",
		"bdc1ac884d332457a1d2664f168c76f0"},
}

const (
	vectorKey   = "feffe9928665731c6d6a8f9467308308"
	vectorNonce = "cafebabefacedbaddecaf888"
	vectorText  = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
	vectorAAD   = "feedfacedeadbeeffeedfacedeadbeefabaddad2"
)

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectors(t *testing.T) {
	for _, v := range variants() {
		for _, c := range vectors {
			a := mustNew(t, v, unhex(t, c.key))
			nonce, plaintext, aad, sealed := unhex(t, c.nonce), unhex(t, c.plaintext), unhex(t, c.aad), unhex(t, c.sealed)
			if got := a.Seal(nil, nonce, plaintext, aad); !bytes.Equal(got, sealed) {
				t.Errorf("%v: case %s sealed is %x, want %x", v, c.name, got, sealed)
			}
			if got, err := a.Open(nil, nonce, sealed, aad); err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%v: case %s opened is %x, %v", v, c.name, got, err)
			}
		}
	}
}

// Every bit of the tag counts, and so does every bit of what it protects. What
// does not open leaves no plaintext behind.
func TestForgeries(t *testing.T) {
	each(t, variants(), func(t *testing.T, v variant, keyLen int) {
		bytesOf, r := noise(5)
		a := mustNew(t, v, fill(bytesOf, keyLen))
		for _, n := range []int{0, 1, 15, 16, 17, 48, 63, 64, 100, 255, 256, 500, 512, 1400, 5000} {
			nonce, plaintext, aad := fill(bytesOf, NonceSize), fill(bytesOf, n), fill(bytesOf, 13)
			sealed := a.Seal(nil, nonce, plaintext, aad)
			refuse := func(what string, nonce, sealed, aad []byte) {
				t.Helper()
				dst := slices.Repeat([]byte{0xff}, n+3)
				got, err := a.Open(dst[:3], nonce, sealed, aad)
				if err == nil || got != nil {
					t.Fatalf("%d bytes with another %s opened", n, what)
				}
				if !bytes.Equal(dst[3:], make([]byte, n)) {
					t.Fatalf("%d bytes with another %s: not all is cleared", n, what)
				}
				place := bytes.Clone(sealed)
				if _, err := a.Open(place[:0], nonce, place, aad); err == nil || !bytes.Equal(place[:n], make([]byte, n)) {
					t.Fatalf("%d bytes with another %s in place: %v, or not all is cleared", n, what, err)
				}
			}
			for bit := range 8 * Overhead {
				sealed[n+bit/8] ^= 1 << (bit % 8)
				refuse(fmt.Sprintf("tag (bit %d)", bit), nonce, sealed, aad)
				sealed[n+bit/8] ^= 1 << (bit % 8)
			}
			for range 64 {
				if n > 0 {
					i, bit := r.IntN(n), byte(1)<<r.IntN(8)
					sealed[i] ^= bit
					refuse(fmt.Sprintf("ciphertext (byte %d)", i), nonce, sealed, aad)
					sealed[i] ^= bit
				}
				i, bit := r.IntN(len(aad)), byte(1)<<r.IntN(8)
				aad[i] ^= bit
				refuse("additional data", nonce, sealed, aad)
				aad[i] ^= bit
				i = r.IntN(len(nonce))
				nonce[i] ^= bit
				refuse("nonce", nonce, sealed, aad)
				nonce[i] ^= bit
			}
			if _, err := a.Open(nil, nonce, sealed, aad); err != nil {
				t.Fatalf("the message itself: %v", err)
			}
		}
		for n := range Overhead {
			if _, err := a.Open(nil, make([]byte, NonceSize), make([]byte, n), nil); err == nil {
				t.Errorf("a message of %d bytes opened", n)
			}
		}
	})
}

// panics reports whether f panics.
func panics(f func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	f()
	return
}

// Where input and output lie in one array in any way, we panic exactly when
// crypto/cipher does.
func TestOverlap(t *testing.T) {
	each(t, variants(), func(t *testing.T, v variant, keyLen int) {
		key, nonce := make([]byte, keyLen), make([]byte, NonceSize)
		p := newPair(t, v, key)
		const n, at = 20, 60
		array := make([]byte, 160)
		for from := range 120 {
			// The input begins at from, the output at at.
			for _, size := range []int{0, 1, n} {
				seal := func(a cipher.AEAD) func() {
					return func() { a.Seal(array[at:at], nonce, array[from:from+size], nil) }
				}
				if got, want := panics(seal(p.ours)), panics(seal(p.std)); got != want {
					t.Errorf("Seal of %d bytes from %d to %d: panics is %v, want %v", size, from, at, got, want)
				}
				tail := func() { p.ours.SealTail(array[at:at], nonce, array[from:from+size], []byte{1}, nil) }
				if got, want := panics(tail), size > 0 && from != at && from < at+size+1+Overhead && at < from+size; got != want {
					t.Errorf("SealTail of %d bytes from %d to %d: panics is %v, want %v", size, from, at, got, want)
				}
				open := func(a cipher.AEAD) func() {
					return func() {
						sealed := a.Seal(nil, nonce, make([]byte, size), nil)
						copy(array[from:], sealed)
						a.Open(array[at:at], nonce, array[from:from+len(sealed)], nil)
					}
				}
				if got, want := panics(open(p.ours)), panics(open(p.std)); got != want {
					t.Errorf("Open of %d bytes from %d to %d: panics is %v, want %v", size, from, at, got, want)
				}
				text := make([]byte, n)
				aad := func(a cipher.AEAD) func() {
					return func() { a.Seal(array[at:at], nonce, text, array[from:from+size]) }
				}
				if got, want := panics(aad(p.ours)), panics(aad(p.std)); got != want {
					t.Errorf("Seal to %d with %d bytes of additional data at %d: panics is %v, want %v", at, size, from, got, want)
				}
				sealed := p.std.Seal(nil, nonce, text, array[from:from+size])
				openAAD := func(a cipher.AEAD) func() {
					return func() { a.Open(array[at:at], nonce, sealed, array[from:from+size]) }
				}
				if got, want := panics(openAAD(p.ours)), panics(openAAD(p.std)); got != want {
					t.Errorf("Open to %d with %d bytes of additional data at %d: panics is %v, want %v", at, size, from, got, want)
				}
				second := func() { p.ours.SealTail(array[at:at], nonce, text, array[from:from+size], nil) }
				if got, want := panics(second), size > 0 && from < at+n+size+Overhead && at < from+size; got != want {
					t.Errorf("SealTail to %d with a tail of %d bytes at %d: panics is %v, want %v", at, size, from, got, want)
				}
			}
		}
	})
}

func TestMisuse(t *testing.T) {
	each(t, variants(), func(t *testing.T, v variant, keyLen int) {
		a := mustNew(t, v, make([]byte, keyLen))
		if a.NonceSize() != NonceSize || a.Overhead() != Overhead {
			t.Errorf("NonceSize is %d, Overhead is %d", a.NonceSize(), a.Overhead())
		}
		for _, n := range []int{0, 1, 11, 13, 16} {
			nonce := make([]byte, n)
			for what, f := range map[string]func(){
				"Seal":     func() { a.Seal(nil, nonce, nil, nil) },
				"SealTail": func() { a.SealTail(nil, nonce, nil, nil, nil) },
				"Open":     func() { a.Open(nil, nonce, make([]byte, 40), nil) },
			} {
				if !panics(f) {
					t.Errorf("%s takes a nonce of %d bytes", what, n)
				}
			}
		}
		nonce := make([]byte, NonceSize)
		sealed := a.Seal(nil, nonce, nil, nil)
		a.Wipe()
		for what, f := range map[string]func(){
			"Seal":     func() { a.Seal(nil, nonce, nil, nil) },
			"SealTail": func() { a.SealTail(nil, nonce, nil, nil, nil) },
			"Open":     func() { a.Open(nil, nonce, sealed, nil) },
		} {
			if !panics(f) {
				t.Errorf("%s works after Wipe", what)
			}
		}
		a.Wipe()
	})
	for _, n := range []int{0, 1, 15, 17, 24, 31, 33, 64} {
		var size aes.KeySizeError
		for _, v := range variants() {
			if _, err := newAEAD(v, make([]byte, n)); !errors.As(err, &size) || int(size) != n {
				t.Errorf("%v: New with a key of %d bytes: %v", v, n, err)
			}
		}
	}
	if strconv.IntSize < 64 {
		return
	}
	nonce := make([]byte, NonceSize)
	for _, c := range []struct {
		n, tail uint64
		want    bool
	}{
		{maxPlaintext, 0, false}, {maxPlaintext + 1, 0, true}, {0, maxPlaintext, false}, {0, maxPlaintext + 1, true},
		{maxPlaintext - 5, 5, false}, {maxPlaintext - 5, 6, true}, {maxPlaintext, maxPlaintext, true},
	} {
		if got := panics(func() { check(nonce, int(c.n), int(c.tail)) }); got != c.want {
			t.Errorf("a message of %d and %d bytes: panics is %v, want %v", c.n, c.tail, got, c.want)
		}
	}
}

// One key serves many goroutines.
func TestConcurrent(t *testing.T) {
	each(t, variants(), func(t *testing.T, v variant, keyLen int) {
		bytesOf, _ := noise(6)
		key := fill(bytesOf, keyLen)
		p := newPair(t, v, key)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				bytesOf, r := noise(byte(10 + g))
				for range 100 {
					nonce, plaintext, aad := fill(bytesOf, NonceSize), fill(bytesOf, r.IntN(3000)), fill(bytesOf, r.IntN(40))
					sealed := p.ours.SealTail(nil, nonce, plaintext, aad, aad)
					if want := p.std.Seal(nil, nonce, slices.Concat(plaintext, aad), aad); !bytes.Equal(sealed, want) {
						t.Error("sealed otherwise")
						return
					}
					if got, err := p.ours.Open(nil, nonce, sealed, aad); err != nil || !bytes.Equal(got[:len(plaintext)], plaintext) {
						t.Errorf("opened otherwise: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}
