package kcm

import (
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Steer returns a [Filter] that asks decide, which speaks in plain numbers, as
// package filter does: how many bytes of the message to keep, none to drop it; the
// number of the endpoint that gets it, among endpoints, where another number
// means any; and an error to end the connection with. Like a Filter, decide is
// called for one message after the other, so each connection needs one of its
// own.
func Steer(decide func(msg []byte) (keep, endpoint int, end error), endpoints ...*Endpoint) Filter {
	return func(msg []byte) Verdict {
		keep, endpoint, end := decide(msg)
		v := Verdict{Keep: keep, End: end}
		if endpoint >= 0 && endpoint < len(endpoints) {
			v.To = endpoints[endpoint]
		}
		return v
	}
}

// SetSendFilter makes f decide about every message that is sent on the connection
// from now on, before it is queued; To of its verdict means nothing. SendMsg of a
// message that is dropped returns nil, and of one that ends the connection what
// it ends with. nil takes the filter away. f must not change the message. The
// calls for a connection come one after the other, in the goroutines of the
// senders.
func (c *Conn) SetSendFilter(f Filter) {
	if f == nil {
		c.screen.filter.Store(nil)
		return
	}
	c.screen.filter.Store(&f)
}

// screen is the filter of what is sent.
type screen struct {
	filter  atomic.Pointer[Filter]
	mu      sync.Mutex // one call at a time
	dropped atomic.Uint64
}

// pass returns what f leaves of a message; nothing where it is dropped. An error
// has ended the connection.
func (s *screen) pass(c *Conn, f Filter, b []byte) (_ []byte, err error) {
	v, err := s.ask(f, b)
	if err == nil {
		err = v.End
	}
	if err != nil {
		c.fail(err)
		return nil, err
	}
	if v.Keep <= 0 {
		s.dropped.Add(1)
		return nil, nil
	}
	return b[:min(v.Keep, len(b))], nil
}

func (s *screen) ask(f Filter, b []byte) (v Verdict, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{"filter", v, debug.Stack()}
		}
	}()
	return f(b), nil
}
