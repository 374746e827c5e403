// Package bpf validates and runs classic BPF programs on bytes that never were
// a packet: messages and records (the Linux documentation of the language is
// Documentation/networking/filter.rst).
//
// A program comes as raw instructions ([New]), as values of
// golang.org/x/net/bpf ([Assemble]), as the text of tcpdump -ddd ([Parse]) or as
// the bytes of a struct sock_filter array ([FromSockFilter]). Each of them
// accepts what Linux accepts, but for loads that no message can serve, and says
// which instruction is at fault: an [*Error].
//
// What comes out is a [Program]. It never changes, and any number of goroutines
// may run it at once.
package bpf

import (
	"fmt"
	"slices"

	"golang.org/x/net/bpf"
)

// MaxInstructions is how long a program may be (BPF_MAXINSNS of Linux).
const MaxInstructions = 4096

// Program is a valid program.
type Program struct {
	raw     []bpf.RawInstruction
	code    []instruction // raw, decoded for run
	scratch bool          // some instruction uses M[]
}

// New validates a program. It keeps no reference to raw. The error is an
// [*Error].
func New(raw []bpf.RawInstruction) (*Program, error) {
	if err := check(raw); err != nil {
		return nil, err
	}
	p := &Program{raw: slices.Clone(raw)}
	p.code, p.scratch = decode(p.raw)
	return p, nil
}

// Assemble is New for the instructions of golang.org/x/net/bpf.
func Assemble(program []bpf.Instruction) (*Program, error) {
	if len(program) > MaxInstructions {
		return nil, tooLong(len(program))
	}
	raw := make([]bpf.RawInstruction, 0, len(program))
	for i, in := range program {
		if in == nil {
			return nil, &Error{At: i, Reason: "there is none: the value is nil"}
		}
		r, err := in.Assemble()
		if err != nil {
			return nil, &Error{At: i, Reason: err.Error()}
		}
		raw = append(raw, r)
	}
	return New(raw)
}

// Instructions returns a copy of the program.
func (p *Program) Instructions() []bpf.RawInstruction { return slices.Clone(p.raw) }

// Run runs the program on b and returns what it returns. By the meaning that
// SO_ATTACH_FILTER gives it, this is how many bytes of b to keep: 0 is to drop
// it, and everything from len(b) on is to keep all.
//
// A load outside of b and a division by zero end the program with 0. Run does
// not allocate, and takes at most one step for each instruction: a program has
// no loops.
func (p *Program) Run(b []byte) uint32 {
	if !p.scratch {
		return run(p.code, b, nil, nil)
	}
	var m [scratchWords]uint32
	return run(p.code, b, nil, &m)
}

// Error is what is wrong with a program. Its author is to blame.
type Error struct {
	At     int // number of the instruction, the first is 0; -1: all of them
	Reason string
}

func (e *Error) Error() string {
	if e.At < 0 {
		return "bpf: invalid program: " + e.Reason
	}
	return fmt.Sprintf("bpf: invalid program: instruction %d: %s", e.At, e.Reason)
}

func tooLong(n int) *Error {
	return &Error{At: -1, Reason: fmt.Sprintf("%d instructions are more than %d", n, MaxInstructions)}
}
