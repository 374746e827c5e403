package record

import (
	"encoding/binary"
	"math/bits"
)

// A mask for a sequence number is the beginning of one block of ChaCha20
// (RFC 8439, 2.3), of which no more than two bytes are needed. Written out here
// it needs no object that would have to be made for each record, and its key can
// be wiped.

func chachaWords(key []byte) (w [8]uint32) {
	for i := range w {
		w[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	return w
}

// chachaFirstWord returns the first word of the ChaCha20 block whose counter and
// nonce are the 16 bytes of sample. Its bytes go out in little-endian order.
func chachaFirstWord(key *[8]uint32, sample []byte) uint32 {
	const c0, c1, c2, c3 = 0x61707865, 0x3320646e, 0x79622d32, 0x6b206574 // "expand 32-byte k"
	x0, x1, x2, x3 := uint32(c0), uint32(c1), uint32(c2), uint32(c3)
	x4, x5, x6, x7 := key[0], key[1], key[2], key[3]
	x8, x9, x10, x11 := key[4], key[5], key[6], key[7]
	x12, x13 := binary.LittleEndian.Uint32(sample), binary.LittleEndian.Uint32(sample[4:])
	x14, x15 := binary.LittleEndian.Uint32(sample[8:]), binary.LittleEndian.Uint32(sample[12:])
	for range 10 {
		x0, x4, x8, x12 = quarterRound(x0, x4, x8, x12)
		x1, x5, x9, x13 = quarterRound(x1, x5, x9, x13)
		x2, x6, x10, x14 = quarterRound(x2, x6, x10, x14)
		x3, x7, x11, x15 = quarterRound(x3, x7, x11, x15)
		x0, x5, x10, x15 = quarterRound(x0, x5, x10, x15)
		x1, x6, x11, x12 = quarterRound(x1, x6, x11, x12)
		x2, x7, x8, x13 = quarterRound(x2, x7, x8, x13)
		x3, x4, x9, x14 = quarterRound(x3, x4, x9, x14)
	}
	return x0 + c0
}

// quarterRound is RFC 8439, 2.1.
func quarterRound(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	a += b
	d = bits.RotateLeft32(d^a, 16)
	c += d
	b = bits.RotateLeft32(b^c, 12)
	a += b
	d = bits.RotateLeft32(d^a, 8)
	c += d
	b = bits.RotateLeft32(b^c, 7)
	return a, b, c, d
}
