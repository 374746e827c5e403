// Command vmtest runs the tests of packages in every kernel that scripts/kernels has
// unpacked, and prints a table of packages and kernels.
//
//	CGO_ENABLED=0 go run ./internal/vm/vmtest ./internal/kernel .=Kernel
//
// runs all tests of internal/kernel, and those of the root whose names match Kernel.
// It boots each kernel once, two at a time. The whole output of each package is in a
// file of its own, whose name is printed where something failed. A second table has
// the tests: those at the top, or with a REGEXP that has slashes the parts below it.
//
// In the guest AFTLS_EXPECT has the word kernel, and the names of the tools that are
// there: there a test must not skip for the want of one.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/aftls/aftls/internal/vm"
)

// testTimeout is for one package in one kernel, under emulation.
const testTimeout = 9 * time.Minute

// atOnce is how many guests run at a time. An emulated processor takes a real one: more
// of them than there are make each other's tests wait.
const atOnce = 2

// grace is for the test binary, to say which test hangs.
const grace = 30 * time.Second

func main() {
	vm.Guest()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
		os.Exit(1)
	}
}

// A suite is a package, and which of its tests are run.
type suite struct {
	pkg, name, dir, pattern string
	binary                  string
}

// depth is how many slashes the names of the tests have that are rows of a table.
func (s suite) depth() int {
	if n := strings.Count(s.pattern, "/"); n > 0 {
		return n + 1
	}
	return 0
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("vmtest", flag.ContinueOnError)
	only := flags.String("kernel", "", "run in this one only: 6.1, 6.12 or newest")
	tools := flags.String("tools", "openssl curl nginx strace", "programs that the guests have, if this machine has them")
	flags.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: vmtest [flags] PACKAGE[=REGEXP]…")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return errors.New("no package to test")
	}
	kernels, err := vm.Kernels()
	if *only != "" {
		var k vm.Kernel
		k, err = vm.FindKernel(*only)
		kernels = []vm.Kernel{k}
	}
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "aftls-vmtest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	suites, err := build(ctx, dir, flags.Args())
	if err != nil {
		return err
	}
	m := vm.Machine{Stderr: os.Stderr}
	expect := []string{"kernel"}
	for _, t := range strings.Fields(*tools) {
		if _, err := exec.LookPath(t); err == nil {
			m.Tools, expect = append(m.Tools, t), append(expect, t)
		}
	}
	if os.Getenv("AFTLS_VM_LOG") != "" {
		m.Log = os.Stderr
	}
	env := []string{"AFTLS_EXPECT=" + strings.Join(expect, ",")}
	cells := make([][]*result, len(kernels))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, k := range kernels {
		slots <- struct{}{}
		wg.Go(func() {
			m := m
			m.Kernel = k
			var err error
			if cells[i], err = inKernel(ctx, m, self, env, suites); err != nil {
				fmt.Fprintf(os.Stderr, "vmtest: %v\n", err) // the table shows what did not run
			}
			<-slots
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	tests(os.Stdout, kernels, suites, cells)
	return table(os.Stdout, kernels, suites, cells)
}

// build makes a static test binary of each package.
func build(ctx context.Context, dir string, args []string) ([]suite, error) {
	var suites []suite
	for i, a := range args {
		pkg, pattern, _ := strings.Cut(a, "=")
		s := suite{pkg: pkg, pattern: pattern, binary: filepath.Join(dir, fmt.Sprint(i)+".test")}
		if j := slices.IndexFunc(suites, func(other suite) bool { return other.pkg == pkg }); j >= 0 {
			s = suites[j]
			s.pattern = pattern
			suites = append(suites, s)
			continue
		}
		out, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.ImportPath}}\n{{.Module.Path}}\n{{.Dir}}", pkg).Output()
		if err != nil {
			return nil, fmt.Errorf("go list %s: %w", pkg, err)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if len(lines) != 3 {
			return nil, fmt.Errorf("%s is %d packages: name each by itself", pkg, len(lines)/3)
		}
		s.dir = lines[2]
		if s.name = strings.TrimPrefix(strings.TrimPrefix(lines[0], lines[1]), "/"); s.name == "" {
			s.name = "."
		}
		c := exec.CommandContext(ctx, "go", "test", "-c", "-o", s.binary, pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
		c.Stderr = os.Stderr
		if err := c.Run(); err != nil {
			return nil, fmt.Errorf("go test -c %s: %w", pkg, err)
		}
		if _, err := os.Stat(s.binary); err != nil {
			return nil, fmt.Errorf("%s has no tests", pkg)
		}
		suites = append(suites, s)
	}
	return suites, nil
}

// inKernel runs all suites in one kernel. What did not run has no result.
func inKernel(ctx context.Context, m vm.Machine, self string, env []string, suites []suite) ([]*result, error) {
	logs := filepath.Join(os.TempDir(), "aftls-test-kernel", m.Kernel.Name)
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return nil, err
	}
	var programs []vm.Program
	results := make([]*result, len(suites))
	for i, s := range suites {
		file, err := os.Create(filepath.Join(logs, strings.NewReplacer("/", "-", ".", "root").Replace(s.name)+fmt.Sprintf("-%d.log", i)))
		if err != nil {
			return nil, err
		}
		defer file.Close()
		results[i] = &result{log: file.Name()}
		p := vm.Program{Path: s.binary, Dir: s.dir, Env: env, Timeout: testTimeout + grace, Stdout: file, Stderr: file,
			Args: []string{"-test.v", "-test.timeout=" + testTimeout.String()}}
		if s.pattern != "" {
			p.Args = append(p.Args, "-test.run="+s.pattern)
		}
		programs = append(programs, p)
	}
	exits, err := m.Run(ctx, self, programs...)
	for i, e := range exits {
		if err := results[i].read(e, suites[i].depth()); err != nil {
			return nil, err
		}
		var b bytes.Buffer // guests report at the same time
		results[i].report(&b, m.Kernel, suites[i])
		os.Stdout.Write(b.Bytes())
	}
	for i := len(exits); i < len(results); i++ {
		results[i].missing = true
	}
	return results, err
}

// tests prints a row for each test.
func tests(w io.Writer, kernels []vm.Kernel, suites []suite, cells [][]*result) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprint(tw, "test")
	for _, k := range kernels {
		fmt.Fprint(tw, "\t", k.Release)
	}
	fmt.Fprintln(tw)
	for i, s := range suites {
		var names []string
		for j := range kernels {
			if cells[j] == nil {
				continue
			}
			for _, t := range cells[j][i].tests {
				if !slices.Contains(names, t.name) {
					names = append(names, t.name)
				}
			}
		}
		for _, name := range names {
			fmt.Fprint(tw, s.name, " ", name)
			for j := range kernels {
				var r *result
				if cells[j] != nil {
					r = cells[j][i]
				}
				fmt.Fprint(tw, "\t", r.test(name))
			}
			fmt.Fprintln(tw)
		}
	}
	fmt.Fprintln(tw)
	tw.Flush()
}

// table prints what came out, and returns an error if anything is not as it should.
func table(w io.Writer, kernels []vm.Kernel, suites []suite, cells [][]*result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprint(tw, "package")
	for _, k := range kernels {
		fmt.Fprint(tw, "\t", k.Release)
	}
	fmt.Fprintln(tw)
	bad := 0
	for i, s := range suites {
		fmt.Fprint(tw, s.name)
		if s.pattern != "" {
			fmt.Fprintf(tw, " (%s)", s.pattern)
		}
		for j := range kernels {
			var r *result
			if cells[j] != nil {
				r = cells[j][i]
			}
			fmt.Fprint(tw, "\t", r)
			if !r.good() {
				bad++
			}
		}
		fmt.Fprintln(tw)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d fields of the table are not ok", bad, len(suites)*len(kernels))
	}
	return nil
}
