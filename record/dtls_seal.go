package record

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// DatagramSealer protects the records of one sending direction of a DTLS
// association. It is not safe for use by two goroutines at once.
type DatagramSealer struct {
	datagramHalf
	limit  uint64 // records this key may seal
	cid    []byte
	cidAAD []byte // of DTLS 1.2 records with a Connection ID
	pad    uint16 // content is padded to a multiple of pad; 0 or 1 is none
	form   HeaderForm
}

// NewDatagramSealer returns a sealer for k, in its epoch and from its sequence
// number on, which puts cid, the Connection ID that the peer asked for, into
// every record; an empty one means none. It copies what it needs of both.
//
// The errors are [ErrSuite], [ErrKeyLength], [ErrKeyMismatch], [ErrNoSecret],
// [ErrEpoch], [ErrEpochLimit] and [ErrCID].
func NewDatagramSealer(k Keys, cid []byte) (*DatagramSealer, error) {
	s := new(DatagramSealer)
	if k.Version == DTLS13 && k.Epoch > MaxSendingEpoch {
		return nil, ErrEpochLimit
	}
	if err := s.init(k); err != nil {
		return nil, err
	}
	if err := s.SetCID(cid); err != nil {
		s.Wipe()
		return nil, err
	}
	s.SetMaxRecords(0)
	return s, nil
}

// SetCID changes the Connection ID, as a NewConnectionId message asks for
// (RFC 9147, 9). It copies cid. The error is [ErrCID]; then nothing has changed.
func (s *DatagramSealer) SetCID(cid []byte) error {
	if len(cid) > MaxCID {
		return ErrCID
	}
	s.cid, s.cidAAD = bytes.Clone(cid), nil
	if s.suite.version == DTLS12 && len(cid) > 0 {
		s.cidAAD = newAADCID(cid)
	}
	return nil
}

// SetMaxRecords lowers the number of records that one key may seal; 0 sets the
// limit of the suite again. It never raises it above [Limit].
func (s *DatagramSealer) SetMaxRecords(n uint64) {
	s.limit = Limit(s.suite.version, s.id)
	if s.suite.version == DTLS12 {
		s.limit = maxSequence12 + 1 // RFC 6347, 4.1: it must not wrap
	}
	if n != 0 {
		s.limit = min(s.limit, n)
	}
}

// SetPadding pads the content of records that hide their type, those of DTLS 1.3
// and those with a Connection ID, to a multiple of n bytes, at most to the largest
// content (RFC 9146, 4 and RFC 9147, 4). 0 and 1 mean none. For other records it
// does nothing.
func (s *DatagramSealer) SetPadding(n int) { s.pad = uint16(min(max(n, 0), MaxPlaintext)) }

// SetHeader sets the form of the headers to come. DTLS 1.2 has only one.
func (s *DatagramSealer) SetHeader(f HeaderForm) { s.form = f }

// Keys returns a copy of the keys, at the sequence number of the next record.
func (s *DatagramSealer) Keys() Keys { return s.fullKeys() }

// Seq is the sequence number of the next record.
func (s *DatagramSealer) Seq() uint64 { return s.seq }

// Epoch is the epoch of the next record.
func (s *DatagramSealer) Epoch() uint64 { return s.epoch }

// Left is how many records the key may still seal.
func (s *DatagramSealer) Left() uint64 {
	if s.seq >= s.limit { // as is the last number of all, which nothing could follow
		return 0
	}
	return s.limit - s.seq
}

// Next goes on to the epoch after a KeyUpdate, which the peer must have
// acknowledged (RFC 9147, 8). The keys before are forgotten: what was sent under
// them cannot be sent again.
//
// The errors are [ErrNoSecret], [ErrEpoch] in an epoch of the handshake, and
// [ErrEpochLimit]; then nothing has changed.
func (s *DatagramSealer) Next() error {
	if err := s.canNext(); err != nil {
		return err
	}
	if s.epoch >= MaxSendingEpoch {
		return ErrEpochLimit
	}
	return s.next()
}

// Rest gives up what the next record can make again from the keys: most of the
// memory of a sealer that was used, some 1.4 kB, for one that is idle.
func (s *DatagramSealer) Rest() { s.rest() }

// Wipe overwrites the keys. The sealer is of no use afterwards.
func (s *DatagramSealer) Wipe() { s.wipe() }

// hidesType reports whether the content type is inside the record.
func (s *DatagramSealer) hidesType() bool { return s.suite.version == DTLS13 || len(s.cid) > 0 }

// maxPayload is the longest payload. RFC 9146, 5 counts the content type, RFC
// 8446, 5.2 does not.
func (s *DatagramSealer) maxPayload() int {
	if s.suite.version == DTLS12 && len(s.cid) > 0 {
		return MaxPlaintext - 1
	}
	return MaxPlaintext
}

// Prefix is how many bytes of a record stand before its payload: the header with
// the Connection ID, and in DTLS 1.2 GCM the explicit part of the nonce.
func (s *DatagramSealer) Prefix() int {
	if s.suite.version == DTLS12 {
		return DatagramHeaderLen + len(s.cid) + s.suite.explicitLen()
	}
	n := 1 + len(s.cid) + 4
	if s.form&ShortNumber != 0 {
		n--
	}
	if s.form&NoLength != 0 {
		n -= 2
	}
	return n
}

// SealedLen is the length of the record that a payload of n bytes becomes.
func (s *DatagramSealer) SealedLen(n int) int {
	if s.hidesType() {
		n += 1 + s.padding(n)
	}
	return s.Prefix() + n + TagLen
}

// padding is how many zeros follow the content type of an n-byte payload.
func (s *DatagramSealer) padding(n int) int {
	if s.pad <= 1 || !s.hidesType() {
		return 0
	}
	pad := int(s.pad)
	full := min((n+pad-1)/pad*pad, s.maxPayload())
	return max(full-n, 0)
}

// Seal appends one record of type typ with the given payload to dst, which may
// hold other records of the same datagram, and returns the longer slice. It does
// not allocate when dst has room for [DatagramSealer.SealedLen] more bytes.
//
// The payload may already lie where it belongs, [DatagramSealer.Prefix] bytes
// behind the end of dst in dst's own array: then it is sealed in place. Otherwise
// it must not overlap the room behind dst.
//
// The errors are [ErrTooLarge] for more than [MaxPlaintext] bytes, one less in
// DTLS 1.2 with a Connection ID; [ErrType]; [ErrKeyLimit] (RFC 9147, 4.5.3; RFC
// 6347, 4.1); and those of a sealer that was wiped or that this process may not
// use (see [Usable]). The record was then not made, dst is returned as it was,
// and no sequence number is spent.
func (s *DatagramSealer) Seal(dst []byte, typ ContentType, payload []byte) ([]byte, error) {
	if len(payload) > s.maxPayload() {
		return dst, ErrTooLarge
	}
	// Inside a record 0 would be padding. Outside, 25 would be taken for a
	// record with a Connection ID, from which the additional data is to be
	// told by this very byte (RFC 9146, 5.1).
	if typ == 0 || typ == TLS12CID {
		return dst, ErrType
	}
	if s.Left() == 0 {
		return dst, ErrKeyLimit
	}
	if err := s.ready(); err != nil {
		return dst, err
	}
	start, total, prefix := len(dst), s.SealedLen(len(payload)), s.Prefix()
	out := slices.Grow(dst, total)[:start+total]
	rec := out[start:]
	sequence := s.sequence(s.seq)
	s.setNonceDatagram(sequence)
	if s.suite.version == DTLS13 {
		numberAt, numberLen := s.header13(rec[:prefix], len(rec)-prefix)
		s.sealInner(rec[prefix:], typ, payload, rec[:prefix])
		s.number.apply(rec[numberAt:numberAt+numberLen], rec[prefix:])
	} else {
		s.header12(rec, typ, sequence)
		body := rec[prefix:]
		if len(s.cid) > 0 {
			setAADCID(s.cidAAD, sequence, len(body)-TagLen)
			s.sealInner(body, typ, payload, s.cidAAD)
		} else {
			s.setAADDatagram12(sequence, typ, len(payload))
			s.aead.Seal(body[:0], s.nonce[:], payload, s.aad[:])
		}
	}
	s.seq++
	return out, nil
}

// sealInner fills body with the protected DTLSInnerPlaintext (RFC 9147, 4; RFC
// 9146, 4): payload, content type, zeros.
func (s *DatagramSealer) sealInner(body []byte, typ ContentType, payload, aad []byte) {
	n := len(payload)
	inner := body[:len(body)-TagLen]
	if s.gcm != nil && len(inner) == n+1 { // no padding, and so no need of a copy
		s.tail[0] = byte(typ)
		s.gcm.SealTail(inner[:0], s.nonce[:], payload, s.tail[:], aad)
		return
	}
	if n > 0 && &body[0] != &payload[0] {
		copy(body, payload)
	}
	inner[n] = byte(typ)
	clear(inner[n+1:])
	s.aead.Seal(inner[:0], s.nonce[:], inner, aad)
}

// header12 writes the header of RFC 6347, 4.1 or RFC 9146, 4, and the explicit
// part of the nonce.
func (s *DatagramSealer) header12(rec []byte, typ ContentType, sequence uint64) {
	if len(s.cid) > 0 {
		typ = TLS12CID
	}
	rec[0], rec[1], rec[2] = byte(typ), byte(DTLS12>>8), byte(DTLS12&0xff)
	binary.BigEndian.PutUint64(rec[3:], sequence)
	copy(rec[DatagramHeaderLen-2:], s.cid)
	headerLen := DatagramHeaderLen + len(s.cid)
	binary.BigEndian.PutUint16(rec[headerLen-2:], uint16(len(rec)-headerLen))
	if s.suite.explicitLen() > 0 {
		copy(rec[headerLen:], s.nonce[4:])
	}
}

// header13 writes the unified header (RFC 9147, 4) of a record with n bytes
// behind it, and returns where its sequence number is, not yet encrypted.
func (s *DatagramSealer) header13(head []byte, n int) (numberAt, numberLen int) {
	b := byte(unifiedBits | s.epoch&unifiedEpoch)
	if len(s.cid) > 0 {
		b |= unifiedCID
	}
	numberAt = 1 + copy(head[1:], s.cid)
	end := numberAt + 1
	if s.form&ShortNumber != 0 {
		head[numberAt] = byte(s.seq)
	} else {
		b |= unifiedSeq16
		binary.BigEndian.PutUint16(head[numberAt:], uint16(s.seq))
		end++
	}
	if s.form&NoLength == 0 {
		b |= unifiedLength
		binary.BigEndian.PutUint16(head[end:], uint16(n))
	}
	head[0] = b
	return numberAt, end - numberAt
}
