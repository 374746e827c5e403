package afd

import (
	"encoding/binary"
	"errors"

	"github.com/aftls/aftls/record"
)

// What a program says of one direction: the crypto_info of linux/tls.h, or a
// traffic secret. Numbers of this machine's byte order but for rec_seq, which is
// that of the wire.

// Cipher types of linux/tls.h that the record layer serves.
const (
	cipherAESGCM128 = 51
	cipherAESGCM256 = 52
	cipherChaCha    = 54
)

// Errors of keys, which a socket call answers with EINVAL.
var (
	ErrKeyLength  = errors.New("afd: the keys do not have the length of their cipher's structure")
	ErrCipher     = errors.New("afd: the cipher is not one of AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305")
	ErrKeyVersion = errors.New("afd: the version is not one that these keys can be of: TLS 1.2, TLS 1.3, DTLS 1.2; a traffic secret TLS 1.3, DTLS 1.3")
	ErrKeyEpoch   = errors.New("afd: rec_seq has no epoch of DTLS in its first 16 bits that has keys")
)

// layout is struct tls12_crypto_info_* behind version and cipher_type.
type layout struct {
	iv, key, salt int
	suite13       uint16
	suite12       uint16 // one of those with this cipher: they differ in the handshake only
	secretLen     int
}

const (
	infoHead = 4
	seqLen   = 8
)

func (l *layout) size() int { return infoHead + l.iv + l.key + l.salt + seqLen }

var layouts = map[uint16]*layout{
	cipherAESGCM128: {8, 16, 4, 0x1301, 0xc02f, 32},
	cipherAESGCM256: {8, 32, 4, 0x1302, 0xc030, 48},
	cipherChaCha:    {12, 32, 0, 0x1303, 0xcca8, 32},
}

// head reads what every form begins with.
func head(b []byte) (version uint16, l *layout, err error) {
	if len(b) < infoHead {
		return 0, nil, ErrKeyLength
	}
	version = binary.NativeEndian.Uint16(b)
	l = layouts[binary.NativeEndian.Uint16(b[2:])]
	if l == nil {
		return 0, nil, ErrCipher
	}
	return version, l, nil
}

func (l *layout) suite(version uint16) uint16 {
	if version == record.TLS13 {
		return l.suite13
	}
	return l.suite12
}

// isDatagram reports whether a version is one of DTLS.
func isDatagram(version uint16) bool { return version == record.DTLS12 || version == record.DTLS13 }

// In rec_seq a number of DTLS has its epoch in front (RFC 6347, 4.1).
const (
	numberBits = 48
	maxNumber  = 1<<numberBits - 1
)

// setNumber sets the number of the next record from rec_seq.
func setNumber(k *record.Keys, seq []byte) error {
	k.Seq = binary.BigEndian.Uint64(seq)
	if !isDatagram(k.Version) {
		return nil
	}
	k.Epoch, k.Seq = k.Seq>>numberBits, k.Seq&maxNumber
	if k.Epoch == 0 {
		return ErrKeyEpoch
	}
	return nil
}

// number is rec_seq, and false where that cannot say it: there is no next record.
func number(k record.Keys) (n uint64, ok bool) {
	if !isDatagram(k.Version) {
		return k.Seq, true
	}
	return k.Epoch<<numberBits | k.Seq, k.Seq <= maxNumber && k.Epoch <= 1<<(64-numberBits)-1
}

// ParseCryptoInfo reads a struct tls12_crypto_info_*. The keys are a copy.
func ParseCryptoInfo(b []byte) (record.Keys, error) {
	version, l, err := head(b)
	if err != nil {
		return record.Keys{}, err
	}
	if version != record.TLS12 && version != record.TLS13 && version != record.DTLS12 {
		return record.Keys{}, ErrKeyVersion
	}
	if len(b) != l.size() {
		return record.Keys{}, ErrKeyLength
	}
	iv := b[infoHead:][:l.iv]
	key := b[infoHead+l.iv:][:l.key]
	salt := b[infoHead+l.iv+l.key:][:l.salt]
	k := record.Keys{
		Version: version,
		Suite:   l.suite(version),
		Key:     append([]byte(nil), key...),
		IV:      append([]byte(nil), salt...),
	}
	if version == record.TLS13 || l.salt == 0 {
		k.IV = append(k.IV, iv...)
	}
	if err := setNumber(&k, b[len(b)-seqLen:]); err != nil {
		k.Wipe()
		return record.Keys{}, err
	}
	return k, nil
}

// AppendCryptoInfo appends the struct tls12_crypto_info_* of k. Of TLS 1.2 and DTLS 1.2
// with AES-GCM the iv is the explicit nonce of the next record, which is its number.
func AppendCryptoInfo(b []byte, k record.Keys) ([]byte, error) {
	if err := k.Derive(); err != nil {
		return b, err
	}
	seq, ok := number(k)
	if !ok {
		return b, ErrKeyEpoch
	}
	for cipher, l := range layouts {
		if len(k.Key) != l.key || (l.salt == 0) != isChaCha(k.Suite) {
			continue
		}
		b = binary.NativeEndian.AppendUint16(b, k.Version)
		b = binary.NativeEndian.AppendUint16(b, cipher)
		if len(k.IV) == l.salt && l.salt > 0 {
			b = binary.BigEndian.AppendUint64(b, seq)
		} else {
			b = append(b, k.IV[l.salt:]...)
		}
		b = append(b, k.Key...)
		b = append(b, k.IV[:l.salt]...)
		return binary.BigEndian.AppendUint64(b, seq), nil
	}
	return b, ErrCipher
}

func isChaCha(suite uint16) bool { return suite == 0x1303 || suite == 0xcca8 || suite == 0xcca9 }

// The traffic secret of one direction, struct aftls_traffic_secret.
const (
	secretMax  = 48
	secretSize = infoHead + 4 + seqLen + secretMax
)

// ParseTrafficSecret reads a struct aftls_traffic_secret: TLS 1.3 or DTLS 1.3, from
// whose secret the keys and all later ones follow (RFC 8446, 7.2 and 7.3).
func ParseTrafficSecret(b []byte) (record.Keys, error) {
	version, l, err := head(b)
	if err != nil {
		return record.Keys{}, err
	}
	if version != record.TLS13 && version != record.DTLS13 {
		return record.Keys{}, ErrKeyVersion
	}
	if len(b) != secretSize || int(binary.NativeEndian.Uint16(b[infoHead:])) != l.secretLen {
		return record.Keys{}, ErrKeyLength
	}
	secret, seq := b[infoHead+4+seqLen:][:l.secretLen], b[infoHead+4:][:seqLen]
	var k record.Keys
	if version == record.TLS13 {
		k, err = record.TrafficKeys(l.suite13, secret)
	} else {
		k, err = record.DatagramTrafficKeys(l.suite13, secret, binary.BigEndian.Uint64(seq)>>numberBits)
		if errors.Is(err, record.ErrEpoch) {
			err = ErrKeyEpoch
		}
	}
	if err == nil {
		err = setNumber(&k, seq)
	}
	if err != nil {
		k.Wipe()
	}
	return k, err
}
