// Command vmexec runs a program inside a real Linux kernel under QEMU, as
//
//	go test -exec vmexec ./internal/kernel
//
// does with a test binary. Its output, its exit code, coverage and profiles come
// back as if it had run here. It is built with CGO_ENABLED=0, since the same file is
// process 1 of the guest; the test binary is best built so too.
//
// The environment says the rest:
//
//	AFTLS_VM_KERNEL  6.1, 6.12 or newest: a kernel of scripts/kernels (default: the newest one)
//	AFTLS_VM_TOOLS   programs to take along, such as "openssl curl strace"
//	AFTLS_VM_FILES   more files and folders to take along
//	AFTLS_VM_LOG     1: what the runner, the guest and the kernel say, on stderr
//
// Variables whose names start with AFTLS_ are handed to the program, GODEBUG and
// GOTRACEBACK too, and AFTLS_VM has the release of the kernel.
//
// Exit code 125 says that the machine failed, not the program.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/aftls/aftls/internal/vm"
)

const machineFailed = 125

func main() {
	vm.Guest()
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "vmexec: usage: go test -exec vmexec PACKAGE, or vmexec PROGRAM ARGS…")
		os.Exit(machineFailed)
	}
	// go test kills a runner whose test took too long: the machine must not outlive it.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	code, err := run(ctx, os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmexec:", err)
		code = machineFailed
	}
	os.Exit(code)
}

func run(ctx context.Context, path string, args []string) (int, error) {
	kernel, err := vm.FindKernel(os.Getenv("AFTLS_VM_KERNEL"))
	if err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	m := vm.Machine{
		Kernel: kernel,
		Tools:  strings.Fields(os.Getenv("AFTLS_VM_TOOLS")),
		Files:  strings.Fields(os.Getenv("AFTLS_VM_FILES")),
		Stderr: os.Stderr,
	}
	if os.Getenv("AFTLS_VM_LOG") != "" {
		m.Log = os.Stderr
	}
	p := vm.Program{Path: path, Args: args, Env: environment(), Dir: dir, Stdout: os.Stdout, Stderr: os.Stderr}
	p.ReadTestFlags()
	exits, err := m.Run(ctx, self, p)
	if err != nil {
		return 0, err
	}
	if e := exits[0]; e.Error != "" {
		return e.Code, errors.New(e.Error)
	} else if e.Signal != "" {
		fmt.Fprintln(os.Stderr, "vmexec: signal:", e.Signal)
	}
	return exits[0].Code, nil
}

// environment is what the program in the guest gets of ours.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "AFTLS_") || name == "GODEBUG" || name == "GOTRACEBACK" {
			env = append(env, v)
		}
	}
	return env
}
