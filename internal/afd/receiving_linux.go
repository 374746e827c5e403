package afd

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// The receiving side of an association: from the carrier to the program, with
// control records, new keys and pauses between.

// WriteTo gives the program what the peer sent. It is nil at the clean end.
func (a *Association) WriteTo(w io.Writer) (int64, error) {
	n, err := a.receive(&delivery{a: a, w: w})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failure = err
	a.received = true
	a.changed.Broadcast()
	return n, err
}

// Failure is what the receiving side ended of, nil while it lives and at a clean
// end.
func (a *Association) Failure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failure
}

func (a *Association) receive(d *delivery) (int64, error) {
	for {
		if err := a.await(); err != nil {
			return d.n, err
		}
		if len(a.rest) > 0 {
			// Nothing may come for a long time: this must not wait for it.
			if err := a.deliverRest(d); err != nil {
				return d.n, err
			}
			continue
		}
		var err error
		switch {
		case (a.filter != nil || a.strict || a.end.Records()) && a.isKeyed(aftls.Receive):
			err = a.recordwise(d)
		case a.policyConn() != nil:
			_, err = a.policyConn().WriteTo(d)
		case a.isKeyed(aftls.Receive):
			_, err = a.sock.WriteTo(d)
			if errors.Is(err, aftls.ErrControl) {
				if err = a.deliverRest(d); err == nil {
					err = a.control()
				}
				if err == nil {
					continue
				}
			}
		default:
			err = a.pass(d)
		}
		if err != errAgain && !errors.Is(err, os.ErrDeadlineExceeded) {
			if rerr := a.deliverRest(d); rerr != nil {
				return d.n, rerr
			}
		}
		switch {
		case err == nil, err == io.EOF:
			return d.n, nil
		case err == errAgain, errors.Is(err, os.ErrDeadlineExceeded):
			// Somebody wants the receiving side for itself.
		case a.policy == AsLinux && isTruncated(err):
			return d.n, nil
		default:
			return d.n, err
		}
	}
}

func isTruncated(err error) bool {
	_, ok := errors.AsType[*aftls.TruncatedError](err)
	return ok
}

func (a *Association) isKeyed(d aftls.Direction) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.keyed[d]
}

// await waits until the receiving side may go on. Nothing changes under it: what is
// set is set while it stands still, here or in pass.
func (a *Association) await() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stand(true)
	defer a.stand(false)
	a.passing = false
	for {
		switch {
		case a.closed:
			return os.ErrClosed
		case a.pause, a.adopting, a.held != nil, a.expired, !a.keyed[aftls.Receive] && a.policy != AsLinux:
			a.changed.Wait()
		default:
			a.interrupt(false)
			return nil
		}
	}
}

// stand says whether the receiving side stands still until await has let it go on.
// It is called under mu.
func (a *Association) stand(still bool) {
	a.standing = still
	if still && a.pause {
		a.changed.Broadcast()
	}
}

// interrupt gets the receiving side out of what it waits for, or lets it wait
// again. It is called under mu.
func (a *Association) interrupt(now bool) {
	if a.interrupted == now {
		return
	}
	a.interrupted = now
	var at time.Time
	if now {
		at = time.Unix(1, 0)
	}
	a.carrier.SetReadDeadline(at)
	a.end.SetWriteDeadline(at)
}

// whilePaused runs do while the receiving side stands still.
func (a *Association) whilePaused(do func() error) error {
	a.setting.Lock()
	defer a.setting.Unlock()
	a.mu.Lock()
	a.pause = true
	a.interrupt(!a.standing)
	for !a.standing && !a.closed && !a.received {
		a.changed.Wait()
	}
	a.interrupt(false)
	closed := a.closed
	a.mu.Unlock()
	err := error(os.ErrClosed)
	if !closed {
		err = do()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pause = false
	if a.passing {
		a.interrupt(true) // there may be keys now
	}
	a.changed.Broadcast()
	return err
}

// delivery writes to the program. What it does not take before the receiving
// side is paused is kept and comes first afterwards: nothing is lost.
type delivery struct {
	a *Association
	w io.Writer
	n int64
}

func (d *delivery) Write(p []byte) (int, error) {
	whole := len(p)
	for len(d.a.rest) > 0 || len(p) > 0 {
		b := &p
		if len(d.a.rest) > 0 {
			b = &d.a.rest
		}
		n, err := d.w.Write(*b)
		*b = (*b)[n:]
		d.n += int64(n)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			d.a.rest = append(d.a.rest, p...)
			return whole, nil
		}
		if err != nil {
			return whole - len(p), err
		}
	}
	d.a.rest = nil
	return whole, nil
}

// deliverRest gives the program what a pause kept back, before anything that comes
// behind it.
func (a *Association) deliverRest(d *delivery) error {
	for len(a.rest) > 0 {
		if err := a.await(); err != nil {
			return err
		}
		if _, err := d.Write(nil); err != nil {
			return err
		}
	}
	return nil
}

// pass gives the program the bytes of a direction without keys. While it waits for
// more it stands still: the keys, which a program sets about now, wait for nobody.
func (a *Association) pass(d *delivery) error {
	b := make([]byte, record.MaxPlaintext)
	for {
		if len(a.rest) > 0 {
			if _, err := d.Write(nil); err != nil {
				return err
			}
		}
		a.mu.Lock()
		a.stand(true)
		a.passing = true
		a.mu.Unlock()
		err := a.carrier.WaitRead()
		if aerr := a.await(); aerr != nil {
			return aerr
		}
		if a.isKeyed(aftls.Receive) {
			return errAgain
		}
		if err != nil {
			return err
		}
		n, err := a.carrier.Read(b)
		if n == 0 {
			return err
		}
		if _, err := d.Write(b[:n]); err != nil {
			return err
		}
	}
}

// control gives the program the control record that is next.
func (a *Association) control() error {
	b := make([]byte, record.MaxPlaintext)
	offset := a.sock.Info().Receive.Bytes
	typ, n, err := a.sock.ReadRecord(b)
	if err != nil {
		return err
	}
	return a.controlRecord(typ, b[:n], offset)
}

func (a *Association) controlRecord(typ record.ContentType, b []byte, offset uint64) error {
	expires := a.keyUpdate(typ, b)
	c := Control{typ, b, offset}
	if a.taker == nil {
		if err := a.hold(c, expires); err != nil {
			return err
		}
	} else {
		a.mu.Lock()
		a.expired = expires
		a.mu.Unlock()
		if err := a.taker.Take(c); err != nil {
			return err
		}
	}
	if typ == record.AlertRecord && len(b) == 2 && a.policy == Theirs {
		if record.Alert(b[1]) == record.CloseNotify {
			return io.EOF
		}
		if b[0] == record.LevelFatal {
			return &aftls.AlertError{Alert: record.Alert(b[1])}
		}
	}
	return nil
}

// hold keeps a control record until TakeControl has all of it, and marks its
// place in the stream: the program is woken, and its read stops there.
func (a *Association) hold(c Control, expires bool) error {
	seq := a.sock.Info().Receive.Seq
	for {
		// Whoever sees the one sees the other, too.
		err := a.end.Mark(byte(c.Type), &a.mu, func() { a.held, a.expired, a.arrivals.seq = &c, expires, seq })
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil // for a program that is gone nothing is held
		}
		if err := a.await(); err != nil {
			return err
		}
	}
}

// HasControl reports whether the program stopped, or will stop, at a control record.
func (a *Association) HasControl() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held != nil
}

// TakeControl returns up to n bytes of the control record that reading stopped
// at, and whether that is the rest of it; with peek it stays. ok is false when
// there is none. The caller takes the mark out of the program's descriptor.
func (a *Association) TakeControl(n int, peek bool) (c Control, all, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held == nil {
		return c, false, false
	}
	c = *a.held
	n = min(n, len(c.Payload))
	all = n == len(c.Payload)
	c.Payload = c.Payload[:n:n]
	if !peek {
		if all {
			a.held = nil
			a.changed.Broadcast()
		} else {
			a.held.Payload = a.held.Payload[n:]
		}
	}
	return c, all, true
}

// Inline gives the program the control record that it stopped at as the next
// bytes of its descriptor.
func (a *Association) Inline() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held == nil {
		return refuse(syscall.EAGAIN, "there is no control record")
	}
	// The receiving side waits for it to be taken: nobody else writes.
	if _, err := a.end.Write(a.held.Payload); err != nil {
		return err
	}
	a.held = nil
	a.changed.Broadcast()
	return nil
}

// Expired reports whether reading waits for the keys behind a KeyUpdate.
func (a *Association) Expired() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.expired && a.held == nil
}

// keyUpdate reports whether the record changes the keys of what is behind it.
// The kernel looks at the first byte only, and so do we.
func (a *Association) keyUpdate(typ record.ContentType, b []byte) bool {
	return typ == record.Handshake && len(b) > 0 && b[0] == 24 && a.sock.Info().Receive.Version == record.TLS13
}

// A Filter says how many bytes of a data record the program gets: 0 drops it.
type Filter func(payload []byte) (keep uint32)

// SetFilter runs f on every data record from now on, between opening it and giving
// it to the program. nil takes the filter away. Its bytes count as received all
// the same.
func (a *Association) SetFilter(f Filter) error {
	return a.whilePaused(func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.filter = f
		return nil
	})
}

// HasFilter reports whether there is a filter.
func (a *Association) HasFilter() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.filter != nil
}

// recordwise gives the program record after record, until there is a control record
// or the receiving side is paused.
func (a *Association) recordwise(d *delivery) error {
	wait, read := a.sock.WaitRead, a.sock.ReadRecord
	c := a.policyConn()
	if c != nil {
		wait, read = c.WaitRead, c.ReadRecord
	}
	var b []byte
	for {
		if len(a.rest) > 0 {
			if _, err := d.Write(nil); err != nil {
				return err
			}
			if len(a.rest) > 0 {
				return errAgain
			}
		}
		if err := wait(); err != nil {
			return err
		}
		if b == nil {
			b = make([]byte, record.MaxPlaintext)
		}
		offset := a.sock.Info().Receive.Bytes
		typ, n, err := read(b)
		switch {
		case err != nil:
			return err
		case typ == record.ApplicationData:
			keep := n
			if a.filter != nil {
				keep = int(min(uint32(n), a.filter(b[:n])))
			}
			if keep > 0 {
				a.arrived(keep)
				if _, err := d.Write(b[:keep]); err != nil {
					return err
				}
			}
		case c == nil:
			if err := a.controlRecord(typ, b[:n], offset); err != nil {
				return err
			}
			return errAgain
		}
	}
}

// errAgain has the receiving side look what to do now.
var errAgain = errors.New("afd: again")

// SetReceiveKeys keys what comes from now on. takeBack returns what the program
// has not read of what was passed to it without keys: it is ciphertext.
func (a *Association) SetReceiveKeys(k record.Keys, takeBack func() ([]byte, error)) error {
	adopt := false
	err := a.whilePaused(func() error {
		if !a.isKeyed(aftls.Receive) {
			var unread []byte
			if a.policy == AsLinux && takeBack != nil {
				var err error
				if unread, err = takeBack(); err != nil {
					return err
				}
			}
			if err := a.sock.SetKeys(aftls.Receive, k); err != nil {
				return err
			}
			if err := a.sock.Unread(append(unread, a.rest...)); err != nil {
				return err
			}
			a.rest = nil
		} else if err := a.sock.SetKeys(aftls.Receive, k); err != nil {
			return err
		}
		a.mu.Lock()
		a.keyed[aftls.Receive], a.expired = true, false
		a.arrivals.seq = k.Seq
		a.adopting = a.adoptable()
		adopt = a.adopting
		a.mu.Unlock()
		return nil
	})
	if err != nil || !adopt {
		return err
	}
	// The sending side has to stand still, too. It comes to that by itself, and
	// nothing is received before.
	if _, err = a.first(func() error { return a.whilePaused(a.adopt) }); err != nil {
		a.adopted()
	}
	return err
}

// Replace sets the next keys of a direction that has keys (RFC 8446, 7.2). The
// errors are those of Linux 6.14: EBUSY in TLS 1.2, and EINVAL for another version
// or cipher.
func (a *Association) Replace(d aftls.Direction, k record.Keys) error {
	if a.policyConn() != nil {
		return refuse(syscall.EBUSY, "this association rekeys by itself")
	}
	if d == aftls.Send {
		k = k.Clone()
		// The keys before these may still have their place in the stream ahead.
		return wait(a.behind(func() error {
			defer k.Wipe()
			if err := next(&k, a.Info().Send); err != nil {
				return err
			}
			return a.sock.SetKeys(aftls.Send, k)
		}))
	}
	if err := next(&k, a.Info().Receive); err != nil {
		return err
	}
	return a.SetReceiveKeys(k, nil)
}

// next makes k the keys of the next epoch.
func next(k *record.Keys, info aftls.DirectionInfo) error {
	switch {
	case info.Version != k.Version || info.Suite != k.Suite:
		return refuse(syscall.EINVAL, "the version and the cipher of an association cannot be changed")
	case info.Version != record.TLS13:
		return refuse(syscall.EBUSY, "TLS 1.2 cannot rekey")
	}
	k.Epoch = info.Epoch + 1
	return nil
}
