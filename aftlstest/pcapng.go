package aftlstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Pcapng is what stands in a pcapng file of raw IP packets with TCP in them.
type Pcapng struct {
	SnapLen  uint32
	Packets  []Packet
	Secrets  []byte // of all decryption secrets blocks
	Received uint64 // as the statistics say; they stand in a file that is complete
	Dropped  uint64
	Complete bool
}

// Packet is one packet of a Pcapng.
type Packet struct {
	Inbound  bool
	Src, Dst netip.AddrPort
	Seq, Ack uint32
	Flags    byte // of TCP: 1 FIN, 2 SYN, 8 PSH, 16 ACK
	Payload  []byte
	Cut      int // bytes that the snap length took
	Nanos    int64
}

// ReadPcapng reads a pcapng file of one section in the byte order of this
// machine. It accepts nothing that the format forbids, and no wrong length or
// checksum.
func ReadPcapng(b []byte) (c Pcapng, err error) {
	le := binary.NativeEndian
	for first := true; len(b) > 0; first = false {
		if len(b) < 12 {
			return c, errors.New("a block is cut")
		}
		typ, n := le.Uint32(b), int(le.Uint32(b[4:]))
		if n < 12 || n%4 != 0 || n > len(b) || le.Uint32(b[n-4:]) != uint32(n) {
			return c, fmt.Errorf("a block of type %d has length %d", typ, n)
		}
		body := b[8 : n-4]
		b = b[n:]
		if first != (typ == 0x0a0d0d0a) || c.Complete {
			return c, fmt.Errorf("a block of type %#x at the wrong place", typ)
		}
		switch typ {
		case 0x0a0d0d0a:
			if len(body) < 16 || le.Uint32(body) != 0x1a2b3c4d || le.Uint16(body[4:]) != 1 || le.Uint16(body[6:]) != 0 {
				return c, fmt.Errorf("a section that begins with % x", body)
			}
			_, err = captureOptions(body[16:])
		case 1:
			if len(body) < 8 || le.Uint16(body) != 101 || c.SnapLen != 0 {
				return c, fmt.Errorf("an interface that begins with % x", body)
			}
			c.SnapLen = le.Uint32(body[4:])
			var o map[uint16][]byte
			if o, err = captureOptions(body[8:]); err == nil && string(o[9]) != "\x09" {
				err = fmt.Errorf("resolution % x", o[9])
			}
		case 6:
			var p Packet
			if p, err = capturedPacket(body, c.SnapLen); err == nil {
				c.Packets = append(c.Packets, p)
			}
		case 10:
			if len(body) < 8 || le.Uint32(body) != 0x544c534b || (int(le.Uint32(body[4:]))+3)&^3 != len(body)-8 {
				return c, fmt.Errorf("secrets that begin with % x", body)
			}
			c.Secrets = append(c.Secrets, body[8:][:le.Uint32(body[4:])]...)
		case 5:
			var o map[uint16][]byte
			if o, err = captureOptions(body[12:]); err == nil && (len(o[4]) != 8 || len(o[5]) != 8) {
				err = errors.New("statistics without counters")
			}
			if err == nil {
				c.Received, c.Dropped, c.Complete = le.Uint64(o[4]), le.Uint64(o[5]), true
			}
		default:
			err = fmt.Errorf("a block of type %d", typ)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

func captureOptions(b []byte) (map[uint16][]byte, error) {
	le := binary.NativeEndian
	o := make(map[uint16][]byte)
	for len(b) >= 4 {
		code, n := le.Uint16(b), int(le.Uint16(b[2:]))
		if code == 0 {
			if len(b) > 4 || n != 0 {
				return nil, errors.New("bytes behind the end of options")
			}
			return o, nil
		}
		whole := 4 + (n+3)&^3
		if whole > len(b) {
			return nil, fmt.Errorf("option %d has %d bytes", code, n)
		}
		o[code] = b[4:][:n]
		b = b[whole:]
	}
	return nil, errors.New("options without an end")
}

func capturedPacket(body []byte, snapLen uint32) (p Packet, err error) {
	le := binary.NativeEndian
	if len(body) < 20 || snapLen == 0 || le.Uint32(body) != 0 {
		return p, errors.New("a packet of no interface")
	}
	p.Nanos = int64(le.Uint32(body[4:]))<<32 | int64(le.Uint32(body[8:]))
	kept, total := int(le.Uint32(body[12:])), int(le.Uint32(body[16:]))
	padded := (kept + 3) &^ 3
	if kept > total || kept > int(snapLen) || 20+padded > len(body) {
		return p, fmt.Errorf("a packet of %d bytes has %d in the file, the snap length is %d", total, kept, snapLen)
	}
	o, err := captureOptions(body[20+padded:])
	if err != nil {
		return p, err
	}
	p.Inbound = len(o[2]) == 4 && le.Uint32(o[2])&3 == 1
	b := body[20:][:kept]
	p.Cut = total - kept
	if len(b) == 0 {
		return p, nil
	}
	ip, be := 20, binary.BigEndian
	var src, dst []byte
	switch b[0] {
	case 0x45:
		if len(b) < 40 {
			return p, nil // cut in the headers: nothing to look at
		}
		if int(be.Uint16(b[2:])) != total || b[9] != 6 || sum(0, b[:20]) != 0xffff {
			return p, fmt.Errorf("a wrong IPv4 header: % x, of %d bytes", b[:20], total)
		}
		src, dst = b[12:16], b[16:20]
	case 0x60:
		if ip = 40; len(b) < 60 {
			return p, nil
		}
		if int(be.Uint16(b[4:]))+40 != total || b[6] != 6 {
			return p, fmt.Errorf("a wrong IPv6 header: % x, of %d bytes", b[:40], total)
		}
		src, dst = b[8:24], b[24:40]
	default:
		return p, fmt.Errorf("a packet that begins with %#x", b[0])
	}
	t := b[ip:]
	if t[12] != 0x50 {
		return p, fmt.Errorf("a wrong TCP header: % x", t[:20])
	}
	if pseudo := sum(sum(uint32(6+total-ip), src), dst); p.Cut == 0 && sum(pseudo, t) != 0xffff {
		return p, fmt.Errorf("a wrong checksum of TCP: % x", t[:20])
	}
	a, _ := netip.AddrFromSlice(src)
	d, _ := netip.AddrFromSlice(dst)
	p.Src, p.Dst = netip.AddrPortFrom(a, be.Uint16(t)), netip.AddrPortFrom(d, be.Uint16(t[2:]))
	p.Seq, p.Ack, p.Flags = be.Uint32(t[4:]), be.Uint32(t[8:]), t[13]
	p.Payload = t[20:]
	return p, nil
}

// sum is the sum of RFC 1071, folded: 0xffff for what has a right checksum in it.
func sum(v uint32, b []byte) uint32 {
	for i, c := range b {
		v += uint32(c) << (8 * (1 - i%2))
		v = v>>16 + v&0xffff
	}
	return v>>16 + v&0xffff
}
