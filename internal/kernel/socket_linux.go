package kernel

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

const ulpName = "tls"

// absent says that the kernel answered that it has no TLS sockets. Asking again
// for every connection costs a call that may look for a module each time.
var absent atomic.Bool

var errAbsent = attachError(unix.ENOENT)

// Socket is a TCP connection with the upper layer protocol "tls". Until a
// direction has a key its bytes pass as they are.
type Socket struct {
	raw    syscall.RawConn
	sys    *calls
	blocks bool // as a descriptor that others have too may: no sendfile(2) then
}

// Descriptor is a carrier that is a stream socket of the system and says so; see
// internal/soft.
type Descriptor interface{ Descriptor() syscall.RawConn }

// Attach sets the upper layer protocol. That works from the moment on when the
// connection is established until the peer sends its FIN, which may be right
// behind its last handshake message: so it comes before the handshake. ask asks the
// kernel even where it has answered before that there are no TLS sockets. The error
// is an [*Unavailable], and the connection is what it was.
func Attach(c net.Conn, ask bool) (*Socket, error) {
	var raw syscall.RawConn
	switch c := c.(type) {
	case *net.TCPConn:
		var err error
		if raw, err = c.SyscallConn(); err != nil {
			return nil, &Unavailable{"the carrier is closed", err}
		}
	case Descriptor:
		raw = c.Descriptor()
	}
	if raw == nil {
		return nil, &Unavailable{Reason: "the carrier is not a *net.TCPConn: the kernel has TLS on TCP sockets only"}
	}
	if absent.Load() && !ask {
		return nil, errAbsent
	}
	s, err := attach(raw, system)
	if err == nil {
		raw.Control(func(fd uintptr) {
			flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
			s.blocks = err != nil || flags&unix.O_NONBLOCK == 0
		})
	}
	return s, err
}

// Dup returns a duplicate of the descriptor, close-on-exec. It is the caller's.
func (s *Socket) Dup() (f *os.File, err error) {
	cerr := s.raw.Control(func(fd uintptr) {
		var dup int
		if dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3); err == nil {
			f = os.NewFile(uintptr(dup), "tls socket")
		}
	})
	if cerr != nil {
		return nil, cerr
	}
	return f, os.NewSyscallError("fcntl", err)
}

func attach(raw syscall.RawConn, sys *calls) (*Socket, error) {
	s := &Socket{raw: raw, sys: sys}
	err := s.setsockopt(unix.IPPROTO_TCP, unix.TCP_ULP, []byte(ulpName))
	if err == unix.EEXIST {
		if s.attached() {
			err = nil
		}
	}
	absent.Store(err == unix.ENOENT)
	if err != nil {
		return nil, attachError(err)
	}
	return s, nil
}

// attached reports whether the upper layer protocol is ours.
func (s *Socket) attached() bool {
	var b [16]byte
	n, err := s.getsockopt(unix.IPPROTO_TCP, unix.TCP_ULP, b[:])
	return err == nil && n >= len(ulpName) && string(b[:len(ulpName)]) == ulpName && (n == len(ulpName) || b[len(ulpName)] == 0)
}

func (s *Socket) setsockopt(level, opt int, b []byte) (err error) {
	if cerr := s.raw.Control(func(fd uintptr) { err = s.sys.setsockopt(int(fd), level, opt, b) }); cerr != nil {
		return cerr
	}
	return err
}

func (s *Socket) getsockopt(level, opt int, b []byte) (n int, err error) {
	if cerr := s.raw.Control(func(fd uintptr) { n, err = s.sys.getsockopt(int(fd), level, opt, b) }); cerr != nil {
		return 0, cerr
	}
	return n, err
}

// side is one direction of a Socket: its keys and its numbers.
type side struct {
	*Socket
	opt   int // optTX or optRX
	stats Stats

	// mu is for Refresh, which comes beside everything else. What it waits for
	// are system calls that do not block.
	mu    sync.Mutex
	keys  record.Keys // as the kernel has them, but for the number
	base  uint64      // records of this direction under earlier keys
	first uint64      // number at which the present key began here
	keyed bool
}

func (d *side) init(s *Socket, opt int, from *Stats) {
	d.Socket, d.opt = s, opt
	if from != nil {
		d.stats.goOn(from)
		d.base = from.Records.Load()
	}
}

// install gives the kernel a key. It is the first one of this direction, or one
// behind a KeyUpdate.
func (d *side) install(k record.Keys) error {
	k = k.Clone()
	defer k.Wipe()
	if err := k.Derive(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var info cryptoInfo
	defer info.wipe()
	if d.keyed {
		d.refresh() // or the count of the records ends here
	}
	info.set(k)
	if err := d.setsockopt(unix.SOL_TLS, d.opt, info.bytes()); err != nil {
		return keyError(err, d.keyed)
	}
	d.adopt(k)
	return nil
}

// adopt notes what the kernel has. d.mu is held, or nobody else knows d.
func (d *side) adopt(k record.Keys) {
	if d.keyed {
		d.base += d.stats.Seq.Load() - d.first
	}
	d.keys.Wipe()
	d.keys = k.Clone()
	d.first, d.keyed = k.Seq, true
	d.stats.keyed(k)
}

// info asks for what the kernel has. The caller wipes it.
func (d *side) info(i *cryptoInfo) error {
	i.n = lenFor(d.keys)
	n, err := d.getsockopt(unix.SOL_TLS, d.opt, i.bytes())
	if err == nil && n != i.n {
		err = unix.EINVAL
	}
	return err
}

// Refresh brings Stats up to date. After the end of the socket they stay as they
// were.
func (d *side) Refresh() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.keyed {
		d.refresh()
	}
}

func (d *side) refresh() error {
	var i cryptoInfo
	defer i.wipe()
	if err := d.info(&i); err != nil {
		return err
	}
	seq := i.seq()
	d.stats.Seq.Store(seq)
	d.stats.Records.Store(d.base + seq - d.first)
	return nil
}

// Stats returns the counters; the pointer stays valid.
func (d *side) Stats() *Stats { return &d.stats }

// Keys returns a copy of the keys at the kernel's next record.
func (d *side) Keys() (record.Keys, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.keyed {
		return record.Keys{}, ErrNoKeys
	}
	if err := d.refresh(); err != nil {
		return record.Keys{}, err
	}
	k := d.keys.Clone()
	k.Seq = d.stats.Seq.Load()
	return k, nil
}

// wipe forgets our copy of the keys. The kernel forgets its own with the socket.
func (d *side) wipe() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keys.Wipe()
	d.keyed = false
}

var errForeign = errors.New("kernel: the socket has other keys")

// take takes over a direction that has its keys already, as after a move to
// another process. k must be what the kernel has, to the number.
func (d *side) take(k record.Keys) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	k = k.Clone()
	defer k.Wipe()
	if err := k.Derive(); err != nil {
		return err
	}
	d.keys = k // for its length
	var have, want cryptoInfo
	defer have.wipe()
	defer want.wipe()
	err := d.info(&have)
	d.keys = record.Keys{}
	if err != nil {
		return keyError(err, false)
	}
	want.set(k)
	if have != want {
		return errForeign
	}
	d.adopt(k)
	return nil
}

// Has reports which directions have keys in the kernel.
func (s *Socket) Has() (send, receive bool) {
	var b [infoHead]byte
	// Without keys the answer is EBUSY.
	_, err := s.getsockopt(unix.SOL_TLS, optTX, b[:])
	send = err == nil
	_, err = s.getsockopt(unix.SOL_TLS, optRX, b[:])
	return send, err == nil
}

// unwrapped takes the error out of the *net.OpError that package net puts around
// it: our caller wraps it again, with its own operation.
//
//go:noinline
func unwrapped(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}
