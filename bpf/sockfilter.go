package bpf

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/net/bpf"
)

// sockFilterLen is the size of struct sock_filter: code (2 bytes), jt, jf (1
// each), k (4), in the byte order of the machine.
const sockFilterLen = 8

// FromSockFilter validates a program that lies in b as an array of struct
// sock_filter, as programs give it to setsockopt(SO_ATTACH_FILTER). It keeps no
// reference to b. The error is an [*Error].
func FromSockFilter(b []byte) (*Program, error) {
	if len(b)%sockFilterLen != 0 {
		return nil, &Error{At: -1, Reason: fmt.Sprintf("%d bytes are no whole number of instructions of %d bytes", len(b), sockFilterLen)}
	}
	n := len(b) / sockFilterLen
	if n > MaxInstructions {
		return nil, tooLong(n)
	}
	raw := make([]bpf.RawInstruction, n)
	for i := range raw {
		f := b[i*sockFilterLen:][:sockFilterLen]
		raw[i] = bpf.RawInstruction{Op: binary.NativeEndian.Uint16(f), Jt: f[2], Jf: f[3], K: binary.NativeEndian.Uint32(f[4:])}
	}
	return New(raw)
}

// AppendSockFilter appends the program to b as an array of struct sock_filter,
// 8 bytes for each instruction, and returns the result.
func (p *Program) AppendSockFilter(b []byte) []byte {
	for _, in := range p.raw {
		b = binary.NativeEndian.AppendUint16(b, in.Op)
		b = append(b, in.Jt, in.Jf)
		b = binary.NativeEndian.AppendUint32(b, in.K)
	}
	return b
}
