package pump

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// turn is how many bytes of the program are sealed before anybody else who wants
// to send gets a chance.
const turn = 1 << 20

// Records is a record endpoint: what a TLS socket or connection is. One
// goroutine calls ReadFrom and CloseWrite, one WriteTo, and Close may come at any
// time.
type Records interface {
	// ReadFrom sends what r has; r never waits (see [End.ReadBuffers]).
	io.ReaderFrom

	// WriteTo writes what comes to w until the peer's clean end, which is the
	// nil error.
	io.WriterTo

	// CloseWrite sends the clean end.
	CloseWrite() error

	// Close ends the endpoint for every other call, which it interrupts.
	Close() error
}

// Pump moves bytes between an endpoint and a plaintext end, in both directions.
type Pump struct {
	rec Records
	end *End

	from  io.LimitedReader
	turns atomic.Uint64

	closing  sync.Once
	stopping atomic.Bool
	over     chan struct{} // Run is over
}

// New returns a pump that owns both.
func New(rec Records, end *End) *Pump {
	return &Pump{rec: rec, end: end, over: make(chan struct{})}
}

// Run moves bytes until both directions have ended, the program closed its half,
// or something failed, and closes the endpoint and the end. The program sees the
// peer's clean end as one and everything else as an error. send and receive are
// what the directions ended of, nil for a clean end.
func (p *Pump) Run() (send, receive error) {
	watch(p)
	defer close(p.over)
	defer unwatch(p)
	sent := make(chan error, 1)
	go func() { sent <- p.send() }()
	receive = p.receive()
	send = <-sent
	if p.stopping.Load() {
		return send, receive
	}
	if send == nil && (receive == nil || p.end.Gone() && isEnded(receive)) {
		// A program that has shut both directions itself is not told more.
		p.closing.Do(func() {
			p.rec.Close()
			p.end.CloseClean()
		})
	} else {
		p.Close()
	}
	return send, receive
}

// Close ends the pump at once. The program sees an error.
func (p *Pump) Close() {
	p.closing.Do(func() {
		p.rec.Close() // first: it ends the calls that hold the end
		p.end.Close()
	})
}

// send moves what the program writes.
func (p *Pump) send() error {
	var err error
	try := func() bool {
		for {
			var n int64
			if n, err = p.sendTurn(); err != nil || p.end.Ended() {
				return true
			}
			if n == 0 {
				return false
			}
		}
	}
	for {
		waitErr := p.end.wait(try)
		if err == nil {
			err = waitErr
		}
		if err = p.stopped(err); err == ErrStopped {
			return err
		}
		if waitErr == nil || !errors.Is(waitErr, os.ErrDeadlineExceeded) {
			break
		}
		// It was Kick. Another one from here on is another turn.
		p.end.f.SetReadDeadline(time.Time{})
		err = nil
		if p.stopping.Load() {
			return ErrStopped
		}
	}
	if err == nil {
		err = p.rec.CloseWrite()
	}
	if err != nil && (errors.Is(err, ErrTooLong) || p.end.Gone()) {
		// Nobody knows what the program meant to send, or is there to read.
		p.Close()
		return err
	}
	if err != nil {
		// What the peer sent is still worth reading, if the carrier has it.
		p.end.Refuse()
		return err
	}
	// A program that is gone reads no more either. One that only ended its
	// writing has gone, as far as this can be seen, when Finish was called too.
	for {
		// A Kick that came too late for a turn must not end the wait.
		p.end.f.SetReadDeadline(time.Time{})
		if p.stopping.Load() {
			return ErrStopped
		}
		if err := p.end.gone(); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	p.rec.Close()
	return nil
}

// sendTurn sends up to 1 MiB of what the program wrote so far.
func (p *Pump) sendTurn() (int64, error) {
	p.turns.Add(1)
	p.from = io.LimitedReader{R: p.end, N: turn}
	return p.rec.ReadFrom(&p.from)
}

// Kick has the endpoint's ReadFrom called although the program may have written
// nothing.
func (p *Pump) Kick() { p.end.f.SetReadDeadline(time.Unix(1, 0)) }

// receive moves what the peer sends.
func (p *Pump) receive() error {
	_, err := p.rec.WriteTo(p.end)
	if err = p.stopped(err); err == ErrStopped {
		return err
	}
	if err == nil {
		return p.end.Finish()
	}
	if !isEnded(err) {
		p.Close()
	}
	return err
}

// isEnded reports whether the receiving side ended because the program reads no
// more.
func isEnded(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed)
}
