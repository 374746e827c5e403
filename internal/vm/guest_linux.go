package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Guest is what process 1 of a guest does: it makes the system ready, runs the
// programs of the job, sends home what they write and how they end, and switches
// the machine off. It returns at once, with false, in a process that is not process
// 1; otherwise it never returns.
func Guest() bool {
	if os.Getpid() != 1 {
		return false
	}
	// Orphans of the tests end up here: only one thread waits for children, and for
	// all of them.
	runtime.LockOSThread()
	if err := guest(); err != nil {
		fmt.Println("aftls guest:", err) // to the console
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func guest() error {
	said := mountAll()
	text, err := os.ReadFile(jobFile)
	if err != nil {
		return err
	}
	var j job
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	for _, m := range j.Modules {
		if err := loadModule(m); err != nil {
			said = append(said, fmt.Errorf("module %s: %w", m, err))
		}
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	defer port.Close()
	home := &frameWriter{w: port}
	var name unix.Utsname
	unix.Uname(&name)
	uptime, _ := os.ReadFile("/proc/uptime")
	home.send(frameUp, fmt.Appendf(nil, "%s, booted in %s s", unix.ByteSliceToString(name.Release[:]), strings.Fields(string(uptime) + " ?")[0]))
	if err := loopbackUp(); err != nil {
		said = append(said, fmt.Errorf("the loopback: %w", err))
	}
	unix.Sethostname([]byte("guest"))
	for _, err := range said {
		home.send(frameLog, []byte(err.Error()))
	}
	for _, t := range j.Programs {
		exit := t.run(home)
		for _, b := range t.Back {
			if err := sendBack(home, b); err != nil {
				home.send(frameLog, []byte(err.Error()))
			}
		}
		text, err := json.Marshal(exit)
		if err != nil {
			return err
		}
		home.send(frameExit, text)
	}
	return home.send(frameEnd, nil)
}

// mountAll mounts what programs look for, and returns what could not be mounted.
func mountAll() []error {
	var said []error
	for _, m := range []struct{ kind, at, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", ""},
		{"devpts", "/dev/pts", "ptmxmode=0666"},
		{"tmpfs", "/dev/shm", ""},
		{"tmpfs", "/run", ""},
		{"bpf", "/sys/fs/bpf", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		os.MkdirAll(m.at, 0o755)
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.data); err != nil {
			said = append(said, fmt.Errorf("mount %s: %w", m.at, err))
		}
	}
	os.Chmod("/tmp", 0o1777)
	os.Chmod("/dev/shm", 0o1777)
	for _, l := range []struct{ to, at string }{
		{"/proc/self/fd", "/dev/fd"}, {"fd/0", "/dev/stdin"}, {"fd/1", "/dev/stdout"}, {"fd/2", "/dev/stderr"},
	} {
		if err := os.Symlink(l.to, l.at); err != nil {
			said = append(said, err)
		}
	}
	return said
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err == unix.EEXIST { // it is built in
		return nil
	}
	return err
}

// openPort opens the virtio port of our name. The kernel makes it some time after
// the module of the console has been loaded.
func openPort() (*os.File, error) {
	for range 1000 {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if text, _ := os.ReadFile(n); strings.TrimSpace(string(text)) != portName {
				continue
			}
			if f, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_WRONLY, 0); err == nil {
				return f, nil
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, errors.New("there is no virtio port")
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// run runs the program, and takes in all children that die meanwhile.
func (t task) run(home *frameWriter) Exit {
	begin := time.Now()
	failed := func(err error) Exit { return Exit{Code: 125, Error: err.Error()} }
	null, err := os.Open(os.DevNull)
	if err != nil {
		return failed(err)
	}
	defer null.Close()
	files := []uintptr{null.Fd()}
	var copies sync.WaitGroup
	var ends, ours []*os.File
	for _, kind := range []frameType{frameOut, frameErr} {
		r, w, err := os.Pipe()
		if err != nil {
			return failed(err)
		}
		ends, ours = append(ends, w), append(ours, r)
		files = append(files, w.Fd())
		copies.Go(func() { io.Copy(frameStream{home, kind}, r) })
	}
	pid, err := syscall.ForkExec(t.Args[0], t.Args, &syscall.ProcAttr{Dir: t.Dir, Env: t.Env, Files: files, Sys: &syscall.SysProcAttr{Setpgid: true}})
	for _, e := range ends {
		e.Close()
	}
	if err != nil {
		for _, r := range ours {
			r.Close()
		}
		copies.Wait()
		return failed(err)
	}
	var late sync.Once
	exit := Exit{}
	timer := time.AfterFunc(time.Duration(t.Seconds*float64(time.Second)), func() {
		late.Do(func() { exit.Error = fmt.Sprintf("killed after %.0f s", t.Seconds) })
		unix.Kill(-pid, unix.SIGKILL)
	})
	var status unix.WaitStatus
	for {
		got, err := unix.Wait4(-1, &status, 0, nil)
		if got == pid {
			break
		}
		if err != nil && err != unix.EINTR {
			return failed(err)
		}
	}
	timer.Stop()
	late.Do(func() {}) // from here on exit is ours
	// What it has left behind holds the pipes.
	unix.Kill(-pid, unix.SIGKILL)
	for _, r := range ours {
		r.SetReadDeadline(time.Now().Add(5 * time.Second))
	}
	copies.Wait()
	for _, r := range ours {
		r.Close()
	}
	exit.Seconds = time.Since(begin).Seconds()
	if exit.Code = status.ExitStatus(); status.Signaled() {
		exit.Code, exit.Signal = 128+int(status.Signal()), status.Signal().String()
	}
	return exit
}

// sendBack sends a file, or the files of a folder, and nothing if it is not there.
func sendBack(home *frameWriter, name string) error {
	return filepath.WalkDir(name, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		return home.file(p, f)
	})
}
