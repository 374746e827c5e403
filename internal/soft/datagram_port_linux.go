package soft

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setUp asks the socket for what it can do.
func (p *Port) setUp() {
	p.raw.Control(func(fd uintptr) {
		s := int(fd)
		// The path's limit is told, not hidden by fragments (RFC 6347, 4.1.1.1).
		unix.SetsockoptInt(s, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		if domain, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil {
			p.v6 = domain == unix.AF_INET6
		}
		if p.v6 {
			unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
		}
		if _, err := unix.GetsockoptInt(s, unix.IPPROTO_UDP, unix.UDP_SEGMENT); err == nil {
			p.whole.Store(true)
		}
		if p.packet != nil {
			if a, ok := p.packet.LocalAddr().(*net.UDPAddr); ok && a.IP.IsUnspecified() {
				p.local = p.tellLocal(s) == nil
			}
		}
		p.grouped = unix.SetsockoptInt(s, unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	})
}

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// tellLocal makes the socket tell which address of ours a datagram was sent to,
// which answers have to come from: a peer knows us by no other.
func (p *Port) tellLocal(s int) error {
	if p.v6 { // also tells those of IPv4, mapped
		return unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(s, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

// cmsgRoom holds the control messages that are sent or received: UDP_SEGMENT or
// UDP_GRO, and IP_PKTINFO or the larger IPV6_PKTINFO. Words, so that it is aligned.
type cmsgRoom [8]uint64

// outgoing is the state of one sendmmsg, pooled so that it does not allocate.
type outgoing struct {
	msgs [MaxBatch]mmsghdr
	iov  [MaxBatch]unix.Iovec
	cmsg [MaxBatch]cmsgRoom
	name unix.RawSockaddrInet6 // or the smaller one of IPv4
	used int
	from netip.Addr // of ours, where it is to be said
	v6   bool

	count  [MaxBatch]int // datagrams in each
	at, n  int           // msgs[at:n] are to be sent
	one    []byte        // instead: a single datagram
	errno  syscall.Errno
	try    func(fd uintptr) bool
	tryOne func(fd uintptr) bool
}

var outgoingPool = sync.Pool{New: func() any {
	o := new(outgoing)
	o.try, o.tryOne = o.sendmmsg, o.sendto
	return o
}}

// address sets the address of the peer; that of a connected socket is none.
func (o *outgoing) address(path Path, v6 bool) {
	to := path.Peer
	o.used, o.from, o.v6 = 0, path.Local, v6
	if !to.IsValid() {
		return
	}
	if v6 {
		o.name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.Addr().As16()}
		if z := to.Addr().Zone(); z != "" {
			if i, err := strconv.Atoi(z); err == nil {
				o.name.Scope_id = uint32(i)
			} else if i, err := net.InterfaceByName(z); err == nil {
				o.name.Scope_id = uint32(i.Index)
			}
		}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&o.name.Port))[:], to.Port())
		o.used = unix.SizeofSockaddrInet6
		return
	}
	a := (*unix.RawSockaddrInet4)(unsafe.Pointer(&o.name))
	*a = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr().Unmap().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&a.Port))[:], to.Port())
	o.used = unix.SizeofSockaddrInet4
}

func (o *outgoing) sendto(fd uintptr) bool {
	var p unsafe.Pointer
	if len(o.one) > 0 {
		p = unsafe.Pointer(&o.one[0])
	}
	var name unsafe.Pointer
	if o.used > 0 {
		name = unsafe.Pointer(&o.name)
	}
	for {
		_, _, o.errno = syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(p), uintptr(len(o.one)), dontWait, uintptr(name), uintptr(o.used))
		if o.errno != syscall.EINTR {
			return o.errno != syscall.EAGAIN
		}
	}
}

func (o *outgoing) sendmmsg(fd uintptr) bool {
	for o.at < o.n {
		k, _, errno := syscall.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&o.msgs[o.at])), uintptr(o.n-o.at), dontWait, 0, 0)
		switch errno {
		case 0:
			o.at += int(k)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			o.errno = errno
			return true
		}
	}
	return true
}

// add adds a message of count datagrams of the given size, the last maybe
// shorter, that lie in b.
func (o *outgoing) add(b []byte, size, count int) {
	i := o.n
	o.iov[i].Base = unsafe.SliceData(b)
	o.iov[i].SetLen(len(b))
	h := &o.msgs[i].hdr
	*h = unix.Msghdr{Iov: &o.iov[i]}
	h.SetIovlen(1)
	if o.used > 0 {
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&o.name)), uint32(o.used)
	}
	used := 0
	if count > 1 {
		*(*uint16)(o.control(i, &used, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)) = uint16(size)
	}
	switch {
	case !o.from.IsValid():
	case o.v6:
		*(*unix.Inet6Pktinfo)(o.control(i, &used, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)) = unix.Inet6Pktinfo{Addr: o.from.As16()}
	case o.from.Is4():
		*(*unix.Inet4Pktinfo)(o.control(i, &used, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)) = unix.Inet4Pktinfo{Spec_dst: o.from.As4()}
	}
	if used > 0 {
		h.Control = (*byte)(unsafe.Pointer(&o.cmsg[i]))
		h.SetControllen(used)
	}
	o.count[i] = count
	o.n++
}

// control adds a control message with n bytes to those of message i, which take
// used bytes, and returns where its data go.
func (o *outgoing) control(i int, used *int, level, typ int32, n int) unsafe.Pointer {
	c := (*unix.Cmsghdr)(unsafe.Add(unsafe.Pointer(&o.cmsg[i]), *used))
	c.Level, c.Type = level, typ
	c.SetLen(unix.CmsgLen(n))
	*used += unix.CmsgSpace(n)
	return unsafe.Add(unsafe.Pointer(c), unix.CmsgLen(0))
}

func (o *outgoing) release() {
	for i := range o.n {
		o.iov[i].Base = nil
	}
	o.one, o.at, o.n, o.errno = nil, 0, 0, 0
	outgoingPool.Put(o)
}

// Send sends the datagrams that lie in buf one behind the other, at most
// MaxBatch, and returns how many the carrier took. It waits until it takes them.
func (p *Port) Send(buf []byte, sizes []int, to Path) (n int, err error) {
	if p.raw == nil {
		return p.sendEach(buf, sizes, to)
	}
	o := outgoingPool.Get().(*outgoing)
	defer o.release()
	o.address(to, p.v6)
	if len(sizes) == 1 {
		if err := p.alone(o, buf[:sizes[0]], to); err != nil {
			return 0, err
		}
		return 1, nil
	}
	for n < len(sizes) {
		k, taken, err := p.sendRuns(o, buf, sizes[n:], to)
		n += k
		if err != nil {
			return n, err
		}
		buf = buf[taken:]
	}
	return n, nil
}

// alone sends one datagram.
func (p *Port) alone(o *outgoing, b []byte, to Path) error {
	o.at, o.n, o.errno = 0, 0, 0
	o.one = b
	try, call := o.tryOne, "sendto"
	if o.from.IsValid() { // which takes a control message to say
		o.add(b, len(b), 1)
		try, call = o.try, "sendmmsg"
	}
	if err := p.raw.Write(try); err != nil {
		return cause(err)
	}
	if o.errno != 0 {
		return p.sendError(os.NewSyscallError(call, o.errno), to)
	}
	return nil
}

// sendRuns sends with one call: every run of equal sizes is a message.
func (p *Port) sendRuns(o *outgoing, buf []byte, sizes []int, to Path) (n, taken int, err error) {
	whole := p.whole.Load()
	o.at, o.n, o.errno = 0, 0, 0
	for at, i := 0, 0; i < len(sizes); {
		count, bytes := run(sizes[i:], whole)
		o.add(buf[at:at+bytes], sizes[i], count)
		at, i = at+bytes, i+count
	}
	if err := p.raw.Write(o.try); err != nil {
		o.errno = 0
		n, taken = o.sent()
		return n, taken, cause(err)
	}
	n, taken = o.sent()
	if o.errno == 0 {
		return n, taken, nil
	}
	if o.count[o.at] == 1 || !segmentRefused(o.errno) {
		return n, taken, p.sendError(os.NewSyscallError("sendmmsg", o.errno), to)
	}
	// Was it the segmenting, or the datagrams? One of them alone tells.
	size := sizes[n]
	if err := p.alone(o, buf[taken:taken+size], to); err != nil {
		return n, taken, err
	}
	p.whole.Store(false)
	return n + 1, taken + size, nil
}

// sent is how many datagrams went, and in how many bytes.
func (o *outgoing) sent() (n, bytes int) {
	for i := range o.at {
		n += o.count[i]
		bytes += int(o.iov[i].Len)
	}
	return n, bytes
}

// segmentRefused knows the answers to a UDP_SEGMENT that does not go: EIO from
// a device that cannot fill in checksums, EINVAL for a segment larger than the
// path or a kernel that has its own limits.
func segmentRefused(e syscall.Errno) bool {
	switch e {
	case syscall.EIO, syscall.EINVAL, syscall.EMSGSIZE, syscall.EOPNOTSUPP, syscall.ENOPROTOOPT:
		return true
	}
	return false
}

// run is how many of the sizes can be one message: all alike, the last maybe
// shorter, and no more bytes than a datagram of UDP has.
func run(sizes []int, whole bool) (count, bytes int) {
	count, bytes = 1, sizes[0]
	if !whole {
		return count, bytes
	}
	for _, s := range sizes[1:] {
		if s > sizes[0] || s == 0 || count == maxSegments || bytes+s > maxDatagram {
			break
		}
		count, bytes = count+1, bytes+s
		if s < sizes[0] {
			break
		}
	}
	return count, bytes
}

func isTooLong(err error) bool { return errors.Is(err, syscall.EMSGSIZE) }

// pathLimit asks the system for the path's MTU and returns what is left of it
// for UDP's payload. A socket without a peer has no path: one that is
// connected for this question alone has.
func (p *Port) pathLimit(to Path) int {
	raw, v6 := p.raw, p.v6
	if to.Peer.IsValid() {
		var from *net.UDPAddr
		if to.Local.IsValid() {
			from = &net.UDPAddr{IP: to.Local.AsSlice(), Zone: to.Peer.Addr().Zone()}
		}
		c, err := net.DialUDP("udp", from, net.UDPAddrFromAddrPort(to.Peer))
		if err != nil {
			return 0
		}
		defer c.Close()
		if raw, err = c.SyscallConn(); err != nil {
			return 0
		}
		v6 = to.Peer.Addr().Is6() && !to.Peer.Addr().Is4In6()
	} else if p.conn != nil {
		if a, ok := p.conn.RemoteAddr().(*net.UDPAddr); ok {
			v6 = a.IP.To4() == nil
		}
	}
	mtu := 0
	raw.Control(func(fd uintptr) {
		if v6 {
			mtu, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
		} else {
			mtu, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
		}
	})
	head := 20 + 8
	if v6 {
		head = 40 + 8
	}
	return min(max(mtu-head, 0), maxDatagram)
}

// places is how many receive places a buffer has.
const places = batchSize / segmentRoom

// incoming is what one receive call brought: pooled with what the call needs.
type incoming struct {
	buf  []byte // lent while there is something in it
	msgs [places]mmsghdr
	iov  [places]unix.Iovec
	cmsg [places]cmsgRoom
	name [places]unix.RawSockaddrInet6
	n    int // places that were filled

	at   int    // the place of left
	left []byte // of it
	size int    // of the datagrams in it
	from Path

	errno syscall.Errno
	try   func(fd uintptr) bool
}

var incomingPool = sync.Pool{New: func() any {
	in := new(incoming)
	in.try = in.recvmmsg
	return in
}}

// receive waits for datagrams, and holds no buffer meanwhile. The caller gives
// what it returns back with release.
func (p *Port) receive() (*incoming, error) {
	in := incomingPool.Get().(*incoming)
	if p.raw == nil {
		in.buf = get(batchSize)
		n, from, err := p.receiveOne(in.buf[:segmentRoom])
		if err != nil {
			in.release()
			return nil, err
		}
		in.n, in.at, in.left, in.size, in.from = 1, 1, in.buf[:n:n], max(n, 1), from
		if n == 0 {
			in.left = nil
		}
		return in, nil
	}
	if err := p.raw.Read(in.try); err != nil {
		in.release()
		return nil, cause(err)
	}
	if in.errno != 0 {
		errno := in.errno
		in.release()
		return nil, os.NewSyscallError("recvmmsg", errno)
	}
	return in, nil
}

func (in *incoming) recvmmsg(fd uintptr) bool {
	if in.buf == nil {
		in.buf = get(batchSize)
	}
	for i := range places {
		in.iov[i].Base = &in.buf[i*segmentRoom]
		in.iov[i].SetLen(segmentRoom)
		h := &in.msgs[i].hdr
		*h = unix.Msghdr{Iov: &in.iov[i], Name: (*byte)(unsafe.Pointer(&in.name[i])), Namelen: unix.SizeofSockaddrInet6, Control: (*byte)(unsafe.Pointer(&in.cmsg[i]))}
		h.SetIovlen(1)
		h.SetControllen(len(in.cmsg[i]) * 8)
	}
	var n uintptr
	for {
		n, _, in.errno = syscall.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&in.msgs[0])), places, syscall.MSG_DONTWAIT, 0, 0)
		if in.errno != syscall.EINTR {
			break
		}
	}
	if in.errno == syscall.EAGAIN {
		put(in.buf)
		in.buf = nil
		return false
	}
	in.n, in.at, in.left = int(n), 0, nil
	if in.errno != 0 {
		in.n = 0
	}
	return true
}

// next returns the next datagram, which lies in the buffer.
func (in *incoming) next() (d []byte, from Path, ok bool) {
	for len(in.left) == 0 {
		if in.at >= in.n {
			return nil, from, false
		}
		i := in.at
		in.at++
		m := &in.msgs[i]
		in.left = in.buf[i*segmentRoom : i*segmentRoom+int(m.n) : i*segmentRoom+int(m.n)]
		in.size, in.from = max(int(m.n), 1), Path{Peer: address(&in.name[i], int(m.hdr.Namelen))}
		in.control(&in.cmsg[i], int(m.hdr.Controllen))
		if m.hdr.Flags&unix.MSG_TRUNC != 0 {
			in.left = nil // what was cut off cannot be authentic
		}
	}
	k := min(in.size, len(in.left))
	d, in.left = in.left[:k:k], in.left[k:]
	return d, in.from, true
}

// control reads the control messages of one place, of n bytes.
func (in *incoming) control(room *cmsgRoom, n int) {
	for at := 0; n-at >= unix.SizeofCmsghdr; {
		c := (*unix.Cmsghdr)(unsafe.Add(unsafe.Pointer(room), at))
		data := unsafe.Add(unsafe.Pointer(c), unix.CmsgLen(0))
		size := int(c.Len) - unix.CmsgLen(0)
		if size < 0 || size > n-at-unix.CmsgLen(0) {
			return
		}
		switch {
		case c.Level == unix.IPPROTO_UDP && c.Type == unix.UDP_GRO && size >= 4:
			if s := *(*int32)(data); s > 0 {
				in.size = int(s)
			}
		case c.Level == unix.IPPROTO_IP && c.Type == unix.IP_PKTINFO && size >= unix.SizeofInet4Pktinfo:
			in.from.Local = netip.AddrFrom4((*unix.Inet4Pktinfo)(data).Spec_dst)
		case c.Level == unix.IPPROTO_IPV6 && c.Type == unix.IPV6_PKTINFO && size >= unix.SizeofInet6Pktinfo:
			if a := netip.AddrFrom16((*unix.Inet6Pktinfo)(data).Addr).Unmap(); !a.IsMulticast() {
				in.from.Local = a
			}
		}
		at += unix.CmsgSpace(size)
	}
}

// address reads the sender's address; there is none on a connected socket.
func address(a *unix.RawSockaddrInet6, n int) netip.AddrPort {
	switch {
	case a.Family == unix.AF_INET && n >= unix.SizeofSockaddrInet4:
		a4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom4(a4.Addr), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&a4.Port))[:]))
	case a.Family == unix.AF_INET6 && n >= unix.SizeofSockaddrInet6:
		ip := netip.AddrFrom16(a.Addr).Unmap()
		if a.Scope_id != 0 && ip.Is6() {
			ip = ip.WithZone(strconv.Itoa(int(a.Scope_id))) // its name would cost a system call
		}
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&a.Port))[:]))
	}
	return netip.AddrPort{}
}

func (in *incoming) release() {
	if in.buf != nil {
		put(in.buf)
	}
	in.buf, in.left, in.n, in.at, in.errno = nil, nil, 0, 0, 0
	for i := range in.iov {
		in.iov[i].Base = nil
	}
	incomingPool.Put(in)
}
