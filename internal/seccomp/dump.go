//go:build linux && amd64

package seccomp

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// String lists the filter, one instruction a line, with the targets of jumps as
// line numbers.
func (f Filter) String() string {
	var b strings.Builder
	loaded := make([]uint32, len(f)+1) // what was loaded last, where an instruction begins
	for i, in := range f {
		fmt.Fprintf(&b, "%4d  ", i)
		next := i + 1
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			loaded[next] = in.K
			fmt.Fprintf(&b, "load %s", fieldName(in.K))
		case unix.BPF_JMP | unix.BPF_JA:
			loaded[next+int(in.K)] = loaded[i]
			fmt.Fprintf(&b, "go to %d", next+int(in.K))
		case unix.BPF_RET | unix.BPF_K:
			b.WriteString(Action(in.K).String())
		default:
			yes, no := next+int(in.Jt), next+int(in.Jf)
			loaded[yes], loaded[no] = loaded[i], loaded[i]
			fmt.Fprintf(&b, "if %s go to %d else %d", condition(in, loaded[i]), yes, no)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// String names the action.
func (a Action) String() string {
	switch {
	case a == Allow:
		return "allow"
	case a == Notify:
		return "notify"
	case a&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO:
		return "fail with " + unix.ErrnoName(unix.Errno(a&unix.SECCOMP_RET_DATA))
	}
	return fmt.Sprintf("%#x", uint32(a))
}

func fieldName(off uint32) string {
	switch off {
	case offNr:
		return "call"
	case offArch:
		return "arch"
	}
	return fmt.Sprintf("arg%d", (off-offArgs)/8)
}

func condition(in unix.SockFilter, loaded uint32) string {
	field := fieldName(loaded)
	switch in.Code &^ (unix.BPF_JMP | unix.BPF_K) {
	case unix.BPF_JEQ:
		switch loaded {
		case offNr:
			return field + " is " + callName(in.K)
		case offArch:
			return fmt.Sprintf("%s is %#x", field, in.K)
		}
		return fmt.Sprintf("%s is %d", field, in.K)
	case unix.BPF_JSET:
		return fmt.Sprintf("%s has any of %#x", field, in.K)
	case unix.BPF_JGE:
		return fmt.Sprintf("%s is at least %#x", field, in.K)
	}
	return fmt.Sprintf("%#x(%s, %#x)", in.Code, field, in.K)
}

// callName is the name of a system call that filters of this project are about,
// and the number of others.
func callName(nr uint32) string {
	if name, ok := callNames[nr]; ok {
		return name
	}
	return fmt.Sprintf("call %d", nr)
}

var callNames = map[uint32]string{
	unix.SYS_ACCEPT: "accept", unix.SYS_ACCEPT4: "accept4", unix.SYS_BIND: "bind", unix.SYS_CLOSE: "close",
	unix.SYS_CONNECT: "connect", unix.SYS_DUP: "dup", unix.SYS_DUP2: "dup2", unix.SYS_DUP3: "dup3",
	unix.SYS_FUTEX: "futex", unix.SYS_GETPEERNAME: "getpeername", unix.SYS_GETPID: "getpid", unix.SYS_GETPPID: "getppid",
	unix.SYS_GETSOCKNAME: "getsockname", unix.SYS_GETSOCKOPT: "getsockopt", unix.SYS_IO_URING_SETUP: "io_uring_setup",
	unix.SYS_IOCTL: "ioctl", unix.SYS_LISTEN: "listen", unix.SYS_MADVISE: "madvise", unix.SYS_MMAP: "mmap",
	unix.SYS_MUNMAP: "munmap", unix.SYS_NANOSLEEP: "nanosleep", unix.SYS_READ: "read", unix.SYS_READV: "readv",
	unix.SYS_RECVFROM: "recvfrom", unix.SYS_RECVMMSG: "recvmmsg", unix.SYS_RECVMSG: "recvmsg",
	unix.SYS_RT_SIGPROCMASK: "rt_sigprocmask", unix.SYS_RT_SIGRETURN: "rt_sigreturn", unix.SYS_SCHED_YIELD: "sched_yield",
	unix.SYS_SENDFILE: "sendfile", unix.SYS_SENDMMSG: "sendmmsg", unix.SYS_SENDMSG: "sendmsg", unix.SYS_SENDTO: "sendto",
	unix.SYS_SETSOCKOPT: "setsockopt", unix.SYS_SHUTDOWN: "shutdown", unix.SYS_SIGALTSTACK: "sigaltstack",
	unix.SYS_SOCKET: "socket", unix.SYS_SOCKETPAIR: "socketpair", unix.SYS_SPLICE: "splice", unix.SYS_TEE: "tee",
	unix.SYS_TGKILL: "tgkill", unix.SYS_VMSPLICE: "vmsplice", unix.SYS_WRITE: "write", unix.SYS_WRITEV: "writev",
}
