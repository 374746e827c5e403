// Package vm runs programs, above all the binaries of 'go test', inside real Linux
// kernels: QEMU boots a kernel of Debian that scripts/kernels has unpacked, with an
// initramfs that is made for this one run. Nothing is installed, on either side.
//
//	Machine.Run ──▶ initramfs: our own binary as /init, modules, programs, a job
//	     │                          (cpio.go, module_linux.go, image_linux.go)
//	     ▼
//	QEMU boots ──▶ Guest, process 1: mounts, modules, loopback, the programs
//	     │                                             (guest_linux.go)
//	     ◀── frames over a virtio port: output, files, exits (frame.go)
//
// The console of the kernel is a file of its own, so that no message of the kernel
// can be taken for output of a test. The guest has no network but its loopback, and
// sees no file of the host but those that were copied. It is trusted like the test
// binary that runs in it; what it sends is bounded all the same.
//
// vmexec is the runner for 'go test -exec'; vmtest runs the tests of packages on
// every kernel and prints a table.
package vm
