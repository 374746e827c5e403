package soft

import (
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vectored says that readVector works here.
const vectored = true

// vector is the state of one readv(2), kept so that it does not allocate.
type vector struct {
	iov [batchRecords]unix.Iovec
	try func(fd uintptr) bool
	n   int
	err syscall.Errno
}

// readVector reads once, into as many places as there is data for.
func (s *Source) readVector() (int, error) {
	if s.vector.try == nil {
		s.vector.try = s.tryReadv
	}
	if err := s.raw.Read(s.vector.try); err != nil {
		return 0, err
	}
	if s.vector.err != 0 {
		return 0, os.NewSyscallError("readv", s.vector.err)
	}
	if s.vector.n == 0 {
		return 0, io.EOF
	}
	return s.vector.n, nil
}

func (s *Source) tryReadv(fd uintptr) bool {
	s.lend()
	k := 0
	for ; k < batchRecords && k*s.size < s.limit; k++ {
		p := s.place(k)
		s.vector.iov[k].Base = &p[0]
		s.vector.iov[k].SetLen(len(p))
	}
	for {
		n, _, errno := syscall.Syscall(syscall.SYS_READV, fd, uintptr(unsafe.Pointer(&s.vector.iov)), uintptr(k))
		s.vector.n, s.vector.err = int(n), errno
		if errno != syscall.EINTR {
			break
		}
	}
	clear(s.vector.iov[:k])
	if s.vector.err == syscall.EAGAIN {
		s.Drop()
		return false
	}
	return true
}
