package kernel

import (
	"encoding/binary"
	"errors"
	"os"

	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// committed is a record, or some data, that goes out before everything else.
type committed struct {
	typ  record.ContentType
	b    []byte
	next bool // a KeyUpdate: the next key holds behind it
}

// Seal commits one record of any type behind everything that is committed, and
// waits for nobody.
func (s *Sender) Seal(typ record.ContentType, payload []byte) error {
	if len(payload) > record.MaxPlaintext {
		return record.ErrTooLarge
	}
	if typ == record.ApplicationData {
		keep, err := s.gate.Load().lets(payload)
		if err != nil || keep == 0 {
			return err // a record without data is nothing that anybody would see
		}
		payload = payload[:keep]
	} else if len(payload) == 0 {
		return ErrEmpty
	}
	return s.commit(typ, payload, false)
}

// commit gives the kernel a record, and keeps what it does not take. What is kept
// counts as if it were sent. With wait it waits for the kernel first.
func (s *Sender) commit(typ record.ContentType, b []byte, wait bool) (err error) {
	if len(b) == 0 {
		return nil
	}
	if typ == record.ApplicationData {
		s.stats.Bytes.Add(uint64(len(b)))
	}
	s.estimate += s.recordsOf(len(b))
	if len(s.queue) == 0 {
		var n int
		n, err = s.sendRecord(typ, b, wait)
		if b = b[n:]; len(b) == 0 {
			return nil
		}
		if err != nil && err != unix.EAGAIN && !timeout(err) {
			return err
		}
		if err == unix.EAGAIN {
			err = nil
		}
	}
	s.queue = append(s.queue, committed{typ: typ, b: append([]byte(nil), b...)})
	s.queued += len(b)
	return err
}

func timeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// sendRecord is send for one record of one type.
func (s *Sender) sendRecord(typ record.ContentType, b []byte, wait bool) (int, error) {
	var oob []byte
	if typ != record.ApplicationData {
		oob = s.control.setType(byte(typ))
	}
	s.one[0] = iovec(b)
	n, err := s.send(s.one[:], oob, wait)
	s.one[0] = unix.Iovec{}
	return n, err
}

// Pending is how many committed bytes the kernel has not taken.
func (s *Sender) Pending() int { return s.queued }

// Flush gives the kernel what is committed, and waits for it.
func (s *Sender) Flush() error { return s.drain(true) }

// TryFlush is Flush without waiting. It answers true: the kernel can be asked.
func (s *Sender) TryFlush() bool {
	s.drain(false)
	return true
}

// TryFlushLast is TryFlush.
func (s *Sender) TryFlushLast() { s.TryFlush() }

func (s *Sender) drain(wait bool) error {
	for len(s.queue) > 0 {
		q := &s.queue[0]
		n, err := s.sendRecord(q.typ, q.b, wait)
		q.b = q.b[n:]
		s.queued -= n
		if err != nil {
			return err
		}
		next := q.next
		s.queue[0] = committed{}
		if s.queue = s.queue[1:]; len(s.queue) == 0 {
			s.queue = nil
		}
		if next {
			if err := s.rekey(); err != nil {
				return err
			}
			s.estimate += uint64(len(s.queue))
		}
	}
	return nil
}

// Commit sends data that has left its source for good: whatever the deadline says it
// is committed, and what the kernel does not take now is kept. n is less than
// len(b) only after an error of the gate or of the carrier.
func (s *Sender) Commit(b []byte) (n int, err error) {
	gate := s.gate.Load()
	for err == nil && n < len(b) {
		p := b[n:]
		keep := len(p)
		if gate != nil {
			p = p[:min(len(p), record.MaxPlaintext)]
			if keep, err = gate.lets(p); err != nil {
				return n, err
			}
		}
		err = s.commit(record.ApplicationData, p[:keep], true)
		if err == nil || timeout(err) {
			n += len(p)
		}
	}
	if n < len(b) && timeout(err) { // only with a gate: the rest goes behind
		m, gerr := s.Commit(b[n:])
		n += m
		if gerr != nil && !timeout(gerr) {
			err = gerr
		}
	}
	return n, err
}

// Unsent returns what is committed and was not taken, for TakeSender.
func (s *Sender) Unsent() (b []byte) {
	for _, q := range s.queue {
		b = append(b, byte(q.typ), 0)
		if q.next {
			b[len(b)-1] = 1
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(q.b)))
		b = append(b, q.b...)
	}
	return b
}

var errQueue = errors.New("kernel: not what Unsent returned")

func (s *Sender) putQueue(b []byte) error {
	const head = 6
	for len(b) > 0 {
		if len(b) < head || b[1] > 1 {
			return errQueue
		}
		n := binary.BigEndian.Uint32(b[2:])
		if uint64(n) > uint64(len(b)-head) {
			return errQueue
		}
		q := committed{typ: record.ContentType(b[0]), b: append([]byte(nil), b[head:head+n]...), next: b[1] == 1}
		s.queue, s.queued = append(s.queue, q), s.queued+int(n)
		b = b[head+n:]
	}
	return nil
}

// Settled reports whether TCP has all the records that the kernel made of what it
// took: where TCP had no room the kernel keeps some, sealed, and there is no other way
// to see them. It answers true where it cannot know: others send too, or have sent.
func (s *Sender) Settled() bool {
	if s.shared || s.before == 0 {
		return true
	}
	s.Refresh()
	wire := s.given + (s.stats.Records.Load()-s.records)*overhead(s.keys)
	have := s.handed()
	return have == 0 || have-s.before >= wire
}

// handed is how many bytes were handed to TCP since the connection began. What is
// acknowledged between the two calls counts in neither.
func (s *Sender) handed() (n uint64) {
	s.raw.Control(func(fd uintptr) {
		acked, err := s.sys.acked(int(fd))
		if err == nil {
			var queued int
			if queued, err = s.sys.queued(int(fd)); err == nil {
				n = acked + uint64(queued)
			}
		}
	})
	return n
}

// overhead is how much longer a record is than its payload.
func overhead(k record.Keys) uint64 {
	n := record.HeaderLen + record.TagLen
	if k.Version == record.TLS13 {
		n++ // the content type
	} else if cipherOf(k) != cipherChaCha20 {
		n += gcmIV
	}
	return uint64(n)
}
