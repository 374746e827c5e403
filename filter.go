package aftls

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/aftls/aftls/filter"
	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

// hooks is what looks at the plaintext of a connection: filters and a tap. A
// connection has none until it is asked for.
type hooks struct {
	mu      sync.Mutex // what follows, and the gates of the socket
	filters [2]*filter.Filter
	flow    *filter.Flow

	dropped  atomic.Bool   // data came that the reader did not see
	selected atomic.Uint32 // of the last SELECT, plus 1
}

// SetFilter has f decide about every record of application data of one
// direction: about those that come between opening and delivery, about those
// that go between cutting and sealing. nil takes the filter away. f may be in use
// by other connections too; f.Swap changes the program of all of them, and no
// record is lost, or decided about twice, over it. A new f counts from the next
// record on that is opened, and from the next batch on that is sealed.
//
// What a verdict does is in docs/filter.md, in short: DROP and TRUNCATE take
// bytes out of the stream, and neither side hears of it. What is dropped when it
// is sent counts in n of Write; it is not in Info().Send. What is dropped when it
// came is in Info().Receive and in no n. KILL ends the connection in both
// directions with a [*filter.KillError], and sends the peer the alert
// internal_error; so does REDIRECT, as a Conn has no endpoints. SELECT is kept for
// [Conn.Selected].
//
// With a filter for Send nothing is sealed in place, so what ReadFrom reads is
// copied once more; Info says so. The filter stays with the connection in
// PlaintextFile; it ends with Detach. In passthrough the error is [ErrPassthrough].
func (c *Conn) SetFilter(d Direction, f *filter.Filter) error {
	if c.pass != nil {
		return c.pass.opError("filter", c.pass.unavailable())
	}
	s := c.s
	if err := s.check(); err != nil {
		return opError("filter", s.carrier, err)
	}
	h := s.look()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.filters[d] = f
	s.setGate(h, d)
	return nil
}

// Selected returns the backend that a filter for Receive named with its last
// SELECT. WaitRead is long enough to wait for the verdict about the first record,
// which Read then returns as ever.
func (c *Conn) Selected() (backend int, ok bool) {
	if c.pass == nil {
		if h := c.s.hooks.Load(); h != nil {
			if n := h.selected.Load(); n > 0 {
				return int(n - 1), true
			}
		}
	}
	return 0, false
}

// SetTap captures the application data of the connection, both ways, in t: what
// came, before a filter, and what goes, behind one. It takes the place of an
// earlier tap; nil ends it. The end of the connection ends it too, and Detach. In
// passthrough the error is [ErrPassthrough].
func (c *Conn) SetTap(t *filter.Tap) error {
	if c.pass != nil {
		return c.pass.opError("tap", c.pass.unavailable())
	}
	return c.s.SetTap(t, c.client)
}

// SetTap is that of a [Conn]. client says which side of the handshake it was.
func (s *Socket) SetTap(t *filter.Tap, client bool) error {
	if err := s.check(); err != nil {
		return opError("tap", s.carrier, err)
	}
	h := s.look()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.flow != nil {
		h.flow.Close()
		h.flow = nil
	}
	if t != nil {
		h.flow = t.Flow(s.carrier.LocalAddr(), s.carrier.RemoteAddr(), client)
	}
	s.setGate(h, Send)
	s.setGate(h, Receive)
	if s.life.Load() != alive { // and whoever ended it may not have seen the tap
		h.end()
	}
	return nil
}

// look returns the hooks of the socket.
func (s *Socket) look() *hooks {
	if h := s.hooks.Load(); h != nil {
		return h
	}
	s.hooks.CompareAndSwap(nil, new(hooks))
	return s.hooks.Load()
}

// setGate puts the hooks of one direction into the way of its records. h.mu is
// held.
func (s *Socket) setGate(h *hooks, d Direction) {
	var gate *soft.Gate
	if f, flow := h.filters[d], h.flow; f != nil || flow != nil {
		local, remote := s.carrier.LocalAddr(), s.carrier.RemoteAddr()
		var g soft.Gate
		if d == Send {
			g = h.sending(f, flow, filter.NewHeader(local, remote))
		} else {
			g = h.receiving(f, flow, filter.NewHeader(remote, local))
		}
		gate = &g
	}
	if send, recv := s.halves(); d == Send {
		send.SetGate(gate)
	} else {
		recv.SetGate(gate)
	}
}

func (h *hooks) sending(f *filter.Filter, flow *filter.Flow, head *filter.Header) soft.Gate {
	return func(payload []byte) (keep int, err error) {
		keep = len(payload)
		if f != nil {
			if keep, err = decide(f, head, payload); err != nil {
				return 0, err
			}
		}
		if flow != nil {
			flow.Sent(payload[:keep])
		}
		return keep, nil
	}
}

func (h *hooks) receiving(f *filter.Filter, flow *filter.Flow, head *filter.Header) soft.Gate {
	return func(payload []byte) (int, error) {
		if flow != nil {
			flow.Received(payload)
		}
		if f == nil {
			return len(payload), nil
		}
		v := f.Decide(head, payload)
		if v.Action == filter.Select {
			h.selected.Store(v.N + 1)
		}
		keep, err := outcome(v, len(payload))
		if keep == 0 {
			h.dropped.Store(true)
		}
		return keep, err
	}
}

func decide(f *filter.Filter, head *filter.Header, payload []byte) (int, error) {
	return outcome(f.Decide(head, payload), len(payload))
}

// outcome is what a verdict does to a record of n bytes.
func outcome(v filter.Verdict, n int) (keep int, err error) {
	if v.Action == filter.Kill || v.Action == filter.Redirect {
		return 0, &filter.KillError{Verdict: v}
	}
	return v.Keep(n), nil
}

// killed ends the association if err is a filter's doing.
func (s *Socket) killed(err error) (error, bool) {
	if e, ok := errors.AsType[*filter.KillError](err); ok {
		return s.abort(e, record.InternalError), true
	}
	return nil, false
}

// end ends a tap, as the connection has ended.
func (h *hooks) end() {
	if h.flow != nil {
		h.flow.Close()
	}
}

// endTap ends a tap, if there is one.
func (s *Socket) endTap() {
	if h := s.hooks.Load(); h != nil {
		h.mu.Lock()
		h.end()
		h.mu.Unlock()
	}
}

// moveHooks gives the hooks of a socket to the one that goes on with its
// association.
func (s *Socket) moveHooks(h *hooks) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.hooks.Store(h)
	s.setGate(h, Send)
	s.setGate(h, Receive)
}

// regate puts the hooks, if there are any, into the way of the records of a new
// provider.
func (s *Socket) regate() {
	h := s.hooks.Load()
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.setGate(h, Send)
	s.setGate(h, Receive)
}

// unseen reports whether data came that a filter kept from the reader, since it
// was asked last.
func (s *Socket) unseen() bool {
	h := s.hooks.Load()
	return h != nil && h.dropped.Swap(false)
}

// info adds what looks at a connection to its state.
func (h *hooks) info(i *Info) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i.Tapped = h.flow != nil
	i.Send.Filtered, i.Receive.Filtered = h.filters[Send] != nil, h.filters[Receive] != nil
	if i.Send.Filtered || i.Tapped {
		i.Send.Reason += "; a filter or a tap looks at every record: what ReadFrom reads is copied"
	}
}
