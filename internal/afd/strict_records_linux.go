package afd

import (
	"io"
	"sync"

	"github.com/aftls/aftls/record"
)

// Records as --strict has them: a send of the program is a record, or several full
// ones and the rest, and MSG_MORE keeps the last one open. In the other direction
// it is known where records end in what the program has not read.
//
// The program's bytes are in the end before anything is sealed, so that
// back-pressure and poll are those of a socket. What says where they are cut is
// here, under the association's mu.

// cuts says where the records end that the program writes. Offsets count what it
// has written.
type cuts struct {
	open   bool     // a send is under way, or a record is held open: start and what follows waits
	start  uint64   // of the open record
	ends   []uint64 // of the records that may be sealed, ascending
	missed bool     // the pump found nothing but an open record
	part   []byte   // the pump's alone: of a record of which not all could be read yet
	parted uint64   // how much that is
}

// openRecord begins a send, or goes on with the record that is held open. It
// returns how long that is so far, and how long it can become.
func (a *Association) openRecord() (length, full int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w, err := a.end.Written()
	if err != nil {
		return 0, 0, err
	}
	full = a.sending.fullRecord()
	c := &a.sending.cuts
	if !c.open {
		// What others wrote, whom no filter stops, are records of their own.
		c.endAt(w, a.sent, full)
		c.open, c.start = true, w
	}
	return int(w - c.start), full, nil
}

// endAt ends a record at an offset, if there is something in front of it, and full
// ones before that.
func (c *cuts) endAt(offset, sent uint64, full int) {
	last := sent - c.parted
	if n := len(c.ends); n > 0 {
		last = c.ends[n-1]
	}
	for offset > last {
		last = min(last+uint64(full), offset)
		c.ends = append(c.ends, last)
	}
}

// extendRecord lets go what was written up to now: every full record, and with
// last the rest of it, too, which closes the record. It returns what openRecord does.
func (a *Association) extendRecord(last bool) (length, full int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w, err := a.end.Written()
	if err != nil {
		return 0, 0, err
	}
	full = a.sending.fullRecord()
	c := &a.sending.cuts
	if last {
		c.start = w
		c.open = false
	} else {
		c.start = w - (w-c.start)%uint64(full)
	}
	c.endAt(c.start, a.sent, full)
	if c.missed {
		c.missed = false
		a.pump.Kick()
	}
	return int(w - c.start), full, nil
}

// cutAt ends the record at an offset, behind which something else comes. It is
// called under mu.
func (c *cuts) cutAt(offset, sent uint64, full int) {
	c.endAt(offset, sent, full)
	c.start = offset
}

// nextCut is how many bytes the next record has; 0 if there is nothing to send.
func (a *Association) nextCut() (n int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := &a.sending.cuts
	for len(c.ends) > 0 && c.ends[0] <= a.sent {
		c.ends = c.ends[1:]
	}
	c.missed = false
	end := a.sent
	switch ev := a.sending.events; {
	case len(ev) > 0 && ev[0].offset <= a.sent:
		return 0, nil // it came after it was asked whether there is one
	case len(c.ends) > 0:
		end = c.ends[0]
	case c.open:
		c.missed = true
	default:
		// Nobody sends here, and what is there was not announced: a process
		// that got the descriptor and is not supervised.
		if end, err = a.end.Written(); err != nil {
			return 0, err
		}
		end = min(end, a.sent+uint64(a.sending.fullRecord())-c.parted)
	}
	return int(end - min(a.sent, end) + c.parted), nil
}

// recordBuffers hold the payload of one record each.
var recordBuffers = sync.Pool{New: func() any { return new([record.MaxPlaintext]byte) }}

// sendRecord seals the next record of the program. n counts what was taken from r.
func (a *Association) sendRecord(r *io.LimitedReader) (n int64, err error) {
	length, err := a.nextCut()
	if err != nil {
		return 0, err
	}
	if length == 0 && a.end.Hangup() {
		// What it sent before that is known by now.
		if length, err = a.nextCut(); err != nil {
			return 0, err
		}
		if length == 0 && !a.isEventDue() {
			return a.dropOpen(r)
		}
	}
	part := &a.sending.cuts.part
	if length == 0 || int64(length-len(*part)) > r.N {
		return 0, nil // the turn is over, or an event comes first
	}
	buf := recordBuffers.Get().(*[record.MaxPlaintext]byte)
	defer recordBuffers.Put(buf)
	b := buf[:length]
	defer clear(b)
	have := copy(b, *part)
	for have < length {
		m, err := r.Read(b[have:])
		n += int64(m)
		have += m
		if m == 0 {
			if err != nil && err != io.EOF {
				return n, err
			}
			a.mu.Lock()
			*part = append((*part)[:0], b[:have]...)
			a.mu.Unlock()
			return n, nil
		}
	}
	a.mu.Lock()
	clear(*part)
	*part = nil
	a.mu.Unlock()
	return n, a.sock.WriteRecord(record.ApplicationData, b)
}

// dropOpen takes what a program leaves behind that ended its writing with a record
// held open. It is never sent, as of Linux.
func (a *Association) dropOpen(r *io.LimitedReader) (n int64, err error) {
	buf := recordBuffers.Get().(*[record.MaxPlaintext]byte)
	defer recordBuffers.Put(buf)
	for {
		m, err := r.Read(buf[:min(int64(len(buf)), r.N)])
		clear(buf[:m])
		n += int64(m)
		if m == 0 {
			if err == io.EOF {
				err = nil
			}
			return n, err
		}
	}
}

// settled is answered when everything is sealed that the program has sent, but for
// a record that is held open.
func (a *Association) settled() (<-chan error, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	offset, err := a.end.Written()
	if err != nil {
		return nil, err
	}
	if c := &a.sending.cuts; c.open {
		offset = c.start
	}
	return a.at(len(a.sending.events), event{offset: offset, do: func() error { return nil }})
}

// sealedSeq is the number of the next record to be sealed, as if records were
// sealed when the program sends them. One that is held open has none yet.
func (a *Association) sealedSeq() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := &a.sending.cuts
	seq := a.sending.seq
	from := a.sent - c.parted
	for _, end := range c.ends {
		if end > from {
			seq++
		}
	}
	for _, e := range a.sending.events {
		seq += e.records
	}
	return seq + a.sending.doing
}

// arrivals says where records end in what the program was given. Offsets count
// what it was given.
type arrivals struct {
	given, taken uint64
	start        uint64   // of the first record that is not all taken
	touched      uint64   // up to here the program has read or peeked
	ends         []uint64 // of records that are not all taken, ascending
	seq          uint64   // behind the last one that arrived, or that of the keys
	control      uint64   // seq behind the control record that the program has met
}

// maxArrivals is of how many records the ends are known. More only gather when
// somebody reads who is not seen here.
const maxArrivals = 1 << 14

// arrived is called before a record with n bytes for the program is put in the end.
// Of a control record hold notes the number.
func (a *Association) arrived(n int) {
	if !a.strict {
		return // nobody counts what is taken
	}
	seq := a.sock.Info().Receive.Seq
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &a.arrivals
	r.seq = seq
	if len(r.ends) >= maxArrivals {
		r.ends, r.taken, r.start = r.ends[:0], r.given, r.given
	}
	r.given += uint64(n)
	r.ends = append(r.ends, r.given)
}

// took notes that the program took n bytes, and reports whether there was the end
// of a record among them.
func (a *Association) took(n int) (eor bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &a.arrivals
	r.taken += uint64(n)
	r.touched = max(r.touched, r.taken)
	done := 0
	for done < len(r.ends) && r.ends[done] <= r.taken {
		r.start = r.ends[done]
		done++
	}
	r.ends = append(r.ends[:0], r.ends[done:]...)
	return done > 0
}

// peeked notes that the program has seen the next n bytes.
func (a *Association) peeked(n int) (eor bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &a.arrivals
	r.touched = max(r.touched, r.taken+uint64(n))
	return len(r.ends) > 0 && r.ends[0] <= r.touched
}

// metControl notes that the program knows of the control record that is next.
func (a *Association) metControl() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.arrivals.control = a.arrivals.seq
}

// firstRecord is how much is left of the first record that the program has not
// taken, as far as that is known.
func (a *Association) firstRecord() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := &a.arrivals; len(r.ends) > 0 && r.ends[0] > r.taken {
		return int(r.ends[0] - r.taken)
	}
	return record.MaxPlaintext
}

// wholeRecords is the part of the next n bytes that ends with a record.
func (a *Association) wholeRecords(n int) (whole int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &a.arrivals
	for _, end := range r.ends {
		if end > r.taken+uint64(n) {
			break
		}
		whole = int(end - r.taken)
	}
	return whole
}

// openedSeq is the number of the next record to be opened, as if records were
// opened when the program reads them.
func (a *Association) openedSeq() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &a.arrivals
	untouched := uint64(0)
	start := r.start
	for _, end := range r.ends {
		if start >= r.touched {
			untouched++
		}
		start = end
	}
	if a.held != nil && r.control != r.seq {
		untouched++
	}
	return r.seq - min(r.seq, untouched)
}
