//go:build linux && amd64

package seccomp

import (
	"maps"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// programs are the processes that Start made, which are waited for by who made
// them.
var programs = pidSet{pids: make(map[int]bool)}

type pidSet struct {
	mu   sync.Mutex
	pids map[int]bool
}

func (s *pidSet) add(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pids[pid] = true
}

func (s *pidSet) remove(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pids, pid)
}

func (s *pidSet) has(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pids[pid]
}

func (s *pidSet) list() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.pids))
}

// bury has the orphans that we inherit from programs waited for when they end, so
// that they do not stay zombies. It goes on for as long as we live, since they may
// outlive the program, and its supervision. Children of ours that are not of a
// program are left to who made them.
var bury = sync.OnceFunc(func() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGCHLD)
	go func() {
		for range c {
			buryNow()
		}
	}()
})

func buryNow() {
	pids, err := orphans()
	if err != nil {
		return // a kernel that does not tell: Survey says so
	}
	for _, pid := range pids {
		if !programs.has(pid) && isOurs(pid) {
			var status syscall.WaitStatus
			syscall.Wait4(pid, &status, syscall.WNOHANG, nil) // it may be alive
		}
	}
}
