// Package gcm is AES-GCM (NIST SP 800-38D) for the records of TLS: AES-128 and
// AES-256, nonces of 96 bits, tags of 128, as AEAD_AES_128_GCM and
// AEAD_AES_256_GCM of RFC 5116. Where an amd64 processor has the vector forms of
// the AES and carry-less multiplication instructions it uses assembly of its
// own, which takes a quarter (with AVX-512) to a half of the time; everywhere
// else it is crypto/cipher.
//
// How a message goes:
//
//	New ── choose.go ─┬─ generic.go         crypto/cipher
//	                  └─ vaes_amd64.go      key schedule and powers of H (setup_amd64.s)
//	Seal, SealTail, Open: overlap.go, then pieces of at most 256 kB
//	      each piece: avx512_amd64.s or avx2_amd64.s, one call, from the nonce to the tag
//
// The assembly is written by internal/asm. docs/gcm.md says how it is tested and
// why it may be trusted.
package gcm

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
)

//go:generate go run ./internal/asm

const (
	// NonceSize is the length of a nonce in bytes.
	NonceSize = 12
	// Overhead is by how many bytes a sealed message is longer: its tag.
	Overhead = 16

	// maxPlaintext is the longest plaintext of SP 800-38D, 5.2.1.1, in bytes.
	maxPlaintext = 1<<36 - 32

	// piece is how much one call of the assembly does at most, for nothing
	// preempts it: some 15 µs. It is a multiple of each variant's chunk.
	piece = 256 << 10
)

var errOpen = errors.New("gcm: message authentication failed")

// AEAD is a key for AES-GCM. Like the objects of crypto/cipher it may be used by
// many goroutines at once; only Wipe must be alone. A nonce must never be used
// for two messages under one key (SP 800-38D, 8).
type AEAD interface {
	// Seal and Open keep the contract of [cipher.AEAD] as [cipher.NewGCM]
	// does. They append to dst and do not allocate when it has the capacity.
	// The input may begin exactly where the output does; they panic when the
	// two overlap in another way, when the output overlaps the additional
	// data, when the nonce has not [NonceSize] bytes, and Seal when the
	// plaintext is longer than 2^36-32 bytes. Open clears what it has
	// written when it returns an error.
	cipher.AEAD

	// SealTail is Seal for a plaintext in two parts, plaintext followed by
	// tail, which does not copy the first into place: a TLS 1.3 record is a
	// payload that somebody else owns, then the content type and the padding
	// (RFC 8446, 5.2). Plaintext may begin exactly where the output does;
	// otherwise it must not overlap the output. Tail never may.
	SealTail(dst, nonce, plaintext, tail, additionalData []byte) []byte

	// Wipe overwrites the key and all that follows from it, as far as this
	// package holds it: in the generic variant the key is crypto/cipher's,
	// and is left to the garbage collector. Seal and Open panic afterwards.
	Wipe()
}

// New returns the AEAD for a key of 16 or 32 bytes, which it copies. The errors
// are an [aes.KeySizeError], and that of [cipher.NewGCM] where
// GODEBUG=fips140=only forbids the caller's nonces.
func New(key []byte) (AEAD, error) { return newAEAD(chosen, key) }

// newAEAD makes the AEAD of a variant that this machine can run.
func newAEAD(v variant, key []byte) (AEAD, error) {
	if len(key) != 16 && len(key) != 32 {
		return nil, aes.KeySizeError(len(key))
	}
	if v == variantGeneric {
		return newGeneric(key)
	}
	return newVAES(v, key), nil
}

// Implementation names the variant that [New] returns: "avx512", "avx2" or
// "generic". Reason says in words why it is no faster one, or how it came to be
// this one; it is empty for the fastest.
func Implementation() (name, reason string) { return chosen.String(), chosenReason }

// extend returns in, longer by n bytes, and these n bytes.
func extend(in []byte, n int) (whole, added []byte) {
	total := len(in) + n
	if cap(in) >= total {
		whole = in[:total]
	} else {
		whole = make([]byte, total)
		copy(whole, in)
	}
	return whole, whole[len(in):]
}
