package kcm

import (
	"cmp"
	"net"
	"slices"
	"sync/atomic"
)

// backlog is what the mux knows of the messages of a connection. It is under
// Mux.mu.
type backlog struct {
	row      row[*message] // for any endpoint
	waiting  int           // messages that wait for an endpoint, here or redirected
	bytes    int           // in them
	inflight atomic.Int32  // messages that endpoints have; the writer reads it as a hint
	turn     int           // messages taken without a pause
	listed   bool          // the connection is in Mux.ready
	starved  bool          // the reader waits until fewer messages wait
	ending   bool          // the reader waits until all messages are done with
	received counts
}

// done says that no message waits, and no endpoint has one.
func (b *backlog) done() bool { return b.waiting == 0 && b.inflight.Load() == 0 }

// taken is called for a message that does not wait any more. mux.mu is held.
func (c *Conn) taken(p *message) {
	c.backlog.waiting--
	c.backlog.bytes -= len(p.raw)
	cfg := &c.mux.cfg
	if c.backlog.starved && c.backlog.waiting <= cfg.Queue/2 && c.backlog.bytes <= cfg.MaxMessage/2 {
		c.backlog.starved = false
		c.rouse()
	}
	c.settled()
}

// heldUp says that no message is given out, since the peer does not read: who
// does not read gets no work done. The writer calls unhold when it has written
// enough. mux.mu is held.
func (c *Conn) heldUp() bool {
	if c.held.Load() {
		return true
	}
	if !c.out.full() {
		return false
	}
	c.held.Store(true)
	if c.out.drained() { // just now, and the writer may not have seen it
		c.held.Store(false)
		return false
	}
	return true
}

// takeAll takes all messages that wait, in the order of the stream. mux.mu is
// held.
func (c *Conn) takeAll() (all []*message) {
	for p := c.backlog.row.pop(); p != nil; p = c.backlog.row.pop() {
		all = append(all, p)
	}
	for e := range c.mux.endpoints {
		var others row[*message]
		for p := e.row.pop(); p != nil; p = e.row.pop() {
			if p.conn == c {
				all = append(all, p)
			} else {
				others.push(p)
			}
		}
		e.row = others
	}
	for _, p := range all {
		c.taken(p)
	}
	slices.SortFunc(all, func(a, b *message) int { return cmp.Compare(a.seq, b.seq) })
	return all
}

// dropAll drops all messages that wait. mux.mu is held.
func (c *Conn) dropAll() {
	for _, p := range c.takeAll() {
		p.free()
	}
}

// settled is called when there is one message less to be done with. mux.mu is
// held.
func (c *Conn) settled() {
	if c.backlog.ending && c.backlog.done() {
		c.rouse()
	}
}

// putBack makes a message wait for any endpoint, in its old place. mux.mu is
// held.
func (c *Conn) putBack(p *message) {
	p.to = nil
	c.backlog.waiting++
	c.backlog.bytes += len(p.raw)
	if c.err == net.ErrClosed { // as all others that waited
		c.taken(p)
		p.free()
		return
	}
	var row row[*message]
	for q := c.backlog.row.pop(); q != nil; q = c.backlog.row.pop() {
		if p != nil && q.seq > p.seq {
			row.push(p)
			p = nil
		}
		row.push(q)
	}
	if p != nil {
		row.push(p)
	}
	c.backlog.row = row
	c.mux.list(c)
}
