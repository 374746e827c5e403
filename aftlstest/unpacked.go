package aftlstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// NeedUnpacked returns the folder with the given name in the one that AFTLS_PEERS
// names, which must have the given file: libraries and programs that are newer than
// this machine's (.ci/peers takes them). Without it the test is skipped, or fails if
// AFTLS_EXPECT names the word.
func NeedUnpacked(t testing.TB, word, name, file string) string {
	t.Helper()
	all := os.Getenv("AFTLS_PEERS")
	dir := filepath.Join(all, name)
	if _, err := os.Stat(filepath.Join(dir, file)); all != "" && err == nil {
		return dir
	}
	if Expected(word) {
		t.Fatalf("%s is missing in the folder %s of AFTLS_PEERS=%q, and AFTLS_EXPECT says that it is there", word, name, all)
	}
	t.Skipf("%s is missing: .ci/peers takes it into a folder, which AFTLS_PEERS is to name", word)
	return ""
}

// Release is the unpacked packages of another release of Debian. What is run from
// it has that release's libraries, the C library among them.
type Release struct{ root, libs string }

// NeedRelease is [NeedUnpacked] for a release.
func NeedRelease(t testing.TB, word, release, file string) Release {
	t.Helper()
	r := Release{root: NeedUnpacked(t, word, release, file)}
	libs, err := filepath.Glob(filepath.Join(r.root, "usr/lib/*-linux-gnu"))
	if err != nil || len(libs) != 1 {
		t.Fatalf("%s has its libraries in %v", r.root, libs)
	}
	r.libs = libs[0]
	return r
}

// Command is a program of the release, by its path there, or one that Compile made,
// and how to start it.
func (r Release) Command(program string, args ...string) Command {
	if !filepath.IsAbs(program) {
		program = filepath.Join(r.root, program)
	}
	loader, _ := filepath.Glob(filepath.Join(r.libs, "ld-linux*")) // none: there will be no such program
	return Command{Name: strings.Join(loader, " "), Args: append([]string{"--library-path", r.libs, program}, args...)}
}

// Compile makes a program of a source in C with libraries of the release, and
// returns its path.
func (r Release) Compile(t testing.TB, source string, libraries ...string) string {
	t.Helper()
	// This machine's headers come first, as its compiler expects. The libraries
	// may want more of the C library than it has: when they run they have theirs.
	flags := []string{"-idirafter", filepath.Join(r.root, "usr/include"), "-L", r.libs, "-Wl,--allow-shlib-undefined"}
	program, err := CompileC(t, source, flags, libraries...)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// CompileC makes a program of a source in C, with further flags of the compiler and
// with libraries, and returns its path. The error says what the compiler said.
func CompileC(t testing.TB, source string, flags []string, libraries ...string) (program string, err error) {
	t.Helper()
	program = filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(source), ".c"))
	args := append([]string{"-O1", "-Wall", "-o", program, source}, flags...)
	for _, l := range libraries {
		args = append(args, "-l"+l)
	}
	if out, err := exec.Command(Need(t, "cc"), args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("cc %s: %w\n%s", source, err, out)
	}
	return program, nil
}
