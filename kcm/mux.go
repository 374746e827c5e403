package kcm

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The way of a message:
//
//	net.Conn.Read → buffer → Framer → Filter      receive.go, the reader of the connection
//	  → connection's row → ready connections → endpoint   mux.go, under Mux.mu
//	  → RecvMsg                                   endpoint.go, the caller's goroutine
//	SendMsg → connection's send queue             endpoint.go, send.go
//	  → net.Conn.Write                            send.go, the writer of the connection
//
// Mux.mu covers rows, endpoints and the life of connections. A send queue has
// a lock of its own. Whoever holds a queue's lock takes no other.

// turn is how many messages are taken from a connection before the next one
// that has some, and how many an endpoint takes before it lets others run.
const turn = 8

// Config has what a Mux is told once. The zero value is a good one.
type Config struct {
	// MaxMessage is how long a message may be, in bytes. 0 means 1 MiB. It also
	// limits how many bytes of a connection wait for an endpoint.
	MaxMessage int

	// Queue is how many messages of a connection may wait for an endpoint.
	// When there are more, or they are too long, nothing is read from the
	// connection. 0 means 256.
	Queue int

	// AssemblyTimeout is how long a message may take from its first byte to its
	// last. 0 means 30 seconds.
	AssemblyTimeout time.Duration

	// IdleTimeout is how long a connection may be silent, when all its messages
	// are done with and everything is written; at most twice as long after the
	// last answer. Then it ends with [ErrIdle]. 0 means for ever.
	IdleTimeout time.Duration

	// SendTimeout is how long a peer may take to read what is written to it at
	// once. 0 means 30 seconds.
	SendTimeout time.Duration

	// Filter returns the filter that a connection has from its first message on,
	// as if SetFilter were called before Attach; it may call SetSendFilter too.
	// Attach calls it. nil, and a nil Filter: there is none.
	Filter func(c *Conn) Filter

	// Ended is called when a connection has ended, once for each that was
	// attached and not detached. The net.Conn is closed; messages of it may
	// still be on their way to endpoints. err says why:
	//
	//   - io.EOF: the peer ended the stream behind a message, all its messages
	//     are done with and everything that was sent is written;
	//   - net.ErrClosed: Close of the Conn or of the Mux, or Shutdown;
	//   - [ErrIdle]: IdleTimeout has passed;
	//   - [*FrameError], [*TooLongError], [*StallError], [*TruncatedError],
	//     [*SlowPeerError]: the peer;
	//   - [*TransportError]: the net.Conn;
	//   - [*PanicError]: the framer, the filter or the handler;
	//   - what a filter or a handler returned.
	//
	// It runs in the connection's own goroutine, and must not wait for Close or
	// Shutdown of the Mux.
	Ended func(c *Conn, err error)
}

// orDefault returns v, or d where v is not set.
func orDefault[T int | time.Duration](v, d T) T {
	if v <= 0 {
		return d
	}
	return v
}

// Mux shares the messages of its connections among its endpoints. All methods
// may be called by any number of goroutines at once.
type Mux struct {
	cfg Config

	mu        sync.Mutex
	conns     []*Conn // attached, in no order
	next      int     // where SendAny begins to look
	endpoints map[*Endpoint]struct{}
	ready     row[*Conn] // connections with messages that may be taken
	parked    *Endpoint  // the one that waits since last; a stack
	closed    bool       // nothing is attached any more
	stats     Stats      // of connections that are gone, and wake-ups

	idle    atomic.Int32   // how many are parked, as a hint
	running sync.WaitGroup // readers
}

// New returns a Mux without connections and endpoints.
func New(cfg Config) *Mux {
	cfg.MaxMessage = orDefault(cfg.MaxMessage, 1<<20)
	cfg.Queue = orDefault(cfg.Queue, 256)
	cfg.AssemblyTimeout = orDefault(cfg.AssemblyTimeout, 30*time.Second)
	cfg.SendTimeout = orDefault(cfg.SendTimeout, 30*time.Second)
	return &Mux{cfg: cfg, endpoints: make(map[*Endpoint]struct{})}
}

// Attach makes the messages that f finds in the stream of c messages of the
// Mux. It takes c: reading, writing, deadlines and closing are the Mux's until
// Detach. c has to support deadlines. Where it has them, these methods are
// used:
//
//   - WaitRead() error: waits until Read would not block. The connection then
//     holds no buffer while nothing comes; otherwise it does, mostly of 4 KiB.
//   - WriteBuffers(*net.Buffers) (int64, error): writes several slices as one.
//
// A Framer with memory, such as that of [RESP], is for this connection only.
// The error is net.ErrClosed; then c is still the caller's.
func (m *Mux) Attach(c net.Conn, f Framer) (*Conn, error) {
	k := newConn(m, c, f)
	if m.cfg.Filter != nil {
		k.SetFilter(m.cfg.Filter(k))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, net.ErrClosed
	}
	k.index = len(m.conns)
	m.conns = append(m.conns, k)
	m.running.Add(1)
	go k.run()
	return k, nil
}

// remove forgets an attached connection. m.mu is held.
func (m *Mux) remove(c *Conn) {
	last := len(m.conns) - 1
	m.conns[c.index] = m.conns[last]
	m.conns[c.index].index = c.index
	m.conns[last] = nil
	m.conns = m.conns[:last]
	c.index = -1
	m.stats.add(c.counters())
}

// Endpoint returns a new endpoint. It receives nothing before RecvMsg is
// called. The error is net.ErrClosed.
func (m *Mux) Endpoint() (*Endpoint, error) {
	e := &Endpoint{mux: m, wake: make(chan struct{}, 1)}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, net.ErrClosed
	}
	m.endpoints[e] = struct{}{}
	return e, nil
}

// Close closes every connection and every endpoint. Messages that wait are
// dropped. It returns when all goroutines of the Mux have ended.
func (m *Mux) Close() error {
	m.mu.Lock()
	m.closed = true
	conns := slices.Clone(m.conns)
	var woken row[*Endpoint]
	for e := range m.endpoints {
		m.closeEndpoint(e, &woken)
	}
	m.mu.Unlock()
	wake(woken)
	for _, c := range conns {
		c.Close()
	}
	m.running.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := m.ready.pop(); c != nil; c = m.ready.pop() { // of connections that ended before
		c.backlog.listed = false
		c.dropAll()
	}
	return nil
}

// Shutdown ends the Mux in good order. Nothing more is attached, nothing more
// is read. Messages that came whole are delivered, and what is sent is written;
// a connection ends when its last message is done with, that is when its
// endpoint asks for the next one. Then Shutdown closes the Mux as Close does
// and returns nil. When ctx is done before that it closes at once, and returns
// the error of ctx.
func (m *Mux) Shutdown(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	conns := slices.Clone(m.conns)
	m.mu.Unlock()
	for _, c := range conns {
		c.interrupt(stopDrain)
	}
	ended := make(chan struct{})
	go func() {
		m.running.Wait()
		close(ended)
	}()
	var err error
	select {
	case <-ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	m.Close()
	<-ended
	return err
}

// take takes the next message out of the row of a connection; nil means that
// there is none. Connections take turns. m.mu is held.
func (m *Mux) take() *message {
	for {
		c := m.ready.head
		if c == nil {
			return nil
		}
		if c.backlog.row.head == nil { // they were dropped, or given back
			m.ready.pop()
			c.backlog.listed, c.backlog.turn = false, 0
			continue
		}
		if c.heldUp() {
			m.ready.pop()
			c.backlog.listed, c.backlog.turn = false, 0
			continue
		}
		p := c.backlog.row.pop()
		if c.backlog.turn++; c.backlog.row.head == nil {
			m.ready.pop()
			c.backlog.listed, c.backlog.turn = false, 0
		} else if c.backlog.turn == turn {
			m.ready.pop()
			m.ready.push(c)
			c.backlog.turn = 0
		}
		c.taken(p)
		return p
	}
}

// takeOwn takes the next message that only e may have; nil means that there is
// none. m.mu is held.
func (m *Mux) takeOwn(e *Endpoint) *message {
	var before *message
	for p := e.row.head; p != nil; before, p = p, p.link {
		if !p.conn.heldUp() {
			e.row.unlink(before, p)
			p.conn.taken(p)
			return p
		}
	}
	return nil
}

// list makes c one of the ready connections if it has messages. m.mu is held.
func (m *Mux) list(c *Conn) {
	if !c.backlog.listed && c.backlog.row.head != nil && !c.held.Load() {
		c.backlog.listed = true
		m.ready.push(c)
	}
}

// hand gives messages to parked endpoints, as long as there are both. The
// caller wakes those that it adds to woken when m.mu, which is held, is free.
func (m *Mux) hand(woken *row[*Endpoint]) {
	for m.parked != nil {
		p := m.take()
		if p == nil {
			return
		}
		m.give(m.parked, p, woken)
	}
}

// give gives a message to a parked endpoint. m.mu is held.
func (m *Mux) give(e *Endpoint, p *message, woken *row[*Endpoint]) {
	m.unpark(e)
	e.holds(p)
	m.stats.Wakeups++
	woken.push(e)
}

// wake wakes endpoints that are not parked any more.
func wake(woken row[*Endpoint]) {
	for e := woken.pop(); e != nil; e = woken.pop() {
		e.wake <- struct{}{}
	}
}

// park puts an endpoint on the stack. m.mu is held.
func (m *Mux) park(e *Endpoint) {
	e.parked = true
	if e.below = m.parked; e.below != nil {
		e.below.above = e
	}
	m.parked = e
	m.idle.Add(1)
}

// unpark takes it off, wherever it is. m.mu is held.
func (m *Mux) unpark(e *Endpoint) {
	if e.above != nil {
		e.above.below = e.below
	} else {
		m.parked = e.below
	}
	if e.below != nil {
		e.below.above = e.above
	}
	e.above, e.below, e.parked = nil, nil, false
	m.idle.Add(-1)
}

// unhold lets the messages of a connection be taken again.
func (m *Mux) unhold(c *Conn) {
	var woken row[*Endpoint]
	m.mu.Lock()
	if c.held.Load() && c.out.drained() {
		c.held.Store(false)
		for e := range m.endpoints {
			if e.parked {
				if p := m.takeOwn(e); p != nil {
					m.give(e, p, &woken)
				}
			}
		}
		m.list(c)
		m.hand(&woken)
	}
	m.mu.Unlock()
	wake(woken)
}

// message is a whole message on its way to an endpoint.
type message struct {
	conn *Conn
	buf  *buffer
	raw  []byte // all of it, in buf
	keep int    // how much of it is delivered
	seq  uint64 // its place in the stream
	to   *Endpoint
	link *message
}

var messagePool = sync.Pool{New: func() any { return new(message) }}

// free ends a message, if there is one.
func (p *message) free() {
	if p == nil {
		return
	}
	if p.buf != nil {
		p.buf.release()
	}
	*p = message{}
	messagePool.Put(p)
}

// abandon ends a message that somebody may still look at.
func (p *message) abandon() {
	if p.buf != nil {
		p.buf.lost.Store(true)
		p.buf.release()
	}
}

// linked is a thing that has a place for the next one in a row.
type linked[T any] interface{ next() *T }

var (
	_ linked[*message]  = (*message)(nil)
	_ linked[*Conn]     = (*Conn)(nil)
	_ linked[*Endpoint] = (*Endpoint)(nil)
)

func (p *message) next() **message   { return &p.link }
func (c *Conn) next() **Conn         { return &c.link }
func (e *Endpoint) next() **Endpoint { return &e.link }

// row is a first in, first out list. A thing is in one row at most.
type row[T interface {
	comparable
	linked[T]
}] struct{ head, tail T }

func (r *row[T]) push(v T) {
	var none T
	if *v.next() = none; r.head == none {
		r.head = v
	} else {
		*r.tail.next() = v
	}
	r.tail = v
}

// unlink takes out v, which stands behind before, or first where that is zero.
func (r *row[T]) unlink(before, v T) {
	var none T
	after := *v.next()
	if *v.next() = none; before == none {
		r.head = after
	} else {
		*before.next() = after
	}
	if r.tail == v {
		r.tail = before
	}
}

// pop returns the zero value when there is nothing.
func (r *row[T]) pop() T {
	var none T
	v := r.head
	if v != none {
		r.head = *v.next()
		*v.next() = none
	}
	return v
}
