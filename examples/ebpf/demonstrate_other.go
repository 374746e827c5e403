//go:build !linux

package main

import (
	"errors"
	"io"
)

func demonstrate(io.Writer) error { return errors.ErrUnsupported }
