package soft

import (
	"syscall"
	"unsafe"
)

// readFD and writeFD are read(2) and write(2) on a socket that does not block.
// What is small is over before anybody could want this thread's processor: it
// does without telling the scheduler, which costs a short message some percent.

func readFD(fd uintptr, b []byte) (int, syscall.Errno) {
	if len(b) == 0 || len(b) > smallSize {
		n, err := syscall.Read(int(fd), b)
		errno, _ := err.(syscall.Errno)
		return n, errno
	}
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}

func writeFD(fd uintptr, b []byte) int {
	if len(b) == 0 || len(b) > smallSize {
		n, _ := syscall.Write(int(fd), b)
		return n
	}
	n, _, _ := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n)
}
