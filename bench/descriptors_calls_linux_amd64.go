package bench

import (
	"fmt"
	"path/filepath"
)

// trap: calls of a program that has a TLS socket on sockets that are none: they
// stop in the supervisor, which looks and lets them go on. The call without a rule
// shows what the filter itself costs.
func (r *runner) trap() error {
	if err := r.helpless(); err != nil {
		return err
	}
	names := []string{peerRun, "native"}
	var programs []*command
	var users []cpuUser
	for i := range names {
		cfg := ProgramConfig{Row: "trap", Kind: kindFamily}
		if i > 0 {
			cfg.Kind = kindTCP
		}
		p, err := r.program(cfg, i == 0)
		if err != nil {
			return fmt.Errorf("%s: %w", names[i], err)
		}
		defer p.end()
		programs, users = append(programs, p), append(users, p)
	}
	calls := []string{"sendmsg", "recvmsg", "none"}
	n := r.amounts().calls
	p := pace{name: "trap", reps: r.reps(r.amounts().reps), warm: true, peers: names, users: users}
	figures, foreign, err := r.interleave(p, func(peer int) (values []float64, err error) {
		a, err := programs[peer].ask(fmt.Sprintf("trap %d", n))
		if err != nil {
			return nil, err
		}
		for _, call := range calls {
			us, err := a.micro(call)
			if err != nil {
				return nil, err
			}
			values = append(values, us/float64(n))
		}
		return values, nil
	})
	if err != nil {
		return err
	}
	const most = 15
	r.addOf(names, "trap sendmsg", unitMicro, figures[0], &Goal{Of: ofValue, Max: most}, foreign)
	r.addOf(names, "trap recvmsg", unitMicro, figures[1], &Goal{Of: ofValue, Max: most}, foreign)
	r.addOf(names, "trap, call without rule", unitMicro, figures[2], nil, foreign)
	return nil
}

// handoff: from the request to the data descriptor.
func (r *runner) handoff() error {
	if err := r.helpless(); err != nil {
		return err
	}
	socket := filepath.Join(r.dir, "handoff.sock")
	d, err := r.daemonAt(socket)
	if err != nil {
		return err
	}
	defer d.end()
	return r.opening([]string{"handoff"}, peerDaemon, 400, d, func(int) (*crowd, int, error) {
		c, err := r.crowd(ProgramConfig{Kind: kindDaemon, Socket: socket}, false)
		return c, fewOthers, err
	})
}

// setup: from the first call to a TLS socket with the keys of both directions.
func (r *runner) setup() error {
	if err := r.helpless(); err != nil {
		return err
	}
	many := r.amounts().others
	names := []string{
		fmt.Sprintf("setup AF_TLS, %d open", fewOthers), fmt.Sprintf("setup AF_TLS, %d open", many),
		fmt.Sprintf("setup TCP_ULP, %d open", fewOthers), fmt.Sprintf("setup TCP_ULP, %d open", many),
	}
	have, err := maxFiles()
	if err != nil {
		return err
	}
	if need := uint64(4*many + spareFiles); have < need {
		return &errMissing{fmt.Sprintf("%d connections need %d file descriptors, the hard limit is %d (ulimit -Hn)", many, need, have)}
	}
	return r.opening(names, peerRun, 1000, nil, func(i int) (*crowd, int, error) {
		kind := []string{kindFamily, kindULP}[i/2]
		c, err := r.crowd(ProgramConfig{Kind: kind}, true)
		return c, []int{fewOthers, many}[i%2], err
	})
}

// opening measures how long it takes to make a TLS socket, one row for each name,
// with programs that have so many already. A repetition is the median of some.
func (r *runner) opening(names []string, peer string, most float64, daemon *command, start func(i int) (c *crowd, others int, err error)) error {
	crowds := make([]*crowd, len(names))
	others := make([]int, len(names))
	var users []cpuUser
	if daemon != nil {
		users = append(users, daemon)
	}
	for i := range names {
		c, n, err := start(i)
		if err != nil {
			return err
		}
		defer c.end()
		crowds[i], others[i], users = c, n, append(users, c)
		if err := c.grow(n); err != nil {
			return err
		}
	}
	p := pace{name: names[0], reps: r.reps(r.amounts().reps), warm: true, peers: names, users: users}
	figures, foreign, err := r.interleave(p, func(i int) ([]float64, error) {
		c := crowds[i]
		var took []float64
		for range r.amounts().opens {
			us, err := c.open()
			if err == nil {
				err = c.shut()
			}
			if err != nil {
				return nil, err
			}
			took = append(took, us)
		}
		return []float64{median(took)}, nil
	})
	if err != nil {
		return err
	}
	for i, name := range names {
		r.addOf([]string{peer}, name, unitMicro, series{figures[0][i]}, &Goal{Of: ofValue, Max: most}, foreign)
	}
	return nil
}
