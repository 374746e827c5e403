package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The row about package kcm: whether it helps that messages and not connections
// are shared, and where. Servers and what they do:
//
//	dns       dnsperf asks over one TLS connection: kcm on aftls, and miekg/dns's own server
//	load      short messages over 8 TLS connections, one in 100 slow: kcm, a worker for
//	          each connection, readers with a channel and a pool. All on aftls
//	segments  messages of three sizes that come in segments, over TCP and TLS: the
//	          same workers with kcm and without, as goroutines and as threads
//
// Answers are timed by an open loop: it sends when a message is due, whatever has
// been answered. Percentiles are over every message of a repetition.

func messageRows() []row { return []row{{rowMessages, (*runner).messages}} }

// messageAmounts is how much the row measures.
type messageAmounts struct {
	reps       int
	dnsSeconds float64
	warmup     int // queries that do not count
	saturated  int // messages
	load       time.Duration
	segments   time.Duration
	rateScale  float64
}

func (r *runner) messageAmounts() messageAmounts {
	if r.cfg.Quick {
		return messageAmounts{reps: 1, dnsSeconds: 0.2, warmup: 20, saturated: 300, load: 100 * time.Millisecond, segments: 50 * time.Millisecond, rateScale: 0.3}
	}
	return messageAmounts{reps: 15, dnsSeconds: 3, warmup: 400, saturated: 40_000, load: 1500 * time.Millisecond, segments: 2 * time.Second, rateScale: 1}
}

const (
	dnsRate   = 8000 // queries per second
	dnsWindow = 64   // queries that dnsperf has open at most

	loadConns    = 8
	loadInflight = 64
	shortMessage = 64

	segmentConns = 4
	segmentGap   = 12 * time.Microsecond // of 1 Gbit/s
)

func (r *runner) messages() error {
	err := r.messagesDNS()
	if missing, ok := errors.AsType[*errMissing](err); ok {
		r.report.Notes = append(r.report.Notes, fmt.Sprintf("dns, of %s, was not measured: %v", rowMessages, missing))
		err = nil
	}
	if err == nil {
		err = r.messagesLoad()
	}
	if err == nil {
		err = r.messagesSegments()
	}
	return err
}

// messagePeer is a server that runs, and the client's connections to it, where
// the client is ours.
type messagePeer struct {
	*process
	*messageClient
}

// messagePeers starts a server for each design, and connects to it.
func (r *runner) messagePeers(row string, designs []string, tls bool, conns int) (all []messagePeer, end func(), err error) {
	end = func() {
		for _, p := range all {
			p.process.end()
			p.messageClient.close()
		}
	}
	for _, d := range designs {
		cfg := messageConfig{d, tls, conns}
		var p messagePeer
		if p.process, err = r.start(row, peer{name: cfg.String()}); err == nil {
			if conns > 0 {
				p.messageClient, err = r.messageClient(p.process, cfg)
			}
			all = append(all, p)
		}
		if err != nil {
			end()
			return nil, nil, fmt.Errorf("%s: %w", d, err)
		}
	}
	return all, end, nil
}

func processes(all []messagePeer) (ps []*process) {
	for _, p := range all {
		ps = append(ps, p.process)
	}
	return ps
}

// messageCost is what a server used for each message.
type messageCost struct{ micro, wakeups, switches float64 }

// measure runs traffic and returns what came of it, and what it cost.
func (p messagePeer) measure(t traffic) (*outcome, messageCost, error) {
	var cost messageCost
	before, err := p.ask("report")
	if err != nil {
		return nil, cost, err
	}
	out, err := p.run(t)
	after, serverErr := p.ask("report") // it has more to say about an error
	if err = errors.Join(err, serverErr); err != nil {
		return nil, cost, err
	}
	each := func(key string) float64 {
		from, err1 := before.number(key)
		to, err2 := after.number(key)
		err = errors.Join(err, err1, err2)
		return float64(to-from) / float64(t.count)
	}
	if n := each("messages"); err == nil && n != 1 {
		err = fmt.Errorf("the server worked on %v of the messages", n)
	}
	cost = messageCost{micro: (each("user") + each("sys")) / 1e3, wakeups: each("wakeups"), switches: each("switches")}
	return out, cost, err
}

// messagesDNS: dnsperf, which others wrote.
func (r *runner) messagesDNS() error {
	dnsperf, err := exec.LookPath("dnsperf")
	if err != nil {
		return &errMissing{"dnsperf was not found"}
	}
	a := r.messageAmounts()
	// Each query is slow by chance, and nothing repeats within a second.
	var names bytes.Buffer
	rng := rand.New(rand.NewPCG(1, 1))
	for range dnsRate {
		if rng.IntN(slowOne) == 0 {
			names.WriteString(slowName + " A\n")
		} else {
			names.WriteString("fast.example. A\n")
		}
	}
	file := filepath.Join(r.dir, "queries")
	if err := os.WriteFile(file, names.Bytes(), 0o600); err != nil {
		return err
	}
	designs := []string{byMuxDNS, byMiekgDNS}
	all, end, err := r.messagePeers(rowMessages+bothCPUs, designs, true, 0)
	if err != nil {
		return err
	}
	defer end()
	p := pace{name: "messages, dnsperf", reps: r.reps(a.reps), warm: true, servers: processes(all), peers: designs}
	figures, foreign, err := r.interleave(p, func(i int) ([]float64, error) {
		var waits []float64
		used, err := all[i].during(func() (err error) {
			waits, err = r.dnsperf(dnsperf, file, all[i].addr, a)
			return err
		})
		if err != nil {
			return nil, err
		}
		return []float64{
			percentile(waits, 0.5), percentile(waits, 0.99), percentile(waits, 0.999),
			float64(used.cpu) / float64(time.Microsecond) / float64(max(used.messages, 1)),
		}, nil
	})
	if err != nil {
		return err
	}
	const what = "dns 1 x 8000/s"
	r.addOf(designs, what+" P50", unitMicros, figures[0], nil, foreign)
	r.addOf(designs, what+" P99", unitMicros, figures[1], &Goal{Of: ofRatio, Over: byMiekgDNS, Max: 0.55}, foreign)
	r.addOf(designs, what+" P99.9", unitMicros, figures[2], nil, foreign)
	r.addOf(designs, what, unitCPUMessage, figures[3], nil, foreign)
	more := series{nil}
	for i, x := range figures[0][0] {
		more[0] = append(more[0], x-figures[0][1][i])
	}
	r.addOf([]string{byMuxDNS + " - " + byMiekgDNS}, what+" P50", unitMicros, more, &Goal{Of: ofValue, Max: 30}, foreign)
	return nil
}

// Units.
const (
	unitMicros     = "us"
	unitCPUMessage = "CPU us/message"
	unitWakeups    = "wake-ups/message"
	unitSwitches   = "thread switches/message"
)

// dnsperf asks over one connection and returns how long each query took, in
// microseconds, sorted.
func (r *runner) dnsperf(exe, file, addr string, a messageAmounts) ([]float64, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	argv := []string{exe, "-v", "-m", "dot", "-s", host, "-p", port, "-d", file, "-c", "1", "-T", "1",
		"-q", strconv.Itoa(dnsWindow), "-Q", strconv.Itoa(dnsRate), "-l", fmt.Sprint(a.dnsSeconds)}
	if p := r.cfg.Placement; p.Taskset != "" {
		argv = append([]string{p.Taskset, "-c", fmt.Sprintf("%d,%d", p.Server, p.Client)}, argv...)
	}
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("dnsperf: %w: %.500s", err, out)
	}
	waits, err := parseDnsperf(string(out))
	if err != nil {
		return nil, err
	}
	if len(waits) <= a.warmup {
		return nil, fmt.Errorf("dnsperf got %d answers", len(waits))
	}
	waits = waits[a.warmup:] // the handshake, and what waited for it
	slices.Sort(waits)
	return waits, nil
}

// parseDnsperf reads what dnsperf -v prints of each answer, in microseconds, in
// their order.
func parseDnsperf(out string) (waits []float64, err error) {
	lost := true
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		switch {
		case len(f) == 5 && f[0] == ">":
			s, err := strconv.ParseFloat(f[4], 64)
			if err != nil || f[1] != "NOERROR" {
				return nil, fmt.Errorf("dnsperf says %q", line)
			}
			waits = append(waits, s*1e6)
		case len(f) > 0 && f[0] == ">":
			return nil, fmt.Errorf("dnsperf says %q", line)
		case len(f) > 2 && f[0] == "Queries" && f[1] == "lost:":
			lost = f[2] != "0"
		}
	}
	if lost {
		return nil, errors.New("dnsperf lost queries")
	}
	return waits, nil
}

// messagesLoad: many connections, some slow messages, three ways to share the
// work.
func (r *runner) messagesLoad() error {
	a := r.messageAmounts()
	designs := []string{byMux, byConn, byPool}
	all, end, err := r.messagePeers(rowMessages, designs, true, loadConns)
	if err != nil {
		return err
	}
	defer end()
	// pair compares the first with another one: goals differ.
	pair := func(other int, name, unit string, s series, goal *Goal, foreign *float64) {
		if goal != nil {
			goal.Over = designs[other]
		}
		r.addOf([]string{designs[0], designs[other]}, name, unit, series{s[0], s[other]}, goal, foreign)
	}
	const viaConn, viaPool = 1, 2
	p := pace{name: "messages, saturated", reps: r.reps(a.reps), warm: true, servers: processes(all), peers: designs}
	figures, foreign, err := r.interleave(p, func(i int) ([]float64, error) {
		out, cost, err := all[i].measure(traffic{size: shortMessage, kind: kindFast, count: a.saturated, inflight: loadInflight})
		if err != nil {
			return nil, err
		}
		return []float64{cost.micro, float64(a.saturated) / out.wall.Seconds()}, nil
	})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("messages %d B x %d, ", shortMessage, loadConns)
	pair(viaConn, name+"saturated", unitCPUMessage, figures[0], nil, foreign)
	pair(viaPool, name+"saturated", unitCPUMessage, figures[0], &Goal{Of: ofRatio, Max: 0.85}, foreign)
	capacity := median(figures[1][viaPool])
	for _, share := range []float64{0.3, 0.5} {
		p := pace{name: fmt.Sprintf("messages, load %.0f %%", 100*share), reps: r.reps(a.reps), warm: true, servers: processes(all), peers: designs}
		rate := share * capacity
		figures, foreign, err := r.interleave(p, func(i int) ([]float64, error) {
			out, cost, err := all[i].measure(traffic{size: shortMessage, kind: kindFast, count: int(rate * a.load.Seconds()), rate: rate})
			if err != nil {
				return nil, err
			}
			return []float64{percentile(out.fast, 0.5), percentile(out.fast, 0.99), percentile(out.fast, 0.999), cost.micro}, nil
		})
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%s%.0f %% load, fast ", name, 100*share)
		for _, than := range []struct {
			other int
			most  float64
		}{{viaConn, 0.5}, {viaPool, 1.05}} {
			pair(than.other, name+"P50", unitMicros, figures[0], nil, foreign)
			pair(than.other, name+"P99", unitMicros, figures[1], &Goal{Of: ofRatio, Max: than.most}, foreign)
			pair(than.other, name+"P99.9", unitMicros, figures[2], nil, foreign)
			pair(than.other, strings.TrimSuffix(name, ", fast "), unitCPUMessage, figures[3], nil, foreign)
		}
	}
	return nil
}

// messagesSegments: what the mux is for, on and off. The messages come in the
// segments of a network, and who is woken by a segment that ends no message is
// woken for nothing.
func (r *runner) messagesSegments() error {
	a := r.messageAmounts()
	goroutines, asThreads := []string{byMux, byLock}, []string{byMuxThread, byEpollOne, byEpollAll}
	designs := append(append([]string(nil), goroutines...), asThreads...)
	for _, tls := range []bool{false, true} {
		all, end, err := r.messagePeers(rowMessages, designs, tls, segmentConns)
		if err != nil {
			return err
		}
		for _, x := range []struct {
			size int
			rate float64 // what those that are woken for nothing can bear too
		}{{64, 8000}, {8 << 10, 2000}, {64 << 10, 300}} {
			via := messageConfig{tls: tls}.transport()
			name := fmt.Sprintf("segments %s x %d, %s, ", sizeName(x.size), segmentConns, via)
			p := pace{name: strings.TrimSuffix(name, ", "), reps: r.reps(a.reps), warm: true, servers: processes(all), peers: designs}
			t := traffic{size: x.size, kind: kindSum, rate: x.rate, gap: segmentGap, count: max(int(a.rateScale*x.rate*a.segments.Seconds()), 4)}
			figures, foreign, err := r.interleave(p, func(i int) ([]float64, error) {
				out, cost, err := all[i].measure(t)
				if err != nil {
					return nil, err
				}
				return []float64{cost.wakeups, cost.switches, cost.micro, percentile(out.all, 0.5), percentile(out.all, 0.99), percentile(out.all, 0.999)}, nil
			})
			if err != nil {
				end()
				return err
			}
			for _, group := range []struct {
				names []string
				from  int
			}{{goroutines, 0}, {asThreads, len(goroutines)}} {
				for f, of := range []struct{ what, unit string }{
					{"", unitWakeups}, {"", unitSwitches}, {"", unitCPUMessage}, {"P50", unitMicros}, {"P99", unitMicros}, {"P99.9", unitMicros},
				} {
					var goal *Goal
					if f == 0 && x.size == 64<<10 {
						goal = &Goal{Of: ofValue, Max: 1}
					}
					r.addOf(group.names, strings.TrimSuffix(name+of.what, ", "), of.unit, figures[f][group.from:group.from+len(group.names)], goal, foreign)
				}
			}
		}
		end()
	}
	return nil
}

func sizeName(n int) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%d kB", n>>10)
}
