package aftls

import (
	"cmp"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/aftls/aftls/internal/kernel"
	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

// kernelSender gives the Sender of package kernel the types that both providers have
// here. Those of the two packages are the same in all but name.
type kernelSender struct{ *kernel.Sender }

func (k kernelSender) Stats() *soft.Stats   { return (*soft.Stats)(k.Sender.Stats()) }
func (k kernelSender) SetGate(g *soft.Gate) { k.Sender.SetGate((*kernel.Gate)(g)) }
func (k kernelSender) Plan(src *soft.Source, limit int64) error {
	size, err := k.Sender.Plan(int(min(limit, turn)))
	if err == nil {
		src.PlanPlain(size)
	}
	return err
}

func (k kernelSender) Commit(src *soft.Source, n int) (int, error) {
	defer src.Drop()
	return k.Sender.Commit(src.Plain(n))
}

type kernelReceiver struct{ *kernel.Receiver }

func (k kernelReceiver) Stats() *soft.Stats   { return (*soft.Stats)(k.Receiver.Stats()) }
func (k kernelReceiver) SetGate(g *soft.Gate) { k.Receiver.SetGate((*kernel.Gate)(g)) }

// sendInKernel gives the sending side, of which nothing is sealed and unsent, to the
// kernel. What own does not have to end is the caller's. wmu is held.
func (s *Socket) sendInKernel(own *soft.Sender, k record.Keys) error {
	records, _ := own.Limits()
	if err := kernel.Limited(k.Version, own.MaxPayload()); err != nil {
		return err
	}
	snd, err := kernel.NewSender(s.ulp, k, records, (*kernel.Stats)(own.Stats()))
	if err != nil {
		return err
	}
	if most := own.MaxPayload(); most < record.MaxPlaintext {
		if err := snd.SetMaxPayload(most); err != nil {
			s.werr = noKernel(err) // the kernel has the key: there is no way back
			return err
		}
	}
	if s.opt.Kernel.ZeroCopy {
		snd.ZeroCopy()
	}
	s.setSender(kernelSender{snd})
	s.regate()
	return nil
}

// receiveInKernel is sendInKernel for the other side: own stands between two
// records. rmu is held.
func (s *Socket) receiveInKernel(own *soft.Receiver, k record.Keys) error {
	r, err := kernel.NewReceiver(s.ulp, k, (*kernel.Stats)(own.Stats()))
	if err != nil {
		return err
	}
	if s.opt.Kernel.ExpectNoPad {
		r.ExpectNoPad()
	}
	s.setReceiver(kernelReceiver{r})
	s.regate()
	return nil
}

// resumeInKernel takes the sides that were in the kernel when the state was
// detached, with their keys as the kernel has them.
func (s *Socket) resumeInKernel(st *State, opt Options) error {
	if st.sendKernel {
		snd, err := kernel.TakeSender(s.ulp, st.send, opt.MaxRecords, cmp.Or(st.maxPayload, record.MaxPlaintext), st.unsent)
		if err != nil {
			return err
		}
		s.setSender(kernelSender{snd})
	}
	if st.recvKernel {
		r, err := kernel.TakeReceiver(s.ulp, st.recv, st.plaintext)
		if err != nil {
			return err
		}
		s.setReceiver(kernelReceiver{r})
	}
	return nil
}

// refresher is a half whose numbers the kernel counts.
type refresher interface{ Refresh() }

// sendFile has the kernel send up to limit bytes of a source that is a file, if it
// has this side. sent is false where the source has to be read. wmu is held.
func (s *Socket) sendFile(from *soft.Source, limit int64) (n int64, sent bool, err error) {
	k, is := s.send.(kernelSender)
	f := from.File()
	if !is || f == nil {
		return 0, false, nil
	}
	if err := s.prepare(); err != nil {
		return 0, false, err
	}
	n, sent, err = k.SendFile(f, limit)
	return n, sent, s.outcome(err)
}

// spliceTurn has the kernel move what a pipe or socket has, up to limit bytes, as one
// turn of ReadFrom. ok is false where the source has to be read. It begins and ends
// without wmu: nobody waits with it for a source that may be silent for ever.
func (s *Socket) spliceTurn(from *soft.Source, x **kernel.Splice, limit int64) (n int64, ok bool, err error) {
	src := from.Stream()
	if src == nil || s.noSplice(x) {
		return 0, false, nil
	}
	for n < limit {
		var size int
		if err := s.locked(func(k kernelSender) error {
			var err error
			for {
				if err = s.prepare(); err != nil {
					return err
				}
				if size, err = k.Sender.Plan(int(min(limit-n, spliceMax))); err == nil {
					return nil
				}
				if err = s.outcome(err); err != nil {
					return err
				}
			}
		}); err != nil {
			return n, true, opError("write", s.carrier, err)
		}
		m, err := (*x).Fill(src, size)
		if err == kernel.ErrNoSplice {
			return n, n > 0, nil
		}
		if err != nil {
			return n, true, err
		}
		var sent int
		err = s.locked(func(k kernelSender) error {
			if err := s.prepareFor(uint64(m/record.MaxPlaintext + 1)); err != nil {
				return err
			}
			var err error
			if sent, err = k.CommitSplice(*x, m); err != nil {
				return s.writeFailed(err)
			}
			return nil
		})
		if n += int64(sent); err != nil {
			return n, true, opError("write", s.carrier, err)
		}
	}
	return n, true, nil
}

// splicer is the writer of a WriteTo: where it is a stream of the system, what the
// kernel has opened goes there through a pipe.
type splicer struct {
	w    io.Writer
	raw  syscall.RawConn
	pipe *kernel.Splice
	not  bool // it has to be written to
}

func (to *splicer) close() {
	if to.pipe != nil {
		to.pipe.Close()
	}
}

// open finds the descriptor and makes the pipe, at the first need.
func (to *splicer) open() bool {
	if to.not || to.pipe != nil {
		return !to.not
	}
	to.not = true
	var err error
	switch w := to.w.(type) {
	case *net.TCPConn:
		to.raw, err = w.SyscallConn()
	case *net.UnixConn:
		if w.LocalAddr().Network() != "unix" { // messages have bounds
			return false
		}
		to.raw, err = w.SyscallConn()
	case *os.File:
		if st, serr := w.Stat(); serr != nil || st.Mode()&os.ModeNamedPipe == 0 {
			return false
		}
		to.raw, err = w.SyscallConn()
	default:
		return false
	}
	if err == nil {
		to.pipe = kernel.NewSpliceTo()
		to.not = to.pipe == nil
	}
	return !to.not
}

// spliceTo moves what has come to the writer, if the kernel has this side. ok is false
// where it has to be read. No lock is kept while the writer is waited for.
func (s *Socket) spliceTo(to *splicer, control, data func() error) (n int, ok bool, err error) {
	n, ok, err = s.trySplice(to, control, data)
	if n == 0 {
		return 0, ok, err
	}
	wrote, werr := to.pipe.Drain(to.w, to.raw, n)
	switch {
	case werr == kernel.ErrNoSplice:
		to.not = true
	case werr != nil:
		err = &writerError{werr}
	case wrote < n:
		err = &writerError{io.ErrShortWrite}
	}
	return wrote, true, err
}

func (s *Socket) trySplice(to *splicer, control, data func() error) (n int, ok bool, err error) {
	s.rmu.Lock()
	defer s.unlockRead()
	if err := s.readable(); err != nil {
		return 0, true, err
	}
	k, is := s.recv.(kernelReceiver)
	if !is || !to.open() {
		return 0, false, nil
	}
	n, err = k.TrySplice(to.pipe, spliceToMax)
	switch {
	case err == kernel.ErrNoSplice && n == 0:
		return 0, false, nil
	case err == kernel.ErrNoSplice:
		err = nil
	case err != nil && n == 0:
		err = s.readFailed(err)
	case err != nil:
		err = nil // it is sticky, and comes with the next read
	}
	n, err = came(n, err, control, data)
	return n, true, err
}

// spliceToMax is how many bytes wait for the writer of a WriteTo at most.
const spliceToMax = 16 * record.MaxPlaintext

// spliceMax is how many bytes one splice takes from its source: what a pipe holds.
const spliceMax = 64 << 10

// noSplice makes the pipe of a ReadFrom, and reports whether there is none.
func (s *Socket) noSplice(x **kernel.Splice) bool {
	if *x == nil {
		s.locked(func(k kernelSender) error {
			*x = kernel.NewSplice(k.Sender)
			return nil
		})
	}
	return *x == nil
}

// locked calls f under wmu if the kernel has the sending side.
func (s *Socket) locked(f func(kernelSender) error) error {
	if err := s.lockWrite(); err != nil {
		return err
	}
	defer s.unlockWrite()
	k, ok := s.send.(kernelSender)
	if !ok {
		return nil
	}
	return f(k)
}

func isKernel(half any) bool {
	_, ok := half.(refresher)
	return ok
}
