package record

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// Versions of DTLS as they stand on the wire. Records of DTLS 1.3 never carry
// theirs.
const (
	DTLS12 uint16 = 0xfefd
	DTLS13 uint16 = 0xfefc
)

// Content types that only DTLS has.
const (
	TLS12CID  ContentType = 25 // outer type of a DTLS 1.2 record with a Connection ID (RFC 9146, 4)
	ACKRecord ContentType = 26 // RFC 9147, 7
)

// Sizes and numbers of DTLS.
const (
	// DatagramHeaderLen is the length of the header of DTLS 1.2 records, and
	// of plaintext ones of DTLS 1.3: type, version, epoch, sequence number,
	// length (RFC 6347, 4.1). A Connection ID makes it longer.
	DatagramHeaderLen = 13

	// MaxCID is the longest Connection ID (RFC 9146, 3).
	MaxCID = 255

	// MaxSendingEpoch is the last epoch that a DTLS 1.3 sender may come to
	// (RFC 9147, 8).
	MaxSendingEpoch = 1<<48 - 1

	// IntegrityLimit is how many records may fail authentication under one
	// key in DTLS 1.3 (RFC 9147, 4.5.3). DTLS 1.2 has no such limit.
	IntegrityLimit = 1 << 36

	maxEpoch12    = 1<<16 - 1
	maxSequence12 = 1<<48 - 1
)

// Bits of the unified header (RFC 9147, 4).
const (
	unifiedBits   = 0b0010_0000
	unifiedMask   = 0b1110_0000
	unifiedCID    = 0b0001_0000
	unifiedSeq16  = 0b0000_1000
	unifiedLength = 0b0000_0100
	unifiedEpoch  = 0b0000_0011
)

// HeaderForm is how a DTLS 1.3 sealer writes the unified header (RFC 9147, 4).
// Zero is the full form: a sequence number of 16 bits, and the length.
type HeaderForm uint8

const (
	// ShortNumber sends the low 8 bits of the sequence number only. The
	// peer goes astray when 128 records in a row are lost or reordered.
	ShortNumber HeaderForm = 1 << iota

	// NoLength leaves the length out. Such a record reaches to the end of
	// its datagram: nothing may be put behind it.
	NoLength
)

// Drop is why [DatagramOpener.Open] takes no notice of a record: anybody can
// send such a one, and so the association goes on as if it had not come (RFC
// 6347, 4.1.2.7 and RFC 9147, 4.5.2). No alert is owed. A Drop is a small
// number, so that it can be counted in an array, and is made without allocation.
type Drop uint8

// The reasons to drop a record.
const (
	// DropHeader: it begins like no record of this version.
	DropHeader Drop = iota
	// DropTruncated: the datagram ends inside it.
	DropTruncated
	// DropLength: it is shorter than its tag, or longer than a record may be.
	DropLength
	// DropEpoch: it is in the clear, or there are no keys for its epoch.
	DropEpoch
	// DropCID: its Connection ID is not that of this association, or is missing.
	DropCID
	// DropAuthentication: it does not authenticate.
	DropAuthentication
	// DropReplay: its number was received before, or is too old to tell.
	DropReplay

	// Drops is how many reasons there are.
	Drops = int(iota)
)

var dropNames = [Drops]string{
	DropHeader: "header", DropTruncated: "truncated", DropLength: "length", DropEpoch: "epoch",
	DropCID: "connection ID", DropAuthentication: "authentication", DropReplay: "replay",
}

func (d Drop) Error() string { return "record: dropped: " + d.String() }

func (d Drop) String() string {
	if int(d) < len(dropNames) {
		return dropNames[d]
	}
	return "unknown reason"
}

var (
	// ErrIntegrityLimit is returned by [DatagramOpener.Open] when
	// [IntegrityLimit] records failed authentication under the newest key.
	// It is an [*Error] with bad_record_mac. The association must end, or
	// go on to new keys.
	ErrIntegrityLimit error = &Error{Alert: BadRecordMAC, Reason: "as many records failed authentication as one key may bear"}

	// ErrEpoch is returned for keys of an epoch that the version does not
	// have or that is not above those there are, and by
	// [DatagramSealer.Next] and [DatagramOpener.Next] in an epoch that no
	// KeyUpdate follows on.
	ErrEpoch = errors.New("record: no keys can be used in or after this epoch")

	// ErrEpochLimit is returned instead of going beyond the last epoch
	// (RFC 9147, 4.2.1 and 8). The association can be used to the end of its
	// keys, and not be rekeyed again.
	ErrEpochLimit = errors.New("record: the last epoch is reached")

	// ErrCID is returned for a Connection ID longer than [MaxCID].
	ErrCID = errors.New("record: Connection ID is longer than 255 bytes")
)

// What an authentic record can have wrong with it. These are made once.
var (
	errNoType    = &Error{Alert: UnexpectedMessage, Reason: "record has no content type"}
	errInnerLong = &Error{Alert: RecordOverflow, Reason: "content is larger than 16384 bytes"}
)

// DatagramRecord is one record that was opened.
type DatagramRecord struct {
	Type    ContentType // the inner one, where there are two
	Payload []byte      // lies in the datagram
	Epoch   uint64
	Seq     uint64

	// Newest is set where no record of a higher epoch, or of the same epoch
	// and a higher number, was opened before: only then may the peer's
	// address follow the datagram (RFC 9146, 6).
	Newest bool
}

// DatagramCID returns the n bytes that are the Connection ID of the first record
// of a datagram, if it has one and all the peers of this socket use n bytes.
// Otherwise it returns nil. Nothing is authenticated: what it returns may only
// choose which association tries to open the datagram (RFC 9146, 3). It points
// into the datagram.
func DatagramCID(datagram []byte, n int) []byte {
	const at12, at13 = DatagramHeaderLen - 2, 1
	if len(datagram) == 0 || n <= 0 {
		return nil
	}
	at := 0
	switch b := datagram[0]; {
	case ContentType(b) == TLS12CID:
		at = at12
	case b&unifiedMask == unifiedBits && b&unifiedCID != 0:
		at = at13
	default:
		return nil
	}
	if len(datagram)-at < n {
		return nil
	}
	return datagram[at : at+n : at+n]
}

// sequence is the record_sequence_number that the version feeds to the AEAD: in
// DTLS 1.2 with the epoch before it (RFC 6347, 4.1.2.1), in DTLS 1.3 without
// (RFC 9147, 4).
func (h *half) sequence(seq uint64) uint64 {
	if h.suite.version == DTLS12 {
		return h.epoch<<48 | seq
	}
	return seq
}

// newAADCID returns the additional data of DTLS 1.2 records with a Connection ID
// (RFC 9146, 5.3), in which setAADCID fills in what differs from one to the next.
func newAADCID(cid []byte) []byte {
	a := bytes.Repeat([]byte{0xff}, 8)
	a = append(a, byte(TLS12CID), byte(len(cid)), byte(TLS12CID), byte(DTLS12>>8), byte(DTLS12&0xff))
	a = append(a, make([]byte, 8)...)
	a = append(a, cid...)
	return append(a, 0, 0)
}

func setAADCID(a []byte, sequence uint64, n int) {
	binary.BigEndian.PutUint64(a[13:], sequence)
	binary.BigEndian.PutUint16(a[len(a)-2:], uint16(n))
}

// setAADDatagram12 is the additional data of RFC 6347, 4.1.2.1.
func (h *half) setAADDatagram12(sequence uint64, typ ContentType, n int) {
	h.setAAD12(sequence, typ, n)
	h.aad[9], h.aad[10] = byte(DTLS12>>8), byte(DTLS12&0xff)
}

// setNonceDatagram is the nonce of a record: RFC 5288, 3, RFC 7905, 2 and RFC
// 8446, 5.3. The explicit part is that of RFC 9325, 7.2.1.
func (h *half) setNonceDatagram(sequence uint64) {
	if h.suite.explicitLen() == 0 {
		h.setNonce(sequence)
		return
	}
	copy(h.nonce[:], h.iv[:4])
	binary.BigEndian.PutUint64(h.nonce[4:], sequence)
}
