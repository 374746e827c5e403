package kernel

import (
	"os"

	"golang.org/x/sys/unix"
)

// fileTurn is one sendfile(2), kept so that it does not allocate.
type fileTurn struct {
	from int // descriptor
	left int
	took int
	err  error
	try  func(fd uintptr) bool
}

// SendFile sends up to limit bytes of a regular file, from its offset on, without
// bringing them into this process. The offset moves by n. ok is false where nothing
// was sent because the file has to be read as others are: there is a gate, it ends
// here, or the kernel does not send it.
//
// sendfile(2) is asked for no more than the file has. Asked for more, kernels before
// 6.5 keep the last record open and wait for the rest.
func (s *Sender) SendFile(f *os.File, limit int64) (n int64, ok bool, err error) {
	if s.blocks || s.shared || s.gate.Load() != nil { // who shares it may have made it one that blocks
		return 0, false, nil
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, false, nil
	}
	ok = true
	cerr := raw.Control(func(fd uintptr) {
		for ok && err == nil && n < limit {
			var m int
			m, ok, err = s.sendFile(int(fd), limit-n)
			n += int64(m)
		}
	})
	if cerr != nil {
		return 0, false, nil
	}
	return n, ok || n > 0, err
}

func (s *Sender) sendFile(file int, limit int64) (n int, ok bool, err error) {
	left, err := s.sys.remaining(file)
	if err != nil || left <= 0 { // files without a size, as those of procfs, have content
		return 0, false, nil
	}
	size, err := s.plan(int(min(left, limit)))
	if err != nil {
		return 0, true, err
	}
	t := &s.file
	t.from, t.left, t.took, t.err = file, size, 0, nil
	if t.try == nil {
		t.try = s.trySendFile
	}
	if err = unwrapped(s.raw.Write(t.try)); err == nil {
		err = t.err
	}
	n = t.took
	s.given += uint64(n)
	s.sent(n)
	if n < size && n > 0 {
		s.estimate++
		s.push()
	}
	if n == 0 && sourceRefused(err) {
		return 0, false, nil
	}
	if err != nil && !timeout(err) {
		err = writeError("sendfile", err)
	}
	return n, n > 0 || err != nil, err
}

func (s *Sender) trySendFile(fd uintptr) bool {
	t := &s.file
	for t.left > 0 {
		n, err := s.sys.sendfile(int(fd), t.from, t.left)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return false
		case err != nil || n == 0: // or the file has become shorter
			t.err = err
			return true
		default:
			t.left -= n
			t.took += n
		}
	}
	return true
}

// push closes a record that the kernel keeps open for more data. A control message
// that comes with no byte does that, and nothing else.
func (s *Sender) push() {
	s.one[0] = unix.Iovec{}
	s.send(s.one[:], s.control.setType(alertType), false)
}

const alertType = 21
