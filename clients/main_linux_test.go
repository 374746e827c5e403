// Package clients_test tests the clients of the hand-off daemon: a program in C and
// the same in Python (testdata/transcript.*) do what the tests say, against a
// daemon of this process and peers that aftls and crypto/tls play.
package clients_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/internal/afd"
)

// limit bounds a hang. Nothing is measured with it.
const limit = 30 * time.Second

// daemonEnv makes this binary a daemon on the socket that it names.
const daemonEnv = "AFTLS_CLIENTS_TEST_DAEMON"

// built is where programs in C go.
var built string

func TestMain(m *testing.M) {
	if path := os.Getenv(daemonEnv); path != "" {
		fmt.Fprintln(os.Stderr, runDaemon(path))
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "aftls-clients")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func runDaemon(path string) error {
	ln, err := afd.Listen(path)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	return new(afd.Daemon).Serve(ln)
}

// startDaemon runs a daemon in this process.
func startDaemon(t *testing.T, d *afd.Daemon) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "handd")
	ln, err := afd.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- d.Serve(ln) }()
	t.Cleanup(func() {
		d.Close()
		if err := <-over; err != net.ErrClosed {
			t.Error(err)
		}
	})
	return path
}

// watch makes go test run us again when a file of the clients is another: what
// compilers and interpreters read it does not see.
func watch(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"c", "c/examples", "python", "python/examples", "testdata"} {
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}

// eachLanguage runs the test with the program in each.
func eachLanguage(t *testing.T, test func(t *testing.T, start starter)) {
	t.Helper()
	t.Run("c", func(t *testing.T) {
		exe := buildC(t, "transcript", "testdata/transcript.c")
		test(t, func(t *testing.T, files ...*os.File) *program { return start(t, exec.Command(exe), files) })
	})
	t.Run("python", func(t *testing.T) {
		python := needPython(t)
		test(t, func(t *testing.T, files ...*os.File) *program {
			return start(t, python("testdata/transcript.py"), files)
		})
	})
}

// starter starts the program with files as its descriptors 3 and up.
type starter func(t *testing.T, files ...*os.File) *program

// cFlags are those that clients/c/README.md names.
var cFlags = []string{"-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-g", "-Ic"}

var sanitizerFlags = []string{"-fsanitize=address,undefined", "-fno-sanitize-recover=all"}

var builds struct {
	sync.Mutex
	byName map[string]string
}

// buildC builds a program in C with the client, under sanitizers where the compiler
// has them (TestSanitizers tells). The sources may end with flags.
func buildC(t *testing.T, name string, sources ...string) string {
	t.Helper()
	cc := aftlstest.Need(t, "cc")
	watch(t)
	builds.Lock()
	defer builds.Unlock()
	if exe := builds.byName[name]; exe != "" {
		return exe
	}
	args := cFlags
	if missing := sanitize(cc); missing == "" {
		args = append(args[:len(args):len(args)], sanitizerFlags...)
	}
	exe := filepath.Join(built, name)
	args = append(append(args[:len(args):len(args)], "-o", exe, "c/aftls.c"), sources...)
	if out, err := exec.Command(cc, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", cc, strings.Join(args, " "), err, out)
	}
	if builds.byName == nil {
		builds.byName = make(map[string]string)
	}
	builds.byName[name] = exe
	return exe
}

var sanitizers struct {
	sync.Once
	missing string
}

// sanitize returns why the compiler has no sanitizers, or "".
func sanitize(cc string) string {
	s := &sanitizers
	s.Do(func() {
		args := append([]string{"-x", "c", "-", "-o", filepath.Join(built, "sanitizers")}, sanitizerFlags...)
		cmd := exec.Command(cc, args...)
		cmd.Stdin = strings.NewReader("int main(void) { return 0; }\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			s.missing = fmt.Sprintf("%s %s: %v\n%s", cc, strings.Join(args, " "), err, out)
		}
	})
	return s.missing
}

// needPython returns what starts a script of Python, 3.9 or newer, with the client.
func needPython(t *testing.T) func(script string, args ...string) *exec.Cmd {
	t.Helper()
	python3 := aftlstest.Need(t, "python3")
	watch(t)
	enough, exe, err := lookAtPython(python3)
	if err != nil {
		t.Fatalf("%s: %v", python3, err)
	}
	if !enough {
		if aftlstest.Expected("python3") {
			t.Fatalf("%s is older than 3.9, and AFTLS_EXPECT says that python3 is here", exe)
		}
		t.Skipf("the program %s is older than Python 3.9", exe)
	}
	return func(script string, args ...string) *exec.Cmd {
		// Development mode reports sockets that nobody closed.
		cmd := exec.Command(exe, append([]string{"-B", "-X", "dev", "-W", "error", script}, args...)...)
		cmd.Env = append(os.Environ(), "PYTHONPATH=python")
		return cmd
	}
}

var pythonOnce struct {
	sync.Once
	enough bool
	exe    string
	err    error
}

// lookAtPython finds the interpreter: what PATH has may be a script that looks for
// one, slowly, every time.
func lookAtPython(python3 string) (enough bool, exe string, err error) {
	p := &pythonOnce
	p.Do(func() {
		var out []byte
		out, p.err = exec.Command(python3, "-c", "import sys; print(sys.version_info >= (3, 9), sys.executable)").Output()
		p.exe, p.enough = strings.CutPrefix(strings.TrimSpace(string(out)), "True ")
	})
	return p.enough, p.exe, p.err
}

// program is a running program that is told what to do.
type program struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // what it said
	err   bytes.Buffer

	killed bool
}

// kill ends the program with SIGKILL.
func (p *program) kill() {
	p.t.Helper()
	p.killed = true
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
}

func start(t *testing.T, cmd *exec.Cmd, files []*os.File) *program {
	t.Helper()
	p := &program{t: t, cmd: cmd, lines: make(chan string, 64)}
	cmd.ExtraFiles = files
	cmd.Stderr = &p.err
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 2 * time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.in = in
	go func() {
		defer close(p.lines)
		r := bufio.NewReader(out)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			p.lines <- strings.TrimSpace(line)
		}
	}()
	// A program that ends badly fails the test: a sanitizer may have ended it.
	t.Cleanup(func() {
		in.Close()
		stop := time.AfterFunc(limit, func() { cmd.Process.Kill() })
		defer stop.Stop()
		for range p.lines {
		}
		if err := cmd.Wait(); !p.killed && (err != nil || p.err.Len() > 0) {
			t.Errorf("the program ended with: %v\n%s", err, &p.err)
		}
	})
	return p
}

// say gives the program a line without waiting for what comes of it.
func (p *program) say(format string, args ...any) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.t.Fatalf("telling the program to %.40q: %v", format, err)
	}
}

// next is what the program says next.
func (p *program) next() string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.t.Fatal("the program has ended")
		}
		return line
	case <-time.After(limit):
		p.t.Fatal("the program says nothing")
	}
	return ""
}

// hear waits for what the program is to say next.
func (p *program) hear(want string) {
	p.t.Helper()
	if got := p.next(); got != want {
		p.t.Fatalf("the program said %.2000q, not %q", got, want)
	}
}

// do lets the program do what a line says, with this outcome.
func (p *program) do(line, want string) {
	p.t.Helper()
	p.say("%s", line)
	if got := p.next(); got != want {
		p.t.Fatalf("%.100q: the program said %.2000q, not %q", line, got, want)
	}
}

// reason lets the program do what a line says; the outcome begins with this, and a
// reason in words follows.
func (p *program) reason(line, want string) {
	p.t.Helper()
	p.say("%s", line)
	if got := p.next(); !strings.HasPrefix(got, want+" ") || len(got) < len(want)+5 {
		p.t.Fatalf("%.100q: the program said %.2000q, not %q and why", line, got, want)
	}
}

// connect makes a TCP connection: what a program is to hand over, and its peer.
func connect(t *testing.T) (carrier *os.File, peer *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if carrier, err = c.(*net.TCPConn).File(); err != nil {
		p.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() { carrier.Close(); p.Close() })
	p.SetDeadline(time.Now().Add(limit))
	return carrier, p.(*net.TCPConn)
}

// saidErrno is what programs say of one.
func saidErrno(e syscall.Errno) string { return fmt.Sprintf("errno %d", int(e)) }
