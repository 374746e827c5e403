//go:build !purego

package gcm

import "encoding/binary"

// schedule is all that follows from a key. The assembly knows its layout.
type schedule struct {
	powers [32 * 16]byte // H^32 to H^1; for avx2 16 sums of halves, then H^16 to H^1
	keys   [15 * 16]byte // round keys; also read, and ignored, as powers beyond H^1
	rounds uint64        // 10 or 14; 0: wiped
}

// state is one message on its way through calls of the assembly, which knows
// its layout.
type state struct {
	nonce   [NonceSize]byte
	counter uint32    // of the next block
	sum     [16]byte  // GHASH so far, byte-reversed; after the last call the tag
	bits    [2]uint64 // lengths in bits of the ciphertext and of the additional data
	more    uint64    // not 0: this call is not the last
}

// setup fills in keys and powers; rounds is set before. Table is the number of
// bytes of powers: 256 for avx2, 512 for avx512.
//
//go:noescape
func setup(k *schedule, key *byte, table uint64)

// absorb adds data to the sum. What is not the end of the data must be a
// multiple of 16 bytes.
//
//go:noescape
func absorb(k *schedule, s *state, data []byte)

// The functions of a variant encrypt or decrypt len(dst) bytes: first those of
// src, then, where it is shorter, those that already lie in dst. Src is then a
// multiple of 64 bytes, and what is left behind its last whole chunk, in src and
// in dst, is less than a chunk. Where state.more is set, all are whole chunks.
// Aad is at most 16 bytes, and only for the first call of a message.

//go:noescape
func sealAVX512(k *schedule, s *state, dst, src, aad []byte)

//go:noescape
func openAVX512(k *schedule, s *state, dst, src, aad []byte)

//go:noescape
func sealAVX2(k *schedule, s *state, dst, src, aad []byte)

//go:noescape
func openAVX2(k *schedule, s *state, dst, src, aad []byte)

// leaf7 is ECX of CPUID leaf 7.
func leaf7() (ecx uint32)

// vaes is a key for the assembly. It does not change between New and Wipe.
type vaes struct {
	schedule
	variant variant
}

func newVAES(v variant, key []byte) AEAD {
	a := &vaes{variant: v}
	a.rounds = uint64(6 + len(key)/4)
	setup(&a.schedule, &key[0], uint64(a.chunk()))
	return a
}

// chunk is how many bytes the main loop of the variant takes in one turn, which
// is also the length of its table of powers: one for each block.
func (a *vaes) chunk() int {
	if a.variant == variantAVX512 {
		return 512
	}
	return 256
}

func (a *vaes) NonceSize() int { return NonceSize }

func (a *vaes) Overhead() int { return Overhead }

// String shows what is no secret, so that printing a key does not give it away.
func (a *vaes) String() string { return "AES-GCM key (" + a.variant.String() + ")" }

// GoString is String.
func (a *vaes) GoString() string { return a.String() }

func (a *vaes) Wipe() { a.schedule = schedule{} }

func (a *vaes) Seal(dst, nonce, plaintext, additionalData []byte) []byte {
	return a.SealTail(dst, nonce, plaintext, nil, additionalData)
}

func (a *vaes) SealTail(dst, nonce, plaintext, tail, additionalData []byte) []byte {
	check(nonce, len(plaintext), len(tail))
	whole, out := extend(dst, len(plaintext)+len(tail)+Overhead)
	checkOverlap(out, plaintext, tail, additionalData)
	var s state
	a.begin(&s, nonce, 2, len(out)-Overhead, additionalData)
	a.seal(&s, out, plaintext, tail, additionalData)
	return whole
}

func (a *vaes) Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error) {
	if len(nonce) != NonceSize {
		panic(panicNonce)
	}
	n := len(ciphertext) - Overhead
	if n < 0 || uint64(n) > maxPlaintext {
		return nil, errOpen
	}
	whole, out := extend(dst, n)
	if misplaced(out, ciphertext) {
		panic(panicOverlap)
	}
	if overlaps(out, additionalData) {
		panic(panicAAD)
	}
	var s state
	a.begin(&s, nonce, 2, n, additionalData)
	if !a.open(&s, out, ciphertext, additionalData) {
		clear(out)
		return nil, errOpen
	}
	return whole, nil
}

// begin fills in the state of a message of n bytes. The counter of its first
// block is 2 (SP 800-38D, 7.1); tests begin elsewhere.
func (a *vaes) begin(s *state, nonce []byte, counter uint32, n int, additionalData []byte) {
	if a.rounds == 0 {
		panic(panicWiped)
	}
	s.nonce = [NonceSize]byte(nonce)
	s.counter = counter
	s.bits = [2]uint64{uint64(n) * 8, uint64(len(additionalData)) * 8}
}

// short returns additional data that is left to the assembly of the variant,
// after longer ones were absorbed.
func (a *vaes) short(s *state, additionalData []byte) []byte {
	if len(additionalData) <= 16 {
		return additionalData
	}
	for len(additionalData) > piece {
		absorb(&a.schedule, s, additionalData[:piece])
		additionalData = additionalData[piece:]
	}
	absorb(&a.schedule, s, additionalData)
	return nil
}

// seal fills out: the ciphertext of plaintext and tail, then the tag.
func (a *vaes) seal(s *state, out, plaintext, tail, additionalData []byte) {
	aad := a.short(s, additionalData)
	n := len(out) - Overhead
	body := out[:n]
	if len(tail) > 0 {
		// The end of the plaintext and the tail are put together where they
		// belong, which leaves at most that to copy.
		head := len(plaintext) &^ 63
		chunk := a.chunk()
		long := len(plaintext)%chunk+len(tail) >= chunk
		if long {
			head = len(plaintext) &^ (chunk - 1)
		}
		copy(body[head:], plaintext[head:])
		copy(body[len(plaintext):], tail)
		plaintext = plaintext[:head]
		if long {
			aad = a.run(s, body[:head], plaintext, aad, sealing, goesOn)
			body = body[head:]
			plaintext = body
		}
	}
	a.run(s, body, plaintext, aad, sealing, ends)
	*(*[Overhead]byte)(out[n:]) = s.sum
	*s = state{}
}

// open fills out with the plaintext of ciphertext, which ends in the tag, and
// reports whether the tag is right. It takes the same time for each wrong one.
func (a *vaes) open(s *state, out, ciphertext, additionalData []byte) bool {
	aad := a.short(s, additionalData)
	n := len(out)
	a.run(s, out, ciphertext[:n], aad, opening, ends)
	tag := ciphertext[n:]
	wrong := binary.LittleEndian.Uint64(tag) ^ binary.LittleEndian.Uint64(s.sum[:])
	wrong |= binary.LittleEndian.Uint64(tag[8:]) ^ binary.LittleEndian.Uint64(s.sum[8:])
	*s = state{}
	return wrong == 0
}

// What run does, and whether it is the last run of the message.
const (
	sealing, opening = false, true
	goesOn, ends     = false, true
)

// run calls the assembly for dst and src, piece by piece. It returns the
// additional data that are still to be seen to.
func (a *vaes) run(s *state, dst, src, aad []byte, open, last bool) []byte {
	s.more = 1
	for len(src) > piece || !last && len(src) > 0 {
		n := min(len(src), piece)
		a.call(s, dst[:n], src[:n], aad, open)
		s.counter += uint32(n / 16)
		dst, src, aad = dst[n:], src[n:], nil
	}
	if last {
		s.more = 0
		a.call(s, dst, src, aad, open)
	}
	return aad
}

// call is one call of the assembly. The functions are named, for through a
// variable the compiler could not know that they keep no pointer.
func (a *vaes) call(s *state, dst, src, aad []byte, open bool) {
	switch {
	case a.variant == variantAVX512 && open:
		openAVX512(&a.schedule, s, dst, src, aad)
	case a.variant == variantAVX512:
		sealAVX512(&a.schedule, s, dst, src, aad)
	case open:
		openAVX2(&a.schedule, s, dst, src, aad)
	default:
		sealAVX2(&a.schedule, s, dst, src, aad)
	}
}
