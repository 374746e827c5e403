//go:build linux && amd64

package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Command is a program that is to run under a filter.
type Command struct {
	Filter Filter
	// Self are the arguments that have our own binary, /proc/self/exe, call Child
	// with those behind them: a hidden subcommand.
	Self []string
	// Args are the program, looked for in PATH if it has no slash, and its
	// arguments.
	Args []string
	// Env is its environment; nil stands for ours.
	Env []string
	// Stdio are its descriptors 0, 1 and 2; nil stands for ours. The files stay the
	// caller's.
	Stdio [3]*os.File
}

// A Process is a program that Start started, and with it all that it started.
type Process struct {
	name string
	pid  int
	ctl  int           // where the child reports: for meet, and for attend behind it
	met  chan struct{} // closed behind meet
	done chan struct{} // closed when the program ended

	mu     sync.Mutex
	pidfd  int // -1 behind the end
	status syscall.WaitStatus
	err    error

	mirror atomic.Bool // stop with the program
}

// An ExecError says that there is no such program, or that it cannot be run.
type ExecError struct {
	Name string
	Err  error
}

// Error implements error.
func (e *ExecError) Error() string {
	if errors.Is(e.Err, unix.ENOEXEC) {
		return fmt.Sprintf("seccomp: %s: %v: a script needs a #! line", e.Name, e.Err)
	}
	return fmt.Sprintf("seccomp: %s: %v", e.Name, e.Err)
}

// Unwrap implements the interface that errors.Is wants.
func (e *ExecError) Unwrap() error { return e.Err }

// ExitCode is what a shell ends with for this error: 127 for a program that is
// not there, 126 for one that cannot be run.
func (e *ExecError) ExitCode() int {
	if errors.Is(e.Err, fs.ErrNotExist) || errors.Is(e.Err, exec.ErrNotFound) {
		return 127
	}
	return 126
}

// Start runs a program under a filter. The caller must serve the Listener, since
// a trapped call waits until it is answered, and must call Wait. Both belong to
// the caller then.
//
// The program gets what we were started with: environment, working directory,
// umask, limits, session and process group, and every descriptor of ours that is
// not close-on-exec. Nothing else of ours gets to it. Of ignored signals it
// gets SIGHUP and SIGINT; that others were ignored is a thing that the Go runtime
// forgets before we run. It cannot gain privileges (PR_SET_NO_NEW_PRIVS).
//
// When we are killed the kernel kills the program too (PR_SET_PDEATHSIG), a little
// after the listener ended: it may still see ENOSYS of a trapped call. What the
// program started is not killed: that lives on, and each trapped call of it ends
// with ENOSYS.
//
// Start makes our process the one that inherits the orphans of its descendants
// (PR_SET_CHILD_SUBREAPER), so that none of them can leave the tree that Holders
// looks at, and buries those that are of the program. It knows them by the number
// of their filters: any other child of ours that is under more filters than we
// are would be taken for one, and waited for.
//
// The errors are an *ExecError, one that wraps ErrUnsupported, ErrForbidden or
// ErrListenerExists, and those of making a process.
func Start(c *Command) (*Process, *Listener, error) {
	if len(c.Args) == 0 || len(c.Filter) == 0 {
		return nil, nil, errors.New("seccomp: a command without a program or without a filter")
	}
	path, err := exec.LookPath(c.Args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		var e *exec.Error
		if errors.As(err, &e) {
			err = e.Err
		}
		return nil, nil, &ExecError{c.Args[0], err}
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, os.NewSyscallError("prctl", err)
	}
	bury()
	p, err := fork(c, path)
	if err != nil {
		return nil, nil, err
	}
	l, err := p.meet(c.Filter)
	close(p.met)
	if err != nil {
		p.kill()
		if _, werr := p.Wait(); werr != nil {
			err = errors.Join(err, werr)
		}
		return nil, nil, err
	}
	return p, l, nil
}

// fork starts our binary as the child.
func fork(c *Command, path string) (*Process, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(ends[1])
	files, theirs, err := c.files(ends[1])
	if err != nil {
		unix.Close(ends[0])
		return nil, err
	}
	defer unix.Close(int(files[theirs]))
	env := c.Env
	if env == nil {
		env = os.Environ()
	}
	argv := slices.Concat([]string{os.Args[0]}, c.Self, []string{strconv.Itoa(theirs), path}, c.Args)
	p := &Process{name: c.Args[0], ctl: ends[0], met: make(chan struct{}), done: make(chan struct{}), pidfd: -1}
	started := make(chan error)
	// PDEATHSIG goes off when the thread ends that made the process. This one
	// stays until the program ended.
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		attr := &syscall.ProcAttr{Env: env, Files: files, Sys: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, PidFD: &p.pidfd}}
		pid, err := syscall.ForkExec("/proc/self/exe", argv, attr)
		if err == nil && p.pidfd < 0 { // before Linux 5.4
			err = unix.ENOSYS
			unix.Kill(pid, unix.SIGKILL)
			syscall.Wait4(pid, nil, 0, nil)
		}
		p.pid = pid
		if err == nil {
			programs.add(pid)
		}
		started <- err
		if err == nil {
			p.attend()
		}
	}()
	if err := <-started; err != nil {
		unix.Close(ends[0])
		return nil, fmt.Errorf("seccomp: starting /proc/self/exe: %w", err)
	}
	runtime.KeepAlive(c)
	return p, nil
}

// files says which descriptors the child gets, by number: 0 to 2, then those of
// ours that are inherited, as far as they follow each other, then ctl, at the
// number that is returned. Inherited ones behind that are left alone. The
// caller closes files[number].
func (c *Command) files(ctl int) (files []uintptr, number int, err error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, 0, err
	}
	inherited := map[int]bool{}
	highest := 2
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, 0, err
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			inherited[fd] = true
			highest = max(highest, fd)
		}
	}
	const closed = ^uintptr(0)
	for i, f := range c.Stdio {
		switch {
		case f != nil:
			files = append(files, f.Fd())
			highest = max(highest, int(f.Fd()))
		case inherited[i]:
			files = append(files, uintptr(i))
		default:
			files = append(files, closed)
		}
	}
	for inherited[len(files)] {
		files = append(files, uintptr(len(files)))
	}
	// To make a process, package syscall moves descriptors out of the way to the
	// numbers behind the highest one that it is given. These must not be of those
	// that are inherited.
	high, err := unix.FcntlInt(uintptr(ctl), unix.F_DUPFD_CLOEXEC, highest+1)
	if err != nil {
		return nil, 0, os.NewSyscallError("fcntl", err)
	}
	return append(files, uintptr(high)), len(files), nil
}

// What the child says. The kind of a message is its first byte.
const (
	sayListener = 'L' // 1 if killable; the listener comes with it
	sayRefused  = 'R' // errno of seccomp(2) or prctl(2)
	sayExec     = 'X' // errno of execve(2)
)

func message(kind byte, n uint32) []byte {
	return binary.LittleEndian.AppendUint32([]byte{kind}, n)
}

// meet gives the child its filter and takes the listener for it. Then the child
// becomes the program.
func (p *Process) meet(f Filter) (*Listener, error) {
	if err := p.say(filterBytes(f)); err != nil {
		return nil, err
	}
	kind, n, fd, err := p.hear(0)
	switch {
	case err == nil && kind == sayRefused:
		return nil, refusal(unix.Errno(n))
	case err != nil, kind != sayListener, fd < 0:
		return nil, errNoChild
	}
	l, err := newListener(fd, n != 0)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	if err := p.say([]byte{1}); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

var errNoChild = errors.New("seccomp: the child ended before it had a filter: its subcommand must call Child")

func (p *Process) say(b []byte) error {
	_, err := retry(func() (int, error) { return unix.SendmsgN(p.ctl, b, nil, nil, unix.MSG_NOSIGNAL) })
	if err == unix.EPIPE || err == unix.ECONNRESET {
		return errNoChild
	}
	return os.NewSyscallError("sendmsg", err)
}

// hear returns what the child says next, kind 0 if it says nothing.
func (p *Process) hear(flags int) (kind byte, n uint32, fd int, err error) {
	var b [5]byte
	oob := make([]byte, unix.CmsgSpace(4))
	var oobn int
	_, err = retry(func() (k int, err error) {
		k, oobn, _, _, err = unix.Recvmsg(p.ctl, b[:], oob, flags|unix.MSG_CMSG_CLOEXEC)
		return k, err
	})
	if err != nil {
		return 0, 0, -1, err
	}
	fd = -1
	if cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(cmsgs) == 1 {
		if fds, err := unix.ParseUnixRights(&cmsgs[0]); err == nil && len(fds) == 1 {
			fd = fds[0]
		}
	}
	return b[0], binary.LittleEndian.Uint32(b[1:]), fd, nil
}

func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// attend waits for the program, on the thread that made it.
func (p *Process) attend() {
	var status syscall.WaitStatus
	for {
		_, err := retry(func() (int, error) { return syscall.Wait4(p.pid, &status, syscall.WUNTRACED, nil) })
		if err != nil {
			p.err = os.NewSyscallError("wait4", err)
			break
		}
		if !status.Stopped() {
			break
		}
		p.stopWith(status.StopSignal())
	}
	<-p.met
	if kind, n, _, err := p.hear(unix.MSG_DONTWAIT); err == nil && kind == sayExec {
		p.err = &ExecError{p.name, unix.Errno(n)}
	}
	p.mu.Lock()
	p.status = status
	unix.Close(p.pidfd)
	unix.Close(p.ctl)
	p.pidfd = -1
	p.mu.Unlock()
	programs.remove(p.pid)
	close(p.done)
}

// PID is the process id of the program. It may be that of another process once
// the program ended.
func (p *Process) PID() int { return p.pid }

// Done is closed when the program ended. What it started may still run.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits until the program ended and returns how. It may be called more than
// once. The error is an *ExecError if it could not be run.
//
// What it started may still run under the filter: Listener.Serve returns when
// nothing does.
func (p *Process) Wait() (syscall.WaitStatus, error) {
	<-p.done
	return p.status, p.err
}

// ExitCode is what a shell makes of the end of a program: its exit status, or 128
// and the signal that killed it.
func ExitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// Signal sends a signal to the program. The error is os.ErrProcessDone if it
// ended.
func (p *Process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return os.ErrProcessDone
	}
	if err := unix.PidfdSendSignal(p.pidfd, s, nil, 0); err == unix.ESRCH {
		return os.ErrProcessDone
	} else if err != nil {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return nil
}

func (p *Process) kill() {
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		panic(err) // our own child, by a descriptor
	}
}
