package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/aftls/aftls/internal/vm"
)

// A result is what the tests of one package came to in one kernel.
type result struct {
	missing      bool // it did not run
	exit         vm.Exit
	passed, lack int // lack: what this kernel does not have, as the tests say
	failed       []string
	skips        []string // with the reason
	tests        []test   // in the order in which they ended
	log          string
}

// A test is one row of the second table.
type test struct {
	name, verdict string
	seconds       string
	lacks         bool // something, as it says
}

func (t *test) String() string {
	if t == nil {
		return "-"
	}
	s := map[string]string{"PASS": "ok", "FAIL": "FAILED", "SKIP": "skipped"}[t.verdict]
	if t.lacks {
		s += ", not there"
	}
	return s + " " + t.seconds
}

// notThere is what a test writes when it has proven that the kernel lacks something.
const notThere = "not there"

var (
	verdict  = regexp.MustCompile(`^( *)--- (PASS|FAIL|SKIP): (\S+)(?: \((\S+)\))?`)
	begins   = regexp.MustCompile(`^=== (?:RUN|NAME|CONT) +(\S+)`)
	location = regexp.MustCompile(`^\s+\S+\.go:\d+: `)
)

// read counts what the log of the tests says. Tests of the given depth are rows.
func (r *result) read(e vm.Exit, depth int) error {
	r.exit = e
	f, err := os.Open(r.log)
	if err != nil {
		return err
	}
	defer f.Close()
	return r.count(f, depth)
}

func (r *result) count(log io.Reader, depth int) error {
	var last string // the reason of a skip stands in the line before the verdict
	var lacking []string
	name := "" // of the test that speaks
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if location.MatchString(line) {
			last = strings.TrimSpace(line)
			if strings.Contains(line, notThere) {
				r.lack++
				lacking = append(lacking, name+"/")
			}
		}
		if m := begins.FindStringSubmatch(line); m != nil {
			name = m[1]
		}
		m := verdict.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		part := m[1] != "" // of a test that has a verdict of its own
		if strings.Count(m[3], "/") == depth {
			r.tests = append(r.tests, test{name: m[3], verdict: m[2], seconds: m[4],
				lacks: slices.ContainsFunc(lacking, func(l string) bool { return strings.HasPrefix(l, m[3]+"/") })})
		}
		switch {
		case m[2] == "SKIP":
			r.skips = append(r.skips, m[3]+": "+last)
		case m[2] == "FAIL":
			r.failed = append(r.failed, m[3])
		case !part:
			r.passed++
		}
	}
	return lines.Err()
}

// test is the row with this name, nil where there is none.
func (r *result) test(name string) *test {
	if r == nil {
		return nil
	}
	for i := range r.tests {
		if r.tests[i].name == name {
			return &r.tests[i]
		}
	}
	return nil
}

// good: it ran, and nothing failed. That no test ran is not good either.
func (r *result) good() bool {
	return r != nil && !r.missing && r.exit.Code == 0 && len(r.failed) == 0 && r.passed > 0
}

func (r *result) String() string {
	if r == nil || r.missing {
		return "did not run"
	}
	var s []string
	switch {
	case r.good():
		s = append(s, fmt.Sprintf("ok %d", r.passed))
	case len(r.failed) > 0:
		s = append(s, fmt.Sprintf("FAILED %d", len(r.failed)))
	case r.exit.Error != "":
		s = append(s, "FAILED: "+r.exit.Error)
	case r.exit.Code != 0:
		s = append(s, fmt.Sprintf("FAILED: exit code %d", r.exit.Code))
	default:
		s = append(s, "FAILED: no test ran")
	}
	if r.lack > 0 {
		s = append(s, fmt.Sprintf("%d not there", r.lack))
	}
	if len(r.skips) > 0 {
		s = append(s, fmt.Sprintf("%d skipped", len(r.skips)))
	}
	return strings.Join(s, ", ")
}

// report says at once how it went, and for a failure how it looked.
func (r *result) report(w io.Writer, k vm.Kernel, s suite) {
	fmt.Fprintf(w, "%-8s %-20s %6.1fs  %s\n", k.Name, s.name, r.exit.Seconds, r)
	for _, line := range r.skips {
		fmt.Fprintf(w, "         skipped: %s\n", line)
	}
	if r.good() {
		return
	}
	for _, name := range r.failed {
		fmt.Fprintf(w, "         failed: %s\n", name)
	}
	fmt.Fprintf(w, "         the end of %s:\n", r.log)
	text, err := os.ReadFile(r.log)
	if err != nil {
		fmt.Fprintln(w, err)
		return
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	for _, l := range lines[max(0, len(lines)-60):] {
		fmt.Fprintf(w, "         | %s\n", l)
	}
}
