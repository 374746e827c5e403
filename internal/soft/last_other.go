//go:build !linux

package soft

func (s *Sender) tryWriteLast(b []byte) (n int, ok bool) { return s.tryWrite(b) }
