//go:build linux && amd64

package seccomp

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A registration is what an epoll instance of a process has of a file.
type registration struct {
	PID    int    // who has the epoll instance, as in Holder
	Epoll  int    // one of its descriptors there
	FD     int    // the number under which the file was added
	Events uint32 // the mask: EPOLLIN and the like
	Data   uint64 // what the program gets back
}

// registrations returns where the socket with this inode is in these epoll
// instances. For each of them the kernel lists it, at some 1 µs for each file in it.
func registrations(epolls []Holder, inode uint64) (regs []registration, err error) {
	dev, err := sockets()
	if err != nil {
		return nil, err
	}
	var failure error
	for _, h := range epolls {
		dir, err := openProc(h.PID)
		if err != nil {
			continue // it ended
		}
		b, err := procFile(dir, "fdinfo/"+strconv.Itoa(h.FD))
		if err == nil {
			regs, err = appendRegistrations(regs, string(b), h, inode, dev)
		}
		err = refused(dir, err)
		unix.Close(dir)
		if err != nil && !gone(err) && failure == nil {
			failure = err
		}
	}
	return regs, failure
}

// appendRegistrations reads the fdinfo of an epoll instance (proc(5)): a line for
// each file, most of them of other ones.
func appendRegistrations(regs []registration, info string, h Holder, inode, dev uint64) ([]registration, error) {
	for line := range strings.Lines(info) {
		if !strings.HasPrefix(line, "tfd:") {
			continue
		}
		var value [5]uint64
		for i, f := range []struct {
			name string
			base int
		}{{"ino:", 16}, {"sdev:", 16}, {"tfd:", 10}, {"events:", 16}, {"data:", 16}} {
			_, rest, _ := strings.Cut(line, f.name)
			rest = strings.TrimLeft(rest, " ")
			if end := strings.IndexAny(rest, " \n"); end >= 0 {
				rest = rest[:end]
			}
			v, err := strconv.ParseUint(rest, f.base, 64)
			if err != nil {
				return regs, fmt.Errorf("seccomp: fdinfo of epoll says %q: %w", line, err)
			}
			if i == 0 && v != inode || i == 1 && v != dev {
				break
			}
			value[i] = v
		}
		if value[0] == inode && value[1] == dev {
			regs = append(regs, registration{PID: h.PID, Epoll: h.FD, FD: int(value[2]), Events: uint32(value[3]), Data: value[4]})
		}
	}
	return regs, nil
}

// sockets is the device of the file system of sockets, as fdinfo writes it: no
// other file has an inode there.
var sockets = sync.OnceValues(func() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	return uint64(unix.Major(st.Dev))<<20 | uint64(unix.Minor(st.Dev)), nil
})

// MoveEpoll moves the registrations of a socket to another file: old and new are
// descriptors of ours of both, and stay the caller's. It is for after AddFD has
// put new in the place of old in the program, and old must be held from before
// that: its registrations do not end as long as somebody holds it, and would go
// on to report its events under the program's number.
//
// epolls are those that Survey found. Each registration in one of them gets to be
// one of new, with its number, mask and data, and then that of old is removed. What
// new is ready for at that moment is reported. That a program sees an edge (EPOLLET)
// twice can happen, that it misses one cannot. If it has added new itself by
// then, that stays. One that has fired and waits to be armed again (EPOLLONESHOT)
// stays so, except that the kernel has it report EPOLLERR and EPOLLHUP.
//
// moved is how many registrations old has lost. If the error is not nil, some may be
// left: ENOSPC if the user has too many registrations, EMFILE or EBADF if we may
// not have a descriptor of such a number, ErrNoAccess, or that of a kernel that does
// not tell what is in an epoll instance.
func MoveEpoll(epolls []Holder, old, new int) (moved int, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(old, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	regs, err := registrations(epolls, st.Ino)
	if err != nil {
		return 0, err
	}
	var moves []move
	defer func() {
		for _, m := range moves {
			unix.Close(m.epoll)
		}
	}()
	for _, r := range regs {
		epoll, err := r.fetch()
		if gone(err) || errors.Is(err, unix.EBADF) {
			continue // it ended, or closed it
		}
		if err != nil {
			return 0, err
		}
		moves = append(moves, move{epoll: epoll, registration: r})
	}
	if len(moves) == 0 {
		return 0, nil
	}
	if err := startPoller(); err != nil {
		return 0, err
	}
	var stray unix.Errno
	onThreadThatEnds(func() { stray = moveAll(moves, old, new) })
	if stray != 0 {
		return 0, os.NewSyscallError("unshare", stray)
	}
	var errs []error
	for _, m := range moves {
		switch {
		case m.added != 0 && m.added != unix.EEXIST:
			errs = append(errs, fmt.Errorf("seccomp: epoll descriptor %d of process %d: adding %d: %w", m.Epoll, m.PID, m.FD, m.added))
		case m.deleted == 0:
			moved++
		case m.deleted != unix.ENOENT: // ENOENT: seen at another descriptor before
			errs = append(errs, fmt.Errorf("seccomp: epoll descriptor %d of process %d: deleting %d: %w", m.Epoll, m.PID, m.FD, m.deleted))
		}
	}
	return moved, errors.Join(errs...)
}

// fetch returns a descriptor of ours of the epoll instance.
func (r registration) fetch() (int, error) {
	t, err := openTask(r.PID)
	if err != nil {
		return -1, err
	}
	defer t.close()
	fd, err := t.getfd(r.Epoll)
	if err == unix.EPERM {
		return -1, ErrNoAccess
	}
	if err != nil {
		return -1, os.NewSyscallError("pidfd_getfd", err)
	}
	return fd, nil
}

// A move is one registration on its way.
type move struct {
	registration
	epoll          int // ours
	added, deleted unix.Errno
}

// onThreadThatEnds runs f on a thread that is gone soon after. That cannot be the
// first one: the runtime keeps it asleep instead of letting it end, and all that
// its table of descriptors holds would stay open for good.
func onThreadThatEnds(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onThreadThatEnds(f) // not on this one, which waits here
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// startPoller has the runtime make its poller. Its descriptors must be there
// before those of a thread are set apart (moveAll): such a thread may have to use
// them.
var startPoller = sync.OnceValue(func() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	return errors.Join(r.Close(), w.Close())
})
