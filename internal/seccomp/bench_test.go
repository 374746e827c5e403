//go:build linux && amd64

package seccomp

import (
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
