package aftlstest

import (
	"bytes"
	"fmt"
	"runtime"
	"time"

	"github.com/aftls/aftls/internal/kernel"
	"github.com/aftls/aftls/internal/soft"
)

// borrowed is how many buffers both providers have lent.
func borrowed() int64 { return soft.Borrowed() + kernel.Borrowed() }

// LeftBehind says what the tests of a package did not give back, for the end of a
// TestMain: buffers, as borrowed counts them (nil for none), and goroutines that run
// code of this module. It is empty when nothing is left. What ends by itself gets 10
// seconds for it.
func LeftBehind(borrowed func() int64) (left string) {
	for start := time.Now(); time.Since(start) < 10*time.Second; runtime.Gosched() {
		left = ""
		if borrowed != nil {
			if n := borrowed(); n != 0 {
				left = fmt.Sprintf("%d buffers are still borrowed", n)
			}
		}
		// The first in the dump is the one that asks.
		for _, g := range bytes.Split(stacks(), []byte("\n\n"))[1:] {
			if bytes.Contains(g, []byte("aftls")) {
				left += "\na goroutine is left behind:\n" + string(g)
			}
		}
		if left == "" {
			return ""
		}
	}
	return left
}
