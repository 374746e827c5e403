package aftls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// silence is a carrier that nothing comes from and that takes everything.
type silence struct {
	net.PacketConn
	over chan struct{}
	once sync.Once
}

func (s *silence) ReadFrom([]byte) (int, net.Addr, error) {
	<-s.over
	return 0, nil, net.ErrClosed
}
func (s *silence) WriteTo(p []byte, _ net.Addr) (int, error) { return len(p), nil }
func (s *silence) LocalAddr() net.Addr                       { return &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1} }
func (s *silence) Close() error {
	s.once.Do(func() { close(s.over) })
	return nil
}

// FuzzDatagramRoute routes datagrams of a few peers that are whatever they are: no
// more slots are taken than there are, and none by what is no ClientHello.
func FuzzDatagramRoute(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	config := &DatagramConfig{CIDLen: 2, TLS: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{{1}}, PrivateKey: key}}}}
	hello := func(random byte, rest ...byte) []byte {
		m := append([]byte{1, 0, 0, byte(34 + len(rest)), 0, 0, 0, 0, 0, 0, 0, byte(34 + len(rest)), 0xfe, 0xfd}, make([]byte, 32)...)
		m[14] = random
		m = append(m, rest...)
		return append([]byte{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(m))}, m...)
	}
	whole := []byte{0, 0, 0, 2, 0xc0, 0x2b, 1, 0}
	script := func(ds ...[]byte) (out []byte) {
		for i, d := range ds {
			out = append(out, byte(i))
			out = binary.BigEndian.AppendUint16(out, uint16(len(d)))
			out = append(out, d...)
		}
		return out
	}
	f.Add(script(hello(1, whole...), hello(1, whole...), hello(2, whole...)))
	f.Add(script(hello(1, whole...), []byte{25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 0, 1, 7}, []byte{23, 0xfe, 0xfd, 0, 1}, nil))
	f.Add(script(hello(1), hello(3, 1, 2, 3)[:30], []byte{22}))
	f.Fuzz(func(t *testing.T, in []byte) {
		const slots = 3
		l, err := newDatagramListener(&silence{over: make(chan struct{})}, config, Options{}, slots, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var last lastRoute
		hellos := 0
		for range 20 {
			if len(in) < 3 {
				break
			}
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, in[0] % 5}), 1)
			n := min(int(binary.BigEndian.Uint16(in[1:])), len(in)-3)
			d := append([]byte(nil), in[3:3+n]...)
			in = in[3+n:]
			if len(d) == 0 {
				continue
			}
			if isClientHello(d) {
				hellos++
			}
			l.route(d, from, &last)
			if i := l.Info(); i.Handshakes > slots || i.Handshakes > hellos || i.Associations != 0 {
				t.Fatalf("%+v after %d ClientHellos", i, hellos)
			}
		}
	})
}
