package aftls

import (
	"fmt"
	"net"
	"time"

	"github.com/aftls/aftls/internal/kernel"
	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

// sender is the sending half of an association, as its provider does it: a
// *soft.Sender or a kernelSender.
type sender interface {
	SetKeys(record.Keys) error
	Keys() (record.Keys, error)
	Rekey() error
	CanRekey() bool
	Left() uint64
	Limits() (maxRecords uint64, padding int)
	MaxPayload() int
	SetMaxPayload(int) error

	Write(v *[][]byte, limit int) (int, error)
	WriteOne(p []byte, limit int) (int, error)
	Plan(src *soft.Source, limit int64) error
	Commit(src *soft.Source, n int) (int, error)
	Seal(record.ContentType, []byte) error
	Pending() int
	Flush() error
	TryFlush() bool
	TryFlushLast()
	Immediate() bool

	SetDeadline(time.Time)
	Expired() bool
	SetGate(*soft.Gate)
	Stats() *soft.Stats
	Unsent() []byte
	Close()
}

// receiver is the receiving half: a *soft.Receiver or a kernelReceiver.
type receiver interface {
	SetKeys(record.Keys) error
	Keys() (record.Keys, error)
	Rekey() error

	Read(p []byte) (int, error)
	TryRead(p []byte) (int, error)
	Next() error
	Await() error
	Plain() []byte
	Take(n int)
	Control() (typ record.ContentType, payload []byte, ok bool)
	Consume(n int)
	PutBack(record.ContentType, []byte)

	SetGate(*soft.Gate)
	Stats() *soft.Stats
	Unread() (ciphertext, plaintext []byte)
	Close(error)
}

// attachKernel prepares a carrier for the kernel, or says why that cannot be. It
// comes before the handshake: the peer's FIN may be right behind it, and would be too
// early for it.
func attachKernel(carrier net.Conn, opt Options) (*kernel.Socket, error) {
	if opt.Provider == Soft {
		return nil, errSoft
	}
	return kernel.Attach(carrier, opt.Provider == Kernel || opt.RequireKernel)
}

var (
	errSoft    = &kernel.Unavailable{Reason: "Options.Provider asks for soft"}
	errPadding = &kernel.Unavailable{Reason: "the kernel does not pad records, and Options.Padding asks for it"}
	errFollow  = &kernel.Unavailable{Reason: "this kernel cannot follow a KeyUpdate, which would end the connection; kernels since 6.14 can, and Options.Provider Kernel takes the risk"}
	errLimit   = &kernel.Unavailable{Reason: "this kernel cannot rekey, and Options.MaxRecords asks for it; kernels since 6.14 can"}
	errResumed = &kernel.Unavailable{Reason: "the association was in soft when it was detached: MoveToKernel moves it"}
	errMoving  = &kernel.Unavailable{Reason: "records were read before the kernel could have them: it gets the direction behind them"}
)

// notKernel says why a direction with these keys is not for the kernel, or nil.
func (s *Socket) notKernel(d Direction, k record.Keys) error {
	switch {
	case s.ulp == nil:
		return s.noULP
	case d == Send && s.opt.Padding > 0 && k.Version == record.TLS13:
		return errPadding
	case s.opt.Provider == Kernel || k.Version != record.TLS13 || kernel.CanRekey():
		return nil
	case d == Receive:
		return errFollow
	case s.opt.MaxRecords != 0:
		return errLimit
	}
	return nil
}

// noKernel is the error where RequireKernel makes a fallback one.
func noKernel(why error) error { return fmt.Errorf("%w: %w", ErrNoKernel, why) }

// keySend keys the sending side, whose provider is chosen with its first keys. wmu
// is held, or nobody else has the socket.
func (s *Socket) keySend(k record.Keys) error {
	own, ok := s.send.(*soft.Sender)
	if !ok || own.Stats().Version.Load() != 0 {
		return providerError(s.send.SetKeys(k))
	}
	why := s.notKernel(Send, k)
	if why == nil {
		if why = s.sendInKernel(own, k); why == nil {
			return nil
		}
	}
	if s.opt.RequireKernel {
		return noKernel(why)
	}
	s.setWhy(Send, why)
	return own.SetKeys(k)
}

// keyReceive is keySend for the other side, under rmu. Where something was read from
// the carrier already, soft opens that first.
func (s *Socket) keyReceive(k record.Keys) error {
	own, ok := s.recv.(*soft.Receiver)
	if !ok || own.Stats().Version.Load() != 0 {
		return providerError(s.recv.SetKeys(k))
	}
	why := s.notKernel(Receive, k)
	switch {
	case why != nil:
	case !own.Boundary():
		why = errMoving
		s.moving.Store(true)
	default:
		if why = s.receiveInKernel(own, k); why == nil {
			return nil
		}
	}
	// With Auto the receiving side is the kernel's only where that is safe.
	if s.opt.RequireKernel && why != errMoving && (s.opt.Provider == Kernel || why != errFollow) {
		return noKernel(why)
	}
	s.setWhy(Receive, why)
	return own.SetKeys(k)
}

// move gives the receiving side to the kernel if what soft has read is delivered,
// and otherwise sees to it that soft reads no further than to the end of a record.
// rmu is held.
func (s *Socket) move() error {
	own, ok := s.recv.(*soft.Receiver)
	if !ok {
		s.moving.Store(false)
		return nil
	}
	if own.SetExact(true); !own.Boundary() {
		return nil
	}
	s.moving.Store(false)
	k, err := own.Keys()
	if err == nil {
		defer k.Wipe()
		err = s.receiveInKernel(own, k)
	}
	if err == nil {
		own.Close(nil)
		return nil
	}
	own.SetExact(false)
	s.setWhy(Receive, err)
	if s.opt.RequireKernel {
		s.rerr = noKernel(err)
		return s.rerr
	}
	return nil
}

// MoveToKernel moves the directions of the connection that are in soft to the
// kernel, while it is read and written. Sending is moved when it returns; receiving
// moves as it is read, behind what was taken from the carrier already, which is never
// more than a batch of 16 records; Info tells. With TLS 1.3 the kernel should be one
// that can rekey, since 6.14: with an older one a KeyUpdate of the peer ends the
// connection.
//
// There is no way back: a Linux TLS socket stays one. The error is [ErrNoKernel] with
// the reason; then the connection goes on as it was.
func (c *Conn) MoveToKernel() error {
	if c.pass != nil {
		return c.pass.opError("move", c.pass.unavailable())
	}
	return opError("move", c.s.carrier, c.s.moveToKernel())
}

func (s *Socket) moveToKernel() error {
	if err := s.lockWrite(); err != nil {
		return err
	}
	defer s.unlockWrite()
	if s.ulp == nil {
		ulp, err := kernel.Attach(s.carrier, true)
		if err != nil {
			return noKernel(err)
		}
		s.ulp = ulp
	}
	if own, ok := s.send.(*soft.Sender); ok {
		if _, padding := own.Limits(); padding > 0 {
			return noKernel(errPadding)
		}
		if err := own.Flush(); err != nil {
			return s.writeFailed(err)
		}
		k, err := own.Keys()
		if err != nil {
			return ErrNoKeys
		}
		defer k.Wipe()
		if err := s.sendInKernel(own, k); err != nil {
			return noKernel(err)
		}
		own.Close()
	}
	s.moving.Store(true)
	return nil
}

// setWhy notes why a direction is not in the kernel.
func (s *Socket) setWhy(d Direction, why error) {
	s.dmu.Lock()
	defer s.dmu.Unlock()
	s.why[d] = why
}

// setSender changes the provider of the sending side. wmu is held.
func (s *Socket) setSender(snd sender) {
	s.dmu.Lock()
	defer s.dmu.Unlock()
	s.send, s.why[Send] = snd, nil
	snd.SetDeadline(s.deadline)
}

// setReceiver changes the provider of the receiving side. rmu is held.
func (s *Socket) setReceiver(r receiver) {
	s.dmu.Lock()
	defer s.dmu.Unlock()
	s.recv, s.why[Receive] = r, nil
}

// halves are both sides, for those who hold no lock of theirs. What they may call
// is what may be called at any time.
func (s *Socket) halves() (sender, receiver) {
	s.dmu.Lock()
	defer s.dmu.Unlock()
	return s.send, s.recv
}

// providerError gives an error of a provider that SetKeys and WriteRecord can return
// its name here.
func providerError(err error) error {
	switch err {
	case kernel.ErrNoRekey:
		return ErrNoRekey
	case kernel.ErrEmpty:
		return ErrEmptyRecord
	}
	return err
}
