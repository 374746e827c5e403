package soft

import "golang.org/x/sys/unix"

// tryWriteLast is tryWrite for bytes behind which the carrier is closed for
// writing at once: they wait for the FIN and share its segment
// (MSG_MORE, send(2)). Should the FIN not come, because somebody has a
// duplicate of the descriptor, the kernel sends them by itself a little later.
func (s *Sender) tryWriteLast(b []byte) (n int, ok bool) {
	if s.raw == nil {
		return 0, false
	}
	one := [1][]byte{b}
	s.raw.Write(func(fd uintptr) bool {
		n, _ = unix.SendmsgBuffers(int(fd), one[:], nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		return true
	})
	return max(n, 0), true
}
