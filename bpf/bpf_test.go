package bpf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aftls/aftls/bpf"
	xbpf "golang.org/x/net/bpf"
)

// The codes of this package's tests, by the names of linux/bpf_common.h.
const (
	ldW, ldH, ldB       = 0x20, 0x28, 0x30
	ldxW, ldxH, ldxB    = 0x40, 0x48, 0x50 // relative to X
	ldImm, ldMem, ldLen = 0x00, 0x60, 0x80
	xImm, xMem, xLen    = 0x01, 0x61, 0x81
	xMsh                = 0xb1
	st, stx             = 0x02, 0x03
	retK, retA          = 0x06, 0x16
	ja, jeq, jeqX       = 0x05, 0x15, 0x1d
	jgt, jge, jset      = 0x25, 0x35, 0x45
	tax, txa            = 0x07, 0x87
)

func TestEachInstruction(t *testing.T) {
	b := []byte{0x80, 1, 2, 3, 4, 5, 6, 0xf7}
	imm := func(a, x uint32) []xbpf.RawInstruction {
		return []xbpf.RawInstruction{ins(xImm, 0, 0, x), ins(ldImm, 0, 0, a)}
	}
	type c struct {
		name string
		body []xbpf.RawInstruction // A is the result
		want uint32
	}
	cases := []c{
		{"ld", []xbpf.RawInstruction{ins(ldW, 0, 0, 1)}, 0x01020304},
		{"ldh", []xbpf.RawInstruction{ins(ldH, 0, 0, 6)}, 0x06f7},
		{"ldb", []xbpf.RawInstruction{ins(ldB, 0, 0, 0)}, 0x80},
		{"ld len", []xbpf.RawInstruction{ins(ldLen, 0, 0, 0)}, 8},
		{"ldx len", []xbpf.RawInstruction{ins(xLen, 0, 0, 0), ins(txa, 0, 0, 0)}, 8},
		{"ld x", append(imm(0, 1), ins(ldxW, 0, 0, 3)), 0x040506f7},
		{"ldh x", append(imm(0, 1), ins(ldxH, 0, 0, 5)), 0x06f7},
		{"ldb x", append(imm(0, 1), ins(ldxB, 0, 0, 6)), 0xf7},
		{"ldb x wraps", append(imm(0, 0xffffffff), ins(ldxB, 0, 0, 8)), 0xf7},
		{"ldb x - 4", append(imm(0, 5), ins(ldxB, 0, 0, 0xfffffffc)), 1},
		{"msh", append(imm(9, 1), ins(xMsh, 0, 0, 7), ins(txa, 0, 0, 0)), 28},
		{"msh leaves A", append(imm(9, 1), ins(xMsh, 0, 0, 7)), 9},
		{"mem", append(imm(7, 8), ins(st, 0, 0, 15), ins(stx, 0, 0, 0), ins(xMem, 0, 0, 15), ins(ldMem, 0, 0, 0), ins(0x1c, 0, 0, 0)), 1},
		{"tax", append(imm(7, 8), ins(tax, 0, 0, 0), ins(0x0c, 0, 0, 0)), 14},
		{"neg", append(imm(1, 0), ins(0x84, 0, 0, 0)), 0xffffffff},
		{"ja", append(imm(1, 0), ins(ja, 0, 0, 1), ins(ldImm, 0, 0, 2)), 1},
	}
	for _, o := range []struct {
		name string
		code uint16
		a, k uint32
		want uint32
	}{
		{"add", 0x04, 0xffffffff, 3, 2}, {"sub", 0x14, 1, 2, 0xffffffff}, {"mul", 0x24, 0x80000001, 2, 2},
		{"div", 0x34, 7, 2, 3}, {"mod", 0x94, 7, 4, 3}, {"and", 0x54, 6, 3, 2}, {"or", 0x44, 6, 3, 7},
		{"xor", 0xa4, 6, 3, 5}, {"lsh", 0x64, 0x80000001, 31, 0x80000000}, {"rsh", 0x74, 0x80000000, 31, 1},
	} {
		cases = append(cases, c{o.name + " k", append(imm(o.a, 0), ins(o.code, 0, 0, o.k)), o.want})
		cases = append(cases, c{o.name + " x", append(imm(o.a, o.k), ins(o.code|8, 0, 0, 0)), o.want})
	}
	cases = append(cases,
		c{"lsh x counts modulo 32", append(imm(1, 33), ins(0x6c, 0, 0, 0)), 2},
		c{"rsh x counts modulo 32", append(imm(2, 33), ins(0x7c, 0, 0, 0)), 1})
	for _, o := range []struct {
		name string
		code uint16
		a, k uint32
		yes  bool
	}{
		{"jeq", jeq, 5, 5, true}, {"jeq", jeq, 5, 6, false},
		{"jgt", jgt, 6, 5, true}, {"jgt", jgt, 5, 5, false}, {"jgt unsigned", jgt, 0x80000000, 5, true},
		{"jge", jge, 5, 5, true}, {"jge", jge, 4, 5, false}, {"jge unsigned", jge, 5, 0x80000000, false},
		{"jset", jset, 6, 2, true}, {"jset", jset, 6, 9, false},
	} {
		want := uint32(2)
		if o.yes {
			want = 1
		}
		tail := []xbpf.RawInstruction{ins(ldImm, 0, 0, 2), ins(ja, 0, 0, 1), ins(ldImm, 0, 0, 1)}
		cases = append(cases, c{o.name + " k", slices.Concat(imm(o.a, 0), []xbpf.RawInstruction{ins(o.code, 2, 0, o.k)}, tail), want})
		cases = append(cases, c{o.name + " x", slices.Concat(imm(o.a, o.k), []xbpf.RawInstruction{ins(o.code|8, 2, 0, 0)}, tail), want})
	}
	for _, c := range cases {
		// A result of 0 could also be an exit: no case has it.
		p := mustNew(t, append(c.body, ins(retA, 0, 0, 0))...)
		if got := p.Run(b); got != c.want {
			t.Errorf("%s: %#x, want %#x\n%v", c.name, got, c.want, p)
		}
	}
}

func TestRegistersBeginWithZero(t *testing.T) {
	if got := mustNew(t, ins(0x0c, 0, 0, 0), ins(0x04, 0, 0, 1), ins(retA, 0, 0, 0)).Run(nil); got != 1 {
		t.Errorf("A + X + 1 = %d", got)
	}
}

func TestWhatEndsWithZero(t *testing.T) {
	b := make([]byte, 8)
	for name, body := range map[string][]xbpf.RawInstruction{
		"ld at the end":     {ins(ldW, 0, 0, 5)},
		"ldh at the end":    {ins(ldH, 0, 0, 7)},
		"ldb at the end":    {ins(ldB, 0, 0, 8)},
		"ld far out":        {ins(ldW, 0, 0, 0x7fffffff)},
		"ld negative":       {ins(ldW, 0, 0, 0x80000000)},
		"ld above 2^32-4":   {ins(xImm, 0, 0, 0xfffffffe), ins(ldxW, 0, 0, 0)},
		"ld x at the end":   {ins(xImm, 0, 0, 5), ins(ldxW, 0, 0, 0)},
		"ldh x at the end":  {ins(xImm, 0, 0, 5), ins(ldxH, 0, 0, 2)},
		"ldb x at the end":  {ins(xImm, 0, 0, 5), ins(ldxB, 0, 0, 3)},
		"ldb x negative":    {ins(xImm, 0, 0, 5), ins(ldxB, 0, 0, 0xfffffffa)},
		"ldb x of 2^31":     {ins(xImm, 0, 0, 1<<31), ins(ldxB, 0, 0, 0)},
		"msh at the end":    {ins(xMsh, 0, 0, 8)},
		"msh negative":      {ins(xMsh, 0, 0, 0xffffffff)},
		"div by X":          {ins(0x3c, 0, 0, 0)},
		"mod by X":          {ins(0x9c, 0, 0, 0)},
		"ld in front of b":  {ins(ldxW, 0, 0, 0xffffffff)},
		"ancillary by X":    {ins(ldxB, 0, 0, 0xfffff004)},
		"ancillary by msh":  {ins(xMsh, 0, 0, 0xfffff004)},
		"ld of no message":  {ins(ldLen, 0, 0, 0), ins(jeq, 0, 1, 0), ins(retK, 0, 0, 9), ins(ldB, 0, 0, 8)},
		"div by X computed": {ins(ldImm, 0, 0, 4), ins(0x14, 0, 0, 4), ins(tax, 0, 0, 0), ins(0x3c, 0, 0, 0)},
	} {
		p := mustNew(t, append(body, ins(retK, 0, 0, 7))...)
		if got := p.Run(b); got != 0 {
			t.Errorf("%s: %d, want 0\n%v", name, got, p)
		}
	}
}

func TestInvalidPrograms(t *testing.T) {
	ret := ins(retK, 0, 0, 0)
	many := slices.Repeat([]xbpf.RawInstruction{ret}, bpf.MaxInstructions+1)
	mustNew(t, many[1:]...)
	for name, c := range map[string]struct {
		raw  []xbpf.RawInstruction
		at   int
		word string
	}{
		"empty":                {nil, -1, "empty"},
		"too long":             {many, -1, "4097"},
		"no such code":         {[]xbpf.RawInstruction{ins(0xff, 0, 0, 0), ret}, 0, "0xff"},
		"code above a byte":    {[]xbpf.RawInstruction{ins(0x106, 0, 0, 0), ret}, 0, "0x106"},
		"ret x":                {[]xbpf.RawInstruction{ins(0x0e, 0, 0, 0), ret}, 0, "0xe"},
		"no ret at the end":    {[]xbpf.RawInstruction{ret, ins(ldImm, 0, 0, 0)}, 1, "ret"},
		"ends with a jump":     {[]xbpf.RawInstruction{ret, ins(ja, 0, 0, 0)}, 1, "jump"},
		"ja beyond the end":    {[]xbpf.RawInstruction{ins(ja, 0, 0, 1), ret}, 0, "jump over 1 of the 1"},
		"ja backward":          {[]xbpf.RawInstruction{ret, ins(ja, 0, 0, 0xfffffffe), ret}, 1, "jump"},
		"jt beyond the end":    {[]xbpf.RawInstruction{ins(jeq, 1, 0, 0), ret}, 0, "jump"},
		"jf beyond the end":    {[]xbpf.RawInstruction{ins(jeqX, 0, 1, 0), ret}, 0, "jump"},
		"div by 0":             {[]xbpf.RawInstruction{ins(0x34, 0, 0, 0), ret}, 0, "zero"},
		"mod by 0":             {[]xbpf.RawInstruction{ins(0x94, 0, 0, 0), ret}, 0, "zero"},
		"lsh by 32":            {[]xbpf.RawInstruction{ins(0x64, 0, 0, 32), ret}, 0, "32"},
		"rsh by 32":            {[]xbpf.RawInstruction{ins(0x74, 0, 0, 32), ret}, 0, "32"},
		"M[16] read":           {[]xbpf.RawInstruction{ins(ldMem, 0, 0, 16), ret}, 0, "M[15]"},
		"M[16] written":        {[]xbpf.RawInstruction{ins(st, 0, 0, 16), ret}, 0, "M[15]"},
		"M[16] by X":           {[]xbpf.RawInstruction{ins(xMem, 0, 0, 16), ins(stx, 0, 0, 16), ret}, 0, "M[15]"},
		"M read first":         {[]xbpf.RawInstruction{ins(st, 0, 0, 2), ins(ldMem, 0, 0, 1), ret}, 1, "M[1]"},
		"M written on one way": {[]xbpf.RawInstruction{ins(jeq, 1, 0, 0), ins(st, 0, 0, 3), ins(xMem, 0, 0, 3), ret}, 2, "M[3]"},
		"M written over ja":    {[]xbpf.RawInstruction{ins(ja, 0, 0, 1), ins(st, 0, 0, 3), ins(xMem, 0, 0, 3), ret}, 2, "M[3]"},
		"M behind a ret": { // no way leads there, but Linux does not look for that
			[]xbpf.RawInstruction{ret, ins(ldMem, 0, 0, 0), ret}, 1, "M[0]"},
		"packet type":         {[]xbpf.RawInstruction{ins(ldB, 0, 0, 0xfffff004), ret}, 0, "packet type"},
		"unknown ancillary":   {[]xbpf.RawInstruction{ins(ldW, 0, 0, 0xfffffffe), ret}, 0, "SKF_AD_OFF"},
		"network header":      {[]xbpf.RawInstruction{ins(ldH, 0, 0, 0xfff00009), ret}, 0, "SKF_NET_OFF"},
		"network header by X": {[]xbpf.RawInstruction{ins(ldxH, 0, 0, 0xfff00009), ret}, 0, "SKF_NET_OFF"},
		"link header":         {[]xbpf.RawInstruction{ins(ldW, 0, 0, 0xffe00000), ret}, 0, "SKF_LL_OFF"},
		"link header by msh":  {[]xbpf.RawInstruction{ins(xMsh, 0, 0, 0xffe0000e), ret}, 0, "SKF_LL_OFF"},
	} {
		p, err := bpf.New(c.raw)
		var e *bpf.Error
		if p != nil || !errors.As(err, &e) || e.At != c.at || !strings.Contains(e.Error(), c.word) {
			t.Errorf("%s: %v, %v, want an *Error at %d with %q", name, p, err, c.at, c.word)
		}
	}
	// On every way: once before a jump, or on both sides of it.
	mustNew(t, ins(st, 0, 0, 3), ins(jeq, 1, 0, 0), ins(stx, 0, 0, 4), ins(ldMem, 0, 0, 3), ret)
	mustNew(t, ins(jeq, 2, 0, 0), ins(stx, 0, 0, 4), ins(ja, 0, 0, 1), ins(st, 0, 0, 4), ins(ldMem, 0, 0, 4), ret)
}

func TestNewKeepsNoReference(t *testing.T) {
	raw := []xbpf.RawInstruction{ins(retK, 0, 0, 7)}
	p := mustNew(t, raw...)
	raw[0].K = 8
	p.Instructions()[0].K = 9
	if got := p.Run(nil); got != 7 || p.Instructions()[0].K != 7 {
		t.Errorf("%d, %v", got, p.Instructions())
	}
}

func TestAssemble(t *testing.T) {
	p, err := bpf.Assemble([]xbpf.Instruction{
		xbpf.LoadExtension{Num: xbpf.ExtLen},
		xbpf.JumpIf{Cond: xbpf.JumpLessThan, Val: 10, SkipTrue: 1},
		xbpf.RetConstant{Val: 5},
		xbpf.RetA{},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Run(make([]byte, 9)); got != 9 {
		t.Errorf("9 bytes: %d", got)
	}
	if got := p.Run(make([]byte, 10)); got != 5 {
		t.Errorf("10 bytes: %d", got)
	}
	for name, c := range map[string]struct {
		program []xbpf.Instruction
		at      int
	}{
		"nil":         {[]xbpf.Instruction{xbpf.TAX{}, nil, xbpf.RetA{}}, 1},
		"no register": {[]xbpf.Instruction{xbpf.LoadConstant{Dst: 7}, xbpf.RetA{}}, 0},
		"random":      {[]xbpf.Instruction{xbpf.LoadExtension{Num: xbpf.ExtRand}, xbpf.RetA{}}, 0},
		"no ret":      {[]xbpf.Instruction{xbpf.TAX{}}, 0},
		"too long":    {slices.Repeat([]xbpf.Instruction{xbpf.RetA{}}, 4097), -1},
	} {
		var e *bpf.Error
		if p, err := bpf.Assemble(c.program); p != nil || !errors.As(err, &e) || e.At != c.at {
			t.Errorf("%s: %v, %v, want an *Error at %d", name, p, err, c.at)
		}
	}
}

func TestTcpdump(t *testing.T) {
	p := mustParse(t, port80)
	if got := p.String(); got != port80Dump {
		t.Errorf("dump:\n%s", got)
	}
	if n := len(p.Instructions()); n != 24 {
		t.Errorf("%d instructions", n)
	}
	for port, want := range map[uint16]uint32{80: 262144, 81: 0} {
		if got := p.Run(packet(port)); got != want {
			t.Errorf("port %d: %d, want %d", port, got, want)
		}
	}
	if got := p.Run(packet(80)[:30]); got != 0 {
		t.Errorf("cut packet: %d", got)
	}
}

func TestDumpOfEveryForm(t *testing.T) {
	p := mustNew(t, ins(ldW, 0, 0, 4), ins(ldxB, 0, 0, 0xffffffff), ins(ldLen, 0, 0, 0), ins(xImm, 0, 0, 255),
		ins(st, 0, 0, 1), ins(ldMem, 0, 0, 1), ins(0x04, 0, 0, 12), ins(0x5c, 0, 0, 0), ins(0x84, 0, 0, 9), ins(ja, 0, 0, 0), ins(jeqX, 0, 0, 0), ins(retA, 0, 0, 0))
	want := `(000) ld       [4]
(001) ldb      [x + -1]
(002) ld       #pktlen
(003) ldx      #0xff
(004) st       M[1]
(005) ld       M[1]
(006) add      #12
(007) and      x
(008) neg
(009) ja       10
(010) jeq      x                jt 11	jf 11
(011) ret      a
`
	if got := p.String(); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		line int
	}{
		"nothing":           {"", 0},
		"blank":             {"\n\n", 2},
		"no number":         {"x\n6 0 0 0\n", 1},
		"negative":          {"-1\n6 0 0 0\n", 1},
		"number missing":    {"6 0 0 0\n", 1},
		"too few":           {"2\n6 0 0 0\n", 2},
		"too many":          {"1\n6 0 0 0\n6 0 0 0\n", 3},
		"three numbers":     {"1\n6 0 0\n", 2},
		"five numbers":      {"1\n6 0 0 0 0\n", 2},
		"code too large":    {"1\n65536 0 0 0\n", 2},
		"jt too large":      {"1\n6 256 0 0\n", 2},
		"k too large":       {"1\n6 0 0 4294967296\n", 2},
		"hexadecimal":       {"1\n0x6 0 0 0\n", 2},
		"-dd instead":       {"{ 0x6, 0, 0, 0x00040000 },\n", 1},
		"zero instructions": {"0\n6 0 0 0\n", 2},
	} {
		var e *bpf.SyntaxError
		if p, err := bpf.Parse(c.text); p != nil || !errors.As(err, &e) || e.Line != c.line || !strings.HasPrefix(err.Error(), "bpf: line ") {
			t.Errorf("%s: %v, %v, want a *SyntaxError in line %d", name, p, err, c.line)
		}
	}
	for name, text := range map[string]string{"empty program": "0\n", "announces too many": "4097\n", "invalid": "1\n21 0 0 0\n"} {
		var e *bpf.Error
		if p, err := bpf.Parse(text); p != nil || !errors.As(err, &e) {
			t.Errorf("%s: %v, %v, want an *Error", name, p, err)
		}
	}
	if p := mustParse(t, "\n 1 \r\n\n6 0 0 7"); p.Run(nil) != 7 {
		t.Error("white space changes the program")
	}
}

func TestSockFilter(t *testing.T) {
	p := mustParse(t, port80)
	b := p.AppendSockFilter([]byte("front"))
	if want := 5 + 24*8; len(b) != want {
		t.Fatalf("%d bytes, want %d", len(b), want)
	}
	first := binary.NativeEndian.AppendUint16(nil, 21)
	first = append(first, 0, 8)
	first = binary.NativeEndian.AppendUint32(first, 34525)
	if !bytes.Equal(b[5+8:][:8], first) {
		t.Errorf("second instruction is % x, want % x", b[5+8:][:8], first)
	}
	q, err := bpf.FromSockFilter(b[5:])
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if !slices.Equal(p.Instructions(), q.Instructions()) || q.Run(packet(80)) != 262144 {
		t.Errorf("came back as\n%v", q)
	}
	for name, c := range map[string][]byte{"half an instruction": make([]byte, 12), "none": nil,
		"too many": make([]byte, 4097*8), "invalid": make([]byte, 8)} {
		var e *bpf.Error
		if p, err := bpf.FromSockFilter(c); p != nil || !errors.As(err, &e) {
			t.Errorf("%s: %v, %v, want an *Error", name, p, err)
		}
	}
}

func TestConcurrentRuns(t *testing.T) {
	p := mustNew(t, ins(ldB, 0, 0, 0), ins(st, 0, 0, 0), ins(xMem, 0, 0, 0), ins(txa, 0, 0, 0), ins(retA, 0, 0, 0))
	done := make(chan error)
	for g := range 4 {
		go func() {
			var err error
			for range 1000 {
				if got := p.Run([]byte{byte(g)}); got != uint32(g) {
					err = fmt.Errorf("goroutine %d: %d", g, got)
				}
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
