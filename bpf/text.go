package bpf

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/bpf"
)

// Parse reads the text that tcpdump -ddd prints: the number of instructions,
// and on a line for each of them code, jt, jf and k in decimal. Empty lines
// count for nothing. The error is a [*SyntaxError], or an [*Error] when the text
// is right and the program is not.
func Parse(text string) (*Program, error) {
	var raw []bpf.RawInstruction
	line, want := 0, -1
	for s := range strings.Lines(text) {
		line++
		fields := strings.Fields(s)
		switch {
		case len(fields) == 0:
			continue
		case want < 0 && len(fields) == 1:
			n, err := strconv.ParseUint(fields[0], 10, 31)
			if err != nil {
				return nil, &SyntaxError{line, fmt.Sprintf("%.20q is not a number of instructions", fields[0])}
			}
			if want = int(n); want > MaxInstructions {
				return nil, tooLong(want)
			}
			raw = make([]bpf.RawInstruction, 0, want)
			continue
		case want < 0:
			return nil, &SyntaxError{line, "the text begins with the number of instructions, alone on its line"}
		case len(raw) == want:
			return nil, &SyntaxError{line, fmt.Sprintf("there are more than the %d instructions announced", want)}
		case len(fields) != 4:
			return nil, &SyntaxError{line, fmt.Sprintf("%d numbers; an instruction is code, jt, jf and k", len(fields))}
		}
		var v [4]uint64
		for i, bits := range [4]int{16, 8, 8, 32} {
			n, err := strconv.ParseUint(fields[i], 10, bits)
			if err != nil {
				return nil, &SyntaxError{line, fmt.Sprintf("%.20q is not a decimal number of %d bits", fields[i], bits)}
			}
			v[i] = n
		}
		raw = append(raw, bpf.RawInstruction{Op: uint16(v[0]), Jt: uint8(v[1]), Jf: uint8(v[2]), K: uint32(v[3])})
	}
	if len(raw) < want || want < 0 {
		return nil, &SyntaxError{line, fmt.Sprintf("the text ends after %d instructions of %d", len(raw), max(want, 0))}
	}
	return New(raw)
}

// SyntaxError is text that is not what tcpdump -ddd prints.
type SyntaxError struct {
	Line   int // the first is 1
	Reason string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("bpf: line %d is not as tcpdump -ddd prints it: %s", e.Line, e.Reason)
}

// String returns the program to read, an instruction on each line, in the
// manner of tcpdump -d: jumps name the instruction that they go to.
func (p *Program) String() string {
	var s strings.Builder
	for i, in := range p.raw {
		f := formOf(in.Op)
		line := fmt.Sprintf("(%03d) %-8s ", i, f.name)
		switch f.operand {
		case constant:
			switch f.op {
			case opReturnK, opAddK, opSubK, opMulK, opDivK, opModK, opLeftK, opRightK:
				line += fmt.Sprintf("#%d", in.K)
			default:
				line += fmt.Sprintf("#%#x", in.K)
			}
		case register:
			line += "x"
		case absolute:
			line += fmt.Sprintf("[%d]", in.K)
		case indirect:
			line += fmt.Sprintf("[x + %d]", int32(in.K))
		case word:
			line += fmt.Sprintf("M[%d]", in.K)
		case shift:
			line += fmt.Sprintf("4*([%d]&0xf)", in.K)
		case pktlen:
			line += "#pktlen"
		case target:
			line += strconv.Itoa(i + 1 + int(in.K))
		case result:
			line += "a"
		}
		if f.jump {
			line = fmt.Sprintf("%-31s jt %d\tjf %d", line, i+1+int(in.Jt), i+1+int(in.Jf))
		}
		s.WriteString(strings.TrimRight(line, " "))
		s.WriteByte('\n')
	}
	return s.String()
}
