package filter_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/bpf"
	"github.com/aftls/aftls/filter"
)

// tcpdump returns the program that Debian's tcpdump makes of an expression.
func tcpdump(t testing.TB, expression string) (*bpf.Program, error) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(aftlstest.Need(t, "tcpdump"), "-y", "RAW", "-ddd", expression)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return bpf.Parse(string(out))
}

// payload says data[off:size] in tcpdump's own words, which know IPv4 only.
func payload(off, size int) string {
	return fmt.Sprintf("tcp[((tcp[12] & 0xf0) >> 2) + %d : %d]", off, size)
}

// primitives are expressions that both know.
var primitives = []string{
	"host 10.0.0.1", "src host 10.0.0.1", "dst host 192.0.2.1", "src 10.1.2.3", "dst 2001:db8::1", "src or dst host 10.0.0.1",
	"src and dst host 10.0.0.1", "dst or src 127.0.0.1", "host 2001:db8::1", "host ::1", "ip host 10.0.0.1", "ip6 host fe80::1",
	"net 10.0.0.0/8", "net 10.0.0.0/9", "src net 10", "dst net 10.1", "net 192.0.2", "net 192.0.2.0/25", "net 192.0.2.128/25",
	"net 10.0.0.0 mask 255.128.0.0", "net 10.0.0.0", "net 2001:db8::/32", "net 2001:db8::/33", "net 2001:db8:8000::/33", "net 2001:db8::/96",
	"src and dst net 10", "net 0.0.0.0/0", "net 2001:db8::1/128", "ip net 10", "ip6 net fe80::/10",
	"port 80", "src port 80", "dst port 443", "src and dst port 80", "tcp port 80", "udp port 53", "tcp src port 0x50", "port 0", "port 65535",
	"portrange 10-20", "src portrange 79-81", "dst portrange 20-10", "tcp portrange 10-20", "udp dst portrange 10-443", "portrange 80-80",
	"ip", "ip6", "tcp", "udp",
	"less 100", "greater 120", "len = 120", "len != 110", "len > 120", "len < 130", "len <= 100", "len >= 130",
	"len * 2 > 220", "len & 3 = 1", "len - 20 > 90", "(len + 4) / 2 < 60", "len >> 3 = 15", "len << 1 = 240", "len | 7 = 127", "100 < len", "len = 0170", "len % 7 = 3",
	"2 * (len - 10) > len + 80", "len > 10 + 10 * 10", "(len)>90", "len ^ 1 = 121",
	"port 80 or 443", "src port 80 or 443 or 53", "host 10.0.0.1 or 192.0.2.1", "not host 10.0.0.1 and 192.0.2.1", "tcp port 80 or 443",
}

// TestAgainstTcpdump: the same packets match by our programs and by those of
// Debian's tcpdump.
func TestAgainstTcpdump(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	all := packets(r, 4000)
	expressions := append([]string{}, primitives...)
	operators := []string{" and ", " or ", " && ", "||"}
	var compound func(depth int) string
	compound = func(depth int) string {
		s := primitives[r.IntN(len(primitives))]
		if depth > 0 {
			switch r.IntN(4) {
			case 0:
				s = "not " + compound(0)
			case 1:
				s = "!(" + compound(depth-1) + ")"
			default:
				s = compound(depth-1) + operators[r.IntN(4)] + "(" + compound(depth-1) + ")"
			}
		}
		return s
	}
	for range 60 {
		expressions = append(expressions, compound(1+r.IntN(3)))
	}
	matched := 0
	for _, expression := range expressions {
		want, err := tcpdump(t, expression)
		if err != nil {
			// libpcap's optimizer takes some expressions for never true and
			// says so; then ours matches nothing either.
			if !strings.Contains(err.Error(), "expression rejects all packets") {
				t.Fatalf("%s: %v", expression, err)
			}
			if want, err = bpf.Parse("1\n6 0 0 0\n"); err != nil {
				t.Fatal(err)
			}
		}
		matched += sameMatches(t, expression, want, all)
	}
	if matched < 15000 {
		t.Errorf("only %d matches: too few to prove something", matched)
	}
}

// sameMatches compares our program for the expression with another one.
func sameMatches(t *testing.T, expression string, want *bpf.Program, all [][]byte) (matched int) {
	t.Helper()
	got, err := filter.Compile(expression)
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	for _, b := range all {
		w := want.Run(b) != 0
		if g := got.Code().Run(b) != 0; g != w {
			t.Fatalf("%s: %v, and tcpdump has %v, for % x by\n%vtcpdump:\n%v", expression, g, w, b, got, want)
		}
		if w {
			matched++
		}
	}
	return matched
}

// data[] has no word in tcpdump's language, but can be said in it for IPv4.
func TestPayloadAgainstTcpdump(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	all := packets(r, 4000)
	matched := 0
	for _, c := range []string{"%s = 0x47455420", "%s & 0xff00ff00 = 0x47005400", "%s > 0x01000000", "%s <= 0x02020202", "%s + 1 != 4", "%s * 3 > len", "len < %s % 200"} {
		for _, size := range []int{1, 2, 4} {
			for _, off := range []int{0, 1, 3, 20} {
				ours := "ip and " + strings.ReplaceAll(c, "%s", fmt.Sprintf("data[%d:%d]", off, size))
				theirs := "ip and " + strings.ReplaceAll(c, "%s", payload(off, size))
				want, err := tcpdump(t, theirs)
				if err != nil {
					t.Fatalf("%s: %v", theirs, err)
				}
				matched += sameMatches(t, ours, want, all)
			}
		}
	}
	if matched < 5000 {
		t.Errorf("only %d matches: too few to prove something", matched)
	}
}

// What tcpdump takes for no expression is none for us, where we know the words.
func TestRefusedAsByTcpdump(t *testing.T) {
	for _, expression := range []string{"net 10.0.0.1/8", "host", "port", "port 65536", "port 80 and", "(port 80", "tcp host 10.0.0.1", "ip port 80",
		"ip6 host 10.0.0.1", "ip host ::1", "len / 0 = 1", "len << 32 = 1", "portrange 1-65536", "len =", "= 5", "not", "and port 80", "port 80 port 81", "10.0.0.1", "::1", "80", "src", "dst and"} {
		if _, err := tcpdump(t, expression); err == nil {
			t.Errorf("tcpdump takes %q", expression)
		}
		if p, err := filter.Compile(expression); err == nil {
			t.Errorf("%q became\n%v", expression, p)
		}
	}
}
