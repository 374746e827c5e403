package bench

import "time"

// part is a line of a row in which every client has a connection of its own that
// lives as long as its server.
type part[C any] struct {
	name, unit string
	per        func(cpu time.Duration) []float64
	do         func(c C) error // by each of fileConns clients at once
}

// measureParts measures what the servers of a row use for each part. The repetitions
// are spread over lives of the servers, as how much of the work comes together is some
// percent of it, and differs from life to life. connect opens the connection of a
// client, and returns what closes it.
func measureParts[C any](r *runner, row string, connect func(addr string) (C, func(), error), parts []part[C]) error {
	for _, part := range parts {
		samples, foreign, err := r.lives(r.reps(r.scale.reps), func(reps int) (series, *float64, error) {
			servers, err := r.startAll(row)
			if err != nil {
				return nil, nil, err
			}
			defer endAll(servers)
			clients := make([][]C, len(servers))
			for i, s := range servers {
				for range fileConns {
					c, end, err := connect(s.addr)
					if err != nil {
						return nil, nil, err
					}
					defer end()
					clients[i] = append(clients[i], c)
				}
			}
			p := pace{name: part.name, reps: reps, warm: true, servers: servers}
			figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
				used, err := servers[peer].during(func() error { return each(clients[peer], part.do) })
				return part.per(used.cpu), err
			})
			if err != nil {
				return nil, nil, err
			}
			return figures[0], foreign, nil
		})
		if err != nil {
			return err
		}
		r.add(part.name, part.unit, samples, &Goal{Of: ofRatio, Max: 1}, foreign)
	}
	return nil
}
