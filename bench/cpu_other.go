//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package bench

import (
	"fmt"
	"runtime"
	"time"
)

// cpuTime is what this process has used so far.
func cpuTime() (user, sys time.Duration, err error) {
	return 0, 0, fmt.Errorf("the CPU time of a process is not measured on %s", runtime.GOOS)
}

// childTime is what its children used that have ended.
func childTime() (user, sys time.Duration, err error) { return cpuTime() }

// maxFiles is how many descriptors this process may have.
func maxFiles() (uint64, error) { return 1 << 20, nil }
