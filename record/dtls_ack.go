package record

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Number names a record: it is the RecordNumber of RFC 9147, 4.
type Number struct {
	Epoch, Seq uint64
}

const (
	recordNumberLen = 16

	// MaxACK is how many record numbers an ACK message can hold, which is never
	// longer than a record.
	MaxACK = (MaxPlaintext - 2) / recordNumberLen
)

// errACK is made once: whoever is the peer can make it happen at will.
var errACK = &Error{Alert: DecodeError, Reason: "ACK is not a list of record numbers"}

// ACKLen is the length of an ACK message of n record numbers.
func ACKLen(n int) int { return 2 + n*recordNumberLen }

// AppendACK appends to dst an ACK message for the given records (RFC 9147, 7),
// the payload of a record of type [ACKRecord], and returns the longer slice. It
// sorts numbers, for they have to go out in increasing order. It does not allocate
// when dst has room for [ACKLen] more bytes. The error is [ErrTooLarge] for more
// numbers than [MaxACK]; dst is then returned as it was.
func AppendACK(dst []byte, numbers []Number) ([]byte, error) {
	if len(numbers) > MaxACK {
		return dst, ErrTooLarge
	}
	slices.SortFunc(numbers, Number.Compare)
	dst = slices.Grow(dst, ACKLen(len(numbers)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(numbers)*recordNumberLen))
	for _, n := range numbers {
		dst = binary.BigEndian.AppendUint64(dst, n.Epoch)
		dst = binary.BigEndian.AppendUint64(dst, n.Seq)
	}
	return dst, nil
}

// ParseACK appends to dst the record numbers in an ACK message and returns the
// longer slice. It does not allocate when dst has room. The order is the peer's.
// The error is an [*Error] with decode_error; dst is then returned as it was.
func ParseACK(dst []Number, message []byte) ([]Number, error) {
	if len(message) < 2 {
		return dst, errACK
	}
	list := message[2:]
	if int(binary.BigEndian.Uint16(message)) != len(list) || len(list)%recordNumberLen != 0 {
		return dst, errACK
	}
	for ; len(list) > 0; list = list[recordNumberLen:] {
		dst = append(dst, Number{binary.BigEndian.Uint64(list), binary.BigEndian.Uint64(list[8:])})
	}
	return dst, nil
}

// Compare orders record numbers by epoch, then by sequence number. It returns a
// negative number where n comes first, 0 where they are the same.
func (n Number) Compare(m Number) int {
	return cmp.Or(cmp.Compare(n.Epoch, m.Epoch), cmp.Compare(n.Seq, m.Seq))
}
