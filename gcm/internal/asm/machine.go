package main

import "fmt"

// machine is one variant: the registers it has and what they are for.
type machine struct {
	*text
	name   string
	letter string // of the full register
	width  int    // of the full register, in bytes
	wide   bool   // AVX-512: 32 registers, masks, three-way xor

	state []int // one per vector in flight
	keys  []int // round keys 0 to 9 where they have registers; else they are loaded
	last  int   // the last round key; -1: loaded
	temp  []int
	ctr   int // the next counters, byte-reversed so that they can be added to
	swap  int // the shuffle that reverses the bytes of each block
	lo    int // the three parts of the product that GHASH adds up
	hi    int
	mid   int
	sum   int // GHASH so far, one block, byte-reversed; the lanes above are zero

	// Behind the main loop only, where most of state is free:
	carry int // the sum until a block takes it up
	mask  int // E(K, J0), which hides the tag
}

var avx512 = machine{
	name: "AVX512", letter: "Z", width: 64, wide: true,
	state: []int{0, 1, 2, 3, 4, 5, 6, 7},
	keys:  []int{8, 9, 10, 11, 12, 13, 14, 15, 16, 17},
	last:  18,
	ctr:   19, swap: 20, lo: 21, hi: 22, mid: 23,
	temp: []int{24, 25, 26, 27, 28, 29, 30},
	sum:  31, carry: 31, mask: 7,
}

// With 16 registers the round keys are loaded for each round, and the sum
// shares the register of hi: a chunk of GHASH begins with the block that the
// sum goes into.
var avx2 = machine{
	name: "AVX2", letter: "Y", width: 32,
	state: []int{0, 1, 2, 3, 4, 5, 6, 7},
	last:  -1,
	temp:  []int{8, 12, 13},
	lo:    9, hi: 10, mid: 11, sum: 10, ctr: 14, swap: 15, carry: 7, mask: 6,
}

// chunk is how many bytes one turn of the main loop takes.
func (m *machine) chunk() int { return m.width * len(m.state) }

// blocks is how many powers of H the variant uses: one for each block of a chunk.
func (m *machine) blocks() int { return m.chunk() / 16 }

func (m *machine) v(i int) string { return fmt.Sprintf("%s%d", m.letter, i) }
func y(i int) string              { return fmt.Sprintf("Y%d", i) }
func x(i int) string              { return fmt.Sprintf("X%d", i) }

// bits picks the name of an instruction on bits, which in its AVX-512 form says
// how wide an element is.
func (m *machine) bits(name string) string {
	if m.wide {
		return name + "Q"
	}
	return name
}

func (m *machine) move() string {
	if m.wide {
		return "VMOVDQU64"
	}
	return "VMOVDQU"
}

// broadcast fills a register with copies of a block in memory.
func (m *machine) broadcast(mem string, dst int) {
	if m.wide {
		m.op("VBROADCASTI32X4 %s, %s", mem, m.v(dst))
	} else {
		m.op("VBROADCASTI128 %s, %s", mem, m.v(dst))
	}
}

// xor sets dst to a^b; a may be in memory.
func (m *machine) xor(a, b, dst string) { m.op("%s %s, %s, %s", m.bits("VPXOR"), a, b, dst) }

// zero clears a whole register: the short form clears all that is above too.
func (m *machine) zero(i int) { m.xor(x(i), x(i), x(i)) }

// xor3 sets dst to dst^a^b.
func (m *machine) xor3(a, b, dst string) {
	if m.wide {
		m.op("VPTERNLOGQ $0x96, %s, %s, %s", a, b, dst)
		return
	}
	m.xor(a, dst, dst)
	m.xor(b, dst, dst)
}

// forget zeroes every register that has held keys, powers of H or what follows
// from them.
func (m *machine) forget() {
	m.note("Nothing of the key stays in a register.")
	n := 16
	if m.wide {
		n = 32
	}
	for i := range n {
		m.zero(i)
	}
	m.op("VZEROUPPER")
}
