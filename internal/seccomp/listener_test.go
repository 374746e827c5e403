//go:build linux && amd64

package seccomp

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	// So many calls at once, each with an answer of its own.
	guests["crowd"] = func(args []string) int {
		var n int
		fmt.Sscan(args[0], &n)
		var wg sync.WaitGroup
		var wrong atomic.Int32
		for i := range n {
			wg.Go(func() {
				for {
					r, _, errno := unix.Syscall(trap, uintptr(i), 0, 0)
					if errno == unix.EAGAIN {
						continue
					}
					if errno != 0 || int(r) != 1000000+i {
						wrong.Add(1)
					}
					return
				}
			})
		}
		wg.Wait()
		fmt.Println("wrong:", wrong.Load())
		return 0
	}
	// A call during which there is a signal.
	guests["interrupted"] = func(args []string) int {
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGUSR1)
		r, _, errno := unix.Syscall(trap, 1, 0, 0)
		fmt.Println(int(r), int(errno), <-c)
		return 0
	}
	// A program that has as many descriptors as it may.
	guests["full"] = func([]string) int {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64}); err != nil {
			return complain("%v", err)
		}
		var err error
		for err == nil {
			_, err = unix.Dup(0)
		}
		_, _, errno := unix.Syscall(trap, 0, 0, 0)
		fmt.Println(unix.ErrnoName(err.(unix.Errno)), unix.ErrnoName(errno))
		return 0
	}
	guests["pipe"] = func(args []string) int {
		r, _, errno := unix.Syscall(trap, 0, 0, 0)
		if errno != 0 {
			return complain("trap: %v", errno)
		}
		flags, err := unix.FcntlInt(r, unix.F_GETFD, 0)
		if err != nil {
			return complain("fcntl: %v", err)
		}
		if _, err := unix.Write(int(r), []byte("hello")); err != nil {
			return complain("write to %d: %v", r, err)
		}
		fmt.Println(flags)
		return 0
	}
}

func TestAddFD(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags string // of the descriptor, that the program sees
		add   func(n *Notification, fd int) error
	}{
		{"send", "1", func(n *Notification, fd int) error {
			_, err := n.AddFDSend(fd, Lowest, true)
			return err
		}},
		{"send at", "0", func(n *Notification, fd int) error {
			got, err := n.AddFDSend(fd, 77, false)
			if got != 77 {
				t.Errorf("number %d", got)
			}
			return err
		}},
		{"two steps", "0", func(n *Notification, fd int) error {
			got, err := n.AddFD(fd, Lowest, false)
			return errors.Join(err, n.Respond(int64(got), 0))
		}},
		{"over another", "1", func(n *Notification, fd int) error {
			first, err := n.AddFD(0, Lowest, false)
			got, err2 := n.AddFD(fd, first, true)
			if got != first {
				t.Errorf("%d instead of %d", got, first)
			}
			return errors.Join(err, err2, n.Respond(int64(got), 0))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pr, pw, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer pr.Close()
			r := start(t, trapAll, func(n *Notification) {
				if err := c.add(n, int(pw.Fd())); err != nil {
					t.Error(err)
				}
				pw.Close()
			}, "pipe")
			if out := r.good(); out != c.flags {
				t.Errorf("the descriptor has flags %s", out)
			}
			b := make([]byte, 10)
			if k, err := pr.Read(b); err != nil || string(b[:k]) != "hello" {
				t.Errorf("%q, %v", b[:k], err)
			}
		})
	}
}

func TestAddFDErrors(t *testing.T) {
	r := start(t, trapAll, func(n *Notification) {
		if _, err := n.AddFD(1<<20, Lowest, false); !errors.Is(err, unix.EBADF) {
			t.Errorf("of nothing: %v", err)
		}
		if _, err := n.AddFDSend(1, 1<<30, false); !errors.Is(err, unix.EBADF) {
			t.Errorf("at a number that is too high: %v", err)
		}
		if !n.Valid() {
			t.Error("after errors the call is gone")
		}
		n.Respond(5, 0)
		if _, err := n.AddFDSend(1, Lowest, false); err == nil {
			t.Error("after the answer it works")
		}
	}, "trap", "1")
	if out := r.good(); out != "5 0" {
		t.Errorf("%q", out)
	}
}

func TestAddFDToFullProgram(t *testing.T) {
	r := start(t, trapAll, func(n *Notification) {
		if _, err := n.AddFD(1, Lowest, false); !errors.Is(err, unix.EMFILE) {
			t.Errorf("AddFD: %v", err)
		}
		if _, err := n.AddFDSend(1, Lowest, false); !errors.Is(err, unix.EMFILE) {
			t.Errorf("AddFDSend: %v", err)
		}
		// In place of another one there is room.
		if fd, err := n.AddFD(1, 0, false); fd != 0 || err != nil {
			t.Errorf("AddFD in place: %d, %v", fd, err)
		}
		if err := n.Respond(0, unix.ENFILE); err != nil {
			t.Error(err)
		}
	}, "full")
	if out := r.good(); out != "EMFILE ENFILE" {
		t.Errorf("%q", out)
	}
}

// TestCrowd: a thousand calls wait at once, and each gets its own answer.
func TestCrowd(t *testing.T) {
	const n = 1000
	var arrived sync.WaitGroup
	arrived.Add(n)
	r := start(t, trapAll, func(n *Notification) {
		if !n.Later(func(n *Notification) {
			arrived.Done()
			arrived.Wait()
			n.Respond(1000000+int64(n.Args[0]), 0)
		}) {
			t.Error("no place")
		}
	}, "crowd", fmt.Sprint(n))
	if out := r.good(); out != "wrong: 0" {
		t.Errorf("%q", out)
	}
}

func TestLaterIsBounded(t *testing.T) {
	need(t)
	var most, now atomic.Int32
	h := func(n *Notification) {
		ok := n.Later(func(n *Notification) {
			if k := now.Add(1); k > most.Load() {
				most.Store(k)
			}
			n.Valid()
			now.Add(-1)
			n.Respond(1000000+int64(n.Args[0]), 0)
		})
		if !ok {
			n.Respond(0, unix.EAGAIN)
		}
	}
	f, err := Compile(trapAll)
	if err != nil {
		t.Fatal(err)
	}
	p, l, err := Start(&Command{Filter: f, Self: []string{asChild}, Args: []string{self, asProgram, "crowd", "50"}, Stdio: [3]*os.File{1: devNull(t)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Serve(3, 2, h); err != nil {
		t.Error(err)
	}
	if status, err := p.Wait(); status != 0 || err != nil {
		t.Error(status, err)
	}
	if most.Load() > 2 || most.Load() == 0 {
		t.Errorf("%d were with Later at once", most.Load())
	}
}

func TestLaterWithoutPlaces(t *testing.T) {
	need(t)
	f, err := Compile(trapAll)
	if err != nil {
		t.Fatal(err)
	}
	p, l, err := Start(&Command{Filter: f, Self: []string{asChild}, Args: []string{self, asProgram, "trap", "1"}, Stdio: [3]*os.File{1: devNull(t)}})
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	if err := l.Serve(0, 0, func(n *Notification) {
		if n.Later(func(*Notification) { t.Error("it has a place") }) {
			t.Error("Later says that it has a place")
		}
		calls++
		n.Respond(0, unix.EAGAIN)
	}); err != nil {
		t.Error(err)
	}
	if _, err := p.Wait(); err != nil || calls != 1 {
		t.Error(calls, err)
	}
	if err := l.Serve(0, 0, goOn); err != os.ErrClosed {
		t.Errorf("a second Serve: %v", err)
	}
}

// TestClose: calls end with ENOSYS, also one that is with Later.
func TestClose(t *testing.T) {
	h := func(n *Notification) {
		l := n.listener
		n.Later(func(n *Notification) {
			l.Close()
			l.Close()
			<-n.Done()
		})
	}
	r := start(t, trapAll, h, "trap", "1")
	if out := r.good(); out != fmt.Sprint(-1, int(unix.ENOSYS)) {
		t.Errorf("%q", out)
	}
}

func TestCloseWithoutServe(t *testing.T) {
	need(t)
	f, err := Compile(trapAll)
	if err != nil {
		t.Fatal(err)
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	p, l, err := Start(&Command{Filter: f, Self: []string{asChild}, Args: []string{self, asProgram, "trap", "1"}, Stdio: [3]*os.File{1: pw}})
	pw.Close()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	<-l.Done()
	if _, err := p.Wait(); err != nil {
		t.Error(err)
	}
	b := make([]byte, 100)
	k, _ := pr.Read(b)
	if got := strings.TrimSpace(string(b[:k])); got != fmt.Sprint(-1, int(unix.ENOSYS)) {
		t.Errorf("%q", got)
	}
	if err := l.Serve(0, 0, goOn); err != os.ErrClosed {
		t.Errorf("Serve after Close: %v", err)
	}
}

// TestProgramDiesDuringACall: nothing can be done for it, and everything says so.
func TestProgramDiesDuringACall(t *testing.T) {
	died := make(chan struct{})
	var r *run
	known := make(chan struct{})
	h := func(n *Notification) {
		n.Later(func(n *Notification) {
			defer close(died)
			<-known
			if _, err := n.Inode(0); err != ErrNotSocket { // the task is kept from here on
				t.Errorf("Inode while it lives: %v", err)
			}
			if err := r.Signal(unix.SIGKILL); err != nil {
				t.Error(err)
			}
			<-r.Process.Done()
			if n.Valid() {
				t.Error("the call is valid")
			}
			b := make([]byte, 8)
			one := make([]Iovec, 1)
			_, err1 := n.AddFD(1, Lowest, false)
			_, err2 := n.AddFDSend(1, Lowest, false)
			_, err3 := n.GetFD(0)
			_, err4 := n.Inode(0)
			_, err5 := n.ReadVec(b, one)
			_, err6 := n.WriteVec(one, b)
			_, err7 := n.TGID()
			_, err8 := n.FileFlags(0)
			_, err9 := n.Interrupted()
			_, err10 := n.ReadString(0x1000, 10)
			for i, err := range []error{
				err1, err2, err3, err4, err5, err6, err7, err8, err9, err10,
				n.Read(b, n.Args[1]), n.Write(n.Args[1], b), n.Continue(), n.Respond(0, 0),
			} {
				if err != ErrGone {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
	}
	r = start(t, trapAll, h, "trap", "1")
	close(known)
	_, status := r.end()
	if ExitCode(status) != 128+9 {
		t.Errorf("%v", status)
	}
	<-died
}

func TestSignalDuringACall(t *testing.T) {
	var calls atomic.Int32
	restarted := 0
	h := func(n *Notification) {
		first := calls.Add(1) == 1
		n.Later(func(n *Notification) {
			tgid, err := n.TGID()
			if err != nil {
				t.Error(err)
			}
			if n.listener.Killable() && first {
				if err := unix.Tgkill(tgid, n.PID, unix.SIGUSR1); err != nil {
					t.Error(err)
				}
				// It is not interrupted by itself. The signals of the scheduler of the
				// program may be among those that wait.
				answer, err := n.Interrupted()
				if answer != ERESTARTSYS || err != nil {
					t.Errorf("Interrupted: %v, %v", answer, err)
				}
				if err := n.Respond(0, ERESTARTSYS); err != nil {
					t.Error(err)
				}
				return
			}
			if first {
				unix.Tgkill(tgid, n.PID, unix.SIGUSR1)
				n.Respond(7, 0) // it may be gone: it comes again
				return
			}
			restarted++
			n.Respond(7, 0)
		})
	}
	r := start(t, trapAll, h, "interrupted")
	if out := r.good(); out != "7 0 "+unix.SIGUSR1.String() {
		t.Errorf("%q", out)
	}
	if r.Killable() && restarted != 1 {
		t.Errorf("restarted %d times", restarted)
	}
}

func TestInterruption(t *testing.T) {
	status := func(threads int, own, shared, blocked, ignored uint64) string {
		return fmt.Sprintf("Name:\tx\nThreads:\t%d\nSigQ:\t1/2\nSigPnd:\t%016x\nShdPnd:\t%016x\nSigBlk:\t%016x\nSigIgn:\t%016x\nSigCgt:\t0\n", threads, own, shared, blocked, ignored)
	}
	for _, c := range []struct {
		status string
		want   syscall.Errno
	}{
		{status(1, 0, 0, 0, 0), 0},
		{status(4, 2, 0, 0, 0), ERESTARTSYS},
		{status(4, 2, 0, 2, 0), 0},
		{status(4, 2, 0, 0, 2), 0},
		{status(4, 3, 0, 2, 0), ERESTARTSYS},
		{status(1, 0, 1<<40, 0, 0), ERESTARTSYS},
		{status(2, 0, 1<<40, 0, 0), unix.EINTR},
		{status(2, 0, 1<<40, 1<<40, 0), 0},
		{"", 0},
	} {
		if got := interruption(c.status); got != c.want {
			t.Errorf("%q: %v", c.status, got)
		}
	}
}
