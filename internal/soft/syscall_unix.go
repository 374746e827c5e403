//go:build unix && !linux

package soft

import "syscall"

// readFD and writeFD are read(2) and write(2) on a socket that does not block.

func readFD(fd uintptr, b []byte) (int, syscall.Errno) {
	n, err := syscall.Read(int(fd), b)
	errno, _ := err.(syscall.Errno)
	return n, errno
}

func writeFD(fd uintptr, b []byte) int {
	n, _ := syscall.Write(int(fd), b)
	return n
}
