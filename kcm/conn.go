package kcm

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is a connection attached to a [Mux]. All methods may be called by any
// number of goroutines at once.
type Conn struct {
	mux    *Mux
	net    net.Conn
	filter atomic.Pointer[Filter]
	screen screen
	in     reader
	out    sendQueue

	// Under mux.mu.
	backlog backlog
	index   int // in mux.conns
	link    *Conn
	err     error // that ended it
	back    handback

	held atomic.Bool // the peer does not read: its messages are not taken

	stopMu sync.Mutex    // for deadlines, so that nobody sets one against stop
	stop   atomic.Int32  // what the reader is to do
	room   chan struct{} // the reader waits here for what is not the peer's to give
	ended  chan struct{} // closed when the reader is gone
}

// handback is what Detach returns.
type handback struct {
	ready bool // not in the mux any more
	taken bool
	rest  []byte
}

// Values of Conn.stop. Only a larger one takes the place of another.
const (
	stopNot    int32 = iota
	stopDrain        // end in good order: Shutdown
	stopDetach       // give the transport back
	stopFail         // Conn.err is set: end at once
)

// past is a deadline that interrupts what is under way.
var past = time.Unix(1, 0)

// errStopped ends reading when somebody asked for it.
var errStopped = errors.New("kcm: reading was stopped")

func newConn(m *Mux, nc net.Conn, f Framer) *Conn {
	c := &Conn{mux: m, net: nc, room: make(chan struct{}, 1), ended: make(chan struct{})}
	c.in.init(c, f)
	c.out.init(c)
	return c
}

// NetConn returns what was attached. Its addresses may be asked for; everything
// else is the Mux's.
func (c *Conn) NetConn() net.Conn { return c.net }

// Err returns what ended the connection, as Config.Ended has it, [ErrDetached]
// after Detach, and nil before.
func (c *Conn) Err() error {
	c.mux.mu.Lock()
	defer c.mux.mu.Unlock()
	return c.err
}

// Filter decides about a message before it is delivered. It gets all of it,
// must not keep it, and may change it. The calls for a connection come one
// after the other, in a goroutine of the connection.
type Filter func(msg []byte) Verdict

// Verdict is what a filter decides.
type Verdict struct {
	// Keep is how many bytes of the message are delivered: none of them, and it
	// is dropped; its length or more, and it is delivered as it is. A program of
	// package bpf has just this for its result.
	Keep int

	// To is the endpoint that gets the message, nil for any. When that one is
	// closed or receives nothing, any other gets it.
	To *Endpoint

	// End, if it is not nil, ends the connection with this error. The message
	// is dropped.
	End error
}

// SetFilter makes f the filter of the connection from the next message on. nil
// takes it away. No message is lost over it, and none is seen by two filters.
func (c *Conn) SetFilter(f Filter) {
	if f == nil {
		c.filter.Store(nil)
		return
	}
	c.filter.Store(&f)
}

// Close ends the connection with net.ErrClosed. Messages that wait are dropped,
// and what was not written yet is not. It does not wait for the end: Config.Ended
// tells.
func (c *Conn) Close() error {
	c.fail(net.ErrClosed)
	return nil
}

// Detach takes the connection back. It writes what was sent before, stops
// reading, and returns the net.Conn, without deadlines, and a copy of all
// bytes that were read from it and not delivered: messages that wait for an
// endpoint, as they came, and the beginning of the next one. Messages that an
// endpoint has got stay valid; an answer to them is [ErrDetached].
//
// When the connection ends meanwhile, or has ended, the error says how; then
// there is nothing to take. It is ErrDetached when somebody else has taken it.
// The stream may have come to its end.
func (c *Conn) Detach() (net.Conn, []byte, error) {
	c.interrupt(stopDetach)
	<-c.ended
	c.mux.mu.Lock()
	defer c.mux.mu.Unlock()
	if !c.back.ready || c.back.taken {
		return nil, nil, c.err
	}
	rest := c.back.rest
	c.back = handback{ready: true, taken: true}
	return c.net, rest, nil
}

// interrupt tells the reader what to do, and wakes it. With stopFail the writer
// is interrupted too.
func (c *Conn) interrupt(how int32) {
	c.stopMu.Lock()
	defer c.stopMu.Unlock()
	select {
	case <-c.ended: // what becomes of the transport is not ours to say
		return
	default:
	}
	if how <= c.stop.Load() {
		return
	}
	c.stop.Store(how)
	set := c.net.SetReadDeadline
	if how == stopFail {
		set = c.net.SetDeadline
	}
	if set(past) != nil { // it is closed, or has none: then this is the only way
		c.net.Close()
	}
	c.rouse()
}

// setReadDeadline does nothing against interrupt.
func (c *Conn) setReadDeadline(t time.Time) error {
	return c.setDeadline(stopNot, c.net.SetReadDeadline, t)
}

func (c *Conn) setWriteDeadline(t time.Time) error {
	return c.setDeadline(stopDetach, c.net.SetWriteDeadline, t)
}

func (c *Conn) setDeadline(unless int32, set func(time.Time) error, t time.Time) error {
	c.stopMu.Lock()
	defer c.stopMu.Unlock()
	if c.stop.Load() > unless {
		return errStopped
	}
	err := set(t)
	if err == nil || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) {
		return nil // of an end, reading or writing has more to say
	}
	return &TransportError{"set deadline", err}
}

// rouse makes the reader look again at what it waits for.
func (c *Conn) rouse() {
	select {
	case c.room <- struct{}{}:
	default:
	}
}

// until waits until cond, which is called with mux.mu held, is true. Who makes
// it true calls rouse.
func (c *Conn) until(cond func() bool) {
	for {
		c.mux.mu.Lock()
		ok := cond()
		c.mux.mu.Unlock()
		if ok {
			return
		}
		<-c.room
	}
}

// fail ends the connection with err, if nothing else has. Nothing is sent any
// more. It does not wait: reader and writer are interrupted.
func (c *Conn) fail(err error) {
	c.mux.mu.Lock()
	if c.err != nil {
		c.mux.mu.Unlock()
		return
	}
	c.err = err
	if err == net.ErrClosed { // the owner wants no more of it
		c.dropAll()
	}
	c.mux.mu.Unlock()
	c.out.refuse(err)
	c.interrupt(stopFail)
}

// run is the reader, and the life of the connection.
func (c *Conn) run() {
	m := c.mux
	defer m.running.Done()
	err := c.in.receive()
	if err == io.EOF || err == errStopped && c.stop.Load() != stopFail {
		if c.settle(err) {
			return
		}
		if err == errStopped {
			err = net.ErrClosed
		}
	}
	c.fail(err)
	c.out.close()
	c.net.Close()
	c.in.drop()
	m.mu.Lock()
	m.remove(c)
	err = c.err
	m.mu.Unlock()
	c.finish()
	if m.cfg.Ended != nil {
		m.cfg.Ended(c, err)
	}
}

// settle brings a connection of which nothing more is read to a good end: what
// came is delivered and done with, and what is sent is written. It reports
// whether the connection was detached.
func (c *Conn) settle(err error) (detached bool) {
	detaching := func() bool { return c.stop.Load() == stopDetach }
	c.until(func() bool {
		c.backlog.ending = true
		return c.err != nil || detaching() || c.backlog.done()
	})
	switch {
	case detaching():
		c.out.refuse(ErrDetached)
	case err == io.EOF:
		c.out.refuse(io.EOF)
	default:
		c.out.refuse(net.ErrClosed)
	}
	c.out.watched.Store(true)
	c.until(func() bool { return c.err != nil || c.out.empty() })
	return detaching() && c.detach()
}

// detach takes the connection out of the mux, unless it has ended.
func (c *Conn) detach() bool {
	m := c.mux
	m.mu.Lock()
	if c.err != nil {
		m.mu.Unlock()
		return false
	}
	c.err = ErrDetached
	left := c.takeAll()
	var rest []byte
	for _, p := range left {
		rest = append(rest, p.raw...)
		p.free()
	}
	c.back = handback{ready: true, rest: append(rest, c.in.rest()...)}
	m.remove(c)
	m.mu.Unlock()
	c.out.close()
	c.in.drop()
	c.net.SetDeadline(time.Time{}) // who takes it now will hear of a transport that cannot
	c.finish()
	return true
}

// finish says that the connection has ended, or was detached.
func (c *Conn) finish() {
	c.stopMu.Lock()
	close(c.ended)
	c.stopMu.Unlock()
}
