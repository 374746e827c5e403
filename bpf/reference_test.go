package bpf_test

import (
	"encoding/binary"
	"fmt"

	xbpf "golang.org/x/net/bpf"
)

// reference is the language as Linux runs it, written down for reading and not
// for speed. apart is true when the run came to a place where the VM of
// golang.org/x/net differs from Linux: see docs/bpf.md.
func reference(program []xbpf.RawInstruction, b []byte) (result uint32, apart bool) {
	var a, x uint32
	var m [16]uint32
	load := func(off uint32, size int) (uint32, bool) {
		if off >= 1<<31 || int(off)+size > len(b) {
			return 0, false
		}
		var v [8]byte
		copy(v[8-size:], b[off:][:size])
		return uint32(binary.BigEndian.Uint64(v[:])), true
	}
	for pc := 0; ; pc++ {
		raw := program[pc]
		ok := true
		switch in := raw.Disassemble().(type) {
		case xbpf.LoadAbsolute:
			a, ok = load(in.Off, in.Size)
		case xbpf.LoadIndirect:
			if uint64(in.Off)+uint64(x) >= 1<<31 {
				apart = true
			}
			a, ok = load(in.Off+x, in.Size)
		case xbpf.LoadMemShift:
			var v uint32
			if v, ok = load(in.Off, 1); ok {
				x = v % 16 * 4
			}
		case xbpf.LoadConstant:
			*dest(in.Dst, &a, &x) = in.Val
		case xbpf.LoadScratch:
			*dest(in.Dst, &a, &x) = m[in.N]
		case xbpf.LoadExtension: // the length is the only one that passes
			if raw.Op == 0x81 { // x/net takes X for A
				x, apart = uint32(len(b)), true
			} else {
				a = uint32(len(b))
			}
		case xbpf.StoreScratch:
			m[in.N] = *dest(in.Src, &a, &x)
		case xbpf.ALUOpConstant:
			a = alu(in.Op, a, in.Val)
		case xbpf.ALUOpX:
			switch in.Op {
			case xbpf.ALUOpDiv, xbpf.ALUOpMod:
				ok = x != 0
			case xbpf.ALUOpShiftLeft, xbpf.ALUOpShiftRight:
				if x >= 32 {
					apart = true
				}
			}
			if ok {
				a = alu(in.Op, a, x)
			}
		case xbpf.NegateA:
			apart = true
			a = -a
		case xbpf.Jump:
			pc += int(in.Skip)
		case xbpf.JumpIf:
			pc += branch(in.Cond, a, in.Val, in.SkipTrue, in.SkipFalse)
		case xbpf.JumpIfX:
			pc += branch(in.Cond, a, x, in.SkipTrue, in.SkipFalse)
		case xbpf.TAX:
			x = a
		case xbpf.TXA:
			a = x
		case xbpf.RetA:
			return a, apart
		case xbpf.RetConstant:
			return in.Val, apart
		default:
			panic(fmt.Sprintf("%T of code %#x", in, raw.Op))
		}
		if !ok {
			return 0, apart
		}
	}
}

func dest(r xbpf.Register, a, x *uint32) *uint32 {
	if r == xbpf.RegA {
		return a
	}
	return x
}

func alu(op xbpf.ALUOp, a, v uint32) uint32 {
	switch op {
	case xbpf.ALUOpAdd:
		return a + v
	case xbpf.ALUOpSub:
		return a - v
	case xbpf.ALUOpMul:
		return a * v
	case xbpf.ALUOpDiv:
		return a / v
	case xbpf.ALUOpMod:
		return a % v
	case xbpf.ALUOpAnd:
		return a & v
	case xbpf.ALUOpOr:
		return a | v
	case xbpf.ALUOpXor:
		return a ^ v
	case xbpf.ALUOpShiftLeft:
		return a << (v % 32)
	case xbpf.ALUOpShiftRight:
		return a >> (v % 32)
	}
	panic(fmt.Sprint("operator ", op))
}

func branch(c xbpf.JumpTest, a, v uint32, yes, no uint8) int {
	var is bool
	switch c {
	case xbpf.JumpEqual:
		is = a == v
	case xbpf.JumpNotEqual:
		is = a != v
	case xbpf.JumpGreaterThan:
		is = a > v
	case xbpf.JumpLessThan:
		is = a < v
	case xbpf.JumpGreaterOrEqual:
		is = a >= v
	case xbpf.JumpLessOrEqual:
		is = a <= v
	case xbpf.JumpBitsSet:
		is = a&v != 0
	case xbpf.JumpBitsNotSet:
		is = a&v == 0
	}
	if is {
		return int(yes)
	}
	return int(no)
}

// codes are all codes that there are.
var codes = []uint16{0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x80, 0x00, 0x60, 0x81, 0x01, 0x61, 0xb1, 0x02, 0x03,
	0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x94, 0x9c, 0x54, 0x5c, 0x44, 0x4c, 0xa4, 0xac, 0x64, 0x6c, 0x74, 0x7c, 0x84,
	0x07, 0x87, 0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, 0x06, 0x16}

// grow makes a program of instructions out of any bytes, most of the time a
// valid one, which ends with tail. Without rets nothing returns before it.
func grow(seed []byte, rets bool, tail ...xbpf.RawInstruction) []xbpf.RawInstruction {
	const each = 4
	all := codes
	if !rets {
		all = codes[:len(codes)-2]
	}
	n := min(len(seed)/each, 40)
	behind := func(i int) int { return n + len(tail) - 1 - i } // where jumps may go
	if !rets {
		behind = func(i int) int { return n - i }
	}
	var p []xbpf.RawInstruction
	for i := range n {
		s := seed[i*each:][:each]
		in := ins(all[int(s[0])%len(all)], 0, 0, uint32(s[1]))
		switch in.Op & 7 {
		case 0, 1: // loads
			switch mode := in.Op >> 5; {
			case mode == 3: // M[k]
				in.K %= 4
			case s[2] > 250:
				in.K = -in.K
			case s[2] > 240 && mode != 1:
				in.K = 1<<31 - 2 + in.K%4
			case mode != 0:
				in.K %= 24
			case s[2]&1 == 1: // immediate
				in.K = in.K<<24 | uint32(s[3])
			}
		case 2, 3:
			in.K %= 4
		case 4:
			if in.Op&8 == 0 {
				in.K = in.K%31 + 1
			}
		case 5:
			if in.Op == 0x05 {
				in.K %= uint32(behind(i))
			} else {
				in.Jt, in.Jf = uint8(int(s[2])%behind(i)), uint8(int(s[3])%behind(i))
			}
		case 6:
			in.K = uint32(s[2])<<8 | in.K
		}
		p = append(p, in)
	}
	return append(p, tail...)
}
