package vm

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// wantedModules are what the tests of this module use, by the names of any of the
// kernels; what one depends on comes along. Without virtio there is no port.
var wantedModules = []string{
	"virtio_pci", "virtio_console", "virtio_rng",
	"tls", "kcm", "inet_diag", "tcp_diag", "veth", "dummy", "sch_netem",
	"gcm", "ccm", "ctr", "cmac", "ghash_generic", "aesni_intel",
	"chacha20poly1305", "chacha", "chacha20", "chacha_generic", "chacha20_x86_64", "poly1305_generic", "poly1305_x86_64",
	"af_alg", "algif_aead",
}

// toolFolders are the folders that programs want to find.
var toolFolders = map[string][]string{
	"nginx": {"/var/log/nginx", "/var/lib/nginx", "/run"},
}

// A job is what the guest finds in its initramfs.
type job struct {
	Modules  []string // files, in the order of loading
	Programs []task
}

// A task is a Program as the guest sees it.
type task struct {
	Args    []string // the first one is the file
	Env     []string
	Dir     string
	Back    []string
	Seconds float64
}

const (
	jobFile  = "/job.json"
	portName = "aftls"
)

// writeImage makes the initramfs.
func (b *boot) writeImage(initFile string) error {
	f, err := os.OpenFile(filepath.Join(b.dir, "initramfs"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	c := newCPIO(f)
	if libs, err := sharedLibraries(initFile); err != nil {
		return err
	} else if libs != nil {
		return fmt.Errorf("vm: %s is not static, and process 1 of a guest has to be: build it with CGO_ENABLED=0", initFile)
	}
	for _, d := range []string{"/proc", "/sys", "/dev", "/tmp", "/run", "/root"} {
		c.dir(d)
	}
	addText(c, "/etc/passwd", "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\nwww-data:x:33:33::/:/bin/false\n")
	addText(c, "/etc/group", "root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n")
	addText(c, "/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
	addText(c, "/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
	if err := addFile(c, "/init", initFile); err != nil {
		return err
	}
	var j job
	modules, err := b.Kernel.modules(wantedModules)
	if err != nil {
		return err
	}
	for _, m := range modules {
		name := "/modules/" + filepath.Base(m)
		if err := addFile(c, name, m); err != nil {
			return err
		}
		j.Modules = append(j.Modules, name)
	}
	for _, tool := range b.Tools {
		if err := b.addTool(c, tool); err != nil {
			return err
		}
	}
	for _, name := range b.Files {
		if err := addTree(c, name); err != nil {
			return err
		}
	}
	for i, p := range b.programs {
		t, err := addProgram(c, "/programs/"+strconv.Itoa(i), p)
		if err != nil {
			return err
		}
		t.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp", "AFTLS_VM=" + b.Kernel.Release}, p.Env...)
		j.Programs = append(j.Programs, t)
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	addText(c, jobFile, string(text))
	if err := c.close(); err != nil {
		return err
	}
	return f.Close()
}

func addProgram(c *cpio, in string, p Program) (task, error) {
	file, err := filepath.Abs(p.Path)
	if err != nil {
		return task{}, err
	}
	name := in + "/" + filepath.Base(file)
	if err := addExecutable(c, name, file); err != nil {
		return task{}, err
	}
	dir, err := filepath.Abs(p.Dir)
	if err != nil {
		return task{}, err
	}
	c.dir(dir)
	if data := filepath.Join(dir, "testdata"); isDir(data) {
		if err := addTree(c, data); err != nil {
			return task{}, err
		}
	}
	for _, back := range p.Back { // where the program will make them
		if isDir(back) {
			c.dir(back)
		} else {
			c.dir(filepath.Dir(back))
		}
	}
	return task{Args: append([]string{name}, p.Args...), Dir: dir, Back: p.Back, Seconds: p.limit().Seconds()}, nil
}

// addTool copies a program of PATH to the place that it has here.
func (b *boot) addTool(c *cpio, tool string) error {
	file, err := exec.LookPath(tool)
	if err != nil {
		b.log("no %s on this machine, so none in the guest", tool)
		return nil
	}
	for _, d := range toolFolders[tool] {
		c.dir(d)
	}
	return addExecutable(c, file, file)
}

// addExecutable copies a program, and the shared libraries that it needs to their
// own places.
func addExecutable(c *cpio, name, file string) error {
	libs, err := sharedLibraries(file)
	if err != nil {
		return err
	}
	for _, l := range libs {
		if err := addFile(c, l, l); err != nil {
			return err
		}
	}
	return addFile(c, name, file)
}

// sharedLibraries lists what the loader would load; nil for a static program, and
// for what is no ELF file, such as a script.
func sharedLibraries(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		if _, ok := errors.AsType[*elf.FormatError](err); ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, nil
		}
		return nil, err
	}
	defer f.Close()
	static := true
	for _, p := range f.Progs {
		static = static && p.Type != elf.PT_INTERP
	}
	if static {
		return nil, nil
	}
	out, err := exec.Command("ldd", file).Output()
	if err != nil {
		return nil, fmt.Errorf("vm: ldd %s: %w", file, err)
	}
	libs := []string{}
	for line := range bytes.Lines(out) {
		if bytes.Contains(line, []byte("not found")) {
			return nil, fmt.Errorf("vm: %s does not run on this machine: %s", file, bytes.TrimSpace(line))
		}
		for word := range strings.FieldsSeq(string(line)) {
			if filepath.IsAbs(word) {
				libs = append(libs, word)
			}
		}
	}
	return libs, nil
}

// addTree copies a file, or a folder with all that it has, to the same place.
func addTree(c *cpio, name string) error {
	name, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	return filepath.WalkDir(name, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			c.dir(p)
			return nil
		}
		return addFile(c, p, p)
	})
}

// addFile copies one regular file, or what a link leads to.
func addFile(c *cpio, name, file string) error {
	if c.has(name) {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("vm: %s is no regular file, and nothing else can go into a guest", file)
	}
	c.file(name, uint32(st.Mode().Perm()), st.Size(), f)
	return c.err
}

func addText(c *cpio, name, text string) {
	c.file(name, 0o644, int64(len(text)), strings.NewReader(text))
}

func isDir(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.IsDir()
}
