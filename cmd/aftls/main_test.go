package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The test binary is the command when this variable is set: the tests run real
// processes, with real signals and exit codes.
const asCommand = "AFTLS_TEST_COMMAND"

// programs are what the test binary is when it is started as a program of
// 'aftls run': with "test-program" and a name as its first arguments.
var programs = map[string]func(args []string) error{}

const asTestProgram = "test-program"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == asTestProgram {
		if err := programs[os.Args[2]](os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "program:", err)
			os.Exit(3)
		}
		return
	}
	if os.Getenv(asCommand) != "" {
		os.Exit(run(context.Background(), os.Args[1:]))
	}
	os.Exit(m.Run())
}

// command prepares a process with a state folder of its own.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe, args...)
	c.Env = append(os.Environ(), asCommand+"=1", "XDG_STATE_HOME="+stateHome(t))
	return c
}

var stateHomes sync.Map

// stateHome is one folder for all commands of a test.
func stateHome(t *testing.T) string {
	dir, ok := stateHomes.Load(t.Name())
	if !ok {
		dir, _ = stateHomes.LoadOrStore(t.Name(), t.TempDir())
	}
	return dir.(string)
}

// process is a command that goes on while the test looks at it.
type process struct {
	*exec.Cmd
	t      *testing.T
	stdout *bufio.Reader
	mu     sync.Mutex
	stderr bytes.Buffer
	more   chan struct{} // stderr has grown, or ended
	over   chan error
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{Cmd: command(t, args...), t: t}
	p.begin()
	return p
}

func (p *process) begin() {
	t := p.t
	t.Helper()
	p.more, p.over = make(chan struct{}, 1), make(chan error, 1)
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewReader(out)
	p.Cmd.Stderr = p
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.over <- p.Cmd.Wait() }()
	t.Cleanup(func() {
		p.Process.Kill()
		if t.Failed() {
			t.Logf("stderr of %v:\n%s", p.Args, p.errors())
		}
	})
}

// Write collects stderr.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.more <- struct{}{}:
	default:
	}
	return p.stderr.Write(b)
}

func (p *process) errors() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// await waits until stderr contains s.
func (p *process) await(s string) {
	p.t.Helper()
	p.awaitTimes(s, 1)
}

// awaitTimes waits until stderr contains s so often.
func (p *process) awaitTimes(s string, n int) {
	p.t.Helper()
	deadline := time.After(30 * time.Second)
	for strings.Count(p.errors(), s) < n {
		select {
		case <-p.more:
		case <-deadline:
			p.t.Fatalf("%q never came on stderr", s)
		}
	}
}

// exit waits for the end and returns the exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.over:
		return p.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		p.t.Fatal("the process did not end")
		return -1
	}
}

// startServe starts the server on a free port and returns its address.
func startServe(t *testing.T, dir string, args ...string) (p *process, addr string) {
	t.Helper()
	p = start(t, append([]string{"serve", dir, "--listen", "127.0.0.1:0"}, args...)...)
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "listening https://")
	if !ok {
		t.Fatalf("first line of stdout: %q", line)
	}
	return p, addr
}

func output(t *testing.T, stdin io.Reader, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	c := command(t, args...)
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = stdin, &out, &errs
	if err := c.Run(); err != nil {
		if _, ok := err.(*exec.ExitError); !ok {
			t.Fatal(err)
		}
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

func TestErrorsAreOneLineAndAHint(t *testing.T) {
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"no such command":    {"sevre"},
		"no such flag":       {"serve", "--lisen", "x"},
		"no such folder":     {"serve", filepath.Join(dir, "missing")},
		"no such version":    {"serve", "--min-version", "1.1"},
		"no such provider":   {"serve", "--provider", "hard"},
		"no such log":        {"serve", dir, "--log", "xml"},
		"key without cert":   {"serve", dir, "--key", "x"},
		"missing cert":       {"serve", dir, "--cert", "no.pem", "--key", "no.pem"},
		"address in use":     {"serve", dir, "--listen", "256.0.0.1:1"},
		"connect: no port":   {"connect", "localhost"},
		"connect: no server": {"connect", "127.0.0.1:1"},
		"connect: no ca":     {"connect", "localhost:1", "--ca", "no.pem"},
		"connect: no host":   {"connect"},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, code := output(t, nil, args...)
			if code != 1 || stdout != "" {
				t.Errorf("exit code %d, stdout %q", code, stdout)
			}
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			if n := len(lines); n < 2 || !strings.HasPrefix(lines[n-2], "aftls: ") || !strings.HasPrefix(lines[n-1], "hint: ") {
				t.Errorf("stderr:\n%s", stderr)
			}
		})
	}
}

func TestEveryCommandShowsAnExample(t *testing.T) {
	root := rootCommand()
	for _, c := range root.Commands() {
		if c.Hidden {
			continue
		}
		if c.Example == "" || c.Short == "" || c.Long == "" {
			t.Errorf("%s: help without example or text", c.Name())
		}
		stdout, _, code := output(t, nil, c.Name(), "--help")
		if code != 0 || !strings.Contains(stdout, "Examples:") {
			t.Errorf("%s --help: exit code %d, %q", c.Name(), code, stdout)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if stdout, _, code := output(t, nil, "completion", shell); code != 0 || len(stdout) < 1000 {
			t.Errorf("%s: exit code %d, %d bytes", shell, code, len(stdout))
		}
	}
	stdout, _, _ := output(t, nil, "__complete", "serve", "--provider", "")
	if !strings.Contains(stdout, "soft") {
		t.Errorf("completion of --provider: %q", stdout)
	}
}
