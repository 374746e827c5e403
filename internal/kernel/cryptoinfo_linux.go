package kernel

import (
	"encoding/binary"

	"github.com/aftls/aftls/record"
)

// Options of SOL_TLS and types of control messages (linux/tls.h).
const (
	optTX            = 1
	optRX            = 2
	optZeroCopy      = 3 // TLS_TX_ZEROCOPY_RO, since 5.19
	optNoPad         = 4 // TLS_RX_EXPECT_NO_PAD, since 6.0
	optMaxPayload    = 5 // TLS_TX_MAX_PAYLOAD_LEN, since 6.19: two bytes, not four
	setRecordType    = 1
	getRecordType    = 2
	cipherAESGCM128  = 51
	cipherAESGCM256  = 52
	cipherAESCCM128  = 53
	cipherChaCha20   = 54
	infoHead         = 4  // version and cipher, native byte order
	infoMax          = 56 // of the longest struct tls12_crypto_info_…
	seqLen           = 8
	gcmIV            = 8 // explicit part of the nonce
	gcmSalt          = 4
	nonceLen         = 12
	maxMinTLS12      = 64 // least TLS_TX_MAX_PAYLOAD_LEN
	maxMinTLS13      = 63
	shortKey         = 16
	longKey          = 32
	infoLenAES128    = infoHead + gcmIV + shortKey + gcmSalt + seqLen
	infoLenLong      = infoHead + gcmIV + longKey + gcmSalt + seqLen // ChaCha20 has the same length
	chachaTLS13      = 0x1303
	chachaTLS12ECDSA = 0xcca9
	chachaTLS12RSA   = 0xcca8
	ccmTLS13         = 0x1304
	ccmTLS12RSA      = 0xc09c
	ccmTLS12DHE      = 0xc09e
	ccmTLS12ECDSA    = 0xc0ac
)

// cryptoInfo is a struct tls12_crypto_info_…, which TLS 1.3 uses too. It holds a
// key: whoever has one wipes it.
type cryptoInfo struct {
	b [infoMax]byte
	n int
}

func (i *cryptoInfo) bytes() []byte { return i.b[:i.n] }

func (i *cryptoInfo) wipe() { clear(i.b[:]) }

func cipherOf(k record.Keys) uint16 {
	switch k.Suite {
	case chachaTLS13, chachaTLS12ECDSA, chachaTLS12RSA:
		return cipherChaCha20
	case ccmTLS13, ccmTLS12RSA, ccmTLS12DHE, ccmTLS12ECDSA:
		return cipherAESCCM128 // which has the layout of AES-128-GCM
	}
	if len(k.Key) == longKey {
		return cipherAESGCM256
	}
	return cipherAESGCM128
}

// set fills i from keys whose lengths package record has checked.
//
// The nonce of AES-GCM and AES-CCM is cut into salt and iv. In TLS 1.2 the iv is what travels
// in each record: the kernel begins with ours and counts, and the number of the
// record is unique as it is for crypto/tls.
func (i *cryptoInfo) set(k record.Keys) {
	c := cipherOf(k)
	b := binary.NativeEndian.AppendUint16(i.b[:0], k.Version)
	b = binary.NativeEndian.AppendUint16(b, c)
	switch {
	case c == cipherChaCha20: // no salt
		b = append(b, k.IV...)
		b = append(b, k.Key...)
	case k.Version == record.TLS13:
		b = append(b, k.IV[gcmSalt:]...)
		b = append(b, k.Key...)
		b = append(b, k.IV[:gcmSalt]...)
	default:
		b = binary.BigEndian.AppendUint64(b, k.Seq)
		b = append(b, k.Key...)
		b = append(b, k.IV...)
	}
	i.n = len(binary.BigEndian.AppendUint64(b, k.Seq))
}

// lenFor is how long the struct for keys is.
func lenFor(k record.Keys) int {
	if len(k.Key) == shortKey {
		return infoLenAES128
	}
	return infoLenLong
}

// seq is the number of the next record.
func (i *cryptoInfo) seq() uint64 {
	return binary.BigEndian.Uint64(i.b[i.n-seqLen : i.n])
}

// key is the part of i that is the key.
func (i *cryptoInfo) key() []byte {
	at := infoHead + gcmIV
	if binary.NativeEndian.Uint16(i.b[2:]) == cipherChaCha20 {
		at = infoHead + nonceLen
	}
	if i.n == infoLenAES128 {
		return i.b[at : at+shortKey]
	}
	return i.b[at : at+longKey]
}

// head is version and cipher.
func (i *cryptoInfo) head() (version, cipher uint16) {
	return binary.NativeEndian.Uint16(i.b[:]), binary.NativeEndian.Uint16(i.b[2:])
}
