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
	raw    syscall.RawConn // nil where this cannot be done
	in     shortCall
	out    shortCall
	tryIn  func(fd uintptr) bool
	tryOut func(fd uintptr) bool
}

// shortCall is one read or write.
type shortCall struct {
	p []byte
	n int
}

// NewShort returns c as a Short. c stays the caller's to close.
func NewShort(c net.Conn) *Short {
	s := &Short{Conn: c, raw: rawConn(c)}
	s.tryIn, s.tryOut = s.tryRead, s.tryWrite
	return s
}

func (s *Short) Read(p []byte) (int, error) {
	if s.raw != nil && len(p) > 0 && len(p) <= smallSize {
		s.in.p, s.in.n = p, 0
		s.raw.Read(s.tryIn)
		if s.in.p = nil; s.in.n > 0 {
			return s.in.n, nil
		}
	}
	return s.Conn.Read(p) // which says what is wrong
}

func (s *Short) tryRead(fd uintptr) bool {
	n, errno := readFD(fd, s.in.p)
	s.in.n = n
	return errno != syscall.EAGAIN
}

func (s *Short) Write(p []byte) (n int, err error) {
	if s.raw != nil && len(p) > 0 && len(p) <= smallSize {
		s.out.p, s.out.n = p, 0
		s.raw.Write(s.tryOut)
		n, s.out.p = s.out.n, nil
	}
	if n < len(p) {
		var m int
		m, err = s.Conn.Write(p[n:])
		n += m
	}
	return n, err
}

func (s *Short) tryWrite(fd uintptr) bool {
	s.out.n = max(writeFD(fd, s.out.p), 0)
	return true
}
