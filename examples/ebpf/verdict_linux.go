package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// The places of the map.
const (
	guarded   = 0 // what comes here is decided about
	elsewhere = 1 // what is redirected leaves here
)

// Verdict is an eBPF program that the kernel runs on what comes to a plaintext
// end, before the program that holds it can read it: a sk_skb verdict on a
// sockmap. It goes by the first byte of what was written at once, and does the same
// to all of that: 'D' is dropped, 'R' redirected, all else passes. On a stream it is
// the pump who says what is written at once: all records that have come by then.
type Verdict struct {
	sockets *ebpf.Map
	program *ebpf.Program
	out     *os.File
}

// NewVerdict loads the program. It takes CAP_BPF and CAP_NET_ADMIN, and Linux 5.15
// for Unix sockets in a sockmap.
func NewVerdict() (_ *Verdict, err error) {
	v := new(Verdict)
	defer func() {
		if err != nil {
			v.Close()
		}
	}()
	if v.sockets, err = ebpf.NewMap(&ebpf.MapSpec{Name: "plaintext_ends", Type: ebpf.SockMap, KeySize: 4, ValueSize: 4, MaxEntries: 2}); err != nil {
		return nil, fmt.Errorf("sockmap: %w", err)
	}
	const context, first = asm.R6, -8 // the first byte is put on the stack
	const drop, pass = 0, 1           // SK_DROP, SK_PASS of linux/bpf.h
	v.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "verdict", Type: ebpf.SkSKB, AttachType: ebpf.AttachSkSKBVerdict, License: "MIT", Instructions: asm.Instructions{
		asm.Mov.Reg(context, asm.R1),
		// bpf_skb_load_bytes(context, 0, first, 1)
		asm.Mov.Imm(asm.R7, 0),
		asm.StoreMem(asm.RFP, first, asm.R7, asm.DWord),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, first),
		asm.Mov.Imm(asm.R4, 1),
		asm.FnSkbLoadBytes.Call(),
		asm.LoadMem(asm.R7, asm.RFP, first, asm.Byte),
		asm.JEq.Imm(asm.R7, 'D', "drop"),
		asm.JEq.Imm(asm.R7, 'R', "redirect"),
		asm.Mov.Imm(asm.R0, pass),
		asm.Return(),
		asm.Mov.Imm(asm.R0, drop).WithSymbol("drop"),
		asm.Return(),
		// bpf_sk_redirect_map(context, sockets, elsewhere, 0): out of that socket
		asm.Mov.Reg(asm.R1, context).WithSymbol("redirect"),
		asm.LoadMapPtr(asm.R2, v.sockets.FD()),
		asm.Mov.Imm(asm.R3, elsewhere),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnSkRedirectMap.Call(),
		asm.Return(),
	}})
	if err != nil {
		return nil, fmt.Errorf("sk_skb program: %w", err)
	}
	if err = link.RawAttachProgram(link.RawAttachProgramOptions{Target: v.sockets.FD(), Program: v.program, Attach: ebpf.AttachSkSKBVerdict}); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	return v, nil
}

// Guard has the program decide about what comes to end. What it redirects is read
// from the file that Guard returns. Both are the caller's.
func (v *Verdict) Guard(end *os.File) (redirected *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	v.out = os.NewFile(uintptr(fds[0]), "out of which the kernel redirects")
	redirected = os.NewFile(uintptr(fds[1]), "redirected")
	if err = v.sockets.Put(uint32(elsewhere), uint32(fds[0])); err == nil {
		err = v.sockets.Put(uint32(guarded), uint32(end.Fd()))
	}
	if err != nil {
		redirected.Close()
		return nil, fmt.Errorf("socket into the map: %w", err)
	}
	return redirected, nil
}

// Close takes the program off.
func (v *Verdict) Close() error {
	var errs []error
	if v.program != nil {
		errs = append(errs, v.program.Close())
	}
	if v.sockets != nil {
		errs = append(errs, v.sockets.Close())
	}
	if v.out != nil {
		errs = append(errs, v.out.Close()) // a map does not keep a socket open
	}
	return errors.Join(errs...)
}
