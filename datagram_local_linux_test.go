package aftls_test

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aftls/aftls"
)

// A listener on all addresses answers each peer from the one that it sent to: a
// connected socket takes nothing else. One socket of a peer can have an association
// with each of them.
func TestDatagramListenerAnswersFromWhereItWasAsked(t *testing.T) {
	for _, network := range []string{"udp4", "udp"} {
		for _, cidLen := range []int{-1, 8} {
			t.Run(fmt.Sprintf("%s CID %d", network, cidLen), func(t *testing.T) {
				_, ccfg, scfg := datagramConfigs(t)
				ccfg.CIDLen, scfg.CIDLen = cidLen, cidLen
				l, err := aftls.ListenDatagram(network, ":0", scfg, aftls.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				port := l.Addr().(*net.UDPAddr).Port
				// All clients have one port.
				dialer := &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, Control: func(_, _ string, c syscall.RawConn) error {
					return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
				}}
				var clients, servers []*aftls.DatagramConn
				for _, host := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
					at := fmt.Sprintf("%s:%d", host, port)
					d := &aftls.DatagramDialer{NetDialer: dialer, Config: ccfg}
					c, err := d.DialContext(context.Background(), "udp4", at)
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					s, err := l.AcceptConn()
					if err != nil {
						t.Fatal(err)
					}
					if a := s.LocalAddr().String(); a != at {
						t.Errorf("asked at %s, and it says %s", at, a)
					}
					if s.RemoteAddr().String() != c.LocalAddr().String() {
						t.Errorf("peer %v at %v", c.LocalAddr(), s.RemoteAddr())
					}
					dialer.LocalAddr = c.LocalAddr()
					clients, servers = append(clients, c.(*aftls.DatagramConn)), append(servers, s)
				}
				for i, c := range clients {
					bothSay(t, c, servers[i])
				}
				for i, s := range servers { // also where they are resumed
					st, err := s.Detach()
					if err != nil {
						t.Fatal(err)
					}
					b, err := st.MarshalBinary()
					if err != nil {
						t.Fatal(err)
					}
					st = new(aftls.DatagramState)
					if err := st.UnmarshalBinary(b); err != nil {
						t.Fatal(err)
					}
					if servers[i], err = l.Resume(st); err != nil {
						t.Fatal(err)
					}
				}
				for i, c := range clients {
					bothSay(t, c, servers[i])
				}
				if n := l.Info().Associations; n != 3 {
					t.Errorf("%d associations", n)
				}
			})
		}
	}
}
