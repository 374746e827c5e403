package soft

import (
	"syscall"
	"unsafe"
)

// readFD and writeFD are recv(2) and send(2) that do not block, whatever the
// socket's own mode. What is small is over before anybody could want this
// thread's processor: it does without telling the scheduler, which costs a short
// message some percent.

const dontWait = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL

func readFD(fd uintptr, b []byte) (int, syscall.Errno) {
	var p *byte
	if len(b) > 0 {
		p = &b[0]
	}
	var n uintptr
	var errno syscall.Errno
	if len(b) > smallSize {
		n, _, errno = syscall.Syscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(p)), uintptr(len(b)), dontWait, 0, 0)
	} else {
		n, _, errno = syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(p)), uintptr(len(b)), dontWait, 0, 0)
	}
	return int(n), errno
}

func writeFD(fd uintptr, b []byte) int {
	if len(b) == 0 {
		return 0
	}
	var n uintptr
	if len(b) > smallSize {
		n, _, _ = syscall.Syscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), dontWait, 0, 0)
	} else {
		n, _, _ = syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), dontWait, 0, 0)
	}
	return int(n)
}
