package afd

import (
	"encoding/binary"
	"errors"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/seccomp"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// Reading, as net/tls of Linux does it (tls_sw_recvmsg): data of as many records as
// there are and fit; never past a control record, which only a call gets that has
// room for its type.
//
// What the program's half has is looked at (MSG_PEEK), copied to the program, and
// then taken out: a buffer that cannot be written costs no data.

// A reception is what one message of a reading call takes.
type reception struct {
	t     *tlsSocket
	fd    int // of the program
	v     []seccomp.Iovec
	left  int // bytes that v holds
	flags int
	room  bool // for the type of a control record

	n    int // bytes that the program got
	typ  record.ContentType
	eor  bool // with the end of a record
	cut  bool // a message was longer than the buffers
	more bool // it need not wait

	patience
}

// start makes it the reception of a message that goes to v.
func (r *reception) start(v []seccomp.Iovec) {
	r.v, r.left = v, sum(v)
	r.n, r.typ, r.eor, r.cut = 0, 0, false, false
}

// receive goes on with the message. It is nil when the message is over, with what
// the fields say.
func (r *reception) receive(n *seccomp.Notification) error {
	fd, err := n.GetFD(r.fd)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r.t.reading.Lock()
	defer r.t.reading.Unlock()
	err = r.step(n, fd)
	if r.n > 0 && err != errWait && err != errMore && !errors.Is(err, seccomp.ErrGone) {
		err = nil // what went wrong is for the next call
	}
	r.more = err == errMore
	return err
}

func (r *reception) step(n *seccomp.Notification, fd int) error {
	if r.flags&unix.MSG_ERRQUEUE != 0 {
		return r.errqueue(n, fd)
	}
	if r.left == 0 {
		return nil
	}
	buf := pieces.Get().(*[pieceSize]byte)
	used := 0
	defer func() {
		clear(buf[:used])
		pieces.Put(buf)
	}()
	for budget := len(buf); budget > 0; {
		// Whether a control record is next is asked first: data may come in
		// front of one that comes meanwhile.
		control := r.t.a.HasControl()
		if r.t.end.Records() {
			return r.message(n, fd, control, buf[:])
		}
		b := buf[:min(r.left, len(buf))]
		m, _, err := unix.Recvfrom(fd, b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return r.empty(n, fd, control)
		case err == nil && m > 0:
			used = max(used, m)
			if err := r.data(n, fd, b[:m]); err != nil {
				return err
			}
			if r.left == 0 || r.flags&unix.MSG_PEEK != 0 {
				return nil
			}
			budget -= m
		case control && (err == nil || err == unix.ECONNRESET):
			return r.empty(n, fd, control) // and the end behind it
		case err == nil, err == unix.ECONNRESET:
			if r.t.a.HasControl() {
				return errMore // it came meanwhile, and the end behind it
			}
			return r.ended(err)
		default:
			return err
		}
	}
	return errMore
}

// message gives the program one message of an end that keeps the boundaries of
// records. What does not fit is lost, as of every SEQPACKET socket.
func (r *reception) message(n *seccomp.Notification, fd int, control bool, buf []byte) error {
	peek := r.flags & unix.MSG_PEEK
	m, _, err := unix.Recvfrom(fd, buf, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case err == unix.EINTR:
		return errMore
	case err == unix.EAGAIN, control && (m == 0 || err == unix.ECONNRESET):
		return r.empty(n, fd, control)
	case err == unix.ECONNRESET, err == nil && m == 0:
		if r.t.a.HasControl() {
			return errMore
		}
		return r.ended(err)
	case err != nil:
		return err
	}
	defer clear(buf[:m])
	fit := min(m, r.left)
	if k, err := n.WriteVec(r.v, buf[:fit]); err != nil {
		return err
	} else if k < fit {
		return unix.EFAULT
	}
	if peek == 0 {
		unix.Recvfrom(fd, buf[:m], unix.MSG_DONTWAIT)
	}
	r.typ, r.n, r.eor, r.cut = record.ApplicationData, fit, true, fit < m
	return nil
}

// data gives the program b, which is what its half has next.
func (r *reception) data(n *seccomp.Notification, fd int, b []byte) error {
	a := r.t.a
	m, err := n.WriteVec(r.v, b)
	if err != nil && !errors.Is(err, unix.EFAULT) {
		return err
	}
	fault := m < len(b)
	if fault && r.t.isStrict() {
		m = a.wholeRecords(m) // a record is copied, or it is not
	}
	if m > 0 {
		r.typ = record.ApplicationData
		if r.flags&unix.MSG_PEEK != 0 {
			r.eor = a.peeked(m)
		} else {
			take(fd, b[:m])
			r.eor = a.took(m) || r.eor
		}
		r.v, r.left, r.n = advance(r.v, m), r.left-m, r.n+m
	}
	if fault {
		return unix.EFAULT
	}
	return nil
}

// take takes as many bytes out of the program's half.
func take(fd int, b []byte) {
	for len(b) > 0 {
		n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return // somebody else has it, whom no filter stops
		}
		b = b[n:]
	}
}

// empty says what the call does when there is no data.
func (r *reception) empty(n *seccomp.Notification, fd int, control bool) error {
	switch {
	case control && r.n > 0:
		return nil
	case control:
		return r.control(n, fd)
	case r.t.a.Expired():
		return unix.EKEYEXPIRED
	case r.n > 0 && r.n >= r.target(fd):
		return nil
	case r.flags&unix.MSG_DONTWAIT != 0, nonblocking(fd), r.over(fd, unix.SO_RCVTIMEO):
		return unix.EAGAIN
	}
	return errWait
}

// target is how much is enough.
func (r *reception) target(fd int) int {
	all := r.n + r.left
	if r.flags&unix.MSG_WAITALL != 0 {
		return all
	}
	lowat, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT)
	if err != nil {
		return 1
	}
	return min(max(lowat, 1), all)
}

// control gives the program the control record that is next.
func (r *reception) control(n *seccomp.Notification, fd int) error {
	a := r.t.a
	c, all, ok := a.TakeControl(r.left, true)
	if !ok {
		return errMore
	}
	a.metControl()
	if !r.room {
		return unix.EIO
	}
	if m, err := n.WriteVec(r.v, c.Payload); err != nil {
		return err
	} else if m < len(c.Payload) {
		return unix.EFAULT
	}
	r.typ, r.n, r.eor = c.Type, len(c.Payload), all
	if r.flags&unix.MSG_PEEK == 0 {
		if all {
			takeMark(fd) // before anybody can put the next one
		}
		a.TakeControl(len(c.Payload), false)
	}
	return nil
}

// takeMark takes the mark of a control record out of the program's queue. Nothing
// is behind it. What is left there of a mark that was taken still makes poll say
// that there is something to read, until somebody tries.
func takeMark(fd int) {
	var b [1]byte
	unix.Recvfrom(fd, b[:], unix.MSG_OOB|unix.MSG_DONTWAIT)
	unix.Recvfrom(fd, nil, unix.MSG_DONTWAIT)
}

// errqueue is a control record by MSG_ERRQUEUE, which never waits.
func (r *reception) errqueue(n *seccomp.Notification, fd int) error {
	if r.t.isStrict() {
		return unix.EAGAIN // Linux has nothing there
	}
	control := r.t.a.HasControl()
	queued, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if !control || err != nil || queued > 0 && !atMark(fd) {
		return unix.EAGAIN // data comes first
	}
	r.room = true
	return r.control(n, fd)
}

// atMark reports whether a control record's mark is next.
func atMark(fd int) bool {
	at, err := unix.IoctlGetInt(fd, unix.SIOCATMARK)
	return err == nil && at == 1
}

// ended is the end of the stream: nil for the clean one.
func (r *reception) ended(err error) error {
	failure := r.t.a.Failure()
	switch {
	case r.n > 0:
		return nil
	case failure == nil, isClosed(failure):
		return err // by the program itself, or this process
	case r.t.isStrict() && !isOfRecord(failure) && r.t.told.Swap(true):
		return nil // a socket tells once what happened to its connection
	}
	return errnoOf(failure)
}

// isOfRecord reports whether an error is that of a record, which does not pass.
func isOfRecord(err error) bool {
	switch errnoOf(err) {
	case unix.EBADMSG, unix.EMSGSIZE, unix.EINVAL:
		return true
	}
	return false
}

// readCall is read, readv, preadv2, recvfrom or recvmsg.
type readCall struct {
	reception
	finish func(n *seccomp.Notification, r *reception) error
}

func (c *readCall) try(n *seccomp.Notification) bool {
	err := c.receive(n)
	if err == errWait || err == errMore {
		return false
	}
	if err == nil && c.finish != nil {
		err = c.finish(n, &c.reception)
	}
	if err != nil {
		fail(n, err)
	} else {
		n.Respond(int64(c.n), 0)
	}
	return true
}

func (r *reception) pause(n *seccomp.Notification) error {
	if r.more {
		return nil
	}
	return pollAt(n, r.fd, unix.POLLIN|unix.POLLPRI|unix.POLLRDHUP)
}

func (c *readCall) end(n *seccomp.Notification, errno unix.Errno) {
	if c.n == 0 {
		n.Respond(0, c.interrupted(errno))
		return
	}
	if c.finish != nil {
		if err := c.finish(n, &c.reception); err != nil {
			fail(n, err)
			return
		}
	}
	n.Respond(int64(c.n), 0)
}

func (c *readCall) release() {}

// read performs read, readv, preadv2 and recvfrom.
func (t *tlsSocket) read(n *seccomp.Notification) {
	if !t.receives() {
		n.Continue() // bytes as they come
		return
	}
	c := &readCall{reception: reception{t: t, fd: int(int32(n.Args[0]))}}
	switch n.Nr {
	case unix.SYS_PREADV2:
		flags, ok, err := vectorFlags(n)
		if !ok {
			n.Continue() // which is an error
			return
		}
		if err != nil {
			fail(n, err)
			return
		}
		c.flags = flags
	case unix.SYS_RECVFROM:
		c.flags = int(int32(n.Args[3]))
		if n.Args[4] != 0 {
			c.finish = noAddress
		}
	}
	v, err := memoryOf(n)
	if err != nil {
		fail(n, err)
		return
	}
	c.start(v)
	perform(n, c)
}

// noAddress answers for the address that recvfrom asks for: TCP gives none.
func noAddress(n *seccomp.Notification, _ *reception) error {
	var b [4]byte
	if err := n.Read(b[:], n.Args[5]); err != nil {
		return err
	}
	if int32(binary.NativeEndian.Uint32(b[:])) < 0 {
		return unix.EINVAL
	}
	return n.Write(n.Args[5], make([]byte, len(b)))
}

// receives reports whether records are opened for the program.
func (t *tlsSocket) receives() bool { return t.keyed(aftls.Receive) }

// sends reports whether what the program writes is sealed.
func (t *tlsSocket) sends() bool { return t.keyed(aftls.Send) }

func (t *tlsSocket) keyed(d aftls.Direction) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.a != nil && t.keys[d].Version != 0
}
