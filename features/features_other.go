//go:build !linux

package features

import (
	"fmt"
	"io/fs"
	"runtime"
)

// ask tries f, without the memory.
func ask(Feature) Result {
	return Result{Answer: No, Reason: fmt.Sprintf("it takes Linux, and this is %s", runtime.GOOS), Remedy: "nothing is wrong: records are made in user space"}
}

func release() string { return "" }

// Interfaces needs Linux.
func Interfaces() ([]Interface, error) {
	return nil, fmt.Errorf("features: asking for the features of interfaces takes Linux, and this is %s", runtime.GOOS)
}

// Sockets needs Linux.
func Sockets() (tx, rx map[string]int, err error) {
	return nil, nil, fmt.Errorf("features: asking for TLS sockets takes Linux, and this is %s", runtime.GOOS)
}

// Counters needs Linux: the error Is [fs.ErrNotExist].
func Counters() ([]Counter, error) {
	return nil, fmt.Errorf("features: counters of TLS sockets take Linux, and this is %s: %w", runtime.GOOS, fs.ErrNotExist)
}
