package afd

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/aftls/aftls/internal/seccomp"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// sendmsg, recvmsg, sendmmsg and recvmmsg on a TLS socket. Without --strict those
// without a buffer for control messages go on as calls on the Unix socket that the
// program holds: what they read and write there is data.

const (
	cmsgHead  = 16                  // struct cmsghdr
	cmsgType  = cmsgHead + 1        // of one with a record type
	cmsgSpace = (cmsgType + 7) &^ 7 // CMSG_SPACE(1)
	maxCmsgs  = 4096                // bytes of control messages that are looked at

	mmsgSize = seccomp.SizeofMsghdr + 8 // struct mmsghdr
)

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

// buffersOf returns the memory of a message.
func buffersOf(n *seccomp.Notification, h seccomp.Msghdr) ([]seccomp.Iovec, error) {
	const maxIovecs = 1024 // UIO_MAXIOV
	if h.Iovlen > maxIovecs {
		return nil, unix.EMSGSIZE
	}
	v, err := n.ReadIovecs(nil, h.Iov, h.Iovlen)
	if err == nil && badRange(v) {
		err = unix.EFAULT
	}
	return v, err
}

// load makes a transmission that of the message at addr.
func (x *transmission) load(n *seccomp.Notification, addr uint64, flags int) error {
	h, err := n.ReadMsghdr(addr)
	if err != nil {
		return err
	}
	return x.message(n, h, flags)
}

func (x *transmission) message(n *seccomp.Notification, h seccomp.Msghdr, flags int) error {
	v, err := buffersOf(n, h)
	if err != nil {
		return err
	}
	if flags, err = sendFlags(flags); err != nil {
		return err
	}
	x.begin(&memory{v}, sum(v), flags)
	if h.Controllen == 0 {
		return nil
	}
	if x.typ, err = recordType(n, h); err != nil {
		return err
	}
	if flags&unix.MSG_MORE != 0 {
		return unix.EINVAL // a record of another type is never held open
	}
	return nil
}

// isData reports whether a call is a sendmsg or recvmsg without a buffer for control
// messages: the kernel performs those on streams.
func isData(n *seccomp.Notification) bool {
	switch n.Nr {
	case unix.SYS_SENDMSG:
	case unix.SYS_RECVMSG:
		if n.Args[2]&unix.MSG_ERRQUEUE != 0 {
			return false
		}
	default:
		return false
	}
	h, err := n.ReadMsghdr(n.Args[1])
	return err == nil && h.Controllen == 0
}

// sendmsg performs one with TLS_SET_RECORD_TYPE, and every one with --strict.
func (t *tlsSocket) sendmsg(n *seccomp.Notification) {
	h, err := n.ReadMsghdr(n.Args[1])
	if err != nil {
		fail(n, err)
		return
	}
	if h.Controllen == 0 && !t.isStrict() || !t.sends() {
		n.Continue()
		return
	}
	c := &writeCall{transmission: transmission{t: t, fd: int(int32(n.Args[0]))}, native: true}
	if err := c.message(n, h, int(int32(n.Args[2]))); err != nil {
		fail(n, err)
		return
	}
	perform(n, c)
}

// recvmsg performs one that has room for control messages, and every one with
// --strict.
func (t *tlsSocket) recvmsg(n *seccomp.Notification) {
	h, err := n.ReadMsghdr(n.Args[1])
	if err != nil {
		fail(n, err)
		return
	}
	flags := int(int32(n.Args[2]))
	if h.Controllen == 0 && flags&unix.MSG_ERRQUEUE == 0 && !t.isStrict() || !t.receives() {
		n.Continue()
		return
	}
	v, err := buffersOf(n, h)
	if err != nil {
		fail(n, err)
		return
	}
	addr := n.Args[1]
	c := &readCall{reception: reception{t: t, fd: int(int32(n.Args[0])), flags: flags, room: h.Controllen >= cmsgType}}
	c.finish = func(n *seccomp.Notification, r *reception) error { return r.writeHeader(n, addr, h) }
	c.start(v)
	perform(n, c)
}

// writeHeader writes what recvmsg says of a message besides its bytes.
func (r *reception) writeHeader(n *seccomp.Notification, addr uint64, h seccomp.Msghdr) error {
	h.Namelen, h.Flags = 0, int32(r.flags&unix.MSG_CMSG_CLOEXEC)
	if r.eor {
		h.Flags |= unix.MSG_EOR
	}
	if r.cut {
		h.Flags |= unix.MSG_TRUNC
	}
	if r.flags&unix.MSG_ERRQUEUE != 0 {
		h.Flags |= unix.MSG_ERRQUEUE
	}
	var out uint64
	if r.typ != 0 {
		var c [cmsgSpace]byte
		size := min(h.Controllen, cmsgType)
		binary.LittleEndian.PutUint64(c[:], size)
		binary.LittleEndian.PutUint32(c[8:], unix.SOL_TLS)
		binary.LittleEndian.PutUint32(c[12:], tlsGetRecordType)
		c[cmsgHead] = byte(r.typ)
		if size < cmsgType {
			h.Flags |= unix.MSG_CTRUNC
		}
		if size >= cmsgHead {
			if err := n.Write(h.Control, c[:size]); err != nil {
				return err
			}
			out = min(h.Controllen, cmsgSpace)
		}
	}
	h.Controllen = out
	return n.WriteMsghdr(addr, h)
}

// vector is sendmmsg or recvmmsg: messages one after the other, of which the call
// counts those that are done.
type vector struct {
	addr        uint64
	count, done int
	loaded      bool // the next message has begun
}

const maxMessages = 1024 // UIO_MAXIOV: of more the rest is not looked at

// message is where the next message is.
func (v *vector) message() uint64 { return v.addr + uint64(v.done)*mmsgSize }

// finish notes how long the message was.
func (v *vector) finish(n *seccomp.Notification, length int) error {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(length))
	if err := n.Write(v.message()+seccomp.SizeofMsghdr, b[:]); err != nil {
		return err
	}
	v.done++
	v.loaded = false
	return nil
}

func (v *vector) end(n *seccomp.Notification, err error) {
	if v.done > 0 || err == nil {
		n.Respond(int64(v.done), 0)
		return
	}
	fail(n, err)
}

// messages performs sendmmsg and recvmmsg.
func (t *tlsSocket) messages(n *seccomp.Notification) {
	sending := n.Nr == unix.SYS_SENDMMSG
	if sending && !t.sends() || !sending && !t.receives() {
		n.Continue()
		return
	}
	v := vector{addr: n.Args[1], count: int(min(uint32(n.Args[2]), maxMessages))}
	flags := int(int32(n.Args[3]))
	if !t.isStrict() && flags&unix.MSG_ERRQUEUE == 0 {
		ours, err := v.anyControl(n)
		if err != nil {
			fail(n, err)
			return
		}
		if !ours {
			n.Continue()
			return
		}
	}
	fd := int(int32(n.Args[0]))
	if sending {
		performLater(n, &sendVector{transmission: transmission{t: t, fd: fd}, vector: v, flags: flags})
		return
	}
	c := &recvVector{reception: reception{t: t, fd: fd, flags: flags}, vector: v}
	if err := c.readTimeout(n); err != nil {
		fail(n, err)
		return
	}
	performLater(n, c)
}

// anyControl reports whether a message has a buffer for control messages. Headers
// that cannot be read end the vector.
func (v *vector) anyControl(n *seccomp.Notification) (bool, error) {
	for i := range v.count {
		h, err := n.ReadMsghdr(v.addr + uint64(i)*mmsgSize)
		if err != nil {
			if i > 0 {
				err = nil
			}
			return false, err
		}
		if h.Controllen > 0 {
			return true, nil
		}
	}
	return false, nil
}

type sendVector struct {
	transmission
	vector
	flags int
}

func (c *sendVector) try(n *seccomp.Notification) bool {
	for c.done < c.count {
		if !c.loaded {
			if err := c.load(n, c.vector.message(), c.flags); err != nil {
				c.vector.end(n, err)
				return true
			}
			c.loaded = true
		}
		err := c.send(n)
		if err == errWait || err == errMore {
			return false
		}
		if err == nil {
			err = c.vector.finish(n, c.n)
		}
		c.release() // between messages others may send
		switch {
		case err == nil:
		case c.done == 0 && errors.Is(err, unix.EPIPE) && c.flags&unix.MSG_NOSIGNAL == 0:
			n.Continue() // as of one message: SIGPIPE comes with it
			return true
		default:
			c.vector.end(n, err)
			return true
		}
	}
	c.vector.end(n, nil)
	return true
}

func (c *sendVector) end(n *seccomp.Notification, errno unix.Errno) {
	err := error(c.interrupted(errno))
	if c.loaded && c.n > 0 {
		c.close()
		err = c.vector.finish(n, c.n)
	}
	c.vector.end(n, err)
}

type recvVector struct {
	reception
	vector
	h        seccomp.Msghdr
	deadline time.Time // of the call, which is only looked at between messages
}

// readTimeout reads the timeout of recvmmsg.
func (c *recvVector) readTimeout(n *seccomp.Notification) error {
	if n.Args[4] == 0 {
		return nil
	}
	var b [16]byte
	if err := n.Read(b[:], n.Args[4]); err != nil {
		return err
	}
	ts := unix.Timespec{Sec: int64(binary.NativeEndian.Uint64(b[:])), Nsec: int64(binary.NativeEndian.Uint64(b[8:]))}
	if ts.Sec < 0 || ts.Nsec < 0 || ts.Nsec >= 1e9 {
		return unix.EINVAL
	}
	const year = 365 * 24 * 3600
	c.deadline = time.Now().Add(time.Duration(min(ts.Sec, 100*year))*time.Second + time.Duration(ts.Nsec))
	return nil
}

func (c *recvVector) try(n *seccomp.Notification) bool {
	for c.done < c.count {
		if !c.loaded {
			err := c.load(n)
			if err != nil {
				c.vector.end(n, err)
				return true
			}
		}
		err := c.receive(n)
		if err == errWait || err == errMore {
			return false
		}
		if err == nil {
			err = c.finishMessage(n)
		}
		if err != nil {
			c.over(n, err)
			return true
		}
		if c.flags&unix.MSG_WAITFORONE != 0 {
			c.flags |= unix.MSG_DONTWAIT
		}
		if !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
			break
		}
	}
	c.over(n, nil)
	return true
}

func (c *recvVector) load(n *seccomp.Notification) (err error) {
	if c.h, err = n.ReadMsghdr(c.vector.message()); err != nil {
		return err
	}
	v, err := buffersOf(n, c.h)
	if err != nil {
		return err
	}
	c.room = c.h.Controllen >= cmsgType
	c.start(v)
	c.loaded = true
	return nil
}

func (c *recvVector) finishMessage(n *seccomp.Notification) error {
	if err := c.writeHeader(n, c.vector.message(), c.h); err != nil {
		return err
	}
	return c.vector.finish(n, c.n)
}

// over answers, with what is left of the timeout.
func (c *recvVector) over(n *seccomp.Notification, err error) {
	if c.done > 0 && !c.deadline.IsZero() {
		left := max(time.Until(c.deadline), 0)
		var b [16]byte
		binary.NativeEndian.PutUint64(b[:], uint64(left/time.Second))
		binary.NativeEndian.PutUint64(b[8:], uint64(left%time.Second))
		if werr := n.Write(n.Args[4], b[:]); werr != nil {
			fail(n, werr)
			return
		}
	}
	c.vector.end(n, err)
}

func (c *recvVector) end(n *seccomp.Notification, errno unix.Errno) {
	err := error(c.interrupted(errno))
	if c.loaded && c.n > 0 {
		err = c.finishMessage(n)
	}
	c.over(n, err)
}

func (c *recvVector) release() {}
