//go:build unix

package soft

import (
	"io"
	"os"
	"syscall"
)

// read waits until the carrier has something to read and only then asks for
// room. It is the one place where a Receiver blocks.
func (r *Receiver) read() (int, error) {
	if r.raw == nil {
		n, err := r.conn.Read(r.room())
		return n, cause(err)
	}
	if r.tryRead == nil {
		r.tryRead = r.tryReadFD
	}
	if err := r.raw.Read(r.tryRead); err != nil {
		return 0, cause(err)
	}
	if r.gotErr != 0 {
		return 0, os.NewSyscallError("read", r.gotErr)
	}
	if r.got == 0 {
		return 0, io.EOF
	}
	return r.got, nil
}

// tryReadFD answers whether the read is over; if not, package net waits and
// calls again. Nothing is held meanwhile but the start of a record, if any.
func (r *Receiver) tryReadFD(fd uintptr) bool {
	b := r.room()
	for {
		n, err := syscall.Read(int(fd), b)
		r.got = n
		if r.gotErr, _ = err.(syscall.Errno); r.gotErr != syscall.EINTR {
			break
		}
	}
	if r.gotErr == syscall.EAGAIN {
		r.retreat()
		return false
	}
	return true
}

// immediate says that tryWrite works here.
const immediate = true

// tryWrite sends what the carrier takes without blocking. ok is false where
// that cannot be asked for; then nothing was sent.
func (s *Sender) tryWrite(b []byte) (n int, ok bool) {
	if s.raw == nil {
		return 0, false
	}
	s.raw.Write(func(fd uintptr) bool {
		n, _ = syscall.Write(int(fd), b)
		return true
	})
	return max(n, 0), true
}
