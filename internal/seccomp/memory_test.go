//go:build linux && amd64

package seccomp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const page = 4096

// A room is memory of a guest: a page to write in, one that may only be read,
// and behind them a page that is not there.
type room []byte

func makeRoom() (room, error) {
	b, err := unix.Mmap(-1, 0, 3*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, err
	}
	for i := range b {
		b[i] = byte('a' + i%26)
	}
	if err := unix.Mprotect(b[2*page:], unix.PROT_NONE); err != nil {
		return nil, err
	}
	return b[:2*page], unix.Mprotect(b[page:2*page], unix.PROT_READ)
}

func (r room) addr(off int) uint64 { return uint64(uintptr(unsafe.Pointer(&r[0]))) + uint64(off) }

func init() {
	// Calls with the address of something to read, and of a socket.
	guests["pointers"] = func(args []string) int {
		var n int
		fmt.Sscan(args[0], &n)
		b := make([]byte, 64)
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return complain("%v", err)
		}
		for range n {
			unix.Syscall(trap, 0, uintptr(unsafe.Pointer(&b[0])), uintptr(s))
		}
		return 0
	}
	guests["memory"] = func(args []string) int {
		r, err := makeRoom()
		if err != nil {
			return complain("%v", err)
		}
		copy(r[100:], "a string\x00")
		copy(r[page-4:], "over")
		le := binary.LittleEndian
		for i, v := range []uint64{r.addr(0), 3, 0, 0, r.addr(10), 2} { // iovecs
			le.PutUint64(r[200+8*i:], v)
		}
		for i := range 32 {
			r[500+i] = 0xff
		}
		msg := unix.Msghdr{Name: &r[1], Namelen: 2, Iov: (*unix.Iovec)(unsafe.Pointer(&r[200])), Iovlen: 3, Control: &r[4], Controllen: 5, Flags: 6}
		copy(r[400:], unsafe.Slice((*byte)(unsafe.Pointer(&msg)), unsafe.Sizeof(msg)))
		_, _, errno := unix.Syscall(trap, uintptr(r.addr(0)), 0, 0)
		got := *(*unix.Msghdr)(unsafe.Pointer(&r[400]))
		want := msg
		want.Namelen, want.Controllen, want.Flags = 22, 55, 66
		fmt.Println(errno == 0, string(r[300:310]), string(r[:3])+string(r[10:12]), got == want)
		return 0
	}
}

func TestMemory(t *testing.T) {
	h := func(n *Notification) {
		base := n.Args[0]
		read := func(off uint64, k int) (string, error) {
			b := make([]byte, k)
			err := n.Read(b, base+off)
			return string(b), err
		}
		if s, err := read(100, 8); s != "a string" || err != nil {
			t.Errorf("Read: %q, %v", s, err)
		}
		if s, err := read(page-4, 6); !strings.HasPrefix(s, "over") || err != nil {
			t.Errorf("Read over pages: %q, %v", s, err)
		}
		var short *ShortError
		if _, err := read(2*page-4, 8); !errors.As(err, &short) || short.Done != 4 || short.Want != 8 || !errors.Is(err, unix.EFAULT) {
			t.Errorf("Read to the end: %v", err)
		}
		if _, err := read(2*page, 8); err != unix.EFAULT {
			t.Errorf("Read behind the end: %v", err)
		}
		for _, wild := range []uint64{0, 1, 0xdead000000000000, 1 << 47, ^uint64(0), ^uint64(0) - 6, 0xffffffff81000000} {
			if err := n.Read(make([]byte, 8), wild); !errors.Is(err, unix.EFAULT) {
				t.Errorf("Read at %#x: %v", wild, err)
			}
			if err := n.Write(wild, make([]byte, 8)); !errors.Is(err, unix.EFAULT) {
				t.Errorf("Write at %#x: %v", wild, err)
			}
			if _, err := n.ReadString(wild, 100); !errors.Is(err, unix.EFAULT) {
				t.Errorf("ReadString at %#x: %v", wild, err)
			}
			if _, err := n.ReadMsghdr(wild); !errors.Is(err, unix.EFAULT) {
				t.Errorf("ReadMsghdr at %#x: %v", wild, err)
			}
			if err := n.WriteMsghdr(wild, Msghdr{}); !errors.Is(err, unix.EFAULT) {
				t.Errorf("WriteMsghdr at %#x: %v", wild, err)
			}
			if _, err := n.ReadIovecs(nil, wild, 2); !errors.Is(err, unix.EFAULT) {
				t.Errorf("ReadIovecs at %#x: %v", wild, err)
			}
		}
		if err := n.Read(nil, 0); err != nil {
			t.Errorf("Read of nothing: %v", err)
		}
		if err := n.Write(0, nil); err != nil {
			t.Errorf("Write of nothing: %v", err)
		}

		if err := n.Write(base+300, []byte("0123456789")); err != nil {
			t.Errorf("Write: %v", err)
		}
		if err := n.Write(base+page, []byte("x")); err != unix.EFAULT {
			t.Errorf("Write to what may only be read: %v", err)
		}
		if err := n.Write(base+page-2, []byte("vers")); !errors.As(err, &short) || short.Done != 2 {
			t.Errorf("Write over the end: %v", err)
		}

		if s, err := n.ReadString(base+100, 8); s != "a string" || err != nil {
			t.Errorf("ReadString: %q, %v", s, err)
		}
		if _, err := n.ReadString(base+100, 7); err != ErrTooLong {
			t.Errorf("ReadString that is too long: %v", err)
		}
		if _, err := n.ReadString(base+page+1, 1<<20); err != unix.EFAULT {
			t.Errorf("ReadString without an end: %v", err)
		}

		v, err := n.ReadIovecs(nil, base+200, 3)
		if err != nil || len(v) != 3 || v[0] != (Iovec{Base: uintptr(base), Len: 3}) || v[1] != (Iovec{}) {
			t.Fatalf("ReadIovecs: %v, %v", v, err)
		}
		if k, err := n.WriteVec(v, []byte("ABCDEFG")); k != 5 || err != nil {
			t.Errorf("WriteVec: %d, %v", k, err)
		}
		b := make([]byte, 7)
		if k, err := n.ReadVec(b, v); string(b[:k]) != "ABCDE" || err != nil {
			t.Errorf("ReadVec: %q, %v", b[:k], err)
		}
		for _, wrong := range []struct{ addr, count uint64 }{{base + 200, 1025}, {base + 200, 1 << 60}, {base + 500, 2}} {
			if v, err := n.ReadIovecs(nil, wrong.addr, wrong.count); err != unix.EINVAL {
				t.Errorf("%d iovecs: %v, %v", wrong.count, v, err)
			}
		}
		// Letters are a length of more than there can be.
		if v, err := n.ReadIovecs(nil, base+page, 20); err != nil || v[0].Len != maxTransfer || v[1].Len != 0 {
			t.Errorf("iovecs of letters: %v, %v", v, err)
		}
		if _, err := n.ReadIovecs(nil, base+page, 300); !errors.Is(err, unix.EFAULT) {
			t.Errorf("iovecs behind the end: %v", err)
		}

		want := Msghdr{Name: base + 1, Namelen: 2, Iov: base + 200, Iovlen: 3, Control: base + 4, Controllen: 5, Flags: 6}
		m, err := n.ReadMsghdr(base + 400)
		if m != want || err != nil {
			t.Errorf("ReadMsghdr: %+v, %v", m, err)
		}
		m.Namelen, m.Controllen, m.Flags = 22, 55, 66
		if err := n.WriteMsghdr(base+400, m); err != nil {
			t.Errorf("WriteMsghdr: %v", err)
		}
		n.Respond(0, 0)
	}
	r := start(t, trapAll, h, "memory")
	if out := r.good(); out != "true 0123456789 ABCDE true" {
		t.Errorf("%q", out)
	}
}

func FuzzIovecs(f *testing.F) {
	f.Add([]byte("0123456789abcdef"))
	f.Add(bytes.Repeat([]byte{1, 0, 0, 0, 0, 0, 0, 0}, 8))
	f.Add(bytes.Repeat([]byte{0, 0, 0, 0, 0, 0, 0, 0x40}, 8))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeIovecs(nil, b)
		total := 0
		for _, one := range v {
			if total += one.Len; one.Len < 0 || total < 0 {
				t.Fatalf("%v", v)
			}
		}
		if err == nil && len(v) != len(b)/sizeofIovec {
			t.Fatalf("%d of %d bytes", len(v), len(b))
		}
	})
}
