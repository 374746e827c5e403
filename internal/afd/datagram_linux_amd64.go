package afd

import (
	"encoding/binary"
	"net"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/seccomp"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// SOCK_DGRAM of AF_TLS. The program holds one half of a pair of SEQPACKET sockets, and
// the kernel performs its calls: one message is one datagram. What a pair cannot say,
// the calls that stop here do: that a message is too long for the path, and once what
// came back of an earlier one, as those of a UDP socket do. With --strict these are
// all calls that read and write, without it those with a struct msghdr.

// checked reports whether every call on the socket stops here.
func (t *tlsSocket) checked() bool { return t.s.Strict && t.dgram }

func (t *tlsSocket) datagrams() *Datagrams {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.d
}

// datagramCall performs a call that reads or writes.
func (t *tlsSocket) datagramCall(n *seccomp.Notification) {
	d := t.datagrams()
	if d == nil {
		n.Continue()
		return
	}
	switch n.Nr {
	case unix.SYS_RECVMSG:
		t.receiveDatagram(n, d)
	case unix.SYS_READ, unix.SYS_READV, unix.SYS_PREADV2, unix.SYS_RECVFROM, unix.SYS_RECVMMSG:
		continueUnless(n, d.TakeWarning())
	case unix.SYS_SENDMSG:
		t.sendDatagram(n, d)
	case unix.SYS_SENDMMSG:
		continueUnless(n, d.refusesFirst(n))
	case unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_PWRITEV2, unix.SYS_SENDTO:
		v, err := memoryOf(n)
		if err == nil {
			err = d.refuses(v)
		}
		continueUnless(n, err)
	default:
		n.Continue()
	}
}

// continueUnless lets a call go on, or answers with the errno of err. What goes on
// moves bytes of the program's half, whatever becomes of its arguments meanwhile.
func continueUnless(n *seccomp.Notification, err error) {
	if err != nil {
		fail(n, err)
		return
	}
	n.Continue()
}

// refuses says why a message of the program is not to be sent, or nil.
func (d *Datagrams) refuses(v []seccomp.Iovec) error {
	if err := d.TakeWarning(); err != nil {
		return err
	}
	if d.started() != nil && sum(v) > d.MaxMessage() {
		return unix.EMSGSIZE
	}
	return nil
}

// refusesFirst is refuses for the first message of sendmmsg, and for control messages in
// any of them: the kernel would send their records as data.
func (d *Datagrams) refusesFirst(n *seccomp.Notification) error {
	for i := range min(uint64(uint32(n.Args[2])), maxMessages) {
		h, err := n.ReadMsghdr(n.Args[1] + i*mmsgSize)
		if err != nil {
			if i > 0 {
				return nil // it goes up to there
			}
			return err
		}
		if h.Controllen > 0 {
			return unix.EINVAL
		}
		if i > 0 {
			continue
		}
		v, err := buffersOf(n, h)
		if err == nil {
			err = d.refuses(v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sendDatagram performs sendmsg: with TLS_SET_RECORD_TYPE a control record.
func (t *tlsSocket) sendDatagram(n *seccomp.Notification, d *Datagrams) {
	h, err := n.ReadMsghdr(n.Args[1])
	if err != nil {
		fail(n, err)
		return
	}
	v, err := buffersOf(n, h)
	if err == nil {
		err = d.refuses(v)
	}
	typ := record.ApplicationData
	if err == nil && h.Controllen > 0 {
		typ, err = recordType(n, h)
	}
	if err != nil || typ == record.ApplicationData {
		continueUnless(n, err)
		return
	}
	if d.started() == nil {
		n.Respond(0, unix.ENOTCONN)
		return
	}
	b := make([]byte, sum(v))
	m, err := n.ReadVec(b, v)
	if err == nil && m < len(b) {
		err = unix.EFAULT
	}
	if err != nil {
		fail(n, err)
		return
	}
	later := n.Later(func(n *seccomp.Notification) {
		if !n.Valid() {
			return
		}
		if err := wait(d.SendControl(typ, b)); err != nil {
			fail(n, err)
			return
		}
		n.Respond(int64(len(b)), 0)
	})
	if !later {
		n.Respond(0, unix.EAGAIN)
	}
}

// receiveDatagram performs recvmsg: the control record that is next, where one is asked
// for (MSG_ERRQUEUE) or there is room for its type, and the program deals with them.
func (t *tlsSocket) receiveDatagram(n *seccomp.Notification, d *Datagrams) {
	flags := int(int32(n.Args[2]))
	queue := flags&unix.MSG_ERRQUEUE != 0
	if err := d.TakeWarning(); err != nil {
		fail(n, err)
		return
	}
	h, err := n.ReadMsghdr(n.Args[1])
	if err != nil {
		fail(n, err)
		return
	}
	c, ok := Control{}, false
	if t.policyIs(Theirs) && (queue || h.Controllen >= cmsgType) {
		c, ok = d.TakeControl(true)
	}
	if !ok {
		if queue {
			n.Respond(0, unix.EAGAIN)
		} else {
			n.Continue()
		}
		return
	}
	v, err := buffersOf(n, h)
	if err != nil {
		fail(n, err)
		return
	}
	r := &reception{t: t, flags: flags, typ: c.Type}
	fit := min(len(c.Payload), sum(v))
	if m, err := n.WriteVec(v, c.Payload[:fit]); err != nil {
		fail(n, err)
		return
	} else if m < fit {
		n.Respond(0, unix.EFAULT)
		return
	}
	r.n, r.eor, r.cut = fit, true, fit < len(c.Payload)
	if err := r.writeHeader(n, n.Args[1], h); err != nil {
		fail(n, err)
		return
	}
	if flags&unix.MSG_PEEK == 0 {
		d.TakeControl(false)
	}
	n.Respond(int64(fit), 0)
}

func (t *tlsSocket) policyIs(p Policy) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.policy == p
}

// setDatagramOption performs the options of SOL_TLS.
func (t *tlsSocket) setDatagramOption(name int, value []byte) error {
	switch name {
	case tlsTX, tlsRX, aftlsTXSecret, aftlsRXSecret:
		parse := ParseCryptoInfo
		if name == aftlsTXSecret || name == aftlsRXSecret {
			parse = ParseTrafficSecret
		}
		k, err := parse(value)
		if err != nil {
			return unix.EINVAL
		}
		defer k.Wipe()
		dir := direction(name)
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.d == nil {
			return unix.ENOTCONN
		}
		if err := t.d.SetKeys(dir, k); err != nil {
			return err
		}
		t.keys[dir] = k.Clone()
		return nil
	case aftlsPolicy, aftlsIsClient:
		return t.configure(name, value)
	case aftlsNextRecord:
		return unix.EOPNOTSUPP // nothing is next among datagrams
	}
	return unix.ENOPROTOOPT
}

// datagramOption is what getsockopt gives at SOL_TLS, and with --strict at SOL_SOCKET.
func (t *tlsSocket) datagramOption(n *seccomp.Notification, level, name, room int) ([]byte, error) {
	d := t.datagrams()
	if level == unix.SOL_SOCKET {
		return t.datagramSocketOption(d, name)
	}
	switch name {
	case tlsTX, tlsRX:
		return t.liveDatagramKeys(d, direction(name), room)
	case aftlsControlFD:
		if room != 4 {
			return nil, unix.EINVAL
		}
		return t.controlFD(n)
	case aftlsError:
		if d == nil {
			return nil, unix.ENOTCONN
		}
		return appendError(nil, d.Failure()), nil
	case aftlsMaxMessage:
		switch {
		case d == nil:
			return nil, unix.ENOTCONN
		case room != 4:
			return nil, unix.EINVAL
		}
		return binary.NativeEndian.AppendUint32(nil, uint32(d.MaxMessage())), nil
	case aftlsNextRecord:
		return nil, unix.EOPNOTSUPP
	}
	return nil, unix.ENOPROTOOPT
}

// datagramSocketOption is socketOption for datagrams.
func (t *tlsSocket) datagramSocketOption(d *Datagrams, name int) ([]byte, error) {
	value := 0
	switch name {
	case unix.SO_ERROR:
		if d == nil {
			break
		}
		err := d.TakeWarning()
		if err == nil && d.Failure() != nil && !t.told.Swap(true) {
			err = d.Failure()
		}
		if err != nil {
			value = int(errnoOf(err))
		}
	case unix.SO_DOMAIN:
		value = unix.AF_INET6
		t.mu.Lock()
		defer t.mu.Unlock()
		if a, ok := t.local.(*net.UDPAddr); ok && len(a.IP) == net.IPv4len {
			value = unix.AF_INET
		}
	case unix.SO_PROTOCOL:
		value = unix.IPPROTO_UDP
	default:
		return nil, unix.EOPNOTSUPP
	}
	return binary.NativeEndian.AppendUint32(nil, uint32(value)), nil
}

// liveDatagramKeys is liveKeys for datagrams: to receive with, the number is the one
// above the highest that came.
func (t *tlsSocket) liveDatagramKeys(d *Datagrams, dir aftls.Direction, room int) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.keys[dir]
	if k.Version == 0 {
		return nil, unix.EBUSY
	}
	if len(k.Secret) > 0 {
		return nil, unix.EOPNOTSUPP // the program knows no key of it
	}
	if d.started() != nil {
		if k.Seq = d.Info().Send.Seq; dir == aftls.Receive {
			k.Seq = d.Info().Receive.Seq
		}
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
