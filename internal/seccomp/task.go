//go:build linux && amd64

package seccomp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNoAccess says that the kernel does not let us look into the process: it made
// itself undumpable (prctl(2), PR_SET_DUMPABLE), runs a file that its user may not
// read, or has another user than we have.
var ErrNoAccess = errors.New("seccomp: no access to the process: it is not dumpable or has another user; run the supervisor as root for it")

// ErrNotSocket is the answer of Inode for a descriptor of something else.
var ErrNotSocket = errors.New("seccomp: the descriptor is not a socket")

// A task is a thread that made a call, with what we have open of it: to open that
// each time would cost more than most calls. Both descriptors mean this very
// thread, and give ESRCH or ENOENT once it is gone, whoever has its number then.
type task struct {
	mu     sync.RWMutex // held for reading while the descriptors are used
	dir    int          // /proc/PID; -1 if closed
	pidfd  int          // of the thread, or of its process before Linux 6.9
	pid    int
	leader int // the process, if pidfd is of that
}

func (t *task) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dir >= 0 {
		unix.Close(t.dir)
		unix.Close(t.pidfd)
		t.dir, t.pidfd = -1, -1
	}
}

// getfd returns a descriptor of ours of one of the thread.
func (t *task) getfd(fd int) (int, error) {
	// It may have left the table of its process at any time.
	if t.leader != 0 && !sameTable(t.leader, t.pid) {
		return -1, unix.EOPNOTSUPP
	}
	return unix.PidfdGetfd(t.pidfd, fd, 0)
}

// maxTasks is how many threads are kept, with two descriptors each.
const maxTasks = 128

// tasks are threads that called.
type tasks struct {
	mu    sync.Mutex
	byPID map[int]*task
}

// get returns the task of the thread that made the call and whether it was open
// already: it may be that of a thread that is gone then, and had the same number.
func (s *tasks) get(n *Notification) (t *task, kept bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid := n.PID
	if t := s.byPID[pid]; t != nil {
		return t, true, nil
	}
	for len(s.byPID) >= maxTasks {
		s.dropOne()
	}
	for {
		t, err = openTask(pid)
		// Our own lack of descriptors is eased by what is kept here.
		if (errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)) && len(s.byPID) > 0 {
			s.dropOne()
			continue
		}
		if err != nil {
			return nil, false, err
		}
		// From here on it is certain that what was opened is the thread that waits.
		if !n.Valid() {
			t.close()
			return nil, false, ErrGone
		}
		if s.byPID == nil {
			s.byPID = make(map[int]*task)
		}
		s.byPID[pid] = t
		return t, false, nil
	}
}

// dropOne closes any one: maps are ranged over in no order.
func (s *tasks) dropOne() {
	for pid, t := range s.byPID {
		delete(s.byPID, pid)
		t.close()
		return
	}
}

func (s *tasks) forget(pid int, t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byPID[pid] == t {
		delete(s.byPID, pid)
	}
	t.close()
}

func (s *tasks) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.byPID) > 0 {
		s.dropOne()
	}
}

func openTask(pid int) (*task, error) {
	dir, err := openProc(pid)
	if err != nil {
		return nil, err
	}
	t := &task{dir: dir, pid: pid}
	t.pidfd, err = unix.PidfdOpen(pid, unix.PIDFD_THREAD)
	if err == unix.EINVAL { // before Linux 6.9
		t.pidfd, err = unix.PidfdOpen(pid, 0)
	}
	if err == unix.EINVAL || err == unix.ENOENT { // as is said of a thread that is no process
		if t.leader, err = t.number("Tgid:"); err == nil {
			t.pidfd, err = unix.PidfdOpen(t.leader, 0)
		}
	}
	if err != nil {
		unix.Close(dir)
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return t, nil
}

func openProc(pid int) (int, error) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("open", err)
	}
	return dir, nil
}

// procFile reads a file below a directory of /proc.
func procFile(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := make([]byte, 4096)
	used := 0
	for {
		n, err := retry(func() (int, error) { return unix.Read(fd, b[used:]) })
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return b[:used], nil
		}
		if used += n; used == len(b) {
			b = append(b, make([]byte, 3*len(b))...)
		}
	}
}

// number is a line of /proc/PID/status.
func (t *task) number(name string) (int, error) { return statusNumber(t.dir, name) }

func statusNumber(dir int, name string) (int, error) {
	b, err := procFile(dir, "status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			return strconv.Atoi(string(bytes.TrimSpace(rest)))
		}
	}
	return 0, fmt.Errorf("seccomp: /proc/PID/status has no %s", name)
}

// with calls use with the task of the thread that made the call. If a kept task is
// no use, it may be that of a thread that is gone, and a fresh one is tried.
func (n *Notification) with(use func(t *task) error) error {
	l := n.listener
	for {
		t, kept, err := l.tasks.get(n)
		if err != nil {
			return n.explain(err)
		}
		t.mu.RLock()
		if t.dir < 0 { // dropped in the meantime
			t.mu.RUnlock()
			continue
		}
		err = use(t)
		t.mu.RUnlock()
		if err == nil {
			return nil
		}
		if kept && (errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT)) {
			l.tasks.forget(n.PID, t)
			continue
		}
		return n.explain(err)
	}
}

// explain says ErrGone whatever the error, if the call is gone: what was seen may
// be of another process.
func (n *Notification) explain(err error) error {
	switch {
	case !n.Valid():
		return ErrGone
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return ErrNoAccess
	}
	return err
}

// TGID is the process id of the thread that made the call.
func (n *Notification) TGID() (tgid int, err error) {
	err = n.with(func(t *task) (err error) {
		tgid, err = t.number("Tgid:")
		return err
	})
	return tgid, err
}

// Inode is that of the socket at descriptor fd of the thread that made the call. It
// identifies the socket, whatever descriptors it has, for as long as it lives; and
// it tells whether another one is there now, since a thread of the program may
// replace it at any time.
//
// The error is EBADF, ErrNotSocket, ErrGone or ErrNoAccess.
func (n *Notification) Inode(fd int) (inode uint64, err error) {
	if fd < 0 {
		return 0, unix.EBADF
	}
	l := n.listener
	for {
		// As with, without what has to be allocated.
		t, kept, err := l.tasks.get(n)
		if err != nil {
			return 0, n.explain(err)
		}
		t.mu.RLock()
		dir := t.dir
		if dir < 0 {
			t.mu.RUnlock()
			continue
		}
		inode, errno := socketAt(dir, fd)
		t.mu.RUnlock()
		switch {
		case errno == 0 && inode == 0:
			return 0, ErrNotSocket
		case errno == 0:
			return inode, nil
		case kept && (errno == unix.ENOENT || errno == unix.ESRCH):
			l.tasks.forget(n.PID, t)
		case errno == unix.ENOENT:
			return 0, n.explain(unix.EBADF)
		default:
			return 0, n.explain(errno)
		}
	}
}

// Refers reports whether descriptor fd of the thread that made the call is the
// socket with this inode.
func (n *Notification) Refers(fd int, inode uint64) bool {
	now, err := n.Inode(fd)
	return err == nil && now == inode
}

// socketAt reads /proc/PID/fd/FD. inode is 0 for what is not a socket.
func socketAt(dir, fd int) (inode uint64, errno unix.Errno) {
	var link [32]byte
	n, errno := fdLink(dir, fd, link[:])
	return socketInode(link[:n]), errno
}

// fdLink reads /proc/PID/fd/FD as far as there is room.
func fdLink(dir, fd int, link []byte) (int, unix.Errno) {
	var path [32]byte
	p := append(path[:0], "fd/"...)
	p = append(strconv.AppendUint(p, uint64(fd), 10), 0)
	n, errno := readlinkat(dir, p, link)
	if errno != 0 {
		return 0, errno
	}
	return n, 0
}

// socketInode is the inode of "socket:[INODE]", 0 if link says something else.
func socketInode(link []byte) (inode uint64) {
	const before, after = "socket:[", "]"
	if len(link) < len(before)+len(after) || string(link[:len(before)]) != before {
		return 0
	}
	for _, c := range link[len(before) : len(link)-len(after)] {
		if c < '0' || c > '9' {
			return 0
		}
		inode = inode*10 + uint64(c-'0')
	}
	return inode
}

// GetFD returns a descriptor of ours, close-on-exec, of the file at descriptor fd
// of the thread that made the call (pidfd_getfd(2), Linux 5.6). It is the
// caller's. As long as it is open the file does not end when the program closes
// it: hold it no longer than needed.
//
// The error is EBADF, ErrGone, ErrNoAccess, or EMFILE if we have too many. Before
// Linux 6.9 it is EOPNOTSUPP for a thread, other than the first, that is not known
// to share the descriptors of its process.
func (n *Notification) GetFD(fd int) (ours int, err error) {
	if fd < 0 {
		return -1, unix.EBADF
	}
	ours = -1
	err = n.with(func(t *task) (err error) {
		ours, err = t.getfd(fd)
		return err
	})
	return ours, err
}

// FileFlags are those of descriptor fd of the thread that made the call: the flags
// of open(2) that fcntl(2) F_GETFL knows, and O_CLOEXEC of the descriptor. Errors
// as Inode.
func (n *Notification) FileFlags(fd int) (flags int, err error) {
	if fd < 0 {
		return 0, unix.EBADF
	}
	err = n.with(func(t *task) error {
		b, err := procFile(t.dir, "fdinfo/"+strconv.Itoa(fd))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "flags:"); ok {
				v, err := strconv.ParseInt(strings.TrimSpace(rest), 8, 64)
				flags = int(v)
				return err
			}
		}
		return errors.New("seccomp: /proc/PID/fdinfo has no flags")
	})
	if errors.Is(err, unix.ENOENT) {
		err = unix.EBADF
	}
	return flags, err
}

// ERESTARTSYS is the errno by which the kernel restarts a call behind a signal, or
// ends it with EINTR, as the program asked for (sigaction(2), SA_RESTART). A program
// never sees it, except if it is answered while no signal waits.
const ERESTARTSYS = unix.Errno(512)

// Interrupted reports whether a signal waits for the thread that made the call,
// which it does not block and does not ignore. A handler of a call that blocks has
// to look from time to time, since a trapped call is not interrupted by itself
// (Listener.Killable). It returns what to answer then: ERESTARTSYS, or EINTR where
// it cannot be told whether it is this thread or another one that the signal
// will go to. It returns 0 if there is none.
//
// A call that the kernel does not restart, such as recvmsg(2) with SO_RCVTIMEO, is
// to be answered with EINTR in any case (signal(7)).
func (n *Notification) Interrupted() (answer unix.Errno, err error) {
	err = n.with(func(t *task) error {
		b, err := procFile(t.dir, "status")
		if err != nil {
			return err
		}
		answer = interruption(string(b))
		return nil
	})
	return answer, err
}

// interruption reads the sets of signals in /proc/PID/status.
func interruption(status string) unix.Errno {
	var own, shared, masked, threads uint64
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		v, _ := strconv.ParseUint(strings.TrimSpace(value), 16, 64) // others are no numbers
		switch name {
		case "Threads":
			threads = v
		case "SigPnd":
			own = v
		case "ShdPnd":
			shared = v
		case "SigBlk", "SigIgn":
			masked |= v
		}
	}
	switch {
	case own&^masked != 0, shared&^masked != 0 && threads == 1:
		return ERESTARTSYS
	case shared&^masked != 0:
		return unix.EINTR
	}
	return 0
}
