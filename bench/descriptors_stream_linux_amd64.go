package bench

import (
	"errors"
	"fmt"
	"time"
)

// tlsfd: a program with both ends of one AF_TLS connection, which go over two
// threads of it and two pumps of its supervisor, against the same program over TCP
// and over a pair of Unix sockets: what it does with its bytes is the same.
func (r *runner) tlsfd() error {
	if err := r.helpless(); err != nil {
		return err
	}
	names := []string{"AF_TLS", "TCP", "Unix pair"}
	kinds := []string{kindFamily, kindTCP, kindPair}
	var programs []*command
	var users []cpuUser
	for i, kind := range kinds {
		p, err := r.program(ProgramConfig{Row: "stream", Kind: kind}, i == 0)
		if err != nil {
			return fmt.Errorf("%s: %w", names[i], err)
		}
		defer p.end()
		programs, users = append(programs, p), append(users, p)
	}
	size, turns, sent := r.amounts().stream, r.amounts().turns, 0
	p := pace{name: "tlsfd", reps: r.reps(r.amounts().reps), warm: true, peers: names, users: users}
	figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
		c := programs[peer]
		before, err := c.used()
		if err != nil {
			return nil, err
		}
		ns, err := c.nanoseconds(fmt.Sprintf("bulk %d", size))
		if err != nil {
			return nil, err
		}
		after, err := c.used()
		if err != nil {
			return nil, err
		}
		there, err := c.nanoseconds(fmt.Sprintf("pingpong %d", turns))
		if peer == 0 {
			sent += size + 2*turns
		}
		us := there / float64(time.Microsecond) / float64(turns)
		return []float64{float64(size) / ns, perGB(after-before, int64(size))[0], us}, err
	})
	if err != nil {
		return err
	}
	r.addOf(names, "tlsfd bulk", unitSpeed, figures[0], &Goal{Of: ofValue, Min: 1.8}, foreign)
	r.addOf(names, "tlsfd bulk", unitPerGB, figures[1], nil, foreign)
	r.addOf(names, "tlsfd 1 B there and back", unitMicro, figures[2], nil, foreign)
	st, err := programs[0].statistics(0)
	if err == nil && (st.sockets != 2 || st.failed != 0 || st.sealedBytes != sent || st.openedBytes != sent) {
		err = fmt.Errorf("the program sent %d bytes, aftls run counted %+v", sent, st)
	}
	return err
}

// nanoseconds asks for something that takes time.
func (c *command) nanoseconds(line string) (float64, error) {
	a, err := c.ask(line)
	if err != nil {
		return 0, errors.Join(err, errors.New(c.said.String()))
	}
	ns, err := a.number("ns")
	if err == nil && ns <= 0 {
		err = fmt.Errorf("%s took %d ns", line, ns)
	}
	return float64(ns), err
}
