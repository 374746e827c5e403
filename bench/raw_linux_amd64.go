package bench

import (
	"runtime"
	"syscall"
	"unsafe"
)

// Calls as a program in C makes them. What package syscall does more than that, tell
// the runtime of the call, costs as much as the call itself where that takes longer
// than 20 us: another thread is woken to run what else there is.

// rawSetsockopt is setsockopt(2).
func rawSetsockopt(fd, level, name int, value string) error {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(unsafe.StringData(value))), uintptr(len(value)), 0)
	runtime.KeepAlive(value)
	if errno != 0 {
		return errno
	}
	return nil
}

// rawMessage is a message of one buffer.
type rawMessage struct {
	head syscall.Msghdr
	iov  syscall.Iovec
}

// call is sendmsg(2) or recvmsg(2).
func (m *rawMessage) call(nr uintptr, fd int, b []byte) (int, error) {
	m.iov.Base = &b[0]
	m.iov.SetLen(len(b))
	m.head = syscall.Msghdr{Iov: &m.iov, Iovlen: 1}
	n, _, errno := syscall.RawSyscall(nr, uintptr(fd), uintptr(unsafe.Pointer(&m.head)), 0)
	runtime.KeepAlive(m)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
