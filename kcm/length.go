package kcm

import (
	"encoding/binary"
	"math"
)

// Length describes messages that carry their length at a fixed place.
type Length struct {
	Offset       int  // bytes in front of the length field, at most 65535
	Size         int  // bytes of the field: 2 or 4
	LittleEndian bool // least significant byte first
	Add          int  // bytes of the message that the field does not count, negative where it counts others; -65535 to 65535
}

// Framer returns the framer of such messages. It refuses a length that does
// not reach to the end of the field itself. The error is a [*LengthError].
func (l Length) Framer() (Framer, error) {
	const most = math.MaxUint16
	switch {
	case l.Size != 2 && l.Size != 4:
		return nil, &LengthError{l, "Size has to be 2 or 4"}
	case l.Offset < 0 || l.Offset > most:
		return nil, &LengthError{l, "Offset has to be 0 to 65535"}
	case l.Add < -most || l.Add > most:
		return nil, &LengthError{l, "Add has to be -65535 to 65535"}
	}
	return &length{at: l.Offset, end: l.Offset + l.Size, add: int64(l.Add), wide: l.Size == 4, little: l.LittleEndian}, nil
}

// LengthError is a Length that cannot be. The caller is to blame.
type LengthError struct {
	Length Length
	Reason string
}

func (e *LengthError) Error() string { return "kcm: not a length field: " + e.Reason }

// length is a checked Length.
type length struct {
	at, end      int
	add          int64
	wide, little bool
}

func (l *length) Frame(head []byte) (int, error) {
	if len(head) < l.end {
		return len(head) - l.end, nil
	}
	var v uint32
	switch field := head[l.at:l.end]; {
	case l.wide && l.little:
		v = binary.LittleEndian.Uint32(field)
	case l.wide:
		v = binary.BigEndian.Uint32(field)
	case l.little:
		v = uint32(binary.LittleEndian.Uint16(field))
	default:
		v = uint32(binary.BigEndian.Uint16(field))
	}
	n := int64(v) + l.add
	if n < int64(l.end) {
		return 0, refuse("the length field has %d, so the message ends inside its own header", v)
	}
	return clamp(n), nil
}

// clamp returns n, or where int is narrow the largest int: too long either way.
func clamp(n int64) int { return int(min(n, math.MaxInt)) }

// DNS is the framer of DNS over TCP and TLS: 2 bytes of length in front of each
// message (RFC 1035, 4.2.2; RFC 7858, 3.3). They are part of what is delivered.
func DNS() Framer { return &dns }

var dns = length{end: 2, add: 2}

// Thrift is the framer of Thrift's framed transport: 4 bytes of length in front
// of each message, which are part of what is delivered.
func Thrift() Framer { return thrift{} }

type thrift struct{}

func (thrift) Frame(head []byte) (int, error) {
	if len(head) < 4 {
		return len(head) - 4, nil
	}
	v := binary.BigEndian.Uint32(head)
	if int32(v) < 0 {
		return 0, refuse("not Thrift's framed transport: it begins with %#x; unframed messages begin like that", v)
	}
	return clamp(int64(v) + 4), nil
}

// Memcached is the framer of memcached's binary protocol, both directions.
func Memcached() Framer { return memcached{} }

type memcached struct{}

func (memcached) Frame(head []byte) (int, error) {
	const header, body = 24, 8 // the length of the body stands at offset 8
	if len(head) > 0 && head[0]&^1 != 0x80 {
		return 0, refuse("not memcached's binary protocol: a message begins with %#x, not 0x80 or 0x81", head[0])
	}
	if len(head) < body+4 {
		return len(head) - body - 4, nil
	}
	return clamp(int64(binary.BigEndian.Uint32(head[body:])) + header), nil
}

// HTTP2 is the framer of HTTP/2 frames (RFC 9113, 4.1), both directions. The
// client's preface is a message of its own.
func HTTP2() Framer { return http2{} }

type http2 struct{}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func (http2) Frame(head []byte) (int, error) {
	const header = 9
	if len(head) < header {
		return len(head) - header, nil
	}
	// As a frame the preface would be one of 5 MB and of a type that there is not.
	if head[0] == 'P' && string(head[:header]) == preface[:header] {
		if len(head) < len(preface) {
			return len(head) - len(preface), nil
		}
		if string(head[:len(preface)]) != preface {
			return 0, refuse("not HTTP/2: the preface is damaged")
		}
		return len(preface), nil
	}
	return header + int(binary.BigEndian.Uint32(head)>>8), nil
}

// PostgreSQL is the framer of PostgreSQL's protocol 3, both directions: a byte
// of type and 4 of length, but for the first messages of a client, which have no
// type. The one byte that a server answers to SSLRequest and GSSENCRequest is no
// message: in that direction the framer may start behind it.
func PostgreSQL() Framer { return postgreSQL{} }

type postgreSQL struct{}

func (postgreSQL) Frame(head []byte) (int, error) {
	if len(head) < 5 {
		return startup(head)
	}
	c := head[0]
	if c == 0 {
		return startup(head)
	}
	n := int32(binary.BigEndian.Uint32(head[1:]))
	if c|0x20 < 'a' && (c < '0' || c > '9') || c|0x20 > 'z' {
		return 0, refuse("not PostgreSQL: there is no message of type %#x", c)
	}
	if n < 4 {
		return 0, refuse("not PostgreSQL: the length of a message of type %q is %d", c, n)
	}
	return clamp(int64(n) + 1), nil
}

// startup frames messages without a type, and what is too short to tell.
func startup(head []byte) (int, error) {
	const least, most = 8, 10000 // length and code; what a server accepts
	if len(head) == 0 || head[0] != 0 {
		return len(head) - 5, nil
	}
	if len(head) < 4 {
		return len(head) - least, nil
	}
	n := binary.BigEndian.Uint32(head)
	if n < least || n > most {
		return 0, refuse("not PostgreSQL: the length of the startup message is %d", n)
	}
	return int(n), nil
}

// MQTT is the framer of MQTT 3 and 5 control packets (MQTT 5.0, 2.1), both
// directions.
func MQTT() Framer { return mqtt{} }

type mqtt struct{}

func (mqtt) Frame(head []byte) (int, error) {
	if len(head) < 2 {
		return len(head) - 2, nil
	}
	if head[0]>>4 == 0 {
		return 0, refuse("not MQTT: there is no packet of type 0")
	}
	if n := int(head[1]); n < 0x80 {
		return 2 + n, nil
	}
	n := 0
	for i, c := range head[1:min(len(head), 5)] {
		n |= int(c&0x7f) << (7 * i)
		if c < 0x80 {
			return 2 + i + n, nil
		}
	}
	if len(head) < 5 {
		return -1, nil
	}
	return 0, refuse("not MQTT: the length of a packet has more than 4 bytes")
}
