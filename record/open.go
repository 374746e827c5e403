package record

import (
	"fmt"
	"math"
)

// Opener opens the records of one receiving direction, in order. It is not
// safe for use by two goroutines at once.
type Opener struct{ half }

// NewOpener returns an opener for k and copies what it needs of it. The errors
// are [ErrSuite], [ErrKeyLength] and [ErrKeyMismatch].
func NewOpener(k Keys) (*Opener, error) {
	if datagram(k.Version) {
		return nil, ErrSuite
	}
	o := new(Opener)
	if err := o.init(k); err != nil {
		return nil, err
	}
	return o, nil
}

// Keys returns a copy of the keys, at the sequence number of the next record.
func (o *Opener) Keys() Keys { return o.fullKeys() }

// Seq is the sequence number of the next record.
func (o *Opener) Seq() uint64 { return o.seq }

// Epoch is the number of rekeys.
func (o *Opener) Epoch() uint64 { return o.epoch }

// Next goes on to the keys after a KeyUpdate. The error is [ErrNoSecret] where
// that is impossible; then nothing has changed.
func (o *Opener) Next() error { return o.next() }

// Wipe overwrites the keys. The opener is of no use afterwards.
func (o *Opener) Wipe() { o.wipe() }

// Version is the protocol version of the keys.
func (o *Opener) Version() uint16 { return o.suite.version }

// overhead is how many bytes a record body is longer than its inner plaintext.
func (o *Opener) overhead() int { return o.suite.explicitLen() + TagLen }

// Frame returns the length of the first record of a stream that begins with
// head, header included, or 0 when head is shorter than a header. Unlike the
// package's function it knows what the association may send: the error is an
// [*Error] for a record that [Opener.Open] would refuse by its header alone.
func (o *Opener) Frame(head []byte) (n int, err error) {
	if len(head) < HeaderLen {
		return 0, nil
	}
	typ := ContentType(head[0])
	if o.suite.version == TLS13 && typ != ApplicationData {
		return 0, &Error{Alert: UnexpectedMessage, Reason: fmt.Sprintf("unprotected record (%v) on an encrypted TLS 1.3 connection", typ)}
	}
	// RFC 8446, 5.1 lets a receiver ignore the version; like every common
	// implementation this one does not, so that noise is told from records.
	if head[1] != 3 || head[2] != 3 {
		return 0, &Error{Alert: ProtocolVersion, Reason: fmt.Sprintf("record version 0x%02x%02x, want 0x0303", head[1], head[2])}
	}
	n = int(head[3])<<8 | int(head[4])
	limit := MaxPlaintext + 256
	if o.suite.version == TLS12 {
		limit = MaxPlaintext + o.overhead()
	}
	if n > limit {
		return 0, &Error{Alert: RecordOverflow, Reason: fmt.Sprintf("record of %d bytes is larger than %d", n, limit)}
	}
	return HeaderLen + n, nil
}

// Room is how many bytes of dst [Opener.Open] needs for rec. It can be more
// than the payload: in TLS 1.3 the content type and the padding pass through.
func (o *Opener) Room(rec []byte) int { return max(len(rec)-HeaderLen-o.overhead(), 0) }

// Open opens rec, one whole record with its header. With a nil dst it opens in
// place: payload lies in rec, and rec is spent whatever the outcome. Otherwise
// payload starts at dst[0]; dst must be at least [Opener.Room] bytes long, may
// not overlap rec, and is scratch beyond the payload.
//
// The sequence number moves on only when the record opened. An error about the
// record is an [*Error]; after it the association must end. The others are
// those of an opener that was wiped or that this process may not use.
func (o *Opener) Open(dst, rec []byte) (typ ContentType, payload []byte, err error) {
	if n, err := o.Frame(rec); err != nil {
		return 0, nil, err
	} else if n == 0 || n != len(rec) {
		return 0, nil, &Error{Alert: DecodeError, Reason: "not one whole record"}
	}
	if err := o.ready(); err != nil {
		return 0, nil, err
	}
	body := rec[HeaderLen:]
	if len(body) < o.overhead() {
		return 0, nil, &Error{Alert: BadRecordMAC, Reason: fmt.Sprintf("record of %d bytes is shorter than its tag", len(body))}
	}
	if o.seq == math.MaxUint64 {
		return 0, nil, &Error{Alert: UnexpectedMessage, Reason: "sequence number is used up"}
	}
	sealed := body[o.suite.explicitLen():]
	to := sealed[:0]
	if dst != nil {
		to = dst[:0:o.Room(rec)]
	}
	if o.suite.version == TLS13 {
		o.setNonce(o.seq)
		inner, err := o.aead.Open(to, o.nonce[:], sealed, rec[:HeaderLen])
		if err != nil {
			return 0, nil, errBadTag
		}
		return o.unpad(inner)
	}
	typ = ContentType(rec[0])
	o.setAAD12(o.seq, typ, len(sealed)-TagLen)
	if o.suite.explicitLen() > 0 {
		copy(o.nonce[:], o.iv[:4])
		copy(o.nonce[4:], body[:8])
	} else {
		o.setNonce(o.seq)
	}
	payload, err = o.aead.Open(to, o.nonce[:], sealed, o.aad[:])
	if err != nil {
		return 0, nil, errBadTag
	}
	o.seq++
	return typ, payload, nil
}

// unpad finds the content type behind the payload (RFC 8446, 5.2 and 5.4).
func (o *Opener) unpad(inner []byte) (ContentType, []byte, error) {
	if len(inner) > MaxPlaintext+1 {
		return 0, nil, &Error{Alert: RecordOverflow, Reason: fmt.Sprintf("content of %d bytes is larger than %d", len(inner), MaxPlaintext+1)}
	}
	i := len(inner) - 1
	for i >= 0 && inner[i] == 0 {
		i--
	}
	if i < 0 {
		return 0, nil, &Error{Alert: UnexpectedMessage, Reason: "record has no content type"}
	}
	o.seq++
	return ContentType(inner[i]), inner[:i], nil
}

// errBadTag is made once: whoever can send bytes can make it happen.
var errBadTag = &Error{Alert: BadRecordMAC, Reason: "record does not authenticate"}
