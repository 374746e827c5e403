package record

import (
	"bytes"
	"encoding/binary"
	"math"
)

// keptEpochs is how many epochs an opener has keys for: as many as the two bits
// of the unified header tell apart (RFC 9147, 4.2.2).
const keptEpochs = 4

// DatagramOpener opens the records of one receiving direction of a DTLS
// association, in any order, each at most once. It is not safe for use by two
// goroutines at once.
//
// It keeps the keys of the newest epoch and of up to three before it, so that
// records which were overtaken by a KeyUpdate, or by the end of the handshake, can
// still be opened; [DatagramOpener.Forget] gives them up earlier. Each epoch has
// a replay window of its own, in which a number stays tellable until 960 higher
// ones were received.
type DatagramOpener struct {
	version uint16
	epochs  [keptEpochs]*openEpoch // by the low bits of the epoch
	newest  *openEpoch
	highest uint64 // epoch of the newest record opened
	cid     []byte
	cidAAD  []byte // of DTLS 1.2 records with a Connection ID
}

// openEpoch is what an opener has of one epoch.
type openEpoch struct {
	datagramHalf
	window window
	failed uint64 // records that did not authenticate
}

// NewDatagramOpener returns an opener for k, in its epoch. All the numbers below
// k.Seq count as received. The cid is the one that we asked the peer to use; an
// empty one means none. It copies what it needs of both.
//
// The errors are [ErrSuite], [ErrKeyLength], [ErrKeyMismatch], [ErrNoSecret],
// [ErrEpoch] and [ErrCID].
func NewDatagramOpener(k Keys, cid []byte) (*DatagramOpener, error) {
	if len(cid) > MaxCID {
		return nil, ErrCID
	}
	o := &DatagramOpener{version: k.Version}
	if err := o.Install(k); err != nil {
		return nil, err
	}
	if len(cid) > 0 {
		o.cid = bytes.Clone(cid)
		if k.Version == DTLS12 {
			o.cidAAD = newAADCID(cid)
		}
	}
	return o, nil
}

// Install adds the keys of a newer epoch, as they come out of a handshake; those
// after a KeyUpdate come from [DatagramOpener.Next]. The keys of epochs that the
// header could no longer tell from it are wiped. It copies what it needs.
//
// The errors are those of [NewDatagramOpener], with [ErrSuite] for keys of
// another version too, and [ErrEpoch] for an epoch that is not above the newest:
// its replay window would begin anew. Then nothing has changed.
func (o *DatagramOpener) Install(k Keys) error {
	if k.Version != o.version {
		return ErrSuite
	}
	if o.newest != nil && k.Epoch <= o.newest.epoch {
		return ErrEpoch
	}
	e := new(openEpoch)
	if err := e.init(k); err != nil {
		return err
	}
	if k.Seq > 0 {
		e.window.startAt(k.Seq)
		o.highest = k.Epoch
	}
	o.add(e)
	return nil
}

func (o *DatagramOpener) add(e *openEpoch) {
	o.newest = e
	if e.epoch >= keptEpochs {
		o.Forget(e.epoch - keptEpochs + 1)
	}
	o.epochs[e.epoch%keptEpochs] = e
}

// Next goes on to the epoch after a received KeyUpdate (RFC 9147, 8). The keys
// before are kept: the peer uses them until our ACK has reached it.
//
// The errors are [ErrNoSecret], [ErrEpoch] in an epoch of the handshake, and
// [ErrEpochLimit] in the last epoch of all; then nothing has changed.
func (o *DatagramOpener) Next() error {
	if err := o.newest.canNext(); err != nil {
		return err
	}
	if o.newest.epoch == math.MaxUint64 {
		return ErrEpochLimit
	}
	e := new(openEpoch)
	e.half = half{suite: o.newest.suite, id: o.newest.id, secret: o.newest.secret, hold: holdsSecret, epoch: o.newest.epoch}
	if err := e.next(); err != nil {
		return err
	}
	o.add(e)
	return nil
}

// Forget wipes the keys of all epochs below the given one, but never those of
// the newest. RFC 9147, 4.2.1 wants them forgotten when the records that are
// under way may count as lost; 8 wants the one before the newest kept until the
// newest has opened a record.
func (o *DatagramOpener) Forget(below uint64) {
	for i, e := range o.epochs {
		if e != nil && e != o.newest && e.epoch < below {
			e.wipe()
			o.epochs[i] = nil
		}
	}
}

// Keys returns copies of the keys of every epoch that is kept, the oldest first,
// each at the number above the highest received. An opener that they are
// installed in goes on where this one is, but takes everything below for
// received: what was overtaken is lost.
func (o *DatagramOpener) Keys() []Keys {
	var out []Keys
	for d := uint64(keptEpochs); d > 0; d-- {
		e := o.epochs[(o.newest.epoch-d+1)%keptEpochs]
		if e != nil {
			k := e.fullKeys()
			k.Seq = e.window.next
			out = append(out, k)
		}
	}
	return out
}

// Version is the protocol version of the keys.
func (o *DatagramOpener) Version() uint16 { return o.version }

// Epoch is the newest epoch.
func (o *DatagramOpener) Epoch() uint64 { return o.newest.epoch }

// Seq is the sequence number above the highest received in the newest epoch.
func (o *DatagramOpener) Seq() uint64 { return o.newest.window.next }

// Failed is how many records did not authenticate under the newest key. In
// DTLS 1.3 the peer has to be asked for new keys before it comes to
// [IntegrityLimit] (RFC 9147, 4.5.3).
func (o *DatagramOpener) Failed() uint64 { return o.newest.failed }

// Rest gives up what the next record can make again from the keys: most of the
// memory of an opener that was used, some 1.4 kB in each epoch, for one that is
// idle.
func (o *DatagramOpener) Rest() {
	for _, e := range o.epochs {
		if e != nil {
			e.rest()
		}
	}
}

// Wipe overwrites the keys. The opener is of no use afterwards.
func (o *DatagramOpener) Wipe() {
	o.Forget(math.MaxUint64)
	o.newest.wipe()
}

// Open opens the first record of a datagram, in place: the payload lies in the
// datagram, and the bytes of the record are spent whatever the outcome. Rest is
// what follows the record; it is empty at the end of the datagram, and also where
// nobody can tell where the next record begins, or none may follow. It is shorter
// than datagram also beside an error, so that a caller goes on with rest until it
// is empty. Open does not allocate.
//
// An error that is a [Drop] is about a record that anybody may have sent. All
// others are fatal: an [*Error] for a record that the peer itself made wrong
// (unexpected_message, record_overflow) and for [ErrIntegrityLimit]; and those of
// an opener that was wiped or that this process may not use (see [Usable]).
func (o *DatagramOpener) Open(datagram []byte) (rec DatagramRecord, rest []byte, err error) {
	if o.version == DTLS13 {
		return o.open13(datagram)
	}
	return o.open12(datagram)
}

// open12 is Open for the records of RFC 6347, 4.1 and RFC 9146, 4.
func (o *DatagramOpener) open12(d []byte) (rec DatagramRecord, rest []byte, err error) {
	if len(d) < DatagramHeaderLen {
		return rec, nil, DropTruncated
	}
	if d[1] != byte(DTLS12>>8) || d[2] != byte(DTLS12&0xff) {
		return rec, nil, DropHeader
	}
	typ, headerLen, hidden := ContentType(d[0]), DatagramHeaderLen, false
	if typ == TLS12CID {
		if len(o.cid) == 0 || !bytes.HasPrefix(d[DatagramHeaderLen-2:], o.cid) {
			return rec, nil, DropCID
		}
		headerLen += len(o.cid)
		hidden = true
		if len(d) < headerLen {
			return rec, nil, DropTruncated
		}
	}
	n := int(binary.BigEndian.Uint16(d[headerLen-2:]))
	if n > len(d)-headerLen {
		return rec, nil, DropTruncated
	}
	body, rest := d[headerLen:headerLen+n], d[headerLen+n:]
	sequence := binary.BigEndian.Uint64(d[3:])
	epoch, seq := sequence>>48, sequence&maxSequence12
	e := o.epochs[epoch%keptEpochs]
	if e == nil || e.epoch != epoch {
		return rec, rest, DropEpoch
	}
	if !hidden && len(o.cid) > 0 {
		return rec, nil, DropCID // RFC 9146, 3: the whole datagram is invalid
	}
	overhead := e.suite.explicitLen() + TagLen
	if n < overhead || n > MaxPlaintext+overhead { // with the type, where it is hidden (RFC 9146, 5)
		return rec, rest, DropLength
	}
	// The number is in the clear: there is nothing that the order of the
	// checks could give away, and a replay is cheap to refuse here.
	if !e.window.fresh(seq) {
		return rec, rest, DropReplay
	}
	if err := e.ready(); err != nil {
		return rec, rest, err
	}
	sealed := body[e.suite.explicitLen():]
	aad := o.cidAAD
	if hidden {
		setAADCID(aad, sequence, len(sealed)-TagLen)
	} else {
		e.setAADDatagram12(sequence, typ, len(sealed)-TagLen)
		aad = e.aad[:]
	}
	e.setNonceDatagram(sequence)
	if e.suite.explicitLen() > 0 {
		copy(e.nonce[4:], body[:8]) // the sender's choice (RFC 5288, 3)
	}
	payload, err := e.aead.Open(sealed[:0], e.nonce[:], sealed, aad)
	if err != nil {
		return rec, rest, o.fail(e)
	}
	e.window.receive(seq)
	if hidden {
		if typ, payload, err = unpadDatagram(payload); err != nil {
			return rec, rest, err
		}
	}
	return o.opened(e, typ, payload, seq), rest, nil
}

// open13 is Open for the records of RFC 9147, 4.
func (o *DatagramOpener) open13(d []byte) (rec DatagramRecord, rest []byte, err error) {
	if len(d) == 0 {
		return rec, nil, DropTruncated
	}
	b := d[0]
	if b&unifiedMask != unifiedBits {
		return o.plaintext13(d)
	}
	at := 1
	if b&unifiedCID != 0 {
		// A record with another Connection ID ends the datagram (RFC 9147, 4).
		// One without any does not: it need be in each datagram only.
		if len(o.cid) == 0 || !bytes.HasPrefix(d[at:], o.cid) {
			return rec, nil, DropCID
		}
		at += len(o.cid)
	}
	numberAt, numberLen := at, 1
	if b&unifiedSeq16 != 0 {
		numberLen = 2
	}
	at += numberLen
	lengthAt := at
	if b&unifiedLength != 0 {
		at += 2
	}
	n := len(d) - at
	if n < 0 {
		return rec, nil, DropTruncated
	}
	if b&unifiedLength != 0 {
		if whole := int(binary.BigEndian.Uint16(d[lengthAt:])); whole <= n {
			n = whole
		} else {
			return rec, nil, DropTruncated
		}
	}
	head, sealed, rest := d[:at], d[at:at+n], d[at+n:]
	e := o.epochs[b&unifiedEpoch]
	if e == nil {
		return rec, rest, DropEpoch
	}
	if n < sampleLen || n > MaxPlaintext+256 {
		return rec, rest, DropLength
	}
	if e.failed >= IntegrityLimit {
		return rec, rest, o.spent(e)
	}
	if err := e.ready(); err != nil {
		return rec, rest, err
	}
	number := head[numberAt : numberAt+numberLen]
	e.number.apply(number, sealed)
	low := uint64(number[0])
	if numberLen == 2 {
		low = low<<8 | uint64(number[1])
	}
	seq := closest(e.window.next, low, 8*numberLen)
	e.setNonceDatagram(e.sequence(seq))
	inner, err := e.aead.Open(sealed[:0], e.nonce[:], sealed, head)
	if err != nil {
		return rec, rest, o.fail(e)
	}
	// Only now, so that the time it takes does not tell the number (RFC 9147, 4.5.1).
	if !e.window.fresh(seq) {
		return rec, rest, DropReplay
	}
	e.window.receive(seq)
	if len(inner) > MaxPlaintext+1 { // payload and type (RFC 8446, 5.4)
		return rec, rest, errInnerLong
	}
	typ, payload, err := unpadDatagram(inner)
	if err != nil {
		return rec, rest, err
	}
	return o.opened(e, typ, payload, seq), rest, nil
}

// plaintext13 skips a DTLSPlaintext record: a retransmission of the handshake,
// or a forgery (RFC 9147, 4.1).
func (o *DatagramOpener) plaintext13(d []byte) (rec DatagramRecord, rest []byte, err error) {
	switch ContentType(d[0]) {
	case AlertRecord, Handshake, ACKRecord:
	default:
		return rec, nil, DropHeader
	}
	if len(d) < DatagramHeaderLen {
		return rec, nil, DropTruncated
	}
	n := DatagramHeaderLen + int(binary.BigEndian.Uint16(d[DatagramHeaderLen-2:]))
	if n > len(d) {
		return rec, nil, DropTruncated
	}
	return rec, d[n:], DropEpoch
}

// opened makes the answer for an authentic record.
func (o *DatagramOpener) opened(e *openEpoch, typ ContentType, payload []byte, seq uint64) DatagramRecord {
	rec := DatagramRecord{Type: typ, Payload: payload, Epoch: e.epoch, Seq: seq}
	if e.epoch >= o.highest && seq+1 == e.window.next {
		rec.Newest = true
		o.highest = e.epoch
	}
	return rec
}

// fail counts a record that did not authenticate.
func (o *DatagramOpener) fail(e *openEpoch) error {
	e.failed++
	if o.version == DTLS13 && e.failed >= IntegrityLimit {
		return o.spent(e)
	}
	return DropAuthentication
}

// spent is what becomes of a key at its limit: an old one is dropped, without
// the newest the association cannot be (RFC 9147, 4.5.3).
func (o *DatagramOpener) spent(e *openEpoch) error {
	if e == o.newest {
		return ErrIntegrityLimit
	}
	e.wipe()
	o.epochs[e.epoch%keptEpochs] = nil
	return DropEpoch
}

// closest is the number with the given low bits that is numerically closest to
// want, the one above the highest received (RFC 9147, 4.2.2). Of two that are
// equally close it is the higher.
func closest(want, low uint64, bits int) uint64 {
	width := uint64(1) << bits
	ahead := (low - want) & (width - 1) // how far above want the next such number is
	up, down := want+ahead, want+ahead-width
	if up < want { // beyond the last number
		return down
	}
	if ahead > width/2 && up >= width {
		return down
	}
	return up
}

// unpadDatagram finds the content type behind the payload (RFC 9146, 4 and RFC
// 9147, 4).
func unpadDatagram(inner []byte) (ContentType, []byte, error) {
	i := len(inner) - 1
	for i >= 0 && inner[i] == 0 {
		i--
	}
	if i < 0 {
		return 0, nil, errNoType
	}
	return ContentType(inner[i]), inner[:i], nil
}
