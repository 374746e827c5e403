package afd

import (
	"errors"

	"github.com/aftls/aftls/internal/seccomp"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// Writing, as net/tls of Linux does it (tls_sw_sendmsg): one call after the other,
// each in records of 16384 bytes and what is left; MSG_MORE holds that open. The
// bytes go to the program's half, which says how much there is room for, and what
// cuts them to records lies beside it (strict_records_linux.go).

// A source is where a call takes its bytes from.
type source interface {
	// read fills b, or a part of it. It takes nothing: advance does. 0 without an
	// error is the end.
	read(n *seccomp.Notification, b []byte) (int, error)

	// advance takes n bytes.
	advance(n int) error
}

// memory is a source in the program's memory.
type memory struct{ v []seccomp.Iovec }

func (m *memory) read(n *seccomp.Notification, b []byte) (int, error) { return n.ReadVec(b, m.v) }

func (m *memory) advance(n int) error {
	m.v = advance(m.v, n)
	return nil
}

// A transmission is what one message of a writing call sends.
type transmission struct {
	t     *tlsSocket
	fd    int // of the program
	src   source
	left  int
	flags int
	typ   record.ContentType // of its records; 0: data

	n      int  // bytes that were taken
	locked bool // nobody else sends
	opened bool // the open record is ours
	open   int  // its length
	full   int  // and at most
	why    error

	sent    <-chan error // what the call waits for: events in the stream
	settles bool         // the last step: whether the records could be sealed

	patience
}

// begin makes it the transmission of another message.
func (x *transmission) begin(src source, length, flags int) {
	x.src, x.left, x.flags, x.typ = src, length, flags, 0
	x.n, x.sent, x.settles = 0, nil, false
}

// sendFlags checks the flags of a message.
func sendFlags(flags int) (int, error) {
	const known = unix.MSG_MORE | unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL | unix.MSG_EOR | unix.MSG_CMSG_CLOEXEC
	switch {
	case flags&^known != 0:
		return 0, unix.EOPNOTSUPP
	case flags&unix.MSG_MORE != 0 && flags&unix.MSG_EOR != 0:
		return 0, unix.EINVAL
	}
	return flags, nil
}

// sender is what a call holds while it sends.
func (t *tlsSocket) sender() chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sending == nil {
		t.sending = make(chan struct{}, 1)
	}
	return t.sending
}

var errLocked = errors.New("afd: somebody else sends")

// send goes on with the message. It is nil when the message is over: x.n bytes of
// it are committed.
func (x *transmission) send(n *seccomp.Notification) error {
	if !x.locked {
		select {
		case x.t.sender() <- struct{}{}:
			x.locked = true
		default:
			x.why = errLocked
			return errWait
		}
	}
	fd, err := n.GetFD(x.fd)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if x.settles {
		err = x.settle()
	} else {
		err = x.step(n, fd)
	}
	if err == unix.EAGAIN && x.mayWait(fd) {
		err = errWait
	}
	x.why = err
	if err == errWait || err == errMore || errors.Is(err, seccomp.ErrGone) {
		return err
	}
	if x.n > 0 {
		err = nil // what went wrong is for the next call
	}
	if err == nil && !x.settles && x.t.isStrict() && x.t.a.Info().Send.Seq > lastNumbers {
		x.close()
		x.settles = true
		return errMore
	}
	if serr := x.close(); err == nil && serr != nil {
		err = serr
	}
	return err
}

// lastNumbers is where a call begins to wait for its records to be sealed: the last
// number is an error of the call that would need the next one.
const lastNumbers = 1<<64 - 1<<20

// settle waits until everything is sealed.
func (x *transmission) settle() error {
	if x.sent == nil {
		done, err := x.t.a.settled()
		if err != nil {
			return x.failed(err)
		}
		x.sent = done
	}
	select {
	case err := <-x.sent:
		if err != nil {
			return x.failed(err)
		}
		return nil
	default:
		return errWait
	}
}

// failed takes back the count of bytes that were never sealed.
func (x *transmission) failed(err error) error {
	x.n = 0
	if failure := x.t.a.SendFailure(); failure != nil {
		err = failure
	}
	return err
}

func (x *transmission) mayWait(fd int) bool {
	return x.flags&unix.MSG_DONTWAIT == 0 && !nonblocking(fd) && !x.over(fd, unix.SO_SNDTIMEO)
}

func (x *transmission) step(n *seccomp.Notification, fd int) error {
	if x.typ != 0 && (x.typ != record.ApplicationData || !x.t.isStrict()) {
		return x.control(n, fd)
	}
	switch {
	case x.left == 0:
		return nil
	case x.t.end.Records() && x.left > record.MaxPlaintext:
		return unix.EMSGSIZE
	}
	if failure := x.t.a.Failure(); x.t.isStrict() && failure != nil && isOfRecord(failure) {
		return failure
	}
	if err := x.openRecord(); err != nil {
		return x.pipeError(unix.EPIPE)
	}
	buf := pieces.Get().(*[pieceSize]byte)
	used := 0
	defer func() {
		clear(buf[:used])
		pieces.Put(buf)
	}()
	b := buf[:min(x.left, len(buf)-x.open)]
	m, err := x.src.read(n, b)
	used = m
	if err != nil && !errors.Is(err, unix.EFAULT) {
		return err
	}
	fault := err != nil
	if _, ok := x.src.(*memory); ok && m < len(b) {
		fault = true
	}
	if fault && x.t.isStrict() {
		// A record is copied, or it is not.
		m = max((x.open+m)/x.full*x.full-x.open, 0)
	}
	if !n.Valid() {
		return seccomp.ErrGone
	}
	k, err := put(fd, b[:m])
	x.n, x.left = x.n+k, x.left-k
	if k > 0 {
		if aerr := x.src.advance(k); aerr != nil {
			return aerr
		}
		if xerr := x.extend(); xerr != nil {
			return x.pipeError(unix.EPIPE)
		}
	}
	switch {
	case err == unix.EPIPE, err == unix.ECONNRESET:
		return x.pipeError(unix.EPIPE)
	case err != nil:
		return err
	case fault:
		return unix.EFAULT
	case m == 0, x.left == 0:
		return nil // the end of the source, or of the call
	}
	return errMore
}

// put writes to the program's half without waiting.
func put(fd int, b []byte) (n int, err error) {
	for n < len(b) {
		m, err := unix.SendmsgN(fd, b[n:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch err {
		case nil:
			n += m
		case unix.EINTR:
		default:
			return n, err
		}
	}
	return n, nil
}

// openRecord begins the record of the call, or goes on with the one held open.
// Without --strict where records end is the pump's choice.
func (x *transmission) openRecord() (err error) {
	if x.opened || !x.t.isStrict() {
		return nil
	}
	if x.typ != 0 { // which it said: a record of its own
		if _, _, err := x.t.a.extendRecord(true); err != nil {
			return err
		}
	}
	if x.open, x.full, err = x.t.a.openRecord(); err == nil {
		x.opened = true
	}
	return err
}

// extend lets go what is full of what was added.
func (x *transmission) extend() (err error) {
	if x.opened {
		x.open, x.full, err = x.t.a.extendRecord(false)
	}
	return err
}

// close ends the record, unless it is to be held open.
func (x *transmission) close() error {
	if !x.opened {
		return nil
	}
	x.opened = false
	if x.open > 0 && (x.flags&unix.MSG_MORE != 0 || x.n == 0) {
		return nil
	}
	x.t.a.extendRecord(true)
	return nil
}

// control sends records of another type.
func (x *transmission) control(n *seccomp.Notification, fd int) error {
	a := x.t.a
	if x.t.isStrict() {
		if _, _, err := a.extendRecord(true); err != nil {
			return x.pipeError(unix.EPIPE)
		}
	}
	if !x.t.end.Records() {
		// A call without bytes says whether there is anybody to write to.
		if _, err := unix.SendmsgN(fd, nil, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err == unix.EPIPE {
			return x.pipeError(unix.EPIPE)
		}
	}
	if failure := a.Failure(); x.t.isStrict() && failure != nil && isOfRecord(failure) {
		return failure
	}
	if x.left == 0 {
		return nil
	}
	buf := recordBuffers.Get().(*[record.MaxPlaintext]byte)
	defer recordBuffers.Put(buf)
	b := buf[:min(x.left, a.FullRecord())]
	defer clear(b)
	m, err := x.src.read(n, b)
	if err == nil && m < len(b) {
		err = unix.EFAULT
	}
	if err != nil {
		return err
	}
	done, err := a.SendControl(x.typ, b)
	if errors.Is(err, ErrBusy) {
		return unix.EAGAIN
	}
	if err != nil {
		return x.pipeError(errnoOfCall(err))
	}
	x.sent = done
	x.n, x.left = x.n+m, x.left-m
	if err := x.src.advance(m); err != nil || x.left == 0 {
		return err
	}
	return errMore
}

// pipeError is the errno for a direction that has ended: why, once, and for ever if
// it was a record.
func (x *transmission) pipeError(errno unix.Errno) error {
	if !x.t.isStrict() {
		return errno
	}
	a := x.t.a
	for _, failure := range []error{a.Failure(), a.SendFailure()} {
		if failure == nil || isClosed(failure) || errors.Is(failure, errEnded) {
			continue
		}
		if isOfRecord(failure) || !x.t.told.Swap(true) {
			return failure
		}
	}
	return errno
}

// release gives the sending side free. A record that is to be held open stays.
func (x *transmission) release() {
	if x.locked {
		x.close()
		x.locked = false
		<-x.t.sender()
	}
}

// pause waits for what the last step lacked.
func (x *transmission) pause(n *seccomp.Notification) error {
	switch {
	case x.why == errMore:
		return nil
	case x.why == errLocked:
		select {
		case x.t.sender() <- struct{}{}:
			x.locked = true
		case <-after():
		}
		return nil
	case x.settles, x.typ != 0 && x.sent != nil:
		select {
		case err := <-x.sent:
			if x.settles {
				x.sent = answered(err)
			} else {
				x.sent = nil
			}
		case <-after():
		}
		return nil
	case x.typ != 0:
		<-after() // somebody else's records wait
		return nil
	}
	return pollAt(n, x.fd, unix.POLLOUT)
}

// answered is a channel on which err has come.
func answered(err error) <-chan error {
	c := make(chan error, 1)
	c <- err
	return c
}

// writeCall is write, writev, pwritev2, sendto, sendmsg, sendfile or splice.
type writeCall struct {
	transmission
	native bool // a call on the program's half says EPIPE as it should be said
	file   *fileSource
	pipe   *pipeSource
}

func (c *writeCall) try(n *seccomp.Notification) bool {
	err := c.send(n)
	switch {
	case err == errWait, err == errMore:
		return false
	case err == nil:
		c.answer(n)
	case errors.Is(err, unix.EPIPE) && c.native && c.flags&unix.MSG_NOSIGNAL == 0:
		// The half is shut for ever, and SIGPIPE comes with the errno.
		n.Continue()
	default:
		if ferr := c.writeOffset(n); ferr != nil {
			err = ferr
		}
		fail(n, err)
	}
	return true
}

func (c *writeCall) answer(n *seccomp.Notification) {
	if err := c.writeOffset(n); err != nil {
		fail(n, err)
		return
	}
	n.Respond(int64(c.n), 0)
}

func (c *writeCall) end(n *seccomp.Notification, errno unix.Errno) {
	if c.n > 0 {
		c.close()
		c.answer(n)
		return
	}
	n.Respond(0, c.interrupted(errno))
}

func (c *writeCall) release() {
	c.transmission.release()
	if c.file != nil {
		c.file.close()
	}
	if c.pipe != nil {
		c.pipe.close()
	}
}

func (c *writeCall) pause(n *seccomp.Notification) error {
	if c.pipe != nil && c.pipe.empty {
		p := [1]unix.PollFd{{Fd: int32(c.pipe.fd), Events: unix.POLLIN}}
		unix.Poll(p[:], int(pollInterval.Milliseconds()))
		return nil
	}
	return c.transmission.pause(n)
}

// write performs write, writev, pwritev2, sendto and sendfile.
func (t *tlsSocket) write(n *seccomp.Notification) {
	if !t.sends() {
		n.Continue() // bytes as they are
		return
	}
	c := &writeCall{transmission: transmission{t: t, fd: int(int32(n.Args[0]))}, native: true}
	if n.Nr == unix.SYS_SENDFILE {
		if err := c.sendfile(n); err != nil {
			fail(n, err)
			return
		}
		performLater(n, c) // a disk may take its time
		return
	}
	flags := 0
	switch n.Nr {
	case unix.SYS_PWRITEV2:
		f, ok, err := vectorFlags(n)
		if !ok {
			n.Continue() // which is an error
			return
		}
		if err != nil {
			fail(n, err)
			return
		}
		flags = f
	case unix.SYS_SENDTO:
		flags = int(int32(n.Args[3]))
	}
	v, err := memoryOf(n)
	if err == nil {
		flags, err = sendFlags(flags)
	}
	if err != nil {
		fail(n, err)
		return
	}
	c.begin(&memory{v}, sum(v), flags)
	perform(n, c)
}
