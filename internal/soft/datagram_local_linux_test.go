package soft

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What comes to one of several addresses is answered from that one: a socket that
// is connected to it takes nothing else.
func TestPortAnswersFromWhereItWasAsked(t *testing.T) {
	for _, x := range []struct{ network, at string }{
		{"udp4", "127.0.0.1"}, {"udp4", "127.0.0.2"}, {"udp", "127.0.0.2"}, {"udp", "::1"}, {"udp6", "::1"},
	} {
		for _, refuse := range []bool{false, true} {
			if refuse && x.at == "::1" {
				continue // UDP over IPv6 cannot do without checksums
			}
			t.Run(fmt.Sprintf("%s %s refused=%v", x.network, x.at, refuse), func(t *testing.T) {
				lent(t)
				l, err := net.ListenUDP(x.network, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				port := NewPacketPort(l)
				c, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.ParseIP(x.at), Port: l.LocalAddr().(*net.UDPAddr).Port})
				if err != nil {
					if net.ParseIP(x.at).To4() == nil {
						if strings.Contains(","+os.Getenv("AFTLS_EXPECT")+",", ",ipv6,") { // aftlstest needs this package
							t.Fatalf("the address %s of the loopback interface is missing, and AFTLS_EXPECT says that IPv6 is here: %v", x.at, err)
						}
						t.Skipf("the address %s of the loopback interface is missing: %v", x.at, err)
					}
					t.Fatal(err)
				}
				defer c.Close()
				if refuse {
					port.raw.Control(func(fd uintptr) {
						if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
							t.Fatal(err)
						}
					})
				}
				into := NewPort(c)
				for _, sizes := range [][]int{{10}, {1200, 1200, 1200, 7}, {1200, 1200}, {7, 1200, 1200}} {
					if n, err := into.Send(batchOf(sizes), sizes, Path{}); n != len(sizes) || err != nil {
						t.Fatal(n, err)
					}
					l.SetReadDeadline(time.Now().Add(10 * time.Second))
					a := NewArrivals(port)
					var path Path
					for range sizes {
						if _, path, _, err = a.Next(true); err != nil {
							t.Fatal(err)
						}
						if path.Local.String() != x.at || path.Peer != c.LocalAddr().(*net.UDPAddr).AddrPort() {
							t.Fatalf("path %v, from %v", path, c.LocalAddr())
						}
					}
					a.Drop()
					if n, err := port.Send(batchOf(sizes), sizes, path); n != len(sizes) || err != nil {
						t.Fatal(n, err)
					}
					arriveAll(t, c, into, sizes)
				}
				if whole, _ := port.Segments(); whole == refuse {
					t.Errorf("UDP_SEGMENT in use: %v", whole)
				}
			})
		}
	}
}

// A port with one address needs to be told of none, and its path is the peer's.
func TestPortOfOneAddressTellsNone(t *testing.T) {
	a, b := udpPair(t)
	p := NewPacketPort(b)
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	in := NewArrivals(p)
	defer in.Drop()
	_, path, _, err := in.Next(true)
	if err != nil || path.Local.IsValid() {
		t.Errorf("%v, %v", path, err)
	}
	other, ok := p.Path(path.Peer, path.Peer.Addr())
	if other != path || !ok {
		t.Errorf("%v, %v", other, ok)
	}
}
