package afd

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/aftls/aftls/internal/seccomp"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// sendmsg and recvmsg on a TLS socket. Without a buffer for control messages they
// go on as calls on the Unix socket that the program holds: what they read and
// write there is data.

const (
	cmsgHead  = 16                  // struct cmsghdr
	cmsgType  = cmsgHead + 1        // of one with a record type
	cmsgSpace = (cmsgType + 7) &^ 7 // CMSG_SPACE(1)
	maxCmsgs  = 4096                // bytes of control messages that are looked at
	maxBytes  = 1 << 20             // bytes that one call moves at most
)

// sendmsg performs one with TLS_SET_RECORD_TYPE.
func (t *tlsSocket) sendmsg(n *seccomp.Notification) {
	h, err := n.ReadMsghdr(n.Args[1])
	if err != nil {
		fail(n, err)
		return
	}
	if h.Controllen == 0 || t.unbound() {
		n.Continue()
		return
	}
	sent, err := t.sendRecord(n, h, int(int32(n.Args[2])))
	if err != nil {
		fail(n, err)
		return
	}
	n.Respond(int64(sent), 0)
}

func (t *tlsSocket) sendRecord(n *seccomp.Notification, h seccomp.Msghdr, flags int) (int, error) {
	typ, err := recordType(n, h)
	if err != nil {
		return 0, err
	}
	const known = unix.MSG_MORE | unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL | unix.MSG_EOR | unix.MSG_CMSG_CLOEXEC
	switch {
	case flags&^known != 0:
		return 0, unix.EOPNOTSUPP
	case flags&unix.MSG_MORE != 0:
		return 0, unix.EINVAL // a record of another type is never held open
	}
	v, err := n.ReadIovecs(nil, h.Iov, h.Iovlen)
	if err != nil {
		return 0, err
	}
	b := make([]byte, min(length(v), maxBytes))
	m, err := n.ReadVec(b, v)
	if m == 0 && err != nil {
		return 0, err
	}
	b = b[:m] // as much as could be read, like Linux
	for sent := 0; ; {
		part := b[sent:min(len(b), sent+record.MaxPlaintext)]
		if _, err := t.a.SendControl(typ, part); err != nil {
			if sent > 0 {
				return sent, nil
			}
			return 0, err
		}
		if sent += len(part); sent == len(b) {
			return sent, nil
		}
	}
}

func length(v []seccomp.Iovec) int {
	n := 0
	for _, p := range v {
		if n += p.Len; n > maxBytes {
			return maxBytes
		}
	}
	return n
}

// recordType finds TLS_SET_RECORD_TYPE among the control messages; others are
// EINVAL, as Linux answers.
func recordType(n *seccomp.Notification, h seccomp.Msghdr) (record.ContentType, error) {
	if h.Controllen > maxCmsgs {
		return 0, unix.EINVAL
	}
	b := make([]byte, h.Controllen)
	if err := n.Read(b, h.Control); err != nil {
		return 0, err
	}
	typ, found := record.ApplicationData, false
	for len(b) >= cmsgHead {
		size := binary.LittleEndian.Uint64(b)
		if size < cmsgHead || size > uint64(len(b)) {
			return 0, unix.EINVAL
		}
		level, kind := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
		if level == unix.SOL_TLS {
			if kind != tlsSetRecordType || size < cmsgType {
				return 0, unix.EINVAL
			}
			typ, found = record.ContentType(b[cmsgHead]), true
		}
		b = b[min(uint64(len(b)), (size+7)&^7):]
	}
	if !found {
		return 0, unix.EINVAL
	}
	return typ, nil
}

// recvmsg performs one that has room for control messages.
func (t *tlsSocket) recvmsg(n *seccomp.Notification) {
	h, err := n.ReadMsghdr(n.Args[1])
	if err != nil {
		fail(n, err)
		return
	}
	flags := int(int32(n.Args[2]))
	if h.Controllen == 0 && flags&unix.MSG_ERRQUEUE == 0 || !t.receives() {
		n.Continue()
		return
	}
	r := &reception{t: t, h: h, flags: flags}
	if r.v, err = n.ReadIovecs(nil, h.Iov, h.Iovlen); err != nil {
		fail(n, err)
		return
	}
	if done := r.try(n); done {
		return
	}
	// It waits, and not on the thread that all calls come by.
	if !n.Later(r.wait) {
		n.Respond(0, unix.EAGAIN)
	}
}

// receives reports whether records are opened for the program.
func (t *tlsSocket) receives() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.a != nil && t.keys[1].Version != 0
}

// reception is one recvmsg.
type reception struct {
	t     *tlsSocket
	h     seccomp.Msghdr
	v     []seccomp.Iovec
	flags int

	deadline time.Time // of SO_RCVTIMEO
}

var errWait = errors.New("afd: nothing is there to be read yet")

// try answers the call if it need not wait. The program's half is only open here
// for as long as that takes: who holds it hides the program's close.
func (r *reception) try(n *seccomp.Notification) (done bool) {
	fd, err := n.GetFD(int(int32(n.Args[0])))
	if err != nil {
		fail(n, err)
		return true
	}
	defer unix.Close(fd)
	b := make([]byte, length(r.v))
	typ, m, outFlags, err := r.receive(fd, b)
	if err == errWait {
		file, ferr := n.FileFlags(int(int32(n.Args[0])))
		if ferr != nil {
			fail(n, ferr)
			return true
		}
		if r.flags&unix.MSG_DONTWAIT != 0 || file&unix.O_NONBLOCK != 0 {
			err = unix.EAGAIN
		} else if r.expired(fd) {
			err = unix.EAGAIN
		} else {
			return false
		}
	}
	if err != nil {
		fail(n, err)
		return true
	}
	r.deliver(n, typ, b[:m], outFlags)
	return true
}

// receive reads data, or the control record that is next, without waiting.
func (r *reception) receive(fd int, b []byte) (typ record.ContentType, n, outFlags int, err error) {
	a := r.t.a
	peek := r.flags & unix.MSG_PEEK
	if r.flags&unix.MSG_ERRQUEUE == 0 {
		n, _, err = unix.Recvfrom(fd, b, unix.MSG_DONTWAIT|peek)
		switch {
		case err == nil && (n > 0 || len(b) == 0):
			return record.ApplicationData, n, 0, nil
		case err == nil, err == unix.ECONNRESET:
			if failure := a.Failure(); failure != nil {
				return 0, 0, 0, errnoOf(failure)
			}
			return record.ApplicationData, 0, 0, err
		case err != unix.EAGAIN:
			return 0, 0, 0, err
		}
	} else if queued, qerr := unix.IoctlGetInt(fd, unix.SIOCINQ); qerr == nil && queued > 0 && !atMark(fd) {
		return 0, 0, 0, unix.EAGAIN // data comes first
	}
	c, all, ok := a.TakeControl(len(b), peek != 0)
	if !ok {
		if r.flags&unix.MSG_ERRQUEUE != 0 {
			return 0, 0, 0, unix.EAGAIN
		}
		if a.Expired() {
			return 0, 0, 0, unix.EKEYEXPIRED
		}
		return 0, 0, 0, errWait
	}
	if all {
		outFlags = unix.MSG_EOR
		if peek == 0 {
			takeMark(fd)
		}
	}
	return c.Type, copy(b, c.Payload), outFlags, nil
}

// atMark reports whether a control record's mark is next.
func atMark(fd int) bool {
	at, err := unix.IoctlGetInt(fd, unix.SIOCATMARK)
	return err == nil && at == 1
}

// takeMark takes the mark of a control record out of the program's queue.
func takeMark(fd int) {
	var b [1]byte
	unix.Recvfrom(fd, b[:], unix.MSG_OOB|unix.MSG_DONTWAIT)
}

// deliver gives the program what was received, with its type.
func (r *reception) deliver(n *seccomp.Notification, typ record.ContentType, b []byte, flags int) {
	if _, err := n.WriteVec(r.v, b); err != nil {
		fail(n, err)
		return
	}
	clear(b)
	h := r.h
	h.Namelen, h.Flags = 0, int32(flags)
	var out uint64
	if len(b) > 0 || typ != record.ApplicationData {
		var c [cmsgSpace]byte
		binary.LittleEndian.PutUint64(c[:], cmsgType)
		binary.LittleEndian.PutUint32(c[8:], unix.SOL_TLS)
		binary.LittleEndian.PutUint32(c[12:], tlsGetRecordType)
		c[cmsgHead] = byte(typ)
		if h.Controllen >= cmsgType {
			out = min(h.Controllen, cmsgSpace)
			if err := n.Write(h.Control, c[:out]); err != nil {
				fail(n, err)
				return
			}
		} else {
			h.Flags |= unix.MSG_CTRUNC
		}
	}
	if r.flags&unix.MSG_ERRQUEUE != 0 {
		h.Flags |= unix.MSG_ERRQUEUE
	}
	h.Controllen = out
	if err := n.WriteMsghdr(n.Args[1], h); err != nil {
		fail(n, err)
		return
	}
	n.Respond(int64(len(b)), 0)
}

// pollInterval is how long a waiting call does not notice a signal.
const pollInterval = 20 * time.Millisecond

// wait answers a call that blocks.
func (r *reception) wait(n *seccomp.Notification) {
	for {
		if r.try(n) {
			return
		}
		fd, err := n.GetFD(int(int32(n.Args[0])))
		if err != nil {
			fail(n, err)
			return
		}
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLPRI | unix.POLLRDHUP}}
		unix.Poll(p[:], int(pollInterval/time.Millisecond))
		unix.Close(fd)
		if errno, err := n.Interrupted(); err != nil {
			return
		} else if errno != 0 {
			if !r.deadline.IsZero() {
				errno = unix.EINTR
			}
			n.Respond(0, errno)
			return
		}
		select {
		case <-n.Done():
			n.Respond(0, unix.EINTR)
			return
		default:
		}
	}
}

// expired reports whether SO_RCVTIMEO has passed; the first call starts it.
func (r *reception) expired(fd int) bool {
	if r.deadline.IsZero() {
		tv, err := unix.GetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO)
		if err != nil || tv.Sec == 0 && tv.Usec == 0 {
			return false
		}
		r.deadline = time.Now().Add(time.Duration(tv.Nano()))
	}
	return !time.Now().Before(r.deadline)
}

// nextRecord is getsockopt(AFTLS_NEXT_RECORD): the type and length of the control
// record at which reading stopped. Its bytes are what read(2) gives next.
func (t *tlsSocket) nextRecord(n *seccomp.Notification) ([]byte, error) {
	t.mu.Lock()
	a := t.a
	t.mu.Unlock()
	if a == nil {
		return nil, unix.ENOTCONN
	}
	fd, err := n.GetFD(int(int32(n.Args[0])))
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	c, _, ok := a.TakeControl(record.MaxPlaintext, true)
	if !ok {
		return nil, unix.EAGAIN
	}
	if queued, err := unix.IoctlGetInt(fd, unix.SIOCINQ); err != nil || queued > 0 && !atMark(fd) {
		return nil, unix.EAGAIN // data comes first
	}
	takeMark(fd)
	if err := a.Inline(); err != nil {
		return nil, err
	}
	b := []byte{byte(c.Type), 0}
	return binary.NativeEndian.AppendUint16(b, uint16(len(c.Payload))), nil
}

// messages performs sendmmsg and recvmmsg where they have control messages: of
// one message, as there is no program that sends more records so.
func (t *tlsSocket) messages(n *seccomp.Notification) {
	h, err := n.ReadMsghdr(n.Args[1])
	if err != nil {
		fail(n, err)
		return
	}
	if h.Controllen == 0 {
		n.Continue()
		return
	}
	n.Respond(0, unix.EOPNOTSUPP)
}
