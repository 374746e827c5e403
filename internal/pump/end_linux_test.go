package pump

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"syscall"
	"testing"
)

func pair(t testing.TB) (*End, *os.File) {
	t.Helper()
	e, f, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close(); f.Close() })
	return e, f
}

// Whatever the sizes of writes and of the slices that are filled, the bytes are
// those that were written, and after each of them the program's end is one whose
// other half must not vanish quietly.
func TestEndReadsWhatWasWritten(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		e, f := pair(t)
		var wrote, got []byte
		for range 50 {
			if r.IntN(3) > 0 {
				b := make([]byte, 1+r.IntN(1<<r.IntN(14)))
				for i := range b {
					b[i] = byte(r.Uint32())
				}
				if _, err := f.Write(b); err != nil {
					t.Fatal(err)
				}
				wrote = append(wrote, b...)
			}
			var places [][]byte
			room := 0
			for range 1 + r.IntN(20) {
				p := make([]byte, r.IntN(1<<r.IntN(12)))
				places, room = append(places, p), room+len(p)
			}
			n, err := e.ReadBuffers(places)
			if err != nil && (err != io.EOF || n != 0) || n > room {
				t.Fatal(n, err)
			}
			if n < room && n != len(wrote)-len(got) {
				t.Fatalf("seed %d: %d of %d bytes into a room of %d", seed, n, len(wrote)-len(got), room)
			}
			for _, p := range places {
				m := min(n, len(p))
				got, n = append(got, p[:m]...), n-m
			}
			if queued, _ := e.queued(fd(t, e), 0); queued == 0 {
				t.Fatal("nothing is left in the queue: a close would look like a clean end")
			}
		}
		f.Close()
		rest := make([]byte, len(wrote)+1)
		n, _ := e.Read(rest)
		if got = append(got, rest[:n]...); !bytes.Equal(got, wrote) {
			t.Fatalf("seed %d: the bytes differ", seed)
		}
		if _, err := e.Read(rest); err != io.EOF || !e.Ended() {
			t.Fatal(err, e.Ended())
		}
	}
}

func fd(t testing.TB, e *End) (n int) {
	t.Helper()
	if err := e.raw.Control(func(fd uintptr) { n = int(fd) }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestEndClosesWithAnError(t *testing.T) {
	for name, prepare := range map[string]func(e *End, f *os.File){
		"at once":            func(*End, *os.File) {},
		"everything read":    func(e *End, f *os.File) { f.Write([]byte("abc")); e.Read(make([]byte, 10)) },
		"something unread":   func(e *End, f *os.File) { f.Write([]byte("abc")) },
		"CloseClean, unread": func(e *End, f *os.File) { f.Write([]byte("abc")); e.Write([]byte("data")); e.CloseClean() },
	} {
		t.Run(name, func(t *testing.T) {
			e, f := pair(t)
			prepare(e, f)
			if _, err := e.Write([]byte("data")); name != "CloseClean, unread" && err != nil {
				t.Fatal(err)
			}
			e.Close()
			b, err := io.ReadAll(f)
			if !errors.Is(err, syscall.ECONNRESET) || len(b) != 0 && string(b) != "data" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

func TestEndClosesCleanly(t *testing.T) {
	e, f := pair(t)
	f.Write([]byte("abc"))
	p := make([]byte, 10)
	if n, err := e.Read(p); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	fw := shutdownWrite(t, f)
	if _, err := e.Read(p); err != io.EOF || !e.Ended() {
		t.Fatal(err, e.Ended())
	}
	if _, err := e.Write([]byte("data")); err != nil {
		t.Fatal(err)
	}
	if err := e.Finish(); err != nil {
		t.Fatal(err)
	}
	e.gone() // both directions have ended
	e.CloseClean()
	for range 2 {
		if b, err := io.ReadAll(fw); err != nil || len(b) != 0 && string(b) != "data" {
			t.Fatalf("%q, %v", b, err)
		}
	}
}

func shutdownWrite(t testing.TB, f *os.File) *os.File {
	t.Helper()
	if err := syscall.Shutdown(int(f.Fd()), syscall.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestRefusedProgramCannotWrite(t *testing.T) {
	e, f := pair(t)
	if err := e.Refuse(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Error(err)
	}
	if _, err := e.Write([]byte("y")); err != nil {
		t.Error(err)
	}
}

// records is an endpoint that takes nothing, or everything.
type records struct {
	closed chan struct{}
	got    bytes.Buffer
	block  bool
}

func (r *records) ReadFrom(src io.Reader) (int64, error) {
	if r.block {
		<-r.closed
		return 0, os.ErrClosed
	}
	return r.got.ReadFrom(src)
}
func (r *records) WriteTo(io.Writer) (int64, error) { <-r.closed; return 0, os.ErrClosed }
func (r *records) CloseWrite() error                { return nil }
func (r *records) Close() error {
	select {
	case <-r.closed:
	default:
		close(r.closed)
	}
	return nil
}

// A peer that takes nothing does not hold the bytes of a program that is gone
// for ever; one whose program is there may take all the time it wants.
func TestLingering(t *testing.T) {
	e, f := pair(t)
	rec := &records{closed: make(chan struct{}), block: true}
	p := New(rec, e)
	over := make(chan error)
	go func() { send, _ := p.Run(); over <- send }()
	f.Write([]byte("bytes"))
	for p.turns.Load() == 0 {
		runtime.Gosched()
	}
	for range 3 * lingerTicks {
		if late := overdue(); len(late) != 0 {
			t.Fatal("the program is still there")
		}
	}
	f.Close()
	for i := range lingerTicks {
		late := overdue()
		if (len(late) == 1) != (i == lingerTicks-1) {
			t.Fatalf("%d pumps overdue after %d ticks", len(late), i+1)
		}
		for _, p := range late {
			p.Close()
		}
	}
	if err := <-over; err == nil {
		t.Error("the bytes were not sent, and nobody says so")
	}
}

// Kick has the endpoint asked although there is nothing to send; Stop leaves
// everything open.
func TestKickAndStop(t *testing.T) {
	e, f := pair(t)
	rec := &records{closed: make(chan struct{})}
	p := New(rec, e)
	over := make(chan error)
	go func() { send, _ := p.Run(); over <- send }()
	for range 100 {
		before := p.turns.Load()
		p.Kick()
		for p.turns.Load() == before {
			runtime.Gosched()
		}
	}
	f.Write([]byte("data"))
	f.Write([]byte("data"))
	if n, err := e.Written(); n != 8 || err != nil {
		t.Error(n, err)
	}
	go p.Stop()
	for !p.stopping.Load() {
		runtime.Gosched()
	}
	rec.Close() // as the owner of the endpoint has to
	if err := <-over; err != ErrStopped {
		t.Error(err)
	}
	if _, err := e.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if n, err := e.Written(); n != 8 || err != nil {
		t.Error(n, err)
	}
}
