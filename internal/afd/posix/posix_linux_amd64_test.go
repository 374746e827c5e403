// Package posix runs the conformance suite of TLS sockets: programs in C (testdata),
// each a list of cells, natively and under the supervisor (docs/posix.md).
package posix

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/internal/afd"
	"github.com/aftls/aftls/internal/seccomp"
)

// The test binary is also 'aftls run', and what that becomes the program with.
const (
	asChild  = "posix-child"
	asRun    = "posix-run"
	asStrict = "posix-run-strict"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case asChild:
			afd.BecomeProgram(os.Args[2:])
		case asRun, asStrict:
			os.Exit(supervise(os.Args[1] == asStrict, os.Args[2:]))
		}
	}
	code := m.Run()
	for _, p := range programs {
		if p.dir != "" {
			os.RemoveAll(p.dir)
		}
	}
	os.Exit(code)
}

// supervise runs a program as 'aftls run' does.
func supervise(strict bool, args []string) int {
	s := &afd.Supervisor{Family: afd.Family, Strict: strict, Log: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "aftls: "+format+"\n", args...)
	}}
	code, err := s.Run([]string{asChild}, args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "aftls:", err)
		return 125
	}
	return code
}

// program is one of testdata, compiled once.
type program struct {
	name string
	once sync.Once
	dir  string
	err  error
}

var programs = map[string]*program{}

func init() {
	for _, name := range []string{"stream", "move", "wait", "control", "setup", "ways", "outside", "datagram"} {
		programs[name] = &program{name: name}
	}
}

// compiled returns the path of a program, for any user to run.
func compiled(t *testing.T, name string) string {
	t.Helper()
	cc := aftlstest.Need(t, "cc")
	p := programs[name]
	p.once.Do(func() {
		if p.dir, p.err = os.MkdirTemp("", "posix"); p.err != nil {
			return
		}
		if p.err = os.Chmod(p.dir, 0o755); p.err != nil {
			return
		}
		out, err := exec.Command(cc, "-std=c99", "-Wall", "-Wno-parentheses", "-Werror", "-O1", "-pthread",
			"-o", filepath.Join(p.dir, name), filepath.Join("testdata", name+".c")).CombinedOutput()
		if err != nil {
			p.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if p.err != nil {
		t.Fatal(p.err)
	}
	return filepath.Join(p.dir, name)
}

func needSupervisor(t *testing.T) {
	t.Helper()
	if err := seccomp.Supported(); err != nil {
		if aftlstest.Expected("seccomp") {
			t.Fatalf("seccomp user notification is missing, and AFTLS_EXPECT says that it is here: %v", err)
		}
		t.Skipf("seccomp user notification is missing: %v", err)
	}
}

// A world is where a program runs and what its sockets are.
type world struct{ world, kind string }

var worlds = []world{
	{"native", "unix"}, {"native", "tcp"},
	{"end", "ulp"}, {"end", "aftls"},
	{"strict", "ulp"}, {"strict", "aftls"},
}

// command runs a program in its world.
func (w world) command(path string, args ...string) *exec.Cmd {
	args = append([]string{path, w.world, w.kind}, args...)
	switch w.world {
	case "end":
		args = append([]string{"/proc/self/exe", asRun}, args...)
	case "strict":
		args = append([]string{"/proc/self/exe", asStrict}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // a second each, else
	return cmd
}

// limit bounds a program that hangs: the supervisor says what it does then. That of
// the program is longer, for native ones.
const limit = 90 * time.Second

// cells runs a program and makes a test of every line that it says.
func cells(t *testing.T, name string, w world, as *syscall.Credential) {
	path := compiled(t, name)
	if w.world != "native" {
		needSupervisor(t)
	}
	cmd := w.command(path)
	cmd.SysProcAttr.Credential = as
	cmd.Dir = "/"
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(limit, func() { cmd.Process.Signal(syscall.SIGABRT) })
	err := cmd.Wait()
	late.Stop()
	done, n := false, 0
	for line := range strings.Lines(out.String()) {
		line = strings.TrimSuffix(line, "\n")
		verdict, rest, _ := strings.Cut(strings.TrimPrefix(line, "not "), " ")
		name, why, _ := strings.Cut(rest, ": ")
		switch {
		case line == "done":
			done = true
		case verdict == "ok":
			n++
			t.Run(name, func(t *testing.T) {
				if strings.HasPrefix(line, "not") {
					t.Error(why)
				}
			})
		default:
			t.Errorf("the program said %q", line)
		}
	}
	if !done || n == 0 || err != nil && !t.Failed() {
		t.Errorf("%d cells, then %v; it said\n%s", n, err, out.String())
	}
	if t.Failed() && stderr.Len() > 0 {
		t.Logf("stderr:\n%s", stderr.String())
	}
}

func eachWorld(t *testing.T, name string, as *syscall.Credential) {
	for _, w := range worlds {
		t.Run(w.world+"/"+w.kind, func(t *testing.T) { cells(t, name, w, as) })
	}
}

// Reading and writing, call by call.
func TestStream(t *testing.T) { eachWorld(t, "stream", nil) }

// Files, pipes, and how much is queued.
func TestMove(t *testing.T) { eachWorld(t, "move", nil) }

// Waiting, descriptors and their ends, names and options.
func TestWait(t *testing.T) { eachWorld(t, "wait", nil) }

// Records: of other types, held open, rekeyed, and bad ones.
func TestControl(t *testing.T) { eachTLSWorld(t, "control", nil) }

// eachTLSWorld is eachWorld where a program is about TLS only.
func eachTLSWorld(t *testing.T, name string, as *syscall.Credential) {
	for _, w := range worlds {
		if w.world != "native" {
			t.Run(w.world+"/"+w.kind, func(t *testing.T) { cells(t, name, w, as) })
		}
	}
}

// Datagrams: as UDP sockets have them, and as AF_TLS.
func TestDatagram(t *testing.T) {
	for _, w := range datagramWorlds {
		t.Run(w.world+"/"+w.kind, func(t *testing.T) { cells(t, "datagram", w, nil) })
	}
}

var datagramWorlds = []world{{"native", "udp"}, {"end", "dtls"}, {"strict", "dtls"}}

// Making TLS sockets, and what is refused.
func TestSetup(t *testing.T) { eachTLSWorld(t, "setup", nil) }

// The four ways to tell records of other types from data have one transcript.
const transcript = `peer 23 5 hello
peer 22 7 \04ticket
peer 23 5 world
peer 99 1 x
peer 21 2 \01Z
peer 23 4 tail
peer close_notify
peer end
program 23 3 one
program 99 5 first
program 22 6 second
program 23 8 twothree
program 21 2 \01Z
program 23 4 four
program close_notify
program end
`

func TestWays(t *testing.T) {
	for _, w := range []world{{"end", "aftls"}, {"strict", "aftls"}} {
		for _, way := range []string{"fd", "errqueue", "option", "cmsg"} {
			t.Run(w.world+"/"+way, func(t *testing.T) {
				path := compiled(t, "ways")
				needSupervisor(t)
				cmd := w.command(path, way)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil || string(out) != transcript {
					t.Errorf("%v\n%s\nstderr:\n%s", err, out, stderr.String())
				}
			})
		}
	}
}

// A process that is not supervised and gets the socket reads and writes it, too: the
// kernel performs its calls, also with --strict.
func TestOutside(t *testing.T) {
	for _, w := range worlds {
		if w.world == "native" {
			continue
		}
		t.Run(w.world+"/"+w.kind, func(t *testing.T) {
			path := compiled(t, "outside")
			needSupervisor(t)
			at := filepath.Join(t.TempDir(), "outside")
			ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: at, Net: "unixpacket"})
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			cmd := w.command(path, at)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			ln.SetDeadline(time.Now().Add(limit))
			if err := outside(ln); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v: %s", err, out.String())
			}
		})
	}
}

func outside(ln *net.UnixListener) error {
	c, err := ln.AcceptUnix()
	if err != nil {
		return err
	}
	defer c.Close()
	var b [1]byte
	var oob [64]byte
	_, n, _, _, err := c.ReadMsgUnix(b[:], oob[:])
	if err != nil {
		return err
	}
	msgs, err := syscall.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return fmt.Errorf("%d messages, %v", len(msgs), err)
	}
	fds, err := syscall.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("%d descriptors, %v", len(fds), err)
	}
	f := os.NewFile(uintptr(fds[0]), "given")
	defer f.Close()
	if _, err := f.Write([]byte("from outside")); err != nil {
		return err
	}
	want := "from inside"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(f, got); err != nil || string(got) != want {
		return fmt.Errorf("%q, %v", got, err)
	}
	return nil
}

// Every cell stands in docs/posix.md, and what stands there is a cell.
func TestDocs(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "posix.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{"TestWays": true, "TestOutside": true} // no cells
	for name := range programs {
		src, err := os.ReadFile(filepath.Join("testdata", name+".c"))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\t\{"(\w+)", c_`).FindAllSubmatch(src, -1) {
			named[string(m[1])] = true
		}
	}
	if len(named) < 80 {
		t.Fatalf("only %d cells were found", len(named))
	}
	shown := map[string]bool{}
	for line := range strings.Lines(string(doc)) {
		columns := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(columns) < 3 || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| call") {
			continue
		}
		for name := range strings.FieldsSeq(columns[len(columns)-1]) {
			if !named[name] {
				t.Errorf("docs/posix.md names %s, which is no cell", name)
			}
			shown[name] = true
		}
	}
	for name := range named {
		if !shown[name] {
			t.Errorf("the cell %s stands nowhere in docs/posix.md", name)
		}
	}
}

// Everything as a user without any privilege.
func TestUnprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this user is no root, and the other tests show it")
	}
	const nobody = 65534
	as := &syscall.Credential{Uid: nobody, Gid: nobody}
	for _, name := range []string{"stream", "move", "wait", "control", "setup"} {
		t.Run(name, func(t *testing.T) { eachTLSWorld(t, name, as) })
	}
	for _, w := range datagramWorlds {
		t.Run("datagram/"+w.world+"/"+w.kind, func(t *testing.T) { cells(t, "datagram", w, as) })
	}
}
