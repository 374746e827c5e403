package probe

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// From linux/tls.h.
const (
	tlsTX            = 1
	tlsRX            = 2
	tlsMaxPayloadLen = 5
	tlsRecordType    = 1 // of control messages that set it

	tls12 = 0x0303
	tls13 = 0x0304
)

// A Cipher is one of linux/tls.h.
type Cipher struct {
	number uint16
	size   int // of its struct tls12_crypto_info_…
}

// The ciphers that a suite of TLS may have here.
var (
	AES128GCM        = Cipher{51, 40}
	AES256GCM        = Cipher{52, 56}
	AES128CCM        = Cipher{53, 40}
	ChaCha20Poly1305 = Cipher{54, 56}
)

// keys returns what TLS_TX and TLS_RX take: a random key, and records from number 0
// on. The layout behind the two numbers is the kernel's business, since both ends get
// the same.
func (c Cipher) keys(version uint16) string {
	const number = 8 // of the next record: the last field
	b := make([]byte, c.size)
	rand.Read(b[:c.size-number])
	binary.NativeEndian.PutUint16(b, version)
	binary.NativeEndian.PutUint16(b[2:], c.number)
	return string(b)
}

// ULP tries whether a TCP socket can become a TLS socket. A kernel that has them
// loads their module for this if the process may ask for that (CAP_NET_ADMIN).
func ULP() error {
	p, err := newPair()
	if err != nil {
		return err
	}
	defer p.close()
	return attach(p.a)
}

func attach(fd int) error {
	return os.NewSyscallError("setsockopt TCP_ULP", unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_ULP, "tls"))
}

func setKeys(fd, direction int, keys string) error {
	name := "setsockopt TLS_TX"
	if direction == tlsRX {
		name = "setsockopt TLS_RX"
	}
	return os.NewSyscallError(name, unix.SetsockoptString(fd, unix.SOL_TLS, direction, keys))
}

// newTLS is a pair that has keys from a to b.
func newTLS(version uint16, c Cipher) (pair, error) {
	p, err := newPair()
	if err != nil {
		return p, err
	}
	keys := c.keys(version)
	for _, step := range []func() error{
		func() error { return attach(p.a) },
		func() error { return attach(p.b) },
		func() error { return setKeys(p.a, tlsTX, keys) },
		func() error { return setKeys(p.b, tlsRX, keys) },
	} {
		if err := step(); err != nil {
			p.close()
			return p, err
		}
	}
	return p, nil
}

// Suite tries a cipher in a version of TLS, 0x0303 or 0x0304: a record goes through.
func Suite(version uint16, c Cipher) error {
	p, err := newTLS(version, c)
	if err != nil {
		return err
	}
	defer p.close()
	if err := write(p.a, "a record"); err != nil {
		return err
	}
	return expect(p.b, "a record")
}

// Rekey tries a KeyUpdate of TLS 1.3, from one end to the other: both directions
// take their second key at it, and what follows goes through.
func Rekey() error {
	p, err := newTLS(tls13, AES128GCM)
	if err != nil {
		return err
	}
	defer p.close()
	const keyUpdate = "\x18\x00\x00\x01\x00" // RFC 8446, 4.6.3: update_not_requested
	if err := write(p.a, "before"); err != nil {
		return err
	}
	if err := sendRecord(p.a, 22, keyUpdate); err != nil {
		return err
	}
	next := AES128GCM.keys(tls13)
	if err := setKeys(p.a, tlsTX, next); err != nil {
		return err
	}
	if err := write(p.a, "behind"); err != nil {
		return err
	}
	if err := expect(p.b, "before"); err != nil {
		return err
	}
	if err := expectRecord(p.b, 22, keyUpdate); err != nil {
		return err
	}
	if err := setKeys(p.b, tlsRX, next); err != nil {
		return err
	}
	return expect(p.b, "behind")
}

// sendRecord sends a record of a type.
func sendRecord(fd int, typ byte, content string) error {
	m := make([]byte, unix.CmsgSpace(1))
	head := unix.Cmsghdr{Level: unix.SOL_TLS, Type: tlsRecordType}
	head.SetLen(unix.CmsgLen(1))
	if _, err := binary.Encode(m, binary.NativeEndian, head); err != nil {
		return err
	}
	m[unix.CmsgLen(0)] = typ
	n, err := unix.SendmsgN(fd, []byte(content), m, nil, 0)
	if err == nil && n != len(content) {
		err = unix.EAGAIN
	}
	return os.NewSyscallError("sendmsg", err)
}

// expectRecord receives a record of a type.
func expectRecord(fd int, typ byte, want string) error {
	b, m := make([]byte, len(want)+1), make([]byte, unix.CmsgSpace(1))
	n, k, _, _, err := unix.Recvmsg(fd, b, m, 0)
	if err != nil {
		return os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(m[:k])
	if err != nil || len(messages) != 1 || len(messages[0].Data) < 1 || messages[0].Data[0] != typ || string(b[:n]) != want {
		return fmt.Errorf("%w: not the control record that was sent", ErrWrong)
	}
	return nil
}

// PayloadLimit tries to make records shorter than 16384 bytes.
func PayloadLimit() error {
	p, err := newTLS(tls13, AES128GCM)
	if err != nil {
		return err
	}
	defer p.close()
	const limit = 512
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], limit)
	return os.NewSyscallError("setsockopt TLS_TX_MAX_PAYLOAD_LEN", unix.SetsockoptString(p.a, unix.SOL_TLS, tlsMaxPayloadLen, string(b[:])))
}

// Sendfile tries sendfile(2) from a file into records.
func Sendfile() error {
	p, err := newTLS(tls13, AES128GCM)
	if err != nil {
		return err
	}
	defer p.close()
	const text = "of a file"
	fd, err := unix.MemfdCreate("aftls-probe", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	defer unix.Close(fd)
	if err := write(fd, text); err != nil {
		return err
	}
	var at int64
	if n, err := unix.Sendfile(p.a, fd, &at, len(text)); err != nil {
		return os.NewSyscallError("sendfile", err)
	} else if n != len(text) {
		return fmt.Errorf("%w: sendfile took %d bytes of %d", ErrWrong, n, len(text))
	}
	return expect(p.b, text)
}

// Splice tries splice(2) from a pipe into records, and out of records into a pipe.
func Splice() error {
	p, err := newTLS(tls13, AES128GCM)
	if err != nil {
		return err
	}
	defer p.close()
	const text = "of a pipe"
	var in, out [2]int
	if err := unix.Pipe2(in[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(in[0])
	defer unix.Close(in[1])
	if err := unix.Pipe2(out[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(out[0])
	defer unix.Close(out[1])
	if err := write(in[1], text); err != nil {
		return err
	}
	if n, err := unix.Splice(in[0], nil, p.a, nil, len(text), 0); err != nil {
		return os.NewSyscallError("splice", err)
	} else if n != int64(len(text)) {
		return fmt.Errorf("%w: splice took %d bytes of %d", ErrWrong, n, len(text))
	}
	if _, err := unix.Splice(p.b, nil, out[1], nil, len(text), 0); err != nil {
		return os.NewSyscallError("splice", err)
	}
	return expect(out[0], text)
}

// Errno is the errno in err, if it has one.
func Errno(err error) (unix.Errno, bool) { return errors.AsType[unix.Errno](err) }
