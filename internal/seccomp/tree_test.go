//go:build linux && amd64

package seccomp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	// A socket at 50 and 51, in a child at 60, in a grandchild whose parent ended at
	// 70, in a thread with descriptors of its own at 80. Says who has it and traps.
	guests["holders"] = func([]string) int {
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return complain("%v", err)
		}
		for _, fd := range []int{50, 51} {
			if err := unix.Dup3(s, fd, unix.O_CLOEXEC); err != nil {
				return complain("%v", err)
			}
		}
		unix.Close(s)
		pr, pw, err := os.Pipe() // all end when it is closed
		if err != nil {
			return complain("%v", err)
		}
		say, said, err := os.Pipe()
		if err != nil {
			return complain("%v", err)
		}
		c := exec.Command(self, asProgram, "holder", "60", "70")
		c.ExtraFiles = []*os.File{os.NewFile(uintptr(50), "socket"), pr, said}
		if err := c.Start(); err != nil {
			return complain("%v", err)
		}
		said.Close()
		have := []string{fmt.Sprint(os.Getpid(), " 50"), fmt.Sprint(os.Getpid(), " 51")}
		lines := bufio.NewScanner(say)
		for range 2 {
			lines.Scan()
			have = append(have, lines.Text())
		}
		tid := make(chan int)
		end := make(chan int)
		var thread func()
		thread = func() {
			runtime.LockOSThread()
			if unix.Gettid() == os.Getpid() {
				go thread()
				<-end
				return
			}
			if err := errors.Join(unix.Unshare(unix.CLONE_FILES), unix.Dup3(50, 80, 0), unix.Close(50), unix.Close(51)); err != nil {
				complain("%v", err)
			}
			tid <- unix.Gettid()
			<-end
		}
		go thread()
		have = append(have, fmt.Sprint(<-tid, " 80"))
		sort.Strings(have)
		var st unix.Stat_t
		if err := unix.Fstat(51, &st); err != nil {
			return complain("%v", err)
		}
		unix.Syscall(trap, uintptr(st.Ino), 0, 0)
		for _, h := range have {
			fmt.Println(h)
		}
		close(end) // that thread has the pipe as well
		pw.Close()
		c.Wait()
		return 0
	}
	// The socket is at 3, gets to args[0], says who has it. Starts the next, and
	// ends before it.
	guests["holder"] = func(args []string) int {
		at, err := strconv.Atoi(args[0])
		if err == nil {
			err = errors.Join(unix.Dup3(3, at, unix.O_CLOEXEC), unix.Close(3))
		}
		if err != nil {
			return complain("%v", err)
		}
		if len(args) > 1 {
			middle := exec.Command(self, asProgram, "middle", args[1])
			middle.ExtraFiles = []*os.File{os.NewFile(uintptr(at), ""), os.NewFile(4, ""), os.NewFile(5, "")}
			if err := middle.Run(); err != nil {
				return complain("%v", err)
			}
		}
		fmt.Fprintf(os.NewFile(5, ""), "%d %d\n", os.Getpid(), at)
		os.NewFile(4, "").Read(make([]byte, 1))
		return 0
	}
	guests["middle"] = func(args []string) int {
		c := exec.Command(self, asProgram, "holder", args[0])
		c.ExtraFiles = []*os.File{os.NewFile(3, ""), os.NewFile(4, ""), os.NewFile(5, "")}
		if err := c.Start(); err != nil {
			return complain("%v", err)
		}
		return 0
	}
	// So many processes, half of them below others, all alive at the call.
	guests["many processes"] = func(args []string) int {
		var n int
		fmt.Sscan(args[0], &n)
		pr, pw, err := os.Pipe()
		if err != nil {
			return complain("%v", err)
		}
		say, said, err := os.Pipe()
		if err != nil {
			return complain("%v", err)
		}
		var cs []*exec.Cmd
		for range n / 2 {
			// Each is a shell with a child.
			c := exec.Command("sh", "-c", "cat <&3 4>&- & exec 4>&-; wait")
			c.ExtraFiles = []*os.File{pr, said}
			if err := c.Start(); err != nil {
				return complain("%v", err)
			}
			cs = append(cs, c)
		}
		said.Close()
		pr.Close()
		io.Copy(io.Discard, say) // until all children of shells are there
		unix.Syscall(trap, mark, 0, 0)
		pw.Close()
		for _, c := range cs {
			c.Wait()
		}
		return 0
	}
	// Starts and ends processes all the time, until the call returns.
	guests["fork bomb"] = func([]string) int {
		var wg sync.WaitGroup
		stop := make(chan bool)
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						exec.Command("true").Run()
					}
				}
			})
		}
		unix.Syscall(trap, 0, 0, 0)
		close(stop)
		wg.Wait()
		return 0
	}
	// Leaves an orphan that ends when the descriptor 0 does, and ends.
	guests["leaves orphan"] = func([]string) int {
		c := exec.Command("cat")
		c.Stdin = os.Stdin
		if err := c.Start(); err != nil {
			return complain("%v", err)
		}
		fmt.Println(c.Process.Pid)
		return 0
	}
}

// processes are those of the tree.
func processes() (pids []int, err error) {
	err = walk(func(pid, dir int) { pids = append(pids, pid) })
	return pids, err
}

func TestSurvey(t *testing.T) {
	var found Survey
	var r *run
	known := make(chan struct{})
	var tree []int
	r = start(t, trapAll, func(n *Notification) {
		<-known
		var err error
		if found, err = r.Survey(n.Args[0]); err != nil {
			t.Error(err)
		}
		if none, err := r.Survey(1); len(none.Holders) != 0 || err != nil {
			t.Errorf("of another socket: %v, %v", none, err)
		}
		if tree, err = processes(); err != nil {
			t.Error(err)
		}
		n.Continue()
	}, "holders")
	close(known)
	out := r.good()
	var got []string
	for _, h := range found.Holders {
		got = append(got, fmt.Sprint(h.PID, h.FD))
	}
	sort.Strings(got)
	if strings.Join(got, "\n") != out {
		t.Errorf("%v\ninstead of\n%s", got, out)
	}
	if len(tree) != 3 || !slices.Contains(tree, r.PID()) || slices.Contains(tree, os.Getpid()) {
		t.Errorf("the tree is %v", tree)
	}
}

func TestManyProcesses(t *testing.T) {
	const n = 200
	var r *run
	known := make(chan struct{})
	r = start(t, trapAll, func(note *Notification) {
		defer note.Continue()
		if note.Args[0] != mark { // a shell that asks for its parent
			return
		}
		<-known
		tree, err := processes()
		if err != nil || len(tree) != n+1 {
			t.Errorf("%d processes, %v", len(tree), err)
		}
		slices.Sort(tree)
		if len(slices.Compact(tree)) != len(tree) {
			t.Error("one is there twice")
		}
		if _, err := r.Survey(1); err != nil {
			t.Error(err)
		}
	}, "many processes", fmt.Sprint(n))
	close(known)
	r.good()
}

func TestForkBomb(t *testing.T) {
	var r *run
	known := make(chan struct{})
	r = start(t, trapAll, func(n *Notification) {
		<-known
		defer n.Continue()
		for range 20 {
			tree, err := processes()
			if err != nil && err != ErrTreeMoves || !slices.Contains(tree, n.PID) && !slices.Contains(tree, r.PID()) {
				t.Errorf("%v, %v", tree, err)
			}
			if _, err := r.Survey(1); err != nil && err != ErrTreeMoves {
				t.Errorf("Survey: %v", err)
			}
		}
	}, "fork bomb")
	close(known)
	r.good()
}

// TestOrphansAreBuried: they are ours, are seen, and do not stay zombies. Other
// children of ours are left alone.
func TestOrphansAreBuried(t *testing.T) {
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pw.Close()
	r := startWith(t, &Command{Stdio: [3]*os.File{pr}}, trapAll, goOn, self, asProgram, "leaves orphan")
	pr.Close()
	if status, err := r.Wait(); status != 0 || err != nil {
		t.Fatal(status, err)
	}
	tree, err := processes()
	if err != nil || len(tree) != 1 {
		t.Fatalf("%v, %v", tree, err)
	}
	orphan, err := unix.PidfdOpen(tree[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(orphan)
	own := exec.Command("true")
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	pw.Close()
	poll(t, orphan)
	out, _ := r.end()
	if strings.TrimSpace(out) != fmt.Sprint(tree[0]) {
		t.Errorf("%q, not %d", out, tree[0])
	}
	// Once it is buried, nobody has its number.
	for unix.PidfdSendSignal(orphan, syscall.Signal(0), nil, 0) == nil {
		runtime.Gosched()
	}
	if err := own.Wait(); err != nil {
		t.Errorf("a child of ours: %v", err)
	}
}
