package aftls

import (
	"net"
	"testing"
)

// What the tests in listener_test.go need of the inside.
var (
	NewListenerWithLimits = newListener
)

// network decides which clients count as one.
func TestNetwork(t *testing.T) {
	tcp := func(ip string) net.Addr {
		a := net.ParseIP(ip)
		if a == nil {
			t.Fatalf("%q is no address", ip)
		}
		return &net.TCPAddr{IP: a, Port: 1}
	}
	for _, tt := range []struct {
		a, b net.Addr
		same bool
	}{
		{tcp("192.0.2.1"), &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 2}, true},
		{tcp("192.0.2.1"), tcp("192.0.2.2"), false},
		{tcp("192.0.2.1"), &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1).To4()}, true},
		{tcp("192.0.2.1"), tcp("::ffff:192.0.2.1"), true},
		{tcp("::ffff:192.0.2.1"), tcp("::ffff:192.0.2.2"), false},
		{tcp("2001:db8:0:1::1"), tcp("2001:db8:0:1:ffff:ffff:ffff:ffff"), true},
		{tcp("2001:db8:0:1::1"), tcp("2001:db8:0:2::1"), false},
		{tcp("fe80::1"), &net.TCPAddr{IP: net.ParseIP("fe80::2"), Zone: "eth0"}, true},
		{tcp("2001:db8::1"), tcp("192.0.2.1"), false},
		{&net.UnixAddr{Name: "a", Net: "unix"}, &net.UnixAddr{Name: "b", Net: "unix"}, true},
		{&net.UnixAddr{Name: "a", Net: "unix"}, tcp("192.0.2.1"), false},
		{nil, &net.UnixAddr{}, true},
	} {
		if same := network(tt.a) == network(tt.b); same != tt.same {
			t.Errorf("%v and %v count as one: %v (%v, %v)", tt.a, tt.b, same, network(tt.a), network(tt.b))
		}
	}
}
