package bench

import (
	"fmt"

	"github.com/aftls/aftls/record"
)

// receiveConns is over how many connections the receive row runs.
const receiveConns = 2

// writeSize is what the clients of the receive row write at once, in bytes.
const writeSize = 256 << 10

// send: the server writes without end. It stops when the client does not read;
// by then the buffers on the way are full, at the end of a repetition as at
// its start.
func (r *runner) send() error {
	servers, err := r.startAll("send")
	if err != nil {
		return err
	}
	defer endAll(servers)
	ls := make([][]*link, len(servers))
	for i, s := range servers {
		if ls[i], err = r.links(s, fileConns); err != nil {
			return err
		}
		defer closeLinks(ls[i])
	}
	p := pace{name: "send", reps: r.reps(r.scale.reps), warm: true, servers: servers}
	figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
		used, err := servers[peer].during(func() error {
			return each(ls[peer], func(l *link) error {
				return l.discard(r.scale.sendBytes/fileConns, make([]byte, clientBuffer))
			})
		})
		if err == nil && used.bytes == 0 {
			err = fmt.Errorf("the server sent nothing")
		}
		return perGB(used.cpu, used.bytes), err
	})
	if err != nil {
		return err
	}
	r.add(p.name, unitPerGB, figures[0], &Goal{Of: ofRatio, Max: 0.75}, foreign)
	return nil
}

// receive: the client sends records that it sealed before the clock started.
// As they are good for one connection only, every repetition opens its own.
func (r *runner) receive() error {
	servers, err := r.startAll("receive")
	if err != nil {
		return err
	}
	defer endAll(servers)
	var sealed [receiveConns][]byte // used again: a fresh page costs more than a record
	p := pace{name: "receive", reps: r.reps(r.scale.receiveReps), warm: true, servers: servers}
	opened := make([]int64, len(servers))
	figures, foreign, err := r.interleave(p, func(peer int) ([]float64, error) {
		s := servers[peer]
		ls, err := r.links(s, receiveConns)
		if err != nil {
			return nil, err
		}
		defer closeLinks(ls)
		opened[peer] += receiveConns
		jobs := make([]upload, len(ls))
		total := int64(0)
		for i, l := range ls {
			n, err := l.seal(&sealed[i], r.scale.receiveBytes/receiveConns)
			if err != nil {
				return nil, err
			}
			total += n
			jobs[i] = upload{l, sealed[i]}
		}
		if err := s.wait("handshakes", opened[peer]); err != nil {
			return nil, err
		}
		used, err := s.during(func() error {
			if err := each(jobs, upload.run); err != nil {
				return err
			}
			return s.wait("closed", opened[peer])
		})
		if err == nil && used.bytes != total {
			err = fmt.Errorf("the server received %d bytes of %d", used.bytes, total)
		}
		return perGB(used.cpu, total), err
	})
	if err != nil {
		return err
	}
	r.add(p.name, unitPerGB, figures[0], &Goal{Of: ofRatio, Max: 0.75}, foreign)
	return nil
}

// seal fills *to with full records of at least n bytes of plaintext, and a
// close_notify behind them. It returns how many bytes they hold.
func (l *link) seal(to *[]byte, n int64) (int64, error) {
	sealer, err := l.sealer()
	if err != nil {
		return 0, err
	}
	defer sealer.Wipe()
	count := (n + record.MaxPlaintext - 1) / record.MaxPlaintext
	if need := int(count+1) * sealer.SealedLen(record.MaxPlaintext); cap(*to) < need {
		*to = make([]byte, 0, need)
	}
	out := (*to)[:0]
	var payload [record.MaxPlaintext]byte
	for range count {
		if out, err = sealer.Seal(out, record.ApplicationData, payload[:]); err != nil {
			return 0, err
		}
	}
	out, err = sealer.Seal(out, record.AlertRecord, []byte{record.LevelWarning, byte(record.CloseNotify)})
	*to = out
	return count * record.MaxPlaintext, err
}

// upload is one connection of the receive row.
type upload struct {
	l      *link
	sealed []byte
}

// run sends everything and waits until the server has read it and closed.
func (u upload) run() error {
	for b := u.sealed; len(b) > 0; {
		n, err := u.l.NetConn().Write(b[:min(writeSize, len(b))])
		if b = b[n:]; err != nil {
			return err
		}
	}
	return u.l.drain()
}
