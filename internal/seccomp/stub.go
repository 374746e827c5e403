//go:build !(linux && amd64)

package seccomp

import (
	"fmt"
	"runtime"
)

// Supported returns an error that wraps ErrUnsupported: this is not Linux on amd64.
func Supported() error {
	return fmt.Errorf("%w; this is %s on %s", ErrUnsupported, runtime.GOOS, runtime.GOARCH)
}
