package handover

import (
	"crypto/tls"
	"io"
	"os"
	"sync"
	"time"
)

// Passthrough is a connection whose records crypto/tls keeps, because no
// socket can have them. It adds to tls.Conn what a socket promises and
// crypto/tls does not: an end without close_notify is [ErrTruncated], or
// io.ErrUnexpectedEOF inside a record, and a write that times out can go on
// later.
//
// One reader and one writer may run at once.
type Passthrough struct {
	tc     *tls.Conn
	w      *wire
	reason error

	rmu    sync.Mutex
	peeked int // 0 or 1: a byte that Wait had to read
	peek   [1]byte

	wmu      sync.Mutex
	dmu      sync.Mutex
	deadline time.Time // of writes
}

func newPassthrough(w *wire, tc *tls.Conn, reason error) *Passthrough {
	w.setMode(through)
	return &Passthrough{tc: tc, w: w, reason: reason}
}

// Reason is why the handover was impossible.
func (p *Passthrough) Reason() error { return p.reason }

// ConnectionState is that of the tls.Conn.
func (p *Passthrough) ConnectionState() tls.ConnectionState { return p.tc.ConnectionState() }

func (p *Passthrough) Read(b []byte) (int, error) {
	p.rmu.Lock()
	defer p.rmu.Unlock()
	if p.peeked > 0 && len(b) > 0 {
		b[0], p.peeked = p.peek[0], 0
		p.peek[0] = 0
		return 1, nil
	}
	n, err := p.tc.Read(b)
	return n, p.truncated(err)
}

// truncated tells the two ends apart that crypto/tls calls io.EOF: it does not
// read on after close_notify, so whoever saw the carrier end has not seen that.
func (p *Passthrough) truncated(err error) error {
	if err == io.EOF && p.w.ended {
		return ErrTruncated
	}
	return err
}

// Wait returns when Read would not block. crypto/tls does not say when it has
// a record ready, so one byte is read and kept.
func (p *Passthrough) Wait() error {
	p.rmu.Lock()
	defer p.rmu.Unlock()
	if p.peeked > 0 {
		return nil
	}
	n, err := p.tc.Read(p.peek[:])
	p.peeked = n
	if n > 0 {
		return nil
	}
	return p.truncated(err)
}

// Write counts what was sealed: after os.ErrDeadlineExceeded the next call
// sends the rest of it first.
func (p *Passthrough) Write(b []byte) (n int, err error) {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	p.w.hold()
	defer p.w.release()
	const turn = 16 << 10 // at most this much is sealed and unsent
	for {
		if p.expired() {
			return n, os.ErrDeadlineExceeded
		}
		if err := p.w.flush(); err != nil {
			return n, err
		}
		if len(b) == 0 {
			return n, nil
		}
		m, err := p.tc.Write(b[:min(len(b), turn)])
		n, b = n+m, b[m:]
		if err != nil {
			return n, err
		}
	}
}

func (p *Passthrough) expired() bool {
	p.dmu.Lock()
	defer p.dmu.Unlock()
	return !p.deadline.IsZero() && !time.Now().Before(p.deadline)
}

// CloseWrite sends close_notify. The caller half-closes the carrier.
func (p *Passthrough) CloseWrite() error {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	p.w.hold()
	defer p.w.release()
	if err := p.w.flush(); err != nil {
		return err
	}
	if err := p.tc.CloseWrite(); err != nil {
		return err
	}
	return p.w.flush()
}

// closeTimeout is the longest that Close waits for the carrier.
const closeTimeout = 5 * time.Second

// Close sends what is sealed, and close_notify, unless a Write is under way,
// and closes the carrier.
func (p *Passthrough) Close() error {
	if p.wmu.TryLock() {
		defer p.wmu.Unlock()
		p.w.hold()
		defer p.w.release()
		p.w.Conn.SetWriteDeadline(time.Now().Add(closeTimeout))
		if p.tc.CloseWrite() == nil {
			p.w.flush()
		}
	}
	return p.w.Conn.Close()
}

// SetReadDeadline is that of the tls.Conn.
func (p *Passthrough) SetReadDeadline(t time.Time) error { return p.tc.SetReadDeadline(t) }

// SetWriteDeadline ends writes at t. They can go on after a later deadline is
// set.
func (p *Passthrough) SetWriteDeadline(t time.Time) error {
	p.dmu.Lock()
	p.deadline = t
	p.dmu.Unlock()
	return p.w.Conn.SetWriteDeadline(t)
}
