package filter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/aftls/aftls/bpf"
)

// Limits of an expression.
const (
	maxText  = 64 << 10 // bytes
	maxDepth = 64       // parentheses and operators in each other
)

// Rule says what happens to the messages that an expression matches.
type Rule struct {
	When string // an expression; an empty one matches all
	Then Verdict
}

// Compile compiles an expression: what it matches passes, all else is dropped.
// The error is a [*SyntaxError], or a *bpf.Error where the program would be too
// long.
//
// The language is that part of tcpdump's (pcap-filter(7)) that says something
// about a TCP connection, with the same meaning, and data[] for the payload:
//
//	[src | dst | src or dst | src and dst] host ADDRESS
//	[src | dst | …] net ADDRESS/LENGTH | ADDRESS mask MASK | 10.1
//	[tcp] [src | dst | …] port NUMBER
//	[tcp] [src | dst | …] portrange NUMBER-NUMBER
//	ip, ip6, tcp, udp
//	less NUMBER, greater NUMBER
//	EXPR = EXPR, and !=, <, <=, >, >=
//	not, and, or, and parentheses; and, or bind equally, from the left
//
// EXPR is of numbers, len, which is the length of the packet with its headers,
// data[OFFSET] and data[OFFSET:SIZE], with a size of 1, 2 or 4 bytes, in the
// order of the network, and + - * / % & | ^ << >> with parentheses. data[0] is
// the first byte of the message. A message that ends before what is asked of it
// is dropped, also under not. Addresses are numbers; there are no names.
func Compile(expression string) (*Program, error) {
	return CompileRules(Rule{expression, Verdict{Action: Pass}})
}

// CompileRules compiles a list of rules: the first that matches a message
// decides, and what none matches is dropped. Errors are those of [Compile].
func CompileRules(rules ...Rule) (*Program, error) {
	b := new(builder)
	next := b.ret(0)
	for _, rule := range slices.Backward(rules) {
		var when node
		if strings.TrimSpace(rule.When) != "" {
			var err error
			if when, err = parse(rule.When); err != nil {
				return nil, err
			}
		}
		then := b.verdict(rule.Then)
		if when != nil {
			then = when.compile(b, then, next)
		}
		next = then
	}
	code, err := b.program(next)
	if err != nil {
		return nil, err
	}
	return New(code, Packet), nil
}

// Parse returns the program of a text: of an expression, of rules as [ParseRules]
// has them, or of what tcpdump -y RAW -ddd prints, which begins with a number alone
// on its line. Errors are those of [Compile], [ParseRules] and bpf.Parse.
func Parse(text string) (*Program, error) {
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if first = strings.TrimSpace(first); first == "" || strings.Trim(first, "0123456789") != "" {
		if !strings.Contains(text, arrow) {
			return Compile(text)
		}
		rules, err := ParseRules(text)
		if err != nil {
			return nil, err
		}
		return CompileRules(rules...)
	}
	code, err := bpf.Parse(text)
	if err != nil {
		return nil, err
	}
	return New(code, Packet), nil
}

// SyntaxError is an expression that is none.
type SyntaxError struct {
	Text   string
	Offset int // of what is wrong, in bytes
	Reason string
}

func (e *SyntaxError) Error() string {
	from, to := max(0, e.Offset-20), min(len(e.Text), e.Offset+20)
	return fmt.Sprintf("filter: expression: %s, at %q", e.Reason, e.Text[from:e.Offset]+"▸"+e.Text[e.Offset:to])
}

// node is a part of an expression that is true or false.
type node interface {
	// compile adds code that goes on at yes or no, and returns where it begins.
	compile(b *builder, yes, no label) label
}

type (
	both   struct{ x, y node } // and
	either struct{ x, y node } // or
	not    struct{ x node }
)

func (n both) compile(b *builder, yes, no label) label {
	return n.x.compile(b, n.y.compile(b, yes, no), no)
}

func (n either) compile(b *builder, yes, no label) label {
	return n.x.compile(b, yes, n.y.compile(b, yes, no))
}

func (n not) compile(b *builder, yes, no label) label { return n.x.compile(b, no, yes) }

// side is which of two addresses or ports a primitive is about.
type side uint8

const (
	sideEither side = iota
	sideSrc
	sideDst
	sideBoth
)

// combine makes one test of those of source and destination.
func (s side) combine(src, dst node) node {
	switch s {
	case sideSrc:
		return src
	case sideDst:
		return dst
	case sideBoth:
		return both{src, dst}
	}
	return either{src, dst}
}

// kind is what a primitive asks for.
type kind uint8

const (
	kindNone kind = iota
	kindHost
	kindNet
	kindPort
	kindPortRange
)

// network is host and net: a prefix in front of the address is equal.
type network struct {
	side   side
	prefix netip.Prefix
}

// ports is port and portrange.
type ports struct {
	side     side
	protocol byte // 0: TCP, UDP and SCTP, as tcpdump has it
	from, to uint16
}

// isVersion is ip and ip6.
type isVersion struct{ version byte }

// isProtocol is tcp and udp.
type isProtocol struct{ protocol byte }

// relation compares two numbers.
type relation struct {
	op   string
	x, y number
}

// number is a part of an expression that is a number.
type number interface {
	// code appends code that leaves the number in A, for a packet of an IP
	// version; M[depth] and above may be used.
	code(c []instruction, version byte, depth int) []instruction
	payload() bool // it asks for the payload
}

type (
	constant  uint32
	length    struct{}                   // len
	data      struct{ off, size uint32 } // data[off:size]
	operation struct {
		op   string
		x, y number
	}
)
