//go:build linux && amd64

package seccomp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrTreeMoves says that processes were made faster than they could be looked at.
var ErrTreeMoves = errors.New("seccomp: the program starts processes faster than they can be looked at: try again, or refuse")

// maxRounds is how often the tree is listed until there is nobody new in it.
const maxRounds = 16

// A Holder is a descriptor of a process.
type Holder struct {
	PID int // or of a thread that has descriptors of its own
	FD  int
}

// A Survey is what a look at every descriptor of the program's processes found.
type Survey struct {
	Holders []Holder // those that are the socket that was asked for
	Epolls  []Holder // those that are epoll instances; one may have several
}

// Survey looks for the socket with this inode. The order says nothing.
//
// It sees processes that are started meanwhile. What it cannot see is a socket
// that is on its way in a message of another (SCM_RIGHTS), or that a process
// outside the tree was given. It looks at every descriptor of the tree, at the
// price of a readlink(2) each. A process that it may not look into is ErrNoAccess;
// otherwise the error is ErrTreeMoves, or that of a kernel that does not tell
// (CONFIG_PROC_CHILDREN).
func (p *Process) Survey(inode uint64) (s Survey, err error) {
	err = descriptors(func(h Holder, link []byte) {
		switch {
		case socketInode(link) == inode:
			s.Holders = append(s.Holders, h)
		case string(link) == "anon_inode:[eventpoll]":
			s.Epolls = append(s.Epolls, h)
		}
	})
	return s, err
}

// filters is how many filters our own process is under. Every process of a
// program of ours is under more, and cannot get rid of one.
var filters = sync.OnceValues(func() (int, error) {
	dir, err := openProc(os.Getpid())
	if err != nil {
		return 0, err
	}
	defer unix.Close(dir)
	return statusNumber(dir, "Seccomp_filters:")
})

// supervised reports whether a child of ours is of a program of ours. It may be
// dead, and unburied.
func supervised(dir int) (bool, error) {
	ours, err := filters()
	if err != nil {
		return false, err
	}
	n, err := statusNumber(dir, "Seccomp_filters:")
	return n > ours, err
}

// walk calls visit for each process of the tree, with its directory in /proc,
// until a whole round brings nobody new. The tree is the program and its
// descendants, also those whose parent ended, which are our children then (see
// Start). If we run several programs it is those of all.
func walk(visit func(pid, dir int)) error {
	seen := map[int]bool{}
	for range maxRounds {
		level, err := orphans()
		if err != nil {
			return err
		}
		level = slices.DeleteFunc(level, func(pid int) bool { return !seen[pid] && !programs.has(pid) && !isOurs(pid) })
		level = append(level, programs.list()...)
		fresh := false
		for len(level) > 0 {
			var next []int
			for _, pid := range level {
				if !seen[pid] {
					dir, err := openProc(pid)
					if err != nil {
						continue // it ended
					}
					seen[pid], fresh = true, true
					visit(pid, dir)
					unix.Close(dir)
				}
				below, err := children(pid)
				if err != nil && !gone(err) {
					return err
				}
				next = append(next, below...)
			}
			level = next
		}
		if !fresh {
			return nil
		}
	}
	return ErrTreeMoves
}

func isOurs(pid int) bool {
	dir, err := openProc(pid)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	ours, err := supervised(dir)
	return err == nil && ours
}

// gone reports whether an error of /proc says that a process ended.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)
}

// orphans returns the processes that we inherited, and perhaps other children of
// ours. They are those of our first thread, which gets all orphans as long as it
// lives, and with Go it does.
func orphans() ([]int, error) {
	pids, err := appendChildren(nil, os.Getpid(), os.Getpid())
	if gone(err) { // we are not
		err = fmt.Errorf("seccomp: the kernel does not tell the children of a process, it lacks CONFIG_PROC_CHILDREN: %w", err)
	}
	return pids, err
}

// children returns the children of all threads of a process.
func children(pid int) (pids []int, err error) {
	tids, err := threads(pid)
	if err != nil {
		return nil, err
	}
	for _, tid := range tids {
		if pids, err = appendChildren(pids, pid, tid); err != nil && !gone(err) {
			return nil, err
		}
	}
	return pids, nil
}

func appendChildren(pids []int, pid, tid int) ([]int, error) {
	b, err := procFile(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/task/%d/children", pid, tid))
	if err != nil {
		return pids, err
	}
	for f := range bytes.FieldsSeq(b) {
		child, err := strconv.Atoi(string(f))
		if err != nil {
			return pids, err
		}
		pids = append(pids, child)
	}
	return pids, nil
}

// threads returns the threads of a process.
func threads(pid int) ([]int, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/task"
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return nil, err
	}
	if st.Nlink == oneThread {
		return []int{pid}, nil
	}
	return numbers(name)
}

// oneThread is the number of links of /proc/PID/task then: itself, its parent, the
// thread.
const oneThread = 3

// OneThread reports whether the thread that made the call is the only one of its
// process: nothing happens there until the call is answered.
func (n *Notification) OneThread() (one bool, err error) {
	err = n.with(func(t *task) error {
		var st unix.Stat_t
		err := unix.Fstatat(t.dir, "task", &st, 0)
		one = st.Nlink == oneThread
		return err
	})
	return one, err
}

// numbers returns the names in a directory of /proc that are numbers.
func numbers(name string) (ns []int, err error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return numbersIn(fd)
}

func numbersIn(fd int) (ns []int, err error) {
	var buf [8192]byte
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(fd, buf[:]) })
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return ns, nil
		}
		for b := buf[:n]; len(b) > 0; {
			// struct linux_dirent64: inode, offset, length, type, name
			const offLength, offName = 16, 19
			size := binary.LittleEndian.Uint16(b[offLength:])
			if k, ok := number(b[offName:size]); ok {
				ns = append(ns, k)
			}
			b = b[size:]
		}
	}
}

// number is the number that b begins with, up to a zero.
func number(b []byte) (n int, ok bool) {
	for _, c := range b {
		if c == 0 {
			return n, ok
		}
		if c < '0' || c > '9' {
			return 0, false
		}
		n, ok = n*10+int(c-'0'), true
	}
	return n, ok
}

// descriptors calls visit for each descriptor of the tree, with what its link in
// /proc says.
func descriptors(visit func(h Holder, link []byte)) error {
	var failure error
	err := walk(func(pid, dir int) {
		if err := table(pid, dir, visit); err != nil && !gone(err) && failure == nil {
			failure = err
		}
		tids, err := threads(pid)
		if err != nil || len(tids) == 1 {
			return
		}
		// Threads that do not share the descriptors of their process.
		distinct := []int{pid}
		for _, tid := range tids {
			if slices.ContainsFunc(distinct, func(one int) bool { return sameTable(one, tid) }) {
				continue
			}
			distinct = append(distinct, tid)
			own, err := openProc(tid)
			if err != nil {
				continue
			}
			if err := table(tid, own, visit); err != nil && !gone(err) && failure == nil {
				failure = err
			}
			unix.Close(own)
		}
	})
	return errors.Join(err, failure)
}

// kcmpFiles is KCMP_FILES of linux/kcmp.h.
const kcmpFiles = 2

// sameTable reports whether two threads are known to share their descriptors. A
// kernel without CONFIG_KCMP does not tell.
func sameTable(a, b int) bool {
	if a == b {
		return true
	}
	r, _, errno := unix.RawSyscall(unix.SYS_KCMP, uintptr(a), uintptr(b), kcmpFiles)
	return errno == 0 && r == 0
}

// table calls visit for each descriptor of a thread.
func table(tid, dir int, visit func(h Holder, link []byte)) error {
	fds, err := unix.Openat(dir, "fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return refused(dir, err)
	}
	defer unix.Close(fds)
	ns, err := numbersIn(fds)
	if err != nil {
		return refused(dir, err)
	}
	var link [32]byte
	var name [20]byte
	for _, fd := range ns {
		path := append(strconv.AppendUint(name[:0], uint64(fd), 10), 0)
		if n, errno := readlinkat(fds, path, link[:]); errno == 0 {
			visit(Holder{tid, fd}, link[:n])
		}
	}
	return nil
}

// refused says what it means that /proc did not let us look: ErrNoAccess, or that
// the process is about to end. It belongs to root then.
func refused(dir int, err error) error {
	if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
		return err
	}
	b, serr := procFile(dir, "status")
	if serr != nil || !bytes.Contains(b, []byte("\nVmSize:")) { // its memory is gone
		return unix.ESRCH
	}
	return ErrNoAccess
}
