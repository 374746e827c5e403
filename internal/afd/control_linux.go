package afd

import (
	"encoding"
	"encoding/binary"
	"net"
	"os"
	"sync"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/pump"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// control is our half of a control descriptor: a pair of SEQPACKET sockets. It
// gives the program its control records and answers what it asks. Each question
// has one answer, in order; records and the end come between them.
type control struct {
	c  *net.UnixConn
	mu sync.Mutex // writing: one message, or all parts of one
}

func newControl() (*control, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "control")
	defer ours.Close()
	theirs := os.NewFile(uintptr(fds[1]), "control")
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return &control{c: c.(*net.UnixConn)}, theirs, nil
}

// Take gives the program a control record. It waits while the queue is full.
func (c *control) Take(r Control) error {
	return c.send(message{kind: msgRecord, typ: r.Type, offset: r.Offset, body: r.Payload})
}

// more says that the next message goes on with this one's body.
const more = 1

func (c *control) send(m message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	body := m.body
	for {
		m.body, m.flags = body[:min(len(body), record.MaxPlaintext)], 0
		if body = body[len(m.body):]; len(body) > 0 {
			m.flags = more
		}
		b := appendMessage(make([]byte, 0, messageHead+len(m.body)), m)
		_, err := c.c.Write(b)
		clear(b)
		if err != nil || len(body) == 0 {
			return err
		}
	}
}

// offer sends a message if the queue has room for it, and reports whether it had.
func (c *control) offer(m message) (ok bool) {
	raw, err := c.c.SyscallConn()
	if err != nil {
		return false
	}
	b := appendMessage(make([]byte, 0, messageHead+len(m.body)), m)
	defer clear(b)
	c.mu.Lock() // not between the parts of another
	defer c.mu.Unlock()
	raw.Control(func(fd uintptr) {
		_, err = unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		ok = err == nil
	})
	return ok
}

// Interrupt ends sends that wait for the program.
func (c *control) Interrupt() { c.c.SetWriteDeadline(time.Unix(1, 0)) }

// Close ends the control descriptor.
func (c *control) Close() error { return c.c.Close() }

// finish tells the program what the association ended of, and ends the control
// descriptor; that of an association which was taken out ends with its state.
func (c *control) finish(err error) {
	if err == pump.ErrStopped {
		return
	}
	// Waits for nobody: a program that wants to know has room.
	c.offer(message{kind: msgEnd, body: appendError(nil, err)})
	c.c.Close()
}

// association is what a control descriptor speaks for: an [Association], or
// [Datagrams].
type association interface {
	Run() error
	CloseNow()
	Close() error
	Info() aftls.Info
	SendControl(record.ContentType, []byte) (<-chan error, error)
	Replace(aftls.Direction, record.Keys) error
	Rekey() (<-chan error, error)
	Off() (state encoding.BinaryMarshaler, undelivered []byte, err error)
	appendInfo([]byte) []byte
}

// serve answers the program until it closes the descriptor or the association is
// over.
func (c *control) serve(a association) {
	b := make([]byte, maxMessage+1)
	for {
		n, err := c.c.Read(b)
		if err != nil || n == 0 {
			return
		}
		m, err := parseMessage(b[:n])
		if err == nil && n > maxMessage {
			err = refuse(unix.EMSGSIZE, "the message is too long")
		}
		var reply message
		if err == nil {
			reply, err = c.answer(a, m)
		}
		clear(b[:n]) // there may have been keys in it
		if err != nil || reply.kind == 0 {
			reply = message{kind: msgAnswer, body: appendError(nil, err)}
		}
		err = c.send(reply)
		clear(reply.body)
		if reply.kind == msgOff {
			c.c.Close()
		}
		if err != nil || reply.kind == msgOff {
			return
		}
	}
}

func wait(done <-chan error, err error) error {
	if err != nil {
		return err
	}
	return <-done
}

// Directions of a message with keys, as TLS_TX and TLS_RX of linux/tls.h.
const (
	keysSend    = 1
	keysReceive = 2
)

// answer does what the program asks. Without an answer of its own the reply is
// the error, or none.
func (c *control) answer(a association, m message) (message, error) {
	switch m.kind {
	case msgRecord:
		return message{}, wait(a.SendControl(m.typ, m.body))
	case msgKeys:
		k, err := ParseCryptoInfo(m.body)
		if err != nil {
			return message{}, refuse(unix.EINVAL, "%v", err)
		}
		defer k.Wipe()
		switch m.typ {
		case keysSend:
			return message{}, a.Replace(aftls.Send, k)
		case keysReceive:
			return message{}, a.Replace(aftls.Receive, k)
		}
		return message{}, refuse(unix.EINVAL, "the direction is neither 1 (send) nor 2 (receive)")
	case msgInfo:
		return message{kind: msgInfo, body: a.appendInfo(nil)}, nil
	case msgRekey:
		return message{}, wait(a.Rekey())
	case msgOff:
		state, undelivered, err := a.Off()
		if err != nil {
			return message{}, err
		}
		b, err := state.MarshalBinary()
		if err != nil {
			return message{}, err
		}
		body := binary.NativeEndian.AppendUint32(make([]byte, 0, 4+len(b)+len(undelivered)), uint32(len(b)))
		body = append(append(body, b...), undelivered...)
		clear(b)
		return message{kind: msgOff, body: body}, nil
	}
	return message{}, refuse(unix.EINVAL, "unknown message %d", m.kind)
}

func (a *Association) appendInfo(b []byte) []byte { return appendInfo(b, a.Info()) }

// appendInfo appends struct aftls_info: both directions, sending first.
func appendInfo(b []byte, i aftls.Info) []byte {
	for _, d := range []aftls.DirectionInfo{i.Send, i.Receive} {
		b = binary.NativeEndian.AppendUint16(b, d.Version)
		b = binary.NativeEndian.AppendUint16(b, d.Suite)
		b = binary.NativeEndian.AppendUint32(b, 0)
		for _, n := range []uint64{d.Seq, d.Records, d.Bytes, d.Epoch} {
			b = binary.NativeEndian.AppendUint64(b, n)
		}
	}
	return b
}
