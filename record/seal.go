package record

import (
	"encoding/binary"
	"math"
	"slices"
)

// Sealer protects the records of one sending direction. It is not safe for use
// by two goroutines at once.
type Sealer struct {
	half
	limit uint64 // records this key may seal
	pad   uint16 // content is padded to a multiple of pad; 0 or 1 is none
	max   uint16 // bytes of payload in a record, at most
}

// NewSealer returns a sealer for k and copies what it needs of it. The errors
// are [ErrSuite], [ErrKeyLength] and [ErrKeyMismatch].
func NewSealer(k Keys) (*Sealer, error) {
	if datagram(k.Version) {
		return nil, ErrSuite
	}
	s := &Sealer{max: MaxPlaintext}
	if err := s.init(k); err != nil {
		return nil, err
	}
	s.SetMaxRecords(0)
	return s, nil
}

// SetMaxRecords lowers the number of records that one key may seal; 0 sets the
// limit of the suite again. It never raises it above [Limit].
func (s *Sealer) SetMaxRecords(n uint64) {
	s.limit = Limit(s.suite.version, s.id)
	if n != 0 {
		s.limit = min(s.limit, n)
	}
}

// SetPadding pads the content of TLS 1.3 records to a multiple of n bytes, at
// most to [Sealer.MaxPayload] (RFC 8446, 5.4). 0 and 1 mean none. TLS 1.2 AEAD
// suites cannot pad: there it does nothing.
func (s *Sealer) SetPadding(n int) { s.pad = uint16(min(max(n, 0), MaxPlaintext)) }

// SetMaxPayload lowers how many bytes one record may hold, from [MaxPlaintext]
// down to 1. A record_size_limit of RFC 8449 counts the content type of TLS 1.3
// and its padding too: there it is the limit less 1.
func (s *Sealer) SetMaxPayload(n int) { s.max = uint16(min(max(n, 1), MaxPlaintext)) }

// MaxPayload is how many bytes one record may hold.
func (s *Sealer) MaxPayload() int { return int(s.max) }

// Keys returns a copy of the keys, at the sequence number of the next record.
func (s *Sealer) Keys() Keys { return s.fullKeys() }

// Seq is the sequence number of the next record.
func (s *Sealer) Seq() uint64 { return s.seq }

// Epoch is the number of rekeys.
func (s *Sealer) Epoch() uint64 { return s.epoch }

// Left is how many records the key may still seal.
func (s *Sealer) Left() uint64 {
	if s.seq == math.MaxUint64 || s.seq >= s.limit {
		return 0
	}
	return s.limit - s.seq
}

// Next goes on to the keys after a KeyUpdate. The error is [ErrNoSecret] where
// that is impossible; then nothing has changed.
func (s *Sealer) Next() error { return s.next() }

// CanNext reports whether Next works: the keys came with a traffic secret.
func (s *Sealer) CanNext() bool { return s.hold == holdsSecret }

// Wipe overwrites the keys. The sealer is of no use afterwards.
func (s *Sealer) Wipe() { s.wipe() }

// Prefix is how many bytes of a record stand before its payload: the header,
// and in TLS 1.2 GCM the explicit part of the nonce.
func (s *Sealer) Prefix() int { return HeaderLen + s.suite.explicitLen() }

// SealedLen is the length of the record that a payload of n bytes becomes.
func (s *Sealer) SealedLen(n int) int {
	if s.suite.version == TLS13 {
		n += 1 + s.padding(n)
	}
	return s.Prefix() + n + TagLen
}

// padding is how many zeros follow the content type of an n-byte payload.
func (s *Sealer) padding(n int) int {
	if s.pad <= 1 || s.suite.version != TLS13 {
		return 0
	}
	pad := int(s.pad)
	full := min((n+pad-1)/pad*pad, int(s.max))
	return max(full-n, 0)
}

// Seal appends one record of type typ with the given payload to dst and
// returns the longer slice. It does not allocate when dst has room for
// [Sealer.SealedLen] more bytes.
//
// The payload may already lie where it belongs, [Sealer.Prefix] bytes behind
// the end of dst in dst's own array: then it is sealed in place. Otherwise it
// must not overlap the room behind dst.
//
// The errors are [ErrTooLarge], [ErrType] and [ErrKeyLimit], and those of a
// sealer that was wiped or that this process may not use (see [Usable]). The
// record was then not made, dst is returned as it was, and no sequence number
// is spent.
func (s *Sealer) Seal(dst []byte, typ ContentType, payload []byte) ([]byte, error) {
	if len(payload) > int(s.max) {
		return dst, ErrTooLarge
	}
	if typ == 0 { // in TLS 1.3 it would be padding
		return dst, ErrType
	}
	if s.Left() == 0 {
		return dst, ErrKeyLimit
	}
	if err := s.ready(); err != nil {
		return dst, err
	}
	start, n, total := len(dst), len(payload), s.SealedLen(len(payload))
	out := slices.Grow(dst, total)[:start+total]
	rec := out[start:]
	body := rec[s.Prefix():]
	if s.suite.version == TLS13 {
		inner := body[:len(body)-TagLen]
		rec[0] = byte(ApplicationData)
		s.header(rec)
		s.setNonce(s.seq)
		if s.gcm != nil && len(inner) == n+1 { // no padding, and so no need of a copy
			s.tail[0] = byte(typ)
			s.gcm.SealTail(inner[:0], s.nonce[:], payload, s.tail[:], rec[:HeaderLen])
		} else {
			if n > 0 && &body[0] != &payload[0] {
				copy(body, payload)
			}
			inner[n] = byte(typ)
			clear(inner[n+1:])
			s.aead.Seal(inner[:0], s.nonce[:], inner, rec[:HeaderLen])
		}
	} else {
		rec[0] = byte(typ)
		s.header(rec)
		s.setAAD12(s.seq, typ, n)
		if s.suite.explicitLen() > 0 {
			copy(s.nonce[:], s.iv[:4])
			binary.BigEndian.PutUint64(s.nonce[4:], s.seq)
			copy(rec[HeaderLen:], s.nonce[4:])
		} else {
			s.setNonce(s.seq)
		}
		s.aead.Seal(body[:0], s.nonce[:], payload, s.aad[:])
	}
	s.seq++
	return out, nil
}

func (s *Sealer) header(rec []byte) {
	n := len(rec) - HeaderLen
	rec[1], rec[2], rec[3], rec[4] = 3, 3, byte(n>>8), byte(n)
}
