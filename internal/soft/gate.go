package soft

import "github.com/aftls/aftls/record"

// Gate is what data passes, record by record: on the receiving side between
// opening and delivery, on the sending side between cutting and sealing. It says
// how many bytes of the payload go on, and does not change or keep them. An error
// ends the direction. Records without data do not pass it.
type Gate func(payload []byte) (keep int, err error)

// pass returns what goes on of a payload that was opened. The rest is nobody's
// to see: it may lie in the caller's slice.
func (g *Gate) pass(payload []byte) ([]byte, error) {
	keep, err := g.lets(payload)
	if err != nil {
		keep = 0
	}
	clear(payload[keep:])
	return payload[:keep], err
}

// SetGate makes g the gate from the next record on that is opened; nil is none.
// It may be called at any time, by anybody.
func (r *Receiver) SetGate(g *Gate) { r.gate.Store(g) }

// SetGate makes g the gate from the next batch of records on; nil is none. It may
// be called at any time, by anybody. With a gate nothing is sealed in place.
func (s *Sender) SetGate(g *Gate) { s.gate.Store(g) }

// lets returns how many bytes of a payload go on; without a gate all do.
func (g *Gate) lets(payload []byte) (int, error) {
	if g == nil || len(payload) == 0 {
		return len(payload), nil
	}
	return (*g)(payload)
}

// sealData commits as much of data as the gate lets pass, as one record behind
// s.out, which has room for it.
func (s *Sender) sealData(g *Gate, data []byte) error {
	n, err := g.lets(data)
	if err != nil || n == 0 {
		return err
	}
	if s.out, err = s.sealer.Seal(s.out, record.ApplicationData, data[:n]); err == nil {
		s.sealed(n)
	}
	return err
}
