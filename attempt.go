package aftls

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/aftls/aftls/internal/kernel"
	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

// attempt is a handshake under way in a Listener. It knows since when it waits
// for its peer.
type attempt struct {
	net.Conn
	short *soft.Short // the same
	from  netip.Prefix
	since atomic.Int64 // start of the wait in unix nanoseconds, 0 while computing
	given atomic.Pointer[error]
	head  [record.HeaderLen]byte
	first []byte // of head: read by hello, and not by the handshake

	ulp *kernel.Socket // nil: not for the kernel, and why
	why error
}

// waiting is since when the peer has to answer, or 0.
func (a *attempt) waiting() int64 { return a.since.Load() }

// giveUp makes the handshake fail with err, unless it is over.
func (a *attempt) giveUp(err error) {
	if a.given.CompareAndSwap(nil, &err) {
		a.Conn.Close()
	}
}

// finish reports whether the handshake came to its end before somebody gave it
// up. From then on nobody does: its connection is for Accept.
func (a *attempt) finish() bool { return a.given.CompareAndSwap(nil, new(error)) }

// hello waits for the first bytes of the peer.
func (a *attempt) hello() error {
	n, err := a.Read(a.head[:])
	a.first = a.head[:n]
	if n > 0 {
		err = nil // comes again
	}
	return err
}

func (a *attempt) Read(p []byte) (int, error) {
	if len(a.first) > 0 {
		n := copy(p, a.first)
		a.first = a.first[n:]
		return n, nil
	}
	a.since.Store(time.Now().UnixNano())
	defer a.since.Store(0)
	return a.short.Read(p)
}

func (a *attempt) Write(p []byte) (int, error) {
	a.since.Store(time.Now().UnixNano())
	defer a.since.Store(0)
	return a.short.Write(p)
}

// network is what counts as one address: an IPv4 address, or the /64 that one
// subscriber has of IPv6. Unix sockets are all one.
func network(a net.Addr) netip.Prefix {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := t.AddrPort().Addr().Unmap()
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}
