package bpf_test

import (
	"fmt"

	"github.com/aftls/aftls/bpf"
	xbpf "golang.org/x/net/bpf"
)

// What tcpdump -ddd printed runs on any bytes that look as it expects them.
func ExampleParse() {
	p, err := bpf.Parse("4\n40 0 0 12\n21 0 1 2048\n6 0 0 262144\n6 0 0 0\n")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(p)
	frame := make([]byte, 60)
	frame[12] = 0x08 // IPv4
	fmt.Println(p.Run(frame) > 0)
	// Output:
	// (000) ldh      [12]
	// (001) jeq      #0x800           jt 2	jf 3
	// (002) ret      #262144
	// (003) ret      #0
	// true
}

// A filter of HTTP requests: GET passes, everything else is dropped.
func ExampleAssemble() {
	p, err := bpf.Assemble([]xbpf.Instruction{
		xbpf.LoadAbsolute{Off: 0, Size: 4},
		xbpf.JumpIf{Cond: xbpf.JumpEqual, Val: 0x47455420, SkipFalse: 1}, // "GET "
		xbpf.RetConstant{Val: 1<<32 - 1},
		xbpf.RetConstant{Val: 0},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Run([]byte("GET / HTTP/1.1\r\n")), p.Run([]byte("POST / HTTP/1.1\r\n")))
	// Output: 4294967295 0
}

// The error says which instruction is at fault.
func ExampleNew() {
	_, err := bpf.New([]xbpf.RawInstruction{
		{Op: 0x15, Jt: 7}, // jeq
		{Op: 0x06},        // ret
	})
	fmt.Println(err)
	// Output: bpf: invalid program: instruction 0: jump over 7 of the 1 instructions behind it
}
