package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// process is a server that runs.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Scanner
	addr  string
	ended func()

	// Of a program that answers no commands: how its CPU time is known, and what
	// ends it.
	cpu  func() (time.Duration, error)
	stop func()

	mu sync.Mutex // one question at a time
}

// usage is a report of a server.
type usage struct {
	cpu                                          time.Duration
	bytes, messages, handshakes, reading, closed int64
}

// minus is what was used since earlier.
func (u usage) minus(earlier usage) usage {
	return usage{
		cpu: u.cpu - earlier.cpu, bytes: u.bytes - earlier.bytes, messages: u.messages - earlier.messages,
		handshakes: u.handshakes - earlier.handshakes, reading: u.reading - earlier.reading, closed: u.closed - earlier.closed,
	}
}

// startAll starts the server of every peer for a row. After an error none runs.
func (r *runner) startAll(row string) (servers []*process, err error) {
	for _, p := range peers {
		s, err := r.start(row, p)
		if err != nil {
			endAll(servers)
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		servers = append(servers, s)
	}
	return servers, nil
}

func endAll(servers []*process) {
	each(servers, func(s *process) error { s.end(); return nil })
}

// killAll ends what hangs.
func (r *runner) killAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.live {
		s.kill()
	}
}

func (r *runner) start(row string, p peer) (*process, error) {
	argv := append([]string(nil), r.cfg.Server...)
	argv = append(argv, "--peer", p.name, "--row", row, "--cert", r.cert.file, "--key", r.cert.keyFile, "--dir", r.www())
	if r.cfg.Placement.Taskset != "" {
		cpus := strconv.Itoa(r.cfg.Placement.Server)
		if row == rowFirstByte || row == rowMessages+bothCPUs {
			cpus += "," + strconv.Itoa(r.cfg.Placement.Client)
		}
		argv = append([]string{r.cfg.Placement.Taskset, "-c", cpus}, argv...)
	}
	return r.run(exec.CommandContext(r.ctx, argv[0], argv[1:]...))
}

// run starts a server and waits until it listens.
func (r *runner) run(cmd *exec.Cmd) (*process, error) {
	s, err := r.begin(cmd)
	if err != nil {
		return nil, err
	}
	hello, err := s.answer()
	var procs int64
	if err == nil {
		s.addr = hello["addr"]
		procs, err = hello.number("procs")
	}
	if err != nil {
		s.kill()
		s.end()
		return nil, err
	}
	if r.report.Machine.ServerGOMAXPROCS == 0 { // one row gives its servers more
		r.report.Machine.ServerGOMAXPROCS = int(procs)
	}
	return s, nil
}

// begin starts a process.
func (r *runner) begin(cmd *exec.Cmd) (*process, error) {
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &process{cmd: cmd, in: in, out: bufio.NewScanner(out)}
	r.mu.Lock()
	r.live[s] = struct{}{}
	r.mu.Unlock()
	s.ended = func() {
		r.mu.Lock()
		delete(r.live, s)
		r.mu.Unlock()
	}
	return s, nil
}

// end ends the server and waits for it.
func (s *process) end() {
	s.in.Close()
	if s.stop != nil {
		s.stop()
	}
	kill := time.AfterFunc(10*time.Second, s.kill)
	defer kill.Stop()
	s.cmd.Wait()
	s.ended()
}

// kill ends the server at once; end still has to be called.
func (s *process) kill() { s.cmd.Cancel() }

// ask sends a command and returns the answer.
func (s *process) ask(command string) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := io.WriteString(s.in, command+"\n"); err != nil {
		return nil, err
	}
	return s.answer()
}

func (s *process) answer() (answer, error) {
	if !s.out.Scan() {
		return nil, errors.Join(errors.New("the server's process ended"), s.out.Err())
	}
	return parseAnswer(s.out.Text())
}

func (s *process) report() (u usage, err error) {
	if s.cpu != nil {
		u.cpu, err = s.cpu()
		return u, err
	}
	a, err := s.ask("report")
	if err != nil {
		return u, err
	}
	var user, sys int64
	for key, to := range map[string]*int64{
		"user": &user, "sys": &sys, "bytes": &u.bytes, "messages": &u.messages,
		"handshakes": &u.handshakes, "reading": &u.reading, "closed": &u.closed,
	} {
		if *to, err = a.number(key); err != nil {
			return u, err
		}
	}
	u.cpu = time.Duration(user + sys)
	return u, nil
}

// used is the CPU time of the server.
func (s *process) used() (time.Duration, error) {
	u, err := s.report()
	return u.cpu, err
}

// wait returns when n connections have come to what.
func (s *process) wait(what string, n int64) error {
	_, err := s.ask(fmt.Sprintf("wait %s %d", what, n))
	return err
}

// during is what the server uses while work runs.
func (s *process) during(work func() error) (usage, error) {
	before, err := s.report()
	if err != nil {
		return usage{}, err
	}
	if err := work(); err != nil {
		// What the server has to say about it says more.
		_, serverErr := s.report()
		return usage{}, errors.Join(err, serverErr)
	}
	after, err := s.report()
	return after.minus(before), err
}

func (r *runner) www() string { return filepath.Join(r.dir, "www") }

// profilePath is the file of one peer and row.
func profilePath(dir, row, peer, kind string) (string, error) {
	name := strings.NewReplacer(" ", "-", "/", "-", ",", "").Replace(row + "." + peer)
	return filepath.Abs(filepath.Join(dir, name+"."+kind+".pprof"))
}
