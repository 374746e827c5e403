package afd

import (
	"fmt"
	"os"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/pump"
	"github.com/aftls/aftls/internal/seccomp"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// swap makes the TCP socket at fd of the program a TLS socket, with its first
// keys: it puts one half of a pair in its place, under the same number and in
// every epoll instance. Until the pair is in place nothing has changed; if
// anything fails behind that the TCP socket is shut down.
//
// Whoever else holds the TCP socket would go on with plaintext. So nobody may.
func (s *Supervisor) swap(n *seccomp.Notification, fd int, noted ulp, d aftls.Direction, k record.Keys) error {
	inode, err := n.Inode(fd)
	if err != nil {
		return err
	}
	tcp, err := n.GetFD(fd)
	if err != nil {
		return err
	}
	ours := true // to be closed here
	defer func() {
		if ours {
			unix.Close(tcp)
		}
	}()
	if now, err := unix.GetsockoptUint64(tcp, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil || now != noted.cookie {
		return unix.ENOPROTOOPT // another socket, which has the number of a closed one
	}
	if err := pump.CheckCarrier(tcp); err != nil {
		return err
	}
	one, err := n.OneThread() // before the look: a thread may act, and end
	if err != nil {
		return err
	}
	seen, err := s.process.Survey(inode)
	if err != nil || len(seen.Holders) != 1 {
		s.log("a TCP socket that has %d descriptors in the program cannot become a TLS socket: keep one of them", len(seen.Holders))
		s.refused()
		return unix.EBUSY
	}
	flags, err := n.FileFlags(fd)
	if err != nil {
		return err
	}
	end, theirs, err := pump.NewPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	t := &tlsSocket{s: s, linux: true, end: end, full: noted.full}
	if t.inode, err = socketInode(theirs); err == nil && flags&unix.O_NONBLOCK != 0 {
		err = setNonblock(theirs)
	}
	if err == nil {
		err = copyOptions(tcp, theirs)
	}
	if err != nil {
		end.Close()
		return err
	}
	t.mu.Lock() // another thread of the program may be quick
	defer t.mu.Unlock()
	s.register(t)
	if _, err := n.AddFD(int(theirs.Fd()), fd, flags&unix.O_CLOEXEC != 0); err != nil {
		s.unregister(t)
		end.Close()
		return err
	}
	s.mu.Lock()
	delete(s.ulp, inode)
	s.mu.Unlock()

	// The TCP socket is ours alone.
	if !one {
		seen, err = s.alone(inode)
	}
	if err == nil {
		_, err = seccomp.MoveEpoll(seen.Epolls, tcp, int(theirs.Fd()))
	}
	if err == nil {
		err = t.become(tcp, d, k)
	}
	if err != nil {
		unix.Shutdown(tcp, unix.SHUT_RDWR)
		s.unregister(t)
		end.Close()
		s.refused()
		return fmt.Errorf("afd: the connection was ended: %w", err)
	}
	ours = false
	s.run(t)
	return nil
}

// alone looks once more for descriptors of the TCP socket. The program has none
// now, unless another thread of it made one after the first look: that thread
// would go on with plaintext. Without other threads this is not needed: a process
// that shares the descriptors would have been a second holder.
func (s *Supervisor) alone(inode uint64) (seccomp.Survey, error) {
	now, err := s.process.Survey(inode)
	if err == nil && len(now.Holders) > 0 {
		err = unix.EBUSY
	}
	return now, err
}

func (t *tlsSocket) become(tcp int, d aftls.Direction, k record.Keys) error {
	if err := unix.SetNonblock(tcp, true); err != nil {
		return err
	}
	carrier, err := pump.NewCarrier(tcp)
	if err != nil {
		return err
	}
	t.attach(carrier)
	if err := t.a.StartDirection(d, k); err != nil {
		return err
	}
	if t.full > 0 {
		if err := t.a.SetFullRecord(t.full); err != nil {
			return err
		}
	}
	t.keys[d] = k.Clone()
	return nil
}

func (s *Supervisor) refused() {
	s.mu.Lock()
	s.stats.Refused++
	s.mu.Unlock()
}

// copyOptions gives the new socket what the program set on the old one and what
// a Unix socket knows too.
func copyOptions(from int, to *os.File) error {
	fd := int(to.Fd())
	for _, name := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		tv, err := unix.GetsockoptTimeval(from, unix.SOL_SOCKET, name)
		if err == nil && (tv.Sec != 0 || tv.Usec != 0) {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, name, tv)
		}
		if err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	lowat, err := unix.GetsockoptInt(from, unix.SOL_SOCKET, unix.SO_RCVLOWAT)
	if err == nil && lowat > 1 {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, lowat)
	}
	return os.NewSyscallError("setsockopt", err)
}
