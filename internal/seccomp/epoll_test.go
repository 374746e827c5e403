//go:build linux && amd64

package seccomp

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A pair is a socket of a guest and its peer.
type pair struct{ a, b int }

func newPair() (p pair, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	return pair{fds[0], fds[1]}, err
}

func watch(epoll, fd int, events uint32, data uint64) error {
	return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(data), Pad: int32(data >> 32)})
}

// happened is what epoll reports now, without waiting: "MASK DATA" for each.
func happened(epoll int) string {
	var evs [8]unix.EpollEvent
	n, err := retry(func() (int, error) { return unix.EpollWait(epoll, evs[:], 0) })
	if err != nil {
		return err.Error()
	}
	var s []string
	for _, ev := range evs[:n] {
		s = append(s, fmt.Sprintf("%x %x", ev.Events, uint64(uint32(ev.Fd))|uint64(uint32(ev.Pad))<<32))
	}
	slices.Sort(s)
	return strings.Join(s, ", ")
}

// swap asks the supervisor for another socket at the number.
func swap(fd int) error {
	moved, _, errno := unix.Syscall(trap, uintptr(fd), 0, 0)
	if errno != 0 {
		return errno
	}
	if fmt.Println("moved", moved); moved == 0 {
		return errors.New("nothing was moved")
	}
	return nil
}

// listed is what the kernel says of an epoll instance, but for the files.
func listed(epoll int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", epoll))
	if err != nil {
		return err.Error()
	}
	lines := regexp.MustCompile(`(?m)^tfd.*data: *\S*`).FindAllString(string(b), -1)
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

const data64 = 0x1122334455667788

// scenarios register p.a, have it swapped, and say what is wrong.
var scenarios = map[string]func(p pair) error{
	"level": func(p pair) error {
		e, err := oneEpoll(p, unix.EPOLLIN|unix.EPOLLRDHUP, "1 1122334455667788")
		if err != nil {
			return err
		}
		return expect(e, "1 1122334455667788", "still")
	},
	"edge": func(p pair) error {
		e, err := oneEpoll(p, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET, "5 1122334455667788")
		if err != nil {
			return err
		}
		return expect(e, "", "once")
	},
	"armed once": func(p pair) error {
		e, err := oneEpoll(p, unix.EPOLLIN|unix.EPOLLONESHOT, "1 1122334455667788")
		if err != nil {
			return err
		}
		return expect(e, "", "once")
	},
	"exclusive": func(p pair) error {
		_, err := oneEpoll(p, unix.EPOLLIN|unix.EPOLLEXCLUSIVE|unix.EPOLLET, "1 1122334455667788")
		return err
	},
	// It fired, and is not to fire again until it is armed.
	"disarmed": func(p pair) error {
		e, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err == nil {
			err = watch(e, p.a, unix.EPOLLIN|unix.EPOLLONESHOT|unix.EPOLLET, 5)
		}
		if err == nil {
			_, err = unix.Write(p.b, []byte("x"))
		}
		if err == nil {
			err = expect(e, "1 5", "before")
		}
		if err == nil {
			err = swap(p.a)
		}
		if err == nil {
			err = expect(e, "", "disarmed")
		}
		if err == nil {
			err = unix.EpollCtl(e, unix.EPOLL_CTL_MOD, p.a, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: 6})
		}
		if err == nil {
			err = expect(e, "1 6", "armed again")
		}
		return err
	},
	// Three instances, one at three numbers, one in another; and others in them.
	"many": func(p pair) error {
		var e [3]int
		other, err := newPair()
		for i := range e {
			if err == nil {
				e[i], err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
			}
		}
		copies := make([]int, 2)
		for i := range copies {
			if err == nil {
				copies[i], err = unix.FcntlInt(uintptr(e[0]), unix.F_DUPFD_CLOEXEC, 100)
			}
		}
		if err == nil {
			err = errors.Join(
				watch(e[0], p.a, unix.EPOLLIN, 1),
				watch(e[0], other.a, unix.EPOLLOUT|unix.EPOLLET, 2),
				watch(e[1], p.a, unix.EPOLLOUT, data64),
				watch(e[1], e[0], unix.EPOLLIN, 3),
				watch(e[2], other.a, unix.EPOLLIN, 4),
			)
		}
		if err == nil {
			err = expect(e[0], "4 2", "before")
		}
		before := listed(e[0]) + listed(e[1]) + listed(e[2])
		if err == nil {
			err = swap(p.a)
		}
		if after := listed(e[0]) + listed(e[1]) + listed(e[2]); err == nil && after != before {
			err = fmt.Errorf("now\n%s\nbefore\n%s", after, before)
		}
		if err == nil {
			err = errors.Join(
				expect(e[1], "1 3, 4 1122334455667788", "the outer one"),
				expect(copies[1], "1 1", "a copy of the inner one"), // nothing new of the other
				expect(e[2], "", "without it"),
				unix.EpollCtl(e[0], unix.EPOLL_CTL_DEL, p.a, nil),
				expect(e[0], "", "removed"),
			)
		}
		return err
	},
	// The program has two descriptors of the socket in the same instance.
	"two numbers": func(p pair) error {
		e, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		second := -1
		if err == nil {
			second, err = unix.Dup(p.a)
		}
		if err == nil {
			err = errors.Join(watch(e, p.a, unix.EPOLLIN, 1), watch(e, second, unix.EPOLLIN, 2))
		}
		before := listed(e)
		if err == nil {
			err = swap(p.a)
		}
		if after := listed(e); err == nil && after != before {
			err = fmt.Errorf("now\n%s\nbefore\n%s", after, before)
		}
		if err == nil {
			err = expect(e, "1 1, 1 2", "both")
		}
		return err
	},
}

// oneEpoll has p.a in one instance while it is swapped. The new socket is
// readable and writable, the old one gets readable.
func oneEpoll(p pair, events uint32, want string) (int, error) {
	e, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = watch(e, p.a, events, data64)
	}
	if err == nil && events&unix.EPOLLET != 0 {
		happened(e) // an edge that was seen
	}
	before := listed(e)
	if err == nil {
		err = swap(p.a)
	}
	if after := listed(e); err == nil && after != before {
		err = fmt.Errorf("now %s, before %s", after, before)
	}
	if err == nil {
		_, err = unix.Write(p.b, []byte("to the old one"))
	}
	if err == nil {
		err = expect(e, want, "after")
	}
	if err == nil {
		b := make([]byte, 100)
		n := 0
		if n, err = unix.Read(p.a, b); err == nil && string(b[:n]) != "new" {
			err = fmt.Errorf("read %q", b[:n])
		}
		if err == nil {
			_, err = unix.Write(p.a, b[:n]) // as much as to say: come again
		}
		if err == nil {
			_, _, errno := unix.Syscall(trap, mark, 0, 0)
			if errno != 0 {
				err = errno
			}
		}
	}
	if err == nil && events&unix.EPOLLONESHOT == 0 {
		out := ""
		if events&unix.EPOLLOUT != 0 {
			out = "5 1122334455667788"
		} else {
			out = "1 1122334455667788"
		}
		err = expect(e, out, "more data")
	}
	return e, err
}

func expect(epoll int, want, when string) error {
	if got := happened(epoll); got != want {
		return fmt.Errorf("%s: epoll says %q instead of %q", when, got, want)
	}
	return nil
}

func init() {
	guests["epoll"] = func(args []string) int {
		p, err := newPair()
		if err == nil {
			err = scenarios[args[0]](p)
		}
		if err != nil {
			return complain("%v", err)
		}
		return 0
	}
	// The same at many numbers. This guest has no poller, so that they are free.
	guests["numbers"] = func(args []string) int {
		for fd := 5; fd < 80; fd++ {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				continue
			}
			p, err := newPair()
			if err == nil && p.a != fd {
				err = unix.Dup3(p.a, fd, unix.O_CLOEXEC)
				unix.Close(p.a)
				p.a = fd
			}
			if p.b == fd { // taken by the peer
				unix.Close(p.b)
				continue
			}
			e := -1
			if err == nil {
				e, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
			}
			if err == nil {
				err = watch(e, fd, unix.EPOLLIN, uint64(fd))
			}
			if err == nil {
				err = swap(fd)
			}
			if err == nil {
				err = expect(e, fmt.Sprintf("1 %x", fd), "after")
			}
			if err != nil {
				return complain("%d: %v", fd, err)
			}
			unix.Close(p.a)
			unix.Close(p.b)
			unix.Close(e)
		}
		return 0
	}
	// What it starts next runs mostly on the same thread, and that is the first one.
	guests["thread"] = func([]string) int {
		if unix.Gettid() == os.Getpid() {
			fmt.Println("first")
		}
		var err error
		onThreadThatEnds(func() { err = unix.Unshare(unix.CLONE_FILES) })
		if err != nil {
			return complain("%v", err)
		}
		for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
			all, err := threads(os.Getpid())
			if err != nil {
				return complain("%v", err)
			}
			own := slices.DeleteFunc(all, func(tid int) bool { return sameTable(os.Getpid(), tid) })
			if len(own) == 0 {
				return 0
			}
			if time.Now().After(deadline) {
				return complain("threads %v have descriptors of their own", own)
			}
		}
	}
	// A child that inherits the epoll instance, and not the socket.
	guests["epoll only"] = func([]string) int {
		p, err := newPair()
		e := -1
		if err == nil {
			e, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		}
		if err == nil {
			err = watch(e, p.a, unix.EPOLLIN|unix.EPOLLET, data64)
		}
		if err != nil {
			return complain("%v", err)
		}
		c := exec.Command("cat")
		in, err := c.StdinPipe()
		if err != nil {
			return complain("%v", err)
		}
		c.ExtraFiles = []*os.File{os.NewFile(uintptr(e), "")}
		if err := c.Start(); err != nil {
			return complain("%v", err)
		}
		unix.Syscall(trap, uintptr(p.a), uintptr(c.Process.Pid), uintptr(e))
		in.Close()
		c.Wait()
		return 0
	}
}

// swapper is a handler that puts another socket, which has data, in the place of
// one. With mark it sends more.
func swapper(t *testing.T, r **run, known chan struct{}) Handler {
	peer, held := -1, -1 // held: the old one would still report
	t.Cleanup(func() { unix.Close(peer); unix.Close(held) })
	return func(n *Notification) {
		<-known
		if n.Args[0] == mark {
			unix.Write(peer, []byte("more"))
			n.Respond(0, 0)
			return
		}
		at := int(n.Args[0])
		old, err := n.GetFD(at)
		if err != nil {
			t.Error(err)
			return
		}
		unix.Close(held)
		held = old
		fresh, err := newPair()
		if err != nil {
			t.Error(err)
			return
		}
		unix.Close(peer)
		peer = fresh.b
		defer unix.Close(fresh.a)
		unix.Write(fresh.b, []byte("new"))
		if _, err := n.AddFD(fresh.a, at, true); err != nil {
			t.Error(err)
			return
		}
		moved, err := moveEpoll(*r, old, fresh.a)
		if err != nil {
			t.Error(err)
		}
		if again, err := moveEpoll(*r, old, fresh.a); again != 0 || err != nil {
			t.Errorf("the second time %d moved, %v", again, err)
		}
		n.Respond(int64(moved), 0)
	}
}

// moveEpoll looks for the epoll instances first.
func moveEpoll(r *run, old, new int) (int, error) {
	s, err := r.Survey(1)
	if err != nil {
		return 0, err
	}
	return MoveEpoll(s.Epolls, old, new)
}

func TestMoveEpoll(t *testing.T) {
	for name := range scenarios {
		t.Run(name, func(t *testing.T) {
			var r *run
			known := make(chan struct{})
			r = start(t, trapAll, swapper(t, &r, known), "epoll", name)
			close(known)
			want := "moved 1"
			if name == "many" || name == "two numbers" {
				want = "moved 2"
			}
			if out := r.good(); out != want {
				t.Errorf("%q", out)
			}
		})
	}
}

// TestMoveEpollAtNumbersInUse: what is at the number with us, the poller of the
// runtime too, does not notice.
func TestMoveEpollAtNumbersInUse(t *testing.T) {
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	stop := make(chan struct{})
	var busy sync.WaitGroup
	busy.Go(func() { // the poller
		buf := make([]byte, 3)
		for {
			if _, err := io.ReadFull(pr, buf); err != nil {
				return
			}
			if string(buf) != "abc" {
				t.Errorf("read %q", buf)
			}
		}
	})
	busy.Go(func() { // what wakes it, and the collector
		defer pw.Close()
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Microsecond):
			}
			if _, err := pw.WriteString("abc"); err != nil {
				t.Error(err)
			}
			runtime.GC()
		}
	})
	var r *run
	known := make(chan struct{})
	r = start(t, trapAll, swapper(t, &r, known), "numbers")
	close(known)
	out := r.good()
	close(stop)
	busy.Wait()
	if n := strings.Count(out, "moved 1"); n < 60 {
		t.Errorf("only at %d numbers:\n%s", n, out)
	}
}

func TestRegistrations(t *testing.T) {
	var r *run
	known := make(chan struct{})
	r = start(t, trapAll, func(n *Notification) {
		<-known
		defer n.Continue()
		inode, err := n.Inode(int(n.Args[0]))
		if err != nil {
			t.Error(err)
		}
		ours := registration{PID: r.PID(), Epoll: int(n.Args[2]), FD: int(n.Args[0]), Events: unix.EPOLLIN | unix.EPOLLERR | unix.EPOLLHUP | 1<<31, Data: data64}
		child := ours
		child.PID, child.Epoll = int(n.Args[1]), 3
		s, err := r.Survey(inode)
		if err != nil || len(s.Holders) != 1 {
			t.Errorf("%+v, %v", s, err)
		}
		all, err := registrations(s.Epolls, inode)
		if err != nil || len(all) != 2 || !slices.Contains(all, ours) || !slices.Contains(all, child) {
			t.Errorf("%+v, %v", all, err)
		}
		if none, err := registrations(s.Epolls, 1); len(none) != 0 || err != nil {
			t.Errorf("%+v, %v", none, err)
		}
	}, "epoll only")
	close(known)
	r.good()
}

func TestReadRegistrations(t *testing.T) {
	const info = "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1057\n" +
		"tfd:        7 events: c000001d data: 1122334455667788  pos:0 ino:4d2 sdev:8\n" +
		"tfd:        8 events:       19 data: ffffffffffffffff  pos:0 ino:4d2 sdev:9\n" +
		"tfd:        9 events:       19 data:                0  pos:0 ino:4d3 sdev:8\n" +
		"tfd:       10 events:       19 data:                0  pos:0 ino:4d2 sdev:8\n"
	got, err := appendRegistrations(nil, info, Holder{5, 6}, 0x4d2, 8)
	want := []registration{{5, 6, 7, 0xc000001d, data64}, {5, 6, 10, 0x19, 0}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"tfd:\n", "tfd: x events: 1 data: 1 pos:0 ino:4d2 sdev:8\n", "tfd: 1 events: 1 data: 1 pos:0\n"} {
		if got, err := appendRegistrations(nil, bad, Holder{}, 0x4d2, 8); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestMoveEpollErrors(t *testing.T) {
	r := startCommand(t, trapAll, goOn, "true")
	if _, err := MoveEpoll(nil, 1<<20, 0); !errors.Is(err, unix.EBADF) {
		t.Error(err)
	}
	r.good()
}

// TestThreadsEnd: whatever thread it comes to, the descriptors of moveAll do not
// stay open.
func TestThreadsEnd(t *testing.T) {
	began := 0
	for range 10 {
		out, err := exec.Command(self, asProgram, "thread").Output()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if strings.HasPrefix(string(out), "first") {
			began++
		}
	}
	if began == 0 {
		t.Error("nothing began on the first thread: the test tests little")
	}
}

// TestMoveAllCallsNothing: see there why.
func TestMoveAllCallsNothing(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "move.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"RawSyscall", "RawSyscall6", "uintptr", "int32", "max", "Pointer"}
	calls := 0
	ast.Inspect(f, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.CallExpr:
			calls++
			name := ""
			switch fun := node.Fun.(type) {
			case *ast.Ident:
				name = fun.Name
			case *ast.SelectorExpr:
				name = fun.Sel.Name
			}
			if !slices.Contains(allowed, name) {
				t.Errorf("it calls %q", name)
			}
		case *ast.DeferStmt, *ast.GoStmt, *ast.FuncLit, *ast.SendStmt, *ast.SelectStmt:
			t.Errorf("there is a %T", node)
		}
		return true
	})
	if calls < 20 {
		t.Errorf("only %d calls", calls)
	}
}
