package filter

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// parser reads an expression from left to right. What went wrong farthest on is
// what the author hears of.
type parser struct {
	text  string
	at    int
	depth int
	worst *SyntaxError

	// The qualifiers of the last primitive that had some: tcpdump uses them
	// again for a value that has none, as in "port 80 or 443".
	qualifiers struct {
		kind     kind
		side     side
		protocol string
	}
}

func parse(text string) (node, error) {
	if len(text) > maxText {
		return nil, &SyntaxError{text, 0, fmt.Sprintf("%d bytes are more than %d", len(text), maxText)}
	}
	p := &parser{text: text}
	n, ok := p.expression()
	if ok && !p.end() {
		ok = p.fail("and, or, or the end is expected")
	}
	if !ok {
		return nil, p.worst
	}
	return n, nil
}

// fail notes what is wrong here, and is false.
func (p *parser) fail(format string, a ...any) bool {
	p.space()
	if p.worst == nil || p.at >= p.worst.Offset {
		p.worst = &SyntaxError{p.text, p.at, fmt.Sprintf(format, a...)}
	}
	return false
}

func (p *parser) space() {
	for p.at < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
}

func (p *parser) end() bool {
	p.space()
	return p.at == len(p.text)
}

// run returns the characters here that in has, and takes nothing.
func (p *parser) run(in func(byte) bool) string {
	p.space()
	i := p.at
	for i < len(p.text) && in(p.text[i]) {
		i++
	}
	return p.text[p.at:i]
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
}

func isAddress(c byte) bool { return isWord(c) || c == '.' || c == ':' || c == '/' }

// word takes w if it is the whole next word.
func (p *parser) word(w string) bool {
	if p.run(isWord) != w {
		return false
	}
	p.at += len(w)
	return true
}

// symbol takes s if it is next.
func (p *parser) symbol(s string) bool {
	p.space()
	if !strings.HasPrefix(p.text[p.at:], s) {
		return false
	}
	p.at += len(s)
	return true
}

// deeper goes one level down. Who calls it goes up again.
func (p *parser) deeper() bool {
	if p.depth++; p.depth > maxDepth {
		return p.fail("more than %d parentheses and operators in each other", maxDepth)
	}
	return true
}

// expression is terms with and and or between them, which bind equally.
func (p *parser) expression() (node, bool) {
	x, ok := p.term()
	for ok {
		var y node
		switch {
		case p.word("and") || p.symbol("&&"):
			if y, ok = p.term(); ok {
				x = both{x, y}
			}
		case p.word("or") || p.symbol("||"):
			if y, ok = p.term(); ok {
				x = either{x, y}
			}
		default:
			return x, true
		}
	}
	return nil, false
}

func (p *parser) term() (node, bool) {
	negate := false
	for p.word("not") || !strings.HasPrefix(p.text[p.at:], "!=") && p.symbol("!") {
		negate = !negate
	}
	n, ok := p.primitive()
	if ok && negate {
		n = not{n}
	}
	return n, ok
}

func (p *parser) primitive() (node, bool) {
	start := p.at
	if n, ok := p.relation(); ok {
		return n, true
	}
	p.at = start
	if p.symbol("(") {
		defer func() { p.depth-- }()
		if !p.deeper() {
			return nil, false
		}
		n, ok := p.expression()
		if ok && !p.symbol(")") {
			ok = p.fail("a closing parenthesis is missing")
		}
		return n, ok
	}
	switch {
	case p.word("less"):
		return p.lengthIs("<=")
	case p.word("greater"):
		return p.lengthIs(">=")
	}
	return p.qualified()
}

func (p *parser) lengthIs(op string) (node, bool) {
	k, ok := p.unsigned(32)
	return relation{op, length{}, constant(k)}, ok
}

// qualified is [ip|ip6|tcp|udp] [direction] [host|net|port|portrange] value.
func (p *parser) qualified() (node, bool) {
	protocol := ""
	for _, w := range []string{"ip", "ip6", "tcp", "udp"} {
		if p.word(w) {
			protocol = w
			break
		}
	}
	side, directed := p.direction()
	kind := p.kind()
	value := p.run(isAddress)
	switch {
	case kind == kindNone && !directed && (value == "" || value == "and" || value == "or"):
		switch protocol {
		case "ip":
			return isVersion{4}, true
		case "ip6":
			return isVersion{6}, true
		case "tcp":
			return isProtocol{protocolTCP}, true
		case "udp":
			return isProtocol{protocolUDP}, true
		}
		return nil, p.fail("a primitive is missing: host, net, port, portrange, less, greater, ip, ip6, tcp, udp, or numbers to compare")
	case kind != kindNone || directed || protocol != "":
		if kind == kindNone {
			kind = kindHost
		}
		p.qualifiers.kind, p.qualifiers.side, p.qualifiers.protocol = kind, side, protocol
	case value[0] >= '0' && value[0] <= '9' || strings.Contains(value, ":"):
		// A value alone.
		if kind, side, protocol = p.qualifiers.kind, p.qualifiers.side, p.qualifiers.protocol; kind == kindNone {
			return nil, p.fail("host, net, port or portrange is missing in front of %.40q", value)
		}
	default:
		return nil, p.fail("%.20q is no primitive: host, net, port, portrange, less, greater, ip, ip6, tcp, udp, or numbers to compare", value)
	}
	if kind == kindPort || kind == kindPortRange {
		return p.ports(kind, side, protocol)
	}
	return p.address(kind, side, protocol)
}

// direction takes src, dst, and both with or and and between them.
func (p *parser) direction() (s side, ok bool) {
	first, second := sideSrc, "dst"
	if !p.word("src") {
		if !p.word("dst") {
			return sideEither, false
		}
		first, second = sideDst, "src"
	}
	start := p.at
	if p.word("or") && p.word(second) {
		return sideEither, true
	}
	p.at = start
	if p.word("and") && p.word(second) {
		return sideBoth, true
	}
	p.at = start
	return first, true
}

func (p *parser) kind() kind {
	switch {
	case p.word("host"):
		return kindHost
	case p.word("net"):
		return kindNet
	case p.word("port"):
		return kindPort
	case p.word("portrange"):
		return kindPortRange
	}
	return kindNone
}

func (p *parser) ports(kind kind, side side, protocol string) (node, bool) {
	n := ports{side: side}
	switch protocol {
	case "tcp":
		n.protocol = protocolTCP
	case "udp":
		n.protocol = protocolUDP
	case "":
	default:
		return nil, p.fail("%s has no ports; tcp and udp have", protocol)
	}
	from, ok := p.unsigned(16)
	to := from
	if ok && kind == kindPortRange && p.symbol("-") {
		to, ok = p.unsigned(16)
	}
	if from > to {
		from, to = to, from
	}
	n.from, n.to = uint16(from), uint16(to)
	return n, ok
}

func (p *parser) address(kind kind, side side, protocol string) (node, bool) {
	if protocol == "tcp" || protocol == "udp" {
		return nil, p.fail("%s has no addresses; ip and ip6 have", protocol)
	}
	value := p.run(isAddress)
	prefix, err := netip.ParsePrefix(value)
	addr, aerr := netip.ParseAddr(value)
	switch {
	case aerr == nil && addr.Zone() == "":
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	case kind == kindNet && err != nil:
		var ok bool
		if prefix, ok = shortNet(value); !ok {
			return nil, p.fail("%.40q is no network: write it as 192.0.2.0/24, 2001:db8::/32 or 10.1", value)
		}
	case kind == kindHost:
		return nil, p.fail("%.40q is no IP address, and names are not looked up", value)
	}
	at := p.at
	p.at += len(value)
	if kind == kindNet && aerr == nil && addr.Is4() && p.word("mask") {
		m := p.run(isAddress)
		mask, err := netip.ParseAddr(m)
		bits, ok := maskBits(mask)
		if err != nil || !ok {
			return nil, p.fail("%.40q is no mask of IPv4", m)
		}
		p.at += len(m)
		prefix = netip.PrefixFrom(addr, bits)
	}
	if prefix.Masked() != prefix {
		p.at = at
		return nil, p.fail("%v has bits behind the prefix; %v is the network", prefix, prefix.Masked())
	}
	if is4 := prefix.Addr().Is4(); is4 && protocol == "ip6" || !is4 && protocol == "ip" {
		p.at = at
		return nil, p.fail("%v is no address of %s", prefix.Addr(), protocol)
	}
	return network{side, prefix}, true
}

// shortNet reads 10, 10.1 and 10.1.2, as tcpdump has them.
func shortNet(s string) (netip.Prefix, bool) {
	n := strings.Count(s, ".") + 1
	if n > 3 {
		return netip.Prefix{}, false
	}
	addr, err := netip.ParseAddr(s + strings.Repeat(".0", 4-n))
	return netip.PrefixFrom(addr, 8*n), err == nil
}

func maskBits(mask netip.Addr) (int, bool) {
	if !mask.Is4() {
		return 0, false
	}
	b := mask.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	for bits := range 33 {
		if v == ^uint32(uint64(all)>>bits) {
			return bits, true
		}
	}
	return 0, false
}

// relation is two numbers with a comparison between them.
func (p *parser) relation() (node, bool) {
	x, ok := p.number(0)
	if !ok {
		return nil, false
	}
	for _, op := range []string{"==", "=", "!=", "<=", "<", ">=", ">"} {
		if strings.HasPrefix(p.text[p.at:], op+op[:1]) && op != "=" && len(op) == 1 {
			continue // a shift
		}
		if p.symbol(op) {
			if op == "==" {
				op = "="
			}
			y, ok := p.number(0)
			if ok && max(weight(x), 1+weight(y)) > words {
				ok = p.fail("too many parentheses in each other for the memory of a program")
			}
			return relation{op, x, y}, ok
		}
	}
	if rest := p.text[p.at:]; rest != "" && isAddress(rest[0]) {
		return nil, false // an address begins as a number does
	}
	return nil, p.fail("a comparison is expected: =, !=, <, <=, > or >=")
}

// levels are the operators, those that bind least first.
var levels = [][]string{{"|"}, {"^"}, {"&"}, {"<<", ">>"}, {"+", "-"}, {"*", "/", "%"}}

func (p *parser) number(level int) (number, bool) {
	if level == len(levels) {
		return p.operand()
	}
	x, ok := p.number(level + 1)
	for ok {
		op := p.operator(levels[level])
		if op == "" {
			return x, true
		}
		var y number
		if y, ok = p.number(level + 1); !ok {
			break
		}
		if k, is := y.(constant); is {
			switch {
			case k == 0 && (op == "/" || op == "%"):
				return nil, p.fail("division by zero")
			case k >= 32 && (op == "<<" || op == ">>"):
				return nil, p.fail("a shift by %d; numbers have 32 bits", k)
			}
		}
		x = operation{op, x, y}
	}
	return nil, false
}

func (p *parser) operator(ops []string) string {
	p.space()
	for _, op := range ops {
		// && and || are not two operators.
		if rest := p.text[p.at:]; strings.HasPrefix(rest, op) && !(len(op) == 1 && strings.HasPrefix(rest[1:], op)) {
			p.at += len(op)
			return op
		}
	}
	return ""
}

func (p *parser) operand() (number, bool) {
	switch {
	case p.symbol("("):
		defer func() { p.depth-- }()
		if !p.deeper() {
			return nil, false
		}
		n, ok := p.number(0)
		if ok && !p.symbol(")") {
			ok = p.fail("a closing parenthesis is missing")
		}
		return n, ok
	case p.word("len"):
		return length{}, true
	case p.word("data"):
		return p.data()
	}
	k, ok := p.unsigned(32)
	return constant(k), ok
}

// words is how many words M[] has (BPF_MEMWORDS of Linux).
const words = 16

// weight is how many words of M[] a number needs.
func weight(n number) int {
	o, ok := n.(operation)
	if !ok {
		return 0
	}
	if _, ok := o.y.(constant); ok {
		return weight(o.x)
	}
	return max(weight(o.x), 1+weight(o.y))
}

// data is what follows the word: [offset] or [offset:size].
func (p *parser) data() (number, bool) {
	if !p.symbol("[") {
		return nil, p.fail("data needs an offset: data[0] or data[0:4]")
	}
	off, ok := p.unsigned(32)
	if ok && off > MaxN {
		ok = p.fail("an offset of %d; %d is the largest", off, MaxN)
	}
	size := uint32(1)
	if ok && p.symbol(":") {
		if size, ok = p.unsigned(32); ok && size != 1 && size != 2 && size != 4 {
			ok = p.fail("a size of %d; 1, 2 and 4 bytes can be compared", size)
		}
	}
	if ok && !p.symbol("]") {
		ok = p.fail("] is missing")
	}
	return data{off, size}, ok
}

// unsigned is a number in decimal, in octal with 0, or in hexadecimal with 0x.
func (p *parser) unsigned(bits int) (uint32, bool) {
	w := p.run(isWord)
	base, digits := 10, w
	switch {
	case strings.HasPrefix(w, "0x") || strings.HasPrefix(w, "0X"):
		base, digits = 16, w[2:]
	case len(w) > 1 && w[0] == '0':
		base, digits = 8, w[1:]
	}
	v, err := strconv.ParseUint(digits, base, bits)
	if err != nil || strings.Contains(w, "_") {
		return 0, p.fail("a number is expected, of %d bits at most", bits)
	}
	p.at += len(w)
	return uint32(v), true
}
