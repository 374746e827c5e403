package kcm_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/kcm"
)

// After all tests no buffer is borrowed, and no goroutine of ours is left.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := aftlstest.LeftBehind(kcm.Borrowed); left != "" {
			fmt.Fprintln(os.Stderr, left)
			code = 1
		}
	}
	os.Exit(code)
}
