//go:build linux && amd64

package seccomp

import (
	"errors"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	guests["loop"] = func(args []string) int {
		nr, err1 := strconv.Atoi(args[0])
		times, err2 := strconv.Atoi(args[1])
		if err1 != nil || err2 != nil {
			return complain("%v %v", err1, err2)
		}
		unix.Syscall(unix.SYS_GETUID, mark, 0, 0)
		for range times {
			syscall.RawSyscall(uintptr(nr), 0, 0, 0)
		}
		unix.Syscall(unix.SYS_GETUID, mark, 0, 0)
		return 0
	}
}

// crowded is a guest with a thousand sockets in an epoll instance.
func init() {
	guests["crowded"] = func([]string) int {
		e, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		var fd int
		for i := 0; i < 1000 && err == nil; i++ {
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err == nil {
				err = watch(e, fd, unix.EPOLLIN, uint64(fd))
			}
		}
		if err != nil {
			return complain("%v", err)
		}
		unix.Syscall(trap, uintptr(fd), 0, 0)
		return 0
	}
}

func benchmarkCrowded(b *testing.B, f func(r *run, n *Notification)) {
	var r *run
	known := make(chan struct{})
	r = start(b, trapAll, func(n *Notification) {
		<-known
		b.ResetTimer()
		for range b.N {
			f(r, n)
		}
		b.StopTimer()
		n.Continue()
	}, "crowded")
	close(known)
	r.good()
}

func BenchmarkSurvey1000(b *testing.B) {
	benchmarkCrowded(b, func(r *run, n *Notification) {
		inode, err := n.Inode(int(n.Args[0]))
		if err != nil {
			b.Error(err)
		}
		if s, err := r.Survey(inode); len(s.Holders) != 1 || len(s.Epolls) != 1 || err != nil {
			b.Error(s, err)
		}
	})
}

func BenchmarkMoveEpoll1000(b *testing.B) {
	benchmarkCrowded(b, func(r *run, n *Notification) {
		at := int(n.Args[0])
		old, err1 := n.GetFD(at)
		fresh, err2 := newPair()
		_, err3 := n.AddFD(fresh.a, at, false)
		if moved, err := moveEpoll(r, old, fresh.a); moved != 1 || errors.Join(err, err1, err2, err3) != nil {
			b.Error(moved, err, err1, err2, err3)
		}
		unix.Close(old)
		unix.Close(fresh.a)
		unix.Close(fresh.b)
	})
}

func BenchmarkTree(b *testing.B) {
	benchmarkCrowded(b, func(r *run, n *Notification) {
		if pids, err := processes(); len(pids) != 1 || err != nil {
			b.Error(pids, err)
		}
	})
}

// mark is an argument by which a guest says that something begins or ends.
const mark = 0x6d61726b

// benchmark measures a call of a program under a filter.
func benchmark(b *testing.B, nr int, h Handler) {
	rules := []Rule{
		{Nr: unix.SYS_GETUID, When: []Test{ArgIn(0, mark)}, Then: Notify},
		{Nr: trap, Then: Notify},
	}
	begun := false
	r := start(b, rules, func(n *Notification) {
		if n.Nr == trap {
			h(n)
			return
		}
		if begun {
			b.StopTimer()
		} else {
			b.ResetTimer()
			begun = true
		}
		n.Continue()
	}, "loop", strconv.Itoa(nr), strconv.Itoa(b.N))
	r.good()
}

func BenchmarkCallWithoutRule(b *testing.B) { benchmark(b, unix.SYS_GETPGRP, nil) }

func BenchmarkCallNative(b *testing.B) {
	for range b.N {
		syscall.RawSyscall(unix.SYS_GETPGRP, 0, 0, 0)
	}
}

func BenchmarkTrappedAndContinued(b *testing.B) {
	benchmark(b, trap, func(n *Notification) { n.Continue() })
}

func BenchmarkTrappedAndAnswered(b *testing.B) {
	benchmark(b, trap, func(n *Notification) { n.Respond(1, 0) })
}

func BenchmarkTrappedInodeContinued(b *testing.B) {
	benchmark(b, trap, func(n *Notification) {
		if _, err := n.Inode(1); err != ErrNotSocket {
			b.Error(err)
		}
		n.Continue()
	})
}

func BenchmarkTrappedLater(b *testing.B) {
	benchmark(b, trap, func(n *Notification) {
		if !n.Later(func(n *Notification) { n.Continue() }) {
			b.Error("no place")
		}
	})
}
