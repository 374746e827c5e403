package kernel

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// ErrNoSplice says that a source has to be read as any other.
var ErrNoSplice = errors.New("kernel: no splice")

// Splice moves bytes from a pipe or socket to a Sender, without bringing them into
// this process. They pass through a pipe of its own, which is empty between two
// turns. One goroutine at a time.
type Splice struct {
	pipe *pipe
	sys  *calls

	// Of the call under way, kept so that it does not allocate.
	left, took int
	err        error
	fill       func(fd uintptr) bool
	drain      func(fd uintptr) bool
}

// NewSplice returns a Splice to s, or nil where it must not be used: with a gate, and
// where the socket may be one that blocks.
func NewSplice(s *Sender) *Splice {
	if s.blocks || s.shared || s.gate.Load() != nil {
		return nil
	}
	p, err := newPipe()
	if err != nil {
		return nil
	}
	x := &Splice{pipe: p, sys: s.sys}
	x.fill, x.drain = x.tryFill, x.tryDrain
	return x
}

// NewSpliceTo returns a Splice for TrySplice and Drain.
func NewSpliceTo() *Splice {
	p, err := newPipe()
	if err != nil {
		return nil
	}
	x := &Splice{pipe: p, sys: system}
	x.drain = x.tryDrain
	return x
}

// Drain gives w the n bytes that x holds. to is its descriptor. The error is
// [ErrNoSplice] where w does not take them so: then w was given all n, with the help of
// Write, and does not take the next ones either.
func (x *Splice) Drain(w io.Writer, to syscall.RawConn, n int) (int, error) {
	x.left, x.took, x.err = n, 0, nil
	err := to.Write(x.drain)
	if err == nil {
		err = x.err
	}
	switch errno := errnoOf(err); {
	case err == nil:
		return n, nil
	case errno != 0 && (x.took > 0 || !sourceRefused(errno)):
		return x.took, os.NewSyscallError("splice", errno)
	case timeout(err) || errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed):
		return x.took, err
	}
	// Nothing waits for this descriptor, or the kernel does not splice to it.
	b := make([]byte, n-x.took)
	if err := x.pipe.read(b); err != nil {
		return x.took, err
	}
	m, err := w.Write(b)
	if err == nil {
		err = ErrNoSplice
	}
	return x.took + m, err
}

// Close gives the pipe back.
func (x *Splice) Close() { x.pipe.close() }

// Fill waits until src has something and takes up to max bytes of it. The error is
// io.EOF at its end, and [ErrNoSplice] for a source that is not for splice(2).
func (x *Splice) Fill(src syscall.RawConn, max int) (n int, err error) {
	x.left, x.took, x.err = max, 0, nil
	switch err := src.Read(x.fill); {
	case err == nil:
	case timeout(err) || errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed):
		return 0, err
	default: // it has nothing now, and nothing waits for this descriptor: it blocks
		return 0, ErrNoSplice
	}
	switch {
	case x.err != nil && sourceRefused(x.err):
		return 0, ErrNoSplice
	case x.err != nil:
		return 0, os.NewSyscallError("splice", x.err)
	case x.took == 0:
		return 0, io.EOF
	}
	return x.took, nil
}

func (x *Splice) tryFill(fd uintptr) bool {
	for {
		n, err := x.sys.splice(int(fd), x.pipe.w, x.left, unix.SPLICE_F_NONBLOCK)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		x.took, x.err = max(n, 0), err
		return true
	}
}

func (x *Splice) tryDrain(fd uintptr) bool {
	for x.left > 0 {
		n, err := x.sys.splice(x.pipe.r, int(fd), x.left, unix.SPLICE_F_NONBLOCK)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return false
		case err == nil && n == 0:
			x.err = io.ErrNoProgress
			return true
		case err != nil:
			x.err = err
			return true
		default:
			x.left -= n
			x.took += n
		}
	}
	return true
}

// CommitSplice sends the n bytes that x took from its source. They have left that for
// good: whatever the deadline says they are committed, and what the kernel does not
// take now is kept. The errors are those of Commit.
func (s *Sender) CommitSplice(x *Splice, n int) (int, error) {
	if s.shared || s.gate.Load() != nil { // since x was made
		b := make([]byte, n)
		if err := x.pipe.read(b); err != nil {
			return 0, err
		}
		return s.Commit(b)
	}
	if err := s.Flush(); err != nil {
		if !timeout(err) {
			return 0, err
		}
		return s.keep(x, n, err)
	}
	x.left, x.took, x.err = n, 0, nil
	err := unwrapped(s.raw.Write(x.drain))
	if err == nil {
		err = x.err
	}
	s.given += uint64(x.took)
	s.sent(x.took)
	switch {
	case timeout(err):
		s.push()
		m, err := s.keep(x, x.left, err)
		return x.took + m, err
	case err != nil:
		return x.took, writeError("splice", err)
	}
	return n, nil
}

// keep brings n bytes out of the pipe into the queue.
func (s *Sender) keep(x *Splice, n int, why error) (int, error) {
	b := make([]byte, n)
	if err := x.pipe.read(b); err != nil {
		return 0, err
	}
	s.stats.Bytes.Add(uint64(n))
	for len(b) > 0 {
		p := b[:min(len(b), record.MaxPlaintext)]
		s.estimate++
		s.queue, s.queued = append(s.queue, committed{typ: record.ApplicationData, b: p}), s.queued+len(p)
		b = b[len(p):]
	}
	return n, why
}
