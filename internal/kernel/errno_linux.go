package kernel

import (
	"errors"
	"os"
	"syscall"

	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// This file has every errno of net/tls and what it means to us, once. Where
// kernels differ, the number is that of the kernel in which it was seen.

// attachError is why the upper layer protocol could not be set.
func attachError(err error) error {
	reason := "the connection cannot have the upper layer protocol tls"
	switch err {
	case unix.ENOENT:
		reason = "the kernel has no TLS sockets: run 'modprobe tls' as root, and for the next boot 'echo tls > /etc/modules-load.d/tls.conf'; a kernel built without CONFIG_TLS has none"
	case unix.ENOTCONN:
		reason = "the connection is not established, or its peer has sent its FIN already"
	case unix.ENOPROTOOPT, unix.EOPNOTSUPP:
		reason = "the kernel has no TLS on this kind of socket: on a Multipath TCP connection there is none, listen with net.ListenConfig.SetMultipathTCP(false)"
	case unix.EEXIST:
		reason = "the connection has another upper layer protocol already"
	case unix.EPERM, unix.EACCES:
		reason = "this process may not set an upper layer protocol: a seccomp filter or a security module forbids it"
	case unix.ENOMEM, unix.ENOBUFS:
		reason = "the kernel has no memory for it"
	}
	return &Unavailable{reason, os.NewSyscallError("setsockopt TCP_ULP", err)}
}

// keyError is why the kernel did not take a key. again says that the direction
// has one already.
func keyError(err error, again bool) error {
	reason := "the kernel did not take the key"
	switch err {
	case unix.EBUSY:
		if again {
			return ErrNoRekey
		}
		reason = "somebody else has given the kernel a key for this connection"
	case unix.EINVAL:
		// The suite is unknown to this kernel, or differs from that of the other
		// direction; since 7.2 also for a socket in a sockmap.
		reason = "this kernel does not have this cipher suite in this version of TLS, or the connection is in a sockmap"
	case unix.ENOENT:
		reason = "the kernel has no implementation of the cipher: run 'modprobe gcm', 'modprobe chacha20poly1305' or 'modprobe ccm' as root"
	case unix.ENOPROTOOPT:
		reason = "the connection has no upper layer protocol tls"
	case unix.ENOTCONN:
		reason = "the connection is not established any more"
	case unix.ENOMEM, unix.ENOBUFS:
		reason = "the kernel has no memory for it"
	}
	return &Unavailable{reason, os.NewSyscallError("setsockopt", err)}
}

// optionError is why an option of a keyed direction could not be set.
func optionError(err error) error {
	reason := "the kernel did not take the option"
	switch err {
	case unix.ENOPROTOOPT:
		reason = "this kernel does not have the option: it needs a newer one"
	case unix.EINVAL:
		reason = "the kernel does not take this value"
	case unix.EBUSY:
		reason = "a record is open"
	}
	return &Unavailable{reason, os.NewSyscallError("setsockopt", err)}
}

// readError is what a read that failed with err means. EIO and EKEYEXPIRED are no
// failures, and never come here.
func readError(err error) error {
	switch err {
	case unix.EBADMSG: // a bad tag, and less than a tag
		return &record.Error{Alert: record.BadRecordMAC, Reason: "the kernel could not open a record"}
	case unix.EMSGSIZE:
		return &record.Error{Alert: record.RecordOverflow, Reason: "the kernel refused a record that is too long"}
	case unix.EINVAL: // its version, which is looked at before anything else
		return &record.Error{Alert: record.ProtocolVersion, Reason: "the kernel refused a record of another version"}
	}
	return os.NewSyscallError("read", err)
}

// writeError is what a write that failed with err means. A record that the kernel
// refused is the socket's error, which it tells whoever comes first; after one that it
// could not open it refuses to send, too.
func writeError(call string, err error) error {
	if call == "sendmsg" && (err == unix.EBADMSG || err == unix.EMSGSIZE || err == unix.EINVAL) {
		return readError(err)
	}
	return os.NewSyscallError(call, err)
}

// sourceRefused reports whether sendfile(2) or splice(2) cannot read from this
// file, so that it has to be read as any other.
func sourceRefused(err error) bool {
	return err == unix.EINVAL || err == unix.ESPIPE || err == unix.ENOSYS || err == unix.EOVERFLOW || err == unix.EPERM
}

// errnoOf takes the errno out of what a system call returned.
func errnoOf(err error) syscall.Errno {
	errno, _ := errors.AsType[syscall.Errno](err)
	return errno
}
