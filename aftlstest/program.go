package aftlstest

import (
	"io"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// programLimit is how long a program may take for any one thing that a test
// waits for. It only bounds a hang: nothing is measured with it.
const programLimit = 20 * time.Second

// Command is a foreign program and how to start it.
type Command struct {
	Name string // looked up by [Need]
	Args []string
	Dir  string

	// Stdin is what the program reads. When it is nil the test writes to the
	// Program instead.
	Stdin io.Reader

	// Stdout takes what the program writes, from one goroutine, until Wait
	// returns. When it is nil that goes where standard error goes: to Output
	// and Expect.
	Stdout io.Writer
}

// Program is a foreign program that was started. It is ended when the test ends.
// Expect, Wait and Kill are for the goroutine of the test.
type Program struct {
	t     testing.TB
	line  string
	cmd   *exec.Cmd
	stdin io.WriteCloser

	mu      sync.Mutex
	out     []byte
	changed chan struct{} // closed at the next change of out
	seen    int           // of out, by Expect

	ended chan struct{}
	err   error // of the end
}

// Start starts the program. The test is skipped or fails as [Need] has it when
// there is none. What it said is logged when the test fails.
func (c Command) Start(t testing.TB) *Program {
	t.Helper()
	cmd := exec.Command(Need(t, c.Name), c.Args...)
	p := &Program{
		t: t, cmd: cmd, line: c.Name + " " + strings.Join(c.Args, " "),
		changed: make(chan struct{}), ended: make(chan struct{}),
	}
	cmd.Dir = c.Dir
	cmd.Stderr = output{p}
	if cmd.Stdout = c.Stdout; cmd.Stdout == nil {
		cmd.Stdout = cmd.Stderr
	}
	if cmd.Stdin = c.Stdin; cmd.Stdin == nil {
		var err error
		if p.stdin, err = cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
	}
	// A child of the program that kept its output open must not keep us.
	cmd.WaitDelay = 2 * time.Second
	endWithParent(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			out := p.Output()
			if n := len(out) - 8<<10; n > 0 {
				out = "(…) " + out[n:]
			}
			t.Logf("%s\nsaid:\n%s\nand ended with: %v", p.line, out, p.err)
		}
	})
	return p
}

// output is the end of the pipes that the program writes to.
type output struct{ p *Program }

func (o output) Write(b []byte) (int, error) {
	o.p.mu.Lock()
	defer o.p.mu.Unlock()
	o.p.out = append(o.p.out, b...)
	close(o.p.changed)
	o.p.changed = make(chan struct{})
	return len(b), nil
}

// Output returns what the program has said so far.
func (p *Program) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.out)
}

// Write writes to the program's standard input.
func (p *Program) Write(b []byte) (int, error) { return p.stdin.Write(b) }

// Say writes s to the program's standard input.
func (p *Program) Say(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, s); err != nil {
		p.t.Fatalf("%s: writing %q to it: %v", p.line, s, err)
	}
}

// CloseInput ends the program's standard input.
func (p *Program) CloseInput() {
	p.t.Helper()
	if err := p.stdin.Close(); err != nil {
		p.t.Fatalf("%s: closing its input: %v", p.line, err)
	}
}

// Expect waits until the program says something that matches the pattern, and
// returns the match and its groups. Every call looks behind the match of the
// one before. The test fails when the program ends without it, or takes too
// long.
func (p *Program) Expect(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	limit := time.NewTimer(programLimit)
	defer limit.Stop()
	for over := false; ; {
		p.mu.Lock()
		part, changed := p.out[p.seen:], p.changed
		if m := re.FindSubmatchIndex(part); m != nil {
			groups := make([]string, 0, len(m)/2)
			for i := 0; i < len(m); i += 2 {
				if m[i] < 0 {
					groups = append(groups, "")
				} else {
					groups = append(groups, string(part[m[i]:m[i+1]]))
				}
			}
			p.seen += m[1]
			p.mu.Unlock()
			return groups
		}
		p.mu.Unlock()
		if over {
			p.t.Fatalf("%s: ended (%v) without saying %q", p.line, p.err, pattern)
		}
		select {
		case <-changed:
		case <-p.ended: // look once more, at its last words
			over = true
		case <-limit.C:
			p.t.Fatalf("%s: has not said %q in %v", p.line, pattern, programLimit)
		}
	}
}

// Wait waits for the end of the program, and of its output, and returns what
// exec.Cmd.Wait does.
func (p *Program) Wait() error {
	p.t.Helper()
	limit := time.NewTimer(programLimit)
	defer limit.Stop()
	select {
	case <-p.ended:
	case <-limit.C:
		p.t.Fatalf("%s: does not end", p.line)
	}
	return p.err
}

// Kill ends the program as no program can prevent, and waits for its end.
func (p *Program) Kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatalf("%s: %v", p.line, err)
	}
	p.Wait()
}
