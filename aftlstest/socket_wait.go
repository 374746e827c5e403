package aftlstest

import (
	"bytes"
	"os"
	"runtime"
	"testing"
	"time"
)

// eventually waits until the condition holds, without sleeping: the goroutines
// that make it true get the processor. It fails the test after a long time.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for start := time.Now(); !holds(); runtime.Gosched() {
		if time.Since(start) > patience {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// checkLeaks registers the last cleanup of a test: what it borrowed is given
// back by then, and its goroutines are gone.
func checkLeaks(t testing.TB) {
	t.Helper()
	goroutines, buffers := runtime.NumGoroutine(), borrowed()
	t.Cleanup(func() {
		start := time.Now()
		for runtime.NumGoroutine() > goroutines || borrowed() != buffers {
			if time.Since(start) > patience {
				t.Errorf("left behind: %d buffers; %d goroutines became %d:\n%s",
					borrowed()-buffers, goroutines, runtime.NumGoroutine(), stacks())
				return
			}
			runtime.Gosched()
		}
	})
}

func stacks() []byte {
	for size := 1 << 16; ; size *= 2 {
		b := make([]byte, size)
		if n := runtime.Stack(b, true); n < size {
			return b[:n]
		}
	}
}

// call is a function that runs beside the test and may block.
type call struct {
	t    testing.TB
	id   []byte // how the goroutine is called in a dump
	done chan struct{}
	n    int64
	err  error
}

// start runs f in a goroutine of its own.
func start(t testing.TB, f func() (int64, error)) *call {
	t.Helper()
	c := &call{t: t, done: make(chan struct{})}
	id := make(chan []byte)
	go func() {
		defer close(c.done)
		b := make([]byte, 64)
		b = b[:runtime.Stack(b, false)] // "goroutine 123 [running]:"
		id <- bytes.Clone(b[:bytes.IndexByte(b, '[')+1])
		c.n, c.err = f()
	}()
	c.id = <-id
	return c
}

// startErr is start for a function that counts nothing.
func startErr(t testing.TB, f func() error) *call {
	t.Helper()
	return start(t, func() (int64, error) { return 0, f() })
}

// startWrite starts a Write.
func startWrite(t testing.TB, e interface{ Write([]byte) (int, error) }, b []byte) *call {
	t.Helper()
	return start(t, func() (int64, error) { n, err := e.Write(b); return int64(n), err })
}

// startRead starts a Read.
func startRead(t testing.TB, e interface{ Read([]byte) (int, error) }, b []byte) *call {
	t.Helper()
	return start(t, func() (int64, error) { n, err := e.Read(b); return int64(n), err })
}

// onNetwork waits until the call waits for the network.
func (c *call) onNetwork() { c.t.Helper(); c.blocked("IO wait") }

// onLock waits until the call waits for another one.
func (c *call) onLock() { c.t.Helper(); c.blocked("sync.Mutex.Lock") }

func (c *call) blocked(state string) {
	c.t.Helper()
	want := append(bytes.Clone(c.id), state...)
	turns := 1
	eventually(c.t, "for a call to block on "+state, func() bool {
		// A dump stops everybody, so the next one comes later.
		for range turns {
			runtime.Gosched()
		}
		turns = min(2*turns, maxTurns)
		select {
		case <-c.done:
			c.t.Fatalf("the call should block, and returned %d, %v", c.n, c.err)
		default:
		}
		return bytes.Contains(stacks(), want)
	})
}

// maxTurns is how often the others get the processor between two dumps, at most.
const maxTurns = 1 << 10

// running fails the test when the call has returned.
func (c *call) running(what string) {
	c.t.Helper()
	select {
	case <-c.done:
		c.t.Fatalf("%s: the call returned %d, %v", what, c.n, c.err)
	default:
	}
}

// result waits for the call to return.
func (c *call) result() (int64, error) { <-c.done; return c.n, c.err }

// wait waits for the call to return without an error.
func (c *call) wait() int64 {
	c.t.Helper()
	n, err := c.result()
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

var past = time.Unix(1, 0)

// flood is more than any carrier takes while nobody reads.
const flood = 8 << 20

// fill writes to an end whose peer does not read until the carrier takes no
// more, and returns what was committed. Some of that is unsent.
func fill(t testing.TB, e end) []byte {
	t.Helper()
	b := random(flood)
	w := startWrite(t, e, b)
	w.onNetwork()
	must(t, e.SetWriteDeadline(past))
	n, err := w.result()
	wantErr(t, "Write into a full carrier", err, os.ErrDeadlineExceeded)
	if n <= 0 || n >= flood {
		t.Fatalf("Write into a full carrier committed %d bytes", n)
	}
	must(t, e.SetWriteDeadline(time.Time{}))
	return b[:n]
}
