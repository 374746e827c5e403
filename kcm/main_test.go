package kcm_test

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/aftls/aftls/kcm"
)

// After all tests no buffer is borrowed, and no goroutine of ours is left.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := leftBehind(); left != "" {
			fmt.Fprintln(os.Stderr, left)
			code = 1
		}
	}
	os.Exit(code)
}

// leftBehind says what the tests did not give back. What ends by itself gets
// some time for it.
func leftBehind() (left string) {
	for start := time.Now(); time.Since(start) < 10*time.Second; runtime.Gosched() {
		left = ""
		if n := kcm.Borrowed(); n != 0 {
			left = fmt.Sprintf("%d buffers are still borrowed", n)
		}
		for _, g := range goroutines() {
			left += "\na goroutine is left behind:\n" + string(g)
		}
		if left == "" {
			return ""
		}
	}
	return left
}

// goroutines returns the stacks of all goroutines that run code of this module,
// but for the one that asks, which is the first in the dump.
func goroutines() (out [][]byte) {
	for size := 1 << 16; ; size *= 2 {
		b := make([]byte, size)
		n := runtime.Stack(b, true)
		if n == size {
			continue
		}
		for _, g := range bytes.Split(b[:n], []byte("\n\n"))[1:] {
			if bytes.Contains(g, []byte("aftls/kcm")) {
				out = append(out, g)
			}
		}
		return out
	}
}
