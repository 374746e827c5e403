// What only holds without the race detector, which allocates where the program
// does not and makes pools forget.

//go:build !race

package gcm

import (
	"bytes"
	"testing"
)

func TestNoAllocations(t *testing.T) {
	each(t, variants(), func(t *testing.T, v variant, keyLen int) {
		key := make([]byte, keyLen)
		a := mustNew(t, v, key)
		nonce, aad, long, tail := make([]byte, NonceSize), make([]byte, 13), make([]byte, 100), make([]byte, 256)
		plaintext := make([]byte, 16384)
		dst := make([]byte, 0, len(plaintext)+len(tail)+Overhead)
		sealed := a.Seal(nil, nonce, plaintext, aad)
		forged := bytes.Clone(sealed)
		forged[0] ^= 1
		for what, f := range map[string]func(){
			"Seal":                         func() { a.Seal(dst, nonce, plaintext, aad) },
			"Seal with longer data":        func() { a.Seal(dst, nonce, plaintext, long) },
			"SealTail":                     func() { a.SealTail(dst, nonce, plaintext, tail, aad) },
			"Open":                         func() { a.Open(dst, nonce, sealed, aad) },
			"Open of a message that fails": func() { a.Open(dst, nonce, forged, aad) },
		} {
			if got := testing.AllocsPerRun(50, f); got != 0 {
				t.Errorf("%s allocates %v times", what, got)
			}
		}
		if v != variantGeneric {
			if got := testing.AllocsPerRun(50, func() { mustNew(t, v, key) }); got != 1 {
				t.Errorf("New allocates %v times, want 1", got)
			}
		}
	})
}
