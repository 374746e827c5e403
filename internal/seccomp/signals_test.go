//go:build linux && amd64

package seccomp

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/aftls/aftls/aftlstest"
	"golang.org/x/sys/unix"
)

func init() {
	// Says which signals it gets, until SIGUSR2. SIGTSTP is not among them.
	guests["signals"] = func([]string) int {
		c := make(chan os.Signal, 16)
		signal.Notify(c, unix.SIGHUP, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT, unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH)
		fmt.Println("ready", os.Getpid())
		for s := range c {
			fmt.Println(unix.SignalName(s.(syscall.Signal)))
			if s == unix.SIGUSR2 {
				break
			}
		}
		return 0
	}
	// A program with a child, that gets stuck in a call.
	guests["parent"] = func([]string) int {
		c := exec.Command(self, asProgram, "grandchild")
		c.Stdin, c.Stdout = os.Stdin, os.Stdout
		if err := c.Start(); err != nil {
			return complain("%v", err)
		}
		fmt.Println("parent", os.Getpid())
		unix.Syscall(trap, stuck, 0, 0)
		select {} // the listener ends a little before the program does
	}
	guests["grandchild"] = func([]string) int {
		fmt.Println("grandchild", os.Getpid())
		bufio.NewReader(os.Stdin).ReadString('\n')
		_, _, errno := unix.Syscall(trap, 0, 0, 0)
		fmt.Println(unix.ErrnoName(errno))
		return 0
	}
	// A shell with job control, on its standard input, as far as is needed here.
	guests["shell"] = func(args []string) int {
		group := func(pid int) {
			if err := unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, pid); err != nil {
				complain("%v", err)
			}
		}
		signal.Ignore(unix.SIGTTOU)
		c := exec.Command(self, append([]string{asProgram}, args...)...)
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Foreground: true}
		if err := c.Start(); err != nil {
			return complain("%v", err)
		}
		for {
			var status syscall.WaitStatus
			if _, err := retry(func() (int, error) { return syscall.Wait4(c.Process.Pid, &status, syscall.WUNTRACED, nil) }); err != nil {
				return complain("%v", err)
			}
			if !status.Stopped() {
				fmt.Println("ended", ExitCode(status))
				return 0
			}
			group(os.Getpid())
			fmt.Println("stopped", unix.SignalName(status.StopSignal()))
			group(c.Process.Pid)
			unix.Kill(-c.Process.Pid, unix.SIGCONT)
		}
	}
}

// ready reads "NAME PID".
func (l lines) ready(name string) (pid int) {
	l.t.Helper()
	line := l.next()
	first, second, _ := strings.Cut(line, " ")
	pid, err := strconv.Atoi(second)
	if err != nil || first != name {
		l.t.Fatalf("%q instead of %q and a number", line, name)
	}
	return pid
}

func TestForwardSignals(t *testing.T) {
	// Without a terminal: what somebody sends us is for the program.
	c, out, _ := background(t, &syscall.SysProcAttr{Setsid: true}, "supervise", self, asProgram, "signals")
	out.ready("ready")
	for _, s := range []syscall.Signal{unix.SIGHUP, unix.SIGTERM, unix.SIGUSR1, unix.SIGCONT, unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH, unix.SIGUSR2} {
		if err := c.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		out.want(unix.SignalName(s))
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

func TestSignalAfterTheEnd(t *testing.T) {
	r := startCommand(t, trapAll, goOn, "true")
	stop := r.ForwardSignals()
	r.good()
	if err := r.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	stop()
	stop()
}

func noTerminals(t *testing.T, err error) {
	t.Helper()
	if aftlstest.Expected("terminal") {
		t.Fatalf("/dev/ptmx or /dev/pts is missing, and AFTLS_EXPECT says that it is here: %v", err)
	}
	t.Skipf("/dev/ptmx or /dev/pts is missing: %v", err)
}

// TestTerminal is a user at a terminal with a shell.
func TestTerminal(t *testing.T) {
	need(t)
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		noTerminals(t, err)
	}
	defer ptmx.Close()
	raw, err := ptmx.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number uint32
	raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetUint32(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		noTerminals(t, err)
	}
	defer tty.Close()
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	c := exec.Command(self, asProgram, "shell", "supervise", self, asProgram, "signals")
	c.Stdin, c.Stdout, c.Stderr = tty, pw, pw
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = c.Start()
	pw.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		c.Process.Kill()
		c.Wait()
	}()
	out := lines{t, bufio.NewScanner(pr)}
	pid := out.ready("ready")
	supervisor := parent(t, pid)
	kill := func(pid int, s syscall.Signal) {
		t.Helper()
		if err := unix.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
	}
	// Once, not twice: the terminal sends it to the program, and we do not. What
	// we are sent after it comes after it.
	for _, key := range []struct{ types, signal string }{{"\x03", "SIGINT"}, {"\x1c", "SIGQUIT"}} {
		if _, err := ptmx.WriteString(key.types); err != nil {
			t.Fatal(err)
		}
		out.want(key.signal)
		kill(supervisor, unix.SIGUSR1)
		out.want("SIGUSR1")
	}
	// The shell sees that its job is stopped, and can go on with it.
	if _, err := ptmx.WriteString("\x1a"); err != nil {
		t.Fatal(err)
	}
	out.want("stopped SIGSTOP")
	out.want("SIGCONT")
	kill(supervisor, unix.SIGUSR2)
	for line := out.next(); line != "SIGUSR2"; line = out.next() {
		if line != "SIGCONT" { // by us as well
			t.Fatalf("%q", line)
		}
	}
	out.want("ended 0")
}

func parent(t *testing.T, pid int) int {
	t.Helper()
	dir, err := openProc(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	ppid, err := statusNumber(dir, "PPid:")
	if err != nil {
		t.Fatal(err)
	}
	return ppid
}

func TestKilledSupervisor(t *testing.T) {
	c, out, in := background(t, nil, "supervise", self, asProgram, "parent")
	pids := map[string]int{}
	for range 2 {
		name, pid, _ := strings.Cut(out.next(), " ")
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		pids[name] = n
	}
	program, err := unix.PidfdOpen(pids["parent"], 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(program)
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The program ends, in the middle of a call.
	poll(t, program)
	// What it started goes on, and gets nothing through.
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	out.want("ENOSYS")
}

// poll waits until a descriptor has something to say.
func poll(t *testing.T, fd int) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := retry(func() (int, error) { return unix.Poll(fds, 60000) })
	if err != nil || n != 1 {
		t.Fatalf("poll: %d, %v", n, err)
	}
}
