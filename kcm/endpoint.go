package kcm

import (
	"net"
	"runtime"
	"sync/atomic"
)

// Endpoint is where whole messages come out of a [Mux] and go into it: what
// AF_KCM calls a KCM socket. RecvMsg and ReadMsgInto are for one goroutine at a
// time; all other methods may be called by any number of goroutines at once.
type Endpoint struct {
	mux    *Mux
	wake   chan struct{} // one for each time that the endpoint was parked
	streak int           // the receiver's own: messages since it was parked or let others run
	closed atomic.Bool   // written under mux.mu

	answering atomic.Pointer[Conn] // whose message the receiver has, and has not answered

	// Under mux.mu.
	row          row[*message] // redirected here by a filter
	cur          *message      // what the receiver has
	unseen       bool          // and does not know of yet
	disabled     bool
	parked       bool
	above, below *Endpoint // in the stack of those that are parked
	link         *Endpoint
}

// Message is a whole message and the connection that it came from.
type Message struct {
	Conn *Conn
	Data []byte // with its header; the receiver may change it
}

// RecvMsg waits for the next message. Data is borrowed: it is valid until
// RecvMsg or ReadMsgInto of this endpoint is called again, and when the
// endpoint is closed before that, for good. Until then the message counts as
// not done with: its connection does not come to a good end.
//
// Of several endpoints that wait exactly one is woken for a message, the one
// that has waited shortest.
//
// Errors are net.ErrClosed and [ErrReceiveDisabled].
func (e *Endpoint) RecvMsg() (Message, error) {
	m := e.mux
	m.mu.Lock()
	if e.parked {
		m.mu.Unlock()
		panic("kcm: two goroutines receive on one endpoint")
	}
	old := e.doneWith()
	if e.streak >= turn {
		// Readers and writers of connections come to their turn, and what was
		// sent meanwhile goes out together.
		e.streak = 0
		m.mu.Unlock()
		old.free()
		old = nil
		runtime.Gosched()
		m.mu.Lock()
	}
	for {
		if e.closed.Load() {
			m.mu.Unlock()
			old.free()
			return Message{}, net.ErrClosed
		}
		p := e.cur // given while the endpoint was parked
		if p == nil && e.disabled {
			m.mu.Unlock()
			old.free()
			return Message{}, ErrReceiveDisabled
		}
		if p == nil {
			if p = m.takeOwn(e); p == nil {
				p = m.take()
			}
			if p != nil {
				e.holds(p)
				e.streak++
			}
		}
		if p != nil {
			e.unseen = false
			msg := Message{p.conn, p.raw[:p.keep:p.keep]}
			m.mu.Unlock()
			old.free()
			return msg, nil
		}
		m.park(e)
		m.mu.Unlock()
		old.free()
		old = nil
		<-e.wake
		e.streak = 0
		m.mu.Lock()
	}
}

// ReadMsgInto is RecvMsg with a copy: it appends the message to p[:0], which
// grows when it is too small, and returns the result, which is the caller's.
func (e *Endpoint) ReadMsgInto(p []byte) ([]byte, *Conn, error) {
	msg, err := e.RecvMsg()
	if err != nil {
		return p[:0], nil, err
	}
	p = append(p[:0], msg.Data...)
	e.mux.mu.Lock()
	var buf *buffer
	if e.cur != nil { // not closed meanwhile
		buf, e.cur.buf = e.cur.buf, nil
	}
	e.mux.mu.Unlock()
	if buf != nil {
		buf.release()
	}
	return p, msg.Conn, nil
}

// SendMsg sends b, a whole message, on c: no other message mixes with it, and
// it goes out as soon as the connection has taken what was sent before.
// Messages that are sent while others are written go out together, in one
// write. b is not kept. nil means that b will be written unless c ends, which
// Config.Ended tells.
//
// The answer to a message of c, which is the first that the endpoint sends on c
// while it has that message, never waits. Everything else waits while more than
// 256 KiB are unwritten, and messages of c are not delivered meanwhile.
//
// The error is what ended c ([Conn.Err]), [ErrDetached], [ErrNotAttached], or
// net.ErrClosed. SendMsg does not look for messages in b.
func (e *Endpoint) SendMsg(c *Conn, b []byte) error {
	if c.mux != e.mux {
		return ErrNotAttached
	}
	if e.closed.Load() {
		return net.ErrClosed
	}
	return c.out.send(b, e.answering.CompareAndSwap(c, nil))
}

// SendAny is SendMsg on the connection with the fewest unwritten bytes, in turn
// where there are several, and says which it was. When that connection ends
// meanwhile it takes another one. The error is [ErrNoConn] or net.ErrClosed.
func (e *Endpoint) SendAny(b []byte) (*Conn, error) {
	for {
		if e.closed.Load() {
			return nil, net.ErrClosed
		}
		c := e.mux.lightest()
		if c == nil {
			return nil, ErrNoConn
		}
		if err := c.out.send(b, false); err == nil {
			return c, nil
		}
	}
}

// lightest returns the connection that has the least to write.
func (m *Mux) lightest() (best *Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var least int64
	for i := range m.conns {
		c := m.conns[(m.next+i)%len(m.conns)]
		if c.out.refusing.Load() {
			continue
		}
		if n := c.out.bytes.Load(); best == nil || n < least {
			best, least = c, n
		}
	}
	if best != nil {
		m.next = best.index + 1
	}
	return best
}

// Clone returns a new endpoint of the same Mux. The error is net.ErrClosed.
func (e *Endpoint) Clone() (*Endpoint, error) { return e.mux.Endpoint() }

// ReceiveDisable makes the endpoint receive nothing, or receive again. While it
// receives nothing RecvMsg returns [ErrReceiveDisabled], also one that waits,
// and messages that wait for this endpoint alone go to any other. The message
// that it has stays valid.
func (e *Endpoint) ReceiveDisable(off bool) {
	m := e.mux
	var woken row[*Endpoint]
	m.mu.Lock()
	e.disabled = off
	if off {
		if e.parked {
			m.unpark(e)
			woken.push(e)
		}
		m.moveAway(e, &woken)
	}
	m.mu.Unlock()
	wake(woken)
}

// Close ends the endpoint: RecvMsg returns net.ErrClosed, also one that waits.
// The message that it has counts as done with, and stays valid. Messages that
// wait for this endpoint alone go to any other.
func (e *Endpoint) Close() error {
	var woken row[*Endpoint]
	e.mux.mu.Lock()
	e.mux.closeEndpoint(e, &woken)
	e.mux.mu.Unlock()
	wake(woken)
	return nil
}

// closeEndpoint closes an endpoint. m.mu is held.
func (m *Mux) closeEndpoint(e *Endpoint, woken *row[*Endpoint]) {
	if e.closed.Swap(true) {
		return
	}
	delete(m.endpoints, e)
	if e.parked {
		m.unpark(e)
		woken.push(e)
	}
	if unseen := e.unseen; e.cur != nil {
		p := e.doneWith()
		if unseen {
			p.conn.putBack(p)
		} else {
			p.abandon()
		}
	}
	m.moveAway(e, woken)
}

// moveAway gives what waits for e to the others. m.mu is held.
func (m *Mux) moveAway(e *Endpoint, woken *row[*Endpoint]) {
	for p := e.row.pop(); p != nil; p = e.row.pop() {
		p.conn.taken(p)
		p.conn.putBack(p)
	}
	m.hand(woken)
}

// holds makes p the message of the endpoint. mux.mu is held.
func (e *Endpoint) holds(p *message) {
	e.cur, e.unseen = p, true
	p.conn.backlog.inflight.Add(1)
	e.answering.Store(p.conn)
}

// doneWith takes the message from the endpoint and returns it, nil if there is
// none: the caller frees it when mux.mu, which is held, is free.
func (e *Endpoint) doneWith() *message {
	p := e.cur
	if p == nil {
		return nil
	}
	e.cur, e.unseen = nil, false
	e.answering.Store(nil)
	p.conn.backlog.inflight.Add(-1)
	p.conn.settled()
	return p
}
