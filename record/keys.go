package record

import (
	"bytes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"
	"math"

	"github.com/aftls/aftls/gcm"
	"golang.org/x/crypto/chacha20poly1305"
)

// suite is what the record layer needs to know of a cipher suite.
type suite struct {
	version uint16
	hash    func() hash.Hash
	hashLen int
	keyLen  int
	ivLen   int // 4: TLS 1.2 GCM, the other 8 bytes of the nonce travel in the record
	aead    aead
}

// aead is the cipher of a suite.
type aead uint8

const (
	aesGCM aead = iota
	chaCha20
	aesCCM // keys only: this package neither seals nor opens with it
)

func (s *suite) explicitLen() int { return nonceLen - s.ivLen }

// is13 reports whether keys follow from a traffic secret.
func (s *suite) is13() bool { return s.version == TLS13 || s.version == DTLS13 }

const nonceLen = 12

var (
	aes128GCM13 = suite{TLS13, sha256.New, sha256.Size, 16, 12, aesGCM}
	aes256GCM13 = suite{TLS13, sha512.New384, sha512.Size384, 32, 12, aesGCM}
	chacha13    = suite{TLS13, sha256.New, sha256.Size, 32, 12, chaCha20}
	aes128CCM13 = suite{TLS13, sha256.New, sha256.Size, 16, 12, aesCCM}
	aes128GCM12 = suite{TLS12, sha256.New, sha256.Size, 16, 4, aesGCM}
	aes256GCM12 = suite{TLS12, sha512.New384, sha512.Size384, 32, 4, aesGCM}
	aes128CCM12 = suite{TLS12, sha256.New, sha256.Size, 16, 4, aesCCM}
	chacha12    = suite{TLS12, sha256.New, sha256.Size, 32, 12, chaCha20}
)

// lookup knows the suites by their IANA numbers. The TLS 1.2 ones are those of
// RFC 5288, 5289 and 7905 that crypto/tls negotiates. Those of AES-CCM (RFC 6655 and
// 7251), which it does not, are for keys that go elsewhere.
func lookup(version, id uint16) *suite {
	if datagram(version) {
		return lookupDatagram(version, id)
	}
	var s *suite
	switch id {
	case 0x1301:
		s = &aes128GCM13
	case 0x1302:
		s = &aes256GCM13
	case 0x1303:
		s = &chacha13
	case 0x1304:
		s = &aes128CCM13
	case 0xc09c, 0xc09e, 0xc0ac:
		s = &aes128CCM12
	case 0x009c, 0xc02b, 0xc02f:
		s = &aes128GCM12
	case 0x009d, 0xc02c, 0xc030:
		s = &aes256GCM12
	case 0xcca8, 0xcca9:
		s = &chacha12
	}
	if s == nil || s.version != version {
		return nil
	}
	return s
}

// Supported reports whether this package serves the suite (its IANA number, as
// in crypto/tls) in the version.
func Supported(version, suite uint16) bool {
	s := lookup(version, suite)
	return s != nil && s.aead != aesCCM
}

// Limit returns how many records one key may seal: 2^24.5 for AES-GCM in
// TLS 1.3 and DTLS 1.3 (RFC 8446, 5.5; RFC 9147, 4.5.3), 2^23 for AES-CCM in TLS 1.3,
// as RFC 9147 has it. ChaCha20-Poly1305 and the versions before have no limit below
// that of the sequence number.
func Limit(version, id uint16) uint64 {
	switch s := lookup(version, id); {
	case s == nil || !s.is13():
	case s.aead == aesGCM:
		return 23726566
	case s.aead == aesCCM:
		return 1 << 23
	}
	return math.MaxUint64
}

// Keys is all that one direction of an association needs. Whoever holds it
// holds the connection: it is not logged and not written to files.
type Keys struct {
	Version uint16 // TLS12, TLS13, DTLS12 or DTLS13
	Suite   uint16 // IANA number

	// Secret is the TLS 1.3 or DTLS 1.3 traffic secret. Key and IV follow
	// from it and need not be set. It is empty in version 1.2, and where only
	// Key and IV are known. Without it a TLS 1.3 association cannot rekey,
	// and a DTLS 1.3 association cannot be.
	Secret []byte
	Key    []byte
	IV     []byte // implicit part of the nonce: 4 bytes in version 1.2 GCM, else 12

	Epoch uint64 // TLS: how many times the direction was rekeyed before; DTLS: the epoch
	Seq   uint64 // sequence number of the next record
}

// TrafficKeys returns the TLS 1.3 keys that follow from a traffic secret
// (RFC 8446, 7.3), at epoch 0 and sequence number 0. It keeps a copy of secret.
func TrafficKeys(suite uint16, secret []byte) (Keys, error) {
	k := Keys{Version: TLS13, Suite: suite, Secret: bytes.Clone(secret)}
	err := k.Derive()
	return k, err
}

// Derive fills Key and IV from Secret where they are missing, and checks the
// lengths of what is there. The errors are [ErrSuite] and [ErrKeyLength].
func (k *Keys) Derive() error {
	s := lookup(k.Version, k.Suite)
	if s == nil {
		return ErrSuite
	}
	if s.is13() && len(k.Key) == 0 && len(k.IV) == 0 {
		if len(k.Secret) != s.hashLen {
			return ErrKeyLength
		}
		k.Key, k.IV = expandLabel(s, k.Secret, "key", s.keyLen), expandLabel(s, k.Secret, "iv", s.ivLen)
	}
	if len(k.Key) != s.keyLen || len(k.IV) != s.ivLen {
		return ErrKeyLength
	}
	if len(k.Secret) != 0 && (!s.is13() || len(k.Secret) != s.hashLen) {
		return ErrKeyLength
	}
	return nil
}

// Next returns the keys after a KeyUpdate (RFC 8446, 7.2): the next epoch, from
// sequence number 0. The error is [ErrNoSecret] where there is no traffic
// secret, as always in TLS 1.2.
func (k Keys) Next() (Keys, error) {
	s := lookup(k.Version, k.Suite)
	if s == nil {
		return Keys{}, ErrSuite
	}
	if len(k.Secret) == 0 {
		return Keys{}, ErrNoSecret
	}
	n := Keys{Version: k.Version, Suite: k.Suite, Epoch: k.Epoch + 1,
		Secret: expandLabel(s, k.Secret, "traffic upd", s.hashLen)}
	err := n.Derive()
	return n, err
}

// String shows what is no secret, so that printing Keys does not give them away.
func (k Keys) String() string {
	return fmt.Sprintf("keys of 0x%04x/0x%04x, epoch %d, number %d", k.Version, k.Suite, k.Epoch, k.Seq)
}

// GoString is String.
func (k Keys) GoString() string { return k.String() }

// Clone returns a copy that shares no memory with k.
func (k Keys) Clone() Keys {
	k.Secret, k.Key, k.IV = bytes.Clone(k.Secret), bytes.Clone(k.Key), bytes.Clone(k.IV)
	return k
}

// Wipe overwrites the secret parts in place: every Keys that shares its slices
// is wiped with it.
func (k *Keys) Wipe() {
	clear(k.Secret)
	clear(k.Key)
	clear(k.IV)
	k.Secret, k.Key, k.IV = nil, nil, nil
}

// expandLabel is HKDF-Expand-Label with an empty context (RFC 8446, 7.1). What
// is asked for here is never longer than the hash, so the expansion (RFC 5869,
// 2.3) is one HMAC (RFC 2104). It is written out because every connection pays
// for it several times, and crypto/hmac allocates for each.
func expandLabel(s *suite, secret []byte, label string, n int) []byte {
	const maxBlock, maxInfo = sha512.BlockSize, 32
	prefix := "tls13 "
	if s.version == DTLS13 {
		prefix = "dtls13" // RFC 9147, 5.9
	}
	block := sha256.BlockSize
	if s.hashLen == sha512.Size384 {
		block = sha512.BlockSize
	}
	var inner [maxBlock + maxInfo]byte
	var outer [maxBlock + sha512.Size384]byte
	copy(inner[:block], secret)
	copy(outer[:block], secret)
	for i := range block {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	info := binary.BigEndian.AppendUint16(inner[:block], uint16(n))
	info = append(info, byte(len(prefix)+len(label)))
	info = append(info, prefix...)
	info = append(info, label...)
	info = append(info, 0, 1) // no context; block 1
	out := make([]byte, n)
	if s.hashLen == sha512.Size384 {
		h := sha512.Sum384(info)
		copy(outer[block:], h[:])
		h = sha512.Sum384(outer[:block+len(h)])
		copy(out, h[:])
	} else {
		h := sha256.Sum256(info)
		copy(outer[block:], h[:])
		h = sha256.Sum256(outer[:block+len(h)])
		copy(out, h[:])
	}
	clear(inner[:])
	clear(outer[:])
	return out
}

// KeyBlock returns the keys of both directions of a TLS 1.2 association
// (RFC 5246, 6.3). The sequence numbers are 1: the Finished messages, the only
// records under these keys so far, had 0.
func KeyBlock(suite uint16, master, clientRandom, serverRandom []byte) (client, server Keys, err error) {
	return keyBlock(Keys{Version: TLS12, Suite: suite, Seq: 1}, master, clientRandom, serverRandom)
}

// keyBlock returns k with the key and the iv of each direction.
func keyBlock(k Keys, master, clientRandom, serverRandom []byte) (client, server Keys, err error) {
	s := lookup(k.Version, k.Suite)
	if s == nil {
		return client, server, ErrSuite
	}
	seed := make([]byte, 0, 96)
	seed = append(seed, "key expansion"...)
	seed = append(seed, serverRandom...)
	seed = append(seed, clientRandom...)
	b := prf12(s.hash, master, seed, 2*(s.keyLen+s.ivLen))
	take := func(n int) []byte { out := b[:n:n]; b = b[n:]; return out }
	client, server = k, k
	client.Key, server.Key = take(s.keyLen), take(s.keyLen)
	client.IV, server.IV = take(s.ivLen), take(s.ivLen)
	return client, server, nil
}

// prf12 is P_hash of RFC 5246, 5; seed starts with the label.
func prf12(h func() hash.Hash, secret, seed []byte, n int) []byte {
	mac := hmac.New(h, secret)
	mac.Write(seed)
	a := mac.Sum(nil)
	out := make([]byte, 0, n+mac.Size())
	for len(out) < n {
		mac.Reset()
		mac.Write(a)
		mac.Write(seed)
		out = mac.Sum(out)
		mac.Reset()
		mac.Write(a)
		a = mac.Sum(a[:0])
	}
	return out[:n]
}

// holding is what half.secret is.
type holding uint8

const (
	holdsKey    holding = iota // and the iv, at ivAt
	holdsSecret                // the traffic secret
	wiped                      // zeros, which are no key
)

// half is what Sealer and Opener share: the key of one direction and where it
// stands. An idle half is this one small allocation; what follows from it, and
// is ten times larger, is made at its first use.
type half struct {
	suite  *suite
	*using // nil: not used yet under this key
	seq    uint64
	epoch  uint64
	secret [sha512.Size384]byte
	id     uint16
	hold   holding
}

// using is what it takes to seal or open.
type using struct {
	aead  cipher.AEAD
	gcm   gcm.AEAD // the same; nil for ChaCha20-Poly1305
	iv    [nonceLen]byte
	nonce [nonceLen]byte
	aad   [13]byte
	tail  [1]byte // the content type of a TLS 1.3 record
}

// ivAt is where the iv stands in half.secret behind a key.
const ivAt = 32

func (h *half) init(k Keys) error {
	h.using = nil
	s := lookup(k.Version, k.Suite)
	if s != nil && s.aead == aesCCM {
		return ErrSuite
	}
	if s != nil && s.is13() && len(k.Secret) == s.hashLen {
		if err := k.consistent(); err != nil {
			return err
		}
		copy(h.secret[:], k.Secret)
		h.hold = holdsSecret
	} else {
		if err := k.Derive(); err != nil {
			return err
		}
		copy(h.secret[:ivAt], k.Key)
		copy(h.secret[ivAt:], k.IV)
		h.hold = holdsKey
	}
	h.suite, h.id = s, k.Suite
	h.seq, h.epoch = k.Seq, k.Epoch
	return nil
}

// consistent checks that key and iv, where they are set beside a secret, follow
// from it.
func (k *Keys) consistent() error {
	if len(k.Key) == 0 && len(k.IV) == 0 {
		return nil
	}
	if err := k.Derive(); err != nil {
		return err
	}
	d := Keys{Version: k.Version, Suite: k.Suite, Secret: k.Secret}
	err := d.Derive()
	if err == nil && (!bytes.Equal(d.Key, k.Key) || !bytes.Equal(d.IV, k.IV)) {
		err = ErrKeyMismatch
	}
	clear(d.Key)
	clear(d.IV)
	return err
}

// ready makes the AEAD object. It fails where GODEBUG=fips140=only forbids
// nonces of our own (see Usable), and after wipe.
func (h *half) ready() error {
	if h.using != nil {
		return nil
	}
	if h.hold == wiped {
		return errWiped
	}
	k := h.keys()
	defer k.Wipe()
	if err := k.Derive(); err != nil {
		return err
	}
	aead, err := newAEAD(h.suite, k.Key)
	if err == nil {
		h.using = &using{aead: aead}
		h.gcm, _ = aead.(gcm.AEAD)
		copy(h.iv[:], k.IV)
	}
	return err
}

func newAEAD(s *suite, key []byte) (cipher.AEAD, error) {
	switch s.aead {
	case chaCha20:
		return chacha20poly1305.New(key)
	case aesCCM:
		return nil, ErrSuite
	}
	return gcm.New(key)
}

// Usable returns nil where this process may seal and open records of the
// suite, or the reason why not: under GODEBUG=fips140=only Go refuses AES-GCM
// with a caller's nonces, and ChaCha20-Poly1305 altogether.
func Usable(version, suite uint16) error {
	s := lookup(version, suite)
	if s == nil {
		return ErrSuite
	}
	_, err := newAEAD(s, make([]byte, s.keyLen))
	return err
}

// keys returns a copy of the keys at the next sequence number: the secret where
// there is one, else key and iv. After wipe it has neither.
func (h *half) keys() Keys {
	k := Keys{Version: h.suite.version, Suite: h.id, Epoch: h.epoch, Seq: h.seq}
	switch h.hold {
	case holdsSecret:
		k.Secret = bytes.Clone(h.secret[:h.suite.hashLen])
	case holdsKey:
		k.Key, k.IV = bytes.Clone(h.secret[:h.suite.keyLen]), bytes.Clone(h.secret[ivAt:][:h.suite.ivLen])
	}
	return k
}

// fullKeys is keys with key and iv in any case.
func (h *half) fullKeys() Keys {
	k := h.keys()
	if h.hold != wiped {
		k.Derive() // it did not fail at init
	}
	return k
}

// next replaces the secret by that of the next epoch (RFC 8446, 7.2).
func (h *half) next() error {
	if h.hold != holdsSecret {
		return ErrNoSecret
	}
	n := expandLabel(h.suite, h.secret[:h.suite.hashLen], "traffic upd", h.suite.hashLen)
	copy(h.secret[:], n)
	clear(n)
	h.unuse()
	h.seq = 0
	h.epoch++
	return nil
}

// wipe forgets the keys. The key schedule is wiped where it is package gcm's;
// that of ChaCha20-Poly1305 is left to be collected.
func (h *half) wipe() {
	h.unuse()
	clear(h.secret[:])
	h.hold = wiped
}

func (h *half) unuse() {
	if h.using != nil {
		if h.gcm != nil {
			h.gcm.Wipe()
		}
		*h.using = using{}
		h.using = nil
	}
}

// setNonce is the nonce of RFC 8446, 5.3 and RFC 7905, 2: iv xor number.
func (h *half) setNonce(seq uint64) {
	copy(h.nonce[:], h.iv[:])
	binary.BigEndian.PutUint64(h.nonce[4:], binary.BigEndian.Uint64(h.iv[4:])^seq)
}

// setAAD12 is the additional data of RFC 5246, 6.2.3.3.
func (h *half) setAAD12(seq uint64, typ ContentType, n int) {
	binary.BigEndian.PutUint64(h.aad[:], seq)
	h.aad[8], h.aad[9], h.aad[10] = byte(typ), 3, 3
	binary.BigEndian.PutUint16(h.aad[11:], uint16(n))
}
