package features

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/internal/kernel/probe"
)

func TestThreeAnswers(t *testing.T) {
	refused := func(e syscall.Errno) error { return os.NewSyscallError("setsockopt", e) }
	rekey, ulp, gcm := trials[Rekey], trials[ULP], trials[TLS13AES128GCM]
	for _, c := range []struct {
		name   string
		trial  trial
		err    error
		answer Answer
		reason string // part of it
	}{
		{"done", rekey, nil, Yes, ""},
		{"refused", rekey, refused(syscall.EBUSY), No, "one key"},
		{"done wrongly", rekey, fmt.Errorf("%w: 3 bytes", probe.ErrWrong), No, "outcome is wrong"},
		{"forbidden", ulp, refused(syscall.EPERM), Unknown, "may not try"},
		{"forbidden", gcm, refused(syscall.EACCES), Unknown, "may not try"},
		{"no descriptors", ulp, refused(syscall.EMFILE), Unknown, "could not be tried"},
		{"no memory", gcm, refused(syscall.ENOMEM), Unknown, "could not be tried"},
		{"never came", rekey, refused(syscall.EAGAIN), Unknown, "could not be tried"},
		{"an errno of something else", rekey, refused(syscall.ENOENT), Unknown, "could not be tried"},
		{"no errno at all", gcm, errors.New("another process connected"), Unknown, "another process"},
		{"cipher unknown", gcm, refused(syscall.EINVAL), No, "does not have the cipher"},
		{"cipher not loaded", gcm, refused(syscall.ENOENT), No, "not loaded"},
	} {
		r := c.trial.explain(c.err)
		if r.Answer != c.answer || !strings.Contains(r.Reason, c.reason) {
			t.Errorf("%s: %+v, want %v with %q", c.name, r, c.answer, c.reason)
		}
		if r.Answer == No && r.Remedy == "" {
			t.Errorf("%s: a no without a remedy: %+v", c.name, r)
		}
	}
}

// A conclusive answer is asked for once, another one each time.
func TestConclusiveAnswersAreRemembered(t *testing.T) {
	for _, c := range []struct {
		name    string
		err     error
		changes bool
		times   int
	}{
		{"yes", nil, false, 1},
		{"no", syscall.EBUSY, false, 1},
		{"no that can be mended", syscall.EBUSY, true, 3},
		{"unknown", syscall.EMFILE, false, 3},
	} {
		f, times := Feature("test-"+c.name), 0
		trials[f] = trial{
			try: func() error { times++; return c.err },
			no:  map[syscall.Errno]string{syscall.EBUSY: "no"}, changes: c.changes,
		}
		first := Try(f)
		Try(f)
		if third := Try(f); third != first {
			t.Errorf("%s: %+v, then %+v", c.name, first, third)
		}
		delete(trials, f)
		if times != c.times {
			t.Errorf("%s: asked %d times, not %d", c.name, times, c.times)
		}
	}
	if r := Try("no such thing"); r.Answer != Unknown || r.Reason == "" {
		t.Errorf("%+v", r)
	}
}

func TestWhatNeedsAnother(t *testing.T) {
	defer func(old trial) { trials[ULP] = old }(trials[ULP])
	known.Lock()
	old := known.results
	known.results = map[Feature]Result{}
	known.Unlock()
	defer func() { known.results = old }()
	trials[ULP] = trial{try: func() error { return syscall.EMFILE }}
	if r := Try(Sendfile); r.Answer != Unknown || !strings.Contains(r.Reason, string(TLS13AES128GCM)) {
		t.Errorf("of an unknown: %+v", r)
	}
	trials[ULP] = trial{try: func() error { return syscall.ENOPROTOOPT }, no: map[syscall.Errno]string{syscall.ENOPROTOOPT: "old"}}
	if r := Try(Rekey); r.Answer != No {
		t.Errorf("of a no: %+v", r)
	}
}

func TestWhereTheModuleIs(t *testing.T) {
	write := func(root, name, content string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if filepath.Ext(name) != ".gz" {
			f.WriteString(content)
			return
		}
		z := gzip.NewWriter(f)
		z.Write([]byte(content))
		z.Close()
	}
	const without, with = "CONFIG_NET=y\n# CONFIG_TLS is not set\nCONFIG_TLS_DEVICE_NOT=y\n", "CONFIG_TLS=m\n"
	for _, c := range []struct {
		name, file, content string
		want                standing
	}{
		{"loaded", "proc/net/tls_stat", "", present},
		{"loaded, no statistics", "sys/module/tls/refcnt", "0", present},
		{"a file", "lib/modules/6.1/kernel/net/tls/tls.ko.xz", "", loadable},
		{"of another kernel", "lib/modules/6.2/kernel/net/tls/tls.ko", "", unclear},
		{"built without", "proc/config.gz", without, unbuilt},
		{"built without, says the other one", "boot/config-6.1", without, unbuilt},
		{"a module somewhere", "boot/config-6.1", with, unclear},
		{"nothing", "proc/version", "", unclear},
	} {
		root := t.TempDir()
		write(root, c.file, c.content)
		if got, where := netTLS(root, "6.1"); got != c.want || (got != unclear) != (where != "") {
			t.Errorf("%s: %v by %q, want %v", c.name, got, where, c.want)
		}
	}
	root := t.TempDir()
	write(root, "proc/config.gz", with)
	os.WriteFile(filepath.Join(root, "proc/config.gz"), []byte("no gzip"), 0o600)
	if got, _ := netTLS(root, "6.1"); got != unclear {
		t.Errorf("of garbage: %v", got)
	}
}

func TestCounters(t *testing.T) {
	got, err := parseCounters([]byte("TlsCurrTxSw                     \t3\nTlsDecryptError                 \t18446744073709551615\n"))
	if want := []Counter{{"TlsCurrTxSw", 3}, {"TlsDecryptError", 1<<64 - 1}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"TlsCurrTxSw\n", "TlsCurrTxSw x\n", "TlsCurrTxSw 1 2\n", "TlsCurrTxSw -1\n"} {
		if got, err := parseCounters([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
	_, err = Counters()
	if r := Try(Module); r.Answer == Yes && err != nil || r.Answer == No && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the module: %+v, its counters: %v", r, err)
	}
}

func TestEveryNoSaysWhyAndWhatToDo(t *testing.T) {
	for _, f := range All() {
		r := Try(f)
		t.Logf("%-26s %v %s", f, r.Answer, r.Reason)
		if r.Answer != Yes && r.Reason == "" {
			t.Errorf("%s: %v, and no reason", f, r.Answer)
		}
		if r.Answer == No && r.Remedy == "" && !strings.HasPrefix(r.Reason, "it needs ") {
			t.Errorf("%s: no, and no remedy: %s", f, r.Reason)
		}
	}
}

// answers are those of the kernels of internal/vm.
func TestAnswersInKernels(t *testing.T) {
	release := os.Getenv("AFTLS_VM")
	if release == "" {
		if aftlstest.Expected("kernel") {
			t.Fatal("a kernel of internal/vm is missing, and AFTLS_EXPECT says that this is one")
		}
		t.Skip("a kernel with known answers is missing: run 'make test-kernel'")
	}
	if Kernel() != release {
		t.Errorf("this is kernel %q, not %q", Kernel(), release)
	}
	old := strings.HasPrefix(release, "6.1.") || strings.HasPrefix(release, "6.12.")
	for _, f := range All() {
		want := Yes
		switch f {
		case Rekey, PayloadLimit:
			if old {
				want = No
			}
		case VAES: // the emulated processor has none
			want = No
		}
		if r := Try(f); r.Answer != want {
			t.Errorf("%s: %+v, want %v", f, r, want)
		} else if want == No {
			t.Logf("not there: %s: %s", f, r.Reason)
		}
	}
	if os.Getuid() != 0 {
		return
	}
	// Nobody needs to be root once the module is loaded.
	c := exec.Command(os.Args[0], "-test.v", "-test.run=^TestAnswersInKernels$")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestAnswersInKernels") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

func TestInterfaces(t *testing.T) {
	all, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all, func(i Interface) bool { return i.Name == "lo" && i.TX.Answer != Yes && i.TX.Reason != "" }) {
		t.Errorf("no loopback among %+v", all)
	}
	for _, c := range []struct {
		is     probe.Offload
		answer Answer
		remedy string
	}{{probe.On, Yes, ""}, {probe.Off, No, "run 'ethtool -K eth0 tls-hw-rx-offload on' as root"}, {probe.Lacking, No, ""}, {probe.Unnamed, Unknown, ""}} {
		if r := offload("eth0", "tls-hw-rx-offload", c.is); r.Answer != c.answer || r.Remedy != c.remedy {
			t.Errorf("%v: %+v", c.is, r)
		}
	}
}

func FuzzCounters(f *testing.F) {
	f.Add([]byte("TlsCurrTxSw                     \t0\nTlsCurrRxSw                     \t12\n"))
	f.Add([]byte("TlsCurrTxSw"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseCounters(b)
		if err != nil && all != nil {
			t.Error("counters and an error at once")
		}
	})
}
