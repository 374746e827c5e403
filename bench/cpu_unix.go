//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package bench

import (
	"os"
	"syscall"
	"time"
)

// cpuTime is what this process has used so far.
func cpuTime() (user, sys time.Duration, err error) { return usageOf(syscall.RUSAGE_SELF) }

// childTime is what its children used that have ended.
func childTime() (user, sys time.Duration, err error) { return usageOf(syscall.RUSAGE_CHILDREN) }

func usageOf(who int) (user, sys time.Duration, err error) {
	var ru syscall.Rusage
	if err := syscall.Getrusage(who, &ru); err != nil {
		return 0, 0, os.NewSyscallError("getrusage", err)
	}
	return time.Duration(ru.Utime.Nano()), time.Duration(ru.Stime.Nano()), nil
}

// maxFiles is how many descriptors this process may have.
func maxFiles() (uint64, error) {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	return uint64(lim.Cur), nil
}
