package afd

import (
	"encoding/binary"

	"github.com/aftls/aftls/bpf"
	"github.com/aftls/aftls/internal/seccomp"
	"golang.org/x/sys/unix"
)

// Linux takes filters on a Unix stream socket and never runs them. A program that
// attaches one to a TLS socket wants it run, on its plaintext: here it runs on
// every data record between open and deliver, and keeps so many bytes as it says
// (socket(7), SO_ATTACH_FILTER). There is no packet: the program sees the payload.

const sizeofSockFprog = 16 // unsigned short len, and a pointer

// setFilter performs SO_ATTACH_FILTER and SO_DETACH_FILTER. What would need the
// kernel to run it is EOPNOTSUPP, rather than taken and forgotten.
func (t *tlsSocket) setFilter(n *seccomp.Notification, name int, value []byte) error {
	t.mu.Lock()
	a, locked := t.a, t.filterLocked
	t.mu.Unlock()
	if a == nil {
		return unix.ENOTCONN
	}
	switch name {
	case unix.SO_ATTACH_FILTER:
		if locked {
			return unix.EPERM
		}
		if len(value) != sizeofSockFprog {
			return unix.EINVAL
		}
		count := int(binary.NativeEndian.Uint16(value))
		if count == 0 || count > bpf.MaxInstructions {
			return unix.EINVAL
		}
		code := make([]byte, count*unix.SizeofSockFilter)
		if err := n.Read(code, binary.NativeEndian.Uint64(value[8:])); err != nil {
			return err
		}
		p, err := bpf.FromSockFilter(code)
		if err != nil {
			t.s.log("SO_ATTACH_FILTER: %v", err)
			return unix.EINVAL
		}
		return a.SetFilter(p.Run)
	case unix.SO_DETACH_FILTER:
		switch {
		case locked:
			return unix.EPERM
		case !a.HasFilter():
			return unix.ENOENT
		}
		return a.SetFilter(nil)
	case unix.SO_LOCK_FILTER:
		if err := setBool(value); err != nil {
			return err
		}
		lock := binary.NativeEndian.Uint32(value) == 1
		if locked && !lock {
			return unix.EPERM
		}
		t.mu.Lock()
		t.filterLocked = lock
		t.mu.Unlock()
		return nil
	}
	return unix.EOPNOTSUPP
}
