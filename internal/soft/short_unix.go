//go:build unix

package soft

import (
	"net"
	"syscall"
)

// Short is a connection whose short reads and writes do without telling the
// scheduler, as those of a Receiver and a Sender do: a handshake consists of
// them. Its errors are those of the net.Conn. One reader and one writer at once.
type Short struct {
	net.Conn
	raw   syscall.RawConn // nil where this cannot be done
	short shortWriter

	tryRead func(fd uintptr) bool
	p       []byte // what it is to read into
	got     int
}

// NewShort returns c as a Short. c stays the caller's to close.
func NewShort(c net.Conn) *Short {
	s := &Short{Conn: c, raw: rawConn(c)}
	s.tryRead = s.tryReadFD
	return s
}

func (s *Short) Read(p []byte) (int, error) {
	if s.raw != nil && len(p) > 0 && len(p) <= smallSize {
		s.p, s.got = p, 0
		s.raw.Read(s.tryRead)
		if s.p = nil; s.got > 0 {
			return s.got, nil
		}
	}
	return s.Conn.Read(p) // which says what is wrong
}

func (s *Short) tryReadFD(fd uintptr) bool {
	n, errno := readFD(fd, s.p)
	s.got = n
	return errno != syscall.EAGAIN
}

func (s *Short) Write(p []byte) (n int, err error) {
	if s.raw != nil && len(p) > 0 && len(p) <= smallSize {
		n = s.short.write(s.raw, p)
	}
	if n < len(p) {
		var m int
		m, err = s.Conn.Write(p[n:])
		n += m
	}
	return n, err
}
