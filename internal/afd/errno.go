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
	if _, ok := errors.AsType[*aftls.DatagramTooLargeError](err); ok {
		return syscall.EMSGSIZE
	}
	for _, c := range []struct {
		err   error
		errno syscall.Errno
	}{
		{aftls.ErrKeyLimit, syscall.EBADMSG},
		{aftls.ErrRecordType, syscall.EINVAL},
		{aftls.ErrKeyReuse, syscall.EINVAL},
		{aftls.ErrTooLarge, syscall.EMSGSIZE},
		{aftls.ErrNoRekey, syscall.EOPNOTSUPP},
		{aftls.ErrShutdown, syscall.EPIPE},
		{aftls.ErrNoKeys, syscall.ENOTCONN},
	} {
		if errors.Is(err, c.err) {
			return c.errno
		}
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
