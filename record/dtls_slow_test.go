package record_test

import (
	"bytes"
	"math"

	"golang.org/x/crypto/cryptobyte"

	"github.com/aftls/aftls/record"
)

// slowOpener is a receiver written from the RFCs: it parses by steps, tries
// numbers one by one, and keeps every number it ever saw.
type slowOpener struct {
	p      profile
	cid    []byte
	keys   map[uint64]record.Keys
	newest uint64
	seen   map[record.Number]bool
	next   map[uint64]uint64 // by epoch: one above the highest received
	failed int               // records that did not authenticate
}

func newSlowOpener(p profile, k record.Keys, cid []byte) *slowOpener {
	o := &slowOpener{p: p, cid: cid, keys: map[uint64]record.Keys{}, seen: map[record.Number]bool{}, next: map[uint64]uint64{}}
	o.install(k)
	return o
}

func (o *slowOpener) install(k record.Keys) {
	o.keys[k.Epoch], o.newest, o.next[k.Epoch] = k, k.Epoch, k.Seq
}

// epoch is the newest one with these low bits, of those that are kept.
func (o *slowOpener) epoch(low uint64) (uint64, bool) {
	for back := range uint64(4) {
		if e := o.newest - back; e <= o.newest && e%4 == low {
			_, ok := o.keys[e]
			return e, ok
		}
	}
	return 0, false
}

// isOld reports whether a number was received or cannot be told any more.
func (o *slowOpener) isOld(k record.Keys, seq uint64) bool {
	n := record.Number{Epoch: k.Epoch, Seq: seq}
	return seq < k.Seq || o.seen[n] || seq == math.MaxUint64 || seq+960 < o.next[k.Epoch]
}

func (o *slowOpener) note(epoch, seq uint64) {
	o.seen[record.Number{Epoch: epoch, Seq: seq}] = true
	o.next[epoch] = max(o.next[epoch], seq+1)
}

// open does what DatagramOpener.Open says of itself.
func (o *slowOpener) open(d []byte) (rec record.DatagramRecord, rest []byte, err error) {
	if o.p.isDatagram13() {
		return o.open13(d)
	}
	return o.open12(d)
}

func (o *slowOpener) open12(d []byte) (rec record.DatagramRecord, rest []byte, err error) {
	s := cryptobyte.String(d)
	var typ uint8
	var version, epoch, length uint16
	var number uint64
	var cid, body []byte
	if len(d) < 13 {
		return rec, nil, record.DropTruncated
	}
	if s.ReadUint8(&typ); !s.ReadUint16(&version) || version != 0xfefd {
		return rec, nil, record.DropHeader
	}
	s.ReadUint16(&epoch)
	s.ReadUint48(&number)
	if typ == 25 {
		if len(o.cid) == 0 || !s.ReadBytes(&cid, len(o.cid)) || !bytes.Equal(cid, o.cid) {
			return rec, nil, record.DropCID
		}
	}
	if !s.ReadUint16(&length) || !s.ReadBytes(&body, int(length)) {
		return rec, nil, record.DropTruncated
	}
	rest = s
	k, ok := o.keys[uint64(epoch)]
	if !ok {
		return rec, rest, record.DropEpoch
	}
	if typ != 25 && len(o.cid) > 0 {
		return rec, nil, record.DropCID
	}
	if len(body) < o.p.explicit+16 || len(body) > o.p.explicit+16384+16 {
		return rec, rest, record.DropLength
	}
	if o.isOld(k, number) {
		return rec, rest, record.DropReplay
	}
	w := spec{epoch: uint64(epoch), seq: number, cid: cid}
	for _, b := range body[:o.p.explicit] {
		w.explicit = w.explicit<<8 | uint64(b)
	}
	nonce, _ := o.p.nonce12(k, w)
	n := len(body) - o.p.explicit - 16
	aad := append(numbers(w), typ, 254, 253)
	if typ == 25 {
		aad = append(bytes.Repeat([]byte{255}, 8), 25, byte(len(cid)), 25, 254, 253)
		aad = append(append(aad, numbers(w)...), cid...)
	}
	aad = append(aad, byte(n>>8), byte(n))
	inner, aeadErr := o.p.aead(k.Key).Open(nil, nonce, body[o.p.explicit:], aad)
	if aeadErr != nil {
		o.failed++
		return rec, rest, record.DropAuthentication
	}
	o.note(w.epoch, number)
	rec = record.DatagramRecord{Type: record.ContentType(typ), Payload: inner, Epoch: w.epoch, Seq: number}
	if typ == 25 {
		rec.Type, rec.Payload, err = o.inner(inner, 16384)
	}
	return rec, rest, err
}

func (o *slowOpener) open13(d []byte) (rec record.DatagramRecord, rest []byte, err error) {
	s := cryptobyte.String(d)
	var first uint8
	if !s.ReadUint8(&first) {
		return rec, nil, record.DropTruncated
	}
	if first < 32 || first > 63 {
		var head, body []byte
		var length uint16
		switch {
		case first != 21 && first != 22 && first != 26:
			return rec, nil, record.DropHeader
		case !s.ReadBytes(&head, 10) || !s.ReadUint16(&length) || !s.ReadBytes(&body, int(length)):
			return rec, nil, record.DropTruncated
		}
		return rec, s, record.DropEpoch
	}
	has := func(bit uint8) bool { return first&bit != 0 }
	head := []byte{first}
	var cid, number, body []byte
	if has(16) {
		if len(o.cid) == 0 || !s.ReadBytes(&cid, len(o.cid)) || !bytes.Equal(cid, o.cid) {
			return rec, nil, record.DropCID
		}
		head = append(head, cid...)
	}
	numberLen := 1
	if has(8) {
		numberLen = 2
	}
	if !s.ReadBytes(&number, numberLen) {
		return rec, nil, record.DropTruncated
	}
	var lengthBytes []byte
	if has(4) {
		if !s.ReadBytes(&lengthBytes, 2) || !s.ReadBytes(&body, int(lengthBytes[0])<<8|int(lengthBytes[1])) {
			return rec, nil, record.DropTruncated
		}
	} else {
		s.ReadBytes(&body, len(s))
	}
	rest = s
	epoch, ok := o.epoch(uint64(first & 3))
	if !ok {
		return rec, rest, record.DropEpoch
	}
	k := o.keys[epoch]
	if len(body) < 16 || len(body) > 16384+256 {
		return rec, rest, record.DropLength
	}
	mask := o.p.mask13(k, body)
	low, width := uint64(0), uint64(1)
	for i, b := range number {
		head = append(head, b^mask[i])
		low, width = low<<8|uint64(b^mask[i]), width<<8
	}
	head = append(head, lengthBytes...)
	want := o.next[epoch]
	seq := want
	for d := uint64(0); ; d++ { // the closest number, the higher of two
		if seq = want + d; seq >= want && seq%width == low {
			break
		}
		if seq = want - d; seq <= want && seq%width == low {
			break
		}
	}
	inner, aeadErr := o.p.aead(k.Key).Open(nil, xorNonce(k.IV, seq), body, head)
	if aeadErr != nil {
		o.failed++
		return rec, rest, record.DropAuthentication
	}
	if o.isOld(k, seq) {
		return rec, rest, record.DropReplay
	}
	o.note(epoch, seq)
	rec = record.DatagramRecord{Epoch: epoch, Seq: seq}
	rec.Type, rec.Payload, err = o.inner(inner, 16385)
	return rec, rest, err
}

func (o *slowOpener) inner(b []byte, longest int) (record.ContentType, []byte, error) {
	content := bytes.TrimRight(b, "\x00")
	switch {
	case len(b) > longest:
		return 0, nil, &record.Error{Alert: record.RecordOverflow}
	case len(content) == 0:
		return 0, nil, &record.Error{Alert: record.UnexpectedMessage}
	}
	return record.ContentType(content[len(content)-1]), content[:len(content)-1], nil
}
