package bench

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// load compares what the whole machine does with what client and servers do.
type load struct {
	users      []cpuUser // that live as long as the load is watched
	began      time.Time
	busy, ours time.Duration
	known      bool
}

// cpuUser tells what CPU time it has used so far.
type cpuUser interface {
	used() (time.Duration, error)
}

func watchLoad(p pace) *load {
	l := &load{users: p.users, began: time.Now()}
	for _, s := range p.servers {
		l.users = append(l.users, s)
	}
	l.busy, l.ours, l.known = l.now()
	return l
}

func (l *load) now() (busy, ours time.Duration, known bool) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, false
	}
	if busy, known = busyTime(string(stat)); !known {
		return 0, 0, false
	}
	for _, of := range []func() (user, sys time.Duration, err error){cpuTime, childTime} {
		user, sys, err := of()
		if err != nil {
			return 0, 0, false
		}
		ours += user + sys
	}
	for _, s := range l.users {
		cpu, err := s.used()
		if err != nil {
			return 0, 0, false
		}
		ours += cpu
	}
	return busy, ours, true
}

// foreign is how many CPUs were busy with something else since watchLoad, or
// nil where nobody knows.
func (l *load) foreign() *float64 {
	busy, ours, known := l.now()
	wall := time.Since(l.began)
	if !l.known || !known || wall <= 0 {
		return nil
	}
	cpus := max((busy-l.busy-(ours-l.ours)).Seconds()/wall.Seconds(), 0)
	return &cpus
}

// busyTime reads the first line of /proc/stat: CPU time that was not idle, in
// hundredths of a second (proc(5): USER_HZ is 100 for every program).
func busyTime(stat string) (time.Duration, bool) {
	const idle, iowait, guest = 3, 4, 8
	first, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(first)
	if len(f) < 8 || f[0] != "cpu" {
		return 0, false
	}
	var sum int64
	for i, s := range f[1:] {
		if i == idle || i == iowait || i >= guest { // guests are in user already
			continue
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, false
		}
		sum += n
	}
	return time.Duration(sum) * (time.Second / 100), true
}
