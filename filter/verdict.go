package filter

import "fmt"

// Action is what happens to a message.
type Action uint8

// The actions.
const (
	Drop     Action = iota // it is not delivered, or not sent
	Pass                   // it goes on as it is
	Truncate               // its first N bytes go on
	Redirect               // it goes to endpoint N
	Select                 // it goes on, and its connection belongs to backend N
	Kill                   // it does not go on, and its connection ends, for reason N
)

func (a Action) String() string {
	if names := [...]string{"DROP", "PASS", "TRUNCATE", "REDIRECT", "SELECT", "KILL"}; int(a) < len(names) {
		return names[a]
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// Verdict is what a program says about a message. The result of the program is
// a number of 32 bits with the meaning that SO_ATTACH_FILTER and tcpdump give
// it: how many bytes to keep, counted from the first one that the program sees,
// 0 for none. Where the upper 8 bits are 0xf1 (REDIRECT), 0xf2 (SELECT) or 0xf3
// (KILL), the lower 24 are the number N of the verdict instead. tcpdump has no
// such lengths: its largest is 262144, and programs that want to keep all of a
// message of any length return 0x7fffffff or 0xffffffff.
//
// A length of the header and less keeps no byte of the message, and is TRUNCATE
// to 0 all the same: for tcpdump such a packet passes.
type Verdict struct {
	Action Action
	N      uint32 // at most MaxN; of TRUNCATE any
}

// MaxN is the largest number in REDIRECT, SELECT and KILL.
const MaxN = 1<<24 - 1

// The upper 8 bits of results that are no length.
const (
	codeRedirect = 0xf1
	codeSelect   = 0xf2
	codeKill     = 0xf3
	codeShift    = 24
)

// all is the result that keeps a message of any length.
const all = 0xffffffff

// decode gives the result of a program its meaning; head bytes of what it saw
// were not the message.
func decode(result, head uint32, n int) Verdict {
	switch result >> codeShift {
	case codeRedirect:
		return Verdict{Redirect, result & MaxN}
	case codeSelect:
		return Verdict{Select, result & MaxN}
	case codeKill:
		return Verdict{Kill, result & MaxN}
	}
	switch {
	case result == 0:
		return Verdict{Action: Drop}
	case uint64(result) >= uint64(head)+uint64(n):
		return Verdict{Action: Pass}
	}
	return Verdict{Truncate, max(result, head) - head}
}

// Result returns what a program with the view Payload has to return for v.
func (v Verdict) Result() uint32 { return v.result(0) }

func (v Verdict) result(head uint32) uint32 {
	n := min(v.N, MaxN)
	switch v.Action {
	case Pass:
		return all
	case Truncate:
		return max(1, head+n) // 0 would be DROP
	case Redirect:
		return codeRedirect<<codeShift | n
	case Select:
		return codeSelect<<codeShift | n
	case Kill:
		return codeKill<<codeShift | n
	}
	return 0
}

// Keep is how many of the n bytes of the message go on.
func (v Verdict) Keep(n int) int {
	switch v.Action {
	case Pass, Redirect, Select:
		return n
	case Truncate:
		return int(min(uint64(v.N), uint64(n)))
	}
	return 0
}

func (v Verdict) String() string {
	switch v.Action {
	case Drop, Pass:
		return v.Action.String()
	}
	return fmt.Sprintf("%v(%d)", v.Action, v.N)
}

// KillError ends a connection because a program said so: KILL, or REDIRECT where
// there are no endpoints. Whoever chose the program is to blame, or to be
// thanked.
type KillError struct{ Verdict Verdict }

func (e *KillError) Error() string {
	if e.Verdict.Action == Redirect {
		return fmt.Sprintf("filter: the connection was ended: the program said %v, and there are no endpoints here", e.Verdict)
	}
	return fmt.Sprintf("filter: the connection was ended by the program: %v", e.Verdict)
}
