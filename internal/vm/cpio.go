package vm

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"
)

// A cpio writes an archive in the format "newc", the one that an initramfs has
// (Linux, Documentation/driver-api/early-userspace/buffer-format.rst). The first
// error sticks, and close returns it.
type cpio struct {
	w    *bufio.Writer
	n    uint32
	done map[string]bool // names, without the slash in front, that are there
	err  error
}

const (
	modeDir  = 0o040755
	modeFile = 0o100000
)

func newCPIO(w io.Writer) *cpio {
	return &cpio{w: bufio.NewWriterSize(w, 1<<20), done: map[string]bool{"": true, ".": true}}
}

// has reports whether name is in the archive already.
func (c *cpio) has(name string) bool { return c.done[strings.TrimPrefix(path.Clean(name), "/")] }

// dir adds a folder and those above it.
func (c *cpio) dir(name string) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if c.done[name] {
		return
	}
	c.dir(path.Dir(name))
	c.entry(name, modeDir, 0)
	c.pad(0)
}

// file adds a file of size bytes, which are read from r, and the folders above it.
func (c *cpio) file(name string, perm uint32, size int64, r io.Reader) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if c.done[name] {
		return
	}
	if size > 1<<32-1 {
		c.fail(fmt.Errorf("vm: %s has %d bytes, more than a file of an initramfs can have", name, size))
		return
	}
	c.dir(path.Dir(name))
	c.entry(name, modeFile|perm, size)
	if c.err == nil {
		n, err := io.Copy(c.w, io.LimitReader(r, size))
		if err == nil && n < size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			c.fail(fmt.Errorf("vm: %s: %w", name, err))
		}
	}
	c.pad(size)
}

// close ends the archive.
func (c *cpio) close() error {
	c.entry("TRAILER!!!", 0, 0)
	if err := c.w.Flush(); err != nil {
		c.fail(err)
	}
	return c.err
}

func (c *cpio) entry(name string, mode uint32, size int64) {
	c.done[name] = true
	c.n++
	// magic, inode, mode, uid, gid, links, mtime, size, device, rdevice, name, check
	_, err := fmt.Fprintf(c.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.n, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	if err != nil {
		c.fail(err)
	}
	c.pad(int64(110 + len(name) + 1))
}

// pad fills up to four bytes: each name and each file starts at such a place.
func (c *cpio) pad(n int64) {
	for ; n%4 != 0; n++ {
		if err := c.w.WriteByte(0); err != nil {
			c.fail(err)
		}
	}
}

func (c *cpio) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}
