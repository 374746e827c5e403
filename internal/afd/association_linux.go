package afd

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/pump"
	"github.com/aftls/aftls/record"
)

// Policy is who deals with control records.
type Policy uint8

const (
	// Ours: this process follows alerts, tickets, KeyUpdates and close_notify
	// as an aftls.Conn does. Needs keys in both directions.
	Ours Policy = iota

	// Theirs: the program is given every control record and sends its own.
	// Only close_notify is understood: it is the clean end, both ways.
	Theirs

	// AsLinux is Theirs without that: no alert is sent by itself, the end of
	// the carrier is the end of the stream, and a direction without keys
	// passes bytes as they are.
	AsLinux
)

// Taker is given the control records of an association. It may wait until the
// program has room for them: reading waits for it. The payload is not to be kept.
// Interrupt ends a Take that waits, and those to come.
type Taker interface {
	Take(Control) error
	Interrupt()
}

// Association is one TLS connection of another program: its carrier, its keys
// and the pump behind its descriptor.
type Association struct {
	carrier *pump.Carrier
	policy  Policy
	client  bool
	taker   Taker

	sock *aftls.Socket // of the policies Theirs and AsLinux
	conn *aftls.Conn   // of the policy Ours; nil until both directions have keys
	end  *pump.End
	pump *pump.Pump

	setting sync.Mutex // one at a time changes keys or takes the association out

	mu      sync.Mutex
	changed sync.Cond // of what follows
	keyed   [2]bool
	expired bool // a KeyUpdate was received, and the keys behind it are not there
	pause   bool // reading is to stop at the next opportunity
	paused  bool
	closed  bool

	held    *Control // what the program has to take first
	failure error    // what the receiving side ended of

	rest []byte // under the pause: opened or passed, and not taken by the program
	next nextRecord
}

// Control is a control record that the program has not taken yet.
type Control struct {
	Type    record.ContentType
	Payload []byte // what of it was not taken
	Offset  uint64 // bytes of data before it
}

// NewAssociation takes the carrier and the end, and runs when Run is called.
// Without a taker control records wait for TakeControl, but in the policy Ours.
func NewAssociation(carrier *pump.Carrier, end *pump.End, policy Policy, client bool, taker Taker) *Association {
	a := &Association{carrier: carrier, policy: policy, client: client, taker: taker, end: end}
	a.changed.L = &a.mu
	a.sock = aftls.NewSocket(carrier, aftls.Options{})
	a.pump = pump.New(a, end)
	return a
}

// Start keys both directions at once, before Run. unread is ciphertext that was
// read from the carrier before.
func (a *Association) Start(send, receive record.Keys, unread []byte) error {
	err := a.sock.SetKeys(aftls.Send, send)
	if err == nil {
		err = a.sock.SetKeys(aftls.Receive, receive)
	}
	if err == nil {
		err = a.sock.Unread(unread)
	}
	if err != nil {
		return err
	}
	a.keyed = [2]bool{true, true}
	return a.adopt()
}

// adopt makes the socket a conn where control records are ours and both
// directions have keys. Nobody sends or receives meanwhile.
func (a *Association) adopt() (err error) {
	if a.policy != Ours || a.conn != nil || !a.isKeyed(aftls.Send) || !a.isKeyed(aftls.Receive) {
		return nil
	}
	var seen func(record.ContentType, []byte)
	if a.taker != nil {
		seen = func(typ record.ContentType, b []byte) {
			a.taker.Take(Control{typ, b, a.sock.Info().Receive.Bytes})
		}
	}
	a.conn, err = aftls.NewConn(a.sock, a.client, seen)
	return err
}

// Run pumps until the association is over, and closes everything but what Off
// took. The error is what the receiving side ended of, or else the sending side;
// nil is the clean end of both.
func (a *Association) Run() error {
	send, receive := a.pump.Run()
	if send == pump.ErrStopped || receive == pump.ErrStopped {
		return pump.ErrStopped
	}
	if receive != nil {
		return receive
	}
	return send
}

// CloseNow ends the association. The program sees an error, and the socket that
// it gave us carries nothing more.
func (a *Association) CloseNow() { a.pump.Close() }

// Info returns the state of both directions.
func (a *Association) Info() aftls.Info { return a.sock.Info() }

// ReadFrom sends what the program wrote.
func (a *Association) ReadFrom(r io.Reader) (int64, error) {
	a.mu.Lock()
	keyed, armed := a.keyed[aftls.Send], a.next.left > 0
	a.mu.Unlock()
	switch {
	case armed:
		return a.sendArmed(r)
	case a.conn != nil:
		return a.conn.ReadFrom(r)
	case keyed:
		return a.sock.ReadFrom(r)
	case a.policy == AsLinux:
		return io.Copy(struct{ io.Writer }{a.carrier}, r)
	}
	return 0, nil // it waits for the keys
}

// WriteTo gives the program what the peer sent. It is nil at the clean end.
func (a *Association) WriteTo(w io.Writer) (int64, error) {
	n, err := a.receive(&delivery{a: a, w: w})
	if err != nil {
		a.mu.Lock()
		a.failure = err
		a.mu.Unlock()
	}
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
		var err error
		switch {
		case a.conn != nil:
			_, err = a.conn.WriteTo(d)
		case a.isKeyed(aftls.Receive):
			_, err = a.sock.WriteTo(d)
			if errors.Is(err, aftls.ErrControl) {
				err = a.control()
				if err == nil {
					continue
				}
			}
		default:
			err = a.pass(d)
		}
		switch {
		case err == nil, err == io.EOF:
			return d.n, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
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

// await waits until the receiving side may go on.
func (a *Association) await() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		switch {
		case a.closed:
			return os.ErrClosed
		case a.pause:
			a.paused = true
			a.changed.Broadcast()
			a.changed.Wait()
			a.paused = false
		case a.held != nil, a.expired, !a.keyed[aftls.Receive] && a.policy != AsLinux:
			a.changed.Wait()
		default:
			return nil
		}
	}
}

// whilePaused runs do while the receiving side stands still.
func (a *Association) whilePaused(do func() error) error {
	a.setting.Lock()
	defer a.setting.Unlock()
	past := time.Unix(1, 0)
	a.mu.Lock()
	a.pause = true
	a.changed.Broadcast()
	a.mu.Unlock()
	a.carrier.SetReadDeadline(past)
	a.end.SetWriteDeadline(past)
	a.mu.Lock()
	for !a.paused && !a.closed {
		a.changed.Wait()
	}
	closed := a.closed
	a.mu.Unlock()
	err := error(os.ErrClosed)
	if !closed {
		a.carrier.SetReadDeadline(time.Time{})
		a.end.SetWriteDeadline(time.Time{})
		err = do()
	}
	a.mu.Lock()
	a.pause = false
	a.changed.Broadcast()
	a.mu.Unlock()
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

// pass gives the program the bytes of a direction without keys.
func (a *Association) pass(d *delivery) error {
	b := make([]byte, record.MaxPlaintext)
	for {
		if len(a.rest) > 0 {
			if _, err := d.Write(nil); err != nil {
				return err
			}
		}
		n, err := a.carrier.Read(b)
		if n > 0 {
			if _, err := d.Write(b[:n]); err != nil {
				return err
			}
			continue
		}
		return err
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
	b = b[:n]
	if a.keyUpdate(typ, b) {
		a.mu.Lock()
		a.expired = true
		a.mu.Unlock()
	}
	c := Control{typ, b, offset}
	if a.taker == nil {
		a.hold(c)
	} else if err := a.taker.Take(c); err != nil {
		return err
	}
	if typ == record.AlertRecord && n == 2 && a.policy == Theirs {
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
func (a *Association) hold(c Control) {
	a.mu.Lock()
	a.held = &c
	a.mu.Unlock()
	a.end.Mark(byte(c.Type))
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

// SendControl sends a control record behind everything that the program wrote.
func (a *Association) SendControl(typ record.ContentType, b []byte) error {
	return a.pump.Drain(func() error {
		if a.conn != nil {
			return a.conn.WriteRecord(typ, b)
		}
		return a.sock.WriteRecord(typ, b)
	})
}

// SetSendKeys keys what the program writes from now on.
func (a *Association) SetSendKeys(k record.Keys) error {
	err := a.pump.Drain(func() error {
		if err := a.sock.SetKeys(aftls.Send, k); err != nil {
			return err
		}
		a.mu.Lock()
		a.keyed[aftls.Send] = true
		a.mu.Unlock()
		return nil
	})
	if err == nil {
		err = a.whilePaused(func() error { return a.pump.Drain(a.adopt) })
	}
	if err == nil {
		err = a.pump.Drain(nil) // what waited for the keys
	}
	return err
}

// SetReceiveKeys keys what comes from now on. takeBack returns what the program
// has not read of what was passed to it without keys: it is ciphertext.
func (a *Association) SetReceiveKeys(k record.Keys, takeBack func() ([]byte, error)) error {
	return a.whilePaused(func() error {
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
		a.mu.Unlock()
		return a.pump.Drain(a.adopt)
	})
}

// Rekey sends a KeyUpdate and asks for one, where traffic secrets are known.
func (a *Association) Rekey() error {
	if a.conn == nil {
		return refuse(syscall.EOPNOTSUPP, "only an association with traffic secrets can rekey by itself")
	}
	return a.pump.Drain(func() error { return a.conn.Rekey(true) })
}

// Off takes the association out: what the program wrote is sent, the pump stops,
// and the carrier is the program's again. undelivered is data that was opened
// and did not reach the program's descriptor; that is at its end after it.
func (a *Association) Off() (state *aftls.State, undelivered []byte, err error) {
	if err := a.pump.Drain(nil); err != nil {
		return nil, nil, err
	}
	err = a.whilePaused(func() error {
		undelivered, a.rest = a.rest, nil
		a.mu.Lock()
		a.closed = true // await ends, and so does the pump's receiving side
		a.changed.Broadcast()
		a.mu.Unlock()
		a.pump.Stop()
		if a.conn != nil {
			state, err = a.conn.Detach()
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

// CloseWrite ends the sending direction.
func (a *Association) CloseWrite() error {
	switch {
	case a.conn != nil:
		return a.conn.CloseWrite()
	case a.policy != AsLinux && a.isKeyed(aftls.Send):
		err := a.sock.WriteRecord(record.AlertRecord, []byte{record.LevelWarning, byte(record.CloseNotify)})
		if err != nil && !errors.Is(err, aftls.ErrShutdown) {
			return err
		}
	}
	return a.carrier.CloseWrite()
}

// Close ends the association for every call. The socket that the program gave us
// may have other holders: it carries nothing more.
func (a *Association) Close() error {
	a.mu.Lock()
	a.closed = true
	a.changed.Broadcast()
	a.mu.Unlock()
	if a.taker != nil {
		a.taker.Interrupt()
	}
	if a.conn != nil {
		return a.conn.Close() // sends close_notify where the association is alive
	}
	return a.sock.Close()
}

// nextRecord is the type that was armed for the next bytes of the program.
type nextRecord struct {
	typ  record.ContentType
	left int // bytes
	got  []byte
}

// Arm makes one record of the type of the next n bytes that the program writes.
func (a *Association) Arm(typ record.ContentType, n int) error {
	if n < 1 || n > record.MaxPlaintext {
		return refuse(syscall.EINVAL, "a record holds 1 to %d bytes", record.MaxPlaintext)
	}
	return a.pump.Drain(func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.next.left > 0 {
			return refuse(syscall.EBUSY, "the record that was armed before is not written yet")
		}
		a.next = nextRecord{typ: typ, left: n}
		return nil
	})
}

// sendArmed collects the bytes of the record that was armed. It is called under
// the lock of the pump.
func (a *Association) sendArmed(r io.Reader) (int64, error) {
	b := make([]byte, a.next.left)
	n, err := r.Read(b)
	if n == 0 {
		if err == io.EOF {
			err = nil
		}
		return 0, err
	}
	a.mu.Lock()
	a.next.got = append(a.next.got, b[:n]...)
	a.next.left -= n
	next := a.next
	a.mu.Unlock()
	if next.left > 0 {
		return int64(n), nil
	}
	if a.conn != nil {
		return int64(n), a.conn.WriteRecord(next.typ, next.got)
	}
	return int64(n), a.sock.WriteRecord(next.typ, next.got)
}

// Replace sets the next keys of a direction that has keys (RFC 8446, 7.2). The
// errors are those of Linux 6.14: EBUSY in TLS 1.2, and EINVAL for another version
// or cipher.
func (a *Association) Replace(d aftls.Direction, k record.Keys) error {
	info := a.Info().Send
	if d == aftls.Receive {
		info = a.Info().Receive
	}
	switch {
	case a.conn != nil:
		return refuse(syscall.EBUSY, "this association rekeys by itself")
	case info.Version != k.Version || info.Suite != k.Suite:
		return refuse(syscall.EINVAL, "the version and the cipher of an association cannot be changed")
	case info.Version != record.TLS13:
		return refuse(syscall.EBUSY, "TLS 1.2 cannot rekey")
	}
	k.Epoch = info.Epoch + 1
	if d == aftls.Send {
		return a.SetSendKeys(k)
	}
	return a.SetReceiveKeys(k, nil)
}
