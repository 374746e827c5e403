package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The commands of a program, on its standard input (see protocol.go):
//
//	trap N      ok sendmsg=NS recvmsg=NS none=NS, for N calls each
//	open        ok ns=NS: a connection was accepted and made a TLS socket
//	close       ok, after closing the oldest of them
//	echo        ok; what comes on any of them is sent back
//	bulk N      ok ns=NS, when N bytes have gone from one end to the other
//	pingpong N  ok ns=NS, when a byte has gone there and back N times

// program is a process of the rows about other programs: an ordinary one, that
// makes its socket calls itself and blocks in them.
type program struct {
	cfg      ProgramConfig
	listener int
	daemon   int
	a, b     int   // both ends of a connection
	open     []int // the server's ends of connections, oldest first
}

// Program is the whole of such a process.
func Program(cfg ProgramConfig, in io.Reader, out io.Writer) error {
	p := &program{cfg: cfg, listener: -1, daemon: -1, a: -1, b: -1}
	hello := answer{"addr": "none", "procs": strconv.Itoa(runtime.GOMAXPROCS(0))}
	var err error
	switch cfg.Row {
	case "none":
	case "trap":
		// With a TLS socket in the program each call has to be looked at.
		if cfg.Kind == kindFamily {
			if _, _, err = endsOf(kindFamily); err != nil {
				return err
			}
		}
		p.a, p.b, err = tcpPair()
	case "stream":
		p.a, p.b, err = endsOf(cfg.Kind)
	case "connections":
		var at *syscall.SockaddrInet4
		if p.listener, at, err = listenTCP(); err == nil {
			hello["addr"] = fmt.Sprintf("127.0.0.1:%d", at.Port)
		}
		if err == nil && cfg.Kind == kindDaemon {
			p.daemon, err = daemonConnection(cfg.Socket)
		}
	default:
		err = fmt.Errorf("no program %q", cfg.Row)
	}
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, hello.line("addr", "procs")); err != nil {
		return err
	}
	commands := bufio.NewScanner(in)
	for commands.Scan() {
		reply, err := p.command(commands.Text())
		if err != nil {
			reply = errorLine(err)
		}
		if _, err := fmt.Fprintln(out, reply); err != nil {
			return err
		}
	}
	return commands.Err()
}

func (p *program) command(line string) (string, error) {
	name, arg, _ := strings.Cut(line, " ")
	n := 0
	if arg != "" {
		var err error
		if n, err = strconv.Atoi(arg); err != nil {
			return "", err
		}
	}
	var took time.Duration
	var err error
	switch name {
	case "trap":
		return p.trap(n)
	case "open":
		took, err = p.accept()
	case "close":
		if len(p.open) == 0 {
			return "", errors.New("nothing is open")
		}
		err = syscall.Close(p.open[0])
		p.open = p.open[1:]
	case "echo":
		for _, fd := range p.open {
			go echoFD(fd)
		}
	case "bulk":
		took, err = bothEnds(p.a, p.b, n, bulkWrite, bulkRead)
	case "pingpong":
		took, err = bothEnds(p.a, p.b, n, ping, pong)
	default:
		err = fmt.Errorf("no command %q", name)
	}
	return answer{"ns": strconv.FormatInt(int64(took), 10)}.line("ns"), err
}

func (p *program) accept() (time.Duration, error) {
	carrier, err := acceptTCP(p.listener)
	if err != nil {
		return 0, err
	}
	fd, took, err := makeTLS(p.cfg.Kind, p.daemon, carrier)
	if err == nil {
		p.open = append(p.open, fd)
	}
	return took, err
}

// trapBurst is how many one-byte messages lie in a socket at most.
const trapBurst = 50

// trap times calls that a supervisor stops, looks at and lets go on, and one that
// it does not stop.
func (p *program) trap(n int) (string, error) {
	var sends, receives, nones time.Duration
	b, m := []byte{1}, new(rawMessage)
	for done := 0; done < n; done += trapBurst {
		begin := time.Now()
		for range trapBurst {
			if _, err := m.call(syscall.SYS_SENDMSG, p.a, b); err != nil {
				return "", os.NewSyscallError("sendmsg", err)
			}
		}
		sent := time.Now()
		for range trapBurst {
			if n, err := m.call(syscall.SYS_RECVMSG, p.b, b); err != nil || n != 1 {
				return "", errors.Join(fmt.Errorf("%d bytes", n), os.NewSyscallError("recvmsg", err))
			}
		}
		received := time.Now()
		for range trapBurst {
			syscall.Getppid()
		}
		nones += time.Since(received)
		receives += received.Sub(sent)
		sends += sent.Sub(begin)
	}
	return answer{
		"sendmsg": strconv.FormatInt(int64(sends), 10), "recvmsg": strconv.FormatInt(int64(receives), 10),
		"none": strconv.FormatInt(int64(nones), 10),
	}.line("sendmsg", "recvmsg", "none"), nil
}

// echoFD sends back what comes, until the end. What goes wrong is the peer's to
// see.
func echoFD(fd int) {
	b := make([]byte, 64<<10)
	for {
		n, err := syscall.Read(fd, b)
		if err != nil || n == 0 || writeAll(fd, b[:n]) != nil {
			return
		}
	}
}

// bothEnds runs one function on each end of a connection, each on a thread of its
// own. If one of them fails so does the other.
func bothEnds(a, b, n int, one, other func(fd, n int) error) (time.Duration, error) {
	type result struct {
		err error
		at  time.Time
	}
	results := make(chan result, 2)
	start := make(chan struct{})
	for fd, do := range map[int]func(fd, n int) error{a: one, b: other} {
		go func() {
			runtime.LockOSThread() // until the end: nobody else wakes it
			defer runtime.UnlockOSThread()
			<-start
			err := do(fd, n)
			if err != nil {
				syscall.Shutdown(a, syscall.SHUT_RDWR)
				syscall.Shutdown(b, syscall.SHUT_RDWR)
			}
			results <- result{err, time.Now()}
		}()
	}
	begin := time.Now()
	close(start)
	x, y := <-results, <-results
	end := x.at
	if y.at.After(end) {
		end = y.at
	}
	return end.Sub(begin), errors.Join(x.err, y.err)
}

// blockSize is what the ends of a stream read and write at once, in bytes.
const blockSize = 256 << 10

// block is what is written, over and over: its place in the stream says what a
// byte has to be.
func block() []byte {
	b := make([]byte, blockSize)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

func bulkWrite(fd, n int) error {
	b := block()
	for n > 0 {
		m := min(n, len(b))
		if err := writeAll(fd, b[:m]); err != nil {
			return err
		}
		n -= m
	}
	return nil
}

func bulkRead(fd, n int) error {
	want, b := block(), make([]byte, blockSize)
	for at := 0; at < n; {
		m, err := syscall.Read(fd, b)
		if m <= 0 || err != nil {
			return errors.Join(fmt.Errorf("the stream ended at byte %d of %d", at, n), err)
		}
		// The ends of a piece: what is lost, doubled or moved shows there.
		for _, i := range [2]int{0, m - 1} {
			if b[i] != want[(at+i)%blockSize] {
				return fmt.Errorf("byte %d of the stream is wrong", at+i)
			}
		}
		at += m
	}
	return nil
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := syscall.Write(fd, b)
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		b = b[n:]
	}
	return nil
}

func ping(fd, n int) error { return turns(fd, n, writeAll, readByte) }
func pong(fd, n int) error { return turns(fd, n, readByte, writeAll) }

func turns(fd, n int, first, second func(int, []byte) error) error {
	b := make([]byte, 1)
	for i := range n {
		b[0] = byte(i)
		if err := first(fd, b); err != nil {
			return err
		}
		if err := second(fd, b); err != nil {
			return err
		}
		if b[0] != byte(i) {
			return errors.New("another byte came back")
		}
	}
	return nil
}

func readByte(fd int, b []byte) error {
	n, err := syscall.Read(fd, b[:1])
	if err != nil || n != 1 {
		return errors.Join(errors.New("the stream ended"), err)
	}
	return nil
}
