package afd

import (
	"encoding"
	"errors"
	"io"
	"slices"
	"sync"
	"syscall"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/pump"
	"github.com/aftls/aftls/record"
)

// The sending side of an association: from the program to the carrier.
//
// What else is to happen in this direction (a control record, new keys, the type
// of the next record) has its place in the stream: behind everything that the
// program had written when it asked. It is an event at an offset, and whoever
// asks need not wait until a slow peer has taken what comes before.

// sending is under the association's mu, but for the offset, which only the pump
// moves.
type sending struct {
	events []event
	over   error // no more events: why
	keying bool  // the first keys are on their way

	armed nextRecord
	cuts  cuts
	full  int    // bytes of a record at most; 0: record.MaxPlaintext
	seq   uint64 // number of the next record, behind what is committed
	doing uint64 // records of the event that happens now
	ended error  // what the direction ended of

	raw []byte // buffer of a direction without keys, for one turn
}

// fullRecord is how many bytes a record of the program holds at most. It is called
// under mu.
func (s *sending) fullRecord() int {
	if s.full > 0 {
		return s.full
	}
	return record.MaxPlaintext
}

// event is what happens when so many bytes of the program are committed.
type event struct {
	offset  uint64
	records uint64 // that do seals
	do      func() error
	done    chan error // has room for one
}

// nextRecord is the type that was armed for the next bytes of the program.
type nextRecord struct {
	typ  record.ContentType
	left int // bytes
	got  []byte
}

// maxEvents is how many may wait for a slow peer.
const maxEvents = 64

// ErrBusy is the answer while too many events wait.
var ErrBusy = refuse(syscall.EAGAIN, "too many control records wait for the peer to read")

// behind has do called behind everything that the program has written by now. The
// result comes on done.
func (a *Association) behind(do func() error) (done <-chan error, err error) {
	return a.announce(0, do)
}

// announce is behind of something that seals so many records.
func (a *Association) announce(records uint64, do func() error) (done <-chan error, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.room(); err != nil {
		return nil, err
	}
	// A turn that is under way must not read on behind it.
	offset, err := a.end.StopHere()
	if err != nil {
		return nil, err
	}
	if a.strict && a.keyed[aftls.Send] {
		a.sending.cuts.cutAt(offset, a.sent, a.sending.fullRecord())
	}
	return a.at(len(a.sending.events), event{offset: offset, records: records, do: do})
}

// first has do called in front of everything: the bytes of the program wait for
// it, and so does what is to come behind them.
func (a *Association) first(do func() error) (done <-chan error, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.at(0, event{do: do})
}

// room says why nothing more can be announced, or nil. It is called under mu.
func (a *Association) room() error {
	if a.sending.over != nil {
		return a.sending.over
	}
	if len(a.sending.events) >= maxEvents {
		return ErrBusy
	}
	return nil
}

// at has an event happen as the i-th of those that wait. It is called under mu.
func (a *Association) at(i int, e event) (<-chan error, error) {
	if err := a.room(); err != nil {
		return nil, err
	}
	e.done = make(chan error, 1)
	a.sending.events = slices.Insert(a.sending.events, i, e)
	a.stopAtEvent()
	a.pump.Kick()
	return e.done, nil
}

// stopAtEvent has the program's bytes read up to the next event. It is called
// under mu.
func (a *Association) stopAtEvent() {
	offset := uint64(pump.NoStop)
	if ev := a.sending.events; len(ev) > 0 {
		offset = ev[0].offset
	}
	a.end.Stop(offset)
}

// nextEvent returns the event that is due at offset.
func (a *Association) nextEvent(offset uint64) (e event, due bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ev := a.sending.events
	if len(ev) == 0 || ev[0].offset > offset {
		return event{}, false
	}
	a.sending.events = ev[1:]
	a.sending.doing = ev[0].records
	a.stopAtEvent()
	return ev[0], true
}

// endSending answers all events that did not happen, and those to come.
func (a *Association) endSending(why error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sending.over == nil {
		a.sending.over = why
	}
	for _, e := range a.sending.events {
		e.done <- a.sending.over
	}
	a.sending.events = nil
	a.stopAtEvent()
	a.adopting = false // it was one of them
	a.changed.Broadcast()
}

var errEnded = refuse(syscall.EPIPE, "the sending direction has ended")

// ReadFrom sends what the program wrote: the pump calls it with the end.
func (a *Association) ReadFrom(r io.Reader) (int64, error) {
	n, err := a.send(r)
	if err != nil {
		a.mu.Lock()
		a.sending.ended = err
		a.mu.Unlock()
		a.endSending(err)
	}
	return n, err
}

// SendFailure is what the sending side ended of, nil while it lives and at a clean
// end.
func (a *Association) SendFailure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sending.ended
}

func (a *Association) send(r io.Reader) (total int64, err error) {
	whole := r.(*io.LimitedReader)
	for {
		if e, due := a.nextEvent(a.sent); due {
			err := e.do()
			a.committed(0)
			e.done <- err
			if err != nil && isFatal(err) {
				return total, err
			}
			continue
		}
		part := *whole
		n, err := a.sendSome(&part)
		whole.N -= n
		total += n
		a.committed(n)
		if err != nil {
			return total, err
		}
		if n == 0 || whole.N <= 0 {
			if !a.isEventDue() {
				return total, nil
			}
		}
	}
}

// committed notes that n more bytes of the program are sealed, or an event has
// happened.
func (a *Association) committed(n int64) {
	seq := a.sock.Info().Send.Seq
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent += uint64(n)
	if a.sending.doing = 0; a.keyed[aftls.Send] {
		a.sending.seq = seq
	}
	a.sending.cuts.parted = uint64(len(a.sending.cuts.part))
}

func (a *Association) isEventDue() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	ev := a.sending.events
	return len(ev) > 0 && ev[0].offset <= a.sent
}

// isFatal reports whether the error of an event ends the direction: what the
// program asked wrongly does not.
func isFatal(err error) bool {
	_, ours := errors.AsType[*refusal](err)
	return !ours && !errors.Is(err, aftls.ErrKeyReuse) && !errors.Is(err, aftls.ErrRecordType) && !errors.Is(err, aftls.ErrNoRekey)
}

// sendSome sends up to so many bytes under the keys of now.
func (a *Association) sendSome(r *io.LimitedReader) (int64, error) {
	switch {
	case a.end.Records() && a.isKeyed(aftls.Send):
		return a.sendRecords(r)
	case a.sending.armed.left > 0:
		return a.sendArmed(r)
	case a.policyConn() != nil:
		return a.policyConn().ReadFrom(r)
	case a.strict && a.isKeyed(aftls.Send):
		return a.sendRecord(r)
	case a.isKeyed(aftls.Send):
		n, err := a.sock.ReadFrom(r)
		if n == 0 && errors.Is(err, aftls.ErrShutdown) {
			// The program sent close_notify itself: only data behind it is
			// an error.
			var b [1]byte
			if m, _ := r.Read(b[:]); m == 0 {
				err = nil
			}
		}
		return n, err
	case a.policy == AsLinux:
		return a.sendRaw(r)
	}
	if a.end.Gone() {
		return 0, errUnkeyed
	}
	return 0, nil // it waits for the keys
}

var errUnkeyed = refuse(syscall.ENOTCONN, "the program closed a socket that never got keys to send with")

// payloads are buffers of one record each.
var payloads = sync.Pool{New: func() any { return new([record.MaxPlaintext]byte) }}

// sendRecords sends each message of the program as one record.
func (a *Association) sendRecords(r *io.LimitedReader) (total int64, err error) {
	b := payloads.Get().(*[record.MaxPlaintext]byte)
	defer payloads.Put(b)
	for total < r.N {
		n, err := a.end.ReadMessage(b[:])
		if n == 0 {
			if err == io.EOF {
				err = nil
			}
			return total, err
		}
		err = a.writeRecord(record.ApplicationData, b[:n])
		clear(b[:n])
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// sendRaw passes bytes of a direction without keys.
func (a *Association) sendRaw(r *io.LimitedReader) (total int64, err error) {
	b := make([]byte, min(record.MaxPlaintext, r.N))
	for r.N > 0 {
		n, err := r.Read(b[:min(int64(len(b)), r.N)])
		if n == 0 {
			if err == io.EOF {
				err = nil
			}
			return total, err
		}
		if _, err := a.carrier.Write(b[:n]); err != nil {
			return total, err
		}
		total += int64(n)
	}
	return total, nil
}

// sendArmed collects the bytes of the record that was armed.
func (a *Association) sendArmed(r *io.LimitedReader) (int64, error) {
	armed := &a.sending.armed
	b := make([]byte, min(int64(armed.left), r.N))
	n, err := r.Read(b)
	if n == 0 {
		if err == io.EOF {
			err = nil
		}
		return 0, err
	}
	armed.got = append(armed.got, b[:n]...)
	if armed.left -= n; armed.left > 0 {
		return int64(n), nil
	}
	next := *armed
	*armed = nextRecord{}
	return int64(n), a.writeRecord(next.typ, next.got)
}

func (a *Association) writeRecord(typ record.ContentType, b []byte) error {
	if c := a.policyConn(); c != nil {
		return c.WriteRecord(typ, b)
	}
	return a.sock.WriteRecord(typ, b)
}

// SendControl sends a control record behind everything that the program wrote so
// far. It does not wait: done tells what came of it.
func (a *Association) SendControl(typ record.ContentType, b []byte) (done <-chan error, err error) {
	if full := a.FullRecord(); len(b) > full {
		return nil, refuse(syscall.EMSGSIZE, "a record holds at most %d bytes", full)
	}
	b = append([]byte(nil), b...)
	return a.announce(1, func() error { return a.writeRecord(typ, b) })
}

// Arm makes one record of the type of the next n bytes that the program writes.
func (a *Association) Arm(typ record.ContentType, n int) (done <-chan error, err error) {
	if full := a.FullRecord(); n < 1 || n > full {
		return nil, refuse(syscall.EINVAL, "a record holds 1 to %d bytes", full)
	}
	return a.behind(func() error {
		if a.sending.armed.left > 0 {
			return refuse(syscall.EBUSY, "the record that was armed before is not written yet")
		}
		a.sending.armed = nextRecord{typ: typ, left: n}
		return nil
	})
}

// SetSendKeys keys what the program writes from now on; the first keys of an
// association that does not pass bytes without keys hold for all that it wrote. k
// is copied.
func (a *Association) SetSendKeys(k record.Keys) (done <-chan error, err error) {
	k = k.Clone()
	a.mu.Lock()
	wait := !a.keyed[aftls.Send] && !a.sending.keying && a.policy != AsLinux
	a.sending.keying = true
	a.sending.seq = k.Seq // until they have their turn
	a.mu.Unlock()
	when := a.behind
	if wait {
		when = a.first
	}
	return when(func() error {
		defer k.Wipe()
		if err := a.sock.SetKeys(aftls.Send, k); err != nil {
			return err
		}
		a.mu.Lock()
		a.keyed[aftls.Send] = true
		adopt := a.adoptable()
		a.mu.Unlock()
		if adopt {
			return a.whilePaused(a.adopt)
		}
		return nil
	})
}

// FullRecord is how many bytes a record of the program holds at most.
func (a *Association) FullRecord() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sending.fullRecord()
}

// SetFullRecord is for what the program writes from now on. It is EBUSY while a
// record is open, where the program says where records end.
func (a *Association) SetFullRecord(n int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.strict {
		if err := a.room(); err != nil {
			return err
		}
		offset, err := a.end.StopHere()
		if err == nil {
			_, err = a.at(len(a.sending.events), event{offset: offset, do: func() error {
				return a.sock.SetMaxPayload(n)
			}})
		}
		if err != nil {
			return err
		}
	} else if c := &a.sending.cuts; c.open {
		w, err := a.end.Written()
		if err == nil && w > c.start {
			err = syscall.EBUSY
		}
		if err != nil {
			return err
		}
	}
	a.sending.full = n
	return nil
}

// Rekey sends a KeyUpdate and asks for one, where traffic secrets are known.
func (a *Association) Rekey() (done <-chan error, err error) {
	c := a.policyConn()
	if c == nil {
		return nil, refuse(syscall.EOPNOTSUPP, "only an association with traffic secrets can rekey by itself")
	}
	return a.behind(func() error { return c.Rekey(true) })
}

// CloseWrite ends the sending direction: the pump calls it when the program has
// ended its writing and all of that is sent.
func (a *Association) CloseWrite() error {
	a.endSending(errEnded)
	err := a.closeWrite()
	if errors.Is(err, syscall.ENOTCONN) {
		return nil // the peer has ended it meanwhile; close(2) does not say so either
	}
	return err
}

func (a *Association) closeWrite() error {
	if c := a.policyConn(); c != nil {
		return c.CloseWrite()
	}
	if a.policy != AsLinux && a.isKeyed(aftls.Send) {
		err := a.sock.WriteRecord(record.AlertRecord, []byte{record.LevelWarning, byte(record.CloseNotify)})
		if err != nil && !errors.Is(err, aftls.ErrShutdown) {
			return err
		}
	}
	return a.carrier.CloseWrite()
}

// Off takes the association out: what the program wrote is sent, the pump stops,
// and the carrier is the program's again. undelivered is data that was opened
// and did not reach the program's descriptor; that is at its end after it.
func (a *Association) Off() (state encoding.BinaryMarshaler, undelivered []byte, err error) {
	done, err := a.behind(func() error { return nil })
	if err == nil {
		err = <-done
	}
	if err != nil {
		return nil, nil, err
	}
	err = a.whilePaused(func() error {
		a.mu.Lock()
		undelivered, a.rest = a.rest, nil
		a.closed = true // await ends, and so does the pump's receiving side
		a.changed.Broadcast()
		a.mu.Unlock()
		a.pump.Stop()
		a.endSending(pump.ErrStopped)
		if c := a.policyConn(); c != nil {
			state, err = c.Detach()
		} else {
			state, err = a.sock.Detach()
		}
		a.end.Finish()
		a.end.CloseClean()
		a.carrier.Release()
		return err
	})
	return state, undelivered, err
}
