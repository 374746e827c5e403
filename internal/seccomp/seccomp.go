// Package seccomp is the mechanics of a supervisor: it runs a program under a
// seccomp filter and answers the system calls that the filter traps (seccomp(2),
// SECCOMP_RET_USER_NOTIF; Linux 5.9 or later, amd64). It needs no privilege and
// knows nothing of what the calls are trapped for.
//
// The path of one trapped call:
//
//	program ──call──▶ Filter ──Notify──▶ Listener.Serve ──▶ the caller's Handler
//	   ▲                                                        │ looks: memory.go, task.go
//	   │                                                        │ acts: AddFD, Write, MoveEpoll
//	   └────── kernel ◀────── Continue, Respond, AddFDSend ─────┘
//
// A Filter (filter.go) is made from rules and says which calls are trapped. Start
// (start.go) runs our own binary once more; that child (child.go) installs the
// filter on itself, sends the listener to us and becomes the program. Serve
// (listener.go) receives on threads of its own. What a handler may ask about the
// process that makes the call is in memory.go and task.go; what concerns all
// processes of the program is in tree.go and epoll.go.
//
// This is no security boundary. The program can change its memory while a call is
// decided on. And it ends closed: when the supervisor is gone the kernel answers
// each trapped call with ENOSYS, which nobody may turn into letting it pass.
package seccomp

import "errors"

// The reasons why a program cannot be supervised here. Start and Supported wrap
// them.
var (
	// ErrUnsupported: the kernel, or this operating system, cannot do it.
	ErrUnsupported = errors.New("seccomp: no user notification here: it takes Linux 5.9 or later on amd64, with CONFIG_SECCOMP_FILTER")
	// ErrForbidden: the kernel could, and somebody told it not to.
	ErrForbidden = errors.New("seccomp: filters are forbidden here: a container or a service manager forbids the seccomp call; allow it there, or run outside")
	// ErrListenerExists: a process can be below one listener only.
	ErrListenerExists = errors.New("seccomp: another supervisor has a listener on this process already, as some container runtimes have: the kernel allows one; run outside of it")
)
