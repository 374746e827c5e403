package record_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/aftls/aftls/record"
)

// This file is the yardstick: what the RFCs say of suites, nonces, additional
// data and key derivation, written down a second time without a look at the
// package's own tables. It aims at being plain, not fast.

// profile is one cipher suite as the RFCs describe it.
type profile struct {
	version  uint16
	id       uint16
	hash     func() hash.Hash
	keyLen   int
	ivLen    int
	explicit int // nonce bytes that travel in the record
	chacha   bool
}

func (p profile) String() string {
	return fmt.Sprintf("%s/%s", tls.VersionName(p.version), tls.CipherSuiteName(p.id))
}

func (p profile) is13() bool { return p.version == record.TLS13 }

var profiles = []profile{
	{record.TLS13, tls.TLS_AES_128_GCM_SHA256, sha256.New, 16, 12, 0, false},
	{record.TLS13, tls.TLS_AES_256_GCM_SHA384, sha512.New384, 32, 12, 0, false},
	{record.TLS13, tls.TLS_CHACHA20_POLY1305_SHA256, sha256.New, 32, 12, 0, true},
	{record.TLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, sha256.New, 16, 4, 8, false},
	{record.TLS12, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, sha512.New384, 32, 4, 8, false},
	{record.TLS12, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, sha256.New, 32, 12, 0, true},
	{record.TLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, sha256.New, 16, 4, 8, false},
	{record.TLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, sha512.New384, 32, 4, 8, false},
	{record.TLS12, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, sha256.New, 32, 12, 0, true},
	{record.TLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, sha256.New, 16, 4, 8, false},
	{record.TLS12, tls.TLS_RSA_WITH_AES_256_GCM_SHA384, sha512.New384, 32, 4, 8, false},
}

// constructions has every version and AEAD once: the suites after them differ
// in the handshake only, which costly tests need not repeat.
var constructions = profiles[:6]

func profilesOf(version uint16) (out []profile) {
	for _, p := range profiles {
		if p.version == version {
			out = append(out, p)
		}
	}
	return out
}

// each runs f for every profile as a subtest.
func each(t *testing.T, ps []profile, f func(t *testing.T, p profile)) {
	t.Helper()
	for _, p := range ps {
		t.Run(p.String(), func(t *testing.T) { f(t, p) })
	}
}

// noise is n bytes that repeat nowhere and are the same in every run.
func noise(label string, n int) []byte {
	out := make([]byte, 0, n+sha512.Size)
	for i := 0; len(out) < n; i++ {
		sum := sha512.Sum512(fmt.Appendf(nil, "%s %d", label, i))
		out = append(out, sum[:]...)
	}
	return out[:n:n]
}

// keys of one direction, the same in every run. In TLS 1.3 they come with the
// secret they follow from.
func (p profile) keys(label string, seq uint64) record.Keys {
	k := record.Keys{Version: p.version, Suite: p.id, Seq: seq}
	if p.is13() {
		k.Secret = noise("secret "+label, p.hash().Size())
		k.Key = expandByHand(p.hash, k.Secret, "key", p.keyLen)
		k.IV = expandByHand(p.hash, k.Secret, "iv", p.ivLen)
		return k
	}
	k.Key, k.IV = noise("key "+label, p.keyLen), noise("iv "+label, p.ivLen)
	return k
}

func (p profile) pair(tb testing.TB, seq uint64) (*record.Sealer, *record.Opener) {
	tb.Helper()
	return sealer(tb, p.keys("pair", seq)), opener(tb, p.keys("pair", seq))
}

func sealer(tb testing.TB, k record.Keys) *record.Sealer {
	tb.Helper()
	s, err := record.NewSealer(k)
	if err != nil {
		tb.Fatalf("NewSealer: %v", err)
	}
	return s
}

func opener(tb testing.TB, k record.Keys) *record.Opener {
	tb.Helper()
	o, err := record.NewOpener(k)
	if err != nil {
		tb.Fatalf("NewOpener: %v", err)
	}
	return o
}

func (p profile) aead(key []byte) cipher.AEAD {
	if p.chacha {
		a, err := chacha20poly1305.New(key)
		if err != nil {
			panic(err)
		}
		return a
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		panic(err)
	}
	return a
}

// xorNonce is RFC 8446, 5.3: the number, left-padded with zeros to the length
// of the iv, xored with it.
func xorNonce(iv []byte, seq uint64) []byte {
	n := make([]byte, 12)
	for i := range 8 {
		n[11-i] = byte(seq >> (8 * i))
	}
	for i := range n {
		n[i] ^= iv[i]
	}
	return n
}

// inner13 is the TLS 1.3 record around any inner plaintext, also one that no
// sealer of ours would make.
func (p profile) inner13(k record.Keys, seq uint64, inner []byte) []byte {
	n := len(inner) + 16
	head := []byte{23, 3, 3, byte(n >> 8), byte(n)}
	return append(head, p.aead(k.Key).Seal(nil, xorNonce(k.IV, seq), inner, head)...)
}

// record12 is RFC 5246, 6.2.3.3 with the nonce of RFC 5288 or RFC 7905.
func (p profile) record12(k record.Keys, seq, explicit uint64, typ record.ContentType, payload []byte) []byte {
	nonce := xorNonce(append(make([]byte, 12-p.ivLen), k.IV...), seq)
	var sent []byte
	if p.explicit > 0 {
		sent = binary.BigEndian.AppendUint64(nil, explicit)
		nonce = append(append([]byte(nil), k.IV...), sent...)
	}
	aad := binary.BigEndian.AppendUint64(nil, seq)
	aad = append(aad, byte(typ), 3, 3, byte(len(payload)>>8), byte(len(payload)))
	n := p.explicit + len(payload) + 16
	rec := append([]byte{byte(typ), 3, 3, byte(n >> 8), byte(n)}, sent...)
	return append(rec, p.aead(k.Key).Seal(nil, nonce, payload, aad)...)
}

// byHand is the record that a sealer of these keys must make, with pad zeros.
func (p profile) byHand(k record.Keys, seq uint64, typ record.ContentType, payload []byte, pad int) []byte {
	if !p.is13() {
		return p.record12(k, seq, seq, typ, payload)
	}
	inner := append(append([]byte(nil), payload...), byte(typ))
	return p.inner13(k, seq, append(inner, make([]byte, pad)...))
}

// expandByHand is HKDF-Expand-Label with an empty context for outputs of one
// hash length at most: the first block of RFC 5869, 2.3 is then all there is.
func expandByHand(h func() hash.Hash, secret []byte, label string, n int) []byte {
	label = "tls13 " + label
	m := hmac.New(h, secret)
	if n > m.Size() {
		panic("more than one block")
	}
	m.Write([]byte{byte(n >> 8), byte(n), byte(len(label))})
	m.Write([]byte(label))
	m.Write([]byte{0, 1})
	return m.Sum(nil)[:n]
}

// prfByHand is the PRF of RFC 5246, 5, block by block from its definition.
func prfByHand(h func() hash.Hash, secret []byte, label string, seed []byte, n int) []byte {
	mac := func(parts ...[]byte) []byte {
		m := hmac.New(h, secret)
		for _, b := range parts {
			m.Write(b)
		}
		return m.Sum(nil)
	}
	seed = append([]byte(label), seed...)
	var out []byte
	for a := mac(seed); len(out) < n; a = mac(a) {
		out = append(out, mac(a, seed)...)
	}
	return out[:n]
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}
