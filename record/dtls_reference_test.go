package record_test

import (
	"crypto/aes"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/crypto/chacha20"

	"github.com/aftls/aftls/record"
)

// This file is the yardstick for DTLS: what RFC 6347, 9146 and 9147 say of
// records, written down a second time from their text. It aims at being plain,
// not fast.

var datagramProfiles = []profile{
	{record.DTLS13, tls.TLS_AES_128_GCM_SHA256, sha256.New, 16, 12, 0, false},
	{record.DTLS13, tls.TLS_AES_256_GCM_SHA384, sha512.New384, 32, 12, 0, false},
	{record.DTLS13, tls.TLS_CHACHA20_POLY1305_SHA256, sha256.New, 32, 12, 0, true},
	{record.DTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, sha256.New, 16, 4, 8, false},
	{record.DTLS12, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, sha512.New384, 32, 4, 8, false},
	{record.DTLS12, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, sha256.New, 32, 12, 0, true},
	{record.DTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, sha256.New, 16, 4, 8, false},
	{record.DTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, sha512.New384, 32, 4, 8, false},
	{record.DTLS12, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, sha256.New, 32, 12, 0, true},
	{record.DTLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, sha256.New, 16, 4, 8, false},
	{record.DTLS12, tls.TLS_RSA_WITH_AES_256_GCM_SHA384, sha512.New384, 32, 4, 8, false},
	{record.DTLS12, 0x00a8, sha256.New, 16, 4, 8, false},    // PSK_WITH_AES_128_GCM_SHA256
	{record.DTLS12, 0x00a9, sha512.New384, 32, 4, 8, false}, // PSK_WITH_AES_256_GCM_SHA384
	{record.DTLS12, 0xd001, sha256.New, 16, 4, 8, false},    // ECDHE_PSK_WITH_AES_128_GCM_SHA256
	{record.DTLS12, 0xd002, sha512.New384, 32, 4, 8, false}, // ECDHE_PSK_WITH_AES_256_GCM_SHA384
	{record.DTLS12, 0xccab, sha256.New, 32, 12, 0, true},    // PSK_WITH_CHACHA20_POLY1305_SHA256
	{record.DTLS12, 0xccac, sha256.New, 32, 12, 0, true},    // ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256
}

var (
	datagramConstructions = datagramProfiles[:6]
	datagram13            = datagramProfiles[:3]
	datagram12            = datagramProfiles[3:6]
)

func (p profile) isDatagram13() bool { return p.version == record.DTLS13 }

// expandDatagram is HKDF-Expand-Label of RFC 8446, 7.1 with the prefix of RFC
// 9147, 5.9.
func (p profile) expandDatagram(secret []byte, label string, n int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len("dtls13"+label)))
	info = append(info, "dtls13"+label...)
	info = append(info, 0)
	out, err := hkdf.Expand(p.hash, secret, string(info), n)
	if err != nil {
		panic(err)
	}
	return out
}

// datagramKeys of one direction, the same in every run.
func (p profile) datagramKeys(label string, epoch, seq uint64) record.Keys {
	k := record.Keys{Version: p.version, Suite: p.id, Epoch: epoch, Seq: seq}
	if !p.isDatagram13() {
		k.Key, k.IV = noise("key "+label, p.keyLen), noise("iv "+label, p.ivLen)
		return k
	}
	return p.fromSecret(k, noise("secret "+label, p.hash().Size()))
}

func (p profile) fromSecret(k record.Keys, secret []byte) record.Keys {
	k.Secret = secret
	k.Key = p.expandDatagram(secret, "key", p.keyLen)
	k.IV = p.expandDatagram(secret, "iv", p.ivLen)
	return k
}

// updated is the keys after a KeyUpdate.
func (p profile) updated(k record.Keys) record.Keys {
	secret := p.expandDatagram(k.Secret, "traffic upd", p.hash().Size())
	return p.fromSecret(record.Keys{Version: k.Version, Suite: k.Suite, Epoch: k.Epoch + 1}, secret)
}

// spec is one record as a sender might make it.
type spec struct {
	epoch, seq uint64
	explicit   uint64 // nonce part in the record, DTLS 1.2 GCM
	typ        record.ContentType
	payload    []byte
	zeros      int
	cid        []byte
	form       record.HeaderForm
}

func (s spec) inner() []byte {
	return append(append(append([]byte(nil), s.payload...), byte(s.typ)), make([]byte, s.zeros)...)
}

// ours is the record that a sealer of this package is to make.
func (p profile) ours(k record.Keys, s spec) []byte {
	s.epoch, s.explicit = k.Epoch, k.Epoch<<48|s.seq
	return p.datagram(k, s)
}

func (p profile) datagram(k record.Keys, s spec) []byte {
	switch {
	case p.isDatagram13():
		return p.unified(k, s, s.inner())
	case len(s.cid) > 0:
		return p.withCID12(k, s, s.inner())
	}
	return p.plain12(k, s)
}

// nonce12 is RFC 5288, 3 and RFC 7905, 2, with RFC 6347, 4.1.2.1 for the number.
func (p profile) nonce12(k record.Keys, s spec) (nonce, sent []byte) {
	if p.explicit > 0 {
		sent = binary.BigEndian.AppendUint64(nil, s.explicit)
		return append(append([]byte(nil), k.IV...), sent...), sent
	}
	return xorNonce(k.IV, s.epoch<<48|s.seq), nil
}

// plain12 is RFC 6347, 4.1 and 4.1.2.1.
func (p profile) plain12(k record.Keys, s spec) []byte {
	nonce, sent := p.nonce12(k, s)
	number := numbers(s)
	aad := append(append([]byte(nil), number...), byte(s.typ), 254, 253)
	aad = binary.BigEndian.AppendUint16(aad, uint16(len(s.payload)))
	sealed := p.aead(k.Key).Seal(nil, nonce, s.payload, aad)
	rec := append([]byte{byte(s.typ), 254, 253}, number...)
	rec = binary.BigEndian.AppendUint16(rec, uint16(len(sent)+len(sealed)))
	return append(append(rec, sent...), sealed...)
}

// withCID12 is RFC 9146, 4 and 5.3 around any inner plaintext.
func (p profile) withCID12(k record.Keys, s spec, inner []byte) []byte {
	nonce, sent := p.nonce12(k, s)
	number := numbers(s)
	aad := []byte{255, 255, 255, 255, 255, 255, 255, 255, 25, byte(len(s.cid)), 25, 254, 253}
	aad = append(aad, number...)
	aad = append(aad, s.cid...)
	aad = binary.BigEndian.AppendUint16(aad, uint16(len(inner)))
	sealed := p.aead(k.Key).Seal(nil, nonce, inner, aad)
	rec := append([]byte{25, 254, 253}, number...)
	rec = append(rec, s.cid...)
	rec = binary.BigEndian.AppendUint16(rec, uint16(len(sent)+len(sealed)))
	return append(append(rec, sent...), sealed...)
}

// numbers is the epoch and the number as they stand in a DTLS 1.2 record.
func numbers(s spec) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(s.epoch))
	return append(b, binary.BigEndian.AppendUint64(nil, s.seq)[2:]...)
}

// unified is RFC 9147, 4 around any inner plaintext.
func (p profile) unified(k record.Keys, s spec, inner []byte) []byte {
	first := 0b00100000 | byte(s.epoch%4)
	var head []byte
	if len(s.cid) > 0 {
		first |= 0b00010000
		head = append(head, s.cid...)
	}
	numberAt, numberLen := 1+len(head), 1
	if s.form&record.ShortNumber == 0 {
		first |= 0b00001000
		numberLen = 2
		head = append(head, byte(s.seq>>8))
	}
	head = append(head, byte(s.seq))
	if s.form&record.NoLength == 0 {
		first |= 0b00000100
		head = binary.BigEndian.AppendUint16(head, uint16(len(inner)+16))
	}
	head = append([]byte{first}, head...)
	sealed := p.aead(k.Key).Seal(nil, xorNonce(k.IV, s.seq), inner, head)
	mask := p.mask13(k, sealed)
	for i := range numberLen {
		head[numberAt+i] ^= mask[i]
	}
	return append(head, sealed...)
}

// mask13 is RFC 9147, 4.2.3.
func (p profile) mask13(k record.Keys, ciphertext []byte) []byte {
	key := p.expandDatagram(k.Secret, "sn", p.keyLen)
	mask := make([]byte, 16)
	if !p.chacha {
		b, err := aes.NewCipher(key)
		if err != nil {
			panic(err)
		}
		b.Encrypt(mask, ciphertext[:16])
		return mask
	}
	c, err := chacha20.NewUnauthenticatedCipher(key, ciphertext[4:16])
	if err != nil {
		panic(err)
	}
	c.SetCounter(binary.LittleEndian.Uint32(ciphertext[:4]))
	c.XORKeyStream(mask, mask)
	return mask
}

// shape is a way to write headers.
type shape struct {
	cid  []byte
	form record.HeaderForm
}

func (s shape) String() string { return fmt.Sprintf("CID of %d, form %b", len(s.cid), s.form) }

// shapes are the ways in which a sealer of this profile can write headers.
func (p profile) shapes() (out []shape) {
	forms := []record.HeaderForm{0, record.ShortNumber, record.NoLength, record.ShortNumber | record.NoLength}
	if !p.isDatagram13() {
		forms = forms[:1]
	}
	for _, n := range []int{0, 1, 8, 20, 255} {
		for _, f := range forms {
			out = append(out, shape{noise("cid", n), f})
		}
	}
	return out
}

// hides reports whether records carry their type inside.
func (p profile) hides(s shape) bool { return p.isDatagram13() || len(s.cid) > 0 }

// most is the longest payload.
func (p profile) most(s shape) int {
	if !p.isDatagram13() && len(s.cid) > 0 {
		return 16383
	}
	return 16384
}

func (p profile) datagramPair(tb testing.TB, s shape, epoch, seq uint64) (*record.DatagramSealer, *record.DatagramOpener) {
	tb.Helper()
	k := p.datagramKeys("pair", epoch, seq)
	return datagramSealer(tb, k, s), datagramOpener(tb, k, s)
}

func datagramSealer(tb testing.TB, k record.Keys, sh shape) *record.DatagramSealer {
	tb.Helper()
	s, err := record.NewDatagramSealer(k, sh.cid)
	if err != nil {
		tb.Fatalf("NewDatagramSealer: %v", err)
	}
	s.SetHeader(sh.form)
	return s
}

func datagramOpener(tb testing.TB, k record.Keys, sh shape) *record.DatagramOpener {
	tb.Helper()
	o, err := record.NewDatagramOpener(k, sh.cid)
	if err != nil {
		tb.Fatalf("NewDatagramOpener: %v", err)
	}
	return o
}
