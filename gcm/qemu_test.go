// The race detector's memory layout is not possible in QEMU.

//go:build linux && amd64 && !race

package gcm_test

import (
	"strings"
	"testing"

	"github.com/aftls/aftls/aftlstest"
)

// On processors that lack instructions nothing is run that they do not have:
// QEMU ends the process if it is. It emulates neither AVX-512 nor VPCLMULQDQ on
// 256 bits, so that all that can be seen this way is the retreat.
func TestOldProcessors(t *testing.T) {
	qemu := aftlstest.Need(t, "qemu-x86_64")
	const tests = "^(TestSays|TestImplementation|TestVectors|TestMisuse)$"
	for _, cpu := range []string{"max", "EPYC-Rome", "Haswell", "Westmere", "qemu64"} {
		for _, env := range []string{"AFTLS_GCM=", "AFTLS_GCM=avx2", "AFTLS_GCM=avx512"} {
			out := ask(t, tests, []string{env}, qemu, "-cpu", cpu)
			if !strings.Contains(out, "says generic; ") || !strings.Contains(out, "PASS") {
				t.Errorf("on a %s with %s a process says\n%s", cpu, env, out)
			}
		}
	}
}
