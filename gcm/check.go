package gcm

// What a caller does wrong is a panic, as in crypto/cipher.
const (
	panicNonce   = "gcm: incorrect nonce length"
	panicLong    = "gcm: message too large"
	panicOverlap = "gcm: invalid buffer overlap of output and input"
	panicAAD     = "gcm: invalid buffer overlap of output and additional data"
	panicWiped   = "gcm: use of a wiped key"
)

// check panics for a nonce of the wrong length and for a message whose two parts
// are longer than SP 800-38D allows.
func check(nonce []byte, n, tail int) {
	if len(nonce) != NonceSize {
		panic(panicNonce)
	}
	if uint64(n) > maxPlaintext || uint64(tail) > maxPlaintext-uint64(n) {
		panic(panicLong)
	}
}

// checkOverlap panics where an input of seal lies where it may not.
func checkOverlap(out, plaintext, tail, additionalData []byte) {
	if misplaced(out, plaintext) || overlaps(out, tail) {
		panic(panicOverlap)
	}
	if overlaps(out, additionalData) {
		panic(panicAAD)
	}
}
