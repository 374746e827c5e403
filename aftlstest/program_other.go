//go:build !linux

package aftlstest

import "os/exec"

// endWithParent does nothing: only Linux knows how.
func endWithParent(*exec.Cmd) {}
