package pump

import (
	"sync"
	"time"
)

// A program that closes its half leaves bytes behind, as with any socket, and
// they are sent for as long as the peer takes them. A peer that takes nothing
// must not hold them for ever: one goroutine looks after all pumps.
const (
	lingerTick  = 30 * time.Second
	lingerTicks = 10 // without the end of a turn: 5 minutes
)

var lingering struct {
	mu    sync.Mutex
	pumps map[*Pump]*linger
	stop  chan struct{}
}

type linger struct {
	turns uint64
	ticks int
}

func watch(p *Pump) {
	l := &lingering
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pumps == nil {
		l.pumps = make(map[*Pump]*linger)
	}
	if len(l.pumps) == 0 {
		l.stop = make(chan struct{})
		go lookAfter(l.stop)
	}
	l.pumps[p] = new(linger)
}

func unwatch(p *Pump) {
	l := &lingering
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.pumps, p); len(l.pumps) == 0 {
		close(l.stop)
	}
}

func lookAfter(stop chan struct{}) {
	t := time.NewTicker(lingerTick)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			for _, p := range overdue() {
				p.Close()
			}
		}
	}
}

// overdue counts one tick for every pump whose program is gone and returns those
// that have had all of theirs.
func overdue() (over []*Pump) {
	l := &lingering
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, w := range l.pumps {
		turns := p.turns.Load()
		if !p.end.Gone() || turns != w.turns {
			w.turns, w.ticks = turns, 0
			continue
		}
		if w.ticks++; w.ticks >= lingerTicks {
			over = append(over, p)
		}
	}
	return over
}
