//go:build linux && amd64

package seccomp

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// An Action is what the kernel does with a call: a SECCOMP_RET value.
type Action uint32

const (
	// Allow lets the call through.
	Allow Action = unix.SECCOMP_RET_ALLOW
	// Notify traps the call: the Listener gets a Notification (Linux 5.0).
	Notify Action = unix.SECCOMP_RET_USER_NOTIF
)

// Fail is the action that ends the call with an error without asking anybody.
func Fail(errno unix.Errno) Action {
	return unix.SECCOMP_RET_ERRNO | Action(errno&unix.SECCOMP_RET_DATA)
}

// A Test is a condition on an argument of a call. It sees the low 32 bits, which
// is all that there is of an int; of a pointer or a size it is half.
type Test struct {
	arg    int
	jump   uint16 // BPF_JEQ, BPF_JSET, BPF_JGE
	values []uint32
}

// ArgIn holds if argument arg, counted from 0, is one of the values.
func ArgIn(arg int, values ...uint32) Test {
	return Test{arg, unix.BPF_JEQ, slices.Clone(values)}
}

// ArgHasAny holds if argument arg has one of the bits of mask.
func ArgHasAny(arg int, mask uint32) Test {
	return Test{arg, unix.BPF_JSET, []uint32{mask}}
}

// ArgAtLeast holds if argument arg, taken as unsigned, is min or more: a
// descriptor from a range that was set apart. A negative number is one too; the
// handler sees to it.
func ArgAtLeast(arg int, min uint32) Test {
	return Test{arg, unix.BPF_JGE, []uint32{min}}
}

// A Rule says what happens to one system call if all its tests hold.
type Rule struct {
	Nr   int // of amd64: unix.SYS_SENDMSG
	When []Test
	Then Action
}

// A Filter is a program for the kernel, made by Compile.
type Filter []unix.SockFilter

// maxInstructions is BPF_MAXINSNS of linux/bpf_common.h.
const maxInstructions = 4096

// x32Bit is __X32_SYSCALL_BIT of asm/unistd.h: from here on numbers are those of
// the x32 ABI, or none.
const x32Bit = 0x40000000

// What the child needs between its filter and the moment when we can answer for
// it (child.go). A filter that traps one of them would have it wait for itself.
var needed = []int{
	unix.SYS_FUTEX, unix.SYS_GETPID, unix.SYS_MADVISE, unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_NANOSLEEP,
	unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SCHED_YIELD, unix.SYS_SIGALTSTACK, unix.SYS_TGKILL,
}

// Compile makes a filter from rules. Of the rules of one call the first whose
// tests hold counts; where there is none the call is allowed.
//
// Calls by the 32-bit ABI and by x32, which are known under other numbers and
// would go around every rule, end with ENOSYS. A program that tries them is told
// what a kernel without these ABIs says, and may do without; to kill it would
// punish the question.
//
// It is an error if a rule is of a call or an argument that does not exist, if it
// does not allow a call that the start of a program needs (futex, mmap and the
// like), or if the filter is longer than the kernel takes: 4096 instructions.
func Compile(rules []Rule) (Filter, error) {
	var numbers []int
	for _, r := range rules {
		if err := r.check(); err != nil {
			return nil, err
		}
		if !slices.Contains(numbers, r.Nr) {
			numbers = append(numbers, r.Nr)
		}
	}
	var a assembler
	a.load(offArch)
	a.jump(unix.BPF_JEQ, unix.AUDIT_ARCH_X86_64, 1, 0) // over the next one
	a.ret(Fail(unix.ENOSYS))
	a.load(offNr)
	a.jump(unix.BPF_JGE, x32Bit, 0, 1)
	a.ret(Fail(unix.ENOSYS))
	for _, nr := range numbers {
		var body assembler
		for _, r := range rules {
			if r.Nr == nr {
				body.rule(r)
			}
		}
		body.ret(Allow)
		a.skipUnless(unix.BPF_JEQ, uint32(nr), len(body.out))
		a.out = append(a.out, body.out...)
	}
	a.ret(Allow)
	if len(a.out) > maxInstructions {
		return nil, fmt.Errorf("seccomp: the filter has %d instructions, the kernel takes %d: use fewer rules", len(a.out), maxInstructions)
	}
	return a.out, nil
}

func (r Rule) check() error {
	if r.Nr < 0 || r.Nr >= x32Bit {
		return fmt.Errorf("seccomp: there is no system call %d on amd64", r.Nr)
	}
	if r.Then != Allow && slices.Contains(needed, r.Nr) {
		return fmt.Errorf("seccomp: a rule for %s: the start of a program needs it; leave it alone", callName(uint32(r.Nr)))
	}
	switch {
	case r.Then == Allow, r.Then == Notify:
	case r.Then&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO:
	default:
		return fmt.Errorf("seccomp: %#x is no action of a rule: use Allow, Notify or Fail", uint32(r.Then))
	}
	for _, t := range r.When {
		if t.arg < 0 || t.arg > 5 {
			return fmt.Errorf("seccomp: a test of argument %d: a system call has arguments 0 to 5", t.arg)
		}
		if len(t.values) == 0 {
			return errors.New("seccomp: a test without values never holds: leave the rule out")
		}
	}
	return nil
}

// Offsets in struct seccomp_data (linux/seccomp.h).
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// offArg is where the low half of an argument is: amd64 is little-endian.
func offArg(arg int) uint32 { return uint32(offArgs + 8*arg) }

// An assembler appends instructions. Every jump goes forward, over what comes
// next, and one of more than 255 instructions, which is what fits in a
// conditional jump, becomes an unconditional one.
type assembler struct{ out Filter }

func (a *assembler) load(off uint32) {
	a.out = append(a.out, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off})
}

func (a *assembler) jump(op uint16, k uint32, jt, jf uint8) {
	a.out = append(a.out, unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jt: jt, Jf: jf, K: k})
}

func (a *assembler) always(over int) {
	a.out = append(a.out, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(over)})
}

func (a *assembler) ret(do Action) {
	a.out = append(a.out, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(do)})
}

// skipUnless jumps over n instructions unless the accumulator passes.
func (a *assembler) skipUnless(op uint16, k uint32, n int) {
	if n <= 255 {
		a.jump(op, k, 0, uint8(n))
		return
	}
	a.jump(op, k, 1, 0)
	a.always(n)
}

// rule appends a rule: its tests, each of which jumps behind the rule if it does
// not hold, and its action. It is built from behind, when it is known how far
// that is.
func (a *assembler) rule(r Rule) {
	var code assembler
	code.ret(r.Then)
	for _, t := range slices.Backward(r.When) {
		var front assembler
		front.test(t, len(code.out))
		code.out = append(front.out, code.out...)
	}
	a.out = append(a.out, code.out...)
}

// test appends a test that falls through if it holds and jumps over miss
// instructions if not.
func (a *assembler) test(t Test, miss int) {
	a.load(offArg(t.arg))
	a.anyOf(t.jump, t.values, miss)
}

// group is how many values share one place to jump to. It leaves each of them
// within reach of a conditional jump.
const group = 200

func (a *assembler) anyOf(op uint16, values []uint32, miss int) {
	if len(values) == 1 {
		a.skipUnless(op, values[0], miss)
		return
	}
	first, more := values[:min(group, len(values))], values[min(group, len(values)):]
	for i, v := range first {
		a.jump(op, v, uint8(len(first)-i), 0) // over the others and the jump behind them
	}
	if len(more) == 0 {
		a.always(miss)
		return
	}
	var rest assembler
	rest.anyOf(op, more, miss)
	a.always(1)
	a.always(len(rest.out))
	a.out = append(a.out, rest.out...)
}
