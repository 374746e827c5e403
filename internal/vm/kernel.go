package vm

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrMissing is what an error wraps when this machine lacks a part: QEMU, or a
// kernel. Its text says what to do.
var ErrMissing = errors.New("missing on this machine")

// A Kernel is one that scripts/kernels has unpacked.
type Kernel struct {
	// Name is the folder's: "6.1", "6.12", or "newest".
	Name string
	// Release is what uname -r says in it.
	Release string
	dir     string
}

// CacheDir is where scripts/kernels puts kernels: $AFTLS_KERNELS, or
// aftls/kernels in the user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("AFTLS_KERNELS"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "aftls", "kernels"), nil
}

// Kernels returns those in the cache folder, oldest first. That there is none is
// an error that wraps ErrMissing.
func Kernels() ([]Kernel, error) {
	dir, err := CacheDir()
	if err != nil {
		return nil, err
	}
	found, err := filepath.Glob(filepath.Join(dir, "*", "release"))
	if err != nil {
		return nil, err
	}
	var all []Kernel
	for _, f := range found {
		k, err := openKernel(filepath.Dir(f))
		if err != nil {
			return nil, err
		}
		all = append(all, k)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("vm: kernels %w: there is none in %s; run scripts/kernels, which unpacks them there", ErrMissing, dir)
	}
	slices.SortFunc(all, func(a, b Kernel) int { return compareReleases(a.Release, b.Release) })
	return all, nil
}

// FindKernel returns the one with this name, or the newest for "".
func FindKernel(name string) (Kernel, error) {
	all, err := Kernels()
	if err != nil {
		return Kernel{}, err
	}
	if name == "" {
		return all[len(all)-1], nil
	}
	for _, k := range all {
		if k.Name == name {
			return k, nil
		}
	}
	return Kernel{}, fmt.Errorf("vm: kernel %s %w: run scripts/kernels", name, ErrMissing)
}

func openKernel(dir string) (Kernel, error) {
	release, err := os.ReadFile(filepath.Join(dir, "release"))
	if err != nil {
		return Kernel{}, err
	}
	return Kernel{Name: filepath.Base(dir), Release: strings.TrimSpace(string(release)), dir: dir}, nil
}

// compareReleases compares the numbers of two releases, one by one.
func compareReleases(a, b string) int {
	numbers := func(s string) []int {
		var n []int
		in := false
		for _, r := range s {
			if r < '0' || r > '9' {
				in = false
				continue
			}
			if !in {
				n, in = append(n, 0), true
			}
			n[len(n)-1] = n[len(n)-1]*10 + int(r-'0')
		}
		return n
	}
	return slices.Compare(numbers(a), numbers(b))
}

// modules returns the files of the named modules and of those they depend on, in
// the order in which they have to be loaded. A name that is not there is built
// into this kernel, or unknown to it: what needs it will say so.
func (k Kernel) modules(names []string) ([]string, error) {
	file := map[string]string{}
	err := filepath.WalkDir(filepath.Join(k.dir, "modules"), func(p string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(d.Name(), ".ko"); ok && err == nil {
			file[moduleName(name)] = p
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var order []string
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = moduleName(name)
		p, ok := file[name]
		if !ok || seen[name] {
			return nil
		}
		seen[name] = true
		depends, err := moduleDepends(p)
		if err != nil {
			return fmt.Errorf("vm: module %s: %w", p, err)
		}
		for _, d := range depends {
			if err := add(d); err != nil {
				return err
			}
		}
		order = append(order, p)
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName is how the kernel writes it: files have dashes.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// moduleDepends reads from a module what it depends on: the build notes it there,
// and modules.dep is made of these.
func moduleDepends(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("it has no section .modinfo, so it is no module")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if v, ok := bytes.CutPrefix(field, []byte("depends=")); ok && len(v) > 0 {
			return strings.Split(string(v), ","), nil
		}
	}
	return nil, nil
}
