//go:build linux && amd64

package seccomp

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Child is the other half of Start. What the subcommand of Command.Self gets
// behind its own arguments is for Child. It does not return: it becomes the
// program, or ends with 126 or 127 if that cannot be.
//
// It installs the filter on one thread, which then becomes the program, and
// talks with the supervisor on another one, which has no filter. So it does not
// matter which calls are trapped.
func Child(args []string) {
	if len(args) < 3 {
		fatal("this is no command for users")
	}
	ctl, err := strconv.Atoi(args[0])
	if err != nil {
		fatal("this is no command for users")
	}
	unix.CloseOnExec(ctl)
	runtime.LockOSThread()
	// A thread that this one starts from here on would have its filter. The runtime
	// sees to it that a locked thread starts none.
	in, out := make(chan Filter), make(chan outcome)
	go talk(ctl, in, out)
	f := <-in
	// It belongs to the thread: that of fork was for another one.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		end(out, sayRefused, err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		end(out, sayRefused, err)
	}
	listener, killable, errno := f.install()
	if errno != 0 {
		end(out, sayRefused, errno)
	}
	o := outcome{sayListener, 0, listener}
	if killable {
		o.n = 1
	}
	out <- o
	<-in
	end(out, sayExec, syscall.Exec(args[1], args[2:], os.Environ()))
}

// end has the other thread say what went wrong and end the process.
func end(out chan<- outcome, kind byte, err error) {
	errno, _ := err.(syscall.Errno)
	out <- outcome{kind, errno, -1}
	select {}
}

// An outcome is what the thread with the filter has come to.
type outcome struct {
	kind     byte
	n        unix.Errno
	listener int
}

// talk runs on a thread without a filter.
func talk(ctl int, in chan<- Filter, out <-chan outcome) {
	runtime.LockOSThread()
	b := make([]byte, maxInstructions*8)
	n, err := retry(func() (int, error) { return unix.Read(ctl, b) })
	if err != nil || n == 0 {
		os.Exit(126) // the supervisor is gone
	}
	f, err := bytesFilter(b[:n])
	if err != nil {
		fatal(err.Error())
	}
	in <- f
	for o := range out {
		var rights []byte
		if o.listener >= 0 {
			rights = unix.UnixRights(o.listener)
		}
		_, err := retry(func() (int, error) {
			return unix.SendmsgN(ctl, message(o.kind, uint32(o.n)), rights, nil, unix.MSG_NOSIGNAL)
		})
		switch {
		case err != nil:
			os.Exit(126)
		case o.kind == sayExec:
			os.Exit((&ExecError{Err: o.n}).ExitCode())
		case o.kind != sayListener:
			os.Exit(126)
		}
		unix.Close(o.listener)
		if n, err := retry(func() (int, error) { return unix.Read(ctl, b[:1]) }); n != 1 || err != nil {
			os.Exit(126)
		}
		close(in)
	}
}

func fatal(text string) {
	fmt.Fprintln(os.Stderr, "seccomp: "+text)
	os.Exit(126)
}
