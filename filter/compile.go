package filter

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/aftls/aftls/bpf"
	xbpf "golang.org/x/net/bpf"
)

type instruction = xbpf.RawInstruction

// Codes of instructions (linux/bpf_common.h, linux/filter.h).
const (
	ldW, ldH, ldB    = 0x20, 0x28, 0x30 // A = [k]
	ldXW, ldXH, ldXB = 0x40, 0x48, 0x50 // A = [x+k]
	ldLen            = 0x80
	ldK              = 0x00
	ldM              = 0x60
	ldxHeader        = 0xb1 // X = 4*([k]&0xf)
	stM              = 0x02
	tax              = 0x07
	andK, rshK       = 0x54, 0x74
	addK             = 0x04
	addX             = 0x0c
	jump             = 0x05
	jeqK, jgtK, jgeK = 0x15, 0x25, 0x35
	jsetK            = 0x45
	operandX         = 0x08 // instead of K, in arithmetic and jumps
	ret              = 0x06
)

// Protocol numbers of IP.
const (
	protocolTCP      = 6
	protocolUDP      = 17
	protocolFragment = 44
	protocolSCTP     = 132
)

// label is a place in a program: how many instructions lie behind it.
type label int

// builder builds a program from its end: jumps go forward, so where they go to
// is there before they are.
type builder struct{ reversed []instruction }

// here is the place of the instruction that was added last.
func (b *builder) here() label { return label(len(b.reversed) - 1) }

func (b *builder) add(in instruction) label {
	// A program that is too long is refused in the end. Until then there is no
	// use in building all of it.
	if len(b.reversed) <= bpf.MaxInstructions {
		b.reversed = append(b.reversed, in)
	}
	return b.here()
}

func (b *builder) ret(result uint32) label { return b.add(instruction{Op: ret, K: result}) }

// verdict adds the end of a program. A length counts the headers.
func (b *builder) verdict(v Verdict) label {
	if v.Action != Truncate {
		return b.ret(v.result(0))
	}
	v6 := b.ret(v.result(headerLen6))
	v4 := b.ret(v.result(headerLen4))
	return isVersion{4}.compile(b, v4, v6)
}

// near returns a place that means l and is near enough for a conditional jump,
// also from some instructions further on.
func (b *builder) near(l label) label {
	const reach, margin = 255, 8
	if len(b.reversed)-1-int(l) <= reach-margin {
		return l
	}
	return b.add(instruction{Op: jump, K: uint32(len(b.reversed) - 1 - int(l))})
}

// test adds code that ends in a conditional jump.
func (b *builder) test(yes, no label, code ...instruction) label {
	yes, no = b.near(yes), b.near(no)
	last := len(code) - 1
	distance := func(l label) uint8 { return uint8(len(b.reversed) - 1 - int(l)) }
	in := code[last]
	in.Jt, in.Jf = distance(yes), distance(no)
	b.add(in)
	for _, in := range slices.Backward(code[:last]) {
		b.add(in)
	}
	return b.here()
}

// program returns the program that begins at l, which is what was added last or
// a place behind it.
func (b *builder) program(l label) (*bpf.Program, error) {
	raw := slices.Clone(b.reversed[:min(int(l)+1, len(b.reversed))])
	slices.Reverse(raw)
	return bpf.New(raw)
}

func (n isVersion) compile(b *builder, yes, no label) label {
	return b.test(yes, no, instruction{Op: ldB, K: 0}, instruction{Op: andK, K: 0xf0}, instruction{Op: jeqK, K: uint32(n.version) << 4})
}

// compare is a test of a field at a fixed place.
type compare struct {
	load instruction
	mask uint32 // 0xffffffff: none
	op   uint16
	k    uint32
}

func (n compare) compile(b *builder, yes, no label) label {
	if n.mask == all {
		return b.test(yes, no, n.load, instruction{Op: n.op, K: n.k})
	}
	return b.test(yes, no, n.load, instruction{Op: andK, K: n.mask}, instruction{Op: n.op, K: n.k})
}

func (n isProtocol) compile(b *builder, yes, no label) label {
	v4 := both{isVersion{4}, compare{instruction{Op: ldB, K: 9}, all, jeqK, uint32(n.protocol)}}
	// The protocol may stand behind a fragment header; tcpdump looks for it there
	// and nowhere else.
	v6 := both{isVersion{6}, either{n.next(6),
		both{compare{instruction{Op: ldB, K: 6}, all, jeqK, protocolFragment}, n.next(40)}}}
	return either{v4, v6}.compile(b, yes, no)
}

// next says that the byte at k names the protocol.
func (n isProtocol) next(k uint32) node {
	return compare{instruction{Op: ldB, K: k}, all, jeqK, uint32(n.protocol)}
}

func (n network) compile(b *builder, yes, no label) label {
	version, src, dst := byte(4), uint32(12), uint32(16)
	if n.prefix.Addr().Is6() {
		version, src, dst = 6, 8, 24
	}
	addresses := n.side.combine(match(n.prefix, src), match(n.prefix, dst))
	return both{isVersion{version}, addresses}.compile(b, yes, no)
}

// match says that the address at k begins with the prefix.
func match(p netip.Prefix, k uint32) node {
	address := p.Addr().AsSlice()
	var n node
	for i, bits := uint32(0), p.Bits(); bits > 0; i, bits = i+4, bits-32 {
		mask := uint32(all)
		if bits < 32 {
			mask <<= 32 - bits
		}
		word := compare{instruction{Op: ldW, K: k + i}, mask, jeqK, binary.BigEndian.Uint32(address[i:])}
		if n == nil {
			n = word
		} else {
			n = both{n, word}
		}
	}
	if n == nil { // a prefix of no bits
		return compare{instruction{Op: ldB, K: 0}, 0, jeqK, 0}
	}
	return n
}

func (n ports) compile(b *builder, yes, no label) label {
	protocols := func(k uint32) node {
		if n.protocol != 0 {
			return isProtocol{n.protocol}.next(k)
		}
		return either{either{isProtocol{protocolSCTP}.next(k), isProtocol{protocolTCP}.next(k)}, isProtocol{protocolUDP}.next(k)}
	}
	v6 := both{isVersion{6}, both{protocols(6), n.at(instruction{Op: ldH, K: 40}, instruction{Op: ldH, K: 42})}}
	v4 := both{isVersion{4}, both{protocols(9), both{notFragment(),
		n.at(instruction{Op: ldXH, K: 0}, instruction{Op: ldXH, K: 2})}}}
	return either{v6, v4}.compile(b, yes, no)
}

// notFragment says that an IPv4 packet has the header of its protocol.
func notFragment() node { return not{compare{instruction{Op: ldH, K: 6}, all, jsetK, 0x1fff}} }

// at tests the ports that the loads bring. Where they count from X, that is the
// length of the IPv4 header.
func (n ports) at(src, dst instruction) node {
	one := func(load instruction) node {
		code := []instruction{load}
		if load.Op == ldXH {
			code = []instruction{{Op: ldxHeader, K: 0}, load}
		}
		if n.from == n.to {
			return test{append(code, instruction{Op: jeqK, K: uint32(n.from)})}
		}
		upper := append(slices.Clone(code), instruction{Op: jgtK, K: uint32(n.to)})
		return both{test{append(code, instruction{Op: jgeK, K: uint32(n.from)})}, not{test{upper}}}
	}
	return n.side.combine(one(src), one(dst))
}

// test is code that ends in a conditional jump.
type test struct{ code []instruction }

func (n test) compile(b *builder, yes, no label) label { return b.test(yes, no, n.code...) }

func (n relation) compile(b *builder, yes, no label) label {
	if !n.x.payload() && !n.y.payload() {
		return n.test(4).compile(b, yes, no)
	}
	// Where the payload begins depends on the headers.
	tcp := isProtocol{protocolTCP}
	v4 := both{isVersion{4}, both{tcp.next(9), both{notFragment(), n.test(4)}}}
	v6 := both{isVersion{6}, both{tcp.next(6), n.test(6)}}
	return either{v4, v6}.compile(b, yes, no)
}

// test compares the numbers in a packet of an IP version.
func (n relation) test(version byte) node {
	op, negate := uint16(jeqK), false
	switch n.op {
	case "!=":
		negate = true
	case ">":
		op = jgtK
	case ">=":
		op = jgeK
	case "<":
		op, negate = jgeK, true
	case "<=":
		op, negate = jgtK, true
	}
	code := n.x.code(nil, version, 0)
	if k, ok := n.y.(constant); ok {
		code = append(code, instruction{Op: op, K: uint32(k)})
	} else {
		code = append(twoNumbers(code, n.y, version, 0), instruction{Op: op | operandX})
	}
	if negate {
		return not{test{code}}
	}
	return test{code}
}

// twoNumbers appends code that leaves y in X and what was in A in A.
func twoNumbers(c []instruction, y number, version byte, depth int) []instruction {
	c = append(c, instruction{Op: stM, K: uint32(depth)})
	c = y.code(c, version, depth+1)
	return append(c, instruction{Op: tax}, instruction{Op: ldM, K: uint32(depth)})
}

func (n constant) code(c []instruction, _ byte, _ int) []instruction {
	return append(c, instruction{Op: ldK, K: uint32(n)})
}

func (n constant) payload() bool { return false }

func (length) code(c []instruction, _ byte, _ int) []instruction {
	return append(c, instruction{Op: ldLen})
}

func (length) payload() bool { return false }

func (n data) code(c []instruction, version byte, _ int) []instruction {
	load := map[uint32]uint16{1: ldXB, 2: ldXH, 4: ldXW}[n.size]
	const dataOffset = 12 // in the TCP header: its length in words, in the upper 4 bits
	if version == 4 {
		c = append(c, instruction{Op: ldxHeader, K: 0}, instruction{Op: ldXB, K: dataOffset},
			instruction{Op: andK, K: 0xf0}, instruction{Op: rshK, K: 2}, instruction{Op: addX})
	} else {
		c = append(c, instruction{Op: ldB, K: ipv6Len + dataOffset},
			instruction{Op: andK, K: 0xf0}, instruction{Op: rshK, K: 2}, instruction{Op: addK, K: ipv6Len})
	}
	return append(c, instruction{Op: tax}, instruction{Op: load, K: n.off})
}

func (data) payload() bool { return true }

var arithmetic = map[string]uint16{"+": 0x04, "-": 0x14, "*": 0x24, "/": 0x34, "|": 0x44, "&": 0x54, "<<": 0x64, ">>": 0x74, "%": 0x94, "^": 0xa4}

func (n operation) code(c []instruction, version byte, depth int) []instruction {
	op := arithmetic[n.op]
	c = n.x.code(c, version, depth)
	if k, ok := n.y.(constant); ok {
		return append(c, instruction{Op: op, K: uint32(k)})
	}
	return append(twoNumbers(c, n.y, version, depth), instruction{Op: op | operandX})
}

func (n operation) payload() bool { return n.x.payload() || n.y.payload() }
