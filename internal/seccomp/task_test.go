//go:build linux && amd64

package seccomp

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	// A thread with descriptors of its own: what it calls with is not that of its
	// process.
	guests["own descriptors"] = func([]string) int {
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return complain("%v", err)
		}
		done := make(chan int)
		var thread func()
		thread = func() {
			runtime.LockOSThread() // for good
			if unix.Gettid() == os.Getpid() {
				go thread() // on another one
				select {}
			}
			if err := unix.Unshare(unix.CLONE_FILES); err != nil {
				done <- complain("unshare: %v", err)
				return
			}
			other, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err == nil {
				err = unix.Dup3(other, s, 0)
			}
			var st unix.Stat_t
			if err == nil {
				err = unix.Fstat(s, &st)
			}
			if err != nil {
				done <- complain("%v", err)
				return
			}
			unix.Syscall(trap, uintptr(s), uintptr(st.Ino), uintptr(os.Getpid()))
			done <- 0
		}
		go thread()
		return <-done
	}
	guests["descriptor"] = func([]string) int {
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstat(s, &st)
		}
		path := -1
		if err == nil {
			path, err = unix.Open("/proc/self/exe", unix.O_PATH, 0)
		}
		if err != nil {
			return complain("%v", err)
		}
		unix.Syscall6(trap, uintptr(s), uintptr(st.Ino), uintptr(os.Getpid()), uintptr(path), 0, 0)
		return 0
	}
	guests["undumpable"] = func([]string) int {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return complain("%v", err)
		}
		unix.Syscall(trap, 0, 0, 0)
		return 0
	}
	guests["many threads"] = func([]string) int {
		// More than are kept, each of which ends after its call.
		for range maxTasks + 50 {
			done := make(chan bool)
			go func() {
				runtime.LockOSThread()
				unix.Syscall(trap, 0, 0, 0)
				close(done)
			}()
			<-done
		}
		return 0
	}
}

func TestDescriptors(t *testing.T) {
	r := start(t, trapAll, func(n *Notification) {
		fd, inode, pid, path := int(n.Args[0]), n.Args[1], int(n.Args[2]), int(n.Args[3])
		for range 2 { // opened, kept
			if got, err := n.Inode(fd); got != inode || err != nil {
				t.Errorf("Inode: %d, %v", got, err)
			}
			if got, err := n.TGID(); got != pid || err != nil {
				t.Errorf("TGID: %d, %v", got, err)
			}
		}
		if !n.Refers(fd, inode) || n.Refers(fd, inode+1) || n.Refers(0, inode) || n.Refers(999, inode) {
			t.Error("Refers")
		}
		for fd, want := range map[int]error{0: ErrNotSocket, path: ErrNotSocket, 999: unix.EBADF, -1: unix.EBADF, 1 << 31: unix.EBADF, 1<<31 - 1: unix.EBADF} {
			if got, err := n.Inode(fd); got != 0 || err != want {
				t.Errorf("Inode of %d: %d, %v", fd, got, err)
			}
		}
		ours, err := n.GetFD(fd)
		if err != nil {
			t.Fatalf("GetFD: %v", err)
		}
		defer unix.Close(ours)
		var st unix.Stat_t
		if err := unix.Fstat(ours, &st); err != nil || st.Ino != inode {
			t.Errorf("GetFD: inode %d, %v", st.Ino, err)
		}
		if flags, err := unix.FcntlInt(uintptr(ours), unix.F_GETFD, 0); flags != unix.FD_CLOEXEC || err != nil {
			t.Errorf("GetFD: flags %d, %v", flags, err)
		}
		for _, fd := range []int{999, -1, 1 << 31} {
			if ours, err := n.GetFD(fd); err != unix.EBADF || ours != -1 {
				t.Errorf("GetFD of %d: %d, %v", fd, ours, err)
			}
			if _, err := n.FileFlags(fd); err != unix.EBADF {
				t.Errorf("FileFlags of %d: %v", fd, err)
			}
		}
		if flags, err := n.FileFlags(fd); flags != unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC || err != nil {
			t.Errorf("FileFlags: %#x, %v", flags, err)
		}
		if flags, err := n.FileFlags(1); flags&unix.O_ACCMODE != unix.O_WRONLY || flags&unix.O_CLOEXEC != 0 || err != nil {
			t.Errorf("FileFlags of 1: %#x, %v", flags, err)
		}
		n.Continue()
	}, "descriptor")
	r.good()
}

func TestThreadWithDescriptorsOfItsOwn(t *testing.T) {
	r := start(t, trapAll, func(n *Notification) {
		defer n.Continue()
		fd, inode, pid := int(n.Args[0]), n.Args[1], int(n.Args[2])
		if n.PID == pid {
			t.Error("it is the first thread")
		}
		if got, err := n.Inode(fd); got != inode || err != nil {
			t.Errorf("Inode: %d instead of %d, %v", got, inode, err)
		}
		if got, err := n.TGID(); got != pid || err != nil {
			t.Errorf("TGID: %d, %v", got, err)
		}
		ours, err := n.GetFD(fd)
		if err == unix.EOPNOTSUPP && os.Getenv(oldKernel) != "" {
			return
		}
		if err != nil {
			t.Errorf("GetFD: %v", err)
			return
		}
		defer unix.Close(ours)
		var st unix.Stat_t
		if err := unix.Fstat(ours, &st); err != nil || st.Ino != inode {
			t.Errorf("GetFD: inode %d instead of %d, %v", st.Ino, inode, err)
		}
	}, "own descriptors")
	r.good()
}

func TestNoAccess(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root has access to everything; see TestUnprivileged")
	}
	r := start(t, trapAll, func(n *Notification) {
		_, err1 := n.Inode(0)
		_, err2 := n.GetFD(0)
		_, err3 := n.FileFlags(0)
		b := make([]byte, 1)
		for i, err := range []error{err1, err2, err3, n.Read(b, n.Args[0]), n.Write(n.Args[0], b)} {
			if err != ErrNoAccess {
				t.Errorf("%d: %v", i, err)
			}
		}
		n.Respond(0, 0)
	}, "undumpable")
	r.good()
}

// TestManyThreads: threads come and go, and those that are kept are few.
func TestManyThreads(t *testing.T) {
	r := start(t, trapAll, func(n *Notification) {
		if _, err := n.GetFD(999); err != unix.EBADF {
			t.Errorf("GetFD: %v", err)
		}
		if k := len(n.listener.tasks.byPID); k > maxTasks || k == 0 {
			t.Errorf("%d tasks are kept", k)
		}
		n.Continue()
	}, "many threads")
	r.good()
}

// TestNumberIsUsedAgain: a kept task of a thread that is gone is not taken for the
// one that has its number now.
func TestNumberIsUsedAgain(t *testing.T) {
	r := start(t, trapAll, func(n *Notification) {
		defer n.Continue()
		other, err := openTask(os.Getpid())
		if err != nil {
			t.Error(err)
			return
		}
		gone := startCommand(t, trapAll, goOn, "true")
		if dead, err := openTask(gone.PID()); err == nil {
			other.close()
			other = dead
		}
		gone.good()
		l := n.listener
		for _, use := range []func() error{
			func() error {
				inode, err := n.Inode(int(n.Args[0]))
				if inode != n.Args[1] {
					return errors.Join(err, fmt.Errorf("inode %d", inode))
				}
				return err
			},
			func() error {
				fd, err := n.GetFD(int(n.Args[0]))
				unix.Close(fd)
				return err
			},
			func() error { _, err := n.TGID(); return err },
		} {
			l.tasks.drop()
			l.tasks.byPID = map[int]*task{n.PID: {pidfd: dup(t, other.pidfd), dir: dup(t, other.dir), pid: n.PID}}
			if err := use(); err != nil {
				t.Error(err)
			}
		}
		other.close()
	}, "descriptor")
	r.good()
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestNoDescriptorsLeft: first what is kept is given up, then it is an error.
func TestNoDescriptorsLeft(t *testing.T) {
	r := start(t, trapAll, func(n *Notification) {
		defer n.Continue()
		l := n.listener
		kept, err := openTask(os.Getpid())
		if err != nil {
			t.Error(err)
			return
		}
		l.tasks.byPID = map[int]*task{1: kept}
		restore := fillDescriptors(t)
		defer restore()
		// The two that were kept for number 1 are enough for this one.
		if _, err := n.Inode(int(n.Args[0])); err != nil {
			t.Errorf("Inode: %v", err)
		}
		if fd, err := n.GetFD(int(n.Args[0])); !errors.Is(err, unix.EMFILE) || fd != -1 {
			t.Errorf("GetFD: %d, %v", fd, err)
		}
		if _, err := n.TGID(); !errors.Is(err, unix.EMFILE) {
			t.Errorf("TGID: %v", err)
		}
		l.tasks.drop()
		var more [2]int
		for i := range more {
			more[i] = dup(t, 0)
			defer unix.Close(more[i])
		}
		if _, err := n.Inode(int(n.Args[0])); !errors.Is(err, unix.EMFILE) {
			t.Errorf("Inode without any: %v", err)
		}
		if !n.Valid() {
			t.Error("the call is gone")
		}
	}, "descriptor")
	r.good()
}

// fillDescriptors leaves this process none, until restore is called.
func fillDescriptors(t *testing.T) (restore func()) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = 300 // so that it does not take long
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var fds []int
	for {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			break
		}
		fds = append(fds, fd)
	}
	return func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	}
}
