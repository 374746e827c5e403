package bench

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
)

// idleWorkers is how many clients of the idle row connect at once.
const idleWorkers = 8

// spareFiles are the descriptors that a process needs for itself.
const spareFiles = 64

// warmShare is the part of the connections that come before those that count.
const warmShare = 20

// idle: connections that finished their handshake and wait for data, each with
// a goroutine blocked in Read. What counts is resident memory, as it stands
// when all of them wait, and after a collection that gives everything back.
// Memory of the kernel is not in it. Every repetition has servers of its own,
// warmed up by a few more connections.
func (r *runner) idle() error {
	n := r.scale.idleConns
	have, err := maxFiles()
	if err != nil {
		return err
	}
	if need := uint64(n + n/warmShare + spareFiles); have < need {
		return &errMissing{fmt.Sprintf("%d connections need %d file descriptors, the hard limit is %d (ulimit -Hn)", n, need, have)}
	}
	if _, err := resident(os.Getpid()); err != nil {
		return &errMissing{err.Error()}
	}
	p := pace{name: "idle", reps: r.reps(r.scale.idleReps)}
	figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
		s, err := r.start("idle", peers[peer])
		if err != nil {
			return nil, err
		}
		defer s.end()
		return r.idleConns(s, peers[peer].name, n)
	})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("idle x %d", n)
	r.add(name, "kB/conn", figures[0], &Goal{Of: ofValue, Max: 9}, foreign)
	r.add(name+", after GC", "kB/conn", figures[1], nil, foreign)
	return nil
}

func (r *runner) idleConns(s *process, peer string, n int) ([]float64, error) {
	// The first connections bring in code, pools and the heap's first pages,
	// which are the process's cost and not theirs.
	warm := n / warmShare
	conns := make([]net.Conn, warm+n)
	defer func() {
		// The server must not see them go: it is about to end.
		s.kill()
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	workers := make([]int, idleWorkers)
	for i := range workers {
		workers[i] = i
	}
	open := func(from, to int) error {
		err := each(workers, func(w int) error {
			for i := from + w; i < to; i += idleWorkers {
				c, err := r.dial(s)
				if err != nil {
					return err
				}
				conns[i] = c // without the tls.Conn: nothing is read or written any more
				tc := tls.Client(c, r.clientConfig())
				if err := tc.HandshakeContext(r.ctx); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			err = s.wait("reading", int64(to))
		}
		return err
	}
	if err := open(0, warm); err != nil {
		return nil, err
	}
	before, err := resident(s.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	if err := open(warm, warm+n); err != nil {
		return nil, err
	}
	standing, err := resident(s.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	if r.cfg.Profile != "" {
		path, err := profilePath(r.cfg.Profile, "idle", peer, "heap")
		if err != nil {
			return nil, err
		}
		if _, err := s.ask("heap " + path); err != nil {
			return nil, err
		}
	}
	if _, err := s.ask("gc"); err != nil {
		return nil, err
	}
	collected, err := resident(s.cmd.Process.Pid)
	perConn := func(kB int64) float64 { return float64(kB-before) / float64(n) }
	return []float64{perConn(standing), perConn(collected)}, err
}

// resident is the Rss of a process in kB (1024 bytes).
func resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errors.New("this system has no /proc/PID/smaps_rollup")
	}
	if err != nil {
		return 0, err
	}
	return parseResident(string(b))
}

func parseResident(rollup string) (int64, error) {
	for line := range strings.Lines(rollup) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "Rss:" && f[2] == "kB" {
			return strconv.ParseInt(f[1], 10, 64)
		}
	}
	return 0, errors.New("no Rss in smaps_rollup")
}
