package aftls

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/aftls/aftls/internal/soft"
	"github.com/aftls/aftls/record"
)

// Read reads one message into p. The rest of one that is longer than p is lost:
// the error is then io.ErrShortBuffer, with n = len(p). A message may be empty.
// io.EOF comes after the peer's close_notify, which anything that came before
// is read in front of.
func (c *DatagramConn) Read(p []byte) (n int, err error) {
	size, err := c.readInto(p)
	if err != nil {
		return 0, c.opError("read", err)
	}
	if size > len(p) {
		return len(p), c.opError("read", io.ErrShortBuffer)
	}
	return size, nil
}

// readInto returns the length of the message, which may be more than p has.
func (c *DatagramConn) readInto(p []byte) (size int, err error) {
	if c.l != nil {
		return c.take(p)
	}
	c.rmu.Lock()
	defer c.rmu.Unlock()
	size, _, err = c.next(p, true)
	return size, err
}

// ReadBatch reads messages into bufs, one into each: those that are there, waiting
// for the first only. It returns how many, and stores their lengths in sizes,
// which must not be shorter than bufs. A length greater than that of its buffer
// tells that the rest of the message is lost.
func (c *DatagramConn) ReadBatch(bufs [][]byte, sizes []int) (n int, err error) {
	if len(bufs) == 0 {
		return 0, nil
	}
	if c.l != nil {
		n, err = c.takeBatch(bufs, sizes)
		return n, c.opError("read", err)
	}
	c.rmu.Lock()
	defer c.rmu.Unlock()
	for n < len(bufs) {
		size, ok, err := c.next(bufs[n], n == 0)
		if err != nil && n == 0 {
			return 0, c.opError("read", err)
		}
		if err != nil || !ok {
			break // an error comes again
		}
		sizes[n] = size
		n++
	}
	return n, nil
}

// WaitRead waits until Read or ReadBatch would not, and takes nothing. Meanwhile it
// holds no buffer. Its errors are those of Read.
func (c *DatagramConn) WaitRead() error {
	if c.l != nil {
		return c.opError("read", c.waitQueue())
	}
	c.rmu.Lock()
	defer c.rmu.Unlock()
	for {
		if c.life.Load() != alive {
			return c.opError("read", c.check())
		}
		if _, ok := c.queue.Next(); ok {
			return nil
		}
		if err := c.readable(); err != nil {
			return c.opError("read", err)
		}
		if len(c.left) > 0 {
			if payload, ok := c.open(soft.Path{}); ok && !c.queue.Put(payload) {
				c.lost.Add(1)
			}
			continue
		}
		d, _, _, err := c.arrivals.Next(true)
		if err != nil {
			return c.opError("read", c.readFailed(err))
		}
		c.left, c.answered = d, false
	}
}

// waitQueue is WaitRead where a listener receives.
func (c *DatagramConn) waitQueue() error {
	for {
		c.rmu.Lock()
		err := c.check()
		_, ok := c.queue.Next()
		switch {
		case err != nil && c.life.Load() != alive:
			ok = false
		case ok:
			err = nil
		case c.rtime.expired():
			err = os.ErrDeadlineExceeded
		default:
			err = c.readable()
		}
		c.rmu.Unlock()
		if ok || err != nil {
			c.wake() // another reader
			return err
		}
		<-c.come
	}
}

// next is the next message that the carrier brings. It runs under rmu.
func (c *DatagramConn) next(p []byte, wait bool) (size int, ok bool, err error) {
	for {
		if c.life.Load() != alive {
			return 0, false, c.check()
		}
		if _, ok := c.queue.Next(); ok {
			return c.queue.Take(p), true, nil
		}
		if err := c.readable(); err != nil {
			return 0, false, err
		}
		if len(c.left) > 0 {
			if payload, ok := c.open(soft.Path{}); ok {
				return copyMessage(p, payload), true, nil
			}
			continue
		}
		d, _, ok, err := c.arrivals.Next(wait)
		if err != nil {
			return 0, false, c.readFailed(err)
		}
		if !ok {
			return 0, false, nil
		}
		c.left, c.answered = d, false
	}
}

func copyMessage(p, payload []byte) int {
	copy(p, payload)
	return len(payload)
}

func (c *DatagramConn) readable() error {
	if err := c.check(); err != nil {
		return err
	}
	return c.rerr
}

// readFailed gives an error of the carrier its meaning. None is sticky: anybody
// can send an ICMP message.
func (c *DatagramConn) readFailed(err error) error {
	if c.life.Load() != alive {
		return c.check()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	if errors.Is(err, net.ErrClosed) {
		return net.ErrClosed
	}
	return &CarrierError{err}
}

// open opens the next record of c.left, which came from an address, and acts on
// it. It returns the payload of one with data. It runs under rmu.
func (c *DatagramConn) open(from soft.Path) (payload []byte, ok bool) {
	size := len(c.left)
	rec, rest, err := c.recv.Open(c.left)
	size, c.left = size-len(rest), rest
	if err != nil {
		c.dropped(err)
		return nil, false
	}
	c.active.Store(true)
	if len(c.cid) > 0 {
		c.heardFrom(from, rec.Newest, size)
	}
	if c.seen != nil && rec.Type != record.ApplicationData {
		c.seen(rec.Type, rec.Payload)
	}
	switch rec.Type {
	case record.ApplicationData:
		// It is protected by what our last flight ends with: the peer has it.
		c.flight = nil
		return rec.Payload, true
	case record.AlertRecord:
		c.alert(rec.Payload)
	case record.Handshake:
		if len(rec.Payload) > 0 && rec.Payload[0] == finished {
			c.resend()
		}
		c.ignored.Add(1) // also requests to renegotiate
	default:
		c.ignored.Add(1)
	}
	return nil, false
}

// finished is the handshake message that ends a flight (RFC 5246, 7.4.9).
const finished = 20

// dropped acts on a record that was not opened.
func (c *DatagramConn) dropped(err error) {
	if err == record.DropReplay {
		// A peer may send its last flight again byte for byte, as we do.
		c.resend()
		return
	}
	if _, ok := err.(record.Drop); ok {
		return
	}
	if e, ok := errors.AsType[*record.Error](err); ok {
		c.abort(&PeerError{Alert: e.Alert, Reason: e.Reason}, e.Alert)
		return
	}
	c.abort(err, record.InternalError)
}

// resend answers a peer that has sent its Finished again with our last flight,
// as it was: nothing is sealed for it (RFC 6347, 4.2.4).
func (c *DatagramConn) resend() {
	if c.flight == nil || c.answered || c.life.Load() != alive {
		return
	}
	if c.resent++; c.resent > maxResent {
		c.flight = nil
		return
	}
	c.answered = true // once for a datagram, whatever else is in it
	peer := c.peer.Load()
	for _, d := range c.flight {
		if peer.spend(len(d)) == nil {
			size := [1]int{len(d)}
			c.port.Send(d, size[:], peer.at)
		}
	}
}

func (c *DatagramConn) alert(p []byte) {
	switch {
	case len(p) != 2:
		c.abort(&PeerError{Alert: record.DecodeError, Reason: "alert is not two bytes long"}, record.DecodeError)
	case record.Alert(p[1]) == record.CloseNotify:
		c.ended.Store(true)
		c.flight = nil
		if c.rerr == nil {
			c.rerr = io.EOF
		}
	case p[0] == record.LevelFatal:
		var err error = &AlertError{record.Alert(p[1])}
		c.dead.CompareAndSwap(nil, &err)
	default:
		c.ignored.Add(1)
	}
}

// abort ends the association with err, and tells the peer where that does not
// wait for a writer.
func (c *DatagramConn) abort(err error, alert record.Alert) {
	if c.dead.CompareAndSwap(nil, &err) && c.wmu.TryLock() {
		c.send.Send(record.AlertRecord, []byte{record.LevelFatal, byte(alert)}, c.peer.Load().at)
		c.wmu.Unlock()
	}
}

// receive takes a datagram of the shared carrier: the listener's part of a Read.
// It does not wait, and keeps nothing of d. It reports whether the queue has just
// become crowded.
func (c *DatagramConn) receive(d []byte, from soft.Path) bool {
	c.rmu.Lock()
	c.answered = false
	before := c.queue.Crowded()
	c.queueAll(d, from)
	crowded := !before && c.queue.Crowded()
	c.rmu.Unlock()
	c.wake()
	return crowded
}

// receiveEarly takes the records that came for the association while the
// handshake ran. A Finished among them is that which the handshake was done with.
func (c *DatagramConn) receiveEarly(records [][]byte, from soft.Path) {
	c.rmu.Lock()
	c.answered = true
	for _, d := range records {
		c.queueAll(d, from)
	}
	c.rmu.Unlock()
	c.wake()
}

func (c *DatagramConn) queueAll(d []byte, from soft.Path) {
	c.left = d
	for len(c.left) > 0 && c.readable() == nil {
		if payload, ok := c.open(from); ok && !c.queue.Put(payload) {
			c.lost.Add(1)
		}
	}
	c.left = nil
}

// wake lets a reader look again.
func (c *DatagramConn) wake() {
	if c.come == nil {
		return
	}
	select {
	case c.come <- struct{}{}:
	default:
	}
}

// take waits until there is a message in the queue, and takes it.
func (c *DatagramConn) take(p []byte) (size int, err error) {
	for {
		c.rmu.Lock()
		size, ok, err := c.tryTake(p)
		c.rmu.Unlock()
		if ok || err != nil {
			c.wake() // another reader
			return size, err
		}
		<-c.come
	}
}

func (c *DatagramConn) tryTake(p []byte) (size int, ok bool, err error) {
	if c.life.Load() != alive {
		return 0, false, c.check()
	}
	if c.rtime.expired() {
		return 0, false, os.ErrDeadlineExceeded
	}
	if _, ok := c.queue.Next(); ok {
		return c.queue.Take(p), true, nil
	}
	return 0, false, c.readable()
}

func (c *DatagramConn) takeBatch(bufs [][]byte, sizes []int) (n int, err error) {
	for {
		c.rmu.Lock()
		for n < len(bufs) {
			size, ok, e := c.tryTake(bufs[n])
			if !ok {
				err = e
				break
			}
			sizes[n] = size
			n++
		}
		c.rmu.Unlock()
		switch {
		case n > 0:
			c.wake()
			return n, nil // an error comes again
		case err != nil:
			c.wake()
			return 0, err
		}
		<-c.come
	}
}

// deadline is a time after which reading ends. Setting it takes no goroutine.
type deadline struct {
	mu    sync.Mutex
	at    time.Time
	timer *time.Timer
	wake  func() // called when it comes
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = t
	switch {
	case t.IsZero():
		if d.timer != nil {
			d.timer.Stop()
		}
	case d.timer == nil:
		d.timer = time.AfterFunc(time.Until(t), d.wake)
	default:
		d.timer.Reset(time.Until(t))
	}
}

// stop makes the deadline wake nobody any more.
func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (d *deadline) expired() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.at.IsZero() && !time.Now().Before(d.at)
}
