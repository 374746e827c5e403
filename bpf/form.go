package bpf

// opcode is what run switches on. The values follow each other, so that the
// switch is a jump table.
type opcode uint8

const (
	opFail opcode = iota // end with 0: a load that can never succeed

	opLoad4 // A = 4 bytes of the message at K
	opLoad2
	opLoad1
	opLoadX4 // A = 4 bytes of the message at X+K
	opLoadX2
	opLoadX1
	opLoadLen // A = length of the message
	opLoadK   // A = K
	opLoadM   // A = M[K]
	opLoadXLen
	opLoadXK
	opLoadXM
	opLoadXShift // X = 4 * (the byte at K & 15)
	opStore      // M[K] = A
	opStoreX     // M[K] = X

	opAddK
	opAddX
	opSubK
	opSubX
	opMulK
	opMulX
	opDivK
	opDivX
	opModK
	opModX
	opAndK
	opAndX
	opOrK
	opOrX
	opXorK
	opXorX
	opLeftK
	opLeftX
	opRightK
	opRightX
	opNeg
	opTAX
	opTXA

	opJump
	opEqualK
	opEqualX
	opGreaterK
	opGreaterX
	opGreaterEqualK
	opGreaterEqualX
	opBitsK
	opBitsX

	opReturnK
	opReturnA

	// The loads above, in their order, where a header lies in front of the
	// message (behind.go). No form has them.
	opHead4
	opHead2
	opHead1
	opHeadX4
	opHeadX2
	opHeadX1
	opHeadLen
	opHeadK // not used, and neither is the next one
	opHeadM
	opHeadXLen
	opHeadXK // not used, and neither is the next one
	opHeadXM
	opHeadXShift
)

// operand is how an instruction uses its K, and how that is written down.
type operand uint8

const (
	none     operand = iota // K is ignored
	constant                // #k
	register                // x
	absolute                // [k]
	indirect                // [x + k]
	word                    // M[k]
	shift                   // 4*([k]&0xf)
	pktlen                  // #pktlen
	target                  // K instructions are skipped
	result                  // a: the register returned
)

// form is one of the instructions that there are.
type form struct {
	name    string // as tcpdump -d writes it; "" where there is no such instruction
	op      opcode
	operand operand
	jump    bool // conditional: Jt and Jf count
}

// forms has every instruction of classic BPF under its code
// (chk_code_allowed in net/core/filter.c has the same ones).
var forms = [256]form{
	0x20: {"ld", opLoad4, absolute, false},
	0x28: {"ldh", opLoad2, absolute, false},
	0x30: {"ldb", opLoad1, absolute, false},
	0x40: {"ld", opLoadX4, indirect, false},
	0x48: {"ldh", opLoadX2, indirect, false},
	0x50: {"ldb", opLoadX1, indirect, false},
	0x80: {"ld", opLoadLen, pktlen, false},
	0x00: {"ld", opLoadK, constant, false},
	0x60: {"ld", opLoadM, word, false},

	0x81: {"ldx", opLoadXLen, pktlen, false},
	0x01: {"ldx", opLoadXK, constant, false},
	0x61: {"ldx", opLoadXM, word, false},
	0xb1: {"ldxb", opLoadXShift, shift, false},

	0x02: {"st", opStore, word, false},
	0x03: {"stx", opStoreX, word, false},

	0x04: {"add", opAddK, constant, false},
	0x0c: {"add", opAddX, register, false},
	0x14: {"sub", opSubK, constant, false},
	0x1c: {"sub", opSubX, register, false},
	0x24: {"mul", opMulK, constant, false},
	0x2c: {"mul", opMulX, register, false},
	0x34: {"div", opDivK, constant, false},
	0x3c: {"div", opDivX, register, false},
	0x94: {"mod", opModK, constant, false},
	0x9c: {"mod", opModX, register, false},
	0x54: {"and", opAndK, constant, false},
	0x5c: {"and", opAndX, register, false},
	0x44: {"or", opOrK, constant, false},
	0x4c: {"or", opOrX, register, false},
	0xa4: {"xor", opXorK, constant, false},
	0xac: {"xor", opXorX, register, false},
	0x64: {"lsh", opLeftK, constant, false},
	0x6c: {"lsh", opLeftX, register, false},
	0x74: {"rsh", opRightK, constant, false},
	0x7c: {"rsh", opRightX, register, false},
	0x84: {"neg", opNeg, none, false},
	0x07: {"tax", opTAX, none, false},
	0x87: {"txa", opTXA, none, false},

	0x05: {"ja", opJump, target, false},
	0x15: {"jeq", opEqualK, constant, true},
	0x1d: {"jeq", opEqualX, register, true},
	0x25: {"jgt", opGreaterK, constant, true},
	0x2d: {"jgt", opGreaterX, register, true},
	0x35: {"jge", opGreaterEqualK, constant, true},
	0x3d: {"jge", opGreaterEqualX, register, true},
	0x45: {"jset", opBitsK, constant, true},
	0x4d: {"jset", opBitsX, register, true},

	0x06: {"ret", opReturnK, constant, false},
	0x16: {"ret", opReturnA, result, false},
}

// formOf returns the form of a code; its name is empty when there is none.
func formOf(code uint16) form {
	if int(code) >= len(forms) {
		return form{}
	}
	return forms[code]
}
