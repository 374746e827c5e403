package filter_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/aftls/aftls/bpf"
	"github.com/aftls/aftls/filter"
)

func TestParseRules(t *testing.T) {
	rules, err := filter.ParseRules("data[0:4] = 0x5353482d -> SELECT(1); src net 10.0.0.0/8 -> select( 0x10 )\n\n ; len < 50 -> TRUNCATE(7);tcp->Kill(3)\n -> Drop\n->PASS")
	want := []filter.Rule{
		{When: "data[0:4] = 0x5353482d ", Then: filter.Verdict{Action: filter.Select, N: 1}},
		{When: " src net 10.0.0.0/8 ", Then: filter.Verdict{Action: filter.Select, N: 16}},
		{When: " len < 50 ", Then: filter.Verdict{Action: filter.Truncate, N: 7}},
		{When: "tcp", Then: filter.Verdict{Action: filter.Kill, N: 3}},
		{When: " ", Then: filter.Verdict{Action: filter.Drop}},
		{When: "", Then: filter.Verdict{Action: filter.Pass}},
	}
	if err != nil || !reflect.DeepEqual(rules, want) {
		t.Errorf("%+v, %v", rules, err)
	}
	for _, r := range want { // as it is printed it is read
		again, err := filter.ParseRules("->" + r.Then.String())
		if err != nil || len(again) != 1 || again[0].Then != r.Then {
			t.Errorf("%v: %v, %v", r.Then, again, err)
		}
	}
}

func TestParseRulesErrors(t *testing.T) {
	for text, offset := range map[string]int{
		"tcp":                           3,
		"tcp -> PASS; udp":              16,
		"tcp ->":                        6,
		"tcp -> SELECT":                 6,
		"tcp -> SELECT(":                6,
		"tcp -> SELECT(16777216)":       6,
		"tcp -> SELECT(-1)":             6,
		"tcp -> SELECT(1) udp":          6,
		"-> PASS(1)":                    2,
		"-> ACCEPT":                     2,
		strings.Repeat("x", 1<<16) + "": 65536,
		strings.Repeat("x", 1<<17):      0,
		strings.Repeat("->PASS;", 5000): 4096 * 7,
	} {
		rules, err := filter.ParseRules(text)
		if e, ok := errors.AsType[*filter.SyntaxError](err); !ok || e.Offset != offset || rules != nil {
			t.Errorf("%.30q: %d rules, %v", text, len(rules), err)
		}
	}
	if _, err := filter.Parse("prot 1 -> PASS"); err == nil {
		t.Error("an expression that is none is compiled")
	}
}

// The first rule that matches decides, and without one a message is dropped.
func TestRulesDecide(t *testing.T) {
	p, err := filter.Parse("data[0] = 22 -> SELECT(1)\ndata[0:4] = 0x47455420 -> SELECT(0); data[0] = 1 -> KILL(9)")
	if err != nil {
		t.Fatal(err)
	}
	var f filter.Filter
	f.Swap(p)
	for msg, want := range map[string]string{"\x16xyz": "SELECT(1)", "GET / HTTP/1.1": "SELECT(0)", "\x01___": "KILL(9)", "POST": "DROP", "x": "DROP"} {
		if v := f.Decide(nil, []byte(msg)); v.String() != want {
			t.Errorf("%q: %v", msg, v)
		}
	}
}

// Whatever the text is: it is refused with a typed error, or becomes a program that
// runs on anything.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"tcp", "tcp -> PASS", "data[0] = 1 -> SELECT(1); -> KILL(0)", "1\n6 0 0 0\n", "->", "->->PASS", ";;\n;", "len->5", "tcp -> SELECT(0x10", "- > PASS"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := filter.Parse(text)
		if err != nil {
			_, syntax := errors.AsType[*filter.SyntaxError](err)
			_, listing := errors.AsType[*bpf.SyntaxError](err)
			_, invalid := errors.AsType[*bpf.Error](err)
			if p != nil || !syntax && !listing && !invalid {
				t.Fatalf("%v, %v", p, err)
			}
			_ = err.Error()
			return
		}
		var f filter.Filter
		f.Swap(p)
		for _, msg := range []string{"", "x", "GET / HTTP/1.1\r\n"} {
			f.Decide(nil, []byte(msg))
		}
	})
}
