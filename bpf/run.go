package bpf

import (
	"encoding/binary"

	"golang.org/x/net/bpf"
)

// instruction is a raw instruction whose code is looked up already: 8 bytes.
type instruction struct {
	op     opcode
	jt, jf uint8
	k      uint32
}

// decode decodes a valid program.
func decode(raw []bpf.RawInstruction) (code []instruction, scratch bool) {
	code = make([]instruction, len(raw))
	for i, in := range raw {
		f := formOf(in.Op)
		code[i] = instruction{f.op, in.Jt, in.Jf, in.K}
		switch f.operand {
		case word:
			scratch = true
		case absolute, shift:
			if int32(in.K) < 0 {
				code[i].op = opFail
			}
		}
	}
	return code, scratch
}

// run runs valid code. m is nil when the code does not use it, and head when it
// is not that of a Behind.
//
// All arithmetic is modulo 2^32, X+K too. Shifts count modulo 32, as eBPF has
// it, which Linux turns the program into.
func run(code []instruction, b, head []byte, m *[scratchWords]uint32) uint32 {
	var a, x uint32
	for pc := uint(0); pc < uint(len(code)); pc++ {
		in := &code[pc]
		k := in.k
		switch in.op {
		case opFail:
			return 0

		case opLoad4:
			if uint64(k)+4 > uint64(len(b)) {
				return 0
			}
			a = binary.BigEndian.Uint32(b[k:])
		case opLoad2:
			if uint64(k)+2 > uint64(len(b)) {
				return 0
			}
			a = uint32(binary.BigEndian.Uint16(b[k:]))
		case opLoad1:
			if uint64(k) >= uint64(len(b)) {
				return 0
			}
			a = uint32(b[k])
		case opLoadX4:
			if k += x; int32(k) < 0 || uint64(k)+4 > uint64(len(b)) {
				return 0
			}
			a = binary.BigEndian.Uint32(b[k:])
		case opLoadX2:
			if k += x; int32(k) < 0 || uint64(k)+2 > uint64(len(b)) {
				return 0
			}
			a = uint32(binary.BigEndian.Uint16(b[k:]))
		case opLoadX1:
			if k += x; int32(k) < 0 || uint64(k) >= uint64(len(b)) {
				return 0
			}
			a = uint32(b[k])
		case opLoadLen:
			a = uint32(len(b))
		case opLoadK:
			a = k
		case opLoadM:
			a = m[k%scratchWords]
		case opLoadXLen:
			x = uint32(len(b))
		case opLoadXK:
			x = k
		case opLoadXM:
			x = m[k%scratchWords]
		case opLoadXShift:
			if uint64(k) >= uint64(len(b)) {
				return 0
			}
			x = uint32(b[k]&15) * 4
		case opStore:
			m[k%scratchWords] = a
		case opStoreX:
			m[k%scratchWords] = x

		case opAddK:
			a += k
		case opAddX:
			a += x
		case opSubK:
			a -= k
		case opSubX:
			a -= x
		case opMulK:
			a *= k
		case opMulX:
			a *= x
		case opDivK:
			a /= k
		case opDivX:
			if x == 0 {
				return 0
			}
			a /= x
		case opModK:
			a %= k
		case opModX:
			if x == 0 {
				return 0
			}
			a %= x
		case opAndK:
			a &= k
		case opAndX:
			a &= x
		case opOrK:
			a |= k
		case opOrX:
			a |= x
		case opXorK:
			a ^= k
		case opXorX:
			a ^= x
		case opLeftK:
			a <<= k & 31
		case opLeftX:
			a <<= x & 31
		case opRightK:
			a >>= k & 31
		case opRightX:
			a >>= x & 31
		case opNeg:
			a = -a
		case opTAX:
			x = a
		case opTXA:
			a = x

		case opJump:
			pc += uint(k)
		case opEqualK:
			pc += in.skip(a == k)
		case opEqualX:
			pc += in.skip(a == x)
		case opGreaterK:
			pc += in.skip(a > k)
		case opGreaterX:
			pc += in.skip(a > x)
		case opGreaterEqualK:
			pc += in.skip(a >= k)
		case opGreaterEqualX:
			pc += in.skip(a >= x)
		case opBitsK:
			pc += in.skip(a&k != 0)
		case opBitsX:
			pc += in.skip(a&x != 0)

		case opReturnK:
			return k
		case opReturnA:
			return a

		case opHead4:
			if uint64(k)+4 > uint64(len(head)) {
				v, ok := loadBehind(head, b, k, 4)
				if !ok {
					return 0
				}
				a = v
				continue
			}
			a = binary.BigEndian.Uint32(head[k:])
		case opHead2:
			if uint64(k)+2 > uint64(len(head)) {
				v, ok := loadBehind(head, b, k, 2)
				if !ok {
					return 0
				}
				a = v
				continue
			}
			a = uint32(binary.BigEndian.Uint16(head[k:]))
		case opHead1:
			if uint64(k) >= uint64(len(head)) {
				return 0
			}
			a = uint32(head[k])
		case opHeadXShift:
			if uint64(k) >= uint64(len(head)) {
				return 0
			}
			x = uint32(head[k]&15) * 4
		case opHeadX4, opHeadX2, opHeadX1:
			v, ok := loadBehind(head, b, k+x, 4>>(in.op-opHeadX4))
			if !ok {
				return 0
			}
			a = v
		case opHeadLen:
			a = uint32(len(head) + len(b))
		case opHeadXLen:
			x = uint32(len(head) + len(b))
		}
	}
	return 0 // not reached: the last instruction is a return
}

func (in *instruction) skip(yes bool) uint {
	if yes {
		return uint(in.jt)
	}
	return uint(in.jf)
}
