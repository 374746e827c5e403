package pump

import (
	"io"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pairBuffer is how many bytes of plaintext wait in each direction of a pair.
// Less costs wake-ups, more falls out of the processor's cache.
const pairBuffer = 1 << 20

// maxPlaces is into how many slices ReadBuffers reads at once.
const maxPlaces = 64

// End is our half of a pair of Unix stream sockets. One goroutine may read and
// one may write at the same time.
type End struct {
	f   *os.File
	raw syscall.RawConn

	mu sync.Mutex // reading, which never waits

	// stale says that the first byte of our queue was given out already. It
	// stays there so that our death is ECONNRESET to the program (unix(7): a
	// socket closed with something unread resets its peer).
	stale bool
	ended bool // the program wrote its last byte

	records bool   // SEQPACKET: see messages_linux.go
	message int    // bytes of the message that is stale
	given   uint64 // bytes given out
	limit   uint64 // of given: see Stop
	count   int32  // what the kernel answers

	read    *reading // while one is under way
	control func(fd uintptr)
	write   struct {
		p   []byte
		err error
	}
	tryWrite func(fd uintptr) bool
}

// reading is one call of ReadBuffers.
type reading struct {
	places [][]byte
	n      int
	err    error
	iov    [maxPlaces + 1]unix.Iovec
	skip   [1]byte
}

// readings are shared: an end that is idle needs none.
var readings = sync.Pool{New: func() any { return new(reading) }}

// NewPair makes a pair of Unix stream sockets. The program gets the second half,
// which blocks and is close-on-exec; it is the caller's to close as soon as the
// program has it, as somebody who holds it hides the program's close.
func NewPair() (*End, *os.File, error) { return newPair(unix.SOCK_STREAM) }

func newPair(typ int) (*End, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range fds {
		// Forcing takes CAP_NET_ADMIN; otherwise net.core.wmem_max is the limit.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, pairBuffer) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, pairBuffer)
		}
	}
	// The byte that makes the pair fail-closed before the program wrote any.
	_, err = unix.Write(fds[1], []byte{0})
	if err == nil {
		err = unix.SetNonblock(fds[0], true)
	}
	if err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	e := &End{f: os.NewFile(uintptr(fds[0]), "plaintext end"), stale: true, records: typ == unix.SOCK_SEQPACKET, message: 1, limit: NoStop}
	e.control, e.tryWrite = e.readFD, e.writeFD
	if e.raw, err = e.f.SyscallConn(); err != nil {
		e.f.Close()
		unix.Close(fds[1])
		return nil, nil, err
	}
	return e, os.NewFile(uintptr(fds[1]), "plaintext"), nil
}

// Read is ReadBuffers into one slice.
func (e *End) Read(p []byte) (int, error) {
	one := [1][]byte{p}
	return e.ReadBuffers(one[:])
}

// ReadBuffers fills p in order with what the program wrote so far, up to a Stop. It
// does not wait: the error is io.EOF when there is nothing, and Ended tells whether
// there will be more.
func (e *End) ReadBuffers(p [][]byte) (n int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.given >= e.limit {
		return 0, io.EOF
	}
	r := readings.Get().(*reading)
	defer readings.Put(r)
	r.places, e.read = p, r
	err = ended(e.raw.Control(e.control))
	e.read, r.places = nil, nil
	if err != nil {
		return 0, err
	}
	e.given += uint64(max(r.n, 0))
	return r.n, r.err
}

// Ended reports whether ReadBuffers has found that the program writes no more.
func (e *End) Ended() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ended
}

// NoStop is the offset of no stop.
const NoStop = ^uint64(0)

// Stop has reading end at this offset of what the program writes, which is not
// before what was given out, until another one is set. Everything that is to happen
// behind those bytes and in front of the next ones can then.
func (e *End) Stop(offset uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.limit = offset
}

// StopHere is Stop at Written, unless there is one before that already.
func (e *End) StopHere() (written uint64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	written, err = e.written()
	if err == nil {
		e.limit = min(e.limit, written)
	}
	return written, err
}

// Written is how many bytes the program has written so far, given out or not.
func (e *End) Written() (n uint64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.written()
}

func (e *End) written() (n uint64, err error) {
	cerr := e.raw.Control(func(fd uintptr) {
		var queued int
		queued, err = e.inQueue(int(fd))
		n = e.given + uint64(queued-e.staleLen())
	})
	if err == nil {
		err = cerr
	}
	return n, err
}

// inQueue is how many bytes lie in our queue.
func (e *End) inQueue(fd int) (int, error) {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), unix.SIOCINQ, uintptr(unsafe.Pointer(&e.count)))
	if errno != 0 {
		return 0, os.NewSyscallError("ioctl", errno)
	}
	return int(e.count), nil
}

func (e *End) readFD(fd uintptr) {
	r := e.read
	r.n, r.err = e.readPlaces(int(fd), r)
	clear(r.iov[:])
	if r.n == 0 && r.err == nil {
		r.err = io.EOF
	}
}

func (e *End) readPlaces(fd int, r *reading) (int, error) {
	first := 0 // bytes in front that were given out
	if e.stale {
		first = 1
	}
	queued, err := e.queued(fd, first)
	if err != nil || queued <= first {
		return 0, err
	}
	// The last byte stays; what lies behind a stop stays, too.
	most, last := queued-1, true
	if left := e.limit - e.given; left < uint64(queued-first) {
		most, last = first+int(left), false
	}
	r.iov[0].Base = &r.skip[0]
	r.iov[0].SetLen(first)
	want, k := first, 1
	for _, p := range r.places {
		if want < most && k < len(r.iov) && len(p) > 0 {
			m := min(len(p), most-want)
			r.iov[k].Base = &p[0]
			r.iov[k].SetLen(m)
			want += m
			k++
		}
	}
	got := 0
	if want > 0 {
		n, _, errno := syscall.Syscall(syscall.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&r.iov)), uintptr(k))
		if errno == syscall.EAGAIN || errno == syscall.EINTR {
			return 0, nil
		}
		if errno != 0 {
			return 0, os.NewSyscallError("readv", errno)
		}
		if got = int(n); got == 0 {
			return 0, nil
		}
		e.stale = false
		got -= first
		if int(n) < want || want < most || !last {
			return got, nil // and more lies behind it
		}
	}
	// The last byte is given out, and stays.
	if at := place(r.places, got); at != nil {
		n, errno := recv(fd, at[:1], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if errno == 0 && n == 1 {
			e.stale = true
			got++
		}
	}
	return got, nil
}

// recv is recv(2), which is to be had elsewhere only with an address that is allocated.
func recv(fd int, p []byte, flags int) (int, unix.Errno) {
	n, _, errno := syscall.Syscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), uintptr(flags), 0, 0)
	return int(n), errno
}

// queued is how many bytes lie in our queue. Where that is no more than first
// it finds out whether the program ended its writing.
func (e *End) queued(fd, first int) (int, error) {
	n, err := e.inQueue(fd)
	if err != nil {
		return 0, err
	}
	if n > first || e.ended {
		return n, nil
	}
	if hangup(fd, unix.POLLRDHUP|unix.POLLHUP) {
		// Whatever it wrote before is in the queue by now.
		if n, err = e.inQueue(fd); err != nil {
			return 0, err
		}
		e.ended = n <= first
	}
	return n, nil
}

func hangup(fd int, events int16) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	unix.Poll(p[:], 0)
	return p[0].Revents&events != 0
}

// place returns the rest of the places behind n bytes, up to the end of a slice.
func place(places [][]byte, n int) []byte {
	for _, p := range places {
		if n < len(p) {
			return p[n:]
		}
		n -= len(p)
	}
	return nil
}

// Write gives p to the program. It waits while the program does not read.
func (e *End) Write(p []byte) (n int, err error) {
	e.write.p, e.write.err = p, nil
	if err = ended(e.raw.Write(e.tryWrite)); err == nil {
		err = e.write.err
	}
	n = len(p) - len(e.write.p)
	e.write.p = nil
	return n, err
}

func (e *End) writeFD(fd uintptr) bool {
	w := &e.write
	for len(w.p) > 0 {
		n, err := unix.SendmsgN(int(fd), w.p, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch err {
		case nil:
			w.p = w.p[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			w.err = os.NewSyscallError("write", err)
			return true
		}
	}
	return true
}

// wait calls try until it is true, each time something may have changed for a
// reader of the end.
func (e *End) wait(try func() bool) error {
	return ended(e.raw.Read(func(uintptr) bool { return try() }))
}

// gone waits until the program has closed its half, or the end is closed.
func (e *End) gone() error {
	return ended(e.raw.Read(func(fd uintptr) bool { return hangup(int(fd), unix.POLLHUP) }))
}

// Mark puts an urgent mark at this place of what the program reads (MSG_OOB;
// Linux 5.15): poll says POLLPRI, a read stops there, and recv(MSG_OOB) gives b.
// There can be one at a time. It waits as Write does.
//
// marked is called when the mark is there, or never will be as the program is gone.
// The mark is put and marked called under mu.
func (e *End) Mark(b byte, mu sync.Locker, marked func()) (err error) {
	cerr := e.raw.Write(func(fd uintptr) bool {
		mu.Lock()
		defer mu.Unlock()
		for {
			_, err = unix.SendmsgN(int(fd), []byte{b}, nil, nil, unix.MSG_OOB|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			switch err {
			case unix.EINTR:
			case unix.EAGAIN:
				return false
			default:
				marked()
				return true
			}
		}
	})
	if cerr != nil {
		return cerr
	}
	return os.NewSyscallError("sendmsg", err)
}

// SetWriteDeadline ends a Write that waits for the program at t; it can be moved.
func (e *End) SetWriteDeadline(t time.Time) error { return e.f.SetWriteDeadline(t) }

// Finish tells the program that nothing more comes: its reads give what is
// queued and then 0. The other direction goes on.
func (e *End) Finish() error {
	return e.shutdown(unix.SHUT_WR)
}

// Refuse ends the program's writing with EPIPE; what it wrote and was not read
// stays. Its reading goes on.
func (e *End) Refuse() error { return e.shutdown(unix.SHUT_RD) }

func (e *End) shutdown(how int) (err error) {
	if cerr := e.raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), how) }); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("shutdown", err)
}

// Close closes our half. To a program that still has its own this is an error,
// ECONNRESET behind what is queued for it.
func (e *End) Close() error { return e.f.Close() }

// CloseClean closes our half as a clean end: the byte that was kept back is taken
// out of the queue first. If anything lies behind it, which the program wrote and
// nobody read, the close is an error to the program all the same.
func (e *End) CloseClean() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stale {
		e.raw.Control(func(fd uintptr) {
			var b [1]byte
			recv(int(fd), b[:], unix.MSG_DONTWAIT)
		})
		e.stale = false
	}
	return e.f.Close()
}

// Gone reports whether the program has closed its half.
func (e *End) Gone() (gone bool) {
	if e.raw.Control(func(fd uintptr) { gone = hangup(int(fd), unix.POLLHUP) }) != nil {
		return true
	}
	return gone
}

// Hangup reports whether the program writes no more, whatever of what it wrote is
// still to be read.
func (e *End) Hangup() (ended bool) {
	if e.raw.Control(func(fd uintptr) { ended = hangup(int(fd), unix.POLLRDHUP|unix.POLLHUP) }) != nil {
		return true
	}
	return ended
}
