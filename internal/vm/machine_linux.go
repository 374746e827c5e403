package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A Machine is where programs run: a kernel, and what goes along with it.
type Machine struct {
	Kernel Kernel
	// Tools are programs of this machine that the guest has too, with the shared
	// libraries they need: names in PATH. One that is missing here is missing there.
	Tools []string
	// Files are copied to the same place in the guest, folders with all they have.
	Files []string
	// Log gets what the runner and the guest do, and the kernel's console; nil for
	// nothing.
	Log io.Writer
	// Stderr gets what the kernel complained of (BUG, WARNING); nil for nothing.
	Stderr io.Writer
}

// A Program is one that runs in a guest.
type Program struct {
	// Path is an executable of this machine, for Linux on amd64. Static is best; the
	// shared libraries of another kind are copied.
	Path string
	Args []string // without the program's name
	// Env is added to the little that every program has: PATH, HOME, TMPDIR, and
	// AFTLS_VM, the release of the kernel.
	Env []string
	// Dir is its working folder, with the same name in the guest. Its testdata is
	// copied, nothing else.
	Dir string
	// Back are files and folders that it makes and that are copied back, to the same
	// name.
	Back []string
	// Timeout is how long it may run; 0 for 10 minutes.
	Timeout time.Duration

	Stdout, Stderr io.Writer // nil for nowhere
}

// An Exit is how a program ended.
type Exit struct {
	Code    int    // its exit code, or 128 and the number of the signal
	Signal  string `json:",omitempty"`
	Seconds float64
	// Error says that it could not be started, or that it was killed after its Timeout.
	Error string `json:",omitempty"`
}

const (
	defaultTimeout = 10 * time.Minute
	// How long a guest may take until it answers. Emulated, on an idle machine with two
	// processors, it takes some seconds.
	bootTimeTCG = 2 * time.Minute
	bootTimeKVM = 20 * time.Second
	// consoleTail is how much of the console an error shows.
	consoleTail = 4 << 10
)

// Run boots the machine and runs the programs, one after another. It returns how
// those ended that did: when there is an error they may be fewer than the programs.
// Init is the file of an executable that calls Guest when it is process 1, and that
// is static. Where QEMU or the kernel is missing the error wraps ErrMissing.
func (m Machine) Run(ctx context.Context, initFile string, programs ...Program) ([]Exit, error) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, fmt.Errorf("vm: qemu-system-x86_64 is %w: install it (Debian: the package qemu-system-x86)", ErrMissing)
	}
	dir, err := os.MkdirTemp("", "aftls-vm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b := boot{Machine: m, qemu: qemu, dir: dir, programs: programs, started: time.Now()}
	if err := b.writeImage(initFile); err != nil {
		return nil, err
	}
	b.log("initramfs made")
	if hasKVM() {
		// A nested KVM may be there and not work: what counts is a guest that answers.
		exits, err := b.run(ctx, "kvm", bootTimeKVM)
		if b.up || ctx.Err() != nil {
			return exits, err
		}
		b.log("KVM does not work here, though it is there: %v", err)
	}
	return b.run(ctx, "tcg,thread=multi", bootTimeTCG)
}

// hasKVM reports whether this user may ask for KVM.
func hasKVM() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// A boot is one run of a machine.
type boot struct {
	Machine
	qemu     string
	dir      string // for the initramfs, the socket and the console
	programs []Program
	started  time.Time
	up       bool // the guest has answered
}

func (b *boot) log(format string, args ...any) {
	if b.Log != nil {
		fmt.Fprintf(b.Log, "vm %s %6.2fs: %s\n", b.Kernel.Name, time.Since(b.started).Seconds(), fmt.Sprintf(format, args...))
	}
}

// parameters are the kernel's. The guest is thrown away and alone: it can do
// without mitigations and self-tests, and a kernel that stumbles must stop.
const parameters = "console=ttyS0 quiet panic=-1 oops=panic rdinit=/init tsc=reliable no_timer_check " +
	"mitigations=off nokaslr cryptomgr.notests random.trust_cpu=on audit=0 apparmor=0 rcupdate.rcu_expedited=1"

func (b *boot) run(ctx context.Context, accelerator string, bootTime time.Duration) ([]Exit, error) {
	sock, console := filepath.Join(b.dir, "port"), filepath.Join(b.dir, "console")
	os.Remove(sock) // of the run before
	ln, err := net.Listen("unix", sock)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	// QEMU connects when it starts, so it is the guest that has to answer in time.
	booted, limit := time.Now().Add(bootTime), bootTime
	for _, p := range b.programs {
		limit += p.limit() + 10*time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.qemu, "-accel", accelerator, "-cpu", "max", "-smp", "2", "-m", "2048",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(b.Kernel.dir, "vmlinuz"), "-initrd", filepath.Join(b.dir, "initramfs"), "-append", parameters,
		"-serial", "file:"+console,
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=port,path="+sock, "-device", "virtserialport,chardev=port,name="+portName)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it has our programs' time, not its own
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		ln.Close() // nobody will connect any more
		ended <- err
	}()
	exits, err := b.converse(ctx, ln, booted)
	cancel()
	<-ended
	lines, _ := os.ReadFile(console)
	if b.Log != nil {
		b.Log.Write(lines)
	}
	if bad := complaints(lines); len(bad) > 0 && b.Stderr != nil {
		fmt.Fprintf(b.Stderr, "vm: kernel %s complains:\n%s", b.Kernel.Release, bad)
	}
	if err != nil {
		err = fmt.Errorf("%w\nqemu: %s\nend of the console:\n%s", err, bytes.TrimSpace(said.Bytes()), lines[max(0, len(lines)-consoleTail):])
	}
	return exits, err
}

// converse takes what the guest sends until all programs have ended.
func (b *boot) converse(ctx context.Context, ln net.Listener, booted time.Time) ([]Exit, error) {
	conn, err := ln.Accept()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("vm: QEMU ended before the guest ran: %w", err)
	}
	defer conn.Close()
	conn.SetReadDeadline(booted)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var exits []Exit
	files := map[string]bool{} // that have been begun
	r := bufio.NewReaderSize(conn, 64<<10)
	buf := make([]byte, 64<<10)
	for {
		t, content, err := readFrame(r, buf)
		if err != nil {
			switch {
			case ctx.Err() != nil:
				err = fmt.Errorf("the guest did not end in time: %w", ctx.Err())
			case errors.Is(err, os.ErrDeadlineExceeded):
				err = fmt.Errorf("the guest did not answer: %w", err)
			case errors.Is(err, io.EOF):
				err = errors.New("the guest went away")
			}
			return exits, fmt.Errorf("vm: kernel %s, after %d of %d programs: %w", b.Kernel.Release, len(exits), len(b.programs), err)
		}
		var p Program // the one that runs
		if len(exits) < len(b.programs) {
			p = b.programs[len(exits)]
		}
		switch t {
		case frameUp:
			b.up = true
			conn.SetReadDeadline(time.Time{}) // from here on ctx has the limit
			b.log("the guest is up: %s", content)
		case frameLog:
			b.log("guest: %s", content)
		case frameOut:
			if p.Stdout != nil {
				p.Stdout.Write(content)
			}
		case frameErr:
			if p.Stderr != nil {
				p.Stderr.Write(content)
			}
		case frameFile:
			if err := b.takeFile(content, files); err != nil {
				return exits, err
			}
		case frameExit:
			var e Exit
			if err := json.Unmarshal(content, &e); err != nil {
				return exits, fmt.Errorf("vm: how a program ended: %w", err)
			}
			exits = append(exits, e)
			b.log("%s ended with %d after %.1fs", filepath.Base(p.Path), e.Code, e.Seconds)
		case frameEnd:
			if len(exits) != len(b.programs) {
				return exits, fmt.Errorf("vm: the guest ended after %d of %d programs", len(exits), len(b.programs))
			}
			return exits, nil
		}
	}
}

// takeFile writes a part of a file that a program made. The guest does not choose
// where: only what was asked for is written.
func (b *boot) takeFile(content []byte, begun map[string]bool) error {
	n, data, ok := bytes.Cut(content, []byte{0})
	name := filepath.Clean(string(n))
	if !ok || !b.wanted(name) {
		return fmt.Errorf("vm: the guest sends the file %q, which nobody asked for", n)
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if !begun[name] {
		begun[name] = true
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func (b *boot) wanted(name string) bool {
	for _, p := range b.programs {
		for _, back := range p.Back {
			if back = filepath.Clean(back); name == back || strings.HasPrefix(name, back+"/") {
				return true
			}
		}
	}
	return false
}

func (p Program) limit() time.Duration {
	if p.Timeout > 0 {
		return p.Timeout
	}
	return defaultTimeout
}

// complaints are the lines in which a kernel says that it is broken.
func complaints(console []byte) []byte {
	var bad []byte
	for line := range bytes.Lines(console) {
		for _, sign := range []string{"BUG:", "WARNING:", "Oops", "Kernel panic", "refcount_t:", "unregister_netdevice: waiting"} {
			if bytes.Contains(line, []byte(sign)) {
				bad = append(bad, line...)
				break
			}
		}
	}
	return bad
}
