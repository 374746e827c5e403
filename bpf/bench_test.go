package bpf_test

import (
	"testing"

	"github.com/aftls/aftls/bpf"
	xbpf "golang.org/x/net/bpf"
)

var sink uint32

// 20 instructions that all run: nine loads with a comparison each, and two more.
func BenchmarkRun20(b *testing.B) {
	var program []xbpf.Instruction
	for i := range 9 {
		program = append(program, xbpf.LoadAbsolute{Off: uint32(2 * i), Size: 2}, xbpf.JumpIf{Cond: xbpf.JumpEqual, Val: 0xdead, SkipTrue: uint8(18 - 2*i - 1)})
	}
	program = append(program, xbpf.LoadExtension{Num: xbpf.ExtLen}, xbpf.RetA{}, xbpf.RetConstant{})
	message := packet(80)
	b.Run("ours", func(b *testing.B) {
		p, err := bpf.Assemble(program)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			sink += p.Run(message)
		}
	})
	b.Run("xnet", func(b *testing.B) {
		vm, err := xbpf.NewVM(program)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			n, _ := vm.Run(message)
			sink += uint32(n)
		}
	})
}

// tcpdump's "tcp port 80": 12 instructions run.
func BenchmarkPort80(b *testing.B) {
	p := mustParse(b, port80)
	message := packet(80)
	for b.Loop() {
		sink += p.Run(message)
	}
}

// A length field and an addend, as a framer has it.
func BenchmarkLength(b *testing.B) {
	p := mustNew(b, ins(ldW, 0, 0, 0), ins(0x04, 0, 0, 4), ins(retA, 0, 0, 0))
	message := packet(80)
	for b.Loop() {
		sink += p.Run(message)
	}
}
