//go:build linux && amd64

package seccomp

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// moveAll moves registrations. An epoll instance knows a file by its number too,
// so they have to be made at the number that the program has, which is in use with
// us by something else. Therefore this thread gets a table of descriptors of its
// own, in which the numbers are borrowed; the thread must end after that.
//
// While a number is borrowed it may be one that the runtime uses: its poller, or
// what wakes it. So between the first and the last line of this function the
// scheduler must not run on this thread. No signal gets through that would preempt
// it, and nothing is called but RawSyscall, which does not look whether
// somebody wants the processor. Do not call anything else in here, allocate, or
// add a defer.
func moveAll(moves []move, old, new int) unix.Errno {
	mask, before := allSignals, unix.Sigset_t{}
	const sigsetSize = 8
	high := 0 // above all numbers that are borrowed
	for i := range moves {
		high = max(high, moves[i].FD+1)
	}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&mask)), uintptr(unsafe.Pointer(&before)), sigsetSize, 0, 0)
	if errno != 0 {
		return errno
	}
	_, _, errno = syscall.RawSyscall(syscall.SYS_UNSHARE, unix.CLONE_FILES, 0, 0)
	if errno == 0 {
		// What is needed goes out of the way of what is borrowed.
		from, _, e1 := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(old), unix.F_DUPFD_CLOEXEC, uintptr(high))
		to, _, e2 := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(new), unix.F_DUPFD_CLOEXEC, uintptr(high))
		if errno = e1; errno == 0 {
			errno = e2
		}
		for i := range moves {
			m := &moves[i]
			if m.added = errno; errno != 0 {
				continue
			}
			var epoll uintptr
			epoll, _, m.added = syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(m.epoll), unix.F_DUPFD_CLOEXEC, uintptr(high))
			if m.added != 0 {
				continue
			}
			fd := uintptr(m.FD)
			saved, _, none := syscall.RawSyscall(syscall.SYS_FCNTL, fd, unix.F_DUPFD_CLOEXEC, uintptr(high))
			if none != 0 && none != unix.EBADF {
				m.added = none // what cannot be put back is not borrowed
				continue
			}
			ev := unix.EpollEvent{Events: m.Events, Fd: int32(m.Data), Pad: int32(m.Data >> 32)}
			// First the new one, so that the program is not without, even if it fails.
			_, _, m.added = syscall.RawSyscall(syscall.SYS_DUP3, to, fd, syscall.O_CLOEXEC)
			if m.added == 0 {
				_, _, m.added = syscall.RawSyscall6(syscall.SYS_EPOLL_CTL, epoll, unix.EPOLL_CTL_ADD, fd, uintptr(unsafe.Pointer(&ev)), 0, 0)
			}
			if m.added == 0 || m.added == unix.EEXIST {
				_, _, m.deleted = syscall.RawSyscall(syscall.SYS_DUP3, from, fd, syscall.O_CLOEXEC)
				if m.deleted == 0 {
					_, _, m.deleted = syscall.RawSyscall6(syscall.SYS_EPOLL_CTL, epoll, unix.EPOLL_CTL_DEL, fd, 0, 0, 0)
				}
			}
			if none == 0 {
				syscall.RawSyscall(syscall.SYS_DUP3, saved, fd, syscall.O_CLOEXEC)
				syscall.RawSyscall(syscall.SYS_CLOSE, saved, 0, 0)
			} else {
				syscall.RawSyscall(syscall.SYS_CLOSE, fd, 0, 0)
			}
			syscall.RawSyscall(syscall.SYS_CLOSE, epoll, 0, 0)
		}
		errno = 0
	}
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&before)), 0, sigsetSize, 0, 0)
	return errno
}
