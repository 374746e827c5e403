package kcm

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"runtime/debug"
	"time"
)

// batchSize is how many messages are found before they are given to the mux.
const batchSize = 64

// reader is the receiving side of a connection. It is its goroutine's own.
type reader struct {
	conn   *Conn
	framer Framer
	wait   func() error // WaitRead, where the transport has it

	buf  *buffer // nil while nothing is unread
	r, w int     // buf.b[r:w] is not part of a message that was found
	need int     // so many bytes there have to be before the framer is asked
	size int     // of the message that has begun; 0: not known
	seq  uint64  // how many messages were found
	err  error   // came along with the last bytes

	next   int  // size of the next buffer: grows when one was filled, shrinks when a smaller one would have done
	filled bool // the last read had no room for more

	timed uint64    // message that the reading deadline is for, by seq+1; 0: none is set; timedIdle
	quiet time.Time // since when nothing comes, where that matters
	busy  bool      // when that was last looked at, something was under way

	batch row[*message] // found, and not published
	found counts        // so are these
}

// counts is of what was received.
type counts struct{ messages, bytes, reads, dropped, pauses uint64 }

func (n *counts) add(m counts) {
	n.messages += m.messages
	n.bytes += m.bytes
	n.reads += m.reads
	n.dropped += m.dropped
	n.pauses += m.pauses
}

func (in *reader) init(c *Conn, f Framer) {
	in.conn, in.framer, in.need, in.next = c, f, 1, smallest
	if t, ok := c.net.(interface{ WaitRead() error }); ok {
		in.wait = t.WaitRead
	}
}

// receive reads, finds messages and gives them to the mux, until something ends
// it.
func (in *reader) receive() error {
	for {
		if err := in.fill(); err != nil {
			return err
		}
		for in.w-in.r >= in.need {
			messages, bytes, err := in.allowance()
			if err == nil {
				err = in.frame(messages, bytes)
			}
			in.publish()
			if err != nil {
				return err
			}
		}
	}
}

// fill reads once from the transport, behind what is there.
func (in *reader) fill() error {
	c := in.conn
	if err := in.err; err != nil {
		in.err = nil
		return in.blame(err)
	}
	if c.stop.Load() != stopNot {
		return errStopped
	}
	if in.w == in.r {
		// Nobody knows when something comes. What is left of the buffer is in
		// messages under way, and they have it themselves.
		if in.buf != nil && in.w <= in.next/4 {
			in.next = max(in.next/4, smallest)
		}
		in.drop()
		if err := in.idle(); err != nil {
			return err
		}
		for in.wait != nil {
			err := in.wait()
			if err == nil {
				break
			}
			if !in.early(err) {
				return in.blame(err)
			}
		}
	} else if in.timed != in.seq+1 {
		in.timed = in.seq + 1
		if err := c.setReadDeadline(time.Now().Add(c.mux.cfg.AssemblyTimeout)); err != nil {
			return err
		}
	}
	free := in.space()
	for range 100 { // a net.Conn may read nothing without an error, now and then
		n, err := c.net.Read(free)
		if n > 0 {
			in.w += n
			in.err = err
			in.found.reads++
			if in.filled = n == len(free); in.filled && in.next < usual {
				in.next *= 4
			}
			return nil
		}
		if err != nil && !in.early(err) {
			return in.blame(err)
		}
	}
	return &TransportError{"read", io.ErrNoProgress}
}

// timedIdle is reader.timed while the deadline is for the connection to be idle.
const timedIdle = math.MaxUint64

// idle sets the deadline for when nothing has begun. It is not moved with every
// message: early does that when it has passed.
func (in *reader) idle() error {
	timeout := in.conn.mux.cfg.IdleTimeout
	if timeout <= 0 {
		if in.timed == 0 {
			return nil
		}
		in.timed = 0
		return in.conn.setReadDeadline(time.Time{})
	}
	in.quiet, in.busy = time.Now(), false
	if in.timed == timedIdle {
		return nil
	}
	in.timed = timedIdle
	return in.conn.setReadDeadline(in.quiet.Add(timeout))
}

// early reports whether err is a deadline of an idle connection that has passed
// and is moved, since something came after it was set, or is under way.
func (in *reader) early(err error) bool {
	c := in.conn
	if in.timed != timedIdle || in.w != in.r || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.mux.mu.Lock()
	busy := !c.backlog.done() || !c.out.empty()
	c.mux.mu.Unlock()
	if busy || in.busy { // since when it is not, nobody knows
		in.quiet = time.Now()
	}
	in.busy = busy
	until := in.quiet.Add(c.mux.cfg.IdleTimeout)
	return time.Now().Before(until) && c.setReadDeadline(until) == nil
}

// blame says what an error of reading means.
func (in *reader) blame(err error) error {
	have := in.w - in.r
	late := errors.Is(err, os.ErrDeadlineExceeded)
	switch {
	case late && in.conn.stop.Load() != stopNot:
		return errStopped
	case late && have == 0 && in.timed == timedIdle:
		return ErrIdle
	case late && have > 0:
		return &StallError{have, in.conn.mux.cfg.AssemblyTimeout}
	case err == io.EOF && have > 0:
		return &TruncatedError{have}
	case err == io.EOF:
		return io.EOF
	}
	return &TransportError{"read", err}
}

// space returns the free part of the buffer, or of a larger one when too little
// is free for the message that has begun. A peer pays for memory: the buffer
// gets 4 times the size of what has come.
func (in *reader) space() []byte {
	have := in.w - in.r
	if have == 0 {
		size := in.next
		if in.wait == nil && !in.filled {
			size = smallest // it may be kept for long
		}
		in.buf, in.r, in.w = lend(size), 0, 0
		return in.buf.b
	}
	missing := in.need - have
	enough := min(missing, smallest/4)
	if len(in.buf.b)-in.w >= enough {
		return in.buf.b[in.w:]
	}
	if in.buf.refs.Load() == 1 && len(in.buf.b)-have >= enough { // no message lies in front
		copy(in.buf.b, in.buf.b[in.r:in.w])
	} else {
		b := lend(max(have+min(missing, 3*have), in.next))
		copy(b.b, in.buf.b[in.r:in.w])
		in.buf.release()
		in.buf = b
		in.next = max(in.next, min(len(b.b), 4*usual))
	}
	in.r, in.w = 0, have
	return in.buf.b[in.w:]
}

// rest is what was read and is not part of a message that was found.
func (in *reader) rest() []byte {
	if in.buf == nil {
		return nil
	}
	return in.buf.b[in.r:in.w]
}

// drop gives the buffer back as far as it is the reader's.
func (in *reader) drop() {
	if in.buf != nil {
		in.buf.release()
		in.buf, in.r, in.w = nil, 0, 0
	}
}

// allowance waits until the mux takes messages of this connection, and returns
// how many, and that bytes may be in front of the last of them.
func (in *reader) allowance() (messages, bytes int, err error) {
	c := in.conn
	cfg := &c.mux.cfg
	paused := false
	c.until(func() bool {
		messages, bytes = cfg.Queue-c.backlog.waiting, cfg.MaxMessage-c.backlog.bytes
		stop := c.stop.Load()
		if stop >= stopDetach {
			err = errStopped
			return true
		}
		c.backlog.starved = messages <= 0 || bytes <= 0
		paused = paused || c.backlog.starved
		return !c.backlog.starved
	})
	if paused {
		in.found.pauses++
	}
	return min(messages, batchSize), bytes, err
}

// frame finds messages and asks the filter about each.
func (in *reader) frame(messages, bytes int) (err error) {
	c := in.conn
	called := "framer"
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{called, v, debug.Stack()}
		}
	}()
	limit := c.mux.cfg.MaxMessage
	for messages > 0 && bytes > 0 && in.w-in.r >= in.need {
		n, have := in.size, in.w-in.r
		if n == 0 {
			if n, err = in.framer.Frame(in.buf.b[in.r:in.w:in.w]); err != nil {
				return asFrameError(err)
			}
			switch missing := max(1, -n); {
			case n > limit:
				return &TooLongError{n, limit}
			case n <= 0 && missing > limit-have:
				return &TooLongError{max(have, have+missing), limit}
			case n <= 0:
				in.need = have + missing
				return nil
			case n > have:
				in.size, in.need = n, n
				return nil
			}
		}
		raw := in.buf.b[in.r : in.r+n : in.r+n]
		in.r += n
		in.size, in.need = 0, 1
		in.seq++
		keep, to := n, (*Endpoint)(nil)
		if f := c.filter.Load(); f != nil {
			called = "filter"
			v := (*f)(raw)
			called = "framer"
			if v.End != nil {
				return v.End
			}
			if keep, to = min(v.Keep, n), v.To; keep <= 0 {
				in.found.dropped++
				continue
			}
		}
		in.buf.keep()
		p := messagePool.Get().(*message)
		*p = message{conn: c, buf: in.buf, raw: raw, keep: keep, seq: in.seq, to: to}
		in.batch.push(p)
		in.found.messages++
		in.found.bytes += uint64(n)
		messages--
		bytes -= n
	}
	return nil
}

func asFrameError(err error) error {
	var known *FrameError
	if errors.As(err, &known) {
		return err
	}
	return &FrameError{Err: err}
}

// publish gives the messages that were found to the mux.
func (in *reader) publish() {
	c := in.conn
	m := c.mux
	if m.idle.Load() == 0 {
		in.economize()
	}
	var woken row[*Endpoint]
	m.mu.Lock()
	c.backlog.received.add(in.found)
	in.found = counts{}
	for p := in.batch.pop(); p != nil; p = in.batch.pop() {
		c.backlog.waiting++
		c.backlog.bytes += len(p.raw)
		switch e := p.to; {
		case c.err == net.ErrClosed:
			c.taken(p)
			p.free()
		case e == nil || e.mux != m || e.closed.Load() || e.disabled:
			p.to = nil
			c.backlog.row.push(p)
		case e.parked && !c.heldUp():
			c.taken(p)
			m.give(e, p, &woken)
		default:
			e.row.push(p)
		}
	}
	m.list(c)
	m.hand(&woken)
	m.mu.Unlock()
	wake(woken)
}

// economize moves messages that will have to wait out of a buffer that would be
// mostly empty because of them.
func (in *reader) economize() {
	total := 0
	for p := in.batch.head; p != nil; p = p.link {
		total += len(p.raw)
	}
	if total == 0 || total*wasteful > len(in.buf.b) || len(in.buf.b) == smallest {
		return
	}
	b := lend(total)
	at := 0
	for p := in.batch.head; p != nil; p = p.link {
		n := copy(b.b[at:], p.raw)
		p.raw = b.b[at : at+n : at+n]
		at += n
		p.buf.release()
		p.buf = b
		b.keep()
	}
	b.release()
}
