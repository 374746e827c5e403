//go:build linux && amd64

package seccomp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A ShortError says that memory of the program could be used in part only: the
// rest is not there, or may not be written. It is an EFAULT.
type ShortError struct {
	Done int // bytes from the start
	Want int
}

// Error implements error.
func (e *ShortError) Error() string {
	return fmt.Sprintf("seccomp: %d of %d bytes of the program's memory are there", e.Done, e.Want)
}

// Unwrap returns EFAULT.
func (e *ShortError) Unwrap() error { return unix.EFAULT }

// An Iovec is a struct iovec of the program: memory of its.
type Iovec = unix.RemoteIovec

// maxIovecs is UIO_MAXIOV of linux/uio.h: as many as one call takes.
const maxIovecs = 1024

// Read fills b from the memory of the thread that made the call, from addr on.
//
// The error is EFAULT if nothing could be read, a *ShortError, which is an EFAULT
// too, if not all could, ErrGone or ErrNoAccess. It does not allocate if all is
// well.
func (n *Notification) Read(b []byte, addr uint64) error {
	remote := [1]Iovec{{Base: uintptr(addr), Len: len(b)}}
	done, err := n.ReadVec(b, remote[:])
	return short(done, len(b), err)
}

// Write copies b to the memory of the thread that made the call, from addr on.
// Errors as Read.
func (n *Notification) Write(addr uint64, b []byte) error {
	remote := [1]Iovec{{Base: uintptr(addr), Len: len(b)}}
	done, err := n.WriteVec(remote[:], b)
	return short(done, len(b), err)
}

func short(done, want int, err error) error {
	if err == nil && done < want {
		return &ShortError{done, want}
	}
	return err
}

// ReadVec fills b from the memory that v says, which may be more, and returns how
// much there was: with less than there should be, what follows cannot be read. It
// is EFAULT if that is so from the start, otherwise errors as Read. It takes as
// many as 1024 (EINVAL).
func (n *Notification) ReadVec(b []byte, v []Iovec) (int, error) {
	if len(b) == 0 || len(v) == 0 {
		return 0, n.explain(nil)
	}
	local := [1]unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	done, err := unix.ProcessVMReadv(n.PID, local[:], v, 0)
	return n.copied(done, err)
}

// WriteVec copies b to the memory that v says, and returns how much, as ReadVec.
func (n *Notification) WriteVec(v []Iovec, b []byte) (int, error) {
	if !n.Valid() {
		return 0, ErrGone
	}
	if len(b) == 0 || len(v) == 0 {
		return 0, nil
	}
	local := [1]unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	done, err := unix.ProcessVMWritev(n.PID, local[:], v, 0)
	return n.copied(done, err)
}

func (n *Notification) copied(done int, err error) (int, error) {
	if err = n.explain(err); err != nil {
		return 0, err
	}
	return done, nil
}

// ErrTooLong says that a string does not end where it has to.
var ErrTooLong = errors.New("seccomp: a string of the program is too long")

// ReadString reads a string that a zero ends, which is not returned, from addr on.
// The error is ErrTooLong if it has more than limit bytes, otherwise as Read.
func (n *Notification) ReadString(addr uint64, limit int) (string, error) {
	const page = 4096 // memory is there by pages: none but that of the string need be
	var s []byte
	var buf [page]byte
	for {
		part := buf[:page-int(addr%page)]
		if err := n.Read(part, addr); err != nil {
			return "", err
		}
		end := bytes.IndexByte(part, 0)
		if end >= 0 {
			part = part[:end]
		}
		if s = append(s, part...); len(s) > limit {
			return "", ErrTooLong
		}
		if end >= 0 {
			return string(s), nil
		}
		addr += uint64(len(part))
	}
}

// ReadIovecs reads count structs iovec from addr on and appends them to v. What
// they hold together is cut off at 2 GiB less a page, as the kernel does it.
//
// The error is EINVAL if there are more than 1024, where sendmsg(2) and recvmsg(2)
// say EMSGSIZE, or if a length is negative; otherwise as Read.
func (n *Notification) ReadIovecs(v []Iovec, addr, count uint64) ([]Iovec, error) {
	if count > maxIovecs {
		return v, unix.EINVAL
	}
	var few [8 * sizeofIovec]byte
	b := few[:]
	if int(count)*sizeofIovec > len(b) {
		b = make([]byte, count*sizeofIovec)
	}
	b = b[:count*sizeofIovec]
	if err := n.Read(b, addr); err != nil {
		return v, err
	}
	return decodeIovecs(v, b)
}

const sizeofIovec = 16

func decodeIovecs(v []Iovec, b []byte) ([]Iovec, error) {
	left := maxTransfer
	for ; len(b) >= sizeofIovec; b = b[sizeofIovec:] {
		length := int(binary.LittleEndian.Uint64(b[8:]))
		if length < 0 {
			return v, unix.EINVAL
		}
		length = min(length, left)
		left -= length
		v = append(v, Iovec{Base: uintptr(binary.LittleEndian.Uint64(b)), Len: length})
	}
	return v, nil
}

// maxTransfer is MAX_RW_COUNT of linux/fs.h.
const maxTransfer = 0x7ffff000

// A Msghdr is a struct msghdr of the program (recvmsg(2)), as it is on amd64.
type Msghdr struct {
	Name       uint64
	Namelen    uint32
	Iov        uint64
	Iovlen     uint64
	Control    uint64
	Controllen uint64
	Flags      int32
}

// SizeofMsghdr is how far apart a struct mmsghdr has its length from its start.
const SizeofMsghdr = 56

// Offsets in struct msghdr.
const (
	offNamelen    = 8
	offIov        = 16
	offIovlen     = 24
	offControl    = 32
	offControllen = 40
	offFlags      = 48
)

// ReadMsghdr reads a struct msghdr at addr. Errors as Read.
func (n *Notification) ReadMsghdr(addr uint64) (h Msghdr, err error) {
	var b [SizeofMsghdr]byte
	if err := n.Read(b[:], addr); err != nil {
		return h, err
	}
	le := binary.LittleEndian
	return Msghdr{
		Name: le.Uint64(b[:]), Namelen: le.Uint32(b[offNamelen:]),
		Iov: le.Uint64(b[offIov:]), Iovlen: le.Uint64(b[offIovlen:]),
		Control: le.Uint64(b[offControl:]), Controllen: le.Uint64(b[offControllen:]),
		Flags: int32(le.Uint32(b[offFlags:])),
	}, nil
}

// WriteMsghdr writes what recvmsg(2) changes in a struct msghdr at addr: Namelen,
// Controllen and Flags. Errors as Read.
func (n *Notification) WriteMsghdr(addr uint64, h Msghdr) error {
	le := binary.LittleEndian
	var name [4]byte
	le.PutUint32(name[:], h.Namelen)
	var rest [12]byte
	le.PutUint64(rest[:], h.Controllen)
	le.PutUint32(rest[8:], uint32(h.Flags))
	var b [16]byte
	copy(b[copy(b[:], name[:]):], rest[:])
	v := [2]Iovec{
		{Base: uintptr(addr + offNamelen), Len: len(name)},
		{Base: uintptr(addr + offControllen), Len: len(rest)},
	}
	done, err := n.WriteVec(v[:], b[:])
	return short(done, len(name)+len(rest), err)
}
