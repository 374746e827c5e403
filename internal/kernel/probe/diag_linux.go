package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A Place is where the records of one direction are made, as INET_DIAG has it.
type Place uint16

const (
	Nowhere  Place = 0 // the kernel did not say
	Base     Place = 1 // this direction has no keys in the kernel
	Software Place = 2
	Device   Place = 3 // the network card
)

func (p Place) String() string {
	switch p {
	case Base:
		return "none"
	case Software:
		return "software"
	case Device:
		return "device"
	}
	return "unknown"
}

// A Socket is a TLS socket of the kernel.
type Socket struct {
	Local, Remote   netip.AddrPort
	Version, Cipher uint16 // as in linux/tls.h
	TX, RX          Place
}

// From linux/inet_diag.h and linux/tls.h.
const (
	diagReqLen   = 56 // struct inet_diag_req_v2
	diagReqID    = 8  // where struct inet_diag_sockid is in it
	diagMsgLen   = 72 // struct inet_diag_msg
	diagSockID   = 4  // where struct inet_diag_sockid is in the latter
	diagInfo     = 2
	diagULPInfo  = 19
	ulpInfoName  = 1
	ulpInfoTLS   = 2
	tlsInfoVer   = 1
	tlsInfoCiph  = 2
	tlsInfoTX    = 3
	tlsInfoRX    = 4
	allTCPStates = 1<<12 - 1
)

// Sockets returns the TLS sockets of this network namespace. It needs the kernel's
// inet_diag and tcp_diag, which it loads itself; a kernel tells the particulars of a
// socket only to those who may administrate the network, or since some version to
// all: the others have Place Nowhere.
func Sockets() ([]Socket, error) {
	var all []Socket
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		messages, err := ask(unix.NETLINK_SOCK_DIAG, unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, socketsOf(family))
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			s, ok, err := parseSocket(m.Data)
			if err != nil {
				return nil, err
			}
			if ok {
				all = append(all, s)
			}
		}
	}
	return all, nil
}

// SocketOf returns the TLS socket of this network namespace that has these addresses.
// The error Is [unix.ENOENT] where there is no such connection, and [ErrNetlink] where
// it is no TLS socket or the kernel does not say so.
func SocketOf(local, remote netip.AddrPort) (Socket, error) {
	a, b := local.Addr().Unmap(), remote.Addr().Unmap()
	family := byte(unix.AF_INET)
	if a.Is6() {
		family = unix.AF_INET6
	}
	req := socketsOf(family)
	id := req[diagReqID:]
	binary.BigEndian.PutUint16(id, local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	copy(id[4:20], a.AsSlice())
	copy(id[20:36], b.AsSlice())
	copy(id[40:48], "\xff\xff\xff\xff\xff\xff\xff\xff") // INET_DIAG_NOCOOKIE: whatever its cookie is
	messages, err := ask(unix.NETLINK_SOCK_DIAG, unix.SOCK_DIAG_BY_FAMILY, 0, req)
	if err != nil {
		return Socket{}, err
	}
	for _, m := range messages {
		if s, ok, err := parseSocket(m.Data); ok || err != nil {
			return s, err
		}
	}
	return Socket{}, fmt.Errorf("%w: it has no TLS socket", ErrNetlink)
}

// socketsOf is the struct inet_diag_req_v2 that asks for all TCP sockets of a family.
// What the upper layer protocol says comes with INET_DIAG_INFO only.
func socketsOf(family byte) []byte {
	b := make([]byte, diagReqLen)
	b[0], b[1], b[2] = family, unix.IPPROTO_TCP, 1<<(diagInfo-1)
	binary.NativeEndian.PutUint32(b[4:], allTCPStates)
	return b
}

// parseSocket reads a struct inet_diag_msg and what follows it. ok says that it is a
// TLS socket.
func parseSocket(b []byte) (s Socket, ok bool, err error) {
	if len(b) < diagMsgLen {
		return s, false, fmt.Errorf("%w: a socket of %d bytes", ErrNetlink, len(b))
	}
	id := b[diagSockID:]
	address := func(a []byte, port []byte) netip.AddrPort {
		ip := netip.AddrFrom4([4]byte(a[:4]))
		if b[0] == unix.AF_INET6 {
			ip = netip.AddrFrom16([16]byte(a[:16]))
		}
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(port))
	}
	s.Local, s.Remote = address(id[4:], id), address(id[20:], id[2:])
	err = attributes(b[diagMsgLen:], func(typ uint16, v []byte) error {
		if typ != diagULPInfo {
			return nil
		}
		return attributes(v, func(typ uint16, v []byte) error {
			switch typ {
			case ulpInfoName:
				ok = text(v) == "tls"
			case ulpInfoTLS:
				return s.parseTLS(v)
			}
			return nil
		})
	})
	return s, ok && err == nil, err
}

func (s *Socket) parseTLS(b []byte) error {
	return attributes(b, func(typ uint16, v []byte) error {
		if len(v) < 2 {
			return nil // a flag
		}
		n := binary.NativeEndian.Uint16(v)
		switch typ {
		case tlsInfoVer:
			s.Version = n
		case tlsInfoCiph:
			s.Cipher = n
		case tlsInfoTX:
			s.TX = Place(n)
		case tlsInfoRX:
			s.RX = Place(n)
		}
		return nil
	})
}
