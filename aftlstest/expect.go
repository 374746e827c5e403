package aftlstest

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Expected reports whether the environment variable AFTLS_EXPECT, a list with
// commas, names one of the given words. Where it does, a test that needs the
// thing must fail without it, not skip: a machine that is set up for a tier of
// tests would otherwise lose the tier without a word.
func Expected(words ...string) bool {
	for w := range strings.SplitSeq(os.Getenv("AFTLS_EXPECT"), ",") {
		if w = strings.TrimSpace(w); w != "" && slices.Contains(words, w) {
			return true
		}
	}
	return false
}

// Need returns the path of a program that somebody else wrote. When there is no
// such program in PATH the test is skipped, or fails if AFTLS_EXPECT names the
// program or its family: the word in front of the first dash, such as gnutls of
// gnutls-cli.
func Need(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	family, _, _ := strings.Cut(program, "-")
	if Expected(program, family) {
		t.Fatalf("the program %s is missing, and AFTLS_EXPECT says that it is here: %v", program, err)
	}
	t.Skipf("the program %s is missing: %v", program, err)
	return ""
}
