// What only holds without the race detector, which allocates where the program
// does not and makes pools forget.

//go:build !race

package aftls_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/aftls/aftls"
)

// eachVersion runs f on a pair of each protocol version.
func eachVersion(t *testing.T, f func(t *testing.T, a, b *aftls.Conn)) {
	t.Helper()
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(v), func(t *testing.T) {
			ccfg, scfg := configs(t)
			ccfg.MaxVersion = v
			a, b := connPair(t, ccfg, scfg, aftls.Options{RequireSocket: true})
			f(t, a, b)
		})
	}
}

func needExactAllocations(t *testing.T) {
	t.Helper()
	// A collection empties the pools of buffers.
	old := debug.SetGCPercent(-1)
	t.Cleanup(func() { debug.SetGCPercent(old) })
}

func TestReadAndWriteDoNotAllocate(t *testing.T) {
	needExactAllocations(t)
	eachVersion(t, func(t *testing.T, a, b *aftls.Conn) {
		for _, size := range []int{1, 1000, 16384, 100000} {
			out, in := make([]byte, size), make([]byte, size)
			for name, step := range map[string]func() error{
				"Write and Read": func() error {
					if _, err := a.Write(out); err != nil {
						return err
					}
					_, err := io.ReadFull(b, in)
					return err
				},
				"Write and Read with deadlines": func() error {
					by := time.Now().Add(time.Minute)
					if err := a.SetWriteDeadline(by); err != nil {
						return err
					}
					if err := b.SetReadDeadline(by); err != nil {
						return err
					}
					if _, err := a.Write(out); err != nil {
						return err
					}
					_, err := io.ReadFull(b, in)
					return err
				},
				"Write, WaitRead and Read": func() error {
					if _, err := a.Write(out); err != nil {
						return err
					}
					if err := b.WaitRead(); err != nil {
						return err
					}
					_, err := io.ReadFull(b, in)
					return err
				},
			} {
				var failed error
				n := testing.AllocsPerRun(50, func() {
					if err := step(); err != nil {
						failed = err
					}
				})
				if failed != nil {
					t.Fatal(failed)
				}
				// SetWriteDeadline keeps a copy of the deadline.
				if allowed := map[string]float64{"Write and Read with deadlines": 1}[name]; n > allowed {
					t.Errorf("%s of %d bytes: %v allocations", name, size, n)
				}
			}
		}
	})
}

// The allocations of ReadFrom do not depend on how much it sends, whatever it
// sends from.
func TestReadFromDoesNotAllocateByChunk(t *testing.T) {
	needExactAllocations(t)
	const size = 64 << 20
	path := filepath.Join(t.TempDir(), "sparse")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	eachVersion(t, func(t *testing.T, a, b *aftls.Conn) {
		in := make([]byte, 256<<10)
		read := func(n int64) error {
			for n > 0 {
				m, err := b.Read(in)
				if n -= int64(m); err != nil {
					return fmt.Errorf("with %d bytes to go: %w", n, err)
				}
			}
			return nil
		}
		for _, source := range []string{"file", "reader"} {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var src io.Reader = f
			if source == "reader" {
				src = struct{ io.Reader }{f}
			}
			done := make(chan error, 1)
			go func() { done <- read(size) }()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			n, err := a.ReadFrom(src)
			if err != nil || n != size {
				t.Fatal(n, err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			// A few for the call, and buffers for both ends.
			if mallocs, bytes := after.Mallocs-before.Mallocs, after.TotalAlloc-before.TotalAlloc; mallocs > 100 || bytes > 4<<20 {
				t.Errorf("64 MiB from a %s: %d allocations of %d bytes", source, mallocs, bytes)
			}
		}
	})
}
