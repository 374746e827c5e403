package afd

import (
	"encoding/binary"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/seccomp"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// The socket options by which a program that deals with control records itself
// tells them from data: one that arms and names the next record, and one that gives
// a descriptor of their own.

// nextRecord is getsockopt(AFTLS_NEXT_RECORD): the type and length of the control
// record at which reading stopped. Its bytes are what read(2) gives next, but for one
// that ends the stream, whose length is 0.
func (t *tlsSocket) nextRecord(n *seccomp.Notification) ([]byte, error) {
	a := t.association()
	if a == nil {
		return nil, unix.ENOTCONN
	}
	fd, err := n.GetFD(int(int32(n.Args[0])))
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	t.reading.Lock()
	defer t.reading.Unlock()
	c, _, ok := a.TakeControl(record.MaxPlaintext, true)
	if !ok {
		return nil, unix.EAGAIN
	}
	if queued, err := unix.IoctlGetInt(fd, unix.SIOCINQ); err != nil || queued > 0 && !atMark(fd) {
		return nil, unix.EAGAIN // data comes first
	}
	if !n.Valid() {
		return nil, seccomp.ErrGone
	}
	takeMark(fd)
	length := len(c.Payload)
	if err := a.Inline(); err != nil {
		// Nothing can be put behind the end of the stream: it was close_notify,
		// or a fatal alert, of which AFTLS_ERROR tells.
		a.TakeControl(length, false)
		length = 0
	}
	b := []byte{byte(c.Type), 0}
	return binary.NativeEndian.AppendUint16(b, uint16(length)), nil
}

func (t *tlsSocket) association() *Association {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.a
}

// controlFD is getsockopt(AFTLS_CONTROL_FD): it gives the program a control
// descriptor (docs/handoff.md), to which all control records go from then on. It
// has to be asked for after bind and before there are keys to receive with; there
// is one.
func (t *tlsSocket) controlFD(n *seccomp.Notification) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.a == nil && t.d == nil {
		return nil, unix.ENOTCONN
	}
	// What cannot be said to the program must not be done.
	if err := n.Write(n.Args[3], make([]byte, 4)); err != nil {
		return nil, err
	}
	ctl, theirs, err := newControl()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	var a association
	var taken bool
	var drop func()
	if t.dgram {
		a, taken, drop = t.d, t.d.setControl(ctl), t.d.dropControl
	} else {
		a, taken, drop = t.a, t.a.setTaker(ctl), t.a.dropTaker
	}
	if !taken {
		ctl.Close()
		return nil, unix.EISCONN
	}
	fd, err := n.AddFD(int(theirs.Fd()), seccomp.Lowest, true)
	if err != nil {
		drop()
		ctl.Close()
		return nil, err
	}
	t.control = ctl
	t.s.pumps.Go(func() { ctl.serve(a) })
	return binary.NativeEndian.AppendUint32(nil, uint32(fd)), nil
}

// setTaker gives an association that receives nothing yet a taker. It is false for
// one that has a taker, or receives.
func (a *Association) setTaker(t Taker) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.taker != nil || a.keyed[aftls.Receive] || a.policy == AsLinux || a.closed {
		return false
	}
	a.taker = t
	return true
}

// dropTaker takes it back, before the association receives anything.
func (a *Association) dropTaker() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.taker = nil
}
