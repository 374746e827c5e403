package pump

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A plaintext end that keeps the boundaries of records is a pair of SEQPACKET
// sockets: one message is one data record. It is fail-closed as a stream is: the
// last message of the program stays in our queue when it was given out.

// NewRecordPair is NewPair for records.
func NewRecordPair() (*End, *os.File, error) { return newPair(unix.SOCK_SEQPACKET) }

// Records reports whether the end keeps the boundaries of records.
func (e *End) Records() bool { return e.records }

// ErrTooLong is the end of a program that wrote a message which is no record.
var ErrTooLong = carrierError{unix.EMSGSIZE, "the program wrote a message that is longer than a record"}

// ReadMessage reads one message of the program into p, without waiting. The error
// is io.EOF when there is none, and Ended tells whether there will be more; a
// message longer than p is ErrTooLong. Empty messages are passed over.
func (e *End) ReadMessage(p []byte) (n int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.given >= e.limit {
		return 0, io.EOF
	}
	cerr := e.raw.Control(func(fd uintptr) { n, err = e.readMessage(int(fd), p) })
	if cerr != nil {
		return 0, cerr
	}
	e.given += uint64(n)
	return n, err
}

func (e *End) readMessage(fd int, p []byte) (int, error) {
	for {
		first := e.staleLen()
		queued, err := e.queued(fd, first)
		if err != nil {
			return 0, err
		}
		if queued <= first {
			return 0, io.EOF
		}
		if e.stale {
			// What lies behind it takes its place. A read of nothing takes a
			// whole message.
			if _, errno := recv(fd, nil, unix.MSG_DONTWAIT|unix.MSG_TRUNC); errno != 0 && errno != unix.EAGAIN {
				return 0, os.NewSyscallError("recvfrom", errno)
			}
			e.stale = false
		}
		n, errno := recv(fd, p, unix.MSG_PEEK|unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch {
		case errno == unix.EAGAIN:
			return 0, io.EOF
		case errno != 0:
			return 0, os.NewSyscallError("recvfrom", errno)
		case n > len(p):
			return 0, ErrTooLong
		}
		e.stale, e.message = true, n
		if n > 0 {
			return n, nil
		}
	}
}

// staleLen is how many bytes in front of our queue were given out.
func (e *End) staleLen() int {
	switch {
	case !e.stale:
		return 0
	case e.records:
		return e.message
	}
	return 1
}
