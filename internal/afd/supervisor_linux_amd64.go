package afd

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"github.com/aftls/aftls/internal/pump"
	"github.com/aftls/aftls/internal/seccomp"
	"golang.org/x/sys/unix"
)

// Supervisor runs a program and performs the socket calls with which it makes TLS
// sockets (docs/run.md): those of AF_TLS, and those of programs that were written
// for the TLS sockets of Linux.
//
//	socket(AF_TLS)            tlsSocket with an end, of which the program gets the other half
//	bind(sockaddr_tls)        takes the carrier, starts the association
//	TCP_ULP "tls"             noted
//	TLS_TX, TLS_RX            keys; on a TCP socket the first of them puts the other half in its place
//	sendmsg, recvmsg          with a control message: a record of another type
//	read, write, sendfile ... not trapped: the program holds a Unix socket
type Supervisor struct {
	// Family is the number of AF_TLS.
	Family int

	// Strict has the TLS sockets of TCP_ULP answer reading and writing calls as
	// Linux does, errno for errno. Each of these calls costs a trap then,
	// whatever its descriptor.
	Strict bool

	// Log is told in one line of what cannot be told to the program.
	Log func(format string, args ...any)

	process  *seccomp.Process
	listener *seccomp.Listener

	mu      sync.Mutex
	sockets map[uint64]*tlsSocket // by the inode of the program's half
	ulp     map[uint64]ulp        // TCP sockets with TCP_ULP and without keys, by their inode
	carried map[uint64]*tlsSocket // by the inode of a carrier that the program bound
	ended   []*tlsSocket          // the last that ended with an error
	unbound map[*tlsSocket]struct{}
	sweepAt int // sockets that are not bound, for the next look at them
	pumps   sync.WaitGroup

	any   atomic.Bool // there is a TLS socket: calls have to be looked at
	dgram atomic.Bool // one of datagrams was made: sendmsg and recvmsg, too
	stats Stats
}

// Stats counts what a Supervisor did.
type Stats struct {
	Sockets           int    // TLS sockets that got keys
	Sent, Received    uint64 // records sealed and opened, of associations that are over
	SentBytes         uint64
	ReceivedBytes     uint64
	Refused           int // keys that could not be used
	ConnectionsFailed int // associations that ended with an error
}

// rules are the calls that are looked at. Everything else runs as without us.
func (s *Supervisor) rules() []seccomp.Rule {
	notify := seccomp.Notify
	rules := []seccomp.Rule{
		{Nr: unix.SYS_SOCKET, When: []seccomp.Test{seccomp.ArgIn(0, uint32(s.Family))}, Then: notify},
		{Nr: unix.SYS_BIND, Then: notify},
		{Nr: unix.SYS_GETSOCKNAME, Then: notify},
		{Nr: unix.SYS_GETPEERNAME, Then: notify},
		{Nr: unix.SYS_SENDMSG, Then: notify},
		{Nr: unix.SYS_RECVMSG, Then: notify},
		{Nr: unix.SYS_SENDMMSG, Then: notify},
		{Nr: unix.SYS_RECVMMSG, Then: notify},
	}
	for _, nr := range []int{unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKOPT} {
		rules = append(rules,
			seccomp.Rule{Nr: nr, When: []seccomp.Test{seccomp.ArgIn(1, unix.IPPROTO_TCP, unix.SOL_TLS, unix.IPPROTO_IP, unix.IPPROTO_IPV6)}, Then: notify},
			seccomp.Rule{Nr: nr, When: []seccomp.Test{seccomp.ArgIn(1, unix.SOL_SOCKET), seccomp.ArgIn(2, unix.SO_ATTACH_FILTER, unix.SO_ATTACH_BPF, unix.SO_DETACH_FILTER, unix.SO_LOCK_FILTER, unix.SO_ATTACH_REUSEPORT_CBPF, unix.SO_ATTACH_REUSEPORT_EBPF)}, Then: notify})
	}
	if s.Strict {
		rules = append(rules, strictRules()...)
	}
	// An io_uring performs calls that no filter sees, on files that it keeps:
	// after a swap it would send plaintext on the TCP socket.
	for _, nr := range []int{unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER} {
		rules = append(rules, seccomp.Rule{Nr: nr, Then: seccomp.Fail(unix.ENOSYS)})
	}
	return rules
}

// Run starts the program and performs its calls until it and all that it started
// have ended, and everything that they wrote is sent. self is the hidden command
// by which this binary becomes the program (seccomp.Child). It returns the exit
// code of the program.
func (s *Supervisor) Run(self, args []string) (code int, err error) {
	s.sockets = make(map[uint64]*tlsSocket)
	s.ulp = make(map[uint64]ulp)
	s.carried = make(map[uint64]*tlsSocket)
	s.unbound = make(map[*tlsSocket]struct{})
	filter, err := seccomp.Compile(s.rules())
	if err != nil {
		return 0, err
	}
	cmd := &seccomp.Command{Filter: filter, Self: self, Args: args, Env: os.Environ(), Stdio: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}}
	if s.process, s.listener, err = seccomp.Start(cmd); err != nil {
		return 0, err
	}
	// From here on the memory of this process holds keys.
	if err := Undumpable(); err != nil {
		s.process.Signal(unix.SIGKILL)
		s.listener.Close()
		s.process.Wait()
		return 0, err
	}
	stop := s.process.ForwardSignals()
	defer stop()
	serveErr := s.listener.Serve(1, maxBlocked, s.handle)
	s.closeUnbound()
	s.pumps.Wait()
	status, err := s.process.Wait()
	if err == nil {
		err = serveErr
	}
	return seccomp.ExitCode(status), err
}

// maxBlocked is how many calls may wait in us at a time, each in a goroutine.
const maxBlocked = 4096

// Stats returns the counts so far.
func (s *Supervisor) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func (s *Supervisor) log(format string, args ...any) {
	if s.Log != nil {
		s.Log(format, args...)
	}
}

// handle answers one call, on the thread that received it.
func (s *Supervisor) handle(n *seccomp.Notification) {
	if s.Strict && s.strict(n) {
		return
	}
	switch n.Nr {
	case unix.SYS_SOCKET:
		s.socket(n)
	case unix.SYS_BIND:
		s.bind(n)
	case unix.SYS_SETSOCKOPT:
		s.setsockopt(n)
	default:
		if !s.any.Load() {
			n.Continue() // whatever it is, it is none of ours
			return
		}
		if !s.Strict && !s.dgram.Load() && isData(n) {
			n.Continue() // whatever its socket is, and nobody need look which
			return
		}
		t := s.find(n, int(int32(n.Args[0])))
		if t == nil {
			if n.Nr != unix.SYS_GETSOCKOPT || !s.getULP(n) {
				n.Continue()
			}
			return
		}
		switch n.Nr {
		case unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_SENDMMSG, unix.SYS_RECVMMSG:
			if t.dgram {
				t.datagramCall(n)
				return
			}
		}
		switch n.Nr {
		case unix.SYS_GETSOCKOPT:
			t.getsockopt(n)
		case unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME:
			t.getname(n)
		case unix.SYS_SENDMSG:
			t.sendmsg(n)
		case unix.SYS_RECVMSG:
			t.recvmsg(n)
		default: // several messages in one call
			t.messages(n)
		}
	}
}

// find returns the TLS socket at a descriptor of the program, nil for everything
// else.
func (s *Supervisor) find(n *seccomp.Notification, fd int) *tlsSocket {
	inode, err := n.Inode(fd)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sockets[inode]
}

// fail answers with the errno of err.
func fail(n *seccomp.Notification, err error) {
	if errors.Is(err, seccomp.ErrGone) {
		return
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		errno = errnoOf(err)
	}
	if errors.Is(err, seccomp.ErrNotSocket) {
		errno = unix.ENOTSOCK
	}
	n.Respond(0, errno)
}

// answer answers with 0, or the errno of err.
func answer(n *seccomp.Notification, err error) {
	if err != nil {
		fail(n, err)
		return
	}
	n.Respond(0, 0)
}

// register makes a socket one that find finds.
func (s *Supervisor) register(t *tlsSocket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sockets[t.inode] = t
	s.any.Store(true)
}

func (s *Supervisor) unregister(t *tlsSocket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, t.inode)
	delete(s.unbound, t)
	if t.carrierInode != 0 {
		delete(s.carried, t.carrierInode)
	}
	s.any.Store(len(s.sockets) > 0 || len(s.ulp) > 0)
}

// run pumps for an association until it is over.
func (s *Supervisor) run(t *tlsSocket) {
	a := association(t.a)
	if t.dgram {
		a = t.d
	}
	s.pumps.Go(func() {
		err := a.Run()
		s.over(t, err)
		i := a.Info()
		s.mu.Lock()
		defer s.mu.Unlock()
		if i.Send.Version != 0 || i.Receive.Version != 0 {
			s.stats.Sockets++
		}
		s.stats.Sent += i.Send.Records
		s.stats.Received += i.Receive.Records
		s.stats.SentBytes += i.Send.Bytes
		s.stats.ReceivedBytes += i.Receive.Bytes
		if err != nil && err != pump.ErrStopped && err != errUnkeyed {
			s.stats.ConnectionsFailed++
			s.log("a connection with %v ended: %v", t.peer, err)
		}
	})
}

// closeUnbound ends the sockets that never got a carrier.
func (s *Supervisor) closeUnbound() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.unbound {
		if t.unbound() {
			t.end.Close()
			delete(s.sockets, t.inode)
		}
	}
	clear(s.unbound)
}

// BecomeProgram is what the hidden command of Run calls with its arguments. It
// does not return.
func BecomeProgram(args []string) { seccomp.Child(args) }

// ProgramError reports whether err says that the program could not be started, and
// the exit code of a shell for that.
func ProgramError(err error) (code int, ok bool) {
	e, ok := errors.AsType[*seccomp.ExecError](err)
	if !ok {
		return 0, false
	}
	return e.ExitCode(), true
}
