package bpf_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/aftls/aftls/bpf"
	xbpf "golang.org/x/net/bpf"
)

// same runs a program in every way that there is in one process.
func same(t *testing.T, raw []xbpf.RawInstruction, message []byte) (valid, compared bool) {
	t.Helper()
	p, err := bpf.New(raw)
	if err != nil {
		return false, false
	}
	before := slices.Clone(message)
	got := p.Run(message)
	if !slices.Equal(before, message) {
		t.Fatalf("the message was changed by\n%v", p)
	}
	want, apart := reference(raw, message)
	if got != want {
		t.Fatalf("%#x, want %#x, on % x by\n%v", got, want, message, p)
	}
	if apart {
		return true, false
	}
	program := make([]xbpf.Instruction, len(raw))
	for i, in := range raw {
		program[i] = in.Disassemble()
	}
	vm, err := xbpf.NewVM(program)
	if err != nil {
		t.Fatalf("x/net refuses: %v\n%v", err, p)
	}
	n, err := vm.Run(message)
	if err != nil || uint32(n) != got {
		t.Fatalf("%#x, but x/net has %#x, %v, on % x by\n%v", got, n, err, message, p)
	}
	return true, true
}

var ends = []xbpf.RawInstruction{ins(retK, 0, 0, 5), ins(retA, 0, 0, 0)}

func FuzzRun(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), []byte("\x00\x01\x02\x03message"), byte(0))
	f.Add([]byte{0, 4, 0, 0, 13, 0, 0, 0, 33, 0, 0, 0, 13, 2, 0, 0}, packet(80), byte(1))
	f.Fuzz(func(t *testing.T, seed, message []byte, end byte) {
		same(t, grow(seed, true, ends[end%2]), message)
	})
}

// The same on programs of chance, so that every run of the tests sees many.
func TestRunAgainstXNet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	seed, message := make([]byte, 80), make([]byte, 32)
	const tries = 20000
	var valid, compared, nonzero int
	for range tries {
		for i := range seed {
			seed[i] = byte(r.Uint32())
		}
		binary.NativeEndian.PutUint64(message[r.IntN(25):], r.Uint64())
		raw := grow(seed[:4*(1+r.IntN(20))], true, ends[r.IntN(2)])
		m := message[:r.IntN(33)]
		v, c := same(t, raw, m)
		if v {
			valid++
			if p := mustNew(t, raw...); p.Run(m) != 0 {
				nonzero++
			}
		}
		if c {
			compared++
		}
	}
	t.Logf("of %d programs %d were valid, %d compared with x/net, %d did not return 0", tries, valid, compared, nonzero)
	if valid < tries/3 || compared < tries/4 || nonzero < tries/10 {
		t.Error("that is too few to prove something")
	}
}

// Whatever the bytes are: what is accepted runs to its end, and comes back as
// the same bytes.
func FuzzFromSockFilter(f *testing.F) {
	f.Add(mustParse(f, port80).AppendSockFilter(nil), packet(80))
	f.Add(make([]byte, 16), []byte("message"))
	f.Add([]byte("1234567"), []byte(nil))
	f.Fuzz(func(t *testing.T, b, message []byte) {
		p, err := bpf.FromSockFilter(b)
		if err != nil {
			var e *bpf.Error
			if p != nil || !errors.As(err, &e) || e.At < -1 || e.At >= len(b)/8 {
				t.Fatalf("%v, %v", p, err)
			}
			return
		}
		if again := p.AppendSockFilter(nil); !slices.Equal(again, b) {
			t.Fatalf("% x came back as % x", b, again)
		}
		_ = p.String()
		same(t, p.Instructions(), message)
	})
}

func FuzzParse(f *testing.F) {
	f.Add(port80)
	f.Add("1\n6 0 0 0\n")
	f.Add("2\n40 0 0 12\n22 0 0 0")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := bpf.Parse(text)
		if err == nil {
			_ = p.Run([]byte(text))
			return
		}
		var syntax *bpf.SyntaxError
		var invalid *bpf.Error
		if p != nil || !errors.As(err, &syntax) && !errors.As(err, &invalid) {
			t.Fatalf("%v, %v", p, err)
		}
	})
}
