package bench

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The rows about programs that do not link aftls: what a call costs that 'aftls
// run' stops, what a TLS socket costs to make and to use, in time, CPU time and
// memory. As far as possible the command runs as users run it, on both CPUs, since
// its work is meant to go on beside that of the program. CPU time is that of the
// program and all that it takes to run it.

func descriptorRows() []row {
	return []row{
		{"trap", (*runner).trap},
		{"handoff", (*runner).handoff},
		{"setup", (*runner).setup},
		{"tlsfd", (*runner).tlsfd},
		{"nginx", (*runner).nginx},
		{"pumpmem", (*runner).pumpmem},
	}
}

// Units.
const (
	unitMicro = "us"
	unitKB    = "kB" // of 1024 bytes
)

// Peers of these rows.
const (
	peerRun    = "aftls run"
	peerDaemon = "aftls handd"
)

// amounts is how much these rows measure.
type amounts struct {
	calls, opens, others, turns, idle, busy int
	stream, busyBytes                       int
	reps, lives                             int
}

func (r *runner) amounts() amounts {
	if r.cfg.Quick {
		return amounts{calls: 200, opens: 2, others: 20, turns: 50, idle: 40, busy: 4, stream: 16 << 20, busyBytes: 1 << 20, reps: 2, lives: 1}
	}
	return amounts{calls: 20_000, opens: 20, others: 1000, turns: 10_000, idle: 2000, busy: 64, stream: 2 << 30, busyBytes: 8 << 20, reps: 15, lives: 3}
}

// fewOthers is how many connections are open in a program that is not busy.
const fewOthers = 10

// helpless is why rows about the command cannot be measured, or nil. It is found
// by trying.
func (r *runner) helpless() error {
	if len(r.cfg.Command) == 0 || len(r.cfg.Program) == 0 {
		return &errMissing{"the aftls command is not there"}
	}
	p, err := r.program(ProgramConfig{Row: "none"}, true)
	if err != nil {
		return &errMissing{fmt.Sprintf("'aftls run' does not work here: %v", err)}
	}
	p.end()
	r.suite(tls.TLS_AES_128_GCM_SHA256)
	return nil
}

// command is a process of these rows.
type command struct {
	*process
	said *words
	once sync.Once // it ends
}

// words is what a process says on stderr.
type words struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.TrimSpace(w.b.String())
}

// prepare makes the command line of a process that has both CPUs.
func (r *runner) prepare(argv ...string) (*exec.Cmd, *words) {
	if p := r.cfg.Placement; p.Taskset != "" {
		argv = append([]string{p.Taskset, "-c", fmt.Sprintf("%d,%d", p.Server, p.Client)}, argv...)
	}
	return r.prepareHere(argv...)
}

// prepareHere makes one that says itself where it runs.
func (r *runner) prepareHere(argv ...string) (*exec.Cmd, *words) {
	cmd := exec.CommandContext(r.ctx, argv[0], argv[1:]...)
	said := new(words)
	cmd.Stderr = said
	// What it has started can hold stderr open when it is gone.
	cmd.WaitDelay = 10 * time.Second
	// Whatever it starts is in its group, and ended with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd, said
}

// supervised is how a program runs under the command.
func (r *runner) supervised(flags ...string) []string {
	argv := append([]string(nil), r.cfg.Command...)
	argv = append(argv, "run", "--stats")
	return append(append(argv, flags...), "--")
}

// program starts a process of Program, under 'aftls run' or not.
func (r *runner) program(cfg ProgramConfig, under bool) (*command, error) {
	var argv []string
	if under {
		argv = r.supervised("--family", strconv.Itoa(familyTLS))
	}
	argv = append(argv, r.cfg.Program...)
	argv = append(argv, "--row", cfg.Row, "--kind", cfg.Kind, "--socket", cfg.Socket)
	cmd, said := r.prepare(argv...)
	s, err := r.run(cmd)
	if err != nil {
		return nil, errors.Join(err, errors.New(said.String()))
	}
	return &command{process: s, said: said}, nil
}

// daemonAt starts 'aftls handd' and waits until it listens.
func (r *runner) daemonAt(socket string) (*command, error) {
	argv := append([]string(nil), r.cfg.Command...)
	cmd, said := r.prepare(append(argv, "handd", "--socket", socket, "--per-user", "100000")...)
	s, err := r.begin(cmd)
	if err != nil {
		return nil, err
	}
	d := &command{process: s, said: said}
	if !s.out.Scan() || s.out.Text() != "listening "+socket {
		d.end()
		return nil, fmt.Errorf("aftls handd said %q on stdout, and %s", s.out.Text(), said)
	}
	return d, nil
}

// end ends the process, whether it reads commands or not.
func (c *command) end() { c.endBy(syscall.SIGTERM) }

func (c *command) endBy(s syscall.Signal) {
	c.once.Do(func() {
		c.in.Close()
		c.cmd.Process.Signal(s)
		c.process.end()
		c.cmd.Cancel() // if it left anything behind
	})
}

// statistics are what 'aftls run' counted.
type statistics struct{ sockets, failed, refused, sealed, sealedBytes, opened, openedBytes int }

var statisticsLine = regexp.MustCompile(`aftls: (\d+) TLS sockets, (\d+) failed, (\d+) keys refused; sealed (\d+) records with (\d+) bytes, opened (\d+) with (\d+)`)

// statistics ends the process, with a signal if that is not 0, and returns what it
// said at the end: the proof that records were made here, and not elsewhere or
// nowhere.
func (c *command) statistics(by syscall.Signal) (s statistics, err error) {
	c.endBy(by)
	m := statisticsLine.FindStringSubmatch(c.said.String())
	if m == nil {
		return s, fmt.Errorf("aftls run gave no statistics: %s", c.said)
	}
	for i, to := range []*int{&s.sockets, &s.failed, &s.refused, &s.sealed, &s.sealedBytes, &s.opened, &s.openedBytes} {
		if *to, err = strconv.Atoi(m[i+1]); err != nil {
			return s, err
		}
	}
	return s, nil
}

// used is the CPU time of the process and all that it started.
func (c *command) used() (time.Duration, error) { return treeTime(c.cmd.Process.Pid) }

// processTime is a line of /proc/PID/stat.
type processTime struct {
	pid, parent int
	cpu         time.Duration // of it and of its children that ended
}

// parseStat reads /proc/PID/stat (proc(5): USER_HZ is 100 for every program).
func parseStat(line string) (p processTime, err error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 1 || end < open {
		return p, fmt.Errorf("/proc/PID/stat says %q", line)
	}
	f := strings.Fields(line[end+1:])
	const parent, utime, cstime = 1, 11, 14 // behind the name
	if len(f) <= cstime {
		return p, fmt.Errorf("/proc/PID/stat says %q", line)
	}
	var errs []error
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		errs = append(errs, err)
		return n
	}
	p.pid, p.parent = number(strings.TrimSpace(line[:open])), number(f[parent])
	for _, s := range f[utime : cstime+1] {
		p.cpu += time.Duration(number(s)) * (time.Second / 100)
	}
	return p, errors.Join(errs...)
}

// treeTime is the CPU time of a process and its descendants.
func treeTime(root int) (sum time.Duration, err error) {
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	all := map[int]processTime{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		p, err := parseStat(string(b))
		if err != nil {
			return 0, err
		}
		all[p.pid] = p
	}
	if _, ok := all[root]; !ok {
		return 0, fmt.Errorf("process %d is not there", root)
	}
	for _, p := range all {
		q := p
		for range len(all) { // processes were not all listed at one moment
			if q.pid == root {
				sum += p.cpu
				break
			}
			var ok bool
			if q, ok = all[q.parent]; !ok {
				break
			}
		}
	}
	return sum, nil
}

// micro is ns=NS of an answer, in microseconds.
func (a answer) micro(key string) (float64, error) {
	ns, err := a.number(key)
	return float64(ns) / float64(time.Microsecond), err
}

// crowd are the connections that a program has open: the peers' ends.
type crowd struct {
	r *runner
	*command
	conns []net.Conn // oldest first
}

// crowd starts a program that makes TLS sockets of a kind.
func (r *runner) crowd(cfg ProgramConfig, under bool) (*crowd, error) {
	cfg.Row = "connections"
	p, err := r.program(cfg, under)
	if err != nil {
		return nil, err
	}
	return &crowd{r: r, command: p}, nil
}

// open adds a connection and returns how long the program took to make a TLS
// socket of it, in microseconds.
func (c *crowd) open() (float64, error) {
	c.r.watch.Reset(patience) // of a repetition that opens thousands
	conn, err := c.r.dial(c.process)
	if err != nil {
		return 0, err
	}
	c.conns = append(c.conns, conn)
	a, err := c.ask("open")
	if err != nil {
		return 0, errors.Join(err, errors.New(c.said.String()))
	}
	return a.micro("ns")
}

// grow opens connections until there are n.
func (c *crowd) grow(n int) error {
	for len(c.conns) < n {
		if _, err := c.open(); err != nil {
			return err
		}
	}
	return nil
}

// shut closes the oldest, and waits until it is over on both sides.
func (c *crowd) shut() error {
	conn := c.conns[0]
	c.conns = c.conns[1:]
	defer conn.Close()
	if _, err := c.ask("close"); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, conn)
	if errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return err
}

// end ends the program and all connections.
func (c *crowd) end() {
	c.command.end()
	for _, conn := range c.conns {
		conn.Close()
	}
}
