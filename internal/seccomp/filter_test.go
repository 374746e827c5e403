//go:build linux && amd64

package seccomp

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A data is struct seccomp_data as far as filters look at it.
type data struct {
	nr, arch uint32
	args     [6]uint32
}

// machine runs filters. That of x/net/bpf was written by others than us.
type machine struct{ vm *bpf.VM }

func newMachine(t testing.TB, f Filter) machine {
	t.Helper()
	var raw []bpf.RawInstruction
	for _, in := range f {
		raw = append(raw, bpf.RawInstruction{Op: in.Code, Jt: in.Jt, Jf: in.Jf, K: in.K})
	}
	prog, all := bpf.Disassemble(raw)
	if !all {
		t.Fatal("an instruction that package bpf does not know")
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	return machine{vm}
}

func (m machine) run(t testing.TB, d data) Action {
	t.Helper()
	var b [64]byte // that machine is big-endian in all it loads
	binary.BigEndian.PutUint32(b[offNr:], d.nr)
	binary.BigEndian.PutUint32(b[offArch:], d.arch)
	for i, a := range d.args {
		binary.BigEndian.PutUint32(b[offArg(i):], a)
	}
	v, err := m.vm.Run(b[:])
	if err != nil {
		t.Fatal(err)
	}
	return Action(uint32(v))
}

// meaning is what rules say, without a filter.
func meaning(rules []Rule, d data) Action {
	if d.arch != unix.AUDIT_ARCH_X86_64 || d.nr >= x32Bit {
		return Fail(unix.ENOSYS)
	}
next:
	for _, r := range rules {
		if uint32(r.Nr) != d.nr {
			continue
		}
		for _, t := range r.When {
			holds := false
			for _, v := range t.values {
				a := d.args[t.arg]
				switch t.jump {
				case unix.BPF_JEQ:
					holds = holds || a == v
				case unix.BPF_JSET:
					holds = holds || a&v != 0
				case unix.BPF_JGE:
					holds = holds || a >= v
				}
			}
			if !holds {
				continue next
			}
		}
		return r.Then
	}
	return Allow
}

func TestFilterDoesWhatRulesSay(t *testing.T) {
	// A small world, so that tests hold often enough, and sets on both sides of
	// what a jump can reach.
	rng := rand.New(rand.NewPCG(1, 2))
	values := func() (v []uint32) {
		for range []int{1, 1, 2, 3, 199, 200, 201, 255, 256, 257, 401, 620}[rng.IntN(12)] {
			v = append(v, rng.Uint32N(700))
		}
		return v
	}
	actions := []Action{Allow, Notify, Fail(unix.EPERM), Fail(unix.ENOSYS)}
	seen := map[Action]int{}
	for range 300 {
		var rules []Rule
		for range rng.IntN(6) {
			r := Rule{Nr: 300 + rng.IntN(3), Then: actions[rng.IntN(len(actions))]}
			for range rng.IntN(4) {
				arg := rng.IntN(6)
				switch rng.IntN(4) {
				case 0:
					r.When = append(r.When, ArgHasAny(arg, rng.Uint32N(1024)))
				case 1:
					r.When = append(r.When, ArgAtLeast(arg, rng.Uint32N(700)))
				default:
					r.When = append(r.When, ArgIn(arg, values()...))
				}
			}
			rules = append(rules, r)
		}
		f, err := Compile(rules)
		if err != nil {
			if len(f) == 0 && strings.Contains(err.Error(), "instructions") {
				continue
			}
			t.Fatal(err)
		}
		m := newMachine(t, f)
		for range 300 {
			d := data{nr: 299 + rng.Uint32N(5), arch: unix.AUDIT_ARCH_X86_64}
			for i := range d.args {
				d.args[i] = rng.Uint32N(720)
			}
			got, want := m.run(t, d), meaning(rules, d)
			if got != want {
				t.Fatalf("%+v: %v instead of %v by\n%v", d, got, want, f)
			}
			seen[got]++
		}
	}
	for _, a := range actions {
		if seen[a] < 100 {
			t.Errorf("%v only %d times: the test tests little", a, seen[a])
		}
	}
}

// frontEnd is like the rules of the supervisor of TLS sockets.
var frontEnd = []Rule{
	{Nr: unix.SYS_SOCKET, When: []Test{ArgIn(0, 0x544c)}, Then: Notify},
	{Nr: unix.SYS_SETSOCKOPT, When: []Test{ArgIn(1, unix.IPPROTO_TCP, unix.SOL_TLS)}, Then: Notify},
	{Nr: unix.SYS_RECVMSG, When: []Test{ArgAtLeast(0, 0x40000), ArgHasAny(2, unix.MSG_ERRQUEUE|unix.MSG_OOB)}, Then: Notify},
	{Nr: unix.SYS_IO_URING_SETUP, Then: Fail(unix.ENOSYS)},
}

func TestFilterOverAllCalls(t *testing.T) {
	f, err := Compile(frontEnd)
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, f)
	for nr := uint32(0); nr < 1024; nr++ {
		d := data{nr: nr, arch: unix.AUDIT_ARCH_X86_64}
		want := Allow
		if nr == unix.SYS_IO_URING_SETUP {
			want = Fail(unix.ENOSYS)
		}
		if got := m.run(t, d); got != want {
			t.Errorf("call %d: %v instead of %v", nr, got, want)
		}
	}
	for _, c := range []struct {
		d    data
		want Action
	}{
		{data{nr: unix.SYS_SOCKET, args: [6]uint32{0x544c, 1}}, Notify},
		{data{nr: unix.SYS_SOCKET, args: [6]uint32{unix.AF_INET, 1}}, Allow},
		{data{nr: unix.SYS_SETSOCKOPT, args: [6]uint32{5, unix.SOL_TLS, 1}}, Notify},
		{data{nr: unix.SYS_SETSOCKOPT, args: [6]uint32{5, unix.IPPROTO_TCP, 1}}, Notify},
		{data{nr: unix.SYS_SETSOCKOPT, args: [6]uint32{5, unix.SOL_SOCKET, 1}}, Allow},
		{data{nr: unix.SYS_RECVMSG, args: [6]uint32{0x40000, 0, unix.MSG_OOB}}, Notify},
		{data{nr: unix.SYS_RECVMSG, args: [6]uint32{0x3ffff, 0, unix.MSG_OOB}}, Allow},
		{data{nr: unix.SYS_RECVMSG, args: [6]uint32{0x40001, 0, unix.MSG_PEEK}}, Allow},
	} {
		c.d.arch = unix.AUDIT_ARCH_X86_64
		if got := m.run(t, c.d); got != c.want {
			t.Errorf("%+v: %v instead of %v", c.d, got, c.want)
		}
	}
}

func TestOtherABIs(t *testing.T) {
	f, err := Compile(frontEnd)
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, f)
	for nr := uint32(0); nr < 600; nr++ {
		for _, d := range []data{
			{nr: nr, arch: unix.AUDIT_ARCH_I386},
			{nr: nr, arch: unix.AUDIT_ARCH_AARCH64},
			{nr: nr | x32Bit, arch: unix.AUDIT_ARCH_X86_64},
			{nr: nr | 1<<31, arch: unix.AUDIT_ARCH_X86_64},
		} {
			if got := m.run(t, d); got != Fail(unix.ENOSYS) {
				t.Fatalf("%+v: %v", d, got)
			}
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	many := make([]uint32, maxInstructions)
	for name, r := range map[string]Rule{
		"a negative call":     {Nr: -1, Then: Notify},
		"an x32 call":         {Nr: x32Bit | 1, Then: Notify},
		"argument 6":          {Nr: 1, When: []Test{ArgIn(6, 1)}, Then: Notify},
		"argument -1":         {Nr: 1, When: []Test{ArgIn(-1, 1)}, Then: Notify},
		"no values":           {Nr: 1, When: []Test{ArgIn(1)}, Then: Notify},
		"no action":           {Nr: 1},
		"killing":             {Nr: 1, Then: unix.SECCOMP_RET_KILL_PROCESS},
		"what the child does": {Nr: unix.SYS_FUTEX, Then: Notify},
		"too many values":     {Nr: 1, When: []Test{ArgIn(1, many...)}, Then: Notify},
	} {
		if f, err := Compile([]Rule{r}); err == nil || !strings.HasPrefix(err.Error(), "seccomp: ") {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	if _, err := Compile([]Rule{{Nr: unix.SYS_FUTEX, Then: Allow}}); err != nil {
		t.Error(err)
	}
}

func TestKernelTakesTheLongest(t *testing.T) {
	// As long as Compile lets it be.
	var values []uint32
	for i := range uint32(4000) {
		values = append(values, i+1000)
	}
	rules := []Rule{{Nr: trap, When: []Test{ArgIn(0, values...)}, Then: Notify}}
	for _, c := range []struct{ arg, want string }{{"4999", "42 0"}, {"1000", "42 0"}, {"1400", "42 0"}} {
		r := start(t, rules, func(n *Notification) { n.Respond(42, 0) }, "trap", c.arg)
		if out := r.good(); out != c.want {
			t.Errorf("argument %s: %q", c.arg, out)
		}
	}
	r := start(t, rules, func(n *Notification) { n.Respond(42, 0) }, "trap", "5000")
	if out := r.good(); out != fmt.Sprint(unix.Getpid(), 0) {
		t.Errorf("argument 5000: %q", out)
	}
}

func TestDump(t *testing.T) {
	f, err := Compile(frontEnd[1:])
	if err != nil {
		t.Fatal(err)
	}
	const want = `
   0  load arch
   1  if arch is 0xc000003e go to 3 else 2
   2  fail with ENOSYS
   3  load call
   4  if call is at least 0x40000000 go to 5 else 6
   5  fail with ENOSYS
   6  if call is setsockopt go to 7 else 13
   7  load arg1
   8  if arg1 is 6 go to 11 else 9
   9  if arg1 is 282 go to 11 else 10
  10  go to 12
  11  notify
  12  allow
  13  if call is recvmsg go to 14 else 20
  14  load arg0
  15  if arg0 is at least 0x40000 go to 16 else 19
  16  load arg2
  17  if arg2 has any of 0x2001 go to 18 else 19
  18  notify
  19  allow
  20  if call is io_uring_setup go to 21 else 23
  21  fail with ENOSYS
  22  allow
  23  allow
`
	if got := "\n" + f.String(); got != want {
		t.Errorf("%s", got)
	}
}
