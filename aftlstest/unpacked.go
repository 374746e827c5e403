package aftlstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Unpacked is a folder of unpacked packages of another release of Debian, with
// programs that run with that release's libraries (.ci/peers makes it).
type Unpacked struct{ root, libs string }

// NeedUnpacked returns the packages of a release, which must have the given file.
// The folders of all releases are in the one that AFTLS_PEERS names. Without it the
// test is skipped, or fails if AFTLS_EXPECT names the word.
func NeedUnpacked(t testing.TB, word, release, file string) Unpacked {
	t.Helper()
	dir := os.Getenv("AFTLS_PEERS")
	root := filepath.Join(dir, release)
	libs, _ := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	_, err := os.Stat(filepath.Join(root, file))
	if dir != "" && len(libs) == 1 && err == nil {
		return Unpacked{root, libs[0]}
	}
	if Expected(word) {
		t.Fatalf("%s of Debian %s is missing in the folder AFTLS_PEERS=%q, and AFTLS_EXPECT says that it is there", word, release, dir)
	}
	t.Skipf("%s of Debian %s is missing (.ci/peers takes it, AFTLS_PEERS names its folder)", word, release)
	return Unpacked{}
}

// Command is a program of the release, or one that Compile made, and how to start it.
func (u Unpacked) Command(program string, args ...string) Command {
	if !filepath.IsAbs(program) {
		program = filepath.Join(u.root, program)
	}
	loader, _ := filepath.Glob(filepath.Join(u.libs, "ld-linux*"))
	if len(loader) == 0 {
		loader = []string{"the loader of " + u.root}
	}
	return Command{Name: loader[0], Args: append([]string{"--library-path", u.libs, program}, args...)}
}

// Compile makes a program of a source in C with libraries of the release, and
// returns its path.
func (u Unpacked) Compile(t testing.TB, source string, libraries ...string) string {
	t.Helper()
	// This machine's C library comes first: the compiler is made for it. At run
	// time it is that of the release, which has more symbols.
	flags := []string{"-idirafter", filepath.Join(u.root, "usr/include"), "-L", u.libs, "-Wl,--allow-shlib-undefined"}
	program, err := CompileC(t, source, flags, libraries...)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// CompileC makes a program of a source in C with the libraries and further flags
// of the compiler. The error has what that said.
func CompileC(t testing.TB, source string, flags []string, libraries ...string) (program string, err error) {
	t.Helper()
	program = filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(source), ".c"))
	args := append([]string{"-O1", "-Wall", "-o", program, source}, flags...)
	for _, l := range libraries {
		args = append(args, "-l"+l)
	}
	out, err := exec.Command(Need(t, "cc"), args...).CombinedOutput()
	if err != nil {
		return "", &exec.Error{Name: "cc " + source, Err: &compileError{string(out)}}
	}
	return program, nil
}

type compileError struct{ said string }

func (e *compileError) Error() string { return e.said }
