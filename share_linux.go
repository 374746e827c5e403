package aftls

import "os"

// ShareKernelFile returns a duplicate of the connection's descriptor for another
// process, such as a child, that goes on writing: what it writes with write(2),
// sendfile(2) or splice(2) is application data, and the kernel makes records of it,
// between those of this process. It needs a connection whose sending side is in the
// kernel; otherwise the error is [ErrNoKernel]. The file is the caller's, and
// close-on-exec until it is given to a child.
//
// From then on this side never changes its key, and never ends the stream by itself:
// Rekey is [ErrNoRekey], a KeyUpdate that the peer asks for is not sent, Detach is
// [ErrShared], and Close leaves the stream open for the other process. CloseWrite ends
// it, with close_notify, for both. At the limit of the key (RFC 8446, 5.5), which both
// together come to, this side stops with [ErrKeyLimit]; the other one is not stopped.
// Reading stays with this process: the other one must not read.
//
// Whoever has the descriptor can read the keys of the connection, of both directions
// as far as the kernel has them, with getsockopt(2).
func (c *Conn) ShareKernelFile() (*os.File, error) {
	if c.pass != nil {
		return nil, c.pass.opError("share", c.pass.unavailable())
	}
	f, err := c.s.share()
	return f, opError("share", c.s.carrier, err)
}

func (s *Socket) share() (*os.File, error) {
	if err := s.lockWrite(); err != nil {
		return nil, err
	}
	defer s.unlockWrite()
	k, ok := s.send.(kernelSender)
	if !ok {
		s.dmu.Lock()
		defer s.dmu.Unlock()
		if why := s.why[Send]; why != nil {
			return nil, noKernel(why)
		}
		return nil, ErrNoKernel
	}
	if err := k.Flush(); err != nil { // or it would come behind what the other process writes
		return nil, s.writeFailed(err)
	}
	f, err := s.ulp.Dup()
	if err != nil {
		return nil, &CarrierError{err}
	}
	k.Share()
	s.shared.Store(true)
	return f, nil
}
