package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/aftls/aftls"
)

// Goals, in kB for each association.
const (
	mostIdle = 16
	mostBusy = 400
)

// pumpmem: resident memory of the process that has the pumps, for each of its
// associations: while nothing is sent, and at the most while all of them carry data
// both ways. Every repetition has processes of its own.
func (r *runner) pumpmem() error {
	if err := r.helpless(); err != nil {
		return err
	}
	n := r.amounts().idle
	have, err := maxFiles()
	if err != nil {
		return err
	}
	if need := uint64(5*n + spareFiles); have < need { // the daemon has the most, of carriers that block
		return &errMissing{fmt.Sprintf("%d connections need %d file descriptors, the hard limit is %d (ulimit -Hn)", n, need, have)}
	}
	names := []string{"run", "handd"}
	p := pace{name: "pumpmem", reps: r.reps(r.amounts().lives), peers: names}
	figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
		idle, err := r.idlePumps(peer == 1, n)
		if err != nil {
			return nil, err
		}
		busy, err := r.busyPumps(peer == 1, r.amounts().busy)
		return []float64{idle, busy}, err
	})
	if err != nil {
		return err
	}
	for i, peer := range []string{peerRun, peerDaemon} {
		r.addOf([]string{peer}, fmt.Sprintf("pumpmem idle x %d", n), unitKB, series{figures[0][i]}, &Goal{Of: ofValue, Max: mostIdle}, foreign)
		r.addOf([]string{peer}, fmt.Sprintf("pumpmem busy x %d", r.amounts().busy), unitKB, series{figures[1][i]}, &Goal{Of: ofValue, Max: mostBusy}, foreign)
	}
	return nil
}

// pumps starts a crowd and returns the process that has its pumps.
func (r *runner) pumps(daemon bool) (c *crowd, pid int, end func(), err error) {
	if !daemon {
		if c, err = r.crowd(ProgramConfig{Kind: kindULP}, true); err != nil {
			return nil, 0, nil, err
		}
		return c, c.cmd.Process.Pid, c.end, nil
	}
	socket := filepath.Join(r.dir, "pumps.sock")
	d, err := r.daemonAt(socket)
	if err != nil {
		return nil, 0, nil, err
	}
	if c, err = r.crowd(ProgramConfig{Kind: kindDaemon, Socket: socket}, false); err != nil {
		d.end()
		return nil, 0, nil, err
	}
	return c, d.cmd.Process.Pid, func() { c.end(); d.end() }, nil
}

func (r *runner) idlePumps(daemon bool, n int) (float64, error) {
	c, pid, end, err := r.pumps(daemon)
	if err != nil {
		return 0, err
	}
	defer end()
	// The first connections bring in code and the heap's first pages.
	warm := max(n/warmShare, 1)
	if err := c.grow(warm); err != nil {
		return 0, err
	}
	before, err := rss(pid)
	if err != nil {
		return 0, err
	}
	if err := c.grow(warm + n); err != nil {
		return 0, err
	}
	after, err := rss(pid)
	return float64(after-before) / float64(n), err
}

// busyPumps has the program send back what n peers send it.
func (r *runner) busyPumps(daemon bool, n int) (float64, error) {
	c, pid, end, err := r.pumps(daemon)
	if err != nil {
		return 0, err
	}
	defer end()
	// One connection brings in code; it stays idle.
	if err := c.grow(1); err != nil {
		return 0, err
	}
	before, err := rss(pid)
	if err != nil {
		return 0, err
	}
	if err := c.grow(1 + n); err != nil {
		return 0, err
	}
	if _, err := c.ask("echo"); err != nil {
		return 0, err
	}
	var socks []*aftls.Socket
	for _, conn := range c.conns[1:] {
		s := aftls.NewSocket(conn, aftls.Options{})
		if err := errors.Join(s.SetKeys(aftls.Send, keysOf(ofClient)), s.SetKeys(aftls.Receive, keysOf(ofServer))); err != nil {
			return 0, err
		}
		socks = append(socks, s)
	}
	var most atomic.Int64
	err = each(socks, func(s *aftls.Socket) error {
		return echoed(s, r.amounts().busyBytes, func() error {
			now, err := rss(pid)
			for {
				m := most.Load()
				if m >= now || most.CompareAndSwap(m, now) {
					return err
				}
			}
		})
	})
	return float64(most.Load()-before) / float64(n), err
}

// echoed sends n bytes and reads them back, and calls look after each block.
func echoed(s *aftls.Socket, n int, look func() error) error {
	data := block()
	blocks := n / len(data)
	wrote := make(chan error, 1)
	go func() {
		for range blocks {
			if _, err := s.Write(data); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	got := make([]byte, len(data))
	var err error
	for i := 0; i < blocks && err == nil; i++ {
		if _, err = io.ReadFull(s, got); err == nil {
			err = look()
		}
		if err == nil && !bytes.Equal(got, data) {
			err = errors.New("the echo is not what was sent")
		}
	}
	if err != nil {
		s.Close() // ends the writing
	}
	return errors.Join(err, <-wrote)
}

// rss is the resident memory of a process in kB. It is that of /proc/PID/status,
// some pages inexact, as the kernel shows smaps of these processes to root only.
func rss(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return parseRSS(string(b))
}

func parseRSS(status string) (int64, error) {
	for line := range strings.Lines(status) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "VmRSS:" && f[2] == "kB" {
			return strconv.ParseInt(f[1], 10, 64)
		}
	}
	return 0, errors.New("no VmRSS in /proc/PID/status")
}
