package filter_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
)

// addr is an address of a connection.
func addr(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

// packets returns raw IP packets of every kind that a program may meet on a
// wire, with ports, addresses and payloads that programs ask for in them.
func packets(r *rand.Rand, n int) (all [][]byte) {
	v4 := [][4]byte{{10, 0, 0, 1}, {10, 1, 2, 3}, {192, 0, 2, 1}, {192, 0, 2, 129}, {10, 128, 0, 0}, {127, 0, 0, 1}}
	v6 := []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:8000::1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("::1"), netip.MustParseAddr("2001:db8::1:0:0:2")}
	ports := []uint16{80, 443, 79, 81, 10, 20, 15, 53, 65535, 0, 8443}
	protocols := []byte{6, 6, 6, 17, 132, 1, 44}
	for range n {
		protocol := protocols[r.IntN(len(protocols))]
		l4 := make([]byte, 20)
		binary.BigEndian.PutUint16(l4[0:], ports[r.IntN(len(ports))])
		binary.BigEndian.PutUint16(l4[2:], ports[r.IntN(len(ports))])
		words := 5 + r.IntN(2)*r.IntN(4)
		l4 = append(l4, make([]byte, 4*words-20)...)
		l4[12] = byte(words << 4)
		l4[13] = byte(r.Uint32())
		if protocol == 44 { // of IPv6: names the protocol behind it
			l4[0] = protocols[r.IntN(len(protocols))]
		}
		payload := make([]byte, 40+r.IntN(60))
		for i := range payload {
			payload[i] = byte(r.IntN(4))
		}
		if r.IntN(2) == 0 {
			copy(payload, "GET / HTTP/1.1")
		}
		l4 = append(l4, payload...)
		var b []byte
		if r.IntN(2) == 0 {
			words := 5 + r.IntN(2)*r.IntN(4)
			b = make([]byte, 4*words)
			b[0] = 0x40 | byte(words)
			b[9] = protocol
			if r.IntN(4) == 0 {
				b[6], b[7] = byte(r.Uint32()), byte(r.Uint32()) // a fragment
			}
			src, dst := v4[r.IntN(len(v4))], v4[r.IntN(len(v4))]
			copy(b[12:], src[:])
			copy(b[16:], dst[:])
		} else {
			b = make([]byte, 40)
			b[0] = 0x60
			b[6] = protocol
			src, dst := v6[r.IntN(len(v6))].As16(), v6[r.IntN(len(v6))].As16()
			copy(b[8:], src[:])
			copy(b[24:], dst[:])
		}
		if r.IntN(50) == 0 {
			b[0] = byte(r.Uint32()) // no IP at all
		}
		all = append(all, append(b, l4...))
	}
	return all
}
