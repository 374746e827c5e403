package aftls

import (
	"errors"
	"io"
	"net"
	"os"

	"github.com/aftls/aftls/internal/kernel"
	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

// Read reads application data into p: from as many records as are there and
// fit, waiting for the first only. p is scratch beyond n. In front of a control
// record it returns n = 0 and [ErrControl], until ReadRecord has taken it.
func (s *Socket) Read(p []byte) (n int, err error) {
	s.rmu.Lock()
	defer s.unlockRead()
	n, err = s.read(p)
	return n, opError("read", s.carrier, err)
}

func (s *Socket) read(p []byte) (int, error) {
	if err := s.readable(); err != nil {
		return 0, err
	}
	n, err := s.recv.Read(p)
	if err != nil {
		err = s.readFailed(err)
	}
	return n, err
}

// readable says whether the receiving side works, in front of every read.
func (s *Socket) readable() error {
	if err := s.check(); err != nil {
		return err
	}
	if s.rerr == nil && s.moving.Load() {
		return s.move()
	}
	return s.rerr
}

// readFailed gives an error of the receiver its meaning.
func (s *Socket) readFailed(err error) error {
	if life := s.life.Load(); life != alive {
		return s.check()
	}
	switch err {
	case soft.ErrControl, kernel.ErrControl:
		return ErrControl
	case soft.ErrNoKeys, kernel.ErrNoKeys:
		return ErrNoKeys
	case io.EOF:
		if s.ended.Load() {
			s.rerr = io.EOF
		} else {
			s.rerr = s.fails(&TruncatedError{})
		}
		return s.rerr
	case io.ErrUnexpectedEOF:
		s.rerr = s.fails(&TruncatedError{InRecord: true})
		return s.rerr
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if dead := s.dead.Load(); dead != nil { // and the reader was woken for it
			return *dead
		}
		return os.ErrDeadlineExceeded
	}
	if errors.Is(err, net.ErrClosed) {
		return net.ErrClosed
	}
	if err, ok := s.killed(err); ok {
		return err
	}
	if e, ok := errors.AsType[*record.Error](err); ok {
		return s.refuse(e)
	}
	failed := s.fails(&CarrierError{err})
	if send, _ := s.halves(); isKernel(send) {
		// The kernel told it once: the next write may look as if it went well.
		s.dead.CompareAndSwap(nil, &failed)
	}
	s.rerr = failed
	return s.rerr
}

// ReadRecord reads one record, or the rest of one that a short p left: its type
// and payload. Control records are never merged; data of one record at a time
// is returned as ApplicationData.
func (s *Socket) ReadRecord(p []byte) (typ record.ContentType, n int, err error) {
	s.rmu.Lock()
	defer s.unlockRead()
	if err = s.readable(); err == nil {
		typ, n, err = s.readRecord(p)
	}
	return typ, n, opError("read", s.carrier, err)
}

func (s *Socket) readRecord(p []byte) (typ record.ContentType, n int, err error) {
	if err := s.recv.Next(); err != nil {
		return 0, 0, s.readFailed(err)
	}
	if typ, b, ok := s.recv.Control(); ok {
		if typ == record.AlertRecord && len(b) == 2 && record.Alert(b[1]) == record.CloseNotify {
			s.ended.Store(true)
		}
		n = copy(p, b)
		s.recv.Consume(n)
		return typ, n, nil
	}
	n = copy(p, s.recv.Plain())
	s.recv.Take(n)
	return record.ApplicationData, n, nil
}

// WaitRead waits until Read or ReadRecord would not block. Meanwhile it holds
// no buffer.
func (s *Socket) WaitRead() error {
	s.rmu.Lock()
	defer s.unlockRead()
	return opError("read", s.carrier, s.waitRead())
}

func (s *Socket) waitRead() error {
	if err := s.readable(); err != nil {
		return err
	}
	wait := s.recv.Next
	if isKernel(s.recv) { // it need not take anything for that
		wait = s.recv.Await
	}
	if err := wait(); err != nil {
		return s.readFailed(err)
	}
	return nil
}

// WriteTo writes application data to w until the stream ends or a control
// record is next, for which the error is [ErrControl]. Data that was read when w
// fails is lost. Where the kernel has the receiving side and w is a *net.TCPConn, a
// *net.UnixConn that is a stream, or an *os.File that is a pipe, data goes there by
// splice(2) and does not come into this process; two more descriptors are open
// meanwhile.
func (s *Socket) WriteTo(w io.Writer) (n int64, err error) {
	n, err = s.writeTo(w, func() error { return ErrControl }, func() error { return nil })
	return n, opErrorOf("read", s, err)
}

// writeTo is WriteTo; control is called at a control record, and data behind
// every read that brought some, both under rmu. No lock is kept while w is
// written to: w may be slow for ever. No buffer is kept while nothing comes.
func (s *Socket) writeTo(w io.Writer, control, data func() error) (n int64, err error) {
	to := splicer{w: w}
	defer to.close()
	for {
		if err := s.await(); err != nil {
			return n, err
		}
		if m, ok, err := s.spliceTo(&to, control, data); ok {
			if n += int64(m); err != nil {
				return n, err
			}
			continue
		}
		b := soft.Lend()
		m, rerr := s.tryRead(b, control, data)
		var wrote int
		if m > 0 {
			wrote, err = w.Write(b[:m])
			n += int64(wrote)
		}
		soft.Return(b)
		switch {
		case err != nil:
			return n, &writerError{err}
		case wrote < m:
			return n, &writerError{io.ErrShortWrite}
		case rerr != nil:
			return n, rerr
		}
	}
}

// writerError is one of the writer that a WriteTo has, which gets it as it is.
type writerError struct{ err error }

func (e *writerError) Error() string { return e.err.Error() }

// opErrorOf gives what writeTo returns the form of its callers.
func opErrorOf(op string, s *Socket, err error) error {
	if e, ok := err.(*writerError); ok {
		return e.err
	}
	return opError(op, s.carrier, noEOF(err))
}

func (s *Socket) await() error {
	s.rmu.Lock()
	defer s.unlockRead()
	if err := s.readable(); err != nil {
		return err
	}
	if err := s.recv.Await(); err != nil {
		return s.readFailed(err)
	}
	return nil
}

func (s *Socket) tryRead(b []byte, control, data func() error) (n int, err error) {
	s.rmu.Lock()
	defer s.unlockRead()
	if err := s.readable(); err != nil {
		return 0, err
	}
	if n, err = s.recv.TryRead(b); err != nil {
		err = s.readFailed(err)
	}
	return came(n, err, control, data)
}

// came does what follows a read for writeTo.
func came(n int, err error, control, data func() error) (int, error) {
	switch {
	case n > 0:
		err = data()
	case err == ErrControl:
		err = control()
	}
	if err != nil && err != io.EOF {
		n = 0
	}
	return n, err
}

func noEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// unlockRead gives up rmu. Whoever holds it while Close runs closes the
// receiver on the way out.
func (s *Socket) unlockRead() {
	for {
		if s.life.Load() == closed {
			s.recv.Close(net.ErrClosed)
		}
		over := s.life.Load()
		s.rmu.Unlock()
		if s.life.Load() == over || !s.rmu.TryLock() {
			return
		}
	}
}
