package filter

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"

	"github.com/aftls/aftls/bpf"
)

const (
	ipv4Len    = 20
	ipv6Len    = 40
	tcpLen     = 20
	headerLen4 = ipv4Len + tcpLen
	headerLen6 = ipv6Len + tcpLen
)

// Header is the IP and TCP header in front of the messages of one direction of
// a connection. It is for one goroutine at a time.
type Header struct {
	// The program that ran last, with what follows from the header done. This is
	// all that is looked at for a message where nothing depends on it.
	last   *Program
	given  *bpf.Behind // nil: result
	result uint32

	shard uint32 // of the counters
	n     int    // bytes of b
	ip    int    // bytes of the IP header
	b     [headerLen6]byte
}

// Flags of TCP (RFC 9293, 3.1).
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
)

// NewHeader returns the header of messages that go from one address to another.
// An address is used where it has an AddrPort, as that of package net for TCP
// and UDP has. nil is no address.
func NewHeader(from, to net.Addr) *Header {
	h := &Header{shard: rand.Uint32N(shards)}
	h.init(addrPort(from), addrPort(to))
	return h
}

// run runs a program with the view Packet in front of a message.
func (h *Header) run(p *Program, msg []byte) uint32 {
	if h.last != p {
		h.prepare(p)
	}
	if h.given == nil {
		return h.result
	}
	return h.given.Run(h.sized(len(msg)), msg)
}

// prepare does once what follows from the header.
func (h *Header) prepare(p *Program) {
	code := p.v4
	if h.ip == ipv6Len {
		code = p.v6
	}
	h.last, h.given = p, code.Given(h.b[:h.n], h.lengthField(), h.lengthField()+1)
	if result, ok := h.given.Constant(); ok {
		h.given, h.result = nil, result
	}
}

// lengthField is where the length of the packet is.
func (h *Header) lengthField() int {
	if h.ip == ipv4Len {
		return 2
	}
	return 4
}

func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	if a, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func (h *Header) init(src, dst netip.AddrPort) {
	const version4, version6, ttl, protocolTCP = 0x45, 0x60, 64, 6
	h.n, h.ip = headerLen4, ipv4Len
	if src.Addr().Is6() || dst.Addr().Is6() {
		h.n, h.ip = headerLen6, ipv6Len
	}
	b := h.b[:]
	if h.ip == ipv4Len {
		b[0] = version4
		b[6] = 0x40 // do not fragment
		b[8], b[9] = ttl, protocolTCP
		put4(b[12:16], src.Addr())
		put4(b[16:20], dst.Addr())
	} else {
		b[0] = version6
		b[6], b[7] = protocolTCP, ttl
		put6(b[8:24], src.Addr())
		put6(b[24:40], dst.Addr())
	}
	t := b[h.ip:]
	binary.BigEndian.PutUint16(t[0:], src.Port())
	binary.BigEndian.PutUint16(t[2:], dst.Port())
	t[12] = tcpLen / 4 << 4
	t[13] = flagPSH | flagACK
	t[14], t[15] = 0xff, 0xff
}

func put4(b []byte, a netip.Addr) {
	if a.Is4() {
		v := a.As4()
		copy(b, v[:])
	}
}

// put6 writes an IPv4 address, which meets an IPv6 one here, as mapped.
func put6(b []byte, a netip.Addr) {
	if a.IsValid() {
		v := a.As16()
		copy(b, v[:])
	}
}

// sized returns the header in front of a payload of n bytes. A length that its
// field has no room for is 65535.
func (h *Header) sized(n int) []byte {
	if h.ip == ipv4Len {
		n += ipv4Len
	}
	binary.BigEndian.PutUint16(h.b[h.lengthField():], uint16(min(tcpLen+n, 0xffff)))
	return h.b[:h.n]
}

// segment fills in what a packet on a wire has besides: numbers, flags and
// checksums. sized comes before it. Then run may not be called any more, since
// these are not the same for all messages.
func (h *Header) segment(seq, ack uint32, flags byte, payload []byte) {
	b, t := h.b[:h.n], h.b[h.ip:h.n]
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[13] = flags
	t[16], t[17] = 0, 0
	// The pseudo header: addresses, protocol, length (RFC 9293, 3.1; RFC 8200, 8.1).
	sum := uint64(6) + uint64(tcpLen+len(payload))
	if h.ip == ipv4Len {
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], fold(checksum(0, b[:ipv4Len])))
		sum = checksum(sum, b[12:ipv4Len])
	} else {
		sum = checksum(sum, b[8:ipv6Len])
	}
	sum = checksum(checksum(sum, t), payload)
	binary.BigEndian.PutUint16(t[16:], fold(sum))
}

// checksum adds b to a sum of the internet (RFC 1071). Only the last piece may
// have an odd length.
func checksum(sum uint64, b []byte) uint64 {
	for ; len(b) >= 4; b = b[4:] {
		sum += uint64(binary.BigEndian.Uint32(b))
	}
	if len(b) >= 2 {
		sum += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	return sum
}

func fold(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
