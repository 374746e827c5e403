package afd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/aftls/aftls/record"
)

// The hand-off protocol, version 1 (docs/handoff.md). Every message is one
// SEQPACKET message; numbers are in this machine's byte order.

const (
	handoffMagic   = 0x534c5461 // "aTLS" in memory on little-endian machines
	handoffVersion = 1
)

// Flags of a request.
const (
	WantControl uint16 = 1 << iota // control records over a control descriptor
	Kernel                         // as a kernel TLS socket behaves: see docs/handoff.md
	IsClient                       // the program was the client of the handshake
	Records                        // the data descriptor keeps the boundaries of records
	allFlags    = 1<<iota - 1
)

// Forms of keys.
const (
	formNone = iota
	formCryptoInfo
	formTrafficSecret
)

// maxUnread is how much ciphertext a request can bring along, in bytes. A library
// that reads ahead holds one record or a few.
const maxUnread = 128 << 10

// MaxRequest is the longest request, in bytes.
const MaxRequest = requestHead + 2*secretSize + maxUnread

const requestHead = 24

// Request is a program's wish for a TLS socket.
type Request struct {
	Flags         uint16
	Send, Receive record.Keys
	Unread        []byte // ciphertext that was read from the carrier already
}

// refusal is an answer with an errno and its reason.
type refusal struct {
	errno  syscall.Errno
	reason string
}

func (e *refusal) Error() string { return "afd: " + e.reason }
func (e *refusal) Unwrap() error { return e.errno }

func refuse(errno syscall.Errno, format string, args ...any) error {
	return &refusal{errno, fmt.Sprintf(format, args...)}
}

// ParseRequest reads a request. Nothing of b is kept. The errors wrap the errno
// of the answer: EPROTO for what is no request, EPROTONOSUPPORT for one of
// another version, EINVAL for what it asks.
func ParseRequest(b []byte) (*Request, error) {
	if len(b) < requestHead || binary.NativeEndian.Uint32(b) != handoffMagic {
		return nil, refuse(syscall.EPROTO, "not a request for a hand-off")
	}
	if v := binary.NativeEndian.Uint16(b[4:]); v != handoffVersion {
		return nil, refuse(syscall.EPROTONOSUPPORT, "request of version %d, this daemon speaks %d", v, handoffVersion)
	}
	r := &Request{Flags: binary.NativeEndian.Uint16(b[6:])}
	if r.Flags&^allFlags != 0 {
		return nil, refuse(syscall.EINVAL, "unknown flags %#x", r.Flags&^allFlags)
	}
	tx, rx := form(b[8:]), form(b[12:])
	unread := binary.NativeEndian.Uint32(b[16:])
	if binary.NativeEndian.Uint32(b[20:]) != 0 {
		return nil, refuse(syscall.EINVAL, "the reserved field is not 0")
	}
	b = b[requestHead:]
	if unread > maxUnread || int64(len(b)) != int64(tx.len)+int64(rx.len)+int64(unread) {
		return nil, refuse(syscall.EINVAL, "the lengths do not add up to that of the request, or are too large")
	}
	var err error
	if r.Send, err = tx.parse(b[:tx.len]); err != nil {
		return nil, refuse(syscall.EINVAL, "keys to send with: %v", err)
	}
	b = b[tx.len:]
	if r.Receive, err = rx.parse(b[:rx.len]); err != nil {
		r.wipe()
		return nil, refuse(syscall.EINVAL, "keys to receive with: %v", err)
	}
	if r.Send.Version != r.Receive.Version || r.Send.Suite != r.Receive.Suite {
		r.wipe()
		return nil, refuse(syscall.EINVAL, "the two directions differ in version or cipher")
	}
	if isDatagram(r.Send.Version) && (unread > 0 || r.Flags&(Kernel|Records) != 0) {
		r.wipe()
		return nil, refuse(syscall.EINVAL, "datagrams have neither unread ciphertext, nor kernel semantics, nor records to be kept apart")
	}
	if (tx.form == formTrafficSecret) != (rx.form == formTrafficSecret) {
		r.wipe()
		return nil, refuse(syscall.EINVAL, "both directions need a traffic secret, or neither")
	}
	r.Unread = append(r.Unread, b[rx.len:]...)
	return r, nil
}

func (r *Request) wipe() {
	r.Send.Wipe()
	r.Receive.Wipe()
}

// secrets reports whether the request came with traffic secrets.
func (r *Request) secrets() bool { return len(r.Send.Secret) > 0 }

type keyForm struct{ form, len uint16 }

func form(b []byte) keyForm {
	return keyForm{binary.NativeEndian.Uint16(b), binary.NativeEndian.Uint16(b[2:])}
}

var errForm = errors.New("afd: the form of the keys is neither a crypto_info (1) nor a traffic secret (2)")

func (f keyForm) parse(b []byte) (record.Keys, error) {
	switch f.form {
	case formCryptoInfo:
		return ParseCryptoInfo(b)
	case formTrafficSecret:
		return ParseTrafficSecret(b)
	}
	return record.Keys{}, errForm
}

// maxReason is the longest text of an answer, in bytes.
const maxReason = 255

// appendReply appends the answer to a request: err is nil where the descriptors
// come along.
func appendReply(b []byte, err error) []byte {
	b = binary.NativeEndian.AppendUint32(b, handoffMagic)
	b = binary.NativeEndian.AppendUint16(b, handoffVersion)
	b = binary.NativeEndian.AppendUint16(b, 0)
	return appendError(b, err)
}

// appendError appends the errno of err and its text.
func appendError(b []byte, err error) []byte {
	if err == nil {
		return binary.NativeEndian.AppendUint32(b, 0)
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(errnoOf(err)))
	text := err.Error()
	return append(b, text[:min(len(text), maxReason)]...)
}

// Messages on a control descriptor: struct aftls_message and what follows it.
const (
	msgRecord   = 1 // both ways: a control record
	msgKeys     = 2 // to us: the next keys of one direction
	msgInfo     = 3 // to us, and its answer
	msgOff      = 4 // to us, and its answer: the association
	msgRekey    = 5 // to us: KeyUpdate now
	msgAnswer   = 6 // from us: errno and reason
	msgEnd      = 7 // from us: the peer's close_notify, or our errno and reason
	msgWarning  = 8 // from us: errno and reason of what an association over datagrams goes on after
	messageHead = 16
)

// message is one message of a control descriptor.
type message struct {
	kind   uint8
	typ    record.ContentType // of a record; the direction of keys: 1 send, 2 receive
	flags  uint16
	offset uint64 // bytes of data in the stream in front of a record
	body   []byte
}

// maxMessage is the longest message, in bytes.
const maxMessage = messageHead + record.MaxPlaintext

func appendMessage(b []byte, m message) []byte {
	b = append(b, m.kind, byte(m.typ))
	b = binary.NativeEndian.AppendUint16(b, m.flags)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(m.body)))
	b = binary.NativeEndian.AppendUint64(b, m.offset)
	return append(b, m.body...)
}

// parseMessage reads a message, whose body is a part of b.
func parseMessage(b []byte) (m message, err error) {
	if len(b) < messageHead || int64(binary.NativeEndian.Uint32(b[4:])) != int64(len(b)-messageHead) {
		return m, refuse(syscall.EPROTO, "not a control message")
	}
	m = message{kind: b[0], typ: record.ContentType(b[1]), flags: binary.NativeEndian.Uint16(b[2:]),
		offset: binary.NativeEndian.Uint64(b[8:]), body: b[messageHead:]}
	return m, nil
}
