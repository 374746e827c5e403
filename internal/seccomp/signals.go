//go:build linux && amd64

package seccomp

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ForwardSignals makes us a good parent of a program that a user started, until
// stop is called:
//
// SIGHUP, SIGTERM, SIGUSR1, SIGUSR2 and SIGCONT that somebody sends us go to the
// program. So do SIGINT, SIGQUIT, SIGTSTP and SIGWINCH, but not while we are in
// the foreground of our terminal: it sends them to the program as well. None of
// them ends or stops us: the program decides. When the program is stopped by the
// terminal (SIGTSTP, SIGTTIN, SIGTTOU) we stop too, so that a shell sees it and
// its fg continues both.
//
// It takes these signals from package os/signal, for the whole process. stop may be
// called more than once.
func (p *Process) ForwardSignals() (stop func()) {
	c := make(chan os.Signal, 16)
	signal.Notify(c, unix.SIGHUP, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT,
		unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGWINCH)
	p.mirror.Store(true)
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-c:
				sig := s.(syscall.Signal)
				if fromTerminal(sig) && inForeground() {
					continue
				}
				p.Signal(sig) // whoever ended needs none
			case <-ended:
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		p.mirror.Store(false)
		signal.Stop(c)
		close(ended)
	})
}

// fromTerminal reports whether a terminal sends this signal, to all processes of
// the foreground.
func fromTerminal(s syscall.Signal) bool {
	switch s {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGWINCH:
		return true
	}
	return false
}

// inForeground reports whether we have a terminal and are in its foreground.
func inForeground() bool {
	tty, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(tty)
	group, err := unix.IoctlGetInt(tty, unix.TIOCGPGRP)
	return err == nil && int(int32(group)) == unix.Getpgrp()
}

// stopWith is told that the program was stopped.
func (p *Process) stopWith(s syscall.Signal) {
	switch s {
	case unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		if p.mirror.Load() {
			unix.Kill(unix.Getpid(), unix.SIGSTOP) // cannot fail: it is us
		}
	}
}
