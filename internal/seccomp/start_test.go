//go:build linux && amd64

package seccomp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	// What the call returned.
	guests["trap"] = func(args []string) int {
		a, err := strconv.Atoi(args[0])
		if err != nil {
			return complain("%v", err)
		}
		r, _, errno := unix.Syscall6(trap, uintptr(a), 2, 3, 4, 5, 6)
		fmt.Println(int(r), int(errno))
		return 0
	}
	guests["environment"] = func([]string) int {
		fmt.Println(strings.Join(os.Environ(), "\n"))
		return 0
	}
	// A supervisor. All calls continue, except one.
	guests["supervise"] = func(args []string) int {
		f, err := Compile(trapAll)
		if err != nil {
			return complain("%v", err)
		}
		p, l, err := Start(&Command{Filter: f, Self: []string{asChild}, Args: args})
		if err != nil {
			for name, one := range map[string]error{"listener exists": ErrListenerExists, "forbidden": ErrForbidden, "unsupported": ErrUnsupported} {
				if errors.Is(err, one) {
					return complain("%s", name)
				}
			}
			return complain("%v", err)
		}
		stop := p.ForwardSignals()
		defer stop()
		go l.Serve(0, 1, func(n *Notification) {
			if n.Args[0] != stuck || !n.Later(func(n *Notification) { <-n.Done() }) {
				n.Continue()
			}
		})
		status, err := p.Wait()
		if err != nil {
			fmt.Println(err)
		}
		return ExitCode(status)
	}
}

var trapAll = []Rule{{Nr: trap, Then: Notify}}

// stuck is an argument of a call that is not answered.
const stuck = 99

// goOn is a handler.
func goOn(n *Notification) { n.Continue() }

func TestRespond(t *testing.T) {
	r := start(t, trapAll, func(n *Notification) {
		if n.Nr != trap || n.Args != [6]uint64{77, 2, 3, 4, 5, 6} {
			t.Errorf("a call %d with %v", n.Nr, n.Args)
		}
		if err := n.Respond(42, 0); err != nil {
			t.Error(err)
		}
		if err := n.Respond(43, 0); !errors.Is(err, unix.EINPROGRESS) && err != ErrGone {
			t.Errorf("a second answer: %v", err)
		}
	}, "trap", "77")
	if out := r.good(); out != "42 0" {
		t.Errorf("the program saw %q", out)
	}
}

func TestRespondErrno(t *testing.T) {
	r := start(t, trapAll, func(n *Notification) { n.Respond(0, unix.EKEYEXPIRED) }, "trap", "1")
	if out := r.good(); out != fmt.Sprint(-1, int(unix.EKEYEXPIRED)) {
		t.Errorf("the program saw %q", out)
	}
}

func TestContinue(t *testing.T) {
	r := start(t, trapAll, goOn, "trap", "1")
	if out := r.good(); out != fmt.Sprint(os.Getpid(), 0) {
		t.Errorf("the program saw %q for getppid of %d", out, os.Getpid())
	}
}

func TestNoAnswerIsNoSuchCall(t *testing.T) {
	r := start(t, trapAll, func(n *Notification) {}, "trap", "1")
	if out := r.good(); out != fmt.Sprint(-1, int(unix.ENOSYS)) {
		t.Errorf("the program saw %q", out)
	}
}

// TestEverythingTrapped: nothing that Start and Child do depends on an answer.
func TestEverythingTrapped(t *testing.T) {
	var rules []Rule
	for nr := range 500 {
		if !slices.Contains(needed, nr) {
			rules = append(rules, Rule{Nr: nr, Then: Notify})
		}
	}
	seen := map[int]int{}
	r := startCommand(t, rules, func(n *Notification) {
		seen[n.Nr]++
		if err := n.Continue(); err != nil && err != ErrGone {
			t.Errorf("call %d: %v", n.Nr, err)
		}
	}, "sh", "-c", "echo hello; cat /dev/null; (exit 3)")
	out, status := r.end()
	if out != "hello\n" || ExitCode(status) != 3 {
		t.Errorf("%q, %v", out, status)
	}
	for _, nr := range []int{unix.SYS_EXECVE, unix.SYS_WRITE, unix.SYS_READ, unix.SYS_CLOSE, unix.SYS_EXIT_GROUP} {
		if seen[nr] == 0 {
			t.Errorf("%s was not trapped", callName(uint32(nr)))
		}
	}
}

func TestNothingIsAddedOrLost(t *testing.T) {
	// Two descriptors that are inherited: the lowest number, in the way of ours, and
	// one far off.
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	defer pw.Close()
	low, err := unix.Dup(int(pr.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(low)
	const far = 200
	if err := unix.Dup3(int(pw.Fd()), far, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(far)
	want := map[int]string{}
	fds, err := numbers("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			if want[fd], err = os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if want[low] == "" || want[far] == "" {
		t.Fatal("these would not be inherited")
	}
	got := map[int]string{}
	for line := range strings.Lines(startCommand(t, trapAll, goOn, "sh", "-c", listFDs).good()) {
		number, link, _ := strings.Cut(strings.TrimSpace(line), " ")
		fd, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("%q", line)
		}
		got[fd] = link
	}
	if got[1] == "" || got[1] != got[2] {
		t.Errorf("no output: %v", got)
	}
	want[1], want[2] = got[1], got[1] // the pipe of the test
	if !maps.Equal(got, want) {
		t.Errorf("the program has\n%v\ninstead of\n%v", got, want)
	}

	t.Setenv("SECCOMP_TEST", "ein Wort\nzwei")
	if got, want := start(t, trapAll, goOn, "environment").good(), strings.Join(os.Environ(), "\n"); got != strings.TrimSpace(want) {
		t.Errorf("environment:\n%s\ninstead of\n%s", got, want)
	}
	if got := startEnv(t, []string{"A=B"}, "environment").good(); got != "A=B" {
		t.Errorf("environment: %q", got)
	}
}

// listFDs opens nothing while it looks.
const listFDs = `i=0; while [ $i -lt 300 ]; do [ -e /proc/$$/fd/$i ] && echo $i $(readlink /proc/$$/fd/$i); i=$((i+1)); done`

func startEnv(t *testing.T, env []string, guest string) *run {
	return startWith(t, &Command{Env: env}, trapAll, goOn, self, asProgram, guest)
}

// TestAttributes compares what a program sees of itself with what it sees without
// us.
func TestAttributes(t *testing.T) {
	old := unix.Umask(0o27)
	defer unix.Umask(old)
	const script = "cat /proc/self/status; ulimit -a; pwd; umask"
	plain, err := exec.Command("sh", "-c", script).Output()
	if err != nil {
		t.Fatal(err)
	}
	under := startCommand(t, trapAll, goOn, "sh", "-c", script).good()
	fields := func(s string) map[string]string {
		m := map[string]string{}
		for line := range strings.Lines(s) {
			name, value, _ := strings.Cut(line, ":")
			switch name {
			case "Name", "Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp":
				m[name] = strings.TrimSpace(value)
			}
			if !strings.Contains(line, ":") {
				m[strings.TrimSpace(line)] = ""
			}
		}
		return m
	}
	want, got := fields(string(plain)), fields(under)
	if want["NoNewPrivs"] == "" || got["NoNewPrivs"] != "1" || got["Seccomp"] != "2" {
		t.Errorf("NoNewPrivs %q, Seccomp %q", got["NoNewPrivs"], got["Seccomp"])
	}
	want["NoNewPrivs"], want["Seccomp"] = "1", "2"
	if !maps.Equal(got, want) || len(got) < 20 {
		t.Errorf("%v\ninstead of\n%v", got, want)
	}
}

func TestIgnoredSignalsStayIgnored(t *testing.T) {
	need(t)
	ignored := func(args ...string) uint64 {
		t.Helper()
		out, err := exec.Command("sh", append([]string{"-c", `trap "" HUP INT; exec "$0" "$@"`}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if set, ok := strings.CutPrefix(line, "SigIgn:"); ok {
				v, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
		t.Fatalf("%s", out)
		return 0
	}
	// The tests themselves may have been started with more that is ignored.
	status := []string{"cat", "/proc/self/status"}
	plain := ignored(status...)
	under := ignored(append([]string{fmt.Sprintf("/proc/%d/exe", os.Getpid()), asProgram, "supervise"}, status...)...)
	const want = 1<<(unix.SIGHUP-1) | 1<<(unix.SIGINT-1)
	if under&want != want || under&^plain != 0 {
		t.Errorf("ignored are %x, and without us %x", under, plain)
	}
}

func TestExitStatus(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -TERM $$": 128 + 15, "kill -KILL $$": 128 + 9} {
		_, status := startCommand(t, trapAll, goOn, "sh", "-c", script).end()
		if got := ExitCode(status); got != want {
			t.Errorf("%s: %d", script, got)
		}
	}
}

func TestExecErrors(t *testing.T) {
	need(t)
	dir := t.TempDir()
	file := func(name, text string, mode fs.FileMode) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return name
	}
	f, err := Compile(trapAll)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		program string
		code    int
		says    string
	}{
		{"no-such-program-in-path", 127, "not found"},
		{filepath.Join(dir, "nothing"), 127, "no such file"},
		{dir, 126, "directory"},
		{file("plain", "echo hello", 0o644), 126, "permission denied"},
		{file("script", "echo hello", 0o755), 126, "#! line"},
		{file("lost", "#!/nothing/at/all\n", 0o755), 127, "no such file"},
	} {
		p, l, err := Start(&Command{Filter: f, Self: []string{asChild}, Args: []string{c.program}})
		code := 0
		if err == nil {
			served := make(chan error, 1)
			go func() { served <- l.Serve(0, 0, goOn) }()
			status, werr := p.Wait()
			err, code = werr, ExitCode(status)
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
		var e *ExecError
		if !errors.As(err, &e) {
			t.Errorf("%s: %v", c.program, err)
			continue
		}
		if e.ExitCode() != c.code || code != 0 && code != c.code || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.program) {
			t.Errorf("%s: %d, %d, %v", c.program, e.ExitCode(), code, err)
		}
	}
	if _, _, err := Start(&Command{Filter: f, Self: []string{asChild}}); err == nil {
		t.Error("no program is no error")
	}
}

// TestChildThatIsNone: Self leads to a program that never calls Child.
func TestChildThatIsNone(t *testing.T) {
	need(t)
	f, err := Compile(trapAll)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = Start(&Command{Filter: f, Self: []string{asProgram, "environment"}, Args: []string{"true"}, Stdio: [3]*os.File{1: devNull(t)}})
	if err == nil || !strings.Contains(err.Error(), "must call Child") {
		t.Error(err)
	}
}

func devNull(t *testing.T) *os.File {
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestOneListenerOnly(t *testing.T) {
	r := start(t, trapAll, goOn, "supervise", "true")
	if out, status := r.end(); out != "listener exists\n" || ExitCode(status) != 1 {
		t.Errorf("%q, %v", out, status)
	}
}

// A lines reads what a process says, line by line.
type lines struct {
	t *testing.T
	s *bufio.Scanner
}

func (l lines) next() string {
	l.t.Helper()
	if !l.s.Scan() {
		l.t.Fatalf("no more output: %v", l.s.Err())
	}
	return l.s.Text()
}

func (l lines) want(s string) {
	l.t.Helper()
	if got := l.next(); got != s {
		l.t.Fatalf("%q instead of %q", got, s)
	}
}

// background starts a guest without supervision.
func background(t *testing.T, attr *unix.SysProcAttr, args ...string) (*exec.Cmd, lines, io.Writer) {
	t.Helper()
	need(t)
	c := exec.Command(self, append([]string{asProgram}, args...)...)
	c.SysProcAttr = attr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		in.Close()
		out.Close()
		c.Wait()
	})
	return c, lines{t, bufio.NewScanner(out)}, in
}
