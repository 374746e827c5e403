//go:build !purego

package gcm

import (
	"bytes"
	"crypto/aes"
	"encoding/binary"
	"fmt"
	"testing"
	"unsafe"
)

// slow is SP 800-38D by the letter, one bit at a time, but for the number that
// the counter of the first block of data has.
type slow struct {
	key     []byte
	counter uint32
}

func (s slow) encrypt(block [16]byte) (out [16]byte) {
	b, err := aes.NewCipher(s.key)
	if err != nil {
		panic(err)
	}
	b.Encrypt(out[:], block[:])
	return out
}

// gctr is algorithm 3; the counter wraps at 32 bits (6.2).
func (s slow) gctr(nonce, data []byte, counter uint32) []byte {
	out := bytes.Clone(data)
	for at := 0; at < len(out); at += 16 {
		var block [16]byte
		copy(block[:], nonce)
		binary.BigEndian.PutUint32(block[12:], counter)
		counter++
		stream := s.encrypt(block)
		for i := at; i < min(at+16, len(out)); i++ {
			out[i] ^= stream[i-at]
		}
	}
	return out
}

// times is algorithm 1.
func times(x, y [16]byte) (z [16]byte) {
	v := y
	for i := range 128 {
		if x[i/8]>>(7-i%8)&1 == 1 {
			for j := range z {
				z[j] ^= v[j]
			}
		}
		odd := v[15]&1 == 1
		for j := 15; j > 0; j-- {
			v[j] = v[j]>>1 | v[j-1]<<7
		}
		v[0] >>= 1
		if odd {
			v[0] ^= 0xe1
		}
	}
	return z
}

// seal is algorithm 4.
func (s slow) seal(nonce, plaintext, aad []byte) []byte {
	h := s.encrypt([16]byte{})
	out := s.gctr(nonce, plaintext, s.counter)
	padded := func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, (16-len(b)%16)%16)...) }
	all := append(padded(aad), padded(out)...)
	all = binary.BigEndian.AppendUint64(all, uint64(len(aad))*8)
	all = binary.BigEndian.AppendUint64(all, uint64(len(out))*8)
	var y [16]byte
	for ; len(all) > 0; all = all[16:] {
		for i := range y {
			y[i] ^= all[i]
		}
		y = times(y, h)
	}
	return append(out, s.gctr(nonce, y[:], 1)...)
}

// from seals and opens with the assembly, the counter beginning anywhere.
func (a *vaes) from(counter uint32, nonce, plaintext, tail, aad []byte) (sealed, opened []byte, ok bool) {
	n := len(plaintext) + len(tail)
	sealed = make([]byte, n+Overhead)
	var s state
	a.begin(&s, nonce, counter, n, aad)
	a.seal(&s, sealed, plaintext, tail, aad)
	opened = make([]byte, n)
	a.begin(&s, nonce, counter, n, aad)
	ok = a.open(&s, opened, sealed, aad)
	return
}

// A nonce of 96 bits starts the counter at 1, so that no message that can be
// made reaches the wrap. It is right all the same.
func TestCounterWraps(t *testing.T) {
	each(t, assembly(), func(t *testing.T, v variant, keyLen int) {
		bytesOf, r := noise(7)
		for _, counter := range []uint32{2, 0xff, 0xfff0, 0xffffff, 0x7ffffff8, 0xfffffff0, 0xfffffffe, 0xffffffff, 0xffffffc1} {
			for _, n := range []int{0, 1, 16, 31, 33, 64, 100, 200, 256, 500, 512, 700, 1200, 2000} {
				key, nonce, plaintext, aad := fill(bytesOf, keyLen), fill(bytesOf, NonceSize), fill(bytesOf, n), fill(bytesOf, r.IntN(40))
				a := mustNew(t, v, key).(*vaes)
				want := slow{key, counter}.seal(nonce, plaintext, aad)
				cut := r.IntN(n + 1)
				sealed, opened, ok := a.from(counter, nonce, plaintext[:cut], plaintext[cut:], aad)
				if !bytes.Equal(sealed, want) {
					t.Errorf("%d bytes from counter %#x are sealed otherwise", n, counter)
				}
				if !ok || !bytes.Equal(opened, plaintext) {
					t.Errorf("%d bytes from counter %#x are opened otherwise, %v", n, counter, ok)
				}
			}
		}
		// Between two calls of the assembly.
		key, nonce, plaintext := fill(bytesOf, keyLen), fill(bytesOf, NonceSize), fill(bytesOf, piece+600)
		a := mustNew(t, v, key).(*vaes)
		for _, counter := range []uint32{1<<32 - piece/16, 1<<32 - piece/16 + 1, 1<<32 - piece/16 - 1} {
			sealed, opened, ok := a.from(counter, nonce, plaintext, nil, nil)
			if want := (slow{key, counter}).gctr(nonce, plaintext, counter); !bytes.Equal(sealed[:len(plaintext)], want) {
				t.Errorf("a long message from counter %#x is sealed otherwise", counter)
			}
			if !ok || !bytes.Equal(opened, plaintext) {
				t.Errorf("a long message from counter %#x is opened otherwise, %v", counter, ok)
			}
		}
	})
}

// The reference itself is compared to the standard library.
func TestSlow(t *testing.T) {
	bytesOf, r := noise(8)
	for _, keyLen := range []int{16, 32} {
		for n := range 70 {
			key, nonce, plaintext, aad := fill(bytesOf, keyLen), fill(bytesOf, NonceSize), fill(bytesOf, n), fill(bytesOf, r.IntN(40))
			want := standard(t, key).Seal(nil, nonce, plaintext, aad)
			if got := (slow{key, 2}).seal(nonce, plaintext, aad); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes: %x, want %x", n, got, want)
			}
		}
	}
}

// The generator knows these numbers: internal/asm/main.go.
func TestLayout(t *testing.T) {
	var k schedule
	var s state
	for what, c := range map[string]struct{ got, want uintptr }{
		"schedule.powers": {unsafe.Offsetof(k.powers), 0},
		"schedule.keys":   {unsafe.Offsetof(k.keys), 512},
		"schedule.rounds": {unsafe.Offsetof(k.rounds), 752},
		"state.nonce":     {unsafe.Offsetof(s.nonce), 0},
		"state.counter":   {unsafe.Offsetof(s.counter), 12},
		"state.sum":       {unsafe.Offsetof(s.sum), 16},
		"state.bits":      {unsafe.Offsetof(s.bits), 32},
		"state.more":      {unsafe.Offsetof(s.more), 48},
	} {
		if c.got != c.want {
			t.Errorf("%s stands at %d, not at %d", what, c.got, c.want)
		}
	}
	// 768 is one of the sizes that Go allocates; idle connections hold two.
	if size := unsafe.Sizeof(vaes{}); size > 768 {
		t.Errorf("a key takes %d bytes", size)
	}
}

// The key schedule is that of FIPS 197: its last round key tells, for the keys
// of appendix A.
func TestKeySchedule(t *testing.T) {
	for _, c := range []struct{ key, last string }{
		{"2b7e151628aed2a6abf7158809cf4f3c", "d014f9a8c9ee2589e13f0cc8b6630ca6"},
		{"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4", "fe4890d1e6188d0b046df344706c631e"},
	} {
		for _, v := range variants()[1:] {
			a := mustNew(t, v, unhex(t, c.key)).(*vaes)
			if got := fmt.Sprintf("%x", a.keys[16*a.rounds:][:16]); got != c.last {
				t.Errorf("%v: the last round key is %s, want %s", v, got, c.last)
			}
		}
	}
}

func TestPrintsNoSecret(t *testing.T) {
	for _, v := range variants()[1:] {
		a := mustNew(t, v, make([]byte, 16))
		for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
			if got, want := fmt.Sprintf(format, a), "AES-GCM key ("+v.String()+")"; got != want {
				t.Errorf("printed with %s a key is %.80q, want %q", format, got, want)
			}
		}
	}
}

func TestWipeClears(t *testing.T) {
	each(t, assembly(), func(t *testing.T, v variant, keyLen int) {
		a := mustNew(t, v, bytes.Repeat([]byte{1}, keyLen)).(*vaes)
		if a.schedule == (schedule{}) {
			t.Fatal("there is no key")
		}
		a.Wipe()
		if a.schedule != (schedule{}) {
			t.Error("something of the key is left")
		}
	})
}

// assembly are the variants that this machine can run and crypto/cipher is not.
func assembly() []variant { return variants()[1:] }
