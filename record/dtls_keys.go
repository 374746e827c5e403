package record

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/sha512"
)

var (
	aes128GCMDatagram13 = suite{DTLS13, sha256.New, sha256.Size, 16, 12, aesGCM}
	aes256GCMDatagram13 = suite{DTLS13, sha512.New384, sha512.Size384, 32, 12, aesGCM}
	chachaDatagram13    = suite{DTLS13, sha256.New, sha256.Size, 32, 12, chaCha20}
	aes128GCMDatagram12 = suite{DTLS12, sha256.New, sha256.Size, 16, 4, aesGCM}
	aes256GCMDatagram12 = suite{DTLS12, sha512.New384, sha512.Size384, 32, 4, aesGCM}
	chachaDatagram12    = suite{DTLS12, sha256.New, sha256.Size, 32, 12, chaCha20}
)

func datagram(version uint16) bool { return version == DTLS12 || version == DTLS13 }

// lookupDatagram is lookup for DTLS. DTLS 1.2 has the suites of TLS 1.2, and
// those with a pre-shared key (RFC 5487, 7905 and 8442), which its peers are
// fond of.
func lookupDatagram(version, id uint16) *suite {
	var s *suite
	switch id {
	case 0x1301:
		s = &aes128GCMDatagram13
	case 0x1302:
		s = &aes256GCMDatagram13
	case 0x1303:
		s = &chachaDatagram13
	case 0x009c, 0xc02b, 0xc02f, 0x00a8, 0xd001:
		s = &aes128GCMDatagram12
	case 0x009d, 0xc02c, 0xc030, 0x00a9, 0xd002:
		s = &aes256GCMDatagram12
	case 0xcca8, 0xcca9, 0xccab, 0xccac:
		s = &chachaDatagram12
	}
	if s == nil || s.version != version {
		return nil
	}
	return s
}

// DatagramTrafficKeys returns the DTLS 1.3 keys that follow from the traffic
// secret of an epoch (RFC 9147, 5.9 and 6.1), at sequence number 0. It keeps a
// copy of secret. The errors are [ErrSuite], [ErrKeyLength], and [ErrEpoch] for
// epoch 0, which has no keys.
func DatagramTrafficKeys(suite uint16, secret []byte, epoch uint64) (Keys, error) {
	k := Keys{Version: DTLS13, Suite: suite, Secret: bytes.Clone(secret), Epoch: epoch}
	if err := k.Derive(); err != nil {
		return k, err
	}
	return k, checkEpoch(k)
}

// DatagramKeyBlock returns the keys of both directions of a DTLS 1.2 association
// (RFC 5246, 6.3), at epoch 1 and sequence number 1: the Finished messages had
// 0. A side that sent its Finished again has to set Seq higher. The error is
// [ErrSuite].
func DatagramKeyBlock(suite uint16, master, clientRandom, serverRandom []byte) (client, server Keys, err error) {
	return keyBlock(Keys{Version: DTLS12, Suite: suite, Epoch: 1, Seq: 1}, master, clientRandom, serverRandom)
}

// checkEpoch returns [ErrEpoch] where the version has no protected epoch of this
// number, or no such sequence number in it.
func checkEpoch(k Keys) error {
	if k.Epoch == 0 || k.Version == DTLS12 && (k.Epoch > maxEpoch12 || k.Seq > maxSequence12+1) {
		return ErrEpoch
	}
	return nil
}

// firstUpdated is the first epoch that a KeyUpdate can follow on: those before
// it have secrets of their own (RFC 9147, 6.1).
const firstUpdated = 3

// datagramHalf is half for DTLS: one direction in one epoch.
type datagramHalf struct {
	half
	number numberKey // ready when half.using is, in DTLS 1.3
}

// check and take the keys. The errors are those of half.init, [ErrNoSecret] in
// DTLS 1.3 without a secret, and [ErrEpoch].
func (h *datagramHalf) init(k Keys) error {
	if !datagram(k.Version) {
		return ErrSuite
	}
	if err := h.half.init(k); err != nil {
		return err
	}
	if h.suite.is13() && h.hold != holdsSecret {
		h.wipe()
		return ErrNoSecret
	}
	err := checkEpoch(k)
	if err != nil {
		h.wipe()
	}
	return err
}

// ready makes what it takes to seal and open. The errors are those of half.ready.
func (h *datagramHalf) ready() error {
	if h.using != nil {
		return nil
	}
	if err := h.half.ready(); err != nil || !h.suite.is13() {
		return err
	}
	sn := expandLabel(h.suite, h.secret[:h.suite.hashLen], "sn", h.suite.keyLen)
	defer clear(sn)
	err := h.number.init(h.suite, sn)
	if err != nil {
		h.unuse()
	}
	return err
}

// canNext reports whether next works.
func (h *datagramHalf) canNext() error {
	switch {
	case h.hold != holdsSecret:
		return ErrNoSecret
	case h.epoch < firstUpdated:
		return ErrEpoch
	}
	return nil
}

// rest forgets what follows from the keys, which ready makes again.
func (h *datagramHalf) rest() {
	h.unuse()
	h.number = numberKey{}
}

// wipe forgets the keys, as half.wipe does. The key schedule of AES for sequence
// numbers is crypto/aes's, and is left to be collected.
func (h *datagramHalf) wipe() {
	h.half.wipe()
	h.number = numberKey{}
}

// numberKey encrypts sequence numbers (RFC 9147, 4.2.3).
type numberKey struct {
	aes    cipher.Block // nil: ChaCha20
	chacha [8]uint32
	mask   [aes.BlockSize]byte
}

// sampleLen is how many bytes of a record's ciphertext make its mask, and so how
// long the ciphertext must be.
const sampleLen = 16

func (k *numberKey) init(s *suite, key []byte) error {
	*k = numberKey{}
	if s.aead == chaCha20 {
		k.chacha = chachaWords(key)
		return nil
	}
	var err error
	k.aes, err = aes.NewCipher(key)
	return err
}

// apply encrypts or decrypts number, 1 or 2 bytes, with the beginning of the
// ciphertext behind it.
func (k *numberKey) apply(number, ciphertext []byte) {
	if k.aes != nil {
		k.aes.Encrypt(k.mask[:], ciphertext[:sampleLen])
	} else {
		word := chachaFirstWord(&k.chacha, ciphertext[:sampleLen])
		k.mask[0], k.mask[1] = byte(word), byte(word>>8)
	}
	for i := range number {
		number[i] ^= k.mask[i]
	}
}
