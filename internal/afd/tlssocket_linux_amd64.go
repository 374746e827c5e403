package afd

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/internal/pump"
	"github.com/aftls/aftls/internal/seccomp"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// tlsSocket is a TLS socket of the program. It is one of AF_TLS, or a TCP socket
// in whose place the program now has one.
type tlsSocket struct {
	s     *Supervisor
	inode uint64 // of the program's half
	linux bool   // made by TCP_ULP: as Linux has it
	dgram bool   // SOCK_DGRAM: see datagram_linux_amd64.go

	mu     sync.Mutex
	end    *pump.End    // our half
	a      *Association // nil before bind
	d      *Datagrams   // the same of one of datagrams
	policy Policy
	client bool
	keys   [2]record.Keys // as they were given, for getsockopt

	full int // TLS_TX_MAX_PAYLOAD_LEN; 0: as it is at first

	filterLocked bool // SO_LOCK_FILTER

	control *control      // AFTLS_CONTROL_FD was asked for
	keying  sync.Mutex    // who sets keys
	reading sync.Mutex    // who takes something out of the program's half
	sending chan struct{} // holds something while a call sends
	told    atomic.Bool   // the program knows why its connection ended (--strict)

	carrierInode uint64 // of a carrier that the program holds too
	local, peer  net.Addr
}

func (t *tlsSocket) unbound() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.a == nil && t.d == nil
}

// socket performs socket(AF_TLS, type, 0).
func (s *Supervisor) socket(n *seccomp.Notification) {
	typ, protocol := int(n.Args[1]), int(int32(n.Args[2]))
	const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	newPair := pump.NewPair
	switch typ &^ flags {
	case unix.SOCK_STREAM:
	case unix.SOCK_SEQPACKET:
		newPair = pump.NewRecordPair
	case unix.SOCK_DGRAM:
		newPair = pump.NewDatagramPair
		s.dgram.Store(true)
	default:
		n.Respond(0, unix.ESOCKTNOSUPPORT)
		return
	}
	if protocol != 0 {
		n.Respond(0, unix.EPROTONOSUPPORT)
		return
	}
	s.closeAbandoned(false)
	end, theirs, err := newPair()
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		s.closeAbandoned(true) // theirs may be among what we hold
		end, theirs, err = newPair()
	}
	if err != nil {
		fail(n, err)
		return
	}
	defer theirs.Close()
	t := &tlsSocket{s: s, end: end, dgram: typ&^flags == unix.SOCK_DGRAM}
	if t.inode, err = socketInode(theirs); err == nil && typ&unix.SOCK_NONBLOCK != 0 {
		err = setNonblock(theirs)
	}
	if err != nil {
		end.Close()
		fail(n, err)
		return
	}
	s.register(t)
	s.mu.Lock()
	s.unbound[t] = struct{}{}
	s.mu.Unlock()
	if _, err := n.AddFDSend(int(theirs.Fd()), seccomp.Lowest, typ&unix.SOCK_CLOEXEC != 0); err != nil {
		s.unregister(t)
		end.Close()
		fail(n, err)
	}
}

// closeAbandoned ends the sockets that the program closed before it bound them.
// It looks at all that are not bound each time they have become twice as many, or
// now.
func (s *Supervisor) closeAbandoned(now bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !now && len(s.unbound) < s.sweepAt {
		return
	}
	for t := range s.unbound {
		if !t.unbound() {
			delete(s.unbound, t)
		} else if t.end.Gone() {
			t.end.Close()
			delete(s.unbound, t)
			delete(s.sockets, t.inode)
		}
	}
	s.sweepAt = max(minSweep, 2*len(s.unbound))
}

// minSweep is how many sockets that the program closed may be kept, at least.
const minSweep = 32

func socketInode(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	return st.Ino, nil
}

func setNonblock(f *os.File) error {
	return os.NewSyscallError("fcntl", unix.SetNonblock(int(f.Fd()), true))
}

// sizeofSockaddrTLS is that of struct sockaddr_tls.
const sizeofSockaddrTLS = 8

// bind performs bind(fd, sockaddr_tls): it gives the socket its carrier.
func (s *Supervisor) bind(n *seccomp.Notification) {
	if !s.any.Load() {
		n.Continue()
		return
	}
	t := s.find(n, int(int32(n.Args[0])))
	if t == nil {
		n.Continue()
		return
	}
	if n.Args[2] != sizeofSockaddrTLS {
		n.Respond(0, unix.EINVAL)
		return
	}
	var sa [sizeofSockaddrTLS]byte
	if err := n.Read(sa[:], n.Args[1]); err != nil {
		fail(n, err)
		return
	}
	if int(binary.NativeEndian.Uint16(sa[:])) != s.Family || binary.NativeEndian.Uint16(sa[2:]) != 0 {
		n.Respond(0, unix.EINVAL)
		return
	}
	answer(n, t.bindTo(n, int(int32(binary.NativeEndian.Uint32(sa[4:])))))
}

func (t *tlsSocket) bindTo(n *seccomp.Notification, fd int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.a != nil || t.d != nil {
		return unix.EINVAL // as of every socket that has an address
	}
	inode, err := n.Inode(fd)
	if err != nil {
		return err
	}
	ours, err := n.GetFD(fd)
	if err != nil {
		return err
	}
	newCarrier := pump.NewCarrier
	if t.dgram {
		newCarrier = pump.NewDatagramCarrier
	}
	carrier, err := newCarrier(ours)
	if err != nil {
		unix.Close(ours)
		return err
	}
	s := t.s
	s.mu.Lock()
	taken := s.carried[inode] != nil
	if !taken {
		s.carried[inode] = t
	}
	s.mu.Unlock()
	if taken {
		carrier.Release()
		return unix.EADDRINUSE
	}
	t.carrierInode = inode
	t.attach(carrier)
	s.run(t)
	return nil
}

// attach makes the association. The caller holds mu.
func (t *tlsSocket) attach(carrier *pump.Carrier) {
	t.local, t.peer = carrier.LocalAddr(), carrier.RemoteAddr()
	if t.dgram {
		t.d = NewDatagrams(carrier, t.end, true)
		return
	}
	policy := t.policy
	if t.linux {
		policy = AsLinux
	}
	t.a = NewAssociation(carrier, t.end, policy, t.client, nil)
	t.a.strict = t.isStrict()
}

// setKeys gives one direction its keys, as TLS_TX and TLS_RX do. The first ones wait
// for nobody. Later ones wait until the peer has taken what comes before them; without
// wait that is errLater.
func (t *tlsSocket) setKeys(n *seccomp.Notification, d aftls.Direction, k record.Keys, wait bool) error {
	// Nobody who only looks at the socket waits with them.
	if wait {
		t.keying.Lock()
	} else if !t.keying.TryLock() {
		return errLater
	}
	defer t.keying.Unlock()
	t.mu.Lock()
	a, first, other := t.a, t.keys[d].Version == 0, t.keys[1-d]
	t.mu.Unlock()
	if a == nil {
		return unix.ENOTCONN
	}
	if !first && !wait {
		return errLater
	}
	if first && other.Version != 0 && (other.Version != k.Version || other.Suite != k.Suite) {
		return unix.EINVAL
	}
	if !first {
		if err := a.Replace(d, k); err != nil {
			return err
		}
	} else if d == aftls.Send {
		if _, err := a.SetSendKeys(k); err != nil {
			return err
		}
	} else if err := a.SetReceiveKeys(k, func() ([]byte, error) { return t.takeBack(n) }); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keys[d].Wipe()
	t.keys[d] = k.Clone()
	return nil
}

// takeBack reads what the program has not read of the bytes that were passed to
// it. It stands still in its call, and nothing else is passed meanwhile.
func (t *tlsSocket) takeBack(n *seccomp.Notification) ([]byte, error) {
	fd, err := n.GetFD(int(int32(n.Args[0])))
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var back []byte
	b := make([]byte, 64<<10)
	for {
		m, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
		if m <= 0 || err != nil {
			if err == unix.EAGAIN || err == nil {
				return back, nil
			}
			if err != unix.EINTR {
				return nil, err
			}
			continue
		}
		back = append(back, b[:m]...)
	}
}

// errForeign is what a TCP socket answers that the program gave others, too: they
// would go on with plaintext.
var errForeign = errors.New("afd: the TCP socket has more than one descriptor")
