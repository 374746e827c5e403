package aftls_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/internal/soft"
)

// processes are what this binary is when a test starts it as another process.
var processes = map[string]func() error{}

// After all tests no buffer is borrowed, and no goroutine of ours is left.
func TestMain(m *testing.M) {
	if run := processes[os.Getenv("AFTLS_TEST_PROCESS")]; run != nil {
		if err := run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if code == 0 {
		if left := aftlstest.LeftBehind(soft.Borrowed); left != "" {
			fmt.Fprintln(os.Stderr, left)
			code = 1
		}
	}
	os.Exit(code)
}
