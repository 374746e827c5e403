package main

import "fmt"

// setupFile is what both variants use: the key schedule, additional data longer
// than a block, and the question whether the processor has the instructions. It
// keeps to what the smaller variant needs.
func setupFile() string {
	m := avx2
	m.text = begin()
	m.table("swap", lanes(1, 0x08090a0b0c0d0e0f, 0x0001020304050607)...)
	m.table("poly", lanes(2, 1, 0xc200000000000000)...)
	m.setup()
	m.absorb()
	m.raw("// func leaf7() (ecx uint32)")
	m.raw("TEXT ·leaf7(SB), NOSPLIT, $0-4")
	m.op("MOVL $7, AX")
	m.op("XORL CX, CX")
	m.op("CPUID")
	m.op("MOVL CX, ecx+0(FP)")
	m.op("RET")
	return m.String()
}

// setup expands the key (FIPS 197, 5.2) and computes the powers of H.
func (m *machine) setup() {
	m.raw("// func setup(k *schedule, key *byte, table uint64)")
	m.raw("TEXT ·setup(SB), NOSPLIT, $0-24")
	m.op("MOVQ k+0(FP), AX")
	m.op("MOVQ key+8(FP), SI")
	m.op("MOVQ table+16(FP), CX")
	m.op("MOVQ %d(AX), R9", rounds)
	m.op("SHLQ $4, R9")
	m.op("CMPQ R9, $%d", 16*10)
	m.op("JNE aes256")

	// widen makes the next four words out of the four in key and the word that
	// VAESKEYGENASSIST has left in X2.
	widen := func(key, word, at int) {
		m.op("VPSHUFD $0x%02x, X2, X2", word)
		m.op("VPSLLDQ $4, %s, X3", x(key))
		m.op("VPXOR X3, %s, %s", x(key), x(key))
		m.op("VPSLLDQ $8, %s, X3", x(key))
		m.op("VPXOR X3, %s, %s", x(key), x(key))
		m.op("VPXOR X2, %s, %s", x(key), x(key))
		m.op("VMOVDQU %s, %d(AX)", x(key), roundKeys+16*at)
	}
	m.op("VMOVDQU (SI), X0")
	m.op("VMOVDQU X0, %d(AX)", roundKeys)
	for i, rcon := range []int{0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36} {
		m.op("VAESKEYGENASSIST $0x%02x, X0, X2", rcon)
		widen(0, 0xff, i+1)
	}
	m.op("JMP expanded")
	m.label("aes256")
	m.op("VMOVDQU (SI), X0")
	m.op("VMOVDQU 16(SI), X1")
	m.op("VMOVDQU X0, %d(AX)", roundKeys)
	m.op("VMOVDQU X1, %d(AX)", roundKeys+16)
	for i := range 7 {
		m.op("VAESKEYGENASSIST $0x%02x, X1, X2", 1<<i)
		widen(0, 0xff, 2*i+2)
		if i < 6 {
			m.op("VAESKEYGENASSIST $0x00, X0, X2")
			widen(1, 0xaa, 2*i+3)
		}
	}
	m.label("expanded")

	m.note("H = E(K, 0), its bytes reversed, times x.")
	m.broadcast("·swap<>(SB)", m.swap)
	m.op("VMOVDQU %d(AX), X0", roundKeys)
	for i := 1; i <= 9; i++ {
		m.op("VAESENC %d(AX), X0, X0", roundKeys+16*i)
	}
	m.op("CMPQ R9, $%d", 16*10)
	m.op("JEQ h")
	for i := 10; i <= 13; i++ {
		m.op("VAESENC %d(AX), X0, X0", roundKeys+16*i)
	}
	m.label("h")
	m.op("VAESENCLAST %d(AX)(R9*1), X0, X0", roundKeys)
	m.op("VPSHUFB %s, X0, X0", x(m.swap))
	m.op("VPSRAD $31, X0, X1")
	m.op("VPSHUFD $0xff, X1, X1")
	m.op("VPAND ·poly<>(SB), X1, X1")
	m.op("VPSRLQ $63, X0, X2")
	m.op("VPSLLDQ $8, X2, X2")
	m.op("VPADDQ X0, X0, X0")
	m.op("VPXOR X2, X0, X0")
	m.op("VPXOR X1, X0, X0")
	m.op("VMOVDQU X0, %d(AX)", powersEnd-16)

	m.note("H^2 stands in front of H. Then the pairs that there are, times the")
	m.note("highest power, are as many pairs again.")
	m.zeroProduct()
	m.multiply(x, 0, fmt.Sprintf("%d(AX)", powersEnd-16))
	m.reduceLanes()
	m.op("VMOVDQU %s, %d(AX)", x(m.hi), powersEnd-32)
	m.op("LEAQ %d(AX), SI", powersEnd)
	m.op("MOVL $32, DX")
	m.label("double")
	m.op("MOVQ SI, DI")
	m.op("SUBQ DX, DI")
	m.op("VBROADCASTI128 (DI), Y0")
	m.op("MOVQ DI, R10")
	m.op("MOVQ SI, R11")
	m.label("pair")
	m.op("SUBQ $32, R11")
	m.op("SUBQ $32, R10")
	m.zeroProduct()
	m.multiply(y, 0, "(R11)")
	m.reduceLanes()
	m.op("VMOVDQU %s, (R10)", y(m.hi))
	m.op("CMPQ R11, DI")
	m.op("JNE pair")
	m.op("ADDQ DX, DX")
	m.op("CMPQ DX, CX")
	m.op("JB double")

	m.note("Sixteen powers leave room for the sums of their halves.")
	m.op("CMPQ CX, $256")
	m.op("JNE done")
	for i := range 8 {
		m.op("VMOVDQU %d(AX), Y0", powersEnd-256+32*i)
		m.op("VPSHUFD $0x4e, Y0, Y1")
		m.op("VPXOR Y0, Y1, Y1")
		m.op("VMOVDQU Y1, %d(AX)", powersEnd-512+32*i)
	}
	m.label("done")
	m.forget()
	m.op("RET")
	m.raw("")
}

// absorb adds data, padded to whole blocks, to state.sum.
func (m *machine) absorb() {
	a := m.state[0]
	m.raw("// func absorb(k *schedule, s *state, data []byte)")
	m.raw("TEXT ·absorb(SB), NOSPLIT, $0-40")
	m.op("MOVQ k+0(FP), AX")
	m.op("MOVQ s+8(FP), BX")
	m.op("MOVQ data_base+16(FP), SI")
	m.op("MOVQ data_len+24(FP), CX")
	m.broadcast("·swap<>(SB)", m.swap)
	m.op("VMOVDQU %d(BX), %s", stateSum, x(m.carry))
	m.label("group")
	m.op("LEAQ 15(CX), DX")
	m.op("SHRQ $4, DX")
	m.op("MOVL $%d, R10", m.blocks())
	m.op("CMPQ DX, R10")
	m.op("CMOVQHI R10, DX")
	m.op("MOVQ DX, R10")
	m.op("SHLQ $4, R10")
	m.op("LEAQ %d(AX), R8", powersEnd)
	m.op("SUBQ R10, R8")
	m.zeroProduct()
	m.label("block")
	m.op("CMPQ CX, $16")
	m.op("JB part")
	m.op("VMOVDQU (SI), %s", x(a))
	m.op("ADDQ $16, SI")
	m.op("SUBQ $16, CX")
	m.op("JMP add")
	m.label("part")
	m.loadPart("SI", "CX", x(a), "load")
	m.op("XORL CX, CX")
	m.label("add")
	m.takeUp(x, a)
	m.op("ADDQ $16, R8")
	m.op("DECQ DX")
	m.op("JNE block")
	m.reduce(false)
	m.op("VMOVDQA %s, %s", x(m.sum), x(m.carry))
	m.op("TESTQ CX, CX")
	m.op("JNE group")
	m.op("VMOVDQU %s, %d(BX)", x(m.carry), stateSum)
	m.forget()
	m.op("RET")
	m.raw("")
}
