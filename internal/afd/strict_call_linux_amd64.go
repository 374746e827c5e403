package afd

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/pump"
	"github.com/aftls/aftls/internal/seccomp"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// With --strict the calls that read and write are trapped as well, and those on the
// TLS sockets that TCP_ULP made are performed here, as net/tls of Linux answers
// them. Sockets of AF_TLS are the same with --strict and without.

// strictCalls are trapped with --strict only.
var strictCalls = []int{
	unix.SYS_READ, unix.SYS_READV, unix.SYS_PREADV2, unix.SYS_RECVFROM,
	unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_PWRITEV2, unix.SYS_SENDTO,
	unix.SYS_SENDFILE, unix.SYS_SPLICE,
	unix.SYS_LISTEN, unix.SYS_CONNECT,
}

func strictRules() (rules []seccomp.Rule) {
	for _, nr := range strictCalls {
		rules = append(rules, seccomp.Rule{Nr: nr, Then: seccomp.Notify})
	}
	return append(rules, seccomp.Rule{Nr: unix.SYS_GETSOCKOPT, Then: seccomp.Notify,
		When: []seccomp.Test{seccomp.ArgIn(1, unix.SOL_SOCKET), seccomp.ArgIn(2, unix.SO_ERROR, unix.SO_DOMAIN, unix.SO_PROTOCOL)}})
}

// isFilter reports whether an option of SOL_SOCKET is about filters.
func isFilter(name int) bool {
	return name != unix.SO_ERROR && name != unix.SO_DOMAIN && name != unix.SO_PROTOCOL
}

// isStrict reports whether the calls on a socket are performed here.
func (t *tlsSocket) isStrict() bool { return t.s.Strict && t.linux }

// strict performs one of strictCalls, and reports whether it was one.
func (s *Supervisor) strict(n *seccomp.Notification) bool {
	var perform func(*tlsSocket, *seccomp.Notification)
	at := 0
	switch n.Nr {
	case unix.SYS_READ, unix.SYS_READV, unix.SYS_PREADV2, unix.SYS_RECVFROM:
		perform = (*tlsSocket).read
	case unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_PWRITEV2, unix.SYS_SENDTO, unix.SYS_SENDFILE:
		perform = (*tlsSocket).write
	case unix.SYS_SPLICE:
		perform = (*tlsSocket).spliceOut
	case unix.SYS_LISTEN:
		perform = func(_ *tlsSocket, n *seccomp.Notification) { n.Respond(0, unix.EINVAL) }
	case unix.SYS_CONNECT:
		perform = (*tlsSocket).connect
	default:
		return false
	}
	if !s.any.Load() {
		n.Continue()
		return true
	}
	t := s.find(n, int(int32(n.Args[at])))
	if t == nil && n.Nr == unix.SYS_SPLICE {
		at, perform = 2, (*tlsSocket).spliceIn
		t = s.find(n, int(int32(n.Args[at])))
	}
	if t != nil && t.dgram {
		t.datagramCall(n)
		return true
	}
	if t == nil || !t.isStrict() {
		n.Continue()
		return true
	}
	perform(t, n)
	return true
}

// connect answers connect(2) on a socket that has a peer. Linux refuses to take
// the peer away from a TLS socket.
func (t *tlsSocket) connect(n *seccomp.Notification) {
	var family [2]byte
	if int(int32(n.Args[2])) < len(family) {
		n.Respond(0, unix.EINVAL)
		return
	}
	if err := n.Read(family[:], n.Args[1]); err != nil {
		fail(n, err)
		return
	}
	if family == [2]byte{} { // AF_UNSPEC
		n.Respond(0, unix.EOPNOTSUPP)
		return
	}
	n.Respond(0, unix.EISCONN)
}

// A call is one that may have to wait.
type call interface {
	// try goes on with the call as far as that goes without waiting, and reports
	// whether it is answered. It is bounded.
	try(n *seccomp.Notification) (answered bool)

	// pause waits until trying again may help, at most pollInterval.
	pause(n *seccomp.Notification) error

	// end answers with what is done so far, or with errno if that is nothing.
	end(n *seccomp.Notification, errno unix.Errno)

	// release gives back what the call holds. It comes last.
	release()
}

// perform has a call answered: here, if it need not wait.
func perform(n *seccomp.Notification, c call) {
	if c.try(n) {
		c.release()
		return
	}
	performLater(n, c)
}

// performLater has a call answered by somebody who may wait.
func performLater(n *seccomp.Notification, c call) {
	later := n.Later(func(n *seccomp.Notification) {
		defer c.release()
		for !c.try(n) {
			if !pause(n, c) {
				return
			}
		}
	})
	if !later {
		c.end(n, unix.EAGAIN)
		c.release()
	}
}

// pollInterval is how long a waiting call does not notice a signal.
const pollInterval = 20 * time.Millisecond

// pause is false when the call is answered: because of a signal, or because the
// supervisor ends.
func pause(n *seccomp.Notification, c call) bool {
	if err := c.pause(n); err != nil {
		c.end(n, errnoOfCall(err))
		return false
	}
	errno, err := n.Interrupted()
	switch {
	case errors.Is(err, seccomp.ErrGone):
		return false
	case err == nil && errno == 0:
		select {
		case <-n.Done():
			errno = unix.EINTR
		default:
			return true
		}
	case err != nil:
		errno = errnoOfCall(err)
	}
	c.end(n, errno)
	return false
}

// pollAt waits for events at a descriptor of the program. It is open here for only
// as long as that takes: who holds it hides the program's close.
func pollAt(n *seccomp.Notification, fd int, events int16) error {
	ours, err := n.GetFD(fd)
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		<-after() // of ours: others who wait give theirs back
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(ours)
	p := [1]unix.PollFd{{Fd: int32(ours), Events: events}}
	unix.Poll(p[:], int(pollInterval/time.Millisecond))
	return nil
}

// What a step of a call says besides that it is over or has failed.
var (
	errWait = errors.New("afd: the call has to wait")
	errMore = errors.New("afd: the call goes on without waiting")
)

// errnoOfCall is the errno with which a call ends.
func errnoOfCall(err error) unix.Errno {
	if errors.Is(err, seccomp.ErrNotSocket) {
		return unix.ENOTSOCK
	}
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return errnoOf(err)
}

// patience is how long a call may wait: SO_RCVTIMEO or SO_SNDTIMEO, from the first
// time that it has to.
type patience struct{ deadline time.Time }

// over reports whether that time has passed.
func (p *patience) over(fd, option int) bool {
	if p.deadline.IsZero() {
		tv, err := unix.GetsockoptTimeval(fd, unix.SOL_SOCKET, option)
		if err != nil || tv.Sec == 0 && tv.Usec == 0 {
			return false
		}
		p.deadline = time.Now().Add(time.Duration(tv.Nano()))
	}
	return !time.Now().Before(p.deadline)
}

// interrupted is the errno for a call that a signal ends: one that has a timeout is
// never restarted (signal(7)).
func (p *patience) interrupted(errno unix.Errno) unix.Errno {
	if errno == seccomp.ERESTARTSYS && !p.deadline.IsZero() {
		return unix.EINTR
	}
	return errno
}

// pieceSize is how much a call moves at a time: whole records.
const pieceSize = 16 * record.MaxPlaintext

// pieces are buffers for that. They hold plaintext, and are clear when nobody has
// them.
var pieces = sync.Pool{New: func() any { return new([pieceSize]byte) }}

// badRange reports whether memory is outside of what a program can have, which is
// EFAULT before anything is looked at.
func badRange(v []seccomp.Iovec) bool {
	const end = 1<<47 - 4096 // TASK_SIZE of asm/page_64_types.h
	for _, p := range v {
		if uint64(p.Len) > end || uint64(p.Base) > end-uint64(p.Len) {
			return true
		}
	}
	return false
}

// advance takes n bytes from the front of v.
func advance(v []seccomp.Iovec, n int) []seccomp.Iovec {
	for n > 0 {
		if n < v[0].Len {
			v[0].Base += uintptr(n)
			v[0].Len -= n
			break
		}
		n -= v[0].Len
		v = v[1:]
	}
	return v
}

func sum(v []seccomp.Iovec) (n int) {
	for _, p := range v {
		n += p.Len
	}
	return n
}

// maxTransfer is MAX_RW_COUNT of linux/fs.h: the most that one call moves.
const maxTransfer = 0x7ffff000

// memoryOf returns the memory that a call of the read or write family means: a
// buffer, or an array of them.
func memoryOf(n *seccomp.Notification) (v []seccomp.Iovec, err error) {
	switch n.Nr {
	case unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREADV2, unix.SYS_PWRITEV2:
		if v, err = n.ReadIovecs(nil, n.Args[1], n.Args[2]); err != nil {
			return nil, err
		}
	default:
		count := n.Args[2]
		if int64(count) < 0 && (n.Nr == unix.SYS_READ || n.Nr == unix.SYS_WRITE) {
			return nil, unix.EINVAL
		}
		v = []seccomp.Iovec{{Base: uintptr(n.Args[1]), Len: int(min(count, maxTransfer))}}
	}
	if badRange(v) {
		return nil, unix.EFAULT
	}
	return v, nil
}

// vectorFlags are the flags of preadv2(2) and pwritev2(2) for a socket. ok is false
// for a call that has an offset, which a socket does not.
func vectorFlags(n *seccomp.Notification) (flags int, ok bool, err error) {
	const hipri, dsync, sync, nowait = 1, 2, 4, 8
	if int64(n.Args[3]) != -1 {
		return 0, false, nil
	}
	switch f := int(n.Args[5]); {
	case f&^(hipri|dsync|sync|nowait) != 0:
		return 0, true, unix.EOPNOTSUPP
	case f&nowait != 0:
		return unix.MSG_DONTWAIT, true, nil
	}
	return 0, true, nil
}

// nonblocking reports whether the file that fd is of ours, too, has O_NONBLOCK.
func nonblocking(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_NONBLOCK != 0
}

// maxOver is how many sockets are remembered that are over.
const maxOver = 1024

// over ends the control descriptor of a socket whose association is over, and
// remembers the socket for a while: the program may not have read all of it, or
// ask why it ended. One that is forgotten is a Unix socket whose other half is
// closed.
func (s *Supervisor) over(t *tlsSocket, err error) {
	t.mu.Lock()
	ctl := t.control
	t.mu.Unlock()
	if ctl != nil {
		ctl.finish(err)
	}
	if err == pump.ErrStopped {
		s.unregister(t)
		return
	}
	s.mu.Lock()
	s.ended = append(s.ended, t)
	var oldest *tlsSocket
	if len(s.ended) > maxOver {
		oldest, s.ended = s.ended[0], append(s.ended[:0], s.ended[1:]...)
	}
	s.mu.Unlock()
	if oldest != nil {
		s.unregister(oldest)
	}
}

// strictSeq is the number of the next record as the program has sent and read them.
func (t *tlsSocket) strictSeq(d aftls.Direction) uint64 {
	if d == aftls.Receive {
		return t.a.openedSeq()
	}
	return t.a.sealedSeq()
}

// socketOption answers what a Unix socket says otherwise than a TCP socket.
func (t *tlsSocket) socketOption(name int) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	value := 0
	switch name {
	case unix.SO_ERROR:
		if t.a == nil {
			break
		}
		failure := t.a.Failure()
		if failure == nil {
			failure = t.a.SendFailure()
		}
		if failure != nil && !isClosed(failure) && !t.told.Swap(true) {
			value = int(errnoOf(failure))
		}
	case unix.SO_DOMAIN:
		value = unix.AF_INET6
		if a, ok := t.local.(*net.TCPAddr); ok && len(a.IP) == net.IPv4len {
			value = unix.AF_INET
		}
	case unix.SO_PROTOCOL:
		value = unix.IPPROTO_TCP
	default:
		return nil, unix.EOPNOTSUPP
	}
	return binary.NativeEndian.AppendUint32(nil, uint32(value)), nil
}
