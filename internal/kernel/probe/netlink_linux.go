package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNetlink is wrapped by the errors of replies that make no sense.
var ErrNetlink = errors.New("netlink: the reply makes no sense")

// maxReplies bounds what one question may bring: a socket's, or an interface's, is
// some hundred bytes to some kilobytes.
const maxReplies = 16 << 20

// ask sends one request and returns the messages of the answer, without the kernel's
// own ones. More replies come where flags have NLM_F_DUMP.
func ask(protocol int, typ, flags uint16, body []byte) ([]syscall.NetlinkMessage, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket AF_NETLINK", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience}); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	const number = 1
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	m = binary.NativeEndian.AppendUint16(m, typ)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	m = binary.NativeEndian.AppendUint32(m, number)
	m = binary.NativeEndian.AppendUint32(m, 0) // from whom: the kernel knows
	if err := unix.Sendto(fd, append(m, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	var all []syscall.NetlinkMessage
	for total := 0; ; {
		b := make([]byte, 64<<10)
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue // another process, which may send to us
		}
		if total += n; total > maxReplies {
			return nil, fmt.Errorf("%w: more than %d bytes", ErrNetlink, maxReplies)
		}
		more, done, err := replies(b[:n])
		if err != nil {
			return nil, err
		}
		if all = append(all, more...); done {
			return all, nil
		}
	}
}

// replies takes apart what one recvfrom brought. done says that nothing follows.
func replies(b []byte) (all []syscall.NetlinkMessage, done bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrNetlink, err)
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return all, true, nil
		case unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return nil, false, fmt.Errorf("%w: an error without a number", ErrNetlink)
			}
			if errno := int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
				return nil, false, os.NewSyscallError("netlink", unix.Errno(-errno))
			}
			return all, true, nil
		case unix.NLMSG_NOOP, unix.NLMSG_OVERRUN:
		default:
			all = append(all, m)
		}
	}
	return all, false, nil
}

// attrHead is the length of struct nlattr.
const attrHead = 4

// attributes calls f for each attribute in b, in their order, until f returns an
// error. What f gets are parts of b.
func attributes(b []byte, f func(typ uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < attrHead {
			return fmt.Errorf("%w: %d bytes where an attribute should be", ErrNetlink, len(b))
		}
		n, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if n < attrHead || n > len(b) {
			return fmt.Errorf("%w: an attribute of %d bytes in %d", ErrNetlink, n, len(b))
		}
		if err := f(typ&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[attrHead:n]); err != nil {
			return err
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return nil
}

// appendAttribute appends an attribute, and what fills it up to four bytes.
func appendAttribute(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrHead+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

// text is the string in an attribute, which may end with a zero.
func text(value []byte) string { return unix.ByteSliceToString(value) }
