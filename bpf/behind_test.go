package bpf_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/aftls/aftls/bpf"
	xbpf "golang.org/x/net/bpf"
)

// behind checks that a header in another place changes nothing.
func behind(t *testing.T, p *bpf.Program, message []byte, cut int) uint32 {
	t.Helper()
	want := p.Run(message)
	b := p.Behind(cut)
	head, rest := message[:cut:cut], slices.Clone(message[cut:])
	if got := b.Run(head, rest); got != want {
		t.Fatalf("%#x behind %d bytes, want %#x, on % x by\n%v", got, cut, want, message, p)
	}
	// The same when the header is known, and when it is but for some bytes.
	for unknown := range min(cut+1, 8) {
		template := slices.Clone(head)
		var places []int
		for i := range unknown {
			at := i * cut / unknown
			template[at] ^= 0xa5
			places = append(places, at)
		}
		given := b.Given(template, places...)
		if got := given.Run(head, rest); got != want {
			t.Fatalf("%#x given % x but for %v, want %#x, on % x by\n%v", got, template, places, want, message, p)
		}
		if got, ok := given.Constant(); ok && got != want {
			t.Fatalf("%#x for every message, want %#x, on % x by\n%v", got, want, message, p)
		}
		if got := given.Given(template, places...).Run(head, rest); got != want {
			t.Fatalf("%#x given twice % x but for %v, want %#x, on % x by\n%v", got, template, places, want, message, p)
		}
	}
	return want
}

func FuzzBehind(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), []byte("\x00\x01\x02\x03message"), byte(0), uint16(4))
	f.Add([]byte{0, 4, 0, 0, 13, 0, 0, 0, 33, 0, 0, 0, 13, 2, 0, 0}, packet(80), byte(1), uint16(40))
	f.Fuzz(func(t *testing.T, seed, message []byte, end byte, cut uint16) {
		p, err := bpf.New(grow(seed, true, ends[end%2]))
		if err != nil {
			return
		}
		behind(t, p, message, int(cut)%(len(message)+1))
	})
}

func TestBehind(t *testing.T) {
	p := mustParse(t, port80)
	for _, port := range []uint16{80, 81} {
		message := packet(port)
		for cut := range len(message) + 1 {
			behind(t, p, message, cut)
		}
	}
	// Every load, wherever the border is.
	message := []byte{0x45, 0x81, 0x12, 0x93, 0x74, 0x05, 0xf6}
	loads := []xbpf.RawInstruction{ins(0x80, 0, 0, 0), ins(0x81, 0, 0, 0)}
	for k := range uint32(9) {
		for _, code := range []uint16{0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xb1} {
			loads = append(loads, ins(code, 0, 0, k))
		}
	}
	loads = append(loads, ins(0x40, 0, 0, 0xfffffffe), ins(0x50, 0, 0, 0xffffffff), ins(0x20, 0, 0, 0x80000000))
	for x := range uint32(9) {
		for _, load := range loads {
			// X = x; the load; A = A+X, so that both are seen.
			p := mustNew(t, ins(0x01, 0, 0, x), load, ins(0x0c, 0, 0, 0), ins(retA, 0, 0, 0))
			for cut := range len(message) + 1 {
				behind(t, p, message, cut)
			}
		}
	}
	if n := p.Behind(40).Given(message).Run(message[:3], message); n != 0 {
		t.Errorf("%d with a header of another length", n)
	}
}

func TestBehindByChance(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	seed, message := make([]byte, 80), make([]byte, 32)
	valid, nonzero := 0, 0
	for range 20000 {
		for i := range seed {
			seed[i] = byte(r.Uint32())
		}
		for i := range message {
			message[i] = byte(r.Uint32())
		}
		p, err := bpf.New(grow(seed[:4*(1+r.IntN(20))], true, ends[r.IntN(2)]))
		if err != nil {
			continue
		}
		valid++
		m := message[:r.IntN(33)]
		if behind(t, p, m, r.IntN(len(m)+1)) != 0 {
			nonzero++
		}
	}
	if valid < 5000 || nonzero < 2000 {
		t.Errorf("%d valid programs, %d did not return 0: too few to prove something", valid, nonzero)
	}
}

func TestBehindAllocs(t *testing.T) {
	message := packet(80)
	for _, p := range []*bpf.Program{mustParse(t, port80), mustNew(t, ins(0x02, 0, 0, 1), ins(0x60, 0, 0, 1), ins(retA, 0, 0, 0))} {
		b := p.Behind(40)
		if n := testing.AllocsPerRun(100, func() { sink += b.Run(message[:40], message[40:]) }); n != 0 {
			t.Errorf("%v allocations by\n%v", n, p)
		}
	}
}
