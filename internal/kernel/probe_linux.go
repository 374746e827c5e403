package kernel

import (
	"net"
	"sync"

	"github.com/aftls/aftls/record"
)

var rekeys struct {
	sync.Mutex
	known, can bool
}

// CanRekey reports whether this kernel takes a second key in TLS 1.3, as kernels
// since 6.14 do, and older ones that a distribution has mended. It is tried on a
// connection of this process to itself, until the kernel has answered.
func CanRekey() bool {
	rekeys.Lock()
	defer rekeys.Unlock()
	if !rekeys.known {
		err := tryRekey()
		rekeys.can = err == nil
		rekeys.known = rekeys.can || err == ErrNoRekey
	}
	return rekeys.can
}

func tryRekey() error {
	a, b, err := loopback()
	if err != nil {
		return err
	}
	defer a.Close()
	defer b.Close()
	s, err := Attach(a, false)
	if err != nil {
		return err
	}
	k, err := record.TrafficKeys(0x1301, make([]byte, 32))
	if err != nil {
		return err
	}
	snd, err := NewSender(s, k, 0, nil)
	if err != nil {
		return err
	}
	if k, err = k.Next(); err != nil {
		return err
	}
	return snd.SetKeys(k)
}

// loopback returns both ends of a connection of this process to itself.
func loopback() (a, b net.Conn, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		if ln, err = net.Listen("tcp", "[::1]:0"); err != nil {
			return nil, nil, err
		}
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		return nil, nil, err
	}
	for {
		if b, err = ln.Accept(); err != nil {
			a.Close()
			return nil, nil, err
		}
		if b.RemoteAddr().String() == a.LocalAddr().String() {
			return a, b, nil
		}
		b.Close() // somebody else
	}
}
