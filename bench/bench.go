// Package bench measures aftls side by side with what people would use
// instead: what a gigabyte, a message, a handshake, an idle connection cost.
//
// Every figure but memory, the wait for a first byte and how long messages wait
// is CPU time, user and system, of the server's process: unlike wall-clock time it means something on
// a shared machine. Each peer's server is a process of its own on one CPU (on
// both for the first byte), and the client, which is the caller of [Run], sits
// on another. For one repetition a row measures every
// peer, in alternating order, over connections that stay open where that is
// possible; the first repetition warms up and is dropped. What counts is the
// ratio within each repetition: its median, with a 95 % bootstrap interval.
//
// The files, in the order of their use:
//
//	place.go, process.go  where the processes run, and how one is started and asked
//	protocol.go           the lines that they exchange
//	peers.go, server.go   the server's process
//	link.go               the client's connections
//	row_*.go              one file for each row
//	terminators_*.go      the other programs of the proxy row
//	row_messages*.go      the row about package kcm, with its own servers and client
//	row_datagrams*.go     the row about DTLS, with its own servers and client
//	descriptors_*.go      the rows about 'aftls run' and 'aftls handd', and their program,
//	                      with raw_linux_amd64.go
//	stats.go, report.go, table.go
package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long one step, a repetition or what comes before the first,
// may take. Then the servers are ended, and what hangs fails.
const patience = 2 * time.Minute

// Config says what Run is to measure. The zero value is all rows in full.
type Config struct {
	Rows    []string // names out of [Rows]; none means all
	Reps    int      // repetitions of every row; 0 is the row's own number
	Quick   bool     // tiny amounts: shows that it works, not how fast
	Dir     string   // for temporary files; empty is the system's folder for them
	Profile string   // folder for CPU profiles of the servers; empty is none

	// Server is the program that calls Serve, and its first arguments.
	Server []string

	// Command is the aftls command and Program what calls Program, with its
	// first arguments. The rows about other programs need both.
	Command, Program []string

	Placement Placement

	// Progress, if set, is told before each repetition, 0 is the warm-up.
	Progress func(row string, rep, reps int)
}

// row is one kind of measurement. Its run adds results to the report.
type row struct {
	name string
	run  func(*runner) error
}

func rows() []row {
	return slices.Concat([]row{
		{"files", (*runner).files},
		{"send", (*runner).send},
		{"receive", (*runner).receive},
		{"echo", (*runner).echo},
		{"idle", (*runner).idle},
		{"handshakes", (*runner).handshakes},
		{rowFirstByte, (*runner).firstByte},
		{rowH2, (*runner).h2},
		{rowGRPC, (*runner).grpc},
		{rowProxy, (*runner).proxy},
	}, descriptorRows(), messageRows(), datagramRows())
}

// Rows are the names of all rows.
func Rows() []string {
	var names []string
	for _, r := range rows() {
		names = append(names, r.name)
	}
	return names
}

// rowMessages is the row about package kcm. Names of rows of servers begin so.
const (
	rowMessages = "messages"
	bothCPUs    = " on both CPUs"
)

// errMissing is why a row cannot be measured on this machine: a note in the
// report, not a failure.
type errMissing struct{ what string }

func (e *errMissing) Error() string { return e.what }

// runner is one Run under way.
type runner struct {
	ctx    context.Context
	cfg    Config
	scale  scale
	dir    string // temporary: certificate, and the files to serve
	cert   certificate
	report *Report

	mu   sync.Mutex // Machine.Suite, live
	live map[*process]struct{}

	watch *time.Timer
	hung  atomic.Bool
}

func newRunner(ctx context.Context, cfg Config, dir string) *runner {
	r := &runner{
		ctx: ctx, cfg: cfg, scale: full, dir: dir, live: map[*process]struct{}{},
		report: &Report{Machine: machine(cfg.Placement), Quick: cfg.Quick, Profiled: cfg.Profile != ""},
	}
	if cfg.Quick {
		r.scale = quick
	}
	r.watch = time.AfterFunc(patience, func() {
		r.hung.Store(true)
		r.killAll()
	})
	return r
}

// suite notes what was negotiated.
func (r *runner) suite(id uint16) {
	r.mu.Lock()
	r.report.Machine.Suite = tls.CipherSuiteName(id)
	r.mu.Unlock()
}

// Run measures and returns the report. It starts servers, all of which have
// ended when it returns; what it wrote to disk, profiles apart, is removed. After an
// error the report has what was measured before it, if anything was.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	chosen, err := choose(cfg.Rows)
	if err != nil {
		return nil, err
	}
	if _, _, err := cpuTime(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(cfg.Dir, "aftls-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if cfg.Profile != "" {
		if err := os.MkdirAll(cfg.Profile, 0o755); err != nil {
			return nil, err
		}
	}
	r := newRunner(ctx, cfg, dir)
	defer r.watch.Stop()
	if r.cert, err = makeCertificate(dir, time.Now()); err != nil {
		return nil, err
	}
	for _, row := range chosen {
		r.watch.Reset(patience)
		err := row.run(r)
		if missing, ok := errors.AsType[*errMissing](err); ok {
			r.report.Notes = append(r.report.Notes, fmt.Sprintf("%s was not measured: %v", row.name, missing))
			continue
		}
		if ctx.Err() != nil {
			return r.soFar(row.name), context.Cause(ctx)
		}
		if r.hung.Load() && err != nil {
			err = fmt.Errorf("nothing more came within %v: %w", patience, err)
		}
		if err != nil {
			return r.soFar(row.name), fmt.Errorf("%s: %w", row.name, err)
		}
	}
	return r.report, nil
}

// soFar is the report of a run that ended in a row, nil if nothing is in it.
func (r *runner) soFar(row string) *Report {
	if len(r.report.Results) == 0 {
		return nil
	}
	r.note("the run ended during " + row + ": what comes behind was not measured")
	return r.report
}

func choose(names []string) ([]row, error) {
	all := rows()
	if len(names) == 0 {
		return all, nil
	}
	for _, name := range names {
		if !slices.Contains(Rows(), name) {
			return nil, fmt.Errorf("no row %q: there are %v", name, Rows())
		}
	}
	return slices.DeleteFunc(all, func(r row) bool { return !slices.Contains(names, r.name) }), nil
}

// scale is how much is measured.
type scale struct {
	fileSizes    []int64
	fileBytes    int64 // per repetition and peer, over all connections
	sendBytes    int64
	receiveBytes int64
	proxyBytes   int64 // of the proxy, h2 and grpc rows, each way
	echoMessages int
	idleConns    int
	handshakes   int // of one half of a pair
	firstBytes   int // connections of one half of a pair

	reps, receiveReps, idleReps, pairs, firstByteReps int
}

var (
	full = scale{
		fileSizes:    []int64{1 << 20, 64 << 20},
		fileBytes:    1 << 30,
		sendBytes:    1 << 30,
		receiveBytes: 192 << 20,
		proxyBytes:   256 << 20,
		echoMessages: 20_000,
		idleConns:    5000,
		handshakes:   120,
		firstBytes:   40,
		reps:         15, receiveReps: 21, idleReps: 5, pairs: 301, firstByteReps: 101,
	}
	quick = scale{
		fileSizes:    []int64{1 << 20, 8 << 20},
		fileBytes:    32 << 20,
		sendBytes:    32 << 20,
		receiveBytes: 8 << 20,
		proxyBytes:   8 << 20,
		echoMessages: 320,
		idleConns:    64,
		handshakes:   8,
		firstBytes:   4,
		reps:         2, receiveReps: 2, idleReps: 1, pairs: 3, firstByteReps: 2,
	}
)

// reps is how often a row is repeated: as asked for, or by its own number.
func (r *runner) reps(own int) int {
	if r.cfg.Reps > 0 {
		return r.cfg.Reps
	}
	return own
}

// series are the samples of one figure: [peer][repetition].
type series [][]float64

// pace is how the repetitions of one row go.
type pace struct {
	name    string
	reps    int
	warm    bool       // one more repetition goes first and does not count
	servers []*process // by peer, those that live through all repetitions
	peers   []string   // whom it compares; nil: the package's peers
	users   []cpuUser  // other processes of the row, for the load of the machine
}

// interleave runs measure for every peer in every repetition, and returns the
// samples of each of the figures that measure returns. The order of the peers
// changes from one repetition to the next: what drifts hits all of them.
func (r *runner) interleave(p pace, measure func(peer int) ([]float64, error)) (figures []series, foreign *float64, err error) {
	others := watchLoad(p)
	names := p.peers
	if names == nil {
		names = peerNames()
	}
	rep := 1
	if p.warm {
		rep = 0
	}
	for ; rep <= p.reps; rep++ {
		if r.cfg.Progress != nil {
			r.cfg.Progress(p.name, rep, p.reps)
		}
		if rep == 1 {
			if err := r.profile(p, true); err != nil {
				return nil, nil, err
			}
		}
		for i := range names {
			who := i
			if rep%2 == 0 {
				who = len(names) - 1 - i
			}
			if err := r.ctx.Err(); err != nil {
				return nil, nil, err
			}
			r.watch.Reset(patience)
			values, err := measure(who)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", names[who], err)
			}
			if rep == 0 {
				continue
			}
			for f, v := range values {
				if f == len(figures) {
					figures = append(figures, make(series, len(names)))
				}
				figures[f][who] = append(figures[f][who], v)
			}
		}
	}
	foreign = others.foreign()
	return figures, foreign, r.profile(p, false)
}

// starts is over how many lives of the servers the repetitions of some rows
// are spread. Where a process happens to lie in memory is worth some percent of
// a handshake, to its end: pairs of one life agree with each other and not with
// the next.
const starts = 20

// lives has measure take reps repetitions in parts, each with servers of its
// own, and puts the samples together.
func (r *runner) lives(reps int, measure func(reps int) (series, *float64, error)) (samples series, foreign *float64, err error) {
	for left := min(starts, reps); left > 0; left-- {
		n := reps / left
		reps -= n
		part, others, err := measure(n)
		if err != nil {
			return nil, nil, err
		}
		if samples == nil {
			samples = make(series, len(part))
		}
		for i := range samples {
			samples[i] = append(samples[i], part[i]...)
		}
		if foreign == nil || others != nil && *others > *foreign {
			foreign = others
		}
	}
	return samples, foreign, nil
}

// note puts a note into the report, once.
func (r *runner) note(text string) {
	if !slices.Contains(r.report.Notes, text) {
		r.report.Notes = append(r.report.Notes, text)
	}
}

// add puts a figure into the report.
func (r *runner) add(name, unit string, samples series, goal *Goal, foreign *float64) {
	r.addOf(peerNames(), name, unit, samples, goal, foreign)
}

// addOf is add for other peers.
func (r *runner) addOf(names []string, name, unit string, samples series, goal *Goal, foreign *float64) {
	if r.cfg.Quick {
		goal = nil // nothing to be judged by
	}
	r.report.Results = append(r.report.Results, resultOf(names, name, unit, samples, goal, foreign))
}

// profile begins or ends the CPU profiles of the servers of a row.
func (r *runner) profile(p pace, begin bool) error {
	if r.cfg.Profile == "" {
		return nil
	}
	names := p.peers
	if names == nil {
		names = peerNames()
	}
	for i, s := range p.servers {
		if s.cpu != nil {
			continue
		}
		command := "profile"
		if begin {
			path, err := profilePath(r.cfg.Profile, p.name, names[i], "cpu")
			if err != nil {
				return err
			}
			command += " " + path
		}
		if _, err := s.ask(command); err != nil {
			return err
		}
	}
	return nil
}
