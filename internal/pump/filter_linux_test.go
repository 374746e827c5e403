package pump

import (
	"math/rand/v2"
	"os"
	"testing"
	"unsafe"

	"github.com/aftls/aftls/bpf"
	"github.com/aftls/aftls/filter"
	xbpf "golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// attach has Linux run a program on what comes to a socket.
func attach(t *testing.T, f *os.File, p *bpf.Program) {
	t.Helper()
	b := p.AppendSockFilter(nil)
	err := unix.SetsockoptSockFprog(int(f.Fd()), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(b) / unix.SizeofSockFilter), Filter: (*unix.SockFilter)(unsafe.Pointer(&b[0]))})
	if err != nil {
		t.Fatal(err)
	}
}

func assemble(t *testing.T, in ...xbpf.Instruction) *bpf.Program {
	t.Helper()
	p, err := bpf.Assemble(in)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// On an end that keeps the boundaries of records the kernel runs a filter that the
// program attaches: on each record, before the program reads it. What it does is
// what package filter says that the same program does.
func TestKernelFiltersRecords(t *testing.T) {
	letters := assemble(t,
		xbpf.LoadAbsolute{Off: 0, Size: 1},
		xbpf.JumpIf{Cond: xbpf.JumpEqual, Val: 'D', SkipTrue: 2},
		xbpf.JumpIf{Cond: xbpf.JumpEqual, Val: 'T', SkipTrue: 2},
		xbpf.RetConstant{Val: 0xffffffff},
		xbpf.RetConstant{Val: 0},
		xbpf.RetConstant{Val: 3})
	length := assemble(t, xbpf.LoadExtension{Num: xbpf.ExtLen}, xbpf.ALUOpConstant{Op: xbpf.ALUOpMod, Val: 7}, xbpf.RetA{})
	e, f := recordPair(t)
	r := rand.New(rand.NewPCG(11, 12))
	buf := make([]byte, 20000)
	var kept, dropped, cut int
	for _, p := range []*bpf.Program{letters, length, nil, letters} {
		var ours filter.Filter
		if p != nil {
			attach(t, f, p)
			ours.Swap(filter.New(p, filter.Payload))
		} else if err := unix.SetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); err != nil {
			t.Fatal(err)
		}
		for range 200 {
			record := make([]byte, 1+r.IntN(200))
			for i := range record {
				record[i] = "DTP"[r.IntN(3)]
			}
			if n, err := e.Write(record); n != len(record) || err != nil {
				t.Fatal(n, err) // the pump never hears of a filter
			}
			want := ours.Decide(nil, record).Keep(len(record))
			if want == 0 {
				dropped++
				continue // and if it was not dropped, the next read returns it
			}
			n, err := f.Read(buf)
			if err != nil || string(buf[:n]) != string(record[:want]) {
				t.Fatalf("%q, %v, want %d bytes of %q", buf[:n], err, want, record)
			}
			if want < len(record) {
				cut++
			} else {
				kept++
			}
		}
	}
	if kept < 100 || dropped < 50 || cut < 50 {
		t.Errorf("%d kept, %d dropped, %d cut: too few to prove something", kept, dropped, cut)
	}
	e.Finish()
	e.CloseClean()
	if n, err := f.Read(buf); n != 0 || err == nil || err.Error() != "EOF" {
		t.Error(n, err)
	}
}

// On a stream end Linux takes a filter and never runs it: there it has to run in
// the pump, or on the connection.
func TestKernelDoesNotFilterStreams(t *testing.T) {
	e, f, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	defer f.Close()
	attach(t, f, assemble(t, xbpf.RetConstant{Val: 0}))
	if _, err := e.Write([]byte("data")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, err := f.Read(b); string(b[:n]) != "data" || err != nil {
		t.Errorf("%q, %v: it has become otherwise, and docs/filter.md has to say so", b[:n], err)
	}
}
