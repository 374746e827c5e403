package kcm

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// sendLimit is how many bytes may wait to be written to a peer before what is
// no answer waits, and its messages do.
const sendLimit = 256 << 10

// An answer waits for others for gatherLimit. When it was longer, that many of
// those that come next do not wait.
const (
	gatherLimit = 200 * time.Microsecond
	gatherPause = 63
)

// sendQueue is what is to be written to a connection. Nobody who sends ever
// waits for the transport: a goroutine of the connection's own writes, from its
// first message on, so that a peer that does not read holds up nobody else.
type sendQueue struct {
	conn *Conn

	mu       sync.Mutex
	room     sync.Cond // for senders that wait
	chunks   []chunk   // in order
	err      error     // answer to everything that is sent from now on
	busy     bool      // the writer will look again by itself
	stopping bool
	kick     chan struct{} // nil until there is a writer
	done     chan struct{} // closed when it is gone

	bytes    atomic.Int64 // that were sent and are not written
	refusing atomic.Bool  // err is set
	watched  atomic.Bool  // the reader waits until all is written

	count struct{ messages, bytes, writes atomic.Uint64 }

	writer struct { // its own
		batch  []chunk
		slices net.Buffers
		unsent net.Buffers // what WriteBuffers takes from slices
		hurry  int         // so many answers wait for no other
	}
}

// chunk is a buffer, filled up to n.
type chunk struct {
	buf *buffer
	n   int
}

func (q *sendQueue) init(c *Conn) {
	q.conn = c
	q.room.L = &q.mu
}

// full says that the peer has to read first.
func (q *sendQueue) full() bool { return q.bytes.Load() > sendLimit }

// drained says that it has read enough.
func (q *sendQueue) drained() bool { return q.bytes.Load() <= sendLimit/2 }

func (q *sendQueue) empty() bool { return q.bytes.Load() == 0 }

// send queues a message. An answer does not wait for room: there are no more of
// them than messages that endpoints have.
func (q *sendQueue) send(b []byte, answer bool) error {
	if f := q.conn.screen.filter.Load(); f != nil && len(b) > 0 {
		var err error
		if b, err = q.conn.screen.pass(q.conn, *f, b); err != nil || len(b) == 0 {
			return err
		}
	}
	q.mu.Lock()
	for !answer && q.err == nil && q.full() {
		q.room.Wait()
	}
	if q.err != nil || len(b) == 0 {
		defer q.mu.Unlock()
		return q.err
	}
	q.bytes.Add(int64(len(b)))
	q.queue(b)
	q.count.messages.Add(1)
	q.count.bytes.Add(uint64(len(b)))
	idle := !q.busy
	q.busy = true
	if q.kick == nil {
		q.kick, q.done = make(chan struct{}, 1), make(chan struct{})
		go q.write()
	}
	q.mu.Unlock()
	if idle {
		q.kick <- struct{}{}
	}
	return nil
}

// queue copies b behind what is queued. The first buffer is as small as can be,
// the others have room for what comes next.
func (q *sendQueue) queue(b []byte) {
	for len(b) > 0 {
		last := len(q.chunks) - 1
		switch {
		case last < 0:
			q.chunks = append(q.chunks, chunk{lend(min(len(b), usual)), 0})
			last++
		case q.chunks[last].n == len(q.chunks[last].buf.b):
			q.chunks = append(q.chunks, chunk{lend(usual), 0})
			last++
		}
		k := &q.chunks[last]
		n := copy(k.buf.b[k.n:], b)
		k.n += n
		b = b[n:]
	}
}

// write is the writer.
func (q *sendQueue) write() {
	defer close(q.done)
	for range q.kick {
		q.gather()
		for {
			q.mu.Lock()
			if len(q.chunks) == 0 {
				q.busy = false
				end := q.stopping
				q.mu.Unlock()
				if end {
					return
				}
				break
			}
			q.writer.batch, q.chunks = q.chunks, q.writer.batch[:0]
			q.mu.Unlock()
			q.writeBatch()
		}
	}
}

// gather lets endpoints run that have other messages of the peer, so that their
// answers go out with the one that woke the writer. Where that takes long, since
// they have much to do, it is not done again soon.
func (q *sendQueue) gather() {
	switch {
	case q.conn.backlog.inflight.Load() == 0:
	case q.writer.hurry > 0:
		q.writer.hurry--
	default:
		began := time.Now()
		runtime.Gosched()
		if time.Since(began) > gatherLimit {
			q.writer.hurry = gatherPause
		}
	}
}

// writeBatch writes what the writer took, in one write where the transport can.
// After fail it only frees it.
func (q *sendQueue) writeBatch() {
	c, w := q.conn, &q.writer
	total := 0
	w.slices = w.slices[:0]
	for _, k := range w.batch {
		total += k.n
		w.slices = append(w.slices, k.buf.b[:k.n])
	}
	err := c.setWriteDeadline(time.Now().Add(c.mux.cfg.SendTimeout))
	if err == nil {
		q.count.writes.Add(1)
		if len(w.slices) == 1 {
			_, err = c.net.Write(w.slices[0])
		} else {
			w.unsent = w.slices
			if t, ok := c.net.(interface {
				WriteBuffers(*net.Buffers) (int64, error)
			}); ok {
				_, err = t.WriteBuffers(&w.unsent)
			} else {
				_, err = w.unsent.WriteTo(c.net)
			}
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = &SlowPeerError{int(q.bytes.Load()), c.mux.cfg.SendTimeout}
		case err != nil:
			err = &TransportError{"write", err}
		}
	}
	for i, k := range w.batch {
		k.buf.release()
		w.batch[i] = chunk{}
	}
	clear(w.slices)
	if err != nil {
		c.fail(err)
	}
	left := q.bytes.Add(int64(-total))
	if left <= sendLimit {
		q.mu.Lock()
		q.room.Broadcast()
		q.mu.Unlock()
	}
	if c.held.Load() && q.drained() {
		c.mux.unhold(c)
	}
	if left == 0 && q.watched.Load() {
		c.rouse()
	}
}

// refuse makes err the answer to everything that is sent from now on. What was
// sent before is still written.
func (q *sendQueue) refuse(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
		q.refusing.Store(true)
		q.room.Broadcast()
	}
}

// close ends the writer, when it has written or freed everything. The caller has
// called fail, or knows that there is nothing.
func (q *sendQueue) close() {
	q.refuse(net.ErrClosed)
	q.mu.Lock()
	q.stopping = true
	kick := q.kick
	idle := !q.busy
	q.busy = true
	q.mu.Unlock()
	if kick != nil {
		if idle {
			kick <- struct{}{}
		}
		<-q.done
	}
}
