package aftls

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/aftls/aftls/internal/kernel"
	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

// lockWrite takes wmu if the sending side still works. Otherwise it returns why
// not, and wmu is not held.
func (s *Socket) lockWrite() error {
	if err := s.check(); err != nil {
		return err // Close may hold wmu for seconds
	}
	s.wmu.Lock()
	s.writing.Store(true)
	if err := s.writable(); err != nil {
		s.unlockWrite()
		return err
	}
	return nil
}

func (s *Socket) writable() error {
	if err := s.check(); err != nil {
		return err
	}
	if s.werr != nil {
		return s.werr
	}
	if s.shut {
		return ErrShutdown
	}
	return nil
}

// unlockWrite gives up wmu and sends the alert that a reader owes the peer:
// one that found wmu taken leaves it to the holder.
func (s *Socket) unlockWrite() {
	for {
		if a := s.owed.Swap(0); a != 0 && s.life.Load() == alive && s.werr == nil && !s.shut {
			s.shut = true
			if s.send.Seal(record.AlertRecord, []byte{record.LevelFatal, byte(a - 1)}) == nil && !s.send.TryFlush() {
				// Nobody may wait here, and the carrier might.
				s.writing.Store(true)
				go s.lastFlush()
				return
			}
		}
		s.writing.Store(false)
		s.wmu.Unlock()
		if s.owed.Load() == 0 || !s.wmu.TryLock() {
			return
		}
	}
}

// lastFlush sends the last bytes of a dead association. It holds wmu.
func (s *Socket) lastFlush() {
	s.dmu.Lock()
	if s.life.Load() == alive {
		s.carrier.SetWriteDeadline(time.Now().Add(closeTimeout))
	}
	s.dmu.Unlock()
	s.send.Flush()
	s.writing.Store(false)
	s.wmu.Unlock()
}

// prepare does the duties of a Conn. It runs in front of every turn.
func (s *Socket) prepare() error { return s.prepareFor(1) }

// prepareFor is prepare for data that is cut already.
func (s *Socket) prepareFor(records uint64) error {
	if err := s.writable(); err != nil {
		return err
	}
	if s.duties != nil {
		if err := s.duties(records); err != nil {
			return s.writeFailed(err)
		}
	}
	return nil
}

// writeFailed gives an error of the sender its meaning.
func (s *Socket) writeFailed(err error) error {
	if s.life.Load() != alive {
		return s.check()
	}
	switch {
	case err == soft.ErrNoKeys, err == kernel.ErrNoKeys:
		return ErrNoKeys
	case err == kernel.ErrEmpty:
		return ErrEmptyRecord
	case err == record.ErrTooLarge:
		return ErrTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return os.ErrDeadlineExceeded
	case errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	case err == record.ErrKeyLimit, err == ErrKeyLimit:
		// Not sticky: it holds for data by itself, and what ends the
		// connection, for which numbers are kept back, can still be sent.
		return ErrKeyLimit
	default:
		if err, ok := s.killed(err); ok {
			return err
		}
		if e, ok := errors.AsType[*record.Error](err); ok {
			// The kernel tells of what it received whom it sees first, and once.
			err := s.refuse(e)
			s.dmu.Lock()
			if s.life.Load() == alive {
				s.carrier.SetReadDeadline(time.Unix(1, 0))
			}
			s.dmu.Unlock()
			return err
		}
		s.werr = s.fails(&CarrierError{err})
	}
	return s.werr
}

// Write seals p in records of up to 16384 bytes (see [Socket.SetMaxPayload]) and sends them, up to 16 with
// one system call. n counts what was sealed: it is committed to be sent. p is
// not kept. Writes do not mix.
func (s *Socket) Write(p []byte) (n int, err error) {
	if err := s.lockWrite(); err != nil {
		return 0, opError("write", s.carrier, err)
	}
	defer s.unlockWrite()
	for {
		if err = s.prepare(); err != nil || len(p) == 0 {
			break
		}
		var m int
		m, err = s.send.WriteOne(p, turn)
		n, p = n+m, p[m:]
		if err = s.outcome(err); err != nil {
			break
		}
		if len(p) == 0 {
			break
		}
	}
	return n, opError("write", s.carrier, err)
}

// outcome is nil where the next prepare can mend what stopped a write: a key
// that is used up, if it can be replaced.
func (s *Socket) outcome(err error) error {
	if err == nil || err == record.ErrKeyLimit && s.duties != nil {
		return nil
	}
	return s.writeFailed(err)
}

// WriteBuffers is Write for several slices, packed into common records. Like
// net.Buffers.WriteTo, which must not be used here as it makes a record of
// every slice, it takes from v what it wrote.
func (s *Socket) WriteBuffers(v *net.Buffers) (n int64, err error) {
	if err := s.lockWrite(); err != nil {
		return 0, opError("write", s.carrier, err)
	}
	defer s.unlockWrite()
	for {
		if err = s.prepare(); err != nil {
			break
		}
		var m int
		m, err = s.send.Write((*[][]byte)(v), turn)
		n += int64(m)
		if m == 0 && err == nil {
			*v = nil // only empty slices were left
		}
		if err = s.outcome(err); err != nil || len(*v) == 0 {
			break
		}
	}
	return n, opError("write", s.carrier, err)
}

// WriteRecord sends one record of any type, in order with the data around it.
// Its payload, as long as a record may be, goes into one record; for
// ApplicationData too. If os.ErrDeadlineExceeded comes while it is sent the record is committed
// all the same and goes out first in the next call; Info tells whether it was
// counted. A KeyUpdate has to be followed by SetKeys. After a close_notify alert
// every write is [ErrShutdown].
func (s *Socket) WriteRecord(typ record.ContentType, p []byte) error {
	if err := s.lockWrite(); err != nil {
		return opError("write", s.carrier, err)
	}
	defer s.unlockWrite()
	return opError("write", s.carrier, s.writeRecord(typ, p))
}

func (s *Socket) writeRecord(typ record.ContentType, p []byte) error {
	if err := s.prepare(); err != nil && (err != ErrKeyLimit || typ != record.AlertRecord) {
		return err
	}
	if s.send.Expired() {
		return os.ErrDeadlineExceeded
	}
	if typ == record.ApplicationData && s.send.Left() == 0 {
		return s.writeFailed(record.ErrKeyLimit)
	}
	if err := s.send.Flush(); err != nil { // so that no more than a batch waits
		return s.writeFailed(err)
	}
	if err := s.send.Seal(typ, p); err != nil {
		return s.writeFailed(err)
	}
	if typ == record.AlertRecord && len(p) == 2 && record.Alert(p[1]) == record.CloseNotify {
		s.shut = true
	}
	if err := s.send.Flush(); err != nil {
		return s.writeFailed(err)
	}
	return nil
}

// ReadFrom sends what src holds, until it ends. Regular files are read straight
// into the records, up to 16 of them at once; what a pipe or a connection has
// ready is sent before more is waited for. n counts what was sealed, and where
// src is a regular file its offset agrees with n. An error of src is returned
// as it is. Other writes may come between, at the latest after 1 MiB.
func (s *Socket) ReadFrom(src io.Reader) (n int64, err error) {
	left := int64(1<<63 - 1)
	lr, limited := src.(*io.LimitedReader)
	if limited {
		left, src = lr.N, lr.R
	}
	from := soft.NewSource(src)
	defer from.Drop()
	var pipe *kernel.Splice
	for spliced := true; left > 0 && err == nil; {
		var m int64
		if spliced {
			m, spliced, err = s.spliceTurn(from, &pipe, min(left, turn))
		} else {
			m, err = s.readFromTurn(from, left)
		}
		n, left = n+m, left-m
	}
	if pipe != nil {
		pipe.Close()
	}
	if limited {
		lr.N = left
	}
	return n, noEOF(err)
}

func (s *Socket) readFromTurn(from *soft.Source, left int64) (n int64, err error) {
	if err := s.lockWrite(); err != nil {
		return 0, opError("write", s.carrier, err)
	}
	locked := true
	defer func() {
		if locked {
			s.unlockWrite()
		}
	}()
	for n < min(left, turn) {
		if m, sent, err := s.sendFile(from, min(left, turn)-n); sent || err != nil {
			if n += m; err != nil {
				return n, opError("write", s.carrier, err)
			}
			continue
		}
		if err := s.plan(from, left-n); err != nil {
			return n, opError("write", s.carrier, err)
		}
		var m int
		if !from.Waits() {
			m, err = from.Read()
		} else {
			// The source may be silent for ever: nobody waits for it with us.
			s.unlockWrite()
			locked = false
			if m, err = from.Read(); err != nil {
				return n, err
			}
			if err := s.lockWrite(); err != nil {
				return n, opError("write", s.carrier, err)
			}
			locked = true
			if err := s.prepareFor(from.Records(m)); err != nil {
				return n, opError("write", s.carrier, err)
			}
		}
		if err != nil {
			return n, err
		}
		sealed, err := s.send.Commit(from, m)
		n += int64(sealed)
		if err != nil {
			return n, opError("write", s.carrier, s.writeFailed(err))
		}
	}
	return n, nil
}

// plan prepares the next batch. What an earlier call left unsent goes first.
func (s *Socket) plan(from *soft.Source, left int64) error {
	for {
		if err := s.prepare(); err != nil {
			return err
		}
		err := s.send.Plan(from, left)
		if err == nil {
			return nil
		}
		if err = s.outcome(err); err != nil {
			return err
		}
	}
}

// closeWrite ends the sending direction with close_notify.
func (s *Socket) closeWrite() error {
	if err := s.check(); err != nil {
		return err
	}
	s.wmu.Lock()
	s.writing.Store(true)
	defer s.unlockWrite()
	if err := s.writable(); err != nil && err != ErrShutdown {
		return err
	}
	if !s.shut {
		if err := s.prepare(); err != nil && err != ErrKeyLimit {
			return err
		}
		if err := s.send.Seal(record.AlertRecord, []byte{record.LevelWarning, byte(record.CloseNotify)}); err != nil {
			return s.writeFailed(err)
		}
		s.shut = true
	}
	half, ok := s.carrier.(interface{ CloseWrite() error })
	if ok {
		s.send.TryFlushLast()
	}
	if err := s.send.Flush(); err != nil {
		return s.writeFailed(err)
	}
	if ok {
		if err := s.settle(time.Time{}); err != nil {
			return s.writeFailed(err)
		}
		// A peer that has closed altogether left no direction to end.
		if err := half.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
			return s.writeFailed(err)
		}
	}
	return nil
}

// settle waits until TCP has all that the kernel took from us: records that the kernel
// has sealed and TCP had no room for would be lost behind a FIN. It waits until end, or
// without one until the deadline for writing.
func (s *Socket) settle(end time.Time) error {
	k, ok := s.send.(interface{ Settled() bool })
	if !ok {
		return nil
	}
	for step := time.Millisecond; !k.Settled(); step = min(2*step, maxSettle) {
		switch {
		case !end.IsZero():
			if time.Now().After(end) {
				return nil
			}
		case s.life.Load() != alive:
			return net.ErrClosed
		case s.send.Expired():
			return os.ErrDeadlineExceeded
		}
		time.Sleep(step) // the kernel has no event for this
	}
	return nil
}

// maxSettle is the longest step of settle.
const maxSettle = 50 * time.Millisecond

// Close ends the socket at once for every other call, sends what is committed,
// and closes the carrier. It takes at most 5 seconds. A Write under way is
// interrupted. No close_notify is sent: the peer sees a truncated stream,
// unless the caller wrote the alert before.
func (s *Socket) Close() error {
	return opError("close", s.carrier, s.close(nil))
}

// farewell sends what is committed, and last behind it. Mostly the carrier takes
// it at once, and no timer is needed.
func (s *Socket) farewell(last func()) {
	untimed := s.send.Pending() == 0
	if !untimed {
		s.carrier.SetWriteDeadline(time.Now().Add(closeTimeout))
	}
	if last != nil && !s.shut {
		last() // does not block while nothing else is pending
	}
	s.send.TryFlushLast()
	if s.send.Pending() > 0 && untimed {
		s.carrier.SetWriteDeadline(time.Now().Add(closeTimeout))
	}
	s.send.Flush()
	if s.shared.Load() {
		return // the stream is not ours to end
	}
	s.settle(time.Now().Add(closeTimeout))
	// Closing a socket in which something is unread resets it, and drops what
	// still waits for the FIN: so that goes first.
	if half, ok := s.carrier.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

// close is Close; last seals what is to go out behind everything else.
func (s *Socket) close(last func()) error {
	if !s.life.CompareAndSwap(alive, closed) {
		if s.life.Load() == detached {
			return nil
		}
		return net.ErrClosed
	}
	s.endTap()
	if s.rmu.TryLock() {
		s.unlockRead() // and the receiver is closed
	} else {
		s.dmu.Lock()
		s.carrier.SetReadDeadline(time.Unix(1, 0))
		s.dmu.Unlock()
	}
	var err error
	idle := s.wmu.TryLock()
	if !idle && !s.writing.Load() {
		s.wmu.Lock() // a reader has it, and does not block
		idle = true
	}
	if idle {
		if s.werr == nil {
			if s.dead.Load() == nil {
				s.farewell(last)
			} else {
				s.send.TryFlush() // the alert, if it still fits
			}
		}
		err = s.carrier.Close()
	} else {
		err = s.carrier.Close() // which interrupts the Write
		s.wmu.Lock()
	}
	s.send.Close()
	s.wmu.Unlock()
	if s.rmu.TryLock() {
		s.unlockRead()
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return &CarrierError{err}
	}
	return nil
}
