package bench

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// handshakeWorkers is how many handshakes are under way at once, so that
// neither side waits for the other all the time.
const handshakeWorkers = 4

// handshakes: connect, handshake, close_notify both ways, close. A repetition
// is a short pair, one after the other, as the difference is smaller than what
// the machine drifts in seconds.
func (r *runner) handshakes() error {
	for _, resumed := range []bool{false, true} {
		if err := r.handshakesOf(resumed); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) handshakesOf(resumed bool) error {
	name := "handshakes full"
	if resumed {
		name = "handshakes resumed"
	}
	samples, foreign, err := r.lives(r.reps(r.scale.pairs), func(pairs int) (series, *float64, error) {
		return r.handshakePairs(name, pairs, resumed)
	})
	if err != nil {
		return err
	}
	r.add(name, "CPU us", samples, &Goal{Of: ofInterval, Max: 1.06}, foreign)
	return nil
}

// handshakePairs measures pairs in one life of the servers.
func (r *runner) handshakePairs(name string, pairs int, resumed bool) (series, *float64, error) {
	servers, err := r.startAll("handshakes")
	if err != nil {
		return nil, nil, err
	}
	defer endAll(servers)
	configs := make([]*tls.Config, len(servers))
	opened := make([]int64, len(servers))
	for i, s := range servers {
		configs[i] = r.clientConfig()
		if !resumed {
			continue
		}
		ticket := new(oneTicket)
		configs[i].ClientSessionCache = ticket
		if _, err := r.handshake(s, configs[i]); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", peers[i].name, err)
		}
		opened[i]++
		if ticket.state.Load() == nil {
			return nil, nil, fmt.Errorf("%s: the server sent no session ticket", peers[i].name)
		}
	}
	n := r.scale.handshakes
	workers := make([]int, handshakeWorkers)
	for i := range n {
		workers[i%handshakeWorkers]++
	}
	p := pace{name: name, reps: pairs, warm: true, servers: servers}
	figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
		s := servers[peer]
		opened[peer] += int64(n)
		used, err := s.during(func() error {
			err := each(workers, func(n int) error {
				for range n {
					did, err := r.handshake(s, configs[peer])
					if err != nil {
						return err
					}
					if did != resumed {
						return fmt.Errorf("resumed: %t", did)
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			return s.wait("closed", opened[peer])
		})
		return []float64{float64(used.cpu) / float64(time.Microsecond) / float64(n)}, err
	})
	if err != nil {
		return nil, nil, err
	}
	return figures[0], foreign, nil
}

// handshake is one connection from its SYN to its FIN.
func (r *runner) handshake(s *process, config *tls.Config) (resumed bool, err error) {
	carrier, err := r.dial(s)
	if err != nil {
		return false, err
	}
	defer carrier.Close()
	c := tls.Client(carrier, config)
	if err := c.HandshakeContext(r.ctx); err != nil {
		return false, err
	}
	state := c.ConnectionState()
	r.suite(state.CipherSuite)
	if err := c.CloseWrite(); err != nil {
		return false, err
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF { // tickets come on the way
		return false, errors.Join(fmt.Errorf("%d bytes where close_notify was due", n), err)
	}
	_, err = io.Copy(io.Discard, carrier)
	return state.DidResume, err
}

// oneTicket is a session cache that keeps the first ticket and gives it to
// every connection: all of them resume the same session.
type oneTicket struct {
	state atomic.Pointer[tls.ClientSessionState]
}

func (t *oneTicket) Get(string) (*tls.ClientSessionState, bool) {
	s := t.state.Load()
	return s, s != nil
}

func (t *oneTicket) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		t.state.CompareAndSwap(nil, s)
	}
}
