package filter_test

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/bpf"
	"github.com/aftls/aftls/filter"
	xbpf "golang.org/x/net/bpf"
)

// returns is a program that returns a number, whatever it sees.
func returns(t testing.TB, result uint32, view filter.View) *filter.Program {
	t.Helper()
	p, err := bpf.Assemble([]xbpf.Instruction{xbpf.RetConstant{Val: result}})
	if err != nil {
		t.Fatal(err)
	}
	return filter.New(p, view)
}

func compile(t testing.TB, expression string) *filter.Program {
	t.Helper()
	p, err := filter.Compile(expression)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var (
	v4 = filter.NewHeader(addr("192.0.2.1:443"), addr("10.1.2.3:50000"))
	v6 = filter.NewHeader(addr("[2001:db8::1]:443"), addr("[2001:db8::2]:50000"))
)

// What the result of a program means for a message of 100 bytes.
func TestVerdicts(t *testing.T) {
	verdict := func(a filter.Action, n uint32) filter.Verdict { return filter.Verdict{Action: a, N: n} }
	pass, drop := verdict(filter.Pass, 0), verdict(filter.Drop, 0)
	for _, c := range []struct {
		result          uint32
		payload, packet filter.Verdict // packet: of IPv4, 40 bytes in front
	}{
		{0, drop, drop},
		{1, verdict(filter.Truncate, 1), verdict(filter.Truncate, 0)},
		{40, verdict(filter.Truncate, 40), verdict(filter.Truncate, 0)},
		{41, verdict(filter.Truncate, 41), verdict(filter.Truncate, 1)},
		{96, verdict(filter.Truncate, 96), verdict(filter.Truncate, 56)}, // tcpdump -s 96
		{99, verdict(filter.Truncate, 99), verdict(filter.Truncate, 59)},
		{100, pass, verdict(filter.Truncate, 60)},
		{139, pass, verdict(filter.Truncate, 99)},
		{140, pass, pass},
		{65535, pass, pass},
		{262144, pass, pass}, // tcpdump
		{0x7fffffff, pass, pass},
		{0xffffffff, pass, pass},
		{0xf0ffffff, pass, pass},
		{0xf4000000, pass, pass},
		{0xf1000000, verdict(filter.Redirect, 0), verdict(filter.Redirect, 0)},
		{0xf1000007, verdict(filter.Redirect, 7), verdict(filter.Redirect, 7)},
		{0xf2ffffff, verdict(filter.Select, filter.MaxN), verdict(filter.Select, filter.MaxN)},
		{0xf3000009, verdict(filter.Kill, 9), verdict(filter.Kill, 9)},
	} {
		msg := make([]byte, 100)
		for view, want := range map[filter.View]filter.Verdict{filter.Payload: c.payload, filter.Packet: c.packet} {
			f := new(filter.Filter)
			if old := f.Swap(returns(t, c.result, view)); old != nil {
				t.Fatal(old)
			}
			if v := f.Decide(v4, msg); v != want {
				t.Errorf("%#x, view %d: %v, want %v", c.result, view, v, want)
			}
		}
	}
	for _, v := range []filter.Verdict{pass, drop, verdict(filter.Truncate, 7), verdict(filter.Redirect, 3), verdict(filter.Select, filter.MaxN), verdict(filter.Kill, 0)} {
		f := new(filter.Filter)
		f.Swap(returns(t, v.Result(), filter.Payload))
		if got := f.Decide(nil, make([]byte, 100)); got != v {
			t.Errorf("%v.Result() is taken for %v", v, got)
		}
	}
}

func TestKeep(t *testing.T) {
	for _, c := range []struct {
		v    filter.Verdict
		want int
		text string
	}{
		{filter.Verdict{Action: filter.Pass}, 10, "PASS"},
		{filter.Verdict{Action: filter.Drop}, 0, "DROP"},
		{filter.Verdict{Action: filter.Truncate, N: 4}, 4, "TRUNCATE(4)"},
		{filter.Verdict{Action: filter.Truncate, N: 400}, 10, "TRUNCATE(400)"},
		{filter.Verdict{Action: filter.Redirect, N: 1}, 10, "REDIRECT(1)"},
		{filter.Verdict{Action: filter.Select, N: 1}, 10, "SELECT(1)"},
		{filter.Verdict{Action: filter.Kill, N: 1}, 0, "KILL(1)"},
		{filter.Verdict{Action: 77}, 0, "Action(77)(0)"},
	} {
		if got := c.v.Keep(10); got != c.want || c.v.String() != c.text {
			t.Errorf("%v keeps %d bytes of 10, want %d", c.v, got, c.want)
		}
	}
}

func TestCounters(t *testing.T) {
	var f filter.Filter
	msg := []byte("message")
	for i, v := range []filter.Verdict{{Action: filter.Drop}, {Action: filter.Pass}, {Action: filter.Truncate, N: 1}, {Action: filter.Redirect}, {Action: filter.Select}, {Action: filter.Kill}} {
		f.Swap(returns(t, v.Result(), filter.Payload))
		for range i + 1 {
			f.Decide(nil, msg)
		}
	}
	f.Swap(nil)
	f.Decide(nil, msg)
	if got, want := f.Stats(), (filter.Stats{Drop: 1, Pass: 3, Truncate: 3, Redirect: 4, Select: 5, Kill: 6}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestMessages(t *testing.T) {
	for _, c := range []struct {
		v              filter.Verdict
		keep, endpoint int
		kills          bool
	}{
		{filter.Verdict{Action: filter.Pass}, 7, -1, false},
		{filter.Verdict{Action: filter.Drop}, 0, -1, false},
		{filter.Verdict{Action: filter.Truncate, N: 3}, 3, -1, false},
		{filter.Verdict{Action: filter.Redirect, N: 2}, 7, 2, false},
		{filter.Verdict{Action: filter.Select, N: 2}, 7, -1, false},
		{filter.Verdict{Action: filter.Kill, N: 2}, 0, -1, true},
	} {
		var f filter.Filter
		f.Swap(returns(t, c.v.Result(), filter.Payload))
		keep, endpoint, err := f.Messages(nil)([]byte("message"))
		var kill *filter.KillError
		if keep != c.keep || endpoint != c.endpoint || errors.As(err, &kill) != c.kills || kill != nil && kill.Verdict != c.v {
			t.Errorf("%v: %d, %d, %v", c.v, keep, endpoint, err)
		}
	}
}

// The header in front of a message, as expressions see it.
func TestWhatAProgramSees(t *testing.T) {
	msg := []byte("GET / HTTP/1.1\r\n")
	for _, c := range []struct {
		h      *filter.Header
		yes    []string
		no     []string
		length int
	}{
		{v4, []string{"ip", "tcp", "src host 192.0.2.1", "dst host 10.1.2.3", "src port 443", "dst port 50000", "net 10", "ip src 192.0.2.1", "data[0:4] = 0x47455420"},
			[]string{"ip6", "udp", "src host 10.1.2.3", "dst port 443", "data[0] = 0x50", "data[16] = 0 or ip"}, 40},
		{v6, []string{"ip6", "tcp", "src host 2001:db8::1", "dst net 2001:db8::2/127", "src port 443", "data[0:4] = 0x47455420", "portrange 442-444"},
			[]string{"ip", "udp", "src host 2001:db8::2", "host 10.1.2.3", "data[15] != 10"}, 60},
		{nil, []string{"ip and tcp and src and dst host 0.0.0.0 and src and dst port 0", "data[3] = 0x20"}, []string{"ip6", "port 443"}, 40},
		{filter.NewHeader(addr("[::ffff:10.1.2.3]:1"), addr("10.0.0.1:2")), []string{"ip and src 10.1.2.3 and dst 10.0.0.1"}, nil, 40},
		{filter.NewHeader(addr("[2001:db8::1]:1"), addr("10.0.0.1:2")), []string{"src host 2001:db8::1 and dst host ::ffff:10.0.0.1"}, nil, 60},
		{filter.NewHeader(nil, addr("[2001:db8::1]:1")), []string{"src host :: and src port 0"}, nil, 60},
	} {
		length := []string{fmt.Sprintf("len = %d", c.length+len(msg)), fmt.Sprintf("less %d and greater %d", c.length+len(msg), c.length+len(msg))}
		for i, expression := range append(append(length, c.yes...), c.no...) {
			var f filter.Filter
			f.Swap(compile(t, expression))
			want := filter.Pass
			if i >= 2+len(c.yes) {
				want = filter.Drop
			}
			if v := f.Decide(c.h, msg); v.Action != want {
				t.Errorf("%s: %v, want %v", expression, v, want)
			}
		}
	}
}

// A program of Debian's tcpdump means for a message what it means for a packet.
func TestProgramOfTcpdump(t *testing.T) {
	out, err := exec.Command(aftlstest.Need(t, "tcpdump"), "-y", "RAW", "-s", "50", "-ddd", "tcp src port 443").Output()
	if err != nil {
		t.Fatal(err)
	}
	p, err := filter.Parse(string(out))
	if err != nil {
		t.Fatal(err)
	}
	if p.View() != filter.Packet {
		t.Error(p.View())
	}
	var f filter.Filter
	f.Swap(p)
	other := filter.NewHeader(addr("192.0.2.1:444"), addr("10.1.2.3:50000"))
	for _, c := range []struct {
		h    *filter.Header
		n    int
		want filter.Verdict
	}{
		{v4, 10, filter.Verdict{Action: filter.Pass}}, {v4, 11, filter.Verdict{Action: filter.Truncate, N: 10}},
		{v6, 10, filter.Verdict{Action: filter.Truncate}}, {other, 10, filter.Verdict{Action: filter.Drop}},
	} {
		if v := f.Decide(c.h, make([]byte, c.n)); v != c.want {
			t.Errorf("%v, want %v\n%v", v, c.want, p)
		}
	}
	for _, text := range []string{"1\n6 0 0", "2\n6 0 0 0\n", "99999", "1\n6 0 0 0\nport 80"} {
		if p, err := filter.Parse(text); err == nil {
			t.Errorf("%q became\n%v", text, p)
		}
	}
	if p, err := filter.Parse(" len > 2\n"); err != nil || p.String() != compile(t, "len > 2").String() {
		t.Errorf("%v, %v", p, err)
	}
}

func TestRules(t *testing.T) {
	p, err := filter.CompileRules(
		filter.Rule{When: "data[0] = 0x4b", Then: filter.Verdict{Action: filter.Kill, N: 1}},
		filter.Rule{When: "src port 443 and len > 70", Then: filter.Verdict{Action: filter.Truncate, N: 8}},
		filter.Rule{When: "data[0] = 0x52", Then: filter.Verdict{Action: filter.Redirect, N: 2}},
		filter.Rule{When: "len < 65", Then: filter.Verdict{Action: filter.Pass}},
	)
	if err != nil {
		t.Fatal(err)
	}
	var f filter.Filter
	f.Swap(p)
	for _, c := range []struct {
		h    *filter.Header
		msg  string
		want string
	}{
		{v4, "K", "KILL(1)"}, {v4, strings.Repeat("R", 31), "TRUNCATE(8)"}, {v6, strings.Repeat("R", 31), "TRUNCATE(8)"},
		{v4, "R", "REDIRECT(2)"}, {v6, "P", "PASS"}, {v4, "Pass", "PASS"}, {v4, strings.Repeat("P", 25), "DROP"}, {v4, "", "DROP"},
	} {
		if v := f.Decide(c.h, []byte(c.msg)); v.String() != c.want {
			t.Errorf("%q: %v, want %s", c.msg, v, c.want)
		}
	}
	if p, err := filter.CompileRules(); err != nil || p.Code().Run(make([]byte, 100)) != 0 {
		t.Errorf("without a rule: %v, %v", p, err)
	}
}

func TestSwapWhileInUse(t *testing.T) {
	var f filter.Filter
	pass, drop := compile(t, "len > 0"), compile(t, "len = 0")
	const each = 20000
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			h := filter.NewHeader(addr("192.0.2.1:443"), addr("10.1.2.3:50000"))
			for range each {
				if v := f.Decide(h, []byte("message")); v.Action != filter.Pass && v.Action != filter.Drop {
					t.Error(v)
					return
				}
			}
		})
	}
	for range 1000 {
		if old := f.Swap(pass); old != nil && old != drop {
			t.Fatal("another one was in the way")
		}
		if f.Program() != pass || f.Swap(drop) != pass {
			t.Fatal("another one was in the way")
		}
	}
	wg.Wait()
	if s := f.Stats(); s.Pass+s.Drop != 4*each {
		t.Errorf("%+v", s)
	}
}

func TestDecideAllocs(t *testing.T) {
	msg := make([]byte, 1000)
	for _, expression := range []string{"port 443", "data[0:2] * 3 > (len - 4) * (len - 5)", "src net 2001:db8::/32"} {
		var f filter.Filter
		f.Swap(compile(t, expression))
		messages := f.Messages(v6)
		if n := testing.AllocsPerRun(100, func() { f.Decide(v4, msg); messages(msg) }); n != 0 {
			t.Errorf("%s: %v allocations", expression, n)
		}
	}
}

// What an author of an expression is told.
func TestSyntaxErrors(t *testing.T) {
	for _, c := range []struct {
		expression, reason string
		offset             int
	}{
		{"not", "a primitive is missing", 3},
		{"prot 80", `"prot" is no primitive`, 0},
		{"port 80 or prot 80", `"prot" is no primitive`, 11},
		{"port eighty", "a number is expected", 5},
		{"port 65536", "a number is expected, of 16 bits", 5},
		{"host example.org", "names are not looked up", 5},
		{"net 10.0.0.1/8", "10.0.0.0/8 is the network", 4},
		{"net 10.1 mask 255.0.0.0", "and, or, or the end", 9},
		{"net 10.0.0.0 mask 255.0.255.0", "no mask", 18},
		{"data", "data needs an offset", 4},
		{"data[0:3] = 1", "a size of 3", 8},
		{"data[0 = 1", "] is missing", 7},
		{"data[16777216] = 1", "an offset of", 13},
		{"len", "a comparison is expected", 3},
		{"len & 1", "a comparison is expected", 7},
		{"len / 0 = 1", "division by zero", 8},
		{"len >> 32 = 1", "a shift by 32", 10},
		{"(len > 3", "a closing parenthesis", 8},
		{"len > 3)", "and, or, or the end", 7},
		{"10.0.0.1", "host, net, port or portrange is missing", 0},
		{"tcp host 10.0.0.1", "tcp has no addresses", 9},
		{"ip port 80", "ip has no ports", 8},
		{"ip6 host 10.0.0.1", "no address of ip6", 9},
		{strings.Repeat("(", 100) + "tcp" + strings.Repeat(")", 100), "in each other", 65},
		{strings.Repeat("(1 + ", 20) + "len" + strings.Repeat(")", 20) + " > 3", "too many parentheses", 127},
		{"tcp" + strings.Repeat(" ", 70000), "more than 65536", 0},
	} {
		_, err := filter.Compile(c.expression)
		var e *filter.SyntaxError
		if !errors.As(err, &e) || !strings.Contains(e.Reason, c.reason) || e.Offset != c.offset || e.Text != c.expression {
			t.Errorf("%.60q: %v, want %s at %d", c.expression, err, c.reason, c.offset)
		}
	}
	if p, err := filter.Compile(" "); err != nil || p.Code().Run([]byte{0x45}) == 0 {
		t.Errorf("nothing is not all: %v", err) // as with tcpdump
	}
	var e *bpf.Error
	if _, err := filter.Compile("port 80" + strings.Repeat(" or port 80", 1000)); !errors.As(err, &e) {
		t.Errorf("a program that is too long: %v", err)
	}
}

// Jumps over more than 255 instructions.
func TestLongExpressions(t *testing.T) {
	for _, n := range []int{1, 5, 10, 20, 50, 120} {
		var ports []string
		for i := range n {
			ports = append(ports, fmt.Sprint("port ", 1000+i))
		}
		long := strings.Join(ports, " or ")
		for _, c := range []struct {
			expression string
			port       int
			want       filter.Action
		}{
			{long, 1000, filter.Pass}, {long, 1000 + n - 1, filter.Pass}, {long, 1000 + n, filter.Drop},
			{"not (" + long + ")", 1000 + n/2, filter.Drop}, {"not (" + long + ")", 999, filter.Pass},
			{"tcp and (" + long + ") and src net 192.0.2", 1000 + n/2, filter.Pass}, {"(" + long + ") and not tcp", 1000, filter.Drop},
			{"udp or (" + long + ")", 1000 + n - 1, filter.Pass},
		} {
			var f filter.Filter
			f.Swap(compile(t, c.expression))
			h := filter.NewHeader(addr(fmt.Sprint("192.0.2.1:", c.port)), addr("192.0.2.2:1"))
			if v := f.Decide(h, nil); v.Action != c.want {
				t.Errorf("%d ports, %.20s…, port %d: %v, want %v", n, c.expression, c.port, v, c.want)
			}
		}
	}
}
