package aftls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/aftls/aftls/internal/soft"
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

func routeConfig(t testing.TB) *DatagramConfig {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &DatagramConfig{CIDLen: 2, TLS: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{{1}}, PrivateKey: key}}}}
}

// someHello is a ClientHello with a random that begins with a byte, and with the
// given bytes behind it.
func someHello(random byte, rest ...byte) []byte {
	m := append([]byte{1, 0, 0, byte(34 + len(rest)), 0, 0, 0, 0, 0, 0, 0, byte(34 + len(rest)), 0xfe, 0xfd}, make([]byte, 32)...)
	m[14] = random
	m = append(m, rest...)
	return append([]byte{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(m))}, m...)
}

// Who makes room when the slots run out: nobody who has just begun; then the one
// that waits longest of an address with more than its share; then that of all.
func TestDatagramSlotsMakeRoom(t *testing.T) {
	const slots = 16 // two for an address
	l, err := newDatagramListener(&silence{over: make(chan struct{})}, routeConfig(t), Options{}, slots, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var last lastRoute
	at := func(host byte, port uint16) soft.Path {
		return soft.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, host}), port)}
	}
	come := func(p soft.Path) { l.route(someHello(1, 0, 0, 0, 2, 0xc0, 0x2b, 1, 0), p, &last) }
	age := func(p soft.Path, d time.Duration) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.slots[p].since = time.Now().Add(-d)
	}
	has := func(p soft.Path) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.slots[p] != nil
	}
	for port := range uint16(4) {
		come(at(1, port))
	}
	for host := range byte(slots - 4) {
		come(at(2+host, 1))
	}
	for port := range uint16(4) { // as long as the test takes, at least
		age(at(1, port), -time.Hour)
	}
	for host := range byte(slots - 4) {
		age(at(2+host, 1), -time.Hour)
	}
	come(at(100, 1))
	if i := l.Info(); i.Refused != 1 || i.Handshakes != slots || has(at(100, 1)) {
		t.Fatalf("%+v", i)
	}
	age(at(5, 1), time.Hour) // the oldest of all
	age(at(1, 2), time.Minute)
	age(at(1, 3), time.Second)
	for i, gone := range []soft.Path{at(1, 2), at(1, 3), at(5, 1)} {
		newcomer := at(101+byte(i), 1)
		come(newcomer)
		if has(gone) || !has(newcomer) {
			t.Errorf("%v did not make room for %v", gone, newcomer)
		}
		age(newcomer, -time.Hour)
	}
	if i := l.Info(); i.Refused != 1 || i.Handshakes != slots {
		t.Errorf("%+v", i)
	}
}

// Associations that nobody accepts keep their slots: a listener whose program hangs
// holds so many, and not more.
func TestDatagramsThatNobodyAccepts(t *testing.T) {
	const slots, ready = 3, 1
	config := &DatagramConfig{PSK: func([]byte) ([]byte, error) { return []byte("0123456789abcdef"), nil }, PSKIdentity: []byte("x")}
	packet, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := newDatagramListener(packet, config, Options{}, slots, ready)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func() error {
		c, err := (&DatagramDialer{Config: config}).Dial("udp4", l.Addr().String())
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	}
	for range slots + ready {
		if err := dial(); err != nil {
			t.Fatal(err)
		}
	}
	last := make(chan error, 1)
	go func() { last <- dial() }()
	for l.Info().Refused == 0 {
		runtime.Gosched()
	}
	if i := l.Info(); i.Associations != slots+ready || i.Handshakes != slots {
		t.Errorf("%+v", i)
	}
	for range slots + ready + 1 {
		if _, err := l.AcceptConn(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-last; err != nil {
		t.Error(err)
	}
}

// FuzzDatagramRoute routes datagrams of a few peers that are whatever they are: no
// more slots are taken than there are, and none by what is no ClientHello.
func FuzzDatagramRoute(f *testing.F) {
	config := routeConfig(f)
	whole := []byte{0, 0, 0, 2, 0xc0, 0x2b, 1, 0}
	script := func(ds ...[]byte) (out []byte) {
		for i, d := range ds {
			out = append(out, byte(i))
			out = binary.BigEndian.AppendUint16(out, uint16(len(d)))
			out = append(out, d...)
		}
		return out
	}
	f.Add(script(someHello(1, whole...), someHello(1, whole...), someHello(2, whole...)))
	f.Add(script(someHello(1, whole...), []byte{25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 0, 1, 7}, []byte{23, 0xfe, 0xfd, 0, 1}, nil))
	f.Add(script(someHello(1), someHello(3, 1, 2, 3)[:30], []byte{22}))
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
			from := soft.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, in[0] % 5}), 1)}
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
