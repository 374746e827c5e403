package kernel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newTestSplice has the fake on its socket, and a real pipe for what is under way.
func newTestSplice(t *testing.T) (*fake, *Sender, *Splice) {
	t.Helper()
	f, s := newTestSender(t, 0)
	x := NewSplice(s)
	if x == nil {
		t.Fatal("no pipe")
	}
	t.Cleanup(x.Close)
	fill := s.sys.splice
	x.sys.splice = func(from, to, count, flags int) (int, error) {
		if from != x.pipe.r {
			return fill(from, to, count, flags)
		}
		b := make([]byte, count)
		a := f.next(&f.sends)
		if a.err != nil {
			return -1, a.err
		}
		if a.n >= 0 {
			b = b[:min(a.n, count)]
		}
		n, err := unix.Read(from, b)
		f.sent = append(f.sent, message{23, string(b[:max(n, 0)])})
		return n, err
	}
	return f, s, x
}

func TestSplice(t *testing.T) {
	f, s, x := newTestSplice(t)
	f.receives = receives{fails(unix.EAGAIN), fails(unix.EINTR), gives("0123456789"), gives("")}
	n, err := x.Fill(raw{f}, 100)
	if n != 10 || err != nil || f.waits != 1 {
		t.Fatal(n, err, f.waits)
	}
	f.sends = []answer{{3, nil}, {0, unix.EINTR}, {0, unix.EAGAIN}, {2, nil}}
	if n, err = s.CommitSplice(x, n); n != 10 || err != nil || f.data() != "0123456789" {
		t.Fatalf("%d, %v, %q", n, err, f.data())
	}
	if n, err := x.Fill(raw{f}, 100); n != 0 || err != io.EOF {
		t.Errorf("the end: %d, %v", n, err)
	}
	for _, errno := range []error{unix.EINVAL, unix.ENOSYS} {
		f.receives = receives{fails(errno)}
		if n, err := x.Fill(raw{f}, 100); n != 0 || err != ErrNoSplice {
			t.Errorf("%v: %d, %v", errno, n, err)
		}
	}
	f.receives = receives{fails(unix.ECONNRESET)}
	if _, err := x.Fill(raw{f}, 100); !errors.Is(err, unix.ECONNRESET) {
		t.Error(err)
	}
}

// What has left its source is committed: it goes first in the next call.
func TestSpliceDeadline(t *testing.T) {
	f, s, x := newTestSplice(t)
	f.receives = receives{gives("0123456789")}
	if _, err := x.Fill(raw{f}, 100); err != nil {
		t.Fatal(err)
	}
	f.sends, f.expired = []answer{{4, nil}, {0, unix.EAGAIN}}, true
	n, err := s.CommitSplice(x, 10)
	if n != 10 || !errors.Is(err, os.ErrDeadlineExceeded) || s.Pending() != 6 {
		t.Fatalf("%d, %v, %d pending", n, err, s.Pending())
	}
	f.expired = false
	if n, err := s.WriteOne([]byte("ab"), 100); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if got := f.data(); got != "0123456789ab" || s.Stats().Bytes.Load() != 12 {
		t.Errorf("the kernel got %q, %d bytes counted", got, s.Stats().Bytes.Load())
	}
	f.receives = receives{gives("more")}
	x.Fill(raw{f}, 100)
	f.sends = []answer{{0, unix.EPIPE}}
	if n, err := s.CommitSplice(x, 4); n != 0 || !errors.Is(err, unix.EPIPE) {
		t.Errorf("%d, %v", n, err)
	}
}

// A filter that comes while the splice is there sees what passes.
func TestSpliceAndGate(t *testing.T) {
	f, s, x := newTestSplice(t)
	f.receives = receives{gives("secret")}
	if _, err := x.Fill(raw{f}, 100); err != nil {
		t.Fatal(err)
	}
	gate := Gate(func(p []byte) (int, error) { return 0, nil })
	s.SetGate(&gate)
	if n, err := s.CommitSplice(x, 6); n != 6 || err != nil || f.data() != "" {
		t.Errorf("%d, %v, %q went out", n, err, f.data())
	}
	if NewSplice(s) != nil {
		t.Error("a splice past the gate")
	}
}

// Drain gives all to the writer, by splice(2) where something waits for it, and else by
// Write, of which it tells.
func TestDrain(t *testing.T) {
	held := func(t *testing.T, s string) *Splice {
		x := NewSpliceTo()
		if x == nil {
			t.Fatal("no pipe")
		}
		t.Cleanup(x.Close)
		if _, err := unix.Write(x.pipe.w, []byte(s)); err != nil {
			t.Fatal(err)
		}
		return x
	}
	raw := func(c syscall.Conn) syscall.RawConn {
		r, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	t.Run("a connection", func(t *testing.T) {
		a, b := loopback(t)
		if n, err := held(t, "words").Drain(a, raw(a.(*net.TCPConn)), 5); n != 5 || err != nil {
			t.Error(n, err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(b, got); err != nil || string(got) != "words" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("a deadline", func(t *testing.T) {
		a, _ := loopback(t)
		a.SetWriteDeadline(time.Unix(1, 0))
		if n, err := held(t, "words").Drain(a, raw(a.(*net.TCPConn)), 5); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(n, err)
		}
	})
	t.Run("nothing waits", func(t *testing.T) {
		var p [2]int
		if err := unix.Pipe(p[:]); err != nil {
			t.Fatal(err)
		}
		r, w := os.NewFile(uintptr(p[0]), "r"), os.NewFile(uintptr(p[1]), "w")
		defer r.Close()
		defer w.Close()
		full := bytes.Repeat([]byte("x"), 64<<10)
		if _, err := w.Write(full); err != nil {
			t.Fatal(err)
		}
		got := make(chan []byte)
		go func() {
			b, _ := io.ReadAll(r)
			got <- b
		}()
		n, err := held(t, "words").Drain(w, raw(w), 5)
		w.Close()
		if b := <-got; n != 5 || err != nil && err != ErrNoSplice || len(b) != len(full)+5 || string(b[len(full):]) != "words" {
			t.Errorf("%d, %v, and %d bytes came", n, err, len(b))
		}
	})
	t.Run("not for splice", func(t *testing.T) {
		w, err := os.OpenFile(filepath.Join(t.TempDir(), "f"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600) // which splice(2) refuses
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if n, err := held(t, "words").Drain(w, raw(w), 5); n != 5 || err != ErrNoSplice {
			t.Error(n, err)
		}
		if b, err := os.ReadFile(w.Name()); string(b) != "words" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	})
}
