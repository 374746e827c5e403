package bpf

import "encoding/binary"

// Behind is a program that runs on messages with a header in front of each,
// where header and message lie in different places: nothing is copied to put
// them together. It never changes, and any number of goroutines may run it at
// once.
type Behind struct {
	code    []instruction
	scratch bool
	n       uint32 // bytes of the header
}

// Behind returns the program as it runs on messages behind headers of n bytes.
func (p *Program) Behind(n int) *Behind {
	b := &Behind{code: make([]instruction, len(p.code)), scratch: p.scratch, n: uint32(n)}
	copy(b.code, p.code)
	for i := range b.code {
		in := &b.code[i]
		switch in.op {
		case opLoad4, opLoad2, opLoad1, opLoadXShift:
			// All of it in the message: an ordinary load. Otherwise the header
			// has a part of it.
			if in.k >= b.n {
				in.k -= b.n
			} else {
				in.op += opHead4 - opLoad4
			}
		case opLoadX4, opLoadX2, opLoadX1, opLoadLen, opLoadXLen:
			in.op += opHead4 - opLoad4
		}
	}
	return b
}

// Run is [Program.Run] on what head, as long as Behind was told, and message
// are together. With a head of another length the result is 0.
func (b *Behind) Run(head, message []byte) uint32 {
	if uint32(len(head)) != b.n {
		return 0
	}
	var m *[scratchWords]uint32
	if b.scratch {
		m = new([scratchWords]uint32) // does not escape
	}
	return run(b.code, message, head, m)
}

// Given returns the program as it runs behind headers of which all bytes but the
// unknown ones, by their places, are as they are in head: what only depends on
// them is not done again for every message. With a head of another length than
// Behind was told it returns b.
func (b *Behind) Given(head []byte, unknown ...int) *Behind {
	if uint32(len(head)) != b.n {
		return b
	}
	w := walk{code: b.code, head: head, unknown: unknown}
	for w.step() {
	}
	if w.pc == 0 {
		return b
	}
	given := &Behind{scratch: b.scratch, n: b.n}
	for i := range w.m {
		if w.written&(1<<i) != 0 {
			given.code = append(given.code, instruction{op: opLoadK, k: w.m[i]}, instruction{op: opStore, k: uint32(i)})
		}
	}
	if w.ended {
		given.code = []instruction{{op: opReturnK, k: w.a}}
		return given
	}
	given.code = append(given.code, instruction{op: opLoadK, k: w.a}, instruction{op: opLoadXK, k: w.x})
	given.code = append(given.code, b.code[w.pc:]...) // jumps count from where they are
	return given
}

// Constant reports whether the result is the same for every message, and which
// it is. Given finds that out.
func (b *Behind) Constant() (result uint32, ok bool) {
	if in := b.code[0]; in.op == opReturnK {
		return in.k, true
	}
	return 0, false
}

// walk is a run as far as it is the same for all messages.
type walk struct {
	code    []instruction
	head    []byte
	unknown []int

	pc      int
	a, x    uint32
	m       [scratchWords]uint32
	written uint16
	ended   bool // with a
}

// known loads size bytes of the header, unless some of them are not there or not
// known.
func (w *walk) known(k uint32, size int) (uint32, bool) {
	if int32(k) < 0 || uint64(k)+uint64(size) > uint64(len(w.head)) {
		return 0, false
	}
	for _, at := range w.unknown {
		if at >= int(k) && at < int(k)+size {
			return 0, false
		}
	}
	return loadBehind(w.head, nil, k, size)
}

// alone runs one instruction and returns what is in A then.
func (w *walk) alone(in instruction) uint32 {
	return run([]instruction{{op: opLoadK, k: w.a}, {op: opLoadXK, k: w.x}, in, {op: opReturnA}}, nil, nil, nil)
}

// jumps reports whether a conditional jump goes where it goes when it is true.
func (w *walk) jumps(in instruction) bool {
	in.jt, in.jf = 0, 1
	return run([]instruction{{op: opLoadK, k: w.a}, {op: opLoadXK, k: w.x}, in, {op: opReturnK, k: 1}, {op: opReturnK}}, nil, nil, nil) == 1
}

// step takes one step, and reports whether there may be another.
func (w *walk) step() bool {
	in := w.code[w.pc]
	ok := true
	switch in.op {
	case opHead4:
		ok = w.load(in.k, 4)
	case opHead2:
		ok = w.load(in.k, 2)
	case opHead1:
		ok = w.load(in.k, 1)
	case opHeadX4:
		ok = w.load(w.x+in.k, 4)
	case opHeadX2:
		ok = w.load(w.x+in.k, 2)
	case opHeadX1:
		ok = w.load(w.x+in.k, 1)
	case opHeadXShift:
		var v uint32
		if v, ok = w.known(in.k, 1); ok {
			w.x = v & 15 * 4
		}
	case opLoadM:
		w.a = w.m[in.k]
	case opLoadXM:
		w.x = w.m[in.k]
	case opStore, opStoreX:
		w.m[in.k] = w.a
		if in.op == opStoreX {
			w.m[in.k] = w.x
		}
		w.written |= 1 << in.k
	case opLoadXK:
		w.x = in.k
	case opTAX:
		w.x = w.a
	case opJump:
		w.pc += int(in.k)
	case opEqualK, opEqualX, opGreaterK, opGreaterX, opGreaterEqualK, opGreaterEqualX, opBitsK, opBitsX:
		w.pc += int(in.skip(w.jumps(in)))
	case opReturnK, opFail:
		if w.a = in.k; in.op == opFail {
			w.a = 0
		}
		w.ended = true
	case opReturnA:
		w.ended = true
	case opDivX, opModX:
		if w.x == 0 {
			w.a, w.ended = 0, true
			break
		}
		w.a = w.alone(in)
	case opLoad4, opLoad2, opLoad1, opLoadXShift, opHeadLen, opHeadXLen:
		return false // of the message
	default: // arithmetic
		w.a = w.alone(in)
	}
	if !ok {
		return false
	}
	w.pc++
	return !w.ended
}

// load loads into A.
func (w *walk) load(k uint32, size int) bool {
	v, ok := w.known(k, size)
	if ok {
		w.a = v
	}
	return ok
}

// loadBehind loads size bytes, at most 4, at k of what head and b are together.
func loadBehind(head, b []byte, k uint32, size int) (uint32, bool) {
	at := uint64(k)
	if int32(k) < 0 || at+uint64(size) > uint64(len(head)+len(b)) {
		return 0, false
	}
	if at >= uint64(len(head)) {
		b, at = b[at-uint64(len(head)):], 0
	} else if at+uint64(size) <= uint64(len(head)) {
		b, at = head[at:], 0
	} else {
		v := uint32(0)
		for i := range uint64(size) {
			c := byte(0)
			if at+i < uint64(len(head)) {
				c = head[at+i]
			} else {
				c = b[at+i-uint64(len(head))]
			}
			v = v<<8 | uint32(c)
		}
		return v, true
	}
	switch size {
	case 4:
		return binary.BigEndian.Uint32(b), true
	case 2:
		return uint32(binary.BigEndian.Uint16(b)), true
	}
	return uint32(b[0]), true
}
