//go:build linux && amd64

package seccomp

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What linux/seccomp.h calls struct seccomp_notif, with struct seccomp_data in it.
type notif struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// What linux/seccomp.h calls struct seccomp_notif_resp.
type notifResp struct {
	id    uint64
	val   int64
	errno int32 // negative
	flags uint32
}

// What linux/seccomp.h calls struct seccomp_notif_addfd.
type notifAddFD struct {
	id         uint64
	flags      uint32
	srcFD      uint32
	newFD      uint32
	newFDFlags uint32
}

// What golang.org/x/sys/unix does not have of linux/seccomp.h.
const (
	ioctlIDValid  = 0x40082102 // SECCOMP_IOCTL_NOTIF_ID_VALID
	ioctlAddFD    = 0x40182103 // SECCOMP_IOCTL_NOTIF_ADDFD
	ioctlSetFlags = 0x40082104 // SECCOMP_IOCTL_NOTIF_SET_FLAGS
)

// sizes are those that the running kernel has for the structures of a
// notification: what it copies may be longer than what we know.
type sizes struct {
	notif, resp, data uint16
}

func (s *sizes) get() unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_NOTIF_SIZES, 0, uintptr(unsafe.Pointer(s)))
	return errno
}

// Supported returns nil if programs can be supervised here, as far as that can be
// known without doing it, and else an error that wraps ErrUnsupported or
// ErrForbidden. Start may still return ErrListenerExists.
func Supported() error {
	action := uint32(Notify)
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if errno == 0 {
		errno = new(sizes).get()
	}
	return refusal(errno)
}

// refusal says what an errno of seccomp(2) means for us.
func refusal(errno unix.Errno) error {
	switch errno {
	case 0:
		return nil
	case unix.EBUSY:
		return ErrListenerExists
	case unix.EPERM, unix.EACCES:
		return fmt.Errorf("%w (%w)", ErrForbidden, errno)
	case unix.ENOSYS, unix.EINVAL, unix.EOPNOTSUPP:
		// A container that forbids the call may say ENOSYS as well.
		return fmt.Errorf("%w (%w)", ErrUnsupported, errno)
	}
	return os.NewSyscallError("seccomp", errno)
}

// install puts the filter on this thread, and returns the listener. killable
// says that a call that was received is interrupted only by what kills the
// program (Linux 5.19).
func (f Filter) install() (listener int, killable bool, errno unix.Errno) {
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	for _, flags := range []uintptr{
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER,
	} {
		var fd uintptr
		fd, _, errno = unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
		runtime.KeepAlive(f)
		if errno != unix.EINVAL {
			return int(fd), flags&unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0, errno
		}
	}
	return -1, false, errno
}

// receive waits for a trapped call. The buffer must be zero.
func receive(listener int, buf []uint64) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&buf[0])))
	return errno
}

// head is the part of a notification that we know.
func head(buf []uint64) *notif { return (*notif)(unsafe.Pointer(&buf[0])) }

// words is how many uint64 hold n bytes, and what we know of the structure.
func words(n uint16, known uintptr) int { return (max(int(n), int(known)) + 7) / 8 }

const notifSize, respSize = unsafe.Sizeof(notif{}), unsafe.Sizeof(notifResp{})

// send answers a call. It waits for nobody, so the scheduler is not told.
func send(listener int, buf []uint64, r notifResp) unix.Errno {
	*(*notifResp)(unsafe.Pointer(&buf[0])) = r
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&buf[0])))
	return errno
}

func idValid(listener int, id uint64) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(listener), ioctlIDValid, uintptr(unsafe.Pointer(&id)))
	return errno
}

// addFD waits until the thread that makes the call took the descriptor. A signal
// of ours in the meantime, as the scheduler sends them, would leave it open
// whether it did; so this thread has none meanwhile.
func addFD(listener int, a notifAddFD) (fd int, errno unix.Errno) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	all, old := allSignals, unix.Sigset_t{}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return -1, err.(unix.Errno)
	}
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), ioctlAddFD, uintptr(unsafe.Pointer(&a)))
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil {
		panic(err) // there is no other way to fail than a bad pointer
	}
	return int(r), errno
}

var allSignals = func() (s unix.Sigset_t) {
	for i := range s.Val {
		s.Val[i] = ^uint64(0)
	}
	return s
}()

// wakeOnSameCPU asks that a program and its supervisor wake each other where they
// are, which saves a trip to another processor (Linux 6.6).
func wakeOnSameCPU(listener int) bool {
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(listener), ioctlSetFlags, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	return errno == 0
}

// readlinkat is readlinkat(2) without the string. path ends with a zero.
func readlinkat(dir int, path, buf []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_READLINKAT, uintptr(dir), uintptr(unsafe.Pointer(&path[0])), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	return int(n), errno
}

// filterBytes and bytesFilter carry a filter to the child.
func filterBytes(f Filter) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&f[0])), len(f)*int(unsafe.Sizeof(f[0])))
}

func bytesFilter(b []byte) (Filter, error) {
	size := int(unsafe.Sizeof(unix.SockFilter{}))
	if len(b) == 0 || len(b)%size != 0 {
		return nil, errors.New("seccomp: what came is no filter")
	}
	f := make(Filter, len(b)/size)
	copy(filterBytes(f), b)
	return f, nil
}
