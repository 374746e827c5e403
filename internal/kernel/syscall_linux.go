package kernel

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls are the system calls of this package. Tests answer in the kernel's place.
type calls struct {
	setsockopt func(fd, level, opt int, b []byte) error
	getsockopt func(fd, level, opt int, b []byte) (n int, err error)
	recv       func(fd int, p []byte, flags int) (n int, err error)
	recvmsg    func(fd int, p, control []byte, flags int) (n, controlLen, gotFlags int, err error)
	sendmsg    func(fd int, v []unix.Iovec, control []byte, flags int) (n int, err error)
	sendfile   func(fd, file, count int) (n int, err error) // from the file's own offset, which it moves
	splice     func(from, to, count, flags int) (n int, err error)
	unread     func(fd int) (n int, err error)     // SIOCINQ: bytes that were not read
	acked      func(fd int) (n uint64, err error)  // TCP_INFO: bytes that the peer has acknowledged
	queued     func(fd int) (n int, err error)     // SIOCOUTQ: bytes that it has not
	remaining  func(file int) (n int64, err error) // bytes of a file behind its offset
}

var system = &calls{
	setsockopt: func(fd, level, opt int, b []byte) error {
		_, _, errno := syscall.Syscall6(syscall.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0)
		return failed(errno)
	},
	getsockopt: func(fd, level, opt int, b []byte) (int, error) {
		n := uint32(len(b))
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt), uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
		return int(n), failed(errno)
	},
	recv: func(fd int, p []byte, flags int) (int, error) {
		n, _, errno := syscall.Syscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), uintptr(flags), 0, 0)
		return int(n), failed(errno)
	},
	recvmsg: func(fd int, p, control []byte, flags int) (n, controlLen, gotFlags int, err error) {
		v := unix.Iovec{Base: unsafe.SliceData(p)}
		v.SetLen(len(p))
		m := unix.Msghdr{Iov: &v, Control: unsafe.SliceData(control)}
		m.SetIovlen(1)
		m.SetControllen(len(control))
		r, _, errno := syscall.Syscall(syscall.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), uintptr(flags))
		return int(r), int(m.Controllen), int(m.Flags), failed(errno)
	},
	sendmsg: func(fd int, v []unix.Iovec, control []byte, flags int) (int, error) {
		m := unix.Msghdr{Iov: unsafe.SliceData(v)}
		m.SetIovlen(len(v))
		if len(control) > 0 {
			m.Control = unsafe.SliceData(control)
			m.SetControllen(len(control))
		}
		n, _, errno := syscall.Syscall(syscall.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), uintptr(flags))
		return int(n), failed(errno)
	},
	sendfile: func(fd, file, count int) (int, error) { return unix.Sendfile(fd, file, nil, count) },
	splice: func(from, to, count, flags int) (int, error) {
		n, err := unix.Splice(from, nil, to, nil, count, flags)
		return int(n), err
	},
	unread: func(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCINQ) },
	acked: func(fd int) (uint64, error) {
		i, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return 0, err
		}
		return i.Bytes_acked, nil
	},
	queued: func(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCOUTQ) },
	remaining: func(file int) (int64, error) {
		var st unix.Stat_t
		if err := unix.Fstat(file, &st); err != nil {
			return 0, err
		}
		at, err := unix.Seek(file, 0, 1)
		return st.Size - at, err
	},
}

// failed makes an error of errno, without a nil syscall.Errno in an interface.
func failed(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// offset is the byte n behind p in the same slice.
func offset(p *byte, n int) *byte { return (*byte)(unsafe.Add(unsafe.Pointer(p), n)) }

// control is room for one control message of one byte, the type of a record.
type control struct {
	_ [0]uint64 // aligned as a cmsghdr
	b [24]byte
}

var controlLen = unix.CmsgSpace(1)

// setType makes c the message that gives what is sent with it a type.
func (c *control) setType(typ byte) []byte {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.b))
	h.Level, h.Type = unix.SOL_TLS, setRecordType
	h.SetLen(unix.CmsgLen(1))
	c.b[unix.CmsgLen(0)] = typ
	return c.b[:controlLen]
}

// room is where a received message goes.
func (c *control) room() []byte {
	clear(c.b[:])
	return c.b[:controlLen]
}

// getType is the type that a received message of n bytes names. ok is false for
// any other message, and for one that was cut off.
func (c *control) getType(n int) (typ byte, ok bool) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.b))
	if n < unix.CmsgLen(1) || int(h.Len) < unix.CmsgLen(1) || h.Level != unix.SOL_TLS || h.Type != getRecordType {
		return 0, false
	}
	return c.b[unix.CmsgLen(0)], true
}
