package pump

import (
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// A plaintext end of datagrams is a pair of SEQPACKET sockets, too, and many messages
// are moved with one call. Reading looks at what is new first (MSG_PEEK, behind what
// was given out: SO_PEEK_OFF), and then takes all but the newest out of the queue:
// at no moment is it empty, so that our death is always an error to the program.

// maxMessages is how many messages are moved with one call.
const maxMessages = 32

// NewDatagramPair is NewPair for datagrams.
func NewDatagramPair() (*End, *os.File, error) {
	e, theirs, err := newPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, nil, err
	}
	cerr := e.raw.Control(func(fd uintptr) {
		// Behind the message that makes the pair fail-closed.
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEEK_OFF, e.message)
	})
	if err == nil {
		err = cerr
	}
	if err != nil {
		e.Close()
		theirs.Close()
		return nil, nil, os.NewSyscallError("setsockopt", err)
	}
	return e, theirs, nil
}

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// messages is a batch on its way, in either direction. They are shared: an end that
// is idle has none.
type messages struct {
	room  [maxMessages][record.MaxPlaintext]byte
	slots [maxMessages][]byte // of room
	sizes [maxMessages]int
	list  [maxMessages][]byte // the messages that there are
	n     int

	end     *End
	hdr     [maxMessages]mmsghdr
	iov     [maxMessages]unix.Iovec
	long    bool // behind those there is one that is longer than a record
	sent    int
	err     error
	takeFD  func(fd uintptr) // take and give, made once
	giveFD  func(fd uintptr)
	touched int // slots that hold plaintext
}

var batches = sync.Pool{New: func() any {
	m := new(messages)
	for i := range m.slots {
		m.slots[i] = m.room[i][:]
	}
	m.takeFD, m.giveFD = m.take, m.give
	return m
}}

// release gives the batch back, without the plaintext.
func (m *messages) release() {
	for i := range m.touched {
		clear(m.slots[i][:min(m.sizes[i], record.MaxPlaintext)])
	}
	clear(m.list[:m.n])
	m.n, m.touched, m.end, m.err, m.long = 0, 0, nil, nil, false
	batches.Put(m)
}

// takeMessages reads what the program wrote, without waiting: nothing where there is
// nothing, and Ended tells whether there will be more. Empty messages are passed
// over. A message longer than a record is ErrTooLong, behind those before it.
func (e *End) takeMessages(m *messages) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	m.end, m.n, m.err = e, 0, nil
	if err := ended(e.raw.Control(m.takeFD)); err != nil {
		return err
	}
	return m.err
}

func (m *messages) take(fd uintptr) {
	for i := range m.hdr {
		m.iov[i].Base = &m.slots[i][0]
		m.iov[i].SetLen(len(m.slots[i]))
		m.hdr[i].hdr = unix.Msghdr{Iov: &m.iov[i]}
		m.hdr[i].hdr.SetIovlen(1)
	}
	k, errno := m.recvmmsg(fd, maxMessages, unix.MSG_PEEK|unix.MSG_TRUNC)
	if errno == unix.EAGAIN {
		return
	}
	if errno != 0 {
		m.err = os.NewSyscallError("recvmmsg", errno)
		return
	}
	// The end of the program's writing looks like empty messages, for ever.
	whole := 0 // up to the last that is none
	bytes := 0
	for i := range k {
		m.sizes[i] = int(m.hdr[i].n)
		m.touched = i + 1
		if m.sizes[i] > record.MaxPlaintext {
			k, m.long = i, true
			break
		}
		bytes += m.sizes[i]
		if m.sizes[i] > 0 {
			m.list[m.n] = m.slots[i][:m.sizes[i]]
			m.n++
			whole = i + 1
		}
	}
	e := m.end
	if whole < k && !m.long && hangup(int(fd), unix.POLLRDHUP|unix.POLLHUP) {
		// Whatever it wrote before is in the queue by now.
		n, err := e.inQueue(int(fd))
		if err != nil {
			m.err = err
			return
		}
		if n <= e.staleLen()+bytes {
			e.ended, k = true, whole
		}
	}
	if k == 0 {
		return
	}
	old := k - 1
	if e.stale {
		old++
	}
	e.stale, e.message = true, m.sizes[k-1]
	m.err = m.discard(fd, old)
}

// discard takes n messages out of the queue.
func (m *messages) discard(fd uintptr, n int) error {
	for i := range min(n, maxMessages) {
		m.hdr[i].hdr = unix.Msghdr{}
	}
	for n > 0 {
		k, errno := m.recvmmsg(fd, min(n, maxMessages), 0)
		if errno != 0 {
			return os.NewSyscallError("recvmmsg", errno)
		}
		n -= k
	}
	return nil
}

func (m *messages) recvmmsg(fd uintptr, n, flags int) (int, syscall.Errno) {
	for {
		k, _, errno := syscall.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&m.hdr[0])), uintptr(n), uintptr(flags|unix.MSG_DONTWAIT), 0, 0)
		if errno != unix.EINTR {
			return int(k), errno
		}
	}
}

// giveMessages gives the program the messages of a batch, and returns how many it had
// room for: it does not wait.
func (e *End) giveMessages(m *messages) (int, error) {
	m.sent, m.err = 0, nil
	if err := ended(e.raw.Control(m.giveFD)); err != nil {
		return 0, err
	}
	return m.sent, m.err
}

func (m *messages) give(fd uintptr) {
	for i, p := range m.list[:m.n] {
		m.iov[i].Base = &p[0]
		m.iov[i].SetLen(len(p))
		m.hdr[i].hdr = unix.Msghdr{Iov: &m.iov[i]}
		m.hdr[i].hdr.SetIovlen(1)
	}
	for m.sent < m.n {
		k, _, errno := syscall.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&m.hdr[m.sent])), uintptr(m.n-m.sent), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			m.sent += int(k)
		case unix.EINTR:
		case unix.EAGAIN, unix.ENOBUFS:
			return
		default:
			m.err = os.NewSyscallError("sendmmsg", errno)
			return
		}
	}
}

// AwaitGone waits until the program has closed its half, which is nil, or Wake is
// called, or the end is closed.
func (e *End) AwaitGone() error { return e.gone() }

// Wake ends AwaitGone with os.ErrDeadlineExceeded.
func (e *End) Wake() { e.f.SetReadDeadline(time.Unix(1, 0)) }

// closeDatagrams is CloseClean where all that the program wrote was given out: empty
// messages at its end may have stayed.
func (e *End) closeDatagrams() error {
	if e.Ended() {
		m := batches.Get().(*messages)
		e.raw.Control(func(fd uintptr) { m.discard(fd, maxMessages) })
		m.release()
		e.mu.Lock()
		e.stale = false
		e.mu.Unlock()
	}
	return e.CloseClean()
}
