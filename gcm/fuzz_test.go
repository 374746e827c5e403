package gcm

import (
	"bytes"
	"testing"
)

// FuzzSealOpen compares each variant with the standard library: a message cut
// in two at any place, in and out of place, and then one of its bits changed.
func FuzzSealOpen(f *testing.F) {
	bytesOf, _ := noise(20)
	for _, n := range []int{0, 1, 15, 16, 63, 64, 255, 256, 300, 511, 512, 1025, 1400} {
		f.Add(fill(bytesOf, 32), fill(bytesOf, NonceSize), fill(bytesOf, n), fill(bytesOf, 5), uint16(n), uint32(n))
		f.Add(fill(bytesOf, 16), fill(bytesOf, NonceSize), fill(bytesOf, n), fill(bytesOf, n/4), uint16(n/2), uint32(8*n+3))
	}
	f.Fuzz(func(t *testing.T, key, nonce, plaintext, aad []byte, cut uint16, flip uint32) {
		if len(key) < 32 {
			key = append(key, make([]byte, 16)...)[:16]
		}
		key = key[:min(len(key), 32)]
		nonce = append(nonce, make([]byte, NonceSize)...)[:NonceSize]
		for _, v := range variants() {
			p := newPair(t, v, key)
			p.compare(t, nonce, plaintext, aad, int(cut)%(len(plaintext)+1))
			sealed := p.ours.Seal(nil, nonce, plaintext, aad)
			sealed[int(flip/8)%len(sealed)] ^= 1 << (flip % 8)
			if got, err := p.ours.Open(nil, nonce, sealed, aad); err == nil || got != nil {
				t.Fatalf("%v: a changed message opened", v)
			}
		}
	})
}

// FuzzOpen opens what nobody sealed.
func FuzzOpen(f *testing.F) {
	f.Add([]byte("not a message at all, but long"), []byte("data"))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, sealed, aad []byte) {
		for _, v := range variants() {
			p := newPair(t, v, make([]byte, 16))
			nonce := make([]byte, NonceSize)
			want, stdErr := p.std.Open(nil, nonce, sealed, aad)
			got, err := p.ours.Open(nil, nonce, sealed, aad)
			if (err == nil) != (stdErr == nil) || !bytes.Equal(got, want) {
				t.Fatalf("%v: opened %d bytes: %v, want %v", v, len(sealed), err, stdErr)
			}
		}
	})
}
