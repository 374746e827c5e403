package afd

import (
	"encoding/binary"
	"errors"
	"net"
	"syscall"
	"unsafe"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/pump"
	"github.com/aftls/aftls/internal/seccomp"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// maxOption is the longest value of a socket option that is looked at or
// forwarded, in bytes.
const maxOption = 4096

// setsockopt performs the options that make and key TLS sockets, and forwards
// those of TCP and IP to the carrier.
func (s *Supervisor) setsockopt(n *seccomp.Notification) {
	fd, level, name, size := int(int32(n.Args[0])), int(int32(n.Args[1])), int(int32(n.Args[2])), int(int32(n.Args[4]))
	ulp := level == unix.IPPROTO_TCP && name == unix.TCP_ULP
	if !ulp && !s.any.Load() {
		n.Continue()
		return
	}
	t := s.find(n, fd)
	switch {
	case ulp:
		s.setULP(n, t, fd)
		return
	case level == unix.SOL_TLS:
	case t == nil:
		n.Continue()
		return
	}
	if size < 0 || size > maxOption {
		n.Respond(0, unix.EINVAL)
		return
	}
	value := make([]byte, size)
	if err := n.Read(value, n.Args[3]); err != nil {
		fail(n, err)
		return
	}
	switch level {
	case unix.SOL_TLS:
		if err := s.setTLS(n, t, fd, name, value, false); err != errLater {
			answer(n, err)
			clear(value)
			return
		}
		// A look at all descriptors, or keys behind what a slow peer has to read.
		later := n.Later(func(n *seccomp.Notification) {
			answer(n, s.setTLS(n, t, fd, name, value, true))
			clear(value)
		})
		if !later {
			clear(value)
			n.Respond(0, unix.EAGAIN)
		}
	case unix.SOL_SOCKET:
		if t.dgram {
			n.Continue() // Linux runs a filter on every message of this end
			return
		}
		if !n.Later(func(n *seccomp.Notification) { answer(n, t.setFilter(n, name, value)) }) {
			n.Respond(0, unix.EAGAIN)
		}
	default:
		answer(n, t.onCarrier(func(fd int) error { return unix.SetsockoptString(fd, level, name, string(value)) }))
	}
}

// onCarrier makes a call on the carrier.
func (t *tlsSocket) onCarrier(call func(fd int) error) (err error) {
	t.mu.Lock()
	a, d := t.a, t.d
	t.mu.Unlock()
	var carrier *pump.Carrier
	switch {
	case a != nil:
		carrier = a.carrier
	case d != nil:
		carrier = d.carrier
	default:
		return unix.ENOTCONN
	}
	if cerr := carrier.Descriptor().Control(func(fd uintptr) { err = call(int(fd)) }); cerr != nil {
		return unix.ENOTCONN
	}
	return err
}

const ulpTLS = "tls"

// setULP performs TCP_ULP "tls": it only notes it. Many programs set it on every
// connection and use it on few.
func (s *Supervisor) setULP(n *seccomp.Notification, t *tlsSocket, fd int) {
	const ulpNameMax = 16
	size := int(int32(n.Args[4]))
	if size < 1 {
		n.Respond(0, unix.EINVAL)
		return
	}
	var name [ulpNameMax]byte
	b := name[:min(size, ulpNameMax-1)]
	if err := n.Read(b, n.Args[3]); err != nil {
		fail(n, err)
		return
	}
	if unix.ByteSliceToString(name[:]) != ulpTLS {
		n.Continue()
		return
	}
	if t != nil {
		n.Respond(0, unix.EEXIST)
		return
	}
	answer(n, s.noteULP(n, fd))
}

// ulp is a TCP socket with TCP_ULP and without keys.
type ulp struct {
	cookie uint64
	full   int // TLS_TX_MAX_PAYLOAD_LEN; 0: as it is at first
}

// maxULP is how many sockets with TCP_ULP and without keys are remembered; of
// those that were closed nothing is heard.
const maxULP = 1 << 16

func (s *Supervisor) noteULP(n *seccomp.Notification, fd int) error {
	inode, err := n.Inode(fd)
	if err != nil {
		return err
	}
	tcp, err := n.GetFD(fd)
	if err != nil {
		return err
	}
	defer unix.Close(tcp)
	proto, err := unix.GetsockoptInt(tcp, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return err
	}
	if proto != unix.IPPROTO_TCP {
		return unix.ENOPROTOOPT
	}
	info, err := unix.GetsockoptTCPInfo(tcp, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return err
	}
	const established = 1
	if info.State != established {
		return unix.ENOTCONN
	}
	cookie, err := unix.GetsockoptUint64(tcp, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ulp[inode].cookie == cookie {
		return unix.EEXIST
	}
	if len(s.ulp) >= maxULP {
		for old := range s.ulp {
			delete(s.ulp, old)
			break
		}
	}
	s.ulp[inode] = ulp{cookie: cookie}
	s.any.Store(true)
	return nil
}

// errLater says that a call has to be made by somebody who may wait.
var errLater = errors.New("afd: later")

// setTLS performs the options of SOL_TLS. It is errLater if that takes its time and
// wait is not said.
func (s *Supervisor) setTLS(n *seccomp.Notification, t *tlsSocket, fd, name int, value []byte, wait bool) error {
	if t == nil {
		noted, tcp := s.hasULP(n, fd)
		if !tcp {
			return unix.ENOPROTOOPT
		}
		switch name {
		case tlsTX, tlsRX:
			k, err := ParseCryptoInfo(value)
			if err != nil {
				return unix.EINVAL
			}
			defer k.Wipe()
			switch {
			case isDatagram(k.Version):
				return unix.EINVAL
			case !wait:
				return errLater
			}
			return s.swap(n, fd, noted, direction(name), k)
		case tlsTXZerocopyRO:
			return setBool(value)
		case tlsRXNoPad:
			return unix.EINVAL // there are no keys to receive with, of TLS 1.3
		case tlsTXMaxPayload:
			return s.noteFullRecord(n, fd, value)
		}
		return unix.ENOPROTOOPT
	}
	if t.dgram {
		return t.setDatagramOption(name, value)
	}
	switch name {
	case tlsTX, tlsRX, aftlsTXSecret, aftlsRXSecret:
		parse := ParseCryptoInfo
		if name == aftlsTXSecret || name == aftlsRXSecret {
			if parse = ParseTrafficSecret; t.linux {
				return unix.ENOPROTOOPT
			}
		}
		k, err := parse(value)
		if err != nil {
			return unix.EINVAL
		}
		defer k.Wipe()
		if isDatagram(k.Version) {
			return unix.EINVAL
		}
		return t.setKeys(n, direction(name), k, wait)
	case tlsTXZerocopyRO:
		return setBool(value)
	case tlsRXNoPad:
		return t.setNoPad(value)
	case tlsTXMaxPayload:
		return t.setFullRecord(value)
	case aftlsPolicy, aftlsIsClient:
		if t.linux {
			return unix.ENOPROTOOPT
		}
		return t.configure(name, value)
	case aftlsNextRecord:
		if len(value) != 4 {
			return unix.EINVAL
		}
		return t.arm(record.ContentType(value[0]), int(binary.NativeEndian.Uint16(value[2:])))
	}
	return unix.ENOPROTOOPT
}

func direction(name int) aftls.Direction {
	if name == tlsRX || name == aftlsRXSecret {
		return aftls.Receive
	}
	return aftls.Send
}

// hasULP reports whether TCP_ULP was set on the TCP socket at fd.
func (s *Supervisor) hasULP(n *seccomp.Notification, fd int) (noted ulp, ok bool) {
	inode, err := n.Inode(fd)
	if err != nil {
		return ulp{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	noted, ok = s.ulp[inode]
	return noted, ok
}

// getULP answers what is asked of a TCP socket with TCP_ULP and without keys. It
// is false for every other socket and option.
func (s *Supervisor) getULP(n *seccomp.Notification) bool {
	level, name := int(int32(n.Args[1])), int(int32(n.Args[2]))
	ulp := level == unix.IPPROTO_TCP && name == unix.TCP_ULP
	if !ulp && level != unix.SOL_TLS {
		return false
	}
	noted, ok := s.hasULP(n, int(int32(n.Args[0])))
	if !ok {
		return false
	}
	(&tlsSocket{s: s, linux: true, full: noted.full}).getsockopt(n)
	return true
}

// setBool checks an option that changes nothing here.
func setBool(value []byte) error {
	if len(value) != 4 || binary.NativeEndian.Uint32(value) > 1 {
		return unix.EINVAL
	}
	return nil
}

// setNoPad is TLS_RX_EXPECT_NO_PAD: a hint that nobody here needs.
func (t *tlsSocket) setNoPad(value []byte) error {
	if err := setBool(value); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.keys[aftls.Receive].Version != record.TLS13 {
		return unix.EINVAL
	}
	return nil
}

// configure performs the options that come before bind.
func (t *tlsSocket) configure(name int, value []byte) error {
	if err := setBool(value); err != nil {
		return err
	}
	v := binary.NativeEndian.Uint32(value)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.a != nil || t.d != nil {
		return unix.EISCONN
	}
	if name == aftlsPolicy {
		t.policy = Policy(v)
	} else {
		t.client = v == 1
	}
	return nil
}

// parseFullRecord reads the value of TLS_TX_MAX_PAYLOAD_LEN (Linux 6.19). The least
// is what RFC 8449, 4 allows; in TLS 1.3 that counts the content type.
func parseFullRecord(value []byte, version uint16) (int, error) {
	least := 64
	if version == record.TLS13 {
		least--
	}
	if len(value) != 2 {
		return 0, unix.EINVAL
	}
	n := int(binary.NativeEndian.Uint16(value))
	if n < least || n > record.MaxPlaintext {
		return 0, unix.EINVAL
	}
	return n, nil
}

// noteFullRecord is TLS_TX_MAX_PAYLOAD_LEN of a TCP socket without keys.
func (s *Supervisor) noteFullRecord(n *seccomp.Notification, fd int, value []byte) error {
	full, err := parseFullRecord(value, 0)
	if err != nil {
		return err
	}
	inode, err := n.Inode(fd)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	noted, ok := s.ulp[inode]
	if !ok {
		return unix.ENOPROTOOPT
	}
	noted.full = full
	s.ulp[inode] = noted
	return nil
}

// setFullRecord is TLS_TX_MAX_PAYLOAD_LEN of a TLS socket. One whose messages are
// records has no use for it.
func (t *tlsSocket) setFullRecord(value []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.a == nil:
		return unix.ENOTCONN
	case t.end.Records():
		return unix.ENOPROTOOPT
	}
	version := max(t.keys[aftls.Send].Version, t.keys[aftls.Receive].Version)
	full, err := parseFullRecord(value, version)
	if err == nil {
		err = t.a.SetFullRecord(full)
	}
	if err == nil {
		t.full = full
	}
	return err
}

// fullRecord answers TLS_TX_MAX_PAYLOAD_LEN.
func (t *tlsSocket) fullRecord(room int) ([]byte, error) {
	if room < 2 {
		return nil, unix.EINVAL
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	full := t.full
	if full == 0 {
		full = record.MaxPlaintext
	}
	return binary.NativeEndian.AppendUint16(nil, uint16(full)), nil
}

func (t *tlsSocket) arm(typ record.ContentType, length int) error {
	t.mu.Lock()
	a := t.a
	t.mu.Unlock()
	if a == nil {
		return unix.ENOTCONN
	}
	_, err := a.Arm(typ, length)
	return err
}

// getsockopt answers what the program asks of a TLS socket.
func (t *tlsSocket) getsockopt(n *seccomp.Notification) {
	level, name := int(int32(n.Args[1])), int(int32(n.Args[2]))
	if level == unix.SOL_SOCKET && !t.isStrict() && !t.checked() {
		if isFilter(name) && !t.dgram {
			n.Respond(0, unix.EOPNOTSUPP)
		} else {
			n.Continue()
		}
		return
	}
	var b [4]byte
	if err := n.Read(b[:], n.Args[4]); err != nil {
		fail(n, err)
		return
	}
	room := int(int32(binary.NativeEndian.Uint32(b[:])))
	if room < 0 {
		n.Respond(0, unix.EINVAL)
		return
	}
	value, err := t.getOption(n, level, name, room)
	defer clear(value)
	if err == nil {
		value = value[:min(len(value), room)]
		if err = n.Write(n.Args[3], value); err == nil {
			binary.NativeEndian.PutUint32(b[:], uint32(len(value)))
			err = n.Write(n.Args[4], b[:])
		}
	}
	answer(n, err)
}

func (t *tlsSocket) getOption(n *seccomp.Notification, level, name, room int) ([]byte, error) {
	switch {
	case t.dgram && (level == unix.SOL_SOCKET || level == unix.SOL_TLS):
		return t.datagramOption(n, level, name, room)
	case level == unix.SOL_SOCKET:
		return t.socketOption(name)
	}
	if level != unix.SOL_TLS {
		if level == unix.IPPROTO_TCP && name == unix.TCP_ULP && !t.dgram {
			return []byte(ulpTLS + "\x00"), nil
		}
		value := make([]byte, min(room, maxOption))
		var size int
		err := t.onCarrier(func(fd int) (err error) { size, err = getsockopt(fd, level, name, value); return err })
		return value[:size], err
	}
	switch name {
	case tlsTX, tlsRX:
		return t.liveKeys(direction(name), room)
	case tlsTXZerocopyRO, tlsRXNoPad:
		if room != 4 {
			return nil, unix.EINVAL
		}
		return make([]byte, 4), nil
	case tlsTXMaxPayload:
		return t.fullRecord(room)
	case aftlsNextRecord:
		return t.nextRecord(n)
	case aftlsControlFD:
		if room != 4 {
			return nil, unix.EINVAL
		}
		return t.controlFD(n)
	case aftlsError:
		t.mu.Lock()
		a := t.a
		t.mu.Unlock()
		if a == nil {
			return nil, unix.ENOTCONN
		}
		return appendError(nil, a.Failure()), nil
	}
	return nil, unix.ENOPROTOOPT
}

// liveKeys is what TLS_TX and TLS_RX give: the keys with the number of the next
// record, or the first four bytes of that.
func (t *tlsSocket) liveKeys(d aftls.Direction, room int) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.keys[d]
	if k.Version == 0 || t.a == nil {
		return nil, unix.EBUSY
	}
	if len(k.Secret) > 0 {
		return nil, unix.EOPNOTSUPP // the program knows no key of it
	}
	i := t.a.Info().Send
	if d == aftls.Receive {
		i = t.a.Info().Receive
	}
	if i.Version != 0 { // else the keys wait for their turn
		k.Seq = i.Seq
	}
	if t.isStrict() {
		k.Seq = t.strictSeq(d)
	}
	b, err := AppendCryptoInfo(nil, k)
	if err != nil {
		return nil, unix.EINVAL
	}
	if room != infoHead && room != len(b) {
		clear(b)
		return nil, unix.EINVAL
	}
	return b[:room], nil
}

// getsockopt is getsockopt(2) of any type.
func getsockopt(fd, level, name int, value []byte) (int, error) {
	if len(value) == 0 {
		return 0, unix.EINVAL
	}
	size := uint32(len(value))
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, unix.Errno(errno)
	}
	return int(size), nil
}

// getname answers getsockname and getpeername with the addresses of the carrier.
func (t *tlsSocket) getname(n *seccomp.Notification) {
	t.mu.Lock()
	addr, bound := t.local, t.a != nil || t.d != nil
	if n.Nr == unix.SYS_GETPEERNAME {
		addr = t.peer
	}
	t.mu.Unlock()
	if !bound {
		if n.Nr == unix.SYS_GETPEERNAME {
			n.Respond(0, unix.ENOTCONN)
		} else {
			n.Continue()
		}
		return
	}
	sa := sockaddr(addr)
	var b [4]byte
	err := n.Read(b[:], n.Args[2])
	if err == nil {
		room := int(int32(binary.NativeEndian.Uint32(b[:])))
		if room < 0 {
			err = unix.EINVAL
		} else if err = n.Write(n.Args[1], sa[:min(room, len(sa))]); err == nil {
			binary.NativeEndian.PutUint32(b[:], uint32(len(sa)))
			err = n.Write(n.Args[2], b[:])
		}
	}
	answer(n, err)
}

// sockaddr is struct sockaddr_in or sockaddr_in6.
func sockaddr(addr net.Addr) []byte {
	a, ok := addr.(*net.TCPAddr)
	if u, isUDP := addr.(*net.UDPAddr); isUDP {
		a, ok = (*net.TCPAddr)(u), true
	}
	if !ok {
		return binary.NativeEndian.AppendUint16(nil, unix.AF_UNSPEC)
	}
	if len(a.IP) == net.IPv4len {
		b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
		b = binary.BigEndian.AppendUint16(b, uint16(a.Port))
		return append(append(b, a.IP...), make([]byte, 8)...)
	}
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET6)
	b = binary.BigEndian.AppendUint16(b, uint16(a.Port))
	b = append(append(b, 0, 0, 0, 0), a.IP...)
	zone := 0
	for _, c := range a.Zone {
		zone = zone*10 + int(c-'0')
	}
	return binary.NativeEndian.AppendUint32(b, uint32(zone))
}
