package aftlstest

import (
	"os/exec"
	"syscall"
)

// endWithParent ends the program when this process dies without its cleanups,
// as it does of a panic or of go test -timeout.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
