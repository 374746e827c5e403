package main

import "fmt"

// counters puts the next counter blocks, xored with the first round key, into
// the registers.
func (m *machine) counters(regs []int) {
	key := m.temp[0]
	if m.keys == nil {
		m.broadcast(fmt.Sprintf("%d(AX)", roundKeys), key)
	} else {
		key = m.keys[0]
	}
	for _, r := range regs {
		m.op("VPSHUFB %s, %s, %s", m.v(m.swap), m.v(m.ctr), m.v(r))
		m.op("VPADDD ·step<>(SB), %s, %s", m.v(m.ctr), m.v(m.ctr))
		m.xor(m.v(key), m.v(r), m.v(r))
	}
}

// firstRounds are the rounds 1 to 9, which both key sizes have.
func (m *machine) firstRounds(regs []int) {
	for r := 1; r <= 9; r++ {
		key := m.temp[0]
		if m.keys == nil {
			m.broadcast(fmt.Sprintf("%d(AX)", roundKeys+16*r), key)
		} else {
			key = m.keys[r]
		}
		for _, z := range regs {
			m.op("VAESENC %s, %s, %s", m.v(key), m.v(z), m.v(z))
		}
	}
}

// moreRounds are the rounds 10 to 13 of AES-256. R9 is 16 times the number of
// rounds.
func (m *machine) moreRounds(regs []int, label string) {
	m.op("CMPQ R9, $%d", 16*10)
	m.op("JEQ %s", label)
	for r := 10; r <= 13; r++ {
		m.broadcast(fmt.Sprintf("%d(AX)", roundKeys+16*r), m.temp[0])
		for _, z := range regs {
			m.op("VAESENC %s, %s, %s", m.v(m.temp[0]), m.v(z), m.v(z))
		}
	}
	m.label(label)
}

// lastKey returns the register of the last round key, loading it if need be.
func (m *machine) lastKey() int {
	if m.last >= 0 {
		return m.last
	}
	m.broadcast(fmt.Sprintf("%d(AX)(R9*1)", roundKeys), m.temp[0])
	return m.temp[0]
}

// startCounters makes the first counters out of state.nonce and state.counter,
// and the registers that stay as they are.
func (m *machine) startCounters() {
	t := m.temp[0]
	m.broadcast("·swap<>(SB)", m.swap)
	// Four loads of four bytes: whoever wrote the nonce wrote it in pieces, and
	// a wider load would wait until these have left the store buffer.
	m.op("VMOVD %d(BX), %s", stateNonce, x(t))
	m.op("VPINSRD $1, %d(BX), %s, %s", stateNonce+4, x(t), x(t))
	m.op("VPINSRD $2, %d(BX), %s, %s", stateNonce+8, x(t), x(t))
	m.op("VPSHUFB %s, %s, %s", x(m.swap), x(t), x(t))
	m.op("VPINSRD $0, %d(BX), %s, %s", stateCtr, x(t), x(t))
	if m.wide {
		m.op("VSHUFI64X2 $0, %s, %s, %s", m.v(t), m.v(t), m.v(m.ctr))
	} else {
		m.op("VINSERTI128 $1, %s, %s, %s", x(t), y(t), y(m.ctr))
	}
	m.op("VPADDD ·count<>(SB), %s, %s", m.v(m.ctr), m.v(m.ctr))
	m.op("MOVQ %d(AX), R9", rounds)
	m.op("SHLQ $4, R9")
	for i, k := range m.keys {
		m.broadcast(fmt.Sprintf("%d(AX)", roundKeys+16*i), k)
	}
	if m.last >= 0 {
		m.broadcast(fmt.Sprintf("%d(AX)(R9*1)", roundKeys), m.last)
	}
}

// tagMask computes E(K, J0) of SP 800-38D, 7.1: J0 is the nonce and a 1.
func (m *machine) tagMask() {
	r := x(m.mask)
	m.op("MOVL $0x01000000, R10")
	m.op("VMOVD %d(BX), %s", stateNonce, r)
	m.op("VPINSRD $1, %d(BX), %s, %s", stateNonce+4, r, r)
	m.op("VPINSRD $2, %d(BX), %s, %s", stateNonce+8, r, r)
	m.op("VPINSRD $3, R10, %s, %s", r, r)
	key := func(i int) string { return fmt.Sprintf("%d(AX)", roundKeys+16*i) }
	m.xor(key(0), r, r)
	for i := 1; i <= 9; i++ {
		m.op("VAESENC %s, %s, %s", key(i), r, r)
	}
	m.op("CMPQ R9, $%d", 16*10)
	m.op("JEQ masked")
	for i := 10; i <= 13; i++ {
		m.op("VAESENC %s, %s, %s", key(i), r, r)
	}
	m.label("masked")
	m.op("VAESENCLAST %d(AX)(R9*1), %s, %s", roundKeys, r, r)
}
