package afd

import (
	"encoding/binary"
	"io"
	"os"
	"time"

	"github.com/aftls/aftls/internal/seccomp"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// sendfile and splice with a TLS socket on one side.

// after is pollInterval from now.
func after() <-chan time.Time { return time.After(pollInterval) }

// fileSource is the file of a sendfile.
type fileSource struct {
	fd     int // ours
	offset int64
	place  uint64 // of the offset in the program's memory; 0: it is that of the file
}

func (f *fileSource) read(_ *seccomp.Notification, b []byte) (int, error) {
	for {
		n, err := unix.Pread(f.fd, b, f.offset)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

func (f *fileSource) advance(n int) (err error) {
	f.offset += int64(n)
	if f.place == 0 {
		_, err = unix.Seek(f.fd, f.offset, io.SeekStart)
	}
	return err
}

func (f *fileSource) close() { unix.Close(f.fd) }

// sendfile prepares one. The file may be one that the program closes meanwhile; it
// is held here until the call is over, as by the kernel.
func (c *writeCall) sendfile(n *seccomp.Notification) error {
	count := n.Args[3]
	if int64(count) < 0 {
		return unix.EINVAL
	}
	f := &fileSource{place: n.Args[2]}
	if f.place != 0 {
		var b [8]byte
		if err := n.Read(b[:], f.place); err != nil {
			return err
		}
		if f.offset = int64(binary.NativeEndian.Uint64(b[:])); f.offset < 0 {
			return unix.EINVAL
		}
	}
	var err error
	if f.fd, err = n.GetFD(int(int32(n.Args[1]))); err != nil {
		return err
	}
	c.file = f
	if err = f.check(); err != nil {
		f.close()
		c.file = nil
		return err
	}
	c.begin(f, int(min(count, maxTransfer)), 0)
	return nil
}

func (f *fileSource) check() error {
	flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
	if err != nil || flags&(unix.O_ACCMODE|unix.O_PATH) == unix.O_WRONLY || flags&unix.O_PATH != 0 {
		return unix.EBADF
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFBLK {
		return unix.EINVAL
	}
	if f.place == 0 {
		f.offset, err = unix.Seek(f.fd, 0, io.SeekCurrent)
	}
	return err
}

// writeOffset tells the program of a sendfile how far it came.
func (c *writeCall) writeOffset(n *seccomp.Notification) error {
	if c.file == nil || c.file.place == 0 {
		return nil
	}
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], uint64(c.file.offset))
	return n.Write(c.file.place, b[:])
}

// pipeSource is the pipe of a splice into a TLS socket. tee(2) looks at what is in
// it: only what the socket took is taken out.
type pipeSource struct {
	fd    int    // ours
	look  [2]int // a pipe of our own
	empty bool   // it was, and somebody may still write
	wait  bool   // for something to be in it
	moved bool
}

func newPipeSource(fd int, wait bool) (*pipeSource, error) {
	p := &pipeSource{fd: fd, wait: wait}
	if err := unix.Pipe2(p.look[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *pipeSource) read(_ *seccomp.Notification, b []byte) (int, error) {
	p.empty = false
	n, err := unix.Tee(p.fd, p.look[1], len(b), unix.SPLICE_F_NONBLOCK)
	switch {
	case err == unix.EAGAIN && p.moved:
		return 0, nil // some is enough
	case err == unix.EAGAIN && p.wait:
		p.empty = true
		return 0, errWait
	case err == unix.EAGAIN:
		return 0, errPipeEmpty
	case err != nil:
		return 0, err
	}
	return p.drain(b[:n])
}

// errPipeEmpty is an EAGAIN that waiting for the socket would not change.
var errPipeEmpty = os.NewSyscallError("tee", unix.EAGAIN)

// drain empties look.
func (p *pipeSource) drain(b []byte) (n int, err error) {
	for n < len(b) {
		m, err := unix.Read(p.look[0], b[n:])
		if err == unix.EINTR {
			continue
		}
		if m <= 0 {
			return n, err
		}
		n += m
	}
	return n, nil
}

func (p *pipeSource) advance(n int) error {
	p.moved = true
	var b [4096]byte
	for n > 0 {
		m, err := unix.Splice(p.fd, nil, p.look[1], nil, min(n, len(b)), unix.SPLICE_F_NONBLOCK)
		if err == unix.EINTR {
			continue
		}
		if m <= 0 {
			return nil // another reader was quicker
		}
		p.drain(b[:m])
		n -= int(m)
	}
	clear(b[:])
	return nil
}

func (p *pipeSource) close() {
	unix.Close(p.fd)
	unix.Close(p.look[0])
	unix.Close(p.look[1])
}

const spliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK | unix.SPLICE_F_MORE | unix.SPLICE_F_GIFT

// pipeOf returns the pipe of a splice, which is ours to close: the one at argument
// at. ok is false where the call is answered.
func pipeOf(n *seccomp.Notification, at int) (pipe int, ok bool) {
	length, flags := n.Args[4], int(n.Args[5])
	switch {
	case flags&^spliceFlags != 0:
		n.Respond(0, unix.EINVAL)
		return 0, false
	case length == 0:
		n.Respond(0, 0)
		return 0, false
	case n.Args[at+1] != 0:
		n.Respond(0, unix.ESPIPE)
		return 0, false
	case n.Args[1] != 0 || n.Args[3] != 0: // an offset in the socket
		n.Respond(0, unix.EINVAL)
		return 0, false
	}
	pipe, err := n.GetFD(int(int32(n.Args[at])))
	if err != nil {
		fail(n, err)
		return 0, false
	}
	var st unix.Stat_t
	if err := unix.Fstat(pipe, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		unix.Close(pipe)
		n.Respond(0, unix.EINVAL)
		return 0, false
	}
	return pipe, true
}

// spliceIn performs splice(2) from a pipe into the socket.
func (t *tlsSocket) spliceIn(n *seccomp.Notification) {
	if !t.sends() {
		n.Continue()
		return
	}
	pipe, ok := pipeOf(n, 0)
	if !ok {
		return
	}
	flags := 0
	if n.Args[5]&unix.SPLICE_F_MORE != 0 {
		flags = unix.MSG_MORE
	}
	wait := n.Args[5]&unix.SPLICE_F_NONBLOCK == 0 && !nonblocking(pipe)
	src, err := newPipeSource(pipe, wait)
	if err != nil {
		unix.Close(pipe)
		fail(n, err)
		return
	}
	c := &writeCall{transmission: transmission{t: t, fd: int(int32(n.Args[2]))}, native: true, pipe: src}
	c.begin(src, int(min(n.Args[4], maxTransfer)), flags)
	perform(n, c)
}

// spliceCall is splice(2) from the socket into a pipe: of one record, and never of a
// control record.
type spliceCall struct {
	readCall
	pipe   int // ours
	length int
	nowait bool
	full   bool // the pipe was
}

func (t *tlsSocket) spliceOut(n *seccomp.Notification) {
	if !t.receives() {
		n.Continue()
		return
	}
	pipe, ok := pipeOf(n, 2)
	if !ok {
		return
	}
	c := &spliceCall{pipe: pipe, length: int(min(n.Args[4], maxTransfer)), nowait: n.Args[5]&unix.SPLICE_F_NONBLOCK != 0}
	c.t, c.fd = t, int(int32(n.Args[0]))
	perform(n, c)
}

func (c *spliceCall) try(n *seccomp.Notification) bool {
	fd, err := n.GetFD(c.fd)
	if err != nil {
		fail(n, err)
		return true
	}
	defer unix.Close(fd)
	c.t.reading.Lock()
	defer c.t.reading.Unlock()
	m, err := c.move(n, fd)
	if err == errWait || err == errMore {
		c.more = err == errMore
		return false
	}
	if err != nil {
		fail(n, err)
	} else {
		n.Respond(int64(m), 0)
	}
	return true
}

func (c *spliceCall) move(n *seccomp.Notification, fd int) (int, error) {
	a := c.t.a
	c.full = false
	control := a.HasControl()
	var b [1]byte
	m, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case err == unix.EINTR:
		return 0, errMore
	case err == unix.EAGAIN && control:
		a.metControl()
		return 0, unix.EINVAL
	case err == unix.EAGAIN:
		if c.nowait {
			c.flags |= unix.MSG_DONTWAIT
		}
		return 0, c.empty(n, fd, false)
	case err == nil && m == 0, err == unix.ECONNRESET:
		return 0, c.ended(err)
	case err != nil:
		return 0, err
	case !n.Valid():
		return 0, seccomp.ErrGone
	}
	want := min(c.length, a.firstRecord(), record.MaxPlaintext)
	moved, err := unix.Splice(fd, nil, c.pipe, nil, want, unix.SPLICE_F_NONBLOCK)
	switch {
	case err == unix.EINTR:
		return 0, errMore
	case err == unix.EAGAIN && !c.nowait && !nonblocking(c.pipe):
		c.full = true
		return 0, errWait
	case err != nil:
		return 0, err
	}
	a.took(int(moved))
	return int(moved), nil
}

func (c *spliceCall) pause(n *seccomp.Notification) error {
	if c.full {
		p := [1]unix.PollFd{{Fd: int32(c.pipe), Events: unix.POLLOUT}}
		unix.Poll(p[:], int(pollInterval.Milliseconds()))
		return nil
	}
	return c.reception.pause(n)
}

func (c *spliceCall) release() { unix.Close(c.pipe) }
