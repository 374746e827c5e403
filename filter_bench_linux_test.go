package aftls_test

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/filter"
	"github.com/aftls/aftls/record"
	"golang.org/x/sys/unix"
)

// threadCPU is the CPU time of the thread that asks.
func threadCPU(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// BenchmarkFilter is what a filter that lets everything pass costs of the CPU time
// of sending and receiving over loopback TCP, system calls included: rounds with
// and without it follow each other, and the lowest tenth of both is compared. An
// operation is two such rounds.
func BenchmarkFilter(b *testing.B) {
	always, err := filter.CompileRules(filter.Rule{Then: filter.Verdict{Action: filter.Pass}})
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{1000, 16384} {
		for name, p := range map[string]*filter.Program{"always": always, "tcp-port": compiled(b, "tcp and not port 22"), "payload": compiled(b, "data[0:4] != 0x47455420")} {
			for _, d := range []aftls.Direction{aftls.Send, aftls.Receive} {
				b.Run(d.String()+"/"+name+"/"+sizeName(size), func(b *testing.B) { benchmarkFilter(b, d, size, p) })
			}
		}
	}
}

func sizeName(n int) string {
	if n == record.MaxPlaintext {
		return "16KiB"
	}
	return "1kB"
}

func benchmarkFilter(b *testing.B, d aftls.Direction, size int, p *filter.Program) {
	ccfg, scfg := configs(b)
	x, y := connPair(b, ccfg, scfg, aftls.Options{RequireSocket: true})
	buf := make([]byte, 256<<10)
	const records = 64
	measured := x
	step := func() { // writes records
		for range records {
			if _, err := x.Write(buf[:size]); err != nil {
				b.Fatal(err)
			}
		}
	}
	drain := func(c *aftls.Conn) {
		defer c.Close()
		for {
			if _, err := c.NetConn().Read(buf[128<<10:]); err != nil {
				return
			}
		}
	}
	if d == aftls.Send {
		go drain(y)
	} else {
		measured = y
		go func() {
			out := make([]byte, size)
			for {
				if _, err := x.Write(out); err != nil {
					return
				}
			}
		}()
		step = func() {
			for n := 0; n < records*size; {
				m, err := y.Read(buf)
				if n += m; err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	f := new(filter.Filter)
	f.Swap(p)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var times [2][]float64
	for round := 0; b.Loop(); round++ {
		for i := range 2 {
			var g *filter.Filter
			with := (round + i) % 2
			if with == 1 {
				g = f
			}
			if err := measured.SetFilter(d, g); err != nil {
				b.Fatal(err)
			}
			step() // the first record with a filter pays for many
			start := threadCPU(b)
			step()
			times[with] = append(times[with], float64(threadCPU(b)-start)/records)
		}
	}
	measured.Close()
	// What else runs on the machine only ever adds.
	decile := func(v []float64) float64 { slices.Sort(v); return v[len(v)/10] }
	without, with := decile(times[0]), decile(times[1])
	b.ReportMetric(0, "ns/op") // of two rounds: says nothing
	b.ReportMetric(without, "cpu-ns/record")
	b.ReportMetric(with, "filtered-cpu-ns/record")
	b.ReportMetric(100*(with/without-1), "cost-%")
}
