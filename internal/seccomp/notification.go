//go:build linux && amd64

package seccomp

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// ErrGone says that the call is not there any more: the thread that made it was
// killed or interrupted. Nothing is to be done for it.
var ErrGone = errors.New("seccomp: the thread that made the call is gone")

// A Notification is one trapped call. The thread that made it waits for the
// answer. A Notification is for one goroutine at a time.
type Notification struct {
	ID   uint64    // of this call, and of no other of the listener
	PID  int       // of the thread that calls; see TGID
	Nr   int       // of the call: unix.SYS_SENDMSG
	Args [6]uint64 // of the call

	listener *Listener
	buf      []uint64 // struct seccomp_notif
	answer   []uint64 // struct seccomp_notif_resp
	settled  bool     // answered, or with Later
}

func newNotification(l *Listener) *Notification {
	return &Notification{
		listener: l,
		buf:      make([]uint64, words(l.sizes.notif, notifSize)),
		answer:   make([]uint64, words(l.sizes.resp, respSize)),
	}
}

// take sets the fields from what was received.
func (n *Notification) take() {
	h := head(n.buf)
	n.ID, n.PID, n.Nr, n.Args, n.settled = h.id, int(h.pid), int(h.nr), h.args, false
}

// Later has f answer the call in a goroutine, with a Notification of its own, and
// reports true: the handler returns then without an answer. It reports false when
// as many calls as Serve allows are with Later. The handler must answer now then,
// and must not wait for a place: what would free one may be a call that waits
// behind this one. EAGAIN is what a call may say that found no room.
//
// A call that f left without an answer gets ENOSYS.
func (n *Notification) Later(f func(n *Notification)) bool {
	l := n.listener
	select {
	case l.places <- struct{}{}:
	default:
		return false
	}
	n.settled = true
	m := newNotification(l)
	copy(m.buf, n.buf)
	m.take()
	l.later.Go(func() {
		defer func() { <-l.places }()
		f(m)
		if !m.settled {
			m.Respond(0, unix.ENOSYS)
		}
	})
	return true
}

// Done is closed when the listener receives no more calls; f of Later should end
// then.
func (n *Notification) Done() <-chan struct{} { return n.listener.done }

// Valid reports whether the thread still waits for this call. What was read of its
// process before counts only if it does: else its number may be that of another
// one by now.
func (n *Notification) Valid() bool { return idValid(n.listener.fd, n.ID) == 0 }

// Respond ends the call: with val, or with an error if errno is not 0. The error
// is ErrGone, or one of the kernel's if it has an answer already (EINPROGRESS).
func (n *Notification) Respond(val int64, errno unix.Errno) error {
	return n.send(notifResp{id: n.ID, val: val, errno: -int32(errno)})
}

// Continue lets the kernel perform the call as if it had not been trapped
// (Linux 5.5). The kernel reads the arguments once more, and what they point to,
// and the program can have changed that. So it is only for a call that cannot hurt
// whatever it says by then. Errors as Respond.
func (n *Notification) Continue() error {
	return n.send(notifResp{id: n.ID, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE})
}

func (n *Notification) send(r notifResp) error {
	n.settled = true
	for {
		errno := send(n.listener.fd, n.answer, r)
		if errno != unix.EINTR {
			return n.error("ioctl SECCOMP_IOCTL_NOTIF_SEND", errno)
		}
	}
}

// Lowest is the place of a descriptor for which any number will do.
const Lowest = -1

// AddFD gives the process a descriptor of the file that is our descriptor src: at
// the number at, in place of what is there, or at the lowest free one (Linux 5.9).
// It returns the number. src stays the caller's. The call still waits for its
// answer.
//
// The error is ErrGone, or the kernel's: EBADF for a number that the process may
// not use, EMFILE if it has too many.
func (n *Notification) AddFD(src, at int, closeOnExec bool) (int, error) {
	return n.addFD(src, at, closeOnExec, 0)
}

// AddFDSend is AddFD and the answer in one: the call returns the number of the
// descriptor. It cannot happen that the process has the one and not the other
// (Linux 5.14). After an error the call still waits for its answer.
func (n *Notification) AddFDSend(src, at int, closeOnExec bool) (int, error) {
	fd, err := n.addFD(src, at, closeOnExec, unix.SECCOMP_ADDFD_FLAG_SEND)
	if err == nil {
		n.settled = true
	}
	return fd, err
}

func (n *Notification) addFD(src, at int, closeOnExec bool, flags uint32) (int, error) {
	a := notifAddFD{id: n.ID, flags: flags, srcFD: uint32(src)}
	if at != Lowest {
		a.flags |= unix.SECCOMP_ADDFD_FLAG_SETFD
		a.newFD = uint32(at)
	}
	if closeOnExec {
		a.newFDFlags = unix.O_CLOEXEC
	}
	fd, errno := addFD(n.listener.fd, a)
	if errno != 0 {
		return -1, n.error("ioctl SECCOMP_IOCTL_NOTIF_ADDFD", errno)
	}
	return fd, nil
}

func (n *Notification) error(call string, errno unix.Errno) error {
	switch errno {
	case 0:
		return nil
	case unix.ENOENT:
		return ErrGone
	}
	return os.NewSyscallError(call, errno)
}
