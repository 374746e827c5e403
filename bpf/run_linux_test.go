package bpf_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/bpf"
	xbpf "golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// kernel is a Unix socket that messages come to through a filter, so that
// Linux itself says which programs are valid and what they return.
type kernel struct {
	t    *testing.T
	a, b int
}

func newKernel(t *testing.T) *kernel {
	fd, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	k := &kernel{t, fd[0], fd[1]}
	t.Cleanup(func() { unix.Close(k.a); unix.Close(k.b) })
	if err := k.attach([]xbpf.RawInstruction{ins(retK, 0, 0, 1)}); err != nil {
		if aftlstest.Expected("attach-filter") {
			t.Fatalf("setsockopt(SO_ATTACH_FILTER) is missing, and AFTLS_EXPECT says that it is here: %v", err)
		}
		t.Skipf("setsockopt(SO_ATTACH_FILTER) is missing: %v", err)
	}
	return k
}

func (k *kernel) attach(raw []xbpf.RawInstruction) error {
	filter := make([]unix.SockFilter, len(raw)+1) // +1: so that there is a first one
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return unix.SetsockoptSockFprog(k.b, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(raw)), Filter: &filter[0]})
}

// run returns how many bytes of the message the attached filter keeps.
func (k *kernel) run(message []byte) int {
	if _, err := unix.Write(k.a, message); err != nil {
		k.t.Fatal(err)
	}
	got := make([]byte, len(message))
	n, err := unix.Read(k.b, got)
	if errors.Is(err, unix.EAGAIN) {
		return 0
	}
	if err != nil {
		k.t.Fatal(err)
	}
	return n
}

// Linux cannot be asked for a result above the length of the message, so the
// programs end with a comparison of A: 1 if it is not what we think it is, 2 if
// it is, and 0 if the program ended before.
func TestRunAgainstLinux(t *testing.T) {
	k := newKernel(t)
	r := rand.New(rand.NewPCG(3, 4))
	seed := make([]byte, 80)
	const tries = 4000
	var valid, ended, apart int
	for range tries {
		for i := range seed {
			seed[i] = byte(r.Uint32())
		}
		message := make([]byte, 2+r.IntN(31))
		for i := range message {
			message[i] = byte(r.Uint32())
		}
		body := grow(seed[:4*(1+r.IntN(20))], false)
		p, err := bpf.New(append(body[:len(body):len(body)], ins(retA, 0, 0, 0)))
		if err != nil {
			continue
		}
		if _, a := reference(p.Instructions(), message); a {
			apart++
		}
		full := append(body, ins(jeq, 1, 0, p.Run(message)), ins(retK, 0, 0, 1), ins(retK, 0, 0, 2))
		p = mustNew(t, full...)
		if err := k.attach(full); err != nil {
			t.Fatalf("Linux refuses: %v\n%v", err, p)
		}
		valid++
		want := int(p.Run(message))
		if want == 0 {
			ended++
		}
		if got := k.run(message); got != want {
			t.Fatalf("%d, Linux has %d, on % x by\n%v", want, got, message, p)
		}
	}
	t.Logf("of %d programs %d were valid; %d ended early, %d ran where x/net differs", tries, valid, ended, apart)
	if valid < tries/4 || ended > valid*3/4 || apart < 50 {
		t.Error("that proves little")
	}
}

func TestResultIsLengthAsInLinux(t *testing.T) {
	k := newKernel(t)
	message := []byte("message")
	for _, n := range []uint32{0, 1, 6, 7, 8, 262144, 1 << 31, 1<<32 - 1} {
		raw := []xbpf.RawInstruction{ins(retK, 0, 0, n)}
		if err := k.attach(raw); err != nil {
			t.Fatal(err)
		}
		if got, want := k.run(message), int(min(uint64(mustNew(t, raw...).Run(message)), 7)); got != want {
			t.Errorf("ret %d: Linux keeps %d, want %d", n, got, want)
		}
	}
}

// What Linux refuses is refused. What it accepts is accepted, but for loads of
// what no message has.
func TestValidationAgainstLinux(t *testing.T) {
	k := newKernel(t)
	ret := ins(retK, 0, 0, 1)
	var accepted, refused, ours int
	try := func(raw ...xbpf.RawInstruction) {
		t.Helper()
		_, err := bpf.New(raw)
		linux := k.attach(raw)
		switch {
		case err == nil && linux == nil:
			accepted++
		case err != nil && linux != nil:
			refused++
		case err != nil && strings.Contains(err.Error(), "(SKF_"):
			ours++
		default:
			t.Fatalf("%v: %v, Linux: %v", raw, err, linux)
		}
	}
	try()
	for op := range 1 << 10 { // every code, with values at the limits of the rules
		for _, v := range []uint32{0, 1, 2, 15, 16, 31, 32, 1 << 31, 0xffdfffff, 0xffe00000, 0xffefffff, 0xfff00000, 0xffffefff, 0xfffff000, 0xfffff004, 0xffffffff} {
			in := ins(uint16(op), 0, 0, v)
			try(in, ret)
			try(in)
			try(ret, in, ret, ret)
		}
	}
	for j := range 8 {
		try(ret, ins(jeq, uint8(j), 0, 0), ret, ret, ret)
		try(ret, ins(jset|8, 0, uint8(j), 0), ret, ret, ret)
		try(ins(ja, 0, 0, uint32(j)), ret, ret)
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 10000 { // scratch memory on many ways
		var p []xbpf.RawInstruction
		n := 2 + r.IntN(12)
		for i := range n {
			op := []uint16{st, stx, ldMem, xMem, ja, jeq, retK}[r.IntN(7)]
			p = append(p, ins(op, uint8(r.IntN(n-i)), uint8(r.IntN(n-i)), uint32(r.IntN(3))))
		}
		try(append(p, ret)...)
	}
	long := make([]xbpf.RawInstruction, bpf.MaxInstructions+1)
	for i := range long {
		long[i] = ret
	}
	try(long...)
	t.Logf("%d accepted, %d refused by both, %d refused by us only", accepted, refused, ours)
	if accepted < 3000 || refused < 3000 || ours == 0 {
		t.Error("that proves little")
	}
}
