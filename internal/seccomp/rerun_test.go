//go:build linux && amd64

package seccomp

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Worlds in which something is missing. A filter without a listener makes them.
var worlds = map[string][]Rule{
	"forbidden": {{Nr: unix.SYS_SECCOMP, Then: Fail(unix.EPERM)}},
	"none":      {{Nr: unix.SYS_SECCOMP, Then: Fail(unix.ENOSYS)}},
	"no notifications": {
		{Nr: unix.SYS_SECCOMP, When: []Test{ArgHasAny(1, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)}, Then: Fail(unix.EINVAL)},
		{Nr: unix.SYS_SECCOMP, When: []Test{ArgIn(0, unix.SECCOMP_GET_ACTION_AVAIL)}, Then: Fail(unix.EOPNOTSUPP)},
	},
	// Before what came with 5.19, 6.6 and 6.9.
	"old": {
		{Nr: unix.SYS_SECCOMP, When: []Test{ArgHasAny(1, unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)}, Then: Fail(unix.EINVAL)},
		{Nr: unix.SYS_PIDFD_OPEN, When: []Test{ArgHasAny(1, unix.PIDFD_THREAD)}, Then: Fail(unix.EINVAL)},
		{Nr: unix.SYS_IOCTL, When: []Test{ArgIn(1, ioctlSetFlags)}, Then: Fail(unix.EINVAL)},
	},
}

func init() {
	// Becomes another program in one of the worlds.
	guests["confined"] = func(args []string) int {
		f, err := Compile(worlds[args[0]])
		if err != nil {
			return complain("%v", err)
		}
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return complain("%v", err)
		}
		prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
		_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
		if errno != 0 {
			return complain("%v", errno)
		}
		return complain("%v", syscall.Exec(self, append([]string{self}, args[1:]...), os.Environ()))
	}
	guests["supported"] = func([]string) int {
		err := Supported()
		fmt.Println(err == nil, errors.Is(err, ErrUnsupported), errors.Is(err, ErrForbidden))
		return 0
	}
}

// confined has a shell between, since a child of ours that is under a filter is
// taken for one of a program (Start).
func confined(args ...string) *exec.Cmd {
	return exec.Command("sh", append([]string{"-c", `"$@"; exit $?`, "sh", fmt.Sprintf("/proc/%d/exe", os.Getpid()), asProgram, "confined"}, args...)...)
}

func TestRefusals(t *testing.T) {
	need(t)
	for world, want := range map[string][2]string{
		"forbidden":        {"false false true", "forbidden"},
		"none":             {"false true false", "unsupported"},
		"no notifications": {"false true false", "unsupported"},
		"old":              {"true false false", ""},
	} {
		for i, guest := range [][]string{{"supported"}, {"supervise", "true"}} {
			c := confined(append([]string{world, asProgram}, guest...)...)
			c.Stderr = os.Stderr
			out, _ := c.Output()
			if got := strings.TrimSpace(string(out)); got != want[i] {
				t.Errorf("%s, %s: %q instead of %q", world, guest[0], got, want[i])
			}
		}
	}
}

func TestRefusalErrors(t *testing.T) {
	for errno, want := range map[unix.Errno]error{
		unix.EBUSY: ErrListenerExists, unix.EPERM: ErrForbidden, unix.EACCES: ErrForbidden,
		unix.ENOSYS: ErrUnsupported, unix.EINVAL: ErrUnsupported, unix.ENOMEM: unix.ENOMEM,
	} {
		if err := refusal(errno); !errors.Is(err, want) {
			t.Errorf("%v: %v", errno, err)
		}
	}
	if err := refusal(0); err != nil {
		t.Error(err)
	}
}

// rerun runs the tests of this binary once more.
func rerun(t *testing.T, c *exec.Cmd) {
	t.Helper()
	need(t)
	if os.Getenv(isRerun) != "" {
		t.Skip("this is a second run")
	}
	c.Args = append(c.Args, "-test.v", "-test.skip=^(TestUnprivileged|TestOldKernel|TestMoveAllCallsNothing)$")
	c.Env = append(append(os.Environ(), isRerun+"=1"), c.Env...)
	c.Dir = "/"
	out, err := c.CombinedOutput()
	if err != nil || strings.Count(string(out), "\n--- PASS") < 30 {
		t.Errorf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "--- SKIP") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

const isRerun = "SECCOMP_TEST_RERUN"

// TestUnprivileged: all works for a user without any privilege.
func TestUnprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this user is no root, and the other tests show it")
	}
	const nobody = 65534
	c := exec.Command(self)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	rerun(t, c)
}

// TestOldKernel: all works with what Linux 5.14 has. There a signal interrupts a
// trapped call, which programs in Go have all the time unless asked not to.
func TestOldKernel(t *testing.T) {
	c := confined("old")
	c.Env = []string{oldKernel + "=1", "GODEBUG=asyncpreemptoff=1"}
	rerun(t, c)
}
