package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
)

// asProgram is what the test binary is in a guest.
const asProgram = "AFTLS_VM_TEST"

var programs = map[string]func() int{
	"hello": func() int {
		dir, _ := os.Getwd()
		data, err := os.ReadFile("testdata/in-the-guest")
		fmt.Printf("%s %s %s %q %s %v\n", os.Args[1], os.Getenv("AFTLS_VM"), dir, data, os.Getenv("HOME"), err)
		fmt.Fprintln(os.Stderr, "on stderr")
		return 7
	},
	"signal": func() int {
		syscall.Kill(os.Getpid(), syscall.SIGTERM)
		select {}
	},
	// What it leaves behind holds its output open, and must not hold up the next one.
	"orphan": func() int {
		c := exec.Command(os.Args[0])
		c.Env, c.Stdout = append(os.Environ(), asProgram+"=hang"), os.Stdout
		if err := c.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	},
	"hang": func() int {
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Hour)
		return 0
	},
	"files": func() int {
		for _, name := range os.Args[1:] {
			if err := os.WriteFile(name, bytes.Repeat([]byte("0123456789abcdef"), 1<<17), 0o600); err != nil {
				fmt.Println(err)
				return 1
			}
		}
		return 0
	},
	// A program of the host with its libraries, where the host has it.
	"tool": func() int {
		c := exec.Command("openssl", "version")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Run(); err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	},
	"loopback": func() int {
		b, err := os.ReadFile("/proc/net/dev")
		if err != nil {
			return 1
		}
		os.Stdout.Write(b)
		return 0
	},
}

func TestMain(m *testing.M) {
	if run := programs[os.Getenv(asProgram)]; run != nil {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

// needMachine returns a kernel and the file of process 1, which is vmexec.
func needMachine(t *testing.T) (Kernel, string) {
	t.Helper()
	kernel, err := FindKernel("")
	if err == nil {
		_, err = exec.LookPath("qemu-system-x86_64")
	}
	if err != nil {
		if aftlstest.Expected("vm") {
			t.Fatalf("a kernel to boot is missing, and AFTLS_EXPECT says that it is here: %v", err)
		}
		t.Skipf("a kernel to boot is missing: %v", err)
	}
	file := filepath.Join(t.TempDir(), "vmexec")
	c := exec.Command("go", "build", "-o", file, "./vmexec")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return kernel, file
}

func TestProgramsInAGuest(t *testing.T) {
	kernel, vmexec := needMachine(t)
	dir, self := t.TempDir(), os.Args[0]
	if err := os.Mkdir(filepath.Join(dir, "testdata"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "testdata", "in-the-guest"), []byte("taken along"), 0o600); err != nil {
		t.Fatal(err)
	}
	profile, folder := filepath.Join(dir, "new", "profile"), filepath.Join(dir, "folder")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	type end struct {
		name  string
		code  int
		check func(t *testing.T, e Exit, stdout, stderr string)
	}
	ends := []end{
		{"hello", 7, func(t *testing.T, _ Exit, stdout, stderr string) {
			if want := fmt.Sprintf("word %s %s %q /root <nil>\n", kernel.Release, dir, "taken along"); stdout != want || stderr != "on stderr\n" {
				t.Errorf("stdout %q, want %q; stderr %q", stdout, want, stderr)
			}
		}},
		{"signal", 128 + 15, func(t *testing.T, e Exit, _, _ string) {
			if e.Signal != "terminated" {
				t.Errorf("%+v", e)
			}
		}},
		{"orphan", 0, nil},
		{"hang", 128 + 9, func(t *testing.T, e Exit, _, _ string) {
			if e.Error != "killed after 1 s" {
				t.Errorf("%+v", e)
			}
		}},
		{"files", 0, nil},
		{"loopback", 0, func(t *testing.T, _ Exit, stdout, _ string) {
			if !strings.Contains(stdout, "lo:") || strings.Contains(stdout, "eth0:") {
				t.Errorf("the network:\n%s", stdout)
			}
		}},
	}
	if version, err := exec.Command("openssl", "version").Output(); err == nil {
		ends = append(ends, end{"tool", 0, func(t *testing.T, _ Exit, stdout, stderr string) {
			if stdout != string(version) {
				t.Errorf("openssl of the guest: %q %q, of the host: %q", stdout, stderr, version)
			}
		}})
	} else if aftlstest.Expected("openssl") {
		t.Errorf("the program openssl is missing, and AFTLS_EXPECT says that it is here: %v", err)
	} else {
		t.Logf("the program openssl is missing, so no tool is tried in the guest: %v", err)
	}
	var all []Program
	out, errs := make([]bytes.Buffer, len(ends)), make([]bytes.Buffer, len(ends))
	for i, e := range ends {
		p := Program{Path: self, Dir: dir, Env: []string{asProgram + "=" + e.name}, Stdout: &out[i], Stderr: &errs[i], Args: []string{"word"}}
		switch e.name {
		case "hang":
			p.Timeout = time.Second
		case "files":
			p.Args, p.Back = []string{profile, filepath.Join(folder, "a"), filepath.Join(folder, "b"), "/tmp/not-asked-for"}, []string{profile, folder, filepath.Join(dir, "never-made")}
		}
		all = append(all, p)
	}
	var log, complaints bytes.Buffer
	exits, err := Machine{Kernel: kernel, Tools: []string{"openssl", "no-such-tool"}, Log: &log, Stderr: &complaints}.Run(t.Context(), vmexec, all...)
	if err != nil || len(exits) != len(ends) {
		t.Fatalf("%+v, %v\n%s", exits, err, log.Bytes())
	}
	for i, e := range ends {
		if exits[i].Code != e.code {
			t.Errorf("%s: %+v\n%s%s", e.name, exits[i], out[i].Bytes(), errs[i].Bytes())
		}
		if e.check != nil {
			e.check(t, exits[i], out[i].String(), errs[i].String())
		}
	}
	for _, name := range []string{profile, filepath.Join(folder, "a"), filepath.Join(folder, "b")} {
		b, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(b, bytes.Repeat([]byte("0123456789abcdef"), 1<<17)) {
			t.Errorf("%s: %d bytes came back, %v", name, len(b), err)
		}
	}
	if _, err := os.Stat("/tmp/not-asked-for"); err == nil {
		t.Error("a file came back that nobody asked for")
	}
	if !strings.Contains(log.String(), kernel.Release) {
		t.Errorf("the log does not say which kernel it was:\n%s", log.Bytes())
	}
	if complaints.Len() > 0 {
		t.Errorf("%s", complaints.Bytes())
	}
}

// As people use it: exit codes and coverage of go test.
func TestGoTestInAGuest(t *testing.T) {
	kernel, vmexec := needMachine(t)
	profile := filepath.Join(t.TempDir(), "cover.out")
	c := exec.Command("go", "test", "-count=1", "-exec", vmexec, "-run", "^TestFrames$", "-v", "-coverprofile", profile, ".")
	c.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AFTLS_EXPECT=") }), "CGO_ENABLED=0", "AFTLS_VM_KERNEL="+kernel.Name)
	out, err := c.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestFrames")) {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(profile)
	if err != nil || !bytes.HasPrefix(b, []byte("mode: ")) || !bytes.Contains(b, []byte("internal/vm/frame.go")) {
		t.Errorf("coverage: %v\n%.200s", err, b)
	}
	if !bytes.Contains(out, []byte("in kernel "+kernel.Release)) {
		t.Errorf("it ran in no guest:\n%s", out)
	}
}

func TestWhatIsMissing(t *testing.T) {
	t.Setenv("AFTLS_KERNELS", t.TempDir())
	if _, err := FindKernel("6.1"); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "scripts/kernels") {
		t.Errorf("without kernels: %v", err)
	}
	k := fakeKernel(t, "6.1", "6.1.0-1-cloud-amd64")
	t.Setenv("AFTLS_KERNELS", filepath.Dir(k.dir))
	if _, err := FindKernel("6.12"); !errors.Is(err, ErrMissing) {
		t.Errorf("without this one: %v", err)
	}
	if got, err := FindKernel(""); err != nil || got != k {
		t.Errorf("%+v, %v, want %+v", got, err, k)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := (Machine{Kernel: k}).Run(t.Context(), os.Args[0]); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "qemu-system-x86") {
		t.Errorf("without QEMU: %v", err)
	}
}

// A machine that ends, or is stopped, before it says anything.
func TestMachineThatDoesNotAnswer(t *testing.T) {
	k := fakeKernel(t, "6.1", "6.1.0")
	vmexec := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(vmexec, []byte("not an ELF file"), 0o700); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	qemu := func(script string) {
		if err := os.WriteFile(filepath.Join(bin, "qemu-system-x86_64"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	qemu("echo 'no such machine' >&2; exit 1")
	if _, err := (Machine{Kernel: k}).Run(t.Context(), vmexec); err == nil || !strings.Contains(err.Error(), "QEMU ended before") || !strings.Contains(err.Error(), "no such machine") {
		t.Errorf("QEMU that fails: %v", err)
	}
	qemu("exec sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := (Machine{Kernel: k}).Run(ctx, vmexec); !errors.Is(err, context.Canceled) {
		t.Errorf("QEMU that hangs, and a caller who has no more time: %v", err)
	}
}

func fakeKernel(t *testing.T, name, release string) Kernel {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.MkdirAll(filepath.Join(dir, "modules"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "release"), []byte(release+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Kernel{Name: name, Release: release, dir: dir}
}

// Process 1 of a guest has no libraries.
func TestInitHasToBeStatic(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skipf("a program with shared libraries is missing: %v", err)
	}
	if libs, err := sharedLibraries(sh); err != nil || len(libs) == 0 {
		t.Skipf("a program with shared libraries is missing: sh has %v, %v", libs, err)
	}
	b := boot{Machine: Machine{Kernel: fakeKernel(t, "6.1", "6.1.0")}, dir: t.TempDir()}
	if err := b.writeImage(sh); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("%v", err)
	}
}

func TestModulesInOrder(t *testing.T) {
	all, err := Kernels()
	if err != nil {
		if aftlstest.Expected("vm") {
			t.Fatalf("kernels are missing, and AFTLS_EXPECT says that they are here: %v", err)
		}
		t.Skipf("kernels are missing: %v", err)
	}
	for _, k := range all {
		files, err := k.modules([]string{"tcp-diag", "tls", "no-such-module"})
		if err != nil {
			t.Errorf("%s: %v", k.Release, err)
			continue
		}
		var names []string
		for _, f := range files {
			names = append(names, filepath.Base(f))
		}
		at := func(name string) int { return slices.Index(names, name) }
		if at("tls.ko") < 0 || at("inet_diag.ko") < 0 || at("tcp_diag.ko") < at("inet_diag.ko") {
			t.Errorf("%s: %v", k.Release, names)
		}
	}
	k := fakeKernel(t, "x", "x")
	if err := os.WriteFile(filepath.Join(k.dir, "modules", "tls.ko"), []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.modules([]string{"tls"}); err == nil {
		t.Error("a file that is no module was taken")
	}
}

func TestReleasesInOrder(t *testing.T) {
	want := []string{"6.1.0-50-cloud-amd64", "6.12.9+deb13-cloud-amd64", "6.12.117+deb13-cloud-amd64", "7.3.4+deb13-cloud-amd64", "10.0"}
	got := []string{want[3], want[4], want[0], want[2], want[1]}
	slices.SortFunc(got, compareReleases)
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestTestFlags(t *testing.T) {
	p := Program{Dir: "/pkg", Args: []string{"-test.v=true", "-test.timeout=10m0s", "-test.coverprofile=/tmp/b/cover.out", "-test.outputdir=/out", "-test.cpuprofile=cpu.out",
		"--test.gocoverdir=/tmp/b/dir", "-test.run=X", "-other.coverprofile=/no", "coverprofile=/no"}}
	p.ReadTestFlags()
	if want := []string{"/tmp/b/cover.out", "/out/cpu.out", "/tmp/b/dir"}; !slices.Equal(p.Back, want) {
		t.Errorf("back: %v, want %v", p.Back, want)
	}
	if p.Timeout != 10*time.Minute+grace {
		t.Errorf("timeout: %v", p.Timeout)
	}
	if p = (Program{Args: []string{"-test.timeout=0s"}}); p.limit() != defaultTimeout {
		t.Errorf("without a timeout: %v", p.limit())
	}
}

func TestFilesThatNobodyAskedFor(t *testing.T) {
	dir := t.TempDir()
	b := boot{programs: []Program{{Back: []string{filepath.Join(dir, "cover"), filepath.Join(dir, "folder")}}}}
	begun := map[string]bool{}
	for _, name := range []string{dir + "/other", dir + "/cover/../other", dir + "/folder/../../other", dir + "/folderx", "cover", "/etc/passwd", ""} {
		if err := b.takeFile([]byte(name+"\x00bytes"), begun); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
	if err := b.takeFile([]byte(dir+"/cover"), begun); err == nil {
		t.Error("a file without a name's end was taken")
	}
	for _, part := range []string{"one", "two"} {
		if err := b.takeFile([]byte(dir+"/folder/sub/file\x00"+part), begun); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(dir + "/folder/sub/file"); err != nil || string(got) != "onetwo" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestComplaints(t *testing.T) {
	console := "[    1.0] virtio_net virtio0: fine\n[    2.0] WARNING: CPU: 0 PID: 1 at net/tls/tls_sw.c:1\n[    2.1]  dump_stack\n[    3.0] BUG: kernel NULL pointer dereference\n"
	if got := string(complaints([]byte(console))); strings.Count(got, "\n") != 2 || !strings.Contains(got, "tls_sw.c") || !strings.Contains(got, "NULL") {
		t.Errorf("%q", got)
	}
}

func TestArchive(t *testing.T) {
	var b bytes.Buffer
	c := newCPIO(&b)
	c.dir("/dev")
	c.file("/etc/ssl/cnf", 0o644, 5, strings.NewReader("abcde"))
	c.file("/etc/ssl/cnf", 0o644, 3, strings.NewReader("two")) // it is there
	c.file("/etc/empty", 0o600, 0, strings.NewReader(""))
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	type entry struct {
		name, mode, content string
	}
	var got []entry
	for rest := b.Bytes(); len(rest) > 0; {
		if len(rest) < 110 || string(rest[:6]) != "070701" {
			t.Fatalf("no entry at %d bytes before the end", len(rest))
		}
		field := func(i int) (n int) {
			fmt.Sscanf(string(rest[6+8*i:14+8*i]), "%08x", &n)
			return n
		}
		size, nameLen := field(6), field(11)
		e := entry{name: string(rest[110 : 110+nameLen-1]), mode: fmt.Sprintf("%o", field(1))}
		at := (110 + nameLen + 3) &^ 3
		e.content = string(rest[at : at+size])
		rest = rest[(at+size+3)&^3:]
		got = append(got, e)
	}
	want := []entry{{"dev", "40755", ""}, {"etc", "40755", ""}, {"etc/ssl", "40755", ""}, {"etc/ssl/cnf", "100644", "abcde"}, {"etc/empty", "100600", ""}, {"TRAILER!!!", "0", ""}}
	if !slices.Equal(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
	short := newCPIO(io.Discard)
	short.file("/short", 0o600, 10, strings.NewReader("less"))
	if err := short.close(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file that became shorter: %v", err)
	}
}
