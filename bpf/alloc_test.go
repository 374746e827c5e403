// What only holds without the race detector, which allocates where the program
// does not.

//go:build !race

package bpf_test

import "testing"

func TestRunAllocs(t *testing.T) {
	b := packet(80)
	scratch := mustNew(t, ins(ldB, 0, 0, 12), ins(st, 0, 0, 0), ins(xMem, 0, 0, 0), ins(txa, 0, 0, 0), ins(retA, 0, 0, 0))
	port := mustParse(t, port80)
	for name, f := range map[string]func() uint32{
		"tcp port 80": func() uint32 { return port.Run(b) },
		"scratch":     func() uint32 { return scratch.Run(b) },
	} {
		if n := testing.AllocsPerRun(100, func() {
			if f() == 0 {
				t.Fatal("dropped")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations per run", name, n)
		}
	}
}
