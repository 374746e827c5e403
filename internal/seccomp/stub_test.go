//go:build !(linux && amd64)

package seccomp

import (
	"errors"
	"testing"
)

func TestUnsupported(t *testing.T) {
	if err := Supported(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("Supported() = %v", err)
	}
}
