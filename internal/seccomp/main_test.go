//go:build linux && amd64

package seccomp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
	"golang.org/x/sys/unix"
)

// The test binary is also the child of Start and the programs that run under it.
const (
	asChild   = "-seccomp-child"
	asProgram = "-seccomp-program"
)

// guests are the programs that a test may run. Each returns its exit status.
var guests = map[string]func(args []string) int{}

func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case asChild:
			Child(os.Args[2:])
		case asProgram:
			os.Exit(guests[os.Args[2]](os.Args[3:]))
		}
	}
	// Under the race detector each guest would sleep for a second at its end.
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	// What stays for good is made before the count.
	if err := startPoller(); err != nil {
		panic(err)
	}
	bury()
	fds, goroutines := openNow(), runtime.NumGoroutine()
	code := m.Run()
	// What is about to end gets the time to.
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		if runtime.NumGoroutine() <= goroutines+1 && slices.Equal(openNow(), fds) {
			break
		}
	}
	if now := openNow(); !slices.Equal(now, fds) {
		fmt.Printf("descriptors are left: %v, before there were %v\n", now, fds)
		for _, fd := range now {
			link, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			fmt.Println(fd, link)
		}
		code = 1
	}
	if n := runtime.NumGoroutine(); n > goroutines+1 { // one is of package os/signal
		fmt.Printf("%d goroutines are left, before there were %d\n", n, goroutines)
		pprof.Lookup("goroutine").WriteTo(os.Stdout, 1)
		code = 1
	}
	os.Exit(code)
}

// openNow returns the numbers of our descriptors.
func openNow() (open []int) {
	fds, err := numbers("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil { // not that of numbers
			open = append(open, fd)
		}
	}
	slices.Sort(open)
	return open
}

// need skips a test where programs cannot be supervised, or fails it if
// AFTLS_EXPECT has seccomp.
func need(t testing.TB) {
	t.Helper()
	err := Supported()
	if err == nil {
		return
	}
	if aftlstest.Expected("seccomp") {
		t.Fatalf("AFTLS_EXPECT says that seccomp user notification is here: %v", err)
	}
	t.Skipf("no seccomp user notification here: %v", err)
}

// trap is the call that the programs here use to be trapped. It has no effect,
// and most arguments are free.
const trap = unix.SYS_GETPPID

// self is how guests are run. It works for users who may not look for the file.
const self = "/proc/self/exe"

// A run is a supervised program of a test.
type run struct {
	t testing.TB
	*Process
	*Listener
	out    bytes.Buffer
	copied chan struct{}
	served chan error
}

// start runs a guest.
func start(t testing.TB, rules []Rule, h Handler, guest string, args ...string) *run {
	t.Helper()
	if _, ok := guests[guest]; !ok {
		t.Fatalf("no guest %q", guest)
	}
	return startCommand(t, rules, h, append([]string{self, asProgram, guest}, args...)...)
}

// startCommand runs any program.
func startCommand(t testing.TB, rules []Rule, h Handler, args ...string) *run {
	t.Helper()
	return startWith(t, &Command{}, rules, h, args...)
}

func startWith(t testing.TB, c *Command, rules []Rule, h Handler, args ...string) *run {
	t.Helper()
	need(t)
	f, err := Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pw.Close()
	c.Filter, c.Self, c.Args, c.Stdio[1], c.Stdio[2] = f, []string{asChild}, args, pw, pw
	r := &run{t: t, copied: make(chan struct{}), served: make(chan error, 1)}
	r.Process, r.Listener, err = Start(c)
	if err != nil {
		pr.Close()
		if errors.Is(err, ErrListenerExists) && !aftlstest.Expected("seccomp") {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	go func() {
		defer close(r.copied)
		defer pr.Close()
		io.Copy(&r.out, pr)
	}()
	go func() { r.served <- r.Serve(0, places, h) }()
	return r
}

// places is how many calls may be with Later.
const places = 1024

// end waits until everything ended and returns what the program wrote.
func (r *run) end() (string, syscall.WaitStatus) {
	r.t.Helper()
	status, err := r.Wait()
	if err != nil {
		r.t.Error(err)
	}
	if err := <-r.served; err != nil {
		r.t.Errorf("Serve: %v", err)
	}
	<-r.copied
	return r.out.String(), status
}

// good is end for a program that should be content.
func (r *run) good() string {
	r.t.Helper()
	out, status := r.end()
	if status != 0 {
		r.t.Errorf("the program ended with %v, and said:\n%s", status, out)
	}
	return strings.TrimSpace(out)
}

func complain(format string, args ...any) int {
	fmt.Printf(format+"\n", args...)
	return 1
}

// oldKernel is a variable of the environment: the tests run as on a kernel
// without what came later (rerun_test.go).
const oldKernel = "SECCOMP_TEST_OLD_KERNEL"
