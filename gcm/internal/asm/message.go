package main

import "fmt"

// messageFile is the file of one variant: its two functions.
func messageFile(m machine) string {
	m.text = begin()
	m.table("swap", lanes(1, 0x08090a0b0c0d0e0f, 0x0001020304050607)...)
	m.table("poly", lanes(m.width/16, 1, 0xc200000000000000)...)
	var count []uint64
	for i := range m.width / 16 {
		count = append(count, uint64(i), 0)
	}
	m.table("count", count...)
	m.table("step", lanes(m.width/16, uint64(m.width/16), 0)...)
	if !m.wide {
		m.table("head", 1<<64-1, 1<<64-1, 0, 0)
	}
	m.function(true)
	m.function(false)
	return m.String()
}

// function writes seal or open. While it runs
//
//	AX  schedule      BX  state         R9  16 * rounds
//	DI  output        SI  input         R11 where the input ends and is the output
//	CX  bytes left    R12 bytes left of the input, in the main loop
//	DX  blocks of the tail              R8  their powers of H
//
// and R10, R12 and R13 are scratch behind the main loop. R14 and R15 are Go's.
func (m *machine) function(seal bool) {
	name := "open"
	if seal {
		name = "seal"
	}
	m.raw("// func %s%s(k *schedule, s *state, dst, src, aad []byte)", name, m.name)
	m.raw("TEXT ·%s%s(SB), NOSPLIT, $0-88", name, m.name)
	m.op("MOVQ k+0(FP), AX")
	m.op("MOVQ s+8(FP), BX")
	m.op("MOVQ dst_base+16(FP), DI")
	m.op("MOVQ dst_len+24(FP), CX")
	m.op("MOVQ src_base+40(FP), SI")
	m.op("MOVQ src_len+48(FP), R12")
	m.op("LEAQ (DI)(R12*1), R11")
	m.startCounters()
	m.aad()
	if seal {
		m.sealChunks()
	} else {
		m.openChunks()
	}
	m.label("tail")
	m.op("CMPQ %d(BX), $0", stateMore)
	m.op("JNE out")
	m.tagMask()
	m.tail(seal)
	m.lengths()
	m.label("out")
	m.op("VMOVDQU%s %s, %d(BX)", m.suffix(), x(m.sum), stateSum)
	m.forget()
	m.op("RET")
	m.raw("")
}

func (m *machine) suffix() string {
	if m.wide {
		return "64"
	}
	return ""
}

// aad begins the sum: with what state.sum has, and with additional data of up
// to one block, which is what TLS has.
func (m *machine) aad() {
	a := m.state[0]
	m.op("VMOVDQU%s %d(BX), %s", m.suffix(), stateSum, x(m.sum))
	m.op("MOVQ aad_len+72(FP), DX")
	m.op("TESTQ DX, DX")
	m.op("JEQ noaad")
	m.op("MOVQ aad_base+64(FP), R8")
	if m.wide {
		m.op("MOVQ $-1, R10")
		m.op("BZHIQ DX, R10, R10")
		m.op("KMOVQ R10, K1")
		m.op("VMOVDQU8.Z (R8), K1, %s", x(a))
	} else {
		m.loadPart("R8", "DX", x(a), "aad")
		m.op("MOVQ src_len+48(FP), R12")
	}
	m.op("VPSHUFB %s, %s, %s", x(m.swap), x(a), x(a))
	m.xor(x(m.sum), x(a), x(a))
	m.zeroProduct()
	m.multiply(x, a, fmt.Sprintf("%d(AX)", powersEnd-16))
	m.reduce(false)
	m.label("noaad")
}

// sealChunks is the main loop of seal. The ciphertext of a chunk is summed
// while the next one is encrypted, so the first turn has nothing to sum and the
// last sum has a place of its own.
func (m *machine) sealChunks() {
	m.op("CMPQ R12, $%d", m.chunk())
	m.op("JB tail")
	m.counters(m.state)
	m.firstRounds(m.state)
	m.moreRounds(m.state, "first")
	m.writeChunk()
	m.label("loop")
	m.op("CMPQ R12, $%d", m.chunk())
	m.op("JB drain")
	before := func(i int) string { return fmt.Sprintf("%d(DI)", m.width*i-m.chunk()) }
	m.counters(m.state)
	m.weave(
		m.apart(func() { m.firstRounds(m.state) }),
		m.apart(func() { m.chunkSum(before) }))
	m.moreRounds(m.state, "next")
	m.writeChunk()
	m.op("JMP loop")
	m.label("drain")
	m.chunkSum(before)
}

// openChunks is the main loop of open. The sum reads the ciphertext before the
// plaintext takes its place.
func (m *machine) openChunks() {
	m.label("loop")
	m.op("CMPQ R12, $%d", m.chunk())
	m.op("JB tail")
	m.counters(m.state)
	m.weave(
		m.apart(func() { m.firstRounds(m.state) }),
		m.apart(func() { m.chunkSum(func(i int) string { return fmt.Sprintf("%d(SI)", m.width*i) }) }))
	m.moreRounds(m.state, "next")
	m.writeChunk()
	m.op("JMP loop")
}

// writeChunk does the last round for a chunk and writes it. The data is xored
// into the last round key, which takes it off the path that the result waits
// for.
func (m *machine) writeChunk() {
	key := m.lastKey()
	for i, r := range m.state {
		t := m.temp[1+i%(len(m.temp)-1)]
		m.xor(fmt.Sprintf("%d(SI)", m.width*i), m.v(key), m.v(t))
		m.op("VAESENCLAST %s, %s, %s", m.v(t), m.v(r), m.v(r))
	}
	for i, r := range m.state {
		m.op("%s %s, %d(DI)", m.move(), m.v(r), m.width*i)
	}
	m.op("ADDQ $%d, SI", m.chunk())
	m.op("ADDQ $%d, DI", m.chunk())
	m.op("SUBQ $%d, R12", m.chunk())
	m.op("SUBQ $%d, CX", m.chunk())
}

// tail does what is left, less than a chunk. Its k blocks are multiplied by
// H^(k+1) to H^2, so that the lengths, by H, go into the same sum. Where k is
// all the powers there are, the sum is reduced in between instead.
func (m *machine) tail(seal bool) {
	if m.carry != m.sum {
		m.op("VMOVDQA %s, %s", x(m.sum), x(m.carry))
	}
	m.zeroProduct()
	m.op("TESTQ CX, CX")
	m.op("JEQ lengths")
	m.op("LEAQ 15(CX), DX")
	m.op("SHRQ $4, DX")
	m.op("LEAQ %d(AX), R8", powersEnd-16)
	m.op("LEAQ %d(AX), R10", powersEnd)
	m.op("CMPQ DX, $%d", m.blocks())
	m.op("CMOVQEQ R10, R8")
	m.op("MOVQ DX, R10")
	m.op("SHLQ $4, R10")
	m.op("SUBQ R10, R8")
	if m.wide {
		m.maskedTail(seal)
	} else {
		m.plainTail(seal)
	}
	m.op("CMPQ DX, $%d", m.blocks())
	m.op("JNE lengths")
	m.reduce(false)
	if m.carry != m.sum {
		m.op("VMOVDQA %s, %s", x(m.sum), x(m.carry))
	}
	m.zeroProduct()
}

// keystream encrypts the next counters into the register, all but the last round.
func (m *machine) keystream(r int, label string) {
	m.counters([]int{r})
	m.firstRounds([]int{r})
	m.moreRounds([]int{r}, label)
}

// takeUp reverses the block or blocks in a, adds the carry to the first one and
// multiplies by the powers at R8.
func (m *machine) takeUp(reg func(int) string, a int) {
	m.op("VPSHUFB %s, %s, %s", reg(m.swap), reg(a), reg(a))
	m.xor(reg(m.carry), reg(a), reg(a))
	m.zero(m.carry)
	m.multiply(reg, a, "(R8)")
}

// maskedTail goes on by one register at a time. What a masked load or store
// leaves out it does not touch. The last load of powers may reach into the
// round keys behind them: those lanes meet blocks of zeros.
func (m *machine) maskedTail(seal bool) {
	z, data, t := m.state[0], m.state[1], m.temp[2]
	m.label("vector")
	m.op("MOVQ $-1, R10")
	m.op("CMPQ CX, $%d", m.width)
	m.op("JAE full")
	m.op("BZHIQ CX, R10, R10")
	m.label("full")
	m.op("KMOVQ R10, K1")
	m.op("CMPQ DI, R11")
	m.op("CMOVQEQ DI, SI")
	m.keystream(z, "tailed")
	m.op("VMOVDQU8.Z (SI), K1, %s", m.v(data))
	m.xor(m.v(data), m.v(m.last), m.v(t))
	m.op("VAESENCLAST %s, %s, %s", m.v(t), m.v(z), m.v(z))
	m.op("VMOVDQU8 %s, K1, (DI)", m.v(z))
	if seal {
		m.op("VMOVDQU8.Z %s, K1, %s", m.v(z), m.v(data))
	}
	m.takeUp(m.v, data)
	for _, r := range []string{"R8", "SI", "DI"} {
		m.op("ADDQ $%d, %s", m.width, r)
	}
	m.op("SUBQ $%d, CX", m.width)
	m.op("JA vector")
}

// plainTail goes on by one register, then by one block, then by what is left of
// a block.
func (m *machine) plainTail(seal bool) {
	z, data := m.state[0], m.state[1]
	source := func() {
		m.op("CMPQ DI, R11")
		m.op("CMOVQEQ DI, SI")
	}
	step := func(reg func(int) string, n int) {
		m.op("%s (SI), %s", m.move(), reg(data))
		if seal {
			m.xor(reg(data), reg(z), reg(data))
			m.op("%s %s, (DI)", m.move(), reg(data))
		} else {
			m.xor(reg(data), reg(z), reg(m.state[2]))
			m.op("%s %s, (DI)", m.move(), reg(m.state[2]))
		}
		m.takeUp(reg, data)
		for _, r := range []string{"R8", "SI", "DI"} {
			m.op("ADDQ $%d, %s", n, r)
		}
	}
	m.label("vector")
	m.op("CMPQ CX, $%d", m.width)
	m.op("JB part")
	source()
	m.keystream(z, "tailed")
	m.op("VAESENCLAST %s, %s, %s", m.v(m.lastKey()), m.v(z), m.v(z))
	step(m.v, m.width)
	m.op("SUBQ $%d, CX", m.width)
	m.op("JMP vector")

	m.label("part")
	m.op("TESTQ CX, CX")
	m.op("JEQ end")
	source()
	m.keystream(z, "parted")
	m.op("VAESENCLAST %s, %s, %s", m.v(m.lastKey()), m.v(z), m.v(z))
	m.op("CMPQ CX, $16")
	m.op("JB bytes")
	step(x, 16)
	m.op("VEXTRACTI128 $1, %s, %s", y(z), x(z))
	m.op("SUBQ $16, CX")
	m.op("JEQ end")

	m.label("bytes")
	m.loadPart("SI", "CX", x(data), "load")
	m.xor(x(data), x(z), x(z))
	m.storePart(x(z), "DI", "CX", "store")
	if seal {
		m.op("LEAQ ·head<>+16(SB), R13")
		m.op("SUBQ CX, R13")
		m.op("VPAND (R13), %s, %s", x(z), x(data))
	}
	m.takeUp(x, data)
	m.label("end")
}

// lengths adds the block of lengths, reduces, and hides the result: the tag.
func (m *machine) lengths() {
	a := m.state[1]
	m.label("lengths")
	m.op("VMOVDQU%s %d(BX), %s", m.suffix(), stateBits, x(a))
	m.xor(x(m.carry), x(a), x(a))
	m.multiply(x, a, fmt.Sprintf("%d(AX)", powersEnd-16))
	m.reduce(false)
	m.op("VPSHUFB %s, %s, %s", x(m.swap), x(m.sum), x(m.sum))
	m.xor(x(m.mask), x(m.sum), x(m.sum))
}
