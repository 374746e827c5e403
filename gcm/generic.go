package gcm

import (
	"crypto/aes"
	"crypto/cipher"
)

// generic is crypto/cipher. Its checks and its panics are those of the standard
// library.
type generic struct{ aead cipher.AEAD }

func newGeneric(key []byte) (AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &generic{aead}, nil
}

func (g *generic) NonceSize() int { return NonceSize }

func (g *generic) Overhead() int { return Overhead }

func (g *generic) key() cipher.AEAD {
	if g.aead == nil {
		panic(panicWiped)
	}
	return g.aead
}

func (g *generic) Seal(dst, nonce, plaintext, additionalData []byte) []byte {
	return g.key().Seal(dst, nonce, plaintext, additionalData)
}

func (g *generic) Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error) {
	return g.key().Open(dst, nonce, ciphertext, additionalData)
}

func (g *generic) SealTail(dst, nonce, plaintext, tail, additionalData []byte) []byte {
	key, n := g.key(), len(plaintext)+len(tail)
	check(nonce, len(plaintext), len(tail))
	whole, out := extend(dst, n+Overhead)
	checkOverlap(out, plaintext, tail, additionalData)
	copy(out, plaintext)
	copy(out[len(plaintext):], tail)
	key.Seal(out[:0], nonce, out[:n], additionalData)
	return whole
}

func (g *generic) Wipe() { g.aead = nil }
