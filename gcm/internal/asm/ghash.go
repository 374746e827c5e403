package main

import "fmt"

// GHASH (SP 800-38D, 6.4) works on blocks whose bits stand in reverse order. We
// reverse the bytes of each block; the order of the bits within is made up for
// by powers of H that are multiplied by x once. A product is kept in three
// parts, lo + mid*2^64 + hi*2^128, which are summed over a whole chunk and
// reduced once.

// power is where the powers of H begin that belong to a chunk's i-th vector.
func (m *machine) power(i int) int { return powersEnd - 16*m.blocks() + m.width*i }

// chunkSum adds up a chunk: data(i) is its i-th vector in memory. It ends with
// the reduced result in sum.
func (m *machine) chunkSum(data func(i int) string) {
	if m.wide {
		m.chunkInPairs(data)
	} else {
		m.chunkOneByOne(data)
	}
	m.reduce(true)
}

// chunkInPairs takes two vectors at a time. By Karatsuba's trick mid is
// (a.low+a.high)*(b.low+b.high) - lo - hi, three multiplications in place of
// four; the sums of two vectors share a register. The vector that the sum goes
// into comes last, so that there is time to compute the sum.
func (m *machine) chunkInPairs(data func(i int) string) {
	a, b, ha, hb, p, q := m.v(m.temp[0]), m.v(m.temp[1]), m.v(m.temp[2]), m.v(m.temp[3]), m.v(m.temp[4]), m.v(m.temp[5])
	for i := len(m.state) - 2; i >= 0; i -= 2 {
		m.op("%s %s, %s", m.move(), data(i), a)
		m.op("%s %s, %s", m.move(), data(i+1), b)
		m.op("%s %d(AX), %s", m.move(), m.power(i), ha)
		m.op("%s %d(AX), %s", m.move(), m.power(i+1), hb)
		m.op("VPSHUFB %s, %s, %s", m.v(m.swap), a, a)
		m.op("VPSHUFB %s, %s, %s", m.v(m.swap), b, b)
		if i == 0 {
			m.xor(m.v(m.sum), a, a)
		}
		add := func(dst int) {
			if i == len(m.state)-2 {
				m.xor(p, q, m.v(dst))
			} else {
				m.xor3(p, q, m.v(dst))
			}
		}
		m.op("VPCLMULQDQ $0x00, %s, %s, %s", ha, a, p)
		m.op("VPCLMULQDQ $0x00, %s, %s, %s", hb, b, q)
		add(m.lo)
		m.op("VPCLMULQDQ $0x11, %s, %s, %s", ha, a, p)
		m.op("VPCLMULQDQ $0x11, %s, %s, %s", hb, b, q)
		add(m.hi)
		m.op("VPUNPCKLQDQ %s, %s, %s", b, a, p)
		m.op("VPUNPCKHQDQ %s, %s, %s", b, a, q)
		m.xor(p, q, a)
		m.op("VPUNPCKLQDQ %s, %s, %s", hb, ha, p)
		m.op("VPUNPCKHQDQ %s, %s, %s", hb, ha, q)
		m.xor(p, q, ha)
		m.op("VPCLMULQDQ $0x00, %s, %s, %s", ha, a, p)
		m.op("VPCLMULQDQ $0x11, %s, %s, %s", ha, a, q)
		add(m.mid)
	}
}

// chunkOneByOne is the same with fewer registers: the sums of the halves of the
// powers are read from the table, where they stand in place of the powers that
// this variant has no use for.
func (m *machine) chunkOneByOne(data func(i int) string) {
	a, p := m.v(m.temp[1]), m.v(m.temp[2])
	for i := range m.state {
		m.op("%s %s, %s", m.move(), data(i), a)
		m.op("VPSHUFB %s, %s, %s", m.v(m.swap), a, a)
		mul := func(imm int, at int, dst int) {
			if i == 0 {
				m.op("VPCLMULQDQ $0x%02x, %d(AX), %s, %s", imm, at, a, m.v(dst))
				return
			}
			m.op("VPCLMULQDQ $0x%02x, %d(AX), %s, %s", imm, at, a, p)
			m.xor(p, m.v(dst), m.v(dst))
		}
		if i == 0 {
			m.xor(m.v(m.sum), a, a)
		}
		mul(0x00, m.power(i), m.lo)
		mul(0x11, m.power(i), m.hi)
		m.op("VPSHUFD $0x4e, %s, %s", a, p)
		m.xor(p, a, a)
		mul(0x00, m.power(i)-16*m.blocks(), m.mid)
	}
}

// multiply adds the product of a and the powers at mem to lo, mid and hi. It
// takes four multiplications, for where it is latency that counts. Registers
// are named by reg; with x a single block is multiplied.
func (m *machine) multiply(reg func(int) string, a int, mem string) {
	h, p, q := m.temp[len(m.temp)-1], m.temp[0], m.temp[1]
	if p == a || q == a || h == a {
		panic("asm: the factor is in a scratch register")
	}
	m.op("%s %s, %s", m.move(), mem, reg(h))
	m.op("VPCLMULQDQ $0x01, %s, %s, %s", reg(h), reg(a), reg(p))
	m.op("VPCLMULQDQ $0x10, %s, %s, %s", reg(h), reg(a), reg(q))
	m.xor3(m.v(p), m.v(q), m.v(m.mid))
	m.op("VPCLMULQDQ $0x00, %s, %s, %s", reg(h), reg(a), reg(p))
	m.op("VPCLMULQDQ $0x11, %s, %s, %s", reg(h), reg(a), reg(q))
	m.xor(m.v(p), m.v(m.lo), m.v(m.lo))
	m.xor(m.v(q), m.v(m.hi), m.v(m.hi))
}

// zeroProduct makes lo, mid and hi zero.
func (m *machine) zeroProduct() {
	m.zero(m.lo)
	m.zero(m.mid)
	m.zero(m.hi)
}

// reduce turns lo, mid and hi, summed over all lanes, into one block in sum.
// With karatsuba mid still lacks the part that is taken off.
func (m *machine) reduce(karatsuba bool) {
	p := m.temp[1]
	if karatsuba {
		m.xor3(m.v(m.lo), m.v(m.hi), m.v(m.mid))
	}
	m.reduceLanes()
	if m.wide {
		m.op("VEXTRACTI64X4 $1, %s, %s", m.v(m.hi), y(p))
		m.xor(y(p), y(m.hi), y(m.hi))
		m.op("VEXTRACTI64X2 $1, %s, %s", y(m.hi), x(p))
	} else {
		m.op("VEXTRACTI128 $1, %s, %s", y(m.hi), x(p))
	}
	m.xor(x(p), x(m.hi), x(m.sum))
}

// reduceLanes reduces each lane by itself, into hi. Lo is folded into mid and
// mid into hi, 64 bits each time, by the reduction polynomial.
func (m *machine) reduceLanes() {
	p, q := m.temp[1], m.temp[2]
	for _, fold := range [][2]int{{m.lo, m.mid}, {m.mid, m.hi}} {
		from, to := m.v(fold[0]), m.v(fold[1])
		m.op("VPCLMULQDQ $0x10, ·poly<>(SB), %s, %s", from, m.v(p))
		m.op("VPSHUFD $0x4e, %s, %s", from, m.v(q))
		m.xor3(m.v(p), m.v(q), to)
	}
}

// loadPart loads the n bytes at (from), 1 to 15 of them, into a register and
// reads no byte beyond. R10, R12, R13 are lost.
func (t *text) loadPart(from, n, dst, label string) {
	t.op("XORL R12, R12")
	t.op("CMPQ %s, $8", n)
	t.op("JBE %s8", label)
	t.op("MOVQ (%s), R10", from)
	t.op("MOVQ -8(%s)(%s*1), R12", from, n)
	t.op("MOVL $16, R13")
	t.op("SUBQ %s, R13", n)
	t.op("SHLQ $3, R13")
	t.op("SHRXQ R13, R12, R12")
	t.op("JMP %sdone", label)
	t.label(label + "8")
	t.op("CMPQ %s, $4", n)
	t.op("JB %s4", label)
	t.op("MOVL (%s), R10", from)
	t.op("LEAQ -4(%s), R13", n)
	t.op("MOVL (%s)(R13*1), R12", from)
	t.op("SHLQ $3, R13")
	t.op("SHLXQ R13, R12, R12")
	t.op("ORQ R12, R10")
	t.op("XORL R12, R12")
	t.op("JMP %sdone", label)
	t.label(label + "4")
	t.note("1 to 3 bytes: the first, the middle and the last one.")
	t.op("MOVBLZX (%s), R10", from)
	t.op("MOVQ %s, R13", n)
	t.op("SHRQ $1, R13")
	t.op("MOVBLZX (%s)(R13*1), R12", from)
	t.op("SHLQ $3, R13")
	t.op("SHLXQ R13, R12, R12")
	t.op("ORQ R12, R10")
	t.op("LEAQ -1(%s), R13", n)
	t.op("MOVBLZX (%s)(R13*1), R12", from)
	t.op("SHLQ $3, R13")
	t.op("SHLXQ R13, R12, R12")
	t.op("ORQ R12, R10")
	t.op("XORL R12, R12")
	t.label(label + "done")
	t.op("VMOVQ R10, %s", dst)
	t.op("VPINSRQ $1, R12, %s, %s", dst, dst)
}

// storePart stores the first n bytes of a register, 1 to 15 of them, at (to)
// and writes no byte beyond. R10, R12 and to are lost.
func (t *text) storePart(src, to, n, label string) {
	t.op("VMOVQ %s, R10", src)
	t.op("VPEXTRQ $1, %s, R12", src)
	for _, size := range []int{8, 4, 2, 1} {
		next := fmt.Sprintf("%s%d", label, size)
		t.op("TESTQ $%d, %s", size, n)
		t.op("JEQ %s", next)
		t.op("%s R10, (%s)", map[int]string{8: "MOVQ", 4: "MOVL", 2: "MOVW", 1: "MOVB"}[size], to)
		switch size {
		case 8:
			t.op("ADDQ $8, %s", to)
			t.op("MOVQ R12, R10")
		case 4, 2:
			t.op("ADDQ $%d, %s", size, to)
			t.op("SHRQ $%d, R10", 8*size)
		}
		t.label(next)
	}
}
