package kcm_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/aftls/aftls/bpf"
	"github.com/aftls/aftls/kcm"
	"github.com/aftls/aftls/record"
	xbpf "golang.org/x/net/bpf"
)

// protocol is a framer and a way to make streams for it.
type protocol struct {
	name   string
	framer func() kcm.Framer
	one    func(r *rand.Rand) []byte // one message
	bad    []string                  // beginnings that are refused
}

func fill(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// size is mostly small, and sometimes not.
func size(r *rand.Rand, most int) int {
	if r.IntN(4) > 0 {
		most = min(most, 20)
	}
	return r.IntN(most + 1)
}

func length(t testing.TB, l kcm.Length) func() kcm.Framer {
	f, err := l.Framer()
	if err != nil {
		t.Fatal(err)
	}
	return func() kcm.Framer { return f }
}

func programOf(t testing.TB, ins ...xbpf.Instruction) func() kcm.Framer {
	p, err := bpf.Assemble(ins)
	if err != nil {
		t.Fatal(err)
	}
	return func() kcm.Framer { return kcm.Program(p) }
}

func protocols(t testing.TB) []protocol {
	return []protocol{
		{"length 2 big", length(t, kcm.Length{Offset: 3, Size: 2, Add: 5}), func(r *rand.Rand) []byte {
			b := fill(r, 5+size(r, 3000))
			binary.BigEndian.PutUint16(b[3:], uint16(len(b)-5))
			return b
		}, nil},
		{"length 2 little, header counted", length(t, kcm.Length{Size: 2, LittleEndian: true}), func(r *rand.Rand) []byte {
			b := fill(r, 2+size(r, 3000))
			binary.LittleEndian.PutUint16(b, uint16(len(b)))
			return b
		}, []string{"\x01\x00", "\x00\x00"}},
		{"length 4 big, counts too much", length(t, kcm.Length{Offset: 1, Size: 4, Add: -3}), func(r *rand.Rand) []byte {
			b := fill(r, 5+size(r, 70000))
			binary.BigEndian.PutUint32(b[1:], uint32(len(b)+3))
			return b
		}, []string{"x\x00\x00\x00\x02", "x\x00\x00\x00\x07"}},
		{"length 4 little", length(t, kcm.Length{Offset: 8, Size: 4, Add: 16, LittleEndian: true}), func(r *rand.Rand) []byte {
			b := fill(r, 16+size(r, 3000))
			binary.LittleEndian.PutUint32(b[8:], uint32(len(b)-16))
			return b
		}, nil},
		{"thrift", kcm.Thrift, func(r *rand.Rand) []byte {
			b := fill(r, 4+size(r, 3000))
			binary.BigEndian.PutUint32(b, uint32(len(b)-4))
			return b
		}, []string{"\x80\x01\x00\x01\x00\x00\x00\x04ping", "\xff\xff\xff\xff"}},
		{"dns", kcm.DNS, func(r *rand.Rand) []byte {
			b := fill(r, 2+size(r, 65535))
			binary.BigEndian.PutUint16(b, uint16(len(b)-2))
			return b
		}, nil},
		{"http2", kcm.HTTP2, func(r *rand.Rand) []byte {
			if r.IntN(4) == 0 {
				return []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
			}
			b := fill(r, 9+size(r, 16384))
			b[0], b[1], b[2] = 0, byte((len(b)-9)>>8), byte(len(b)-9)
			return b
		}, []string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", "PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n"}},
		{"memcached", kcm.Memcached, func(r *rand.Rand) []byte {
			b := fill(r, 24+size(r, 3000))
			b[0] = 0x80 | b[0]&1
			binary.BigEndian.PutUint32(b[8:], uint32(len(b)-24))
			return b
		}, []string{"get key\r\n", "\x82", "\x00"}},
		{"postgresql", kcm.PostgreSQL, func(r *rand.Rand) []byte {
			if r.IntN(4) == 0 {
				b := fill(r, 8+size(r, 9992))
				binary.BigEndian.PutUint32(b, uint32(len(b)))
				return b
			}
			b := fill(r, 5+size(r, 12000))
			b[0] = "QXS123zaAZ09"[r.IntN(12)]
			binary.BigEndian.PutUint32(b[1:], uint32(len(b)-1))
			return b
		}, []string{"Q\x00\x00\x00\x03", "Q\xff\xff\xff\xff", "\x16\x03\x01\x02\x00", "\x00\x00\x00\x07", "\x00\x00\x27\x11", "@\x00\x00\x00\x04", "[\x00\x00\x00\x04", "`\x00\x00\x00\x04", "{\x00\x00\x00\x04", "/\x00\x00\x00\x04", ":\x00\x00\x00\x04"}},
		{"mqtt", kcm.MQTT, func(r *rand.Rand) []byte {
			n := []int{size(r, 127), size(r, 16383), size(r, 70000)}[r.IntN(3)]
			b := []byte{byte(0x10 + r.IntN(0xf0))}
			for v := n; ; {
				c := byte(v & 0x7f)
				if v >>= 7; v > 0 {
					b = append(b, c|0x80)
					continue
				}
				b = append(b, c)
				break
			}
			return append(b, fill(r, n)...)
		}, []string{"\x0f\x00", "\x10\x80\x80\x80\x80", "\x10\xff\xff\xff\xff\x01"}},
		{"resp", kcm.RESP, func(r *rand.Rand) []byte { return respValue(r, nil, 3) }, []string{
			"PING\r\n", "$x\r\n", "$5x", "$-2\r\n", "$-1\rx", "%-1\r\n", "$?\r\n", "*?\r\n", "$\r\n", "$1\r\nab\r\n", "$1\r\na\rb", "+ok\rx", "$1\rx",
			"$12345678901\r\n", "*4294967295\r\n", "*1\r\n?", "$9999999999\r\n", ":" + strings.Repeat("1", 65537), "|1\r\n+a\r\n+b\r\n\r\n",
		}},
		{"tls", func() kcm.Framer { return kcm.FramerFunc(record.Frame) }, func(r *rand.Rand) []byte {
			b := fill(r, 5+size(r, 16384))
			b[0], b[1], b[2] = 23, 3, 3
			binary.BigEndian.PutUint16(b[3:], uint16(len(b)-5))
			return b
		}, []string{"GET /", "\x17\x03\x03\xff\xff"}},
		// A header of 4 bytes that ends with 2 of length: no length before both are there.
		{"program", programOf(t, xbpf.LoadAbsolute{Off: 2, Size: 2}, xbpf.ALUOpConstant{Op: xbpf.ALUOpAdd, Val: 4},
			xbpf.JumpIf{Cond: xbpf.JumpGreaterThan, Val: 60000, SkipFalse: 1}, xbpf.RetConstant{Val: 1<<32 - 1}, xbpf.RetA{}), func(r *rand.Rand) []byte {
			b := fill(r, 4+size(r, 3000))
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)-4))
			return b
		}, []string{"ab\xff\xff"}},
	}
}

// respValue appends a value of RESP.
func respValue(r *rand.Rand, b []byte, deep int) []byte {
	line := func(c byte) []byte {
		b = append(b, c)
		for range size(r, 300) {
			b = append(b, byte('a'+r.IntN(26)))
		}
		return append(b, "\r\n"...)
	}
	if deep == 0 || r.IntN(3) == 0 {
		switch r.IntN(4) {
		case 0:
			return append(b, []string{"$-1\r\n", "*-1\r\n", "_\r\n", "#t\r\n", ",1.5\r\n", "(12345678901234567890\r\n", ":-7\r\n", "*0\r\n", "$0\r\n\r\n"}[r.IntN(9)]...)
		case 1:
			return line("+-"[r.IntN(2)])
		}
		n := size(r, 2000)
		b = fmt.Appendf(b, "%c%d\r\n", "$$=!"[r.IntN(4)], n)
		return append(append(b, fill(r, n)...), "\r\n"...)
	}
	n := r.IntN(4)
	c := "**~>%|"[r.IntN(6)]
	b = fmt.Appendf(b, "%c%d\r\n", c, n)
	if c == '%' || c == '|' {
		n *= 2
	}
	if c == '|' {
		n++
	}
	for range n {
		b = respValue(r, b, deep-1)
	}
	return b
}

// cut frames a stream that comes in pieces, as a connection does. It returns
// the lengths of the messages, how many bytes are left behind them, and the
// error that ended it.
func cut(t testing.TB, f kcm.Framer, stream []byte, piece func(left int) int) (lengths []int, rest int, err error) {
	t.Helper()
	at, have, need := 0, 0, 1 // the message begins at at; need is how many bytes there have to be
	for {
		for have-at >= need {
			head := stream[at:have:have]
			n, err := f.Frame(head)
			if err != nil {
				if n != 0 {
					t.Errorf("n = %d beside an error", n)
				}
				return lengths, len(stream) - at, err
			}
			switch {
			case n <= 0:
				need = len(head) + max(1, -n)
			case n > len(head):
				need = n
			}
			if n > 0 && at+n > len(stream) { // it will not end
				return lengths, len(stream) - at, nil
			}
			if n > 0 {
				lengths = append(lengths, n)
				at += n
				have = max(have, at)
				need = 1
			}
		}
		if have == len(stream) {
			// What makes a stream wrong may lie in front of where the framer
			// waits to look next.
			if n, err := f.Frame(stream[at:]); have > at && err != nil {
				return lengths, len(stream) - at, err
			} else if have > at && n > 0 && n <= have-at {
				t.Errorf("a message of %d bytes was there; it asked for %d", n, need)
			}
			return lengths, len(stream) - at, nil
		}
		have += piece(len(stream) - have)
	}
}

func whole(left int) int  { return left }
func byByte(left int) int { return 1 }
func chance(r *rand.Rand) func(int) int {
	return func(left int) int { return min(left, 1+size(r, 2000)) }
}

// The messages of a stream are those that were put into it, however it comes.
func TestFramers(t *testing.T) {
	for _, p := range protocols(t) {
		t.Run(p.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			for range 40 {
				var stream []byte
				var want []int
				for range 1 + r.IntN(20) {
					m := p.one(r)
					stream, want = append(stream, m...), append(want, len(m))
				}
				tail := p.one(r)
				tail = tail[:r.IntN(len(tail))]
				stream = append(stream, tail...)
				for name, piece := range map[string]func(int) int{"whole": whole, "bytes": byByte, "pieces": chance(r)} {
					got, rest, err := cut(t, p.framer(), stream, piece)
					if err != nil || !slices.Equal(got, want) || rest != len(tail) {
						t.Fatalf("%s: %v and %d, %v, want %v and %d", name, got, rest, err, want, len(tail))
					}
				}
			}
		})
	}
}

func TestFramersRefuse(t *testing.T) {
	for _, p := range protocols(t) {
		for _, bad := range p.bad {
			for name, piece := range map[string]func(int) int{"whole": whole, "bytes": byByte} {
				got, _, err := cut(t, p.framer(), []byte(bad), piece)
				var e *kcm.FrameError
				var te *record.Error
				if p.name == "tls" && errors.As(err, &te) {
					continue
				}
				if len(got) > 0 || !errors.As(err, &e) || !strings.HasPrefix(err.Error(), "kcm: the framer refused the stream: ") {
					t.Errorf("%s, %.30q, %s: %v, %v, want a *FrameError", p.name, bad, name, got, err)
				}
			}
		}
	}
}

// A framer never asks for bytes behind the end of the message: it would wait
// for the next one to deliver this one.
func TestFramersAskForNoMoreThanTheMessage(t *testing.T) {
	for _, p := range protocols(t) {
		r := rand.New(rand.NewPCG(3, 4))
		for range 200 {
			m := p.one(r)
			k := r.IntN(len(m))
			n, err := p.framer().Frame(m[:k:k])
			if err != nil || n > 0 && n != len(m) || k-n > len(m) {
				t.Fatalf("%s: %d bytes of %d: %d, %v", p.name, k, len(m), n, err)
			}
		}
	}
}

func TestRESPAsksForAllThatIsMissing(t *testing.T) {
	for head, want := range map[string]int{
		"":                           -3,
		"$":                          -3,
		"$1":                         -2,
		"$1\r":                       -1,
		"$1\r\n":                     -3,
		"$100000\r\n":                -100002,
		"*3\r\n$3\r\nSET\r\n":        -6,
		"*1000\r\n":                  -3000,
		"*2\r\n$1\r\na":              -2 - 3,
		"+ok":                        -2,
		"+ok\r":                      -1,
		"$-":                         -3,
		"*-1\r":                      -1,
		"|1\r\n":                     -9,
		"%2\r\n+a\r\n":               -9,
		"*2\r\n:1\r\n*2\r\n:1\r\n:2": -2,
	} {
		if n, err := kcm.RESP().Frame([]byte(head)); n != want || err != nil {
			t.Errorf("%q: %d, %v, want %d", head, n, err, want)
		}
	}
}

// What RESP remembers is of one message: another stream does not suffer from it.
func TestRESPForgets(t *testing.T) {
	f := kcm.RESP()
	for _, head := range []string{"*2\r\n+a\r\n+b", "$1\r\na\r\n", "*2\r\n+long\r\n", "+a\r\n"} {
		n, err := f.Frame([]byte(head))
		if err != nil {
			t.Fatalf("%q: %v", head, err)
		}
		if n > 0 && n != len(head) {
			t.Errorf("%q: %d", head, n)
		}
	}
}

func TestLengthRefusesWhatCannotBe(t *testing.T) {
	for _, l := range []kcm.Length{{}, {Size: 1}, {Size: 3}, {Size: 8}, {Size: 2, Offset: -1}, {Size: 4, Offset: 65536}, {Size: 4, Add: 65536}, {Size: 4, Add: -65536}} {
		var e *kcm.LengthError
		if f, err := l.Framer(); f != nil || !errors.As(err, &e) || e.Length != l {
			t.Errorf("%+v: %v, %v", l, f, err)
		}
	}
}

func TestLargestLengths(t *testing.T) {
	four := length(t, kcm.Length{Size: 4, Add: 4})()
	for f, head := range map[kcm.Framer]string{four: "\xff\xff\xff\xff", kcm.Memcached(): "\x80.......\xff\xff\xff\xff", kcm.HTTP2(): "\xff\xff\xff......"} {
		n, err := f.Frame([]byte(head))
		if err != nil || n < 1<<24 {
			t.Errorf("%T: %d, %v", f, n, err)
		}
	}
}

// FuzzSplits: the messages of any stream are the same in whatever pieces it
// comes, and so are the end and its error.
func FuzzSplits(f *testing.F) {
	all := protocols(f)
	r := rand.New(rand.NewPCG(5, 6))
	for i, p := range all {
		f.Add(uint8(i), uint64(i), slices.Concat(p.one(r), p.one(r), p.one(r)))
		for _, bad := range p.bad {
			f.Add(uint8(i), uint64(i), append(p.one(r), bad...))
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, seed uint64, stream []byte) {
		p := all[int(kind)%len(all)]
		if len(stream) > 1<<14 {
			return
		}
		want, left, wantErr := cut(t, p.framer(), stream, whole)
		for _, n := range want {
			if n <= 0 {
				t.Fatalf("a message of %d bytes", n)
			}
		}
		for _, piece := range []func(int) int{byByte, chance(rand.New(rand.NewPCG(seed, 1)))} {
			got, rest, err := cut(t, p.framer(), stream, piece)
			// An error may be seen before more has come, so its words may differ.
			if !slices.Equal(got, want) || rest != left || (err == nil) != (wantErr == nil) {
				t.Fatalf("%s: %v and %d, %v; whole it is %v and %d, %v", p.name, got, rest, err, want, left, wantErr)
			}
		}
	})
}
