package afd

import (
	"errors"
	"syscall"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/record"
)

// errnoOf is the errno that Linux's own TLS sockets give for what an association
// ended of (net/tls), or the nearest to it.
func errnoOf(err error) syscall.Errno {
	if e, ok := errors.AsType[*aftls.PeerError](err); ok {
		switch e.Alert {
		case record.BadRecordMAC:
			return syscall.EBADMSG
		case record.RecordOverflow:
			return syscall.EMSGSIZE
		}
		return syscall.EINVAL
	}
	if errors.Is(err, aftls.ErrKeyLimit) {
		return syscall.EBADMSG
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	if _, ok := errors.AsType[*aftls.TruncatedError](err); ok {
		return syscall.ECONNRESET
	}
	if _, ok := errors.AsType[*aftls.AlertError](err); ok {
		return syscall.ECONNRESET
	}
	return syscall.EIO
}
